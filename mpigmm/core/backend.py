"""Where arrays live: in this machine's memory, with NumPy, or in a GPU's, with CuPy, which is imported here alone."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mpigmm.errors import UserError

ALIGNMENT = 64
"""Bytes; vector kernels may sum in another order where an array starts elsewhere."""

DOUBLE = np.dtype(np.float64)
SINGLE = np.dtype(np.float32)

OLDEST_CUPY = 13
NODES = ("/dev/nvidiactl", "/dev/nvidia0", "/dev/dxg", "/dev/nvhost-gpu")
"""What a driver of NVIDIA's, or Windows' or a Jetson's, shows of itself."""

Kernel = Callable[[tuple[int, ...], tuple[int, ...], tuple[Any, ...]], object]
Array = Any
"""An array of the backend at hand."""


class NoDeviceError(Exception):
    """No GPU can be used here; the message says why, and what would mend it."""


class DeviceMemoryError(UserError):
    """A GPU is out of memory."""


class DeviceError(UserError):
    """A GPU failed; what it holds is lost."""


class Backend:
    """NumPy on the host.

    Attributes
    ----------
    xp : module
        The array library.
    """

    xp: Any = np

    def put(self, array: Array) -> Array:
        """An array of the host as one of the backend."""
        return array

    def get(self, array: Array) -> NDArray[Any]:
        """An array as one of the host, once all that was asked of the backend is done."""
        return np.asarray(array)

    def empty(self, size: int, dtype: np.dtype[Any] = DOUBLE) -> Array:
        """An uninitialised vector, aligned."""
        raw = np.empty(size * dtype.itemsize + ALIGNMENT, np.uint8)
        start = -raw.ctypes.data % ALIGNMENT
        return raw[start : start + size * dtype.itemsize].view(dtype)

    def zeros(self, size: int, dtype: np.dtype[Any]) -> Array:
        """A vector of zeros."""
        return np.zeros(size, dtype)

    def synchronize(self) -> None:
        """Wait until all that was asked of the backend is done."""


HOST = Backend()


class Gpu(Backend):
    """CuPy on one GPU, from one thread.

    Work is queued on two streams: copies of rows on one, all else on the other. Marks (events) order them.

    Parameters
    ----------
    number : int
        Of the device, among those that this process sees.

    Attributes
    ----------
    name : str
        Of the device, such as ``NVIDIA H100 80GB HBM3``.
    version : str
        Of CuPy, and of the CUDA that it runs with.
    """

    def __init__(self, number: int) -> None:
        self.xp = cupy = import_cupy()
        self.version = f"{cupy.__version__} for CUDA {cuda_version(cupy.cuda.runtime.runtimeGetVersion())}"
        self._cuda = cupy.cuda
        self._kernels: dict[tuple[str, tuple[str, ...]], Kernel] = {}
        with self.guarded():
            self._cuda.Device(number).use()
            self.name = device_name(cupy.cuda.runtime.getDeviceProperties(number))
            self._copies = self._cuda.Stream(non_blocking=True)
            self._work = self._cuda.Stream(non_blocking=True)
            self._work.use()

    def put(self, array: Array) -> Array:
        return self.xp.asarray(array)

    def get(self, array: Array) -> NDArray[Any]:
        return array if isinstance(array, np.ndarray) else np.asarray(array.get())

    def empty(self, size: int, dtype: np.dtype[Any] = DOUBLE) -> Array:
        return self.xp.empty(size, dtype)

    def zeros(self, size: int, dtype: np.dtype[Any]) -> Array:
        return self.xp.zeros(size, dtype)

    def synchronize(self) -> None:
        self._work.synchronize()

    def kernel(self, name: str, source: str, options: tuple[str, ...]) -> Kernel:
        """A kernel of CUDA source, compiled once for each set of options and kept on disk by CuPy."""
        if (name, options) not in self._kernels:
            self._kernels[name, options] = self.xp.RawKernel(source, name, options=options)
        return self._kernels[name, options]

    def pinned(self, size: int, dtype: np.dtype[Any]) -> NDArray[Any]:
        """An uninitialised vector of the host's memory that copies can be made from while work goes on."""
        memory = self._cuda.alloc_pinned_memory(max(size, 1) * dtype.itemsize)
        return np.frombuffer(memory, dtype, size)

    def mark(self) -> Any:
        """A mark behind all work queued so far."""
        return self._work.record()

    def send(self, source: NDArray[Any], target: Array, after: Any) -> Any:
        """Queue a copy of pinned memory, once the work before a mark, if any, is done; returns a mark behind it."""
        if after is not None:
            self._copies.wait_event(after)
        target.set(source, stream=self._copies)
        return self._copies.record()

    def await_copy(self, sent: Any) -> None:
        """Have the work queued from now on wait for a copy."""
        self._work.wait_event(sent)

    def finish(self, sent: Any) -> None:
        """Wait for a copy, so that its source may be overwritten."""
        sent.synchronize()

    def memory(self) -> int:
        """Bytes free on the device."""
        self.release()
        free, _ = self._cuda.runtime.memGetInfo()
        return int(free)

    def release(self) -> None:
        """Give back to the device what no array holds any more."""
        self._work.synchronize()
        self._copies.synchronize()
        self.xp.get_default_memory_pool().free_all_blocks()
        self.xp.get_default_pinned_memory_pool().free_all_blocks()

    @contextmanager
    def guarded(self) -> Iterator[None]:
        """What CuPy raises within, as errors of ours."""
        try:
            yield
        except self._cuda.memory.OutOfMemoryError as error:
            raise DeviceMemoryError(str(error)) from error
        except Exception as error:
            if not type(error).__module__.startswith(("cupy", "cuda")):
                raise
            lacks = any(word in str(error).upper() for word in ("ALLOC", "OUT OF MEMORY", "OUT_OF_MEMORY"))
            raise (DeviceMemoryError if lacks else DeviceError)(first_line(error)) from error


