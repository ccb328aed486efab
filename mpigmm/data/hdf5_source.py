"""The input: rows of HDF5 datasets in one or several files, concatenated in the order of the files."""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property, lru_cache, partial
from threading import Lock
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from mpigmm.data.datasets import (
    HDF5_ERRORS,
    check_dtype,
    external_link,
    get_dataset,
    has_shrunk,
    identity,
    load_filters,
    open_dataset,
    open_hdf5,
    raw_offset,
)
from mpigmm.data.files import read_bytes
from mpigmm.data.origins import Origins, check_origins
from mpigmm.data.source import Header, Source, locate
from mpigmm.errors import DataError, reason, shown
from mpigmm.rows import LABEL, SAMPLE_WEIGHT, VALUES, Field, Fields, Rows, label_field, label_text


def resolve_paths(path: str | Sequence[str]) -> list[str]:
    """Files that a path, a list of paths, or globs name; those of a glob in natural order: p.2 before p.10."""
    paths: list[str] = []
    for pattern in [path] if isinstance(path, str) else path:
        exists = os.path.exists(pattern)  # noqa: PTH110
        paths += [pattern] if exists else sorted(glob.glob(pattern), key=natural_key) or [pattern]
    return paths


def natural_key(path: str) -> tuple[list[str | int], str]:
    """A key that sorts paths with numbers in them by the numbers' values."""
    parts = re.split("([0-9]+)", path)
    return [int(part) if i % 2 else part for i, part in enumerate(parts)], path


def find_dataset(path: str, names: Sequence[str]) -> str | None:
    """The first of these names that a file has, a broken link included; raises `DataError`."""
    with open_hdf5(path) as file:
        return next((name for name in names if name in file or external_link(file, name) is not None), None)


def column_names(header: Header) -> list[str] | None:
    """Names of the columns that are used, from the attribute ``columns`` of the dataset in the first file.

    None where there is no such attribute, or not one name for each column of the dataset. Raises `DataError`.
    """
    path = header.paths[0]
    with open_hdf5(path) as file:
        attributes = get_dataset(file, path, header.dataset).attrs
        try:
            found = np.ravel(attributes.get("columns", ()))
        except HDF5_ERRORS:
            return None
    names = [name.decode(errors="replace") if isinstance(name, bytes) else str(name) for name in found]
    return [names[header.column(i)] for i in range(header.n_features)] if len(names) == header.file_features else None


def input_files(header: Header) -> Iterator[str]:
    """All files that values are read from, those behind links and virtual datasets included; raises `DataError`."""
    for path, n_rows in zip(header.paths, header.lengths, strict=True):
        with open_hdf5(path) as file:
            dataset = get_dataset(file, path, header.dataset)
            yield from (path, dataset.file.filename)
            yield from (origin.path for origin in Origins(dataset).find(0, n_rows))


def read_header(
    path: str | Sequence[str],
    dataset: str,
    sample_weight: str | None = None,
    columns: Sequence[int] | None = None,
    rows: Sequence[int] | None = None,
    labels: str | None = None,
) -> Header:
    """Open every file, check that the datasets fit together, and describe them. Raises `DataError`.

    Parameters
    ----------
    path : str or sequence of str
        Files, or globs of files.
    dataset, sample_weight : str
        Names of the datasets that hold the values of the rows and, optionally, their weights.
    columns : sequence of int, optional
        The columns to use; all by default.
    rows : sequence of two int, optional
        First row to use, and first row after it not to use; all rows by default.
    labels : str, optional
        Name of the datasets that hold starting labels or responsibilities.
    """
    paths = resolve_paths(path)
    if not paths:
        raise DataError("data.path is an empty list; name at least one file")
    shapes = [file_shape(name, dataset, sample_weight, labels) for name in paths]
    _check_alike(paths, shapes, dataset)
    lengths = tuple(shape.n_rows for shape in shapes)
    start, stop = _row_range(rows, sum(lengths))
    chosen = _columns(columns, shapes[0].n_features, dataset)
    width = shapes[0].n_features if chosen is None else len(chosen)
    dtype = np.result_type(*(shape.dtype for shape in shapes)).newbyteorder("=").str
    datasets, fields = {VALUES: dataset}, {VALUES: Field(dtype, width)}
    if sample_weight is not None:
        datasets[SAMPLE_WEIGHT], fields[SAMPLE_WEIGHT] = sample_weight, Field("float64")
    if labels is not None and shapes[0].label is not None:
        datasets[LABEL], fields[LABEL] = labels, shapes[0].label
    return Header(tuple(paths), lengths, datasets, fields, chosen, start, stop, shapes[0].n_features)


