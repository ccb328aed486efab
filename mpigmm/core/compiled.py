"""The loops over a tile, compiled by Numba: fewer passes, and no lock of Python's held meanwhile."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from mpigmm.core import picks, sweeps
from mpigmm.core.exact import LIMB_UNIT, FixedPoint, FloatArray, IntArray
from mpigmm.core.loops import GROUP_HEIGHT, Loops, Products, least_exponent

if TYPE_CHECKING:
    from mpigmm.core.tile import Tile

LARGEST_PICKED = 128
"""Features beyond which picked rows are better left to BLAS."""


class CompiledLoops(Loops):
    """In machine code for this processor, kept on disk between runs."""

    name = "numba"
    call = 2e3
    fuses = True

    def prepare(self, tile: Tile, rows: NDArray[Any], dtype: np.dtype[Any]) -> None:
        n_rows, d = rows.shape  # few: what is compiled depends on the dtypes alone
        tile.fill(rows, None, np.zeros(d), mask=False, dtype=dtype)
        self.packed_sums(
            tile,
            Products.SQUARES,
            np.zeros((d, d), dtype),
            np.zeros((1, 1 + 2 * d), dtype),
            np.zeros((1, 1 + 2 * d)),
            np.zeros((d, d)),
        )
        self.add(FixedPoint(np.zeros(1, np.int32), 2), np.zeros((2, 1), np.int64), np.zeros(1))
        resp, _ = self.normalise(0 * tile.rows, tile)
        self.weigh(tile.rows, np.zeros(d, dtype), resp[0], resp, np.zeros(d))
        self.squared_lengths(tile, np.zeros((d, 1, d), dtype), resp)
        self.pick_distances(
            tile, np.zeros((d, d, d), dtype), np.zeros((d, d), dtype), 0.0, 1.0, n_rows, np.zeros_like(resp)
        )
        self.pick_moments(tile, resp, np.zeros((d, d), dtype), 0.0, np.zeros((d, d)), np.zeros((d, d * (d + 1) // 2)))

    def turn(self, raw: NDArray[Any], centre: FloatArray, out: FloatArray) -> None:
        sweeps.turn(raw, centre, out)

    def subtract(self, raw: NDArray[Any], centre: FloatArray, out: FloatArray) -> None:
        sweeps.subtract(raw, centre, out)

    def normalise(self, log_prob: FloatArray, tile: Tile) -> tuple[FloatArray, FloatArray]:
        log_density, total = tile.vector("log_density"), tile.vector("total")
        sweeps.normalise(log_prob, log_density, total, log_prob.dtype.type(least_exponent(log_prob)))
        return log_prob, log_density

    def squared_lengths(self, tile: Tile, lines: FloatArray, out: FloatArray) -> None:
        _, height, width = lines.shape
        group, step = max(1, GROUP_HEIGHT // height), sweeps.LEAST_ROWS
        work = tile.array("part", width, step).reshape(-1), tile.array("whitened", group * height, step).reshape(-1)
        sweeps.squared_lengths(tile.augmented, lines.reshape(-1, width), height, group, step, *work, out)

    def packed_sums(
        self, tile: Tile, kind: Products, whiten: FloatArray, lines: FloatArray, sums: FloatArray, scatter: FloatArray
    ) -> float:
        k, n_lines = lines.shape
        step = sweeps.rows_at_once(n_lines, k, lines.itemsize)
        heights = {"phi": n_lines, "log_prob": k, "others": 2 + tile.n_features}
        work = [tile.array(name, height, step).reshape(-1) for name, height in heights.items()]
        weights = np.empty(0, tile.dtype) if tile.weights is None else tile.weights
        work += [tile.array("sums", k, n_lines), tile.array("scatter", *scatter.shape)]
        least = lines.dtype.type(least_exponent(lines))
        return float(
            sweeps.packed_sums(
                tile.raw, tile.centre, weights, int(kind), whiten, lines, least, step, *work, sums, scatter
            )
        )

    def weigh(
        self, rows: FloatArray, mean: FloatArray, root: FloatArray, scaled: FloatArray, first: FloatArray
    ) -> None:
        sweeps.weigh(rows, mean, root, scaled, first)

    def add(self, form: FixedPoint, limbs: IntArray, values: FloatArray) -> None:
        sweeps.add(limbs, values, form.quanta, LIMB_UNIT)

    def pick_distances(
        self, tile: Tile, rest: FloatArray, offsets: FloatArray, highest: float, nats: float, most: int, out: FloatArray
    ) -> bool:
        if tile.n_features > LARGEST_PICKED:
            return super().pick_distances(tile, rest, offsets, highest, nats, most, out)
        rows, number = tile.by_row(), out.dtype.type
        work = (np.empty(tile.n_rows, np.int64), tile.vector("reached"), np.empty(tile.n_rows, np.int64))
        return bool(picks.pick_distances(rows, rest, offsets, number(highest), number(nats), most, out, *work))

    def pick_moments(
        self, tile: Tile, resp: FloatArray, means: FloatArray, least: float, first: FloatArray, second: FloatArray
    ) -> None:
        d = tile.n_features
        if d > LARGEST_PICKED:
            return super().pick_moments(tile, resp, means, least, first, second)
        picked, scatter = tile.array("picked", tile.n_rows + 3, d), tile.array("scatter", d, d)
        picks.pick_moments(tile.by_row(), resp, means, resp.dtype.type(least), picked, scatter, first, second)
        return None
