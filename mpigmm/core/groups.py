"""What an E-step is made of: components whose distances come from products of the rows, and components whose distances
come from differences."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from functools import cached_property

import numpy as np

from mpigmm.core.exact import FloatArray


class Products(IntEnum):
    """Products of a row's features: all of two, each with itself, and the sum of those."""

    PAIRS = 0
    SQUARES = 1
    LENGTH = 2


class Wanted(IntEnum):
    """Second moments: of each feature, their sum over features, those of all pairs of features, or these summed over
    components."""

    EACH_FEATURE = 0
    ALL_FEATURES = 1
    PAIRS_OF_EACH = 2
    PAIRS_SUMMED = 3


@dataclass(frozen=True, eq=False)
class ProductGroup:
    """Components by products: with phi(x) = [1, x, products of x], their log-densities are lines times phi.

    Attributes
    ----------
    kind : Products
    whiten : ndarray of shape (D, D) or (0, 0)
        What rows are multiplied by before their products are taken, if anything; a lower triangle.
    lines : ndarray of shape (K, L)
        Coefficients of phi, in the precision of the tiles.
    moments : DifferenceGroup or None
        The same components, where moments may be taken by differences of the few rows that each is responsible for.
    """

    kind: Products
    whiten: FloatArray
    lines: FloatArray
    moments: DifferenceGroup | None = None


@dataclass(frozen=True, eq=False)
class DifferenceGroup:
    """Components by differences, in float64 whatever the precision of the tiles: good for any rows.

    A log-density is constant_k - 1/2 sum_d p_kd (y_d - m_kd)^2, where y is the row or its whitened coordinates, or
    constant_k - 1/2 |factor_k (x - mean_k)|^2.

    Attributes
    ----------
    wanted : Wanted
    means : ndarray of shape (K, D)
        Less the tiles' centre: what moments are taken about.
    constants : ndarray of shape (K,)
    least : ndarray of shape (K,)
        Responsibilities that moments may leave out.
    precisions : ndarray of shape (K, D), (K, 1) or (0, 0)
        p_kd, the second where a component's features share one, the last where there are factors.
    whiten : ndarray of shape (D, D) or (0, 0)
        A lower triangle that makes y of x, if y is not x.
    subtracted : ndarray of shape (K, D)
        m_kd.
    factors : ndarray of shape (K, D, D) or (0, 0, 0)
        Lower triangles U_k^T, where each component is whitened by itself.
    """

    wanted: Wanted
    means: FloatArray
    constants: FloatArray
    least: FloatArray
    precisions: FloatArray
    whiten: FloatArray
    subtracted: FloatArray
    factors: FloatArray

    @property
    def second_shape(self) -> tuple[int, ...]:
        """Of the second moments."""
        k, d = self.means.shape
        pairs = d * (d + 1) // 2
        return {
            Wanted.EACH_FEATURE: (k, d),
            Wanted.ALL_FEATURES: (k,),
            Wanted.PAIRS_OF_EACH: (k, pairs),
            Wanted.PAIRS_SUMMED: (1, pairs),
        }[self.wanted]

    @cached_property
    def roots(self) -> FloatArray:
        """Square roots of the precisions."""
        return np.sqrt(self.precisions)


@dataclass(frozen=True, eq=False)
class Sums:
    """What one sweep over a tile yields.

    Attributes
    ----------
    log_likelihood : float
    products : ndarray of shape (K, L)
        Sums over rows of responsibilities times phi, of the components by products.
    scatter : ndarray of shape (D, D) or (0, 0)
        Sums of the rows' own products, weighted with what these components are responsible for.
    few : tuple of ndarrays, or None
        Counts, first and second moments about the means that are to be added to what follows from the former.
    counts, first, second : ndarrays of shape (K,), (K, D) and as wanted
        Moments about the means of the components by differences.
    """

    log_likelihood: float
    products: FloatArray
    scatter: FloatArray
    few: tuple[FloatArray, FloatArray, FloatArray] | None
    counts: FloatArray
    first: FloatArray
    second: FloatArray