@dataclass(frozen=True)
class FileShape:
    """Rows, columns and dtype of the dataset in one file, and its identity as `identity` gives it; and the field of
    starting labels, if there are any."""

    n_rows: int
    n_features: int
    dtype: np.dtype[np.generic]
    identity: tuple[int, int, int]
    label: Field | None = None


def _check_alike(paths: Sequence[str], shapes: Sequence[FileShape], dataset: str) -> None:
    """Raise `DataError` where files differ in their number of columns, or two paths lead to one dataset."""
    first: dict[tuple[int, int, int], str] = {}
    for name, shape in zip(paths, shapes, strict=True):
        if shape.n_features != shapes[0].n_features:
            raise DataError(
                f"{shown(dataset)} has {shape.n_features} columns in {shown(name)} but {shapes[0].n_features} in "
                f"{shown(paths[0])}"
            )
        if shape.label != shapes[0].label:
            raise DataError(
                f"init.labels: {shown(name)} has {label_text(shape.label)}, but {shown(paths[0])} has "
                f"{label_text(shapes[0].label)}; give all files the same kind"
            )
        if shape.identity in first:
            other = first[shape.identity]
            again = "is named twice" if other == name else f"is that of {shown(other)}, by another name"
            raise DataError(f"{shown(dataset)} in {shown(name)} {again}; its rows would count twice: name it once")
        first[shape.identity] = name


def file_shape(path: str, name: str, sample_weight: str | None, labels: str | None = None) -> FileShape:
    """Shape of the dataset in one file; raises `DataError`."""
    try:
        with open_hdf5(path) as file:
            return _file_shape(file, path, name, sample_weight, labels)
    except DataError:
        raise
    except HDF5_ERRORS as error:
        raise DataError(f"{shown(name)} in {shown(path)} cannot be read{reason(error)}; is the file whole?") from None


def _file_shape(file: h5py.File, path: str, name: str, sample_weight: str | None, labels: str | None) -> FileShape:
    dataset = get_dataset(file, path, name)
    check_dtype(dataset, path)
    load_filters(dataset, path)
    if dataset.ndim not in (1, 2):
        raise DataError(
            f"{shown(name)} in {shown(path)} has shape {dataset.shape}; a matrix (n_samples, n_features) or a vector "
            "is needed"
        )
    if sample_weight is not None:
        _check_sample_weight(get_dataset(file, path, sample_weight), path, dataset)
    features = dataset.shape[1] if dataset.ndim == 2 else 1
    if features == 0:
        raise DataError(f"{shown(name)} in {shown(path)} has no columns")
    check_origins(dataset)
    label = None if labels is None else _label_field(get_dataset(file, path, labels), path, dataset)
    return FileShape(dataset.shape[0], features, dataset.dtype, identity(dataset), label)


def _check_sample_weight(weights: h5py.Dataset, path: str, dataset: h5py.Dataset) -> None:
    """Raise `DataError` where weights cannot be read, or the dataset does not have one row for each."""
    check_dtype(weights, path)
    load_filters(weights, path)
    if weights.shape != dataset.shape[:1]:
        raise DataError(
            f"data.weights: {shown(weights.name)} in {shown(path)} has shape {weights.shape}, but "
            f"{shown(dataset.name)} has {dataset.shape[0]:,} rows; one weight a row is needed"
        )
    check_origins(weights)


def _label_field(labels: h5py.Dataset, path: str, dataset: h5py.Dataset) -> Field:
    """The field of starting labels; raises `DataError` where they cannot be read, or are not one a row."""
    check_dtype(labels, path)
    load_filters(labels, path)
    if labels.shape[:1] != dataset.shape[:1]:
        raise DataError(
            f"init.labels: {shown(labels.name)} in {shown(path)} has shape {labels.shape}, but {shown(dataset.name)} "
            f"has {dataset.shape[0]:,} rows; give a label or a row of responsibilities for each"
        )
    check_origins(labels)
    try:
        return label_field(labels.shape, labels.dtype)
    except ValueError as error:
        raise DataError(f"init.labels: {shown(labels.name)} in {shown(path)} {error}") from None


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
        raise DataError(f"data.columns: {wrong or 'an empty list'}; {shown(dataset)} has columns 0 to {n_features - 1}")
    if len(set(columns)) < len(columns):
        raise DataError("data.columns names a column twice; a repeated feature makes covariances singular")
    return tuple(columns)


