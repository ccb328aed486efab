"""`full` covariances without the pairs of row and component whose responsibility is negligible."""

from __future__ import annotations

from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mpigmm.core.estep import costs
from mpigmm.core.estep.base import Kernel, NextKernel, RegisteredKernel
from mpigmm.core.estep.differences import least_responsibilities
from mpigmm.core.estep.inputs import BoolArray, EStepInputs
from mpigmm.core.estep.whitened import WhitenedKernel, whitening
from mpigmm.core.exact import FloatArray
from mpigmm.core.ops.base import padded
from mpigmm.core.ops.groups import NATS
from mpigmm.core.statistics import SufficientStatistics
from mpigmm.core.tile import Tile

Indices = NDArray[np.intp]

LEADING = (4, 8, 12, 16, 24, 32, 48, 64)
"""Numbers of leading features that may bound distances."""


class PrunedKernel(RegisteredKernel):
    """Evaluates only the pairs that are not negligible, or all pairs of a tile where too many are not.

    A whitened coordinate U_k^T (x - mu_k) depends on the features up to its own alone. The squares of the leading ones
    therefore bound a distance from below, and a density from above: a component whose bound is negligible beside the
    density of another one needs no more. The moments take, for each component, the rows that it is responsible for.

    Attributes
    ----------
    n_leading : int
        Features that bound distances; 0 where no bounds are used.
    """

    def __init__(self, inputs: EStepInputs, next_kernel: NextKernel) -> None:
        self._inputs, self._ops, self._next_kernel = inputs, inputs.ops, next_kernel
        self.means = inputs.means.astype(inputs.dtype)
        self.log_norm = inputs.log_norm.astype(inputs.dtype)
        factors: Any = inputs.factors
        (k, d), ops = self.means.shape, inputs.ops
        quadratic = costs.use_quadratic_features(k, d, ops)
        self._e_cost = costs.quadratic_e(k, d, ops) if quadratic else costs.whitened_e(k, d, ops)
        self._m_cost = costs.quadratic_m(k, d, ops) if quadratic else k * costs.pair_m(d, ops)
        self._pruned_m = ops.costs.pruned_moment * costs.pair_m(d, ops)
        self._least_resp = least_responsibilities(inputs.distance_bounds).astype(inputs.dtype)
        self.n_leading = self._choose_leading(factors.upper)
        self._is_dense = quadratic and not self.n_leading and self._expect_dense(factors.upper)
        if self.n_leading:
            self._split(factors.upper)

    @classmethod
    def supports(cls, inputs: EStepInputs) -> BoolArray:
        return WhitenedKernel.supports(inputs)

    @classmethod
    def pays(cls, inputs: EStepInputs) -> bool:
        return inputs.n_features >= costs.LEAST_FEATURES and inputs.ops.prunes and inputs.is_bounded

    def _split(self, factors: FloatArray) -> None:
        """Make the coefficients of the leading whitened coordinates, and those of the others, transposed."""
        (k, d), n, dtype = self.means.shape, self.n_leading, self._inputs.dtype
        self._leading = np.empty((k, n, n + 1), dtype)
        self._rest = np.zeros((k, 1 + d, padded(d - n)), dtype)
        for j in range(k):  # one by one: all of them would take as much memory as the mixture
            (lines,) = whitening(self._inputs.means[j : j + 1], factors[j : j + 1])
            self._leading[j] = lines[:n, : n + 1]
            self._rest[j, :, : d - n] = lines[n:].T

    @cached_property
    def dense(self) -> Kernel:
        """The kernel for tiles with too many pairs that are not negligible, made when the first of them comes."""
        return self._next_kernel()

    def _choose_leading(self, factors: FloatArray) -> int:
        """How many features to bound by, if the rows were the mixture's own; 0 where bounds do not pay."""
        k, d = self.means.shape
        leading = np.array([n for n in LEADING if 2 * n <= d])
        typical = self.log_norm - 0.5 * d - NATS - np.log(1.0 + d)
        share = expected_share(self.means, factors, self.log_norm, typical, leading)
        bound, pair = costs.bounded_e(k, d, leading, self._ops)
        best = int((bound + k * share * pair).argmin())
        self._most_share = (self._e_cost - bound[best]) / (k * pair[best])
        return int(leading[best]) if share[best] < self._most_share - 0.2 * self._e_cost / (k * pair[best]) else 0

    def _expect_dense(self, factors: FloatArray) -> bool:
        """Whether too many pairs would not be negligible for pruned moments to pay, if the rows were the mixture's."""
        k, d = self.means.shape
        least = self.log_norm - NATS - np.log(np.maximum(1.0, self._inputs.distance_bounds))
        share = expected_share(self.means, factors, self.log_norm, least, np.array([d]))[0]
        return bool(k * share * self._pruned_m > self._m_cost)

    def e_step(self, tile: Tile, statistics: SufficientStatistics) -> bool:
        return self._is_dense and self.dense.e_step(tile, statistics)

    def dense_part(self) -> Kernel | None:
        return self.dense.dense_part() if self._is_dense else None

    def log_prob(self, tile: Tile, out: FloatArray) -> None:
        if not (self.n_leading and self._bounded(tile, out)):
            self.dense.log_prob(tile, out)

    def _bounded(self, tile: Tile, out: FloatArray) -> bool:
        """Log-densities into out (K, n), -inf where negligible; False, and out undefined, where too many are not."""
        self._ops.subtract_squared_norms(tile, self._leading, out, self.log_norm)
        most = int(self._most_share * out.size)
        highest = float(self.log_norm.max())
        n_rest = tile.n_features - self.n_leading
        return self._ops.pruned_distances(tile, self._rest, n_rest, highest, NATS, most, out)

    def accumulate(self, tile: Tile, resp: FloatArray, first: FloatArray, second: FloatArray) -> None:
        least = self._least_resp if tile.sample_weight is None else self._least_resp * tile.sample_weight.max()
        k, call = len(self.means), self._ops.costs.call
        if np.count_nonzero(resp > least[:, None]) * self._pruned_m + k * call > tile.n_rows * self._m_cost:
            self.dense.accumulate(tile, resp, first, second)
        else:
            self._ops.pruned_moments(tile, resp, self.means, least, first, second.reshape(k, -1))


def expected_share(
    means: FloatArray, factors: FloatArray, log_norm: FloatArray, least: FloatArray, leading: Indices
) -> FloatArray:
    """Shares of the pairs that bounds by this many leading features would leave, if the rows were the mixture's own.

    A row of component j stands at its mean; a pair is left where the bound of its density is at least least_j.
    """
    left, weights = np.zeros(len(leading)), relative_weights(factors, log_norm)
    for component, factor in enumerate(factors):
        whitened = (means - means[component]) @ factor[:, : leading[-1]]
        bounds = -0.5 * np.cumsum(whitened**2, axis=1)[:, leading - 1] + log_norm[component]
        left += weights @ (bounds >= least[:, None])
    return np.asarray(left / len(means))


def relative_weights(factors: FloatArray, log_norm: FloatArray) -> FloatArray:
    """Weights (K,) of some components, in proportion to those of their mixture, with sum 1."""
    log_weights = log_norm - np.log(np.diagonal(factors, axis1=1, axis2=2)).sum(axis=1)
    weights = np.exp(log_weights - log_weights.max())
    return np.asarray(weights / weights.sum())
