"""Rows in HDF5 files: a dataset that is a matrix, or several vectors, each of which is a column."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from itertools import takewhile
from typing import Any

import h5py
import numpy as np
from numpy.typing import DTypeLike, NDArray

from mpigmm.data.datasets import (
    check_dtype,
    external_link,
    has_shrunk,
    identity,
    load_filters,
    open_dataset,
    open_hdf5,
    raw_offset,
)
from mpigmm.data.file_map import FileMap, map_array
from mpigmm.data.files import read_bytes, was_cut_off
from mpigmm.data.openpmd import ConstantComponent, Item, constant_component, get_item
from mpigmm.data.origins import Origins, check_origins
from mpigmm.data.packing import Packing, packing_of
from mpigmm.data.row_files import (
    READ_ERRORS,
    Columns,
    Datasets,
    FileShape,
    Name,
    RowFormat,
    RowReader,
    check_differ,
    has_shrunk_to,
    told,
)
from mpigmm.data.shared_cache import SharedCache
from mpigmm.errors import DataError, reason, shown
from mpigmm.rows import LABEL, SAMPLE_WEIGHT, VALUES, Field, Fields, label_field


class Hdf5Format(RowFormat):
    """HDF5, NetCDF-4 included."""

    name = "HDF5"
    has_datasets = True

    def shape(self, path: str, datasets: Datasets) -> FileShape:
        try:
            with open_hdf5(path) as file:
                return _file_shape(file, path, datasets)
        except DataError:
            raise
        except READ_ERRORS as error:
            raise DataError(
                f"{shown(told(datasets[VALUES]))} in {shown(path)} cannot be read{reason(error)}; is the file whole?"
            ) from None

    def open(self, path: str, datasets: Datasets, fields: Fields, cache: SharedCache) -> RowReader:
        file = open_hdf5(path)
        return Hdf5Reader({name: _open_stored(file, path, datasets[name], name, fields[name]) for name in fields})

    def has(self, path: str, names: Sequence[str]) -> bool:
        """Whether a file has all of these datasets; a broken link counts."""
        with open_hdf5(path) as file:
            return all(name in file or external_link(file, name) is not None for name in names)

    def input_files(self, path: str, datasets: Datasets, n_rows: int) -> Iterator[str]:
        yield path
        with open_hdf5(path) as file:
            for name in (
                each for names in datasets.values() for each in ([names] if isinstance(names, str) else names)
            ):
                item = get_item(file, path, name)
                if isinstance(item, h5py.Dataset):
                    yield item.file.filename
                    yield from (origin.path for origin in Origins(item).find(0, n_rows))


def _checked(file: h5py.File, path: str, name: str) -> Item:
    """The same, with numbers that can be read."""
    item = get_item(file, path, name)
    check_dtype(item, path)
    if isinstance(item, h5py.Dataset):
        load_filters(item, path)
    return item


def _file_shape(file: h5py.File, path: str, datasets: Datasets) -> FileShape:
    """The rows of a file; raises `DataError`."""
    names, weights, labels = datasets[VALUES], datasets.get(SAMPLE_WEIGHT), datasets.get(LABEL)
    items = [_matrix(file, path, names)] if isinstance(names, str) else _vectors(file, path, names)
    if weights is not None:
        _check_sample_weight(_checked(file, path, str(weights)), path, items[0])
    width = items[0].shape[1] if items[0].ndim == 2 else 1
    if width == 0:
        raise DataError(f"{shown(items[0].name)} in {shown(path)} has no columns")
    for item in items:
        _check_origins(item)
    return FileShape(
        n_rows=items[0].shape[0],
        dtypes=tuple(dtype for item in items for dtype in [_dtype_of_values(item, path)] * width),
        place=f"{shown(names)} in {shown(path)}" if isinstance(names, str) else shown(path),
        what=shown(told(names)),
        identity=tuple(identity(item) for item in items),
        names=_attribute_names(items[0], width) if isinstance(names, str) else names_of_vectors(names),
        label=None if labels is None else _label_field(_checked(file, path, str(labels)), path, items[0]),
    )


def _matrix(file: h5py.File, path: str, name: str) -> Item:
    """The dataset with all columns; raises `DataError`."""
    item = _checked(file, path, name)
    if item.ndim not in (1, 2):
        raise DataError(
            f"{shown(name)} in {shown(path)} has shape {item.shape}; a matrix (n_samples, n_features) or a vector "
            "is needed"
        )
    return item


def _vectors(file: h5py.File, path: str, names: Sequence[str]) -> list[Item]:
    """The datasets that are one column each; raises `DataError`."""
    items = [_checked(file, path, name) for name in names]
    for name, item in zip(names, items, strict=True):
        if item.ndim != 1:
            raise DataError(
                f"data.dataset: {shown(name)} in {shown(path)} has shape {item.shape}; each entry of a list is a "
                "vector (n_samples,), which is one column"
            )
        if item.shape != items[0].shape:
            raise DataError(
                f"data.dataset: {shown(name)} in {shown(path)} has {item.shape[0]:,} entries, but {shown(names[0])} "
                f"has {items[0].shape[0]:,}; vectors of one length are needed"
            )
    found = [identity(item) for item in items]
    check_differ([found.index(each) for each in found], "data.dataset")
    return items


def names_of_vectors(datasets: Sequence[str]) -> tuple[str, ...]:
    """Names of columns: those of their datasets without the path that they have in common."""
    parts = [name.strip("/").split("/") for name in datasets]
    levels = zip(*(each[:-1] for each in parts), strict=False)
    common = list(takewhile(lambda level: len(set(level)) == 1, levels))
    return tuple("/".join(each[len(common) :]) for each in parts)


def _attribute_names(item: Item, width: int) -> tuple[str, ...] | None:
    """The attribute ``columns`` of a dataset; None where it does not hold another name for each of its columns."""
    try:
        found = np.ravel(item.attrs.get("columns", ())) if isinstance(item, h5py.Dataset) else ()
    except READ_ERRORS:
        return None
    names = tuple(name.decode(errors="replace") if isinstance(name, bytes) else str(name) for name in found)
    return names if len(set(names)) == len(names) == width else None


def _dtype_of_values(item: Item, path: str) -> np.dtype[Any]:
    """The dtype of the values of a dataset; raises `DataError`."""
    packing = packing_of(item, path) if isinstance(item, h5py.Dataset) else None
    return item.dtype if packing is None else packing.dtype


def _check_origins(item: Item) -> None:
    """Raise `DataError` where some of a dataset's values are missing."""
    if isinstance(item, h5py.Dataset):
        check_origins(item)


