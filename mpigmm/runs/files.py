"""Files that are there whole or not at all."""

from __future__ import annotations

import errno
import os
from contextlib import suppress
from pathlib import Path

from mpigmm.errors import OutputError


def write_whole(path: Path, content: bytes | memoryview, previous: Path | None = None) -> None:
    """Replace a file in one step: temporary file, flush, fsync, rename. Raises `OutputError`.

    Parameters
    ----------
    path : Path
    content : bytes or memoryview
    previous : Path, optional
        The name under which the old file is kept, once the new one is whole.
    """
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        with open(temporary, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        if previous is not None and path.exists():
            path.replace(previous)
        temporary.replace(path)
        sync_directory(path.parent)
    except OSError as error:
        with suppress(OSError):
            temporary.unlink()
        raise OutputError(f"{path} cannot be written ({error.strerror}); {remedy(error)}") from None


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
    }
    return known.get(errno.errorcode.get(error.errno or 0, ""), "choose another place")
