"""A GPU for machines without one: arrays that mix with none of the host's, CuPy's functions with CuPy's signatures and
no others, copies that come as late as they may, and the CUDA kernels compiled for the host."""

from __future__ import annotations

import ctypes
import inspect
import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from mpigmm.core.arrays import DOUBLE
from mpigmm.core.gpu.arrays import DeviceMemoryError, GpuArrays
from mpigmm.core.gpu.streams import Streams
from mpigmm.core.ops.cuda import source
from mpigmm.core.raw_types import RAW_TYPES

try:
    import cupy
except ImportError:  # where it is missing, its signatures go unchecked
    cupy = None

GUARD = 64
"""Bytes before and behind each array that nothing may write to."""

UNTOUCHED = b"\xa5" * GUARD

METHODS = ("all", "any", "argmax", "astype", "copy", "max", "min", "reshape", "sum", "transpose", "view")
SCALARS = (bool, int, float, np.generic)


@dataclass
class Memory:
    """What one allocation of the device knows of itself."""

    raw: np.ndarray
    used: int = 0
    pending: list[Callable[[], None]] = field(default_factory=list)

    def check(self) -> None:
        assert not self.pending, "read or written before the copy to it was awaited"
        for guard in (self.raw[:GUARD], self.raw[-GUARD:]):
            assert guard.tobytes() == UNTOUCHED, "a CUDA kernel wrote outside its array"


class StrictArray:
    """An array of the device."""

    __array_ufunc__ = None

    def __init__(self, values: np.ndarray, memory: Memory, gpu: StrictGpu) -> None:
        self.values, self.memory, self.gpu = values, memory, gpu

    def __array__(self, *arguments: Any, **options: Any) -> Any:
        raise TypeError("an array of the device where one of the host is wanted")

    def __bool__(self) -> bool:
        raise TypeError("a number of the device used without arrays.get")

    __float__ = __int__ = __index__ = __bool__

    def __len__(self) -> int:
        return len(self.values)

    def __iter__(self) -> Iterator[StrictArray]:
        return (self[i] for i in range(len(self)))

    def __getitem__(self, key: Any) -> StrictArray:
        parts = key if isinstance(key, tuple) else (key,)
        is_view = not any(isinstance(part, StrictArray) for part in parts)
        values = self.values if is_view else self.gpu.own(self)
        return self.gpu.wrapped(values[self.gpu.own_key(key)], self.memory)

    def __setitem__(self, key: Any, value: Any) -> None:
        self.gpu.own(self)[self.gpu.own_key(key)] = self.gpu.own(value)

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        """What MPI asks for; it finds this memory where it says, since it is the host's."""
        self.memory.check()
        return self.values.__array_interface__ | {"version": 3, "strides": None}

    @property
    def T(self) -> StrictArray:  # noqa: N802
        return self.gpu.wrapped(self.values.T, self.memory)

    def __getattr__(self, name: str) -> Any:
        if name in ("shape", "dtype", "size", "ndim", "nbytes"):
            return getattr(self.values, name)
        if name in METHODS:
            return self._method(name)
        raise AttributeError(f"arrays of the device have no {name} here")

    def _method(self, name: str) -> Callable[..., StrictArray]:
        def call(*arguments: Any, **options: Any) -> StrictArray:
            check_signature(cupy and getattr(cupy.ndarray, name), (self, *arguments), options)
            return self.gpu.call(getattr(np.ndarray, name), (self, *arguments), options)

        return call


def operator(name: str) -> Callable[..., Any]:
    def apply(self: StrictArray, *others: Any) -> Any:
        if name.startswith("__i") and name not in ("__invert__",):
            getattr(self.gpu.own(self), name)(*map(self.gpu.own, others))
            return self
        return self.gpu.call(getattr(np.ndarray, name), (self, *others), {})

    return apply


for pair in ("add", "sub", "mul", "matmul", "truediv", "and", "or", "lshift", "rshift"):
    for form in ("__{}__", "__r{}__", "__i{}__"):
        setattr(StrictArray, form.format(pair), operator(form.format(pair)))
for single in ("lt", "le", "gt", "ge", "eq", "ne", "neg", "invert"):
    setattr(StrictArray, f"__{single}__", operator(f"__{single}__"))


class Namespace:
    """CuPy's functions, as far as NumPy has them too."""

    def __init__(self, gpu: StrictGpu) -> None:
        self._gpu = gpu

    def __getattr__(self, name: str) -> Callable[..., Any]:
        ours, theirs = getattr(np, name), cupy and getattr(cupy, name)

        def call(*arguments: Any, **options: Any) -> Any:
            check_signature(theirs, arguments, options)
            if name == "matmul":
                self._check_product(*arguments, **options)
            found = self._gpu.call(ours, arguments, options)
            return options.get("out", found)

        return call

    def _check_product(self, left: StrictArray, right: StrictArray, out: StrictArray | None = None) -> None:
        """What CuPy would copy first, or would not do."""
        for each in (left, right):
            flat = each.values
            assert flat.flags.c_contiguous or flat.T.flags.c_contiguous or flat.dtype == np.float32, "copied by CuPy"
        if out is not None:
            assert out.dtype == left.dtype == right.dtype and out.values.flags.c_contiguous
            assert not np.shares_memory(out.values, left.values) and not np.shares_memory(out.values, right.values)


