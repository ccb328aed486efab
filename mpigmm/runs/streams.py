"""Standard output and standard error, either of which may be closed, on a full disk, or a pipe without a reader.

A message that cannot be written is dropped: no run ends because its batch log is full. A result that cannot be written
is an error.
"""

from __future__ import annotations

import io
import os
import signal
import sys
from contextlib import suppress

from mpigmm.errors import OutputError

STREAM_ERRORS = (OSError, ValueError)
"""Exceptions of a write; `ValueError` where the stream is closed."""


def prepare_streams() -> None:
    """Make standard error writable, and occupy the descriptors of standard streams that are closed.

    A file that is opened later would otherwise get the descriptor 1 or 2, and messages of C libraries would be written
    into it. `sys.stdout` stays None where standard output is closed, so that `print_result` raises an error.
    """
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest descriptor that is free, which is this one
    if sys.stderr is None:
        sys.stderr = open(2, "w", closefd=False)  # noqa: SIM115
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")


def write_message(text: str) -> None:
    """Write lines to standard error; they are dropped where that fails."""
    with suppress(*STREAM_ERRORS):
        print(text, file=sys.stderr, flush=True)


def write_to_terminal(text: str) -> None:
    """Write lines to the terminal that the process was started from, if it was and standard error is another file."""
    if sys.stderr is not None and sys.stderr.isatty():
        return
    signal.signal(signal.SIGTTOU, signal.SIG_IGN)  # would stop a process in the background
    with suppress(*STREAM_ERRORS), open("/dev/tty", "w") as terminal:
        print(f"\n{text}", file=terminal)


def print_result(text: str) -> None:
    """Write lines to standard output; raises `OutputError`."""
    try:
        if sys.stdout is None:
            raise ValueError("it is closed")
        print(text, flush=True)
    except STREAM_ERRORS as error:
        reason = (isinstance(error, OSError) and error.strerror) or error
        raise OutputError(
            f"the result cannot be written to standard output ({reason}); send it elsewhere, and run the same command "
            "again"
        ) from None


def finish_streams() -> None:
    """Flush both streams and drop what cannot be written: else Python tries again at its end, and exits with 120."""
    for stream in (sys.stdout, sys.stderr):
        if stream is None:
            continue
        try:
            stream.flush()
        except STREAM_ERRORS:
            with suppress(*STREAM_ERRORS):
                nowhere = os.open(os.devnull, os.O_WRONLY)
                os.dup2(nowhere, stream.fileno())
                os.close(nowhere)
