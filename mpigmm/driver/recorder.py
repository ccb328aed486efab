"""Root's record of a fit: the files in ``output.dir``, and the messages to the user."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from mpigmm.core.algorithms.repair import Repairs
from mpigmm.core.data_summary import DataSummary
from mpigmm.driver.devices import Devices
from mpigmm.driver.identity import check_same_data, shape_text
from mpigmm.driver.messages import MORE_TIME, dropped_text, precision_text, problem_text, result_text, unconverged_text
from mpigmm.driver.null_recorder import NullRecorder
from mpigmm.driver.resume import ResumePlan, Resumption
from mpigmm.driver.summary import fitted_model, summary, versions
from mpigmm.errors import OutputError, shown
from mpigmm.parallel.walltime import Allowance, seconds_left, too_short
from mpigmm.requests import FitRequest
from mpigmm.runs.checkpoint import Checkpoint, drop_damaged, save_checkpoint
from mpigmm.runs.convergence import ConvergenceLog
from mpigmm.runs.directory import RunDirectory
from mpigmm.runs.model_file import save_model
from mpigmm.runs.owned import LOG, MODEL, SUMMARY
from mpigmm.runs.progress import Reporter
from mpigmm.runs.stalls import forget_stall, note_stall
from mpigmm.runs.state import Fitted, Progress
from mpigmm.runs.streams import print_result


class Recorder:
    """The directory of a run, its log and its messages, on root.

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
        self._newest_is_damaged = False
        self._saved = time.monotonic()
        self._has_saved = False
        self._failing: set[str] = set()
        self._bits = 32
        self._repairs: dict[int, Repairs] = {}

    def close(self) -> None:
        """Release the directory and the terminal."""
        try:
            self.reporter.close()
            if self._log is not None:
                self._log.close()
        finally:
            self.directory.close()

    def set_deadline(self, deadline: float) -> None:
        """Set the time by which to have stopped, on the clock of `time.monotonic`."""
        self.allowance.deadline = deadline

    def is_spent(self) -> bool:
        """Whether there may be no time for another iteration."""
        return self.allowance.is_spent()

    def say(self, text: str) -> None:
        """Write a message to the user."""
        self.reporter.say(text)

    def initialisation(self, init: int, name: str, done: int, most: int) -> None:
        """Show how far the initialisation of start number init is."""
        self.reporter.initialisation(init, name, done, most)

    def open(self, devices: Devices, check: Callable[[], None]) -> ResumePlan | None:
        """Decide where to go on, `check` as in `load_model`. Raises `UserError`."""
        resumption = Resumption(self.request, self.directory, self.say, check)
        plan = resumption.plan(devices)
        self.checkpoint, self._newest_is_damaged = resumption.checkpoint, resumption.newest_is_damaged
        left, problem = seconds_left(self.options.output.walltime)
        if problem:
            self.say(f"warning: {problem}; set output.walltime if the run is to stop by itself")
        if not plan.complete:
            self.directory.check_writable()
        return replace(plan, seconds_left=left)

    def begin(
        self, plan: ResumePlan, data_summary: DataSummary, devices: Devices, warnings: Sequence[str | None]
    ) -> None:
        """Begin or resume the files of the run, after the survey. Raises `UserError` where the data have changed."""
        name = shown(self.directory.path)
        fingerprint = f"{shape_text(plan.header)} {data_summary.fingerprint:016x}"
        check_same_data(plan.fingerprint, fingerprint, plan.header, name)
        if plan.complete and plan.progress.best is not None:
            self.say(f"{name} is finished already; add --restart to start over")
            self._print_result(plan.progress.best)
            return
        kinds = tuple(sorted({*self.checkpoint.devices, *devices.kinds}))
        self.checkpoint = replace(self.checkpoint, fingerprint=fingerprint, devices=kinds, speeds=plan.speeds)
        self._open_files()
        resumed = f"resuming start {plan.progress.init + 1} after iteration {plan.resumed_from}"
        said = [
            problem_text(data_summary, plan.header, self.options),
            dropped_text(data_summary, plan.header),
            *warnings,
        ]
        for text in filter(None, [*said, None if plan.resumed_from is None else resumed]):
            self.say(text)

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
        self._repairs[progress.init] = repairs
        self.allowance.note(line["seconds"])
        self.reporter.iteration(line)
        if self.options.compute.precision == "float32" and line["precision_bits"] != self._bits:
            self._bits = line["precision_bits"]
            self.say(precision_text(line["iteration"], self._bits))
        output = self.options.output
        due = time.monotonic() - self._saved >= output.checkpoint_seconds
        if due or progress.iteration % output.checkpoint_iterations == 0:
            self.save(progress)

    def save(self, progress: Progress) -> None:
        """Write a checkpoint; where that fails, warn and keep the older ones."""
        with self._spared("checkpoint"):
            self._save(progress)

    def save_latest(self) -> None:
        """Write a checkpoint of the last completed iteration, unless there is one already."""
        if self._unsaved is not None:
            self.save(self._unsaved)

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
        if self._has_saved:
            return
        told = "no checkpoint could be written: free some space"
        if self._unsaved is None:
            told = f"{too_short(spent, needed)}; {MORE_TIME}"
        note_stall(self.directory.path, self.request.config, told)
        self.say(f"warning: nothing new was saved: {told}")

    def _save(self, progress: Progress) -> None:
        assert self._log is not None
        self._saved = time.monotonic()
        if self._newest_is_damaged:
            drop_damaged(self.directory.path)
            self._newest_is_damaged = False
        save_checkpoint(self.directory.path, replace(self.checkpoint, progress=progress, history=self._log.table()))
        self._unsaved = None
        self._has_saved = True
        forget_stall(self.directory.path)
        self.allowance.checkpoint = time.monotonic() - self._saved

    @contextmanager
    def _spared(self, what: str) -> Iterator[None]:
        """A context for writing a file: turns a failure into a warning, given once until writing succeeds again."""
        try:
            yield
        except OutputError as error:
            if what not in self._failing:
                self.say(f"warning: {error}; the run goes on, and will try again")
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
            save_model(self.directory / MODEL, fitted_model(best, data_summary, self.options))
            fitted = summary(best, data_summary, self.checkpoint.devices, devices)
            self.directory.write_json(SUMMARY, {**fitted, **used, **versions(devices.cupy)})
        except OutputError as error:
            raise OutputError(f"{error}, and run the same command again to go on") from None
        if not best.ended.converged and self.options.em.tol > 0:
            self.say(unconverged_text(self.options, self._repairs.get(best.ended.init, Repairs())))
        self._print_result(best)

    def _print_result(self, best: Fitted) -> None:
        self.reporter.close()
        print_result(result_text(self.directory / MODEL, best))


AnyRecorder = Recorder | NullRecorder
