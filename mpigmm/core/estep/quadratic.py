"""Kernels that compute log-densities and statistics as matrix products with quadratic features of the rows.

With phi(x) = [1, x, products of x], all log-densities are W phi and all statistics R phi^T, where the matrices W hold
coefficients and R responsibilities.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, ClassVar, Generic, TypeVar

import numpy as np

from mpigmm.core.arrays import DOUBLE, BoolArray
from mpigmm.core.estep.base import Kernel, NextKernel, RegisteredKernel
from mpigmm.core.estep.conditioning import is_well_conditioned, is_well_conditioned_by_squares
from mpigmm.core.estep.differences import difference_group
from mpigmm.core.estep.inputs import EStepInputs
from mpigmm.core.exact import FloatArray
from mpigmm.core.factors import DiagonalFactors, Factors, IsotropicFactors, SharedTriangularFactor, TriangularFactors
from mpigmm.core.ops.groups import DifferenceGroup, ProductGroup, Products, SecondMoments, Sums
from mpigmm.core.statistics import SufficientStatistics
from mpigmm.core.tile import Tile
from mpigmm.core.triangle import lower_triangle

F = TypeVar("F", bound=Factors)


class QuadraticKernel(RegisteredKernel, Generic[F]):
    """Computes squared distances as mu^T P mu - 2 mu^T P x + x^T P x, and moments about the means from those about the
    centre.

    Both subtract large numbers from each other if a component is many standard deviations from the centre. `supports`
    tells for which components the results are accurate.

    Attributes
    ----------
    kind : Products
        The products of features in phi.
    factors, sums : type, SecondMoments
        The class of factors that the kernel supports, and the second moments that it computes.
    group : ProductGroup
    means : ndarray of shape (K, D)
        The means minus the centre of the tiles.
    """

    kind: ClassVar[Products]
    factors: ClassVar[type[Factors]]
    sums: ClassVar[SecondMoments]

    def __init__(self, inputs: EStepInputs, next_kernel: NextKernel) -> None:
        factors: Any = inputs.factors
        products, linear = self.coefficients(inputs, factors)
        self.means = inputs.put(inputs.means, DOUBLE)
        self._ops = inputs.ops
        self._n_products = products.shape[1]
        self._at_once = inputs.ops.fuses and inputs.is_posterior
        constants = inputs.log_norm - 0.5 * (inputs.means * linear).sum(axis=1)
        coefficients = inputs.put(np.concatenate([constants[:, None], linear, -0.5 * products], axis=1))
        self.group = ProductGroup(self.kind, self.whitening(inputs, factors), coefficients, self.moments(inputs))

    @classmethod
    def supports(cls, inputs: EStepInputs) -> BoolArray:
        if not isinstance(inputs.factors, cls.factors) or inputs.second_moments is not cls.sums:
            return np.zeros(inputs.n_components, bool)
        factors: Any = inputs.factors
        return cls.conditioned(inputs, factors)

    @classmethod
    @abstractmethod
    def conditioned(cls, inputs: EStepInputs, factors: F) -> BoolArray:
        """Components (K,) that are near enough to the centre for accurate results."""

    @abstractmethod
    def coefficients(self, inputs: EStepInputs, factors: F) -> tuple[FloatArray, FloatArray]:
        """Coefficients (K, Q) of the products in the squared distance, and P_k mu_k, (K, D)."""

    def whitening(self, inputs: EStepInputs, factors: F) -> FloatArray:
        """The matrix (D, D) by which rows are multiplied before products are computed; (0, 0) if there is none."""
        return np.empty((0, 0), inputs.dtype)

    def moments(self, inputs: EStepInputs) -> DifferenceGroup | None:
        """The same components by differences, for moments over few rows; None if the kernel does not support
        it."""
        return None

    def products(self, tile: Tile, out: FloatArray) -> None:
        """Compute the products of the features of a tile's rows into out (Q, n)."""
        self._ops.products(self.kind, tile.rows, out)

    @abstractmethod
    def second_moments(
        self, products: FloatArray, about_centre: FloatArray, first: FloatArray, scatter: FloatArray
    ) -> FloatArray:
        """Packed second moments about the means.

        Parameters
        ----------
        products : ndarray of shape (K, Q)
            Sums over rows of responsibilities times products.
        about_centre, first : ndarray of shape (K, D)
            First moments about the tile's centre and about the means.
        scatter : ndarray of shape (D, D) or (0, 0)
            The result of the method `scatter`.
        """

    def scatter(self, tile: Tile, resp: FloatArray) -> FloatArray:
        """Sums (D, D) over a tile's rows that `second_moments` needs in addition; (0, 0) if it needs none."""
        return np.empty((0, 0))

    def log_prob(self, tile: Tile, out: FloatArray) -> None:
        if self._at_once:
            self._ops.product_log_prob(tile, self.group, out)
            return
        self._ops.xp.matmul(self.group.coefficients, tile.extended(self._n_products, self.products), out=out)

    def accumulate(self, tile: Tile, resp: FloatArray, first: FloatArray, second: FloatArray) -> None:
        phi = tile.extended(self._n_products, self.products)
        self.move(self._ops.sums(tile, "sums", resp, phi), self.scatter(tile, resp), first, second)

    def dense_part(self) -> Kernel:
        return self

    def e_step(self, tile: Tile, statistics: SufficientStatistics) -> bool:
        if not self._ops.fuses:
            return False
        sums = self._ops.sweep(tile, self.group, None)
        statistics.log_likelihood[0] = sums.log_likelihood
        self.move_all(sums, statistics.counts, statistics.first_moments, statistics.second_moments)
        return True

    def move_all(self, sums: Sums, counts: FloatArray, first: FloatArray, second: FloatArray) -> None:
        """Compute counts (K,) and moments about the means from the results of `Ops.sweep`."""
        counts[:] = sums.products[:, 0]
        self.move(sums.products, sums.scatter, first, second)
        if sums.few is not None:
            for total, few in zip((counts, first, second), sums.few, strict=True):
                total += few.reshape(total.shape)

    def move(self, sums: FloatArray, scatter: FloatArray, first: FloatArray, second: FloatArray) -> None:
        """Compute moments about the means from the sums (K, 1 + D + Q) of responsibilities times phi."""
        end = 1 + self.means.shape[1]
        counts, about_centre, products = sums[:, :1], sums[:, 1:end], sums[:, end:]
        first[:] = about_centre - counts * self.means
        second[:] = self.second_moments(products, about_centre, first, scatter).reshape(second.shape)


