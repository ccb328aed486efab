"""Shares of the tiles: which ones belong to which rank. Arithmetic without communication."""

from __future__ import annotations

import heapq
from collections.abc import Sequence


def own_tiles(n_tiles: int, rank: int, speeds: Sequence[int]) -> range:
    """The consecutive tiles of a rank, in proportion to the speeds of all ranks; there may be none.

    The shares of equally fast ranks differ by one tile at most. Shares by unequal speeds are rounded down, and each
    tile that is left goes to the rank that would be the first to have computed it as well.
    """
    if len(set(speeds)) == 1:
        return range(n_tiles * rank // len(speeds), n_tiles * (rank + 1) // len(speeds))
    counts = [n_tiles * speed // sum(speeds) for speed in speeds]
    done = [((count + 1) / speed, other) for other, (count, speed) in enumerate(zip(counts, speeds, strict=True))]
    heapq.heapify(done)
    for _ in range(n_tiles - sum(counts)):
        _, first = done[0]
        counts[first] += 1
        heapq.heapreplace(done, ((counts[first] + 1) / speeds[first], first))
    start = sum(counts[:rank])
    return range(start, start + counts[rank])


def balanced(costs: Sequence[int], n_shares: int) -> list[list[int]]:
    """Numbers of pieces of work, in order, for each share: the costliest first, each to the share of least cost so far.

    Parameters
    ----------
    costs : sequence of int
        Of the pieces.
    n_shares : int
    """
    found: list[list[int]] = [[] for _ in range(n_shares)]
    loads = [(0, share) for share in range(n_shares)]
    for piece in sorted(range(len(costs)), key=lambda i: -costs[i]):
        load, share = heapq.heappop(loads)
        found[share].append(piece)
        heapq.heappush(loads, (load + costs[piece], share))
    return [sorted(pieces) for pieces in found]


def held_tiles(rows: range, tile_rows: int) -> range:
    """The tiles of a rank that holds these rows in its memory: those whose first row is among them."""
    return range(count_tiles(rows.start, tile_rows), count_tiles(rows.stop, tile_rows))


def count_tiles(n_rows: int, tile_rows: int) -> int:
    """Number of tiles of a grid over n_rows, the last of which may be shorter."""
    return -(-n_rows // tile_rows)
