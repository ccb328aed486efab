"""An exact quantile of weighted numbers, of which each process holds a part.

Each number is mapped to an unsigned integer of 64 bits, in the same order. The quantile's integer is found from the
highest bits down: with the first 16 - 32, 48 - bits known, the weights of all numbers that begin with them are summed
in a histogram over the next 16 bits (a radix sort of which only one bucket is followed). Weights are whole multiples of
a power of two and are summed as integers, so that the result is exact, however the numbers are distributed.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from mpigmm.core.exact import EXPONENT_BIAS, MANTISSA_BITS, FloatArray, IntArray

KEY_BITS, BUCKET_BITS = 64, 16
N_BUCKETS = 1 << BUCKET_BITS
N_PASSES = KEY_BITS // BUCKET_BITS

DIGIT_BITS = 24
"""Bits of a digit of a weight. `np.bincount` adds digits in float64, exactly for up to 2^29 of them, and an int64 holds
the sum of 2^39."""

SIGN = np.uint64(1 << (KEY_BITS - 1))

Keys = NDArray[np.uint64]


def ordered_keys(values: FloatArray) -> Keys:
    """Integers (n,) in the same order as values (n,) that are not NaN; those of 0.0 and -0.0 are equal."""
    bits = (values + 0.0).view(np.int64)
    return bits.view(np.uint64) ^ ((bits >> (KEY_BITS - 1)).view(np.uint64) | SIGN)


def value_of(key: int) -> float:
    """The value of which `ordered_keys` makes the key."""
    bits = key ^ int(SIGN) if key >> (KEY_BITS - 1) else key ^ (1 << KEY_BITS) - 1
    return float(np.array(bits, np.uint64).view(np.float64))


@dataclass(frozen=True)
class WeightUnits:
    """How weights are represented as whole numbers of n_digits digits, to the base 2^`DIGIT_BITS`.

    Attributes
    ----------
    exponent : int
        The weights are whole multiples of 2^exponent.
    n_digits : int
    """

    exponent: int = 0
    n_digits: int = 1

    @classmethod
    def of(cls, bounds: FloatArray) -> WeightUnits:
        """The units of weights with these `exponent_bounds`."""
        low, high = -int(bounds[0]), int(bounds[1])
        return cls(low, max(1, -(-(high - low) // DIGIT_BITS)))

    def digits(self, weight: FloatArray) -> list[FloatArray]:
        """The digits (n,) of weights (n,), from the highest to the lowest."""
        found, rest = [], weight.astype(np.float64)
        for place in reversed(range(self.n_digits)):
            unit = self.exponent + DIGIT_BITS * place
            digit = np.floor(np.ldexp(rest, -unit))
            rest -= np.ldexp(digit, unit)
            found.append(digit)
        return found

    def whole(self, digits: IntArray) -> int:
        """The number of units in a sum of digits (n_digits,)."""
        total = 0
        for digit in digits:
            total = (total << DIGIT_BITS) + int(digit)
        return total


NO_WEIGHTS = np.full(2, -2.0 * EXPONENT_BIAS)
"""`exponent_bounds` where no weight is positive."""


def exponent_bounds(weight: FloatArray) -> FloatArray:
    """The array [-a, b] of the largest a and the least b such that all weights (n,) are multiples of 2^a below 2^b.

    For the weights of several parts take the maximum of each of the two.
    """
    bits = weight[weight > 0].astype(np.float64).view(np.int64)
    if not bits.size:
        return NO_WEIGHTS
    fields = bits >> MANTISSA_BITS
    mantissas = (bits & (1 << MANTISSA_BITS) - 1) | np.where(fields > 0, 1 << MANTISSA_BITS, 0)
    exponents = np.maximum(fields, 1) - EXPONENT_BIAS - MANTISSA_BITS
    trailing = np.frexp((mantissas & -mantissas).astype(np.float64))[1] - 1
    return np.array([-(exponents + trailing).min(), exponents.max() + MANTISSA_BITS + 1], np.float64)


class QuantileSearch:
    """Finds the least number v such that the numbers up to v have at least a share of the total weight.

    In each of `N_PASSES` passes the histograms of all parts are summed and given to `narrow`.

    Parameters
    ----------
    share : Fraction
        Above 0, at most 1.
    units : WeightUnits
        By default those of weights that are all one.
    """

    def __init__(self, share: Fraction, units: WeightUnits = WeightUnits()) -> None:
        self._share, self._units = share, units
        self._prefix = self._n_done = self._below = self._total = 0

    @property
    def size(self) -> int:
        """Number of integers of a histogram."""
        return self._units.n_digits * N_BUCKETS

    def histogram(self, values: FloatArray, weight: FloatArray | None) -> IntArray:
        """Sums of the digits of weights (n,), or counts, of the values (n,) with the known first bits, for each
        combination of the next bits; a vector of `size` integers. Values that are NaN have no part in it."""
        used = ~np.isnan(values)
        keys = ordered_keys(values[used])
        weight = None if weight is None else weight[used]
        shift = KEY_BITS - BUCKET_BITS * (self._n_done + 1)
        buckets = keys >> np.uint64(shift)
        if self._n_done:
            chosen = np.flatnonzero(buckets >> np.uint64(BUCKET_BITS) == np.uint64(self._prefix))
            buckets, weight = buckets[chosen], None if weight is None else weight[chosen]
        buckets = (buckets & np.uint64(N_BUCKETS - 1)).astype(np.intp)
        if weight is None:
            return np.bincount(buckets, minlength=N_BUCKETS).astype(np.int64)
        sums = [np.bincount(buckets, digit, N_BUCKETS) for digit in self._units.digits(weight)]
        return np.concatenate(sums).astype(np.int64)

    def narrow(self, histogram: IntArray) -> None:
        """Find the next bits, from the sum of all histograms."""
        sums = np.cumsum(histogram.reshape(self._units.n_digits, N_BUCKETS), axis=1)
        if not self._n_done:
            self._total = self._units.whole(sums[:, -1])
        first, end = 0, N_BUCKETS - 1
        while first < end:
            middle = (first + end) // 2
            if self._below + self._units.whole(sums[:, middle]) >= self._share * self._total:
                end = middle
            else:
                first = middle + 1
        self._below += self._units.whole(sums[:, first - 1]) if first else 0
        self._prefix = self._prefix << BUCKET_BITS | first
        self._n_done += 1

    @property
    def quantile(self) -> float:
        """The quantile, after all passes; NaN where the total weight is zero."""
        return value_of(self._prefix) if self._total else float("nan")

    @property
    def total_weight(self) -> float:
        """The total weight, after the first pass."""
        return float(self._total * Fraction(2) ** self._units.exponent)
