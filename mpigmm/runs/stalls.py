"""A mark file in the directory of a run, to notice that two jobs in a row ran out of time and saved nothing new."""

from __future__ import annotations

import hashlib
from contextlib import suppress
from pathlib import Path

from mpigmm.data.files import write_whole
from mpigmm.errors import OutputError, UserError, shown

STALLED = ".stalled"
"""Name of the mark file, which contains the SHA-256 of the job's configuration.

It exists if the last job ran out of time before it saved anything."""


def note_stall(directory: Path, config: str, told: str) -> None:
    """Write the mark of a job that ran out of time before it saved anything.

    Parameters
    ----------
    directory : Path
        The run's directory.
    config : str
        The job's configuration.
    told : str
        The reason and the remedy, for the error's message.

    Raises
    ------
    UserError
        If the previous job left a mark with the same configuration. Otherwise a job that the batch system queues again
        by itself would start and stop for ever.
    """
    mark, digest = directory / STALLED, hashlib.sha256(config.encode()).hexdigest().encode()
    if is_stalled(mark, digest):
        raise UserError(f"{shown(directory)}: two starts in a row have saved nothing new: {told}")
    with suppress(OutputError):
        write_whole(mark, digest)


def is_stalled(mark: Path, digest: bytes) -> bool:
    """Whether the mark exists and holds this digest."""
    try:
        return mark.read_bytes() == digest
    except OSError:
        return False


def forget_stall(directory: Path) -> None:
    """Remove the mark, once something new is saved."""
    with suppress(OSError):
        (directory / STALLED).unlink()