class StrictGpu(GpuArrays):
    """In place of `GpuArrays`: the same calls on the host, checked.

    Parameters
    ----------
    fails : callable, optional
        Asked before each allocation, with its bytes; may raise.
    """

    name, version = "strict", "0"
    streams: StrictStreams

    def __init__(self, fails: Callable[[int], None] = lambda n_bytes: None) -> None:
        self.xp = Namespace(self)
        self.fails = fails
        self.n_launched = self.clock = 0
        self.streams = StrictStreams(self)

    def own(self, value: Any) -> Any:
        """The values of an array of the device, or a scalar; nothing of the host's passes."""
        if isinstance(value, StrictArray):
            assert value.gpu is self
            value.memory.check()
            self.clock += 1
            value.memory.used = self.clock
            return value.values
        if isinstance(value, SCALARS):
            return value
        raise TypeError(f"{type(value).__name__} of the host among arrays of the device")

    def own_key(self, key: Any) -> Any:
        parts = key if isinstance(key, tuple) else (key,)
        for part in parts:
            kind = getattr(getattr(part, "dtype", None), "kind", "")
            assert kind != "b", "CuPy waits for the device where a mask is an index"
        plain = (slice, int, type(None), type(Ellipsis), np.integer)
        found = tuple(part if isinstance(part, plain) else self.own(part) for part in parts)
        return found if isinstance(key, tuple) else found[0]

    def wrapped(self, values: np.ndarray, memory: Memory | None = None) -> StrictArray:
        """Values as an array of the device; copied there unless they are a view of what is."""
        if memory is None:
            return self._new(np.asarray(values))
        if not np.shares_memory(values, memory.raw) and values.size:
            return self._new(values)
        return StrictArray(values, memory, self)

    def _new(self, values: np.ndarray) -> StrictArray:
        array = self.empty(values.size, values.dtype)
        array.values[:] = values.reshape(-1)
        return StrictArray(array.values.reshape(values.shape), array.memory, self)

    def call(self, function: Callable[..., Any], arguments: tuple[Any, ...], options: dict[str, Any]) -> StrictArray:
        memory = next((value.memory for value in arguments if isinstance(value, StrictArray)), None)

        def plain(value: Any) -> Any:
            return value if isinstance(value, (np.dtype, type, tuple, str, type(None))) else self.own(value)

        found = function(*map(plain, arguments), **{name: plain(value) for name, value in options.items()})
        return None if found is None else self.wrapped(np.asarray(found), memory)

    def put(self, array: Any) -> StrictArray:
        return array if isinstance(array, StrictArray) else self._new(np.array(array))

    def get(self, array: Any) -> np.ndarray:
        return array if isinstance(array, np.ndarray) else self.own(array).copy()

    def empty(self, size: int, dtype: np.dtype = DOUBLE) -> StrictArray:
        n_bytes = size * np.dtype(dtype).itemsize
        self.fails(n_bytes)
        raw = np.full(n_bytes + 2 * GUARD, UNTOUCHED[0], np.uint8)
        raw[GUARD : GUARD + n_bytes] = 0xFF  # not a number
        return StrictArray(raw[GUARD : GUARD + n_bytes].view(dtype), Memory(raw), self)

    def zeros(self, size: int, dtype: np.dtype) -> StrictArray:
        return self.put(np.zeros(size, dtype))

    def synchronize(self) -> None:
        pass

    def cuda_kernel(self, name: str, source: str, options: tuple[str, ...]) -> Callable[..., None]:
        compiled = getattr(compiled_kernels(options), f"host_{name}")

        def launch(grid: tuple[int, ...], block: tuple[int, ...], arguments: tuple[Any, ...]) -> None:
            kept = [pointer_to(self.own(value)) for value in arguments]
            pointers = (ctypes.c_void_p * len(kept))(*(ctypes.addressof(value) for value in kept))
            self.n_launched += 1
            compiled((ctypes.c_uint * 2)(*grid), block[0], self.n_launched % 2, pointers)
            for value in arguments:
                if isinstance(value, StrictArray):
                    assert value.values.flags.c_contiguous
                    value.memory.check()

        return launch

    def memory(self) -> int:
        return 1 << 30

    def release(self) -> None:
        pass

    @contextmanager
    def guarded(self) -> Iterator[None]:
        yield


