"""Coordinates in which k-means measures distances between rows.

k-means depends on the units of the features, and a mixture does not. Which units lead to a good mixture depends on the
rows: with one unit for all, a feature of large variance decides alone; standard deviations are those of the outliers,
where there are some; and correlated features count several times.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from mpigmm.core.algorithms.responsibilities import Sample
from mpigmm.core.data_summary import DataSummary
from mpigmm.core.exact import FloatArray

Coordinates = Callable[[Sample, DataSummary], FloatArray]
"""A function of rows (m, D), their sample weights (m,) and the summary of all rows: the coordinates (m, d), d <= D."""

QUARTILES, TAILS = (0.25, 0.75), (0.05, 0.95)
QUARTILES_APART, TAILS_APART = 1.349, 3.290
"""How far the quantiles of a normal variable are apart, in standard deviations."""

LEAST_EIGENVALUE = 1e-9
"""Principal axes whose variance is less than this share of the largest are left out of whitened coordinates."""


def unscaled(sample: Sample, summary: DataSummary) -> FloatArray:
    """The rows minus their centre, in their own units."""
    return np.asarray(sample[0] - summary.centre)


def standardised(sample: Sample, summary: DataSummary) -> FloatArray:
    """In units of the standard deviations of all rows."""
    return unscaled(sample, summary) / np.sqrt(np.where(summary.variances > 0, summary.variances, 1.0))


def robust(sample: Sample, summary: DataSummary) -> FloatArray:
    """In units of the distance between quartiles, which outliers do not change."""
    return unscaled(sample, summary) / robust_scales(sample, summary)


def compressed(sample: Sample, summary: DataSummary) -> FloatArray:
    """asinh of robust coordinates: linear near the median, logarithmic in long tails."""
    return np.arcsinh(robust(sample, summary))


def whitened(sample: Sample, summary: DataSummary) -> FloatArray:
    """Principal components in units of their standard deviations: distances are those of Mahalanobis."""
    rows, sample_weight = standardised(sample, summary), sample[1] / sample[1].sum()
    rows -= sample_weight @ rows
    eigenvalues, axes = np.linalg.eigh((rows * sample_weight[:, None]).T @ rows)
    kept = eigenvalues > LEAST_EIGENVALUE * eigenvalues[-1]
    if not kept.any():
        return rows
    return np.asarray(rows @ (axes[:, kept] / np.sqrt(eigenvalues[kept])))


def robust_scales(sample: Sample, summary: DataSummary) -> FloatArray:
    """The standard deviation (D,) of each feature as its quartiles have it.

    Where these are equal, as the tails have it; where these are equal too, that of all rows, or one.
    """
    scale = quantile_scales(sample, QUARTILES) / QUARTILES_APART
    for other in (quantile_scales(sample, TAILS) / TAILS_APART, np.sqrt(summary.variances)):
        scale = np.where(scale > 0, scale, other)
    return np.where(scale > 0, scale, 1.0)


def quantile_scales(sample: Sample, shares: tuple[float, float]) -> FloatArray:
    """Distance (D,) between two quantiles of each feature."""
    rows, sample_weight = sample
    order = np.argsort(rows, axis=0, kind="stable")
    cumulated = np.cumsum(sample_weight[order], axis=0)
    low, high = (
        rows[order[(cumulated < share * cumulated[-1]).sum(axis=0), range(rows.shape[1])], range(rows.shape[1])]
        for share in shares
    )
    return np.asarray(high - low)
