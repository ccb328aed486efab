"""HDF5 files of arrays and attributes, with a SHA-256 of all bytes in the user block."""

from __future__ import annotations

import errno
import hashlib
import io
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from mpigmm.data.files import write_whole
from mpigmm.errors import DataError, reason, shown
from mpigmm.runs.guarded import ask, bytes_of, limit_processor_time, never, reply, unreadable

USER_BLOCK = 512
MAGIC = b"mpigmm sha256 "
SIGNATURE = b"\x89HDF\r\n\x1a\n"
"""First bytes of an HDF5 file, after its user block."""

CONTENT = "content"
"""Attribute of models with a SHA-256 of certain arrays and attributes, valid whatever is added to the file."""

COLUMN_NAMES = "columns"
"""Attribute of a dataset of rows with the names of its columns."""

NO_MATCH = "its content does not match its checksum"

MOST_PER_BYTE, LEAST_LIMIT = 2000, 2**26
"""A file is damaged if an array has more bytes than `LEAST_LIMIT` plus `MOST_PER_BYTE` times the file's size."""


@dataclass
class Content:
    """Arrays by dataset name, and attributes."""

    arrays: dict[str, NDArray[Any]]
    attributes: dict[str, Any]


@dataclass
class Outline:
    """Content of a file: its attributes, and shape and dtype of every dataset by path."""

    attributes: dict[str, Any]
    datasets: dict[str, Any]


def save(path: Path, content: Content, previous: Path | None = None) -> None:
    """Write a file by `write_whole`; HDF5 creates it in memory."""
    buffer = io.BytesIO()
    with h5py.File(buffer, "w", userblock_size=USER_BLOCK) as file:
        for name, array in content.arrays.items():
            file[name] = array
        for name, value in content.attributes.items():
            file.attrs[name] = value
    with buffer.getbuffer() as whole:  # a copy would need as much memory again
        whole[:USER_BLOCK] = head_of(whole[USER_BLOCK:])
        write_whole(path, whole, previous)


def head_of(body: bytes | memoryview) -> bytes:
    """The user block for the bytes that follow it."""
    return (MAGIC + hashlib.sha256(body).hexdigest().encode() + b"\n").ljust(USER_BLOCK, b"\0")


def with_digest(content: Content) -> Content:
    """The content with an attribute by which `is_unchanged` recognises that it is unchanged."""
    names = sorted(content.arrays), sorted(content.attributes)
    return Content(content.arrays, {**content.attributes, CONTENT: json.dumps([digest(content, *names), *names])})


def is_unchanged(content: Content) -> bool | None:
    """Whether the arrays and attributes that the digest covers are unchanged; None where there is no digest."""
    if CONTENT not in content.attributes:
        return None
    try:
        found, arrays, attributes = json.loads(content.attributes[CONTENT])
        return bool(digest(content, arrays, attributes) == found)
    except (KeyError, TypeError, ValueError):
        return False


def digest(content: Content, arrays: list[str], attributes: list[str]) -> str:
    """SHA-256, in hexadecimal, of the arrays and attributes of these names."""
    found = hashlib.sha256(json.dumps([(name, plain(content.attributes[name])) for name in attributes]).encode())
    for name in arrays:
        array = content.arrays[name]
        found.update(json.dumps([name, array.dtype.str, array.shape]).encode())
        found.update(bytes_of(array))
    return found.hexdigest()


def load_own(path: Path, expected: str) -> Content:
    """Read a file that only mpigmm writes, whose checksum must be valid; raises `DataError`.

    Parameters
    ----------
    path : Path
    expected : str
        What its attribute ``format`` must be.
    """
    raw = whole_bytes(path)
    if raw is None:
        raise DataError(f"{shown(path)} is damaged: {NO_MATCH}")
    return of_format(content_of(path, raw), expected, path)


