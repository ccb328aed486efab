"""A quadratic model of the objective near a mixture, from several steps of EM."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mpigmm.core.covariances.base import inverses
from mpigmm.core.exact import FloatArray

LEAST_GRAM_EIGENVALUE = 1e-10
"""Least eigenvalue, relative to the largest, of the Gram matrix of unit differences for a direction that is used."""

NOT_CONCAVE = 2.0
"""Largest radius, in lengths of EM's step, where the model is not concave."""

RADIUS_BISECTIONS = 100

TINY = 1e-300
"""A number by which others may be divided where zero may not."""


@dataclass(frozen=True, eq=False)
class Proposal:
    """A step from the last accepted mixture.

    Attributes
    ----------
    coefficients : ndarray of shape (2 m + 1,)
        Of the rows of the differences, whose sum is the step.
    length : float
        Length of its first part, which lies in the span of the differences between mixtures.
    predicted : float
        Gain of the objective, according to the model.
    is_bounded : bool
        Whether the radius limits the first part.
    """

    coefficients: FloatArray
    length: float
    predicted: float
    is_bounded: bool


class SecantModel:
    """The objective near an accepted mixture x, in coordinates whose metric is the Fisher information.

    Near a maximum, the step of EM, f(x) = G(x) - x, is the gradient of the objective in these coordinates, and its
    derivative H the Hessian. With the differences S of other mixtures from x, and Y of their steps from f(x), Y = H S.
    On the span of S the model is b^T c - c^T A c / 2, where c are coordinates for an orthonormal basis U of the span,
    b = U^T f, and A is the symmetric part of -U^T H U.

    Parameters
    ----------
    differences : ndarray of shape (2 m + 1, n)
        S^T, Y^T and f, row by row.
    """

    def __init__(self, differences: FloatArray) -> None:
        self._gram, m = differences @ differences.T, len(differences) // 2
        self.step_length = float(np.sqrt(self._gram[-1, -1]))
        scales = inverses(np.sqrt(np.diagonal(self._gram)[:m]))
        eigenvalues, vectors = np.linalg.eigh(self._gram[:m, :m] * np.outer(scales, scales))
        used = eigenvalues > LEAST_GRAM_EIGENVALUE * eigenvalues[-1]
        self._basis = scales[:, None] * vectors[:, used] / np.sqrt(eigenvalues[used])  # U = S basis
        self._gradient = self._basis.T @ self._gram[:m, -1]
        curvature = -self._basis.T @ self._gram[:m, m:-1] @ self._basis
        self._curvatures, self._axes = np.linalg.eigh((curvature + curvature.T) / 2)

    @property
    def is_stationary(self) -> bool:
        """Whether EM's step, or all differences between the mixtures, are zero to rounding: there is no proposal."""
        return self.step_length == 0 or not self._curvatures.size

    def proposal(self, radius: float) -> Proposal:
        """The step to the maximum of the model within a radius, and a step of EM from there.

        The second part is f + Y c, the step that EM would take from the maximum, without what the radius has left of it
        in the span of S, and not longer than f.
        """
        if self._curvatures[0] <= 0:
            radius = min(radius, NOT_CONCAVE * self.step_length)
        gradient = self._axes.T @ self._gradient
        multiplier = self._multiplier(gradient, radius)
        along = gradient / (self._curvatures + multiplier)
        predicted = along @ gradient - 0.5 * np.square(along) @ self._curvatures
        inside = self._basis @ (self._axes @ along)
        outside, square = self._em_step(inside, multiplier > 0)
        coefficients = outside
        coefficients[: len(inside)] += inside
        return Proposal(
            coefficients, float(np.sqrt(np.square(along).sum())), float(predicted + 0.5 * square), multiplier > 0
        )

    def _em_step(self, inside: FloatArray, is_bounded: bool) -> tuple[FloatArray, float]:
        """Coefficients of the second part, after the first part S @ inside, and its squared length."""
        m = len(inside)
        coefficients = np.concatenate([np.zeros(m), inside, [1.0]])
        if is_bounded:
            remaining = self._basis.T @ (self._gram[:m] @ coefficients)
            coefficients[:m] = -self._basis @ remaining
        square = float(coefficients @ self._gram @ coefficients)
        longest = self.step_length**2
        if square > longest:
            coefficients *= np.sqrt(longest / square)
        return coefficients, min(max(square, 0.0), longest)

    def _multiplier(self, gradient: FloatArray, radius: float) -> float:
        """The least l >= 0 for which the model, with l added to its curvatures, is concave with its maximum within the
        radius (Moré and Sorensen, SIAM J. Sci. Stat. Comput. 4, 1983)."""

        def is_within(multiplier: float) -> bool:
            shifted = self._curvatures + multiplier
            return bool(shifted[0] > 0 and np.square(gradient / shifted).sum() <= radius**2)

        if is_within(0.0):
            return 0.0
        low = max(0.0, -float(self._curvatures[0]))
        high = low + max(2.0 * float(np.sqrt(np.square(gradient).sum())) / radius, 1e-8 * low, TINY)
        for _ in range(RADIUS_BISECTIONS):
            middle = (low + high) / 2
            low, high = (low, middle) if is_within(middle) else (middle, high)
        return high
