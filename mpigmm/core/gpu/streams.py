"""The two streams of a GPU, one for work and one for copies of rows, and the marks (CUDA events) that order them."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from mpigmm.core.arrays import Array


class Streams:
    """The streams of the GPU that this thread uses.

    Copies of rows are queued on one stream, all other work on the other, so that rows are copied while the GPU
    computes.

    Parameters
    ----------
    cupy : module
    """

    def __init__(self, cupy: Any) -> None:
        self._cuda = cupy.cuda
        self._copies = cupy.cuda.Stream(non_blocking=True)
        self._work = cupy.cuda.Stream(non_blocking=True)
        self._work.use()

    def pinned(self, size: int, dtype: np.dtype[Any]) -> NDArray[Any]:
        """An uninitialised vector in page-locked memory of the host, from which rows are copied while the GPU works."""
        memory = self._cuda.alloc_pinned_memory(max(size, 1) * dtype.itemsize)
        return np.frombuffer(memory, dtype, size)

    def mark(self) -> Any:
        """A mark after all work queued so far."""
        return self._work.record()

    def send(self, source: NDArray[Any], target: Array, after: Any) -> Any:
        """Queue a copy from pinned memory.

        Parameters
        ----------
        source : ndarray
            In pinned memory; must not change before the copy is finished.
        target : Array
            On the GPU.
        after : mark or None
            The copy waits for the work before this mark.

        Returns
        -------
        mark
            After the copy.
        """
        if after is not None:
            self._copies.wait_event(after)
        target.set(source, stream=self._copies)
        return self._copies.record()

    def await_copy(self, sent: Any) -> None:
        """Make all work that is queued after this call wait for a copy."""
        self._work.wait_event(sent)

    def finish(self, sent: Any) -> None:
        """Wait for a copy, so that its source may be overwritten."""
        sent.synchronize()

    def synchronize(self) -> None:
        """Wait for all queued work."""
        self._work.synchronize()

    def finish_all(self) -> None:
        """Wait for all queued work and copies."""
        self._work.synchronize()
        self._copies.synchronize()
