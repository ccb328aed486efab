"""Passes over the rows: each rank adds up integers, and one reduction sums them with flags, checksums and clocks."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from mpigmm.core.arrays import HOST, Array, Arrays
from mpigmm.core.exact import FixedPoint, IntArray
from mpigmm.core.gpu.arrays import DeviceMemoryError
from mpigmm.driver.worker import RankContext
from mpigmm.errors import AgreedError, MpigmmError

CLOCKS = FixedPoint(np.full(3, 60, np.int32), 3)
"""Format of the sums over ranks of compute seconds, their squares, and read seconds."""

N_FLAGS = 5
"""Numbers of ranks with an error, without time for another pass, and with a full GPU; sums of checksums and squares."""

TAIL_SIZE = N_FLAGS + CLOCKS.n_limbs * CLOCKS.top.size
"""Number of integers that a reduction carries besides the sums."""


@dataclass
class Clock:
    """Seconds that this rank has spent on reading, computing and communicating."""

    read: float = 0.0
    compute: float = 0.0
    communicate: float = 0.0

    def add(self, other: Clock) -> None:
        """Add the seconds of another clock."""
        self.read += other.read
        self.compute += other.compute
        self.communicate += other.communicate


@dataclass(frozen=True)
class PassStatus:
    """The clocks and flags of a reduction.

    Attributes
    ----------
    compute, read : float
        Seconds of computing and reading, mean over ranks; the same on every rank.
    imbalance : float
        Standard deviation of the ranks' compute seconds over their mean; the same on every rank.
    communicate : float
        Seconds of this rank in the reduction, including those spent waiting for other ranks.
    is_last : bool
        Whether some rank has no time for another pass; the same on every rank.
    """

    compute: float
    read: float
    imbalance: float
    communicate: float
    is_last: bool


class Reduction:
    """Passes over the rows that end in one reduction each.

    Parameters
    ----------
    context : RankContext
    is_spent : callable
        Returns whether this rank has no time for another pass; called once before each reduction.
    say : callable
        Called with messages to the user, on all ranks alike.

    Attributes
    ----------
    clock : Clock
        Seconds of all passes so far.
    error : BaseException or None
        An error of this rank's that the other ranks learn of in the next reduction.
    """

    def __init__(
        self,
        context: RankContext,
        is_spent: Callable[[], bool] = lambda: False,
        say: Callable[[str], None] = lambda text: None,
    ) -> None:
        self.context = context
        self.clock = Clock()
        self.error: BaseException | None = None
        self._is_spent = is_spent
        self._say = say
        self._gpu_is_full: DeviceMemoryError | None = None

    def reduce(
        self, size: int, add_own: Callable[[Array], None], checksum: int = 0, *, on_host: bool = False
    ) -> tuple[IntArray, PassStatus]:
        """Sum integers over ranks. Collective; raises `AgreedError` where a rank fails.

        Parameters
        ----------
        size : int
            Number of integers.
        add_own : callable
            Adds this rank's part to a vector (size,) of zeros, int64. It is called again, with a new vector, after the
            GPU of some rank has run out of memory.
        checksum : int
            Of the parameters from which ranks compute; it must be the same on all of them.
        on_host : bool
            Whether the vector lies on the host even where the rank computes on a GPU.

        Returns
        -------
        sums : ndarray of int64, (size,)
            The same on every rank.
        status : PassStatus
        """
        while True:
            clock, block = Clock(), self.context.block
            begin, read = time.perf_counter(), block.seconds_read
            packed = self._own_sums(size, add_own, on_host)
            clock.read = block.seconds_read - read
            clock.compute = time.perf_counter() - begin - clock.read
            begin = time.perf_counter()
            sums = self._sum(packed, self._tail(checksum, clock), on_host)
            clock.communicate = time.perf_counter() - begin
            self.clock.add(clock)
            if not self._frees_gpus(sums[size:]):
                return sums[:size], self._status(sums[size:], clock.communicate)

    def note(self, work: Callable[[], None]) -> None:
        """Call work() on one rank; if it raises an error, all ranks end with that error at the next reduction."""
        try:
            work()
        except (Exception, KeyboardInterrupt) as error:
            self.error = error

    def agree(self) -> None:
        """Raise the same `AgreedError` on all ranks where one of them has noted an error. Collective."""
        error, self.error = self.error, None  # its traceback refers to this object
        self.context.comm.agree(error)

    def _arrays(self, on_host: bool) -> tuple[Arrays, Arrays]:
        """The kinds of memory in which this rank computes, and in which MPI sums."""
        return (HOST, HOST) if on_host else (self.context.ops.arrays, self.context.summing_arrays)

    def _own_sums(self, size: int, add_own: Callable[[Array], None], on_host: bool) -> Array:
        """The reduction's buffer with this rank's part; all zeros where that fails.

        That a GPU is out of memory is no error yet: the pass is repeated with less on the GPUs.
        """
        self._gpu_is_full = None
        with self.context.guarded():
            packed = empty_buffer(size, self._arrays(on_host)[1])  # before the pass, which may fill the GPU
        if self.error is None:
            try:
                self.context.stop.check_others()  # a rank without tiles too
                with self.context.guarded():
                    self._fill(packed, size, add_own, on_host)
                return packed
            except DeviceMemoryError as error:
                # A copy: the traceback of the error refers to arrays on the GPU.
                self._gpu_is_full = DeviceMemoryError(str(error))
            except (Exception, KeyboardInterrupt) as error:
                self.error = error
            with self.context.guarded():
                packed[:] = 0
        return packed

    def _fill(self, packed: Array, size: int, add_own: Callable[[Array], None], on_host: bool) -> None:
        """Add this rank's part to the buffer, by way of a second one if the rank computes in another kind of memory."""
        arrays, summing = self._arrays(on_host)
        own = packed if arrays is summing else empty_buffer(size, arrays)
        add_own(own[:size])
        if own is not packed:
            packed[:] = arrays.get(own)
        arrays.synchronize()

    def _tail(self, checksum: int, clock: Clock) -> IntArray:
        """The integers of a reduction after the sums: flags, checksums, clocks."""
        tail = np.zeros(TAIL_SIZE, np.int64)
        tail[:N_FLAGS] = (
            self.error is not None,
            self._is_spent(),
            self._gpu_is_full is not None,
            checksum,
            checksum**2,
        )
        seconds = np.array([clock.compute, clock.compute**2, clock.read])
        CLOCKS.add(tail[N_FLAGS:].reshape(CLOCKS.n_limbs, -1), seconds)
        return tail

    def _sum(self, packed: Array, tail: IntArray, on_host: bool) -> IntArray:
        """The sum over ranks of a buffer with this tail, on the host. Collective."""
        arrays = self._arrays(on_host)[1]
        with self.context.guarded():
            packed[-tail.size :] = arrays.put(tail)
            arrays.synchronize()
        self.context.comm.sum(packed)
        with self.context.guarded():
            return arrays.get(packed)

    def _frees_gpus(self, tail: IntArray) -> bool:
        """Whether some GPU was out of memory, so that the pass must be repeated; all GPUs then hold less.

        Raises `AgreedError` if they cannot hold less.
        """
        failed, _, full = tail[:3]
        if failed or not full:
            return False
        if not self.context.can_stage_less:
            self.context.comm.agree(self._gpu_is_full)
        self._say(f"a GPU is out of memory: from here on {self.context.stage_less()}")
        return True

    def _status(self, tail: IntArray, communicate: float) -> PassStatus:
        """The status of a reduction with this tail. Raises `AgreedError` if a rank has failed, or checksums differ."""
        size = self.context.comm.size
        failed, spent, _, checksums, squares = (int(value) for value in tail[:N_FLAGS])
        if failed:
            self.agree()
        if size * squares != checksums**2:
            raise AgreedError(
                "ranks hold different parameters, so that their sums mean nothing: run on nodes with one type of "
                "processor and the same libraries, and go on from the last checkpoint",
                MpigmmError,
            )
        compute, square, read = CLOCKS.value(tail[N_FLAGS:].reshape(CLOCKS.n_limbs, -1)) / size
        spread = float(np.sqrt(max(square - compute**2, 0.0)))
        imbalance = spread / compute if compute else 0.0
        return PassStatus(float(compute), float(read), imbalance, communicate, spent > 0)


def empty_buffer(size: int, arrays: Arrays = HOST) -> Array:
    """A buffer of zeros for one reduction: `size` sums, then flags, checksums and clocks."""
    return arrays.zeros(size + TAIL_SIZE, np.dtype(np.int64))
