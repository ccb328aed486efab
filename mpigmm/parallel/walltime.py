"""The time that a run may take, and whether another iteration fits into what is left of it."""

from __future__ import annotations

import math
import os
import re
import time
from collections import deque

RESERVE_SECONDS = 2.0
"""The program stops this long before the end of its time, to end MPI and the process."""

MARGIN = 1.25
"""An iteration is assumed to take at most this many times as long as the slowest of the last ten."""

END_TIME = "SLURM_JOB_END_TIME"
"""Environment variable with the end of the job, in seconds since 1970. Newer versions of SLURM set it, 22.05 does
not."""


def seconds_left(walltime: int | None) -> tuple[float, str | None]:
    """Seconds from now until the run has to have ended.

    Parameters
    ----------
    walltime : int or None
        Seconds that the user grants the run; None where there is no limit.

    Returns
    -------
    seconds : float
        The smaller of `walltime` and what the batch system leaves; infinite without a limit.
    problem : str or None
        Why the batch system's limit is ignored, where it is.
    """
    left = math.inf if walltime is None else float(walltime)
    end = os.environ.get(END_TIME, "")
    if not re.fullmatch(r"[0-9]{1,15}", end):
        return left, None
    job = int(end) - time.time()
    if job <= 0:
        # The limit of a running job can be raised, its environment cannot.
        return left, f"{END_TIME} has passed and is ignored"
    return min(left, job), None


def too_short(spent: float, needed: float | None) -> str:
    """A text that says how much time a job had and how much it needs.

    Parameters
    ----------
    spent : float
        Seconds from the beginning of the job to its end.
    needed : float or None
        Seconds from its beginning to the end of its first iteration, where they can be estimated.
    """
    had = math.ceil(spent + RESERVE_SECONDS)
    want = f"more than {had} s" if needed is None else f"about {MARGIN * needed + RESERVE_SECONDS:.0f} s"
    return f"this start had {had} s, and to get further it needs {want}"


class Allowance:
    """Judges on root whether there is time for one more iteration.

    Attributes
    ----------
    deadline : float
        When the run has to have stopped, on the clock of `time.monotonic`.
    checkpoint : float
        Seconds that the last checkpoint took.
    """

    def __init__(self) -> None:
        self.deadline = math.inf
        self.checkpoint = 0.0
        self._iterations: deque[float] = deque([0.0], maxlen=10)

    def note(self, iteration: float) -> None:
        """Record the seconds that an iteration took."""
        self._iterations.append(iteration)

    def is_spent(self) -> bool:
        """Whether an iteration that began now, and the checkpoint after it, might not end before the deadline."""
        return time.monotonic() + MARGIN * (max(self._iterations) + self.checkpoint) > self.deadline
