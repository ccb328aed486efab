"""Split-and-merge EM: after a fit has converged, it tries whether it converges higher from elsewhere."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from typing import Any, ClassVar

import numpy as np

from mpigmm.core.algorithms.base import Algorithm, EStepPass, Problem, Rejected, Report, Summed
from mpigmm.core.algorithms.batch import BatchEM
from mpigmm.core.algorithms.moves import Move, best_moves, halved, moved_mixture
from mpigmm.core.algorithms.projection import Changes, has_converged, with_change
from mpigmm.core.algorithms.repair import Repairs
from mpigmm.core.covariances.base import SingularCovarianceError
from mpigmm.core.exact import FloatArray
from mpigmm.core.mixture import Mixture
from mpigmm.core.sum_format import SumRangeError
from mpigmm.options import EmOptions

PROBE_STEPS = 10
"""Steps of EM with all components split, from which the splits are chosen."""

INNER, HALVES = "inner_", "halves_"
"""Prefixes of the names of arrays: of the state of the run, and of the halves."""

LEAST_COMPONENTS = 3
"""Least number of components of a move: two to merge, and another one to split."""


@dataclass(frozen=True, eq=False)
class SplitMergeState:
    """The state of split-and-merge EM between two passes.

    Attributes
    ----------
    inner : object
        State of the run of EM that goes on: of the algorithm, or of `BatchEM` while all components are split.
    n_iter : int
        Number of its steps.
    changes : tuple of float
        The last changes of its objective.
    n_tried : int
        Number of moves that have been tried, that of this run included.
    probing : bool
        Whether all components are split.
    best : Mixture or None
        The last accepted mixture; None before the first run has converged.
    mean_log_likelihood, objective : float
        What the last step of its run has reported.
    best_changes : tuple of float
        The last changes in its run.
    halves : Mixture or None
        Of 2K components, the halves of each of its components; None before they are known.
    moves : tuple of tuples (i, j, k)
        The moves still to be tried, that of this run first.
    finished : bool
    """

    inner: Any
    n_iter: int = 0
    changes: Changes = ()
    n_tried: int = 0
    probing: bool = False
    best: Mixture | None = None
    mean_log_likelihood: float = -np.inf
    objective: float = -np.inf
    best_changes: Changes = ()
    halves: Mixture | None = None
    moves: tuple[Move, ...] = ()
    finished: bool = False


class SplitMerge(Algorithm[SplitMergeState]):
    """Split-and-merge EM (Ueda, Nakano, Ghahramani and Hinton, Neural Computation 12, 2000) around another algorithm.

    Attributes
    ----------
    runs : type of Algorithm
        The algorithm of each run.
    """

    name = "split_merge"
    decides_end = True
    runs: ClassVar[type[Algorithm[Any]]] = BatchEM

    def __init__(self, problem: Problem, em: EmOptions) -> None:
        super().__init__(problem, em)
        self._run = self.runs(problem, em)
        without_reseeding = replace(problem.safeguards, reseed=False)  # a half stays a half of its component
        self._probe = BatchEM(replace(problem, safeguards=without_reseeding), em)

    def start(self, mixture: Mixture, objective: float | None = None) -> SplitMergeState:
        return SplitMergeState(self._run.start(mixture, objective))

    def e_step_pass(self, state: SplitMergeState) -> EStepPass:
        return (self._probe if state.probing else self._run).e_step_pass(state.inner)

    def update(self, state: SplitMergeState, outcome: Summed | Rejected) -> tuple[SplitMergeState, Report]:
        algorithm = self._probe if state.probing else self._run
        try:
            inner, report = algorithm.update(state.inner, outcome)
        except (SingularCovarianceError, SumRangeError):
            if state.best is None:
                raise
            following = self._chosen(state) if state.probing else self._rejected(state)
            return following, replace(accepted_report(state), again=True)
        if report.again:
            return replace(state, inner=inner), report
        changes = with_change(state.changes, None if report.repairs else report.change)
        state = replace(state, inner=inner, n_iter=state.n_iter + 1, changes=changes)
        return self._after_probe_step(state) if state.probing else self._after_step(state, report)

    def _after_probe_step(self, state: SplitMergeState) -> tuple[SplitMergeState, Report]:
        state = replace(state, halves=BatchEM.mixture(state.inner))
        return self._chosen(state) if state.n_iter == PROBE_STEPS else state, accepted_report(state)

    def _after_step(self, state: SplitMergeState, report: Report) -> tuple[SplitMergeState, Report]:
        has_ended = has_converged(state.changes, self.em) or state.n_iter == self.em.max_iter
        return self._judged(state, report) if has_ended else state, report

    def is_finished(self, state: SplitMergeState) -> bool:
        return state.finished

    def has_converged(self, state: SplitMergeState) -> bool:
        return has_converged(state.best_changes, self.em)

    def changes(self, state: SplitMergeState, last: Changes) -> Changes:
        return state.best_changes

    @classmethod
    def mixture(cls, state: SplitMergeState) -> Mixture:
        return cls.runs.mixture(state.inner) if state.best is None else state.best

    def _judged(self, state: SplitMergeState, report: Report) -> SplitMergeState:
        """The state after a run, which is accepted if its objective is higher than that of the last accepted mixture
        can have become by its last step, for which the change of the step before is a bound."""
        margin = max(map(abs, (self.em.tol, *state.best_changes[-1:])))
        if state.best is not None and report.objective <= state.objective + margin:
            return self._rejected(state)
        mixture = self._run.mixture(state.inner)
        state = replace(
            state,
            best=mixture,
            mean_log_likelihood=report.mean_log_likelihood,
            objective=report.objective,
            best_changes=state.changes,
        )
        if state.n_tried >= self.em.split_merge or (mixture.weights > 0).sum() < LEAST_COMPONENTS:
            return replace(state, finished=True, moves=(), halves=None)
        halves = halved(mixture, self.problem, state.n_tried)
        inner = self._probe.start(halves)
        return replace(state, inner=inner, n_iter=0, changes=(), probing=True, halves=halves, moves=())

    def _chosen(self, state: SplitMergeState) -> SplitMergeState:
        """The state in which the first of the moves is tried that are chosen from the halves."""
        assert state.best is not None and state.halves is not None
        left = self.em.split_merge - state.n_tried
        return self._tried(replace(state, moves=best_moves(state.best, state.halves, self.problem, left)))

    def _rejected(self, state: SplitMergeState) -> SplitMergeState:
        return self._tried(replace(state, moves=state.moves[1:]))

    def _tried(self, state: SplitMergeState) -> SplitMergeState:
        """The state in which the first of the moves is tried; the last one if there is none."""
        assert state.best is not None and state.halves is not None
        if not state.moves:
            return replace(state, inner=self._run.start(state.best), probing=False, halves=None, finished=True)
        mixture = moved_mixture(state.best, state.halves, state.moves[0], self.problem)
        inner = self._run.start(mixture)
        return replace(state, inner=inner, n_iter=0, changes=(), n_tried=state.n_tried + 1, probing=False)

    @classmethod
    def to_arrays(cls, state: SplitMergeState) -> dict[str, FloatArray]:
        inner = (BatchEM if state.probing else cls.runs).to_arrays(state.inner)
        known = state.best is not None
        counters = state.n_iter, state.n_tried, state.probing, state.finished, known
        return {
            **cls.mixture(state).arrays(),
            "counters": np.array(counters, float),
            "objectives": np.array([state.mean_log_likelihood, state.objective]),
            "changes": np.array(state.changes),
            "best_changes": np.array(state.best_changes),
            "moves": np.array(state.moves, float).reshape(-1, 3),
            **{INNER + name: array for name, array in inner.items()},
            **({HALVES + name: array for name, array in state.halves.arrays().items()} if state.halves else {}),
        }

    @classmethod
    def from_arrays(cls, covariance_type: str, arrays: Mapping[str, FloatArray]) -> SplitMergeState:
        n_iter, n_tried, probing, finished, known = arrays["counters"].tolist()
        mean_log_likelihood, objective = arrays["objectives"].tolist()
        halves = named(arrays, HALVES)
        return SplitMergeState(
            inner=(BatchEM if probing else cls.runs).from_arrays(covariance_type, named(arrays, INNER)),
            n_iter=int(n_iter),
            changes=tuple(arrays["changes"].tolist()),
            n_tried=int(n_tried),
            probing=bool(probing),
            best=Mixture.from_arrays(covariance_type, arrays) if known else None,
            mean_log_likelihood=mean_log_likelihood,
            objective=objective,
            best_changes=tuple(arrays["best_changes"].tolist()),
            halves=Mixture.from_arrays(covariance_type, halves) if halves else None,
            moves=tuple((int(i), int(j), int(k)) for i, j, k in arrays["moves"]),
            finished=bool(finished),
        )


def accepted_report(state: SplitMergeState) -> Report:
    """The report of a step that is not one towards a mixture of its own: that of the accepted mixture."""
    return Report(state.mean_log_likelihood, state.objective, None, Repairs())


def named(arrays: Mapping[str, FloatArray], prefix: str) -> dict[str, FloatArray]:
    """The arrays whose names begin with a prefix, under the rest of their names."""
    return {name.removeprefix(prefix): array for name, array in arrays.items() if name.startswith(prefix)}


@cache
def split_merge_of(runs: type[Algorithm[Any]]) -> type[SplitMerge]:
    """Split-and-merge EM whose runs are of another algorithm."""
    return type(f"SplitMerge{runs.__name__}", (SplitMerge,), {"runs": runs})
