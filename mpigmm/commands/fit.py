"""``fit``: from an HDF5 file to a fitted mixture."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import ExitStack, closing
from dataclasses import replace
from typing import Any

from mpigmm.core.covariance import SingularCovarianceError, covariance_class
from mpigmm.core.em import Safeguards
from mpigmm.core.initialise import initialise, sample_size
from mpigmm.core.loops import NUMPY
from mpigmm.core.mixture import Mixture
from mpigmm.data.block import peak_memory
from mpigmm.data.source import Source
from mpigmm.driver.devices import Devices, choose_devices
from mpigmm.driver.em_loop import Loop, converged
from mpigmm.driver.load_balance import measured_speeds
from mpigmm.driver.recorder import Recorder
from mpigmm.driver.resume import Job
from mpigmm.driver.survey_pass import Sample, far_row, survey_rows
from mpigmm.driver.worker import build_team
from mpigmm.errors import EXIT_DONE, EXIT_INTERRUPTED, AgreedError, DegenerateError
from mpigmm.options import FitOptions
from mpigmm.parallel.comm import Comm, host
from mpigmm.parallel.stop import StopRequest
from mpigmm.parallel.threads import single_threaded_blas
from mpigmm.requests import FitRequest
from mpigmm.runs.checkpoint import Ended, Fitted, Progress
from mpigmm.runs.walltime import RESERVE_SECONDS


def run(comm: Comm, request: FitRequest, stop: StopRequest) -> int:
    """Fit the mixture that `request` describes; returns the exit code. Collective."""
    begin = time.monotonic()
    options = request.options
    covariance_class(options.model.covariance_type)
    stop.advice = f"run the same command again{', without --restart,' if request.restart else ''} to go on"
    with ExitStack() as stack:
        stack.enter_context(single_threaded_blas())
        devices = choose_devices(comm, options.compute.device)
        recorder, job = open_job(comm, request, devices, stack, stop)
        stop.deadline = time.monotonic() + job.seconds_left - RESERVE_SECONDS
        if recorder is not None:
            recorder.allowance.deadline = stop.deadline
        try:
            fit_job(comm, options, job, devices, recorder, stop, begin)
        except AgreedError as error:
            if error.exit_code == EXIT_INTERRUPTED:
                is_for_time = any(comm.allgather(stop.is_for_time))
                with comm.together():
                    if recorder is not None:
                        recorder.save_latest()
                        if is_for_time:
                            recorder.check_time(*seconds_spent(begin, stop))
            raise
    return EXIT_DONE


def seconds_spent(begin: float, stop: StopRequest) -> tuple[float, float | None]:
    """Seconds since begin, and those there would have been at the end of the sweep under way, where they are known."""
    spent, sweep = time.monotonic() - begin, stop.pace.seconds()
    return spent, None if sweep is None else stop.pace.begun - begin + sweep


def fit_job(
    comm: Comm,
    options: FitOptions,
    job: Job,
    devices: Devices,
    recorder: Recorder | None,
    stop: StopRequest,
    begin: float,
) -> None:
    """Survey the rows, run all starts, write the results. Collective."""
    loops, source = NUMPY.name if job.complete else job.loops, Source(job.header)
    speeds = None
    if devices.mixed and not job.complete:
        speeds, known = measured_speeds(comm, options, job, devices, stop)
        job = replace(job, speeds=known)
    team = build_team(comm, source, job.tile_rows, options.compute, stop, loops, devices, speeds)
    survey, sample = survey_rows(team, options, sample_size(options.model.n_components, job.header.n_features))
    warning = far_row(team, survey, sample)
    with comm.together():
        if recorder is not None:
            recorder.begin(job, survey, devices, [warning, team.warning, devices.note])
    if job.complete:
        return
    safeguards = Safeguards(options.model.reg_covar, options.model.variance_floor)
    is_spent = recorder.allowance.is_spent if recorder else lambda: False
    say = recorder.reporter.say if recorder else lambda text: None
    loop = Loop(team, survey, safeguards, options.compute.precision, is_spent, say)
    report = recorder.reporter.initialisation if recorder else lambda init, name, done, most: None
    starts = Starts(options, job.start, sample, report)
    del sample
    progress = fit_starts(loop, options, job, starts, recorder)
    used = usage(loop, begin)
    with comm.together():
        if recorder is not None:
            recorder.finish(progress, survey, devices, {"resumed_from": job.resumed_from, **used})


def open_job(
    comm: Comm, request: FitRequest, devices: Devices, stack: ExitStack, stop: StopRequest
) -> tuple[Recorder | None, Job]:
    """Root's recorder, and the job for all ranks. Collective."""
    recorder = job = None
    with comm.together():
        if comm.is_root:
            recorder = stack.enter_context(closing(Recorder(request)))
            job = recorder.open_job(devices, stop.check)
    return recorder, comm.bcast(job)


