"""What a fit tells its user while it runs."""

from __future__ import annotations

from typing import Any


class Voice:
    """Is told of everything that a user may want to know, on root. This class keeps warnings and says nothing.

    Attributes
    ----------
    warnings : list of str
    """

    def __init__(self) -> None:
        self.warnings: list[str] = []

    def say(self, text: str) -> None:
        """A message."""

    def warn(self, text: str) -> None:
        """A warning."""
        self.warnings.append(text)

    def unconverged(self, text: str) -> None:
        """A warning that the fit has ended before it converged."""
        self.warn(text)

    def iteration(self, line: dict[str, Any]) -> None:
        """An iteration has ended; `line` is its line of the convergence log."""

    def initialisation(self, init: int, name: str, done: int, most: int) -> None:
        """The initialisation of start number init has done some of its steps."""

    def result(self, text: str) -> None:
        """The fit has ended."""

    def close(self) -> None:
        """Nothing more will be said."""
