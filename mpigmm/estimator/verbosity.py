"""What the estimator prints while it fits: the lines of scikit-learn."""

from __future__ import annotations

import time
from typing import Any

from mpigmm.runs.streams import print_result
from mpigmm.runs.voice import Voice


class QuietVoice(Voice):
    """Keeps warnings, but for those of a fit that has not converged, which the estimator words itself."""

    def unconverged(self, text: str) -> None:
        """Nothing is kept."""


class VerboseVoice(QuietVoice):
    """Prints a line for the beginning and the end of each start, and for some of its iterations.

    Parameters
    ----------
    level : int
        1, or 2 for times, changes and log-likelihoods.
    interval : int
        Iterations from one line to the next.
    tol : float
        Change of the log-likelihood below which a start has converged.
    """

    def __init__(self, level: int, interval: int, tol: float) -> None:
        super().__init__()
        self.level = level
        self.interval = interval
        self.tol = tol
        self._init = -1
        self._last: dict[str, Any] | None = None
        self._begin_time = self._line_time = time.perf_counter()

    def initialisation(self, init: int, name: str, done: int, most: int) -> None:
        self._begin(init)

    def iteration(self, line: dict[str, Any]) -> None:
        self._begin(line["init"])
        self._last = line
        if line["iteration"] % self.interval:
            return
        text = f"  Iteration {line['iteration']}"
        if self.level > 1:
            now, change = time.perf_counter(), line["change"]
            change = float("inf") if change is None else change
            text += f"\t time lapse {now - self._line_time:.5f}s\t ll change {change:.5f}"
            self._line_time = now
        print_result(text)

    def result(self, text: str) -> None:
        self._begin(0)
        self._end()

    def _begin(self, init: int) -> None:
        """Print that a start begins, unless it has begun."""
        if init <= self._init:
            return
        self._end()
        self._init, self._begin_time = init, time.perf_counter()
        self._line_time = self._begin_time
        print_result(f"Initialization {init}")

    def _end(self) -> None:
        """Print how the last start ended, unless it had no iterations."""
        line, self._last = self._last, None
        if line is None:
            return
        change = line["change"]
        text = f"Initialization {'converged' if change is not None and abs(change) < self.tol else 'did not converge'}."
        if self.level > 1:
            spent = time.perf_counter() - self._begin_time
            text += f" time lapse {spent:.5f}s\t lower bound {line['mean_log_likelihood']:.5f}."
        print_result(text)
