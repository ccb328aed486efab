"""Where a fit begins or resumes: root compares the request with the files of an earlier run in ``output.dir``."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

from mpigmm.core.covariances import COVARIANCE_TYPES
from mpigmm.core.mixture import Mixture
from mpigmm.core.ops import best_ops
from mpigmm.core.ops.numpy import NUMPY
from mpigmm.data.source import Header, read_header
from mpigmm.driver.devices import Devices
from mpigmm.driver.identity import (
    check_own_model,
    check_same_problem,
    has_results,
    identity,
    known_results,
    model_digest,
)
from mpigmm.driver.layout import choose_tile_rows
from mpigmm.driver.stopping import check_ended, reopened
from mpigmm.errors import DataError, counted, shown
from mpigmm.options import DataOptions, FitOptions
from mpigmm.requests import FitRequest
from mpigmm.runs.checkpoint import NEWEST, Checkpoint, load_checkpoint
from mpigmm.runs.directory import RunDirectory
from mpigmm.runs.model_file import load_model
from mpigmm.runs.owned import MODEL
from mpigmm.runs.state import Progress


@dataclass(frozen=True)
class ResumePlan:
    """Where the fit begins or resumes, as root decides it for all ranks.

    Attributes
    ----------
    header : Header
    tile_rows : int
    ops : str
        Name of the array operations on the host.
    progress : Progress
        State of the fit to continue from.
    fingerprint : str or None
        Of the data of the run that is resumed; None for a new run.
    start : Mixture or None
        From ``init.file``.
    complete : bool
        Whether an earlier run with these settings is finished; it still has to be checked that the data are the same.
    seconds_left : float
        Time until the run must have stopped.
    speeds : dict
        Rows a second by kind of rank, as far as they have been measured.
    """

    header: Header
    tile_rows: int
    ops: str
    progress: Progress = Progress()
    fingerprint: str | None = None
    start: Mixture | None = None
    complete: bool = False
    seconds_left: float = math.inf
    speeds: dict[str, int] = field(default_factory=dict)

    @property
    def resumed_from(self) -> int | None:
        """The iteration after which the run resumes; None for a new run."""
        return None if self.fingerprint is None else self.progress.iteration


@dataclass
class Resumption:
    """Root's decision where the fit begins or resumes.

    Attributes
    ----------
    request : FitRequest
    directory : RunDirectory
    say : callable
        Called with messages to the user.
    check : callable
        Called repeatedly while files are read; an exception that it raises ends the reading.
    checkpoint : Checkpoint
        The parts of the run's checkpoints that do not change from one to the next; complete after `plan`.
    newest_is_damaged : bool
        Whether the run resumes from the previous checkpoint, because the newest is missing or damaged.
    """

    request: FitRequest
    directory: RunDirectory
    say: Callable[[str], None]
    check: Callable[[], None]
    checkpoint: Checkpoint = field(default_factory=lambda: Checkpoint(Progress(), {}, "", 0, ""))
    newest_is_damaged: bool = False

    @property
    def options(self) -> FitOptions:
        return self.request.options

    def plan(self, devices: Devices) -> ResumePlan:
        """Read the input's header and what an earlier run left. Raises `UserError`."""
        header = read_rows_header(self.options.data, self.options.model.n_components)
        self.directory.check_inputs(header.paths)
        found = None if self.request.restart else self._load_checkpoint()
        start = self._load_start(found is not None)
        if start is not None:
            check_start(start, self.options, header)
        tile_rows = choose_tile_rows(
            self.options.compute,
            devices,
            header,
            COVARIANCE_TYPES[self.options.model.covariance_type],
            self.options.model.n_components,
            found.tile_rows if found else None,
        )
        ops = found.ops if found else self._best_ops()
        settings = identity(self.options, tile_rows, start)
        self.checkpoint = Checkpoint(Progress(), settings, "", tile_rows, ops, self.request.config)
        plan = ResumePlan(header, tile_rows, ops, start=start, speeds=found.speeds if found else {})
        return plan if self.request.restart else self._continued(plan, found)

    def _load_checkpoint(self) -> Checkpoint | None:
        found, warning = load_checkpoint(self.directory.path)
        if warning:
            self.say(f"warning: {warning}")
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

    def _best_ops(self) -> str:
        ops = best_ops()
        if ops == NUMPY.name:
            self.say(
                "warning: mpigmm was installed without a C compiler, and computes several times as slowly with "
                "NumPy; install it anew where there is one"
            )
        return ops

    def _continued(self, plan: ResumePlan, found: Checkpoint | None) -> ResumePlan:
        """The plan, resuming from a checkpoint if there is one; raises `OutputError` for another run's directory."""
        digest = model_digest(self.directory / MODEL, self.check, self.say)
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
        check_same_problem(found, self.checkpoint.identity, plan.header, name)
        check_ended(found.progress, self.options, name)
        self.checkpoint = replace(self.checkpoint, history=found.history, devices=found.devices, results=results)
        progress = reopened(found.progress, self.options)
        complete = has_results(self.directory, progress, digest)
        return replace(plan, progress=progress, fingerprint=found.fingerprint, complete=complete)


def read_rows_header(data: DataOptions, n_components: int) -> Header:
    """Header of the rows to fit. Raises `DataError` where they are fewer than the components."""
    header = read_header(data.path, data.dataset, data.weights, data.columns, data.rows)
    if header.n_rows < n_components:
        raise DataError(
            f"model.n_components: {n_components} components need at least as many rows, but "
            f"{shown(data.dataset)} has {header.n_rows}; lower it, or check data.path and data.rows"
        )
    return header


def check_start(mixture: Mixture, options: FitOptions, header: Header) -> None:
    """Raise `DataError` where the mixture of ``init.file`` is not of the model asked for."""
    model, file = options.model, shown(options.init.file)
    for name, has, wanted in (
        ("n_components", mixture.n_components, model.n_components),
        ("covariance_type", mixture.covariances.name, model.covariance_type),
    ):
        if has != wanted:
            raise DataError(f"init.file: {file} has {name} {has}, but model.{name} is {wanted}")
    if mixture.n_features != header.n_features:
        raise DataError(
            f"init.file: {file} has {counted(mixture.n_features, 'feature')}, but {shown(header.dataset)} has "
            f"{counted(header.n_features, 'column')}; choose them by data.columns"
        )
