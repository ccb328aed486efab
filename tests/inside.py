"""Commands that are run in the test's own process."""

from __future__ import annotations

from mpigmm.__main__ import serve
from mpigmm.errors import AgreedError
from mpigmm.parallel.comm import Comm
from mpigmm.parallel.stop import StopRequest


def run_verb(comm: Comm, *arguments: str) -> tuple[int, str]:
    """Run a command: its exit code, and the message that all ranks agreed on."""
    try:
        return serve(comm, list(arguments), StopRequest()), ""
    except AgreedError as error:
        return error.exit_code, str(error)
