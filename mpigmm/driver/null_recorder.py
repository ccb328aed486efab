"""The recorder of all ranks but root, which records nothing."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from mpigmm.core.algorithms.repair import Repairs
from mpigmm.core.data_summary import DataSummary
from mpigmm.driver.devices import Devices
from mpigmm.driver.resume import ResumePlan
from mpigmm.runs.state import Progress


class NullRecorder:
    """Has the methods of `Recorder`, none of which does anything."""

    def close(self) -> None: ...

    def set_deadline(self, deadline: float) -> None: ...

    def is_spent(self) -> bool:
        return False

    def say(self, text: str) -> None: ...

    def initialisation(self, init: int, name: str, done: int, most: int) -> None: ...

    def open(self, devices: Devices, check: Callable[[], None]) -> ResumePlan | None: ...

    def begin(
        self, plan: ResumePlan, data_summary: DataSummary, devices: Devices, warnings: Sequence[str | None]
    ) -> None: ...

    def record(self, progress: Progress, line: dict[str, Any], repairs: Repairs) -> None: ...

    def save(self, progress: Progress) -> None: ...

    def save_latest(self) -> None: ...

    def check_time(self, spent: float, needed: float | None) -> None: ...

    def finish(self, progress: Progress, data_summary: DataSummary, devices: Devices, used: dict[str, Any]) -> None: ...
