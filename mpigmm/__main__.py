"""``python -m mpigmm``: reads the command line, runs the verb's module, and ends all ranks together if one fails."""

from __future__ import annotations

import io
import os
import sys
import traceback
from contextlib import redirect_stderr, redirect_stdout
from importlib import import_module
from signal import SIGTERM
from typing import NoReturn, Protocol, TypeVar

from mpigmm.data.malloc import PROCESS
from mpigmm.errors import EXIT_DONE, EXIT_FAULT, AgreedError, MpigmmError
from mpigmm.parallel.launcher import end_with_parent, forget_launcher, launched
from mpigmm.parallel.stop import StopRequest
from mpigmm.requests import (
    BenchRequest,
    ConditionRequest,
    ConvertRequest,
    FitRequest,
    GenerateRequest,
    InspectRequest,
    MergeRequest,
    PlanRequest,
    PlotRequest,
    PredictRequest,
    SampleRequest,
    ScoreRequest,
    SelectRequest,
    UpdateRequest,
    VerbRequest,
)
from mpigmm.runs.streams import finish_streams, prepare_streams, print_result, write_message, write_to_terminal

T = TypeVar("T")

VERBS = {
    FitRequest: "fit",
    SelectRequest: "select",
    PredictRequest: "predict",
    ScoreRequest: "score",
    SampleRequest: "sample",
    GenerateRequest: "generate",
    ConditionRequest: "condition",
    MergeRequest: "merge",
    UpdateRequest: "update",
    ConvertRequest: "convert",
    PlanRequest: "plan",
    InspectRequest: "inspect",
    PlotRequest: "plot",
    BenchRequest: "bench",
}

QUESTIONS = {"--help", "--version"}

WITHOUT_MPI = {"config", "inspect", "merge", "plot"}
"""Verbs that one process carries out without MPI, which takes longer to start."""


class Ranks(Protocol):
    """The part of an `MpiComm` that this module uses; importing that class would load MPI."""

    rank: int
    size: int

    @property
    def is_root(self) -> bool: ...

    def check_launcher(self) -> None: ...

    def bcast(self, value: T | None) -> T: ...

    def abort(self, exit_code: int) -> None: ...


def main() -> NoReturn:
    """Run the command line on all ranks; ends the process with an exit code of `mpigmm.errors`."""
    prepare_streams()
    arguments = sys.argv[1:]
    code = run_alone(arguments) if WITHOUT_MPI.intersection(arguments[:1]) else answer(arguments)
    if code is None:
        code = run(arguments)
    finish_streams()
    sys.exit(code)


def answer(arguments: list[str]) -> int | None:
    """Print help or the version if the command line asks for it, without starting MPI, which takes longer.

    Returns the exit code, or None if the command line asks for something else.
    """
    if QUESTIONS.isdisjoint(arguments) or launched()[1] > 1:
        return None
    request, code = parsed(arguments)
    return code if request is None else None


def run_alone(arguments: list[str]) -> int:
    """Carry out the command line without MPI, on the first of the processes that a launcher may have started.

    The others end at once: launchers accept processes that never start MPI. Returns the exit code.
    """
    rank, size = launched()
    if rank:
        return EXIT_DONE
    stop = StopRequest()
    stop.listen()
    end_with_parent()
    if size > 1:
        forget_launcher()
    PROCESS.is_ours = True
    from mpigmm.parallel.comm import SingleProcess

    code = guard(SingleProcess(), arguments, stop)
    stop.ignore()
    return code


def run(arguments: list[str]) -> int:
    """Start MPI, carry out the command line, and finish MPI; returns the exit code. Collective."""
    stop = StopRequest()
    stop.listen()
    end_with_parent()
    PROCESS.is_ours = True
    try:
        from mpigmm.parallel.mpi import MpiComm
    except MpigmmError as error:
        say(str(error))
        return error.exit_code
    comm = MpiComm(memory_remedy="lower compute.memory or use more nodes")
    code = guard(comm, arguments, stop)
    stop.ignore()
    comm.finish(code)
    return code


def parsed(arguments: list[str]) -> tuple[VerbRequest | None, int]:
    """The request of a command line, or None and the exit code after help or an error message has been printed."""
    from mpigmm.cli import parse

    helped, mistakes = io.StringIO(), io.StringIO()
    try:
        with redirect_stdout(helped), redirect_stderr(mistakes):
            request, code = parse(arguments)
        if mistakes.getvalue():
            write_message(mistakes.getvalue().rstrip("\n"))
        if helped.getvalue():
            print_result(helped.getvalue().rstrip("\n"))
    except MpigmmError as error:
        say(str(error))
        return None, error.exit_code
    return request, code


def guard(comm: Ranks, arguments: list[str], stop: StopRequest) -> int:
    """Carry out the command line and end all ranks together, also after an error; returns the exit code. Collective."""
    try:
        code = serve(comm, arguments, stop)
    except AgreedError as error:
        if comm.is_root:
            say(str(error))
            if is_mute(stop):
                write_to_terminal(f"mpigmm: {error}")
        code = error.exit_code
    except BaseException as error:
        # The other ranks do not know of this error, and may be waiting for this rank in a collective call.
        code = EXIT_FAULT
        if isinstance(error, MpigmmError):
            code = error.exit_code
            say(str(error))
        else:
            write_message(f"mpigmm: rank {comm.rank} failed:\n{traceback.format_exc().rstrip()}")
        if comm.size > 1:
            comm.abort(code)
    return code


def is_mute(stop: StopRequest) -> bool:
    """Whether the launcher drops what this process writes.

    The mpirun of Open MPI 5, which is PRRTE, does so once the user has pressed Ctrl-C; it then sends TERM to all ranks.
    """
    return stop.received is SIGTERM and "PRTE_LAUNCHED" in os.environ


def serve(comm: Ranks, arguments: list[str], stop: StopRequest) -> int:
    """Root reads the command line, all ranks run the verb that it names; returns the exit code. Collective."""
    request, code = comm.bcast(read_request(comm, arguments) if comm.is_root else None)
    if request is None:
        return code
    # Imported here, so that the start of one verb does not wait for the imports of another.
    verb = import_module(f"mpigmm.commands.{VERBS[type(request)]}")
    return int(verb.run(comm, request, stop))


def read_request(comm: Ranks, arguments: list[str]) -> tuple[VerbRequest | None, int]:
    """The request of the command line, or None and an exit code. Root alone."""
    try:
        comm.check_launcher()
    except MpigmmError as error:
        say(str(error))
        return None, error.exit_code
    return parsed(arguments)


def say(text: str) -> None:
    """Write a message to standard error, each line with the name of the program before it."""
    if text:
        write_message("\n".join(f"mpigmm: {line}" for line in text.splitlines()))


if __name__ == "__main__":
    main()
