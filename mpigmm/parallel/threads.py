"""Threads of a rank. BLAS is limited to one thread, so that its sums have the same order on any number of threads."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import lru_cache
from typing import Literal, TypeVar

from threadpoolctl import threadpool_limits

from mpigmm.errors import counted
from mpigmm.parallel.launcher import whole_number

T = TypeVar("T")


def count_threads(wanted: int | Literal["auto"], ranks_on_node: int) -> int:
    """Number of threads that a rank uses.

    `auto` stands for the first that is set of ``SLURM_CPUS_PER_TASK`` and ``OMP_NUM_THREADS``, or else for this rank's
    share of the processors that its affinity allows.
    """
    if wanted != "auto":
        return wanted
    for name in ("SLURM_CPUS_PER_TASK", "OMP_NUM_THREADS"):
        granted = whole_number(os.environ.get(name, "").split(",")[0])
        if granted:
            return granted
    return max(1, len(os.sched_getaffinity(0)) // ranks_on_node)


def crowding(n_threads: int, ranks_on_node: int) -> str | None:
    """Which threads share which processors, where a node has more threads of ranks than processors; else None."""
    processors = os.cpu_count() or 1
    own = len(os.sched_getaffinity(0))
    if n_threads <= own and n_threads * ranks_on_node <= processors:
        return None
    where = f"the {own} to which each is bound" if n_threads > own else counted(processors, "processor")
    return (
        f"{counted(ranks_on_node, 'rank')} of {counted(n_threads, 'thread')} on a node "
        f"{'shares' if ranks_on_node == 1 else 'share'} {where}"
    )


def hold_blas() -> None:
    """Limit the BLAS libraries that are loaded by now to one thread, for as long as the process runs."""
    threadpool_limits(1)


@contextmanager
def single_threaded_blas() -> Iterator[None]:
    """A context in which the BLAS and LAPACK libraries that are loaded when it is entered use one thread."""
    with threadpool_limits(1):
        yield


def run_workers(n_threads: int, work: Callable[[int], T]) -> list[T]:
    """Results of work(0), ..., work(n_threads - 1), each computed by a thread; with one, by the calling thread.

    Of several errors, the one with the least attribute ``row`` is raised, so that the message names the same row on any
    number of threads.
    """
    if n_threads == 1:
        return [work(0)]

    def guarded(worker: int) -> T | Exception:
        try:
            return work(worker)
        except Exception as error:
            return error

    results = list(pool(n_threads).map(guarded, range(n_threads)))
    errors = [result for result in results if isinstance(result, Exception)]
    if errors:
        raise min(errors, key=lambda error: getattr(error, "row", 0))
    return [result for result in results if not isinstance(result, Exception)]


@lru_cache(maxsize=1)
def pool(n_threads: int) -> ThreadPoolExecutor:
    """Threads that are kept for later calls: a new thread takes milliseconds to find and limit the BLAS libraries."""
    return ThreadPoolExecutor(n_threads, initializer=hold_blas)
