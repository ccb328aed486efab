"""Factors U_k of the precision matrices, with U_k U_k^T = inverse of covariance k.

The whitened coordinates of a row x are U_k^T (x - mean_k), and its squared Mahalanobis distance from component k is the
sum of their squares. The E-step needs nothing else of the covariances, of whatever type they are, and neither does the
drawing of rows.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import numpy as np

from mpigmm.core.arrays import Indices
from mpigmm.core.chunks import chunks
from mpigmm.core.exact import FloatArray
from mpigmm.core.matrices import (
    covariance_of,
    distance_bound,
    distance_bounds,
    precision,
    precision_factor,
    unwhiten,
)


class Factors(ABC):
    """Factors of the precision matrices of all components."""

    @classmethod
    @abstractmethod
    def from_roots(cls, roots: FloatArray) -> Factors:
        """Factors from square roots A_k of the precisions, A_k A_k^T = inverse of covariance k, shaped as `array`.

        Raises `numpy.linalg.LinAlgError` where one is singular.
        """

    @classmethod
    @abstractmethod
    def from_precisions(cls, precisions: FloatArray) -> Factors:
        """Factors of precisions that are shaped as `precisions` returns them.

        Raises `numpy.linalg.LinAlgError` where one is not positive definite.
        """

    @property
    @abstractmethod
    def array(self) -> FloatArray:
        """The factors as scikit-learn shapes ``precisions_cholesky_``: matrices (K, D, D), a matrix (D, D), or numbers
        (K, D) or (K,)."""

    @abstractmethod
    def covariances(self) -> FloatArray:
        """The inverses of the precisions, in the same shape; raises `numpy.linalg.LinAlgError`."""

    @abstractmethod
    def first_variances(self) -> FloatArray:
        """Variance of the first feature, (K,), or () where all components share a factor: the inverse of the square of
        the first entry of U_k."""

    @abstractmethod
    def log_determinants(self, n_features: int) -> FloatArray:
        """log det U_k, half the log-determinant of the precision; shape (K,), or () where all components share a
        factor."""

    @abstractmethod
    def whiten(self, deviations: FloatArray) -> FloatArray:
        """The whitened coordinates U_k^T z_k (K, D) of a vector z_k for each component, deviations (K, D)."""

    @abstractmethod
    def unwhiten(self, standard: FloatArray, components: Indices) -> FloatArray:
        """The rows U_k^-T z (n, D) for the rows z of standard (n, D), where k is the row's entry of components (n,).

        If z is standard normal, the covariance of U_k^-T z is that of component k. The result is a new array.
        """

    @abstractmethod
    def precisions(self) -> FloatArray:
        """The precision matrices U_k U_k^T: matrices (K, D, D), a matrix (D, D) that all components share, diagonals
        (K, D), or multiples (K,) of the identity matrix. Matrices are symmetric to the last bit."""

    @abstractmethod
    def precision_diagonals(self) -> FloatArray:
        """Diagonals of the precision matrices, of a shape that broadcasts to (K, D)."""

    @abstractmethod
    def distance_bounds(self, deviations: FloatArray) -> FloatArray:
        """Upper bounds (K,) of |U_k^T z|^2 over all z with |z_d| <= deviations (K, D)."""

    @abstractmethod
    def largest_terms(self, means: FloatArray) -> FloatArray:
        """max_j sum_d |U_dj m_d| for each of the means m (K, D), shape (K,).

        It is the largest sum of the magnitudes of the terms of a whitened coordinate, and so the scale of its rounding
        error.
        """

    @abstractmethod
    def select(self, components: Indices) -> Factors:
        """The factors of the components with these numbers."""


@dataclass(frozen=True, eq=False)
class TriangularFactors(Factors):
    """A triangular matrix for each component.

    Attributes
    ----------
    upper : ndarray of shape (K, D, D)
        Upper triangular U_k.
    """

    upper: FloatArray

    @classmethod
    def from_roots(cls, roots: FloatArray) -> TriangularFactors:
        if is_upper_triangular(roots):
            return cls(roots)
        return cls(np.stack([precision_factor(root @ root.T) for root in roots]))

    @classmethod
    def from_precisions(cls, precisions: FloatArray) -> TriangularFactors:
        return cls(np.stack([precision_factor(own) for own in precisions]))

    @property
    def array(self) -> FloatArray:
        return self.upper

    def covariances(self) -> FloatArray:
        return np.stack([covariance_of(factor) for factor in self.upper])

    def first_variances(self) -> FloatArray:
        return np.asarray(self.upper[:, 0, 0] ** -2)

    def log_determinants(self, n_features: int) -> FloatArray:
        return np.asarray(np.log(np.diagonal(self.upper, axis1=1, axis2=2)).sum(axis=1))

    def whiten(self, deviations: FloatArray) -> FloatArray:
        return np.asarray(np.einsum("kde,kd->ke", self.upper, deviations))

    def unwhiten(self, standard: FloatArray, components: Indices) -> FloatArray:
        rows = np.empty_like(standard)
        for k in np.unique(components):
            own = np.flatnonzero(components == k)
            rows[own] = unwhiten(self.upper[k], standard[own])
        return rows

    def precisions(self) -> FloatArray:
        precisions = np.empty_like(self.upper)
        for k, factor in enumerate(self.upper):  # one by one: their products would take as much memory again
            precisions[k] = precision(factor)
        return precisions

    def precision_diagonals(self) -> FloatArray:
        return np.asarray(np.einsum("kde,kde->kd", self.upper, self.upper))

    def distance_bounds(self, deviations: FloatArray) -> FloatArray:
        return distance_bounds(self.upper, deviations)

    def largest_terms(self, means: FloatArray) -> FloatArray:
        largest = np.empty(len(means))
        for some in chunks(len(means), self.upper[0].size):
            largest[some] = (np.abs(means[some, None]) @ np.abs(self.upper[some])).max(axis=(1, 2))
        return largest

    def select(self, components: Indices) -> TriangularFactors:
        return TriangularFactors(self.upper[components])


@dataclass(frozen=True, eq=False)
class SharedTriangularFactor(Factors):
    """One triangular matrix that all components share.

    Attributes
    ----------
    upper : ndarray of shape (D, D)
        Upper triangular U.
    """

    upper: FloatArray

    @classmethod
    def from_roots(cls, roots: FloatArray) -> SharedTriangularFactor:
        return cls(roots if is_upper_triangular(roots) else precision_factor(roots @ roots.T))

    @classmethod
    def from_precisions(cls, precisions: FloatArray) -> SharedTriangularFactor:
        return cls(precision_factor(precisions))

    @property
    def array(self) -> FloatArray:
        return self.upper

    def covariances(self) -> FloatArray:
        return covariance_of(self.upper)

    def first_variances(self) -> FloatArray:
        return np.asarray(self.upper[0, 0] ** -2)

    def log_determinants(self, n_features: int) -> FloatArray:
        return np.asarray(np.log(np.diagonal(self.upper)).sum())

    def whiten(self, deviations: FloatArray) -> FloatArray:
        return deviations @ self.upper

    def unwhiten(self, standard: FloatArray, components: Indices) -> FloatArray:
        return unwhiten(self.upper, standard)

    def precisions(self) -> FloatArray:
        return precision(self.upper)

    def precision_diagonals(self) -> FloatArray:
        return np.asarray(np.square(self.upper).sum(axis=1))

    def distance_bounds(self, deviations: FloatArray) -> FloatArray:
        return distance_bound(self.upper, deviations)

    def largest_terms(self, means: FloatArray) -> FloatArray:
        return np.asarray((np.abs(means) @ np.abs(self.upper)).max(axis=1))

    def select(self, components: Indices) -> SharedTriangularFactor:
        return self


@dataclass(frozen=True, eq=False)
class DiagonalFactors(Factors):
    """Diagonal factors: a number for each component and feature.

    Attributes
    ----------
    roots : ndarray of shape (K, D)
        Square roots of the precisions.
    """

    roots: FloatArray

    @classmethod
    def from_roots(cls, roots: FloatArray) -> DiagonalFactors:
        return cls(positive(roots))

    @classmethod
    def from_precisions(cls, precisions: FloatArray) -> DiagonalFactors:
        return cls(np.sqrt(positive(precisions)))

    @property
    def array(self) -> FloatArray:
        return self.roots

    def covariances(self) -> FloatArray:
        return np.asarray(self.roots**-2)

    def first_variances(self) -> FloatArray:
        return np.asarray(self.roots[:, 0] ** -2)

    def log_determinants(self, n_features: int) -> FloatArray:
        return np.asarray(np.log(self.roots).sum(axis=1))

    def whiten(self, deviations: FloatArray) -> FloatArray:
        return deviations * self.roots

    def unwhiten(self, standard: FloatArray, components: Indices) -> FloatArray:
        return standard / self.roots[components]

    def precisions(self) -> FloatArray:
        return np.square(self.roots)

    def precision_diagonals(self) -> FloatArray:
        return np.square(self.roots)

    def distance_bounds(self, deviations: FloatArray) -> FloatArray:
        return np.asarray(np.square(deviations * self.roots).sum(axis=1))

    def largest_terms(self, means: FloatArray) -> FloatArray:
        return np.asarray((np.abs(means) * self.roots).max(axis=1))

    def select(self, components: Indices) -> DiagonalFactors:
        return DiagonalFactors(self.roots[components])


@dataclass(frozen=True, eq=False)
class IsotropicFactors(Factors):
    """Multiples of the identity matrix: a number for each component.

    Attributes
    ----------
    roots : ndarray of shape (K,)
        Square roots of the precisions.
    """

    roots: FloatArray

    @classmethod
    def from_roots(cls, roots: FloatArray) -> IsotropicFactors:
        return cls(positive(roots))

    @classmethod
    def from_precisions(cls, precisions: FloatArray) -> IsotropicFactors:
        return cls(np.sqrt(positive(precisions)))

    @property
    def array(self) -> FloatArray:
        return self.roots

    def covariances(self) -> FloatArray:
        return np.asarray(self.roots**-2)

    def first_variances(self) -> FloatArray:
        return np.asarray(self.roots**-2)

    def log_determinants(self, n_features: int) -> FloatArray:
        return n_features * np.log(self.roots)

    def whiten(self, deviations: FloatArray) -> FloatArray:
        return deviations * self.roots[:, None]

    def unwhiten(self, standard: FloatArray, components: Indices) -> FloatArray:
        return standard / self.roots[components, None]

    def precisions(self) -> FloatArray:
        return np.square(self.roots)

    def precision_diagonals(self) -> FloatArray:
        return np.square(self.roots)[:, None]

    def distance_bounds(self, deviations: FloatArray) -> FloatArray:
        return np.asarray(np.square(deviations).sum(axis=1) * np.square(self.roots))

    def largest_terms(self, means: FloatArray) -> FloatArray:
        return np.asarray(np.abs(means).max(axis=1) * self.roots)

    def select(self, components: Indices) -> IsotropicFactors:
        return IsotropicFactors(self.roots[components])


def is_upper_triangular(matrices: FloatArray) -> bool:
    """Whether matrices (..., D, D) are upper triangular, with positive diagonals."""
    diagonals = np.diagonal(matrices, axis1=-2, axis2=-1)
    below = matrices[..., np.tri(matrices.shape[-1], k=-1, dtype=bool)]
    return bool((diagonals > 0).all()) and not below.any()


def positive(values: FloatArray) -> FloatArray:
    """The values, which are positive; raises `numpy.linalg.LinAlgError` where they are not."""
    if not (values > 0).all():
        raise np.linalg.LinAlgError("not positive")
    return values
