"""The time that a run may take: told by the user or by the batch system, and spent in whole iterations."""

from __future__ import annotations

import hashlib
import math
import os
import re
import time
from collections import deque
from contextlib import suppress
from pathlib import Path

from mpigmm.data.files import write_whole
from mpigmm.errors import OutputError, UserError, shown

RESERVE_SECONDS = 2.0
"""Kept at the end for leaving."""

MARGIN = 1.25
"""An iteration may take this much longer than the longest of the last ones."""

END_TIME = "SLURM_JOB_END_TIME"
"""Seconds since 1970 at which the job will be ended; newer versions of SLURM set it, 22.05 does not."""


def seconds_left(walltime: int | None) -> tuple[float, str | None]:
    """Seconds from now on that ``output.walltime`` and the batch system leave, and a warning where one is in order."""
    left = float("inf") if walltime is None else float(walltime)
    end = os.environ.get(END_TIME, "")
    if not re.fullmatch(r"[0-9]{1,15}", end):
        return left, None
    job = int(end) - time.time()
    if job <= 0:
        # The limit of a running job can be raised, its environment cannot.
        return (
            left,
            f"warning: {END_TIME} has passed and is ignored; set output.walltime if the run is to stop by itself",
        )
    return min(left, job), None


STALLED = ".stalled"
"""In the directory of a run whose last start ended for want of time with nothing new saved: the SHA-256 of its
configuration."""


def too_short(spent: float, needed: float | None) -> str:
    """What to do where a start ended after the seconds spent, and needs others to get further, if they are known."""
    had = math.ceil(spent + RESERVE_SECONDS)
    want = f"more than {had} s" if needed is None else f"about {MARGIN * needed + RESERVE_SECONDS:.0f} s"
    return (
        f"this start had {had} s, and to get further it needs {want}; allow more time (output.walltime, or the limit "
        "of the batch system), or take more ranks"
    )


def note_stall(directory: Path, config: str, told: str) -> None:
    """Note that a start ended for want of time with nothing new saved.

    Raises `UserError` with what is told where the one before did, too, with the same configuration: a job that goes
    back to the queue by itself would do so for ever.
    """
    mark, digest = directory / STALLED, hashlib.sha256(config.encode()).hexdigest().encode()
    if is_stalled(mark, digest):
        raise UserError(f"{shown(directory)}: two starts in a row have saved nothing new: {told}")
    with suppress(OutputError):
        write_whole(mark, digest)


def is_stalled(mark: Path, digest: bytes) -> bool:
    """Whether the start before left the mark with this digest."""
    try:
        return mark.read_bytes() == digest
    except OSError:
        return False


def forget_stall(directory: Path) -> None:
    """Something new was saved."""
    with suppress(OSError):
        (directory / STALLED).unlink()


class Allowance:
    """Root's judgement of whether there is time for one more iteration.

    Attributes
    ----------
    deadline : float
        When to have stopped, on the clock of `time.monotonic`.
    checkpoint : float
        Seconds that the last checkpoint took.
    """

    def __init__(self) -> None:
        self.deadline = math.inf
        self.checkpoint = 0.0
        self._iterations: deque[float] = deque([0.0], maxlen=10)

    def note(self, iteration: float) -> None:
        """Take note of the seconds of an iteration."""
        self._iterations.append(iteration)

    def is_spent(self) -> bool:
        """Whether an iteration begun now, and the checkpoint after it, might not end in time."""
        return time.monotonic() + MARGIN * (max(self._iterations) + self.checkpoint) > self.deadline
