"""Rows out: one HDF5 file written by all ranks, without MPI-HDF5.

Root lays the file out with contiguous datasets whose space is allocated at once; every rank then writes its own
rows at their byte offset with plain system calls. Datasets begin on a page, and ranks' rows on a multiple of 1024, the
least tile, so that no two ranks write to one page of the file.
"""

from __future__ import annotations

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

from mpigmm.errors import OutputError, reason

PAGE = 4096


@dataclass(frozen=True)
class Column:
    """A dataset of the output: shape of one row, dtype, and byte offset in the file."""

    row_shape: tuple[int, ...]
    dtype: str
    offset: int = 0

    @property
    def row_bytes(self) -> int:
        return int(np.prod(self.row_shape, dtype=int)) * np.dtype(self.dtype).itemsize


def temporary_name(path: str) -> str:
    """Where a file grows until it is whole."""
    target = Path(path)
    return str(target.with_name(f".{target.name}.tmp"))


def create(
    path: str,
    n_rows: int,
    columns: Mapping[str, Column],
    attributes: Mapping[str, Any],
    tables: Mapping[str, Sequence[Any]] = MappingProxyType({}),
) -> dict[str, Column]:
    """Lay out the file under its temporary name; columns with their offsets. Raises `OutputError`.

    Tables are datasets that are written at once: of whole numbers, or of texts as bytes.
    """
    temporary = temporary_name(path)
    try:
        with h5py.File(temporary, "w", alignment_threshold=1, alignment_interval=PAGE) as file:
            placed = {name: _place(file, name, n_rows, column) for name, column in columns.items()}
            file.attrs.update(attributes)
            _write_tables(file, tables)
        return placed
    except OSError as error:
        raise OutputError(f"{path} cannot be written ({_reason(error)}); choose another --out") from None


def _write_tables(file: h5py.File, tables: Mapping[str, Sequence[Any]]) -> None:
    for name, values in tables.items():
        is_text = isinstance(values[0], bytes)
        file.create_dataset(name, data=values, dtype=h5py.string_dtype() if is_text else np.int64)


def _place(file: h5py.File, name: str, n_rows: int, column: Column) -> Column:
    layout = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    layout.set_layout(h5py.h5d.CONTIGUOUS)
    layout.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
    layout.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
    layout.set_obj_track_times(False)
    space = h5py.h5s.create_simple((n_rows, *column.row_shape))
    dtype = h5py.h5t.py_create(np.dtype(column.dtype))
    dataset = h5py.h5d.create(file.id, name.encode(), dtype, space, layout)
    return Column(column.row_shape, column.dtype, dataset.get_offset())


class RowWriter:
    """One rank's hand on the file; used as a context manager, whose end makes the rows durable.

    Parameters
    ----------
    path : str
        Final name of the file, already laid out by `create`.
    columns : mapping of str to Column
    """

    def __init__(self, path: str, columns: Mapping[str, Column]) -> None:
        self.path = path
        self.columns = columns
        self._descriptor = -1

    def __enter__(self) -> RowWriter:
        try:
            self._descriptor = os.open(temporary_name(self.path), os.O_WRONLY)
        except OSError as error:
            raise OutputError(
                f"{self.path}: a rank on {os.uname().nodename} cannot open the file that root made "
                f"({_reason(error)}); write to a file system that all nodes share"
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
        """Write rows of a dataset from first_row on. Raises `OutputError`."""
        column = self.columns[name]
        left = memoryview(np.ascontiguousarray(values, column.dtype).data).cast("B")
        offset = column.offset + first_row * column.row_bytes
        try:
            while left:
                done = os.pwrite(self._descriptor, left, offset)
                left, offset = left[done:], offset + done
        except OSError as error:
            raise self._failure(error) from None

    def _failure(self, error: OSError) -> OutputError:
        return OutputError(f"{self.path} cannot be written ({_reason(error)}); free some space or choose another --out")


def publish(path: str) -> None:
    """Give the finished file its name. Raises `OutputError`."""
    try:
        Path(temporary_name(path)).replace(path)
    except OSError as error:
        raise OutputError(f"{path} cannot be written ({_reason(error)}); choose another --out") from None


def discard(path: str) -> None:
    """Remove what was left of an output that failed."""
    with suppress(OSError):
        Path(temporary_name(path)).unlink()


def _reason(error: OSError) -> str:
    return reason(error).strip(" ()") or "HDF5 cannot write it"
