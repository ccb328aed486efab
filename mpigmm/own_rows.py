"""The arrays that each rank gives in a call from Python, checked and described as one source of rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mpigmm.data.array_source import ArrayHeader, ArraySource, Columns
from mpigmm.data.row_files import names_text
from mpigmm.errors import DataError, counted
from mpigmm.parallel.comm import Comm
from mpigmm.rows import Field, label_field, label_text

Matrix = ArrayLike | Sequence[NDArray[Any]]
"""Rows as the caller gives them: a matrix (n, D), or a tuple of D arrays (n,)."""


@dataclass(frozen=True, eq=False)
class OwnRows:
    """The rows that a rank brings.

    Attributes
    ----------
    values : ndarray of shape (n, D), or list of D ndarrays of shape (n,)
    sample_weight : ndarray of shape (n,) or None
    label : ndarray of shape (n,) or (n, K) or None
        Starting labels, or responsibilities.
    feature_names : tuple of str or None
        Names of the columns of a data frame.
    columns : tuple of int or None
        Which columns of X the values are; None: all.
    """

    values: NDArray[Any] | Columns
    sample_weight: NDArray[Any] | None
    label: NDArray[Any] | None = None
    feature_names: tuple[str, ...] | None = None
    columns: tuple[int, ...] | None = None

    @classmethod
    def of(cls, X: Matrix, sample_weight: ArrayLike | None, labels: ArrayLike | None = None) -> OwnRows:  # noqa: N803
        """Check the arrays of a caller; raises `DataError`."""
        values = columns_of(X) if isinstance(X, tuple) else matrix_of(X)
        own = cls(
            values,
            None if sample_weight is None else array_of(sample_weight, "sample_weight"),
            None if labels is None else array_of(labels, "labels"),
            names_in(X),
        )
        own._check_label()
        weight = own.sample_weight
        if weight is not None and weight.shape != (own.n_rows,):
            raise DataError(
                f"sample_weight has shape {weight.shape}, but X has {counted(own.n_rows, 'row')}; give one weight a row"
            )
        return own

    def chosen(self, columns: Sequence[int]) -> OwnRows:
        """The same rows with these columns alone, which are not copied."""
        values = self.values
        found = [values[:, column] if isinstance(values, np.ndarray) else values[column] for column in columns]
        names = self.feature_names and tuple(self.feature_names[column] for column in columns)
        return replace(self, values=found, columns=tuple(columns), feature_names=names)

    def _check_label(self) -> None:
        """Raise `DataError` where labels are not one a row."""
        if self.label is not None and self.label.shape[:1] != (self.n_rows,):
            raise DataError(
                f"labels has shape {self.label.shape}, but X has {counted(self.n_rows, 'row')}; give a label or a row "
                "of responsibilities for each"
            )
        _ = self.label_field

    @property
    def label_field(self) -> Field | None:
        """The field of the labels; raises `DataError` where they are neither labels nor responsibilities.

        None where there are no rows.
        """
        if self.label is None or not self.n_rows:
            return None
        try:
            return label_field(self.label.shape, self.label.dtype)
        except ValueError as error:
            raise DataError(f"labels {error}") from None

    @property
    def n_rows(self) -> int:
        return len(self.values) if isinstance(self.values, np.ndarray) else len(self.values[0])

    @property
    def shape(self) -> OwnShape:
        arrays = [self.values] if isinstance(self.values, np.ndarray) else self.values
        width = self.values.shape[1] if isinstance(self.values, np.ndarray) else len(self.values)
        dtype = np.result_type(*(array.dtype for array in arrays)).newbyteorder("=")
        is_weighted = self.sample_weight is not None
        return OwnShape(self.n_rows, width, dtype.str, is_weighted, self.label_field, self.feature_names)


@dataclass(frozen=True)
class OwnShape:
    """Rows, features and dtype of the rows that a rank brings, whether they have weights, the field of their labels,
    and the names of the features."""

    n_rows: int
    n_features: int
    dtype: str
    is_weighted: bool
    label: Field | None = None
    feature_names: tuple[str, ...] | None = None


def names_in(X: object) -> tuple[str, ...] | None:  # noqa: N803
    """Names of the columns of a data frame, if they are texts; None where they are not, and of other matrices."""
    names = tuple(getattr(X, "columns", ()))
    return names if names and all(isinstance(name, str) for name in names) else None


def columns_of(arrays: Sequence[Any]) -> list[NDArray[Any]]:
    """The columns of a matrix, from a tuple of vectors; raises `DataError`."""
    columns = [array_of(array, f"X[{i}]") for i, array in enumerate(arrays)]
    if not columns:
        raise DataError("X is an empty tuple; give one array (n,) for each feature")
    for i, column in enumerate(columns):
        if column.ndim != 1:
            raise DataError(f"X[{i}] has shape {column.shape}; in a tuple, a vector (n,) holds one feature of all rows")
        if len(column) != len(columns[0]):
            raise DataError(f"X[{i}] has {len(column)} entries, but X[0] has {len(columns[0])}; each needs one a row")
    return columns


def matrix_of(X: object) -> NDArray[Any]:  # noqa: N803
    """A matrix (n, D); raises `DataError`."""
    matrix = array_of(X, "X")
    if matrix.ndim == 1 and not matrix.size:
        return matrix.reshape(0, 0)
    if matrix.ndim != 2:
        advice = "X[:, None] is one feature, X[None, :] one row" if matrix.ndim == 1 else "rows first, then features"
        raise DataError(f"X has shape {matrix.shape}, but a matrix (n_samples, n_features) is needed: {advice}")
    return matrix


def array_of(value: object, name: str) -> NDArray[Any]:
    """An array of real numbers, a copy only where value is none; raises `DataError`."""
    if isinstance(value, np.ma.MaskedArray):
        raise DataError(f"{name} is a masked array; leave the masked rows out, or fill it with NaN")
    try:
        array = np.asarray(value)
    except (TypeError, ValueError) as error:
        raise DataError(f"{name} is no array of numbers ({error}); convert it to a NumPy array") from None
    if array.dtype.kind not in "iuf" or array.dtype.itemsize > 8:
        raise DataError(f"{name} has dtype {array.dtype}, but integers or float16, 32 or 64 are needed; convert it")
    return array


def array_source(comm: Comm, own: OwnRows) -> ArraySource:
    """The rows of all ranks as a source. Collective; raises `AgreedError`."""
    shapes = comm.allgather(own.shape)
    with comm.together():
        header = replace(common_header(shapes), columns=own.columns)
    return ArraySource(header, comm.rank, own.values, own.sample_weight, own.label)


def common_header(shapes: Sequence[OwnShape]) -> ArrayHeader:
    """The header of the rows of all ranks; raises `DataError` where they do not fit together.

    Ranks without rows may have any number of features, and weights and labels or none.
    """
    with_rows = {rank: shape for rank, shape in enumerate(shapes) if shape.n_rows}
    if not with_rows:
        return ArrayHeader.of([0] * len(shapes), shapes[0].dtype, shapes[0].n_features, is_weighted=False)
    first, like = next(iter(with_rows.items()))
    for rank, shape in with_rows.items():
        if shape.n_features != like.n_features:
            raise DataError(
                f"X has {counted(shape.n_features, 'feature')} on rank {rank}, but {like.n_features} on rank {first}; "
                "give all ranks rows with the same features"
            )
        if shape.feature_names != like.feature_names:
            raise DataError(
                f"X has the columns {names_told(shape.feature_names)} on rank {rank}, but "
                f"{names_told(like.feature_names)} on rank {first}; give all ranks rows with the same features"
            )
        if shape.is_weighted != like.is_weighted:
            has, lacks = (rank, first) if shape.is_weighted else (first, rank)
            raise DataError(
                f"sample_weight is given on rank {has}, but not on rank {lacks}; give it on all ranks, or on none"
            )
        if shape.label != like.label:
            raise DataError(
                f"labels: rank {rank} gives {label_text(shape.label)}, but rank {first} {label_text(like.label)}; give "
                "the same kind on all ranks"
            )
    if not like.n_features:
        raise DataError("X has no columns")
    dtype = np.result_type(*(shape.dtype for shape in with_rows.values())).str
    lengths = [shape.n_rows for shape in shapes]
    return ArrayHeader.of(
        lengths,
        dtype,
        like.n_features,
        is_weighted=like.is_weighted,
        label=like.label,
        feature_names=like.feature_names,
    )


def names_told(names: tuple[str, ...] | None) -> str:
    """Names of columns, for a message."""
    return names_text(names) if names else "without names"
