"""NumPy arrays in the memory of the host, behind the interface that arrays in the memory of a GPU implement too."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

ALIGNMENT = 64
"""Bytes. Arrays start at multiples of this, since the order in which BLAS sums may depend on where they start."""

DOUBLE = np.dtype(np.float64)
SINGLE = np.dtype(np.float32)

Array = Any
"""A NumPy array or, on a GPU, a CuPy array."""

BoolArray = NDArray[np.bool_]

Indices = NDArray[np.intp]
"""Numbers of rows, components or entries, counted from 0."""


class Arrays:
    """Creates and copies arrays; this class uses NumPy, on the host.

    Attributes
    ----------
    xp : module
        The array library: NumPy or CuPy.
    """

    xp: Any = np

    def put(self, array: Array) -> Array:
        """A copy of an array of the host in the memory of these arrays; on the host the array itself."""
        return array

    def get(self, array: Array) -> NDArray[Any]:
        """A copy on the host of one of these arrays, once all work queued before is done; on the host the array
        itself."""
        return np.asarray(array)

    def empty(self, size: int, dtype: np.dtype[Any] = DOUBLE) -> Array:
        """An uninitialised vector, aligned to `ALIGNMENT`."""
        raw = np.empty(size * dtype.itemsize + ALIGNMENT, np.uint8)
        start = -raw.ctypes.data % ALIGNMENT
        return raw[start : start + size * dtype.itemsize].view(dtype)

    def zeros(self, size: int, dtype: np.dtype[Any]) -> Array:
        """A vector of zeros."""
        return np.zeros(size, dtype)

    def synchronize(self) -> None:
        """Wait until all queued work is done."""


HOST = Arrays()
