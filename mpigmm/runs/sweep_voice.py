"""What `select` tells its user while its fits run."""

from __future__ import annotations

from typing import Any

from mpigmm.runs.progress import Reporter
from mpigmm.runs.voice import Voice


class SweepVoice:
    """Is told of everything that a user may want to know of several fits. This class keeps warnings and says nothing.

    Attributes
    ----------
    warnings : list of str
    """

    def __init__(self) -> None:
        self.warnings: list[str] = []
        self._warned: set[str] = set()

    def of_fit(self, name: str) -> Voice:
        """The voice of the fit with this name."""
        return FitVoice(self, name)

    def say(self, text: str) -> None:
        """A message."""

    def warn(self, text: str) -> None:
        """A warning; of equal ones only the first counts."""
        if text not in self._warned:
            self._warned.add(text)
            self.tell_warning(text)

    def tell_warning(self, text: str) -> None:
        """Keep or show a warning."""
        self.warnings.append(text)

    def progress(self, text: str) -> None:
        """A fit has made a step."""

    def ended(self, text: str) -> None:
        """A fit has ended."""

    def result(self, text: str) -> None:
        """All fits have ended."""

    def close(self) -> None:
        """Nothing more will be said."""


class FitVoice(Voice):
    """The voice of one of several fits; their table tells which have not converged."""

    def __init__(self, sweep: SweepVoice, name: str) -> None:
        super().__init__()
        self.sweep, self.name = sweep, name

    def warn(self, text: str) -> None:
        self.sweep.warn(f"{self.name}: {text}")

    def unconverged(self, text: str) -> None:
        pass

    def iteration(self, line: dict[str, Any]) -> None:
        change = "" if line["change"] is None else f"  change {line['change']:+.3e}"
        self.sweep.progress(f"{self.name}: iteration {line['iteration']}{change}")

    def initialisation(self, init: int, name: str, done: int, most: int) -> None:
        self.sweep.progress(f"{self.name}: initialisation: {name} {done}/{most}")


class SweepReporter(SweepVoice):
    """Shows the progress of several fits on standard error, and their table on standard output.

    Parameters
    ----------
    n_fits : int
    """

    def __init__(self, n_fits: int) -> None:
        super().__init__()
        self.n_fits, self.n_ended = n_fits, 0
        self._reporter = Reporter(0, 1)

    def say(self, text: str) -> None:
        self._reporter.say(text)

    def tell_warning(self, text: str) -> None:
        self._reporter.warn(text)

    def progress(self, text: str) -> None:
        self._reporter.progress(f"{self.n_ended} of {self.n_fits} fits ended; {text}")

    def ended(self, text: str) -> None:
        self.n_ended += 1
        self.say(f"fit {self.n_ended} of {self.n_fits}: {text}")

    def result(self, text: str) -> None:
        self._reporter.result(text)

    def close(self) -> None:
        self._reporter.close()
