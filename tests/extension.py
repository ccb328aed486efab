"""A covariance type, an algorithm, a prior and a kernel of our own, added to the registries; and the command line with
them: ``python extension.py fit CONFIG ...``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from mpigmm.core.algorithms import ALGORITHMS
from mpigmm.core.algorithms.base import Algorithm, EStepPass, Rejected, Report, Summed
from mpigmm.core.algorithms.m_step import m_step
from mpigmm.core.arrays import Indices
from mpigmm.core.covariances import COVARIANCE_TYPES
from mpigmm.core.covariances.base import Covariances, Floored, MStepSums, Safeguards
from mpigmm.core.estep.base import NextKernel, RegisteredKernel
from mpigmm.core.estep.choose import KERNELS
from mpigmm.core.estep.inputs import EStepInputs
from mpigmm.core.factors import DiagonalFactors, IsotropicFactors
from mpigmm.core.mixture import Mixture
from mpigmm.core.ops.groups import SecondMoments
from mpigmm.core.priors import PRIORS, ConjugatePrior
from mpigmm.core.tile import Tile


@dataclass(frozen=True, eq=False)
class UnitVariances(Covariances):
    """Every covariance is the identity: nothing is estimated, and nothing stored."""

    n_components: int
    n_features: int

    name = "unit"
    array_names = ()
    second_moments = SecondMoments.ALL_FEATURES

    @classmethod
    def isotropic(cls, n_components: int, n_features: int) -> Covariances:
        return cls(n_components, n_features)

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray], n_components: int, n_features: int) -> Covariances:
        return cls(n_components, n_features)

    def arrays(self) -> dict[str, np.ndarray]:
        return {}

    @classmethod
    def n_parameters(cls, n_components: int, n_features: int) -> int:
        return 0

    @classmethod
    def n_second(cls, n_components: int, n_features: int) -> int:
        return n_components

    def select(self, components: Indices) -> Covariances:
        return UnitVariances(len(components), self.n_features)

    def marginal(self, features: Indices) -> Covariances:
        return UnitVariances(self.n_components, len(features))

    def of_features(self, features: Indices) -> np.ndarray:
        return np.eye(len(features))

    @property
    def variances(self) -> np.ndarray:
        return np.ones((self.n_components, self.n_features))

    def factorised(self) -> IsotropicFactors:
        return IsotropicFactors(np.ones(self.n_components))

    def bounds(self, deviations: np.ndarray) -> np.ndarray:
        return np.square(deviations).sum(axis=1)

    def update(
        self, sums: MStepSums, deltas: np.ndarray, empty: np.ndarray, safeguards: Safeguards, data_variances: np.ndarray
    ) -> tuple[Covariances, Floored]:
        return self, []

    def principal_axis(self, component: int, data_variances: np.ndarray) -> np.ndarray:
        return np.eye(self.n_features)[data_variances.argmax()]


@dataclass(frozen=True, eq=False)
class ClassificationState:
    """A mixture, and the classification log-likelihood of the one before."""

    mixture: Mixture
    objective: float = np.nan


class ClassificationEM(Algorithm[ClassificationState]):
    """Each row belongs wholly to its likeliest component (Celeux and Govaert, Comput. Stat. Data Anal. 14, 1992)."""

    name = "classification"

    def start(self, mixture: Mixture, objective: float | None = None) -> ClassificationState:
        return ClassificationState(mixture, np.nan if objective is None else objective)

    def e_step_pass(self, state: ClassificationState) -> EStepPass:
        precision = self.problem.first_precision(state.mixture)
        return EStepPass(state.mixture, precision, responsibilities=hard)

    def update(self, state: ClassificationState, outcome: Summed | Rejected) -> tuple[ClassificationState, Report]:
        if isinstance(outcome, Rejected):
            raise outcome.error
        problem, statistics = self.problem, outcome.statistics
        new, repairs = m_step(state.mixture, statistics, problem.summary, problem.safeguards, problem.prior)
        _ = new.covariances.factors
        objective = float(statistics.log_likelihood[0]) / problem.summary.total_weight
        change = None if np.isnan(state.objective) else objective - state.objective
        return ClassificationState(new, objective), Report(objective, objective, change, repairs)

    @classmethod
    def mixture(cls, state: ClassificationState) -> Mixture:
        return state.mixture

    @classmethod
    def to_arrays(cls, state: ClassificationState) -> dict[str, np.ndarray]:
        return {**state.mixture.arrays(), "objective": np.array(state.objective)}

    @classmethod
    def from_arrays(cls, covariance_type: str, arrays: Mapping[str, np.ndarray]) -> ClassificationState:
        return ClassificationState(Mixture.from_arrays(covariance_type, arrays), float(arrays["objective"]))


def hard(xp: Any, log_prob: Any) -> tuple[Any, Any]:
    """One for the likeliest component of each row, zero for the others; its weighted log-density."""
    likeliest = log_prob.argmax(axis=0)
    best = log_prob.max(axis=0)
    log_prob[:] = xp.arange(len(log_prob))[:, None] == likeliest
    return log_prob, best


class ShrinkingPrior(ConjugatePrior):
    """For `diag`: each component has five more rows, spread like all rows, and two of them count for its weight."""

    name = "shrinking"
    n_rows, n_weight = 5.0, 2.0

    def pseudo_statistics(self, mixture: Mixture) -> MStepSums:
        counts = np.full(mixture.n_components, self.n_rows)
        deviations = self.summary.centre - mixture.means
        second = self.n_rows * (np.square(deviations) + self.summary.variances)
        weights = np.full(mixture.n_components, self.n_weight)
        return MStepSums(weights, counts, counts, self.n_rows * deviations, second.reshape(-1))

    def log_density(self, mixture: Mixture) -> float:
        variances = mixture.variances
        spread = np.square(mixture.means - self.summary.centre) + self.summary.variances
        terms = -0.5 * self.n_rows * (np.log(variances) + spread / variances)
        return float(terms.sum() + self.n_weight * np.log(mixture.weights).sum())


class PlainKernel(RegisteredKernel):
    """Diagonal covariances, one component after another, by nothing but array expressions."""

    uses = 0

    def __init__(self, inputs: EStepInputs, next_kernel: NextKernel) -> None:
        assert isinstance(inputs.factors, DiagonalFactors)
        self.means, self.roots = inputs.put(inputs.means), inputs.put(inputs.factors.roots)
        self.log_norm = inputs.put(inputs.log_norm)
        PlainKernel.uses += 1

    @classmethod
    def supports(cls, inputs: EStepInputs) -> np.ndarray:
        return np.full(inputs.n_components, isinstance(inputs.factors, DiagonalFactors))

    def log_prob(self, tile: Tile, out: Any) -> None:
        for k, mean in enumerate(self.means):
            whitened = (tile.rows - mean[:, None]) * self.roots[k][:, None]
            out[k] = self.log_norm[k] - 0.5 * (whitened * whitened).sum(axis=0)

    def accumulate(self, tile: Tile, resp: Any, first: Any, second: Any) -> None:
        squares = second.reshape(first.shape)
        for k, mean in enumerate(self.means):
            differences = tile.rows - mean[:, None]
            first[k] = (resp[k] * differences).sum(axis=1)
            squares[k] = (resp[k] * differences * differences).sum(axis=1)


@contextmanager
def extended() -> Iterator[None]:
    """The registries with what this file adds to them."""
    entries: list[tuple[dict[str, Any], type]] = [
        (COVARIANCE_TYPES, UnitVariances),
        (ALGORITHMS, ClassificationEM),
        (PRIORS, ShrinkingPrior),
    ]
    for registry, kind in entries:
        registry[kind.name] = kind
    try:
        yield
    finally:
        for registry, kind in entries:
            del registry[kind.name]


@contextmanager
def plain_kernel() -> Iterator[None]:
    """The registry of kernels with `PlainKernel` at its head."""
    KERNELS.insert(0, PlainKernel)
    try:
        yield
    finally:
        KERNELS.remove(PlainKernel)


if __name__ == "__main__":
    from mpigmm.__main__ import main

    with extended(), plain_kernel():
        main()
