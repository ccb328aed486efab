"""Rows as a record of named arrays, in which entry i of every array belongs to row i."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

VALUES, SAMPLE_WEIGHT, LABEL = "values", "sample_weight", "label"
"""Names of the arrays of features, of weights and of starting labels."""


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
        ``values`` (n, D); ``sample_weight`` (n,) where rows have weights; ``label`` where they have starting labels
        and these are asked for: components (n,), -1 for none, or responsibilities (n, K) that need not sum to one. All
        are in the memory of the host or of a GPU.
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

    @property
    def label(self) -> NDArray[Any] | None:
        """Starting labels (n,) or responsibilities (n, K) of the rows; None where they have none."""
        return self.arrays.get(LABEL)

    def __len__(self) -> int:
        return len(next(iter(self.arrays.values())))

    def __getitem__(self, part: slice) -> Rows:
        """Views of rows part.start to part.stop - 1, counted from the first row of this record."""
        return Rows(self.first + (part.start or 0), {name: array[part] for name, array in self.arrays.items()})

    def chosen(self, names: Iterable[str]) -> Rows:
        """The record of the same rows with the arrays of these names alone."""
        return Rows(self.first, {name: self.arrays[name] for name in names})

    def mapped(self, function: Callable[[NDArray[Any]], NDArray[Any]]) -> Rows:
        """A record of the same rows that holds function(array) in place of each array."""
        return Rows(self.first, {name: function(array) for name, array in self.arrays.items()})


def label_field(shape: tuple[int, ...], dtype: np.dtype[Any]) -> Field:
    """The field of starting labels of this shape and dtype; raises `ValueError`, whose text says what they have."""
    if len(shape) == 2:
        return Field("float64", shape[1])
    if len(shape) == 1 and dtype.kind in "iu":
        return Field("int64")
    raise ValueError(
        f"has shape {shape} and dtype {dtype}; starting labels are integers (n_samples,), or responsibilities "
        "(n_samples, n_components)"
    )


def label_text(label: Field | None) -> str:
    """Starting labels in words, for a message."""
    if label is None:
        return "none"
    return "a label a row" if label.width is None else f"responsibilities (n_samples, {label.width})"


def row_bytes(fields: Fields) -> int:
    """Bytes of one row in all arrays of a record."""
    return sum(field.row_bytes for field in fields.values())
