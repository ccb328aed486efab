"""Covariance type `spherical`: one variance for each component."""

from __future__ import annotations

import numpy as np

from mpigmm.core.covariance import Covariance, Floored, Kernel, Parameters, SingularCovarianceError, first_singular
from mpigmm.core.diag import DiagKernel, DiagPackedKernel, centre, leaves_digits
from mpigmm.core.exact import FloatArray
from mpigmm.core.loops import Products
from mpigmm.core.tile import Tile


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
        precisions = np.square(parameters.precisions_cholesky)[:, None]
        packs = leaves_digits(precisions, parameters, np.square(parameters.reach).sum())
        kind = SphericalPackedKernel if packs else SphericalKernel
        return kind(parameters, precisions)

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


class SphericalPackedKernel(DiagPackedKernel):
    """The only product is the squared length."""

    kind = Products.LENGTH

    def second_moments(
        self, products: FloatArray, about_centre: FloatArray, first: FloatArray, scatter: FloatArray
    ) -> FloatArray:
        shift: FloatArray = (self.means * (about_centre + first)).sum(axis=1, keepdims=True)
        return products - shift


class SphericalKernel(DiagKernel):
    """Squared lengths of the rows less each mean in turn: slower than the packed one, and good for any rows."""

    def accumulate(self, tile: Tile, resp: FloatArray, first: FloatArray, second: FloatArray) -> None:
        xp, lengths = tile.loops.xp, tile.array("lengths", 1, tile.n_rows)
        for k, mean in enumerate(self.means):
            centred = centre(tile, mean)
            first[k] = xp.matmul(centred, resp[k])
            tile.loops.multiply(Products.LENGTH, centred, lengths)
            second[k] = xp.matmul(lengths[0], resp[k])
