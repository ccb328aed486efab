"""Mean and covariance of a mixture, and affine maps after which rows drawn from it have the same mean and covariance.

Rows are computed in units that are powers of two near the standard deviations of the mixture, about its mean. Changes
of units are then exact, and numbers stay within the range of float64 whatever the units of the features are.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from mpigmm.core.arrays import HOST
from mpigmm.core.exact import LIMB_BITS, FixedPoint, FloatArray
from mpigmm.core.matrices import cholesky_map
from mpigmm.core.mixture import Mixture
from mpigmm.core.sum_format import exponents
from mpigmm.core.triangle import lower_triangle, unpack

LARGEST_NORMAL = 16.0
"""Bound of the magnitude of a standard normal number. NumPy computes those above 3.65 from logarithms of numbers that
are at least 2^-53, and so draws none above 14."""

GOOD_ERROR = 2e-14
"""Error of mean and covariance, in standard deviations, at which no further map is made."""

WANTED_ERROR = 1e-13
"""Largest error that is left unless the rounding of the rows to float64 is larger; see `MomentMatching.rounding`."""


class MomentsError(Exception):
    """A covariance that is singular, or moments that leave the range of float64; the message says which."""


@dataclass(frozen=True, eq=False)
class Moments:
    """Mean (D,) and covariance (D, D) of rows; the divisor of the covariance is the number of rows."""

    mean: FloatArray
    covariance: FloatArray

    @classmethod
    def of_sums(cls, sums: FloatArray, n_rows: int, n_features: int) -> Moments:
        """The moments of n_rows rows of n_features features whose `row_sums` have this sum."""
        mean = sums[:n_features] / n_rows
        return cls(mean, unpack(sums[n_features:] / n_rows, n_features) - np.outer(mean, mean))


def empty_like(rows: FloatArray) -> FloatArray:
    """An uninitialised matrix of the shape of rows (n, D), at an address that BLAS treats like others."""
    matrix: FloatArray = HOST.empty(rows.size).reshape(rows.shape)
    return matrix


def row_sums(rows: FloatArray) -> FloatArray:
    """Sums over rows (n, D) of the features, and of the products x_i x_j with j <= i; shape (D + D (D + 1) / 2,)."""
    products = (rows.T @ rows).reshape(-1)
    return np.concatenate([rows.sum(axis=0), products[lower_triangle(rows.shape[1])]])


@dataclass(frozen=True, eq=False)
class AffineMap:
    """The map of rows z to matrix (z - shift).

    Attributes
    ----------
    shift : ndarray of shape (D,)
    matrix : ndarray of shape (D, D)
    """

    shift: FloatArray
    matrix: FloatArray

    def __call__(self, rows: FloatArray) -> FloatArray:
        """The mapped rows (n, D)."""
        moved, mapped = empty_like(rows), empty_like(rows)
        np.subtract(rows, self.shift, out=moved)
        np.matmul(moved, self.matrix.T, out=mapped)
        return mapped


@dataclass(frozen=True, eq=False)
class MomentMatching:
    """A map of rows drawn from a mixture, after which their mean and covariance are those of the mixture.

    It is one affine map, x -> A (x - m) + mean, whose matrix A is near the identity if there are many rows. It is
    computed in steps, since rounding errors of the first step may need a correction.

    Attributes
    ----------
    mean : ndarray of shape (D,)
        Mean of the mixture.
    units : ndarray of shape (D,)
        Powers of two, at most the standard deviations of the mixture and more than half of them.
    covariance : ndarray of shape (D, D)
        Covariance of the mixture in these units.
    bounds : ndarray of shape (D,)
        Upper bounds of |x_d - mean_d|, in these units, for all rows x that can be drawn.
    maps : tuple of AffineMap
        Applied one after the other to the rows minus the mean, in these units.
    """

    mean: FloatArray
    units: FloatArray
    covariance: FloatArray
    bounds: FloatArray
    maps: tuple[AffineMap, ...] = ()

    @classmethod
    def to(cls, mixture: Mixture) -> MomentMatching:
        """The matching for rows of this mixture, as yet without maps. Raises `MomentsError`."""
        drawn = np.flatnonzero(mixture.weights > 0)
        weights, means = mixture.weights[drawn] / mixture.weights.sum(), mixture.means[drawn]
        with np.errstate(over="ignore", invalid="ignore"):
            mean = weights @ means
            mean = mean + weights @ (means - mean)  # rounding errors are now those of the deviations
            variances = weights @ (mixture.variances[drawn] + np.square(means - mean))
        if not (np.isfinite(variances) & (variances >= np.finfo(float).tiny)).all():
            raise MomentsError("the covariance of the mixture leaves the range of float64")
        units = np.exp2(np.floor(np.log2(variances) / 2))
        deviations = (means - mean) / units
        covariance = (weights[:, None] * deviations).T @ deviations
        covariance = (covariance + covariance.T) / 2
        everything = np.arange(mixture.n_features)
        for component, weight in zip(drawn, weights, strict=True):  # one by one: all would take K D^2 numbers
            own = mixture.covariances.select(np.array([component])).of_features(everything)
            covariance += weight * own.reshape(covariance.shape) / units[:, None] / units
        reach = LARGEST_NORMAL * np.sqrt(mixture.n_features * mixture.variances[drawn]) / units
        return cls(mean, units, covariance, (np.abs(deviations) + reach).max(axis=0))

    def __call__(self, rows: FloatArray) -> FloatArray:
        """The rows (n, D) after the map."""
        if not self.maps:
            return rows
        moved = self.in_units(rows)
        for step in self.maps:
            moved = step(moved)
        moved *= self.units
        moved += self.mean
        return moved

    def in_units(self, rows: FloatArray) -> FloatArray:
        """The rows (n, D) minus the mean of the mixture, in the units; a new array."""
        moved = empty_like(rows)
        np.subtract(rows, self.mean, out=moved)
        moved /= self.units
        return moved

    def sum_format(self, n_rows: int) -> FixedPoint:
        """The format of the sum of `row_sums` over n_rows mapped rows in units.

        Without maps, |z_d| is at most the bound b_d of each row. After a map, the covariance of the rows is known: the
        sums of |z_i| and of |z_i z_j| are at most n_rows times standard deviations of less than two, and once more two
        allows for a map that has left an error.

        100 bits are enough for sums that are near their bound. Sums of products may be smaller than their bounds by the
        square of the largest bound.
        """
        bounds = np.full_like(self.bounds, 4.0) if self.maps else np.maximum(self.bounds, 1.0)
        products = np.outer(bounds, bounds).reshape(-1)[lower_triangle(bounds.size)]
        n_limbs = 2 + int(np.ceil(2 * np.log2(bounds.max()) / LIMB_BITS))
        return FixedPoint(exponents(np.concatenate([bounds, products]), n_rows), n_limbs)

    def followed_by_map(self, found: Moments) -> MomentMatching:
        """This matching with one more map, given the moments that rows in units have after the maps so far.

        The matrix is L M^-1 with L L^T the covariance of the mixture and M M^T that of the rows, so that a change of
        units changes it as it changes covariances. Raises `MomentsError`.
        """
        try:
            matrix = cholesky_map(found.covariance, self.covariance)
        except np.linalg.LinAlgError:
            raise MomentsError("the covariance of the rows is singular, or nearly so") from None
        return replace(self, maps=(*self.maps, AffineMap(found.mean, matrix)))

    @property
    def rounding(self) -> float:
        """Error, in standard deviations, that can be due to the rounding of rows far from zero to float64.

        The mean of rounded rows differs by at most 2^-53 |x| from that of the rows, and covariances by at most twice as
        much.
        """
        return float(2.0**-50 * (np.abs(self.mean) / self.units).max())

    def error(self, found: Moments) -> float:
        """Largest difference of the moments of rows in units from those of the mixture, in standard deviations."""
        deviations = np.sqrt(np.diagonal(self.covariance))
        means = np.abs(found.mean) / deviations
        covariances = np.abs(found.covariance - self.covariance) / np.outer(deviations, deviations)
        return float(max(means.max(), covariances.max()))
