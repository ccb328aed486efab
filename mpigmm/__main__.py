"""``python -m mpigmm``: the guard that ends all ranks together, and the verbs' modules behind it."""

from __future__ import annotations

import sys
import traceback
from contextlib import suppress
from importlib import import_module
from typing import TYPE_CHECKING, NoReturn

from mpigmm.errors import EXIT_FAULT, AgreedError, MpigmmError
from mpigmm.options import BenchOrder, FitOrder, InspectOrder, Order, PlanOrder, PredictOrder, ScoreOrder
from mpigmm.parallel.launcher import end_with_parent, launched
from mpigmm.parallel.stop import StopRequest

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
    if not QUESTIONS.isdisjoint(sys.argv[1:]) and launched()[1] == 1:
        answer(sys.argv[1:])
    stop = StopRequest()
    stop.listen()
    end_with_parent()
    try:
        from mpigmm.parallel.comm import Comm
    except MpigmmError as error:
        say(str(error))
        sys.exit(error.exit_code)
    comm = Comm()
    code = guard(comm, sys.argv[1:], stop)
    stop.ignore()
    comm.finish(code)
    sys.exit(code)


def answer(arguments: list[str]) -> None:
    """Print help or the version and end, without MPI, which takes longer to start than to answer."""
    from mpigmm.cli import parse

    with suppress(MpigmmError):
        order, code = parse(arguments)
        if order is None:
            sys.exit(code)


def guard(comm: Comm, arguments: list[str], stop: StopRequest) -> int:
    """Serve, and end all ranks together whatever happens; returns the exit code. Collective."""
    try:
        code = serve(comm, arguments, stop)
        sys.stdout.flush()
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
            sys.stderr.write(f"mpigmm: rank {comm.rank} failed:\n{traceback.format_exc()}")
            sys.stderr.flush()
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
    from mpigmm.cli import parse

    try:
        comm.check_launcher()
        return parse(arguments)
    except MpigmmError as error:
        say(str(error))
        return None, error.exit_code


def say(text: str) -> None:
    """A message for the user, each line of it marked as ours."""
    if text:
        print("\n".join(f"mpigmm: {line}" for line in text.splitlines()), file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
