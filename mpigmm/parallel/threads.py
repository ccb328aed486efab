"""Threads of a rank. BLAS is limited to one thread, so that its sums have the same order on any number of threads."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from threading import Lock
from typing import Any, Literal, TypeVar

from threadpoolctl import ThreadpoolController

from mpigmm.errors import counted
from mpigmm.parallel.comm import NodeShare
from mpigmm.parallel.launcher import whole_number

T = TypeVar("T")


def count_threads(wanted: int | Literal["auto"], share: NodeShare) -> int:
    """Number of threads that a rank uses.

    `auto` stands for the first that is set of ``SLURM_CPUS_PER_TASK`` and ``OMP_NUM_THREADS``, or else for this rank's
    share of the node's processors: all processors for a process that runs alone.
    """
    if wanted != "auto":
        return wanted
    for name in ("SLURM_CPUS_PER_TASK", "OMP_NUM_THREADS"):
        granted = whole_number(os.environ.get(name, "").split(",")[0])
        if granted:
            return granted
    return share.n_processors


def crowding(n_threads: int, ranks_on_node: int) -> str | None:
    """Which threads share which processors, where a node has more threads of ranks than processors; else None."""
    own = len(os.sched_getaffinity(0))
    if n_threads * ranks_on_node <= own:
        return None  # at once: to count the processors of the node takes longer than a small call
    processors = os.cpu_count() or 1
    if n_threads <= own and n_threads * ranks_on_node <= processors:
        return None
    where = f"the {own} to which each is bound" if n_threads > own else counted(processors, "processor")
    return (
        f"{counted(ranks_on_node, 'rank')} of {counted(n_threads, 'thread')} on a node "
        f"{'shares' if ranks_on_node == 1 else 'share'} {where}"
    )


class BlasLimit:
    """Limits BLAS and LAPACK to one thread for as long as any thread of the process needs it.

    Several fits may run at once in threads of one process. Each limits its own thread, and the libraries that were
    loaded since; the last to leave restores the numbers of threads that the process had before.
    """

    def __init__(self) -> None:
        self._lock = Lock()
        self._n_users = self._n_modules = 0
        self._limits: list[Any] = []

    def __enter__(self) -> None:
        with self._lock:
            is_new = self._find_libraries()
            limit = self._controller.limit(limits=1)
            if is_new or not self._limits:
                self._limits.append(limit)
            self._n_users += 1

    def __exit__(self, *raised: object) -> None:
        with self._lock:
            self._n_users -= 1
            while self._limits and not self._n_users:
                self._limits.pop().restore_original_limits()  # the first limit knows the original numbers

    def _find_libraries(self) -> bool:
        """Find the libraries that are loaded, which takes a millisecond, if Python's modules have changed; returns
        whether they have."""
        if self._n_modules == len(sys.modules):
            return False
        self._controller, self._n_modules = ThreadpoolController(), len(sys.modules)
        return True

    def hold(self) -> None:
        """Limit the calling thread too: some libraries keep a number for each thread."""
        self._controller.limit(limits=1)


single_threaded_blas = BlasLimit()
"""A context in which the BLAS and LAPACK libraries that are loaded when it is entered use one thread."""


class Workers:
    """The threads of a rank, which must be used inside of `single_threaded_blas`.

    Parameters
    ----------
    n_threads : int
        With one, the calling thread does the work.
    """

    def __init__(self, n_threads: int) -> None:
        self.n_threads = n_threads
        self._pool = ThreadPoolExecutor(n_threads, initializer=single_threaded_blas.hold) if n_threads > 1 else None

    def run(self, work: Callable[[int], T]) -> list[T]:
        """Results of work(0), ..., work(n_threads - 1), each computed by a thread.

        Of several errors, the one with the least attribute ``row`` is raised, so that the message names the same row on
        any number of threads.
        """
        if self._pool is None:
            return [work(0)]

        def guarded(worker: int) -> T | Exception:
            try:
                return work(worker)
            except Exception as error:
                return error

        results = list(self._pool.map(guarded, range(self.n_threads)))
        errors = [result for result in results if isinstance(result, Exception)]
        if errors:
            raise min(errors, key=lambda error: getattr(error, "row", 0))
        return [result for result in results if not isinstance(result, Exception)]

    def close(self) -> None:
        """End the threads."""
        if self._pool is not None:
            self._pool.shutdown()
