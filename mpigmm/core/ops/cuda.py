"""Array operations on a GPU, by CuPy and, where CuPy has no fast function, by CUDA kernels."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from mpigmm.core.arrays import DOUBLE, SINGLE, Array, Indices
from mpigmm.core.exact import LIMB_BITS, FixedPoint
from mpigmm.core.gpu.arrays import CudaKernel, GpuArrays
from mpigmm.core.ops.base import LEAST_EXPONENTS, OpsCosts
from mpigmm.core.ops.blockwise import BlockwiseOps
from mpigmm.core.ops.groups import DifferenceGroup, Products, SecondMoments
from mpigmm.core.raw_types import HEADER
from mpigmm.core.tile import Tile
from mpigmm.core.tile_rows import MOST_SINGLE_ROWS
from mpigmm.core.triangle import lower_triangle

MOST_LINES = 65535
"""Largest number of blocks of a grid in its second dimension."""

THREADS = 256
"""Threads of a block; neighbouring threads process neighbouring rows."""

FEATURES_OF_A_THREAD = 16
"""Features that a thread processes in the CUDA kernels that have a thread for each row and group of features."""

SLICE = 32
"""Components that a thread processes in a log-sum-exp."""

ROWS_OF_A_SUM = 256
"""Rows over which a thread sums moments."""

LINES_AT_ONCE = 256
"""Number of whitened coordinates that one matrix product computes, for one or several components."""

REAL_TYPES = {DOUBLE: "double", SINGLE: "float"}


class CudaOps(BlockwiseOps):
    """Array operations on one GPU, one tile after another.

    The costs are estimates for an H100 (60 TFLOP/s in float64 products, 3 TB/s).
    """

    name = "cuda"
    block_height = 64
    costs = OpsCosts(
        flops=4e4,
        triangular_flops=3.6e4,
        coordinate=0.008,
        access=0.006,
        call=float("inf"),
        pruned_moment=1.0,
        product_overhead=48.0,
        feature_product=0.01,
    )

    def __init__(self, gpu: GpuArrays) -> None:
        self.arrays: GpuArrays = gpu
        self._form: FixedPoint | None = None
        self._quanta: Array = None
        self._lower_triangles: dict[int, Indices] = {}
        with gpu.guarded():  # shows whether CUDA kernels can be compiled
            norm = gpu.zeros(1, DOUBLE).reshape(1, 1)
            self.products(Products.SQUARED_NORM, norm, norm)
            gpu.get(norm)

    def center_transpose(self, raw: Array, centre: Array, out: Array) -> None:
        n, d = raw.shape
        name = f"center_transpose_{raw.dtype.str[1:]}"
        self._launch(name, out.dtype, n, -(-d // FEATURES_OF_A_THREAD), raw, n, d, centre, out)

    def center(self, raw: Array, centre: Array, out: Array) -> None:
        self.xp.subtract(raw, centre, out=out, casting="same_kind")

    def products(self, kind: Products, rows: Array, out: Array) -> None:
        d, n = rows.shape
        if kind is Products.SQUARES:
            self.xp.multiply(rows, rows, out=out)
        elif kind is Products.SQUARED_NORM:
            self._launch("squared_norms", rows.dtype, n, 1, rows, d, n, 0.0, 1.0, out)
        else:
            self._launch("pairs", rows.dtype, n, d, rows, n, out)

    def distances(self, tile: Tile, rows: Array, means: Array, precisions: Array, start: Array, out: Array) -> None:
        (d, n), step = rows.shape, int(precisions.shape[1] > 1)
        for first in range(0, len(means), MOST_LINES):
            some = slice(first, first + MOST_LINES)
            of_some = means[some], precisions[some], step, start[some], out[some]
            self._launch("distances", rows.dtype, n, len(means[some]), rows, d, n, *of_some)

    def scale(self, tile: Tile, resp: Array, mean: Array, out: Array) -> Array:
        root, (d, n) = tile.vector("root"), out.shape
        groups = -(-d // FEATURES_OF_A_THREAD)
        self._launch("scale", out.dtype, n, groups, tile.rows, d, n, resp, mean, root, out)
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

    def lower_triangle(self, n_features: int) -> Indices:
        if n_features not in self._lower_triangles:
            self._lower_triangles[n_features] = self.arrays.put(lower_triangle(n_features))
        return self._lower_triangles[n_features]

    def log_sum_exp(self, log_prob: Array, tile: Tile) -> tuple[Array, Array]:
        (k, n), log_density = log_prob.shape, tile.vector("log_density")
        slices = -(-k // SLICE)
        top, total = tile.array("top", slices, n), tile.array("total", slices, n)
        self._launch("sum_slices", tile.dtype, n, slices, log_prob, k, n, SLICE, top, total)
        self._launch("log_sum_exp", tile.dtype, n, slices, log_prob, k, n, SLICE, slices, top, total, log_density)
        return log_prob, log_density

    def subtract_squared_norms(self, tile: Tile, coefficients: Array, out: Array) -> None:
        (height, width), n = coefficients.shape[1:], tile.n_rows
        group = max(1, LINES_AT_ONCE // height)
        for first in range(0, len(out), group):
            some, into = coefficients[first : first + group].reshape(-1, width), out[first : first + group]
            whitened = tile.array("whitened", len(some), n)
            self.xp.matmul(some, tile.augmented[:width], out=whitened)
            self._launch("squared_norms", tile.dtype, n, len(into), whitened, height, n, 1.0, -0.5, into)

    def add(self, form: FixedPoint, limbs: Array, values: Array) -> None:
        """`FixedPoint.add` and then `exact.carry`."""
        if form is not self._form:
            self._form, self._quanta = form, self.arrays.put(form.quanta)
        n_limbs, size = limbs.shape
        self._launch("add", DOUBLE, size, 1, limbs, n_limbs, size, values, self._quanta, np.int32(LIMB_BITS))

    def carry(self, limbs: Array) -> None:
        """Does nothing, since `add` has carried."""

    def squared_moments(self, tile: Tile, group: DifferenceGroup, resp: Array, first: Array, second: Array) -> None:
        (k, d), n = group.means.shape, tile.n_rows
        slices = -(-n // ROWS_OF_A_SUM)
        parts = [tile.array(name, slices, k * d) for name in ("first_parts", "second_parts")]
        self._launch("moments", DOUBLE, k * d, slices, tile.rows, d, n, resp, k, group.means, ROWS_OF_A_SUM, *parts)
        first[:], squares = (part.sum(axis=0).reshape(k, d) for part in parts)
        second[:] = squares if group.second_moments is SecondMoments.EACH_FEATURE else squares.sum(axis=1)

    def _launch(self, name: str, dtype: np.dtype[Any], n_rows: int, n_lines: int, *arguments: Any) -> None:
        """Launch a CUDA kernel with n_rows times n_lines threads; int is passed as long long, float as the kernel's
        REAL."""
        kinds: dict[type, type] = {int: np.int64, float: dtype.type}
        typed = tuple(kinds[type(value)](value) if type(value) in kinds else value for value in arguments)
        self._cuda_kernel(name, dtype)((-(-n_rows // THREADS), n_lines), (THREADS,), typed)

    def _cuda_kernel(self, name: str, dtype: np.dtype[Any]) -> CudaKernel:
        return self.arrays.cuda_kernel(name, source(), compiler_options(dtype))


@cache
def source() -> str:
    """The CUDA source, with the table of raw types above it."""
    return HEADER + Path(__file__).with_name("kernels.cu").read_text()


def compiler_options(dtype: np.dtype[Any]) -> tuple[str, ...]:
    """The compiler's options for the CUDA kernels of a precision."""
    return (
        f"-DREAL={REAL_TYPES[dtype]}",
        f"-DLEAST={LEAST_EXPONENTS[dtype]}",
        f"-DFEATURES_OF_A_THREAD={FEATURES_OF_A_THREAD}",
    )