class StrictStreams(Streams):
    """In place of `Streams`: a copy is made when it is awaited."""

    def __init__(self, gpu: StrictGpu) -> None:
        self.gpu = gpu
        self.n_sent = 0
        self._sent: dict[int, tuple[np.ndarray, Callable[[], None], Memory]] = {}

    def pinned(self, size: int, dtype: np.dtype) -> np.ndarray:
        return np.full(size * dtype.itemsize, 0xFF, np.uint8).view(dtype)

    def mark(self) -> int:
        return self.gpu.clock

    def send(self, source: np.ndarray, target: StrictArray, after: int) -> int:
        """The copy is made when it is awaited and no sooner, from what then stands in the source."""
        assert target.memory.used <= after, "the place of a tile is overwritten while it may be in use"
        assert source.dtype == target.dtype and source.shape == target.shape and target.values.flags.c_contiguous

        def copy() -> None:
            target.values[...] = source

        self.n_sent += 1
        self._sent[self.n_sent] = (source, copy, target.memory)
        target.memory.pending.append(copy)
        return self.n_sent

    def await_copy(self, sent: int) -> None:
        for number in [number for number in self._sent if number <= sent]:
            _, copy, memory = self._sent.pop(number)
            copy()
            memory.pending.remove(copy)

    def finish(self, sent: int) -> None:
        self.await_copy(sent)

    def synchronize(self) -> None:
        pass

    finish_all = synchronize


def too_little(limit: int) -> Callable[[int], None]:
    """Fails for an allocation above a limit."""

    def check(n_bytes: int) -> None:
        if n_bytes > limit:
            raise DeviceMemoryError(f"out of memory allocating {n_bytes} bytes")

    return check


def pointer_to(value: Any) -> Any:
    """A C variable that holds an argument of a CUDA kernel: the address of an array, or a number in its own type."""
    if isinstance(value, np.ndarray):
        return ctypes.c_void_p(value.ctypes.data)
    assert isinstance(value, np.generic), "numbers go to CUDA kernels in a type of their own"
    return np.ctypeslib.as_ctypes_type(value.dtype)(value.item())


def signature_of(function: Any) -> inspect.Signature:
    """That of a function of CuPy's, some of which tell theirs in the first line of their text only."""
    try:
        return inspect.signature(function)
    except ValueError:
        line = (function.__doc__ or "").strip().splitlines()[0]
        listed = re.match(r"[\w.]+\((.*?)\)(?: ->.*)?$", line)
        assert listed, f"{function} tells no signature"
        untyped = re.sub(r"\b(?:int|str|intptr_t|size_t|Py_ssize_t|bool|tuple) (?=\w)", "", listed[1].replace("\\", ""))
        return inspect.signature(eval(f"lambda {untyped}: None"))


def check_signature(function: Any, arguments: tuple[Any, ...], options: dict[str, Any]) -> None:
    """Raise `TypeError` where a function of CuPy's would not take these."""
    if cupy is not None:
        check_names(function, len(arguments), tuple(options))


@cache
def check_names(function: Any, n_arguments: int, names: tuple[str, ...]) -> None:
    """The same for any values: what a function takes depends on their number and names alone."""
    signature_of(function).bind(*[None] * n_arguments, **dict.fromkeys(names))


HARNESS = r"""
#include <cmath>
#include <cstddef>
#include <utility>
using std::exp; using std::fmax; using std::log; using std::rint; using std::sqrt;
struct Place { unsigned x, y; };
static thread_local Place blockIdx, threadIdx, blockDim;
#define __global__
#include "kernels.cu"
template <class... T, std::size_t... I>
void launch(void (*kernel)(T...), const unsigned *grid, unsigned threads, int backwards, void **values,
            std::index_sequence<I...>)
{
    blockDim = {threads, 1};
    const std::size_t total = (std::size_t)grid[0] * grid[1] * threads;
    for (std::size_t step = 0; step < total; step++) {
        const std::size_t i = backwards ? total - 1 - step : step;
        threadIdx = {(unsigned)(i % threads), 0};
        blockIdx = {(unsigned)(i / threads % grid[0]), (unsigned)(i / threads / grid[0])};
        kernel(*(T *)values[I]...);
    }
}
template <class... T> void launch(void (*kernel)(T...), const unsigned *g, unsigned t, int b, void **v)
{
    launch(kernel, g, t, b, v, std::index_sequence_for<T...>());
}
"""
"""Runs the threads of a CUDA kernel one after another, from the first or from the last."""


def kernel_names() -> list[str]:
    plain = re.findall(r"^KERNEL (\w+)\(", source(), re.MULTILINE)
    return [*plain, *(f"center_transpose_{kind}" for kind in RAW_TYPES)]


@cache
def compiled_kernels(options: tuple[str, ...]) -> ctypes.CDLL:
    """The CUDA kernels as functions of the host."""
    entries = "".join(
        f'extern "C" void host_{name}(unsigned *g, unsigned t, int b, void **v) {{ launch({name}, g, t, b, v); }}\n'
        for name in kernel_names()
    )
    place = Path(tempfile.mkdtemp())
    try:
        (place / "kernels.cu").write_text(source())
        (place / "host.cpp").write_text(HARNESS + entries)
        command = ["g++", "-std=c++17", "-O1", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC", *options]
        subprocess.run([*command, str(place / "host.cpp"), "-o", str(place / "host.so")], check=True)
        return ctypes.CDLL(str(place / "host.so"))
    finally:
        shutil.rmtree(place)
