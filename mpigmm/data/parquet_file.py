"""Rows in Parquet files: row groups are decoded once, and only the columns that are needed."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Hashable, Iterator, Sequence
from contextlib import contextmanager
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from mpigmm.data.files import was_cut_off
from mpigmm.data.row_files import (
    DATASET,
    READ_ERRORS,
    Columns,
    Datasets,
    FileShape,
    Name,
    RowFormat,
    RowReader,
    check_differ,
    has_shrunk_to,
    names_text,
    one_dataset,
    unusable_text,
)
from mpigmm.data.shared_cache import SharedCache
from mpigmm.errors import DataError, reason, shown
from mpigmm.rows import LABEL, SAMPLE_WEIGHT, VALUES, Field, Fields, label_field, row_bytes


class ParquetFormat(RowFormat):
    """Parquet, whose columns of integers and floats are the columns of the values."""

    name = "Parquet"

    def shape(self, path: str, datasets: Datasets) -> FileShape:
        table = ParquetTable(path)
        others = [
            table.number(datasets[array], option)
            for array, option in ((SAMPLE_WEIGHT, "data.weights"), (LABEL, "init.labels"))
            if array in datasets
        ]
        return FileShape(
            n_rows=table.n_rows,
            dtypes=table.dtypes,
            place=shown(path),
            what=shown(path),
            identity=table.identity,
            names=table.names,
            default=table.default(datasets[VALUES], others),
            unusable=table.unusable,
            label=table.label_field(others[-1]) if LABEL in datasets else None,
        )

    def open(self, path: str, datasets: Datasets, fields: Fields, cache: SharedCache) -> RowReader:
        return ParquetReader(ParquetTable(path), datasets, fields, cache)

    def outline(self, path: str) -> dict[str, Any]:
        table = ParquetTable(path)
        return {
            "format": self.name,
            "n_samples": table.n_rows,
            "columns": {each.name: str(each.type) for each in table.schema},
            "row_groups": len(table.group_ends),
        }

    def has(self, path: str, names: Sequence[str]) -> bool:
        return set(names) <= set(ParquetTable(path).names)


class ParquetTable:
    """A file, and the numbers that it holds. Raises `DataError`.

    Attributes
    ----------
    path : str
    n_rows : int
    schema : pyarrow.Schema
    names : tuple of str
        Columns of integers and floats, in the order of the file.
    unusable : dict of str to str
        The other columns, with their types.
    group_ends : list of int
        For each row group, the number of the first row after it.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self._size = 0
        with self._reading():
            file = pq.ParquetFile(path)
            self.schema = file.schema_arrow
            status = Path(path).stat()
        self._idle = [file]
        self._size = status.st_size
        self.identity = status.st_dev, status.st_ino
        self.metadata = file.metadata
        self.n_rows = int(self.metadata.num_rows)
        groups = range(self.metadata.num_row_groups)
        self.group_ends = list(accumulate(self.metadata.row_group(group).num_rows for group in groups))
        self.names = tuple(each.name for each in self.schema if is_number(each.type))
        self.unusable = {each.name: str(each.type) for each in self.schema if not is_number(each.type)}
        if len(set(self.schema.names)) < len(self.schema.names):
            raise DataError(f"{shown(path)} has several columns of one name; rename them")
        if not self.names:
            raise DataError(
                f"{shown(path)} has no column of integers or floats; it has {names_text(self.schema.names)}"
            )

    @property
    def dtypes(self) -> tuple[np.dtype[Any], ...]:
        """The dtypes of the columns, as they are in memory: integers among which some are null are float64."""
        nullable = self._with_nulls()
        return tuple(
            np.dtype(np.float64 if name in nullable else self.schema.field(name).type.to_pandas_dtype())
            for name in self.names
        )

    def _with_nulls(self) -> set[str]:
        """Columns of integers of which some may be null."""
        integers = {name for name in self.names if self._is_nullable_integer(name)}
        places = [i for i in range(self.metadata.num_columns) if self.metadata.schema.column(i).path in integers]
        groups = [self.metadata.row_group(group) for group in range(self.metadata.num_row_groups)]
        with_nulls = [i for i in places if any(has_nulls(group.column(i).statistics) for group in groups)]
        return {self.metadata.schema.column(i).path for i in with_nulls}

    def _is_nullable_integer(self, name: str) -> bool:
        field = self.schema.field(name)
        return bool(field.nullable and pa.types.is_integer(field.type))

    def number(self, name: Name, option: str) -> int:
        """The number of a column that an option names; raises `DataError`."""
        if name in self.names:
            return self.names.index(str(name))
        if name in self.unusable:
            raise DataError(f"{option}: {unusable_text(str(name), self.unusable[str(name)], shown(self.path))}")
        told = names_text(self.names, str(name))
        raise DataError(f"{option}: {shown(self.path)} has no column {shown(name)}; it has {told}")

    def default(self, dataset: Name, others: Sequence[int]) -> tuple[int, ...]:
        """The columns that are used unless others are named; raises `DataError`.

        Those that `data.dataset` lists; else all but weights, starting labels and the index of pandas.
        """
        if not isinstance(dataset, str):
            listed = tuple(self.number(name, "data.dataset") for name in dataset)
            check_differ(listed, "data.dataset")
            return listed
        if dataset != DATASET:
            one_dataset(self.path, dataset)
        index = (self.schema.pandas_metadata or {}).get("index_columns", ())
        kept = tuple(i for i, name in enumerate(self.names) if i not in others and name not in index)
        if not kept:
            raise DataError(f"{shown(self.path)} has no columns of numbers besides {names_text(self.names)}")
        return kept

    def label_field(self, number: int) -> Field:
        """The field of starting labels in a column; raises `DataError` where they are no integers."""
        name = self.names[number]
        try:
            return label_field((self.n_rows,), np.dtype(self.schema.field(name).type.to_pandas_dtype()))
        except ValueError as error:
            raise DataError(f"init.labels: {shown(name)} in {shown(self.path)} {error}") from None

    def decode(self, group: int, name: str) -> NDArray[Any]:
        """The values of a column in a row group, with NaN where they are null. Raises `DataError`."""
        with self._reading():
            file = self._take()
            column = file.read_row_group(group, columns=[name], use_threads=False).column(name)
            self._idle.append(file)
            return np.asarray(column.to_numpy())

    def _take(self) -> pq.ParquetFile:
        """The file, opened once for each thread that reads it at the same time."""
        try:
            return self._idle.pop()
        except IndexError:
            return pq.ParquetFile(self.path, metadata=self.metadata)

    @contextmanager
    def _reading(self) -> Iterator[None]:
        """A context in which errors of pyarrow are errors of the user's. Raises `DataError`."""
        try:
            yield
        except PermissionError:
            raise DataError(f"{shown(self.path)} may not be read by this user; check its permissions") from None
        except READ_ERRORS as error:
            if self._is_cut_off():
                raise was_cut_off(self.path) from None
            raise DataError(f"{shown(self.path)} cannot be read as Parquet{reason(error)}; is it whole?") from None

    def _is_cut_off(self) -> bool:
        """Whether the file is shorter than when it was opened."""
        try:
            return Path(self.path).stat().st_size < self._size
        except OSError:
            return False