def fit_starts(loop: Loop, options: FitOptions, job: Job, starts: Starts, recorder: Recorder | None) -> Progress:
    """Run all starts that are not complete; returns the finished progress with the best of them. Collective."""
    comm, progress = loop.team.comm, job.progress
    while not progress.finished:
        if progress.mixture is None:
            progress = replace(progress, mixture=starts.first_mixture(loop, progress.init))
            save(comm, recorder, progress)
        else:
            starts.begun(progress.init)
        progress = loop.run(progress, options.em, recorder.record if recorder else lambda *noted: None)
        assert progress.mixture is not None
        mean = loop.mean_log_likelihood(progress.mixture)
        progress = with_ended(progress, mean, converged(progress.change, options.em))
        if progress.init + 1 == options.init.n_init:
            return replace(progress, finished=True)
        progress = Progress(init=progress.init + 1, ended=progress.ended, best=progress.best)
        save(comm, recorder, progress)
    return progress


def save(comm: Comm, recorder: Recorder | None, progress: Progress) -> None:
    """Write a checkpoint. Collective."""
    with comm.together():
        if recorder is not None:
            recorder.save(progress)


def with_ended(progress: Progress, mean_log_likelihood: float, converged: bool) -> Progress:
    """Progress with the start under way counted among those that have ended, and kept if it is the best."""
    assert progress.mixture is not None
    ended = Ended(progress.init, progress.iteration, mean_log_likelihood, progress.change, converged)
    best = progress.best
    if best is None or mean_log_likelihood > best.ended.mean_log_likelihood:
        best = Fitted(progress.mixture, ended)
    return replace(progress, ended=(*progress.ended, ended), best=best)


class Starts:
    """The mixtures that starts begin with: made by root from a sample of the rows, or the one of a file.

    Parameters
    ----------
    options : FitOptions
    given : Mixture or None
        The one of a file.
    sample : tuple of ndarrays
        On root, rows and their weights; let go with the last start.
    report : callable
        Told the number of the start and what a `Step` is told.
    """

    def __init__(
        self, options: FitOptions, given: Mixture | None, sample: Sample, report: Callable[[int, str, int, int], None]
    ) -> None:
        self.options = options
        self.given = given
        self.sample: Sample | None = sample
        self.report = report

    def first_mixture(self, loop: Loop, init: int) -> Mixture:
        """That of start number init. Collective."""
        comm, mixture, model = loop.team.comm, self.given, self.options.model

        def step(name: str, done: int, most: int) -> None:
            loop.team.stop.check()
            self.report(init, name, done, most)

        with comm.together():
            if comm.is_root and mixture is None:
                assert self.sample is not None
                mixture = initialise(
                    self.options.init.method,
                    covariance_class(model.covariance_type)(),
                    model.n_components,
                    self.sample,
                    loop.survey,
                    loop.safeguards,
                    (self.options.init.seed, init),
                    step,
                )
                check_start(mixture)
        self.begun(init)
        return comm.bcast(mixture)

    def begun(self, init: int) -> None:
        """Start number init needs the sample no more."""
        if init + 1 == self.options.init.n_init:
            self.sample = None


def check_start(mixture: Mixture) -> None:
    """Raise `DegenerateError` where a first covariance cannot be factored."""
    try:
        _ = mixture.precisions_cholesky
    except SingularCovarianceError as error:
        raise DegenerateError(
            f"{error} at the start; raise model.reg_covar or model.variance_floor, or lower model.n_components"
        ) from None


def usage(loop: Loop, begin: float) -> dict[str, Any]:
    """What the run used, on root: times of root, peak memory of the largest rank, all hosts. Collective."""
    comm, clock = loop.team.comm, loop.clock
    ranks = comm.gather((host(), peak_memory()))
    return {
        "n_ranks": comm.size,
        "threads_per_rank": loop.team.n_threads,
        "hosts": sorted({name for name, _ in ranks}),
        "seconds": time.monotonic() - begin,
        "seconds_read": loop.team.block.seconds_read,
        "seconds_compute": clock.compute,
        "seconds_communicate": clock.communicate,
        "peak_memory_bytes": max((peak for _, peak in ranks), default=0),
    }
