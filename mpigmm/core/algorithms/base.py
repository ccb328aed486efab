"""The interface of algorithms. An algorithm is a state machine that takes a step after each pass over the rows.

Algorithms are pure: the same state and the same sums lead to the same next state on every rank. They know neither ranks
nor files. The caller computes the sums that an algorithm requests, records its reports and stores its state.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Generic, TypeVar

import numpy as np

from mpigmm.core.algorithms.m_step import CovarianceUpdate, m_step, update_alone
from mpigmm.core.algorithms.projection import Changes
from mpigmm.core.algorithms.repair import Repairs
from mpigmm.core.arrays import DOUBLE
from mpigmm.core.covariances.base import Safeguards, SingularCovarianceError
from mpigmm.core.data_summary import DataSummary
from mpigmm.core.estep.step import Responsibilities
from mpigmm.core.exact import FloatArray, IntArray
from mpigmm.core.mixture import Mixture, safe_centre
from mpigmm.core.precision import Precision, choose_precision, finer_precision
from mpigmm.core.priors import Prior
from mpigmm.core.statistics import SufficientStatistics
from mpigmm.core.sum_format import SumRangeError
from mpigmm.options import EmOptions

State = TypeVar("State")


class NoTilesLeftError(Exception):
    """All tiles are held out, and none is left for the fit."""


@dataclass(frozen=True)
class Grid:
    """The global grid of tiles, which does not depend on the number of ranks.

    Attributes
    ----------
    n_rows : int
        Rows of all tiles, also those that are left out.
    tile_rows : int
        Rows of a tile; the last one may have fewer.
    """

    n_rows: int
    tile_rows: int

    @property
    def n_tiles(self) -> int:
        return -(-self.n_rows // self.tile_rows)

    def rows_of(self, tiles: IntArray | None) -> int:
        """Number of rows in the tiles with these different numbers, in ascending order; None stands for all."""
        if tiles is None:
            return self.n_rows
        missing = self.n_tiles * self.tile_rows - self.n_rows if len(tiles) and tiles[-1] == self.n_tiles - 1 else 0
        return len(tiles) * self.tile_rows - missing


@dataclass(frozen=True)
class Problem:
    """The parameters of a fit that do not change from step to step.

    Attributes
    ----------
    summary : DataSummary
        Summary of the rows.
    safeguards : Safeguards
    prior : Prior
    dtype : dtype
        float32 or float64: the precision of the tiles that the user wants. Where float32 has too few digits, float64 is
        used.
    grid : Grid
        The tiles of the rows.
    seed : int
        Seed of the random numbers of an algorithm.
    update_covariances : callable
        Of type `CovarianceUpdate`, for the M-step.
    """

    summary: DataSummary
    safeguards: Safeguards
    prior: Prior
    dtype: np.dtype[Any]
    grid: Grid
    seed: int = 0
    update_covariances: CovarianceUpdate = update_alone

    def m_step(self, mixture: Mixture, statistics: SufficientStatistics) -> tuple[Mixture, Repairs]:
        """The result of `m_step` for this problem."""
        return m_step(mixture, statistics, self.summary, self.safeguards, self.prior, self.update_covariances)

    def centred(self, mixture: Mixture) -> DataSummary:
        """The summary with its centre replaced by `safe_centre` of a mixture."""
        return replace(self.summary, centre=safe_centre(mixture, self.summary.centre))

    def objective(self, mean_log_likelihood: float, mixture: Mixture) -> float:
        """The mean log-likelihood of a mixture plus the log-density of the prior, per unit of sample weight."""
        return mean_log_likelihood + self.prior.log_density(mixture) / self.summary.total_weight

    def first_precision(self, mixture: Mixture) -> Precision:
        """The precision in which a step from a mixture is tried first."""
        return choose_precision(self.dtype, mixture, self.centred(mixture))

    def finer_precision(self, summed: Summed, new: Mixture) -> Precision | None:
        """The precision in which the step to the new mixture must be repeated; None if it need not be.

        Raises `SingularCovarianceError` if the new mixture is singular although everything was in float64.
        """
        precision = summed.of.precision
        try:
            _ = new.covariances.factors
            return finer_precision(precision, summed.of.mixture, new, summed.statistics, self.summary)
        except SingularCovarianceError:
            if precision.dtype == DOUBLE:
                raise
            return Precision.double(new.n_components)


@dataclass(frozen=True, eq=False)
class EStepPass:
    """The sums over rows that an algorithm requests.

    Attributes
    ----------
    mixture : Mixture
        The mixture of the E-step.
    precision : Precision
    n_limbs : int, optional
        Number of limbs of the exact sums; `sum_format` chooses it by default.
    responsibilities : callable, optional
        A function of type `Responsibilities`; posterior probabilities by default.
    tiles : ndarray of int64, optional
        Numbers of the tiles whose rows are summed, in ascending order; all tiles by default.
    """

    mixture: Mixture
    precision: Precision
    n_limbs: int | None = None
    responsibilities: Responsibilities | None = None
    tiles: IntArray | None = None


@dataclass(frozen=True, eq=False)
class Summed:
    """The result of a pass.

    Attributes
    ----------
    of : EStepPass
        The pass.
    statistics : SufficientStatistics
        Sums over the rows of the pass, the same on every rank.
    n_limbs : int
        Number of limbs of the exact sums.
    """

    of: EStepPass
    statistics: SufficientStatistics
    n_limbs: int


@dataclass(frozen=True)
class Rejected:
    """A pass that cannot be computed: its mixture has a singular covariance, or its sums may leave the range of
    float64.

    Attributes
    ----------
    error : SingularCovarianceError or SumRangeError
        The reason.
    """

    error: SingularCovarianceError | SumRangeError


@dataclass(frozen=True)
class Report:
    """The result of a step, for the log and the stopping rule.

    Attributes
    ----------
    mean_log_likelihood : float
        Mean log-likelihood, per unit of sample weight, of the mixture before the step.
    objective : float
        The quantity that the algorithm maximises, for the same mixture: the mean log-likelihood plus the log-density of
        the prior divided by the total weight.
    change : float or None
        The objective minus that of the last step; None in the first step.
    repairs : Repairs
    again : bool
        Whether the step does not count, because the next pass repeats it.
    held_out : float or None
        Mean log-likelihood of the rows that the algorithm holds out, if this step has computed it.
    """

    mean_log_likelihood: float
    objective: float
    change: float | None
    repairs: Repairs
    again: bool = False
    held_out: float | None = None


class Algorithm(ABC, Generic[State]):
    """A method to fit a mixture.

    Parameters
    ----------
    problem : Problem
    em : EmOptions

    Raises
    ------
    NoTilesLeftError

    Attributes
    ----------
    name : str
    decides_end : bool
        Whether `is_finished` decides when a start ends, and not the stopping rule of the driver.
    takes_batches : bool
        Whether most passes are over batches of a few tiles, which then have fewer rows by default.
    """

    name: ClassVar[str]
    decides_end: ClassVar[bool] = False
    takes_batches: ClassVar[bool] = False

    def __init__(self, problem: Problem, em: EmOptions) -> None:
        self.problem = problem
        self.em = em

    @abstractmethod
    def start(self, mixture: Mixture, objective: float | None = None) -> State:
        """The state before the first step, given the first mixture.

        The change in the first step is counted from `objective`, that of an earlier mixture; without it there is none.
        """

    def initialised(self, state: State, rows_seen: int) -> State:
        """The state before the first step, whose mixture has taken an initialisation with so many rows."""
        return state

    @abstractmethod
    def e_step_pass(self, state: State) -> EStepPass:
        """The sums that the next step needs.

        May raise `SingularCovarianceError` or `SumRangeError`: `update` is then given `Rejected`.
        """

    @abstractmethod
    def update(self, state: State, outcome: Summed | Rejected) -> tuple[State, Report]:
        """Take a step: the next state and the report, given the outcome of the pass `e_step_pass(state)`.

        Raises `SingularCovarianceError` or `SumRangeError` if the fit cannot go on.
        """

    def is_finished(self, state: State) -> bool:
        """Whether a start ends in this state, of an algorithm that decides so itself."""
        raise NotImplementedError

    def has_converged(self, state: State) -> bool:
        """Whether a start that has ended in this state has converged, of an algorithm that decides its end."""
        return False

    def changes(self, state: State, last: Changes) -> Changes:
        """The last changes of the objective on the way to the current mixture, where `last` are those of the last
        steps."""
        return last

    @classmethod
    @abstractmethod
    def mixture(cls, state: State) -> Mixture:
        """The current mixture: the last one that the algorithm has accepted."""

    @classmethod
    @abstractmethod
    def to_arrays(cls, state: State) -> dict[str, FloatArray]:
        """The state as named arrays, for checkpoints; they include `Mixture.arrays` of the current mixture."""

    @classmethod
    @abstractmethod
    def from_arrays(cls, covariance_type: str, arrays: Mapping[str, FloatArray]) -> State:
        """The state from the arrays of `to_arrays`. Raises `MixtureError` if they do not hold a mixture."""
