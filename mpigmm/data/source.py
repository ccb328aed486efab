"""The input: HDF5 datasets of one or several files as one matrix of rows."""

from __future__ import annotations

import glob
import os
from bisect import bisect_right
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property, lru_cache
from importlib import import_module
from itertools import accumulate
from pathlib import Path
from threading import Lock

import h5py
import numpy as np
from numpy.typing import NDArray

from mpigmm.errors import DataError

Rows = NDArray[np.generic]

HDF5_ERRORS = (OSError, RuntimeError, KeyError, ValueError, TypeError)
"""What h5py raises for a file that is damaged, or is not what was expected."""

CHUNK_CACHE_BYTES = 1 << 26
"""Least room for decompressed chunks, so that tiles that share one do not decompress it anew."""

CHUNK_SLOTS, KEEP_PARTLY_READ = 12_421, 0.75
"""Places in that room, a prime number, and HDF5's preference for keeping chunks that are not yet read whole."""


@dataclass(frozen=True)
class Header:
    """What root reads of the input before any rank touches a row.

    Attributes
    ----------
    paths : tuple of str
    lengths : tuple of int
        Rows of each file.
    dataset, weights : str, str or None
        Names of the datasets.
    columns : tuple of int or None
        Columns used; None: all.
    start, stop : int
        Range of rows used.
    file_features, n_features : int
        Columns in the files, and columns used.
    dtype : str
        Of the rows, common to all files.
    """

    paths: tuple[str, ...]
    lengths: tuple[int, ...]
    dataset: str
    weights: str | None
    columns: tuple[int, ...] | None
    start: int
    stop: int
    file_features: int
    n_features: int
    dtype: str

    @property
    def n_rows(self) -> int:
        return self.stop - self.start

    @property
    def row_bytes(self) -> int:
        """Bytes of a row in memory, its weight included."""
        return self.n_features * np.dtype(self.dtype).itemsize + (8 if self.weights else 0)

    def where(self, row: int) -> str:
        """Where row (counted in the selection) stands: its number, dataset and file."""
        index, local = locate(self.start + row, self.lengths)
        return f"row {local:,} of {self.dataset} in {self.paths[index]}"

    def column(self, index: int) -> int:
        """Number in the file of a column of the selection."""
        return index if self.columns is None else self.columns[index]


def locate(row: int, lengths: Sequence[int]) -> tuple[int, int]:
    """File and row within it of a row of the concatenated files."""
    ends = list(accumulate(lengths))
    index = bisect_right(ends, row)
    return index, row - (ends[index] - lengths[index])


def resolve_paths(path: str | Sequence[str]) -> list[str]:
    """Files named by a path, a list of paths, or globs; raises `DataError` where nothing matches."""
    paths: list[str] = []
    for pattern in [path] if isinstance(path, str) else path:
        paths += [pattern] if Path(pattern).exists() else sorted(glob.glob(pattern)) or [pattern]
    return paths


def open_hdf5(path: str) -> h5py.File:
    """Open a file for reading, without HDF5's locks; raises `DataError`."""
    place = Path(path)
    if not place.exists():
        raise DataError(
            f"{path or 'data.path: an empty name'} does not exist; check the path and the working directory"
        )
    if place.is_dir():
        raise DataError(f"{path} is a directory; name a file, or a glob such as '{path}/*.h5'")
    if not place.is_file():
        raise DataError(f"{path} is not a regular file; name an HDF5 file")
    try:
        return h5py.File(path, "r", locking=False, rdcc_nbytes=CHUNK_CACHE_BYTES)
    except PermissionError:
        raise DataError(f"{path} may not be read by this user; check its permissions") from None
    except OSError as error:
        raise DataError(f"{path} cannot be opened as HDF5 ({reason(error)}); is it whole, and HDF5?") from None


def reason(error: Exception) -> str:
    """HDF5's innermost words for an error."""
    return str(error).split("(", 1)[-1].rstrip(")")


def has_shrunk(file: h5py.File) -> bool:
    """Whether a file is shorter than when it was opened: HDF5 reads zeros from where its end was cut off."""
    size_when_opened: int = file.id.get_filesize()
    return os.fstat(file.id.get_vfd_handle()).st_size < size_when_opened


def read_bytes(file: int, offset: int, rows: Rows) -> None:
    """Fill rows from an open file at an offset; unlike HDF5, it lets other threads compute meanwhile. `EOFError`."""
    left = rows.data.cast("B")
    while left:
        count = os.preadv(file, [left], offset)
        if not count:
            raise EOFError
        left, offset = left[count:], offset + count


