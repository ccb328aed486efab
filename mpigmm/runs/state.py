"""The state of a fit between two iterations."""

from __future__ import annotations

from dataclasses import dataclass

from mpigmm.core.mixture import Mixture


@dataclass(frozen=True)
class Ended:
    """How one start ended; `change` is that of its last iteration."""

    init: int
    n_iter: int
    mean_log_likelihood: float
    change: float | None
    converged: bool


@dataclass(frozen=True)
class Fitted:
    """The mixture of a start that has ended."""

    mixture: Mixture
    ended: Ended


@dataclass(frozen=True)
class Progress:
    """State of the fit between two iterations, all that the next one depends on.

    Attributes
    ----------
    init : int
        Number of the start under way.
    iteration : int
        Iterations of it that are complete.
    mixture : Mixture or None
        The mixture after them; None before the start is initialised.
    mean_log_likelihood, change : float or None
        As of the last iteration's log line.
    ended : tuple of Ended
        The starts that are complete.
    best : Fitted or None
        The best of them.
    finished : bool
        Whether all starts are complete.
    """

    init: int = 0
    iteration: int = 0
    mixture: Mixture | None = None
    mean_log_likelihood: float | None = None
    change: float | None = None
    ended: tuple[Ended, ...] = ()
    best: Fitted | None = None
    finished: bool = False
