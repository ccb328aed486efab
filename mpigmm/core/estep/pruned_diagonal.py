"""A kernel for `diag` and `spherical` covariances that leaves out pairs of row and component with a negligible
responsibility."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np

from mpigmm.core.arrays import DOUBLE, SINGLE, BoolArray, Indices
from mpigmm.core.estep.base import Kernel, NextKernel, RegisteredKernel
from mpigmm.core.estep.examples import component_weights, example_rows
from mpigmm.core.estep.inputs import EStepInputs
from mpigmm.core.exact import FloatArray
from mpigmm.core.factors import DiagonalFactors, IsotropicFactors
from mpigmm.core.ops.groups import (
    MOST_MINOR_FEATURES,
    NATS,
    NO_MINOR_PAIRS,
    PADDED,
    PADDED_SINGLE,
    BoundedGroup,
    MinorPairs,
    SecondMoments,
    minor_nats,
)
from mpigmm.core.statistics import SufficientStatistics
from mpigmm.core.tile import Tile

BOUND_SIZES = (4, 6, 8, 12, 16, 20, 24, 32, 48, 64, 96, 128)
"""Numbers of leading features that are considered for bounds of the distances."""

LEAST_PRUNED_COMPONENTS = 8
"""Least number of components for which pruning is considered."""

MOST_POWER = 100.0
"""Upper limit of the expected term of a feature in the squared distance of a component, so that a few narrow components
do not choose the leading features alone."""

SINGLE_UNIT, LOST_SHARE = 2.0**-24, 2.0**-8
"""Rounding error of a float32, and the share of a squared distance that is subtracted from it for rounding errors."""

TIGHT = 1.0
"""A bound is tight if rounding errors raise it by at most so many nats."""

ACCURATE = 2.0**-22
"""A log-density in float32 is accurate enough for minor pairs if it is as far from its bound, in nats."""

MOST_LOG_NORM, MOST_RATIO = 8192.0, 2.0**20
"""Largest absolute constant of the log-density of components with minor pairs, and largest ratio of their standard
deviations and those of the rows, or the reverse."""

BOUND_NS, BOUND_FEATURE_NS = 0.2, 0.042
"""Nanoseconds for a bound of a log-density, and for each of its features, on a core of a server."""

PAIR_NS, PAIR_FEATURE_NS = 7.0, 0.2
"""Nanoseconds for the log-density and the moments of one pair of row and component, and for each feature."""

DENSE_NS, DENSE_PRODUCT_NS = 1.0, 0.095
"""Nanoseconds for a pair if all pairs are computed, and for each feature and each square of a feature; half of it in
float32."""

MINOR_PAIR_NS, MINOR_PAIR_FEATURE_NS = 3.5, 0.07
"""Nanoseconds for a minor pair, and for each feature."""

PRUNED_ROW_NS, PRUNED_ROW_FEATURE_NS = 10.0, 0.4
"""Nanoseconds for a row in addition to bounds and pairs, and for each feature."""

LEAST_SPEEDUP = 1.15
"""How many times faster than the computation of all pairs pruning has to be, by this estimate, to be used."""


class PrunedDiagonalKernel(RegisteredKernel):
    """Evaluates only pairs of row and component that are not negligible; all pairs of a tile in which too many are not.

    A part of the terms of a squared distance bounds it from below, and so the density from above. The bounds use the
    features that separate the components best. The component with the largest bound is evaluated completely; then
    those whose bound is not negligible beside its density are. Pairs are evaluated from differences of rows and means
    in float64, also if the tiles are of float32.

    Attributes
    ----------
    group : BoundedGroup
    """

    def __init__(self, inputs: EStepInputs, next_kernel: NextKernel) -> None:
        self._ops, self._next_kernel = inputs.ops, next_kernel
        self._is_summed = inputs.second_moments is SecondMoments.ALL_FEATURES
        self.group = bounded_group(inputs)

    @classmethod
    def supports(cls, inputs: EStepInputs) -> BoolArray:
        return np.full(inputs.n_components, (type(inputs.factors), inputs.second_moments) in SUPPORTED)

    @classmethod
    def pays(cls, inputs: EStepInputs) -> bool:
        can_prune = inputs.is_posterior and inputs.ops.bounds and inputs.n_components >= LEAST_PRUNED_COMPONENTS
        return can_prune and plan_bounds(inputs).pays

    @cached_property
    def dense(self) -> Kernel:
        """The kernel for tiles in which too many pairs are not negligible; made when it is first needed."""
        return self._next_kernel()

    def log_prob(self, tile: Tile, out: FloatArray) -> None:
        self.dense.log_prob(tile, out)

    def posterior(self, tile: Tile, resp: FloatArray) -> FloatArray | None:
        return self._ops.bounded_posterior(tile, self.group, resp)

    def accumulate(self, tile: Tile, resp: FloatArray, first: FloatArray, second: FloatArray) -> None:
        self.dense.accumulate(tile, resp, first, second)

    def e_step(self, tile: Tile, statistics: SufficientStatistics) -> bool:
        sums = self._ops.bounded_sweep(tile, self.group)
        if sums is None:
            return self.dense.e_step(tile, statistics)
        d, second = tile.n_features, sums.second[:, : tile.n_features]
        statistics.log_likelihood[0] = sums.log_likelihood
        statistics.counts[:], statistics.first_moments[:] = sums.counts, sums.first[:, :d]
        statistics.second_moments[:] = second.sum(axis=1) if self._is_summed else second.reshape(-1)
        return True


SUPPORTED = {
    (DiagonalFactors, SecondMoments.EACH_FEATURE),
    (IsotropicFactors, SecondMoments.ALL_FEATURES),
}
"""Factors with the second moments that the kernel computes beside distances by these factors."""


@dataclass(frozen=True)
class BoundsPlan:
    """Whether bounds pay, and the features that they use.

    Attributes
    ----------
    pays : bool
    leading : ndarray of int, shape (L,)
    units : ndarray of shape (L,)
        One divided by the standard deviations of the leading features.
    most_share : float
        Share of the pairs of row and component up to which it is faster to compute pairs one by one.
    """

    pays: bool
    leading: Indices
    units: FloatArray
    most_share: float


PLANS: WeakKeyDictionary[EStepInputs, BoundsPlan] = WeakKeyDictionary()
"""The plans for inputs that are in use."""


def plan_bounds(inputs: EStepInputs) -> BoundsPlan:
    """The plan for some inputs, which is made once."""
    if inputs not in PLANS:
        PLANS[inputs] = make_plan(inputs)
    return PLANS[inputs]


def make_plan(inputs: EStepInputs) -> BoundsPlan:
    """The number of leading features with the least expected cost for rows drawn from the mixture."""
    k, d = inputs.means.shape
    with np.errstate(all="ignore"):  # terms of components that are narrow or far beyond measure overflow
        weights = component_weights(inputs)
        variances = row_variances(inputs, weights)
        order = powers(inputs, weights, variances).argsort(kind="stable")[::-1]
        leading = np.array([n for n in BOUND_SIZES if n < d] + [d])
        (share, minor_share), units = bounded_shares(inputs, order, leading), 1 / np.sqrt(variances)
    bound = k * (BOUND_NS + BOUND_FEATURE_NS * leading) + PRUNED_ROW_NS + PRUNED_ROW_FEATURE_NS * d
    pair, minor_pair = k * (PAIR_NS + PAIR_FEATURE_NS * d), k * (MINOR_PAIR_NS + MINOR_PAIR_FEATURE_NS * d)
    cost, dense = bound + share * pair, dense_cost(inputs)
    if d <= MOST_MINOR_FEATURES:
        cost[-1] -= minor_share * (pair - minor_pair)
    best = int(cost.argmin())
    chosen = order[: leading[best]] if leading[best] < d else np.arange(d)
    most_share = min(1.0, float((dense - bound[best]) / (cost[best] - bound[best]) * share[best]))
    return BoundsPlan(bool(LEAST_SPEEDUP * cost[best] < dense), chosen, units[chosen], most_share)


def dense_cost(inputs: EStepInputs) -> float:
    """Nanoseconds that a row takes if all pairs are computed."""
    n_squares = 1 if inputs.second_moments is SecondMoments.ALL_FEATURES else inputs.n_features
    pair = DENSE_NS + DENSE_PRODUCT_NS * (inputs.n_features + n_squares)
    return inputs.n_components * pair * inputs.dtype.itemsize / 8


def row_variances(inputs: EStepInputs, weights: FloatArray) -> FloatArray:
    """Variances (D,) of rows of the mixture."""
    mean = weights @ inputs.means
    return np.asarray(weights @ (inputs.variances + np.square(inputs.means - mean)))


def powers(inputs: EStepInputs, weights: FloatArray, variances: FloatArray) -> FloatArray:
    """For each feature (D,), the mean over components of its expected term in the squared distance of a row of the
    mixture, whose features have these variances; at most `MOST_POWER`."""
    deviations = np.square(inputs.means - weights @ inputs.means) + variances
    return np.asarray(weights @ np.minimum(MOST_POWER, roots_of(inputs) ** 2 * deviations))


def roots_of(inputs: EStepInputs) -> FloatArray:
    """Square roots of the precisions, (K, D)."""
    factors: Any = inputs.factors
    return np.broadcast_to(factors.roots.reshape(inputs.n_components, -1), inputs.means.shape)


def bounded_shares(inputs: EStepInputs, order: Indices, leading: Indices) -> tuple[FloatArray, float]:
    """Expected shares (n,) of the pairs whose bounds are not negligible, for the numbers (n,) of leading features, and
    the share of minor pairs.

    The estimate draws a few rows from the mixture.
    """
    rows, means, precisions = example_rows(inputs)[:, order], inputs.means[:, order], roots_of(inputs)[:, order] ** 2
    linear = precisions * means
    constants = np.add.reduceat(linear * means, [0, *leading[:-1]], axis=1).T
    log_prob, found = inputs.log_norm, []
    for (start, stop), constant in zip(pairwise([0, *leading]), constants, strict=True):
        part = rows[:, start:stop]
        terms = part**2 @ precisions[:, start:stop].T
        terms -= 2 * part @ linear[:, start:stop].T
        terms += constant
        log_prob = np.multiply(-0.5, np.maximum(terms, 0.0, out=terms), out=terms) + log_prob
        found.append(log_prob)
    best = log_prob.max(axis=1, keepdims=True)
    threshold = best - NATS - np.log(inputs.log_norm.max() + 1 - best)
    is_minor = (log_prob >= threshold) & (log_prob < best - minor_nats(inputs.n_components))
    return np.array([(~(bounds < threshold)).mean() for bounds in found]), float(is_minor.mean())


def bounded_group(inputs: EStepInputs) -> BoundedGroup:
    """The components as a `BoundedGroup`, for rows that are not whitened.

    With u = 2^-24, a scaled difference z that is computed in float32 has an error of at most 8 u (|z| + |m|), where m
    is the scaled mean. With q = |z|^2 and c = 8 u |m| over all features, the squared distance is therefore at least
    (1 - s) q - 2 c^2 / s for any small share s.
    """
    plan, means = plan_bounds(inputs), with_padding(inputs.means)
    leading, unit = plan.leading, plan.units
    roots, shrink = roots_of(inputs), np.sqrt(0.5 * (1 - LOST_SHARE))
    with np.errstate(all="ignore"):
        scaled_means = roots[:, leading] * inputs.means[:, leading]
        raised = np.square(8 * SINGLE_UNIT) * np.square(scaled_means).sum(axis=1) / LOST_SHARE
        scales: Any = np.ascontiguousarray(shrink * roots[:, leading] / unit, SINGLE)
        offsets: Any = np.ascontiguousarray(shrink * scaled_means, SINGLE)
        lost = 1e-6 * (np.abs(inputs.log_norm) + raised)
        constants = inputs.log_norm + raised + np.where(inputs.log_norm > -np.inf, lost, 0.0)
        is_accurate = (raised <= ACCURATE) & (np.abs(inputs.log_norm) <= MOST_LOG_NORM)
        is_accurate &= (scales.min(axis=1) >= 1 / MOST_RATIO) & (scales.max(axis=1) <= MOST_RATIO)
    finite = np.isfinite(scales).all(axis=1) & np.isfinite(offsets).all(axis=1)
    scales[~finite] = offsets[~finite] = 0.0
    constants = np.where(finite, constants, np.inf).astype(SINGLE)
    return BoundedGroup(
        nats=NATS,
        most_share=plan.most_share,
        leading=leading.astype(np.int64),
        units=unit,
        scales=scales,
        offsets=offsets,
        constants=constants,
        is_tight=(finite & (raised <= TIGHT)).astype(np.int32),
        minor=minor_pairs(inputs, 1 / unit, constants, finite & is_accurate),
        whiten=np.empty((0, 0)),
        means=means,
        subtracted=means,
        roots=with_padding(roots),
        log_norm=np.ascontiguousarray(inputs.log_norm),
    )


def minor_pairs(inputs: EStepInputs, scale: FloatArray, constants: FloatArray, is_accurate: BoolArray) -> MinorPairs:
    """What computes the minor pairs of the components that are accurate, if bounds use all features.

    Rows are divided by scale (L,), whose entries belong to the features of the bounds.
    """
    if inputs.n_features != len(scale) or len(scale) > MOST_MINOR_FEATURES or not is_accurate.any():
        return NO_MINOR_PAIRS
    stretch = float(np.float32(1 / (1 - LOST_SHARE)))
    with np.errstate(all="ignore"):
        exact = inputs.log_norm - stretch * constants.astype(DOUBLE)
        offsets: Any = np.where(is_accurate, exact, np.inf).astype(SINGLE)
        means = minor_means(inputs, scale)
    return MinorPairs(minor_nats(inputs.n_components), stretch, offsets, means, scale)


def minor_means(inputs: EStepInputs, scale: FloatArray) -> FloatArray:
    """The `MinorPairs.means`, divided by scale (D,)."""
    with np.errstate(all="ignore"):
        return with_padding(inputs.means / scale, PADDED_SINGLE, SINGLE)


def with_padding(array: FloatArray, multiple: int = PADDED, dtype: np.dtype[np.generic] = DOUBLE) -> FloatArray:
    """An array (K, D) with zeros appended to each row, up to a multiple of so many numbers."""
    k, d = array.shape
    if d % multiple == 0:
        return np.asarray(array, dtype, order="C")
    padded: FloatArray = np.zeros((k, -(-d // multiple) * multiple), dtype)
    padded[:, :d] = array
    return padded
