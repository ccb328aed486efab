"""Which tiles belong to which rank: arithmetic, no communication."""

from __future__ import annotations


def own_tiles(n_tiles: int, rank: int, size: int) -> range:
    """The contiguous run of tiles of a rank; runs differ by one tile at most and may be empty."""
    return range(n_tiles * rank // size, n_tiles * (rank + 1) // size)


def count_tiles(n_rows: int, tile_rows: int) -> int:
    """Tiles of a grid over n_rows; the last may be shorter."""
    return -(-n_rows // tile_rows)
