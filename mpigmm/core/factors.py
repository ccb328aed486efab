"""Factors of the precisions: U_k with U_k U_k^T = inverse of covariance k, so that U_k^T (x - mean_k) is whitened.

What the E-step needs of covariances, of whatever type they are. A squared Mahalanobis distance is |U_k^T (x -
mean_k)|^2.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mpigmm.core.exact import FloatArray
from mpigmm.core.matrices import distance_bound

Places = NDArray[np.intp]
"""Numbers of components."""


class Factors(ABC):
    """Factors of all components."""

    @abstractmethod
    def log_determinants(self, n_features: int) -> FloatArray:
        """log |U_k|, half the log-determinant of the precision, shape (K,), or () where all share one."""

    @abstractmethod
    def precision_diagonals(self) -> FloatArray:
        """Diagonals of the precisions, of a shape that broadcasts to (K, D)."""

    @abstractmethod
    def distance_bounds(self, deviations: FloatArray) -> FloatArray:
        """Upper bounds (K,) of |U_k^T z|^2 over all z with |z_d| <= deviations (K, D)."""

    @abstractmethod
    def largest_terms(self, means: FloatArray) -> FloatArray:
        """Largest over the whitened coordinates sum_d U_dj m_d of means (K, D) of the sum of their terms' magnitudes,
        (K,)."""

    @abstractmethod
    def select(self, places: Places) -> Factors:
        """Those of some components."""


@dataclass(frozen=True, eq=False)
class TriangularFactors(Factors):
    """A matrix for each component.

    Attributes
    ----------
    upper : ndarray of shape (K, D, D)
        Upper triangular U_k.
    """

    upper: FloatArray

    def log_determinants(self, n_features: int) -> FloatArray:
        return np.asarray(np.log(np.diagonal(self.upper, axis1=1, axis2=2)).sum(axis=1))

    def precision_diagonals(self) -> FloatArray:
        return np.asarray(np.einsum("kde,kde->kd", self.upper, self.upper))

    def distance_bounds(self, deviations: FloatArray) -> FloatArray:
        return np.array([distance_bound(u, e) for u, e in zip(self.upper, deviations, strict=True)])

    def largest_terms(self, means: FloatArray) -> FloatArray:
        largest = np.empty(len(means))
        for k, factor in enumerate(self.upper):  # one by one: their magnitudes would take as much memory as the factors
            largest[k : k + 1] = (np.abs(means[k : k + 1]) @ np.abs(factor)).max(axis=1)
        return largest

    def select(self, places: Places) -> TriangularFactors:
        return TriangularFactors(self.upper[places])


@dataclass(frozen=True, eq=False)
class SharedTriangularFactor(Factors):
    """One matrix for all components.

    Attributes
    ----------
    upper : ndarray of shape (D, D)
        Upper triangular U.
    """

    upper: FloatArray

    def log_determinants(self, n_features: int) -> FloatArray:
        return np.asarray(np.log(np.diagonal(self.upper)).sum())

    def precision_diagonals(self) -> FloatArray:
        return np.asarray(np.square(self.upper).sum(axis=1))

    def distance_bounds(self, deviations: FloatArray) -> FloatArray:
        return distance_bound(self.upper, deviations)

    def largest_terms(self, means: FloatArray) -> FloatArray:
        return np.asarray((np.abs(means) @ np.abs(self.upper)).max(axis=1))

    def select(self, places: Places) -> SharedTriangularFactor:
        return self


@dataclass(frozen=True, eq=False)
class DiagonalFactors(Factors):
    """A number for each component and feature.

    Attributes
    ----------
    roots : ndarray of shape (K, D)
        Square roots of the precisions.
    """

    roots: FloatArray

    def log_determinants(self, n_features: int) -> FloatArray:
        return np.asarray(np.log(self.roots).sum(axis=1))

    def precision_diagonals(self) -> FloatArray:
        return np.square(self.roots)

    def distance_bounds(self, deviations: FloatArray) -> FloatArray:
        return np.asarray(np.square(deviations * self.roots).sum(axis=1))

    def largest_terms(self, means: FloatArray) -> FloatArray:
        return np.asarray((np.abs(means) * self.roots).max(axis=1))

    def select(self, places: Places) -> DiagonalFactors:
        return DiagonalFactors(self.roots[places])


@dataclass(frozen=True, eq=False)
class IsotropicFactors(Factors):
    """A number for each component.

    Attributes
    ----------
    roots : ndarray of shape (K,)
        Square roots of the precisions.
    """

    roots: FloatArray

    def log_determinants(self, n_features: int) -> FloatArray:
        return n_features * np.log(self.roots)

    def precision_diagonals(self) -> FloatArray:
        return np.square(self.roots)[:, None]

    def distance_bounds(self, deviations: FloatArray) -> FloatArray:
        return np.asarray(np.square(deviations).sum(axis=1) * np.square(self.roots))

    def largest_terms(self, means: FloatArray) -> FloatArray:
        return np.asarray(np.abs(means).max(axis=1) * self.roots)

    def select(self, places: Places) -> IsotropicFactors:
        return IsotropicFactors(self.roots[places])
