"""Prior densities of a mixture's parameters, for maximum a posteriori (MAP) estimates."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

from mpigmm.core.covariances.base import MStepSums
from mpigmm.core.data_summary import DataSummary
from mpigmm.core.mixture import Mixture
from mpigmm.core.statistics import SufficientStatistics


class Prior(ABC):
    """A prior density of the parameters.

    Parameters
    ----------
    summary : DataSummary
        Summary of the rows, from which a prior may scale its hyperparameters.

    Attributes
    ----------
    name : str
    """

    name: ClassVar[str]

    def __init__(self, summary: DataSummary) -> None:
        self.summary = summary

    @abstractmethod
    def m_step_sums(self, mixture: Mixture, statistics: SufficientStatistics) -> MStepSums:
        """The sums of the M-step: the statistics of the rows, and the terms that the prior adds to them.

        All moments are about the means of the mixture, which entered the E-step.
        """

    @abstractmethod
    def log_density(self, mixture: Mixture) -> float:
        """Log-density of the parameters of a mixture, up to an additive constant, in nats."""


class NoPrior(Prior):
    """No prior: estimates have maximum likelihood."""

    name = "none"

    def m_step_sums(self, mixture: Mixture, statistics: SufficientStatistics) -> MStepSums:
        counts = statistics.counts
        return MStepSums(counts, counts, counts, statistics.first_moments, statistics.second_moments)

    def log_density(self, mixture: Mixture) -> float:
        return 0.0


class ConjugatePrior(Prior):
    """A prior that acts on the M-step as additional rows would."""

    @abstractmethod
    def pseudo_statistics(self, mixture: Mixture) -> MStepSums:
        """The sums of the additional rows, with moments about the means of the mixture.

        The rows may have different counts for weights, means and covariances.
        """

    def m_step_sums(self, mixture: Mixture, statistics: SufficientStatistics) -> MStepSums:
        pseudo, counts = self.pseudo_statistics(mixture), statistics.counts
        return MStepSums(
            counts + pseudo.weight_counts,
            counts + pseudo.mean_counts,
            counts + pseudo.covariance_counts,
            statistics.first_moments + pseudo.first_moments,
            statistics.second_moments + pseudo.second_moments,
        )


PRIORS: dict[str, type[Prior]] = {kind.name: kind for kind in (NoPrior,)}
"""The registry of priors by name."""
