"""What the first lines of a text tell: its delimiter, the names of the columns, and which of them hold numbers."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import BinaryIO, Literal

import pyarrow as pa
from pyarrow import csv

from mpigmm.data.conversion.base import ReadOptions
from mpigmm.data.conversion.csv_text import MISSING, Dialect
from mpigmm.errors import DataError, shown

SAMPLE_BYTES, LARGEST_SAMPLE = 1 << 18, 1 << 28
SAMPLE_LINES = 200
BYTE_ORDER_MARK = b"\xef\xbb\xbf"

DELIMITERS = ("\t", ";", "|", ",", " ")
"""Candidates, of which the first is taken that fits: names and numbers rather contain the later ones."""

RaggedRows = Callable[[csv.InvalidRow], Literal["skip", "error"]]
"""What to do with a row that has another number of fields than the first."""

NUMBERS = (pa.int64(), pa.float64(), pa.null())
"""Types that pyarrow finds for columns of numbers, and for those without values."""


@dataclass(frozen=True)
class Layout:
    """What the first lines of a text tell.

    Attributes
    ----------
    dialect : Dialect
    names : tuple of str or None
        Of the columns.
    data_start, first_line : int
        The byte at which the rows begin, and the number of its line, from 1.
    texts : dict of int to str
        Columns without any number, each with a value.
    """

    dialect: Dialect
    names: tuple[str, ...] | None
    data_start: int
    first_line: int
    texts: dict[int, str]


@dataclass(frozen=True)
class Sample:
    """The first lines of a text, each with its end.

    Attributes
    ----------
    start : int
        The byte at which the first line begins that is neither empty nor a comment (``#``).
    before : int
        How many lines come before it.
    comment : str
        The last comment before it, without its mark.
    lines : list of str
        This line and those that follow, each byte as the character of Latin 1.
    """

    start: int
    before: int
    comment: str
    lines: list[str]

    @classmethod
    def of(cls, raw: bytes, *, is_whole: bool) -> Sample:
        """The complete lines in the first bytes of a text, or in all of it."""
        start = len(BYTE_ORDER_MARK) if raw.startswith(BYTE_ORDER_MARK) else 0
        lines = list(io.TextIOWrapper(io.BytesIO(raw[start:]), "latin-1", newline=""))
        if not is_whole:
            lines = lines[:-1]
        comment, before = "", 0
        while lines and (lines[0].startswith("#") or not lines[0].strip("\r\n")):
            line = lines.pop(0)
            comment = line.strip("#\r\n ") or comment
            start, before = start + len(line), before + 1
        return cls(start, before, comment, lines[:SAMPLE_LINES])

    def n_header_lines(self) -> int:
        """Number of lines in the first row: more than one if quotes contain line ends."""
        n_quotes = 0
        for number, line in enumerate(self.lines, 1):
            n_quotes += line.count('"')
            if n_quotes % 2 == 0:
                return number
        return len(self.lines)


def read_layout(path: str, open_text: Callable[[], BinaryIO], options: ReadOptions) -> Layout:
    """What the first lines of a file tell. Raises `DataError`."""
    sample = read_sample(path, open_text)
    n_header = sample.n_header_lines()
    first, rest = "".join(sample.lines[:n_header]), "".join(sample.lines[n_header:])
    delimiter = options.delimiter or find_delimiter(first + rest)
    fields = split(first, delimiter)
    if options.delimiter is None and (delimiter == " " or len(fields) == 1):
        check_spaces(path, sample)
    longest = max(map(len, sample.lines))
    dialect = Dialect(delimiter, options.decimal, len(fields), longest)
    texts = text_columns(rest, dialect)
    has_header = options.header
    if has_header is None:
        has_header = is_header(path, first, dialect, texts)
    comments = split(sample.comment + "\n", delimiter) if sample.comment else []
    if has_header:
        start, line = sample.start + len(first), sample.before + n_header
        return Layout(dialect, names_of(fields), start, line + 1, texts)
    names = names_of(comments) if len(comments) == dialect.n_columns else None
    return Layout(dialect, names, sample.start, sample.before + 1, text_columns(first, dialect) | texts)


def read_sample(path: str, open_text: Callable[[], BinaryIO]) -> Sample:
    """The first lines of a text, at least two where it has as many. Raises `DataError`."""
    size, raw, is_whole = SAMPLE_BYTES, b"", False
    sample = Sample(0, 0, "", [])
    while not is_whole and len(sample.lines) < 2 and size <= LARGEST_SAMPLE:
        with open_text() as stream:
            raw = stream.read(size)
        is_whole, size = len(raw) < size, 8 * size
        check_text(path, raw)
        sample = Sample.of(raw, is_whole=is_whole)
    if not sample.lines:
        raise DataError(f"{shown(path)} {'has no rows' if raw else 'is empty'}; leave it out")
    return sample


def check_text(path: str, raw: bytes) -> None:
    """Raise `DataError` where bytes are no text in an encoding that contains ASCII."""
    if b"\0" in raw:
        is_wide = raw[:2] in (b"\xff\xfe", b"\xfe\xff")
        other = "no text, nor a file of another format that can be converted (npy, npz, Parquet, HDF5, FCS)"
        raise DataError(f"{shown(path)} is {'text in UTF-16; save it as UTF-8' if is_wide else other}")


def find_delimiter(text: str) -> str:
    """The first candidate that divides all lines into as many fields, else the one that divides the most lines so."""
    best, most = ",", 0.5
    for delimiter in DELIMITERS:
        n_columns, share = agreement(text, delimiter)
        if n_columns > 1 and share > most:
            best, most = delimiter, share
    return best


def check_spaces(path: str, sample: Sample) -> None:
    """Raise `DataError` where a line has fields and spaces other than one between two fields: each would be a field."""
    for number, line in enumerate(sample.lines, sample.before + 1):
        if len(line.split()) > 1 and re.search("^ |  | $", line.rstrip("\r\n")):
            raise DataError(
                f"{shown(path)}, line {number:,}, has spaces at its beginning or end, or several between fields; leave "
                "one between fields: sed 's/^ *//; s/ *$//; s/  */ /g', or add --delimiter ' ' if fields are missing"
            )


def agreement(text: str, delimiter: str) -> tuple[int, float]:
    """Number of fields of the first row, and the share of the rows that have as many."""
    ragged: list[csv.InvalidRow] = []

    def skip(row: csv.InvalidRow) -> Literal["skip"]:
        ragged.append(row)
        return "skip"

    table = parsed(text, delimiter, skip)
    return table.num_columns, table.num_rows / (table.num_rows + len(ragged))


def split(row: str, delimiter: str) -> list[str]:
    """The fields of a row of text."""
    table = parsed(row, delimiter)
    columns = dict.fromkeys(table.column_names, pa.binary())
    texts = parsed(row, delimiter, types=columns)
    return [field_text(column[0].as_py()) for column in texts.columns]


def field_text(field: bytes) -> str:
    """A field as text."""
    try:
        return field.decode().strip()
    except UnicodeDecodeError:
        return field.decode("latin-1").strip()


def names_of(fields: list[str]) -> tuple[str, ...]:
    """Names of the columns, also of those whose field is empty."""
    return tuple(name or f"unnamed_{i}" for i, name in enumerate(fields))


def text_columns(text: str, dialect: Dialect) -> dict[int, str]:
    """Columns of rows without any number, each with a value; rows with another number of fields are left out."""
    table = parsed(text, dialect.delimiter, lambda row: "skip", dialect=dialect) if text else pa.table({})
    found = {}
    for i, column in enumerate(table.columns):
        if column.type not in NUMBERS:
            values = [
                field_text(each) if isinstance(each, bytes) else str(each) for each in column.drop_null().to_pylist()
            ]
            texts = [value for value in values if value not in MISSING]
            if texts and not any(is_number_text(value.replace(dialect.decimal, ".")) for value in texts):
                found[i] = texts[0]
    return found


def is_number_text(value: str) -> bool:
    """Whether a field is a number."""
    try:
        float(value)
    except ValueError:
        return False
    return True


def parsed(
    text: str,
    delimiter: str,
    on_ragged: RaggedRows | None = None,
    types: Mapping[str, pa.DataType] | None = None,
    dialect: Dialect | None = None,
) -> pa.Table:
    """Rows of text as a table, with types that pyarrow finds, unless they are given."""
    raw = text.encode("latin-1") + b"\n"  # without a line end pyarrow finds no row in a line alone
    names = [f"f{i}" for i in range(dialect.n_columns)] if dialect else None
    return csv.read_csv(
        io.BytesIO(raw),
        read_options=csv.ReadOptions(
            use_threads=False, block_size=len(raw) + 1, column_names=names, autogenerate_column_names=names is None
        ),
        parse_options=csv.ParseOptions(delimiter=delimiter, newlines_in_values=True, invalid_row_handler=on_ragged),
        convert_options=csv.ConvertOptions(
            column_types=dict(types or {}),
            null_values=list(MISSING),
            true_values=[],
            false_values=[],
            timestamp_parsers=[],
            decimal_point=dialect.decimal if dialect else ".",
        ),
    )


def is_header(path: str, row: str, dialect: Dialect, texts: Mapping[int, str]) -> bool:
    """Whether the first row holds names: text where the other rows hold numbers. Raises `DataError` if it is unclear.

    Parameters
    ----------
    path : str
    row : str
        The first row.
    dialect : Dialect
    texts : dict of int to str
        Columns of text in the other rows.
    """
    first = text_columns(row, dialect)
    kinds = [column.type for column in parsed(row, dialect.delimiter, dialect=dialect).columns]
    values = [i for i, kind in enumerate(kinds) if kind in (pa.int64(), pa.float64()) and i not in texts]
    named = first.keys() - texts.keys()
    if named and values:
        column = min(named)
        raise DataError(
            f"the first row of {shown(path)} has text ({shown(first[column])!r} in column {column}) and numbers; add "
            "--header if these are names, or --no-header and correct the row"
        )
    return bool(named) or (bool(first) and not values)
