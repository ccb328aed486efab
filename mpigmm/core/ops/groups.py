"""The components of a mixture as the operations of an E-step see them: those whose distances come from products of the
features, and those whose distances come from differences from their means."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from functools import cached_property

import numpy as np

from mpigmm.core.exact import FloatArray

NATS = 42.0
"""A component is negligible for a row where its density is less than exp(-NATS) times the largest density of any
component, divided by the row's squared distance from that component. exp(-42) is below 1e-18, and the division makes
the row's part in the moments as small."""

LEAST_BOUNDED = 64
"""Features from which on `Ops.sweep` and `Ops.difference_log_prob` bound the distances by the first features, where a
component's second moments are not those of pairs of features."""


class Products(IntEnum):
    """Products of a row's features: of all pairs, of each feature with itself, or the sum of the latter."""

    PAIRS = 0
    SQUARES = 1
    SQUARED_NORM = 2


class SecondMoments(IntEnum):
    """Which second moments are summed: those of each feature, their sum over features, those of all pairs of features,
    or the sum of the latter over components."""

    EACH_FEATURE = 0
    ALL_FEATURES = 1
    PAIRS_OF_EACH = 2
    PAIRS_SUMMED = 3


@dataclass(frozen=True, eq=False)
class ProductGroup:
    """Components whose log-densities are coefficients times phi(x) = [1, x, products of x].

    Attributes
    ----------
    kind : Products
    whiten : ndarray of shape (D, D) or (0, 0)
        Lower triangle that rows are multiplied by before their products are taken; empty where they are not.
    coefficients : ndarray of shape (K, L)
        Of phi, in the precision of the tiles.
    moments : DifferenceGroup or None
        The same components, where moments may be summed over the few rows that each component is responsible for, by
        differences.
    """

    kind: Products
    whiten: FloatArray
    coefficients: FloatArray
    moments: DifferenceGroup | None = None


@dataclass(frozen=True, eq=False)
class DifferenceGroup:
    """Components by differences from their means, in float64 whatever the precision of the tiles: accurate for any
    rows.

    A log-density is log_norm_k - 1/2 sum_d p_kd (y_d - m_kd)^2, where y is the row or its whitened coordinates, or
    log_norm_k - 1/2 |factor_k (x - mean_k)|^2.

    Attributes
    ----------
    second_moments : SecondMoments
    means : ndarray of shape (K, D)
        Minus the tiles' centre: the moments are those about them.
    log_norm : ndarray of shape (K,)
    least : ndarray of shape (K,)
        Moments may leave out rows whose responsibility is at most this.
    precisions : ndarray of shape (K, D), (K, 1) or (0, 0)
        p_kd: (K, 1) where the features of a component share one, (0, 0) where there are factors.
    whiten : ndarray of shape (D, D) or (0, 0)
        Lower triangle W with y = W x; empty where y = x.
    subtracted : ndarray of shape (K, D)
        m_kd.
    factors : ndarray of shape (K, D, D) or (0, 0, 0)
        Lower triangles U_k^T, where each component has a factor of its own.
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


@dataclass(frozen=True, eq=False)
class Sums:
    """The results of one sweep over a tile.

    Attributes
    ----------
    log_likelihood : float
    products : ndarray of shape (K, L)
        For the components by products, sums over rows of responsibilities times phi.
    scatter : ndarray of shape (D, D) or (0, 0)
        Sums over rows of x x^T times the sum of these components' responsibilities, where rows are whitened.
    few : tuple of ndarrays, or None
        Counts, first and second moments about the means, to be added to those that follow from `products`.
    counts, first, second : ndarrays of shape (K,), (K, D) and `DifferenceGroup.second_shape`
        For the components by differences, the moments about the means.
    """

    log_likelihood: float
    products: FloatArray
    scatter: FloatArray
    few: tuple[FloatArray, FloatArray, FloatArray] | None
    counts: FloatArray
    first: FloatArray
    second: FloatArray
