"""Coordinates in which k-means measures distances between rows.

k-means depends on the units of the features, and a mixture does not. Which units lead to a good mixture depends on the
rows: with one unit for all, a feature of large variance decides alone; standard deviations are those of the outliers,
where there are some; and correlated features count several times.
"""

from __future__ import annotations

from functools import cached_property

import numpy as np

from mpigmm.core.algorithms.responsibilities import Sample
from mpigmm.core.data_summary import DataSummary
from mpigmm.core.exact import FloatArray

QUANTILES = (0.05, 0.25, 0.75, 0.95)
TAILS_APART, QUARTILES_APART = 3.290, 1.349
"""How far the outer and the inner two of these quantiles of a normal variable are apart, in standard deviations."""

LEAST_EIGENVALUE = 1e-9
"""Principal axes whose variance is less than this share of the largest are left out of whitened coordinates."""

LEAST_SCALE = 1e-100
"""Quartiles or tails that are closer, in standard deviations, count as equal: squares of coordinates might overflow."""


class RowCoordinates:
    """Coordinates (m, d) of the rows of a sample, in several systems.

    Parameters
    ----------
    sample : tuple of ndarrays (m, D) and (m,)
        Rows and their sample weights.
    summary : DataSummary
        Of all rows.
    """

    def __init__(self, sample: Sample, summary: DataSummary) -> None:
        self._rows, self._sample_weight = sample
        self._summary = summary

    def unscaled(self) -> FloatArray:
        """The rows minus their centre, in their own units."""
        return np.asarray(self._rows - self._summary.centre)

    def standardised(self) -> FloatArray:
        """In units of the standard deviations of all rows."""
        variances = self._summary.variances
        return self.unscaled() / np.sqrt(np.where(variances > 0, variances, 1.0))

    def robust(self) -> FloatArray:
        """In units of the distance between quartiles, which outliers do not change."""
        return self.unscaled() / self.robust_scales

    def compressed(self) -> FloatArray:
        """asinh of robust coordinates: linear near the centre, logarithmic in long tails."""
        return np.arcsinh(self.robust())

    def whitened(self) -> FloatArray:
        """Principal components in units of their standard deviations: distances are those of Mahalanobis."""
        rows, share = self.standardised(), self._sample_weight / self._sample_weight.sum()
        rows -= share @ rows
        eigenvalues, axes = np.linalg.eigh((rows * share[:, None]).T @ rows)
        kept = eigenvalues > LEAST_EIGENVALUE * eigenvalues[-1]
        return np.asarray(rows @ (axes[:, kept] / np.sqrt(eigenvalues[kept]))) if kept.any() else rows

    @cached_property
    def robust_scales(self) -> FloatArray:
        """The standard deviation (D,) of each feature that its quartiles imply.

        Where these are equal, it is that which the tails imply; where these are equal too, that of all rows, or one.
        """
        low, first, third, high = self._quantiles()
        scale, deviations = (third - first) / QUARTILES_APART, np.sqrt(self._summary.variances)
        for other in ((high - low) / TAILS_APART, deviations, 1.0):
            scale = np.where(scale > LEAST_SCALE * deviations, scale, other)
        return np.asarray(scale)

    def _quantiles(self) -> FloatArray:
        """The quantiles of each feature, (4, D)."""
        found = np.empty((len(QUANTILES), self._rows.shape[1]))
        for feature, values in enumerate(self._rows.T):
            order = values.argsort(kind="stable")
            cumulated = self._sample_weight[order].cumsum()
            places = np.searchsorted(cumulated, np.multiply(QUANTILES, cumulated[-1]))
            found[:, feature] = values[order[places]]
        return found
