"""Arrays of CuPy in the memory of one GPU, and the errors of a GPU."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mpigmm.core.arrays import DOUBLE, Array, Arrays
from mpigmm.core.gpu.streams import Streams
from mpigmm.errors import UserError

CudaKernel = Callable[[tuple[int, ...], tuple[int, ...], tuple[Any, ...]], object]
"""Launched by a call with the shape of the grid, the shape of a block, and the arguments."""


class NoDeviceError(Exception):
    """No GPU can be used here; the message says why, and what the user can do."""


class DeviceMemoryError(UserError):
    """A GPU is out of memory."""


class DeviceError(UserError):
    """A GPU failed; the contents of its memory are lost."""


class GpuArrays(Arrays):
    """Makes and copies arrays with CuPy on one GPU, from one thread.

    Parameters
    ----------
    cupy : module
    number : int
        Number of the GPU among those that this process sees, from 0.

    Attributes
    ----------
    name : str
        Name of the GPU, such as ``NVIDIA H100 80GB HBM3``.
    version : str
        Versions of CuPy and of the CUDA that it uses.
    streams : Streams
        On which work and copies of rows are queued.
    """

    def __init__(self, cupy: Any, number: int) -> None:
        self.xp = cupy
        self.version = f"{cupy.__version__} for CUDA {cuda_version(cupy.cuda.runtime.runtimeGetVersion())}"
        self._cuda = cupy.cuda
        self._cuda_kernels: dict[tuple[str, tuple[str, ...]], CudaKernel] = {}
        with self.guarded():
            self._cuda.Device(number).use()
            self.name = device_name(cupy.cuda.runtime.getDeviceProperties(number))
            self.streams = Streams(cupy)

    def put(self, array: Array) -> Array:
        return self.xp.asarray(array)

    def get(self, array: Array) -> NDArray[Any]:
        return array if isinstance(array, np.ndarray) else np.asarray(array.get())

    def empty(self, size: int, dtype: np.dtype[Any] = DOUBLE) -> Array:
        return self.xp.empty(size, dtype)

    def zeros(self, size: int, dtype: np.dtype[Any]) -> Array:
        return self.xp.zeros(size, dtype)

    def synchronize(self) -> None:
        self.streams.synchronize()

    def cuda_kernel(self, name: str, source: str, options: tuple[str, ...]) -> CudaKernel:
        """The CUDA kernel of that name in a source, compiled once for each set of options; CuPy caches it on disk."""
        if (name, options) not in self._cuda_kernels:
            self._cuda_kernels[name, options] = self.xp.RawKernel(source, name, options=options)
        return self._cuda_kernels[name, options]

    def memory(self) -> int:
        """Bytes free on the GPU."""
        self.release()
        free, _ = self._cuda.runtime.memGetInfo()
        return int(free)

    def release(self) -> None:
        """Return to the GPU the memory that no array uses any more."""
        self.streams.finish_all()
        self.xp.get_default_memory_pool().free_all_blocks()
        self.xp.get_default_pinned_memory_pool().free_all_blocks()

    @contextmanager
    def guarded(self) -> Iterator[None]:
        """Raises errors of CuPy within the block as `DeviceMemoryError` or `DeviceError`."""
        try:
            yield
        except self._cuda.memory.OutOfMemoryError as error:
            raise DeviceMemoryError(str(error)) from error
        except Exception as error:
            if not type(error).__module__.startswith(("cupy", "cuda")):
                raise
            lacks = any(word in str(error).upper() for word in ("ALLOC", "OUT OF MEMORY", "OUT_OF_MEMORY"))
            raise (DeviceMemoryError if lacks else DeviceError)(first_line(error)) from error


def first_line(error: Exception) -> str:
    """The first line of an error's message, or the name of its type where it has no message."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


def device_name(properties: dict[str, Any]) -> str:
    """The name among the properties of a GPU, such as NVIDIA A100-SXM4-80GB."""
    name = properties["name"]
    return name.decode() if isinstance(name, bytes) else str(name)


def cuda_version(number: int) -> str:
    """A version of CUDA as text: 12.4 for 12040."""
    return f"{number // 1000}.{number % 1000 // 10}"
