"""Several fits to the same rows, one after the other or with shared passes over the rows."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace

from mpigmm.core.data_summary import DataSummary
from mpigmm.data.source import Header, Source
from mpigmm.driver.candidates import Candidate, batches
from mpigmm.driver.devices import Devices
from mpigmm.driver.e_step import Fit, FitClock, run_fits
from mpigmm.driver.em_loop import algorithm_of
from mpigmm.driver.fit_rows import open_record, recorded_fit, save_interrupted
from mpigmm.driver.layout import lay_out
from mpigmm.driver.null_recorder import NullRecorder, Outcome
from mpigmm.driver.reduction import Reduction
from mpigmm.driver.resume_plan import ResumePlan
from mpigmm.driver.survey_pass import Sample, far_row, survey_samples
from mpigmm.driver.worker import RankContext, open_context
from mpigmm.errors import EXIT_INTERRUPTED, AgreedError, DegenerateError, counted
from mpigmm.options import FitOptions
from mpigmm.parallel.comm import Comm
from mpigmm.parallel.stop import StopRequest
from mpigmm.parallel.walltime import RESERVE_SECONDS
from mpigmm.runs.sweep_voice import SweepVoice
from mpigmm.runs.voice import Voice

SHARED_STATISTICS = 1 << 24
"""Largest number of statistics of all fits that share a reading of the rows, times the threads of a rank, each of which
has exact sums of its own: these take several hundred MB."""


@dataclass(frozen=True, eq=False)
class Sweep:
    """What all fits of a selection have in common.

    Attributes
    ----------
    options : FitOptions
    new_recorder : callable
        Makes the recorder of a fit on the root of its ranks, from its options, the header of its rows, and its voice.
    voice : SweepVoice
    devices : Devices
    tile_rows : int
    ops : str
        Name of the array operations on the host.
    stop : StopRequest
    """

    options: FitOptions
    new_recorder: Callable[[FitOptions, Header, Voice], NullRecorder]
    voice: SweepVoice
    devices: Devices
    tile_rows: int
    ops: str
    stop: StopRequest


def fit_all(
    comm: Comm, sweep: Sweep, candidates: Sequence[Candidate], source: Source, suffix: str = ""
) -> list[Outcome | None]:
    """Make several fits to the same rows; returns their outcomes on root. Collective; raises `AgreedError`.

    If the rows of all ranks fit into their memory, the fits are made one after the other. Otherwise they share each
    reading of the rows.
    """
    stop = sweep.stop
    layout = lay_out(comm, source, sweep.tile_rows, sweep.options.compute, sweep.devices)
    with closing(open_context(comm, source, layout, sweep.devices, stop, sweep.ops)) as context:
        surveys = Surveys(context, sweep, candidates)
        is_resident = all(comm.allgather(layout.fits_host or layout.fits_gpu))
        most = 0 if is_resident else SHARED_STATISTICS // max(comm.allgather(context.n_threads))
        outcomes = []
        for batch in batches(candidates, context.header.n_features, most):
            outcomes += fit_batch(context, sweep, batch, surveys, suffix)
    return outcomes


class Surveys:
    """The summaries and samples of all candidates, from one pass over the rows. Collective."""

    def __init__(self, context: RankContext, sweep: Sweep, candidates: Sequence[Candidate]) -> None:
        n_features, options = context.header.n_features, sweep.options
        most = max(candidate.n_components for candidate in candidates)
        wanted = list(dict.fromkeys(candidate.sample(n_features) for candidate in candidates))
        checked = replace(options, model=replace(options.model, n_components=most))
        self._found = dict(zip(wanted, survey_samples(context, checked, wanted), strict=True))
        self._n_features = n_features
        warning = far_row(context, *self._found[wanted[0]])
        if context.comm.is_root:
            for text in filter(None, [warning, context.layout.warning, context.devices.note]):
                sweep.voice.warn(text)

    def of(self, candidate: Candidate) -> tuple[DataSummary, Sample]:
        """The summary and, on root, the sample of a candidate."""
        return self._found[candidate.sample(self._n_features)]


def check_records(sweep: Sweep, candidates: Sequence[Candidate], header: Header) -> None:
    """Raise `UserError` where the record of a fit cannot be begun or resumed, before the first fit spends its time.

    Root alone.
    """
    voice = SweepVoice()
    for candidate in candidates:
        options = candidate.options(sweep.options, sweep.tile_rows)
        with closing(sweep.new_recorder(options, header, voice.of_fit(candidate.text))) as recorder:
            recorder.open(sweep.devices, sweep.stop.check)


@dataclass(frozen=True, eq=False)
class OpenFit:
    """A fit whose record is open.

    Attributes
    ----------
    candidate : Candidate
    options : FitOptions
    recorder : NullRecorder
    plan : ResumePlan
    clock : FitClock
    """

    candidate: Candidate
    options: FitOptions
    recorder: NullRecorder
    plan: ResumePlan
    clock: FitClock


def fit_batch(
    context: RankContext, sweep: Sweep, batch: Sequence[Candidate], surveys: Surveys, suffix: str
) -> list[Outcome | None]:
    """Make some fits that share passes; returns their outcomes on root. Collective; raises `AgreedError`."""
    with ExitStack() as stack:
        opened = [open_fit(context, sweep, candidate, surveys, suffix, stack) for candidate in batch]
        reduction = Reduction(
            context,
            lambda: any(each.recorder.is_spent() for each in opened),
            sweep.voice.say if context.comm.is_root else lambda text: None,
        )
        fits = {each.clock: whole_fit(reduction, sweep, each, surveys) for each in opened if not each.plan.complete}
        try:
            run_fits(reduction, fits)
            reduction.agree()  # on what was noted after the last reduction
        except AgreedError as error:
            for each in opened:
                if error.exit_code == EXIT_INTERRUPTED:
                    save_interrupted(context.comm, each.recorder, sweep.stop)
                elif issubclass(error.kind, DegenerateError):  # of one fit, while the others may go on later
                    save_latest(context.comm, each.recorder)
            raise
        return [each.recorder.outcome for each in opened]


def save_latest(comm: Comm, recorder: NullRecorder) -> None:
    """Save the last iteration of a fit. Collective."""
    with comm.together():
        recorder.save_latest()


def open_fit(
    context: RankContext, sweep: Sweep, candidate: Candidate, surveys: Surveys, suffix: str, stack: ExitStack
) -> OpenFit:
    """Open the record of a fit, and begin or resume it. Collective; raises `AgreedError`."""
    comm, stop, begin = context.comm, sweep.stop, time.perf_counter()
    options = candidate.options(sweep.options, sweep.tile_rows, suffix=suffix)

    def new_recorder() -> NullRecorder:
        return sweep.new_recorder(options, context.header, sweep.voice.of_fit(candidate.text))

    recorder, plan = open_record(comm, new_recorder, context.devices, stack, stop)
    stop.deadline = min(stop.deadline, time.monotonic() + plan.seconds_left - RESERVE_SECONDS)
    recorder.set_deadline(stop.deadline)
    summary, _ = surveys.of(candidate)
    algorithm_of(options, summary, context.grid)  # raises its errors before files of an earlier run are replaced
    with comm.together():
        recorder.begin(plan, summary, context.devices, [])
        if plan.complete:
            tell_end(sweep, candidate, recorder)
    return OpenFit(candidate, options, recorder, plan, FitClock(time.perf_counter() - begin))


def whole_fit(reduction: Reduction, sweep: Sweep, opened: OpenFit, surveys: Surveys) -> Fit[None]:
    """A fit from its first mixtures to its results, of which the user is told; errors name the fit."""
    summary, sample = surveys.of(opened.candidate)
    try:
        yield from recorded_fit(reduction, opened.options, opened.plan, summary, sample, opened.recorder, opened.clock)
    except AgreedError as error:
        if not issubclass(error.kind, DegenerateError):
            raise  # it may have arisen on another rank, or in another fit
        remedy = str(error).replace("lower model.n_components", "leave this fit out of select.n_components")
        raise AgreedError(f"{opened.candidate.text}: {remedy}", error.kind) from None
    reduction.note(lambda: tell_end(sweep, opened.candidate, opened.recorder))


def tell_end(sweep: Sweep, candidate: Candidate, recorder: NullRecorder) -> None:
    """Tell the user that a fit has ended, on root."""
    outcome = recorder.outcome
    if outcome is not None:
        sweep.voice.ended(ended_text(candidate, outcome))


def ended_text(candidate: Candidate, outcome: Outcome) -> str:
    """How a fit has ended."""
    found = outcome.summary
    how = f"{'converged' if found['converged'] else 'stopped'} after {counted(found['n_iter'], 'iteration')}"
    return f"{candidate.text}: {how}, mean log-likelihood {found['mean_log_likelihood']:.9g}, BIC {found['bic']:.9g}"
