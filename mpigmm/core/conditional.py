"""Regression by a mixture: the distribution of some of its features given the others."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mpigmm.core.arrays import HOST, Indices
from mpigmm.core.covariances.base import SingularCovarianceError
from mpigmm.core.exact import FloatArray
from mpigmm.core.matrices import is_definite
from mpigmm.core.mixture import Mixture

BLOCK_NUMBERS = 2**18
"""Numbers in the work arrays of `Conditional.moments`, about: so few that they stay in the caches of a processor."""


@dataclass(frozen=True, eq=False)
class Conditional:
    """The distribution of the remaining features z of a mixture given values x of some features.

    It is a mixture of the same components. Under component k, z is normal with mean and covariance

        m_k(x) = means_k + A_k (x - given_means_k),   C_k = S_zz - A_k S_xz,   A_k = S_zx S_xx^-1,

    where S is the component's covariance (Bishop, Pattern Recognition and Machine Learning, 2006, section 2.3.1). The
    weight of the component is its posterior r_k(x) under the marginal mixture of x (Ghahramani and Jordan, Supervised
    learning from incomplete data via an EM approach, NIPS 6, 1994).

    Attributes
    ----------
    marginal : Mixture
        Of the G features that are given.
    means : ndarray of shape (K, R)
        Means of the R remaining features, which are in ascending order.
    gains : ndarray of shape (K, R, G)
        A_k, the regression coefficients.
    covariances : ndarray of shape (K, R, R)
        C_k.
    """

    marginal: Mixture
    means: FloatArray
    gains: FloatArray
    covariances: FloatArray

    @classmethod
    def of(cls, mixture: Mixture, given: Indices) -> Conditional:
        """The distribution given the features with these numbers (G,): different ones, and not all.

        With the features in the order x, z, the Cholesky factor L of S has blocks L_xx, L_zx and L_zz, of which
        A_k = L_zx L_xx^-1 and C_k = L_zz L_zz^T. These are as accurate for features of any scales, and C_k is never
        indefinite. Raises `SingularCovarianceError`.
        """
        n_given, remaining = len(given), np.setdiff1d(np.arange(mixture.n_features), given)
        shape = (mixture.n_components, len(remaining), len(remaining))
        lower = lower_cholesky(mixture.covariances.of_features(np.concatenate([given, remaining])))
        of_given, below = lower[..., :n_given, :n_given], lower[..., n_given:, :n_given]
        of_remaining = lower[..., n_given:, n_given:]
        gains = transposed(np.asarray(np.linalg.solve(transposed(of_given), transposed(below))))
        return cls(
            marginal=mixture.marginal(given),
            means=mixture.means[:, remaining],
            gains=np.broadcast_to(gains, (*shape[:2], n_given)),
            covariances=np.array(np.broadcast_to(of_remaining @ transposed(of_remaining), shape)),
        )

    @property
    def n_remaining(self) -> int:
        """Number of remaining features, R."""
        return int(self.means.shape[1])

    def moments(self, given: NDArray[Any], resp: FloatArray) -> Iterator[tuple[slice, FloatArray, FloatArray]]:
        """Mean (m, R) and covariance (m, R, R) of the remaining features for rows of given ones, block after block.

        They are E[z] = sum_k r_k m_k and, by the law of total covariance, sum_k r_k (C_k + d_k d_k^T) with
        d_k = m_k - E[z]. In a row whose density is zero both are NaN. With each block comes the range of its rows.

        Parameters
        ----------
        given : ndarray of shape (n, G), of any real dtype
            The rows.
        resp : ndarray of shape (K, n)
            Posterior r_k of the components under `marginal`.
        """
        n_components, n_given = self.marginal.means.shape
        numbers = n_components * (n_given + 2 * self.n_remaining) + 2 * self.n_remaining**2
        block_rows = max(1, BLOCK_NUMBERS // numbers)
        for start in range(0, len(given), block_rows):
            block = slice(start, min(start + block_rows, len(given)))
            yield block, *self._block_moments(given[block], resp[:, block])

    def _block_moments(self, given: NDArray[Any], resp: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Mean and covariance of a block of rows. Arrays start at aligned addresses, so that BLAS gives equal bits."""
        n_components, n_rows, n_remaining = *resp.shape, self.n_remaining
        shares = aligned_array(n_rows, n_components)
        shares[:] = resp.T
        likeliest = shares.argmax(axis=1)
        differences = aligned_array(n_rows, n_components, n_remaining)
        mean = self.means[likeliest] + self._subtract_likeliest(given, likeliest, differences)
        offset = np.matmul(shares[:, None, :], differences, out=aligned_array(n_rows, 1, n_remaining))
        mean += offset[:, 0]
        differences -= offset
        differences *= np.sqrt(shares)[:, :, None]
        covariance = np.matmul(
            transposed(differences), differences, out=aligned_array(n_rows, n_remaining, n_remaining)
        )
        within = aligned_array(n_rows, n_remaining**2)
        covariance += np.matmul(shares, self.covariances.reshape(n_components, -1), out=within).reshape(
            covariance.shape
        )
        impossible = ~shares.any(axis=1)
        mean[impossible] = covariance[impossible] = np.nan
        return mean, covariance

    def _subtract_likeliest(self, given: NDArray[Any], likeliest: Indices, out: FloatArray) -> FloatArray:
        """Write m_k minus m_l of each row to out (n, K, R), where l is its likeliest component; returns m_l - means_l.

        Means far from zero, or far from those of other components, cost these differences no digits.
        """
        n_rows, n_components, n_given = len(given), *self.marginal.means.shape
        away = aligned_array(n_components, n_rows, n_given)
        np.subtract(given, self.marginal.means[:, None, :], out=away)
        np.matmul(away, transposed(self.gains), out=out.transpose(1, 0, 2))
        own = out[np.arange(n_rows), likeliest]
        out -= own[:, None, :]
        out += self.means - self.means[likeliest][:, None, :]
        return own


def lower_cholesky(covariances: FloatArray) -> FloatArray:
    """Cholesky factors (..., D, D) of covariances (..., D, D); raises `SingularCovarianceError`."""
    try:
        return np.asarray(np.linalg.cholesky(covariances))
    except np.linalg.LinAlgError:
        for k, covariance in enumerate(covariances if covariances.ndim > 2 else ()):
            if not is_definite(covariance):
                raise SingularCovarianceError(k) from None
        raise SingularCovarianceError(None) from None


def transposed(matrices: FloatArray) -> FloatArray:
    """Views of matrices (..., m, n) as their transposes (..., n, m)."""
    return np.swapaxes(matrices, -1, -2)


def aligned_array(*shape: int) -> FloatArray:
    """An uninitialised array that starts at a multiple of `ALIGNMENT` bytes."""
    array: FloatArray = HOST.empty(math.prod(shape)).reshape(shape)
    return array
