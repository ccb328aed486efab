"""What is kept of the rows of a fit, from which an update with new rows goes on."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from mpigmm.core.data_summary import DataSummary
from mpigmm.core.exact import FloatArray
from mpigmm.core.statistics import Layout, SufficientStatistics

SUMS = ("counts", "first_moments", "second_moments")
"""The sufficient statistics that are kept, in the order in which their vector holds them after the log-likelihood."""

NAMES = (*SUMS, "variances", "n_samples", "total_weight")
"""Names of the arrays of `KeptStatistics.arrays`."""

FEW_BYTES = 2**24
"""Statistics of at most this size are kept where nothing else is asked for."""


WEIGHT_TOLERANCE = 1e-3
"""Relative difference between the sum of the counts and the total weight that rounding in float32 may leave."""


class StatisticsError(ValueError):
    """Arrays that are not the statistics of a mixture; the message says why."""


@dataclass(frozen=True, eq=False)
class KeptStatistics:
    """Sums over all rows that a mixture has seen, about the means of this mixture, and a summary of these rows.

    If updates have multiplied older statistics by a factor below one, all of these are sums over rows of different
    weights.

    Attributes
    ----------
    counts : ndarray of shape (K,)
    first_moments : ndarray of shape (K, D)
    second_moments : ndarray of shape (n_second,)
        As in `SufficientStatistics`.
    variances : ndarray of shape (D,)
        Weighted variance of each feature.
    n_samples : float
        Number of rows.
    total_weight : float
        Sum of their weights.
    """

    counts: FloatArray
    first_moments: FloatArray
    second_moments: FloatArray
    variances: FloatArray
    n_samples: float
    total_weight: float

    @classmethod
    def of(
        cls, statistics: SufficientStatistics, variances: FloatArray, n_samples: float, total_weight: float
    ) -> KeptStatistics:
        """What is kept of the statistics of rows."""
        return cls(
            statistics.counts, statistics.first_moments, statistics.second_moments, variances, n_samples, total_weight
        )

    @classmethod
    def of_rows(cls, statistics: SufficientStatistics, summary: DataSummary) -> KeptStatistics:
        """What is kept of rows with a summary."""
        return cls.of(statistics, summary.variances, float(summary.n_samples), summary.total_weight)

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, object], layout: Layout) -> KeptStatistics:
        """The statistics from the arrays of `arrays`, which come from outside the program, for a mixture whose sums
        have this layout. Raises `StatisticsError`."""
        shapes = {name: layout[name] for name in SUMS} | {"variances": layout["first_moments"][1:]}
        found = {name: checked(name, arrays.get(name), shapes.get(name, ())) for name in NAMES}
        n_samples, total_weight = float(found.pop("n_samples")), float(found.pop("total_weight"))
        if not min(n_samples, total_weight) > 0 or (found["counts"] < 0).any() or (found["variances"] < 0).any():
            raise StatisticsError("they are of no rows, or have counts or variances below zero")
        if not abs(found["counts"].sum() - total_weight) <= WEIGHT_TOLERANCE * total_weight:
            raise StatisticsError("the sum of the counts is not the total weight of the rows")
        return cls(**found, n_samples=n_samples, total_weight=total_weight)

    def arrays(self) -> dict[str, FloatArray]:
        """The arrays by name, as checkpoints and model files store them; single numbers have shape ()."""
        return {name: np.asarray(getattr(self, name), np.float64) for name in NAMES}

    @property
    def statistics(self) -> SufficientStatistics:
        """The sums as sufficient statistics, with log-likelihood zero; a new vector."""
        layout = {"log_likelihood": (1,), **{name: getattr(self, name).shape for name in SUMS}}
        flat = np.concatenate([np.zeros(1), *(getattr(self, name).reshape(-1) for name in SUMS)])
        return SufficientStatistics.of(flat, layout)


def checked(name: str, value: object, shape: tuple[int, ...]) -> FloatArray:
    """One of the arrays from outside the program, in float64; raises `StatisticsError`."""
    if value is None:
        raise StatisticsError(f"{name} is missing")
    array = np.asarray(value, np.float64, order="C")
    if array.shape != shape:
        raise StatisticsError(f"{name} has shape {array.shape}, not {shape}")
    if not np.isfinite(array).all():
        raise StatisticsError(f"{name} holds a number that is not finite")
    return array


def are_small(layout: Layout) -> bool:
    """Whether statistics with this layout are kept where nothing else is asked for."""
    return 8 * sum(map(math.prod, layout.values())) <= FEW_BYTES
