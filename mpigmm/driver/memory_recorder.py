"""The record of a fit in root's memory, for a caller that wants no files."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mpigmm.core.algorithms.initialise import NOTHING_GIVEN, GivenParameters
from mpigmm.core.algorithms.repair import Repairs
from mpigmm.core.data_summary import DataSummary
from mpigmm.core.mixture import Mixture
from mpigmm.data.source import Header
from mpigmm.driver.devices import Devices
from mpigmm.driver.messages import precision_text, projected_text, result_text, tell_beginning, unconverged_text
from mpigmm.driver.null_recorder import NullRecorder, Outcome
from mpigmm.driver.resume_plan import ResumePlan, new_plan
from mpigmm.driver.summary import fitted_model, summary, versions
from mpigmm.options import FitOptions
from mpigmm.runs.convergence import COLUMNS, row_of
from mpigmm.runs.state import Progress
from mpigmm.runs.voice import Voice


class MemoryRecorder(NullRecorder):
    """Keeps the convergence log and the results of a fit, and tells its user of both.

    Parameters
    ----------
    options : FitOptions
    header : Header
        Of the rows.
    voice : Voice
    given : GivenParameters
        Of the first mixture.
    """

    def __init__(
        self, options: FitOptions, header: Header, voice: Voice, given: GivenParameters = NOTHING_GIVEN
    ) -> None:
        self.options = options
        self.header = header
        self.voice = voice
        self.given = given
        self._lines = array("d")
        self._bits = 32
        self._repairs: dict[int, Repairs] = {}
        self._outcome: Outcome | None = None

    def close(self) -> None:
        self.voice.close()

    def say(self, text: str) -> None:
        self.voice.say(text)

    def initialisation(self, init: int, name: str, done: int, most: int) -> None:
        self.voice.initialisation(init, name, done, most)

    def open(self, devices: Devices, check: Callable[[], None]) -> ResumePlan | None:
        plan = new_plan(self.options, self.header, devices, self._start(check), self.voice)
        return replace(plan, given=self.given)

    def begin(
        self, plan: ResumePlan, data_summary: DataSummary, devices: Devices, warnings: Sequence[str | None]
    ) -> None:
        tell_beginning(self.voice, data_summary, self.header, self.options, devices.n_ranks, warnings)

    def record(self, progress: Progress, line: dict[str, Any], repairs: Repairs) -> None:
        self._lines.extend(row_of(line))
        self._tell(progress, line, repairs)

    def finish(self, progress: Progress, data_summary: DataSummary, devices: Devices, used: dict[str, Any]) -> None:
        best = progress.best
        assert best is not None
        found = {**summary(best, data_summary, devices.kinds, devices), **used, **versions(devices.cupy)}
        self._outcome = Outcome(fitted_model(best, data_summary, self.options, self.header), found, self.history)
        self._tell_end(progress)
        self.voice.result(result_text("fitted", best))

    @property
    def history(self) -> NDArray[np.float64]:
        """The lines of the log, (n, number of columns)."""
        return np.array(self._lines).reshape(-1, len(COLUMNS))

    @property
    def outcome(self) -> Outcome | None:
        return self._outcome

    def _start(self, check: Callable[[], None]) -> Mixture | None:
        """The mixture of ``init.file``; raises `DataError`."""
        if self.options.init.file is None:
            return None
        from mpigmm.runs.model_file import load_model  # loads h5py, which may start MPI

        return load_model(Path(self.options.init.file), check).mixture

    def _tell(self, progress: Progress, line: dict[str, Any], repairs: Repairs) -> None:
        """Tell the user of an iteration."""
        self._repairs[progress.init] = repairs
        self.voice.iteration(line)
        if self.options.compute.precision == "float32" and line["precision_bits"] != self._bits:
            self._bits = line["precision_bits"]
            self.say(precision_text(line["iteration"], self._bits))

    def _tell_end(self, progress: Progress) -> None:
        """Warn the user where the fit has not converged, and tell where it has converged early."""
        em, best = self.options.em, progress.best
        if best is not None and not best.ended.converged and em.tol > 0 and em.max_iter > 0:
            self.voice.unconverged(unconverged_text(self.options, self._repairs.get(best.ended.init, Repairs())))
        remark = best and projected_text(best, em)
        if remark:
            self.say(remark)
