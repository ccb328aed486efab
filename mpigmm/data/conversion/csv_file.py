"""CSV and other text with delimiters, plain or compressed."""

from __future__ import annotations

import io
import lzma
import os
from abc import abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from itertools import accumulate, pairwise
from typing import BinaryIO

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from mpigmm.data.conversion.base import Columns, InputFile, Part, ReadOptions, reading
from mpigmm.data.conversion.csv_sample import Layout, read_layout
from mpigmm.data.conversion.csv_text import RowError, TextWithEnd, count_rows, read_numbers
from mpigmm.data.conversion.lines import count_lines, line_of_row, next_line
from mpigmm.data.files import read_bytes
from mpigmm.errors import DataError, shown

PART_BYTES = 1 << 24
"""Bytes of a part of a plain file, which a thread holds in memory as a whole."""

COMPRESSION = 4
"""About how many times larger a compressed file is as text."""


def open_csv(path: str, compression: str | None, options: ReadOptions) -> TextFile:
    """Describe a file. Raises `DataError`."""
    with reading(path, lzma.LZMAError):
        layout = read_layout(path, lambda: open_text(path, compression), options)
        n_bytes = os.stat(path).st_size  # noqa: PTH116
    kind = CutFile if compression is None else StreamedFile
    columns = Columns(layout.dialect.n_columns, layout.names, texts=layout.texts, first_line=layout.first_line)
    return kind(path, "<f8", columns, layout, n_bytes, compression)


def open_text(path: str, compression: str | None) -> BinaryIO:
    """Open a file to read its text as bytes. Raises `OSError`."""
    if compression is None:
        return open(path, "rb")
    if compression == "xz":
        return lzma.open(path)  # type: ignore[return-value]
    return pa.CompressedInputStream(pa.OSFile(path, "rb"), compression)  # type: ignore


@dataclass(frozen=True)
class TextFile(InputFile):
    """A file of text.

    Attributes
    ----------
    layout : Layout
    n_bytes : int
    compression : str or None
    """

    layout: Layout
    n_bytes: int
    compression: str | None

    def count(self, part: Part, check: Callable[[], None]) -> Part | None:
        with self._located(part), reading(self.path, lzma.LZMAError):
            return self._count(part, check)

    def read(self, part: Part, columns: Sequence[int]) -> Iterator[NDArray[np.float64]]:
        n_rows = 0
        with self._located(part), reading(self.path, lzma.LZMAError):
            for block in self._blocks(part, columns):
                n_rows += len(block)
                yield block
        if n_rows != part.n_rows:
            raise DataError(
                f"{shown(self.path)} has {n_rows:,} rows from line {part.first_line:,} on, but {part.n_rows:,} were "
                "counted; are all quotes closed, and was the file changed meanwhile?"
            )

    @contextmanager
    def _located(self, part: Part) -> Iterator[None]:
        """A context in which errors of rows of a part name the line. Raises `DataError`."""
        try:
            yield
        except RowError as error:
            row = "" if error.row is None else f", {self._row_label(part, error.row)}"
            column = "" if error.column is None else f", {self.columns.label(error.column)}"
            raise DataError(f"{shown(self.path)}{row}{column}: {error.text}") from None

    def _row_label(self, part: Part, row: int) -> str:
        """A row of a part for messages: its line or, where quotes that are not closed hide it, its number."""
        try:
            return f"line {self._line(part, row):,}"
        except EOFError:
            return f"row {row + 1:,} from line {part.first_line:,} on"

    @abstractmethod
    def _count(self, part: Part, check: Callable[[], None]) -> Part | None:
        """As `count`. Raises `RowError`, and `OSError` or `EOFError`."""

    @abstractmethod
    def _blocks(self, part: Part, columns: Sequence[int]) -> Iterator[NDArray[np.float64]]:
        """As `read`. Raises `RowError`, and `OSError` or `EOFError`."""

    @abstractmethod
    def _line(self, part: Part, row: int) -> int:
        """Number of the line with which a row of a part begins. Raises `OSError` or `EOFError`."""


