"""``bench``: EM iterations on synthetic rows, against what this machine can do at most."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from statistics import median
from typing import Any

import numpy as np

from mpigmm.commands.devices import choose_devices
from mpigmm.commands.iterate import Loop, empty_buffer
from mpigmm.commands.survey import survey_rows
from mpigmm.commands.team import Team, Tiles, build_team, common_loops
from mpigmm.core.covariance import Covariance, covariance_class
from mpigmm.core.em import EStep, Safeguards
from mpigmm.core.mixture import Mixture
from mpigmm.core.precision import Precision, choose_precision
from mpigmm.core.statistics import Moments, statistics_format
from mpigmm.core.survey import Survey
from mpigmm.core.tile import Tile
from mpigmm.data.block import peak_memory
from mpigmm.data.synthetic import SyntheticSource
from mpigmm.errors import EXIT_DONE, counted
from mpigmm.options import FitOptions
from mpigmm.parallel.comm import Comm
from mpigmm.parallel.stop import StopRequest
from mpigmm.parallel.threads import run_workers, single_threaded_blas
from mpigmm.requests import BenchRequest
from mpigmm.runs.streams import print_result

PRODUCT_SIZE = 1024
STREAM_BYTES = 1 << 26
GPU_PRODUCT_SIZE, GPU_STREAM_BYTES = 8192, 1 << 30
PROBES = 5


def run(comm: Comm, request: BenchRequest, stop: StopRequest) -> int:
    """Print what an iteration takes; returns the exit code. Collective."""
    options = request.options
    model = options.model
    covariance_class(model.covariance_type)
    with comm.together():
        source = SyntheticSource(
            request.n_samples,
            request.n_features,
            model.n_components,
            request.separation,
            correlated=model.covariance_type == "full",
        )
    devices = choose_devices(comm, options.compute.device)
    tile_rows = options.compute.tile_rows
    if tile_rows == "auto":
        tile_rows = devices.default_rows(request.n_features, model.n_components, np.dtype(options.compute.precision))
    loops = common_loops(comm) if request.kernels == "auto" else request.kernels
    with single_threaded_blas():
        team = build_team(comm, source, tile_rows, options.compute, stop, loops, devices)
        report = measure(team, source, options, request.iterations)
    with comm.together():
        if comm.is_root:
            print_result(json.dumps(report, indent=2) if request.json else describe(report))
    return EXIT_DONE


def measure(team: Team, source: SyntheticSource, options: FitOptions, iterations: int) -> dict[str, Any]:
    """The figures of a bench, on root those of all ranks. Collective."""
    comm, header = team.comm, team.header
    survey, _ = survey_rows(team, options, 1024)
    safeguards = Safeguards(options.model.reg_covar, options.model.variance_floor)
    loop = Loop(team, survey, safeguards, options.compute.precision)
    mixture = true_mixture(source, options.model.covariance_type)
    precision = choose_precision(loop.precision, mixture, survey)
    dtype = precision.dtype
    flops_at_most, bytes_at_most = machine_limits(team, dtype)
    seconds, compute, communicate, m_step = timed_iterations(loop, mixture, precision, iterations)
    e_step = seconds_of(comm, lambda: sweep_e_step(team, mixture, survey, precision))
    reduction, n_bytes = reduction_seconds(loop, mixture)
    flops = header.n_rows * row_flops(mixture)
    floor = max(flops / flops_at_most, header.n_rows * header.row_bytes / bytes_at_most)
    ranks = comm.gather(peak_memory())
    return {
        "n_samples": header.n_rows,
        "n_features": header.n_features,
        "n_components": mixture.n_components,
        "covariance_type": mixture.covariance.name,
        "precision": dtype.name,
        "device": team.devices.device,
        "devices": team.devices.counts(),
        "kernels": team.engine.name,
        "n_ranks": comm.size,
        "threads_per_rank": team.n_threads,
        "tile_rows": team.block.tile_rows,
        "seconds": seconds,
        "ns_per_row": seconds * 1e9 / header.n_rows,
        "seconds_compute": compute,
        "seconds_maximise": m_step,
        "seconds_e_step": e_step,
        "seconds_m_step": max(0.0, compute - e_step) + m_step,
        "seconds_reduction": reduction,
        "seconds_waiting": max(0.0, communicate - reduction),
        "bytes_reduced": n_bytes,
        "useful_flops_per_second": flops / seconds,
        "gemm_flops_per_second": flops_at_most,
        "read_bytes_per_second": bytes_at_most,
        "fraction_of_floor": floor / seconds,
        "peak_memory_bytes": max(ranks, default=0),
        "rows_bytes": max(comm.gather((team.block.stop - team.block.start) * header.row_bytes), default=0),
    }


def timed_iterations(
    loop: Loop, mixture: Mixture, precision: Precision, iterations: int
) -> tuple[float, float, float, float]:
    """Median seconds of an iteration, and of its tiles, its reduction and its M-step, after one that is not counted.
    Collective."""
    loop.expect(mixture, precision)
    taken = []
    for _ in range(iterations):
        begin, spent = time.perf_counter(), loop.clock.communicate
        reduced = loop.expect(mixture, precision)
        m_begin = time.perf_counter()
        loop.maximise(mixture, reduced.moments)
        end = time.perf_counter()
        taken.append((end - begin, reduced.compute, loop.clock.communicate - spent, end - m_begin))
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
    """The same for a mixture of this type and size."""
    k, d = n_components, n_features
    if covariance.name == "tied":
        return float(4 * k * (1 + d) + 2 * d * d + d * (d + 1))
    return float(4 * (k * (1 + d) + covariance.n_second(k, d)))


def machine_limits(team: Team, dtype: np.dtype[Any]) -> tuple[float, float]:
    """Flop/s of matrix products and bytes/s of reading, all threads of all ranks at once, summed. Collective."""
    backend, is_gpu = team.engine.backend, team.stage is not None
    size, n_bytes = (GPU_PRODUCT_SIZE, GPU_STREAM_BYTES) if is_gpu else (PRODUCT_SIZE, STREAM_BYTES)
    with team.comm.together(), team.guarded():
        matrix, stream = backend.xp.ones((size, size), dtype), backend.xp.ones(n_bytes // 8)

    def product(worker: int) -> None:
        backend.xp.matmul(matrix, matrix, out=backend.xp.empty_like(matrix))
        backend.synchronize()

    def read(worker: int) -> None:
        stream.sum()
        backend.synchronize()

    def rate(work: Callable[[int], object], amount: float) -> float:
        taken = [seconds_of(team.comm, lambda: run_workers(n_workers, work)) for _ in range(PROBES)]
        return float(team.comm.sum(np.array([int(n_workers * amount)]))[0] / median(taken))

    n_workers = 1 if is_gpu else team.n_threads
    return rate(product, 2.0 * size**3), rate(read, n_bytes)


def seconds_of(comm: Comm, work: Callable[[], object]) -> float:
    """Seconds until all ranks, which begin together, have done some work. Collective."""
    comm.agree(None)
    begin = time.perf_counter()
    with comm.together():
        work()
    return time.perf_counter() - begin


def sweep_e_step(team: Team, mixture: Mixture, survey: Survey, precision: Precision) -> None:
    """Responsibilities of this rank's rows, and nothing else; with their sums where one sweep yields both."""
    backend = team.engine.backend

    def visit(tile: Tile, tiles: Tiles) -> None:
        moments = Moments.empty(mixture, backend)
        for _, rows, weights in tiles:
            tile.fill(rows, weights, centre, mask=False, dtype=precision.dtype)
            if not e_step.at_once(tile, moments):
                e_step.posterior(tile)

    with team.guarded():
        e_step = EStep(mixture, survey.centre, survey.reach, precision.dtype, team.engine, precision.exact)
        centre = backend.put(survey.centre)
        team.sweep_engine(visit)
        backend.synchronize()


