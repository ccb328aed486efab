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

from mpigmm.data.files import read_bytes

FEED, RETURN, QUOTE = 10, 13, 34
COUNT_BYTES = 1 << 17
"""Bytes that are counted at once: they and the arrays made from them fit into a processor's cache."""

Bytes = NDArray[np.uint8]


class LineCounter:
    """Counts the rows and lines of consecutive blocks of text, the first of which begins a line.

    Attributes
    ----------
    n_rows : int
    n_lines : int
        Line ends.
    """

    def __init__(self) -> None:
        self.n_rows = self.n_lines = 0
        self._after_end, self._after_return = True, False
        self._in_quotes = self._has_split_row = False

    def add(self, block: Bytes) -> None:
        """Count a block of at least one byte."""
        ends = block == FEED
        self.n_lines += int(np.count_nonzero(ends)) - bool(self._after_return and ends[0])
        returns = block == RETURN
        if returns.any():
            self.n_lines += int(np.count_nonzero(returns)) - int(np.count_nonzero(returns[:-1] & ends[1:]))
            ends |= returns
        self.n_rows += int(np.count_nonzero(ends[:-1] > ends[1:])) + bool(self._after_end and not ends[0])
        self._follow_quotes(block, ends)
        self._after_end, self._after_return = bool(ends[-1]), bool(returns[-1])

    @property
    def has_split_row(self) -> bool:
        """Whether a line has an odd number of quotes, and may therefore end within a field."""
        return self._has_split_row or self._in_quotes

    def _follow_quotes(self, block: Bytes, ends: NDArray[np.bool_]) -> None:
        quotes = block == QUOTE
        if not quotes.any():
            self._has_split_row |= self._in_quotes and bool(ends.any())
            return
        is_inside = (np.cumsum(quotes, dtype=np.uint8) + np.uint8(self._in_quotes)) & 1
        self._has_split_row |= bool(is_inside[ends].any())
        self._in_quotes = bool(is_inside[-1])


def count_lines(descriptor: int, start: int, stop: int) -> LineCounter:
    """Count the rows of bytes start to stop - 1 of an open file. Raises `EOFError`."""
    counter, buffer = LineCounter(), np.empty(COUNT_BYTES, np.uint8)
    for offset in range(start, stop, COUNT_BYTES):
        block = buffer[: min(COUNT_BYTES, stop - offset)]
        read_bytes(descriptor, offset, block)
        counter.add(block)
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
