"""Array operations that use only NumPy and make several passes over a tile."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from mpigmm.core.arrays import Indices
from mpigmm.core.exact import FixedPoint, FloatArray, IntArray
from mpigmm.core.ops.base import OpsCosts, least_exponent
from mpigmm.core.ops.blockwise import BlockwiseOps
from mpigmm.core.ops.host import HostOps
from mpigmm.core.tile import Tile
from mpigmm.core.triangle import lower_triangle

FEW_FEATURES = 16
ROWS_AT_ONCE = 64
"""Rows are transposed ROWS_AT_ONCE at a time if they have at least FEW_FEATURES features."""

GROUP_HEIGHT = 256
"""Number of whitened coordinates that one matrix product computes: enough for BLAS, few enough for the cache."""

FAR_FEATURES = 32
"""Least number of features for which exponents are clipped at `LEAST_EXPONENTS` in float64. Rows with so many features
are far from most components."""


class NumpyOps(HostOps, BlockwiseOps):
    """Array operations in NumPy."""

    name = "numpy"
    block_height = 16
    costs = OpsCosts(
        flops=45.0,
        triangular_flops=40.0,
        coordinate=0.4,
        access=0.3,
        call=20e3,
        pruned_moment=1.3,
        product_overhead=5.0,
        feature_product=0.3,
    )

    def center_transpose(self, raw: NDArray[Any], centre: FloatArray, out: FloatArray) -> None:
        if len(centre) < FEW_FEATURES:
            np.subtract(raw.T, centre[:, None], out=out, casting="same_kind")
            return
        part = np.empty((ROWS_AT_ONCE, len(centre)))
        for start in range(0, len(raw), ROWS_AT_ONCE):
            rows = raw[start : start + ROWS_AT_ONCE]
            centred = np.subtract(rows, centre, out=part[: len(rows)], casting="same_kind")
            out[:, start : start + ROWS_AT_ONCE] = centred.T

    def center(self, raw: NDArray[Any], centre: FloatArray, out: FloatArray) -> None:
        np.subtract(raw, centre, out=out, casting="same_kind")

    def log_sum_exp(self, log_prob: FloatArray, tile: Tile) -> tuple[FloatArray, FloatArray]:
        log_density = np.maximum.reduce(log_prob, axis=0, out=tile.vector("log_density"))
        lost = np.flatnonzero(np.isneginf(log_density))
        log_density[lost] = 0.0
        log_prob -= log_density
        if tile.n_features >= FAR_FEATURES or tile.dtype == np.float32:
            np.maximum(log_prob, least_exponent(log_prob), out=log_prob)
        resp = np.exp(log_prob, out=log_prob)
        resp[:, lost] = 0.0
        total = np.add.reduce(resp, axis=0, out=tile.vector("total"))
        total[lost] = 1.0
        resp /= total
        log_density += np.log(total, out=total)
        log_density[lost] = -np.inf
        return resp, log_density

    def subtract_squared_norms(self, tile: Tile, coefficients: FloatArray, out: FloatArray) -> None:
        height, width = coefficients.shape[1:]
        group = max(1, GROUP_HEIGHT // height)
        for first in range(0, len(out), group):
            some, into = coefficients[first : first + group].reshape(-1, width), out[first : first + group]
            whitened = tile.array("whitened", len(some), tile.n_rows)
            np.matmul(some, tile.augmented[:width], out=whitened)
            whitened = whitened.reshape(-1, height, tile.n_rows)
            squared_norms = np.einsum("kdn,kdn->kn", whitened, whitened, out=tile.array("squared_norms", *into.shape))
            squared_norms *= 0.5
            into -= squared_norms

    def add(self, form: FixedPoint, limbs: IntArray, values: FloatArray) -> None:
        form.add(limbs, values)

    def pruned_distances(
        self, tile: Tile, rest: FloatArray, n_rest: int, highest: float, nats: float, most: int, out: FloatArray
    ) -> bool:
        best = np.maximum.reduce(out, axis=0, out=tile.vector("highest"))
        threshold = tile.vector("threshold")
        threshold[:] = -np.inf
        found: list[tuple[Indices, FloatArray]] = []
        for k, bounds in enumerate(out):
            rows = np.flatnonzero(bounds == best)
            values = complete(tile, rows, rest[k, :, :n_rest], bounds[rows])
            threshold[rows] = np.maximum(threshold[rows], values)
            found.append((rows, values))
        deviation = np.subtract(highest + 1.0, threshold, out=best)
        threshold -= np.log(deviation, out=deviation)
        relevant = out >= np.subtract(threshold, nats, out=threshold)
        if np.count_nonzero(relevant) > most:
            return False
        for k, (rows, values) in enumerate(found):
            relevant[k, rows] = False
            more = np.flatnonzero(relevant[k])
            completed = complete(tile, more, rest[k, :, :n_rest], out[k, more])
            out[k] = -np.inf
            out[k, rows] = values
            out[k, more] = completed
        return True

    def pruned_moments(
        self, tile: Tile, resp: FloatArray, means: FloatArray, least: FloatArray, first: FloatArray, second: FloatArray
    ) -> None:
        lower = lower_triangle(tile.n_features)
        for k, mean in enumerate(means):
            rows = np.flatnonzero(resp[k] > least[k])
            root = np.sqrt(resp[k, rows])
            some = select_rows(tile, rows)
            some -= mean
            some *= root[:, None]
            np.matmul(root, some, out=first[k])
            scatter = (some.T @ some).astype(np.float64, copy=False)
            np.take(scatter.reshape(-1), lower, out=second[k], mode="clip")


NUMPY = NumpyOps()


def select_rows(tile: Tile, rows: Indices) -> FloatArray:
    """The rows (m, D) of a tile with the indices (m,); the next call overwrites them."""
    some = tile.array("taken", len(rows), tile.n_features)
    np.take(tile.by_row(), rows, axis=0, out=some, mode="clip")
    return some


def complete(tile: Tile, rows: Indices, rest: FloatArray, bounds: FloatArray) -> FloatArray:
    """Log-densities (m,) of the rows with the indices (m,) for one component, given upper bounds (m,).

    rest (1 + D, h) holds the coefficients of [1, x] in the whitened coordinates that the bounds leave out.
    """
    if not len(rows):
        return bounds
    whitened = tile.array("completed", len(rows), rest.shape[1])
    np.matmul(select_rows(tile, rows), rest[1:], out=whitened)
    whitened += rest[0]
    bounds -= 0.5 * np.einsum("md,md->m", whitened, whitened)
    return bounds
