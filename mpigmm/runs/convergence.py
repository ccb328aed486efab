"""``convergence.jsonl``: one line for each iteration, appended when it ends."""

from __future__ import annotations

import json
import math
import os
from array import array
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mpigmm.data.files import NO_FOLLOW, cannot_write, write_whole
from mpigmm.errors import DataError, reason, shown

COLUMNS: dict[str, type] = {
    "init": int,
    "iteration": int,
    "mean_log_likelihood": float,
    "objective": float,
    "change": float,
    "seconds": float,
    "seconds_read": float,
    "seconds_compute": float,
    "seconds_communicate": float,
    "imbalance": float,
    "floored": int,
    "reseeded": int,
    "precision_bits": int,
    "e_steps": int,
    "passes": float,
    "held_out": float,
}
"""Keys of a line and their types. In the table of all lines, NaN stands for a null."""


WHOLE = ("init", "iteration", "floored", "reseeded")
"""Keys that no line may lack."""


class ConvergenceLog:
    """The log of a run; its lines are also kept in memory, for checkpoints.

    Parameters
    ----------
    path : Path
    table : ndarray of float64, (n, number of columns)
        The lines so far, with which an existing file is overwritten.

    Raises
    ------
    OutputError
        Where the file cannot be written.
    """

    def __init__(self, path: Path, table: NDArray[np.float64]) -> None:
        self.path = path
        self._values = array("d", table.reshape(-1).tolist())
        text = self._text_from(0)
        write_whole(path, text)
        try:
            self._descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | NO_FOLLOW)
        except OSError as error:
            raise cannot_write(path, error) from None
        self._size, self._lines = len(text), len(self)

    def __len__(self) -> int:
        return len(self._values) // len(COLUMNS)

    def table(self) -> NDArray[np.float64]:
        """All lines, one in each row, (n, number of columns)."""
        return np.array(self._values).reshape(-1, len(COLUMNS))

    def append(self, line: dict[str, Any]) -> None:
        """Add a line. Where it cannot be written now, raises `OutputError`; the next call writes it too."""
        self._values.extend(row_of(line))
        self.flush()

    def flush(self) -> None:
        """Write the lines that could not be written before; raises `OutputError`, and leaves no part of a line."""
        text = self._text_from(self._lines)
        left = memoryview(text)
        try:
            while left:
                left = left[os.write(self._descriptor, left) :]
        except OSError as error:
            with suppress(OSError):
                os.ftruncate(self._descriptor, self._size)
            raise cannot_write(self.path, error) from None
        self._size, self._lines = self._size + len(text), len(self)

    def sync(self) -> None:
        """Write all lines to disk; raises `OutputError`."""
        self.flush()
        try:
            os.fsync(self._descriptor)
        except OSError as error:
            raise cannot_write(self.path, error) from None

    def close(self) -> None:
        os.close(self._descriptor)

    def _text_from(self, first: int) -> bytes:
        width = len(COLUMNS)
        starts = range(first * width, len(self._values), width)
        return b"".join(_encode(self._values[start : start + width]) for start in starts)


def convergence_table(history: NDArray[np.float64]) -> NDArray[np.void]:
    """The lines of a convergence log (n, number of columns) as a structured array (n,)."""
    table = np.empty(len(history), [(name, np.int64 if kind is int else np.float64) for name, kind in COLUMNS.items()])
    for name, column in zip(COLUMNS, history.T, strict=True):
        table[name] = column
    return table


def read_log(path: Path) -> list[dict[str, Any]]:
    """The lines of a log whose objective is finite; an incomplete last line is left out. Raises `DataError`."""
    try:
        texts = path.read_bytes().splitlines(keepends=True)
    except OSError as error:
        raise DataError(f"{shown(path)} cannot be read{reason(error)}; check its permissions") from None
    lines = [_decode(path, number, text) for number, text in enumerate(texts, 1) if text.endswith(b"\n")]
    return [line for line in lines if line["objective"] is not None]


def _decode(path: Path, number: int, text: bytes) -> dict[str, Any]:
    """A line of a log, in which version 0.1.0 wrote no objective."""
    try:
        line = json.loads(text)
        return {"objective": line["mean_log_likelihood"], **line, **{name: int(line[name]) for name in WHOLE}}
    except (ValueError, TypeError, KeyError):
        raise DataError(f"line {number} of {shown(path)} is not a line of a convergence log; restore it") from None


def row_of(line: Mapping[str, Any]) -> list[float]:
    """The numbers of a line, in the order of `COLUMNS`; NaN for a null."""
    return [math.nan if line[name] is None else line[name] for name in COLUMNS]


def _encode(row: Iterable[float]) -> bytes:
    line = {
        name: None if math.isnan(value) else kind(value)
        for (name, kind), value in zip(COLUMNS.items(), row, strict=True)
    }
    return json.dumps(line).encode() + b"\n"