def load(path: Path, expected: str, names: list[str], check: Callable[[], None] = never) -> Content:
    """Read a file that mpigmm wrote, or one of the same format that was changed or written by another program.

    Raises `DataError`.

    Parameters
    ----------
    path : Path
    expected : str
        What its attribute ``format`` must be.
    names : list of str
        The datasets to read.
    check : callable
        Called repeatedly while a file without a valid checksum is read; an exception that it raises ends the reading.
    """
    head = read_head(path)
    raw = whole_bytes(path) if head.startswith(MAGIC) else None
    if raw is not None:
        return of_format(content_of(path, raw), expected, path)
    facts, arrays = asked(path, head, names, check)
    content = Content(arrays, facts["attributes"])
    if not is_trustworthy(head, content):
        raise damaged(path)
    return of_format(content, expected, path)


def is_trustworthy(head: bytes, content: Content) -> bool:
    """Whether to read a file without a valid checksum: another program's, or one with a valid digest of its content."""
    if head.startswith(SIGNATURE):
        return True  # a new file, whose attributes may be copies of a model's
    held = is_unchanged(content)
    return not head.startswith(MAGIC) if held is None else held


def outline(path: Path, check: Callable[[], None] = never) -> Outline:
    """Content of any HDF5 file; raises `DataError`."""
    head = read_head(path)
    raw = whole_bytes(path) if head.startswith(MAGIC) else None
    if raw is not None:
        with opened(path, raw) as file:
            return Outline(attributes_of(file), datasets_of(file))
    facts, _ = asked(path, head, None, check)
    return Outline(facts["attributes"], facts["datasets"])


def asked(
    path: Path, head: bytes, names: list[str] | None, check: Callable[[], None]
) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
    """The answer of `ask`; raises `DataError`, which says of a file that begins with `MAGIC` that it is damaged."""
    try:
        return ask(path, names, check)
    except DataError:
        if head.startswith(MAGIC):
            raise damaged(path) from None
        raise


def answer(path: str, wanted: str) -> None:
    """Answer `ask`, in the process that it starts."""
    limit_processor_time(Path(path))
    names = json.loads(wanted)
    try:
        with h5py.File(path, "r", locking=False) as file:
            facts = {"attributes": attributes_of(file)}
            if names is None:
                reply({**facts, "datasets": datasets_of(file)}, {})
            else:
                reply(facts, arrays_of(file, names, MOST_PER_BYTE * Path(path).stat().st_size + LEAST_LIMIT))
    except (OSError, RuntimeError, KeyError, ValueError, TypeError, MemoryError, AttributeError) as error:
        reply({"error": reason(error)}, {})


def read_head(path: Path) -> bytes:
    """The first `USER_BLOCK` bytes of a file; raises `DataError`."""
    if path.exists() and not path.is_file():
        raise DataError(f"{shown(path)} is not a regular file; name an HDF5 file")
    try:
        with open(path, "rb") as file:
            return file.read(USER_BLOCK)
    except OSError as error:
        raise no_access(path, error) from None


def is_whole(path: Path) -> bool:
    """Whether a file has a valid checksum; raises `DataError` where it cannot be read."""
    return whole_bytes(path) is not None


def no_access(path: Path, error: OSError) -> DataError:
    """The error for a file that the operating system cannot read, with the remedy."""
    advice = {"ENOENT": "; check the path", "ENOTDIR": "; check the path", "EACCES": "; check its permissions"}
    known = advice.get(errno.errorcode.get(error.errno or 0, ""), "")
    return DataError(f"{shown(path)} cannot be read{reason(error)}{known}")


def whole_bytes(path: Path) -> memoryview | None:
    """All bytes of a file, or None where its checksum is missing or wrong; raises `DataError`."""
    read_head(path)
    try:
        raw = memoryview(path.read_bytes())
    except OSError as error:
        raise no_access(path, error) from None
    return raw if raw[:USER_BLOCK] == head_of(raw[USER_BLOCK:]) else None


