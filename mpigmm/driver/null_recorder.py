"""What records a fit, and the recorder that records nothing."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mpigmm.core.algorithms.repair import Repairs
from mpigmm.core.data_summary import DataSummary
from mpigmm.driver.devices import Devices
from mpigmm.driver.resume_plan import ResumePlan
from mpigmm.runs.model import Model
from mpigmm.runs.state import Progress


@dataclass(frozen=True, eq=False)
class Outcome:
    """What a finished fit has found.

    Attributes
    ----------
    model : Model
    summary : dict
        The content of ``summary.json``.
    history : ndarray of float64, (n, number of columns)
        The lines of the convergence log; see `mpigmm.runs.convergence.COLUMNS`.
    """

    model: Model
    summary: dict[str, Any]
    history: NDArray[np.float64]


class NullRecorder:
    """The recorder of all ranks but root, which records nothing; those of root override its methods."""

    def close(self) -> None:
        """Release what the recorder holds."""

    def set_deadline(self, deadline: float) -> None:
        """Set the time by which to have stopped, on the clock of `time.monotonic`."""

    def is_spent(self) -> bool:
        """Whether there may be no time for another iteration."""
        return False

    def say(self, text: str) -> None:
        """Tell the user something."""

    def initialisation(self, init: int, name: str, done: int, most: int) -> None:
        """Show how far the initialisation of start number init is."""

    def open(self, devices: Devices, check: Callable[[], None]) -> ResumePlan | None:
        """Decide where to go on; `check` is called repeatedly while files are read, and may raise. Raises
        `UserError`."""

    def begin(
        self, plan: ResumePlan, data_summary: DataSummary, devices: Devices, warnings: Sequence[str | None]
    ) -> None:
        """Begin or resume the record, after the survey. Raises `UserError` where the data have changed."""

    def record(self, progress: Progress, line: dict[str, Any], repairs: Repairs) -> None:
        """Record an iteration."""

    def save(self, progress: Progress) -> None:
        """Write a checkpoint."""

    def save_latest(self) -> None:
        """Write a checkpoint of the last completed iteration, unless there is one already."""

    @property
    def saved(self) -> str:
        """What of an interrupted run is saved, as the words that follow "interrupted"; none if it writes no files."""
        return ""

    def check_time(self, spent: float, needed: float | None) -> None:
        """Warn if this process has saved nothing new."""

    def finish(self, progress: Progress, data_summary: DataSummary, devices: Devices, used: dict[str, Any]) -> None:
        """Record the results. Raises `OutputError`."""

    @property
    def outcome(self) -> Outcome | None:
        """The results, on root once the fit has ended."""
        return None