@dataclass(frozen=True)
class CutFile(TextFile):
    """A plain file, whose parts begin after line ends."""

    def parts(self) -> list[Part]:
        cuts = [*range(self.layout.data_start, self.n_bytes, PART_BYTES), self.n_bytes]
        return [Part(start, stop, stop - start) for start, stop in pairwise(cuts)]

    def uncut(self) -> StreamedFile:
        return StreamedFile(**{each.name: getattr(self, each.name) for each in fields(self)})

    def numbered(self, parts: Sequence[Part]) -> list[Part]:
        lines = accumulate((part.n_lines for part in parts), initial=self.layout.first_line)
        return [replace(part, first_line=line) for part, line in zip(parts, lines, strict=False)]

    def _count(self, part: Part, check: Callable[[], None]) -> Part | None:
        with open_descriptor(self.path) as descriptor:
            start, stop = (self._line_start(descriptor, offset) for offset in (part.start, part.stop))
            counter = count_lines(descriptor, start, stop)
        if counter.has_split_row or counter.in_quotes:
            return None
        n_rows, n_lines = counter.n_rows, counter.n_lines
        return replace(part, start=start, stop=stop, n_rows=n_rows, n_lines=n_lines, is_plain=counter.is_plain)

    def _line_start(self, descriptor: int, offset: int) -> int:
        """Where the first line of the rows begins at an offset or after it."""
        ends = (self.layout.data_start, self.n_bytes)
        return offset if offset in ends else next_line(descriptor, offset, self.n_bytes)

    def _blocks(self, part: Part, columns: Sequence[int]) -> Iterator[NDArray[np.float64]]:
        text = self._text(part, self.layout.dialect.end)
        source = pa.BufferReader(pa.py_buffer(text.data))
        yield from read_numbers(source, self.layout.dialect, columns, is_plain=part.is_plain)

    def _text(self, part: Part, end: bytes = b"") -> NDArray[np.uint8]:
        """The bytes of a part, and others after them."""
        size = part.stop - part.start
        text = np.empty(size + len(end), np.uint8)
        text[size:] = np.frombuffer(end, np.uint8)
        with open_descriptor(self.path) as descriptor:
            read_bytes(descriptor, part.start, text[:size])
        return text

    def _line(self, part: Part, row: int) -> int:
        return part.first_line + line_of_row(io.BytesIO(self._text(part).tobytes()), row) - 1


@contextmanager
def open_descriptor(path: str) -> Iterator[int]:
    """A file, open for reading. Raises `OSError`."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


@dataclass(frozen=True)
class StreamedFile(TextFile):
    """A file that is read from the first row on, because it is compressed, or quotes contain line ends."""

    def parts(self) -> list[Part]:
        whole = self.n_bytes * (1 if self.compression is None else COMPRESSION)
        return [Part(0, self.n_bytes, whole, first_line=self.layout.first_line)]

    def _count(self, part: Part, check: Callable[[], None]) -> Part | None:
        with self._source() as source:
            return replace(part, n_rows=count_rows(source, self.layout.dialect, check))

    def _blocks(self, part: Part, columns: Sequence[int]) -> Iterator[NDArray[np.float64]]:
        with self._source() as source:
            yield from read_numbers(source, self.layout.dialect, columns)

    @contextmanager
    def _source(self) -> Iterator[pa.NativeFile]:
        """The text of the rows for pyarrow."""
        with open_text(self.path, self.compression) as stream:
            stream.read(self.layout.data_start)
            yield pa.PythonFile(TextWithEnd(stream, self.layout.dialect.end), mode="r")

    def _line(self, part: Part, row: int) -> int:
        with open_text(self.path, self.compression) as stream:
            return line_of_row(stream, row, self.layout.data_start)
