"""Commands that are run in the test's own process."""

from __future__ import annotations

import pytest

from mpigmm.__main__ import serve
from mpigmm.data.output import RowWriter
from mpigmm.errors import AgreedError, InterruptedRunError
from mpigmm.parallel.comm import Comm
from mpigmm.parallel.stop import StopRequest


def run_verb(comm: Comm, *arguments: str) -> tuple[int, str]:
    """Run a command: its exit code, and the message that all ranks agreed on."""
    try:
        return serve(comm, list(arguments), StopRequest()), ""
    except AgreedError as error:
        return error.exit_code, str(error)


class FinishedParts:
    """The parts of the work that this rank finishes, after some of which it is interrupted."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.count, self._most = 0, 10**6
        finish = RowWriter.finish

        def counting(writer: RowWriter, part: int) -> None:
            if self.count >= self._most:
                raise InterruptedRunError("interrupted")
            self.count += 1
            finish(writer, part)

        monkeypatch.setattr(RowWriter, "finish", counting)

    def begin(self, most: int = 10**6) -> None:
        """Count from zero, and interrupt the work after so many parts."""
        self.count, self._most = 0, most
