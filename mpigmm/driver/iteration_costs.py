"""What `plan` reckons with: what this machine takes for an iteration and for a first mixture."""

from __future__ import annotations

import math
import time
import tracemalloc
from dataclasses import dataclass, replace

from mpigmm.core.covariance import Covariance, covariance_class
from mpigmm.core.em import Safeguards
from mpigmm.core.initialise import initialise, sample_size
from mpigmm.core.precision import choose_precision
from mpigmm.core.survey import Survey
from mpigmm.core.tile import default_rows
from mpigmm.data.block import peak_memory
from mpigmm.data.source import Header
from mpigmm.data.synthetic import SyntheticSource
from mpigmm.driver.devices import Devices
from mpigmm.driver.em_loop import N_CLOCKS, N_FLAGS, Loop
from mpigmm.driver.measure import reduction_seconds, shape_flops, timed_iterations, true_mixture
from mpigmm.driver.survey_pass import Sample, survey_rows
from mpigmm.driver.worker import build_team, common_loops
from mpigmm.options import FitOptions
from mpigmm.parallel.comm import Comm
from mpigmm.parallel.stop import StopRequest
from mpigmm.requests import PlanRequest

MEASURED_FLOPS, MEASURED_TILES = 3e9, 4
"""Of an iteration that is measured, each rank's: at most so much work, where a few rows and components allow it, and so
many tiles."""

LEAST_ROWS, LEAST_COMPONENTS = 256, 2
ROWS_EACH = 4
"""Rows a component at least, so that few are empty."""

FEW_ROWS = 64
"""An iteration over so few takes little more than what does not depend on the rows."""

ITERATIONS = 3
SURVEYED_ROWS = 1024

MEASURED_ENTRIES = 1e8
"""Rows times components times features of a first mixture that is measured."""

APART, SOME_OVERLAP, OVERLAPPING = 3.0, 1.0, 0.1
"""Separations of the synthetic components: most work is left out with the first, none with the last."""


