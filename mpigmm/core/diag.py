"""Covariance type `diag`: a variance for each component and feature."""

from __future__ import annotations

import numpy as np

from mpigmm.core.arrays import SINGLE
from mpigmm.core.covariance import (
    PACKING_TOLERANCE,
    BoolArray,
    Covariance,
    Floored,
    Kernel,
    Parameters,
    SingularCovarianceError,
    first_singular,
    packing_error,
)
from mpigmm.core.differences import difference_group, split
from mpigmm.core.exact import FloatArray
from mpigmm.core.ops.groups import LEAST_BOUNDED, DifferenceGroup, Products, SecondMoments
from mpigmm.core.packed import PackedKernel

LARGEST_RATIO = 4096.0
"""Squared distance of a mean from the centre, over the variance, up to which products of the rows leave about twelve
digits."""


MOST_BOUNDED = 0.5
"""Share of components by products from which on distances are not bounded."""


class Diag(Covariance):
    name = "diag"

    def shape(self, n_components: int, n_features: int) -> tuple[int, ...]:
        return (n_components, n_features)

    def n_parameters(self, n_components: int, n_features: int) -> int:
        return n_components * n_features

    def n_second(self, n_components: int, n_features: int) -> int:
        return n_components * n_features

    def factor(self, covariances: FloatArray) -> FloatArray:
        singular = first_singular(covariances)
        if singular is not None:
            raise SingularCovarianceError(singular)
        return 1.0 / np.sqrt(covariances)

    def log_determinant(self, precisions_cholesky: FloatArray, n_features: int) -> FloatArray:
        return np.asarray(np.log(precisions_cholesky).sum(axis=1))

    def kernel(self, parameters: Parameters) -> Kernel:
        precisions = np.square(parameters.precisions_cholesky)
        by_products = leaves_digits(parameters, precisions * np.square(parameters.means))
        return split(self, parameters, unless_bounded(by_products, parameters), self._products, self._differences)

    def _products(self, parameters: Parameters) -> Kernel:
        return DiagPackedKernel(parameters, self._differences(parameters))

    def _differences(self, parameters: Parameters) -> DifferenceGroup:
        precisions = np.square(parameters.precisions_cholesky)
        return difference_group(
            parameters, SecondMoments.EACH_FEATURE, self.farthest(parameters), precisions=precisions
        )

    def second_bounds(self, extents: FloatArray) -> FloatArray:
        return np.square(extents).reshape(-1)

    def distance_bounds(self, precisions_cholesky: FloatArray, extents: FloatArray) -> FloatArray:
        return np.asarray(np.square(extents * precisions_cholesky).sum(axis=1))

    def diagonals(self, covariances: FloatArray) -> FloatArray:
        return covariances

    def precision_diagonals(self, precisions_cholesky: FloatArray) -> FloatArray:
        return np.square(precisions_cholesky)

    def estimate(self, counts: FloatArray, deltas: FloatArray, second: FloatArray) -> FloatArray:
        return second.reshape(deltas.shape) / counts[:, None] - np.square(deltas)

    def regularise(self, covariances: FloatArray, reg_covar: float) -> FloatArray:
        return covariances + reg_covar

    def floor(self, covariances: FloatArray, share: float, variances: FloatArray) -> Floored:
        low = (covariances < share * variances).any(axis=1)
        return np.maximum(covariances, share * variances), np.flatnonzero(low).tolist()

    def principal_axis(self, covariances: FloatArray, component: int, variances: FloatArray) -> FloatArray:
        axis = np.zeros(len(variances))
        widest = covariances[component].argmax()
        axis[widest] = np.sqrt(covariances[component, widest])
        return axis


def leaves_digits(parameters: Parameters, terms: FloatArray) -> BoolArray:
    """Components (K,) whose squared distances may be taken from products of the rows.

    Parameters
    ----------
    parameters : Parameters
    terms : ndarray of shape (K, D), or (K, 1) where their sum is one product
        Squared distances of the means from the tiles' centre, in units of the variances.
    """
    if not np.isfinite(parameters.reach).all():
        return np.zeros(len(terms), bool)  # nothing is known of the mixture's fit to the rows
    if parameters.dtype == SINGLE:
        return parameters.inexact & (packing_error(terms + 1.0) <= PACKING_TOLERANCE)
    return np.asarray(parameters.inexact & (terms.max(axis=1) <= LARGEST_RATIO))


def unless_bounded(by_products: BoolArray, parameters: Parameters) -> BoolArray:
    """Components (K,) by products, of those that may be: none where most may not, and distances can be bounded by the
    first features, which is done for components by differences alone."""
    bounds = parameters.ops.fuses and parameters.means.shape[1] >= LEAST_BOUNDED
    return np.zeros_like(by_products) if bounds and by_products.mean() < MOST_BOUNDED else by_products


class DiagPackedKernel(PackedKernel):
    """The products are squares."""

    kind = Products.SQUARES

    def __init__(self, parameters: Parameters, moments: DifferenceGroup) -> None:
        precisions = np.square(parameters.precisions_cholesky)
        super().__init__(parameters, precisions, precisions * parameters.means, moments)

    def second_moments(
        self, products: FloatArray, about_centre: FloatArray, first: FloatArray, scatter: FloatArray
    ) -> FloatArray:
        return products - self.means * (about_centre + first)
