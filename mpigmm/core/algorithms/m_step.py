"""The M-step.

Equations as in Bishop, Pattern Recognition and Machine Learning (2006), section 9.2, with moments taken about the
means that entered the E-step (section "Conditioning" of docs/mathematics.md).
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from mpigmm.core.algorithms.repair import Repairs, reseed
from mpigmm.core.arrays import BoolArray
from mpigmm.core.covariances.base import Covariances, Floored, MStepSums, Safeguards
from mpigmm.core.data_summary import DataSummary
from mpigmm.core.exact import FloatArray
from mpigmm.core.mixture import Mixture
from mpigmm.core.priors import Prior
from mpigmm.core.statistics import SufficientStatistics
from mpigmm.core.sum_format import least_count

CovarianceUpdate = Callable[
    [Covariances, MStepSums, FloatArray, BoolArray, Safeguards, FloatArray], tuple[Covariances, Floored]
]
"""A way to compute `Covariances.update`, whose result it returns: called with the covariances and the arguments."""


def update_alone(
    covariances: Covariances,
    sums: MStepSums,
    deltas: FloatArray,
    empty: BoolArray,
    safeguards: Safeguards,
    data_variances: FloatArray,
) -> tuple[Covariances, Floored]:
    """`Covariances.update`, without help from other ranks."""
    return covariances.update(sums, deltas, empty, safeguards, data_variances)


def m_step(
    mixture: Mixture,
    statistics: SufficientStatistics,
    summary: DataSummary,
    safeguards: Safeguards,
    prior: Prior,
    update: CovarianceUpdate = update_alone,
) -> tuple[Mixture, Repairs]:
    """The mixture that maximises the expected log-likelihood plus the log-density of the prior.

    Empty components keep their means and covariances and have weight zero, or are re-seeded if the safeguards say so.

    Parameters
    ----------
    mixture : Mixture
        The mixture of the E-step.
    statistics : SufficientStatistics
        Sums over all rows.
    summary : DataSummary
    safeguards : Safeguards
    prior : Prior
    update : callable
        Of type `CovarianceUpdate`.

    Returns
    -------
    mixture : Mixture
    repairs : Repairs
        The components whose covariances were floored, and those that were re-seeded.
    """
    sums = prior.m_step_sums(mixture, statistics)
    empty = np.minimum(sums.mean_counts, sums.covariance_counts) <= least_count(summary)
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        deltas = np.where(empty[:, None], 0.0, sums.first_moments / sums.mean_counts[:, None])
    covariances, floored = update(mixture.covariances, sums, deltas, empty, safeguards, summary.variances)
    weights = np.where(empty, 0.0, np.maximum(sums.weight_counts, 0.0))
    new = Mixture(weights / weights.sum(), mixture.means + deltas, covariances)
    reseeded: list[int] = np.flatnonzero(empty).tolist() if safeguards.reseed else []
    if reseeded:
        new = reseed(new, reseeded, summary.variances)
    return new, Repairs(floored, reseeded)
