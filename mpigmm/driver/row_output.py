"""A file with an entry for each row, which all ranks write together, and which an interrupted command goes on with."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

from mpigmm.data.output import Content, RowWriter
from mpigmm.data.unfinished import UnfinishedFile
from mpigmm.errors import AgreedError, DataError, InterruptedRunError, OutputError, shown
from mpigmm.parallel.comm import Comm
from mpigmm.parallel.stop import StopRequest
from mpigmm.runs.hdf5 import outline
from mpigmm.runs.row_progress import RowProgress
from mpigmm.version import __version__


@dataclass(frozen=True)
class RowOutput:
    """What a verb writes, as root describes it.

    Attributes
    ----------
    verb : str
        Its name; the file has the attribute ``format`` with the value ``mpigmm-`` and this name.
    path : str
        Name of the file.
    overwrite : bool
        Whether to replace a file that the verb did not write.
    content : Content
        To which the attribute ``format`` is added.
    inputs : sequence of str
        Files from which the content is made. They are not overwritten, and if one of them has changed, the content that
        an interrupted command has left is not used.
    job : str
        All else that the entries depend on.
    n_parts : int
        Number of parts of the work: an interrupted command goes on with those that are not finished.
    """

    verb: str
    path: str
    overwrite: bool
    content: Content
    inputs: Sequence[str]
    job: str
    n_parts: int

    def check(self, check: Callable[[], None]) -> None:
        """Raise `OutputError` where the file cannot be written, is an input, or is not what the verb wrote before."""
        check_out(self.verb, self.path, self.inputs, check, overwrite=self.overwrite)

    def open(self) -> UnfinishedFile:
        """The file under its temporary name; raises `OutputError`."""
        content = replace(self.content, attributes={"format": format_of(self.verb), **self.content.attributes})
        described = [__version__, self.job, self.n_parts, content, [*map(stamp, self.inputs)]]
        return UnfinishedFile(self.path, repr(described), content, self.n_parts)


def stamp(path: str) -> tuple[str, int, int]:
    """Name, size and time of the last change of a file; raises `DataError`."""
    try:
        status = os.stat(path)  # noqa: PTH116
    except OSError:
        raise DataError(f"{shown(path)} was removed while it was being read; restore it") from None
    return os.path.realpath(path), status.st_size, status.st_mtime_ns


def format_of(verb: str) -> str:
    """Value of the attribute ``format``, by which a verb knows a file that it wrote."""
    return f"mpigmm-{verb}"


@contextmanager
def writing_rows(comm: Comm, output: RowOutput | None, stop: StopRequest) -> Iterator[RowWriter]:
    """A context in which all ranks write the rows of a file, which has its name once all have ended. Collective.

    After an interruption the finished parts are kept for the same command to go on with; where the disk is full, those
    of which a note was taken, which are none in the first seconds.
    Raises `AgreedError`; so must the work in the context, by ``comm.together()`` for example.

    Parameters
    ----------
    comm
    output : RowOutput or None
        On root; None on the others.
    stop
    """
    unfinished, is_new = None, False
    with comm.together():
        if output is not None:
            output.check(stop.check)
            is_new = not os.path.lexists(output.path)
            unfinished = output.open()
    stop.advice = "run the same command again to go on"
    step = None if output is None else RowProgress(output.verb, stop.pace).step
    writer = RowWriter(comm.bcast(None if unfinished is None else unfinished.file), step)
    try:
        with comm.together():
            writer.open()
        yield writer
        with comm.together():
            if unfinished is not None and writer.attributes:
                unfinished.set_attributes(writer.attributes)
            writer.flush()
    except AgreedError as error:
        if issubclass(error.kind, InterruptedRunError):
            with suppress(OutputError):
                writer.flush()
        has_notes = any(comm.allgather(writer.has_notes))
        if unfinished is not None:
            raise kept_or_discarded(error, unfinished, is_useful=has_notes) from None
        raise
    finally:
        writer.close()
    try:
        with comm.together():
            if output is not None and unfinished is not None:
                publish(output, unfinished, stop.check, is_new=is_new)
    except AgreedError as error:
        if unfinished is not None:
            raise kept_or_discarded(error, unfinished, is_useful=unfinished.has_ledger) from None
        raise


def kept_or_discarded(error: AgreedError, unfinished: UnfinishedFile, *, is_useful: bool) -> AgreedError:
    """The error that ends the work, after the temporary file was removed or, where the same command can go on with it,
    kept; `is_useful` says whether a part of the work is noted as finished."""
    if not issubclass(error.kind, (InterruptedRunError, OutputError)) or not is_useful:
        unfinished.discard()
        return error
    unfinished.close()
    if issubclass(error.kind, InterruptedRunError):
        return error
    kept = (
        f"{error}; what is written is kept in {shown(unfinished.file.temporary)}, and the same command goes on from it"
    )
    return AgreedError(kept, error.kind)


def publish(output: RowOutput, unfinished: UnfinishedFile, check: Callable[[], None], *, is_new: bool) -> None:
    """Give the finished file its final name.

    Raises `OutputError` where a file that `RowOutput.check` refuses has taken the name since the command began.
    """
    if not is_new or output.overwrite or not unfinished.publish_new():
        output.check(check)
        unfinished.publish()


def check_out(verb: str, path: str, inputs: Sequence[str], check: Callable[[], None], *, overwrite: bool) -> None:
    """Raise `OutputError` where ``--out`` cannot be written, is an input, or is not what the verb wrote before."""
    out, name = Path(path), shown(path)
    if not out.name or (out.exists() and not out.is_file()):
        raise OutputError(f"--out {path!r} is not the name of a file; name the HDF5 file to write")
    if not out.parent.is_dir():
        raise OutputError(
            f"--out {name} cannot be written: {shown(out.parent)} is no directory; make it, or choose another"
        )
    for each in inputs if out.exists() else ():
        if os.path.exists(each) and out.samefile(each):  # noqa: PTH110
            raise OutputError(f"--out {name} would overwrite the input {shown(each)}; choose another name")
    if out.exists() and not overwrite and not is_own(verb, out, check):
        raise OutputError(
            f"--out {name} exists, and is not what {verb} wrote before; choose another name, or add --overwrite to "
            "replace it"
        )


def is_own(verb: str, path: Path, check: Callable[[], None]) -> bool:
    """Whether a file is empty or was written by a verb, which version 0.1.0 did without the attribute ``format``."""
    if not path.stat().st_size:
        return True
    try:
        found = outline(path, check)
    except DataError:
        return False
    without_mark = set(found.attributes) == {"model"} and {"/labels", "/log_density"} <= set(found.datasets)
    return found.attributes.get("format") == format_of(verb) or (verb == "predict" and without_mark)
