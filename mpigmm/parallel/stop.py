"""Stop requests: a signal, or the end of the time allowed, ends the run at the next tile with all its work saved."""

from __future__ import annotations

import signal
import time
from types import FrameType

from mpigmm.errors import InterruptedRunError

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2)


class StopRequest:
    """What asks the run to stop.

    Attributes
    ----------
    received : Signals or None
        The last signal that came.
    deadline : float
        When to stop without being asked, on the clock of `time.monotonic`.
    advice : str
        What to tell the user to do.
    """

    def __init__(self) -> None:
        self.received: signal.Signals | None = None
        self.deadline = float("inf")
        self.advice = "run the same command again"

    def listen(self) -> None:
        """Note signals from now on, in place of what they did before."""
        for number in SIGNALS:
            signal.signal(number, self._note)

    def ignore(self) -> None:
        """Let no signal spoil the exit code any more: one to all ranks reaches some of them late."""
        for number in SIGNALS:
            signal.signal(number, signal.SIG_IGN)

    def check(self) -> None:
        """Raise `InterruptedRunError` where there is cause to stop; cheap enough for every tile."""
        if self.received is not None:
            raise InterruptedRunError(f"interrupted by {self.received.name}; {self.advice}")
        if time.monotonic() > self.deadline:
            raise self.out_of_time()

    def out_of_time(self) -> InterruptedRunError:
        """The error that says so."""
        return InterruptedRunError(f"stopped ahead of the end of its time; {self.advice}")

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.received = signal.Signals(number)
