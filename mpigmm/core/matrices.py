"""Dense covariance matrices (D, D): Cholesky factors, eigenvalues and axes."""

from __future__ import annotations

from functools import cache
from types import ModuleType

import numpy as np

from mpigmm.core.arrays import HOST, BoolArray
from mpigmm.core.chunks import chunks
from mpigmm.core.exact import FloatArray

SYMMETRY = 1e-5
"""Largest difference between entries (i, j) and (j, i) of a matrix that a user gives, relative to the product of the
two standard deviations."""


@cache
def lapack() -> ModuleType:
    """SciPy's LAPACK, imported only where a covariance type needs it, since the import opens hundreds of files."""
    import scipy.linalg.lapack

    return scipy.linalg.lapack


def precision_cholesky(covariance: FloatArray) -> FloatArray:
    """Upper triangular U (D, D) with U U^T = inverse of the covariance (D, D).

    U = L^-T, where covariance = L L^T. Raises `numpy.linalg.LinAlgError` where the covariance is not positive definite.
    """
    (factor,), (is_definite,) = precision_choleskys(covariance[None])
    if not is_definite:
        raise np.linalg.LinAlgError("not positive definite, or nearly singular")
    return np.asarray(factor)


def precision_choleskys(covariances: FloatArray) -> tuple[FloatArray, BoolArray]:
    """`precision_cholesky` of each of some covariances (K, D, D), and whether it exists, (K,)."""
    factors, definite = np.empty(covariances.shape), np.empty(len(covariances), bool)
    dpotrf, dtrtri = lapack().dpotrf, lapack().dtrtri
    for some in chunks(len(factors), covariances[0].size):
        factors[some] = covariances[some]
        for k in range(some.start, some.stop):
            columns = factors[k].T  # LAPACK reads matrices column by column, and overwrites these
            _, info = dpotrf(columns, lower=1, overwrite_a=1)
            if info == 0:
                _, info = dtrtri(columns, lower=1, overwrite_c=1)
            definite[k] = info == 0
        definite[some] &= np.isfinite(factors[some]).all(axis=(1, 2))
    return factors, definite


def precision_factor(precision: FloatArray) -> FloatArray:
    """Upper triangular U (D, D) with U U^T = precision (D, D).

    With rows and columns in reverse order, it is the lower triangular factor of Cholesky. Raises
    `numpy.linalg.LinAlgError` where the precision is not positive definite.
    """
    lower, info = lapack().dpotrf(precision[::-1, ::-1].T, lower=1)
    if info != 0 or not np.isfinite(lower).all():
        raise np.linalg.LinAlgError("not positive definite, or nearly singular")
    return np.ascontiguousarray(lower[::-1, ::-1])


def covariance_of(factor: FloatArray) -> FloatArray:
    """The inverse (D, D) of U U^T for an upper triangular factor U (D, D), symmetric to the last bit.

    It is L L^T with L = U^-T. Raises `numpy.linalg.LinAlgError` where the factor is singular.
    """
    lower, info = lapack().dtrtri(factor.T, lower=1)
    if info != 0 or not np.isfinite(lower).all():
        raise np.linalg.LinAlgError("singular, or nearly so")
    product = lower @ lower.T
    return np.asarray((product + product.T) / 2)


def unwhiten(factor: FloatArray, standard: FloatArray) -> FloatArray:
    """The rows U^-T z (n, D) for the rows z of standard (n, D), by forward substitution with a factor U (D, D)."""
    rows = HOST.empty(standard.size).reshape(standard.shape)
    rows[:] = standard
    solved, _ = lapack().dtrtrs(factor.T, rows.T, lower=1, overwrite_b=1)  # U^T has no zero on its diagonal
    return np.asarray(solved.T)


def cholesky_map(source: FloatArray, target: FloatArray) -> FloatArray:
    """The lower triangular matrix A (D, D) with A source A^T = target, for covariances (D, D).

    A = L M^-1 with the Cholesky factors L of target and M of source. A M = L is solved, without the inverse of M: if A
    is near the identity, the rounding errors of A M are those of M. Raises `numpy.linalg.LinAlgError` where one of the
    two is not positive definite.
    """
    factors = []
    for covariance in (source, target):
        lower, info = lapack().dpotrf(covariance.T, lower=1)
        if info != 0 or not np.isfinite(lower).all():
            raise np.linalg.LinAlgError("not positive definite, or nearly singular")
        factors.append(lower)
    solved, _ = lapack().dtrtrs(factors[0], factors[1].T, lower=1, trans=1)
    return np.ascontiguousarray(solved.T)


def precision(factor: FloatArray) -> FloatArray:
    """U U^T (D, D) for a factor U (D, D), symmetric to the last bit."""
    product = factor @ factor.T
    return np.asarray((product + product.T) / 2)


def is_symmetric(covariance: FloatArray) -> bool:
    """Whether a covariance (D, D) is symmetric to `SYMMETRY`, relative to its standard deviations."""
    scale = np.sqrt(np.abs(np.diagonal(covariance)))
    return bool((np.abs(covariance - covariance.T) <= SYMMETRY * np.outer(scale, scale)).all())


def exceeds_floor(covariance: FloatArray, floor: FloatArray) -> bool:
    """Whether the covariance (D, D) minus diag(floor) is positive definite."""
    return is_definite(covariance - np.diag(floor))


def is_definite(covariance: FloatArray) -> bool:
    """Whether a covariance (D, D) is positive definite."""
    try:
        np.linalg.cholesky(covariance)
    except np.linalg.LinAlgError:
        return False
    return True


def clip_eigenvalues(covariance: FloatArray, share: float, variances: FloatArray) -> FloatArray:
    """The covariance (D, D) with every eigenvalue below share raised to share.

    Eigenvalues are those of the covariance of features divided by the data's standard deviations, whose squares are the
    variances (D,).
    """
    scale = np.sqrt(np.where(variances > 0, variances, 1.0))
    values, vectors = np.linalg.eigh(covariance / np.outer(scale, scale))
    clipped = (vectors * np.maximum(values, share)) @ vectors.T
    result: FloatArray = (clipped + clipped.T) / 2 * np.outer(scale, scale)
    return result


def principal_axis(covariance: FloatArray) -> FloatArray:
    """Eigenvector (D,) of the largest eigenvalue, times the square root of the eigenvalue.

    The sign makes the entry of largest magnitude positive.
    """
    values, vectors = np.linalg.eigh(covariance)
    axis = vectors[:, -1] * np.sqrt(max(values[-1], 0.0))
    return np.asarray(axis * np.sign(axis[np.abs(axis).argmax()]))


def distance_bound(factor: FloatArray, deviations: FloatArray) -> FloatArray:
    """Upper bounds (...) of |U^T z|^2 over all z with |z_d| <= deviations (..., D), for a factor U (D, D)."""
    return np.asarray(np.square(deviations @ np.abs(factor)).sum(axis=-1))


def distance_bounds(factors: FloatArray, deviations: FloatArray) -> FloatArray:
    """`distance_bound` (K,) of each of some factors (K, D, D), with deviations (K, D) of its own."""
    bounds = np.empty(len(factors))
    for some in chunks(len(factors), factors[0].size):
        bounds[some] = distance_bound(factors[some], deviations[some, None])[:, 0]
    return bounds
