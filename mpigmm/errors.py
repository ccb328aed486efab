"""Exceptions, each with the exit code of the program."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager

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
    """An error that the user or the administrator of the machine can correct; the message says how."""

    exit_code = EXIT_USER


class ConfigError(UserError, ValueError):
    """A configuration key, an override or a command-line value that cannot be used."""


class DataError(UserError, ValueError):
    """Rows, their weights or an input file that cannot be used."""


class ConstantFeatureError(DataError):
    """A feature with which no covariance is positive definite, since all rows have the same value."""


class ParameterError(ConfigError, TypeError):
    """A parameter of an estimator that cannot be used."""


class InputError(DataError, TypeError):
    """Rows that an estimator cannot use."""


class NotFittedError(UserError, ValueError, AttributeError):
    """An estimator was asked for what only a fit knows."""


class OutputError(UserError):
    """A file, directory or stream that cannot be written."""


class DegenerateError(UserError):
    """A component that no repair could save under the options given."""


class CollapsedError(DegenerateError):
    """A component that degenerated in an iteration, and not in the first mixture."""


class IllDefinedError(DegenerateError, DataError):
    """The same of an estimator, or of rows in which a feature is constant."""


class MissingLibraryError(UserError, ImportError):
    """A library that only some calls need is not installed, or cannot be imported."""


@contextmanager
def needed(package: str, caller: str) -> Iterator[None]:
    """A context for the import of a library that may be missing; raises `MissingLibraryError`, which names it."""
    try:
        yield
    except ImportError as error:
        raise MissingLibraryError(
            f"{caller} needs {package}, which cannot be imported ({error}): pip install {package}"
        ) from None


class InterruptedRunError(MpigmmError):
    """The run was asked to stop, and can be resumed."""

    exit_code = EXIT_INTERRUPTED


class InterruptedCallError(InterruptedRunError, KeyboardInterrupt):
    """A call was interrupted by KeyboardInterrupt on some rank; raised on all of them."""


class MpigmmWarning(UserWarning):
    """A warning about a fit: its settings, its rows or its result."""


class AgreedError(MpigmmError):
    """The one error that all ranks have agreed to end with.

    Parameters
    ----------
    message : str
        What root prints.
    kind : type of MpigmmError
        The class of the error on the rank where it arose; it decides what every rank exits with.
    """

    def __init__(self, message: str, kind: type[MpigmmError]) -> None:
        super().__init__(message)
        self.kind = kind
        self.exit_code = kind.exit_code


def shown(path: object) -> str:
    """A path or name for a message: control characters, such as line feeds, escaped as by repr, without quotes."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in str(path))


def reason(error: BaseException) -> str:
    """The operating system's text for an error, in brackets after a space; empty if the error is not the system's.

    Messages of HDF5 quote this text, if at all, between details that do not help a user.
    """
    quoted = re.search("error message = '([^']*)'", str(error))
    number = getattr(error, "errno", None)
    words = quoted[1] if quoted else os.strerror(number) if number else ""
    return f" ({words})" if words else ""
