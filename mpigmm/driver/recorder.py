"""Root's book-keeping of a fit: what is found in ``output.dir``, and what is written there."""

from __future__ import annotations

import dataclasses
import platform
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np

from mpigmm.core.em import Repairs
from mpigmm.core.loops import NUMPY, best_loops
from mpigmm.core.mixture import Mixture
from mpigmm.core.survey import Survey
from mpigmm.data.source import Header, read_header
from mpigmm.driver.devices import Devices
from mpigmm.driver.em_loop import goes_on
from mpigmm.driver.resume import (
    Job,
    check_own,
    check_start,
    found_model,
    has_results,
    identity,
    known_results,
    load_start,
    reopened,
    shape_text,
)
from mpigmm.errors import DataError, OutputError, counted, shown
from mpigmm.options import FitOptions
from mpigmm.parallel.comm import library
from mpigmm.requests import FitRequest
from mpigmm.runs.checkpoint import NEWEST, Checkpoint, Fitted, Progress, drop_damaged, load_checkpoint, save_checkpoint
from mpigmm.runs.convergence import ConvergenceLog
from mpigmm.runs.directory import RunDirectory
from mpigmm.runs.hdf5 import hdf5_version
from mpigmm.runs.model_file import Model, save_model
from mpigmm.runs.owned import LOG, MODEL, SUMMARY
from mpigmm.runs.progress import Reporter
from mpigmm.runs.streams import print_result
from mpigmm.runs.walltime import Allowance, forget_stall, note_stall, seconds_left, too_short
from mpigmm.version import __version__

TOO_COARSE = "in float32 rounding would cost more than 1e-4 of a row's log-likelihood, or numbers would leave its range"
FEW = 5
"""Components that a message names."""


