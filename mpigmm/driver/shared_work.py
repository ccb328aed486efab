"""Pieces of work that are shared among the threads of all ranks, and end on all of them if one fails."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from threading import Event, Lock

from mpigmm.parallel.comm import Comm
from mpigmm.parallel.partition import balanced
from mpigmm.parallel.stop import StopRequest

POLL_SECONDS = 0.1
"""Between two looks whether another rank has failed."""

Check = Callable[[], None]
"""Ends a piece of work with an exception if the run is to stop, or another piece has failed."""


class EndedElsewhereError(Exception):
    """Another piece of work has failed, and its error is the one to report."""


@dataclass(frozen=True)
class SharedWork:
    """How work is done.

    Attributes
    ----------
    comm : Comm
    stop : StopRequest
        Its pace counts the sizes of the pieces of this rank.
    n_threads : int
    """

    comm: Comm
    stop: StopRequest
    n_threads: int

    def run(self, sizes: Sequence[int], work: Callable[[int, Check], None]) -> None:
        """Call work(i, check) for each size i, on one thread of one rank. Collective; raises `AgreedError`.

        The largest pieces are given away first, each to the rank that has least to do so far.
        """
        own = balanced(sizes, self.comm.size)[self.comm.rank]
        self.stop.pace.begin(sum(sizes[piece] for piece in own))
        error: BaseException | None = None
        try:
            self._run_own(own, work)
        except EndedElsewhereError:
            pass
        except (Exception, KeyboardInterrupt) as raised:
            error = raised
            self.comm.ring()
        self.comm.silence()
        self.comm.agree(error)

    def _run_own(self, pieces: Sequence[int], work: Callable[[int, Check], None]) -> None:
        """Do this rank's pieces of work in order, by several threads; raises the error of the first that fails."""
        left, lock, has_ended = iter(pieces), Lock(), Event()

        def check() -> None:
            self.stop.check()
            if has_ended.is_set():
                raise EndedElsewhereError

        def work_on() -> None:
            while True:
                check()
                with lock:
                    piece = next(left, None)
                if piece is None:
                    return
                work(piece, check)

        with ThreadPoolExecutor(self.n_threads) as pool:
            running = [pool.submit(work_on) for _ in range(self.n_threads)]
            try:
                self._wait(running)
            finally:
                has_ended.set()
        raise_first(running)

    def _wait(self, running: Sequence[Future[None]]) -> None:
        """Return when all threads are through, or one has failed, on this rank or another."""
        while wait(running, POLL_SECONDS, FIRST_EXCEPTION).not_done:
            if self.comm.is_rung() or any(each.done() and each.exception() for each in running):
                return


def raise_first(done: Sequence[Future[None]]) -> None:
    """Raise the error of a thread that has failed; `EndedElsewhereError` if only others have."""
    errors = [error for error in (each.exception() for each in done) if error is not None]
    errors.sort(key=lambda error: isinstance(error, EndedElsewhereError))
    if errors:
        raise errors[0]
