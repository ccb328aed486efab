"""An HDF5 file of results that all ranks write, without a parallel build of HDF5.

Root creates the file with contiguous datasets, whose space is allocated at once and begins at a multiple of `PAGE`
bytes. Every rank then writes its own rows at their byte offsets, by system calls.
"""

from __future__ import annotations

import io
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from mpigmm.data.files import NO_FOLLOW, create_temporary, remove_leftovers
from mpigmm.errors import OutputError, reason, shown

PAGE = 4096
ABANDONED_SECONDS = 86400.0
"""A temporary file that was not written to for this long is assumed to belong to a killed run."""


@dataclass(frozen=True)
class Column:
    """A dataset of the output: shape of one row, dtype, and byte offset in the file."""

    row_shape: tuple[int, ...]
    dtype: str
    offset: int = 0

    @property
    def row_bytes(self) -> int:
        return int(np.prod(self.row_shape, dtype=int)) * np.dtype(self.dtype).itemsize


@dataclass(frozen=True)
class OutputFile:
    """A file that is being written: its final name, its temporary name, and its datasets."""

    path: str
    temporary: str
    columns: dict[str, Column]


class ErrorKeeper(io.FileIO):
    """A file object for h5py that keeps the first error and completes short writes.

    h5py itself ignores exceptions and short writes of Python file objects.

    Attributes
    ----------
    error : OSError or None
        The first error; bytes that were to be written after it are missing in the file.
    """

    error: OSError | None = None

    def write(self, data: Any) -> int:
        left = memoryview(data).cast("B")
        size = len(left)
        try:
            while left:
                left = left[super().write(left) :]
        except OSError as error:
            self.error = self.error or error
        return size

    def truncate(self, size: int | None = None) -> int:
        try:
            return super().truncate(size)
        except OSError as error:
            self.error = self.error or error
            return size or 0


def create(
    path: str,
    n_rows: int,
    columns: Mapping[str, Column],
    attributes: Mapping[str, Any],
    tables: Mapping[str, Sequence[Any]] = MappingProxyType({}),
) -> OutputFile:
    """Create the file under a temporary name, with space for all rows. Raises `OutputError`.

    Parameters
    ----------
    path : str
        Final name of the file.
    n_rows : int
    columns : dict of str to Column
        Datasets with an entry for each row, which `RowWriter` fills.
    attributes : dict
    tables : dict of str to sequence
        Small datasets, which are written here: integers, or texts as bytes.
    """
    temporary: Path | None = None
    try:
        remove_leftovers(Path(path), ABANDONED_SECONDS)
        descriptor, temporary = create_temporary(Path(path))
        with ErrorKeeper(descriptor, "r+") as raw:
            with h5py.File(raw, "w", alignment_threshold=1, alignment_interval=PAGE) as file:
                created = {name: _create_dataset(file, name, n_rows, column) for name, column in columns.items()}
                file.attrs.update(attributes)
                _write_tables(file, tables)
            if raw.error is not None:
                raise raw.error
    except Exception as error:
        if temporary is not None:
            with suppress(OSError):
                temporary.unlink()
        if not isinstance(error, OSError):
            raise
        raise OutputError(f"{shown(path)} cannot be written{reason(error)}; choose another --out") from None
    return OutputFile(path, str(temporary), created)


def _write_tables(file: h5py.File, tables: Mapping[str, Sequence[Any]]) -> None:
    for name, values in tables.items():
        is_text = isinstance(values[0], bytes)
        file.create_dataset(name, data=values, dtype=h5py.string_dtype() if is_text else np.int64)


def _create_dataset(file: h5py.File, name: str, n_rows: int, column: Column) -> Column:
    properties = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    properties.set_layout(h5py.h5d.CONTIGUOUS)
    properties.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
    properties.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
    properties.set_obj_track_times(False)
    space = h5py.h5s.create_simple((n_rows, *column.row_shape))
    dtype = h5py.h5t.py_create(np.dtype(column.dtype))
    dataset = h5py.h5d.create(file.id, name.encode(), dtype, space, properties)
    return Column(column.row_shape, column.dtype, dataset.get_offset())


class RowWriter:
    """Writes the rows of one rank. A context manager: opens the file, and at the end flushes it to disk.

    Parameters
    ----------
    output_file : OutputFile
        From `create`.
    """

    def __init__(self, output_file: OutputFile) -> None:
        self.output_file = output_file
        self._descriptor = -1

    def __enter__(self) -> RowWriter:
        try:
            self._descriptor = os.open(self.output_file.temporary, os.O_WRONLY | NO_FOLLOW)
        except OSError as error:
            raise OutputError(
                f"{shown(self.output_file.path)}: a rank on {os.uname().nodename} cannot open the file that root made"
                f"{reason(error)}; write to a file system that all nodes share"
            ) from None
        return self

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        try:
            if kind is None:
                os.fsync(self._descriptor)
        except OSError as error:
            raise self._failure(error) from None
        finally:
            os.close(self._descriptor)

    def write(self, name: str, first_row: int, values: NDArray[Any]) -> None:
        """Write entries of a dataset from row first_row on. Raises `OutputError`."""
        column = self.output_file.columns[name]
        left = memoryview(np.ascontiguousarray(values, column.dtype).data).cast("B")
        offset = column.offset + first_row * column.row_bytes
        try:
            while left:
                done = os.pwrite(self._descriptor, left, offset)
                left, offset = left[done:], offset + done
        except OSError as error:
            raise self._failure(error) from None

    def _failure(self, error: OSError) -> OutputError:
        return OutputError(
            f"{shown(self.output_file.path)} cannot be written{reason(error)}; free some space or choose another --out"
        )


def publish(output_file: OutputFile) -> None:
    """Give the complete file its final name. Raises `OutputError`."""
    try:
        Path(output_file.temporary).replace(output_file.path)
    except OSError as error:
        raise OutputError(f"{shown(output_file.path)} cannot be written{reason(error)}; choose another --out") from None


def publish_new(output_file: OutputFile) -> bool:
    """Give the complete file its final name unless a file of that name exists; returns whether none did.

    Raises `OutputError`.
    """
    try:
        os.link(output_file.temporary, output_file.path)  # unlike a rename, it replaces nothing
    except FileExistsError:
        return False
    except OSError:  # a file system without hard links
        if os.path.lexists(output_file.path):
            return False
        publish(output_file)
    else:
        discard(output_file)
    return True


def discard(output_file: OutputFile) -> None:
    """Remove the temporary file, where there is one."""
    with suppress(OSError):
        Path(output_file.temporary).unlink()
