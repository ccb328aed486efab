"""Rows in the memory of the program that calls mpigmm: arrays of its own on every rank."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeGuard

import numpy as np
from numpy.typing import NDArray

from mpigmm.data.row_files import Name, told
from mpigmm.data.source import Header, Source, locate
from mpigmm.rows import LABEL, SAMPLE_WEIGHT, VALUES, Field, Fields, Rows

Columns = Sequence[NDArray[Any]]
"""One array (n,) for each feature."""


@dataclass(frozen=True)
class ArrayHeader(Header):
    """Description of the rows of all ranks: `lengths` are numbers of rows by rank, and `paths` is empty."""

    @classmethod
    def of(
        cls,
        lengths: Sequence[int],
        dtype: str,
        n_features: int,
        *,
        is_weighted: bool,
        label: Field | None = None,
        feature_names: tuple[str, ...] | None = None,
    ) -> ArrayHeader:
        """The header of matrices with so many rows on each rank, with or without weights and starting labels."""
        names: dict[str, Name] = {VALUES: "X"}
        fields = {VALUES: Field(dtype, n_features)}
        if is_weighted:
            names[SAMPLE_WEIGHT], fields[SAMPLE_WEIGHT] = "sample_weight", Field("float64")
        if label is not None:
            names[LABEL], fields[LABEL] = "labels", label
        return cls((), tuple(lengths), names, fields, None, 0, sum(lengths), n_features, feature_names)

    @property
    def weights_name(self) -> str:
        return told(self.datasets[SAMPLE_WEIGHT])

    @property
    def labels_name(self) -> str:
        return told(self.datasets[LABEL])

    @property
    def named_by(self) -> str:
        return "the rows that each rank brings"

    @property
    def by_columns(self) -> str:
        return ""

    @property
    def selected_by(self) -> str:
        return "X, sample_weight and data.missing"

    @property
    def files(self) -> str:
        return self.dataset

    def where(self, row: int) -> str:
        rank, local = locate(row, self.lengths)
        return f"row {local:,} of {self.dataset}" + (f" on rank {rank}" if len(self.lengths) > 1 else "")


class ArraySource(Source):
    """The rows that a rank holds as arrays of the caller's, which are not changed and not copied as a whole.

    Parameters
    ----------
    header : ArrayHeader
    rank : int
    values : ndarray of shape (n, D), or sequence of D ndarrays of shape (n,)
        With any strides.
    sample_weight : ndarray of shape (n,), optional
    label : ndarray of shape (n,) or (n, K), optional
        Starting labels or responsibilities.
    """

    def __init__(
        self,
        header: ArrayHeader,
        rank: int,
        values: NDArray[Any] | Columns,
        sample_weight: NDArray[Any] | None = None,
        label: NDArray[Any] | None = None,
    ) -> None:
        self.header = header
        first = header.first_rows[rank]
        self.held = range(first, first + header.lengths[rank])
        self._arrays: dict[str, NDArray[Any] | Columns] = {VALUES: values}
        for name, array in ((SAMPLE_WEIGHT, sample_weight), (LABEL, label)):
            if name in header.fields:
                self._arrays[name] = np.empty(header.fields[name].shape(0)) if array is None else array
        self._cut: Rows | None = None
        self.has_views = all(is_viewable(self._arrays[name], field) for name, field in header.kept_fields.items())

    def copy_into(self, rows: Rows) -> None:
        """Fill a record with the rows of its numbers."""
        for name, array in self.read(rows.first, rows.first + len(rows), rows).arrays.items():
            if array is not rows.arrays[name]:
                rows.arrays[name][:] = array

    def keep(self, cut: Rows) -> None:
        """Keep the rows of a tile of which other ranks hold a part; `read` takes them from there from now on."""
        self._cut = cut

    def read(self, start: int, stop: int, into: Rows | None = None, fields: Fields | None = None) -> Rows:
        names = (fields or self.header.fields) if into is None else into.arrays
        cut = self._cut
        if cut is not None and start >= cut.first:
            return cut[start - cut.first : stop - cut.first].chosen(names)
        assert self.held is not None
        part = slice(start - self.held.start, stop - self.held.start)
        found = {}
        for name in names:
            array, field = self._arrays[name], self.header.fields[name]
            if is_viewable(array, field):
                found[name] = array[part]
            else:
                space = np.empty(field.shape(stop - start), field.dtype) if into is None else into.arrays[name]
                found[name] = copy(array, part, space[: stop - start])
        return Rows(start, found)


def is_viewable(array: NDArray[Any] | Columns, field: Field) -> TypeGuard[NDArray[Any]]:
    """Whether rows of an array are contiguous, of the field's dtype, and at addresses that fit it."""
    if not isinstance(array, np.ndarray) or array.dtype != field.dtype:
        return False
    return bool(array.flags.c_contiguous and array.flags.aligned)


def copy(array: NDArray[Any] | Columns, part: slice, out: NDArray[Any]) -> NDArray[Any]:
    """Write some rows to `out`, which is returned."""
    if isinstance(array, np.ndarray):
        out[:] = array[part]
    else:
        for feature, column in enumerate(array):
            out[:, feature] = column[part]
    return out
