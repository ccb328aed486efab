"""Arrays of NumPy in the host's memory, and the interface that arrays of a GPU share with them."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

ALIGNMENT = 64
"""Bytes; vector instructions may sum in another order where an array starts elsewhere."""

DOUBLE = np.dtype(np.float64)
SINGLE = np.dtype(np.float32)

Array = Any
"""An array of NumPy or, on a GPU, of CuPy."""

Indices = NDArray[np.intp]


class Arrays:
    """Makes and copies arrays, with NumPy on the host.

    Attributes
    ----------
    xp : module
        The array library.
    """

    xp: Any = np

    def put(self, array: Array) -> Array:
        """An array with the contents of one on the host."""
        return array

    def get(self, array: Array) -> NDArray[Any]:
        """An array on the host with the contents of one of these, once all work that was queued before is done."""
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
