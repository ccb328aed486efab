"""Unconstrained coordinates of covariance matrices relative to others, from their Cholesky factors.

Sigma_0 = L_0 L_0^T is a reference and Sigma = L L^T another matrix. B = L_0^-1 L is lower triangular, and the identity
for the reference. The coordinates are sqrt(2) log B_dd and B_de for e < d: their squared norm is, near the reference,
tr((Sigma_0^-1 dSigma)^2) / 2.
"""

from __future__ import annotations

import numpy as np

from mpigmm.core.exact import FloatArray
from mpigmm.core.triangle import lower_triangle


def cholesky_coordinates(reference: FloatArray, matrices: FloatArray) -> FloatArray:
    """Coordinates (K, D (D + 1) / 2) of positive definite matrices (K, D, D) relative to a reference (K, D, D)."""
    relative = np.linalg.solve(np.linalg.cholesky(reference), np.linalg.cholesky(matrices))
    diagonals = np.einsum("kdd->kd", relative)
    diagonals[:] = np.sqrt(2.0) * np.log(diagonals)
    return np.asarray(relative.reshape(len(relative), -1)[:, lower_triangle(relative.shape[1])])


def cholesky_matrices(reference: FloatArray, coordinates: FloatArray) -> FloatArray:
    """The matrices (K, D, D) with the coordinates (K, D (D + 1) / 2), symmetric to the last bit."""
    relative = np.zeros_like(reference)
    relative.reshape(len(relative), -1)[:, lower_triangle(relative.shape[1])] = coordinates
    diagonals = np.einsum("kdd->kd", relative)
    diagonals[:] = np.exp(np.sqrt(0.5) * diagonals)
    factors = np.linalg.cholesky(reference) @ relative
    products = factors @ factors.swapaxes(1, 2)
    return np.asarray((products + products.swapaxes(1, 2)) / 2)
