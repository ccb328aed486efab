"""Which tiles belong to which rank: arithmetic, no communication."""

from __future__ import annotations

import heapq
from collections.abc import Sequence


def own_tiles(n_tiles: int, rank: int, speeds: Sequence[int]) -> range:
    """The contiguous run of tiles of a rank, which may be empty, in proportion to the speeds of all.

    Runs of equal ranks differ by one tile at most. Of unlike ranks, whoever would be done first takes each of the tiles
    that are left once all shares have been rounded down.
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


def count_tiles(n_rows: int, tile_rows: int) -> int:
    """Tiles of a grid over n_rows; the last may be shorter."""
    return -(-n_rows // tile_rows)
