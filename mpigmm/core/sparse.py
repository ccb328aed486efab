"""`full` without what is zero: most rows are so far from most components that their responsibility is."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from mpigmm.core import costs, matrices
from mpigmm.core.covariance import Kernel, Parameters
from mpigmm.core.differences import NATS, least_responsibilities
from mpigmm.core.exact import FloatArray
from mpigmm.core.loops import padded
from mpigmm.core.tile import Tile

if TYPE_CHECKING:
    from mpigmm.core.statistics import Moments

Indices = NDArray[np.intp]


class SparseKernel(Kernel):
    """Computes pairs of row and component that matter, or all of them where too many do.

    A whitened coordinate U_k^T (x - mu_k) depends on the features up to its own alone. The squares of the leading ones
    therefore bound a distance from below, and a density from above: a component whose bound lies far below the density
    of another one needs no more. The moments take, for each component, the rows that it is responsible for.

    Parameters
    ----------
    parameters : Parameters
    dense_kind : callable
        Makes the kernel for tiles in which too much matters, when the first of them comes.
    packed : bool
        Whether that is `FullPackedKernel`.
    farthest : ndarray of shape (K,)
        Upper bounds of the squared Mahalanobis distances of any row from the components.
    """

    def __init__(
        self, parameters: Parameters, dense_kind: Callable[[Parameters], Kernel], *, packed: bool, farthest: FloatArray
    ) -> None:
        self._parameters = parameters
        self._dense_kind = dense_kind
        self.means = parameters.means.astype(parameters.dtype)
        self.log_constants = parameters.log_constants.astype(parameters.dtype)
        factors = parameters.precisions_cholesky
        k, d = self.means.shape
        loops = parameters.loops
        self._e_cost = costs.packed_e(k, d, loops) if packed else costs.cholesky_e(k, d, loops)
        self._m_cost = costs.packed_m(k, d, loops) if packed else costs.cholesky_m(k, d, loops)
        self._call, self._picked_m = loops.call, loops.picking * costs.pair_m(d, loops)
        self._least_resp = least_responsibilities(farthest).astype(parameters.dtype)
        self.n_leading = self._choose_leading(factors)
        self._is_dense = packed and not self.n_leading and self._expect_dense(factors, farthest)
        if self.n_leading:
            self._split(parameters)

    def _split(self, parameters: Parameters) -> None:
        """The lines of the leading whitened coordinates, and the columns of the others."""
        (k, d), n = self.means.shape, self.n_leading
        self._leading = np.empty((k, n, n + 1), parameters.dtype)
        self._rest = np.zeros((k, 1 + d, padded(d - n)), parameters.dtype)
        for j in range(k):  # one by one: all of them would be as large as the mixture
            (lines,) = matrices.whitening(parameters.means[j : j + 1], parameters.precisions_cholesky[j : j + 1])
            self._leading[j] = lines[:n, : n + 1]
            self._rest[j, :, : d - n] = lines[n:].T

    @cached_property
    def dense(self) -> Kernel:
        return self._dense_kind(self._parameters)

    def _choose_leading(self, factors: FloatArray) -> int:
        """How many features to bound by, from what the mixture says of itself; 0 where that does not pay."""
        k, d = self.means.shape
        leading = np.array([n for n in (4, 8, 12, 16, 24, 32, 48, 64) if 2 * n <= d])
        typical = self.log_constants - 0.5 * d - NATS - np.log(1.0 + d)
        share = expected_share(self.means, factors, self.log_constants, typical, leading)
        bound, pair = costs.bounded_e(k, d, leading, self._parameters.loops)
        best = int((bound + k * share * pair).argmin())
        self._most_share = (self._e_cost - bound[best]) / (k * pair[best])
        return int(leading[best]) if share[best] < self._most_share - 0.2 * self._e_cost / (k * pair[best]) else 0

    def _expect_dense(self, factors: FloatArray, farthest: FloatArray) -> bool:
        """Whether nearly all pairs of row and component matter, were the rows those of the mixture."""
        k, d = self.means.shape
        least = self.log_constants - NATS - np.log(np.maximum(1.0, farthest))
        share = expected_share(self.means, factors, self.log_constants, least, np.array([d]))[0]
        return bool(k * share * self._picked_m > self._m_cost)

    def fused(self, tile: Tile, moments: Moments) -> bool:
        return self._is_dense and self.dense.fused(tile, moments)

    def dense_part(self) -> Kernel | None:
        return self.dense.dense_part() if self._is_dense else None

    def log_prob(self, tile: Tile, out: FloatArray) -> None:
        if not (self.n_leading and self._bounded(tile, out)):
            self.dense.log_prob(tile, out)

    def _bounded(self, tile: Tile, out: FloatArray) -> bool:
        """Log-densities into out (K, n), -inf where negligible; False, and out undefined, where too many are not."""
        tile.loops.subtract_lengths(tile, self._leading, out, self.log_constants)
        most = int(self._most_share * out.size)
        highest = float(self.log_constants.max())
        return tile.loops.pick_distances(tile, self._rest, tile.n_features - self.n_leading, highest, NATS, most, out)

    def accumulate(self, tile: Tile, resp: FloatArray, first: FloatArray, second: FloatArray) -> None:
        least = self._least_resp if tile.sample_weight is None else self._least_resp * tile.sample_weight.max()
        k = len(self.means)
        if np.count_nonzero(resp > least[:, None]) * self._picked_m + k * self._call > tile.n_rows * self._m_cost:
            self.dense.accumulate(tile, resp, first, second)
        else:
            tile.loops.pick_moments(tile, resp, self.means, least, first, second.reshape(k, -1))


def expected_share(
    means: FloatArray, factors: FloatArray, log_constants: FloatArray, least: FloatArray, leading: Indices
) -> FloatArray:
    """Shares of the pairs that bounds by this many leading features would leave, were the rows those of the mixture.

    A row of component j stands at its mean; a pair is left where the bound of its density is at least least_j.
    """
    left, weights = np.zeros(len(leading)), weights_of(factors, log_constants)
    for component, factor in enumerate(factors):
        whitened = (means - means[component]) @ factor[:, : leading[-1]]
        bounds = -0.5 * np.cumsum(whitened**2, axis=1)[:, leading - 1] + log_constants[component]
        left += weights @ (bounds >= least[:, None])
    return np.asarray(left / len(means))


def weights_of(factors: FloatArray, log_constants: FloatArray) -> FloatArray:
    """Weights (K,) of some components, in proportion to those of their mixture, with sum 1."""
    log_weights = log_constants - np.log(np.diagonal(factors, axis1=1, axis2=2)).sum(axis=1)
    weights = np.exp(log_weights - log_weights.max())
    return np.asarray(weights / weights.sum())
