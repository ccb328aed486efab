"""Covariance type `diag`: a variance for each component and feature."""

from __future__ import annotations

import numpy as np

from mpigmm.core.backend import SINGLE
from mpigmm.core.covariance import (
    PACKING_TOLERANCE,
    Covariance,
    Floored,
    Kernel,
    Parameters,
    SingularCovarianceError,
    first_singular,
    packing_error,
)
from mpigmm.core.exact import FloatArray
from mpigmm.core.loops import Products
from mpigmm.core.packed import PackedKernel
from mpigmm.core.tile import Tile

LARGEST_RATIO = 4096.0
"""Squared distance from the centre over variance up to which products of the rows leave about twelve digits."""


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
        kind = DiagPackedKernel if leaves_digits(precisions, parameters, np.square(parameters.reach)) else DiagKernel
        return kind(parameters, precisions)

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


def leaves_digits(precisions: FloatArray, parameters: Parameters, squared_reach: FloatArray) -> bool:
    """Whether rows within the reach (D,) or, summed over features, (), may be treated as products.

    In float32, whether that costs little for rows that are one standard deviation from their component's mean.
    """
    if parameters.dtype == SINGLE:
        return packing_error(precisions * np.square(parameters.means) + 1.0) <= PACKING_TOLERANCE
    return bool((precisions * squared_reach).max() <= LARGEST_RATIO)


class DiagPackedKernel(PackedKernel):
    """The products are squares.

    Parameters
    ----------
    parameters : Parameters
    precisions : ndarray of shape (K, D), or (K, 1) where all features share one
    """

    kind = Products.SQUARES

    def __init__(self, parameters: Parameters, precisions: FloatArray) -> None:
        super().__init__(parameters, precisions, precisions * parameters.means)

    def second_moments(
        self, products: FloatArray, about_centre: FloatArray, first: FloatArray, scatter: FloatArray
    ) -> FloatArray:
        return products - self.means * (about_centre + first)


class DiagKernel(Kernel):
    """Squares of the rows less each mean in turn: slower than `DiagPackedKernel`, and good for any rows.

    Parameters
    ----------
    parameters : Parameters
    precisions : ndarray of shape (K, D), or (K, 1) where all features share one
    """

    def __init__(self, parameters: Parameters, precisions: FloatArray) -> None:
        self.means = parameters.put(parameters.means)
        self.precisions = parameters.put(precisions)
        self.log_constants = parameters.put(parameters.log_constants)

    def log_prob(self, tile: Tile, out: FloatArray) -> None:
        tile.loops.distances(tile, tile.rows, self.means, self.precisions, self.log_constants, out)

    def accumulate(self, tile: Tile, resp: FloatArray, first: FloatArray, second: FloatArray) -> None:
        xp, packed = tile.loops.xp, second.reshape(self.means.shape)
        for k, mean in enumerate(self.means):
            centred = centre(tile, mean)
            first[k] = xp.matmul(centred, resp[k])
            packed[k] = xp.matmul(xp.multiply(centred, centred, out=centred), resp[k])


def centre(tile: Tile, mean: FloatArray) -> FloatArray:
    """The tile's rows less a mean (D,), (D, n); overwritten by the next call."""
    centred: FloatArray = tile.loops.xp.subtract(tile.rows, mean[:, None], out=tile.array("scaled", *tile.rows.shape))
    return centred
