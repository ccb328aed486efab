"""What a person sees of a running fit: a live line on a terminal, plain lines in a batch log."""

from __future__ import annotations

import sys
import time
from typing import Any


class Reporter:
    """Progress on standard error.

    Parameters
    ----------
    max_iter : int
    n_init : int
    """

    def __init__(self, max_iter: int, n_init: int) -> None:
        self.max_iter = max_iter
        self.n_init = n_init
        self._live = _start_live() if sys.stderr.isatty() else None

    def say(self, text: str) -> None:
        """A line of its own."""
        if self._live is not None:
            self._live.console.print(text, highlight=False, markup=False)
        else:
            print(text, file=sys.stderr, flush=True)

    def iteration(self, line: dict[str, Any]) -> None:
        """Show an iteration's log line."""
        text = self.format(line)
        if self._live is not None:
            self._live.update(text)
        else:
            self.say(text)

    def format(self, line: dict[str, Any]) -> str:
        """An iteration in words."""
        start = f"start {line['init'] + 1}/{self.n_init}  " if self.n_init > 1 else ""
        change = "" if line["change"] is None else f"  change {line['change']:+.3e}"
        repairs = "".join(f"  {name} {line[name]}" for name in ("floored", "reseeded") if line[name])
        left = line["seconds"] * (self.max_iter - line["iteration"])
        return (
            f"{start}iteration {line['iteration']}/{self.max_iter}  "
            f"log-likelihood {line['mean_log_likelihood']:.9g}{change}{repairs}  "
            f"{line['seconds']:.3g} s  at most {duration(left)} left"
        )

    def close(self) -> None:
        """Leave the terminal as it was."""
        if self._live is not None:
            self._live.stop()


def duration(seconds: float) -> str:
    """Seconds as h:mm:ss."""
    return time.strftime("%H:%M:%S", time.gmtime(seconds)) if seconds < 86400 else f"{seconds / 86400:.1f} days"


def _start_live() -> Any:
    from rich.console import Console
    from rich.live import Live

    live = Live(console=Console(stderr=True), refresh_per_second=4)
    live.start()
    return live
