"""The M-step of many covariances, of which each rank computes some.

It is the exception to one reduction an iteration: covariances that take longer to compute than to send are exchanged
after it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mpigmm.core.arrays import BoolArray
from mpigmm.core.covariances.base import (
    Covariances,
    EstimatedCovariances,
    Floored,
    MStepSums,
    Safeguards,
    SingularCovarianceError,
)
from mpigmm.core.exact import FloatArray
from mpigmm.parallel.comm import Comm
from mpigmm.parallel.partition import own_tiles

FLOORED, SINGULAR = 1, 2
"""Bits of a component: its covariance was raised to the floor; some covariance of its rank has no factor."""


@dataclass(frozen=True)
class SharedUpdate:
    """A `CovarianceUpdate` by all ranks, if `Covariances.shares_update` says that this saves time.

    Each rank updates consecutive components, and all learn the covariances and their factors. The bits do not depend on
    the number of ranks, because a component's update depends on its own sums only. Collective; raises `AgreedError`.
    """

    comm: Comm

    def __call__(
        self,
        covariances: Covariances,
        sums: MStepSums,
        deltas: FloatArray,
        empty: BoolArray,
        safeguards: Safeguards,
        data_variances: FloatArray,
    ) -> tuple[Covariances, Floored]:
        if self.comm.size == 1 or not covariances.shares_update(*deltas.shape):
            return covariances.update(sums, deltas, empty, safeguards, data_variances)
        assert isinstance(covariances, EstimatedCovariances)
        ranges = [own_tiles(len(deltas), rank, [1] * self.comm.size) for rank in range(self.comm.size)]
        own = ranges[self.comm.rank]
        with self.comm.together():
            values, factors = np.empty(covariances.values.shape), np.empty(covariances.values.shape)
            flags = np.zeros(len(deltas), np.int64)
            if own:
                some = slice(own.start, own.stop)
                old = type(covariances)(covariances.values[some])
                part, floored = old.update(sums.part(some), deltas[some], empty[some], safeguards, data_variances)
                (values[some],) = part.arrays().values()
                flags[[own[k] for k in floored if k is not None]] = FLOORED
                flags[some] |= copy_factors(part, factors[some])
        for array in (values, factors, flags):
            self.comm.allgather_into(array, ranges)
        return joined(type(covariances), values, factors, flags), np.flatnonzero(flags & FLOORED).tolist()


def copy_factors(part: Covariances, out: FloatArray) -> int:
    """Copy the factors of some components, and return zero; where there are none, return `SINGULAR`."""
    try:
        out[:] = part.factors.array
    except SingularCovarianceError:
        return SINGULAR
    return 0


def joined(
    kind: type[EstimatedCovariances], values: FloatArray, factors: FloatArray, flags: NDArray[np.int64]
) -> Covariances:
    """The covariances of all components with their factors, unless some component has none."""
    if (flags & SINGULAR).any():
        return kind(values)
    return kind.from_factors(kind.factor_kind(factors), values)  # type: ignore[call-arg]  # a dataclass of one array
