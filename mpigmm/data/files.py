"""Files that are there whole or not at all, and names for them while they grow."""

from __future__ import annotations

import errno
import os
import re
import secrets
import time
from contextlib import suppress
from pathlib import Path

from mpigmm.errors import OutputError, reason, shown

NO_FOLLOW = os.O_NOFOLLOW | os.O_CLOEXEC
"""Flags of every file that is opened to be written: a symbolic link in its place, maybe another user's, is an error."""

NAME_CHARACTERS = 40
"""How much of a file's name its temporary name repeats: names have at most 255 bytes."""


def create_temporary(path: Path) -> tuple[int, Path]:
    """An empty file of a name of its own beside `path`, open for reading and writing; raises `OSError`.

    Nobody can know the name ahead, and a file or link that bears it nevertheless is an error.
    """
    temporary = path.with_name(f"{_prefix(path)}{secrets.token_hex(8)}.tmp")
    return os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL | NO_FOLLOW, 0o666), temporary


def remove_leftovers(path: Path, seconds: float = 0.0) -> None:
    """Remove the temporary files of `path` that runs which were killed have left, if not written to for so long."""
    is_temporary = re.compile(re.escape(_prefix(path)) + r"[0-9a-f]{16}\.tmp").fullmatch
    with suppress(OSError):
        for name in os.listdir(path.parent):  # noqa: PTH208
            if is_temporary(name) and time.time() - (path.parent / name).lstat().st_mtime >= seconds:
                (path.parent / name).unlink()


def _prefix(path: Path) -> str:
    return f".{path.name[:NAME_CHARACTERS]}."


def write_whole(path: Path, content: bytes | memoryview, previous: Path | None = None) -> None:
    """Replace a file in one step: temporary file, flush, fsync, rename. Raises `OutputError`.

    Parameters
    ----------
    path : Path
    content : bytes or memoryview
    previous : Path, optional
        The name under which the old file is kept, once the new one is whole.
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
    """The error that says so, and what to do."""
    return OutputError(f"{shown(path)} cannot be written{reason(error)}; {remedy(error)}")


def sync_directory(directory: Path) -> None:
    """Make a rename durable."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def remedy(error: OSError) -> str:
    """What to do about an error of the file system."""
    known = {
        "ENOSPC": "free some space",
        "EDQUOT": "your quota is used up: free some space",
        "EACCES": "check its permissions, or choose another place",
        "EROFS": "the file system is read-only: choose another place",
        "ENOTDIR": "a part of the path is a file: choose another place",
        "ELOOP": "remove the symbolic link, or choose another place",
    }
    return known.get(errno.errorcode.get(error.errno or 0, ""), "choose another place")