class Recorder:
    """The directory of a run, its log and its messages; exists on root alone.

    Parameters
    ----------
    request : FitRequest
    """

    def __init__(self, request: FitRequest) -> None:
        self.request = request
        self.options = request.options
        self.directory = RunDirectory(str(request.options.output.dir), request.config_file)
        self.reporter = Reporter(request.options.em.max_iter, request.options.init.n_init)
        self.checkpoint = Checkpoint(Progress(), {}, "", 0, "")
        self.allowance = Allowance()
        self._log: ConvergenceLog | None = None
        self._unsaved: Progress | None = None
        self._newest_is_whole = True
        self._saved = time.monotonic()
        self._has_saved = False
        self._failing: set[str] = set()
        self._bits = 32
        self._repairs: dict[int, Repairs] = {}

    @property
    def name(self) -> str:
        """The directory, for messages."""
        return shown(self.directory.path)

    def close(self) -> None:
        """Release the directory and the terminal."""
        try:
            self.reporter.close()
            if self._log is not None:
                self._log.close()
        finally:
            self.directory.close()

    def open_job(self, devices: Devices, check: Callable[[], None]) -> Job:
        """Read the input's header and what an earlier run left, `check` as in `load_model`. Raises `UserError`."""
        data, model = self.options.data, self.options.model
        header = read_header(data.path, data.dataset, data.weights, data.columns, data.rows)
        if header.n_rows < model.n_components:
            raise DataError(
                f"model.n_components: {model.n_components} components need at least as many rows, but "
                f"{shown(data.dataset)} has {header.n_rows}; lower it, or check data.path and data.rows"
            )
        self.directory.check_inputs(header.paths)
        found = None if self.request.restart else self._load()
        start = self._load_start(found, check)
        if start is not None:
            check_start(start, self.options, header)
        tile_rows = self.options.compute.tile_rows
        if tile_rows == "auto":
            shape = header.n_features, model.n_components, np.dtype(self.options.compute.precision)
            tile_rows = found.tile_rows if found else devices.default_rows(*shape)
        loops = found.loops if found else best_loops()
        if found is None and loops == NUMPY.name:
            self.reporter.say(
                "warning: mpigmm was installed without a C compiler, and computes several times as slowly with "
                "NumPy; install it anew where there is one"
            )
        self.checkpoint = Checkpoint(
            Progress(), identity(self.options, tile_rows, start), "", tile_rows, loops, self.request.config
        )
        left, warning = seconds_left(self.options.output.walltime)
        if warning:
            self.reporter.say(warning)
        job = Job(header, tile_rows, loops, start=start, seconds_left=left, speeds=found.speeds if found else {})
        if not self.request.restart:
            job = self._taken_up(job, found, check)
        if not job.complete:
            self.directory.check_writable()
        return job

    def _load_start(self, found: Checkpoint | None, check: Callable[[], None]) -> Mixture | None:
        """The mixture of ``init.file``; a run that goes on does without it where that is the run's own model."""
        try:
            return load_start(self.options, check)
        except DataError:
            if found is None or not self.directory.is_model(self.options.init.file):
                raise
            return None

    def _taken_up(self, job: Job, found: Checkpoint | None, check: Callable[[], None]) -> Job:
        """The job beside what an earlier run left, if any; raises `OutputError` where that is another run's."""
        digest = found_model(self.directory / MODEL, check, self.reporter.say)
        if found is not None:
            job = self._resumed(job, found, digest)
        if self._newest_is_whole:
            check_own(self.directory, digest, self.checkpoint)
        elif digest is not None:  # which the checkpoint that is lost may have named among the run's results
            results = tuple(sorted({*self.checkpoint.results, digest}))
            self.checkpoint = replace(self.checkpoint, results=results)
        return job

    def _resumed(self, job: Job, found: Checkpoint, digest: str | None) -> Job:
        """The job that goes on from a checkpoint beside a model with that digest, if any.

        Raises `OutputError` where the checkpoint is another problem's.
        """
        results = known_results(found)
        if self.directory.is_model(self.options.init.file) and (job.start is None or job.start.digest() in results):
            # The run began with another content of its own model.h5, and has replaced it.
            same = {**self.checkpoint.identity, "init.file": found.identity.get("init.file")}
            self.checkpoint = replace(self.checkpoint, identity=same)
        self._check_same(found, job.header)
        self._check_ended(found.progress)
        self.checkpoint = replace(self.checkpoint, history=found.history, devices=found.devices, results=results)
        progress = reopened(found.progress, self.options)
        complete = has_results(self.directory, progress, digest)
        return replace(job, progress=progress, fingerprint=found.fingerprint, complete=complete)

    def begin(self, job: Job, survey: Survey, devices: Devices, warnings: Sequence[str | None]) -> None:
        """Start or take up the run's files once the data are known. Raises `UserError` where the data have changed."""
        fingerprint = f"{shape_text(job.header)} {survey.fingerprint:016x}"
        if job.fingerprint not in (None, fingerprint):
            raise DataError(
                f"the rows of {job.header.files} are not those that {self.name} was begun with; "
                "add --restart to start over, or choose another output.dir"
            )
        if job.complete and job.progress.best is not None:
            self.reporter.say(f"{self.name} is finished already; add --restart to start over")
            self._print_result(job.progress.best)
            return
        kinds = tuple(sorted({*self.checkpoint.devices, *devices.kinds}))
        self.checkpoint = replace(self.checkpoint, fingerprint=fingerprint, devices=kinds, speeds=job.speeds)
        self.directory.write_config(self.request.config)
        self._log = ConvergenceLog(self.directory / LOG, self.checkpoint.history)
        if self.request.restart:  # now that there is room for files
            self.directory.clear(keep_model=self.directory.is_model(self.options.init.file))
        self.reporter.say(
            f"{counted(survey.n_samples, 'row')} of {counted(job.header.n_features, 'feature')}, "
            f"{counted(self.options.model.n_components, 'component')}, {self.options.model.covariance_type}"
        )
        if survey.n_dropped:
            self.reporter.say(
                f"{survey.n_dropped:,} of {job.header.n_rows:,} rows hold NaN or infinity and are left out "
                "(data.missing: drop)"
            )
        for warning in filter(None, warnings):
            self.reporter.say(warning)
        if job.resumed_from is not None:
            self.reporter.say(f"resuming start {job.progress.init + 1} after iteration {job.resumed_from}")

    def record(self, progress: Progress, line: dict[str, Any], repairs: Repairs) -> None:
        """Log an iteration, and write a checkpoint if one is due."""
        assert self._log is not None
        with self._spared("log"):
            self._log.append(line)
        self._unsaved = progress
        self._repairs[progress.init] = repairs
        self.allowance.note(line["seconds"])
        self.reporter.iteration(line)
        self._note_precision(line)
        output = self.options.output
        due = time.monotonic() - self._saved >= output.checkpoint_seconds
        if due or progress.iteration % output.checkpoint_iterations == 0:
            self.save(progress)

    def _note_precision(self, line: dict[str, Any]) -> None:
        """Say where float32, though asked for, begins or ceases to leave too few digits."""
        if self.options.compute.precision == "float32" and line["precision_bits"] != self._bits:
            self._bits = line["precision_bits"]
            self.reporter.say(
                f"iteration {line['iteration']} and those after it are computed in float{self._bits}"
                + (f": {TOO_COARSE}" * (self._bits == 64))
            )

    def save(self, progress: Progress) -> None:
        """Write a checkpoint; where that fails, warn, leave the ones before as they are and go on."""
        with self._spared("checkpoint"):
            self._save(progress)

    def save_latest(self) -> None:
        """Write a checkpoint of the last completed iteration, where there is one that is not yet written."""
        if self._unsaved is not None:
            self.save(self._unsaved)

    def check_time(self, spent: float, needed: float | None) -> None:
        """Warn where this start, after the seconds spent of those needed, if known, has saved nothing new.

        Raises `UserError` where the one before saved nothing either, for the next one would not.
        """
        if self._has_saved:
            return
        told = too_short(spent, needed) if self._unsaved is None else "no checkpoint could be written: free some space"
        note_stall(self.directory.path, self.request.config, told)
        self.reporter.say(f"warning: nothing new was saved: {told}")

    def _save(self, progress: Progress) -> None:
        assert self._log is not None
        self._saved = time.monotonic()
        if not self._newest_is_whole:
            drop_damaged(self.directory.path)
            self._newest_is_whole = True
        save_checkpoint(self.directory.path, replace(self.checkpoint, progress=progress, history=self._log.table()))
        self._unsaved = None
        self._has_saved = True
        forget_stall(self.directory.path)
        self.allowance.checkpoint = time.monotonic() - self._saved

    @contextmanager
    def _spared(self, what: str) -> Iterator[None]:
        """Writing whose failure costs no more than a warning, given once until it succeeds again."""
        try:
            yield
        except OutputError as error:
            if what not in self._failing:
                self.reporter.say(f"warning: {error}; the run goes on, and will try again")
            self._failing.add(what)
        else:
            self._failing.discard(what)

    def finish(self, progress: Progress, survey: Survey, devices: Devices, summary: dict[str, Any]) -> None:
        """Write the checkpoint that calls the run finished, then the results. Raises `OutputError`.

        In this request, since the old model may be what the run started from; a run cut off between them makes the
        results anew.
        """
        best = progress.best
        assert best is not None and self._log is not None
        ended, config = best.ended, dataclasses.asdict(self.options)
        model = Model(best.mixture, survey.n_samples, ended.mean_log_likelihood, ended.n_iter, ended.converged, config)
        try:
            self._log.sync()
            digest = best.mixture.digest()
            self.checkpoint = replace(self.checkpoint, results=tuple(sorted({*self.checkpoint.results, digest})))
            self._save(progress)
            save_model(self.directory / MODEL, model)
            self.directory.write_json(
                SUMMARY,
                {
                    **describe_fit(best, survey),
                    "reproducible": len(self.checkpoint.devices) == 1,
                    "device": devices.device,
                    "devices": devices.counts(),
                    **summary,
                    **versions(devices.cupy),
                },
            )
        except OutputError as error:
            raise OutputError(f"{error}, and run the same command again to go on") from None
        if not ended.converged and self.options.em.tol > 0:
            self.reporter.say(unconverged(self.options, self._repairs.get(ended.init, Repairs())))
        self._print_result(best)

    def _print_result(self, best: Fitted) -> None:
        self.reporter.close()
        print_result(
            f"{shown(self.directory / MODEL)}: {counted(best.mixture.n_components, 'component')}, "
            f"{'converged' if best.ended.converged else 'stopped'} after {counted(best.ended.n_iter, 'iteration')}, "
            f"mean log-likelihood {best.ended.mean_log_likelihood:.9g}"
        )

    def _load(self) -> Checkpoint | None:
        found, warning = load_checkpoint(self.directory.path)
        if warning:
            self.reporter.say(f"warning: {warning}")
        self._newest_is_whole = found is None or (warning is None and (self.directory / NEWEST).exists())
        return found

    def _check_same(self, found: Checkpoint, header: Header) -> None:
        mine = self.checkpoint.identity
        differing = [
            f"{key} was {found.identity.get(key)!r}, is {mine.get(key)!r}"
            for key in dict.fromkeys([*mine, *found.identity])
            if found.identity.get(key) != mine.get(key)
        ]
        if not found.fingerprint.startswith(shape_text(header) + " "):
            differing.append(f"the data were {found.fingerprint.rpartition(' ')[0]}, are {shape_text(header)}")
        if differing:
            raise OutputError(
                f"output.dir: {self.name} holds a run of another problem: {'; '.join(differing)}; "
                "add --restart to start over, or choose another output.dir"
            )

    def _check_ended(self, progress: Progress) -> None:
        """Raise `OutputError` where a start that has ended, and is not kept, would now go on."""
        for ended in progress.ended if self.options.init.n_init > 1 else ():
            if goes_on(ended.n_iter, ended.change, self.options.em):
                raise OutputError(
                    f"em.max_iter, em.tol: start {ended.init + 1} of {self.name} ended after {ended.n_iter} "
                    "iterations and would now go on, but of several starts only the best one's mixture is kept; "
                    "add --restart to start over, or set them as they were"
                )