class ParquetReader(RowReader):
    """A file, open for reading; the cache keeps two row groups, or several small ones."""

    def __init__(self, table: ParquetTable, datasets: Datasets, fields: Fields, cache: SharedCache) -> None:
        self._table = table
        self._datasets = datasets
        self._cache = cache
        self._key = object()  # the cache may keep it for longer than the file is open
        lengths = np.diff([0, *table.group_ends])
        cache.reserve(2 * int(lengths.max(initial=0)) * row_bytes(fields))

    def read(self, name: str, start: int, array: NDArray[Any], columns: Columns = None) -> None:
        table, stop = self._table, start + len(array)
        if table.n_rows < stop:
            raise has_shrunk_to(table.path, table.n_rows)
        names = [str(self._datasets[name])]
        if name == VALUES:
            names = list(table.names) if columns is None else [table.names[column] for column in columns]
        matrix, done = array.reshape(len(array), len(names)), start
        while done < stop:
            group = bisect_right(table.group_ends, done)
            first, end = table.group_ends[group - 1] if group else 0, min(table.group_ends[group], stop)
            parts = self._cache.get([(self._key, group, each) for each in names], self._decoded)
            for i, part in enumerate(parts):
                self._put(part[done - first : end - first], matrix[done - start : end - start, i], name)
            done = end

    def _decoded(self, key: Hashable) -> NDArray[Any]:
        """The part of the file with this key, whose last parts are the number of a row group and the name of a
        column."""
        assert isinstance(key, tuple)
        _, group, name = key
        return self._table.decode(group, name)

    def _put(self, part: NDArray[Any], out: NDArray[Any], name: str) -> None:
        """Write values to an array of a record; a row whose label is null has none."""
        if name == LABEL and part.dtype.kind == "f":
            part = np.where(np.isnan(part), -1, part)
        elif out.dtype.kind != "f" and part.dtype.kind == "f":
            raise DataError(
                f"{shown(self._table.path)} has nulls in a column of integers whose statistics tell of none; write it "
                "anew"
            )
        out[:] = part


def is_number(kind: pa.DataType) -> bool:
    """Whether a type is that of integers or floats."""
    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind))


def has_nulls(statistics: pq.Statistics | None) -> bool:
    """Whether some values of a column may be null, by its statistics in a row group."""
    return statistics is None or statistics.null_count is None or statistics.null_count > 0
