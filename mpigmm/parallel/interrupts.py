"""Work that an exception in its caller, such as KeyboardInterrupt, does not tear apart."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Generic, TypeVar

from mpigmm.parallel.stop import StopRequest

T = TypeVar("T")

POLL_SECONDS = 0.05
"""Longest time for which the caller waits without a look at interrupts that no signal woke it for."""


class Task(Generic[T]):
    """Work in a thread of its own, with its result or its error."""

    def __init__(self, work: Callable[[], T]) -> None:
        self._work = work
        self._results: list[T] = []
        self._error: BaseException | None = None
        self._thread: threading.Thread | None = None
        self._done = False
        self._claimed, self._running = threading.Lock(), threading.Lock()
        self._running.acquire()

    def complete(self) -> None:
        """Begin the work, unless it has begun, and wait until it is done.

        If an exception is raised meanwhile, another call goes on from there: of several threads only the first does the
        work. `Thread.join` would not do, because it takes a thread for ended where it is interrupted.
        """
        if not self._claimed.locked():
            threading.Thread(target=self._run, name="mpigmm", daemon=True).start()
        while not self._done:
            self._running.acquire(timeout=POLL_SECONDS)
        if self._thread is not None:
            self._thread.join()

    def _run(self) -> None:
        if not self._claimed.acquire(blocking=False):
            return
        self._thread = threading.current_thread()
        try:
            self._results.append(self._work())
        except BaseException as error:
            self._error = error
        self._done = True
        self._running.release()

    def result(self) -> T:
        """The result; raises the error where there is one."""
        error, self._error = self._error, None
        if error is None:
            return self._results[0]
        try:
            raise error
        finally:
            del error  # its traceback refers to this frame


def interruptible(stop: StopRequest, work: Callable[[], T]) -> T:
    """The result of work(), which another thread computes while this one waits.

    Python raises KeyboardInterrupt, and what the handlers of signals raise, in the main thread, between any two
    instructions. Ranks that wait in a collective call for one that was torn out of it would wait for ever. So such an
    exception becomes a request to stop, which the work heeds where all ranks can agree on it. It is raised again only
    if the work has ended in spite of it, or if it is not KeyboardInterrupt.
    """
    task, interruption = Task(work), None
    while True:
        try:
            task.complete()
            break
        except BaseException as error:
            interruption, stop.interrupted_by = error, type(error)
    try:
        if interruption is None or isinstance(interruption, KeyboardInterrupt):
            result = task.result()
        if interruption is not None:
            raise interruption
        return result
    finally:
        del interruption  # its traceback refers to this frame
