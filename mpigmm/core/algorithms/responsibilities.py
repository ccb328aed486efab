"""The mixture of rows whose labels or responsibilities are known: an M-step on a sample, or on all rows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from mpigmm.core.algorithms.m_step import m_step
from mpigmm.core.covariances.base import Covariances, Safeguards
from mpigmm.core.data_summary import DataSummary
from mpigmm.core.estep.choose import choose_kernel, safe_kernel
from mpigmm.core.exact import FloatArray
from mpigmm.core.mixture import Mixture
from mpigmm.core.ops.base import Ops
from mpigmm.core.ops.numpy import NUMPY
from mpigmm.core.priors import NoPrior
from mpigmm.core.statistics import SufficientStatistics
from mpigmm.core.tile import Tile
from mpigmm.core.tile_rows import most_rows
from mpigmm.rows import Rows

Labels = NDArray[np.intp]
Sample = tuple[FloatArray, FloatArray]
"""Rows (m, D) and their sample weights (m,)."""

ProgressCallback = Callable[[str, int, int], None]
"""Called often with the name of the work in progress, the number of its steps that are done, and their largest number.
It raises an exception to stop the run."""


def no_progress(name: str, done: int, most: int) -> None:
    """The `ProgressCallback` that does nothing."""


def partition_mixture(
    kind: type[Covariances],
    sample: Sample,
    labels: Labels,
    means: FloatArray,
    summary: DataSummary,
    safeguards: Safeguards,
    progress: ProgressCallback = no_progress,
) -> Mixture:
    """The mixture of a partition: an M-step in which each row has responsibility one for the component of its label.

    Labels (m,) are indices of the means (K, D).
    """
    order = np.argsort(labels, kind="stable")
    edges = np.searchsorted(labels[order], np.arange(len(means) + 1))
    parts = [(own, sample[1]) for own in np.split(order, edges[1:-1])]
    return _mixture_of_parts(kind, sample[0], parts, means, summary, safeguards, progress)


def resp_mixture(
    kind: type[Covariances],
    sample: Sample,
    resp: FloatArray,
    summary: DataSummary,
    safeguards: Safeguards,
    progress: ProgressCallback = no_progress,
) -> Mixture:
    """The mixture of responsibilities (K, m) of the sample's rows: an M-step with them."""
    rows, sample_weight = sample
    every = np.arange(len(rows))
    parts = [(every, sample_weight * own) for own in resp]
    means = np.stack([weight @ rows / weight.sum() for _, weight in parts])
    return _mixture_of_parts(kind, rows, parts, means, summary, safeguards, progress)


def _mixture_of_parts(
    kind: type[Covariances],
    rows: FloatArray,
    parts: Sequence[tuple[Labels, FloatArray]],
    means: FloatArray,
    summary: DataSummary,
    safeguards: Safeguards,
    progress: ProgressCallback,
) -> Mixture:
    """The result of an M-step from the rows of each component: their indices, and weights (m,) of all rows.

    Moments are taken about the means (K, D).
    """
    start, (n_components, n_features) = isotropic(kind, means), means.shape
    total = SufficientStatistics.empty(start.layout)
    total.flat[:] = 0.0
    second = total.second_moments.reshape(-1, kind.n_second(1, n_features))  # of each component, or of all together
    tile = Tile(n_features, min(len(rows), most_rows(n_features, 1)), NUMPY)
    for k, (own, weight) in enumerate(parts):
        progress("moments of component", k, n_components)
        statistics = component_statistics(isotropic(kind, means[k : k + 1]), tile, rows, weight, own)
        total.counts[k], total.first_moments[k] = statistics.counts[0], statistics.first_moments[0]
        second[k % len(second)] += statistics.second_moments
    mixture, _ = m_step(start, total, summary, replace(safeguards, reseed=True), NoPrior(summary))
    return mixture


def isotropic(kind: type[Covariances], means: FloatArray) -> Mixture:
    """The mixture with means (K, D), unit variances and equal weights."""
    return Mixture(np.full(len(means), 1 / len(means)), means, kind.isotropic(*means.shape))


def component_statistics(
    one: Mixture, tile: Tile, rows: FloatArray, sample_weight: FloatArray, own: Labels
) -> SufficientStatistics:
    """Statistics of the rows with indices own, each with responsibility one for the only component of a mixture.

    The tile's centre is the component's mean, so that rows that lie close together, but far from all others, keep their
    digits.
    """
    centre = one.means[0]
    kernel = choose_kernel(one.e_step_inputs(centre))
    total, part = SufficientStatistics.empty(one.layout), SufficientStatistics.empty(one.layout)
    total.flat[:] = 0.0
    for first in range(0, len(own), tile.max_rows):
        some = own[first : first + tile.max_rows]
        tile.fill(Rows.of(rows[some], sample_weight[some]), centre, mask=False)
        part.counts[:] = sample_weight[some].sum()
        kernel.accumulate(tile, sample_weight[None, some], part.first_moments, part.second_moments)
        total.flat[1:] += part.flat[1:]
    return total


class LabelMoments:
    """Computes the statistics of tiles whose rows have starting labels, about the means of a mixture.

    The tiles' centre is zero: a row minus a mean is rounded once, so that rows that lie close together, but far from
    all others, keep their digits. One object serves any number of tiles and threads.

    Parameters
    ----------
    mixture : Mixture
    ops : Ops
    """

    def __init__(self, mixture: Mixture, ops: Ops) -> None:
        self._n_components, self._centre = mixture.n_components, np.zeros(mixture.n_features)
        self._kernel = safe_kernel(mixture.e_step_inputs(self._centre, ops=ops))

    def __call__(self, tile: Tile, rows: Rows, statistics: SufficientStatistics, *, mask: bool) -> None:
        """Overwrite the statistics with those of rows, with which the tile is filled; `mask` as in `Tile.fill`."""
        tile.fill(rows, self._centre, mask=mask)
        resp = responsibilities(rows, self._n_components)
        if tile.sample_weight is not None:
            resp *= tile.sample_weight
        statistics.log_likelihood[:] = 0.0
        statistics.counts[:] = resp.sum(axis=1)
        self._kernel.accumulate(tile, resp, statistics.first_moments, statistics.second_moments)


def responsibilities(rows: Rows, n_components: int) -> FloatArray:
    """Responsibilities (K, n) that the starting labels of rows stand for; zeros for a row without a label.

    Those that are given are divided by their sum over components.
    """
    label = rows.label
    assert label is not None
    if label.ndim == 1:
        return np.asarray(label == np.arange(n_components)[:, None], np.float64)
    resp = np.where(np.isnan(label), 0.0, label).astype(np.float64)
    total = resp.sum(axis=1)
    return np.ascontiguousarray((resp / np.where(total > 0, total, 1.0)[:, None]).T)
