"""Threads of a rank: one worker each, with BLAS held at one thread so that its sums keep their order."""

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
    """Threads a rank may use.

    `auto` takes the first of ``SLURM_CPUS_PER_TASK``, ``OMP_NUM_THREADS``, and this rank's share of the processors
    that its affinity allows.
    """
    if wanted != "auto":
        return wanted
    for name in ("SLURM_CPUS_PER_TASK", "OMP_NUM_THREADS"):
        granted = whole_number(os.environ.get(name, "").split(",")[0])
        if granted:
            return granted
    return max(1, len(os.sched_getaffinity(0)) // ranks_on_node)


def crowding(n_threads: int, ranks_on_node: int) -> str | None:
    """What there is too much of where the threads of this node's ranks outnumber the processors that they may use."""
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
    """Hold the libraries of BLAS that are there by now at one thread, for good."""
    threadpool_limits(1)


@contextmanager
def single_threaded_blas() -> Iterator[None]:
    """BLAS and LAPACK on one thread; enter after the libraries in question are imported."""
    with threadpool_limits(1):
        yield


def run_workers(n_threads: int, work: Callable[[int], T]) -> list[T]:
    """Results of work(0), ..., work(n_threads - 1), in as many threads; a single one runs in the caller's.

    Where several raise, the error with the least ``row`` is the one raised, so that a message names the first row
    at fault however the rows are spread.
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
    """Threads that stay: each looks for libraries of BLAS to hold at one thread, which takes milliseconds."""
    return ThreadPoolExecutor(n_threads, initializer=hold_blas)
