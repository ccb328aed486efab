"""Writing files so that one appears under its name complete or not at all, and reading bytes of files."""

from __future__ import annotations

import errno
import hashlib
import os
import re
import secrets
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from mpigmm.errors import DataError, OutputError, reason, shown

NO_FOLLOW = os.O_NOFOLLOW | os.O_CLOEXEC
"""Flags with which files are opened for writing: a symbolic link, which another user may have made, is an error."""

NAME_CHARACTERS = 40
"""Characters of a file's name with which its temporary name begins: a name has at most 255 bytes."""


def create_temporary(path: Path) -> tuple[int, Path]:
    """Create an empty file with a random name in the directory of `path`.

    Returns its descriptor, open for reading and writing, and its path. Raises `OSError`, also where a file or link of
    that name exists already.
    """
    temporary = path.with_name(f"{temporary_prefix(path)}{secrets.token_hex(8)}.tmp")
    return os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL | NO_FOLLOW, 0o666), temporary


def remove_leftovers(path: Path, seconds: float = 0.0) -> None:
    """Remove temporary files of `path` that killed runs have left, and that were not written to for so many seconds."""
    is_temporary = re.compile(re.escape(temporary_prefix(path)) + r"[0-9a-f]{16}\.tmp").fullmatch
    with suppress(OSError):
        for name in os.listdir(path.parent):  # noqa: PTH208
            if is_temporary(name) and time.time() - (path.parent / name).lstat().st_mtime >= seconds:
                (path.parent / name).unlink()


def temporary_prefix(path: Path) -> str:
    """The beginning of the temporary names of a file; a long name is cut, and told from others by a digest."""
    name = path.name
    if len(name) > NAME_CHARACTERS:
        name = f"{name[:NAME_CHARACTERS]}.{hashlib.blake2b(os.fsencode(name), digest_size=4).hexdigest()}"
    return f".{name}."


def write_whole(path: Path, content: bytes | memoryview, previous: Path | None = None) -> None:
    """Replace a file in one step: write a temporary file, fsync it, and rename it. Raises `OutputError`.

    Parameters
    ----------
    path : Path
    content : bytes or memoryview
    previous : Path, optional
        Name under which the old file is kept, once the new one is complete.
    """
    temporary: Path | None = None
    try:
        descriptor, temporary = create_temporary(path)
        with open(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        if previous is not None and path.exists():
            path.replace(previous)
        temporary.replace(path)
        sync_directory(path.parent)
    except OSError as error:
        if temporary is not None:
            with suppress(OSError):
                temporary.unlink()
        raise cannot_write(path, error) from None


def cannot_write(path: Path, error: OSError) -> OutputError:
    """The error for a file that cannot be written, with the remedy."""
    return OutputError(f"{shown(path)} cannot be written{reason(error)}; {remedy(error)}")


def sync_directory(directory: Path) -> None:
    """Write the names in a directory to disk, so that a rename survives a crash of the node."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def remedy(error: OSError) -> str:
    """The remedy for an error of the file system."""
    known = {
        "ENOSPC": "free some space",
        "EDQUOT": "your quota is used up: free some space",
        "EACCES": "check its permissions, or choose another place",
        "EROFS": "the file system is read-only: choose another place",
        "ENOTDIR": "a part of the path is a file: choose another place",
        "ELOOP": "remove the symbolic link, or choose another place",
    }
    return known.get(errno.errorcode.get(error.errno or 0, ""), "choose another place")


def read_bytes(file: int, offset: int, array: NDArray[Any]) -> None:
    """Fill a contiguous array with the bytes of an open file from an offset on; raises `EOFError`.

    HDF5 would hold Python's global lock while it reads; this does not, so that other threads compute meanwhile.
    """
    left = array.data.cast("B")
    while left:
        count = os.preadv(file, [left], offset)
        if not count:
            raise EOFError
        left, offset = left[count:], offset + count


def was_cut_off(path: str) -> DataError:
    """The error for a file that has become shorter since it was opened."""
    return DataError(f"{shown(path)} has shrunk while it was being read; restore it and run the command again")
