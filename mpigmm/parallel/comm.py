"""Communication between the ranks of a run, and agreement on errors. The implementation with MPI is in ``mpi.py``."""

from __future__ import annotations

import os
import traceback
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NoReturn, TypeVar, cast

import numpy as np
from numpy.typing import NDArray

from mpigmm.errors import AgreedError, InterruptedCallError, MpigmmError, UserError, shown
from mpigmm.parallel.launcher import launched_on_node

T = TypeVar("T")
ROOT = 0

Told = tuple[str, type[MpigmmError]]
"""The message of an error, and its class."""


@dataclass(frozen=True)
class NodeShare:
    """What one rank has of its node.

    Attributes
    ----------
    n_ranks : int
        Ranks on the node, those of other communicators included where the launcher tells of them.
    n_processors : int
        The rank's share of the processors on which it may run, at least one.
    """

    n_ranks: int
    n_processors: int

    @classmethod
    def of(cls, own: set[int], others: Sequence[set[int]], n_launched: int | None) -> NodeShare:
        """The share of a rank, where each processor is divided equally among the ranks that may run on it.

        Parameters
        ----------
        own : set of int
            Numbers of the processors on which the rank may run.
        others : sequence of set of int
            The same for the other ranks of the communicator on this node.
        n_launched : int or None
            Number of ranks that the launcher started on this node, where it is known. Those outside the communicator
            are assumed to run on all processors.
        """
        n_ranks = max(1 + len(others), n_launched or 1)
        unknown = n_ranks - 1 - len(others)
        users = {processor: 1 + unknown + sum(processor in other for other in others) for processor in own}
        # A sum of fractions may be just below the whole number that it stands for.
        return cls(n_ranks, max(1, int(sum(1 / count for count in users.values()) + 1e-9)))


