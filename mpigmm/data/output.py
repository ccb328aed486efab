"""An HDF5 file of results that all ranks write, without a parallel build of HDF5.

Root creates the file with contiguous datasets, whose space is allocated at once and begins at a multiple of `PAGE`
bytes. Every rank then writes its own rows at their byte offsets, by system calls. `data/unfinished.py` gives the file a
temporary name, under which a later command finds what an interrupted one has written.
"""

from __future__ import annotations

import io
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from threading import Lock
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from mpigmm.data.files import NO_FOLLOW, read_bytes
from mpigmm.errors import OutputError, reason, shown

PAGE = 4096
MOST_ENTRIES = 2048
"""Entries of an attribute, of 16 bytes for a text; the oldest format of HDF5 has room for 64 kB."""

FINISHED = b"\1"
NOTE_SECONDS = 10.0
"""Least seconds between two notes of a rank of the parts that it has finished."""


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
    """A file that is being written.

    Attributes
    ----------
    path, temporary : str
        Its final name, and the name that it has until it is complete.
    columns : dict of str to Column
    size : int
        Bytes of the complete file. After them, until then, stands the ledger: a byte for each part of the work, which
        is 1 once the rows of the part are on disk.
    finished : bytes
        The ledger that an interrupted command has left; zeros in a new file.
    """

    path: str
    temporary: str
    columns: dict[str, Column]
    size: int
    finished: bytes


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


@dataclass(frozen=True)
class Content:
    """What a file of results holds.

    Attributes
    ----------
    n_rows : int
    columns : dict of str to Column
        Datasets with an entry for each row, which `RowWriter` fills.
    attributes : dict
    tables : dict of str to sequence
        Small datasets, which are written when the file is created: integers, floats, or texts as bytes.
    column_attributes : dict of str to dict
        Attributes of datasets, by the name of the dataset.
    """

    n_rows: int
    columns: Mapping[str, Column]
    attributes: Mapping[str, Any]
    tables: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    column_attributes: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


def write_head(descriptor: int, content: Content) -> tuple[dict[str, Column], int]:
    """Write all of the file but the rows to an empty open file, with space for them.

    Returns the columns with their offsets, and the size of the file in bytes. Raises `OSError`.
    """
    with ErrorKeeper(descriptor, "r+", closefd=False) as raw:
        version = "latest" if _has_long_attribute(content) else None
        with h5py.File(raw, "w", libver=version, alignment_threshold=1, alignment_interval=PAGE) as file:
            created = {
                name: _create_dataset(file, name, content.n_rows, column) for name, column in content.columns.items()
            }
            file.attrs.update(content.attributes)
            _write_tables(file, content.tables)
            for name, attributes in content.column_attributes.items():
                file[name].attrs.update(attributes)
        if raw.error is not None:
            raise raw.error
    return created, os.fstat(descriptor).st_size


def read_head(descriptor: int, columns: Mapping[str, Column]) -> dict[str, Column]:
    """The columns with their offsets, of an open file that `write_head` wrote."""
    with io.FileIO(descriptor, "r", closefd=False) as raw, h5py.File(raw, "r") as file:
        return {name: replace(column, offset=file[name].id.get_offset()) for name, column in columns.items()}


class FixedSizeKeeper(ErrorKeeper):
    """The same for a file whose size does not change."""

    def truncate(self, size: int | None = None) -> int:
        return size or 0


def write_attributes(descriptor: int, attributes: Mapping[str, float]) -> None:
    """Overwrite attributes of an open file that `write_head` wrote with others of the same types; raises `OSError`."""
    with FixedSizeKeeper(descriptor, "r+", closefd=False) as raw:
        with h5py.File(raw, "r+") as file:
            for name, value in attributes.items():
                file.attrs.modify(name, value)
        if raw.error is not None:
            raise raw.error


def _write_tables(file: h5py.File, tables: Mapping[str, Sequence[Any]]) -> None:
    for name, values in tables.items():
        kind = {bytes: h5py.string_dtype(), float: np.float64}.get(type(values[0]), np.int64)
        file.create_dataset(name, data=values, dtype=kind)


