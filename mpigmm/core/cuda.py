"""The loops over a tile on a GPU, from kernels.cu: what CuPy has no fast function for."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from mpigmm.core.backend import DOUBLE, SINGLE, Array, Gpu
from mpigmm.core.exact import LIMB_BITS, FixedPoint
from mpigmm.core.groups import DifferenceGroup, Products, Wanted
from mpigmm.core.loops import LEAST_EXPONENT, LEAST_SINGLE_EXPONENT, Indices, Loops
from mpigmm.core.tile import MOST_SINGLE_ROWS, Tile
from mpigmm.core.triangle import lower_triangle

MOST_LINES = 65535
"""Blocks that a grid has in its second direction."""

THREADS = 256
"""Of a block; neighbours take neighbouring rows."""

GROUP = 16
"""Features of a thread, as in kernels.cu."""

SLICE = 32
"""Components of a thread in a log-sum-exp."""

ROWS_OF_A_SUM = 256
"""Rows that a thread adds up."""

LINES_AT_ONCE = 256
"""Whitened coordinates that one product computes, of as many components as they suffice for."""

RAW_TYPES = ("f8", "f4", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8")
"""Types of rows that need no conversion first; the kernels `turn` are called by these."""

REALS = {DOUBLE: ("double", LEAST_EXPONENT), SINGLE: ("float", LEAST_SINGLE_EXPONENT)}


class CudaLoops(Loops):
    """In CUDA, one tile after another on one GPU.

    What they cost is reckoned for an H100 (60 TFLOP/s in float64 products, 3 TB/s), and not measured.
    """

    name = "cuda"
    block_height = 64
    flops = 4e4
    touch = 0.006
    call = float("inf")
    picking = 1.0
    thin = 48.0
    phi = 0.01
    picks = False
    fuses = False

    def __init__(self, gpu: Gpu) -> None:
        self.backend: Gpu = gpu
        self._form: FixedPoint | None = None
        self._quanta: Array = None
        self.lower_triangle = cache(self._lower_triangle)  # type: ignore[method-assign]
        with gpu.guarded():  # a first kernel: whether they compile here
            length = gpu.zeros(1, DOUBLE).reshape(1, 1)
            self.multiply(Products.LENGTH, length, length)
            gpu.get(length)

    def turn(self, raw: Array, centre: Array, out: Array) -> None:
        n, d = raw.shape
        name = f"turn_{raw.dtype.str[1:]}"
        self._launch(name, out.dtype, n, -(-d // GROUP), raw, n, d, centre, out)

    def subtract(self, raw: Array, centre: Array, out: Array) -> None:
        self.xp.subtract(raw, centre, out=out, casting="same_kind")

    def multiply(self, kind: Products, rows: Array, out: Array) -> None:
        d, n = rows.shape
        if kind is Products.SQUARES:
            self.xp.multiply(rows, rows, out=out)
        elif kind is Products.LENGTH:
            self._launch("lengths", rows.dtype, n, 1, rows, d, n, 0.0, 1.0, out)
        else:
            self._launch("pairs", rows.dtype, n, d, rows, n, out)

    def distances(self, tile: Tile, rows: Array, means: Array, precisions: Array, start: Array, out: Array) -> None:
        (d, n), step = rows.shape, int(precisions.shape[1] > 1)
        for first in range(0, len(means), MOST_LINES):
            some = slice(first, first + MOST_LINES)
            of_some = means[some], precisions[some], step, start[some], out[some]
            self._launch("distances", rows.dtype, n, len(means[some]), rows, d, n, *of_some)

    def add_squares(self, tile: Tile, group: DifferenceGroup, resp: Array, first: Array, second: Array) -> None:
        (k, d), n = group.means.shape, tile.n_rows
        slices = -(-n // ROWS_OF_A_SUM)
        parts = [tile.array(name, slices, k * d) for name in ("first_parts", "second_parts")]
        self._launch("moments", DOUBLE, k * d, slices, tile.rows, d, n, resp, k, group.means, ROWS_OF_A_SUM, *parts)
        first[:], squares = (part.sum(axis=0).reshape(k, d) for part in parts)
        second[:] = squares if group.wanted is Wanted.EACH_FEATURE else squares.sum(axis=1)

    def scale(self, tile: Tile, weights: Array, mean: Array, out: Array) -> Array:
        root, (d, n) = tile.vector("root"), out.shape
        self._launch("scale", out.dtype, n, -(-d // GROUP), tile.rows, d, n, weights, mean, root, out)
        return root

    def sums(self, tile: Tile, name: str, left: Array, right: Array) -> Array:
        if tile.dtype == DOUBLE:
            return self.xp.matmul(left, right.T, out=tile.array(name, len(left), len(right)))
        starts = range(0, tile.n_rows, MOST_SINGLE_ROWS)
        parts = tile.array(name, len(starts), len(left) * len(right)).reshape(len(starts), len(left), len(right))
        for part, start in zip(parts, starts, strict=True):
            some = slice(start, start + MOST_SINGLE_ROWS)  # CuPy copies the parts of a larger tile
            self.xp.matmul(left[:, some], right[:, some].T, out=part)
        return parts.sum(axis=0, dtype=DOUBLE)

    def _lower_triangle(self, n_features: int) -> Indices:
        return self.backend.put(lower_triangle(n_features))  # type: ignore[no-any-return]

    def normalise(self, log_prob: Array, tile: Tile) -> tuple[Array, Array]:
        (k, n), log_density = log_prob.shape, tile.vector("log_density")
        slices = -(-k // SLICE)
        top, total = tile.array("top", slices, n), tile.array("total", slices, n)
        self._launch("sum_slices", tile.dtype, n, slices, log_prob, k, n, SLICE, top, total)
        self._launch("normalise", tile.dtype, n, slices, log_prob, k, n, SLICE, slices, top, total, log_density)
        return log_prob, log_density

    def subtract_lengths(self, tile: Tile, lines: Array, out: Array, start: Array | None = None) -> None:
        height, width = lines.shape[1:]
        group = max(1, LINES_AT_ONCE // height)
        if start is not None:
            out[:] = start[:, None]
        for first in range(0, len(out), group):
            some, into = lines[first : first + group].reshape(-1, width), out[first : first + group]
            whitened = tile.array("whitened", len(some), tile.n_rows)
            self.xp.matmul(some, tile.augmented[:width], out=whitened)
            self._launch("lengths", tile.dtype, tile.n_rows, len(into), whitened, height, tile.n_rows, 1.0, -0.5, into)

    def add(self, form: FixedPoint, limbs: Array, values: Array) -> None:
        """`FixedPoint.add`, which leaves the limbs as `exact.carry` does."""
        if form is not self._form:
            self._form, self._quanta = form, self.backend.put(form.quanta)
        n_limbs, size = limbs.shape
        self._launch("add", DOUBLE, size, 1, limbs, n_limbs, size, values, self._quanta, np.int32(LIMB_BITS))

    def carry(self, limbs: Array) -> None:
        """Nothing is left to carry."""

    def _launch(self, name: str, dtype: np.dtype[Any], n_rows: int, n_lines: int, *arguments: Any) -> None:
        """Run a kernel for n_rows times n_lines threads; ints become C's long long, floats the kernel's REAL."""
        kinds: dict[type, type] = {int: np.int64, float: dtype.type}
        typed = tuple(kinds[type(value)](value) if type(value) in kinds else value for value in arguments)
        self._kernel(name, dtype)((-(-n_rows // THREADS), n_lines), (THREADS,), typed)

    def _kernel(self, name: str, dtype: np.dtype[Any]) -> Any:
        return self.backend.kernel(name, source(), compiler_options(dtype))


@cache
def source() -> str:
    """The kernels' source."""
    return Path(__file__).with_name("kernels.cu").read_text()


def compiler_options(dtype: np.dtype[Any]) -> tuple[str, ...]:
    """What makes the kernels those of a precision."""
    real, least = REALS[dtype]
    return f"-DREAL={real}", f"-DLEAST={least}"


def readable(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """The type in which rows of a type are sent to a GPU."""
    return dtype if dtype.isnative and dtype.str[1:] in RAW_TYPES else DOUBLE
