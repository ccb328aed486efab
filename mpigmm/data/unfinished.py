"""The temporary file in which results are collected until they are complete; root alone creates and names it.

Its name contains a digest of all that its content depends on. After a kill the same command therefore finds what is
already written, and another command does not.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import stat
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from mpigmm.data.files import NO_FOLLOW, remove_leftovers, sync_directory, temporary_prefix
from mpigmm.data.output import Column, Content, OutputFile, read_head, write_attributes, write_head
from mpigmm.errors import OutputError, reason, shown

ABANDONED_SECONDS = 86400.0
"""A temporary file of an earlier version that was not written to for this long is assumed to belong to a killed run."""

MARK = b"mpigmm: rows and ledger\0"
"""The last bytes of a temporary file, which are written once all but rows and ledger is complete."""


class UnfinishedFile:
    """An open and locked temporary file.

    Parameters
    ----------
    path : str
        Final name of the file.
    job : str
        A text that determines the content of the file.
    content : Content
    n_parts : int
        Number of parts of the work, each of which is finished or not.

    Attributes
    ----------
    file : OutputFile
        What the ranks need to write their rows.

    Raises
    ------
    OutputError
        Where the file cannot be written, or another process writes it.
    """

    def __init__(self, path: str, job: str, content: Content, n_parts: int) -> None:
        self._path = Path(path)
        digest = hashlib.blake2b(job.encode("utf-8", "surrogateescape"), digest_size=8).hexdigest()
        self._temporary = self._path.with_name(f"{temporary_prefix(self._path)}{digest}.part")
        try:
            remove_leftovers(self._path, ABANDONED_SECONDS)
            self._remove_others()
            self._descriptor = self._locked()
        except OSError as error:
            raise self._failure(error) from None
        try:
            self.file = self._resumed(content, n_parts) or self._new(content, n_parts)
        except BaseException as error:
            self.discard()
            raise self._failure(error) if isinstance(error, OSError) else error from None

    @property
    def has_ledger(self) -> bool:
        """Whether the ledger was not yet cut off."""
        return os.fstat(self._descriptor).st_size > self.file.size

    def set_attributes(self, attributes: Mapping[str, float]) -> None:
        """Overwrite attributes with others of the same types. Raises `OutputError`."""
        try:
            write_attributes(self._descriptor, attributes)
        except OSError as error:
            raise self._failure(error) from None

    def publish(self) -> None:
        """Give the complete file its final name, whatever has that name. Raises `OutputError`."""
        try:
            os.ftruncate(self._descriptor, self.file.size)
            self._temporary.replace(self._path)
            sync_directory(self._path.parent)
        except OSError as error:
            raise self._failure(error) from None
        self.close()

    def publish_new(self) -> bool:
        """Give the complete file its final name unless a file of that name exists; returns whether none did.

        Raises `OutputError`.
        """
        if os.path.lexists(self._path):
            return False
        try:
            os.ftruncate(self._descriptor, self.file.size)
            os.link(self._temporary, self._path)  # unlike a rename, it replaces nothing
        except FileExistsError:
            return False
        except OSError:  # a file system without hard links
            if os.path.lexists(self._path):
                return False
            self.publish()
        else:
            self.discard()
            with suppress(OSError):
                sync_directory(self._path.parent)
        return True

    def close(self) -> None:
        """Unlock the file, which the same command can go on with unless it has its final name."""
        os.close(self._descriptor)

    def discard(self) -> None:
        """Remove and unlock the file."""
        with suppress(OSError):
            self._temporary.unlink()
        self.close()

    def _resumed(self, content: Content, n_parts: int) -> OutputFile | None:
        """The file that an interrupted command has left; None where there is none."""
        size = os.fstat(self._descriptor).st_size - len(MARK) - n_parts
        if size < 0 or os.pread(self._descriptor, len(MARK), size + n_parts) != MARK:
            return None
        columns = read_head(self._descriptor, content.columns)
        return self._described(columns, size, os.pread(self._descriptor, n_parts, size))

    def _new(self, content: Content, n_parts: int) -> OutputFile:
        os.ftruncate(self._descriptor, 0)
        columns, size = write_head(self._descriptor, content)
        ledger = bytes(n_parts)
        os.ftruncate(self._descriptor, size + n_parts)
        os.pwrite(self._descriptor, MARK, size + n_parts)
        os.fsync(self._descriptor)  # on a network file system, for the other nodes
        return self._described(columns, size, ledger)

    def _described(self, columns: dict[str, Column], size: int, finished: bytes) -> OutputFile:
        return OutputFile(str(self._path), str(self._temporary), columns, size, finished)

    def _locked(self) -> int:
        """The open temporary file, locked for this process; raises `OutputError` where another one has it."""
        while True:
            descriptor = os.open(self._temporary, os.O_RDWR | os.O_CREAT | NO_FOLLOW, 0o666)
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode) or status.st_uid != os.geteuid():
                os.close(descriptor)
                raise OutputError(
                    f"--out {shown(self._path)} cannot be written: {shown(self._temporary)} is not this user's file; "
                    "remove it, or choose another --out"
                )
            if not lock(descriptor):
                os.close(descriptor)
                raise OutputError(
                    f"--out {shown(self._path)} is being written by the same command in another process; wait for it "
                    "to end, or choose another --out"
                )
            if self._is_at_its_place(status):
                if os.fstat(descriptor).st_nlink == 1:
                    return descriptor
                self._temporary.unlink()  # a process was killed when it had given the file its final name
            os.close(descriptor)  # the file has its final name

    def _is_at_its_place(self, status: os.stat_result) -> bool:
        with suppress(FileNotFoundError):
            return os.path.samestat(self._temporary.lstat(), status)
        return False

    def _remove_others(self) -> None:
        """Remove temporary files of other commands that wrote to the same path, unless they are in use."""
        is_part = re.compile(re.escape(temporary_prefix(self._path)) + r"[0-9a-f]{16}\.part").fullmatch
        for name in os.listdir(self._path.parent):  # noqa: PTH208
            other = self._path.parent / name
            if is_part(name) and other != self._temporary:
                with suppress(OSError):
                    descriptor = os.open(other, os.O_RDWR | NO_FOLLOW)
                    if lock(descriptor):
                        other.unlink()
                    os.close(descriptor)

    def _failure(self, error: OSError) -> OutputError:
        return OutputError(f"{shown(self._path)} cannot be written{reason(error)}; choose another --out")


def lock(descriptor: int) -> bool:
    """Lock an open file for this process; returns whether no other has it. Without effect on some file systems."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # a file system without locks
        return True
    return True