def import_cupy() -> Any:
    """CuPy; raises `NoDeviceError`."""
    try:
        import cupy
    except Exception as error:
        cause = error.__cause__ if isinstance(error.__cause__, Exception) else error  # CuPy wraps it in a banner
        reason = f"CuPy cannot be loaded ({first_line(cause)})" if has_cupy() else "CuPy is not installed"
        raise NoDeviceError(f"{reason}; pip install cupy-cuda12x, or the wheel for the CUDA of your driver") from None
    if int(cupy.__version__.split(".")[0]) < OLDEST_CUPY:
        raise NoDeviceError(f"CuPy {cupy.__version__} is too old; install {OLDEST_CUPY} or later")
    if os.environ.get("CUPY_TF32", "0") != "0":
        raise NoDeviceError("CUPY_TF32 is set, which rounds float32 products to three digits; unset it")
    return cupy


def visible_gpus() -> list[str]:
    """Addresses of the GPUs that this process sees, by number; raises `NoDeviceError` where there are none."""
    runtime = import_cupy().cuda.runtime
    reason = "CUDA counts none"
    try:
        found = [address(runtime, number) for number in range(runtime.getDeviceCount())]
    except runtime.CUDARuntimeError as error:
        knows, needs = runtime.driverGetVersion(), runtime.runtimeGetVersion()
        if not knows:
            raise NoDeviceError("no driver of NVIDIA's is installed; run on a node with a GPU") from None
        if "InsufficientDriver" in str(error):
            raise NoDeviceError(
                f"the driver knows CUDA {cuda_version(knows)}, but this CuPy needs {cuda_version(needs)}; install the "
                f"CuPy for CUDA {knows // 1000}, or a newer driver"
            ) from None
        found, reason = [], str(error)
    if not found:
        raise NoDeviceError(
            f"no GPU is visible ({reason}); ask the batch system for one (--gpus-per-node); see CUDA_VISIBLE_DEVICES"
        )
    return found


def open_gpu(number: int) -> Gpu:
    """A GPU that has shown that it multiplies matrices; what it raises is for `usable` to explain."""
    gpu = Gpu(number)
    with gpu.guarded():
        ones = gpu.xp.ones((2, 2))
        gpu.get(gpu.xp.matmul(ones, ones))
    return gpu


@contextmanager
def usable() -> Iterator[None]:
    """What is raised where a GPU is first used, as a `NoDeviceError` with the remedy."""
    try:
        yield
    except DeviceMemoryError as error:
        raise NoDeviceError(f"the GPU is full ({error}); see nvidia-smi whether another program holds it") from None
    except (DeviceError, ImportError, OSError, RuntimeError, AssertionError) as error:
        raise NoDeviceError(
            f"CUDA does not work ({first_line(error)}); see nvidia-smi, and where CuPy lacks a library load "
            "your site's CUDA module or pip install cupy-cuda12x[ctk]"
        ) from None


def first_line(error: Exception) -> str:
    """What an error says first, or its kind where it says nothing."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


def has_driver() -> bool:
    """Whether there is a sign of a GPU's driver: looked for ahead of CuPy, which takes a while to import."""
    return any(Path(node).exists() for node in NODES)


def has_cupy() -> bool:
    """Whether CuPy is installed."""
    return importlib.util.find_spec("cupy") is not None


def address(runtime: Any, number: int) -> str:
    """Where a GPU sits, and which slice of it this process sees, if it does not see the whole."""
    seen = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    return f"{runtime.deviceGetPCIBusId(number)} {seen if seen.startswith('MIG-') else ''}"


def device_name(properties: dict[str, Any]) -> str:
    """Such as NVIDIA A100-SXM4-80GB."""
    name = properties["name"]
    return name.decode() if isinstance(name, bytes) else str(name)


def cuda_version(number: int) -> str:
    """Such as 12.4, from 12040."""
    return f"{number // 1000}.{number % 1000 // 10}"