@dataclass(frozen=True)
class Size:
    """What is measured in place of the fit: rows of a tile and of each rank, and components."""

    tile_rows: int
    rows: int
    components: int

    @classmethod
    def affordable(cls, covariance: Covariance, n_components: int, n_features: int, tile_rows: int) -> Size:
        """As many components, tiles and rows as `MEASURED_FLOPS` allow; of a tile too large for it, the first rows."""
        per_entry = shape_flops(covariance, n_components, n_features) / n_components
        components = min(n_components, max(LEAST_COMPONENTS, math.isqrt(int(MEASURED_FLOPS / ROWS_EACH / per_entry))))
        wanted = max(MEASURED_TILES, -(-ROWS_EACH * components // tile_rows))
        rows = tile_rows * min(wanted, max(1, int(MEASURED_FLOPS / (tile_rows * components * per_entry))))
        components = min(components, max(LEAST_COMPONENTS, int(MEASURED_FLOPS / (rows * per_entry))))
        rows = min(rows, max(LEAST_ROWS, int(MEASURED_FLOPS / (components * per_entry))))
        return cls(min(tile_rows, rows), rows, components)


@dataclass(frozen=True)
class Rates:
    """What this machine does with rows of the fit's shape.

    Attributes
    ----------
    apart, overlapping : float
        Seconds a row of one thread, with components far apart and with overlapping ones.
    prepare, maximise : float
        Seconds of what every rank does once an iteration, ahead of the rows and after them.
    work_bytes : int
        Memory of a rank besides its rows.
    reduced_bytes : int
    components : int
        Those that were measured; all else is scaled from them.
    """

    apart: float
    overlapping: float
    prepare: float
    maximise: float
    work_bytes: int
    reduced_bytes: int
    components: int


@dataclass(frozen=True)
class FirstMixture:
    """What rank 0 alone does ahead of the first iteration of a start.

    Attributes
    ----------
    method : str
    rows : int
        Of the sample that it works on.
    seconds : float
    bytes : int
    components : int
        Those of the first mixture that was measured; the seconds and bytes are scaled from it.
    """

    method: str
    rows: int
    seconds: float
    bytes: int
    components: int


@dataclass(frozen=True)
class Iteration:
    """Seconds of an iteration over this rank's rows, those of its M-step, and what its reduction and memory take."""

    compute: float
    maximise: float
    reduced_bytes: int
    peak_bytes: int


def measured_rates(
    comm: Comm, request: PlanRequest, devices: Devices, header: Header, tile_rows: int, stop: StopRequest
) -> Rates:
    """Iterations on a few synthetic rows, one thread a rank, scaled to the fit's components. Collective.

    Seconds a row are the difference between an iteration over some tiles and one over a few rows; where not all
    components can be measured, memory grows with each by the difference between all that are measured and half of them.
    """
    covariance, k = covariance_class(request.options.model.covariance_type)(), request.options.model.n_components
    tile_rows = min(tile_rows, header.n_rows)
    size = Size.affordable(covariance, k, header.n_features, tile_rows)
    is_whole = size.components == k
    few = Size(min(FEW_ROWS, size.tile_rows), FEW_ROWS, k if is_whole else size.components // 2)
    iterations, loops = ITERATIONS if is_whole else 1, common_loops(comm)

    def measure(separation: float, size: Size) -> Iteration:
        return measured_iteration(
            comm, request.options, devices, header.n_features, separation, size, iterations, stop, loops
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
        maximise=scale * min(one.maximise for one in many),
        work_bytes=peak - size.rows * header.n_features * 8 + int((k - size.components) * each) + tile_bytes,
        reduced_bytes=scaled_bytes(many[0].reduced_bytes, covariance, size.components, k, header.n_features),
        components=size.components,
    )


def seconds_a_row(many_seconds: float, many: int, few_seconds: float, few: int) -> float:
    """What each further row takes; the mean where a clock says that more rows take no longer."""
    if many > few and many_seconds > few_seconds:
        return (many_seconds - few_seconds) / (many - few)
    return many_seconds / many


def scaled_bytes(n_bytes: int, covariance: Covariance, measured: int, wanted: int, n_features: int) -> int:
    """Bytes reduced with another number of components than those measured; exact, since their number format is one."""

    def n_sums(k: int) -> int:
        return 1 + k + k * n_features + covariance.n_second(k, n_features)

    tail = 8 * (N_FLAGS + N_CLOCKS)
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
    loops: str,
) -> Iteration:
    """Iterations on synthetic rows from their true mixture, one thread a rank. Collective."""
    model, compute = options.model, replace(options.compute, threads=1, memory="auto")
    correlated = model.covariance_type == "full"
    with comm.together():
        source = SyntheticSource(comm.size * size.rows, n_features, size.components, separation, correlated=correlated)
        mixture = true_mixture(source, model.covariance_type)
    team = build_team(comm, source, size.tile_rows, compute, stop, loops, devices)
    survey, _ = survey_rows(team, replace(options, model=replace(model, n_components=1)), SURVEYED_ROWS)
    loop = Loop(team, survey, Safeguards(model.reg_covar, model.variance_floor), compute.precision)
    precision = choose_precision(loop.precision, mixture, survey)
    _, seconds, _, maximise = timed_iterations(loop, mixture, precision, iterations)
    _, n_bytes = reduction_seconds(loop, mixture)
    return Iteration(seconds, maximise, n_bytes, max(comm.allgather(peak_memory())))


def measured_start(comm: Comm, request: PlanRequest, header: Header, stop: StopRequest) -> FirstMixture:
    """A first mixture of fewer components on root, scaled by what it does for each row and component. Collective."""
    options, method, d = request.options, request.options.init.method, header.n_features
    k = options.model.n_components
    if method == "file":
        return FirstMixture(method, 0, 0.0, 0, k)
    few = affordable_components(k, header)
    wanted, measured = (min(sample_size(components, d), header.n_rows) for components in (k, few))
    options = replace(options, model=replace(options.model, n_components=few))
    compute = replace(options.compute, threads=1, memory="auto")
    with comm.together():
        source = SyntheticSource(measured, d, few, SOME_OVERLAP, correlated=False)
    team = build_team(comm, source, default_rows(d, few), compute, stop)
    survey, sample = survey_rows(team, options, measured)
    seconds, n_bytes = 0.0, 0
    with comm.together():
        if comm.is_root:
            seconds, n_bytes = seconds_and_bytes(options, sample, survey, stop)
    rows = wanted / measured
    return FirstMixture(
        method, wanted, seconds * rows * (1 if method == "random" else k / few), int(n_bytes * rows), few
    )


def affordable_components(n_components: int, header: Header) -> int:
    """Components of a first mixture that takes no longer than `MEASURED_ENTRIES` do: half as many, and so on."""
    d, few = header.n_features, n_components
    while few > LEAST_COMPONENTS and few * min(sample_size(few, d), header.n_rows) * d > MEASURED_ENTRIES:
        few //= 2
    return few


def seconds_and_bytes(options: FitOptions, sample: Sample, survey: Survey, stop: StopRequest) -> tuple[float, int]:
    """What the first mixture from a sample takes, the sample included: seconds of the processor or of the clock,
    whichever are fewer, so that other programs on this machine do not count."""
    model = options.model
    covariance, safeguards = (
        covariance_class(model.covariance_type)(),
        Safeguards(model.reg_covar, model.variance_floor),
    )
    tracemalloc.start()
    try:
        begin, begin_used = time.perf_counter(), time.process_time()
        stop.check()
        initialise(
            options.init.method,
            covariance,
            model.n_components,
            sample,
            survey,
            safeguards,
            (options.init.seed, 0),
            lambda *step: stop.check(),
        )
        seconds = min(time.perf_counter() - begin, time.process_time() - begin_used)
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    return seconds, most + sum(array.nbytes for array in sample)
