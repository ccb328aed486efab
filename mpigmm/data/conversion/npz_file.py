"""Archives of NumPy (.npz): a matrix, or vectors that are a column each."""

from __future__ import annotations

import math
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mpigmm.data.conversion.base import BLOCK_BYTES, Columns, InputFile, Part, ReadOptions, reading
from mpigmm.data.npy_file import HEADERS
from mpigmm.errors import DataError, shown

NPZ_MAGIC = b"PK\3\4"
NPZ_ERRORS = (KeyError, ValueError, zipfile.BadZipFile, zlib.error, NotImplementedError)
"""Exceptions for an archive that is damaged."""


@dataclass(frozen=True)
class Member:
    """An array of an archive: its name, shape and dtype, and whether its columns are contiguous."""

    name: str
    shape: tuple[int, ...]
    is_fortran: bool
    dtype: np.dtype[Any]


@dataclass(frozen=True)
class NpzFile(InputFile):
    """An archive.

    Attributes
    ----------
    members : tuple of Member
        The matrix, or the vectors that are a column each.
    """

    members: tuple[Member, ...]

    @property
    def n_rows(self) -> int:
        return self.members[0].shape[0]

    def parts(self) -> list[Part]:
        n_bytes = self.n_rows * self.columns.count * np.dtype(self.dtype).itemsize
        return [Part(0, self.n_rows, n_bytes, self.n_rows)]

    def read(self, part: Part, columns: Sequence[int]) -> Iterator[NDArray[Any]]:
        chosen = list(columns)
        with reading(self.path, *NPZ_ERRORS), zipfile.ZipFile(self.path) as archive:
            matrix = self.members[0]
            if matrix.is_fortran:
                yield load(archive, matrix)[:, chosen]
            elif len(matrix.shape) == 2:
                yield from (block[:, chosen] for block in blocks(archive, matrix, self._step))
            else:
                vectors = (blocks(archive, self.members[column], self._step) for column in chosen)
                yield from (np.column_stack(block).astype(self.dtype) for block in zip(*vectors, strict=True))

    @property
    def _step(self) -> int:
        """Number of rows that are read at once."""
        return max(1, BLOCK_BYTES // (self.columns.count * np.dtype(self.dtype).itemsize))


def open_npz(path: str, options: ReadOptions) -> NpzFile:
    """Describe an archive. Raises `DataError`."""
    with reading(path, *NPZ_ERRORS), zipfile.ZipFile(path) as archive:
        names = archive.namelist()
        if not all(name.endswith(".npy") for name in names):
            raise DataError(
                f"{shown(path)} is an archive of other files than .npy; unpack it, or save a spreadsheet as CSV"
            )
        members = [describe_member(archive, name) for name in names]
    chosen = matrix_or_vectors(path, members)
    dtype = np.result_type(*(member.dtype for member in chosen)).newbyteorder("=").str
    if len(chosen) > 1:
        return NpzFile(path, dtype, Columns(len(chosen), tuple(member.name for member in chosen)), tuple(chosen))
    shape = chosen[0].shape
    return NpzFile(path, dtype, Columns(shape[1] if len(shape) == 2 else 1), tuple(chosen))


def matrix_or_vectors(path: str, members: Sequence[Member]) -> list[Member]:
    """The arrays of an archive that hold the rows. Raises `DataError`.

    A matrix or vector alone, or named X; else vectors, if all arrays are vectors of one length.
    """
    usable = [each for each in members if each.dtype.kind in "iuf" and each.dtype.itemsize <= 8]
    matrices = [each for each in usable if len(each.shape) == 2 and each.shape[1]]
    named = [each for each in usable if each.name == "X" and len(each.shape) in (1, 2) and each.shape[1:] != (0,)]
    if len(named or matrices) == 1:
        return named or matrices
    lengths = {each.shape for each in members}
    if len(usable) == len(members) and len(lengths) == 1 and len(members[0].shape) == 1:
        return list(members)
    told = ", ".join(f"{shown(each.name)} {each.shape} {each.dtype}" for each in members[:20])
    raise DataError(
        f"{shown(path)} holds {told or 'no arrays'}; a matrix of numbers alone or named X is needed, or vectors of one "
        "length"
    )


def describe_member(archive: zipfile.ZipFile, name: str) -> Member:
    """An array of an archive."""
    with archive.open(name) as stream:
        shape, is_fortran, dtype = HEADERS[np.lib.format.read_magic(stream)](stream)
    return Member(name.removesuffix(".npy"), shape, is_fortran and len(shape) == 2, dtype)


def load(archive: zipfile.ZipFile, member: Member) -> NDArray[Any]:
    """A whole array of an archive."""
    with archive.open(f"{member.name}.npy") as stream:
        return np.asarray(np.lib.format.read_array(stream, allow_pickle=False))


def blocks(archive: zipfile.ZipFile, member: Member, n_rows: int) -> Iterator[NDArray[Any]]:
    """The rows of an array, so many at once."""
    with archive.open(f"{member.name}.npy") as stream:
        HEADERS[np.lib.format.read_magic(stream)](stream)
        for start in range(0, member.shape[0], n_rows):
            shape = (min(n_rows, member.shape[0] - start), *member.shape[1:])
            size = math.prod(shape) * member.dtype.itemsize
            raw = stream.read(size)
            if len(raw) < size:
                raise EOFError
            yield np.frombuffer(raw, member.dtype).reshape(shape)
