"""The input: rows of one or several files, concatenated in the order of the files."""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from threading import Lock
from typing import Any

import numpy as np

from mpigmm.data.file_map import FileMap
from mpigmm.data.formats import format_of, row_format
from mpigmm.data.row_files import (
    READ_ERRORS,
    Columns,
    FileShape,
    Name,
    RowReader,
    check_differ,
    names_text,
    unusable_text,
)
from mpigmm.data.shared_cache import SharedCache
from mpigmm.data.source import Header, Loan, Source, locate
from mpigmm.errors import DataError, counted, reason, shown
from mpigmm.rows import LABEL, SAMPLE_WEIGHT, VALUES, Field, Fields, Rows, label_text

Names = str | Sequence[str]
"""A dataset, or several that are one column each."""

Selection = tuple[int, ...] | None
"""Columns of a file that are used; None: all."""

MOST_OPEN = 64
"""Largest number of files that a rank keeps open."""


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


def as_name(names: Names) -> Name:
    """The name of what holds an array, from an option."""
    return names if isinstance(names, str) else tuple(names)


def find_datasets(path: str, candidates: Sequence[Names]) -> Names | None:
    """The first of these that a file has, of several names all; raises `DataError`."""
    found = row_format(format_of(path))
    return next((each for each in candidates if found.has(path, [each] if isinstance(each, str) else each)), None)


def has_datasets(path: str) -> bool:
    """Whether a file has datasets, of which one is named; raises `DataError`."""
    return row_format(format_of(path)).has_datasets


def outline_of(path: str) -> dict[str, Any]:
    """What a Parquet or ``.npy`` file holds, in a few values; empty for HDF5, which has datasets. Raises `DataError`.

    ``format`` (text), ``n_samples`` (int), ``columns`` (dict of types by name, or the type of all columns where they
    have no names), and what only one format has.
    """
    return row_format(format_of(path)).outline(path)


@dataclass(frozen=True)
class FileHeader(Header):
    """Description of the rows in files.

    Attributes
    ----------
    file_names : tuple of str or None
        Names of all columns of the first file; None where they are not known.
    formats, places : tuple of str
        Of each file the name of its format, and the words for its values in messages.
    selections : tuple of (tuple of int or None)
        Columns of each file that are used, in the order of the features.
    """

    file_names: tuple[str, ...] | None = None
    formats: tuple[str, ...] = ()
    places: tuple[str, ...] = ()
    selections: tuple[Selection, ...] = ()

    @property
    def dataset(self) -> str:
        return super().dataset if row_format(self.formats[0]).has_datasets else self.files

    def place(self, index: int) -> str:
        return self.places[index]


def input_files(header: FileHeader) -> Iterator[str]:
    """All files that values are read from, those behind links and virtual datasets included; raises `DataError`."""
    for path, n_rows, name in zip(header.paths, header.lengths, header.formats, strict=True):
        yield from row_format(name).input_files(path, header.datasets, n_rows)


def read_header(
    path: str | Sequence[str],
    dataset: Names,
    sample_weight: str | None = None,
    columns: Sequence[int | str] | None = None,
    rows: Sequence[int] | None = None,
    labels: str | None = None,
) -> FileHeader:
    """Open every file, check that they fit together, and describe them. Raises `DataError`.

    Parameters
    ----------
    path : str or sequence of str
        Files, or globs of files.
    dataset : str or sequence of str
        Name of the dataset that holds the values of the rows; or of vectors, each of which is a column.
    sample_weight : str, optional
        Name of the dataset with the weights of the rows.
    columns : sequence of int or str, optional
        The columns to use, by number or name; all by default.
    rows : sequence of two int, optional
        First row to use, and first row after it not to use; all rows by default.
    labels : str, optional
        Name of the datasets that hold starting labels or responsibilities.
    """
    paths = resolve_paths(path)
    if not paths:
        raise DataError("data.path is an empty list; name at least one file")
    if not isinstance(dataset, str) and not dataset:
        raise DataError("data.dataset is an empty list; name at least one dataset")
    given = {VALUES: as_name(dataset), SAMPLE_WEIGHT: sample_weight, LABEL: labels}
    datasets = {array: name for array, name in given.items() if name is not None}
    formats = [format_of(name) for name in paths]
    shapes = [row_format(known).shape(name, datasets) for name, known in zip(paths, formats, strict=True)]
    selections = selected_columns(shapes, columns)
    _check_alike(paths, shapes)
    lengths = tuple(shape.n_rows for shape in shapes)
    start, stop = _row_range(rows, sum(lengths))
    first, chosen = shapes[0], selections[0]
    dtypes = [dtype for shape, used in zip(shapes, selections, strict=True) for dtype in used_dtypes(shape, used)]
    dtype = np.result_type(*dict.fromkeys(dtypes)).newbyteorder("=").str
    fields = {VALUES: Field(dtype, first.n_columns if chosen is None else len(chosen))}
    if sample_weight is not None:
        fields[SAMPLE_WEIGHT] = Field("float64")
    if first.label is not None:
        fields[LABEL] = first.label
    names = first.names_of(chosen)
    return FileHeader(
        *(tuple(paths), lengths, datasets, fields, chosen, start, stop, first.n_columns, names),
        file_names=first.names,
        formats=tuple(formats),
        places=tuple(shape.place for shape in shapes),
        selections=selections,
    )