class Comm(ABC):
    """All ranks of a run, and the messages between them.

    Methods that are marked collective must be called by all ranks, in the same order.

    Attributes
    ----------
    rank, size : int
    memory_remedy : str
        What the user can do about a rank that is out of memory, for the message of that error.
    is_guarded : bool
        Whether the other ranks learn of an error on a rank wherever it arises; see `guarded`.
    """

    rank: int
    size: int
    memory_remedy: str
    is_guarded: bool

    @property
    def is_root(self) -> bool:
        return self.rank == ROOT

    @abstractmethod
    def bcast(self, value: T | None) -> T:
        """Root's value, on every rank. Collective."""

    @abstractmethod
    def gather(self, value: T) -> list[T]:
        """The values of all ranks, in their order, on root; an empty list on others. Collective."""

    @abstractmethod
    def allgather(self, value: T) -> list[T]:
        """The values of all ranks, in their order, on every rank. Collective."""

    @abstractmethod
    def allgather_into(self, array: NDArray[Any], ranges: Sequence[range]) -> None:
        """Fill a contiguous array of numbers of 8 bytes, of which each rank has some entries along the first axis.

        Collective. The ranges are consecutive, one for each rank.
        """

    @abstractmethod
    def concatenate(self, rows: NDArray[np.float64]) -> NDArray[np.float64]:
        """The rows (n, ...) of all ranks, in the order of ranks, on root; an array of no rows on others. Collective."""

    @abstractmethod
    def transfer(self, outgoing: Sequence[Transfer], incoming: Sequence[Transfer]) -> None:
        """Send contiguous arrays to other ranks, and fill contiguous arrays with those that other ranks send.

        Called by the ranks that take part. Each outgoing array must be an incoming one, of the same size and type, of
        the rank that it is sent to, and of two ranks both must list the arrays between them in the same order.
        """

    @abstractmethod
    def sum(self, values: NDArray[np.int64]) -> NDArray[np.int64]:
        """Sum a vector of integers over ranks, in place. Collective.

        The vector may be in the memory of a GPU if `is_gpu_aware` is true. One of more than `PIECE_BYTES` takes several
        reductions, all others take one; on a guarded communicator, one of more than 4 KB takes another one.
        """

    @abstractmethod
    def max(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """Take the maximum of a vector of floats over ranks, entry by entry, in place. Collective."""

    @abstractmethod
    def any_failed(self, failed: bool) -> bool:
        """Whether any rank has failed. Collective."""

    @abstractmethod
    def exchange_errors(self, told: Told | None) -> list[Told | None]:
        """The errors of all ranks, in their order, on every rank. Collective."""

    @abstractmethod
    def split(self, group: int) -> Comm:
        """The ranks with the same number of a group as this one, in the same order. Collective."""

    @abstractmethod
    def free(self) -> None:
        """Free what belongs to a communicator that `split` has returned. Collective."""

    @abstractmethod
    def ring(self) -> None:
        """Let all other ranks know, while groups of them work for themselves, that this one has failed."""

    @abstractmethod
    def is_rung(self) -> bool:
        """Whether another rank has called `ring`."""

    @abstractmethod
    def silence(self) -> None:
        """Receive what `ring` has sent. Collective."""

    @abstractmethod
    def node_share(self) -> NodeShare:
        """This rank's share of its node. Collective."""

    @property
    @abstractmethod
    def is_gpu_aware(self) -> bool:
        """Whether `sum` accepts arrays in the memory of GPUs."""

    @property
    @abstractmethod
    def mpi_library(self) -> str | None:
        """Name and version of the MPI library; None without MPI."""

    @contextmanager
    def guarded(self) -> Iterator[None]:
        """A context for work with collective calls; if the communicator is guarded, an error that a rank has not agreed
        on with the others is raised on all of them, at their next collective call. Collective.

        What follows an error inside of it, on all ranks alike, may again be collective.
        """
        try:
            yield
        except AgreedError:
            raise
        except (Exception, KeyboardInterrupt) as error:
            if self.is_guarded:
                self.agree(error)
            raise

    def agree(self, error: BaseException | None) -> None:
        """Raise the same `AgreedError` on all ranks if any of them passes an error. Collective.

        Of several errors, the one with the lowest exit code is raised: a fault of the program comes before a mistake of
        the user's, and that before an interruption. Among equal ones, the lowest rank's is.
        """
        if self.any_failed(error is not None):
            self.agree_on_errors(error)

    def agree_on_errors(self, error: BaseException | None) -> NoReturn:
        """Raise the error that all ranks agree on, some of which pass one. Collective."""
        told = self.exchange_errors(None if error is None else message_and_kind(error, self.rank, self.memory_remedy))
        message, kind = min((each for each in told if each is not None), key=lambda each: each[1].exit_code)
        raise AgreedError(message, kind) from error

    @contextmanager
    def together(self) -> Iterator[None]:
        """A context for local work that may fail on some ranks. Collective at its end.

        If it fails on any rank, all ranks raise the same `AgreedError`, as in `agree`. The local work must not make
        collective calls.
        """
        error: BaseException | None = None
        try:
            yield
        except (Exception, KeyboardInterrupt) as raised:
            error = raised
        try:
            self.agree(error)
        finally:
            del error  # its traceback refers to this frame


@dataclass(frozen=True, eq=False)
class Transfer:
    """An array that is sent to a rank or received from it."""

    rank: int
    array: NDArray[Any]


class SingleProcess(Comm):
    """This process alone, without MPI."""

    def __init__(self, memory_remedy: str = "use a machine with more memory") -> None:
        self.rank, self.size = ROOT, 1
        self.memory_remedy = memory_remedy
        self.is_guarded = True

    def check_launcher(self) -> None:
        """Do nothing: this process does not expect others."""

    def abort(self, exit_code: int) -> None:
        """Do nothing: there is no other process to end."""

    def bcast(self, value: T | None) -> T:
        return cast(T, value)

    def gather(self, value: T) -> list[T]:
        return [value]

    def allgather(self, value: T) -> list[T]:
        return [value]

    def allgather_into(self, array: NDArray[Any], ranges: Sequence[range]) -> None:
        pass

    def concatenate(self, rows: NDArray[np.float64]) -> NDArray[np.float64]:
        return rows

    def transfer(self, outgoing: Sequence[Transfer], incoming: Sequence[Transfer]) -> None:
        assert not outgoing and not incoming

    def sum(self, values: NDArray[np.int64]) -> NDArray[np.int64]:
        return values

    def max(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        return values

    def split(self, group: int) -> Comm:
        return self

    def free(self) -> None:
        pass

    def ring(self) -> None:
        pass

    def is_rung(self) -> bool:
        return False

    def silence(self) -> None:
        pass

    def node_share(self) -> NodeShare:
        return NodeShare.of(os.sched_getaffinity(0), [], launched_on_node())

    def any_failed(self, failed: bool) -> bool:
        return failed

    def exchange_errors(self, told: Told | None) -> list[Told | None]:
        return [told]

    @property
    def is_gpu_aware(self) -> bool:
        return True

    @property
    def mpi_library(self) -> str | None:
        return None


def message_and_kind(error: BaseException, rank: int, memory_remedy: str) -> Told:
    """The text of an error and its class: a message where the user can correct the cause, else a traceback."""
    if isinstance(error, AgreedError):
        return str(error), error.kind
    if isinstance(error, MpigmmError) and error.exit_code:
        return str(error), public_class(type(error))
    if isinstance(error, OSError):
        return f"{error.strerror or error}: {shown(error.filename or f'rank {rank}')}", UserError
    if isinstance(error, MemoryError):
        return f"rank {rank} is out of memory; {memory_remedy}", UserError
    if isinstance(error, KeyboardInterrupt):
        return f"interrupted by KeyboardInterrupt on rank {rank}", InterruptedCallError
    return f"rank {rank} failed:\n{''.join(traceback.format_exception(error)).rstrip()}", MpigmmError


def public_class(kind: type[MpigmmError]) -> type[MpigmmError]:
    """The first class of `mpigmm.errors` among an exception's class and its bases."""
    return next(base for base in kind.__mro__ if base.__module__ == MpigmmError.__module__)


def host() -> str:
    """Name of this node."""
    return os.uname().nodename
