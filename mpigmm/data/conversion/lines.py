"""Lines of text as bytes: how many rows a part of a file has, and where lines begin. Fields are left to pyarrow.

A line ends with a line feed, a carriage return, or both in this order; the last one may end with the file. Lines
without characters are no rows.
"""

from __future__ import annotations

import io
import os
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

FEED, RETURN, QUOTE = 10, 13, 34
COUNT_BYTES = 1 << 17
"""Bytes that are counted at once: they and the arrays made from them fit into a processor's cache."""


class LineCounter:
    """Counts the rows and lines of consecutive blocks of text, the first of which begins a line.

    Attributes
    ----------
    n_rows : int
    n_lines : int
        Line ends.
    is_plain : bool
        Whether there are neither quotes nor words for missing values.
    has_split_row : bool
        Whether a line that has ended has an odd number of quotes, and may therefore end within a field.
    in_quotes : bool
        The same of the last line.
    """

    def __init__(self) -> None:
        self.n_rows = self.n_lines = 0
        self.is_plain = True
        self.has_split_row = self.in_quotes = False
        self._last = FEED

    def add(self, block: bytes) -> None:
        """Count a block of at least one byte."""
        characters = np.frombuffer(block, np.uint8)
        ends = characters == FEED
        n_ends = int(np.count_nonzero(ends)) - (self._last == RETURN and block[0] == FEED)
        if b"\r" in block:
            returns = characters == RETURN
            n_ends += int(np.count_nonzero(returns)) - int(np.count_nonzero(returns[:-1] & ends[1:]))
            ends |= returns
        self.n_lines += n_ends
        self.n_rows += int(np.count_nonzero(ends[:-1])) - int(np.count_nonzero(ends[:-1] & ends[1:]))
        self.n_rows += self._last in (FEED, RETURN) and not ends[0]
        self.is_plain = self.is_plain and not has_words(block, characters)
        if b'"' in block or self.in_quotes:
            self._follow_quotes(characters, ends)
        self._last = block[-1]

    def _follow_quotes(self, characters: NDArray[np.uint8], ends: NDArray[np.bool_]) -> None:
        is_inside = (np.cumsum(characters == QUOTE, dtype=np.uint8) + np.uint8(self.in_quotes)) & 1
        self.has_split_row |= bool(is_inside[ends].any())
        self.in_quotes = bool(is_inside[-1])


def has_words(block: bytes, characters: NDArray[np.uint8]) -> bool:
    """Whether text has quotes, or the letter N of all words for missing values, in either case."""
    has_letters = characters.max() >= ord("N")  # faster than to look for them
    return b'"' in block or bool(has_letters and (b"n" in block or b"N" in block))


def count_lines(descriptor: int, start: int, stop: int) -> LineCounter:
    """Count the rows of bytes start to stop - 1 of an open file. Raises `EOFError`."""
    counter, offset = LineCounter(), start
    while offset < stop:
        block = os.pread(descriptor, min(COUNT_BYTES, stop - offset), offset)
        if not block:
            raise EOFError
        counter.add(block)
        offset += len(block)
    return counter


def next_line(descriptor: int, offset: int, size: int) -> int:
    """Where the first line begins whose first byte is at an offset above 0 or after it; the file's size if none does.

    Raises `EOFError`.
    """
    position = offset - 1
    while position < size:
        found = os.pread(descriptor, 1 << 16, position)
        end = min((i for i in (found.find(b"\n"), found.find(b"\r")) if i >= 0), default=None)
        if end is not None:
            start = position + end + 1
            follows_return = found[end] == RETURN and os.pread(descriptor, 1, start) == b"\n"
            return start + follows_return
        if not found:
            raise EOFError
        position += len(found)
    return size


def line_of_row(stream: BinaryIO, row: int, start: int = 0) -> int:
    """Number of the line of text, from 1, with which a row begins that is counted from 0 at the byte `start` on.

    A line end within quotes does not end a row. Raises `EOFError`.
    """
    offset = n_quotes = 0
    for number, line in enumerate(io.TextIOWrapper(stream, "latin-1", newline=""), 1):
        if offset >= start and line.strip("\r\n") and n_quotes % 2 == 0:
            if not row:
                return number
            row -= 1
        n_quotes += line.count('"')
        offset += len(line)
    raise EOFError
