"""What an algorithm is: a state machine between passes over the rows.

Algorithms are pure: from the same state and the same sums they go to the same state, on every rank. They see neither
ranks nor files; whoever drives them sums what they ask for, records what they report, and stores their state.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Generic, TypeVar

import numpy as np

from mpigmm.core.algorithms.repair import Repairs
from mpigmm.core.covariances.base import Safeguards, SingularCovarianceError
from mpigmm.core.data_summary import DataSummary
from mpigmm.core.estep.step import Responsibilities
from mpigmm.core.exact import FloatArray
from mpigmm.core.mixture import Mixture, safe_centre
from mpigmm.core.precision import Precision, choose_precision
from mpigmm.core.priors import Prior
from mpigmm.core.statistics import SufficientStatistics
from mpigmm.core.sum_format import SumRangeError

State = TypeVar("State")


@dataclass(frozen=True)
class Problem:
    """What is fitted, but for the rows.

    Attributes
    ----------
    summary : DataSummary
        Of the rows.
    safeguards : Safeguards
    prior : Prior
    dtype : dtype
        Of the tiles, where the mixture leaves enough digits: float32 or float64.
    """

    summary: DataSummary
    safeguards: Safeguards
    prior: Prior
    dtype: np.dtype[Any]

    def centred(self, mixture: Mixture) -> DataSummary:
        """The summary with a centre that keeps the digits of all components' rows."""
        return replace(self.summary, centre=safe_centre(mixture, self.summary.centre))

    def first_precision(self, mixture: Mixture) -> Precision:
        """The precision to try first."""
        return choose_precision(self.dtype, mixture, self.centred(mixture))


@dataclass(frozen=True, eq=False)
class EStepPass:
    """What an algorithm wants to be summed over all rows.

    Attributes
    ----------
    mixture : Mixture
    precision : Precision
    n_limbs : int, optional
        Limbs of the exact sums; as `sum_format` chooses where left out.
    responsibilities : callable, optional
        What takes the place of the posterior.
    """

    mixture: Mixture
    precision: Precision
    n_limbs: int | None = None
    responsibilities: Responsibilities | None = None


@dataclass(frozen=True, eq=False)
class Summed:
    """The sums of a pass.

    Attributes
    ----------
    of : EStepPass
    statistics : SufficientStatistics
    n_limbs : int
        Limbs of the exact sums that the statistics were rounded from.
    """

    of: EStepPass
    statistics: SufficientStatistics
    n_limbs: int


@dataclass(frozen=True)
class Rejected:
    """Why a pass cannot be made: its mixture has a singular covariance, or its sums have no bounds."""

    error: SingularCovarianceError | SumRangeError


@dataclass(frozen=True)
class Report:
    """What a step came to.

    Attributes
    ----------
    mean_log_likelihood : float
        Of the mixture that entered the step, per unit of sample weight.
    objective : float
        What the algorithm maximises, on the same scale: the former, plus the prior's log-density over the total weight.
    change : float or None
        Of the objective since the step before.
    repairs : Repairs
    again : bool
        Whether the step does not count, and the next pass takes it again.
    """

    mean_log_likelihood: float
    objective: float
    change: float | None
    repairs: Repairs
    again: bool = False


class Algorithm(ABC, Generic[State]):
    """A way to fit a mixture.

    Parameters
    ----------
    problem : Problem

    Attributes
    ----------
    name : str
    """

    name: ClassVar[str]

    def __init__(self, problem: Problem) -> None:
        self.problem = problem

    @abstractmethod
    def start(self, mixture: Mixture) -> State:
        """The state before the first step from a mixture."""

    @abstractmethod
    def e_step_pass(self, state: State) -> EStepPass:
        """The pass that the next step needs."""

    @abstractmethod
    def update(self, state: State, outcome: Summed | Rejected) -> tuple[State, Report]:
        """The state after a step, from the outcome of `e_step_pass(state)`, and what the step came to.

        Raises `SingularCovarianceError` or `SumRangeError` where there is no way on.
        """

    @classmethod
    @abstractmethod
    def mixture(cls, state: State) -> Mixture:
        """The last mixture that was accepted, never a proposal."""

    @classmethod
    @abstractmethod
    def to_arrays(cls, state: State) -> dict[str, FloatArray]:
        """What the next step depends on, for checkpoints; `Mixture.arrays` of the mixture are among it."""

    @classmethod
    @abstractmethod
    def from_arrays(cls, covariance_type: str, arrays: Mapping[str, FloatArray]) -> State:
        """The state in arrays like those of `to_arrays`. Raises `MixtureError`."""