def unconverged(options: FitOptions, repairs: Repairs) -> str:
    """A warning that a fit ended before it converged, from the repairs of its last iteration, if any."""
    said = f"warning: max_iter came before convergence (em.max_iter: {options.em.max_iter}, em.tol: {options.em.tol:g})"
    if not repairs:
        again = "run the same command again to go on" if options.init.n_init == 1 else "add --restart"
        return f"{said}; raise em.max_iter and {again}"
    made = []
    if repairs.floored:
        made.append(f"raised {whose(repairs.floored)} to model.variance_floor ({options.model.variance_floor:g})")
    if repairs.reseeded:
        made.append(f"re-seeded {numbered(repairs.reseeded)}, which held no rows")
    return (
        f"{said}: an iteration with a repair does not count as converged, and the last one {' and '.join(made)}; if "
        "that goes on, more iterations do not help: lower model.n_components, raise model.reg_covar, leave out columns "
        "that hardly vary (data.columns), or mend values far from all others"
    )


def whose(components: Sequence[int | None]) -> str:
    """Covariances in words."""
    own = [component for component in components if component is not None]
    return f"the covariance of {numbered(own)}" if own else "the tied covariance"


def numbered(components: Sequence[int]) -> str:
    """Components in words, the first few by number."""
    few = ", ".join(map(str, components[:FEW]))
    return f"component {few}" + (f" and {len(components) - FEW} others" if len(components) > FEW else "")


