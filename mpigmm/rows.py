"""Rows as a record of named arrays, in which entry i of every array belongs to row i."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

VALUES, SAMPLE_WEIGHT = "values", "sample_weight"
"""Names of the arrays of features and of weights."""


@dataclass(frozen=True)
class Field:
    """Dtype and width of one array of a record.

    Attributes
    ----------
    dtype : str
        NumPy's name of the dtype.
    width : int or None
        Columns of a matrix (n, width); None: the array is a vector (n,).
    """

    dtype: str
    width: int | None = None

    @property
    def n_columns(self) -> int:
        """Numbers for one row."""
        return 1 if self.width is None else self.width

    @property
    def row_bytes(self) -> int:
        """Bytes for one row."""
        return np.dtype(self.dtype).itemsize * self.n_columns

    def shape(self, n_rows: int) -> tuple[int, ...]:
        """Shape of the array of this many rows."""
        return (n_rows,) if self.width is None else (n_rows, self.width)


Fields = Mapping[str, Field]
"""The arrays of a record by name, in the order in which a tile's hash takes them."""


@dataclass(frozen=True, eq=False)
class Rows:
    """Consecutive rows.

    Attributes
    ----------
    first : int
        Number of the first of these rows, counted from the first row of the input that is used.
    arrays : dict of str to ndarray
        ``values`` (n, D); ``sample_weight`` (n,) where rows have weights; in the memory of the host or of a GPU.
    """

    first: int
    arrays: dict[str, NDArray[Any]]

    @classmethod
    def of(cls, values: NDArray[Any], sample_weight: NDArray[Any] | None = None, first: int = 0) -> Rows:
        """The record of values (n, D) and, where given, weights (n,)."""
        arrays = {VALUES: values} if sample_weight is None else {VALUES: values, SAMPLE_WEIGHT: sample_weight}
        return cls(first, arrays)

    @classmethod
    def empty(cls, first: int, n_rows: int, fields: Fields) -> Rows:
        """A record of n_rows uninitialised rows."""
        return cls(first, {name: np.empty(field.shape(n_rows), field.dtype) for name, field in fields.items()})

    @property
    def values(self) -> NDArray[Any]:
        """Features of the rows, (n, D)."""
        return self.arrays[VALUES]

    @property
    def sample_weight(self) -> NDArray[Any] | None:
        """Weights of the rows, (n,); None where all are one."""
        return self.arrays.get(SAMPLE_WEIGHT)

    def __len__(self) -> int:
        return len(self.values)

    def __getitem__(self, part: slice) -> Rows:
        """Views of rows part.start to part.stop - 1, counted from the first row of this record."""
        return Rows(self.first + (part.start or 0), {name: array[part] for name, array in self.arrays.items()})

    def mapped(self, function: Callable[[NDArray[Any]], NDArray[Any]]) -> Rows:
        """A record of the same rows that holds function(array) in place of each array."""
        return Rows(self.first, {name: function(array) for name, array in self.arrays.items()})


def row_bytes(fields: Fields) -> int:
    """Bytes of one row in all arrays of a record."""
    return sum(field.row_bytes for field in fields.values())
