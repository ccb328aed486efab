"""Root's record of a fit: the files in ``output.dir``, and the messages to the user."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mpigmm.core.algorithms.repair import Repairs
from mpigmm.core.data_summary import DataSummary
from mpigmm.data.source import Header
from mpigmm.driver.devices import Devices
from mpigmm.driver.identity import check_same_data, shape_text
from mpigmm.driver.memory_recorder import MemoryRecorder
from mpigmm.driver.messages import MORE_TIME, iteration_text, result_text, tell_beginning
from mpigmm.driver.null_recorder import Outcome
from mpigmm.driver.resume import Resumption
from mpigmm.driver.resume_plan import ResumePlan
from mpigmm.driver.summary import fitted_model, summary, versions
from mpigmm.errors import OutputError, shown
from mpigmm.parallel.walltime import Allowance, seconds_left, too_short
from mpigmm.requests import FitRequest
from mpigmm.runs.checkpoint import NEWEST, Checkpoint, drop_damaged, save_checkpoint
from mpigmm.runs.convergence import ConvergenceLog
from mpigmm.runs.directory import RunDirectory
from mpigmm.runs.hdf5 import hdf5_version
from mpigmm.runs.model_file import save_model
from mpigmm.runs.owned import LOG, MODEL, SUMMARY
from mpigmm.runs.stalls import forget_stall, note_stall
from mpigmm.runs.state import Fitted, Progress
from mpigmm.runs.voice import Voice


class Recorder(MemoryRecorder):
    """The directory of a run with its files, on root.

    Parameters
    ----------
    request : FitRequest
    header : Header
        Of the rows.
    voice : Voice
    """

    def __init__(self, request: FitRequest, header: Header, voice: Voice) -> None:
        super().__init__(request.options, header, voice)
        self.request = request
        self.directory = RunDirectory(str(request.options.output.dir), request.config_file)
        self.checkpoint = Checkpoint(Progress(), {}, "", 0, "")
        self.allowance = Allowance()
        self._log: ConvergenceLog | None = None
        self._unsaved: Progress | None = None
        self._newest_is_damaged = False
        self._saved = time.monotonic()
        self._last_saved: Progress | None = None
        self._failing: set[str] = set()
        self._found: tuple[Fitted, DataSummary] | None = None

    def close(self) -> None:
        try:
            self.voice.close()
            if self._log is not None:
                self._log.close()
        finally:
            self.directory.close()

    def set_deadline(self, deadline: float) -> None:
        self.allowance.deadline = deadline

    def is_spent(self) -> bool:
        return self.allowance.is_spent()

    def open(self, devices: Devices, check: Callable[[], None]) -> ResumePlan | None:
        resumption = Resumption(self.request, self.header, self.directory, self.voice, check)
        plan = resumption.plan(devices)
        self.checkpoint, self._newest_is_damaged = resumption.checkpoint, resumption.newest_is_damaged
        left, problem = seconds_left(self.options.output.walltime)
        if problem:
            self.voice.warn(f"{problem}; set output.walltime if the run is to stop by itself")
        if not plan.complete:
            self.directory.check_writable()
        return replace(plan, seconds_left=left)

    def begin(
        self, plan: ResumePlan, data_summary: DataSummary, devices: Devices, warnings: Sequence[str | None]
    ) -> None:
        name = shown(self.directory.path)
        fingerprint = f"{shape_text(self.header)} {data_summary.fingerprint:016x}"
        check_same_data(plan.fingerprint, fingerprint, self.header, name)
        if plan.complete and plan.progress.best is not None:
            self.say(f"{name} is finished already; add --restart to start over")
            self._found = plan.progress.best, data_summary
            self._tell_result(plan.progress.best)
            return
        kinds = tuple(sorted({*self.checkpoint.devices, *devices.kinds}))
        self.checkpoint = replace(self.checkpoint, fingerprint=fingerprint, devices=kinds, speeds=plan.speeds)
        self._open_files()
        resumed = f"resuming start {plan.progress.init + 1} after iteration {plan.resumed_from}"
        tell_beginning(self.voice, data_summary, self.header, self.options, devices.n_ranks, warnings)
        if plan.resumed_from is not None:
            self.say(resumed)

    def _open_files(self) -> None:
        """Write the configuration, open the log and, on a restart, remove the files of the run before."""
        self.directory.write_config(self.request.config)
        self._log = ConvergenceLog(self.directory / LOG, self.checkpoint.history)
        if self.request.restart:  # only now that writing the first files has succeeded
            self.directory.clear(keep_model=self.directory.is_model(self.options.init.file))

    def record(self, progress: Progress, line: dict[str, Any], repairs: Repairs) -> None:
        """Log an iteration, and write a checkpoint if one is due."""
        assert self._log is not None
        with self._spared("log"):
            self._log.append(line)
        self._unsaved = progress
        self.allowance.note(line["seconds"])
        self._tell(progress, line, repairs)
        output = self.options.output
        due = time.monotonic() - self._saved >= output.checkpoint_seconds
        if due or progress.iteration % output.checkpoint_iterations == 0:
            self.save(progress)

    def save(self, progress: Progress) -> None:
        """Write a checkpoint; where that fails, warn and keep the older ones."""
        with self._spared("checkpoint"):
            self._save(progress)

    def save_latest(self) -> None:
        if self._unsaved is not None:
            self.save(self._unsaved)

    @property
    def saved(self) -> str:
        last, path = self._last_saved, shown(self.directory / NEWEST)
        if last is None:
            return " before anything new was saved"
        if self._unsaved is not None:
            return f" after {iteration_text(self._unsaved)}; {path} holds {iteration_text(last)}"
        return f" after {iteration_text(last)}, which is saved in {path}"

    def check_time(self, spent: float, needed: float | None) -> None:
        """Warn if this process has saved nothing new.

        Raises `UserError` if the previous process of this run saved nothing either: repeating it would not help.

        Parameters
        ----------
        spent : float
            Seconds since the process began.
        needed : float or None
            Seconds from then to the end of the current pass over the rows, where they are known.
        """
        if self._last_saved is not None:
            return
        told = "no checkpoint could be written: free some space"
        if self._unsaved is None:
            told = f"{too_short(spent, needed)}; {MORE_TIME}"
        note_stall(self.directory.path, self.request.config, told)
        self.voice.warn(f"nothing new was saved: {told}")

    def _save(self, progress: Progress) -> None:
        assert self._log is not None
        self._saved = time.monotonic()
        if self._newest_is_damaged:
            drop_damaged(self.directory.path)
            self._newest_is_damaged = False
        save_checkpoint(self.directory.path, replace(self.checkpoint, progress=progress, history=self._log.table()))
        self._unsaved = None
        self._last_saved = progress
        forget_stall(self.directory.path)
        self.allowance.checkpoint = time.monotonic() - self._saved

    @contextmanager
    def _spared(self, what: str) -> Iterator[None]:
        """A context for writing a file: turns a failure into a warning, given once until writing succeeds again."""
        try:
            yield
        except OutputError as error:
            if what not in self._failing:
                self.voice.warn(f"{error}; the run goes on, and will try again")
            self._failing.add(what)
        else:
            self._failing.discard(what)

    def finish(self, progress: Progress, data_summary: DataSummary, devices: Devices, used: dict[str, Any]) -> None:
        """Write the checkpoint of the finished run, then the results. Raises `OutputError`.

        The results come last because the new model may replace the one that the run started from. If the run is killed
        before they are written, the next one writes them from the checkpoint.
        """
        best = progress.best
        assert best is not None and self._log is not None
        try:
            self._log.sync()
            results = tuple(sorted({*self.checkpoint.results, best.mixture.digest()}))
            self.checkpoint = replace(self.checkpoint, results=results)
            self._save(progress)
            model = fitted_model(best, data_summary, self.options, self.header)
            save_model(self.directory / MODEL, model)
            fitted = summary(best, data_summary, self.checkpoint.devices, devices)
            found = {**fitted, **used, **versions(devices.cupy, hdf5=hdf5_version())}
            self.directory.write_json(SUMMARY, found)
        except OutputError as error:
            raise OutputError(f"{error}, and run the same command again to go on") from None
        self._outcome = Outcome(model, found, self.history)
        self._tell_end(progress)
        self._tell_result(best)

    @property
    def history(self) -> NDArray[np.float64]:
        return self.checkpoint.history if self._log is None else self._log.table()

    @property
    def outcome(self) -> Outcome | None:
        if self._found is None:
            return super().outcome
        model = fitted_model(*self._found, self.options, self.header)
        return Outcome(model, self.directory.read_json(SUMMARY), self.history)

    def _tell_result(self, best: Fitted) -> None:
        self.voice.result(result_text(shown(self.directory / MODEL), best))