def used_dtypes(shape: FileShape, used: Selection) -> list[np.dtype[Any]]:
    """The dtypes of the columns of a file that are used."""
    return [shape.dtypes[column] for column in (range(shape.n_columns) if used is None else used)]


def _check_alike(paths: Sequence[str], shapes: Sequence[FileShape]) -> None:
    """Raise `DataError` where files differ in their starting labels, or two paths lead to the same values."""
    first: dict[tuple[Any, ...], str] = {}
    for name, shape in zip(paths, shapes, strict=True):
        if shape.label != shapes[0].label:
            raise DataError(
                f"init.labels: {shown(name)} has {label_text(shape.label)}, but {shown(paths[0])} has "
                f"{label_text(shapes[0].label)}; give all files the same kind"
            )
        if shape.identity in first:
            other = first[shape.identity]
            again = "is named twice" if other == name else f"is that of {shown(other)}, by another name"
            raise DataError(f"{shape.place} {again}; its rows would count twice: name it once")
        first[shape.identity] = name


def selected_columns(shapes: Sequence[FileShape], columns: Sequence[int | str] | None) -> tuple[Selection, ...]:
    """The columns of each file that are used, in the order of those of the first file. Raises `DataError`.

    Columns are found by name where the first file and another have names, otherwise by number.
    """
    first = shapes[0]
    chosen = default_columns(first) if columns is None else chosen_columns(columns, first)
    found = [chosen]
    for shape in shapes[1:]:
        if first.names is not None and shape.names is not None:
            found.append(_same_names(chosen, first, shape, is_all=columns is None))
        else:
            found.append(_same_numbers(chosen, first, shape, is_all=columns is None))
    return tuple(
        None if used == tuple(range(shape.n_columns)) else used for used, shape in zip(found, shapes, strict=True)
    )


def default_columns(shape: FileShape) -> tuple[int, ...]:
    """The columns of a file that are used unless others are named."""
    return tuple(range(shape.n_columns)) if shape.default is None else shape.default


def chosen_columns(columns: Sequence[int | str], shape: FileShape) -> tuple[int, ...]:
    """The numbers of the columns that `data.columns` names; raises `DataError`."""
    chosen = tuple(number_of(column, shape) if isinstance(column, str) else column for column in columns)
    wrong = [column for column in chosen if not 0 <= column < shape.n_columns]
    if wrong or not chosen:
        raise DataError(
            f"data.columns: {wrong or 'an empty list'}; {shape.what} has columns 0 to {shape.n_columns - 1}"
        )
    check_differ(chosen, "data.columns")
    return chosen


def number_of(name: str, shape: FileShape) -> int:
    """The number of the column of this name; raises `DataError`."""
    if shape.names is None:
        raise DataError(
            f"data.columns: {shown(name)!r} is a name, but the columns of {shape.place} have none; give numbers from 0 "
            f"to {shape.n_columns - 1}"
        )
    if name in shape.numbers:
        return shape.numbers[name]
    if name in shape.unusable:
        raise DataError(f"data.columns: {unusable_text(name, shape.unusable[name], shape.place)}")
    raise DataError(
        f"data.columns: {shape.place} has no column {shown(name)!r}; it has {names_text(shape.names, name)}"
    )


def _same_names(chosen: Sequence[int], first: FileShape, shape: FileShape, *, is_all: bool) -> tuple[int, ...]:
    """The columns of a file that have the names of the chosen ones of the first; raises `DataError`.

    If all columns are used, both files must have the same ones.
    """
    assert first.names is not None and shape.names is not None
    wanted = [first.names[column] for column in chosen]
    missing = [name for name in wanted if name not in shape.numbers]
    if missing:
        raise DataError(
            f"{shape.place} has no column {shown(missing[0])!r}, which {first.place} has; it has "
            f"{names_text(shape.names, missing[0])}"
        )
    used = tuple(shape.numbers[name] for name in wanted)
    more = [shape.names[column] for column in sorted({*default_columns(shape)} - {*used})]
    if is_all and more:
        raise DataError(
            f"{shape.place} has a column {shown(more[0])!r}, which {first.place} does not have; name the columns to "
            "use in data.columns"
        )
    return used


def _same_numbers(chosen: tuple[int, ...], first: FileShape, shape: FileShape, *, is_all: bool) -> tuple[int, ...]:
    """The columns of a file that have the numbers of the chosen ones of the first; raises `DataError`."""
    used = default_columns(shape) if is_all else chosen
    if shape.n_columns != first.n_columns or len(used) != len(chosen):
        raise DataError(
            f"{shape.place} has {counted(shape.n_columns, 'column')}, but {first.place} has {first.n_columns}"
        )
    return used