def describe_fit(best: Fitted, survey: Survey) -> dict[str, Any]:
    """The statistical part of a summary."""
    ended = best.ended
    log_likelihood = ended.mean_log_likelihood * survey.total_weight
    return {
        "n_samples": survey.n_samples,
        "n_dropped": survey.n_dropped,
        "n_features": best.mixture.n_features,
        "n_components": best.mixture.n_components,
        "covariance_type": best.mixture.covariance.name,
        "init": ended.init,
        "n_iter": ended.n_iter,
        "converged": ended.converged,
        "mean_log_likelihood": ended.mean_log_likelihood,
        **criteria(best.mixture, log_likelihood, survey.total_weight),
    }


def criteria(mixture: Mixture, log_likelihood: float, total_weight: float) -> dict[str, float]:
    """Akaike's and the Bayesian information criterion: 2p - 2 log L and p log(sum of weights) - 2 log L."""
    p = mixture.n_parameters
    return {
        "aic": 2 * p - 2 * log_likelihood,
        "bic": p * float(np.log(total_weight)) - 2 * log_likelihood,
    }


def versions(cupy: str | None) -> dict[str, Any]:
    """Versions of what the numbers depend on, CuPy's among them where it is used."""
    return {
        "versions": {
            "mpigmm": __version__,
            "python": platform.python_version(),
            "numpy": np.__version__,
            "hdf5": hdf5_version(),
            **({"cupy": cupy} if cupy else {}),
        },
        "mpi_library": library(),
    }
