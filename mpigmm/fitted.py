"""The mixture of the Python interface: parameters and files; its methods for rows are in a module of their own."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from mpigmm import exchange
from mpigmm.core import mixture as core
from mpigmm.core.exact import FloatArray
from mpigmm.errors import DataError, counted
from mpigmm.fitted_plot import PlotMethods
from mpigmm.fitted_rows import RowMethods
from mpigmm.runs.model import Model


class Mixture(RowMethods, PlotMethods):
    """A mixture of Gaussian components: p(x) = sum_k weights_k N(x | means_k, covariances_k).

    It cannot be changed. `fit` returns one, `load` reads one from a file.

    Parameters
    ----------
    weights : array_like of shape (K,)
        Not negative, with sum 1.
    means : array_like of shape (K, D)
        One row for each component.
    covariances : array_like
        As in scikit-learn: (K, D, D) for ``full``, (D, D) for ``tied``, (K, D) for ``diag`` and (K,) for ``spherical``;
        positive definite.
    covariance_type : str
        ``full``, ``tied``, ``diag`` or ``spherical``.

    Raises
    ------
    DataError
        Where these are not the parameters of a mixture.

    Notes
    -----
    Rows are given as a matrix (n, D) of integers or floats with any strides, or as a tuple of D vectors (n,). Arrays
    are not copied. `predict`, `predict_proba` and `score_samples` compute on this process, with as many threads as
    `fit` uses. `score`, `aic`, `bic` and `icl` are collective if a communicator is given: each rank brings its own
    rows, and all get the result for the rows of all. A row that is not finite raises `DataError`, which names it.
    """

    def __init__(
        self, weights: ArrayLike, means: ArrayLike, covariances: ArrayLike, covariance_type: str = "full"
    ) -> None:
        given = {"weights": weights, "means": means, "covariances": covariances}
        try:
            arrays = {name: np.array(value) for name, value in given.items()}
            self._model = frozen(Model(core.Mixture.from_arrays(covariance_type, arrays)))
        except (TypeError, ValueError) as error:
            raise DataError(f"these are not the parameters of a mixture: {error}") from None

    @classmethod
    def from_model(cls, model: Model) -> Mixture:
        """The mixture of a fit, with what is known of the fit, which `save` writes."""
        mixture = cls.__new__(cls)
        mixture._model = frozen(model)
        return mixture

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Mixture:
        """Read a model file, such as the ``model.h5`` that a fit writes.

        Raises `DataError` where it is damaged, or no model file.
        """
        from mpigmm.runs.model_file import load_model

        return cls.from_model(load_model(Path(path)))

    @classmethod
    def from_sklearn(cls, estimator: Any) -> Mixture:
        """The mixture of a fitted estimator.

        Parameters
        ----------
        estimator : sklearn.mixture.GaussianMixture, sklearn.mixture.BayesianGaussianMixture or like object
            It has ``weights_``, ``means_``, ``covariances_`` and ``covariance_type``, of float64 or float32. For the
            posterior of a Bayesian mixture stand its means. Covariances that are symmetric but for rounding errors are
            made exactly so, and weights in float32 are scaled to the sum 1.

        Raises
        ------
        DataError
            Where the estimator is not fitted, or does not hold the parameters of a mixture.
        """
        return cls(**exchange.from_sklearn(estimator))

    def to_sklearn(self) -> Any:
        """A fitted `sklearn.mixture.GaussianMixture` with copies of the parameters.

        It predicts, scores, samples and can be pickled like one that scikit-learn has fitted. ``converged_``,
        ``n_iter_`` and ``lower_bound_`` are those of the fit, where they are known. Raises `MissingLibraryError` where
        scikit-learn is not installed.
        """
        return exchange.to_sklearn(self._model)

    def to_torch(self, dtype: Any = None, device: Any = None) -> Any:
        """A `torch.distributions.MixtureSameFamily` with copies of the parameters.

        Its components are a `MultivariateNormal`, or `Independent(Normal)` for ``diag`` and ``spherical``. ``log_prob``
        is differentiable with respect to x. It is differentiable, too, with respect to the tensors that hold the
        parameters, once these require gradients; they can be given to an optimiser:

        >>> d = mixture.to_torch()
        >>> d.mixture_distribution.logits.requires_grad_()  # (K,), logarithms of weights, which need no normalisation
        >>> d.component_distribution.loc.requires_grad_()  # (K, D)
        >>> d.component_distribution.scale_tril.requires_grad_()  # lower Cholesky factors (K, D, D); (D, D) for tied

        For ``diag`` and ``spherical`` the last two are ``d.component_distribution.base_dist.loc`` and
        ``d.component_distribution.base_dist.scale``, standard deviations (K, D).

        Parameters
        ----------
        dtype : torch.dtype, optional
            By default float64, in which the densities are those of `score_samples` but for rounding errors.
        device : torch.device or str, optional
            PyTorch's default by default.

        Raises
        ------
        MissingLibraryError
            Where PyTorch is not installed.
        """
        return exchange.to_torch(self._core, dtype, device)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write a model file, whole or not at all.

        Raises `OutputError`, also where the path is that of a file other than a model.
        """
        from mpigmm.runs.model_file import save_model
        from mpigmm.runs.owned import check_replaceable

        check_replaceable(Path(path))
        save_model(Path(path), self._model)

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        frozen(self._model)

    def __repr__(self) -> str:
        return (
            f"<Mixture: {counted(self.n_components, 'component')}, {counted(self.n_features, 'feature')}, "
            f"{self.covariance_type}>"
        )

    @property
    def _core(self) -> core.Mixture:
        return self._model.mixture

    @property
    def weights(self) -> FloatArray:
        """Weights of the components, (K,)."""
        return self._core.weights

    @property
    def means(self) -> FloatArray:
        """Means of the components, (K, D)."""
        return self._core.means

    @property
    def covariances(self) -> FloatArray:
        """Covariances: (K, D, D) for ``full``, (D, D) for ``tied``, (K, D) for ``diag``, (K,) for ``spherical``."""
        return self._core.covariances.arrays()["covariances"]

    @property
    def precisions(self) -> FloatArray:
        """Inverses of the covariances, in the same shape; a new array."""
        return self._core.covariances.precisions

    @property
    def covariance_type(self) -> str:
        """Type of the covariances: ``full``, ``tied``, ``diag`` or ``spherical``."""
        return self._core.covariances.name

    @property
    def n_components(self) -> int:
        """Number of components, K."""
        return self._core.n_components

    @property
    def n_features(self) -> int:
        """Number of features, D."""
        return self._core.n_features


def frozen(model: Model) -> Model:
    """The model, whose arrays can no longer be changed."""
    for array in model.mixture.arrays().values():
        array.flags.writeable = False
    return model
