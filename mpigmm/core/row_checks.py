"""Checks that raise an error for the first row that cannot be used."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from mpigmm.rows import Rows

LARGEST_MAGNITUDE = np.float64(1e140)
"""Largest magnitude of a value or a weight; a sum of squares of larger ones may overflow float64. Its type lets float32
be compared with it."""


class BadRowError(Exception):
    """A row that cannot be used.

    Parameters
    ----------
    row : int
        Number of the row, from 0, among the rows of the input that were selected.
    column : int or None
        Number of the column among those selected; None where the sample weight is at fault.
    value : float
        The value, or the sample weight.
    """

    def __init__(self, row: int, column: int | None, value: float) -> None:
        super().__init__(row, column, value)
        self.row = row
        self.column = column
        self.value = value


class BadLabelError(BadRowError):
    """A row whose starting label, or responsibility of the component `column`, cannot be used."""


def used_values(values: NDArray[np.generic], rows: Rows) -> NDArray[np.generic]:
    """Values (n, D) of rows, with zeros for those of weight zero."""
    weight = rows.sample_weight
    return values if weight is None else np.where(weight[:, None] == 0, 0, values)


def check_finite(values: NDArray[np.generic], first_row: int) -> None:
    """Raise `BadRowError` for the first NaN or infinity among values (n, D), whose first row has number first_row."""
    if values.dtype.kind == "f":
        refuse_first(~np.isfinite(values), values, first_row)


def check_magnitude(deviations: NDArray[np.generic], values: NDArray[np.generic], first_row: int) -> None:
    """Raise `BadRowError` for the first value (n, D) whose deviation (n, D) from the centre is too large to be
    squared."""
    refuse_first(np.abs(deviations) > LARGEST_MAGNITUDE, values, first_row)


def refuse_first(bad: NDArray[np.bool_], values: NDArray[np.generic], first_row: int) -> None:
    """Raise `BadRowError` for the first value (n, D) for which `bad` (n, D) is True."""
    if bad.any():
        row, column = np.argwhere(bad)[0]
        raise BadRowError(first_row + int(row), int(column), float(values[row, column]))


def check_sample_weight(rows: Rows) -> None:
    """Raise `BadRowError` for the first row whose sample weight is negative, too large or not finite."""
    if rows.sample_weight is None:
        return
    weight = rows.sample_weight.astype(np.float64)
    bad = ~((weight >= 0) & (weight < LARGEST_MAGNITUDE))
    if bad.any():
        row = int(bad.argmax())
        raise BadRowError(rows.first + row, None, float(weight[row]))


def check_label(rows: Rows, n_components: int) -> None:
    """Raise `BadLabelError` for the first row with a label other than -1 to n_components - 1, or with a responsibility
    that is negative, too large, or NaN beside numbers."""
    if rows.label is None:
        return
    label = rows.label if rows.label.ndim == 2 else rows.label[:, None]
    if rows.label.ndim == 1:
        bad = (label < -1) | (label >= n_components)
    else:
        bad = ~((label >= 0) & (label < LARGEST_MAGNITUDE)) & ~np.isnan(label).all(axis=1)[:, None]
    if bad.any():
        row, column = np.argwhere(bad)[0]
        which = int(column) if rows.label.ndim == 2 else None
        raise BadLabelError(rows.first + int(row), which, float(label[row, column]))
