"""The time that a run may take: told by the user or by the batch system, and spent in whole iterations."""

from __future__ import annotations

import math
import os
import time
from collections import deque

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
    if not end.isdigit():
        return left, None
    job = int(end) - time.time()
    if job <= 0:
        # The limit of a running job can be raised, its environment cannot.
        return (
            left,
            f"warning: {END_TIME} has passed and is ignored; set output.walltime if the run is to stop by itself",
        )
    return min(left, job), None


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
