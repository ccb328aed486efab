"""Groups of components as arguments of array operations. The distances of one group come from products of the features,
those of the other from differences of rows and means."""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import IntEnum
from functools import cached_property

import numpy as np

from mpigmm.core.arrays import Indices
from mpigmm.core.exact import FloatArray

NATS = 42.0
"""A component is negligible for a row if its density is less than exp(-NATS) times the largest density of any
component, divided by the row's squared distance from that component. exp(-42) is below 1e-18. The division makes the
row's part in the second moments as small."""

MINOR_NATS, MINOR_COMPONENTS = 24.0, 64
"""A pair of row and component is minor if its responsibility is below exp(-MINOR_NATS), about 4e-11. A row may have a
minor pair with almost every component, so with K > MINOR_COMPONENTS components the limit is smaller by the factor
MINOR_COMPONENTS / K."""

PADDED = 8
"""Arrays of a `BoundedGroup` with a number for each feature have a multiple of this many in a row: the largest number
of float64 in a vector register."""

PADDED_SINGLE = 16
"""The same for arrays of float32."""

MOST_MINOR_FEATURES = 256
"""Largest number of features of components with minor pairs."""


class Products(IntEnum):
    """Products of a row's features: of all pairs x_i x_j with j <= i, the squares of the features, or the sum of the
    squares."""

    PAIRS = 0
    SQUARES = 1
    SQUARED_NORM = 2


class SecondMoments(IntEnum):
    """Kinds of second moments: of each feature, summed over features, of all pairs of features, or of all pairs summed
    over components."""

    EACH_FEATURE = 0
    ALL_FEATURES = 1
    PAIRS_OF_EACH = 2
    PAIRS_SUMMED = 3


@dataclass(frozen=True, eq=False)
class ProductGroup:
    """Components whose log-densities are coefficients times phi(x) = [1, x, products of x]; L is the length of phi.

    Attributes
    ----------
    kind : Products
    whiten : ndarray of shape (D, D) or (0, 0)
        Lower triangular matrix by which rows are multiplied before products are computed; empty if there is none.
    coefficients : ndarray of shape (K, L)
        Coefficients of phi, in the precision of the tiles.
    moments : DifferenceGroup or None
        The same components by differences, if their moments may be computed so from few rows: those for which the
        responsibilities are not negligible.
    """

    kind: Products
    whiten: FloatArray
    coefficients: FloatArray
    moments: DifferenceGroup | None = None


@dataclass(frozen=True, eq=False)
class DifferenceGroup:
    """Components that are computed from differences of rows and means, in float64 for tiles of either precision.

    The results are accurate for all rows. A log-density is log_norm_k - 1/2 sum_d p_kd (y_d - m_kd)^2, where y is the
    row or W times the row, or log_norm_k - 1/2 |factor_k (x - mean_k)|^2.

    Attributes
    ----------
    second_moments : SecondMoments
    means : ndarray of shape (K, D)
        The means minus the centre of the tiles. Moments are about them.
    log_norm : ndarray of shape (K,)
    least : ndarray of shape (K,)
        Moments may leave out rows whose responsibility is at most this, times the largest sample weight.
    precisions : ndarray of shape (K, D), (K, 1) or (0, 0)
        p_kd; (K, 1) if all features of a component share one, (0, 0) if there are factors.
    whiten : ndarray of shape (D, D) or (0, 0)
        Lower triangular matrix W with y = W x; empty if y = x.
    subtracted : ndarray of shape (K, D)
        m_kd: the means, or W times the means.
    factors : ndarray of shape (K, D, D) or (0, 0, 0)
        Lower triangular U_k^T, if each component has its own factor.
    """

    second_moments: SecondMoments
    means: FloatArray
    log_norm: FloatArray
    least: FloatArray
    precisions: FloatArray
    whiten: FloatArray
    subtracted: FloatArray
    factors: FloatArray

    @property
    def second_shape(self) -> tuple[int, ...]:
        """Shape of the second moments."""
        k, d = self.means.shape
        pairs = d * (d + 1) // 2
        return {
            SecondMoments.EACH_FEATURE: (k, d),
            SecondMoments.ALL_FEATURES: (k,),
            SecondMoments.PAIRS_OF_EACH: (k, pairs),
            SecondMoments.PAIRS_SUMMED: (1, pairs),
        }[self.second_moments]

    @cached_property
    def roots(self) -> FloatArray:
        """Square roots of the precisions."""
        return np.sqrt(self.precisions)


