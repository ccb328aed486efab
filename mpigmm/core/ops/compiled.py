"""Array operations in C, which make fewer passes over memory than NumPy and release Python's global lock."""

from __future__ import annotations

import ctypes
import math
from functools import lru_cache
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mpigmm.core.arrays import DOUBLE, SINGLE, Indices
from mpigmm.core.exact import LIMB_UNIT, FixedPoint, FloatArray, IntArray
from mpigmm.core.ops.base import LEAST_EXPONENTS, MOST_LANES, OpsCosts, least_exponent, padded
from mpigmm.core.ops.groups import (
    BoundedGroup,
    BoundedSums,
    DifferenceGroup,
    ProductGroup,
    SecondMoments,
    Sums,
)
from mpigmm.core.ops.host import HostOps
from mpigmm.core.ops.libraries import (
    ADD,
    BOUNDED_POSTERIOR,
    BOUNDED_SWEEP,
    BOUNDED_WORK_SIZE,
    COMPILED,
    DIFFERENCE_WORK_SIZE,
    FACTORED,
    FUNCTIONS,
    LIMIT,
    PRECISIONS,
    SCALED,
    SHARED,
    BoundedStructure,
    DifferencesStructure,
    ProductsStructure,
    RowsStructure,
    load_library,
)
from mpigmm.core.raw_types import RAW_TYPES, raw_dtype
from mpigmm.core.tile import BYTE, Tile

CACHED, LEAST_ROWS, FEWEST_ROWS, MOST_ROWS = 2**18, 128, 64, 256
"""A function processes so many rows at a time that its arrays take about CACHED bytes. There are at least LEAST_ROWS if
it sums products, at least FEWEST_ROWS if it does not, and at most MOST_ROWS, or twice as many in float32. With fewer
rows, loading and storing sums takes a large part of the time; with more, the arrays do not fit into the cache."""

ROW_UNIT = 2 * MOST_LANES
"""The number of rows at a time is a multiple of this, which is a multiple of the width of a block in every library."""

PANEL_BYTES = 1 << 18
"""Bytes of the rows that `whitened_log_prob` transposes at a time."""

SCALED_BYTES, FEWEST_SCALED, MOST_SCALED = 1 << 18, 32, 64
"""Bytes of the rows that `pruned_moments` processes at a time, and their least and largest number."""

INT32 = np.dtype(np.int32)
NO_PRODUCTS = ProductsStructure(), np.empty((0, 0)), np.empty((0, 0))
NO_DIFFERENCES = DifferencesStructure(), (np.empty(0), np.empty((0, 0)), np.empty(0))


