"""The unit of work: some rows, centred, features by rows, in aligned arrays that are used again and again."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mpigmm.core.backend import ALIGNMENT, DOUBLE, SINGLE, Array
from mpigmm.core.exact import FloatArray
from mpigmm.core.loops import NUMPY, Loops
from mpigmm.rows import Rows

BYTE = np.dtype(np.uint8)
LEAST_GPU_ROWS, MOST_GPU_ROWS, GPU_BYTES = 1 << 14, 1 << 16, 1 << 28
"""What a tile of a GPU's may be: as many rows as it has threads, or as many as fill some of its memory."""

MOST_SINGLE_ROWS = 1 << 15
"""Rows of a GPU's tile whose products are summed in float32."""


def default_rows(n_features: int, n_components: int, dtype: np.dtype[np.generic] = DOUBLE) -> int:
    """Rows of a tile where the user names none: few enough for the cache, enough to pay for rounding the statistics.

    A function of shape and precision alone, since the sums within a tile depend on it, and never a power
    of two: a cache has room for few lines that lie that far apart.
    """
    fit = 2**22 // dtype.itemsize // (n_features + n_components)
    wanted = max(fit, 8 * n_features, 1024)
    return int(min(16384, 2 ** (wanted.bit_length() - 1))) - ALIGNMENT // dtype.itemsize


def default_gpu_rows(n_features: int, n_components: int, dtype: np.dtype[np.generic] = DOUBLE) -> int:
    """The same where every rank has a GPU, which wants more rows at a time than a cache."""
    fit = GPU_BYTES // dtype.itemsize // (n_features + n_components)
    most = MOST_SINGLE_ROWS if dtype == SINGLE else MOST_GPU_ROWS
    return int(max(LEAST_GPU_ROWS, min(most, 2 ** (fit.bit_length() - 1))))


class Tile:
    """Work space of one thread for one tile of rows.

    Parameters
    ----------
    n_features : int
        D.
    max_rows : int
        Rows of a whole tile; the last tile of the data may be shorter.
    loops : Loops
        With their backend, in whose memory all arrays lie.

    Attributes
    ----------
    dtype : dtype
        float64 or float32, that of all arrays: set as the tile is filled.
    raw, centre : ndarrays of shape (n, D) and (D,)
        The rows as they are, whose difference the tile stands for; what depends on it is computed when first asked for.
    sample_weight : ndarray of shape (n,) or None
        Weight of each row, zero where masked; None where all are one.
    """

    def __init__(self, n_features: int, max_rows: int, loops: Loops = NUMPY) -> None:
        self.n_features = n_features
        self.max_rows = max_rows
        self.loops = loops
        self.dtype = DOUBLE
        self._buffers: dict[str, Array] = {}
        self._made: set[str] = set()
        self._wide: Tile | None = None
        self.sample_weight: FloatArray | None = None
        self.raw: NDArray[Any] = np.empty((0, n_features))
        self.centre = np.zeros(n_features)
        self._augmented = self.array("augmented", n_features + 1, max_rows)

    @property
    def n_rows(self) -> int:
        return len(self.raw)

    @property
    def augmented(self) -> FloatArray:
        """A line of ones and `rows`, (D + 1, n), so that one matrix product subtracts an offset as well."""
        if "augmented" not in self._made:
            self._augmented = self.array("augmented", self.n_features + 1, self.n_rows)
            self._augmented[0] = 1.0
            with np.errstate(invalid="ignore", over="ignore"):
                self.loops.turn(self.raw, self.centre, self._augmented[1:])
            self._made.add("augmented")
        return self._augmented

    @property
    def rows(self) -> FloatArray:
        """The rows less the centre, (D, n); zero where masked."""
        rows: FloatArray = self.augmented[1:]
        return rows

    def array(self, name: str, height: int, width: int, dtype: np.dtype[Any] | None = None) -> FloatArray:
        """A contiguous (height, width) array from the buffer of that name, which keeps its memory.

        It has the tile's dtype, or the one given.
        """
        dtype = dtype or self.dtype
        n_bytes = height * width * dtype.itemsize
        buffer = self._buffers.get(name)
        if buffer is None or buffer.size < n_bytes:
            buffer = self._buffers[name] = self.loops.backend.empty(n_bytes, BYTE)
        array: FloatArray = buffer[:n_bytes].view(dtype).reshape(height, width)
        return array

    def vector(self, name: str) -> FloatArray:
        """A vector of one number a row, from the buffer of that name."""
        return self.array(name, 1, self.n_rows).reshape(-1)

    def extended(self, n_more: int, make: Callable[[Tile, FloatArray], None]) -> FloatArray:
        """`augmented` with more lines below it, (D + 1 + n_more, n).

        make(tile, more) writes them into more (n_more, n), once for each time that the tile is filled.
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
        """`rows` in the order of a file, (n, D)."""
        by_row = self.array("by_row", self.n_rows, self.n_features)
        if "by_row" not in self._made:
            with np.errstate(invalid="ignore", over="ignore"):
                self.loops.subtract(self.raw, self.centre, by_row)
            self._made.add("by_row")
        return by_row

    def fill(self, rows: Rows, centre: FloatArray, *, mask: bool, dtype: np.dtype[Any] = DOUBLE) -> None:
        """Take rows as the content of the tile, without a copy of their values.

        Parameters
        ----------
        rows : Rows
            Values (n, D) of any real dtype and, where rows have weights, weights (n,), in the memory of the tile's own
            arrays. The values must not change before the next call.
        centre : ndarray of shape (D,), float64
            Subtracted from every row.
        mask : bool
            Whether rows of weight zero or with values that are not finite may occur. `mask` then replaces them, so
            that nothing they hold reaches a sum.
        dtype : dtype
            Of the tile's arrays. The centre is subtracted in float64, and the differences are rounded to this dtype.
        """
        self._made.clear()
        self.dtype = dtype
        self.raw, self.centre = rows.values, centre
        self.sample_weight = None if rows.sample_weight is None else rows.sample_weight.astype(dtype)
        if mask:
            self.mask()

    def mask(self) -> None:
        """Set weight to zero and values to the centre where a row has weight zero or values that are not finite."""
        xp = self.loops.xp
        rows = self.array("masked", self.n_rows, self.n_features, DOUBLE)
        with np.errstate(invalid="ignore", over="ignore"):
            self.loops.subtract(self.raw, self.centre, rows)
        used = xp.isfinite(rows).all(axis=1)
        weight = self.sample_weight
        if weight is not None:
            used &= weight > 0
        self.sample_weight = xp.where(used, 1.0 if weight is None else weight, 0.0).astype(self.dtype)
        xp.copyto(rows, 0.0, where=xp.broadcast_to(~used[:, None], rows.shape))
        self.raw, self.centre = rows, xp.zeros(self.n_features)
        self._made.clear()

    def widened(self) -> Tile:
        """The same rows in float64; without their weights."""
        if self.dtype == DOUBLE:
            return self
        if self._wide is None:
            self._wide = Tile(self.n_features, self.max_rows, self.loops)
        if "wide" not in self._made:
            self._wide.fill(Rows.of(self.raw), self.centre, mask=False)
            self._made.add("wide")
        return self._wide
