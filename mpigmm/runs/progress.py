"""Progress of a fit on standard error: one line that is updated on a terminal, plain lines in a batch log."""

from __future__ import annotations

import sys
import time
from contextlib import suppress
from typing import Any

from mpigmm.runs.streams import STREAM_ERRORS, print_result, write_message
from mpigmm.runs.voice import Voice

DAY = 86400.0
MANY_YEARS = 1e4 * DAY

LOG_SECONDS, LIVE_SECONDS = 5.0, 0.25
"""Least seconds between two messages on the progress of the initialisation, in a batch log and on a terminal."""


class Reporter(Voice):
    """Shows the progress of a fit on standard error, and its result on standard output.

    Parameters
    ----------
    max_iter : int
    n_init : int
    """

    def __init__(self, max_iter: int, n_init: int) -> None:
        super().__init__()
        self.max_iter = max_iter
        self.n_init = n_init
        self._live = _start_live() if sys.stderr.isatty() else None
        self._shown = time.monotonic()

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

    def iteration(self, line: dict[str, Any]) -> None:
        """Show an iteration's log line."""
        self.show(self.format(line))

    def initialisation(self, init: int, name: str, done: int, most: int) -> None:
        """Show the progress of the initialisation of start number init, unless the last message is recent."""
        now = time.monotonic()
        if now < self._shown + (LIVE_SECONDS if self.is_live else LOG_SECONDS):
            return
        self._shown = now
        self.show(f"{self._start(init)}initialisation: {name} {done}/{most}")

    def format(self, line: dict[str, Any]) -> str:
        """The text for an iteration's log line."""
        change = "" if line["change"] is None else f"  change {line['change']:+.3e}"
        repairs = "".join(f"  {name} {line[name]}" for name in ("floored", "reseeded") if line[name])
        left = line["seconds"] * (self.max_iter - line["iteration"])
        return (
            f"{self._start(line['init'])}iteration {line['iteration']}/{self.max_iter}  "
            f"log-likelihood {line['mean_log_likelihood']:.9g}{change}{repairs}  "
            f"{line['seconds']:.3g} s  at most {duration(left)} left"
        )

    def _start(self, init: int) -> str:
        return f"start {init + 1}/{self.n_init}  " if self.n_init > 1 else ""

    def result(self, text: str) -> None:
        """Print a text to standard output; raises `OutputError`."""
        self.close()
        print_result(text)

    def close(self) -> None:
        """Stop updating the line on the terminal."""
        if self._live is not None:
            with suppress(*STREAM_ERRORS):
                self._live.stop()


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
