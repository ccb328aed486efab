"""Covariance type `full`: a matrix for each component."""

from __future__ import annotations

from functools import cached_property
from itertools import pairwise

import numpy as np

from mpigmm.core import costs, matrices
from mpigmm.core.covariance import Covariance, Floored, Kernel, Parameters, SingularCovarianceError
from mpigmm.core.differences import difference_group, split
from mpigmm.core.exact import FloatArray
from mpigmm.core.ops.groups import DifferenceGroup, Products, SecondMoments
from mpigmm.core.packed import PackedKernel
from mpigmm.core.sparse import SparseKernel
from mpigmm.core.tile import Tile
from mpigmm.core.triangle import lower_triangle, unpack


class Full(Covariance):
    name = "full"

    def shape(self, n_components: int, n_features: int) -> tuple[int, ...]:
        return (n_components, n_features, n_features)

    def n_parameters(self, n_components: int, n_features: int) -> int:
        return n_components * n_features * (n_features + 1) // 2

    def n_second(self, n_components: int, n_features: int) -> int:
        return n_components * n_features * (n_features + 1) // 2

    def check_symmetry(self, covariances: FloatArray) -> None:
        for k, covariance in enumerate(covariances):
            if not matrices.is_symmetric(covariance):
                raise SingularCovarianceError(k, "symmetric")

    def factor(self, covariances: FloatArray) -> FloatArray:
        return matrices.precisions_cholesky(covariances)

    def log_determinant(self, precisions_cholesky: FloatArray, n_features: int) -> FloatArray:
        return np.asarray(np.log(np.diagonal(precisions_cholesky, axis1=1, axis2=2)).sum(axis=1))

    def kernel(self, parameters: Parameters) -> Kernel:
        whitens = matrices.whitens(parameters.means, parameters.precisions_cholesky)
        return split(self, parameters, parameters.inexact & whitens, self._sparse, self._differences)

    def _sparse(self, parameters: Parameters) -> Kernel:
        """A kernel that leaves out what is zero, where there are features enough for that to pay."""
        (k, d), ops = parameters.means.shape, parameters.ops
        packs = costs.packs(k, d, ops)
        dense = self._dense if packs else CholeskyKernel
        if d < costs.LEAST_FEATURES or not ops.prunes or not np.isfinite(parameters.reach).all():
            return dense(parameters)
        return SparseKernel(parameters, dense, packed=packs, farthest=self.farthest(parameters))

    def _dense(self, parameters: Parameters) -> Kernel:
        """A kernel for all pairs of row and component, where products of the rows pay where they leave the digits."""
        variances = np.diagonal(parameters.covariances, axis1=1, axis2=2)
        by_products = matrices.leaves_digits(parameters, variances, parameters.precisions_cholesky)
        if not (by_products.any() or parameters.ops.fuses):
            return CholeskyKernel(parameters)
        return split(self, parameters, by_products, FullPackedKernel, self._differences)

    def _differences(self, parameters: Parameters) -> DifferenceGroup:
        factors = parameters.precisions_cholesky.transpose(0, 2, 1)
        return difference_group(parameters, SecondMoments.PAIRS_OF_EACH, self.farthest(parameters), factors=factors)

    def second_bounds(self, extents: FloatArray) -> FloatArray:
        lower = lower_triangle(extents.shape[1])
        return np.concatenate([np.outer(extent, extent).reshape(-1)[lower] for extent in extents])

    def distance_bounds(self, precisions_cholesky: FloatArray, extents: FloatArray) -> FloatArray:
        return np.array([matrices.distance_bound(u, e) for u, e in zip(precisions_cholesky, extents, strict=True)])

    def diagonals(self, covariances: FloatArray) -> FloatArray:
        return np.diagonal(covariances, axis1=1, axis2=2)

    def precision_diagonals(self, precisions_cholesky: FloatArray) -> FloatArray:
        return np.asarray(np.einsum("kde,kde->kd", precisions_cholesky, precisions_cholesky))

    def estimate(self, counts: FloatArray, deltas: FloatArray, second: FloatArray) -> FloatArray:
        covariances = np.empty(deltas.shape + deltas.shape[1:])
        for k, line in enumerate(second.reshape(len(counts), -1)):
            covariances[k] = unpack(line / counts[k], deltas.shape[1]) - np.outer(deltas[k], deltas[k])
        return covariances

    def regularise(self, covariances: FloatArray, reg_covar: float) -> FloatArray:
        np.einsum("kdd->kd", covariances)[:] += reg_covar
        return covariances

    def floor(self, covariances: FloatArray, share: float, variances: FloatArray) -> Floored:
        floored: list[int | None] = []
        for k, covariance in enumerate(covariances):
            if not matrices.exceeds_floor(covariance, share * variances):
                covariances[k] = matrices.lift(covariance, share, variances)
                floored.append(k)
        return covariances, floored

    def principal_axis(self, covariances: FloatArray, component: int, variances: FloatArray) -> FloatArray:
        return matrices.main_axis(covariances[component])


class CholeskyKernel(Kernel):
    """Whitened coordinates U_k^T (x - mu_k), by matrix products over groups of components: good for any rows.

    The factor is triangular: the first coordinates need the first features alone, so they come block by block.
    """

    def __init__(self, parameters: Parameters) -> None:
        self.means = parameters.put(parameters.means)
        self.log_constants = parameters.put(parameters.log_constants)
        self._parameters = parameters
        self.ops = parameters.ops

    @cached_property
    def _blocks(self) -> list[FloatArray]:
        """Lines (K, h, 1 + d) of the whitened coordinates, some at a time; not wanted where moments alone are."""
        parameters, n_features = self._parameters, self.means.shape[1]
        lines = matrices.whitening(parameters.means, parameters.precisions_cholesky)
        n_blocks = max(1, n_features // parameters.ops.costs.block_height)
        edges = np.linspace(0, n_features, n_blocks + 1).astype(int)
        return [parameters.put(lines[:, start:stop, : stop + 1]) for start, stop in pairwise(edges)]

    def log_prob(self, tile: Tile, out: FloatArray) -> None:
        for i, block in enumerate(self._blocks):
            self.ops.subtract_squared_norms(tile, block, out, None if i else self.log_constants)

    def accumulate(self, tile: Tile, resp: FloatArray, first: FloatArray, second: FloatArray) -> None:
        packed = second.reshape(len(self.means), -1)
        for k, mean in enumerate(self.means):
            matrices.pack(self.ops, self.ops.scatter(tile, resp[k], mean, first[k]), packed[k])


class FullPackedKernel(PackedKernel):
    """The products are all of two features, a lower triangle packed."""

    kind = Products.PAIRS

    def __init__(self, parameters: Parameters) -> None:
        factors = parameters.precisions_cholesky
        precisions = factors @ factors.transpose(0, 2, 1)
        n_features = factors.shape[1]
        lower = lower_triangle(n_features)
        row, column = np.divmod(lower, n_features)
        self._row, self._column = parameters.put(row, row.dtype), parameters.put(column, row.dtype)
        products = precisions.reshape(len(factors), -1)[:, lower] * np.where(row == column, 1.0, 2.0)
        linear = (precisions @ parameters.means[:, :, None])[:, :, 0]
        super().__init__(parameters, products, linear)

    def second_moments(
        self, products: FloatArray, about_centre: FloatArray, first: FloatArray, scatter: FloatArray
    ) -> FloatArray:
        i, j = self._row, self._column
        return products - about_centre[:, i] * self.means[:, j] - self.means[:, i] * first[:, j]
