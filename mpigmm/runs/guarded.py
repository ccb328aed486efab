"""Reading HDF5 files of unknown origin in a process of its own.

A damaged file can crash the HDF5 library or keep it in an endless loop, in C code that no Python exception interrupts.
A process that only reads the file can be killed.
"""

from __future__ import annotations

import json
import resource
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mpigmm.errors import DataError, shown
from mpigmm.parallel.launcher import without_launcher

Arrays = dict[str, NDArray[Any]]

POLL_SECONDS = 0.1

CODE = "import sys; sys.path[:] = sys.argv[3:]; from mpigmm.runs.hdf5 import answer; answer(*sys.argv[1:3])"


def never() -> None:
    """The `check` of a read that is not to be interrupted: does nothing."""


def ask(path: Path, wanted: list[str] | None, check: Callable[[], None] = never) -> tuple[dict[str, Any], Arrays]:
    """Read a file by a process that runs `hdf5.answer`: facts, and arrays by name. Raises `DataError`.

    Parameters
    ----------
    path : Path
    wanted : list of str or None
        Names of the arrays; None: a description of all datasets instead.
    check : callable
        Called ten times a second; an exception that it raises ends the reading.
    """
    command = [sys.executable or "python3", "-c", CODE, str(path), json.dumps(wanted), *sys.path]
    pipe = subprocess.PIPE
    try:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=pipe, stderr=pipe, env=without_launcher())
    except OSError as error:
        raise unreadable(path, f" (Python cannot be started: {error.strerror})") from None
    with process:
        try:
            out, complaint = _output(process, check)
        except BaseException:
            process.kill()
            raise
    check()  # first, since a signal to both processes ends the other one too
    if process.returncode:
        raise unreadable(path, f" ({_cause(process.returncode, complaint)})")
    return _parsed(path, out)


def unreadable(path: Path, cause: str) -> DataError:
    """The error for a file that cannot be read; `cause` is empty, or a space and the cause in brackets."""
    return DataError(f"{shown(path)} cannot be read as HDF5{shown(cause)}; is it whole, and HDF5?")


def reply(facts: dict[str, Any], arrays: Arrays) -> None:
    """Write the answer to standard output: a line of JSON, then the bytes of the arrays."""
    forms = {name: (array.dtype.str, array.shape) for name, array in arrays.items()}
    sys.stdout.buffer.write(json.dumps([facts, forms], default=str).encode() + b"\n")
    for array in arrays.values():
        sys.stdout.buffer.write(bytes_of(array))
    sys.stdout.buffer.flush()


def bytes_of(array: NDArray[Any]) -> memoryview:
    """The bytes of an array in C order."""
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8).data


def limit_processor_time(path: Path) -> None:
    """Have a signal end this process if it computes longer than any undamaged file takes; waiting does not count."""
    seconds = 20 + min(path.stat().st_size // 10**7, 600)
    hard = resource.getrlimit(resource.RLIMIT_CPU)[1]
    resource.setrlimit(resource.RLIMIT_CPU, (seconds if hard < 0 else min(seconds, hard), hard))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _output(process: subprocess.Popen[bytes], check: Callable[[], None]) -> tuple[bytes, bytes]:
    while True:
        try:
            return process.communicate(timeout=POLL_SECONDS)
        except subprocess.TimeoutExpired:
            check()


def _cause(code: int, complaint: bytes) -> str:
    """Why the other process failed."""
    if code == -signal.SIGXCPU:
        return "the HDF5 library comes to no end"
    if code < 0:
        return f"the HDF5 library was ended by signal {-code}"
    return complaint.decode("utf-8", "replace").strip().rpartition("\n")[2]


def _parsed(path: Path, out: bytes) -> tuple[dict[str, Any], Arrays]:
    line, _, rest = out.partition(b"\n")
    facts, forms = json.loads(line)
    if "error" in facts:
        raise unreadable(path, facts["error"])
    return facts, dict(_arrays(memoryview(rest), forms))


def _arrays(rest: memoryview, forms: dict[str, tuple[str, list[int]]]) -> Iterator[tuple[str, NDArray[Any]]]:
    for name, (dtype, shape) in forms.items():
        array = np.empty(shape, dtype)
        array.reshape(-1).view(np.uint8)[:] = rest[: array.nbytes]
        yield name, array
        rest = rest[array.nbytes :]
