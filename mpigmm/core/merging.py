"""Fewer components by merging pairs, and more by splitting one, with the mean and covariance of the mixture as they
were."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from mpigmm.core.arrays import BoolArray, Indices
from mpigmm.core.covariances.full import Full
from mpigmm.core.exact import FloatArray
from mpigmm.core.matrices import exceeds_floor
from mpigmm.core.mixture import Mixture


def merge_components(mixture: Mixture, n_components: int, check: Callable[[], None]) -> tuple[Mixture, FloatArray]:
    """The mixture with pairs of components merged, one after another, until so many are left; and the steps' bounds.

    Each step takes the pair with the least `Merging.pair_bounds`, of equal ones that with the lowest numbers. The
    component with their weight, mean and covariance takes the place of the first; those after the second move up.
    Components of weight 0 go first, the lowest number first, with the bound 0. (Runnalls, Kullback-Leibler approach to
    Gaussian mixture reduction, IEEE Trans. Aerosp. Electron. Syst. 43, 2007.)

    The result is of type ``full``, whatever the type of the mixture: merged components have covariances of their own,
    and features that are correlated between two components are correlated in the merged one.

    Parameters
    ----------
    mixture : Mixture
    n_components : int
        From 1 to the number of components of the mixture.
    check : callable
        Called before each step; an exception that it raises ends the work.

    Returns
    -------
    mixture : Mixture
    bounds : ndarray of shape (n_steps,)
    """
    n_steps = mixture.n_components - n_components
    empty = np.flatnonzero(mixture.weights == 0)[:n_steps]
    merging = Merging(mixture, np.setdiff1d(np.arange(mixture.n_components), empty))
    bounds = np.zeros(n_steps)
    if len(empty) < n_steps:
        merging.bound_all(check)
    for step in range(len(empty), n_steps):
        check()
        bounds[step] = merging.step()
    return merging.mixture(), bounds


class Merging:
    """The state of `merge_components`: components, of which some are left, and bounds of the pairs of these.

    Features are in units of powers of two near the standard deviations of the mixture, so that the units of the user
    change no choice, and the logarithms of determinants are small.

    Parameters
    ----------
    mixture : Mixture
    components : ndarray of intp
        Numbers of the components to begin with.
    """

    def __init__(self, mixture: Mixture, components: Indices) -> None:
        self._units = np.exp2(np.rint(0.5 * np.log2(total_variances(mixture))))
        self._weights = mixture.weights[components]
        self._means = mixture.means[components] / self._units
        covariances = mixture.covariance_matrices(np.arange(mixture.n_features))[components]
        self._covariances = covariances / self._units / self._units[:, None]
        self._log_dets = log_determinants(lower_factors(self._covariances))
        self._left: BoolArray = np.ones(len(components), bool)
        self._bounds = np.full((len(components), len(components)), np.inf)

    def mixture(self) -> Mixture:
        """The mixture of the components that are left."""
        covariances = self._covariances[self._left] * self._units * self._units[:, None]
        return Mixture(self._weights[self._left], self._means[self._left] * self._units, Full(covariances))

    def bound_all(self, check: Callable[[], None]) -> None:
        """Compute the bounds of all pairs; `check` as in `merge_components`."""
        for first in range(len(self._weights) - 1):
            check()
            others = np.arange(first + 1, len(self._weights))
            self._bounds[first, others] = self.pair_bounds(np.full_like(others, first), others)

    def step(self) -> float:
        """Merge the pair with the least bound, which is returned."""
        first, second = divmod(int(self._bounds.argmin()), len(self._bounds))
        least = float(self._bounds[first, second])
        self._merge(first, second)
        self._left[second] = False
        self._bounds[second] = self._bounds[:, second] = np.inf
        others = np.setdiff1d(np.flatnonzero(self._left), first)
        pairs = np.minimum(first, others), np.maximum(first, others)
        self._bounds[pairs] = self.pair_bounds(*pairs)
        return least

    def pair_bounds(self, first: Indices, second: Indices) -> FloatArray:
        """Upper bounds (n,) of the Kullback-Leibler divergence D(before || after) that merging each pair costs.

        Of components i = first (n,) and j = second (n,), with weights w and covariances P, the bound is

            ((w_i + w_j) log |P_ij| - w_i log |P_i| - w_j log |P_j|) / 2,   P_ij = a P_i + b P_j + a b d d^T,

        where a = w_i / (w_i + w_j), b = 1 - a and d is the difference of their means. As
        log |P_ij| = log |M| + log(1 + a b d^T M^-1 d) with M = a P_i + b P_j, it keeps its digits however far apart
        they are.
        """
        weights = self._weights[first], self._weights[second]
        a, b = (own / (weights[0] + weights[1]) for own in weights)
        mixed = a[:, None, None] * self._covariances[first] + b[:, None, None] * self._covariances[second]
        lower = lower_factors(mixed)
        whitened = forward_substituted(lower, self._means[second] - self._means[first])
        log_dets = log_determinants(lower) + np.log1p(a * b * np.square(whitened).sum(axis=1))
        growths = log_dets - self._log_dets[first], log_dets - self._log_dets[second]
        return np.asarray(np.maximum(0.5 * (weights[0] * growths[0] + weights[1] * growths[1]), 0.0))

    def _merge(self, first: int, second: int) -> None:
        """Give the first component the weight, mean and covariance of both together."""
        weight = self._weights[first] + self._weights[second]
        a, b = self._weights[first] / weight, self._weights[second] / weight
        between = self._means[second] - self._means[first]
        covariance = a * self._covariances[first] + b * self._covariances[second] + np.outer(a * b * between, between)
        self._weights[first] = weight
        self._means[first] += b * between
        self._covariances[first] = made_definite(covariance)
        self._log_dets[first] = log_determinants(lower_factors(self._covariances[first, None]))[0]


def split_component(mixture: Mixture, component: int, distance: float) -> Mixture:
    """The mixture with a component split in two along its principal axis, which reverses a step of `merge_components`.

    Both halves have half its weight, and together its mean and covariance: their means are those of the component plus
    and minus distance times v, and their covariances the component's minus distance^2 v v^T, where v is the principal
    axis with the component's standard deviation as its length. The first half has the component's number, the other
    follows the last component. The result is of type ``full``.

    Parameters
    ----------
    mixture : Mixture
    component : int
    distance : float
        Above 0 and below 1.
    """
    weights, means = mixture.weights.copy(), mixture.means
    covariances = mixture.covariance_matrices(np.arange(mixture.n_features))
    axis = admissible(mixture.covariances.principal_axis(component, total_variances(mixture)), covariances[component])
    weights[component] /= 2
    covariances[component] = made_definite(covariances[component] - np.outer(distance**2 * axis, axis))
    both = np.append(np.arange(mixture.n_components), component)
    means = means[both]
    means[component] += distance * axis
    means[-1] -= distance * axis
    return Mixture(weights[both], means, Full(covariances[both]))


def admissible(axis: FloatArray, covariance: FloatArray) -> FloatArray:
    """The vector P a / sqrt(a^T P a) for an axis a (D,) and a covariance P (D, D).

    It is the axis itself if that is an eigenvector whose length is its standard deviation. For any other a the
    covariance minus t^2 times the square of the vector is positive definite as well where t < 1, also where rounding
    errors of the axis exceed the standard deviation of a feature of small scale.
    """
    direction = axis / np.abs(axis).max()
    image = covariance @ direction
    return np.asarray(image / np.sqrt(direction @ image))


def total_variances(mixture: Mixture) -> FloatArray:
    """Variance of each feature (D,) in the whole mixture."""
    deviations = mixture.means - mixture.weights @ mixture.means
    return np.asarray(mixture.weights @ (mixture.variances + np.square(deviations)))


def made_definite(covariance: FloatArray) -> FloatArray:
    """The covariance (D, D), of which a step of Cholesky's algorithm is certain to find every pivot positive.

    Where two components are some 10^8 standard deviations apart, rounding may leave their common covariance singular.
    Then a share of its diagonal is added that is of the order of rounding errors.
    """
    variances, rounding, share = np.diagonal(covariance), len(covariance) * 2.0**-53, 0.0
    while share < 1 and not exceeds_floor(covariance, (rounding - share) * variances):
        share = 2 * (share + rounding)
    return covariance + np.diag(share * variances) if share else covariance


def lower_factors(covariances: FloatArray) -> FloatArray:
    """Cholesky factors (n, D, D) of covariances (n, D, D), each `made_definite` if need be."""
    try:
        return np.asarray(np.linalg.cholesky(covariances))
    except np.linalg.LinAlgError:
        return np.stack([np.linalg.cholesky(made_definite(own)) for own in covariances])


def log_determinants(lower: FloatArray) -> FloatArray:
    """Log-determinants (n,) of covariances with these Cholesky factors (n, D, D)."""
    return np.asarray(2 * np.log(np.diagonal(lower, axis1=1, axis2=2)).sum(axis=1))


def forward_substituted(lower: FloatArray, vectors: FloatArray) -> FloatArray:
    """The vectors L^-1 v (n, D) for lower triangular L (n, D, D) and vectors v (n, D)."""
    solved = np.empty_like(vectors)
    for d in range(vectors.shape[1]):
        known = np.einsum("ni,ni->n", lower[:, d, :d], solved[:, :d])
        solved[:, d] = (vectors[:, d] - known) / lower[:, d, d]
    return solved
