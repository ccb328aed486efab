"""Our HDF5 files: arrays and attributes, with a SHA-256 of the content in the user block."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from mpigmm.data.files import write_whole
from mpigmm.errors import DataError

USER_BLOCK = 512
MAGIC = b"mpigmm sha256 "


@dataclass
class Content:
    """Arrays by dataset name, and attributes."""

    arrays: dict[str, NDArray[Any]]
    attributes: dict[str, Any]


def save(path: Path, content: Content, previous: Path | None = None) -> None:
    """Write content whole or not at all, as `write_whole` does; HDF5 works in memory."""
    buffer = io.BytesIO()
    with h5py.File(buffer, "w", userblock_size=USER_BLOCK) as file:
        for name, array in content.arrays.items():
            file[name] = array
        for name, value in content.attributes.items():
            file.attrs[name] = value
    with buffer.getbuffer() as whole:  # not a copy of it, which would grow with the log
        head = MAGIC + hashlib.sha256(whole[USER_BLOCK:]).hexdigest().encode() + b"\n"
        whole[:USER_BLOCK] = head.ljust(USER_BLOCK, b"\0")
        write_whole(path, whole, previous)


def load(path: Path, expected: str) -> Content:
    """Read a file of ours, or one that others wrote to the same contract; raises `DataError`.

    Parameters
    ----------
    path : Path
    expected : str
        What its attribute ``format`` must be.
    """
    with opened(path) as file:
        attributes = {name: plain(file.attrs[name]) for name in file.attrs if is_plain(file, name)}
        found = attributes.get("format")
        if not isinstance(found, str) or found != expected:
            raise DataError(f"{path} is not an {expected} file: its attribute 'format' is {found!r}")
        arrays = {name: item[()] for name, item in file.items() if isinstance(item, h5py.Dataset) and item.dtype != "O"}
        return Content(arrays, attributes)


def read_format(path: Path) -> Any:
    """The attribute ``format`` of a file, or None; raises `DataError`."""
    with opened(path) as file:
        return plain(file.attrs["format"]) if "format" in file.attrs and is_plain(file, "format") else None


@contextmanager
def opened(path: Path) -> Iterator[h5py.File]:
    """A file open for reading, its checksum verified first if it has one; raises `DataError`."""
    if path.exists() and not path.is_file():
        raise DataError(f"{path} is not a regular file; name an HDF5 file")
    try:
        with open(path, "rb") as raw:
            checked = io.BytesIO(verified(path, raw.read())) if raw.read(len(MAGIC)) == MAGIC else None
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror})") from None
    try:
        with h5py.File(checked, "r") if checked else h5py.File(path, "r", locking=False) as file:
            yield file
    except (OSError, RuntimeError, KeyError, ValueError, TypeError) as error:
        raise DataError(f"{path} cannot be read as HDF5 ({error}); is it whole, and HDF5?") from None


def verified(path: Path, rest: bytes) -> bytes:
    """The whole of a file that begins with `MAGIC`, from what follows it; raises `DataError` where it is damaged."""
    body = rest[USER_BLOCK - len(MAGIC) :]
    if hashlib.sha256(body).hexdigest().encode() != rest[:64]:
        raise DataError(f"{path} is damaged: its content does not match its checksum; restore it from a copy")
    return MAGIC + rest


def describe_data(path: Path) -> dict[str, Any]:
    """Shape and dtype of every dataset of a file; raises `DataError`."""
    found: dict[str, Any] = {}

    def visit(name: str, item: object) -> None:
        if isinstance(item, h5py.Dataset):
            found["/" + name] = {"shape": list(item.shape), "dtype": str(item.dtype), "chunks": item.chunks}

    with opened(path) as file:
        file.visititems(visit)
    return found


def is_plain(file: h5py.File, name: str) -> bool:
    """Whether an attribute is a number or a text: for others, HDF5 crashes on some files that are damaged."""
    dtype = file.attrs.get_id(name).dtype
    return dtype != "O" or h5py.check_string_dtype(dtype) is not None


def plain(value: Any) -> Any:
    """An attribute as Python's own type; fixed-length strings, as C and Fortran write them, as text."""
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    return value.item() if isinstance(value, np.generic) else value


def hdf5_version() -> str:
    """Versions of h5py and of the HDF5 library under it."""
    return f"{h5py.version.hdf5_version} (h5py {h5py.__version__})"