class FullQuadraticKernel(QuadraticKernel[TriangularFactors]):
    """For a covariance matrix of each component. The products are those of all pairs of features: a packed lower
    triangle."""

    kind = Products.PAIRS
    factors = TriangularFactors
    sums = SecondMoments.PAIRS_OF_EACH

    @classmethod
    def conditioned(cls, inputs: EStepInputs, factors: TriangularFactors) -> BoolArray:
        return inputs.can_whiten_rows & is_well_conditioned(inputs, factors.upper)

    def coefficients(self, inputs: EStepInputs, factors: TriangularFactors) -> tuple[FloatArray, FloatArray]:
        upper, n_features = factors.upper, inputs.n_features
        precisions = upper @ upper.transpose(0, 2, 1)
        lower = lower_triangle(n_features)
        row, column = np.divmod(lower, n_features)
        self._row, self._column = inputs.put(row, row.dtype), inputs.put(column, row.dtype)
        products = precisions.reshape(len(upper), -1)[:, lower] * np.where(row == column, 1.0, 2.0)
        return products, (precisions @ inputs.means[:, :, None])[:, :, 0]

    def second_moments(
        self, products: FloatArray, about_centre: FloatArray, first: FloatArray, scatter: FloatArray
    ) -> FloatArray:
        i, j = self._row, self._column
        return products - about_centre[:, i] * self.means[:, j] - self.means[:, i] * first[:, j]


