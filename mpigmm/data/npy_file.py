"""Rows in ``.npy`` files: one array, in C or Fortran order, which is read without a copy of the whole."""

from __future__ import annotations

import os
import weakref
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import cached_property
from tokenize import TokenError
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mpigmm.data.file_map import FileMap, map_array
from mpigmm.data.files import read_bytes, was_cut_off
from mpigmm.data.row_files import (
    Columns,
    Datasets,
    FileShape,
    RowFormat,
    RowReader,
    has_shrunk_to,
    one_dataset,
)
from mpigmm.data.shared_cache import SharedCache
from mpigmm.errors import DataError, shown
from mpigmm.rows import LABEL, SAMPLE_WEIGHT, VALUES, Fields

NPY_MAGIC = np.lib.format.MAGIC_PREFIX
"""First bytes of a ``.npy`` file."""

PIECE_BYTES = 1 << 24
"""Largest number of bytes that are read at once where not all of them are kept."""

HEADERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
"""What reads the header of a file, by its version; version 3 is for arrays with named fields."""

OPTIONS: Mapping[str, str] = {SAMPLE_WEIGHT: "data.weights", LABEL: "init.labels"}


class NpyFormat(RowFormat):
    """NumPy's ``.npy``."""

    name = ".npy"

    def shape(self, path: str, datasets: Datasets) -> FileShape:
        for array in datasets:
            if array in OPTIONS:
                raise DataError(
                    f"{OPTIONS[array]}: {shown(path)} is an .npy file, which holds one array; put the rows and these "
                    "into one HDF5 or Parquet file"
                )
        one_dataset(path, datasets[VALUES])
        with closing(NpyArray(path)) as found:
            dtype = found.dtype.newbyteorder("=")
            return FileShape(found.n_rows, (dtype,) * found.n_columns, shown(path), shown(path), found.identity)

    def outline(self, path: str) -> dict[str, Any]:
        with closing(NpyArray(path)) as found:
            order = "Fortran" if found.header.is_fortran else "C"
            return {
                "format": self.name,
                "n_samples": found.n_rows,
                "n_features": found.n_columns,
                "columns": str(found.dtype),
                "order": order,
            }

    def open(self, path: str, datasets: Datasets, fields: Fields, cache: SharedCache) -> RowReader:
        return NpyReader(NpyArray(path), fields[VALUES].dtype)

    def has(self, path: str, names: Sequence[str]) -> bool:
        return False


@dataclass(frozen=True)
class NpyHeader:
    """Shape, order and dtype of an array, and the offset of its first byte in the file."""

    shape: tuple[int, ...]
    is_fortran: bool
    dtype: np.dtype[Any]
    offset: int


def read_npy_header(path: str, descriptor: int) -> NpyHeader:
    """The header of a file that is open; raises `DataError`."""
    with open(descriptor, "rb", closefd=False) as file:
        try:
            version = np.lib.format.read_magic(file)
            shape, is_fortran, dtype = HEADERS[version](file)
        except (ValueError, KeyError, EOFError, SyntaxError, TokenError):
            raise unreadable(path) from None
        if min(shape, default=0) < 0:
            raise unreadable(path)
        return NpyHeader(shape, is_fortran, dtype, file.tell())


def unreadable(path: str) -> DataError:
    """The error for a file with a header that makes no sense."""
    return DataError(f"{shown(path)} cannot be read as .npy; is it whole, and an array of numbers?")


class NpyArray:
    """The array of a file, which is open until `close` is called. Raises `DataError`, and `OSError`.

    Attributes
    ----------
    path : str
    header : NpyHeader
    descriptor : int
    """

    def __init__(self, path: str) -> None:
        self.path = path
        try:
            self.descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except PermissionError:
            raise DataError(f"{shown(path)} may not be read by this user; check its permissions") from None
        self.close = weakref.finalize(self, os.close, self.descriptor)
        self.header = read_npy_header(path, self.descriptor)
        self._check()

    @property
    def dtype(self) -> np.dtype[Any]:
        return self.header.dtype

    @property
    def n_rows(self) -> int:
        return self.header.shape[0]

    @property
    def n_columns(self) -> int:
        return self.header.shape[1] if len(self.header.shape) == 2 else 1

    @property
    def identity(self) -> tuple[int, int]:
        status = os.fstat(self.descriptor)
        return status.st_dev, status.st_ino

    def _check(self) -> None:
        """Raise `DataError` where the array cannot be read, or is not whole."""
        name, shape, dtype = shown(self.path), self.header.shape, self.header.dtype
        if dtype.kind not in "iuf" or dtype.itemsize > 8:
            raise DataError(f"{name} has dtype {dtype}; integers and float16, 32 or 64 can be read")
        if len(shape) not in (1, 2):
            raise DataError(f"{name} has shape {shape}; a matrix (n_samples, n_features) or a vector is needed")
        if self.n_columns == 0:
            raise DataError(f"{name} has no columns")
        size = os.fstat(self.descriptor).st_size
        whole = self.header.offset + self.n_rows * self.n_columns * dtype.itemsize
        if size < whole:
            raise DataError(f"{name} is cut off: it has {size:,} of the {whole:,} bytes that its header tells of")


class NpyReader(RowReader):
    """A file, open for reading.

    Parameters
    ----------
    opened : NpyArray
    dtype : str
        Type of the arrays that are read.
    """

    def __init__(self, opened: NpyArray, dtype: str) -> None:
        self._opened, self._dtype = opened, np.dtype(dtype)

    def read(self, name: str, start: int, array: NDArray[Any], columns: Columns = None) -> None:
        opened = self._opened
        if opened.n_rows < start + len(array):
            raise has_shrunk_to(opened.path, opened.n_rows)
        if columns is None and array.shape[1] != opened.n_columns:
            raise ValueError("another file has the name")
        try:
            if opened.header.is_fortran:
                self._read_columns(start, array, columns)
            else:
                self._read_rows(start, array, columns)
        except EOFError:
            raise was_cut_off(opened.path) from None

    def file_map(self, name: str) -> FileMap | None:
        return self._file_map if name == VALUES else None

    @cached_property
    def _file_map(self) -> FileMap | None:
        opened = self._opened
        if opened.header.is_fortran or opened.dtype != self._dtype:
            return None
        return map_array(opened.path, opened.descriptor, opened.header.offset, opened.header.shape, opened.dtype)

    def _read_rows(self, start: int, array: NDArray[Any], columns: Columns) -> None:
        """Rows of an array in C order, as they are or, where they must be converted, piece by piece."""
        opened, row_bytes = self._opened, self._opened.n_columns * self._opened.dtype.itemsize
        if columns is None and array.dtype == opened.dtype:
            read_bytes(opened.descriptor, opened.header.offset + start * row_bytes, array)
            return
        step = max(1, PIECE_BYTES // row_bytes)
        for first in range(0, len(array), step):
            part = array[first : first + step]
            raw = np.empty((len(part), opened.n_columns), opened.dtype)
            read_bytes(opened.descriptor, opened.header.offset + (start + first) * row_bytes, raw)
            part[:] = raw if columns is None else raw[:, columns]

    def _read_columns(self, start: int, array: NDArray[Any], columns: Columns) -> None:
        """Rows of an array in Fortran order, column by column."""
        opened = self._opened
        raw = np.empty(len(array), opened.dtype)
        for i, column in enumerate(range(opened.n_columns) if columns is None else columns.tolist()):
            first = column * opened.n_rows + start
            read_bytes(opened.descriptor, opened.header.offset + first * opened.dtype.itemsize, raw)
            array[:, i] = raw