def damaged(path: Path) -> DataError:
    """The error for a damaged file."""
    return DataError(f"{shown(path)} is damaged: {NO_MATCH}; restore it from a copy")


@contextmanager
def opened(path: Path, raw: memoryview) -> Iterator[h5py.File]:
    """A context with the file of these bytes, open for reading; raises `DataError`."""
    try:
        with h5py.File(io.BytesIO(raw), "r") as file:
            yield file
    except DataError:
        raise
    except (OSError, RuntimeError, KeyError, ValueError, TypeError) as error:
        raise unreadable(path, reason(error)) from None


def content_of(path: Path, raw: memoryview) -> Content:
    """All arrays and attributes of a file of these bytes; raises `DataError`."""
    with opened(path, raw) as file:
        return Content(arrays_of(file, list(file)), attributes_of(file))


def of_format(content: Content, expected: str, path: Path) -> Content:
    """The content, if it has the expected format; else raises `DataError`."""
    found = content.attributes.get("format")
    if not isinstance(found, str) or found != expected:
        raise DataError(f"{shown(path)} is not an {expected} file: its attribute 'format' is {found!r}")
    return content


def arrays_of(file: h5py.File, names: list[str], most: float = float("inf")) -> dict[str, NDArray[Any]]:
    """The named datasets as arrays, without those that do not exist.

    Raises `ValueError` for an array of more than `most` bytes.
    """
    found = {}
    for name in names:
        item = file.get(name)
        if isinstance(item, h5py.Dataset) and item.dtype != "O" and item.shape is not None:
            if item.size * item.dtype.itemsize > most:
                raise ValueError(f"/{name} is larger than the file allows: {item.shape}")
            found[name] = item[()]
    return {name: np.asarray(array) for name, array in found.items()}


def attributes_of(file: h5py.File) -> dict[str, Any]:
    """Attributes that are numbers or texts, or lists of them. Reading others of a damaged file may crash HDF5."""
    return {name: plain(file.attrs[name]) for name in file.attrs if is_plain(file, name)}


def datasets_of(file: h5py.File) -> dict[str, Any]:
    """Shape, dtype and chunks of every dataset by path, and the names of its columns, if its attribute has any.

    The shape of a dataset without values is None.
    """
    found: dict[str, Any] = {}

    def visit(name: str, item: object) -> None:
        if isinstance(item, h5py.Dataset):
            shape = None if item.shape is None else list(item.shape)
            found["/" + name] = {"shape": shape, "dtype": str(item.dtype), "chunks": item.chunks, **columns_of(item)}

    file.visititems(visit)
    return found


def columns_of(dataset: h5py.Dataset) -> dict[str, list[str]]:
    """The attribute with the names of a dataset's columns, as an item of its outline; none where there is none."""
    names = (
        plain(dataset.attrs[COLUMN_NAMES])
        if COLUMN_NAMES in dataset.attrs and is_plain(dataset, COLUMN_NAMES)
        else None
    )
    return {COLUMN_NAMES: [str(name) for name in names]} if isinstance(names, list) else {}


def is_plain(item: h5py.File | h5py.Dataset, name: str) -> bool:
    """Whether an attribute consists of numbers or texts."""
    dtype = item.attrs.get_id(name).dtype
    return dtype != "O" or h5py.check_string_dtype(dtype) is not None


def plain(value: Any) -> Any:
    """An attribute's value as a Python object; fixed-length strings, which C and Fortran write, as text."""
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    if isinstance(value, np.ndarray):
        return [plain(part) for part in value.tolist()] if value.ndim else plain(value[()])
    if isinstance(value, h5py.Empty):
        return None
    return value.item() if isinstance(value, np.generic) else value


def hdf5_version() -> str:
    """Versions of h5py and of the HDF5 library under it."""
    return f"{h5py.version.hdf5_version} (h5py {h5py.__version__})"
