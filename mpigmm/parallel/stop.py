"""Requests to stop: after a signal, or at the end of the time allowed, the run saves its state and ends."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from types import FrameType

from mpigmm.errors import InterruptedCallError, InterruptedRunError

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2)
TIME_SIGNALS = (signal.SIGUSR1, signal.SIGUSR2)
"""Signals that batch systems send before the end of a job; users and operators send the others."""


class Pace:
    """Estimates how long this rank's current pass over its tiles takes.

    Attributes
    ----------
    begun : float
        When the pass began, on the clock of `time.monotonic`.
    """

    def __init__(self) -> None:
        self.begun = time.monotonic()
        self._n_tiles = self._n_done = 0

    def begin(self, n_tiles: int) -> None:
        """Begin a pass over n_tiles tiles."""
        self.begun, self._n_tiles, self._n_done = time.monotonic(), n_tiles, 0

    def step(self, n_tiles: int = 1) -> None:
        """Count one or more tiles as computed."""
        self._n_done += n_tiles

    def seconds(self) -> float | None:
        """Estimated seconds of the whole pass; None before its first tile is computed and after its last."""
        if not 0 < self._n_done < self._n_tiles:
            return None
        return (time.monotonic() - self.begun) / self._n_done * self._n_tiles


class StopRequest:
    """Whether the run is to stop, and why.

    Attributes
    ----------
    received : Signals or None
        The last signal that the process received.
    interrupted_by : type of BaseException or None
        Class of an exception that interrupted the caller of a fit.
    deadline : float
        When the run is to stop without a signal, on the clock of `time.monotonic`.
    advice : str
        What the user can do after the stop, for the message.
    begun : float
        When the run began, on the clock of `time.monotonic`.
    pace : Pace
        Of the current pass.
    others : callable or None
        Returns whether ranks of another group have failed; see `Comm.is_rung`.
    """

    def __init__(self) -> None:
        self.begun = time.monotonic()
        self.received: signal.Signals | None = None
        self.interrupted_by: type[BaseException] | None = None
        self.deadline = float("inf")
        self.advice = "run the same command again"
        self.pace = Pace()
        self.others: Callable[[], bool] | None = None
        self._is_out_of_time = False

    def listen(self) -> None:
        """Record signals from now on, in place of their previous handlers."""
        for number in SIGNALS:
            signal.signal(number, self._note)

    def ignore(self) -> None:
        """Ignore signals from now on, so that one that arrives late does not change the exit code."""
        for number in SIGNALS:
            signal.signal(number, signal.SIG_IGN)

    def check(self) -> None:
        """Raise `InterruptedRunError` if the run is to stop. Fast enough to be called for every tile."""
        if self.received is not None:
            raise InterruptedRunError(f"interrupted by {self.received.name}; {self.advice}")
        if self.interrupted_by is not None:
            by_user = issubclass(self.interrupted_by, KeyboardInterrupt)
            kind = InterruptedCallError if by_user else InterruptedRunError
            raise kind(f"interrupted by {self.interrupted_by.__name__}; {self.advice}")
        if time.monotonic() > self.deadline:
            raise self.out_of_time()

    def check_others(self) -> None:
        """Raise `InterruptedRunError` if the run is to stop, also because ranks of another group have failed.

        Called by the thread that communicates.
        """
        self.check()
        if self.others is not None and self.others():
            raise InterruptedRunError(f"other ranks have ended; {self.advice}")

    @property
    def is_for_time(self) -> bool:
        """Whether the run is to stop because its time ends."""
        return self._is_out_of_time or self.received in TIME_SIGNALS

    def out_of_time(self) -> InterruptedRunError:
        """The error for a run whose time ends; `is_for_time` holds from now on."""
        self._is_out_of_time = True
        return InterruptedRunError(f"stopped ahead of the end of its time; {self.advice}")

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.received = signal.Signals(number)
