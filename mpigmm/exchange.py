"""Mixtures as objects of scikit-learn and PyTorch, neither of which has to be installed."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from mpigmm.core.covariances import COVARIANCE_TYPES
from mpigmm.core.mixture import Mixture
from mpigmm.core.ops.groups import SecondMoments
from mpigmm.errors import DataError, needed
from mpigmm.runs.model import Model

PARAMETERS = ("weights_", "means_", "covariances_", "covariance_type")
"""Attributes of a fitted estimator that hold its mixture."""

MATRICES = (SecondMoments.PAIRS_OF_EACH, SecondMoments.PAIRS_SUMMED)
"""Second moments of the types whose covariances are matrices."""


def to_sklearn(model: Model) -> Any:
    """A fitted `sklearn.mixture.GaussianMixture` with copies of a model's parameters.

    Raises `MissingLibraryError`.
    """
    with needed("scikit-learn", "to_sklearn"):
        from sklearn.mixture import GaussianMixture
    mixture = model.mixture
    found = GaussianMixture(mixture.n_components, covariance_type=mixture.covariances.name)
    found.weights_, found.means_ = mixture.weights.copy(), mixture.means.copy()
    found.covariances_ = mixture.covariances.arrays()["covariances"].copy()
    found.precisions_ = mixture.covariances.precisions
    found.precisions_cholesky_ = mixture.covariances.factors.array.copy()
    found.n_features_in_ = mixture.n_features
    found.converged_, found.n_iter_ = model.converged, model.n_iter
    found.lower_bound_, found.lower_bounds_ = model.mean_log_likelihood, [model.mean_log_likelihood]
    return found


def from_sklearn(estimator: Any) -> dict[str, Any]:
    """The arguments of `mpigmm.Mixture` that make the mixture of a fitted estimator; raises `DataError`."""
    missing = [name for name in PARAMETERS if not hasattr(estimator, name)]
    if missing:
        raise DataError(
            f"the estimator, of type {type(estimator).__name__}, has no {missing[0]}; give a Gaussian mixture of "
            "scikit-learn's, or an object with the same attributes, and fit it first"
        )
    weights, means, covariances, covariance_type = (getattr(estimator, name) for name in PARAMETERS)
    return {
        "weights": with_sum_one(np.asarray(weights)),
        "means": means,
        "covariances": made_symmetric(covariance_type, np.asarray(covariances)),
        "covariance_type": covariance_type,
    }


def with_sum_one(weights: NDArray[Any]) -> NDArray[Any]:
    """Weights (K,) in float64; weights of less precision are divided by their sum."""
    if weights.dtype.kind != "f" or weights.dtype == np.float64:
        return weights
    wide = weights.astype(np.float64)
    return np.asarray(wide / wide.sum())


def made_symmetric(covariance_type: str, covariances: NDArray[Any]) -> NDArray[Any]:
    """Covariances in float64, in which matrices that are symmetric but for rounding errors are exactly so.

    The difference between entries (i, j) and (j, i) may be the square root of the dtype's precision, relative to the
    product of the two standard deviations; matrices with a larger one are returned as they are.
    """
    kind = COVARIANCE_TYPES.get(covariance_type)
    if kind is None or kind.second_moments not in MATRICES or covariances.dtype.kind != "f" or covariances.ndim < 2:
        return covariances
    wide = covariances.astype(np.float64)
    transposed = np.swapaxes(wide, -1, -2)
    if wide.shape != transposed.shape:
        return covariances
    scale = np.sqrt(np.abs(np.einsum("...dd->...d", wide)))
    rounding = np.sqrt(np.finfo(covariances.dtype).eps) * scale[..., :, None] * scale[..., None, :]
    return np.where(np.abs(wide - transposed) <= rounding, 0.5 * wide + 0.5 * transposed, wide)


def to_torch(mixture: Mixture, dtype: Any, device: Any) -> Any:
    """A `torch.distributions.MixtureSameFamily` with copies of a mixture's parameters; raises `MissingLibraryError`."""
    with needed("torch", "to_torch"):
        import torch
        from torch import distributions

    def tensor(array: NDArray[Any]) -> Any:
        return torch.tensor(array, dtype=torch.float64 if dtype is None else dtype, device=device)

    with np.errstate(divide="ignore"):
        logits = tensor(np.log(mixture.weights))
    means = tensor(mixture.means)
    if mixture.covariances.second_moments in MATRICES:
        lower = tensor(np.linalg.cholesky(mixture.covariances.arrays()["covariances"]))
        components = distributions.MultivariateNormal(means, scale_tril=lower)
        components.scale_tril = lower  # the tensor that densities are computed from, and not a view of it
    else:
        components = distributions.Independent(distributions.Normal(means, tensor(np.sqrt(mixture.variances))), 1)
    return distributions.MixtureSameFamily(distributions.Categorical(logits=logits), components)
