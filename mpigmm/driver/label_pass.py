"""The first mixture from starting labels or responsibilities: an M-step with them over the rows of all ranks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from mpigmm.core.algorithms.base import Problem
from mpigmm.core.algorithms.m_step import m_step
from mpigmm.core.algorithms.responsibilities import LabelMoments, isotropic
from mpigmm.core.arrays import Array
from mpigmm.core.covariances.base import Covariances
from mpigmm.core.data_summary import DataSummary
from mpigmm.core.exact import ExactSum, FixedPoint, FloatArray, IntArray
from mpigmm.core.mixture import Mixture
from mpigmm.core.priors import NoPrior
from mpigmm.core.statistics import SufficientStatistics
from mpigmm.core.sum_format import SumRangeError, labels_format, least_count, refined_limbs
from mpigmm.core.tile import Tile
from mpigmm.data.source import Header
from mpigmm.driver.em_loop import degenerate
from mpigmm.driver.reduction import Reduction
from mpigmm.driver.worker import RankContext, Tiles
from mpigmm.errors import AgreedError, DataError

LABEL_PASSES = 2
"""Passes over all rows by `labelled_mixture`."""


def labelled_mixture(
    reduction: Reduction,
    problem: Problem,
    kind: type[Covariances],
    n_components: int,
    progress: Callable[[str, int, int], None],
) -> Mixture:
    """The mixture of starting labels, the same on every rank. Collective; raises `AgreedError`.

    A first pass finds the means from moments about the data's centre, a second one covariances from moments about these
    means, so that narrow components keep their digits. A component without rows is re-seeded.

    Parameters
    ----------
    reduction, problem, kind, n_components
    progress : callable
        Called before each pass with its name, the number of passes that are done, and their number.
    """
    means = np.tile(problem.summary.centre, (n_components, 1))
    for done in range(LABEL_PASSES):
        progress("moments of starting labels, pass", done, LABEL_PASSES)
        try:
            statistics, mixture = labels_m_step(reduction, problem, isotropic(kind, means))
        except SumRangeError as error:
            raise degenerate(error, " at the start") from None
        held = statistics.counts > least_count(problem.summary)
        deltas = statistics.first_moments / np.where(held, statistics.counts, 1.0)[:, None]
        means = np.where(held[:, None], means + deltas, means)
    return mixture


def check_some_labelled(counts: FloatArray, summary: DataSummary, header: Header) -> None:
    """Raise `AgreedError`, on all ranks alike, where all components are empty, given their counts (K,)."""
    if (counts <= least_count(summary)).all():
        raise AgreedError(f"{header.labels_name}: no row that is used has a label; give some rows labels", DataError)


def labels_m_step(reduction: Reduction, problem: Problem, about: Mixture) -> tuple[SufficientStatistics, Mixture]:
    """The statistics of starting labels about the means of a mixture, and the mixture of an M-step with them.

    Collective; raises `AgreedError` or, on all ranks alike, `SumRangeError`.
    """
    summary, n_limbs = problem.summary, None
    safeguards = replace(problem.safeguards, reseed=True)
    while True:
        form = labels_format(about, summary, summary.variances + safeguards.reg_covar, n_limbs)
        statistics = sum_labels(reduction, form, about, masked=summary.masked)
        check_some_labelled(statistics.counts, summary, reduction.context.header)
        mixture, _ = m_step(about, statistics, summary, safeguards, NoPrior(summary))
        n_limbs = refined_limbs(form.n_limbs, about, mixture, statistics.counts, summary)
        if n_limbs == form.n_limbs:
            return statistics, mixture


def sum_labels(reduction: Reduction, form: FixedPoint, about: Mixture, *, masked: bool) -> SufficientStatistics:
    """The sums over the rows of all ranks. Collective; raises `AgreedError`."""
    shape = form.n_limbs, form.top.size

    def add_own(total: Array) -> None:
        _add_tiles(reduction.context, form, total.reshape(shape), about, masked=masked)

    sums, _ = reduction.reduce(form.n_limbs * form.top.size, add_own, about.checksum(), on_host=True)
    return SufficientStatistics.of(form.value(sums.reshape(shape)), about.layout)


def _add_tiles(context: RankContext, form: FixedPoint, total: IntArray, about: Mixture, *, masked: bool) -> None:
    """Add the statistics of this rank's tiles to `total`, limbs of zeros."""
    ops = context.host_ops
    moments = LabelMoments(about, ops)
    _ = form.quanta  # computed here once, and not by every thread

    def tile_function(tile: Tile, tiles: Tiles) -> ExactSum:
        sums, statistics = ExactSum(form), SufficientStatistics.empty(about.layout)
        for rows in tiles:
            moments(tile, rows, statistics, mask=masked)
            sums.add(statistics.flat, ops)
        return sums

    for sums in context.for_each_tile(tile_function, with_labels=True):
        ops.carry(sums.limbs)
        total += sums.limbs
    ops.carry(total)
