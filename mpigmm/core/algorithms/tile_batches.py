"""Batches of tiles for an algorithm that sees some of the rows in each step.

The choice depends on the grid of tiles, the options and the seed, and neither on ranks nor on rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np

from mpigmm.core.exact import IntArray
from mpigmm.core.tile_rows import WANTED_BATCHES

PASS_SEED, HELD_OUT_SEED = 0x73746570, 0x68656C64
"""Numbers that set the random numbers of a pass, and of the choice of held-out tiles, apart from others of one seed."""


def default_batch_tiles(n_tiles: int) -> int:
    """Default number of tiles of a batch of n_tiles training tiles: a pass has `WANTED_BATCHES` batches, or up to
    twice as many, or as many as there are tiles."""
    return max(1, n_tiles // WANTED_BATCHES)


def held_out_tiles(n_tiles: int, share: float, seed: int) -> IntArray:
    """Numbers of the tiles that no batch uses, in ascending order: one at random out of each of equal parts of the
    grid.

    If the share is not zero, at least one tile is held out, and at least one of several is not.
    """
    n_held = max(1, min(round(share * n_tiles), n_tiles - 1)) if share else 0
    random = np.random.default_rng((seed, HELD_OUT_SEED))
    parts = np.array_split(np.arange(n_tiles), n_held) if n_held else []
    return np.array([random.choice(part) for part in parts], np.int64)


class TileBatches:
    """Batches of the training tiles, which cover each of them once in a pass.

    The tiles are cut into strata of consecutive tiles, at most as many as a batch has tiles, and a batch takes from
    each stratum the next tile of a random order, anew in each pass. A batch so has rows from everywhere in the data,
    and consecutive tiles, which one rank holds, are in different batches. Where a stratum has one tile fewer than there
    are batches, one of the batches takes none from it; the sizes of two batches differ by at most one.

    Parameters
    ----------
    tiles : ndarray of int64, (n,)
        Numbers of the training tiles, in ascending order.
    batch_tiles : int
        Largest number of tiles of a batch.
    seed : int

    Attributes
    ----------
    n_batches : int
        Number of batches of a pass.
    batch : callable
        Numbers of the tiles, in ascending order, of the batch with a number, counted from 0 over all passes.
    """

    def __init__(self, tiles: IntArray, batch_tiles: int, seed: int) -> None:
        self.n_batches = -(-len(tiles) // batch_tiles)
        self._strata: Sequence[IntArray] = np.array_split(tiles, -(-len(tiles) // self.n_batches))
        self._seed = seed
        self.batch = lru_cache(maxsize=2)(self._batch)
        self._order = lru_cache(maxsize=1)(self._order_of_pass)

    def _batch(self, number: int) -> IntArray:
        which, place = divmod(number, self.n_batches)
        tiles = self._order(which)[:, place]
        return np.sort(tiles[tiles >= 0])

    def _order_of_pass(self, which: int) -> IntArray:
        """The tile of each stratum and batch of a pass; -1 where a batch takes none."""
        random = np.random.default_rng((self._seed, PASS_SEED, which))
        order = np.full((len(self._strata), self.n_batches), -1, np.int64)
        without = 0
        for stratum, line in zip(self._strata, order, strict=True):
            taken = np.ones(self.n_batches, bool)
            if len(stratum) < self.n_batches:
                taken[without % self.n_batches] = False
                without += 1
            line[taken] = random.permutation(stratum)
        return order