def _check_sample_weight(weights: Item, path: str, values: Item) -> None:
    """Raise `DataError` where weights are packed wrongly, or the values do not have one row for each."""
    if weights.shape != values.shape[:1]:
        raise DataError(
            f"data.weights: {shown(weights.name)} in {shown(path)} has shape {weights.shape}, but "
            f"{shown(values.name)} has {values.shape[0]:,} rows; one weight a row is needed"
        )
    _dtype_of_values(weights, path)
    _check_origins(weights)


def _label_field(labels: Item, path: str, values: Item) -> Field:
    """The field of starting labels; raises `DataError` where they are not one a row."""
    if labels.shape[:1] != values.shape[:1]:
        raise DataError(
            f"init.labels: {shown(labels.name)} in {shown(path)} has shape {labels.shape}, but {shown(values.name)} "
            f"has {values.shape[0]:,} rows; give a label or a row of responsibilities for each"
        )
    _check_origins(labels)
    try:
        return label_field(labels.shape, labels.dtype)
    except ValueError as error:
        raise DataError(f"init.labels: {shown(labels.name)} in {shown(path)} {error}") from None


class Stored(ABC):
    """What holds an array of a record in an open file."""

    @abstractmethod
    def read(self, start: int, array: NDArray[Any], columns: Columns = None) -> None:
        """As `RowReader.read`."""

    @property
    def file_map(self) -> FileMap | None:
        """As `RowReader.file_map`."""
        return None