class OpenDataset:
    """A dataset from which rows are read, with checks that none of its values are missing.

    Parameters
    ----------
    dataset : h5py.Dataset
    dtype : str
        Type of the arrays that its values are read into.

    Attributes
    ----------
    file : h5py.File
        The file with the dataset, which a link in another file may lead to.
    n_rows : int
    offset : int or None
        Offset of the values in the file, where they can be read without HDF5 (`raw_offset`).
    """

    def __init__(self, dataset: h5py.Dataset, dtype: str) -> None:
        self.dataset = dataset
        self.file: h5py.File = dataset.file
        self.n_rows = int(dataset.shape[0])
        self.offset = raw_offset(dataset, dtype)
        self._origins = Origins(dataset)

    @contextmanager
    def reading(self, start: int, stop: int) -> Iterator[None]:
        """A context in which to read rows start to stop - 1; raises `DataError` where some are missing."""
        if self.n_rows < stop:
            raise DataError(f"{shown(self.file.filename)} has shrunk to {self.n_rows:,} rows while it was being read")
        self._origins.find(start, stop)
        error: Exception | None = None
        try:
            yield
        except (EOFError, *HDF5_ERRORS) as raised:
            error = raised
        if isinstance(error, EOFError) or has_shrunk(self.file):
            raise DataError(
                f"{shown(self.file.filename)} has shrunk while it was being read; restore it and run the command again"
            )
        self._origins.check(start, stop)
        if error is not None:
            raise error


def _open_file(header: Header, path: str) -> dict[str, OpenDataset]:
    """The datasets of one file that hold the arrays of a record, by the arrays' names."""
    file = open_hdf5(path)
    return {
        name: OpenDataset(open_dataset(file, path, dataset), header.fields[name].dtype)
        for name, dataset in header.datasets.items()
    }


class Hdf5Source(Source):
    """Reads the rows of HDF5 files that a header describes.

    Parameters
    ----------
    header : Header
    """

    def __init__(self, header: Header) -> None:
        self.header = header
        self._open = lru_cache(maxsize=64)(partial(_open_file, header))
        self._opening = Lock()

    def read(self, start: int, stop: int, into: Rows | None = None, fields: Fields | None = None) -> Rows:
        """As `Source.read`; `into` saves the time to allocate memory, which is as long as that to read."""
        header, n_rows = self.header, stop - start
        rows = Rows.empty(start, n_rows, fields or header.fields) if into is None else Rows(start, into[:n_rows].arrays)
        done = start
        while done < stop:
            index, local = locate(header.start + done, header.lengths)
            count = min(stop - done, header.lengths[index] - local)
            self._read_file(header.paths[index], local, rows[done - start : done - start + count])
            done += count
        return rows

    def _read_file(self, path: str, start: int, rows: Rows) -> None:
        """Fill rows with those of one file from its row start on."""
        stop = start + len(rows)
        try:
            with self._opening:  # by one thread: the first to open a dataset sets the size of its chunk cache
                opened = self._open(path)
            for name, array in rows.arrays.items():
                with opened[name].reading(start, stop):
                    self._read_array(opened[name], start, array, self._columns if name == VALUES else None)
        except DataError:
            raise
        except HDF5_ERRORS as error:
            raise DataError(
                f"rows {start:,} to {stop:,} of {shown(self.header.dataset)} in {shown(path)} cannot be read"
                f"{reason(error)}; is the file whole?"
            ) from None

    def _read_array(
        self, opened: OpenDataset, start: int, array: NDArray[Any], columns: NDArray[np.intp] | None
    ) -> None:
        """Fill an array with the entries of a dataset from start on, or with some columns of them."""
        dataset, region = opened.dataset, slice(start, start + len(array))
        if opened.offset is not None and columns is None:
            read_bytes(opened.file.id.get_vfd_handle(), opened.offset + start * array[:1].nbytes, array)
        elif dataset.ndim == 1:
            array[:] = dataset[region].reshape(array.shape)
        elif columns is None:
            dataset.read_direct(array, np.s_[region, :])
        else:
            first, last = columns.min(), columns.max() + 1
            array[:] = dataset[region, first:last][:, columns - first]

    @cached_property
    def _columns(self) -> NDArray[np.intp] | None:
        return None if self.header.columns is None else np.array(self.header.columns, np.intp)