def _row_range(rows: Sequence[int] | None, n_rows: int) -> tuple[int, int]:
    if rows is None:
        return 0, n_rows
    if len(rows) != 2 or not 0 <= rows[0] < rows[1] <= n_rows:
        raise DataError(f"data.rows: {list(rows)} is not a range [start, stop] within the data's {n_rows:,} rows")
    return rows[0], rows[1]


def open_file(header: FileHeader, cache: SharedCache, index: int) -> tuple[RowReader, Columns]:
    """One of the files that a header describes, open for reading, and the columns of it that are used.

    Raises `DataError`, or one of `READ_ERRORS`.
    """
    selection, opened = header.selections[index], row_format(header.formats[index])
    reader = opened.open(header.paths[index], header.datasets, header.fields, cache)
    return reader, None if selection is None else np.array(selection, np.intp)


class FileSource(Source):
    """Reads the rows of files that a header describes.

    Parameters
    ----------
    header : FileHeader
    """

    header: FileHeader

    def __init__(self, header: FileHeader) -> None:
        self.header = header
        self._open = lru_cache(MOST_OPEN)(partial(open_file, header, SharedCache()))
        self._opening = Lock()
        self._kept = range(0)

    def read(self, start: int, stop: int, into: Rows | None = None, fields: Fields | None = None) -> Rows:
        """As `Source.read`; `into` saves the time to allocate memory, which is as long as that to read."""
        header, n_rows = self.header, stop - start
        rows = Rows.empty(start, n_rows, fields or header.fields) if into is None else Rows(start, into[:n_rows].arrays)
        done = start
        while done < stop:
            index, local = locate(header.start + done, header.lengths)
            count = min(stop - done, header.lengths[index] - local)
            self._read_file(index, local, rows[done - start : done - start + count])
            done += count
        return rows

    def is_cached(self, start: int, stop: int) -> bool:
        index, local = locate(self.header.start + start, self.header.lengths)
        try:
            _, file_map = self._mapped(index, local + stop - start)
        except (DataError, *READ_ERRORS):
            return False
        return file_map is not None and file_map.is_cached(local, local + stop - start)

    def _mapped(self, index: int, stop: int) -> tuple[RowReader, FileMap | None]:
        """One of the files, and its values mapped into memory, where that is possible for its rows 0 to stop - 1.

        Raises `DataError`, or one of `READ_ERRORS`.
        """
        with self._opening:
            reader, columns = self._open(index)
            file_map = reader.file_map(VALUES) if columns is None else None
        return reader, file_map if file_map is not None and stop <= len(file_map.rows) else None

    def leave_mapped(self, start: int, stop: int) -> None:
        self._kept = range(start, stop)

    def lend(self, start: int, stop: int, into: Rows, *, ahead: bool = True) -> Loan:
        (index, local), n_rows = locate(self.header.start + start, self.header.lengths), stop - start
        last, kept = local + n_rows, self._kept
        is_kept = kept.start <= start and stop <= kept.stop
        try:
            reader, file_map = self._mapped(index, last)
            if file_map is None:
                return super().lend(start, stop, into)
            if is_kept:
                shift = local - start
                file_map.keep(max(0, kept.start + shift), min(kept.stop + shift, len(file_map.rows)))
            # pages mapped together cost less than one by one, and only mapped ones can be prefetched
            values = file_map.begin(local, last, ahead=ahead or not is_kept).reshape(n_rows, into.values.shape[1])
            arrays = {VALUES: values}
            for name in into.arrays.keys() - arrays:
                arrays[name] = into.arrays[name][:n_rows]
                reader.read(name, local, arrays[name])
        except DataError:
            raise
        except READ_ERRORS as error:
            raise self._unreadable(index, local, last, error) from None
        return Loan(Rows(start, arrays), lambda: self._end(file_map, index, local, last, is_kept))

    def _end(self, file_map: FileMap, index: int, start: int, stop: int, is_kept: bool) -> None:
        """End the use of rows of one file."""
        try:
            file_map.end(start, stop, is_kept=is_kept)
        except OSError as error:
            raise self._unreadable(index, start, stop, error) from None

    def _read_file(self, index: int, start: int, rows: Rows) -> None:
        """Fill rows with those of one file from its row start on."""
        try:
            with self._opening:  # by one thread: the first to open a dataset sets the size of its chunk cache
                reader, columns = self._open(index)
            for name, array in rows.arrays.items():
                reader.read(name, start, array, columns if name == VALUES else None)
        except DataError:
            raise
        except READ_ERRORS as error:
            raise self._unreadable(index, start, start + len(rows), error) from None

    def _unreadable(self, index: int, start: int, stop: int, error: Exception) -> DataError:
        """The error for rows start to stop - 1 of one file."""
        return DataError(
            f"rows {start:,} to {stop:,} of {self.header.place(index)} cannot be read{reason(error)}; "
            "is the file whole?"
        )
