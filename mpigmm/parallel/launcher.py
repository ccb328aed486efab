"""The launcher that started this process, as environment variables describe it, and errors in loading MPI."""

from __future__ import annotations

import os
import re
import threading
import time

from mpigmm.errors import EXIT_INTERRUPTED

WATCH_SECONDS = 1.0

NOT_FOUND = re.compile(r"cannot load MPI library|lib\w*mpi\S*: cannot open|undefined symbol: MPI_Get_version")
"""Lines of mpi4py's error for a library that does not exist or is not one of MPI."""

SIZE_VARIABLES = ("OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "MPI_LOCALNRANKS", "SLURM_STEP_NUM_TASKS")
RANK_VARIABLES = ("OMPI_COMM_WORLD_RANK", "PMI_RANK", "MPI_LOCALRANKID", "SLURM_PROCID")

PREFIXES = ("OMPI_", "PMIX_", "PRTE_", "PMI_", "MPI_", "MPIR_", "HYD", "MV2_", "SLURM_")
"""Beginnings of environment variables by which MPI would take a process for a rank."""

LOCAL_SIZE_VARIABLES = ("OMPI_COMM_WORLD_LOCAL_SIZE", "MPI_LOCALNRANKS")
"""Environment variables with the number of processes on this node: of Open MPI, and of MPICH and its relatives."""


def whole_number(text: str) -> int | None:
    """The value of a text of one to nine decimal digits; None for any other text."""
    return int(text) if re.fullmatch(r"[0-9]{1,9}", text) else None


def launched() -> tuple[int, int]:
    """Rank and number of processes in the launcher's environment variables; (0, 1) without a launcher."""
    for size_name, rank_name in zip(SIZE_VARIABLES, RANK_VARIABLES, strict=True):
        size, rank = (whole_number(os.environ.get(name, "")) for name in (size_name, rank_name))
        if size is not None and rank is not None:
            return rank, size
    return 0, 1


def without_launcher() -> dict[str, str]:
    """The environment without a launcher's variables."""
    return {name: value for name, value in os.environ.items() if not name.startswith(PREFIXES)}


def forget_launcher() -> None:
    """Remove a launcher's variables from the environment of this process.

    A library that loads MPI, as some builds of h5py do, then finds one process, and does not wait for others.
    """
    for name in os.environ.keys() - without_launcher().keys():
        del os.environ[name]


def launched_on_node() -> int | None:
    """Number of processes that the launcher started on this node; None where it does not tell."""
    for name in LOCAL_SIZE_VARIABLES:
        size = whole_number(os.environ.get(name, ""))
        if size:
            return size
    return slurm_tasks(os.environ.get("SLURM_STEP_TASKS_PER_NODE", ""), os.environ.get("SLURM_NODEID", ""))


def slurm_tasks(per_node: str, node: str) -> int | None:
    """Tasks of a SLURM step on the node with this number, from a list such as ``4(x2),3``; None where it is not one."""
    counts: list[int] = []
    for part in per_node.split(","):
        found = re.fullmatch(r"([0-9]{1,6})(?:\(x([0-9]{1,6})\))?", part)
        if found is None:
            return None
        counts += [int(found[1])] * int(found[2] or 1)
    number = whole_number(node)
    return counts[number] if number is not None and number < len(counts) else None


def why_not_loaded(error: Exception) -> str:
    """Why mpi4py could not be loaded, in one line: its own error lists every library that it has tried."""
    if isinstance(error, ModuleNotFoundError):
        return f"{error.name} is not installed"
    lines = [line for line in str(error).splitlines() if line and not NOT_FOUND.search(line)]
    return re.sub(r"[^\s'(]*/", "", lines[-1]) if lines else "no library of MPI is found"


def end_with_parent() -> None:
    """Start a thread that ends this process soon after its parent has ended, if a launcher started it.

    Where a launcher is killed, some ranks may end with it, and the others would wait for them in a collective call for
    ever. A process without a launcher may outlive its parent, a shell.
    """
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(WATCH_SECONDS)
        os._exit(EXIT_INTERRUPTED)

    if any(name in os.environ for name in RANK_VARIABLES):
        threading.Thread(target=watch, daemon=True).start()