class CompiledOps(HostOps):
    """Array operations in C for one instruction set of this processor.

    Parameters
    ----------
    name : str
        One of `COMPILED`. Raises `ImportError` where this processor lacks the instructions or no library was built.
    """

    costs = OpsCosts(
        flops=45.0,
        triangular_flops=56.0,
        coordinate=0.2,
        access=0.3,
        call=200.0,
        pruned_moment=1.0,
        product_overhead=1.5,
        feature_product=0.0,
    )
    fuses = True
    bounds = True

    def __init__(self, name: str) -> None:
        self.name = name
        if COMPILED.index(name) > load_library(COMPILED[0]).level():
            raise ImportError("the processor lacks these instructions")
        library = load_library(name)
        self._tallest, self._widest = (LIMIT.bind(library, limit)() for limit in ("tallest", "widest"))
        self._lanes = {DOUBLE: self._widest // 4, SINGLE: self._widest // 2}
        self._add = ADD.bind(library, "add")
        self._work_size = DIFFERENCE_WORK_SIZE.bind(library, "difference_work_size")
        self._bounded_size = BOUNDED_WORK_SIZE.bind(library, "bounded_work_size")
        self._bounded_sweep = BOUNDED_SWEEP.bind(library, "bounded_sweep")
        self._bounded_posterior = BOUNDED_POSTERIOR.bind(library, "bounded_posterior")
        self._functions = {
            (name, dtype): function.bind(library, f"{name}_{precision}", real)
            for dtype, (precision, real) in PRECISIONS.items()
            for name, function in FUNCTIONS.items()
        }

    def center_transpose(self, raw: NDArray[Any], centre: FloatArray, out: FloatArray) -> None:
        rows = raw_rows(raw)
        self._functions["center_transpose", out.dtype](
            pointer(rows), number_of(rows), *raw.shape, raw.shape[1], pointer(centre), pointer(out), out.shape[1]
        )

    def center(self, raw: NDArray[Any], centre: FloatArray, out: FloatArray) -> None:
        rows = raw_rows(raw)
        self._functions["center", out.dtype](pointer(rows), number_of(rows), *raw.shape, pointer(centre), pointer(out))

    def log_sum_exp(self, log_prob: FloatArray, tile: Tile) -> tuple[FloatArray, FloatArray]:
        log_density, (k, n) = tile.vector("log_density"), log_prob.shape
        log_sum_exp = self._functions["log_sum_exp", tile.dtype]
        log_sum_exp(pointer(log_prob), k, n, n, pointer(log_density), least_exponent(log_prob))
        return log_prob, log_density

    def whitening(self, coefficients: FloatArray, dtype: np.dtype[Any]) -> list[FloatArray]:
        k, n_features, width = coefficients.shape
        order = packed_order(n_features, self._tallest)
        return [np.take(coefficients.reshape(k, n_features * width), order, axis=1).astype(dtype, copy=False)]

    def whitened_log_prob(self, tile: Tile, whitening: list[FloatArray], log_norm: FloatArray, out: FloatArray) -> None:
        (packed,), (rows, raw) = whitening, rows_structure(tile)
        n_used = math.isqrt(2 * packed.shape[1]) - 1
        step = max(self._widest, PANEL_BYTES // (n_used * tile.dtype.itemsize) // self._widest * self._widest)
        self._functions["whitened_log_prob", tile.dtype](
            ctypes.byref(rows), n_used, pointer(packed), packed.shape[1], pointer(log_norm), len(out), step,
            pointer(tile.array("panels", n_used, step)), pointer(out),
        )  # fmt: skip
        del raw

    def add(self, form: FixedPoint, limbs: IntArray, values: FloatArray) -> None:
        quanta = form.quanta  # a reference: another thread may replace `form.quanta`
        (n_limbs, size), stride = limbs.shape, limbs.strides[0] // limbs.itemsize
        self._add(limbs.ctypes.data, n_limbs, stride, size, pointer(values), pointer(quanta), LIMB_UNIT)

    def sweep(self, tile: Tile, products: ProductGroup | None, differences: DifferenceGroup | None) -> Sums:
        own, sums, scatter = NO_PRODUCTS if products is None else products_structure(products)
        others, moments = NO_DIFFERENCES if differences is None else differences_structure(differences)
        few, few_moments = NO_DIFFERENCES
        if products is not None and products.moments is not None and tile.dtype == DOUBLE:
            few, few_moments = differences_structure(products.moments)
        d, (k, n_lines), n_others = tile.n_features, sums.shape, len(moments[0])
        least_rows = LEAST_ROWS if k else FEWEST_ROWS
        step = rows_at_once(max(n_lines, 1 + d), k + n_others, tile.dtype.itemsize, least_rows)
        arranged = k * (n_lines + 2 * MOST_LANES)  # the largest size of coefficients and sums in diagonal.h
        work = tile.array("work", 1, (1 + n_lines + k + n_others + d) * (step + self._widest) + arranged)
        sums_size = self._functions["sums_size", tile.dtype]
        blocks_size = 1 + max(sums_size(n_lines, k), arranged) + (sums_size(d, d) if scatter.size else 0)
        blocks = tile.array("blocks", 1, blocks_size, DOUBLE)
        wide = chosen = None
        if n_others or few.n_components:
            wide, chosen = self._wide(tile, step, others, few), self._chosen(tile, max(k, n_others), step)
        rows, raw = rows_structure(tile)
        log_likelihood = self._functions["sweep", tile.dtype](
            ctypes.byref(rows), ctypes.byref(own), ctypes.byref(few), ctypes.byref(others), least_exponent(work), step,
            pointer(work), wide, pointer(blocks), chosen,
        )  # fmt: skip
        del raw
        return Sums(log_likelihood, sums, scatter, few_moments if few.n_components else None, *moments)

    def product_log_prob(self, tile: Tile, group: ProductGroup, out: FloatArray) -> None:
        (rows, raw), (own, _, _) = rows_structure(tile), products_structure(group)
        d, (k, n_lines) = tile.n_features, group.coefficients.shape
        step = rows_at_once(max(n_lines, 1 + d), k, tile.dtype.itemsize, FEWEST_ROWS)
        work = tile.array("work", n_lines + k + d, step + self._widest)
        self._functions["product_log_prob", tile.dtype](
            ctypes.byref(rows), ctypes.byref(own), step, pointer(work), pointer(out)
        )
        del raw

    def difference_log_prob(self, tile: Tile, group: DifferenceGroup, out: FloatArray) -> None:
        (rows, raw), (own, _) = rows_structure(tile), differences_structure(group)
        step = rows_at_once(2 * tile.n_features, len(out), DOUBLE.itemsize, FEWEST_ROWS)
        self._functions["difference_log_prob", tile.dtype](
            ctypes.byref(rows), ctypes.byref(own), step, self._wide(tile, step, own), pointer(out)
        )
        del raw

    def difference_moments(
        self, tile: Tile, group: DifferenceGroup, resp: FloatArray, first: FloatArray, second: FloatArray
    ) -> None:
        (rows, raw), (own, moments) = rows_structure(tile), differences_structure(group)
        step = rows_at_once(2 * tile.n_features, len(resp), DOUBLE.itemsize, FEWEST_ROWS)
        self._functions["difference_moments", tile.dtype](
            ctypes.byref(rows),
            ctypes.byref(own),
            step,
            self._wide(tile, step, own),
            self._chosen(tile, len(resp), step),
            pointer(resp),
        )
        del raw
        first[:], second[:] = moments[1], moments[2].reshape(second.shape)

    def bounded_sweep(self, tile: Tile, group: BoundedGroup) -> BoundedSums | None:
        (rows, raw), sums = rows_structure(tile), (*empty_moments(tile, group), np.zeros(group.whiten.shape))
        own = bounded_structure(group, *sums)
        if tile.sample_weight is not None:
            weights = tile.sample_weight.astype(DOUBLE)
            rows.sample_weight = pointer(weights)
        log_likelihood = ctypes.c_double()
        found = self._bounded_sweep(
            ctypes.byref(rows), ctypes.byref(own), LEAST_EXPONENTS[DOUBLE], self._bounded_work(tile, own),
            ctypes.byref(log_likelihood),
        )  # fmt: skip
        del raw
        return BoundedSums(log_likelihood.value, *sums) if found else None

    def bounded_posterior(self, tile: Tile, group: BoundedGroup, resp: FloatArray) -> FloatArray | None:
        (rows, raw), own = rows_structure(tile), bounded_structure(group)
        log_density = tile.vector("log_density")
        found = self._bounded_posterior(
            ctypes.byref(rows), ctypes.byref(own), LEAST_EXPONENTS[DOUBLE], tile.dtype == SINGLE,
            self._bounded_work(tile, own), pointer(resp), pointer(log_density),
        )  # fmt: skip
        del raw
        return log_density if found else None

    def _bounded_work(self, tile: Tile, group: BoundedStructure) -> int:
        """Address of the work space of `bounded_sweep` and `bounded_posterior`."""
        return pointer(tile.array("work", 1, self._bounded_size(ctypes.byref(group)), BYTE))

    def pruned_distances(
        self, tile: Tile, rest: FloatArray, n_rest: int, highest: float, nats: float, most: int, out: FloatArray
    ) -> bool:
        rows, work = tile.by_row(), tile.array("copied", 1, tile.n_rows + self._tallest * tile.n_features)
        best, chosen = tile.array("best", 2, tile.n_rows), np.empty(tile.n_rows + len(out) + 1, np.int32)
        return bool(
            self._functions["pruned_distances", tile.dtype](
                pointer(rows), *rows.shape, pointer(rest), n_rest, rest.shape[2], len(out), highest, nats, most,
                pointer(out), pointer(work), pointer(best), pointer(chosen),
            )
        )  # fmt: skip

    def pruned_moments(
        self, tile: Tile, resp: FloatArray, means: FloatArray, least: FloatArray, first: FloatArray, second: FloatArray
    ) -> None:
        rows, stride = tile.by_row(), padded(tile.n_features)
        at_once = max(FEWEST_SCALED, min(MOST_SCALED, SCALED_BYTES // (stride * rows.itemsize)))
        panel = (at_once + 1) * self._lanes[tile.dtype]  # panels a power of two apart compete for the same cache lines
        scaled = tile.array("scaled_rows", stride, at_once + 1)
        scatter = tile.array("scatter", tile.n_features + 1, stride, DOUBLE)
        relevant, chosen = tile.array("best", 2, tile.n_rows), np.empty(tile.n_rows, np.int32)
        self._functions["pruned_moments", tile.dtype](
            pointer(rows), *rows.shape, pointer(resp), pointer(means), len(means), pointer(least),
            pointer(scaled), panel, pointer(tile.array("roots", 1, at_once)), at_once, pointer(scatter), stride,
            pointer(relevant), pointer(chosen), pointer(first), pointer(second),
        )  # fmt: skip

    def pair_moments(
        self, tile: Tile, resp: FloatArray, means: FloatArray, first: FloatArray, second: FloatArray
    ) -> None:
        self.pruned_moments(tile, resp, means, np.zeros(len(means), tile.dtype), first, second)

    def _wide(self, tile: Tile, step: int, *groups: DifferencesStructure) -> int:
        """Address of the work space of groups by differences, for step rows at a time."""
        sizes = [self._work_size(ctypes.byref(group), tile.n_features, step + self._widest) for group in groups]
        return pointer(tile.array("wide", 1, sum(sizes), DOUBLE))

    def _chosen(self, tile: Tile, n_components: int, step: int) -> int:
        """Address of an array for the indices of the rows that `choose_rows` in differences.h chooses for each
        component."""
        return pointer(tile.array("chosen", 1, n_components * (step + self._widest) + n_components + 1, INT32))


@lru_cache
def packed_order(n_features: int, tallest: int) -> Indices:
    """Places of the coefficients (D, 1 + D) of a component, as one vector, in the order that whitened.h describes."""
    n_groups = -(-n_features // tallest)
    edges = [group * n_features // n_groups for group in range(n_groups + 1)]
    places = [
        (coordinate, column)
        for first, last in pairwise(edges)
        for column in range(last + 1)
        for coordinate in range(max(first, column - 1), last)
    ]
    return np.array([coordinate * (n_features + 1) + column for coordinate, column in places])


def rows_at_once(n_lines: int, n_components: int, itemsize: int, least: int = LEAST_ROWS) -> int:
    """Number n of rows whose phi (n_lines, n) and responsibilities (K, n) fit into the cache; a multiple of
    `ROW_UNIT`."""
    fit = CACHED // (itemsize * (n_lines + n_components))
    return int(max(least, min(MOST_ROWS * 8 // itemsize, fit // ROW_UNIT * ROW_UNIT)))


def pointer(array: NDArray[Any]) -> int:
    """Address of a contiguous array that is not empty; `array.ctypes.data` takes three times as long."""
    if not array.flags.writeable and array.flags.c_contiguous:
        return int(array.ctypes.data)
    return ctypes.addressof(ctypes.c_char.from_buffer(array))  # type: ignore[arg-type]


def raw_rows(raw: NDArray[Any]) -> NDArray[Any]:
    """Rows as a contiguous array of one of `RAW_TYPES`; a copy unless they are such an array already."""
    return np.ascontiguousarray(raw, raw_dtype(raw.dtype))


def number_of(rows: NDArray[Any]) -> int:
    """The number of the type of rows in the C functions: `kind`."""
    return RAW_TYPES.index(rows.dtype.str[1:])


def rows_structure(tile: Tile) -> tuple[RowsStructure, NDArray[Any]]:
    """The structure of a tile's rows, and the array that it points to, which must exist as long as it is used."""
    raw = raw_rows(tile.raw)
    weights, heaviest = (
        (None, 1.0) if tile.sample_weight is None else (pointer(tile.sample_weight), float(tile.sample_weight.max()))
    )
    return RowsStructure(
        pointer(raw), number_of(raw), raw.strides[0], *raw.shape, pointer(tile.centre), weights, heaviest
    ), raw


def products_structure(group: ProductGroup) -> tuple[ProductsStructure, FloatArray, FloatArray]:
    """The structure of a group, and uninitialised arrays for its sums (K, L) and scatter, (D, D) or (0, 0)."""
    sums, scatter = np.empty(group.coefficients.shape), np.empty(group.whiten.shape)
    own = ProductsStructure(*sums.shape, group.kind)
    own.coefficients, own.sums = pointer(group.coefficients), pointer(sums)
    if scatter.size:
        own.whiten, own.scatter = pointer(group.whiten), pointer(scatter)
    return own, sums, scatter


def differences_structure(
    group: DifferenceGroup,
) -> tuple[DifferencesStructure, tuple[FloatArray, FloatArray, FloatArray]]:
    """The structure of a group, and arrays of zeros for its counts, first and second moments."""
    k, d = group.means.shape
    moments = np.zeros(k), np.zeros((k, d)), np.zeros(group.second_shape)
    form, factors = form_of(group)
    arrays = (group.means, group.subtracted, factors, group.whiten, group.log_norm, group.least, *moments)
    pointers = (pointer(array) if array.size else None for array in arrays)
    own = DifferencesStructure(k, form, group.second_moments, *pointers)
    own.held = arrays  # references: another thread may replace `group.roots`
    return own, moments


def empty_moments(tile: Tile, group: BoundedGroup) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Zeros for the counts, first and second moments of a group, in the tile's buffers."""
    k, width = group.means.shape
    moments = tile.array("moments", 1 + 2 * width, k, DOUBLE)
    moments[:] = 0.0
    return moments[0], moments[1 : 1 + width].reshape(k, width), moments[1 + width :].reshape(k, width)


def bounded_structure(group: BoundedGroup, *sums: FloatArray) -> BoundedStructure:
    """The structure of a group, with arrays for its counts, moments and scatter if these are wanted."""
    bounds = group.leading, group.units, group.scales, group.offsets, group.constants, group.is_tight
    minor = group.minor
    arrays = group.whiten, group.means, group.subtracted, group.roots, group.log_norm, *sums
    return BoundedStructure(
        *(*group.means.shape, len(group.leading), group.nats, group.most_share, *map(pointer_of, bounds)),
        *(minor.nats, minor.stretch, *map(pointer_of, (minor.offsets, minor.means, minor.scale)), minor.means.shape[1]),
        *map(pointer_of, arrays),
    )


def pointer_of(array: NDArray[Any]) -> int | None:
    """The address of an array's numbers; None if it has none."""
    return pointer(array) if array.size else None


def form_of(group: DifferenceGroup) -> tuple[int, FloatArray]:
    """How a group's squared distances are computed (see differences.h), and the `factors` of its structure."""
    if group.factors.size:
        return FACTORED, group.factors
    if group.second_moments is SecondMoments.EACH_FEATURE:
        return SCALED, group.roots
    return SHARED, group.precisions