def get_dataset(file: h5py.File, path: str, name: str) -> h5py.Dataset:
    """A dataset by name; raises `DataError` naming those that exist."""
    try:
        item = file[name]
    except HDF5_ERRORS:
        found = ", ".join(dataset_names(file))
        has = f"; it has {found}" if found else ", nor any other that can be read; is it whole?"
        raise DataError(f"{path} has no dataset {name}{has}") from None
    if not isinstance(item, h5py.Dataset):
        raise DataError(f"{name} in {path} is a group, not a dataset; it has {', '.join(dataset_names(file))}")
    return item


def open_dataset(file: h5py.File, path: str, name: str) -> h5py.Dataset:
    """A dataset to read rows from, with room for those chunks that two successive tiles may share. `DataError`."""
    dataset = get_dataset(file, path, name)
    load_filters(dataset, path)
    if dataset.chunks is None:
        return dataset
    across = -(-np.array(dataset.shape[1:], int) // dataset.chunks[1:]) * dataset.chunks[1:]
    wanted = 2 * dataset.chunks[0] * int(across.prod()) * dataset.dtype.itemsize
    if wanted <= CHUNK_CACHE_BYTES:
        return dataset
    dataset.id.close()
    access = h5py.h5p.create(h5py.h5p.DATASET_ACCESS)
    access.set_chunk_cache(CHUNK_SLOTS, wanted, KEEP_PARTLY_READ)
    return h5py.Dataset(h5py.h5d.open(file.id, name.encode(), access))


def load_filters(dataset: h5py.Dataset, path: str) -> None:
    """Make the filters of a dataset known to HDF5; raises `DataError` for one that is not to be had."""
    properties = dataset.id.get_create_plist()
    filters = [properties.get_filter(i) for i in range(properties.get_nfilters())]
    for number, _, _, name in filters:
        if not h5py.h5z.filter_avail(number):
            with suppress(ImportError):
                import_module("hdf5plugin")
        if not h5py.h5z.filter_avail(number):
            raise DataError(
                f"{dataset.name} in {path} is compressed by filter {number} ({name.decode(errors='replace')}), which "
                "HDF5 does not have here; pip install mpigmm[filters] on every node, or rewrite the file with h5repack"
            )


def dataset_names(file: h5py.File) -> list[str]:
    """Names of all datasets of a file (the first 20)."""
    names: list[str] = []
    with suppress(*HDF5_ERRORS):
        file.visititems(lambda name, item: names.append("/" + name) if isinstance(item, h5py.Dataset) else None)
    return names[:20]


def check_dtype(dataset: h5py.Dataset, path: str) -> None:
    """Raise `DataError` for anything but integers and floats of up to 64 bits."""
    if dataset.dtype.kind not in "iuf" or dataset.dtype.itemsize > 8:
        raise DataError(
            f"{dataset.name} in {path} has dtype {dataset.dtype}; integers and float16, 32 or 64 can be read"
        )


def read_header(
    path: str | Sequence[str],
    dataset: str,
    weights: str | None = None,
    columns: Sequence[int] | None = None,
    rows: Sequence[int] | None = None,
) -> Header:
    """Open every file, check that their datasets fit together, and tell their shape. Raises `DataError`."""
    paths = resolve_paths(path)
    if not paths:
        raise DataError("data.path is an empty list; name at least one file")
    shapes = [file_shape(name, dataset, weights) for name in paths]
    for name, (_, features, _) in zip(paths, shapes, strict=True):
        if features != shapes[0][1]:
            raise DataError(f"{dataset} has {features} columns in {name} but {shapes[0][1]} in {paths[0]}")
    lengths = tuple(length for length, _, _ in shapes)
    start, stop = _row_range(rows, sum(lengths))
    return Header(
        paths=tuple(paths),
        lengths=lengths,
        dataset=dataset,
        weights=weights,
        columns=_columns(columns, shapes[0][1], dataset),
        start=start,
        stop=stop,
        file_features=shapes[0][1],
        n_features=len(columns) if columns is not None else shapes[0][1],
        dtype=np.result_type(*(dtype for _, _, dtype in shapes)).newbyteorder("=").str,
    )


def file_shape(path: str, name: str, weights: str | None) -> tuple[int, int, np.dtype[np.generic]]:
    """Rows, columns and dtype of the dataset in one file; raises `DataError`."""
    try:
        return _file_shape(path, name, weights)
    except HDF5_ERRORS as error:
        raise DataError(f"{name} in {path} cannot be read ({reason(error)}); is the file whole?") from None


def _file_shape(path: str, name: str, weights: str | None) -> tuple[int, int, np.dtype[np.generic]]:
    with open_hdf5(path) as file:
        dataset = get_dataset(file, path, name)
        check_dtype(dataset, path)
        load_filters(dataset, path)
        if dataset.ndim not in (1, 2):
            raise DataError(
                f"{name} in {path} has shape {dataset.shape}; a matrix (n_samples, n_features) or a vector is needed"
            )
        if weights is not None:
            weight_set = get_dataset(file, path, weights)
            check_dtype(weight_set, path)
            load_filters(weight_set, path)
            if weight_set.shape != dataset.shape[:1]:
                raise DataError(
                    f"data.weights: {weights} in {path} has shape {weight_set.shape}, but {name} has "
                    f"{dataset.shape[0]:,} rows; one weight a row is needed"
                )
        features = dataset.shape[1] if dataset.ndim == 2 else 1
        if features == 0:
            raise DataError(f"{name} in {path} has no columns")
        return dataset.shape[0], features, dataset.dtype


def _row_range(rows: Sequence[int] | None, n_rows: int) -> tuple[int, int]:
    if rows is None:
        return 0, n_rows
    if len(rows) != 2 or not 0 <= rows[0] < rows[1] <= n_rows:
        raise DataError(f"data.rows: {list(rows)} is not a range [start, stop] within the data's {n_rows:,} rows")
    return rows[0], rows[1]


def _columns(columns: Sequence[int] | None, n_features: int, dataset: str) -> tuple[int, ...] | None:
    if columns is None:
        return None
    wrong = [column for column in columns if not 0 <= column < n_features]
    if wrong or not columns:
        raise DataError(f"data.columns: {wrong or 'an empty list'}; {dataset} has columns 0 to {n_features - 1}")
    if len(set(columns)) < len(columns):
        raise DataError("data.columns names a column twice; a repeated feature makes covariances singular")
    return tuple(columns)


class Source:
    """The rows behind a header, read by one rank.

    Parameters
    ----------
    header : Header
    """

    def __init__(self, header: Header) -> None:
        self.header = header
        self._open = lru_cache(maxsize=64)(self._open_file)
        self._opening = Lock()

    def read(self, start: int, stop: int, into: Rows | None = None) -> tuple[Rows, Rows | None]:
        """Rows start to stop of the selection, (n, D) in the header's dtype, and their weights (n,) or None.

        The rows are the first lines of `into`, where that is given: fresh memory costs as much as reading.
        """
        header = self.header
        rows = np.empty((stop - start, header.n_features), header.dtype) if into is None else into[: stop - start]
        weights = None if header.weights is None else np.empty(stop - start, np.float64)
        done = start
        while done < stop:
            index, local = locate(header.start + done, header.lengths)
            count = min(stop - done, header.lengths[index] - local)
            part = slice(done - start, done - start + count)
            self._read_file(header.paths[index], local, rows[part], None if weights is None else weights[part])
            done += count
        return rows, weights

    def _read_file(self, path: str, start: int, rows: Rows, weights: Rows | None) -> None:
        region = slice(start, start + len(rows))
        try:
            with self._opening:  # by one reader: the room for chunks is that of who opens first
                file, dataset, weight_set = self._open(path)
            if dataset.shape[0] < region.stop:
                raise DataError(f"{path} has shrunk to {dataset.shape[0]:,} rows while it was being read")
            offset = dataset.id.get_offset()
            if self._columns is None and offset is not None and dataset.dtype == rows.dtype:
                read_bytes(file.id.get_vfd_handle(), offset + start * rows[:1].nbytes, rows)
            elif dataset.ndim == 1:
                rows[:, 0] = dataset[region]
            elif self._columns is None:
                dataset.read_direct(rows, np.s_[region, :])
            else:
                first, last = self._columns.min(), self._columns.max() + 1
                rows[:] = dataset[region, first:last][:, self._columns - first]
            if weights is not None and weight_set is not None:
                weights[:] = weight_set[region]
            if has_shrunk(file):
                raise EOFError
        except EOFError:
            raise DataError(
                f"{path} has shrunk while it was being read; restore it and run the command again"
            ) from None
        except HDF5_ERRORS as error:
            raise DataError(
                f"rows {region.start:,} to {region.stop:,} of {self.header.dataset} in {path} cannot be read "
                f"({reason(error)}); is the file whole?"
            ) from None

    def _open_file(self, path: str) -> tuple[h5py.File, h5py.Dataset, h5py.Dataset | None]:
        file, weights = open_hdf5(path), self.header.weights
        weight_set = None if weights is None else open_dataset(file, path, weights)
        return file, open_dataset(file, path, self.header.dataset), weight_set

    @cached_property
    def _columns(self) -> NDArray[np.intp] | None:
        return None if self.header.columns is None else np.array(self.header.columns, np.intp)
