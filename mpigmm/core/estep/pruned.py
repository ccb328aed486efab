"""A kernel for `full` covariances that leaves out pairs of row and component with a negligible responsibility."""

from __future__ import annotations

from functools import cached_property
from typing import Any

import numpy as np

from mpigmm.core.arrays import DOUBLE, BoolArray, Indices
from mpigmm.core.estep import costs
from mpigmm.core.estep.base import Kernel, NextKernel, RegisteredKernel
from mpigmm.core.estep.differences import least_responsibilities
from mpigmm.core.estep.examples import example_rows
from mpigmm.core.estep.inputs import EStepInputs
from mpigmm.core.estep.whitened import WhitenedKernel, whitening
from mpigmm.core.exact import FloatArray
from mpigmm.core.ops.base import padded
from mpigmm.core.ops.groups import NATS
from mpigmm.core.statistics import SufficientStatistics
from mpigmm.core.tile import Tile

LEAST_LEADING, LEADING_PARTS = 4, 16
"""Numbers of leading features that are considered for bounds of the distances: LEAST_LEADING times powers of two, and
multiples of the number of features divided by LEADING_PARTS, rounded up to multiples of LEAST_LEADING."""

EXAMPLE_BYTES = 1 << 20
"""Bytes of the whitened coordinates of drawn rows that are computed at a time."""


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
        expected_m = k * self._expected_share * self._pruned_m
        self._is_dense = quadratic and not self.n_leading and expected_m > self._m_cost
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
        leading = np.empty((k, n, n + 1))
        self._rest = np.zeros((k, 1 + d, padded(d - n)), dtype)
        for j in range(k):  # one component at a time: all together take as much memory as the mixture
            (coefficients,) = whitening(self._inputs.means[j : j + 1], factors[j : j + 1])
            leading[j] = coefficients[:n, : n + 1]
            self._rest[j, :, : d - n] = coefficients[n:].T
        self._leading = self._ops.whitening(leading, dtype)

    @cached_property
    def dense(self) -> Kernel:
        """The kernel for tiles in which too many pairs are not negligible; made when it is first needed."""
        return self._next_kernel()

    def _choose_leading(self, upper: FloatArray) -> int:
        """Number of leading features with the least expected cost for rows drawn from the mixture; 0 if bounds do not
        pay. Also estimates how many pairs are in the moments."""
        k, d = self.means.shape
        leading = leading_numbers(d)
        with np.errstate(over="ignore"):  # a distance beyond the range of float64 is infinite
            shares, self._expected_share = expected_shares(self._inputs, upper, leading)
        bound, pair = costs.bounded_e(k, d, leading.astype(DOUBLE), self._ops)
        best = int((bound + k * shares * pair).argmin())
        self._most_share = (self._e_cost - bound[best]) / (k * pair[best])
        return int(leading[best]) if shares[best] < self._most_share - 0.2 * self._e_cost / (k * pair[best]) else 0

    def e_step(self, tile: Tile, statistics: SufficientStatistics) -> bool:
        return self._is_dense and self.dense.e_step(tile, statistics)

    def dense_part(self) -> Kernel | None:
        return self.dense.dense_part() if self._is_dense else None

    def log_prob(self, tile: Tile, out: FloatArray) -> None:
        if not (self.n_leading and self._seems_bounded(tile) and self._bounded(tile, out)):
            self.dense.log_prob(tile, out)

    def _seems_bounded(self, tile: Tile) -> bool:
        """Whether most pairs are negligible for a few of the rows.

        If they are not, bounds of all rows would be computed in vain: rows may differ from those drawn from the
        mixture.
        """
        few = tile.examples()
        return few is tile or self._bounded(few, few.array("log_prob", len(self.means), few.n_rows))

    def _bounded(self, tile: Tile, out: FloatArray) -> bool:
        """Compute log-densities into out (K, n), -inf where negligible.

        Returns False, with out undefined, if too many pairs are not negligible. Those of masked rows do not count: the
        rows lie at the centre, where many components may be about as likely.
        """
        self._ops.whitened_log_prob(tile, self._leading, self.log_norm, out)
        n_masked = 0 if tile.sample_weight is None else int(np.count_nonzero(tile.sample_weight == 0))
        most = int(self._most_share * out.size) + n_masked * len(out)
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


def leading_numbers(n_features: int) -> Indices:
    """Numbers of leading features that are considered for bounds of the distances, in ascending order."""
    parts = -(-np.arange(1, LEADING_PARTS) * n_features // (LEADING_PARTS * LEAST_LEADING))
    powers = 1 << np.arange(int(n_features).bit_length())
    numbers = LEAST_LEADING * np.union1d(parts, powers)
    return np.asarray(numbers[numbers < n_features])


def expected_shares(inputs: EStepInputs, upper: FloatArray, leading: Indices) -> tuple[FloatArray, float]:
    """Expected shares of the pairs of row and component that are not negligible, for rows drawn from the mixture.

    Parameters
    ----------
    inputs : EStepInputs
    upper : ndarray of shape (K, D, D)
        Upper triangular factors U_k of the precision matrices.
    leading : ndarray of shape (n,)
        Numbers of leading features, in ascending order.

    Returns
    -------
    bounds : ndarray of shape (n,)
        Share of the pairs whose bounds by the leading features are not negligible.
    moments : float
        Share of the pairs whose responsibilities are not.
    """
    log_prob = bounds_of_examples(inputs, upper, np.append(leading, inputs.n_features))
    exact = log_prob[-1]
    best = exact.max(axis=1, keepdims=True)
    threshold = best - NATS - np.log(1.0 + inputs.log_norm.max() - best)
    resp = exact - np.logaddexp.reduce(exact, axis=1, keepdims=True)
    is_summed = resp > -NATS - np.log(np.maximum(1.0, inputs.distance_bounds))
    return np.asarray((log_prob[:-1] >= threshold).mean(axis=(1, 2))), float(is_summed.mean())


def bounds_of_examples(inputs: EStepInputs, upper: FloatArray, leading: Indices) -> FloatArray:
    """Upper bounds (n, m, K) of the log-densities of m rows drawn from the mixture, for n numbers of leading
    features."""
    rows = example_rows(inputs)
    log_prob = np.empty((len(leading), len(rows), inputs.n_components))
    at_once = max(1, EXAMPLE_BYTES // rows.nbytes)
    for start in range(0, inputs.n_components, at_once):
        some = slice(start, start + at_once)
        whitened = (rows - inputs.means[some, None]) @ upper[some]
        squares = np.add.reduceat(np.square(whitened, out=whitened), [0, *leading[:-1]], axis=2)
        log_prob[:, :, some] = inputs.log_norm[some] - 0.5 * np.cumsum(squares, axis=2).T
    return log_prob
