"""What every call from Python has in common: the communicator, errors and interrupts."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from mpigmm.errors import AgreedError
from mpigmm.parallel.comm import Comm, SingleProcess
from mpigmm.parallel.interrupts import interruptible
from mpigmm.parallel.stop import StopRequest

T = TypeVar("T")

NOTHING_LOST = "nothing was changed"
"""What the user can do after an interrupt of a call that changes nothing."""

WORDS = {"add --restart": "give restart=True", "run the same command again": "repeat the call with the same settings"}
"""What stands in messages for a flag of the command, or for another run of it, and what a caller does instead."""


def call(comm: object, advice: str, work: Callable[[Comm, StopRequest], T]) -> T:
    """The result of work(ranks, stop) on all ranks of a communicator. Collective.

    The communicator is duplicated for the call. An error on any rank is raised on all of them, as the class of
    `mpigmm.errors` that it has on the rank where it arose.

    Parameters
    ----------
    comm : mpi4py.MPI.Intracomm, int or None
        None: this process alone, without MPI.
    advice : str
        What the user can do after an interrupt.
    work : callable
    """
    stop = StopRequest()
    stop.advice = advice

    def all_work() -> T:
        with communicator(comm) as ranks:
            return ended_together(ranks, stop, work)

    try:
        return interruptible(stop, all_work) if may_use_threads(comm) else all_work()
    except AgreedError as error:
        failure = error.kind(in_words_of_calls(str(error)))
    try:
        raise failure  # here, so that it does not refer to the error before it, whose traceback keeps arrays alive
    finally:
        del failure  # its traceback refers to this frame


def ended_together(ranks: Comm, stop: StopRequest, work: Callable[[Comm, StopRequest], T]) -> T:
    """The result of work(ranks, stop), once all ranks have done it; an error on one is raised on all. Collective."""
    with ranks.guarded():
        result = work(ranks, stop)
    ranks.agree(None)
    return result


def in_words_of_calls(message: str) -> str:
    """A message in which remedies on the command line are those of a call."""
    for command, word in WORDS.items():
        message = message.replace(command, word)
    return message


def may_use_threads(comm: object) -> bool:
    """Whether other threads than this one may communicate."""
    if comm is None:
        return True
    from mpigmm.parallel import mpi

    return mpi.is_for_threads()


@contextmanager
def communicator(comm: object) -> Iterator[Comm]:
    """A context with the ranks of a communicator. Collective; raises `ConfigError`."""
    if comm is None:
        yield SingleProcess()
        return
    from mpigmm.parallel import mpi

    ranks = mpi.MpiComm.duplicate(comm)
    try:
        yield ranks
    finally:
        ranks.free()
