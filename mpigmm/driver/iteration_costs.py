"""The costs of an iteration and of a first mixture on this machine, from which `plan` computes those of a fit."""

from __future__ import annotations

import math
import time
import tracemalloc
from collections.abc import Callable
from dataclasses import dataclass, replace

from mpigmm.core.algorithms.base import EStepPass, Problem
from mpigmm.core.algorithms.initialise import NOTHING_GIVEN, sample_size
from mpigmm.core.algorithms.responsibilities import no_progress
from mpigmm.core.covariances import COVARIANCE_TYPES
from mpigmm.core.covariances.base import Covariances
from mpigmm.core.ops import best_ops, ops_by_name
from mpigmm.core.ops.numpy import NUMPY
from mpigmm.data.memory import peak_memory
from mpigmm.data.source import Header
from mpigmm.data.synthetic import SyntheticSource
from mpigmm.driver.devices import Devices, common_ops
from mpigmm.driver.distributed_kmeans import distributed_mixture, is_distributed
from mpigmm.driver.em_loop import problem_of
from mpigmm.driver.layout import choose_tile_rows, lay_out
from mpigmm.driver.measure import (
    SAMPLED_ROWS,
    is_correlated,
    reduction_seconds,
    row_flops,
    timed_iterations,
    true_mixture,
)
from mpigmm.driver.reduction import TAIL_SIZE, Reduction
from mpigmm.driver.starts import mixture_of_sample
from mpigmm.driver.survey_pass import Sample, survey_rows
from mpigmm.driver.worker import RankContext, open_context
from mpigmm.options import ComputeOptions, FitOptions
from mpigmm.parallel.comm import Comm
from mpigmm.parallel.stop import StopRequest
from mpigmm.requests import PlanRequest

MEASURED_FLOPS, MEASURED_TILES = 3e9, 4
"""Largest number of floating-point operations, and wanted number of tiles, of each rank in a measured iteration.

At least `LEAST_ROWS` rows and `LEAST_COMPONENTS` components are measured, however many operations that takes.
"""

LEAST_ROWS, LEAST_COMPONENTS = 256, 2
ROWS_EACH = 4
"""Least number of rows for each component, so that few components are empty."""

FEW_ROWS = 64
"""Rows of the iteration that measures the costs which do not depend on the number of rows."""

ITERATIONS = 3

MEASURED_ENTRIES = 1e8
"""Largest product of rows, components and features of a first mixture that is measured."""

APART, SOME_OVERLAP, OVERLAPPING = 3.0, 1.0, 0.1
"""Separations of the synthetic components: most work is skipped with the first, none with the last."""


