"""The kernel for any components: distances and moments from differences of rows and means, in float64."""

from __future__ import annotations

import math
from functools import singledispatch

import numpy as np

from mpigmm.core.arrays import DOUBLE, BoolArray
from mpigmm.core.estep.base import NextKernel, RegisteredKernel
from mpigmm.core.estep.inputs import EStepInputs
from mpigmm.core.exact import FloatArray
from mpigmm.core.factors import DiagonalFactors, Factors, IsotropicFactors, SharedTriangularFactor, TriangularFactors
from mpigmm.core.ops.groups import NATS, DifferenceGroup, SecondMoments
from mpigmm.core.statistics import SufficientStatistics
from mpigmm.core.tile import Tile

NO_MATRIX, NO_MATRICES = np.empty((0, 0)), np.empty((0, 0, 0))


def least_responsibilities(distance_bounds: FloatArray) -> FloatArray:
    """Responsibilities (K,) up to which moments may leave rows out.

    They are exp(-`NATS`) divided by upper bounds (K,) of the rows' squared distances, so that the parts left out are
    negligible in the moments too.
    """
    return np.asarray(math.exp(-NATS) / np.maximum(1.0, distance_bounds))


COMPUTED = {
    (TriangularFactors, SecondMoments.PAIRS_OF_EACH),
    (SharedTriangularFactor, SecondMoments.PAIRS_SUMMED),
    (DiagonalFactors, SecondMoments.EACH_FEATURE),
    (IsotropicFactors, SecondMoments.ALL_FEATURES),
}
"""Factors with the second moments that array operations compute beside distances by these factors."""


def difference_group(inputs: EStepInputs) -> DifferenceGroup:
    """The components as a `DifferenceGroup`, in the memory of the tiles; raises `TypeError` if not `COMPUTED`."""
    factors, moments = type(inputs.factors), inputs.second_moments
    if (factors, moments) not in COMPUTED:
        raise TypeError(f"no array operation computes the second moments {moments.name} with {factors.__name__}")
    arrays = difference_arrays(inputs.factors, inputs)
    return DifferenceGroup(inputs.second_moments, *(inputs.put(array, DOUBLE) for array in arrays))


def group_arrays(
    inputs: EStepInputs,
    *,
    precisions: FloatArray = NO_MATRIX,
    whiten: FloatArray = NO_MATRIX,
    subtracted: FloatArray | None = None,
    factors: FloatArray = NO_MATRICES,
) -> tuple[FloatArray, ...]:
    """The arrays of a `DifferenceGroup` in the order of its fields; `subtracted` is the means by default."""
    least = least_responsibilities(inputs.distance_bounds)
    subtracted = inputs.means if subtracted is None else subtracted
    return inputs.means, inputs.log_norm, least, precisions, whiten, subtracted, factors


@singledispatch
def difference_arrays(factors: Factors, inputs: EStepInputs) -> tuple[FloatArray, ...]:
    """`group_arrays` of the inputs; a function is registered for each class of factors."""
    raise TypeError(f"no distances from differences are known for {type(factors).__name__}")


@difference_arrays.register
def _(factors: TriangularFactors, inputs: EStepInputs) -> tuple[FloatArray, ...]:
    return group_arrays(inputs, factors=factors.upper.transpose(0, 2, 1))


@difference_arrays.register
def _(factors: SharedTriangularFactor, inputs: EStepInputs) -> tuple[FloatArray, ...]:
    upper, k = factors.upper, inputs.n_components
    if not inputs.can_whiten_rows.all():
        return group_arrays(inputs, factors=np.broadcast_to(upper.T, (k, *upper.shape)))
    return group_arrays(inputs, precisions=np.ones((k, 1)), whiten=upper.T, subtracted=inputs.means @ upper)


@difference_arrays.register
def _(factors: DiagonalFactors, inputs: EStepInputs) -> tuple[FloatArray, ...]:
    return group_arrays(inputs, precisions=np.square(factors.roots))


@difference_arrays.register
def _(factors: IsotropicFactors, inputs: EStepInputs) -> tuple[FloatArray, ...]:
    return group_arrays(inputs, precisions=np.square(factors.roots)[:, None])


class DifferenceKernel(RegisteredKernel):
    """Subtracts the means from the rows before anything else, in float64, also if the tiles are of float32.

    No digits of the rows are lost, however far they are from the centre.

    Attributes
    ----------
    group : DifferenceGroup
    """

    def __init__(self, inputs: EStepInputs, next_kernel: NextKernel) -> None:
        self.group = difference_group(inputs)
        self._ops = inputs.ops

    @classmethod
    def supports(cls, inputs: EStepInputs) -> BoolArray:
        return np.ones(inputs.n_components, bool)

    def log_prob(self, tile: Tile, out: FloatArray) -> None:
        self._ops.difference_log_prob(tile, self.group, out)

    def accumulate(self, tile: Tile, resp: FloatArray, first: FloatArray, second: FloatArray) -> None:
        self._ops.difference_moments(tile, self.group, resp, first, second.reshape(self.group.second_shape))

    def e_step(self, tile: Tile, statistics: SufficientStatistics) -> bool:
        if not self._ops.fuses:
            return False
        sums = self._ops.sweep(tile, None, self.group)
        statistics.log_likelihood[0] = sums.log_likelihood
        statistics.counts[:], statistics.first_moments[:] = sums.counts, sums.first
        statistics.second_moments[:] = sums.second.reshape(-1)
        return True
