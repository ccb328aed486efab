"""Log-densities by whitened coordinates as matrix products, a block of coordinates at a time."""

from __future__ import annotations

from abc import abstractmethod
from itertools import pairwise
from typing import Any

import numpy as np

from mpigmm.core.exact import FloatArray
from mpigmm.core.ops.base import Ops
from mpigmm.core.tile import Tile


class BlockwiseOps(Ops):
    """Operations that compute whitened coordinates of all rows by matrix products.

    The product for a block of coordinates leaves out the features after it.

    Attributes
    ----------
    block_height : int
        Number of whitened coordinates of a component that one matrix product computes.
    """

    block_height: int

    def whitening(self, coefficients: FloatArray, dtype: np.dtype[Any]) -> list[FloatArray]:
        n_features = coefficients.shape[1]
        edges = np.linspace(0, n_features, max(1, n_features // self.block_height) + 1).astype(int)
        blocks = (coefficients[:, start:stop, : stop + 1] for start, stop in pairwise(edges))
        return [self.arrays.put(np.ascontiguousarray(block, dtype)) for block in blocks]

    def whitened_log_prob(self, tile: Tile, whitening: list[FloatArray], log_norm: FloatArray, out: FloatArray) -> None:
        out[:] = log_norm[:, None]
        for block in whitening:
            self.subtract_squared_norms(tile, block, out)

    @abstractmethod
    def subtract_squared_norms(self, tile: Tile, coefficients: FloatArray, out: FloatArray) -> None:
        """Subtract from out (K, n) half the squared norms of h whitened coordinates for each component and row.

        The coordinates are coefficients (K, h, 1 + d) times [1, x], where x are the first d features of the row.
        """
