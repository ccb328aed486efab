"""A kernel for `tied` covariances that leaves out pairs of row and component with a negligible responsibility."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from mpigmm.core.arrays import DOUBLE, BoolArray
from mpigmm.core.estep.base import NextKernel
from mpigmm.core.estep.conditioning import is_well_conditioned
from mpigmm.core.estep.examples import component_weights
from mpigmm.core.estep.inputs import EStepInputs
from mpigmm.core.estep.pruned_diagonal import (
    PrunedDiagonalKernel,
    bounded_group,
    minor_means,
    row_variances,
    with_padding,
)
from mpigmm.core.exact import FloatArray
from mpigmm.core.factors import SharedTriangularFactor
from mpigmm.core.ops.groups import BoundedGroup, BoundedSums, MinorPairs, SecondMoments
from mpigmm.core.statistics import SufficientStatistics
from mpigmm.core.tile import Tile


class PrunedTiedKernel(PrunedDiagonalKernel):
    """Whitens the rows in float64 and evaluates only pairs that are not negligible, as `spherical` with the variance 1.

    First moments are sums of differences of rows and means. The second moments, summed over components, are the scatter
    matrix of the rows about the centre minus the terms of the means, as in `TiedQuadraticKernel`. The responsibilities
    of a row must therefore sum to its sample weight.
    """

    def __init__(self, inputs: EStepInputs, next_kernel: NextKernel) -> None:
        self._ops, self._next_kernel = inputs.ops, next_kernel
        self.group = whitened_group(inputs)
        self._means, self._lower = inputs.means, inputs.ops.lower_triangle(inputs.n_features)

    @classmethod
    def supports(cls, inputs: EStepInputs) -> BoolArray:
        factors: Any = inputs.factors
        if not isinstance(factors, SharedTriangularFactor) or inputs.second_moments is not SecondMoments.PAIRS_SUMMED:
            return np.zeros(inputs.n_components, bool)
        in_double = replace(inputs, dtype=DOUBLE, in_double=np.zeros(inputs.n_components, bool))
        accurate = not inputs.is_part and is_well_conditioned(in_double, factors.upper[None]).all()
        return np.full(inputs.n_components, accurate)

    @classmethod
    def pays(cls, inputs: EStepInputs) -> bool:
        return super().pays(inputs.whitened)

    def e_step(self, tile: Tile, statistics: SufficientStatistics) -> bool:
        sums = self._ops.bounded_sweep(tile, self.group)
        if sums is None:
            return self.dense.e_step(tile, statistics)
        first = sums.first[:, : tile.n_features]
        statistics.log_likelihood[0] = sums.log_likelihood
        statistics.counts[:], statistics.first_moments[:] = sums.counts, first
        statistics.second_moments[:] = self._second_moments(sums, first).reshape(-1)[self._lower]
        return True

    def _second_moments(self, sums: BoundedSums, first: FloatArray) -> FloatArray:
        """Second moments (D, D) about the means, of which the lower triangle is valid."""
        d, about_centre = len(first.T), first + sums.counts[:, None] * self._means
        return sums.scatter[:d, :d] - (about_centre.T @ self._means + self._means.T @ first)


def whitened_group(inputs: EStepInputs) -> BoundedGroup:
    """The components, which share a factor, as a `BoundedGroup`."""
    factors: Any = inputs.factors
    group = bounded_group(inputs.whitened)
    width = group.means.shape[1]
    whiten = np.zeros((width, width))
    whiten[: inputs.n_features, : inputs.n_features] = factors.upper
    means = with_padding(inputs.means)
    return replace(group, whiten=whiten, minor=whitened_minor_pairs(inputs, group.minor), means=means)


def whitened_minor_pairs(inputs: EStepInputs, minor: MinorPairs) -> MinorPairs:
    """The minor pairs of whitened rows with moments of rows that are not whitened."""
    if not minor.offsets.size:
        return minor
    variances = row_variances(inputs, component_weights(inputs))
    scale = np.sqrt(np.where(variances > 0, variances, 1.0))
    return replace(minor, means=minor_means(inputs, scale), scale=scale)
