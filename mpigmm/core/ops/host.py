"""Array operations that `NumpyOps` and `CompiledOps` share: matrix products of BLAS, and what NumPy computes fast
enough."""

from __future__ import annotations

import numpy as np

from mpigmm.core.arrays import HOST, Indices
from mpigmm.core.exact import FloatArray, IntArray, carry
from mpigmm.core.ops.base import Ops
from mpigmm.core.ops.groups import Products
from mpigmm.core.tile import Tile
from mpigmm.core.triangle import lower_triangle


class HostOps(Ops):
    """Array operations in the memory of the host."""

    arrays = HOST
    prunes = True

    def products(self, kind: Products, rows: FloatArray, out: FloatArray) -> None:
        if kind is Products.SQUARES:
            np.multiply(rows, rows, out=out)
        elif kind is Products.SQUARED_NORM:
            np.einsum("dn,dn->n", rows, rows, out=out[0])
        else:
            end = 0
            for i, row in enumerate(rows):
                start, end = end, end + i + 1
                np.multiply(row, rows[: i + 1], out=out[start:end])

    def distances(
        self,
        tile: Tile,
        rows: FloatArray,
        means: FloatArray,
        precisions: FloatArray,
        start: FloatArray,
        out: FloatArray,
    ) -> None:
        centred, shared = tile.array("scaled", *rows.shape), precisions.shape[1] < len(rows)
        for k, mean in enumerate(means):
            np.subtract(rows, mean[:, None], out=centred)
            if shared:
                np.einsum("dn,dn->n", centred, centred, out=out[k])
            else:
                np.matmul(precisions[k], np.multiply(centred, centred, out=centred), out=out[k])
        if shared:
            out *= precisions
        out *= -0.5
        out += start[:, None]

    def scale(self, tile: Tile, resp: FloatArray, mean: FloatArray, out: FloatArray) -> FloatArray:
        root = np.sqrt(resp, out=tile.vector("root"))
        np.subtract(tile.rows, mean[:, None], out=out)
        np.multiply(out, root, out=out)
        return root

    def sums(self, tile: Tile, name: str, left: FloatArray, right: FloatArray) -> FloatArray:
        sums = np.matmul(left, right.T, out=tile.array(name, len(left), len(right)))
        return sums.astype(np.float64, copy=False)

    def lower_triangle(self, n_features: int) -> Indices:
        return lower_triangle(n_features)

    def carry(self, limbs: IntArray) -> None:
        carry(limbs)