class TiedQuadraticKernel(QuadraticKernel[SharedTriangularFactor]):
    """For one covariance matrix that all components share. The only product is the squared norm of the whitened row.

    The second moments about the centre, summed over components, are the scatter matrix of the rows, each weighted with
    the sum of its responsibilities. For all components of a mixture this sum is the sample weight.
    """

    kind = Products.SQUARED_NORM
    factors = SharedTriangularFactor
    sums = SecondMoments.PAIRS_SUMMED

    @classmethod
    def conditioned(cls, inputs: EStepInputs, factors: SharedTriangularFactor) -> BoolArray:
        return is_well_conditioned(inputs, factors.upper[None])

    def coefficients(self, inputs: EStepInputs, factors: SharedTriangularFactor) -> tuple[FloatArray, FloatArray]:
        self._lower = inputs.ops.lower_triangle(inputs.n_features)
        self._sums_to_weight = inputs.sums_to_weight
        return np.ones((inputs.n_components, 1)), inputs.means @ factors.upper @ factors.upper.T

    def whitening(self, inputs: EStepInputs, factors: SharedTriangularFactor) -> FloatArray:
        return inputs.put(factors.upper.T)

    def products(self, tile: Tile, out: FloatArray) -> None:
        whitened = tile.array("whitened", *tile.rows.shape)
        self._ops.xp.matmul(self.group.whiten, tile.rows, out=whitened)
        self._ops.products(self.kind, whitened, out)

    def scatter(self, tile: Tile, resp: FloatArray) -> FloatArray:
        xp, rows = self._ops.xp, tile.rows
        shares = tile.sample_weight if self._sums_to_weight else resp.sum(axis=0)
        if shares is not None:
            root = xp.sqrt(shares, out=tile.vector("root"))
            rows = xp.multiply(rows, root, out=tile.array("scaled", *rows.shape))
        return self._ops.sums(tile, "scatter", rows, rows)

    def second_moments(
        self, products: FloatArray, about_centre: FloatArray, first: FloatArray, scatter: FloatArray
    ) -> FloatArray:
        within = scatter - (about_centre.T @ self.means + self.means.T @ first)
        return within.reshape(-1)[self._lower]


class DiagonalQuadraticKernel(QuadraticKernel[DiagonalFactors]):
    """For a variance of each component and feature. The products are the squares of the features."""

    kind = Products.SQUARES
    factors = DiagonalFactors
    sums = SecondMoments.EACH_FEATURE

    @classmethod
    def conditioned(cls, inputs: EStepInputs, factors: DiagonalFactors) -> BoolArray:
        terms = np.square(factors.roots) * np.square(inputs.means)
        return is_well_conditioned_by_squares(inputs, terms)

    def coefficients(self, inputs: EStepInputs, factors: DiagonalFactors) -> tuple[FloatArray, FloatArray]:
        precisions = np.square(factors.roots)
        return precisions, precisions * inputs.means

    def moments(self, inputs: EStepInputs) -> DifferenceGroup:
        return difference_group(inputs)

    def second_moments(
        self, products: FloatArray, about_centre: FloatArray, first: FloatArray, scatter: FloatArray
    ) -> FloatArray:
        return products - self.means * (about_centre + first)


class IsotropicQuadraticKernel(QuadraticKernel[IsotropicFactors]):
    """For one variance of each component. The only product is the squared norm of the row."""

    kind = Products.SQUARED_NORM
    factors = IsotropicFactors
    sums = SecondMoments.ALL_FEATURES

    @classmethod
    def conditioned(cls, inputs: EStepInputs, factors: IsotropicFactors) -> BoolArray:
        terms = np.square(factors.roots) * np.square(inputs.means).sum(axis=1)
        return is_well_conditioned_by_squares(inputs, terms[:, None])

    def coefficients(self, inputs: EStepInputs, factors: IsotropicFactors) -> tuple[FloatArray, FloatArray]:
        precisions = np.square(factors.roots)[:, None]
        return precisions, precisions * inputs.means

    def moments(self, inputs: EStepInputs) -> DifferenceGroup:
        return difference_group(inputs)

    def second_moments(
        self, products: FloatArray, about_centre: FloatArray, first: FloatArray, scatter: FloatArray
    ) -> FloatArray:
        shift: FloatArray = (self.means * (about_centre + first)).sum(axis=1, keepdims=True)
        return products - shift
