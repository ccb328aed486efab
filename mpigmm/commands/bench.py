"""``bench``: times EM iterations on synthetic rows, and measures the limits of this machine."""

from __future__ import annotations

import json
from typing import Any

from mpigmm.core.algorithms.base import EStepPass
from mpigmm.core.covariances import COVARIANCE_TYPES
from mpigmm.data.memory import peak_memory
from mpigmm.data.synthetic import SyntheticSource
from mpigmm.driver.devices import choose_devices, common_ops
from mpigmm.driver.em_loop import problem_of
from mpigmm.driver.layout import choose_tile_rows, lay_out
from mpigmm.driver.measure import (
    SAMPLED_ROWS,
    compute_responsibilities,
    is_correlated,
    machine_limits,
    reduction_seconds,
    row_flops,
    seconds_of,
    timed_iterations,
    true_mixture,
)
from mpigmm.driver.reduction import Reduction
from mpigmm.driver.survey_pass import survey_rows
from mpigmm.driver.worker import RankContext, open_context
from mpigmm.errors import EXIT_DONE, counted
from mpigmm.options import FitOptions
from mpigmm.parallel.comm import Comm
from mpigmm.parallel.stop import StopRequest
from mpigmm.parallel.threads import single_threaded_blas
from mpigmm.requests import BenchRequest
from mpigmm.runs.streams import print_result


def run(comm: Comm, request: BenchRequest, stop: StopRequest) -> int:
    """Print the seconds of an iteration on synthetic rows; returns the exit code. Collective."""
    options, model = request.options, request.options.model
    kind = COVARIANCE_TYPES[model.covariance_type]
    kind.prepare()
    with comm.together():
        source = SyntheticSource(
            request.n_samples,
            request.n_features,
            model.n_components,
            request.separation,
            correlated=is_correlated(kind),
        )
    devices = choose_devices(comm, options.compute.device)
    tile_rows = choose_tile_rows(options.compute, devices, source.header, kind, model.n_components)
    ops = common_ops(comm) if request.ops == "auto" else request.ops
    with single_threaded_blas:
        layout = lay_out(comm, source, tile_rows, options.compute, devices)
        context = open_context(comm, source, layout, devices, stop, ops)
        report = measure(context, source, options, request.iterations)
    with comm.together():
        if comm.is_root:
            print_result(json.dumps(report, indent=2) if request.json else bench_text(report))
    return EXIT_DONE


def measure(context: RankContext, source: SyntheticSource, options: FitOptions, iterations: int) -> dict[str, Any]:
    """The figures of the benchmark; those that include all ranks are complete on root alone. Collective."""
    comm, header = context.comm, context.header
    summary, _ = survey_rows(context, options, SAMPLED_ROWS)
    problem, kind = problem_of(options, summary, context.grid), COVARIANCE_TYPES[options.model.covariance_type]
    mixture = true_mixture(source, kind)
    e_step_pass = EStepPass(mixture, problem.first_precision(mixture))
    dtype = e_step_pass.precision.dtype
    flops_at_most, bytes_at_most = machine_limits(context, dtype)
    seconds, compute, communicate, m_step = timed_iterations(Reduction(context), problem, e_step_pass, iterations)
    e_step = seconds_of(comm, lambda: compute_responsibilities(context, problem, e_step_pass))
    reduction, n_bytes = reduction_seconds(context, problem, mixture)
    flops = header.n_rows * row_flops(kind, *mixture.means.shape)
    floor = max(flops / flops_at_most, header.n_rows * header.row_bytes / bytes_at_most)
    ranks = comm.gather(peak_memory())
    return {
        "n_samples": header.n_rows,
        "n_features": header.n_features,
        "n_components": mixture.n_components,
        "covariance_type": kind.name,
        "precision": dtype.name,
        "device": context.devices.device,
        "devices": context.devices.counts(),
        "kernels": context.ops.name,
        "n_ranks": comm.size,
        "threads_per_rank": context.n_threads,
        "tile_rows": context.block.tile_rows,
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
        "rows_bytes": max(comm.gather(context.block.n_rows * header.row_bytes), default=0),
    }


def bench_text(report: dict[str, Any]) -> str:
    """The figures of the benchmark as text."""
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
