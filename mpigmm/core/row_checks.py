"""Checks of rows, which raise an error that names the first row that cannot be used."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

LARGEST_MAGNITUDE = 1e140
"""The square of a larger value may overflow float64 in a sum."""


class BadRowError(Exception):
    """A row that cannot be used.

    Parameters
    ----------
    row : int
        Its number, counted from the first row of the selection.
    column : int or None
        Its column among those selected; None where the weight is at fault.
    value : float
        What stands there.
    """

    def __init__(self, row: int, column: int | None, value: float) -> None:
        super().__init__(row, column, value)
        self.row = row
        self.column = column
        self.value = value


def check_finite(raw: NDArray[np.generic], first_row: int) -> None:
    """Raise `BadRowError` for the first NaN or infinity among rows (n, D)."""
    if raw.dtype.kind == "f":
        refuse_first(~np.isfinite(raw), raw, first_row)


def check_magnitude(values: NDArray[np.generic], raw: NDArray[np.generic], first_row: int) -> None:
    """Raise `BadRowError` for the first of values (n, D), made of raw (n, D), that is too large to square."""
    refuse_first(np.abs(values) > LARGEST_MAGNITUDE, raw, first_row)


def refuse_first(bad: NDArray[np.bool_], raw: NDArray[np.generic], first_row: int) -> None:
    """Raise `BadRowError` for the first True of bad (n, D)."""
    if bad.any():
        row, column = np.argwhere(bad)[0]
        raise BadRowError(first_row + int(row), int(column), float(raw[row, column]))


def check_sample_weight(weights: NDArray[np.generic] | None, first_row: int) -> None:
    """Raise `BadRowError` for the first weight that is negative or not finite."""
    if weights is None:
        return
    values = weights.astype(np.float64)
    bad = ~((values >= 0) & (values < LARGEST_MAGNITUDE))
    if bad.any():
        row = int(bad.argmax())
        raise BadRowError(first_row + row, None, float(values[row]))
