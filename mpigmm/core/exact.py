"""Sums that do not depend on their order: floats rounded once to fixed point, added as integers.

A value v is held as a few integer *limbs*, v = sum_j limb_j 2^q_j, with q_0 = top - 60 and 40 bits between one
limb and the next. The sum of all |v| must stay below 2^top. Integer addition is associative, so any partition of
the terms over threads and ranks, and any order, give the same bits.

The idea is that of Kulisch's long accumulator (Computer Arithmetic and Validity, 2nd ed., 2013, ch. 8), cut to
the window of exponents that the data can reach.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from itertools import cycle
from threading import Lock
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

TOP_BITS = 60
LIMB_BITS = 40
LIMB_UNIT = 2.0**LIMB_BITS
CARRY_EVERY = 1 << 20
"""Number of additions after which low limbs must carry: each adds at most 2^39 to a limb, which overflows at 2^63."""

EXPONENT_BIAS, MANTISSA_BITS = 1023, 52
"""Bias of the exponent and number of stored mantissa bits of float64 (IEEE 754)."""

LOCKED_AT_ONCE = 1 << 15
"""Number of sums that a thread locks at a time: to add to them takes far longer than to take the lock."""

AT_ONCE = 1 << 13
"""Number of values that are rounded at a time: few enough for the cache."""

FEW_LIMBS = 8
"""Number of limbs up to which all carries are computed, which takes no longer than to find those that are needed."""

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class FixedPoint:
    """A fixed-point format for a vector of sums.

    Parameters
    ----------
    top : ndarray of shape (size,), int32
        The magnitude of sum i, and of the sum of its terms' magnitudes, is below 2**top[i].
    n_limbs : int
        Number of limbs of each sum; its resolution is 2**(top - 60 - 40 (n_limbs - 1)).
    """

    top: NDArray[np.int32]
    n_limbs: int

    @classmethod
    def unbounded(cls, size: int) -> FixedPoint:
        """A format for sums whose magnitude is not known beforehand: it holds numbers from 2^-980 to 2^959."""
        n_limbs = 1 + -(-(960 - TOP_BITS + 980) // LIMB_BITS)
        return cls(np.full(size, 960, np.int32), n_limbs)

    def zeros(self) -> IntArray:
        """Limbs of shape (n_limbs, size) that hold zero."""
        return np.zeros((self.n_limbs, self.top.size), np.int64)

    @cached_property
    def quanta(self) -> FloatArray:
        """Value of one unit of the first limb, shape (size,): a power of two."""
        return (self.top.astype(np.int64) - TOP_BITS + EXPONENT_BIAS << MANTISSA_BITS).view(np.float64)

    def add(self, limbs: IntArray, values: FloatArray) -> None:
        """Round values (size,) to the format and add them to the limbs in place; values are overwritten."""
        whole, unit, per_unit = np.empty((3, AT_ONCE))
        digits = np.empty(AT_ONCE, np.int64)
        for start in range(0, values.size, AT_ONCE):
            some = slice(start, start + AT_ONCE)
            rest = values[some]
            part, quantum, per = (work[: rest.size] for work in (whole, unit, per_unit))
            own = digits[: rest.size]
            quantum[:] = self.quanta[some]
            np.divide(1.0, quantum, out=per)
            with np.errstate(invalid="ignore"):  # the caller reports values that are not finite
                for limb in range(self.n_limbs):
                    if limb:
                        quantum /= LIMB_UNIT
                        per *= LIMB_UNIT
                    np.rint(np.multiply(rest, per, out=part), out=part)
                    np.copyto(own, part, casting="unsafe")
                    limbs[limb, some] += own
                    rest -= np.multiply(part, quantum, out=part)

    def value(self, limbs: IntArray) -> FloatArray:
        """The sums (size,) in float64; limbs that hold the same sums give the same bits."""
        total = np.zeros(self.top.size)
        for start in range(0, total.size, AT_ONCE):
            some = slice(start, start + AT_ONCE)
            exact, quantum = carry(limbs[:, some].copy()), self.quanta[some].copy()
            for _ in exact[1:]:
                quantum /= LIMB_UNIT
            for limb in reversed(exact):
                total[some] += limb * quantum
                quantum *= LIMB_UNIT
        return total

    def part(self, some: slice) -> FixedPoint:
        """The format of some of the sums."""
        part = FixedPoint(self.top[some], self.n_limbs)
        part.__dict__["quanta"] = self.quanta[some]
        return part


class LimbOps(Protocol):
    """Array operations with a faster implementation of `FixedPoint.add`."""

    def add(self, form: FixedPoint, limbs: IntArray, values: FloatArray) -> None:
        """Round values (size,) to the format and add them to the limbs in place; values are overwritten."""


class ExactSum:
    """A running sum of vectors in a fixed-point format.

    Parameters
    ----------
    form : FixedPoint
    limbs : ndarray of shape (n_limbs, size), int64, optional
        The sum so far; zero by default.
    """

    def __init__(self, form: FixedPoint, limbs: IntArray | None = None) -> None:
        self.form = form
        self.limbs = form.zeros() if limbs is None else limbs
        self._n_added = 0

    def add(self, values: FloatArray, ops: LimbOps | None = None) -> None:
        """Round values (size,) to the format and add them in place, with `ops` if given; values are overwritten."""
        if ops is None:
            self.form.add(self.limbs, values)
        else:
            ops.add(self.form, self.limbs, values)
        self._n_added += 1
        self._carry_in_time()

    def __add__(self, other: ExactSum) -> ExactSum:
        total = ExactSum(self.form, self.limbs + other.limbs)
        total._n_added = self._n_added + other._n_added
        total._carry_in_time()
        return total

    def _carry_in_time(self) -> None:
        """Carry before a limb may overflow; limbs are then no larger than after one addition."""
        if self._n_added >= CARRY_EVERY:
            carry(self.limbs)
            self._n_added = 1

    def value(self) -> FloatArray:
        """The sum as float64 of shape (size,), rounded once."""
        return self.form.value(self.limbs)


class SharedSum:
    """A running sum of vectors, to which several threads add: each locks a stretch of the sums at a time.

    Integer addition gives the same bits in any order.

    Parameters
    ----------
    form : FixedPoint
    limbs : ndarray of shape (n_limbs, size), int64
    """

    def __init__(self, form: FixedPoint, limbs: IntArray) -> None:
        self.limbs = limbs
        self._stretches = [slice(a, a + LOCKED_AT_ONCE) for a in range(0, form.top.size, LOCKED_AT_ONCE)]
        self._sums = [ExactSum(form.part(some), limbs[:, some]) for some in self._stretches]
        self._locks = [Lock() for _ in self._stretches]
        self._starts = cycle(range(len(self._stretches)))

    def add(self, values: FloatArray, ops: LimbOps | None = None) -> None:
        """The same as `ExactSum.add`."""
        first = next(self._starts)  # another one for each thread, which would otherwise wait for one another
        for i in range(first, first + len(self._stretches)):
            which = i % len(self._stretches)
            with self._locks[which]:
                self._sums[which].add(values[self._stretches[which]], ops)


def carry(limbs: IntArray) -> IntArray:
    """Reduce every limb but the first to [-2^39, 2^39) by carries, in place; the value does not change.

    Limbs are digits with signs, so that a small negative sum has small limbs and `FixedPoint.value` rounds it
    correctly.
    """
    half = 1 << (LIMB_BITS - 1)
    for start in range(0, limbs.shape[1], AT_ONCE):
        some = limbs[:, start : start + AT_ONCE]
        for limb in range(lowest_to_carry(some, half), 0, -1):
            up = (some[limb] + half) >> LIMB_BITS
            some[limb] -= up << LIMB_BITS
            some[limb - 1] += up
    return limbs


def lowest_to_carry(limbs: IntArray, half: int) -> int:
    """Number of the lowest limb that has a carry, from which carries may go up: of a few limbs, the last."""
    if len(limbs) <= FEW_LIMBS:
        return len(limbs) - 1
    carrying = np.flatnonzero(((limbs + half) >> LIMB_BITS).any(axis=1))
    return int(carrying[-1]) if carrying.size else 0
