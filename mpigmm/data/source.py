"""Sources of rows: what they have in common, whether rows are in files or in memory."""

from __future__ import annotations

from abc import ABC, abstractmethod
from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import NamedTuple, TypeVar

from mpigmm.data.row_files import Name, told
from mpigmm.errors import shown
from mpigmm.rows import LABEL, SAMPLE_WEIGHT, VALUES, Field, Fields, Rows, row_bytes

H = TypeVar("H", bound="Header")


@dataclass(frozen=True)
class Header:
    """Description of the input, which root reads before any rank reads a row.

    Attributes
    ----------
    paths : tuple of str
        The files.
    lengths : tuple of int
        Number of rows of each file.
    datasets : dict of str to (str or tuple of str)
        For each array of a record of rows, the name of the dataset that holds it, or of several that are one column
        each.
    fields : dict of str to Field
        For each array of a record, its type and number of columns.
    columns : tuple of int or None
        Columns that are used of the dataset of ``values``; None: all.
    start, stop : int
        The rows that are used: from start to stop - 1, counted over all rows of all files.
    file_features : int
        Columns of the dataset of ``values``.
    feature_names : tuple of str or None
        Names of the columns that are used; None where they are not known.
    """

    paths: tuple[str, ...]
    lengths: tuple[int, ...]
    datasets: dict[str, Name]
    fields: dict[str, Field]
    columns: tuple[int, ...] | None
    start: int
    stop: int
    file_features: int
    feature_names: tuple[str, ...] | None = None

    @property
    def dataset(self) -> str:
        """What holds the values, for a message."""
        return told(self.datasets[VALUES])

    @property
    def n_features(self) -> int:
        return self.fields[VALUES].n_columns

    @property
    def dtype(self) -> str:
        """Type of the values in memory: NumPy's common type of the datasets of all files."""
        return self.fields[VALUES].dtype

    @property
    def is_weighted(self) -> bool:
        """Whether rows have weights."""
        return SAMPLE_WEIGHT in self.fields

    @property
    def is_labelled(self) -> bool:
        """Whether rows have starting labels."""
        return LABEL in self.fields

    @property
    def kept_fields(self) -> Fields:
        """The arrays that every pass needs: all but the starting labels, which are read anew where they are needed."""
        return {name: field for name, field in self.fields.items() if name != LABEL}

    def only(self: H, *names: str) -> H:
        """The header of the same rows with the arrays of these names alone."""
        datasets = {name: self.datasets[name] for name in names}
        return replace(self, datasets=datasets, fields={name: self.fields[name] for name in names})

    @property
    def weights_name(self) -> str:
        """What the user calls the weights."""
        return "data.weights"

    @property
    def labels_name(self) -> str:
        """What the user calls the starting labels."""
        return "init.labels"

    @property
    def named_by(self) -> str:
        """What names the rows, for a message."""
        return "data.path and data.rows"

    @property
    def by_columns(self) -> str:
        """How columns are left out, for a message."""
        return " by data.columns"

    @property
    def selected_by(self) -> str:
        """What decides which rows are used, for a message."""
        return "data.rows, data.weights and data.missing"

    @property
    def n_rows(self) -> int:
        return self.stop - self.start

    @property
    def first_rows(self) -> list[int]:
        """Number of each file's first row, counted over all rows of all files."""
        return [0, *accumulate(self.lengths)][:-1]

    @property
    def row_bytes(self) -> int:
        """Bytes of a row in memory, in the arrays that every pass needs."""
        return row_bytes(self.kept_fields)

    def where(self, row: int) -> str:
        """A row in words: its number in its file, dataset and file; `row` is counted from the first row used."""
        index, local = locate(self.start + row, self.lengths)
        return f"row {local:,} of {self.place(index)}"

    def place(self, index: int) -> str:
        """Words for the values in a file, for a message."""
        return f"{shown(self.dataset)} in {shown(self.paths[index])}"

    @property
    def files(self) -> str:
        """Names of the first three files, for a message."""
        return ", ".join(map(shown, self.paths[:3])) + ", ..." * (len(self.paths) > 3)

    def column(self, index: int) -> int:
        """Column of the dataset that is used as the feature of this index."""
        return index if self.columns is None else self.columns[index]

    def column_text(self, index: int) -> str:
        """The number of that column, and its name where it has one."""
        number = str(self.column(index))
        return number if self.feature_names is None else f"{number} ({shown(self.feature_names[index])})"


def locate(row: int, lengths: Sequence[int]) -> tuple[int, int]:
    """Index of the file, and the number in it, of a row that is counted over all files of these lengths."""
    if row < lengths[0]:
        return 0, row
    ends = list(accumulate(lengths))
    index = bisect_right(ends, row)
    return index, row - (ends[index] - lengths[index])


class Loan(NamedTuple):
    """Rows that may be used until `end` is called.

    Attributes
    ----------
    rows : Rows
    check : callable or None
        Raises `DataError` where some of the values were not what the file held.
    """

    rows: Rows
    check: Callable[[], None] | None = None

    def end(self) -> None:
        """End the use of the rows. Raises `DataError` where some of their values were not what the source holds."""
        if self.check is not None:
            self.check()


class Source(ABC):
    """Where rows are read from; each rank has one.

    Attributes
    ----------
    header : Header
        The same on all ranks.
    held : range or None
        Numbers of the rows that lie in the memory of this rank and can be read by no other; None if every rank can read
        every row.
    has_views : bool
        Whether `read` returns views of the arrays that every pass needs, and needs no memory to write them to.
    """

    header: Header
    held: range | None = None
    has_views = False

    @abstractmethod
    def read(self, start: int, stop: int, into: Rows | None = None, fields: Fields | None = None) -> Rows:
        """Rows start to stop - 1 of those used. Raises `DataError`.

        They are written to the first rows of `into`, if that is given, or are views of arrays that hold them.

        Parameters
        ----------
        start, stop : int
        into : Rows, optional
            Has the arrays that are read.
        fields : dict of str to Field, optional
            The arrays that are read where `into` is not given; all of the header's by default.
        """

    def is_cached(self, start: int, stop: int) -> bool:
        """Whether `lend` hardly takes time for these rows: they are used in place, in the operating system's cache."""
        return False

    def leave_mapped(self, start: int, stop: int) -> None:  # noqa: B027
        """Rows start to stop - 1, and no others, may stay in memory after their use where `lend` does not copy them."""

    def lend(self, start: int, stop: int, into: Rows, *, ahead: bool = True) -> Loan:
        """The same rows, with the arrays of `into`: in place where that is possible, else `read` writes them there.

        Raises `DataError`. If `ahead`, the rows are in memory when this ends; otherwise those in place may be read from
        the disk when they are used.
        """
        return Loan(self.read(start, stop, into))
