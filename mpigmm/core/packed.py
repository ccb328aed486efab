"""Densities and moments as two matrix products: with phi(x) = [1, x, products of x], all log-densities are W phi and
all statistics R phi^T."""

from __future__ import annotations

from abc import abstractmethod

import numpy as np

from mpigmm.core.covariance import Kernel, Parameters
from mpigmm.core.exact import FloatArray
from mpigmm.core.tile import Tile


class PackedKernel(Kernel):
    """Distances mu^T P mu - 2 mu^T P x + x^T P x, and moments about the tile's centre moved to the means.

    Both subtract large numbers where rows lie many standard deviations from the centre: each covariance type decides
    where that leaves enough digits.

    Parameters
    ----------
    parameters : Parameters
    products : ndarray of shape (K, Q)
        Coefficients of the products in the squared distance.
    linear : ndarray of shape (K, D)
        P mu.
    """

    def __init__(self, parameters: Parameters, products: FloatArray, linear: FloatArray) -> None:
        self.means = parameters.means
        self._n_products = products.shape[1]
        constants = parameters.log_constants - 0.5 * (self.means * linear).sum(axis=1)
        lines = np.concatenate([constants[:, None], linear, -0.5 * products], axis=1)
        self._lines = lines.astype(parameters.dtype)

    @abstractmethod
    def multiply(self, tile: Tile, out: FloatArray) -> None:
        """Products of a tile's rows into out (Q, n)."""

    @abstractmethod
    def second_moments(
        self, tile: Tile, resp: FloatArray, products: FloatArray, about_centre: FloatArray, first: FloatArray
    ) -> FloatArray:
        """Second moments about the means, packed.

        Parameters
        ----------
        tile : Tile
        resp : ndarray of shape (K, n)
        products : ndarray of shape (K, Q)
            Sums of the products.
        about_centre, first : ndarray of shape (K, D)
            First moments about the tile's centre and about the means.
        """

    def log_prob(self, tile: Tile, out: FloatArray) -> None:
        np.matmul(self._lines, tile.extended(self._n_products, self.multiply), out=out)

    def accumulate(self, tile: Tile, resp: FloatArray, first: FloatArray, second: FloatArray) -> None:
        phi = tile.extended(self._n_products, self.multiply)
        sums = np.matmul(resp, phi.T, out=tile.array("sums", *self._lines.shape)).astype(np.float64, copy=False)
        counts, about_centre, products = np.split(sums, [1, 1 + tile.n_features], axis=1)
        np.subtract(about_centre, counts * self.means, out=first)
        second[:] = self.second_moments(tile, resp, products, about_centre, first).reshape(-1)
