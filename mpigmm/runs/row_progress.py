"""Progress of a pass over rows on standard error, in a line now and then."""

from __future__ import annotations

import time
from threading import Lock

from mpigmm.parallel.stop import Pace
from mpigmm.runs.pacing import Pacing
from mpigmm.runs.progress import rough
from mpigmm.runs.streams import write_message


class RowProgress:
    """Shows how much of a rank's pass over its rows is done, and about how long the rest takes.

    Parameters
    ----------
    name : str
        With which each line begins.
    pace : Pace
        Of the pass.
    """

    def __init__(self, name: str, pace: Pace) -> None:
        self._name, self._pace = name, pace
        self._pacing = Pacing(is_live=False)
        self._lock = Lock()

    def step(self) -> None:
        """Show a line, unless the last one is recent. May be called by several threads."""
        with self._lock:
            whole = self._pace.seconds()
            if whole is None or not self._pacing.is_due():
                return
        done = time.monotonic() - self._pace.begun
        write_message(f"mpigmm: {self._name} {min(1.0, done / whole):.0%}, about {rough(max(0.0, whole - done))} left")
