"""What `convert` reads: files that are cut into parts, whose rows are counted and then read by any rank."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from mpigmm.errors import DataError, MpigmmError, reason, shown

BLOCK_BYTES = 1 << 22
"""Size of the values of binary files that are read at once."""


@contextmanager
def reading(path: str, *errors: type[Exception]) -> Iterator[None]:
    """A context in which errors of reading a file, and others of these classes, are the user's. Raises `DataError`."""
    kinds: tuple[type[Exception], ...] = (OSError, EOFError, *errors)
    try:
        yield
    except MpigmmError:
        raise
    except PermissionError:
        raise DataError(f"{shown(path)} may not be read by this user; check its permissions") from None
    except kinds as error:
        raise DataError(f"{shown(path)} cannot be read{reason(error)}; is the file whole?") from None


@dataclass(frozen=True)
class ReadOptions:
    """How files are to be read, where they do not tell.

    Attributes
    ----------
    delimiter : str or None
        Character between the fields of a line of text; None: detected.
    header : bool or None
        Whether text begins with the names of the columns; None: detected.
    decimal : str
        Decimal point of the numbers in text.
    compensate : bool
        Whether to undo the spillover between the channels of FCS files.
    """

    delimiter: str | None = None
    header: bool | None = None
    decimal: str = "."
    compensate: bool = False


@dataclass(frozen=True)
class Part:
    """Consecutive rows of a file, which one rank reads.

    Attributes
    ----------
    start, stop : int
        Where they are: bytes in a file of text, rows in others.
    n_bytes : int
        About the size of their text or values, by which the parts are shared among the ranks.
    n_rows : int or None
        None until they are counted.
    first_line, n_lines : int
        Number of the line of text with which the part begins, from 1, and how many lines it has.
    is_plain : bool
        Whether it is known to be text without quotes and words for missing values.
    """

    start: int
    stop: int
    n_bytes: int
    n_rows: int | None = None
    first_line: int = 0
    n_lines: int = 0
    is_plain: bool = False


@dataclass(frozen=True)
class Columns:
    """The columns of a file.

    Attributes
    ----------
    count : int
    names : tuple of str or None
        None where the file has none.
    others : dict of str to int
        Further names of columns, by which they may be chosen.
    texts : dict of int to str
        Columns without any number, each with a value.
    first_line : int
        Number of the line with which the rows of a text begin.
    """

    count: int
    names: tuple[str, ...] | None = None
    others: Mapping[str, int] = field(default_factory=dict)
    texts: Mapping[int, str] = field(default_factory=dict)
    first_line: int = 0

    def label(self, column: int) -> str:
        """A column for messages: its number and, if it has one, its name."""
        return f"column {column}" if self.names is None else f"column {column} ({shown(self.names[column])})"

    def name_of(self, word: str, number: int) -> str:
        """The name in the output of a column that has names: the one by which it was chosen, unless by its number."""
        return word if self.names is None or word in self.others else self.names[number]


@dataclass(frozen=True)
class InputFile(ABC):
    """A file of rows, as root describes it for all ranks.

    Attributes
    ----------
    path : str
    dtype : str
        Of the values.
    columns : Columns
    """

    path: str
    dtype: str
    columns: Columns

    @abstractmethod
    def parts(self) -> list[Part]:
        """The parts of the file, in order."""

    def count(self, part: Part, check: Callable[[], None]) -> Part | None:
        """The part with its rows counted; None where the file cannot be cut into parts. Raises `DataError`.

        Parameters
        ----------
        part : Part
        check : callable
            Called now and then; it ends a long count with an exception.
        """
        return part

    def uncut(self) -> InputFile:
        """The file as one part, because `count` has found that it cannot be cut."""
        raise NotImplementedError

    def numbered(self, parts: Sequence[Part]) -> list[Part]:
        """All parts of the file, after they were counted, with the numbers of their first lines."""
        return list(parts)

    @abstractmethod
    def read(self, part: Part, columns: Sequence[int]) -> Iterator[NDArray[np.generic]]:
        """The rows of a part, in blocks of shape (n, len(columns)). Raises `DataError`."""
