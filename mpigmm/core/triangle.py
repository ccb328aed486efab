"""Packed symmetric matrices: their lower triangles, row by row."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from mpigmm.core.chunks import chunks
from mpigmm.core.exact import FloatArray


@lru_cache(maxsize=8)
def lower_triangle(n_features: int) -> NDArray[np.intp]:
    """Flat indices (D (D + 1) / 2,) of the lower triangle of a (D, D) matrix, row by row."""
    rows, columns = np.tril_indices(n_features)
    return np.asarray(rows * n_features + columns, np.intp)


@lru_cache(maxsize=8)
def packed_positions(n_features: int) -> NDArray[np.intp]:
    """For each entry of a symmetric matrix, row by row, its index in the packed triangle, (D^2,)."""
    rows, columns = np.divmod(np.arange(n_features * n_features), n_features)
    larger = np.maximum(rows, columns)
    return np.asarray(larger * (larger + 1) // 2 + np.minimum(rows, columns), np.intp)


def unpack(packed: FloatArray, n_features: int) -> FloatArray:
    """The symmetric matrices (..., D, D) of packed lower triangles (..., D (D + 1) / 2)."""
    entries = np.take(packed, packed_positions(n_features), axis=-1, mode="clip")
    return entries.reshape(*packed.shape[:-1], n_features, n_features)


def pair_products(vectors: FloatArray) -> FloatArray:
    """The packed products v_i v_j of the entries of each vector v, (K, D (D + 1) / 2), for vectors (K, D)."""
    n_vectors, n_features = vectors.shape
    lower = lower_triangle(n_features)
    packed = np.empty((n_vectors, lower.size))
    for some in chunks(n_vectors, n_features * n_features):
        products = vectors[some, :, None] * vectors[some, None, :]
        np.take(products.reshape(len(products), -1), lower, axis=1, out=packed[some], mode="clip")
    return packed
