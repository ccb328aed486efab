"""Packed symmetric matrices: their lower triangles, row by row."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from mpigmm.core.exact import FloatArray


@lru_cache(maxsize=8)
def lower_triangle(n_features: int) -> NDArray[np.intp]:
    """Flat indices (D (D + 1) / 2,) of the lower triangle of a (D, D) matrix, row by row."""
    rows, columns = np.tril_indices(n_features)
    return np.asarray(rows * n_features + columns, np.intp)


@lru_cache(maxsize=8)
def mirrored(n_features: int) -> NDArray[np.intp]:
    """Flat indices of the transposed entries: entry (j, i) where `lower_triangle` has entry (i, j)."""
    rows, columns = np.divmod(lower_triangle(n_features), n_features)
    return np.asarray(columns * n_features + rows, np.intp)


def unpack(packed: FloatArray, n_features: int) -> FloatArray:
    """The symmetric (D, D) matrix of a packed lower triangle."""
    matrix = np.empty((n_features, n_features))
    for triangle in (lower_triangle(n_features), mirrored(n_features)):
        matrix.reshape(-1)[triangle] = packed
    return matrix
