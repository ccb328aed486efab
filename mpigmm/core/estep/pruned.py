"""A kernel for `full` covariances that leaves out pairs of row and component with a negligible responsibility."""

from __future__ import annotations

from functools import cached_property
from typing import Any

import numpy as np

from mpigmm.core.arrays import BoolArray, Indices
from mpigmm.core.estep import costs
from mpigmm.core.estep.base import Kernel, NextKernel, RegisteredKernel
from mpigmm.core.estep.differences import least_responsibilities
from mpigmm.core.estep.inputs import EStepInputs
from mpigmm.core.estep.whitened import WhitenedKernel, whitening
from mpigmm.core.exact import FloatArray
from mpigmm.core.ops.base import padded
from mpigmm.core.ops.groups import NATS
from mpigmm.core.statistics import SufficientStatistics
from mpigmm.core.tile import Tile

LEADING = (4, 8, 12, 16, 24, 32, 48, 64)
"""Numbers of leading features that are considered for bounds of the distances."""

PAIR_ROWS, PAIR_COMPONENTS = 128, 1024
"""Largest numbers of rows, and of components, in the pairs from which the share that is not negligible is estimated."""


class PrunedKernel(RegisteredKernel):
    """Evaluates only pairs of row and component that are not negligible; all pairs of a tile in which too many are not.

    The matrix U_k is triangular, so the first n whitened coordinates U_k^T (x - mean_k) depend only on the first n
    features. The sum of their squares bounds the squared distance from below, and so the density from above. A
    component whose bound is negligible beside the density of another component is not evaluated. Moments of a component
    use only the rows whose responsibility is not negligible.

    Attributes
    ----------
    n_leading : int
        Number of leading features in the bounds; 0 if no bounds are used.
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
        can_prune = inputs.is_posterior and inputs.is_bounded and inputs.ops.prunes
        return can_prune and inputs.n_features >= costs.LEAST_FEATURES

    def _split(self, factors: FloatArray) -> None:
        """Compute the coefficients of the leading whitened coordinates, and the transposed coefficients of the
        others."""
        (k, d), n, dtype = self.means.shape, self.n_leading, self._inputs.dtype
        self._leading = np.empty((k, n, n + 1), dtype)
        self._rest = np.zeros((k, 1 + d, padded(d - n)), dtype)
        for j in range(k):  # one component at a time: all together take as much memory as the mixture
            (coefficients,) = whitening(self._inputs.means[j : j + 1], factors[j : j + 1])
            self._leading[j] = coefficients[:n, : n + 1]
            self._rest[j, :, : d - n] = coefficients[n:].T

    @cached_property
    def dense(self) -> Kernel:
        """The kernel for tiles in which too many pairs are not negligible; made when it is first needed."""
        return self._next_kernel()

    def _choose_leading(self, factors: FloatArray) -> int:
        """Number of leading features with the least expected cost for rows drawn from the mixture; 0 if bounds do not
        pay."""
        k, d = self.means.shape
        leading = np.array([n for n in LEADING if 2 * n <= d])
        typical = self.log_norm - 0.5 * d - NATS - np.log(1.0 + d)
        share = expected_share(self.means, factors, self.log_norm, typical, leading)
        bound, pair = costs.bounded_e(k, d, leading, self._ops)
        best = int((bound + k * share * pair).argmin())
        self._most_share = (self._e_cost - bound[best]) / (k * pair[best])
        return int(leading[best]) if share[best] < self._most_share - 0.2 * self._e_cost / (k * pair[best]) else 0

    def _expect_dense(self, factors: FloatArray) -> bool:
        """Whether so many pairs are not negligible, for rows drawn from the mixture, that pruned moments do not pay."""
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
        """Compute log-densities into out (K, n), -inf where negligible.

        Returns False, with out undefined, if too many pairs are not negligible.
        """
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
    """Expected shares (n,) of the pairs whose bounds are not negligible, for the numbers (n,) of leading features.

    Rows are assumed to be drawn from the mixture. For the estimate, a row of component j is replaced by mean j, and a
    pair counts if the bound of its log-density is at least least_j, least (K,). Of many components, some stand for all:
    those of `sampled_rows`, and every m-th, at most `PAIR_COMPONENTS`, for the others in the pairs.
    """
    rows_of, weights = sampled_rows(relative_weights(factors, log_norm))
    components = np.arange(0, len(means), -(-len(means) // PAIR_COMPONENTS))
    rows, least, left = means[rows_of], least[rows_of, None], np.zeros(len(leading))
    are_used = (np.arange(leading[-1])[:, None] < leading).astype(factors.dtype)
    for k in components:
        whitened = (rows - means[k]) @ factors[k, :, : leading[-1]]
        bounds = log_norm[k] - 0.5 * (np.square(whitened, out=whitened) @ are_used)
        left += weights @ (bounds >= least)
    return np.asarray(left / len(components))


def sampled_rows(weights: FloatArray) -> tuple[Indices, FloatArray]:
    """Components whose rows stand for all rows in an estimate of a mean, and their shares in it, which sum to 1.

    The mixture has weights (K,). Of more than `PAIR_ROWS` components these are a systematic sample, with probability
    proportional to the weights.
    """
    if len(weights) <= PAIR_ROWS:
        return np.arange(len(weights)), weights
    quantiles = (np.arange(PAIR_ROWS) + 0.5) / PAIR_ROWS
    sampled = np.minimum(np.searchsorted(np.cumsum(weights), quantiles), len(weights) - 1)
    return sampled, np.full(PAIR_ROWS, 1.0 / PAIR_ROWS)


def relative_weights(factors: FloatArray, log_norm: FloatArray) -> FloatArray:
    """Mixture weights (K,) of the components, scaled to the sum 1."""
    log_weights = log_norm - np.log(np.diagonal(factors, axis1=1, axis2=2)).sum(axis=1)
    weights = np.exp(log_weights - log_weights.max())
    return np.asarray(weights / weights.sum())
