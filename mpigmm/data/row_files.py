"""What formats of files with rows have in common: how root describes a file, and how every rank reads it."""

from __future__ import annotations

import difflib
import os
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from mpigmm.data.file_map import FileMap
from mpigmm.data.shared_cache import SharedCache
from mpigmm.errors import DataError, reason, shown
from mpigmm.rows import Field, Fields

DATASET = "/X"
"""Dataset of the values, unless another is named; for a file without datasets it stands for all columns."""

Name = str | tuple[str, ...]
"""What holds an array of a record in a file: a dataset or column, or several vectors, each of which is a column."""

Datasets = Mapping[str, Name]
"""For each array of a record of rows, the name of what holds it."""

Columns = NDArray[np.intp] | None
"""Numbers of the columns that are read; None: all, in the order of the file."""

READ_ERRORS = (OSError, RuntimeError, LookupError, ValueError, TypeError)
"""Exceptions of the libraries that read files for one that is damaged or has unexpected content."""

SUFFIXES = (".h5", ".parquet", ".npy", ".nc")
"""Suffixes of files of rows, from which a message about a directory chooses one."""

MOST_NAMES = 20
"""Largest number of columns that a message names."""


@dataclass(frozen=True)
class FileShape:
    """The rows of one file.

    Attributes
    ----------
    n_rows : int
    dtypes : tuple of dtype
        Of the values of each column, as they are in memory.
    place, what : str
        Words for the values in messages, with the name of the file and, if there is another, without.
    identity : tuple
        Equal for two names of the same values, and different for different ones.
    names : tuple of str or None
        A different name for each column; None where the file has no names.
    default : tuple of int or None
        Columns that are used unless others are named; None: all.
    unusable : dict of str to str
        Columns that do not hold numbers, and so have no number of their own, with their types.
    label : Field or None
        Of the starting labels, if there are any.
    """

    n_rows: int
    dtypes: tuple[np.dtype[Any], ...]
    place: str
    what: str
    identity: tuple[Any, ...]
    names: tuple[str, ...] | None = None
    default: tuple[int, ...] | None = None
    unusable: Mapping[str, str] = field(default_factory=dict)
    label: Field | None = None

    @property
    def n_columns(self) -> int:
        return len(self.dtypes)

    @cached_property
    def numbers(self) -> dict[str, int]:
        """The numbers of the columns by their names; empty where they have none."""
        return {name: number for number, name in enumerate(self.names or ())}

    def names_of(self, columns: Sequence[int] | None) -> tuple[str, ...] | None:
        """Names of some columns, or of all; None where the file has none."""
        if self.names is None or columns is None:
            return self.names
        return tuple(self.names[column] for column in columns)


def told(name: Name) -> str:
    """The name of what holds an array, for a message: of several vectors, the first three."""
    return name if isinstance(name, str) else ", ".join(name[:3]) + ", ..." * (len(name) > 3)


def joined(name: Name) -> str:
    """The name of what holds an array, of several vectors as ``--dataset`` takes them."""
    return name if isinstance(name, str) else ",".join(name)


class RowReader(ABC):
    """A file of rows, open for reading."""

    @abstractmethod
    def read(self, name: str, start: int, array: NDArray[Any], columns: Columns = None) -> None:
        """Fill an array of a record with its entries for the rows of the file from `start` on.

        Several threads may call it at once. Raises `DataError`, or one of `READ_ERRORS`.

        Parameters
        ----------
        name : str
            Of an array of the record.
        start : int
        array : ndarray of shape (n,) or (n, D)
        columns : ndarray of shape (D,), optional
            Which columns of the values to read.
        """

    def file_map(self, name: str) -> FileMap | None:
        """An array of the record with the rows of the whole file in its columns' order and of the dtype that is read,
        mapped into memory; None where it cannot be."""
        return None


class RowFormat(ABC):
    """A format of files with rows.

    Attributes
    ----------
    name : str
        What users call the format.
    has_datasets : bool
        Whether a file has several datasets, of which one is named.
    """

    name: ClassVar[str]
    has_datasets: ClassVar[bool] = False

    @abstractmethod
    def shape(self, path: str, datasets: Datasets) -> FileShape:
        """Check and describe a file. Raises `DataError`."""

    @abstractmethod
    def open(self, path: str, datasets: Datasets, fields: Fields, cache: SharedCache) -> RowReader:
        """Open a file for reading. Raises `DataError`, or one of `READ_ERRORS`.

        Parameters
        ----------
        path, datasets
        fields : dict of str to Field
            Types of the arrays that are read.
        cache : SharedCache
            For decoded parts of the files that are read together.
        """

    @abstractmethod
    def has(self, path: str, names: Sequence[str]) -> bool:
        """Whether a file has all of these datasets, or columns. Raises `DataError`."""

    def outline(self, path: str) -> dict[str, Any]:
        """What a file without datasets holds, for a user to read. Raises `DataError`."""
        return {}

    def input_files(self, path: str, datasets: Datasets, n_rows: int) -> Iterator[str]:
        """All files that the values of a file's rows are read from. Raises `DataError`."""
        yield path


def check_file(path: str) -> None:
    """Raise `DataError` where a path is not that of a regular file that can be read."""
    file_path, name = Path(path), shown(path)
    if not name:
        raise DataError("an empty name is given for a data file; name a file of rows")
    try:
        file_path.stat()
    except FileNotFoundError:
        raise DataError(f"{name} does not exist; check the path and the working directory") from None
    except OSError as error:
        raise DataError(f"{name} cannot be opened{reason(error)}; check the path and its permissions") from None
    if file_path.is_dir():
        raise DataError(f"{name} is a directory; name a file, or a glob such as '{name}/*{suffix_in(file_path)}'")
    if not file_path.is_file():
        raise DataError(f"{name} is not a regular file; name a file of rows")


def suffix_in(directory: Path) -> str:
    """The suffix of the files of rows in a directory."""
    try:
        found = {Path(name).suffix for name in os.listdir(directory)}  # noqa: PTH208
    except OSError:
        found = set()
    return next((suffix for suffix in SUFFIXES if suffix in found), SUFFIXES[0])


def has_shrunk_to(path: str, n_rows: int) -> DataError:
    """The error for a file that has fewer rows than when it was described."""
    return DataError(f"{shown(path)} has shrunk to {n_rows:,} rows while it was being read")


def check_differ(columns: Sequence[int], key: str) -> None:
    """Raise `DataError` where a key of the configuration names a column twice."""
    if len(set(columns)) < len(columns):
        raise DataError(f"{key} names a column twice; a repeated feature makes covariances singular")


def names_text(names: Sequence[str], wanted: str = "") -> str:
    """Names in a file, those that are most like a wanted one first, for a message."""
    near = difflib.get_close_matches(wanted, names, n=3, cutoff=0.5)
    ordered = list(dict.fromkeys([*near, *names]))
    return ", ".join(map(shown, ordered[:MOST_NAMES])) + ", ..." * (len(ordered) > MOST_NAMES)


def one_dataset(path: str, name: Name) -> None:
    """Raise `DataError` where `data.dataset` names something inside a file that has no datasets."""
    if name != DATASET:
        raise DataError(
            f"data.dataset: {shown(path)} has no dataset {shown(told(name))}, nor any other; leave out the key"
        )


def unusable_text(name: str, kind: str, place: str) -> str:
    """A column that does not hold numbers, in words, with the remedy."""
    return f"the column {shown(name)!r} of {place} has type {kind}; integers and floats can be read, so convert it"
