"""Stop requests: a signal, or the end of the time allowed, ends the run at the next tile with all its work saved."""

from __future__ import annotations

import signal
import time
from types import FrameType

from mpigmm.errors import InterruptedRunError

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2)
TIME_SIGNALS = (signal.SIGUSR1, signal.SIGUSR2)
"""What batch systems send ahead of the end of a job; people and operators send the others."""


class Pace:
    """How fast this rank goes over its tiles, from those of the sweep that it is in.

    Attributes
    ----------
    begun : float
        When the sweep began, on the clock of `time.monotonic`.
    """

    def __init__(self) -> None:
        self.begun = time.monotonic()
        self._n_tiles = self._n_done = 0

    def begin(self, n_tiles: int) -> None:
        """Begin a sweep over this many tiles."""
        self.begun, self._n_tiles, self._n_done = time.monotonic(), n_tiles, 0

    def step(self) -> None:
        """One more tile is done."""
        self._n_done += 1

    def seconds(self) -> float | None:
        """Seconds that the whole sweep will have taken; None where it has ended, or no tile of it is done."""
        if not 0 < self._n_done < self._n_tiles:
            return None
        return (time.monotonic() - self.begun) / self._n_done * self._n_tiles


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
    pace : Pace
        Of the sweep under way.
    """

    def __init__(self) -> None:
        self.received: signal.Signals | None = None
        self.deadline = float("inf")
        self.advice = "run the same command again"
        self.pace = Pace()
        self._is_out_of_time = False

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

    @property
    def is_for_time(self) -> bool:
        """Whether the run is asked to stop because its time ends."""
        return self._is_out_of_time or self.received in TIME_SIGNALS

    def out_of_time(self) -> InterruptedRunError:
        """The error that says so."""
        self._is_out_of_time = True
        return InterruptedRunError(f"stopped ahead of the end of its time; {self.advice}")

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.received = signal.Signals(number)
