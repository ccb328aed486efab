"""Text with delimiters, by pyarrow: a stream of it as arrays of float64, and where it cannot be read."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pyarrow import csv

from mpigmm.errors import counted, shown

NOT_A_NUMBER = ("NaN", "nan", "NAN", "-NaN", "-nan", "1.#QNAN", "-1.#QNAN", "1.#IND", "-1.#IND")
MISSING = ("", *NOT_A_NUMBER, "NA", "N/A", "n/a", "#N/A", "#NA", "<NA>", "null", "NULL", "None", "NaT")
"""Fields that stand for missing values."""

END = "\x03"
"""The fields of a row that is added to text: where it is not found, the text ends within quotes."""

PARSED_BYTES = 1 << 20
PARSED_LINES, LONGEST_LINE = 64, 1 << 30
"""Bytes, or else lines, that pyarrow parses at once; and the most bytes of a line."""


class RowError(Exception):
    """A row of text that cannot be read.

    Parameters
    ----------
    row : int or None
        Its number in the text, from 0; None where it is not known.
    column : int or None
        The column, where one is to blame.
    text : str
        What is wrong, and the remedy.
    """

    def __init__(self, row: int | None, column: int | None, text: str) -> None:
        super().__init__(text)
        self.row, self.column, self.text = row, column, text


@dataclass(frozen=True)
class Dialect:
    """How a text is divided into fields.

    Attributes
    ----------
    delimiter, decimal : str
    n_columns : int
    longest_line : int
        About the most bytes in a line.
    """

    delimiter: str
    decimal: str
    n_columns: int
    longest_line: int = 0

    @property
    def end(self) -> bytes:
        """A row that is added to text."""
        return f"\n{self.delimiter.join([END] * self.n_columns)}\n".encode()

    def open(
        self, source: Any, columns: Sequence[int], kind: pa.DataType, *, is_plain: bool = False
    ) -> csv.CSVStreamingReader:
        """A reader of some columns, which is faster for plain text (`Part.is_plain`). Raises `ArrowInvalid`."""
        names, chosen = [*map(str, range(self.n_columns))], [*map(str, columns)]
        block = min(max(PARSED_BYTES, PARSED_LINES * self.longest_line, 2 * len(self.end)), LONGEST_LINE)
        return csv.open_csv(
            source,
            read_options=csv.ReadOptions(use_threads=False, block_size=block, column_names=names),
            parse_options=csv.ParseOptions(delimiter=self.delimiter, newlines_in_values=not is_plain),
            convert_options=csv.ConvertOptions(
                column_types=dict.fromkeys(chosen, kind),
                include_columns=chosen,
                null_values=["", END] if is_plain else [*MISSING, END],
                decimal_point=self.decimal,
            ),
        )


def read_numbers(
    source: Any, dialect: Dialect, columns: Sequence[int], *, is_plain: bool = False
) -> Iterator[NDArray[np.float64]]:
    """The rows of a text, to whose end `Dialect.end` was added, in blocks (n, D). Raises `RowError`."""
    previous: pa.RecordBatch | None = None
    for batch in batches(source, dialect, columns, pa.float64(), is_plain=is_plain):
        if previous is not None:
            yield matrix(previous)
        previous = batch if batch.num_rows else previous
    if previous is not None and previous.num_rows > 1:
        yield matrix(previous.slice(0, previous.num_rows - 1))


def count_rows(source: Any, dialect: Dialect, check: Callable[[], None]) -> int:
    """Number of rows of a text, to whose end `Dialect.end` was added. Raises `RowError`."""
    n_rows, last = 0, None
    for batch in batches(source, dialect, [0], pa.binary()):
        check()
        n_rows += batch.num_rows
        last = batch.column(0)[-1].as_py() if batch.num_rows else last
    if last != END.encode():
        raise RowError(None, None, "a quote that opens a field is not closed before the end of the file; close it")
    return n_rows - 1


def batches(
    source: Any, dialect: Dialect, columns: Sequence[int], kind: pa.DataType, *, is_plain: bool = False
) -> Iterator[pa.RecordBatch]:
    """The rows of a text in blocks. Raises `RowError`."""
    try:
        yield from dialect.open(source, columns, kind, is_plain=is_plain)
    except pa.ArrowInvalid as error:
        raise row_error(str(error)) from None


def row_error(message: str) -> RowError:
    """The error that a message of pyarrow's describes."""
    row = re.search(r"Row #(\d+)", message)
    number = int(row[1]) - 1 if row else None
    ragged = re.search(r"Expected (\d+) columns, got (\d+)", message)
    if ragged:
        return RowError(number, None, f"{counted(int(ragged[2]), 'field')} instead of {ragged[1]}; correct the line")
    value = re.search(r"CSV column #(\d+): .*invalid value '(.*)'", message, re.DOTALL)
    if value:
        return RowError(number, int(value[1]), f"{shown(value[2][:40])!r} is no number; {field_remedy(value[2])}")
    if "straddling" in message:
        return RowError(number, None, "a line is too long; is a quote that opens a field not closed?")
    return RowError(number, None, message[:200])


def field_remedy(value: str) -> str:
    """What to do about a field that is no number."""
    general = "correct it, leave the field empty if the value is missing, or choose other columns with --columns"
    return decimal_remedy(value) or general


def decimal_remedy(value: str) -> str | None:
    """What to do about a number with a comma."""
    is_number = re.fullmatch(r"\s*[-+]?\d+,\d+\s*", value)
    return "if the comma is a decimal point, add --decimal ," if is_number else None


def matrix(batch: pa.RecordBatch) -> NDArray[np.float64]:
    """The values of a block of rows (n, D), with NaN where they are missing."""
    values = np.empty((batch.num_rows, batch.num_columns))
    for i, column in enumerate(batch.columns):
        values[:, i] = vector(column)
    return values


def vector(column: Any) -> NDArray[np.float64]:
    """The values of a column, with NaN where they are missing; its method `to_numpy` would import pandas."""
    rows = slice(column.offset, column.offset + len(column))
    bits, numbers = column.buffers()
    values: NDArray[np.float64] = np.frombuffer(numbers, np.float64)[rows]
    if not column.null_count:
        return values
    is_valid = np.unpackbits(np.frombuffer(bits, np.uint8), bitorder="little")[rows]
    return np.where(is_valid, values, np.nan)


class TextWithEnd(io.RawIOBase):
    """A stream of text, and after it the row `Dialect.end`."""

    def __init__(self, stream: BinaryIO, end: bytes) -> None:
        self._streams = [stream, io.BytesIO(end)]

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        while self._streams:
            found = self._streams[0].read(size)
            if found:
                return found
            self._streams.pop(0)
        return b""
