"""How many rows a tile has by default.

The bits of a tile's sums depend on its rows. The number is therefore a function of the problem alone: of the number of
rows, features, components and statistics, and of the precision. It depends neither on the machine nor on the number of
ranks and threads.
"""

from __future__ import annotations

import numpy as np

from mpigmm.core.arrays import ALIGNMENT, DOUBLE, SINGLE

TILE_NS, STATISTIC_NS = 40_000, 6
"""Nanoseconds that a tile takes in addition to the computation of its rows, on a core of a server: calls from Python,
during which other threads wait for Python's lock; and, for each statistic, rounding it to fixed point."""

ROW_NS, FEATURE_NS, ROW_STATISTIC_NS = 10.0, 0.5, 0.1
"""Nanoseconds that the E-step of a row takes: for any row; to read a feature; and for each statistic, two additions and
two multiplications of a matrix product. Measured E-steps of all covariance types, with overlapping components, took 0.7
to 1.5 times the sum of the three."""

LEAST_WORK = 8
"""If rows are cut into several tiles, the computation of the rows takes at least this many times as long as what the
tiles take in addition."""

CACHE_BYTES, MOST_BYTES = 1 << 23, 1 << 25
"""Bytes of a tile's rows and responsibilities for which the cache has room, and bytes that the arrays with the features
of a tile's rows may take."""

CACHED_ROWS, ROUNDED_ROWS, MOST_HOST_ROWS = 1024, 8, 1 << 15
"""A tile may exceed `CACHE_BYTES` up to CACHED_ROWS rows or ROUNDED_ROWS rows for each feature, and has at most
MOST_HOST_ROWS rows."""

LEAST_LARGE_ROWS = 504
"""Least number of rows to which `MOST_BYTES` reduces a tile. With fewer, rounding statistics would take more than an
eighth of the time of the rows."""

LEAST_GPU_ROWS, MOST_GPU_ROWS, GPU_BYTES = 1 << 14, 1 << 16, 1 << 28
"""Least and largest number of rows of a tile on a GPU, and bytes that its arrays may take: enough rows for all threads
of the GPU, without much of its memory."""

MOST_SINGLE_ROWS = 1 << 15
"""Largest number of rows over which a GPU sums products in float32."""

WANTED_BATCHES = 1024
"""Number of batches in which a pass of an algorithm that takes batches sees the rows, if there are enough: with fewer,
stepwise EM needs more passes; with more, the steps take longer than the rows."""

HOST_BATCH_TILES, LEAST_BATCH_TILE_ROWS, LEAST_GPU_BATCH_TILE_ROWS = 8, 64, 1024
"""Tiles of such a batch on the host, for the threads and ranks that share it and so that its rows are from several
parts of the data; least number of rows to which that reduces a tile, and on a GPU, where a batch is one tile."""


def host_rows(
    n_rows: int, n_features: int, n_components: int, n_second: int, dtype: np.dtype[np.generic] = DOUBLE
) -> int:
    """Default number of rows of a tile on the host.

    The rows are cut into `useful_tiles` equal tiles, or into smaller ones that have `most_rows` rows. n_second is the
    number of second moments, `Covariances.n_second`.
    """
    n_tiles = useful_tiles(n_rows, n_features, 1 + n_components * (1 + n_features) + n_second)
    return min(most_rows(n_features, n_components, dtype), aligned(-(-n_rows // n_tiles), dtype))


def useful_tiles(n_rows: int, n_features: int, n_statistics: int) -> int:
    """The number of tiles into which it pays to cut n_rows rows for many threads.

    Let W be the time of the rows on one thread, and c what a tile takes in addition. With m tiles on m threads an
    iteration takes W / m + m c, if threads wait for one another during c. This is least for m = (W / c)^(1/2), when all
    tiles together take W / m in addition. The result is the largest power of two up to this m, because a power of two
    divides among two, four or eight threads or ranks without a remainder.
    """
    work = n_rows * (ROW_NS + FEATURE_NS * n_features + ROW_STATISTIC_NS * n_statistics)
    each = TILE_NS + STATISTIC_NS * n_statistics
    n_tiles = 1
    while 2 * n_tiles * each * max(2 * n_tiles, LEAST_WORK) <= work:
        n_tiles *= 2
    return n_tiles


def most_rows(n_features: int, n_components: int, dtype: np.dtype[np.generic] = DOUBLE) -> int:
    """Largest default number of rows of a tile on the host: as many as fit into the cache, or a few more if rounding
    the statistics of so few would take long.

    The centred rows are held by feature, which the survey of the data needs in float64, and by row.
    """
    itemsize = dtype.itemsize
    cached = CACHE_BYTES // itemsize // (n_features + n_components)
    wanted = max(cached, ROUNDED_ROWS * n_features, CACHED_ROWS)
    power = 1 << (min(MOST_HOST_ROWS, wanted).bit_length() - 1)
    held = MOST_BYTES // ((DOUBLE.itemsize + itemsize) * n_features)
    unit = ALIGNMENT // itemsize
    fewer = aligned(held + 1, dtype) - 2 * unit
    return min(power - unit, max(aligned(LEAST_LARGE_ROWS, dtype), fewer))


def aligned(n_rows: int, dtype: np.dtype[np.generic]) -> int:
    """The least odd multiple of the numbers in `ALIGNMENT` bytes that is at least n_rows.

    Rows of an array then start at multiples of `ALIGNMENT`. They are never a power of two apart: addresses a power of
    two apart compete for the same few lines of a cache.
    """
    unit = ALIGNMENT // dtype.itemsize
    return unit * (max(1, -(-n_rows // unit)) | 1)


def gpu_rows(n_features: int, n_components: int, dtype: np.dtype[np.generic] = DOUBLE) -> int:
    """Default number of rows of a tile in a run in which every rank has a GPU."""
    fit = GPU_BYTES // dtype.itemsize // (n_features + n_components)
    most = MOST_SINGLE_ROWS if dtype == SINGLE else MOST_GPU_ROWS
    return int(max(LEAST_GPU_ROWS, min(most, 2 ** (fit.bit_length() - 1))))


def batch_tile_rows(n_rows: int, dtype: np.dtype[np.generic] = DOUBLE, *, on_gpu: bool = False) -> int:
    """Largest default number of rows of a tile for an algorithm that takes batches of tiles, in place of all."""
    if on_gpu:
        return max(LEAST_GPU_BATCH_TILE_ROWS, n_rows // WANTED_BATCHES)
    return aligned(max(LEAST_BATCH_TILE_ROWS, n_rows // (WANTED_BATCHES * HOST_BATCH_TILES)), dtype)
