"""The unit of work: some rows minus the data's centre, in aligned buffers that a thread uses again for each tile."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from mpigmm.core.arrays import DOUBLE, Array, Arrays
from mpigmm.core.exact import FloatArray, LimbOps
from mpigmm.rows import Rows

BYTE = np.dtype(np.uint8)
FEW, LEAST_DISTANCE = 32, 16
"""Number of rows of `Tile.examples`, and least distance from one to the next."""


class RowOps(LimbOps, Protocol):
    """The part of `Ops` that a tile uses."""

    @property
    def xp(self) -> Any:
        """The array library."""

    arrays: Arrays

    def center_transpose(self, raw: Array, centre: FloatArray, out: FloatArray) -> None:
        """Rows (n, D) of any real dtype minus the centre (D,) into out (D, n)."""

    def center(self, raw: Array, centre: FloatArray, out: FloatArray) -> None:
        """Rows (n, D) of any real dtype minus the centre (D,) into out (n, D)."""


class Tile:
    """One tile of rows, and the buffers of the thread that works on it.

    Buffers keep their memory when the tile is filled with other rows.

    Parameters
    ----------
    n_features : int
        D.
    max_rows : int
        Largest number of rows; the last tile of the data may have fewer.
    ops : RowOps
        Its `arrays` create the buffers.

    Attributes
    ----------
    dtype : dtype
        float64 or float32: the default for arrays of the tile, set by `fill`.
    raw, centre : ndarrays of shape (n, D) and (D,)
        Rows of any real dtype, and the centre. The tile stands for their difference, which is computed when it is first
        needed, in the layout that is needed.
    sample_weight : ndarray of shape (n,) or None
        Sample weight of each row, zero where the row is masked; None where all are one.
    """

    def __init__(self, n_features: int, max_rows: int, ops: RowOps) -> None:
        self.n_features = n_features
        self.max_rows = max_rows
        self.ops = ops
        self.dtype = DOUBLE
        self._buffers: dict[str, Array] = {}
        self._made: set[str] = set()
        self._wide: Tile | None = None
        self._examples: Tile | None = None
        self.sample_weight: FloatArray | None = None
        self.raw: NDArray[Any] = np.empty((0, n_features))
        self.centre = np.zeros(n_features)
        self._augmented = self.array("augmented", n_features + 1, max_rows)

    @property
    def n_rows(self) -> int:
        return len(self.raw)

    @property
    def augmented(self) -> FloatArray:
        """A one and the features of each row, (D + 1, n): ones above `rows`, so that a matrix product can add an
        offset."""
        if "augmented" not in self._made:
            self._augmented = self.array("augmented", self.n_features + 1, self.n_rows)
            self._augmented[0] = 1.0
            with np.errstate(invalid="ignore", over="ignore"):
                self.ops.center_transpose(self.raw, self.centre, self._augmented[1:])
            self._made.add("augmented")
        return self._augmented

    @property
    def rows(self) -> FloatArray:
        """The rows minus the centre, transposed, (D, n); zero where masked."""
        rows: FloatArray = self.augmented[1:]
        return rows

    def array(self, name: str, height: int, width: int, dtype: np.dtype[Any] | None = None) -> FloatArray:
        """A contiguous (height, width) array in the buffer of that name; it overwrites earlier arrays of the same name.

        The dtype is that of the tile by default.
        """
        dtype = dtype or self.dtype
        n_bytes = height * width * dtype.itemsize
        buffer = self._buffers.get(name)
        if buffer is None or buffer.size < n_bytes:
            buffer = self._buffers[name] = self.ops.arrays.empty(n_bytes, BYTE)
        array: FloatArray = buffer[:n_bytes].view(dtype).reshape(height, width)
        return array

    def vector(self, name: str) -> FloatArray:
        """A vector (n,) with a number for each row, in the buffer of that name."""
        return self.array(name, 1, self.n_rows).reshape(-1)

    def extended(self, n_more: int, make: Callable[[Tile, FloatArray], None]) -> FloatArray:
        """phi(x) of each row, (D + 1 + n_more, n): `augmented`, and below it n_more functions of the features.

        make(tile, more) writes these into more (n_more, n); it is called once for each time that the tile is filled.
        """
        height, augmented = self.n_features + 1, self.augmented
        place = self._buffers["augmented"]
        whole = self.array("augmented", height + n_more, self.n_rows)
        if "more" not in self._made:
            if self._buffers["augmented"] is not place:
                whole[:height] = augmented
                self._augmented = whole[:height]
            make(self, whole[height:])
            self._made.add("more")
        return whole

    def by_row(self) -> FloatArray:
        """The rows minus the centre, (n, D)."""
        by_row = self.array("by_row", self.n_rows, self.n_features)
        if "by_row" not in self._made:
            with np.errstate(invalid="ignore", over="ignore"):
                self.ops.center(self.raw, self.centre, by_row)
            self._made.add("by_row")
        return by_row

    def fill(self, rows: Rows, centre: FloatArray, *, mask: bool, dtype: np.dtype[Any] = DOUBLE) -> None:
        """Set the content of the tile, without a copy of the rows' values.

        Parameters
        ----------
        rows : Rows
            Values (n, D) of any real dtype and, where rows have them, sample weights (n,), in the memory of the tile's
            arrays. The values must not change before the next call.
        centre : ndarray of shape (D,), float64
            Subtracted from every row.
        mask : bool
            Whether rows of weight zero, or with values that are not finite, may occur. They are then masked, so that
            none of their values enters a sum.
        dtype : dtype
            float32 or float64, for the arrays of the tile. The centre is subtracted in float64, and the differences are
            rounded to this dtype.
        """
        self._made.clear()
        self.dtype = dtype
        self.raw, self.centre = rows.values, centre
        self.sample_weight = None if rows.sample_weight is None else rows.sample_weight.astype(dtype)
        if mask:
            self.mask()

    def mask(self) -> None:
        """Mask each row that has weight zero or values that are not finite: its weight becomes 0, its values the
        centre."""
        xp = self.ops.xp
        rows = self.array("masked", self.n_rows, self.n_features, DOUBLE)
        with np.errstate(invalid="ignore", over="ignore"):
            self.ops.center(self.raw, self.centre, rows)
        used = xp.isfinite(rows).all(axis=1)
        weight = self.sample_weight
        if weight is not None:
            used &= weight > 0
        self.sample_weight = xp.where(used, 1.0 if weight is None else weight, 0.0).astype(self.dtype)
        xp.copyto(rows, 0.0, where=xp.broadcast_to(~used[:, None], rows.shape))
        self.raw, self.centre = rows, xp.zeros(self.n_features)
        self._made.clear()

    def widened(self) -> Tile:
        """A tile with the same rows in float64, without sample weights; this tile if it is of float64 itself."""
        if self.dtype == DOUBLE:
            return self
        if self._wide is None:
            self._wide = Tile(self.n_features, self.max_rows, self.ops)
        if "wide" not in self._made:
            self._wide.fill(Rows.of(self.raw), self.centre, mask=False)
            self._made.add("wide")
        return self._wide

    def examples(self) -> Tile:
        """A tile with `FEW` of the rows, or a few more, at equal distances of at least `LEAST_DISTANCE` rows; this tile
        if it has too few."""
        step = self.n_rows // FEW
        if step < LEAST_DISTANCE:
            return self
        if self._examples is None:
            self._examples = Tile(self.n_features, 2 * FEW, self.ops)
        weight = None if self.sample_weight is None else self.sample_weight[::step]
        self._examples.fill(Rows.of(self.raw[::step], weight), self.centre, mask=False, dtype=self.dtype)
        return self._examples
