"""Covariance type `tied`: one matrix for all components."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from mpigmm.core import matrices
from mpigmm.core.covariance import Covariance, Floored, Kernel, Parameters, SingularCovarianceError
from mpigmm.core.differences import difference_group, split
from mpigmm.core.exact import FloatArray
from mpigmm.core.groups import DifferenceGroup, Products, Wanted
from mpigmm.core.packed import PackedKernel
from mpigmm.core.tile import Tile
from mpigmm.core.triangle import lower_triangle, unpack


class Tied(Covariance):
    name = "tied"

    def shape(self, n_components: int, n_features: int) -> tuple[int, ...]:
        return (n_features, n_features)

    def n_parameters(self, n_components: int, n_features: int) -> int:
        return n_features * (n_features + 1) // 2

    def n_second(self, n_components: int, n_features: int) -> int:
        return n_features * (n_features + 1) // 2

    def check_symmetry(self, covariances: FloatArray) -> None:
        if not matrices.is_symmetric(covariances):
            raise SingularCovarianceError(None, "symmetric")

    def factor(self, covariances: FloatArray) -> FloatArray:
        try:
            return matrices.precision_cholesky(covariances)
        except np.linalg.LinAlgError:
            raise SingularCovarianceError(None) from None

    def log_determinant(self, precisions_cholesky: FloatArray, n_features: int) -> FloatArray:
        return np.asarray(np.log(np.diagonal(precisions_cholesky)).sum())

    def kernel(self, parameters: Parameters) -> Kernel:
        variances, factors = np.diagonal(parameters.covariances), parameters.precisions_cholesky[None]
        by_products = matrices.leaves_digits(parameters, variances, factors)
        return split(self, parameters, by_products, TiedPackedKernel, self._differences)

    def _differences(self, parameters: Parameters) -> DifferenceGroup:
        factor, k = parameters.precisions_cholesky, len(parameters.means)
        if not matrices.whitens(parameters.means, factor[None]).all():
            factors = np.broadcast_to(factor.T, (k, *factor.shape))
            return difference_group(parameters, Wanted.PAIRS_SUMMED, self.farthest(parameters), factors=factors)
        return difference_group(
            parameters,
            Wanted.PAIRS_SUMMED,
            self.farthest(parameters),
            precisions=np.ones((k, 1)),
            whiten=factor.T,
            subtracted=parameters.means @ factor,
        )

    def of_components(self, arrays: FloatArray, places: NDArray[np.intp]) -> FloatArray:
        return arrays

    def second_bounds(self, extents: FloatArray) -> FloatArray:
        widest = extents.max(axis=0)
        return np.outer(widest, widest).reshape(-1)[lower_triangle(len(widest))]

    def distance_bounds(self, precisions_cholesky: FloatArray, extents: FloatArray) -> FloatArray:
        return matrices.distance_bound(precisions_cholesky, extents)

    def diagonals(self, covariances: FloatArray) -> FloatArray:
        return np.diagonal(covariances)

    def precision_diagonals(self, precisions_cholesky: FloatArray) -> FloatArray:
        return np.asarray(np.square(precisions_cholesky).sum(axis=1))

    def estimate(self, counts: FloatArray, deltas: FloatArray, second: FloatArray) -> FloatArray:
        between = (counts[:, None] * deltas).T @ deltas
        covariance: FloatArray = (unpack(second, deltas.shape[1]) - (between + between.T) / 2) / counts.sum()
        return covariance

    def regularise(self, covariances: FloatArray, reg_covar: float) -> FloatArray:
        return covariances + reg_covar * np.eye(len(covariances))

    def floor(self, covariances: FloatArray, share: float, variances: FloatArray) -> Floored:
        if matrices.exceeds_floor(covariances, share * variances):
            return covariances, []
        return matrices.lift(covariances, share, variances), [None]

    def principal_axis(self, covariances: FloatArray, component: int, variances: FloatArray) -> FloatArray:
        return matrices.main_axis(covariances)

    def keep_components(self, covariances: FloatArray, previous: FloatArray, which: NDArray[np.bool_]) -> None:
        """Nothing to keep: the covariance is shared."""

    def copy_component(self, covariances: FloatArray, source: int, target: int) -> None:
        """Nothing to copy: the covariance is shared."""


class TiedPackedKernel(PackedKernel):
    """The only product is the squared length of the whitened row, the same for all components.

    So is the sum over components of the second moments about the tile's centre: that of all rows, weighted with the sum
    of the responsibilities, which for the components of a whole mixture is the row's weight.
    """

    kind = Products.LENGTH

    def __init__(self, parameters: Parameters) -> None:
        factor = parameters.precisions_cholesky
        linear = parameters.means @ factor @ factor.T
        super().__init__(parameters, np.ones((len(linear), 1)), linear)
        self._lower = parameters.loops.lower_triangle(len(factor))
        self._partial = parameters.partial

    def whitening(self, parameters: Parameters) -> FloatArray:
        return parameters.put(parameters.precisions_cholesky.T)

    def multiply(self, tile: Tile, out: FloatArray) -> None:
        whitened = tile.array("whitened", *tile.rows.shape)
        tile.loops.xp.matmul(self.group.whiten, tile.rows, out=whitened)
        tile.loops.multiply(self.kind, whitened, out)

    def scatter(self, tile: Tile, resp: FloatArray) -> FloatArray:
        xp, rows = tile.loops.xp, tile.rows
        shares = resp.sum(axis=0) if self._partial else tile.sample_weight
        if shares is not None:
            root = xp.sqrt(shares, out=tile.vector("root"))
            rows = xp.multiply(rows, root, out=tile.array("scaled", *rows.shape))
        return tile.loops.sums(tile, "scatter", rows, rows)

    def second_moments(
        self, products: FloatArray, about_centre: FloatArray, first: FloatArray, scatter: FloatArray
    ) -> FloatArray:
        within = scatter - (about_centre.T @ self.means + self.means.T @ first)
        return within.reshape(-1)[self._lower]
