"""Covariance type `spherical`: one variance for each component."""

from __future__ import annotations

import numpy as np

from mpigmm.core.covariance import Covariance, Floored, Kernel, Parameters, SingularCovarianceError, first_singular
from mpigmm.core.diag import leaves_digits, unless_bounded
from mpigmm.core.differences import difference_group, split
from mpigmm.core.exact import FloatArray
from mpigmm.core.ops.groups import DifferenceGroup, Products, SecondMoments
from mpigmm.core.packed import PackedKernel


class Spherical(Covariance):
    name = "spherical"

    def shape(self, n_components: int, n_features: int) -> tuple[int, ...]:
        return (n_components,)

    def n_parameters(self, n_components: int, n_features: int) -> int:
        return n_components

    def n_second(self, n_components: int, n_features: int) -> int:
        return n_components

    def factor(self, covariances: FloatArray) -> FloatArray:
        singular = first_singular(covariances)
        if singular is not None:
            raise SingularCovarianceError(singular)
        return 1.0 / np.sqrt(covariances)

    def log_determinant(self, precisions_cholesky: FloatArray, n_features: int) -> FloatArray:
        return n_features * np.log(precisions_cholesky)

    def kernel(self, parameters: Parameters) -> Kernel:
        terms = np.square(parameters.precisions_cholesky) * np.square(parameters.means).sum(axis=1)
        by_products = leaves_digits(parameters, terms[:, None])
        return split(self, parameters, unless_bounded(by_products, parameters), self._products, self._differences)

    def _products(self, parameters: Parameters) -> Kernel:
        return SphericalPackedKernel(parameters, self._differences(parameters))

    def _differences(self, parameters: Parameters) -> DifferenceGroup:
        precisions = np.square(parameters.precisions_cholesky)[:, None]
        return difference_group(
            parameters, SecondMoments.ALL_FEATURES, self.farthest(parameters), precisions=precisions
        )

    def second_bounds(self, extents: FloatArray) -> FloatArray:
        return np.asarray(np.square(extents).sum(axis=1))

    def distance_bounds(self, precisions_cholesky: FloatArray, extents: FloatArray) -> FloatArray:
        return np.asarray(np.square(extents).sum(axis=1) * np.square(precisions_cholesky))

    def diagonals(self, covariances: FloatArray) -> FloatArray:
        return covariances[:, None]

    def precision_diagonals(self, precisions_cholesky: FloatArray) -> FloatArray:
        return np.square(precisions_cholesky)[:, None]

    def estimate(self, counts: FloatArray, deltas: FloatArray, second: FloatArray) -> FloatArray:
        return np.asarray((second / counts - np.square(deltas).sum(axis=1)) / deltas.shape[1])

    def regularise(self, covariances: FloatArray, reg_covar: float) -> FloatArray:
        return covariances + reg_covar

    def floor(self, covariances: FloatArray, share: float, variances: FloatArray) -> Floored:
        least = share * variances.mean()
        return np.maximum(covariances, least), np.flatnonzero(covariances < least).tolist()

    def principal_axis(self, covariances: FloatArray, component: int, variances: FloatArray) -> FloatArray:
        axis = np.zeros(len(variances))
        axis[variances.argmax()] = np.sqrt(covariances[component])
        return axis


class SphericalPackedKernel(PackedKernel):
    """The only product is the squared length."""

    kind = Products.SQUARED_NORM

    def __init__(self, parameters: Parameters, moments: DifferenceGroup) -> None:
        precisions = np.square(parameters.precisions_cholesky)[:, None]
        super().__init__(parameters, precisions, precisions * parameters.means, moments)

    def second_moments(
        self, products: FloatArray, about_centre: FloatArray, first: FloatArray, scatter: FloatArray
    ) -> FloatArray:
        shift: FloatArray = (self.means * (about_centre + first)).sum(axis=1, keepdims=True)
        return products - shift
