"""The mixture of the Python interface: parameters and files; its methods for rows are in a module of their own."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from mpigmm import exchange
from mpigmm.calls import NOTHING_LOST, call
from mpigmm.core import mixture as core
from mpigmm.core.exact import FloatArray
from mpigmm.core.merging import merge_components, split_component
from mpigmm.driver.features import Features, chosen_features
from mpigmm.driver.inference import definite, factored
from mpigmm.driver.posteriors import ON_PROCESSORS
from mpigmm.driver.update_rows import (
    UpdateSettings,
    check_forget,
    kept_statistics,
    recorded_precision,
    update_alike,
)
from mpigmm.errors import ConfigError, DataError, counted
from mpigmm.fitted_plot import PlotMethods
from mpigmm.fitted_rows import RowMethods, checked_number, is_whole, with_all_features
from mpigmm.own_rows import Matrix, OwnRows, array_source
from mpigmm.parallel.comm import Comm
from mpigmm.parallel.stop import StopRequest
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
    `fit` uses. `update`, `score`, `aic`, `bic` and `icl` are collective if a communicator is given: each rank brings
    its own rows, and all get the result for the rows of all. A row that is not finite raises `DataError`, which names
    it.
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

    def marginal(self, features: Features) -> Mixture:
        """The mixture of some features alone, of the same covariance type.

        Its means and covariances are the entries of these features. Where it was fitted to a file, it knows the columns
        of its features there: the saved mixture labels the rows of that file.

        Parameters
        ----------
        features : sequence of int or str
            Numbers of the features or, where they have names, names, each once; the result has them in this order.
        """
        chosen = chosen_features("features", features, self.n_features, self.n_features, self.feature_names)

        def work(comm: Comm, stop: StopRequest) -> Model:
            model = self._model.marginal(chosen)
            with factored(self._core.covariances), definite():
                _ = model.mixture.covariances.factors
            return model

        return self.from_model(call(None, NOTHING_LOST, work))

    def update(
        self,
        X: Matrix,  # noqa: N803
        sample_weight: ArrayLike | None = None,
        forget: float = 1.0,
        comm: object = None,
    ) -> Mixture:
        """A mixture with new rows folded in, from the statistics that this one keeps. Collective.

        It is one step of the recursion S <- F S + s(X; theta), theta <- M(S). S are the sufficient statistics of all
        rows so far about the mixture's means, s those of the new rows under this mixture, and M is the M-step with the
        settings of the fit (Neal and Hinton, A view of the EM algorithm that justifies incremental, sparse, and other
        variants, 1998). With F below one, older rows count less and less (Sato and Ishii, On-line EM algorithm for the
        normalized Gaussian network, Neural Comput. 12, 2000). A component that becomes empty keeps its mean and
        covariance, with weight 0. The E-step is computed on processors, in the precision of the fit.

        Parameters
        ----------
        X : array_like of shape (n, D), or tuple of D array_like of shape (n,)
            The new rows that this rank brings. Columns of a data frame are found by name where the mixture has names.
        sample_weight : array_like of shape (n,), optional
            Weights >= 0 of the rows of X.
        forget : float
            F, from 0 to 1.
        comm : mpi4py.MPI.Intracomm or int, optional
            As in `fit`.

        Raises
        ------
        DataError
            The mixture keeps no statistics (set ``output.statistics: true`` in the settings of the fit), or the rows
            cannot be used.
        ConfigError
            `forget` is not valid, or ranks give different mixtures.
        """

        def work(ranks: Comm, stop: StopRequest) -> Model:
            own, settings = None, None
            with ranks.together():
                kept_statistics(self._model, "the mixture")
                compute = replace(ON_PROCESSORS, precision=recorded_precision(self._model))
                settings = UpdateSettings(check_forget("forget:", forget), compute)
                own = with_all_features(OwnRows.of(X, sample_weight), self.feature_names)
            assert own is not None and settings is not None
            return update_alike(ranks, self._model, array_source(ranks, own), settings, stop).model

        return self.from_model(call(comm, NOTHING_LOST, work))

    def merge(self, n_components: int) -> Mixture:
        """A mixture with fewer components, of type ``full``, which keeps the mean and covariance of the whole.

        Two components are merged at a time, into one with their weight, mean and covariance. Each step takes the pair
        (i, j) for which an upper bound of the Kullback-Leibler divergence D(before || after) is least,

            B(i, j) = [(w_i + w_j) log |P_ij| - w_i log |P_i| - w_j log |P_j|] / 2,

        where w are weights, P covariances and P_ij that of the pair; of equal ones, the pair of the lowest numbers
        (Runnalls, Kullback-Leibler approach to Gaussian mixture reduction, IEEE Trans. Aerosp. Electron. Syst. 43,
        2007). The merged component takes the place of the first; those after the second move up. Components of weight 0
        go first. The result is of type ``full`` for every type: a merged component has correlations, and a covariance
        of its own. The time grows like K^2 D^3: less than a second from 200 components of 20 features to 10, ten
        seconds from 300 of 100.

        Parameters
        ----------
        n_components : int
            From 1 to the number of components of this mixture.
        """
        if not is_whole(n_components) or not 1 <= n_components <= self.n_components:
            raise ConfigError(
                f"n_components: {n_components!r} is not valid; a whole number from 1 to {self.n_components}, the "
                "components of this mixture, is needed"
            )
        return self._derived(lambda check: merge_components(self._core, int(n_components), check)[0])

    def split(self, component: int, distance: float = 0.5) -> Mixture:
        """A mixture in which a component is two, of type ``full``; `merge` is the inverse.

        Both halves have half the component's weight, means m + t v and m - t v and the covariance P - t^2 v v^T, where
        m and P are those of the component, t is the distance, and v is its principal axis, as long as the standard
        deviation along it. Together they have the component's weight, mean and covariance. The first half has the
        component's number, the other is the last component.

        Parameters
        ----------
        component : int
            Number of the component.
        distance : float
            Of the new means from the old one, in standard deviations; above 0 and below 1.
        """
        number = checked_number("component", component, self.n_components)
        if not isinstance(distance, (int, float, np.number)) or not 0 < distance < 1:
            raise ConfigError(f"distance: {distance!r} is not valid; a number above 0 and below 1 is needed")
        return self._derived(lambda check: split_component(self._core, number, float(distance)))

    def _derived(self, make: Callable[[Callable[[], None]], core.Mixture]) -> Mixture:
        """The mixture that make(check) computes from this one, `check` as in `merge_components`."""

        def work(comm: Comm, stop: StopRequest) -> core.Mixture:
            with factored(self._core.covariances):
                return make(stop.check)

        return self.from_model(self._model.derived(call(None, NOTHING_LOST, work)))

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

    @property
    def feature_names(self) -> tuple[str, ...] | None:
        """Names of the features, where the rows of the fit had names; else None."""
        return self._model.feature_names


def frozen(model: Model) -> Model:
    """The model, whose arrays can no longer be changed."""
    kept = {} if model.statistics is None else model.statistics.arrays()
    for array in (*model.mixture.arrays().values(), *kept.values()):
        array.flags.writeable = False
    return model
