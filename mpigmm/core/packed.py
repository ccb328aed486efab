"""Densities and moments as two matrix products: with phi(x) = [1, x, products of x], all log-densities are W phi and
all statistics R phi^T."""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING

import numpy as np

from mpigmm.core.arrays import DOUBLE
from mpigmm.core.covariance import Kernel, Parameters
from mpigmm.core.exact import FloatArray
from mpigmm.core.ops.groups import DifferenceGroup, ProductGroup, Products, Sums
from mpigmm.core.tile import Tile

if TYPE_CHECKING:
    from mpigmm.core.statistics import Moments


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
    moments : DifferenceGroup, optional
        As in `ProductGroup`.

    Attributes
    ----------
    kind : Products
        Which products they are.
    group : ProductGroup
    """

    kind: Products

    def __init__(
        self,
        parameters: Parameters,
        products: FloatArray,
        linear: FloatArray,
        moments: DifferenceGroup | None = None,
    ) -> None:
        self.means = parameters.put(parameters.means, DOUBLE)
        self.ops = parameters.ops
        self._n_products = products.shape[1]
        constants = parameters.log_constants - 0.5 * (parameters.means * linear).sum(axis=1)
        lines = parameters.put(np.concatenate([constants[:, None], linear, -0.5 * products], axis=1))
        self.group = ProductGroup(self.kind, self.whitening(parameters), lines, moments)

    def whitening(self, parameters: Parameters) -> FloatArray:
        """What rows are multiplied by before their products are taken, (D, D), or (0, 0)."""
        return np.empty((0, 0), parameters.dtype)

    def multiply(self, tile: Tile, out: FloatArray) -> None:
        """Products of a tile's rows into out (Q, n)."""
        self.ops.products(self.kind, tile.rows, out)

    @abstractmethod
    def second_moments(
        self, products: FloatArray, about_centre: FloatArray, first: FloatArray, scatter: FloatArray
    ) -> FloatArray:
        """Second moments about the means, packed.

        Parameters
        ----------
        products : ndarray of shape (K, Q)
            Sums of the products.
        about_centre, first : ndarray of shape (K, D)
            First moments about the tile's centre and about the means.
        scatter : ndarray of shape (D, D) or (0, 0)
            What `scatter` yields.
        """

    def scatter(self, tile: Tile, resp: FloatArray) -> FloatArray:
        """Sums (D, D) over a tile's rows that the second moments need besides, or (0, 0)."""
        return np.empty((0, 0))

    def log_prob(self, tile: Tile, out: FloatArray) -> None:
        tile.ops.xp.matmul(self.group.coefficients, tile.extended(self._n_products, self.multiply), out=out)

    def accumulate(self, tile: Tile, resp: FloatArray, first: FloatArray, second: FloatArray) -> None:
        phi = tile.extended(self._n_products, self.multiply)
        self.move(self.ops.sums(tile, "sums", resp, phi), self.scatter(tile, resp), first, second)

    def dense_part(self) -> Kernel:
        return self

    def fused(self, tile: Tile, moments: Moments) -> bool:
        if not self.ops.fuses:
            return False
        sums = self.ops.sweep(tile, self.group, None)
        moments.log_likelihood[0] = sums.log_likelihood
        self.move_all(sums, moments.counts, moments.first_moments, moments.second_moments)
        return True

    def move_all(self, sums: Sums, counts: FloatArray, first: FloatArray, second: FloatArray) -> None:
        """Moments about the means from what a sweep yields."""
        counts[:] = sums.products[:, 0]
        self.move(sums.products, sums.scatter, first, second)
        if sums.few is not None:
            for total, few in zip((counts, first, second), sums.few, strict=True):
                total += few.reshape(total.shape)

    def move(self, sums: FloatArray, scatter: FloatArray, first: FloatArray, second: FloatArray) -> None:
        """From the sums (K, 1 + D + Q) of phi to moments about the means."""
        end = 1 + self.means.shape[1]
        counts, about_centre, products = sums[:, :1], sums[:, 1:end], sums[:, end:]
        first[:] = about_centre - counts * self.means
        second[:] = self.second_moments(products, about_centre, first, scatter).reshape(second.shape)
