"""When to show progress, and how long a start may still take."""

from __future__ import annotations

import math
import time
from array import array
from typing import Any

LIVE_SECONDS = 0.25
"""Least seconds between two updates of a line on a terminal."""

LEAST_SECONDS, MOST_SECONDS, SHARE = 1.0, 30.0, 0.05
"""Seconds between two lines of a batch log: a share of the time since the first one, but not less and not more."""

FEWEST = 6
"""Iterations at least from which a trend is estimated."""

SMOOTHED = 20
"""Iterations over which the seconds of an iteration are averaged."""

STEADY = 2.0
"""Largest ratio of the rates of decay in the last quarter of the iterations and in the one before."""


class Pacing:
    """Decides when progress is shown: at most once a second in a batch log, and less often the longer a run takes.

    Parameters
    ----------
    is_live : bool
        Whether progress is a line on a terminal that is updated.
    """

    def __init__(self, is_live: bool) -> None:
        self.is_live = is_live
        self._begun = self._shown = time.monotonic()

    def is_due(self) -> bool:
        """Whether to show progress now; if so, the time until the next progress is shown begins."""
        now = time.monotonic()
        seconds = min(max(SHARE * (now - self._begun), LEAST_SECONDS), MOST_SECONDS)
        is_due = now - self._shown >= (LIVE_SECONDS if self.is_live else seconds)
        if is_due:
            self._shown = now
        return is_due


class Trend:
    """Estimates the seconds that a start still takes from the changes of its objective.

    EM converges linearly (Dempster, Laird and Rubin, J. R. Stat. Soc. B 39, 1977, section 3): near its end each change
    is a constant fraction of the one before. The fraction is that of the last quarter of the iterations; where it
    differs from that of the quarter before, nothing is estimated.

    Parameters
    ----------
    max_iter : int
    tol : float
        Change below which the start ends.
    is_projected : bool
        Whether all later changes together must be below it, too (``em.criterion: aitken``).
    counts_passes : bool
        Whether the start ends after max_iter passes over the rows instead of iterations. The changes then have no
        trend, and nothing is estimated unless the tolerance is zero.
    """

    def __init__(self, max_iter: int, tol: float, is_projected: bool = False, *, counts_passes: bool = False) -> None:
        self.max_iter = max_iter
        self.counts_passes = counts_passes
        self._passes = self._passes_each = 0.0
        self.tol = tol
        self.is_projected = is_projected
        self._init = self._iteration = -1
        self._changes = array("d")
        self._seconds, self._n_added = 0.0, 0

    def add(self, line: dict[str, Any]) -> None:
        """Take an iteration's line of the convergence log into account."""
        change = line["change"]
        if line["init"] != self._init or not change or line["floored"] or line["reseeded"]:
            del self._changes[:]
        if change:
            self._changes.append(math.log(abs(change)))
        self._init, self._iteration = line["init"], line["iteration"]
        self._n_added += 1
        if self.counts_passes:
            self._passes_each += (line["passes"] - self._passes - self._passes_each) / min(self._n_added, SMOOTHED)
            self._passes = line["passes"]
        self._seconds += (line["seconds"] - self._seconds) / min(self._n_added, SMOOTHED)

    def seconds_left(self) -> float | None:
        """Estimated seconds until the start has converged or has reached its last iteration; None without a trend."""
        if self.counts_passes:
            if self.tol or not self._passes_each:
                return None
            return max((self.max_iter - self._passes) / self._passes_each, 0.0) * self._seconds
        most = self.max_iter - self._iteration
        left = most if self.tol == 0 else self._iterations_left()
        return None if left is None or most < 0 else min(left, most) * self._seconds

    def _iterations_left(self) -> float | None:
        """Iterations until the start has converged, if the changes decay at a steady rate."""
        count = len(self._changes)
        if count < FEWEST:
            return None
        last, span = count - 1, max(count // 4, FEWEST // 3)
        middle, first = last - span, last - 2 * span
        early = (self._changes[first] - self._changes[middle]) / span
        late = (self._changes[middle] - self._changes[last]) / span
        if late <= 0 or not late / STEADY <= early <= late * STEADY:
            return None
        least = math.log(self.tol)
        if self.is_projected:  # changes with the ratio a after the change c add up to c a / (1 - a)
            least += min(math.log(math.expm1(late)), 0.0)
        return max((self._changes[last] - least) / late, 0.0)
