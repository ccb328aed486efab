"""Repairs that an M-step makes: raised variances, and new parameters for empty components."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mpigmm.core.exact import FloatArray
from mpigmm.core.mixture import Mixture


@dataclass(frozen=True)
class Repairs:
    """The components that an M-step has repaired.

    Attributes
    ----------
    floored : sequence of int or None
        Components whose variances were raised to the floor; None stands for the tied covariance.
    reseeded : sequence of int
        Empty components, each of which has become half of another component.
    """

    floored: Sequence[int | None] = ()
    reseeded: Sequence[int] = ()

    def __bool__(self) -> bool:
        return bool(self.floored or self.reseeded)


def reseed(mixture: Mixture, empty: Sequence[int], data_variances: FloatArray) -> Mixture:
    """Split the component with the largest weight in two for each empty component, one after another.

    Each half has half the weight and the same covariance. The means move by half a standard deviation along the
    principal axis, in opposite directions.

    Parameters
    ----------
    mixture : Mixture
    empty : sequence of int
        Numbers of the empty components.
    data_variances : ndarray of shape (D,)
        Variance of each feature over all rows.
    """
    weights, means, sources = mixture.weights.copy(), mixture.means.copy(), np.arange(mixture.n_components)
    for component in empty:
        heaviest = int(weights.argmax())
        axis = 0.5 * mixture.covariances.principal_axis(int(sources[heaviest]), data_variances)
        weights[[heaviest, component]] = weights[heaviest] / 2
        means[component] = means[heaviest] - axis
        means[heaviest] += axis
        sources[component] = sources[heaviest]
    return Mixture(weights, means, mixture.covariances.select(sources))
