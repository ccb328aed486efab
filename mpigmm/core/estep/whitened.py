"""A kernel for `full` covariances that computes whitened coordinates U_k^T (x - mean_k) by matrix products."""

from __future__ import annotations

from functools import cached_property
from typing import Any

import numpy as np

from mpigmm.core.arrays import BoolArray
from mpigmm.core.estep.base import NextKernel, RegisteredKernel
from mpigmm.core.estep.conditioning import is_well_conditioned
from mpigmm.core.estep.costs import use_quadratic_features
from mpigmm.core.estep.differences import least_responsibilities
from mpigmm.core.estep.inputs import EStepInputs
from mpigmm.core.exact import FloatArray
from mpigmm.core.factors import TriangularFactors
from mpigmm.core.ops.groups import SecondMoments
from mpigmm.core.tile import Tile

LEAST_WHITENED, MOST_CONDITIONED = 5, 0.5
"""Least number of features, and largest share of components with well-conditioned quadratic features, for which this
kernel replaces a sweep by quadratic features and, for the other components, by differences."""


class WhitenedKernel(RegisteredKernel):
    """Computes whitened coordinates of all pairs of row and component.

    U_k is triangular: whitened coordinates depend only on the features up to their own number.
    """

    def __init__(self, inputs: EStepInputs, next_kernel: NextKernel) -> None:
        self.means = inputs.put(inputs.means)
        self.log_norm = inputs.put(inputs.log_norm)
        self._ops = inputs.ops
        self._inputs = inputs
        self._least_resp = (
            least_responsibilities(inputs.distance_bounds).astype(inputs.dtype) if can_prune_moments(inputs) else None
        )

    @classmethod
    def supports(cls, inputs: EStepInputs) -> BoolArray:
        is_triangular = isinstance(inputs.factors, TriangularFactors)
        if not is_triangular or inputs.second_moments is not SecondMoments.PAIRS_OF_EACH:
            return np.zeros(inputs.n_components, bool)
        return ~inputs.in_double & inputs.can_whiten_rows

    @classmethod
    def pays(cls, inputs: EStepInputs) -> bool:
        factors: Any = inputs.factors
        if not use_quadratic_features(inputs.n_components, inputs.n_features, inputs.ops):
            return True
        conditioned = is_well_conditioned(inputs, factors.upper)
        if inputs.ops.fuses:
            return bool(inputs.n_features >= LEAST_WHITENED and conditioned.mean() < MOST_CONDITIONED)
        return not conditioned.any()

    @cached_property
    def _whitening(self) -> list[FloatArray]:
        """The result of `Ops.whitening`; computed when first needed."""
        factors: Any = self._inputs.factors
        return self._ops.whitening(whitening(self._inputs.means, factors.upper), self._inputs.dtype)

    def log_prob(self, tile: Tile, out: FloatArray) -> None:
        self._ops.whitened_log_prob(tile, self._whitening, self.log_norm, out)

    def accumulate(self, tile: Tile, resp: FloatArray, first: FloatArray, second: FloatArray) -> None:
        of_each = second.reshape(len(self.means), -1)
        if self._least_resp is None:
            self._ops.pair_moments(tile, resp, self.means, first, of_each)
        else:
            least = self._least_resp if tile.sample_weight is None else self._least_resp * tile.sample_weight.max()
            self._ops.pruned_moments(tile, resp, self.means, least, first, of_each)


def can_prune_moments(inputs: EStepInputs) -> bool:
    """Whether moments may leave out negligible pairs, and do not become slower by it."""
    can_prune = inputs.is_posterior and inputs.is_bounded and inputs.ops.prunes
    return can_prune and inputs.ops.costs.pruned_moment <= 1


def whitening(means: FloatArray, factors: FloatArray) -> FloatArray:
    """Coefficients (K, D, 1 + D) whose products with [1, x] are the whitened coordinates U_k^T (x - mean_k)."""
    whiten = factors.transpose(0, 2, 1)
    return np.concatenate([-(whiten @ means[:, :, None]), whiten], axis=2)