class OpenDataset(Stored):
    """A dataset from which rows are read, with checks that none of its values are missing.

    Parameters
    ----------
    dataset : h5py.Dataset
    dtype : dtype or str
        Type of the arrays that its values are read into.
    packing : Packing, optional
        How its values are computed from the numbers that it stores.

    Attributes
    ----------
    dtype : dtype
        Type of the arrays that it can be read into.
    file : h5py.File
        The file with the dataset, which a link in another file may lead to.
    n_rows : int
    offset : int or None
        Offset of the numbers in the file, where they can be read without HDF5 (`raw_offset`).
    """

    def __init__(self, dataset: h5py.Dataset, dtype: DTypeLike, packing: Packing | None = None) -> None:
        self.dataset = dataset
        self.dtype: np.dtype[Any] = np.dtype(dtype)
        self.file: h5py.File = dataset.file
        self.n_rows = int(dataset.shape[0])
        self.offset = raw_offset(dataset, self.dtype if packing is None else dataset.dtype)
        self._packing = packing
        self._origins = Origins(dataset)

    @cached_property
    def file_map(self) -> FileMap | None:
        if self.offset is None or self._packing is not None:
            return None
        descriptor = self.file.id.get_vfd_handle()
        return map_array(self.file.filename, descriptor, self.offset, self.dataset.shape, self.dtype)

    def read(self, start: int, array: NDArray[Any], columns: Columns = None) -> None:
        with self._reading(start, start + len(array)):
            if self._packing is None:
                self._fill(start, array, columns)
            else:
                raw = np.empty(array.shape, self.dataset.dtype)
                self._fill(start, raw, columns)
                array[:] = self._packing.unpack(raw)

    def _fill(self, start: int, array: NDArray[Any], columns: Columns) -> None:
        """Fill an array with the numbers from row `start` on, or with some columns of them."""
        dataset, region = self.dataset, slice(start, start + len(array))
        if self.offset is not None and columns is None:
            read_bytes(self.file.id.get_vfd_handle(), self.offset + start * array[:1].nbytes, array)
        elif dataset.ndim == 1:
            array[:] = dataset[region].reshape(array.shape)
        elif columns is None:
            dataset.read_direct(array, np.s_[region, :])
        else:
            first, last = columns.min(), columns.max() + 1
            array[:] = dataset[region, first:last][:, columns - first]

    @contextmanager
    def _reading(self, start: int, stop: int) -> Iterator[None]:
        """A context in which to read rows start to stop - 1; raises `DataError` where some are missing."""
        if self.n_rows < stop:
            raise has_shrunk_to(self.file.filename, self.n_rows)
        self._origins.find(start, stop)
        error: Exception | None = None
        try:
            yield
        except (EOFError, *READ_ERRORS) as raised:
            error = raised
        if isinstance(error, EOFError) or has_shrunk(self.file):
            raise was_cut_off(self.file.filename)
        self._origins.check(start, stop)
        if error is not None:
            raise error


class OpenConstant(Stored):
    """A constant component of openPMD."""

    def __init__(self, component: ConstantComponent) -> None:
        self.dtype = component.dtype
        self._component = component

    def read(self, start: int, array: NDArray[Any], columns: Columns = None) -> None:
        n_rows = self._component.shape[0]
        if n_rows < start + len(array):
            raise has_shrunk_to(self._component.file.filename, n_rows)
        array[:] = self._component.value


class OpenVectors(Stored):
    """Vectors that are one column each."""

    def __init__(self, vectors: Sequence[OpenDataset | OpenConstant]) -> None:
        self._vectors = vectors

    def read(self, start: int, array: NDArray[Any], columns: Columns = None) -> None:
        for i, column in enumerate(range(len(self._vectors)) if columns is None else columns):
            vector = self._vectors[column]
            values = np.empty(len(array), vector.dtype)
            vector.read(start, values)
            array[:, i] = values


class Hdf5Reader(RowReader):
    """An HDF5 file, open for reading.

    Parameters
    ----------
    arrays : dict of str to Stored
        What holds each array of a record.
    """

    def __init__(self, arrays: dict[str, Stored]) -> None:
        self._arrays = arrays

    def read(self, name: str, start: int, array: NDArray[Any], columns: Columns = None) -> None:
        self._arrays[name].read(start, array, columns)

    def file_map(self, name: str) -> FileMap | None:
        return self._arrays[name].file_map


def _open_stored(file: h5py.File, path: str, names: Name, array: str, field: Field) -> Stored:
    """What holds an array of a record, which has this field; raises `DataError`."""
    if not isinstance(names, str):
        return OpenVectors([_open_item(file, path, name) for name in names])
    is_packed = array != LABEL or field.width is not None  # numbers of components are no measurements
    return _open_item(file, path, names, field.dtype, is_packed=is_packed)


def _open_item(
    file: h5py.File, path: str, name: str, dtype: str | None = None, *, is_packed: bool = True
) -> OpenDataset | OpenConstant:
    """A dataset, or what stands for one, to be read into arrays of a dtype, by default its own; raises `DataError`."""
    try:
        dataset = open_dataset(file, path, name)
    except DataError:
        component = constant_component(file, name)
        if component is None:
            raise
        return OpenConstant(component)
    packing = packing_of(dataset, path) if is_packed else None
    own = dataset.dtype if packing is None else packing.dtype
    return OpenDataset(dataset, own if dtype is None else dtype, packing)
