"""Measurements that `bench`, `plan` and the shares of unlike devices have in common."""

from __future__ import annotations

import time
from collections.abc import Callable
from statistics import median
from typing import Any

import numpy as np

from mpigmm.core.covariance import Covariance, covariance_class
from mpigmm.core.data_summary import DataSummary
from mpigmm.core.em import EStep
from mpigmm.core.mixture import Mixture
from mpigmm.core.precision import Precision
from mpigmm.core.statistics import Moments, statistics_format
from mpigmm.core.tile import Tile
from mpigmm.data.synthetic import SyntheticSource
from mpigmm.driver.em_loop import EmLoop
from mpigmm.driver.reduction import empty_buffer
from mpigmm.driver.worker import RankContext, Tiles
from mpigmm.parallel.comm import Comm
from mpigmm.parallel.threads import run_workers

PRODUCT_SIZE = 1024
STREAM_BYTES = 1 << 26
GPU_PRODUCT_SIZE, GPU_STREAM_BYTES = 8192, 1 << 30
"""Order of the matrices, and bytes of the vector, by which a machine's limits are measured."""

PROBES = 5


def timed_iterations(
    loop: EmLoop, mixture: Mixture, precision: Precision, iterations: int
) -> tuple[float, float, float, float]:
    """Median seconds of an iteration, and of its tiles, its reduction and its M-step. Collective.

    An E-step that is not timed comes first.
    """
    loop.e_step(mixture, precision)
    taken = []
    for _ in range(iterations):
        begin, spent = time.perf_counter(), loop.reduction.clock.communicate
        result = loop.e_step(mixture, precision)
        m_begin = time.perf_counter()
        loop.m_step(mixture, result.moments)
        end = time.perf_counter()
        taken.append((end - begin, result.status.compute, loop.reduction.clock.communicate - spent, end - m_begin))
    seconds, compute, communicate, m_step = (median(column) for column in zip(*taken, strict=True))
    return seconds, compute, communicate, m_step


def true_mixture(source: SyntheticSource, covariance_type: str) -> Mixture:
    """The mixture that synthetic rows are drawn from."""
    k, d = source.means.shape
    covariances = {
        "full": source.mixing.transpose(0, 2, 1) @ source.mixing,
        "tied": np.eye(d),
        "diag": np.ones((k, d)),
        "spherical": np.ones(k),
    }[covariance_type]
    return Mixture(covariance_class(covariance_type)(), np.full(k, 1 / k), source.means, covariances)


def row_flops(mixture: Mixture) -> float:
    """Floating-point operations that a row needs where nothing is left out: two products of F numbers a component.

    F = 1 + D + D (D + 1) / 2 for `full`, 1 + 2 D for `diag`, 2 + D for `spherical`; for `tied`, F = 1 + D, and once a
    row the whitening and the second moments.
    """
    return shape_flops(mixture.covariance, *mixture.means.shape)


def shape_flops(covariance: Covariance, n_components: int, n_features: int) -> float:
    """The operations of `row_flops` for a mixture of this type and size."""
    k, d = n_components, n_features
    if covariance.name == "tied":
        return float(4 * k * (1 + d) + 2 * d * d + d * (d + 1))
    return float(4 * (k * (1 + d) + covariance.n_second(k, d)))


def machine_limits(context: RankContext, dtype: np.dtype[Any]) -> tuple[float, float]:
    """Flop/s of matrix products and bytes/s of reading, all threads of all ranks at once, summed. Collective."""
    arrays, is_gpu = context.ops.arrays, context.stage is not None
    size, n_bytes = (GPU_PRODUCT_SIZE, GPU_STREAM_BYTES) if is_gpu else (PRODUCT_SIZE, STREAM_BYTES)
    with context.comm.together(), context.guarded():
        matrix, stream = arrays.xp.ones((size, size), dtype), arrays.xp.ones(n_bytes // 8)

    def product(worker: int) -> None:
        arrays.xp.matmul(matrix, matrix, out=arrays.xp.empty_like(matrix))
        arrays.synchronize()

    def read(worker: int) -> None:
        stream.sum()
        arrays.synchronize()

    def rate(work: Callable[[int], object], amount: float) -> float:
        taken = [seconds_of(context.comm, lambda: run_workers(n_workers, work)) for _ in range(PROBES)]
        return float(context.comm.sum(np.array([int(n_workers * amount)]))[0] / median(taken))

    n_workers = 1 if is_gpu else context.n_threads
    return rate(product, 2.0 * size**3), rate(read, n_bytes)


def seconds_of(comm: Comm, work: Callable[[], object]) -> float:
    """Seconds until all ranks, which begin at the same time, have done some work. Collective."""
    comm.agree(None)
    begin = time.perf_counter()
    with comm.together():
        work()
    return time.perf_counter() - begin


def compute_responsibilities(context: RankContext, mixture: Mixture, survey: DataSummary, precision: Precision) -> None:
    """Compute the responsibilities of this rank's rows; their sums, too, where the kernel computes both at once."""
    arrays = context.ops.arrays

    def tile_function(tile: Tile, tiles: Tiles) -> None:
        moments = Moments.empty(mixture, arrays)
        for rows in tiles:
            tile.fill(rows, centre, mask=False, dtype=precision.dtype)
            if not e_step.at_once(tile, moments):
                e_step.posterior(tile)

    with context.guarded():
        e_step = EStep(mixture, survey.centre, survey.max_abs_deviation, precision.dtype, context.ops, precision.exact)
        centre = arrays.put(survey.centre)
        context.for_each_device_tile(tile_function)
        arrays.synchronize()


def reduction_seconds(loop: EmLoop, mixture: Mixture) -> tuple[float, int]:
    """Seconds of the reduction alone, and the bytes that a rank sums in it. Collective."""
    form = statistics_format(mixture, loop.survey)
    buffer = empty_buffer(form.n_limbs * form.top.size, loop.context.summing_arrays)
    taken = []
    for _ in range(PROBES):
        loop.context.comm.agree(None)
        begin = time.perf_counter()
        loop.context.comm.sum(buffer)
        taken.append(time.perf_counter() - begin)
    return median(taken), buffer.nbytes
