"""``output.dir``, the directory of a run: root creates it, locks it and writes to it."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import stat
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from threading import Lock
from typing import Any

from mpigmm.data.files import NO_FOLLOW, cannot_write, remedy, remove_leftovers, write_whole
from mpigmm.errors import DataError, OutputError, reason, shown
from mpigmm.runs.owned import CHECKPOINTS, CONFIG, MODEL, OUTPUTS, SUMMARY, beginning, foreign_files, has_mark, marked

LOCK_SECONDS = 10.0
LOCK, HOLDER = ".lock", b"process "

IN_USE: set[str] = set()
"""Directories that runs of this process use. The lock of a file belongs to the whole process, and is lost when any of
its threads closes the file."""

IN_USE_LOCK = Lock()


class RunDirectory:
    """The directory of a run, which is locked for as long as the run uses it.

    Parameters
    ----------
    path : str
        Path of the directory, which is created if it does not exist.
    config : str
        Path of the config file that the user gave, which is not overwritten if it is in the directory.

    Raises
    ------
    OutputError
        Where the directory cannot be created, written to or locked, or files in it have names of a run's files but
        were not written by one.
    """

    def __init__(self, path: str, config: str = "") -> None:
        self.path = Path(path)
        self._lock, self._keeps_config = -1, False
        self._refused: OutputError | None = None
        self._place = os.path.realpath(path)
        self._enter()
        try:
            self._open(Path(config))
        except BaseException:
            self.close()
            raise

    def _enter(self) -> None:
        """Raise `OutputError` where another thread of this process uses the directory."""
        with IN_USE_LOCK:
            if self._place in IN_USE:
                raise self._is_in_use("a thread of this process")
            IN_USE.add(self._place)

    def _is_in_use(self, holder: str) -> OutputError:
        return OutputError(
            f"output.dir: {shown(self.path)} is in use by another run ({holder}); wait for it to end, or choose "
            "another output.dir"
        )

    def _open(self, config: Path) -> None:
        """Create and lock the directory; raises `OutputError`."""
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self._keeps_config = self._lies_here(config, CONFIG) and not has_mark(beginning(config))
            self._refuse_foreign()
            self._lock = self._open_lock()
        except OSError as error:
            self._refused = OutputError(
                f"output.dir: {shown(self.path)} cannot be written to{reason(error)}; {remedy(error)}"
            )
            if error.errno not in (errno.EACCES, errno.EPERM, errno.EROFS) or not self.path.is_dir():
                raise self._refused from None
        else:
            self._take_lock()

    def __truediv__(self, name: str) -> Path:
        return self.path / name

    def close(self) -> None:
        """Unlock the directory."""
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1
        IN_USE.discard(self._place)

    def check_writable(self) -> None:
        """Raise `OutputError` where the directory cannot be written to; for runs that are not complete already."""
        if self._refused is not None:
            raise self._refused

    def check_inputs(self, paths: Sequence[str]) -> None:
        """Raise `OutputError` where the run would overwrite a file that it reads rows from."""
        for path in paths:
            for name in OUTPUTS:
                if self._lies_here(Path(path), name):
                    raise OutputError(
                        f"data.path: {shown(path)} is a file that the run would replace; choose another output.dir"
                    )

    def is_model(self, path: str | None) -> bool:
        """Whether the path, of ``init.file``, leads to the model of this run."""
        return path is not None and self._lies_here(Path(path), MODEL)

    def clear(self, keep_model: bool) -> None:
        """Remove the checkpoints and results of an earlier run; its model only if `keep_model` is false."""
        for name in (*CHECKPOINTS, SUMMARY, *([] if keep_model else [MODEL])):
            try:
                (self / name).unlink(missing_ok=True)
            except OSError as error:
                raise cannot_write(self / name, error) from None

    def write_config(self, config: str) -> None:
        """Write the configuration with all defaults filled in, unless the user's own config file is in its place."""
        if not self._keeps_config:
            write_whole(self / CONFIG, marked(config))

    def write_json(self, name: str, value: dict[str, Any]) -> None:
        """Write a JSON file."""
        write_whole(self / name, json.dumps(value, indent=2).encode() + b"\n")

    def read_json(self, name: str) -> dict[str, Any]:
        """The content of a JSON file; raises `DataError`."""
        try:
            content: dict[str, Any] = json.loads((self / name).read_bytes())
        except (OSError, ValueError) as error:
            raise DataError(f"{shown(self / name)} cannot be read{reason(error)}; remove it") from None
        return content

    def _lies_here(self, path: Path, name: str) -> bool:
        """Whether a path leads, by links or not, to the file of this name in the directory."""
        own = self / name
        if path.exists() and own.exists():
            return path.samefile(own)
        return path.resolve() == own.resolve()

    def _refuse_foreign(self) -> None:
        found = [name for name in foreign_files(self.path) if not (name == CONFIG and self._keeps_config)]
        if found:
            raise OutputError(
                f"output.dir: {shown(self.path)} holds {', '.join(found)}, which mpigmm did not write or somebody has "
                f"changed; move {'it' if len(found) == 1 else 'them'} away, or choose another output.dir"
            )

    def _open_lock(self) -> int:
        descriptor = os.open(self / LOCK, os.O_RDWR | os.O_CREAT | NO_FOLLOW, 0o666)
        begin = os.pread(descriptor, len(HOLDER), 0) if stat.S_ISREG(os.fstat(descriptor).st_mode) else b"?"
        if begin not in (b"", HOLDER):
            os.close(descriptor)
            raise OutputError(
                f"output.dir: {shown(self / LOCK)} is no lock of mpigmm's; move it away, or choose another output.dir"
            )
        return descriptor

    def _take_lock(self) -> None:
        deadline = time.monotonic() + LOCK_SECONDS
        while True:
            try:
                fcntl.lockf(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except (BlockingIOError, PermissionError):
                if time.monotonic() > deadline:
                    raise self._is_in_use(shown(self._holder())) from None
                time.sleep(0.2)
            except OSError:
                return  # a file system without locks
        job = os.environ.get("SLURM_JOB_ID")
        holder = f"process {os.getpid()} on {os.uname().nodename}" + (f", job {job}" if job else "")
        with suppress(OSError):  # on a full disk it stays without a name
            os.ftruncate(self._lock, 0)
            os.pwrite(self._lock, holder.encode(), 0)
        for name in OUTPUTS:
            remove_leftovers(self / name)

    def _holder(self) -> str:
        return os.pread(self._lock, 1000, 0).decode("utf-8", "replace").strip() or "unknown"
