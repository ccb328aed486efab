"""What can go wrong, by whose fault, and the exit code of each."""

from __future__ import annotations

import os
import re

EXIT_DONE = 0
EXIT_FAULT = 1
EXIT_USER = 2
EXIT_INTERRUPTED = 75


def counted(count: int, noun: str) -> str:
    """A number with its noun in messages: 1 thread, 3,000 rows."""
    return f"{count:,} {noun}{'s' * (count != 1)}"


class MpigmmError(Exception):
    """A fault of ours, unless a subclass says otherwise."""

    exit_code = EXIT_FAULT


class UserError(MpigmmError):
    """Something that the user or the machine's keeper can mend; the message says how."""

    exit_code = EXIT_USER


class ConfigError(UserError):
    """A configuration key, an override or a command-line value that cannot be used."""


class DataError(UserError):
    """Rows, weights or an input file that cannot be used."""


class OutputError(UserError):
    """A place to write to that cannot be written to."""


class DegenerateError(UserError):
    """A component that no repair could save under the options given."""


class InterruptedRunError(MpigmmError):
    """The run was asked to stop, and can be taken up again."""

    exit_code = EXIT_INTERRUPTED


class AgreedError(MpigmmError):
    """The one error that all ranks have agreed to end with.

    Parameters
    ----------
    message : str
        What root prints.
    exit_code : int
        What every rank exits with.
    """

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code


def shown(path: object) -> str:
    """A path or name for a message: control characters, such as line feeds, escaped as by repr, without quotes."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in str(path))


def reason(error: BaseException) -> str:
    """The operating system's words for an error in brackets, after a space; empty where the fault is not its own.

    HDF5 quotes them, if at all, amid words of its own that mean nothing to a user.
    """
    quoted = re.search("error message = '([^']*)'", str(error))
    number = getattr(error, "errno", None)
    words = quoted[1] if quoted else os.strerror(number) if number else ""
    return f" ({words})" if words else ""
