"""A stream of files: `update` folds in each file that appears in a directory, exactly once."""

from __future__ import annotations

import hashlib
import os
import stat
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from mpigmm.data.file_source import FileHeader, FileSource, natural_key
from mpigmm.data.files import remove_leftovers
from mpigmm.driver.devices import Devices
from mpigmm.driver.fit_rows import with_saved
from mpigmm.driver.update_files import ModelOut, UpdateTask, rows_of, update_text
from mpigmm.driver.update_rows import Updated, update_rows
from mpigmm.errors import EXIT_INTERRUPTED, EXIT_USER, AgreedError, ConfigError, DataError, counted, reason, shown
from mpigmm.parallel.comm import Comm
from mpigmm.parallel.stop import StopRequest
from mpigmm.requests import UpdateRequest
from mpigmm.runs.model import Model
from mpigmm.runs.model_file import load_model
from mpigmm.runs.streams import write_message
from mpigmm.runs.updates import FoldedFile

UNFINISHED = (".tmp", ".part")
"""Ends of the names of files that are being written."""

LEAST_PAUSE, MOST_PAUSE, PAUSE_SHARE = 0.2, 5.0, 10
"""Seconds between two looks at the directory: `PAUSE_SHARE` times those that a look takes, within these bounds."""

LEFTOVER_SECONDS = 600.0
"""A temporary file of the model that was not written to for so long belongs to a killed run."""

CHUNK = 1 << 22
"""Bytes of a file that are read at a time."""


@dataclass(frozen=True)
class Look:
    """What root sees in the directory.

    Attributes
    ----------
    file : FoldedFile or None
        The next file to fold in.
    header : FileHeader or None
        Of its rows.
    is_over : bool
        Whether no file has come for so long that the stream has ended.
    pause : float
        Seconds until the next look.
    """

    file: FoldedFile | None = None
    header: FileHeader | None = None
    is_over: bool = False
    pause: float = LEAST_PAUSE


class Directory:
    """The files of a directory, and which of them are new. Root alone.

    Parameters
    ----------
    path : str
    ledger : iterable of FoldedFile
        The files that were folded in.
    check : callable
        Called repeatedly while a file is read; may raise.
    """

    def __init__(self, path: str, ledger: Iterable[FoldedFile], check: Callable[[], None]) -> None:
        self.path, self._check = Path(path), check
        self._known: dict[str, list[FoldedFile]] = {}
        for file in ledger:
            self.add(file)

    def add(self, file: FoldedFile) -> None:
        """Note that a file was folded in."""
        self._known.setdefault(file.name, []).append(file)

    def next_file(self) -> FoldedFile | None:
        """The first file, in natural order, that was not folded in; raises `DataError`.

        A file is known by its name, size and time of the last change or, where these two differ, by its content.
        """
        for name in self._finished():
            size, mtime = self.status(name)
            known = self._known.get(name, [])
            if size < 0 or any((file.size, file.mtime) == (size, mtime) for file in known):
                continue
            digest = self._digest(name)
            if digest is None:
                continue
            file = FoldedFile(name, size, mtime, digest)
            if not any(old.digest == file.digest for old in known):
                return file
            self.add(file)  # it was touched or copied: it is not read again for that
        return None

    def status(self, name: str) -> tuple[int, int]:
        """Size and time of the last change of a file; (-1, 0) where it is no file, or has been removed."""
        try:
            found = os.stat(self.path / name)  # noqa: PTH116
        except OSError:
            return -1, 0
        return (found.st_size, found.st_mtime_ns) if stat.S_ISREG(found.st_mode) else (-1, 0)

    def is_unchanged(self, file: FoldedFile) -> bool:
        """Whether a file is still what it was."""
        return self.status(file.name) == (file.size, file.mtime)

    def _finished(self) -> list[str]:
        """Names of the files that are not being written, in natural order; raises `DataError`."""
        try:
            names = os.listdir(self.path)  # noqa: PTH208
        except OSError as error:
            raise DataError(f"--watch: {shown(self.path)} cannot be listed{reason(error)}; check the path") from None
        return sorted((name for name in names if name[0] != "." and not name.endswith(UNFINISHED)), key=natural_key)

    def _digest(self, name: str) -> str | None:
        """BLAKE2b of a file's bytes, in hexadecimal; None where it has been removed. Raises `DataError`."""
        digest = hashlib.blake2b(digest_size=16)
        try:
            with open(self.path / name, "rb", buffering=0) as file:
                while chunk := file.read(CHUNK):
                    self._check()
                    digest.update(chunk)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise DataError(
                f"{shown(self.path / name)} cannot be read{reason(error)}; check its permissions, or move it away"
            ) from None
        return digest.hexdigest()