def minor_nats(n_components: int) -> float:
    """Minus the logarithm of the responsibility below which a pair is minor, for a mixture of n_components."""
    return MINOR_NATS + math.log(max(1.0, n_components / MINOR_COMPONENTS))


@dataclass(frozen=True, eq=False)
class MinorPairs:
    """What computes the minor pairs of a `BoundedGroup` in float32, if its bounds use all features.

    Attributes
    ----------
    nats : float
        A pair is minor if its responsibility is below exp(-nats).
    stretch : float
    offsets : ndarray of float32, shape (K,) or (0,)
        A log-density is about stretch times the bound plus offset; inf for components for which this is too inaccurate.
        Empty if all are.
    means : ndarray of float32, shape (K, V) or (0, 0)
        The means minus the centre, divided by `scale`. V is D rounded up to a multiple of `PADDED_SINGLE`.
    scale : ndarray of shape (D,) or (0,)
        The standard deviations of the rows, by which these are divided too.
    """

    nats: float
    stretch: float
    offsets: FloatArray
    means: FloatArray
    scale: FloatArray


NO_MINOR_PAIRS = MinorPairs(MINOR_NATS, 1.0, np.empty(0), np.empty((0, 0)), np.empty(0))


@dataclass(frozen=True, eq=False)
class BoundedGroup:
    """Components with a variance for each feature or a shared covariance matrix, whose log-densities are bounded from
    above by L leading features.

    Let y = U^T x be a row x minus the centre, whitened, if the components share a factor U, else y = x. A bound is
    constant_k - sum_l (scale_kl y_l - offset_kl)^2 in float32, where y_l is the leading feature l times unit_l. A
    log-density is log_norm_k - 1/2 sum_d (root_kd (y_d - subtracted_kd))^2 in float64. W is D rounded up to a multiple
    of `PADDED`; the numbers beyond D are zero.

    Attributes
    ----------
    nats : float
        Log-densities are -inf for components that are negligible for a row: `NATS`.
    most_share : float
        Largest share of the pairs of row and component that may not be negligible.
    leading : ndarray of int64, shape (L,)
        Numbers of the leading features.
    units : ndarray of shape (L,)
    scales, offsets : ndarrays of float32, shape (K, L)
    constants : ndarray of float32, shape (K,)
    is_tight : ndarray of int32, shape (K,)
        Whether rounding errors raise the bounds of a component by little.
    minor : MinorPairs
    whiten : ndarray of shape (W, W), or (0, 0) if rows are not whitened
        U, upper triangular.
    means, subtracted, roots : ndarrays of shape (K, W)
        The means minus the centre of the tiles, the same for the rows y, and square roots of the precisions of y.
    log_norm : ndarray of shape (K,)
    """

    nats: float
    most_share: float
    leading: Indices
    units: FloatArray
    scales: FloatArray
    offsets: FloatArray
    constants: FloatArray
    is_tight: Indices
    minor: MinorPairs
    whiten: FloatArray
    means: FloatArray
    subtracted: FloatArray
    roots: FloatArray
    log_norm: FloatArray


@dataclass(frozen=True, eq=False)
class BoundedSums:
    """The results of `Ops.bounded_sweep` for a tile.

    Attributes
    ----------
    log_likelihood : float
    counts, first, second : ndarrays of shape (K,), (K, W) and (K, W)
        Counts, and moments of each feature about the means.
    scatter : ndarray of shape (W, W), or (0, 0) if rows are not whitened
        In its lower triangle, sum_i weight_i x_i x_i^T over the rows x_i minus the centre.
    """

    log_likelihood: float
    counts: FloatArray
    first: FloatArray
    second: FloatArray
    scatter: FloatArray


@dataclass(frozen=True, eq=False)
class Sums:
    """The results of `Ops.sweep` for a tile.

    Attributes
    ----------
    log_likelihood : float
    products : ndarray of shape (K, L)
        For the components by products: sums over rows of responsibilities times phi.
    scatter : ndarray of shape (D, D) or (0, 0)
        Sums over rows of x x^T times the sum of the responsibilities of the components by products; empty if rows are
        not whitened.
    few : tuple of ndarrays, or None
        Counts, first and second moments about the means, to be added to those that are computed from `products`.
    counts, first, second : ndarrays of shape (K,), (K, D) and `DifferenceGroup.second_shape`
        For the components by differences: counts, and moments about the means.
    """

    log_likelihood: float
    products: FloatArray
    scatter: FloatArray
    few: tuple[FloatArray, FloatArray, FloatArray] | None
    counts: FloatArray
    first: FloatArray
    second: FloatArray
