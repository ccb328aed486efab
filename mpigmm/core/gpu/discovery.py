"""Which GPUs this process can use, and why it can use none."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mpigmm.core.gpu.arrays import (
    DeviceError,
    DeviceMemoryError,
    GpuArrays,
    NoDeviceError,
    cuda_version,
    first_line,
)

OLDEST_CUPY = 13
DEVICE_FILES = ("/dev/nvidiactl", "/dev/nvidia0", "/dev/dxg", "/dev/nvhost-gpu")
"""Files that exist where a driver of NVIDIA's is loaded: on Linux, under Windows (WSL), and on a Jetson."""


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


def open_gpu(number: int) -> GpuArrays:
    """The arrays of a GPU, which has computed a first matrix product; see `usable` for the errors that this raises."""
    gpu = GpuArrays(import_cupy(), number)
    with gpu.guarded():
        ones = gpu.xp.ones((2, 2))
        gpu.get(gpu.xp.matmul(ones, ones))
    return gpu


@contextmanager
def usable() -> Iterator[None]:
    """Raises errors at the first use of a GPU within the block as a `NoDeviceError` that names the remedy."""
    try:
        yield
    except DeviceMemoryError as error:
        raise NoDeviceError(f"the GPU is full ({error}); see nvidia-smi whether another program holds it") from None
    except (DeviceError, ImportError, OSError, RuntimeError, AssertionError) as error:
        raise NoDeviceError(
            f"CUDA does not work ({first_line(error)}); see nvidia-smi, and where CuPy lacks a library load "
            "your site's CUDA module or pip install cupy-cuda12x[ctk]"
        ) from None


def has_driver() -> bool:
    """Whether the system seems to have a driver of a GPU; this is much faster than to import CuPy."""
    return any(Path(name).exists() for name in DEVICE_FILES)


def has_cupy() -> bool:
    """Whether CuPy is installed."""
    return importlib.util.find_spec("cupy") is not None


def address(runtime: Any, number: int) -> str:
    """The PCI address of a GPU and, if this process sees only a slice (MIG) of it, the name of that slice."""
    seen = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    return f"{runtime.deviceGetPCIBusId(number)} {seen if seen.startswith('MIG-') else ''}"