class Stream:
    """Root's side of a stream of files: what is done, and what is to be done.

    Parameters
    ----------
    request : UpdateRequest
    model : Model
        The model to start from.
    out : ModelOut
    check : callable
        As in `Directory`.

    Attributes
    ----------
    model : Model
        With all files so far.
    n_files : int
        Number of the files that this process has folded in.
    """

    def __init__(self, request: UpdateRequest, model: Model, out: ModelOut, check: Callable[[], None]) -> None:
        self._request, self._out = request, out
        directory = str(request.watch)
        check_watched(directory, request.out)
        remove_leftovers(out.path, LEFTOVER_SECONDS)
        self.model, self.n_files = begun_or_resumed(model, out, check), 0
        self._directory = Directory(directory, self.model.updates.files, check)
        self._last = time.monotonic()

    def look(self) -> Look:
        """The next file, or how long to wait for it; raises `UserError`."""
        begin = time.monotonic()
        file = self._directory.next_file()
        if file is not None:
            return Look(file, rows_of(self._request, self.model, str(self._directory.path / file.name)))
        now = time.monotonic()
        pause = min(max(LEAST_PAUSE, PAUSE_SHARE * (now - begin)), MOST_PAUSE)
        left = self._last + float(self._request.idle or 0) - now
        return Look(is_over=left <= 0, pause=min(pause, max(left, 0.0)))

    def fold(self, file: FoldedFile, updated: Updated) -> bool:
        """Write the model with one more file, and tell the user; False where the file was changed meanwhile, and
        nothing is written. Raises `OutputError`."""
        if not self._directory.is_unchanged(file):
            write_message(f"mpigmm: {shown(file.name)} was changed while it was read; it is read again")
            return False
        model = replace(updated.model, updates=self.model.updates.with_file(file))
        self._out.save(model)
        self.model = model
        self._directory.add(file)
        self.n_files, self._last = self.n_files + 1, time.monotonic()
        write_message(f"mpigmm: {shown(file.name)}: {update_text(updated)}")
        return True

    def end(self) -> None:
        """Write the model where no file has come; raises `OutputError`."""
        if not self._out.path.exists():
            self._out.save(self.model)

    @property
    def saved(self) -> str:
        """What is done, as the words that follow a message."""
        if not self._out.path.exists():
            return f"{shown(self._out.path)} is not written yet"
        return f"{shown(self._out.path)} holds {counted(len(self.model.updates.files), 'file')}"


def check_watched(directory: str, out: str) -> None:
    """Raise `ConfigError` where a directory cannot be watched, or holds the model that is written."""
    if not Path(directory).is_dir():
        raise ConfigError(f"--watch {shown(directory)} is no directory; make it, or check the path")
    if Path(out).parent.resolve() == Path(directory).resolve():
        raise ConfigError(
            f"--out {shown(out)} lies in the directory that is watched, and would be read as rows; choose another place"
        )


def begun_or_resumed(model: Model, out: ModelOut, check: Callable[[], None]) -> Model:
    """The model that a stream goes on from: what ``--out`` holds of the same stream, or else the given model.

    Raises `UserError`.
    """
    if out.is_in_place:
        return model
    origin = model.digest()
    if out.path.exists():
        try:
            found = load_model(out.path, check)
        except DataError:
            found = None
        if found is not None and found.updates.origin == origin:
            return found
    out.check(check)
    return replace(model, updates=replace(model.updates, origin=origin))


def watch_files(comm: Comm, request: UpdateRequest, task: UpdateTask, devices: Devices, stop: StopRequest) -> str:
    """Fold in the files of a stream until it ends; returns the result in words on root. Collective; raises
    `AgreedError`."""
    stream = None
    with comm.together():
        if comm.is_root:
            stream = Stream(request, task.model, ModelOut(request), stop.check)
    task = replace(task, model=comm.bcast(None if stream is None else stream.model))
    try:
        while not (look := next_look(comm, stream, stop)).is_over:
            if look.file is None:
                wait(look.pause, stop)
            else:
                task = with_file(comm, stream, task, look, devices, stop)
    except AgreedError as error:
        told = comm.bcast(None if stream is None else told_with(stream, str(error), error.exit_code, stop.advice))
        raise AgreedError(told, error.kind) from None
    with comm.together():
        if stream is not None:
            stream.end()
    return "" if stream is None else f"{stream.saved}, {counted(stream.n_files, 'file')} of them folded in now"


def next_look(comm: Comm, stream: Stream | None, stop: StopRequest) -> Look:
    """What root sees in the directory now. Collective; raises `AgreedError`."""
    look = None
    with comm.together():
        stop.check()
        if stream is not None:
            look = stream.look()
    return comm.bcast(look)


def wait(seconds: float, stop: StopRequest) -> None:
    """Wait so long, or until this rank is asked to stop."""
    end = time.monotonic() + seconds
    while stop.received is None and (left := end - time.monotonic()) > 0:
        time.sleep(min(left, LEAST_PAUSE))


def with_file(
    comm: Comm, stream: Stream | None, task: UpdateTask, look: Look, devices: Devices, stop: StopRequest
) -> UpdateTask:
    """The task with the model after one more file, which root writes. Collective; raises `AgreedError`."""
    assert look.file is not None and look.header is not None
    try:
        updated = update_rows(comm, task.model, FileSource(look.header), task.settings, devices, stop)
    except AgreedError as error:
        raise named(error, look.file) from None
    is_done = None
    with comm.together():
        if stream is not None:
            is_done = stream.fold(look.file, updated)
    return replace(task, model=updated.model) if comm.bcast(is_done) else task


def named(error: AgreedError, file: FoldedFile) -> AgreedError:
    """An error of the user's with a file, whose name is in the message."""
    if error.exit_code != EXIT_USER or shown(file.name) in str(error):
        return error
    return AgreedError(f"{shown(file.name)}: {error}", error.kind)


def told_with(stream: Stream, message: str, exit_code: int, advice: str) -> str:
    """The message of an error, with what is done."""
    if exit_code == EXIT_INTERRUPTED:
        return with_saved(message, f" after {counted(stream.n_files, 'file')}; {stream.saved}", advice)
    return f"{message}; {stream.saved}, and the same command goes on" if exit_code == EXIT_USER else message
