"""The state of a fit between two iterations."""

from __future__ import annotations

from dataclasses import dataclass

from mpigmm.core.algorithms.projection import Changes, projected_gain
from mpigmm.core.kept_statistics import KeptStatistics
from mpigmm.core.mixture import Mixture


@dataclass(frozen=True)
class Ended:
    """Result of a start that is complete.

    Attributes
    ----------
    init : int
        Number of the start.
    n_iter : int
        Its iterations.
    mean_log_likelihood, objective : float
        Of its last mixture; the objective is the mean log-likelihood plus the prior's part.
    changes : tuple of float
        The last changes of the objective; none after the first iteration, and after a repair.
    converged : bool
    e_steps : int
        Its passes over rows.
    passes : float
        Rows in all of them, and of its initialisation, over the number of rows.
    """

    init: int
    n_iter: int
    mean_log_likelihood: float
    objective: float
    changes: Changes
    converged: bool
    e_steps: int
    passes: float

    @property
    def projected_gain(self) -> float | None:
        """How far the projected limit of the objective is above its value in the last iteration; None if unknown."""
        return projected_gain(self.changes)


@dataclass(frozen=True)
class Fitted:
    """The last mixture of a start that is complete, the start's result and, where they are kept, the statistics of all
    rows under this mixture."""

    mixture: Mixture
    ended: Ended
    statistics: KeptStatistics | None = None


@dataclass(frozen=True)
class Progress:
    """State of a fit between two iterations: everything that later iterations depend on.

    Attributes
    ----------
    init : int
        Number of the current start.
    iteration : int
        Number of its complete iterations.
    state : object
        The algorithm's state after these iterations; None before the start has a first mixture.
    mean_log_likelihood : float or None
        Of the mixture that entered the last iteration.
    changes : tuple of float
        The last changes of the objective; none after the first iteration, and where a component was repaired.
    e_steps, rows_seen : int
        Passes over rows of the current start so far, repeated ones included, and the rows in all of them; the latter
        include those of its initialisation.
    ended : tuple of Ended
        Results of the complete starts.
    best : Fitted or None
        The complete start with the highest log-likelihood.
    finished : bool
        Whether all starts are complete.
    """

    init: int = 0
    iteration: int = 0
    state: object = None
    mean_log_likelihood: float | None = None
    changes: Changes = ()
    e_steps: int = 0
    rows_seen: int = 0
    ended: tuple[Ended, ...] = ()
    best: Fitted | None = None
    finished: bool = False

    @property
    def change(self) -> float | None:
        """Change of the objective in the last iteration; None where there is none."""
        return self.changes[-1] if self.changes else None
