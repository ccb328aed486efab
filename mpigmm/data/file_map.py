"""Files mapped into memory: contiguous rows that are used in place, without a copy from the operating system's cache.

A signal handler, which c/file_maps.c installs, turns a file that is cut off into an error. So files are mapped only in
processes of our own; elsewhere, and on network file systems, rows are copied by system calls.
"""

from __future__ import annotations

import ctypes
import errno
import math
import os
import resource
import weakref
from functools import lru_cache
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mpigmm.data.files import was_cut_off
from mpigmm.data.malloc import PROCESS

CUT_OFF, UNREADABLE = 1, 2
"""Results of the functions in C, besides 0: rows of a file are missing, or cannot be read."""

FUNCTIONS = {
    "map_file": ((ctypes.c_int, ctypes.c_int64, ctypes.c_int64), ctypes.c_int),
    "address_of": ((ctypes.c_int,), ctypes.c_void_p),
    "is_cached": ((ctypes.c_int, ctypes.c_int64, ctypes.c_int64), ctypes.c_int),
    "keep_rows": ((ctypes.c_int, ctypes.c_int64, ctypes.c_int64), None),
    "begin_rows": ((ctypes.c_int, ctypes.c_int64, ctypes.c_int64, ctypes.c_int), ctypes.c_int),
    "end_rows": ((ctypes.c_int, ctypes.c_int64), ctypes.c_int),
    "unmap_file": ((ctypes.c_int,), None),
}
"""Types of the arguments and results of the functions in C."""


@lru_cache
def load_library() -> ctypes.CDLL | None:
    """The functions in C; None where they were not compiled."""
    for suffix in EXTENSION_SUFFIXES:
        try:
            library = ctypes.CDLL(str(Path(__file__).with_name(f"_file_maps{suffix}")))
        except OSError:
            continue
        for name, (arguments, result) in FUNCTIONS.items():
            function = getattr(library, name)
            function.argtypes, function.restype = arguments, result
        return library
    return None


class Mapping:
    """Bytes of a file in memory, until the last array that shows them is gone.

    Parameters
    ----------
    library : CDLL
    number : int
        What `map_file` has returned.
    shape, dtype
        Of the array that the bytes are.
    """

    def __init__(self, library: ctypes.CDLL, number: int, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
        self.__array_interface__ = {
            "version": 3,
            "data": (library.address_of(number), True),
            "shape": shape,
            "typestr": dtype.str,
        }
        weakref.finalize(self, library.unmap_file, number).atexit = False


class FileMap:
    """An array in a file, mapped into memory.

    Attributes
    ----------
    path : str
        Of the file.
    rows : ndarray of shape (n, ...)
        Read-only. Rows may be used between calls of `begin` and `end` for them.
    """

    def __init__(
        self, library: ctypes.CDLL, number: int, path: str, shape: tuple[int, ...], dtype: np.dtype[Any]
    ) -> None:
        self.rows: NDArray[Any] = np.asarray(Mapping(library, number, shape, dtype))
        self.path, self._library, self._number = path, library, number
        self._row_bytes, self._kept = self.rows.strides[0], (0, 0)

    def is_cached(self, start: int, stop: int) -> bool:
        """Whether rows start to stop - 1 seem to be in the operating system's cache."""
        size = self._row_bytes
        return bool(self._library.is_cached(self._number, start * size, (stop - start) * size))

    def begin(self, start: int, stop: int, *, ahead: bool) -> NDArray[Any]:
        """Rows start to stop - 1: if `ahead`, once they are in memory, otherwise at once.

        Raises `DataError` where the file has been cut off, and `OSError`.
        """
        size = self._row_bytes
        self._check(self._library.begin_rows(self._number, start * size, (stop - start) * size, ahead))
        return self.rows[start:stop]

    def keep(self, start: int, stop: int) -> None:
        """Leave rows start to stop - 1, and no others, in this process's memory after their use."""
        if (start, stop) != self._kept:
            self._kept, size = (start, stop), self._row_bytes
            self._library.keep_rows(self._number, start * size, (stop - start) * size)

    def end(self, start: int, stop: int, *, is_kept: bool) -> None:
        """End the use of rows. Raises the same errors where some may have been zeros in place of the file's rows."""
        n_bytes = 0 if is_kept else (stop - start) * self._row_bytes
        self._check(self._library.end_rows(self._number, n_bytes))

    def _check(self, state: int) -> None:
        if state == CUT_OFF:
            raise was_cut_off(self.path)
        if state == UNREADABLE:
            raise OSError(errno.EIO, os.strerror(errno.EIO))


def map_array(path: str, descriptor: int, offset: int, shape: tuple[int, ...], dtype: np.dtype[Any]) -> FileMap | None:
    """An array in C order in an open file, from an offset on; None where it cannot be mapped, or better is not.

    It is not where the process belongs to another program, or its address space is limited.
    """
    library = load_library() if PROCESS.is_ours else None
    if (
        library is None
        or offset % dtype.itemsize
        or resource.getrlimit(resource.RLIMIT_AS)[0] != resource.RLIM_INFINITY
    ):
        return None
    number = library.map_file(descriptor, offset, math.prod(shape) * dtype.itemsize)
    return None if number < 0 else FileMap(library, number, path, shape, dtype)
