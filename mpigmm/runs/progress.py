"""Progress of a fit on standard error: one line that is updated on a terminal, some lines in a batch log."""

from __future__ import annotations

import sys
import time
from contextlib import suppress
from typing import Any

from mpigmm.runs.pacing import Pacing, Trend
from mpigmm.runs.streams import STREAM_ERRORS, print_result, write_message
from mpigmm.runs.voice import Voice

DAY = 86400.0
MANY_YEARS = 1e4 * DAY

LINE_WIDTH = 79
"""Largest number of characters in a line about an iteration."""


class Reporter(Voice):
    """Shows the progress of a fit on standard error, and its result on standard output.

    Parameters
    ----------
    max_iter : int
    n_init : int
    tol : float
        Change below which a start has converged.
    is_projected : bool
        Whether all later changes together must be below it, too (``em.criterion: aitken``).
    counts_passes : bool
        Whether a start ends after max_iter passes over the rows, and not iterations.
    """

    def __init__(
        self,
        max_iter: int,
        n_init: int,
        tol: float = 0.0,
        is_projected: bool = False,
        *,
        counts_passes: bool = False,
    ) -> None:
        super().__init__()
        self.n_init = n_init
        self._live = _start_live() if sys.stderr.isatty() else None
        self._pacing = Pacing(self.is_live)
        self._trend = Trend(max_iter, tol, is_projected, counts_passes=counts_passes)
        self._is_first = True
        self._hidden: dict[str, Any] | None = None

    @property
    def is_live(self) -> bool:
        """Whether there is a line that is updated."""
        return self._live is not None

    def show(self, text: str) -> None:
        """Update the line on a terminal, or show a line that stays."""
        if self._live is not None:
            self._live.update(text)
        else:
            self.say(text)

    def say(self, text: str) -> None:
        """Show a line that stays."""
        if self._live is None:
            write_message(text)
            return
        with suppress(*STREAM_ERRORS):
            self._live.console.print(text, highlight=False, markup=False)

    def warn(self, text: str) -> None:
        self.say(f"warning: {text}")

    def progress(self, text: str) -> None:
        """Show how far the work is, unless the last message is recent."""
        if self._pacing.is_due():
            self.show(text)

    def iteration(self, line: dict[str, Any]) -> None:
        """Show an iteration's log line, if it is the first one or the last message is not recent."""
        self._trend.add(line)
        if self._pacing.is_due() or self._is_first:
            self._is_first, self._hidden = False, None
            self.show(self.format(line))
        else:
            self._hidden = line

    def initialisation(self, init: int, name: str, done: int, most: int) -> None:
        self.progress(f"{self._start(init)}initialisation: {name} {done}/{most}")

    def format(self, line: dict[str, Any], is_last: bool = False) -> str:
        """The text for an iteration's log line, the last parts of which are left out where it would be too long."""
        parts = [
            f"{self._start(line['init'])}iteration {line['iteration']}",
            f"mean log-likelihood {line['mean_log_likelihood']:#.7g}",
            *([] if line["change"] is None else [f"change {line['change']:+.1e}"]),
            *(f"{name} {line[name]}" for name in ("floored", "reseeded") if line[name]),
        ]
        left = None if is_last or self.n_init > 1 else self._trend.seconds_left()
        parts.append(f"{line['seconds']:.2g} s each" if left is None else f"about {rough(left)} left")
        while len("  ".join(parts)) > LINE_WIDTH:
            parts.pop()
        return "  ".join(parts)

    def _start(self, init: int) -> str:
        return f"start {init + 1}/{self.n_init}  " if self.n_init > 1 else ""

    def show_last(self) -> None:
        """Show the last iteration, unless it was shown."""
        if self._hidden is not None:
            self.show(self.format(self._hidden, is_last=True))
            self._hidden = None

    def unconverged(self, text: str) -> None:
        self.show_last()
        super().unconverged(text)

    def result(self, text: str) -> None:
        """Print a text to standard output; raises `OutputError`."""
        self.show_last()
        self.close()
        print_result(text)

    def close(self) -> None:
        """Stop updating the line on the terminal."""
        if self._live is not None:
            self.show_last()
            with suppress(*STREAM_ERRORS):
                self._live.stop()


def rough(seconds: float) -> str:
    """An estimated time in one unit."""
    for most, unit, name in ((100, 1, "s"), (6000, 60, "min"), (2 * DAY, 3600, "h"), (MANY_YEARS, DAY, "days")):
        if seconds < most:
            return f"{max(seconds / unit, 1):.0f} {name}"
    return "many years"


def duration(seconds: float) -> str:
    """Seconds as hh:mm:ss, or in days."""
    if seconds < DAY:
        return time.strftime("%H:%M:%S", time.gmtime(seconds))
    return f"{seconds / DAY:.1f} days" if seconds < MANY_YEARS else "many years"


def _start_live() -> Any:
    """Start the updated line of a terminal; None where the terminal cannot be written to."""
    from rich.console import Console
    from rich.live import Live

    live = Live(console=Console(stderr=True), refresh_per_second=4)
    try:
        live.start()
    except STREAM_ERRORS:
        return None
    return live
