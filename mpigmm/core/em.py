"""Expectation-maximisation: an E-step on a tile, an M-step on the sum of all tiles' statistics.

Equations as in Bishop, Pattern Recognition and Machine Learning (2006), section 9.2, with moments taken about the
means that entered the E-step (section 3 of docs/mathematics.md).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mpigmm.core.backend import DOUBLE
from mpigmm.core.covariance import SingularCovarianceError
from mpigmm.core.data_summary import DataSummary
from mpigmm.core.exact import FloatArray
from mpigmm.core.loops import NUMPY, Loops
from mpigmm.core.mixture import Mixture, precision_diagonals
from mpigmm.core.statistics import Moments, least_count
from mpigmm.core.tile import Tile
from mpigmm.errors import DataError, DegenerateError


class EStep:
    """The E-step of one mixture, prepared once and applied to any number of tiles by any number of threads.

    Parameters
    ----------
    mixture : Mixture
    centre : ndarray of shape (D,)
        What the tiles' rows are less by.
    reach : ndarray of shape (D,), optional
        Upper bounds of the rows' distances from the centre, where they are known.
    dtype : dtype
        Of the tiles.
    loops : Loops
        Those of the tiles.
    exact : ndarray of bool, (K,), optional
        Components to compute in float64 whatever the dtype.
    """

    def __init__(
        self,
        mixture: Mixture,
        centre: FloatArray,
        reach: FloatArray | None = None,
        dtype: np.dtype[Any] = DOUBLE,
        loops: Loops = NUMPY,
        exact: NDArray[np.bool_] | None = None,
    ) -> None:
        self.mixture = mixture
        self._kernel = mixture.covariance.kernel(mixture.parameters(centre, reach, dtype, loops, exact))

    def posterior(self, tile: Tile) -> tuple[FloatArray, FloatArray]:
        """Responsibilities (K, n) and log densities (n,) of a tile's rows; overwritten by the next call."""
        log_prob = tile.array("log_prob", self.mixture.n_components, tile.n_rows)
        with np.errstate(over="ignore"):  # a distance that is too large is infinite, and the density zero
            self._kernel.log_prob(tile, log_prob)
        return tile.loops.normalise(log_prob, tile)

    def __call__(self, tile: Tile, moments: Moments) -> None:
        """Overwrite moments with those of a tile."""
        if not self.at_once(tile, moments):
            self._one_by_one(tile, moments)

    def at_once(self, tile: Tile, moments: Moments) -> bool:
        """Overwrite moments in one sweep, if there is a way."""
        return self._kernel.fused(tile, moments)

    def _one_by_one(self, tile: Tile, moments: Moments) -> None:
        resp, log_density = self.posterior(tile)
        if tile.sample_weight is not None:
            resp *= tile.sample_weight
            log_density *= tile.sample_weight
        moments.log_likelihood[:] = log_density.sum(dtype=np.float64)
        moments.counts[:] = resp.sum(axis=1, dtype=np.float64)
        self._kernel.accumulate(tile, resp, moments.first_moments, moments.second_moments)


def check_log_likelihood(total: FloatArray) -> None:
    """Raise where the sum of the log-likelihoods of tiles (1,) is not finite: `DegenerateError` where it is -inf, else
    `DataError`."""
    if total[0] == -np.inf:
        raise DegenerateError(
            "a row lies too many standard deviations from every component for float64; raise model.reg_covar or "
            "model.variance_floor, rescale the data, or add --restart if the rows have changed since they were surveyed"
        )
    if not np.isfinite(total[0]):
        raise DataError(
            "the log-likelihood of a tile is not finite: the rows have changed since they were surveyed; leave the "
            "input alone while it is read, and add --restart"
        )


@dataclass(frozen=True)
class Repairs:
    """Which components an M-step had to mend."""

    floored: Sequence[int | None] = ()
    reseeded: Sequence[int] = ()

    def __bool__(self) -> bool:
        return bool(self.floored or self.reseeded)


@dataclass(frozen=True)
class Safeguards:
    """What keeps covariances away from zero.

    Parameters
    ----------
    reg_covar : float
        Added to every diagonal entry.
    variance_floor : float
        Least variance in any direction as a share of the data's.
    """

    reg_covar: float
    variance_floor: float


def m_step(mixture: Mixture, moments: Moments, survey: DataSummary, safeguards: Safeguards) -> tuple[Mixture, Repairs]:
    """The mixture that maximises the expected log-likelihood, from the statistics of all rows.

    Parameters
    ----------
    mixture : Mixture
        The one that entered the E-step.
    moments : Moments
        Sums over all rows.
    survey : DataSummary
    safeguards : Safeguards

    Returns
    -------
    mixture : Mixture
    repairs : Repairs
        Whose covariances were floored, and empty components re-seeded by splitting the heaviest.
    """
    empty = moments.counts <= least_count(survey)
    covariance = mixture.covariance
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        deltas = np.where(empty[:, None], 0.0, moments.first_moments / moments.counts[:, None])
        covariances = covariance.estimate(moments.counts, deltas, moments.second_moments)
    covariance.keep_components(covariances, mixture.covariances, empty)
    covariances = covariance.regularise(covariances, safeguards.reg_covar)
    weights = np.where(empty, 0.0, moments.counts)
    new = Mixture(covariance, weights / weights.sum(), mixture.means + deltas, covariances)
    floored: Sequence[int | None] = []
    if not is_above_floor(new, safeguards.variance_floor, survey.variances):
        covariances, floored = covariance.floor(covariances, safeguards.variance_floor, survey.variances)
        new = replace(new, covariances=covariances)
    if empty.any():
        new = replace(new)  # without the factors, which are not those of what follows
    reseeded: list[int] = np.flatnonzero(empty).tolist()
    for component in reseeded:
        split_heaviest(new, component, survey.variances)
    return new, Repairs(floored, reseeded)


def is_above_floor(mixture: Mixture, share: float, variances: FloatArray) -> bool:
    """Whether the covariances surely have more than share of the data's variances (D,) in every direction.

    The largest eigenvalue of V^(1/2) P V^(1/2), whose inverse is the least share, is at most its trace sum_d V_d P_dd.
    The factors are those that the next E-step needs.
    """
    try:
        with np.errstate(over="ignore", invalid="ignore"):
            return bool((share * (precision_diagonals(mixture) @ variances) < 1.0).all())
    except SingularCovarianceError:
        return False


def split_heaviest(mixture: Mixture, empty: int, variances: FloatArray) -> None:
    """Give an empty component half of the heaviest one, in place: means half a standard deviation to either side
    along its principal axis, the same covariance."""
    heaviest = int(mixture.weights.argmax())
    axis = 0.5 * mixture.covariance.principal_axis(mixture.covariances, heaviest, variances)
    mixture.weights[[heaviest, empty]] = mixture.weights[heaviest] / 2
    mixture.means[empty] = mixture.means[heaviest] - axis
    mixture.means[heaviest] += axis
    mixture.covariance.copy_component(mixture.covariances, heaviest, empty)
