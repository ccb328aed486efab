"""What the environment tells of the program that started this process, and of the MPI that it finds."""

from __future__ import annotations

import os
import re
import threading
import time

from mpigmm.errors import EXIT_INTERRUPTED

WATCH_SECONDS = 1.0

NOT_FOUND = re.compile(r"cannot load MPI library|lib\w*mpi\S*: cannot open|undefined symbol: MPI_Get_version")
"""Lines of mpi4py's for a library that is not there, or is none of MPI."""

SIZE_VARIABLES = ("OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "MPI_LOCALNRANKS", "SLURM_STEP_NUM_TASKS")
RANK_VARIABLES = ("OMPI_COMM_WORLD_RANK", "PMI_RANK", "MPI_LOCALRANKID", "SLURM_PROCID")


def whole_number(text: str) -> int | None:
    """A whole number as launchers and batch systems write one, of nine digits at most; None for anything else."""
    return int(text) if re.fullmatch(r"[0-9]{1,9}", text) else None


def launched() -> tuple[int, int]:
    """Rank and number of processes as the launcher counts them; (0, 1) without a launcher."""
    for size_name, rank_name in zip(SIZE_VARIABLES, RANK_VARIABLES, strict=True):
        size, rank = (whole_number(os.environ.get(name, "")) for name in (size_name, rank_name))
        if size is not None and rank is not None:
            return rank, size
    return 0, 1


def why_not_loaded(error: Exception) -> str:
    """What mpi4py says that a user can act on: it lists every name and folder in which it looked for a library."""
    if isinstance(error, ModuleNotFoundError):
        return f"{error.name} is not installed"
    lines = [line for line in str(error).splitlines() if line and not NOT_FOUND.search(line)]
    return re.sub(r"[^\s'(]*/", "", lines[-1]) if lines else "no library of MPI is found"


def end_with_parent() -> None:
    """Under a launcher, end this process soon after its parent has gone.

    A rank that waits in a collective for peers which a killed launcher took with it would wait for ever. Nothing is
    watched without a launcher: a process started alone may outlive its shell.
    """
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(WATCH_SECONDS)
        os._exit(EXIT_INTERRUPTED)

    if any(name in os.environ for name in RANK_VARIABLES):
        threading.Thread(target=watch, daemon=True).start()
