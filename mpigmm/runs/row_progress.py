"""Progress of a pass over rows on standard error, in a line now and then."""

from __future__ import annotations

import time
from threading import Lock

from mpigmm.parallel.stop import Pace
from mpigmm.runs.progress import duration
from mpigmm.runs.streams import write_message

FIRST_SECONDS, LONGEST_SECONDS, GROWTH = 2.0, 30.0, 1.5
"""Seconds before the first line, the most between two lines, and the factor by which the time between lines grows."""


class RowProgress:
    """Shows how much of a rank's pass over its rows is done, and how long the rest takes.

    Parameters
    ----------
    name : str
        With which each line begins.
    pace : Pace
        Of the pass.
    """

    def __init__(self, name: str, pace: Pace) -> None:
        self._name, self._pace = name, pace
        self._between = FIRST_SECONDS
        self._due = time.monotonic() + FIRST_SECONDS
        self._lock = Lock()

    def step(self) -> None:
        """Show a line, unless the last one is recent. May be called by several threads."""
        with self._lock:
            now = time.monotonic()
            if now < self._due:
                return
            self._between = min(GROWTH * self._between, LONGEST_SECONDS)
            self._due = now + self._between
        whole, done = self._pace.seconds(), now - self._pace.begun
        if whole is not None:
            write_message(f"mpigmm: {self._name} {done / whole:.0%}, {duration(max(0.0, whole - done))} left")
