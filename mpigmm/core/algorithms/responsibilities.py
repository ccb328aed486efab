"""The mixture of rows whose labels or responsibilities are known: an M-step on a sample, or on all rows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mpigmm.core.algorithms.m_step import m_step
from mpigmm.core.covariances.base import Covariances, Safeguards
from mpigmm.core.data_summary import DataSummary
from mpigmm.core.estep.choose import choose_kernel
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
    start, n_features = isotropic(kind, means), means.shape[1]
    total = SufficientStatistics.empty(start.layout)
    total.flat[:] = 0.0
    tile = Tile(n_features, min(len(rows), most_rows(n_features, 1)), NUMPY)
    for k, (own, weight) in enumerate(parts):
        progress("moments of component", k, len(means))
        moments = ComponentMoments(kind, means[k])
        place(component_statistics(moments, tile, rows, weight, own), k, total)
    mixture, _ = m_step(start, total, summary, replace(safeguards, reseed=True), NoPrior(summary))
    return mixture


def isotropic(kind: type[Covariances], means: FloatArray) -> Mixture:
    """The mixture with means (K, D), unit variances and equal weights."""
    return Mixture(np.full(len(means), 1 / len(means)), means, kind.isotropic(*means.shape))


class ComponentMoments:
    """Computes the statistics of rows that belong to one component, wholly or in part, about its mean.

    The tile's centre is the mean, so that rows that lie close together, but far from all others, keep their digits.

    Parameters
    ----------
    kind : type of Covariances
    mean : ndarray of shape (D,)
    ops : Ops
        The array operations of the tiles.
    """

    def __init__(self, kind: type[Covariances], mean: FloatArray, ops: Ops = NUMPY) -> None:
        one = isotropic(kind, mean[None])
        self.mean, self.layout = mean, one.layout
        self._kernel = choose_kernel(one.e_step_inputs(mean, ops=ops))

    def empty(self) -> SufficientStatistics:
        """The statistics of no rows."""
        total = SufficientStatistics.empty(self.layout)
        total.flat[:] = 0.0
        return total

    def add(self, tile: Tile, values: NDArray[Any], weight: FloatArray, total: SufficientStatistics) -> None:
        """Add the statistics of rows (m, D), as many as fit into the tile, with weights (m,) to the total."""
        part = SufficientStatistics.empty(self.layout)
        tile.fill(Rows.of(values, weight), self.mean, mask=False)
        part.counts[:] = weight.sum()
        self._kernel.accumulate(tile, weight[None], part.first_moments, part.second_moments)
        total.flat[1:] += part.flat[1:]


def component_statistics(
    moments: ComponentMoments, tile: Tile, rows: FloatArray, sample_weight: FloatArray, own: Labels
) -> SufficientStatistics:
    """Statistics of the rows with indices own, each with responsibility one for the component."""
    total = moments.empty()
    for first in range(0, len(own), tile.max_rows):
        some = own[first : first + tile.max_rows]
        moments.add(tile, rows[some], sample_weight[some], total)
    return total


def place(statistics: SufficientStatistics, component: int, total: SufficientStatistics) -> None:
    """Put the statistics of one component into those of all, whose second moments may be summed over components."""
    total.counts[component], total.first_moments[component] = statistics.counts[0], statistics.first_moments[0]
    second = total.second_moments.reshape(-1, statistics.second_moments.size)
    second[component % len(second)] += statistics.second_moments


class LabelMoments:
    """Computes the statistics of tiles whose rows have starting labels, each component's about its own mean.

    One object serves any number of tiles and threads.

    Parameters
    ----------
    kind : type of Covariances
    means : ndarray of shape (K, D)
    ops : Ops
    """

    def __init__(self, kind: type[Covariances], means: FloatArray, ops: Ops) -> None:
        self._components = [ComponentMoments(kind, mean, ops) for mean in means]

    def __call__(self, tile: Tile, rows: Rows, statistics: SufficientStatistics, *, mask: bool) -> None:
        """Overwrite the statistics with those of rows, with which the tile is filled; `mask` as in `Tile.fill`."""
        resp = responsibilities(rows, len(self._components))
        tile.fill(rows, self._components[0].mean, mask=mask)
        if tile.sample_weight is not None:
            resp *= tile.sample_weight
        statistics.flat[:] = 0.0
        for k, component in enumerate(self._components):
            own = np.flatnonzero(resp[k])
            if own.size:
                total = component.empty()
                component.add(tile, rows.values[own], resp[k, own], total)
                place(total, k, statistics)


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