def _has_long_attribute(content: Content) -> bool:
    """Whether an attribute has so many entries that the oldest format of HDF5 has no room for them."""
    attributes = [content.attributes, *content.column_attributes.values()]
    return any(np.size(value) > MOST_ENTRIES for each in attributes for value in each.values())


def _create_dataset(file: h5py.File, name: str, n_rows: int, column: Column) -> Column:
    properties = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    properties.set_layout(h5py.h5d.CONTIGUOUS)
    properties.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
    properties.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
    properties.set_obj_track_times(False)
    space = h5py.h5s.create_simple((n_rows, *column.row_shape))
    dtype = h5py.h5t.py_create(np.dtype(column.dtype))
    parent, _, own_name = name.strip("/").rpartition("/")
    group = file.require_group(parent) if parent else file
    dataset = h5py.h5d.create(group.id, own_name.encode(), dtype, space, properties)
    return Column(column.row_shape, column.dtype, dataset.get_offset())


class RowWriter:
    """Writes the rows of one rank; several of its threads may use it.

    Parameters
    ----------
    output_file : OutputFile
    on_write : callable, optional
        Called whenever rows are written.

    Attributes
    ----------
    attributes : dict of str to float
        Attributes of the file that are known once the rows are written. Root sets them; until then the file has others
        of the same names.
    has_notes : bool
        Whether a part of the work is noted as finished, by this rank or an interrupted command.
    """

    def __init__(self, output_file: OutputFile, on_write: Callable[[], None] | None = None) -> None:
        self.output_file = output_file
        self.attributes: dict[str, float] = {}
        self._on_write = on_write
        self._descriptor = -1
        self.has_notes = FINISHED in output_file.finished
        self._written: list[int] = []
        self._due = time.monotonic() + NOTE_SECONDS
        self._lock = Lock()

    def open(self) -> None:
        """Open the file; raises `OutputError`."""
        try:
            self._descriptor = os.open(self.output_file.temporary, os.O_RDWR | NO_FOLLOW)
        except OSError as error:
            raise OutputError(
                f"{shown(self.output_file.path)}: a rank on {os.uname().nodename} cannot open the file that root made"
                f"{reason(error)}; write to a file system that all nodes share"
            ) from None

    def flush(self) -> None:
        """Write everything to disk, and note which parts of the work are finished. Raises `OutputError`."""
        try:
            self._note()
        except OSError as error:
            raise self._failure(error) from None

    def close(self) -> None:
        """Close the file."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def read(self, name: str, first_row: int, n_rows: int) -> NDArray[Any]:
        """Entries of a dataset that this rank has written, of n_rows rows from first_row on."""
        column = self.output_file.columns[name]
        found = np.empty((n_rows, *column.row_shape), column.dtype)
        read_bytes(self._descriptor, column.offset + first_row * column.row_bytes, found)
        return found

    def write(self, name: str, first_row: int, values: NDArray[Any]) -> None:
        """Write entries of a dataset from row first_row on. Raises `OutputError`."""
        column = self.output_file.columns[name]
        self._write(np.ascontiguousarray(values, column.dtype).data, column.offset + first_row * column.row_bytes)
        if self._on_write is not None:
            self._on_write()

    def is_finished(self, part: int) -> bool:
        """Whether an interrupted command has written the rows of this part of the work."""
        return bool(self.output_file.finished[part])

    def finish(self, part: int) -> None:
        """Note that all rows of this part of the work are written. Raises `OutputError`.

        The note is written within some seconds, once the rows are on disk.
        """
        with self._lock:
            self._written.append(part)
            is_due = time.monotonic() > self._due
            if is_due:
                self._due = time.monotonic() + NOTE_SECONDS
        if is_due:
            self.flush()

    def _note(self) -> None:
        """Flush the rows to disk, and write to the ledger which parts are finished; raises `OSError`."""
        with self._lock:
            written, self._written = self._written, []
        os.fsync(self._descriptor)
        parts = np.sort(np.array(written, int))
        for run in np.split(parts, np.flatnonzero(np.diff(parts) > 1) + 1) if written else ():
            os.pwrite(self._descriptor, FINISHED * len(run), self.output_file.size + int(run[0]))
            self.has_notes = True

    def _write(self, content: memoryview, offset: int) -> None:
        left = content.cast("B")
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
