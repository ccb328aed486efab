"""Priors of a mixture's parameters, for estimates of maximum posterior density."""

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
        Of the rows, to which hyperparameters may be scaled.

    Attributes
    ----------
    name : str
    """

    name: ClassVar[str]

    def __init__(self, summary: DataSummary) -> None:
        self.summary = summary

    @abstractmethod
    def m_step_sums(self, mixture: Mixture, statistics: SufficientStatistics) -> MStepSums:
        """The sums of an M-step from the statistics of the rows; moments are about the means of the mixture, which
        entered the E-step."""

    @abstractmethod
    def log_density(self, mixture: Mixture) -> float:
        """Log-density of a mixture's parameters, but for a constant."""


class NoPrior(Prior):
    """No prior: estimates are those of maximum likelihood."""

    name = "none"

    def m_step_sums(self, mixture: Mixture, statistics: SufficientStatistics) -> MStepSums:
        counts = statistics.counts
        return MStepSums(counts, counts, counts, statistics.first_moments, statistics.second_moments)

    def log_density(self, mixture: Mixture) -> float:
        return 0.0


class ConjugatePrior(Prior):
    """A prior whose effect on the M-step is that of additional rows."""

    @abstractmethod
    def pseudo_statistics(self, mixture: Mixture) -> MStepSums:
        """The sums of the additional rows, which may count differently for weights, means and covariances."""

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
"""The registry: priors added here can be chosen by their names."""
