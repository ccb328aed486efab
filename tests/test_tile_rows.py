"""How many rows a tile has by default: enough tiles for threads, little memory, and large data's tiles as ever."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from support import survey_of

from mpigmm.core.algorithms.tile_batches import default_batch_tiles
from mpigmm.core.arrays import ALIGNMENT, DOUBLE, SINGLE
from mpigmm.core.covariances import COVARIANCE_TYPES
from mpigmm.core.data_summary import DataSummaryStatistics
from mpigmm.core.estep.step import EStep
from mpigmm.core.mixture import Mixture
from mpigmm.core.ops import best_ops, ops_by_name
from mpigmm.core.statistics import SufficientStatistics
from mpigmm.core.tile import Tile
from mpigmm.core.tile_rows import (
    FEATURE_NS,
    HOST_BATCH_TILES,
    LEAST_LARGE_ROWS,
    LEAST_WORK,
    MOST_BYTES,
    MOST_HOST_ROWS,
    ROW_NS,
    ROW_STATISTIC_NS,
    STATISTIC_NS,
    TILE_NS,
    batch_tile_rows,
    host_rows,
    most_rows,
    useful_tiles,
)
from mpigmm.data.synthetic import SyntheticSource
from mpigmm.driver.devices import Devices
from mpigmm.driver.layout import choose_tile_rows
from mpigmm.options import ComputeOptions
from mpigmm.parallel.partition import count_tiles
from mpigmm.rows import Rows

TYPES = sorted(COVARIANCE_TYPES)
PRECISIONS = [DOUBLE, SINGLE]
SHAPES = [(1, 1), (2, 2), (10, 8), (32, 16), (32, 64), (100, 10), (256, 16), (784, 10), (4096, 8), (20, 10_000)]


def tile_rows(covariance_type: str, n_rows: int, d: int, k: int, dtype: np.dtype = DOUBLE) -> int:
    return host_rows(n_rows, d, k, COVARIANCE_TYPES[covariance_type].n_second(k, d), dtype)


@pytest.mark.parametrize("covariance_type", TYPES)
@pytest.mark.parametrize("dtype", PRECISIONS)
def test_more_rows_mean_more_tiles(covariance_type: str, dtype: np.dtype) -> None:
    """And tiles have an odd multiple of the numbers in `ALIGNMENT` bytes, at most as many as for large data."""
    unit = ALIGNMENT // dtype.itemsize
    for d, k in SHAPES:
        n_tiles = [0]
        for n_rows in [0, 1, 100, 4096, 5000, 32_768, 100_000, 2**20, 10**7, 10**9]:
            rows = tile_rows(covariance_type, n_rows, d, k, dtype)
            assert rows // unit % 2 == 1 and rows % unit == 0
            assert rows <= most_rows(d, k, dtype) < MOST_HOST_ROWS
            n_tiles.append(count_tiles(n_rows, rows))
        assert n_tiles == sorted(n_tiles)
        assert rows == most_rows(d, k, dtype)


@pytest.mark.parametrize("covariance_type", TYPES)
@pytest.mark.parametrize("dtype", PRECISIONS)
def test_small_data_with_many_features_give_work_to_eight_threads(covariance_type: str, dtype: np.dtype) -> None:
    assert count_tiles(5000, tile_rows(covariance_type, 5000, 784, 10, dtype)) == 8  # 5,000 digits
    assert count_tiles(60_000, tile_rows(covariance_type, 60_000, 784, 10, dtype)) >= 16
    assert count_tiles(10_000, tile_rows(covariance_type, 10_000, 4096, 8, dtype)) >= 16


@pytest.mark.parametrize("covariance_type", TYPES)
def test_tiny_data_are_one_tile(covariance_type: str) -> None:
    for n_rows in (0, 1, 150, 1000):
        assert count_tiles(n_rows, tile_rows(covariance_type, n_rows, 4, 3)) <= 1


@pytest.mark.parametrize("covariance_type", TYPES)
@pytest.mark.parametrize(
    ("d", "k", "double", "single"),
    [
        (3, 8, 32760, 32752),
        (16, 32, 16376, 32752),
        (32, 16, 16376, 32752),
        (32, 64, 8184, 16368),
        (100, 10, 8184, 16368),
        (256, 16, 2040, 4080),
        (40, 512, 1016, 2032),
        (20, 10_000, 1016, 1008),
    ],
)
def test_large_data_have_tiles_for_the_cache(covariance_type: str, d: int, k: int, double: int, single: int) -> None:
    assert tile_rows(covariance_type, 10**7, d, k, DOUBLE) == double
    assert tile_rows(covariance_type, 10**7, d, k, SINGLE) == single


@pytest.mark.parametrize("n_statistics", [10, 500, 20_000, 10**6])
@pytest.mark.parametrize("d", [1, 30, 1000])
def test_tiles_take_a_small_part_of_the_time(n_statistics: int, d: int) -> None:
    each, row = TILE_NS + STATISTIC_NS * n_statistics, ROW_NS + FEATURE_NS * d + ROW_STATISTIC_NS * n_statistics
    counts = [useful_tiles(2**power, d, n_statistics) for power in range(40)]
    assert counts[0] == 1 and counts[-1] > 64
    assert all(after in (before, 2 * before) for before, after in pairwise(counts))
    for power, n_tiles in enumerate(counts):
        assert n_tiles == 1 or n_tiles * each <= 2**power * row / max(n_tiles, LEAST_WORK)


def test_the_number_is_a_function_of_the_problem() -> None:
    """Ranks and threads do not change it; what the user or a checkpoint says takes precedence."""
    header, kind = SyntheticSource(5000, 784, 10, 1.0, correlated=False).header, COVARIANCE_TYPES["diag"]
    compute = ComputeOptions(threads=1)
    for n_ranks in (1, 7):
        for threads in (1, 64):
            devices, options = Devices.cpus(n_ranks), replace(compute, threads=threads)
            assert choose_tile_rows(options, devices, header, kind, 10) == tile_rows("diag", 5000, 784, 10)
            assert choose_tile_rows(options, devices, header, kind, 10, recorded=4088) == 4088
            assert choose_tile_rows(replace(options, tile_rows=77), devices, header, kind, 10, recorded=4088) == 77
            assert choose_tile_rows(options, devices, header, kind, 10, takes_batches=True) == 72


def test_batches_have_several_tiles_where_there_are_many_rows() -> None:
    for n_rows in (10**5, 10**6, 10**7, 10**9):
        tile_rows = batch_tile_rows(n_rows)
        assert tile_rows >= 64 and n_rows / tile_rows >= 1024
        assert n_rows < 10**6 or default_batch_tiles(-(-n_rows // tile_rows)) in (
            HOST_BATCH_TILES - 1,
            HOST_BATCH_TILES,
        )
    assert batch_tile_rows(10**8, on_gpu=True) == 10**8 // 1024 and batch_tile_rows(10**5, on_gpu=True) == 1024


@pytest.mark.parametrize("dtype", PRECISIONS)
@pytest.mark.parametrize(
    ("covariance_type", "d"), [("diag", 4096), ("spherical", 4096), ("tied", 2048), ("full", 2048)]
)
def test_arrays_of_a_tile_are_small_with_thousands_of_features(covariance_type: str, d: int, dtype: np.dtype) -> None:
    """The buffers that grow with the number of rows, after a survey and an E-step."""
    k, ops, kind = 2, ops_by_name(best_ops()), COVARIANCE_TYPES[covariance_type]
    n_rows = tile_rows(covariance_type, 10**6, d, k, dtype)
    assert n_rows >= LEAST_LARGE_ROWS
    rows = np.random.default_rng(0).standard_normal((n_rows, d))
    mixture = Mixture(np.full(k, 1 / k), 0.01 * rows[:k], kind.isotropic(k, d))
    survey = survey_of(rows)
    e_step = EStep(mixture.e_step_inputs(np.zeros(d), survey.max_abs_deviation, dtype, ops))

    def buffers(n: int) -> int:
        tile = Tile(d, n, ops)
        DataSummaryStatistics(np.zeros(d), drop=False).add(tile, Rows.of(rows[:n]))
        tile.fill(Rows.of(rows[:n]), np.zeros(d), mask=False, dtype=dtype)
        e_step(tile, SufficientStatistics.empty(mixture.layout))
        return sum(buffer.size for buffer in tile._buffers.values())

    assert 2 * (buffers(n_rows) - buffers(n_rows // 2)) <= 1.05 * MOST_BYTES