def reduction_seconds(loop: Loop, mixture: Mixture) -> tuple[float, int]:
    """Seconds of the reduction alone, and the bytes of a rank in it. Collective."""
    buffer = empty_buffer(statistics_format(mixture, loop.survey), loop.team.summing_backend)
    taken = []
    for _ in range(PROBES):
        loop.team.comm.agree(None)
        begin = time.perf_counter()
        loop.team.comm.sum(buffer)
        taken.append(time.perf_counter() - begin)
    return median(taken), buffer.nbytes


def describe(report: dict[str, Any]) -> str:
    """A report in words."""
    parts = ", ".join(
        f"{name} {report['seconds_' + key]:.3g} s"
        for name, key in (("E", "e_step"), ("M", "m_step"), ("reduction", "reduction"), ("waiting", "waiting"))
    )
    return "\n".join(
        [
            f"{report['n_samples']:,} x {report['n_features']}, K = {report['n_components']}, "
            f"{report['covariance_type']}, {report['precision']}, {counted(report['n_ranks'], 'rank')} of "
            f"{counted(report['threads_per_rank'], 'thread')}, {report['kernels']}",
            f"an iteration:   {report['seconds']:.3g} s, {report['ns_per_row']:.3g} ns a row ({parts})",
            f"useful work:    {report['useful_flops_per_second'] / 1e9:.3g} GFLOP/s, "
            f"{report['fraction_of_floor']:.2f} of this machine's floor",
            f"this machine:   {report['gemm_flops_per_second'] / 1e9:.3g} GFLOP/s in matrix products, "
            f"{report['read_bytes_per_second'] / 1e9:.3g} GB/s read",
            f"reduced:        {report['bytes_reduced']:,} bytes a rank",
            f"peak memory:    {report['peak_memory_bytes'] / 1e6:.0f} MB a rank, of which rows "
            f"{report['rows_bytes'] / 1e6:.0f} MB",
        ]
    )
