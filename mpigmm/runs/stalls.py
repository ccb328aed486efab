"""A mark in the run's directory by which two starts in a row that saved nothing are noticed."""

from __future__ import annotations

import hashlib
from contextlib import suppress
from pathlib import Path

from mpigmm.data.files import write_whole
from mpigmm.errors import OutputError, UserError, shown

STALLED = ".stalled"
"""Name of the mark. It exists where the last start ran out of time before it saved anything, and holds the SHA-256 of
the start's configuration."""


def note_stall(directory: Path, config: str, told: str) -> None:
    """Leave the mark of a start that ran out of time before it saved anything.

    Parameters
    ----------
    directory : Path
        The run's directory.
    config : str
        The start's configuration.
    told : str
        What the start lacked, and the remedy, for the error's message.

    Raises
    ------
    UserError
        Where the start before left a mark with the same configuration: a job that the batch system queues again by
        itself would otherwise start and stop for ever.
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
