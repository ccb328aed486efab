"""Unconstrained coordinates of mixtures, in which accelerated EM computes sums of multiples of mixtures."""

from __future__ import annotations

import numpy as np

from mpigmm.core.arrays import BoolArray
from mpigmm.core.covariances.base import inverses
from mpigmm.core.exact import FloatArray
from mpigmm.core.mixture import Mixture


class MixtureCoordinates:
    """Coordinates relative to a reference mixture with weights w_k, means m_k and covariances S_k = L_k L_k^T.

    The vector of a mixture holds sqrt(w_k) log of its weights, sqrt(w_k) L_k^-1 (its means - m_k), and
    `Covariances.to_vector` of its covariances. Near the reference, the squared distance of two vectors is the metric of
    the Fisher information of rows whose components are known. An invertible affine map of the features with a lower
    triangular matrix, such as other units and another origin, does not change the vectors.

    Components of weight zero have the coordinates zero, and keep the parameters of the reference.

    Parameters
    ----------
    reference : Mixture
    """

    def __init__(self, reference: Mixture) -> None:
        self._reference = reference
        self._roots = np.sqrt(reference.weights)

    def vector(self, mixture: Mixture) -> FloatArray:
        """The coordinates (n,) of a mixture with the same components of weight zero."""
        reference, roots = self._reference, self._roots
        logarithms = np.log(np.where(roots > 0, mixture.weights, 1.0))
        whitened = reference.covariances.factors.whiten(mixture.means - reference.means)
        covariances = reference.covariances.to_vector(mixture.covariances, roots, mixture.n_features)
        return np.concatenate([roots * logarithms, (roots[:, None] * whitened).reshape(-1), covariances])

    def mixture(self, vector: FloatArray) -> Mixture:
        """The mixture with the coordinates (n,), its weights scaled to the sum 1.

        Its parameters may be infinite or singular if the vector is far from those of other mixtures.
        """
        reference, scales = self._reference, inverses(self._roots)
        k, d = reference.means.shape
        logarithms, whitened, covariances = np.split(vector, [k, k + k * d])
        with np.errstate(over="ignore", invalid="ignore"):
            weights = softmax(logarithms * scales, self._roots > 0)
            deviations = scales[:, None] * whitened.reshape(k, d)
            means = reference.means + reference.covariances.factors.unwhiten(deviations, np.arange(k))
            return Mixture(weights, means, reference.covariances.from_vector(covariances, self._roots, d))


def softmax(logarithms: FloatArray, held: BoolArray) -> FloatArray:
    """Weights (K,) with the sum 1 and with these logarithms (K,) up to a constant; zero where held (K,) is false."""
    weights = np.where(held, np.exp(logarithms - logarithms[held].max()), 0.0)
    return np.asarray(weights / weights.sum())
