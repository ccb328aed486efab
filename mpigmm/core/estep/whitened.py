"""A kernel for `full` covariances that computes whitened coordinates U_k^T (x - mean_k) by matrix products."""

from __future__ import annotations

from functools import cached_property
from itertools import pairwise
from typing import Any

import numpy as np

from mpigmm.core.arrays import BoolArray
from mpigmm.core.estep.base import NextKernel, RegisteredKernel
from mpigmm.core.estep.conditioning import is_well_conditioned
from mpigmm.core.estep.costs import use_quadratic_features
from mpigmm.core.estep.inputs import EStepInputs
from mpigmm.core.exact import FloatArray
from mpigmm.core.factors import TriangularFactors
from mpigmm.core.ops.groups import SecondMoments
from mpigmm.core.tile import Tile


class WhitenedKernel(RegisteredKernel):
    """Computes whitened coordinates of all pairs of row and component, in blocks of coordinates.

    U_k is triangular: whitened coordinates depend only on the features up to their own number, so that the product for
    a block of coordinates leaves out the features after it.
    """

    def __init__(self, inputs: EStepInputs, next_kernel: NextKernel) -> None:
        self.means = inputs.put(inputs.means)
        self.log_norm = inputs.put(inputs.log_norm)
        self._ops = inputs.ops
        self._inputs = inputs

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
        return not (inputs.ops.fuses or is_well_conditioned(inputs, factors.upper).any())

    @cached_property
    def _blocks(self) -> list[FloatArray]:
        """Coefficients (K, h, 1 + d) of each block of h whitened coordinates; computed when first needed."""
        inputs, n_features = self._inputs, self._inputs.n_features
        factors: Any = inputs.factors
        coefficients = whitening(inputs.means, factors.upper)
        n_blocks = max(1, n_features // inputs.ops.costs.block_height)
        edges = np.linspace(0, n_features, n_blocks + 1).astype(int)
        return [inputs.put(coefficients[:, start:stop, : stop + 1]) for start, stop in pairwise(edges)]

    def log_prob(self, tile: Tile, out: FloatArray) -> None:
        for i, block in enumerate(self._blocks):
            self._ops.subtract_squared_norms(tile, block, out, None if i else self.log_norm)

    def accumulate(self, tile: Tile, resp: FloatArray, first: FloatArray, second: FloatArray) -> None:
        packed, lower = second.reshape(len(self.means), -1), self._ops.lower_triangle(tile.n_features)
        for k, mean in enumerate(self.means):
            packed[k] = self._ops.scatter(tile, resp[k], mean, first[k]).reshape(-1)[lower]


def whitening(means: FloatArray, factors: FloatArray) -> FloatArray:
    """Coefficients (K, D, 1 + D) whose products with [1, x] are the whitened coordinates U_k^T (x - mean_k)."""
    whiten = factors.transpose(0, 2, 1)
    return np.concatenate([-(whiten @ means[:, :, None]), whiten], axis=2)
