"""Dense covariance matrices: moments, factors, floors and axes, shared by `full` and `tied`."""

from __future__ import annotations

import numpy as np
from scipy.linalg.lapack import dpotrf, dtrtri

from mpigmm.core.arrays import SINGLE
from mpigmm.core.covariance import PACKING_TOLERANCE, BoolArray, Parameters, SingularCovarianceError, packing_error
from mpigmm.core.exact import FloatArray
from mpigmm.core.ops.base import Ops

LARGEST_TERMS = 2.0**14
"""Terms of a squared distance up to which their sum keeps about twelve digits after the point."""

LARGEST_ROUNDING = 1e-8
"""Of whitened coordinates: the log-likelihood a row is rounded by its product with them, over the root of the rows."""

SYMMETRY = 1e-5
"""How far, in correlation, the triangles of a matrix from outside may be apart."""


def precision_cholesky(covariance: FloatArray) -> FloatArray:
    """Upper triangular U with U U^T = inverse of the (D, D) covariance.

    With covariance = L L^T, U = L^-T. Raises `numpy.linalg.LinAlgError` where it is not positive definite.
    """
    lower, info = dpotrf(covariance.T, lower=1)  # in the order of columns, as LAPACK wants it
    if info == 0:
        inverse, info = dtrtri(lower, lower=1, overwrite_c=1)
    if info != 0 or not np.isfinite(inverse).all():
        raise np.linalg.LinAlgError("not positive definite, or nearly singular")
    return np.ascontiguousarray(inverse.T)


def precisions_cholesky(covariances: FloatArray) -> FloatArray:
    """`precision_cholesky` of each of (K, D, D); raises `SingularCovarianceError` with the component."""
    factors = np.empty_like(covariances)
    for k, covariance in enumerate(covariances):
        try:
            factors[k] = precision_cholesky(covariance)
        except np.linalg.LinAlgError:
            raise SingularCovarianceError(k) from None
    return factors


def is_symmetric(covariance: FloatArray) -> bool:
    """Whether the two triangles of a (D, D) matrix agree to single precision, in units of its diagonal."""
    scale = np.sqrt(np.abs(np.diagonal(covariance)))
    return bool((np.abs(covariance - covariance.T) <= SYMMETRY * np.outer(scale, scale)).all())


def exceeds_floor(covariance: FloatArray, floor: FloatArray) -> bool:
    """Whether covariance (D, D) less diag(floor) is positive definite."""
    try:
        np.linalg.cholesky(covariance - np.diag(floor))
    except np.linalg.LinAlgError:
        return False
    return True


def lift(covariance: FloatArray, share: float, variances: FloatArray) -> FloatArray:
    """Raise the eigenvalues of the covariance, in units of the data's variances (D,), to at least share."""
    scale = np.sqrt(np.where(variances > 0, variances, 1.0))
    values, vectors = np.linalg.eigh(covariance / np.outer(scale, scale))
    lifted = (vectors * np.maximum(values, share)) @ vectors.T
    result: FloatArray = (lifted + lifted.T) / 2 * np.outer(scale, scale)
    return result


def main_axis(covariance: FloatArray) -> FloatArray:
    """Eigenvector of the largest eigenvalue, times its root; the largest entry is positive."""
    values, vectors = np.linalg.eigh(covariance)
    axis = vectors[:, -1] * np.sqrt(max(values[-1], 0.0))
    return np.asarray(axis * np.sign(axis[np.abs(axis).argmax()]))


def distance_bound(factor: FloatArray, extents: FloatArray) -> FloatArray:
    """Upper bound of |U^T z|^2 over |z_d| <= extents (..., D), for a factor U (D, D)."""
    return np.asarray(np.square(extents @ np.abs(factor)).sum(axis=-1))


def whitening(means: FloatArray, factors: FloatArray) -> FloatArray:
    """Lines (K, D, 1 + D) whose products with [1, x] are the whitened coordinates U_k^T (x - mu_k)."""
    whiten = factors.transpose(0, 2, 1)
    return np.concatenate([-(whiten @ means[:, :, None]), whiten], axis=2)


def whitens(means: FloatArray, factors: FloatArray) -> BoolArray:
    """Components (K,) near enough to the tiles' centre to whiten rows before the mean, whitened too, is subtracted.

    A coordinate sum_d U_dj x_d of a row at the mean is rounded by 2^-53 of its terms.

    Parameters
    ----------
    means : ndarray of shape (K, D)
    factors : ndarray of shape (K, D, D) or (1, D, D)
    """
    distances, near = np.abs(means), np.empty(len(means), bool)
    for k, factor in enumerate(factors):  # one by one: all of them would be as large as the mixture
        places = slice(None) if len(factors) < len(means) else slice(k, k + 1)
        near[places] = 2.0**-53 * (distances[places] @ np.abs(factor)).max(axis=1) <= LARGEST_ROUNDING
    return near


def leaves_digits(parameters: Parameters, variances: FloatArray, factors: FloatArray) -> BoolArray:
    """Components (K,) whose squared distances may be taken from products of the rows.

    For rows about a standard deviation from a component, the terms whose sum is the distance must not be too large.
    None where the reach of the rows is not known: then nothing is known of the mixture's fit to them either.

    Parameters
    ----------
    parameters : Parameters
    variances : ndarray of shape (K, D) or (D,)
    factors : ndarray of shape (K, D, D) or (1, D, D)
    """
    if not np.isfinite(parameters.reach).all():
        return np.zeros(len(parameters.means), bool)
    if parameters.dtype == SINGLE:
        squares = np.square(parameters.means) + variances
        terms = np.square(factors @ factors.transpose(0, 2, 1))
        error = packing_error(np.sqrt(squares[:, None, :] @ terms @ squares[:, :, None])[:, :, 0])
        return parameters.inexact & (error <= PACKING_TOLERANCE)
    largest = np.minimum(np.abs(parameters.means) + np.sqrt(variances), parameters.reach)
    terms = np.abs(factors @ factors.transpose(0, 2, 1))
    sums = (largest[:, None, :] @ terms @ largest[:, :, None]).reshape(-1)
    return np.asarray(parameters.inexact & (sums <= LARGEST_TERMS))


def pack(ops: Ops, matrix: FloatArray, out: FloatArray) -> None:
    """The lower triangle of a symmetric matrix (D, D) into out (D (D + 1) / 2,)."""
    out[:] = matrix.reshape(-1)[ops.lower_triangle(len(matrix))]
