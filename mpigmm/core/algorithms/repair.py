"""Repairs of components that an M-step leaves without rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mpigmm.core.exact import FloatArray
from mpigmm.core.mixture import Mixture


@dataclass(frozen=True)
class Repairs:
    """The components that an M-step repaired.

    Attributes
    ----------
    floored : sequence of int or None
        Those whose variances were raised to the floor; None stands for the tied covariance.
    reseeded : sequence of int
        Those that held no rows and were given half of another component.
    """

    floored: Sequence[int | None] = ()
    reseeded: Sequence[int] = ()

    def __bool__(self) -> bool:
        return bool(self.floored or self.reseeded)


def reseed(mixture: Mixture, empty: Sequence[int], data_variances: FloatArray) -> Mixture:
    """The mixture in which each empty component takes half of the heaviest one in turn.

    The two have the same covariance, and means half a standard deviation to either side along its principal axis.

    Parameters
    ----------
    mixture : Mixture
    empty : sequence of int
    data_variances : ndarray of shape (D,)
    """
    weights, means, places = mixture.weights.copy(), mixture.means.copy(), np.arange(mixture.n_components)
    for component in empty:
        heaviest = int(weights.argmax())
        axis = 0.5 * mixture.covariances.principal_axis(int(places[heaviest]), data_variances)
        weights[[heaviest, component]] = weights[heaviest] / 2
        means[component] = means[heaviest] - axis
        means[heaviest] += axis
        places[component] = places[heaviest]
    return Mixture(weights, means, mixture.covariances.select(places))
