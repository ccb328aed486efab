"""``python -m mpigmm``: the guard that ends all ranks together, and the verbs' modules behind it."""

from __future__ import annotations

import io
import sys
import traceback
from contextlib import redirect_stderr, redirect_stdout
from importlib import import_module
from typing import TYPE_CHECKING, NoReturn

from mpigmm.errors import EXIT_FAULT, AgreedError, MpigmmError
from mpigmm.options import BenchOrder, FitOrder, InspectOrder, Order, PlanOrder, PredictOrder, ScoreOrder
from mpigmm.parallel.launcher import end_with_parent, launched
from mpigmm.parallel.stop import StopRequest
from mpigmm.runs.streams import finish_streams, prepare_streams, print_result, write_message

if TYPE_CHECKING:
    from mpigmm.parallel.comm import Comm

VERBS = {
    FitOrder: "fit",
    PredictOrder: "predict",
    ScoreOrder: "score",
    PlanOrder: "plan",
    InspectOrder: "inspect",
    BenchOrder: "bench",
}

QUESTIONS = {"--help", "--version"}


def main() -> NoReturn:
    """Run the command line on all ranks; ends the process with the contract's exit code."""
    prepare_streams()
    arguments = sys.argv[1:]
    code = answer(arguments)
    if code is None:
        code = run(arguments)
    finish_streams()
    sys.exit(code)


def answer(arguments: list[str]) -> int | None:
    """Print help or the version, without MPI, which takes longer to start than to answer; the exit code, or None where
    something else is asked for."""
    if QUESTIONS.isdisjoint(arguments) or launched()[1] > 1:
        return None
    order, code = parsed(arguments)
    return code if order is None else None


def run(arguments: list[str]) -> int:
    """Start MPI, serve, and end it; returns the exit code. Collective."""
    stop = StopRequest()
    stop.listen()
    end_with_parent()
    try:
        from mpigmm.parallel.comm import Comm
    except MpigmmError as error:
        say(str(error))
        return error.exit_code
    comm = Comm(memory_remedy="lower compute.memory or use more nodes")
    code = guard(comm, arguments, stop)
    stop.ignore()
    comm.finish(code)
    return code


def parsed(arguments: list[str]) -> tuple[Order | None, int]:
    """What the command line asks for, or nothing and an exit code, once help or a mistake has been told."""
    from mpigmm.cli import parse

    helped, mistakes = io.StringIO(), io.StringIO()
    try:
        with redirect_stdout(helped), redirect_stderr(mistakes):
            order, code = parse(arguments)
        if mistakes.getvalue():
            write_message(mistakes.getvalue().rstrip("\n"))
        if helped.getvalue():
            print_result(helped.getvalue().rstrip("\n"))
    except MpigmmError as error:
        say(str(error))
        return None, error.exit_code
    return order, code


def guard(comm: Comm, arguments: list[str], stop: StopRequest) -> int:
    """Serve, and end all ranks together whatever happens; returns the exit code. Collective."""
    try:
        code = serve(comm, arguments, stop)
    except AgreedError as error:
        if comm.is_root:
            say(str(error))
        code = error.exit_code
    except BaseException as error:
        # Nobody agreed to this one: the other ranks may be waiting for us.
        code = EXIT_FAULT
        if isinstance(error, MpigmmError):
            code = error.exit_code
            say(str(error))
        else:
            write_message(f"mpigmm: rank {comm.rank} failed:\n{traceback.format_exc().rstrip()}")
        if comm.size > 1:
            comm.abort(code)
    return code


def serve(comm: Comm, arguments: list[str], stop: StopRequest) -> int:
    """Root reads the command line, all ranks carry out the order; returns the exit code. Collective."""
    order, code = comm.bcast(read_order(comm, arguments) if comm.is_root else None)
    if order is None:
        return code
    # Imported here, so that no verb pays for another.
    verb = import_module(f"mpigmm.commands.{VERBS[type(order)]}")
    return int(verb.run(comm, order, stop))


def read_order(comm: Comm, arguments: list[str]) -> tuple[Order | None, int]:
    """What the command line asks for, or nothing and an exit code. Root alone."""
    try:
        comm.check_launcher()
    except MpigmmError as error:
        say(str(error))
        return None, error.exit_code
    return parsed(arguments)


def say(text: str) -> None:
    """A message for the user, each line of it marked as ours."""
    if text:
        write_message("\n".join(f"mpigmm: {line}" for line in text.splitlines()))


if __name__ == "__main__":
    main()
