"""A fit, from a source of rows to the best mixture."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import ExitStack, closing
from dataclasses import replace

from mpigmm.core.algorithms.initialise import sample_size
from mpigmm.core.covariances import COVARIANCE_TYPES
from mpigmm.core.data_summary import DataSummary
from mpigmm.core.ops.numpy import NUMPY
from mpigmm.data.source import Source
from mpigmm.driver.devices import Devices, choose_devices
from mpigmm.driver.e_step import Fit, FitClock, run_fits
from mpigmm.driver.em_loop import algorithm_of, em_loop
from mpigmm.driver.layout import lay_out
from mpigmm.driver.load_balance import measured_speeds
from mpigmm.driver.null_recorder import NullRecorder
from mpigmm.driver.reduction import Reduction
from mpigmm.driver.resume_plan import ResumePlan
from mpigmm.driver.starts import Starts, fit_starts
from mpigmm.driver.summary import usage
from mpigmm.driver.survey_pass import Sample, check_labels, check_n_rows, far_row, survey_rows
from mpigmm.driver.worker import RankContext, open_context
from mpigmm.errors import EXIT_INTERRUPTED, AgreedError
from mpigmm.options import FitOptions
from mpigmm.parallel.comm import Comm
from mpigmm.parallel.stop import StopRequest
from mpigmm.parallel.threads import single_threaded_blas
from mpigmm.parallel.walltime import RESERVE_SECONDS


def fit_rows(
    comm: Comm, options: FitOptions, source: Source, new_recorder: Callable[[], NullRecorder], stop: StopRequest
) -> NullRecorder:
    """Fit a mixture to the rows of a source. Collective; raises `AgreedError`.

    Parameters
    ----------
    comm, options, source
    new_recorder : callable
        Makes the recorder; called on root.
    stop : StopRequest

    Returns
    -------
    recorder : NullRecorder
        On root, with the outcome.
    """
    COVARIANCE_TYPES[options.model.covariance_type].prepare()
    with ExitStack() as stack:
        stack.enter_context(single_threaded_blas)
        with comm.together():
            check_n_rows(source.header, options.model.n_components)
            check_labels(source.header, options.model.n_components)
        devices = choose_devices(comm, options.compute.device)
        stack.callback(devices.release)
        recorder, plan = open_record(comm, new_recorder, devices, stack, stop)
        stop.deadline = time.monotonic() + plan.seconds_left - RESERVE_SECONDS
        recorder.set_deadline(stop.deadline)
        try:
            with comm.guarded():
                context, plan = lay_out_rows(comm, options, source, plan, devices, stop)
                stack.callback(context.close)
                survey_and_fit(context, options, plan, recorder)
        except AgreedError as error:
            if error.exit_code != EXIT_INTERRUPTED:
                raise
            saved = save_interrupted(comm, recorder, stop)
            raise AgreedError(with_saved(str(error), saved, stop.advice), error.kind) from None
        return recorder


def open_record(
    comm: Comm, new_recorder: Callable[[], NullRecorder], devices: Devices, stack: ExitStack, stop: StopRequest
) -> tuple[NullRecorder, ResumePlan]:
    """The recorder of this rank, which the stack closes, and the plan. Collective; raises `AgreedError`."""
    recorder = NullRecorder()
    plan = None
    with comm.together():
        if comm.is_root:
            recorder = new_recorder()
        stack.enter_context(closing(recorder))
        plan = recorder.open(devices, stop.check)
    return recorder, comm.bcast(plan)


def lay_out_rows(
    comm: Comm, options: FitOptions, source: Source, plan: ResumePlan, devices: Devices, stop: StopRequest
) -> tuple[RankContext, ResumePlan]:
    """The context of this rank, and the plan with the speeds of ranks whose devices differ. Collective."""
    speeds, ops = None, plan.ops
    if plan.complete:
        ops = NUMPY.name
    elif devices.mixed and source.held is None:
        speeds, known = measured_speeds(comm, options, source.header, plan, devices, stop)
        plan = replace(plan, speeds=known)
    layout = lay_out(comm, source, plan.tile_rows, options.compute, devices, speeds)
    return open_context(comm, source, layout, devices, stop, ops), plan


def survey_and_fit(context: RankContext, options: FitOptions, plan: ResumePlan, recorder: NullRecorder) -> None:
    """Survey the rows, run all starts, write the results. Collective."""
    summary, sample = survey_rows(context, options, sample_size(options.model.n_components, context.header.n_features))
    algorithm_of(options, summary, context.grid)  # raises its errors before files of an earlier run are replaced
    warnings = [far_row(context, summary, sample), context.layout.warning, context.devices.note]
    with context.comm.together():
        recorder.begin(plan, summary, context.devices, warnings)
    if plan.complete:
        return
    reduction = Reduction(context, recorder.is_spent, recorder.say)
    fit = recorded_fit(reduction, options, plan, summary, sample, recorder)
    del sample
    run_fits(reduction, {FitClock(): fit})


def recorded_fit(
    reduction: Reduction,
    options: FitOptions,
    plan: ResumePlan,
    summary: DataSummary,
    sample: Sample,
    recorder: NullRecorder,
    clock: FitClock | None = None,
) -> Fit[None]:
    """A fit from its first mixtures to its results, which the recorder is given. Collective.

    Parameters
    ----------
    reduction, options, plan, summary
    sample : tuple of ndarrays
        From which root makes the first mixtures; freed as soon as it is no longer needed.
    recorder : NullRecorder
    clock : FitClock, optional
        Of the fit, for its summary; by default the seconds are those since the run began.
    """
    starts = Starts(options, plan.start, plan.given, sample, recorder.initialisation)
    del sample
    loop = em_loop(reduction, options, summary)
    progress = yield from fit_starts(loop, options, plan.progress, starts, recorder)
    used = {"resumed_from": plan.resumed_from, **usage(reduction)}
    if clock is not None:
        used["seconds"] = clock.seconds
    with reduction.context.comm.together():
        recorder.finish(progress, summary, reduction.context.devices, used)


def save_interrupted(comm: Comm, recorder: NullRecorder, stop: StopRequest) -> str:
    """Save the last iteration, and warn where too little time was allowed to save anything. Collective.

    Returns what is saved; see `NullRecorder.saved`.
    """
    is_for_time = any(comm.allgather(stop.is_for_time))
    saved = None
    with comm.together():
        recorder.save_latest()
        saved = recorder.saved
        if is_for_time:
            recorder.check_time(*seconds_spent(stop))
    return comm.bcast(saved)


def with_saved(message: str, saved: str, advice: str) -> str:
    """The message of an interruption, which ends with an advice, with what is saved before that."""
    reason = message.removesuffix(f"; {advice}")
    return message if reason == message else f"{reason}{saved}; {advice}"


def seconds_spent(stop: StopRequest) -> tuple[float, float | None]:
    """Seconds from the beginning of the run until now, and to the end of the current pass over the tiles, if it is
    known."""
    spent, whole_pass = time.monotonic() - stop.begun, stop.pace.seconds()
    return spent, None if whole_pass is None else stop.pace.begun - stop.begun + whole_pass