@dataclass(frozen=True)
class Size:
    """The size of a measured iteration: rows of a tile, rows of each rank, and components."""

    tile_rows: int
    rows: int
    components: int

    @classmethod
    def affordable(cls, kind: type[Covariances], n_components: int, n_features: int, tile_rows: int) -> Size:
        """The largest size within `MEASURED_FLOPS`; tiles are cut where a whole one exceeds it."""
        per_entry = row_flops(kind, n_components, n_features) / n_components
        components = min(n_components, max(LEAST_COMPONENTS, math.isqrt(int(MEASURED_FLOPS / ROWS_EACH / per_entry))))
        wanted = max(MEASURED_TILES, -(-ROWS_EACH * components // tile_rows))
        rows = tile_rows * min(wanted, max(1, int(MEASURED_FLOPS / (tile_rows * components * per_entry))))
        components = min(components, max(LEAST_COMPONENTS, int(MEASURED_FLOPS / (rows * per_entry))))
        rows = min(rows, max(LEAST_ROWS, int(MEASURED_FLOPS / (components * per_entry))))
        return cls(min(tile_rows, rows), rows, components)


@dataclass(frozen=True)
class Rates:
    """Costs of an iteration of the fit on this machine.

    Attributes
    ----------
    apart, overlapping : float
        Seconds a row of one thread, with components far apart and with overlapping ones.
    prepare, m_step : float
        Seconds of every rank before the first row and after the reduction.
    work_bytes : int
        Memory of a rank besides its rows.
    reduced_bytes : int
        Bytes that a rank sums in the reduction.
    components : int
        Number of components that was measured. The other figures are scaled to the number of the fit.
    """

    apart: float
    overlapping: float
    prepare: float
    m_step: float
    work_bytes: int
    reduced_bytes: int
    components: int


@dataclass(frozen=True)
class FirstMixtureCosts:
    """Costs of the first mixture of a start.

    Attributes
    ----------
    method : str
    rows : int
        Rows of the sample.
    seconds : float
    bytes : int
    components : int
        Number of components that was measured. Seconds and bytes are scaled to the number of the fit.
    distributed : bool
        Whether all ranks compute it, as many as measured it, or rank 0 alone.
    """

    method: str
    rows: int
    seconds: float
    bytes: int
    components: int
    distributed: bool


@dataclass(frozen=True)
class MeasuredIteration:
    """Seconds of an iteration over this rank's rows, seconds of its M-step, bytes reduced, and peak memory."""

    compute: float
    m_step: float
    reduced_bytes: int
    peak_bytes: int


def measured_rates(
    comm: Comm, request: PlanRequest, devices: Devices, header: Header, tile_rows: int, stop: StopRequest
) -> Rates:
    """Costs of an iteration, from iterations on synthetic rows with one thread a rank. Collective.

    Seconds a row follow from the difference between an iteration over some tiles and one over a few rows. If fewer
    components are measured than the fit has, memory is extrapolated linearly from that number and half of it.
    """
    model = request.options.model
    kind, k = COVARIANCE_TYPES[model.covariance_type], model.n_components
    tile_rows = min(tile_rows, header.n_rows)
    size = Size.affordable(kind, k, header.n_features, tile_rows)
    is_whole = size.components == k
    few = Size(min(FEW_ROWS, size.tile_rows), FEW_ROWS, k if is_whole else size.components // 2)
    iterations, ops = ITERATIONS if is_whole else 1, common_ops(comm)

    def measure(separation: float, size: Size) -> MeasuredIteration:
        return measured_iteration(
            comm, request.options, devices, header.n_features, separation, size, iterations, stop, ops
        )

    least = measure(APART, few)
    many = [measure(separation, size) for separation in (APART, OVERLAPPING)]
    scale, fixed = k / size.components, least.compute * size.components / few.components
    apart, overlapping = (seconds_a_row(one.compute, size.rows, fixed, few.rows) for one in many)
    peak = max(one.peak_bytes for one in many)
    each = 0.0 if is_whole else (peak - least.peak_bytes) / (size.components - few.components)
    tile_bytes = 8 * (tile_rows - size.tile_rows) * (k + 4 * header.n_features)
    return Rates(
        apart=scale * apart,
        overlapping=scale * overlapping,
        prepare=scale * max(0.0, fixed - few.rows * apart),
        m_step=scale * min(one.m_step for one in many),
        work_bytes=peak - size.rows * header.n_features * 8 + int((k - size.components) * each) + tile_bytes,
        reduced_bytes=scaled_bytes(many[0].reduced_bytes, kind, size.components, k, header.n_features),
        components=size.components,
    )


def seconds_a_row(many_seconds: float, many: int, few_seconds: float, few: int) -> float:
    """Seconds of each additional row, from two measurements; the mean over all rows where more took no longer."""
    if many > few and many_seconds > few_seconds:
        return (many_seconds - few_seconds) / (many - few)
    return many_seconds / many


def scaled_bytes(n_bytes: int, kind: type[Covariances], measured: int, wanted: int, n_features: int) -> int:
    """Bytes reduced with another number of components than was measured; exact, as all sums have equally many limbs."""

    def n_sums(k: int) -> int:
        return 1 + k + k * n_features + kind.n_second(k, n_features)

    tail = 8 * TAIL_SIZE
    return (n_bytes - tail) // n_sums(measured) * n_sums(wanted) + tail


def measured_iteration(
    comm: Comm,
    options: FitOptions,
    devices: Devices,
    n_features: int,
    separation: float,
    size: Size,
    iterations: int,
    stop: StopRequest,
    ops: str,
) -> MeasuredIteration:
    """Measure iterations on synthetic rows from their true mixture, with one thread a rank. Collective."""
    model, compute = options.model, replace(options.compute, threads=1, memory="auto")
    kind = COVARIANCE_TYPES[model.covariance_type]
    with comm.together():
        source = SyntheticSource(
            comm.size * size.rows, n_features, size.components, separation, correlated=is_correlated(kind)
        )
        mixture = true_mixture(source, kind)
    layout = lay_out(comm, source, size.tile_rows, compute, devices)
    context = open_context(comm, source, layout, devices, stop, ops)
    summary, _ = survey_rows(context, replace(options, model=replace(model, n_components=1)), SAMPLED_ROWS)
    problem = problem_of(options, summary, context.grid)
    e_step_pass = EStepPass(mixture, problem.first_precision(mixture))
    _, seconds, _, m_step = timed_iterations(Reduction(context), problem, e_step_pass, iterations)
    _, n_bytes = reduction_seconds(context, problem, mixture)
    return MeasuredIteration(seconds, m_step, n_bytes, max(comm.allgather(peak_memory())))


def measured_first_mixture(comm: Comm, request: PlanRequest, header: Header, stop: StopRequest) -> FirstMixtureCosts:
    """Costs of a first mixture on root, scaled from a measurement with fewer components and rows. Collective."""
    options, method, d = request.options, request.options.init.method, header.n_features
    k = options.model.n_components
    if method in ("file", "labels"):
        return FirstMixtureCosts(method, 0, 0.0, 0, k, False)
    few, distributed = affordable_components(k, header), is_distributed(options, NOTHING_GIVEN)
    wanted, measured = (min(sample_size(components, d), header.n_rows) for components in (k, few))
    init = replace(options.init, screening=options.is_screened)
    options = replace(options, model=replace(options.model, n_components=few), init=init)
    compute, devices = ComputeOptions(threads=1), Devices.cpus(comm.size)
    with comm.together():
        source = SyntheticSource(measured, d, few, SOME_OVERLAP, correlated=False)
    kind = COVARIANCE_TYPES[options.model.covariance_type]
    tile_rows = choose_tile_rows(compute, devices, source.header, kind, few)
    layout = lay_out(comm, source, tile_rows, compute, devices)
    context = open_context(comm, source, layout, devices, stop, NUMPY.name)
    summary, sample = survey_rows(context, options, measured)
    problem = problem_of(options, summary, replace(context.grid, n_rows=header.n_rows))
    if distributed:
        seconds, n_bytes = seconds_and_bytes(lambda: all_ranks_start(context, options, sample, problem))
    else:
        seconds, n_bytes = 0.0, 0
        with comm.together():
            if comm.is_root:
                seconds, n_bytes = seconds_and_bytes(lambda: root_start(options, sample, problem, stop))
    rows, n_bytes = wanted / measured, n_bytes + sum(array.nbytes for array in sample)
    seconds *= rows * (1 if method == "random" else k / few)
    return FirstMixtureCosts(method, wanted, seconds, int(n_bytes * rows), few, distributed)


def affordable_components(n_components: int, header: Header) -> int:
    """Components of a first mixture to measure: n_components, halved until `MEASURED_ENTRIES` are not exceeded."""
    d, few = header.n_features, n_components
    while few > LEAST_COMPONENTS and few * min(sample_size(few, d), header.n_rows) * d > MEASURED_ENTRIES:
        few //= 2
    return few


def all_ranks_start(context: RankContext, options: FitOptions, sample: Sample, problem: Problem) -> None:
    """Compute a first mixture on all ranks. Collective."""
    distributed_mixture(Reduction(context), options, problem, sample, 0, no_progress, NOTHING_GIVEN)


def root_start(options: FitOptions, sample: Sample, problem: Problem, stop: StopRequest) -> None:
    """Compute a first mixture on root alone."""
    stop.check()
    mixture_of_sample(options, sample, problem, 0, ops_by_name(best_ops()), lambda *step: stop.check())


def seconds_and_bytes(work: Callable[[], None]) -> tuple[float, int]:
    """Seconds of work, the smaller of processor time and wall time to reduce the effect of other programs, and bytes
    that it allocates."""
    tracemalloc.start()
    try:
        begin, begin_used = time.perf_counter(), time.process_time()
        work()
        seconds = min(time.perf_counter() - begin, time.process_time() - begin_used)
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    return seconds, most
