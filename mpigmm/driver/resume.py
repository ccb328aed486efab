"""Where a fit begins or resumes: root compares the request with the files of an earlier run in ``output.dir``."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

from mpigmm.core.mixture import Mixture
from mpigmm.data.source import Header
from mpigmm.driver.devices import Devices
from mpigmm.driver.identity import (
    check_own_model,
    check_same_problem,
    has_results,
    identity,
    known_results,
    model_digest,
)
from mpigmm.driver.resume_plan import ResumePlan, best_ops_known, check_start, tile_rows_of
from mpigmm.driver.stopping import check_ended, reopened
from mpigmm.errors import DataError, shown
from mpigmm.options import FitOptions
from mpigmm.requests import FitRequest
from mpigmm.runs.checkpoint import NEWEST, Checkpoint, load_checkpoint
from mpigmm.runs.directory import RunDirectory
from mpigmm.runs.model_file import load_model
from mpigmm.runs.owned import MODEL
from mpigmm.runs.state import Progress
from mpigmm.runs.voice import Voice


@dataclass
class Resumption:
    """Root's decision where the fit begins or resumes.

    Attributes
    ----------
    request : FitRequest
    header : Header
    directory : RunDirectory
    voice : Voice
        Tells the user of problems.
    check : callable
        Called repeatedly while files are read; an exception that it raises ends the reading.
    checkpoint : Checkpoint
        The parts of the run's checkpoints that do not change from one to the next; complete after `plan`.
    newest_is_damaged : bool
        Whether the run resumes from the previous checkpoint, because the newest is missing or damaged.
    """

    request: FitRequest
    header: Header
    directory: RunDirectory
    voice: Voice
    check: Callable[[], None]
    checkpoint: Checkpoint = field(default_factory=lambda: Checkpoint(Progress(), {}, "", 0, ""))
    newest_is_damaged: bool = False

    @property
    def options(self) -> FitOptions:
        return self.request.options

    def plan(self, devices: Devices) -> ResumePlan:
        """Read what an earlier run left. Raises `UserError`."""
        self.directory.check_inputs(self.header.paths)
        found = None if self.request.restart else self._load_checkpoint()
        start = self._load_start(found is not None)
        if start is not None:
            check_start(start, self.options, self.header)
        tile_rows = tile_rows_of(self.options, self.header, devices, found.tile_rows if found else None)
        ops = found.ops if found else best_ops_known(self.voice)
        settings = identity(self.options, tile_rows, start)
        self.checkpoint = Checkpoint(Progress(), settings, "", tile_rows, ops, self.request.config)
        plan = ResumePlan(tile_rows, ops, start=start, speeds=found.speeds if found else {})
        return plan if self.request.restart else self._continued(plan, found)

    def _load_checkpoint(self) -> Checkpoint | None:
        found, warning = load_checkpoint(self.directory.path)
        if warning:
            self.voice.warn(warning)
        self.newest_is_damaged = found is not None and (warning is not None or not (self.directory / NEWEST).exists())
        return found

    def _load_start(self, is_resumed: bool) -> Mixture | None:
        """The mixture of ``init.file``; None where a run that is resumed cannot read it from its own ``model.h5``."""
        file = self.options.init.file
        try:
            return None if file is None else load_model(Path(file), self.check).mixture
        except DataError:
            if not is_resumed or not self.directory.is_model(file):
                raise
            return None

    def _continued(self, plan: ResumePlan, found: Checkpoint | None) -> ResumePlan:
        """The plan, resuming from a checkpoint if there is one; raises `OutputError` for another run's directory."""
        digest = model_digest(self.directory / MODEL, self.check, self.voice.warn)
        if found is not None:
            plan = self._resumed(plan, found, digest)
        if not self.newest_is_damaged:
            check_own_model(self.directory, digest, self.checkpoint)
        elif digest is not None:  # the lost checkpoint may have named the model among the run's results
            results = tuple(sorted({*self.checkpoint.results, digest}))
            self.checkpoint = replace(self.checkpoint, results=results)
        return plan

    def _resumed(self, plan: ResumePlan, found: Checkpoint, digest: str | None) -> ResumePlan:
        """The plan to resume from a checkpoint; `digest` is that of the directory's model, if any.

        Raises `OutputError` where the checkpoint belongs to another problem.
        """
        results = known_results(found)
        if self.directory.is_model(self.options.init.file) and (plan.start is None or plan.start.digest() in results):
            # The run began from an earlier content of its own model.h5, which it has replaced since.
            same = {**self.checkpoint.identity, "init.file": found.identity.get("init.file")}
            self.checkpoint = replace(self.checkpoint, identity=same)
        name = shown(self.directory.path)
        check_same_problem(found, self.checkpoint.identity, self.header, name)
        check_ended(found.progress, self.options, name)
        self.checkpoint = replace(self.checkpoint, history=found.history, devices=found.devices, results=results)
        progress = reopened(found.progress, self.options)
        complete = has_results(self.directory, progress, digest, self.options)
        return replace(plan, progress=progress, fingerprint=found.fingerprint, complete=complete)
