"""Checks of rows, which raise an error that names the first row that cannot be used."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from mpigmm.rows import Rows

LARGEST_MAGNITUDE = 1e140
"""The square of a larger value may overflow float64 in a sum."""


class BadRowError(Exception):
    """A row that cannot be used.

    Parameters
    ----------
    row : int
        Number of the row, counted from the first row that is used of the input.
    column : int or None
        Column of the value at fault among those used; None where the weight is at fault.
    value : float
        The value, or the weight.
    """

    def __init__(self, row: int, column: int | None, value: float) -> None:
        super().__init__(row, column, value)
        self.row = row
        self.column = column
        self.value = value


def check_finite(values: NDArray[np.generic], first_row: int) -> None:
    """Raise `BadRowError` for the first NaN or infinity among values (n, D) of the rows from number first_row on."""
    if values.dtype.kind == "f":
        refuse_first(~np.isfinite(values), values, first_row)


def check_magnitude(deviations: NDArray[np.generic], values: NDArray[np.generic], first_row: int) -> None:
    """Raise `BadRowError` for the first of the deviations (n, D) of values (n, D) that is too large to square."""
    refuse_first(np.abs(deviations) > LARGEST_MAGNITUDE, values, first_row)


def refuse_first(bad: NDArray[np.bool_], values: NDArray[np.generic], first_row: int) -> None:
    """Raise `BadRowError` for the first of values (n, D) where `bad` (n, D) is True."""
    if bad.any():
        row, column = np.argwhere(bad)[0]
        raise BadRowError(first_row + int(row), int(column), float(values[row, column]))


def check_sample_weight(rows: Rows) -> None:
    """Raise `BadRowError` for the first row whose weight is negative, too large or not finite."""
    if rows.sample_weight is None:
        return
    weight = rows.sample_weight.astype(np.float64)
    bad = ~((weight >= 0) & (weight < LARGEST_MAGNITUDE))
    if bad.any():
        row = int(bad.argmax())
        raise BadRowError(rows.first + row, None, float(weight[row]))
