"""``mpigmm.GaussianMixture``: the interface of scikit-learn's estimator."""

from __future__ import annotations

import copy
import warnings
from dataclasses import replace
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mpigmm.calls import NOTHING_LOST, call
from mpigmm.core import mixture as core
from mpigmm.core.draw import draw_rows
from mpigmm.core.exact import FloatArray
from mpigmm.driver.inference import OfTile, collect, criteria_of, factored, score_all
from mpigmm.driver.scoring import Score
from mpigmm.driver.update_rows import UpdateSettings, kept_statistics, update_alike
from mpigmm.errors import (
    ConfigError,
    ConstantFeatureError,
    DataError,
    DegenerateError,
    IllDefinedError,
    InputError,
    MpigmmWarning,
)
from mpigmm.estimator import parameters, scikit
from mpigmm.estimator.fit_task import FitTask, Found, in_words_of_estimators, prepared, run
from mpigmm.estimator.given_rows import Files, GivenRows
from mpigmm.estimator.verbosity import QuietVoice, VerboseVoice
from mpigmm.fitted import Mixture
from mpigmm.options import ComputeOptions
from mpigmm.own_rows import Matrix
from mpigmm.parallel.comm import Comm
from mpigmm.parallel.stop import StopRequest
from mpigmm.runs.convergence import convergence_table
from mpigmm.runs.model import Model
from mpigmm.runs.voice import Voice

ADVICE = "call fit again to begin anew"

ILL_DEFINED = (
    "Fitting the mixture model failed because some components have ill-defined empirical covariance (for instance "
    "caused by singleton or collapsed samples). Try to decrease the number of components, increase reg_covar, or scale "
    "the input data."
)
UNCONVERGED = (
    "Best performing initialization did not converge. Try different init parameters, or increase max_iter, tol, or "
    "check for degenerate data."
)
NOT_FITTED = "This {} instance is not fitted yet. Call 'fit' with appropriate arguments before using this estimator."


class GaussianMixture(*scikit.BASES):  # type: ignore[misc]
    """A mixture of Gaussian components, with the interface of scikit-learn's ``GaussianMixture``.

    The parameters, their defaults, the attributes and the messages are those of scikit-learn 1.9; the last three
    parameters are not in scikit-learn. docs/recipes/scikit-learn.md shows what each means for the fit.

    Parameters
    ----------
    n_components : int
    covariance_type : {"full", "tied", "diag", "spherical"}
    tol : float
        EM ends when the mean log-likelihood of a row changes by less.
    reg_covar : float
        Added to the diagonal of every covariance.
    max_iter : int
        Largest number of iterations of a start; 0: the first mixture is the result.
    n_init : int
        Number of starts; the one with the largest log-likelihood is kept.
    init_params : {"kmeans", "k-means++", "random", "random_from_data"}
    weights_init : array_like of shape (n_components,), optional
    means_init : array_like of shape (n_components, n_features), optional
    precisions_init : array_like, optional
        Inverses of the first covariances, in the shape of `covariances_`.
    random_state : int, RandomState or None
        Of several ranks, that of rank 0.
    warm_start : bool
        Whether a fit begins with the attributes that the last one has set.
    verbose : int
        1: print starts and iterations, 2: also times and changes; on rank 0.
    verbose_interval : int
    comm : mpi4py.MPI.Intracomm or int, optional
        The communicator of the ranks that fit together, each with its own rows, or its handle in Fortran. It is shared
        by clones and copies, and left out when the estimator is pickled.
    n_threads : int, optional
        Threads of this rank; by default as many as the batch system or the affinity of the process allows.

    accelerate : {"none", "anderson", "squarem"}
        How the steps of EM are extrapolated, so that fewer are needed where components overlap; see
        docs/algorithms/acceleration.md.

    Attributes
    ----------
    weights_ : ndarray of shape (n_components,)
    means_ : ndarray of shape (n_components, n_features)
    covariances_, precisions_, precisions_cholesky_ : ndarray
        Of shape (n_components, n_features, n_features) for ``full``, (n_features, n_features) for ``tied``,
        (n_components, n_features) for ``diag`` and (n_components,) for ``spherical``. Precisions are inverses of
        covariances, and equal U U^T with the upper triangular U of `precisions_cholesky_`.
    converged_ : bool
    n_iter_ : int
    lower_bounds_ : list of float
        For each iteration of the start that is kept, the mean log-likelihood of the mixture that entered it.
    lower_bound_ : float
        The largest of the last of these of all starts. It is that of the start that is kept, unless another start,
        whose result is worse, was better one iteration before.
    convergence_ : structured ndarray
        A row for each iteration of each start, with the fields of ``convergence.jsonl``.
    n_features_in_ : int
    feature_names_in_ : ndarray of shape (n_features,)
        Where X is a data frame whose columns have texts as names.

    Raises
    ------
    MpigmmError
        A subclass, which is also `ValueError` where scikit-learn raises that; the same on all ranks.

    Notes
    -----
    X is a matrix (n, D), a data frame, a tuple of D vectors (n,), the path of a file of rows, a list of paths, or a
    section ``data`` of a configuration, such as ``{"path": "rows.h5", "dataset": "/X", "columns": [0, 2]}``. With
    `comm` each rank brings its own rows, any number of them; `fit`, `partial_fit`, `fit_predict`,
    `score`, `bic`, `aic` and `icl` are then collective, and all other methods work on this process alone.

    Predictions use the attributes as they are: a user may assign `weights_`, `means_` and `precisions_cholesky_`.
    Computations are in float64; attributes and results have the dtype of X, float64 or float32.
    """

    def __init__(
        self,
        n_components: int = 1,
        *,
        covariance_type: str = "full",
        tol: float = 1e-3,
        reg_covar: float = 1e-6,
        max_iter: int = 100,
        n_init: int = 1,
        init_params: str = "kmeans",
        weights_init: ArrayLike | None = None,
        means_init: ArrayLike | None = None,
        precisions_init: ArrayLike | None = None,
        random_state: int | np.random.RandomState | None = None,
        warm_start: bool = False,
        verbose: int = 0,
        verbose_interval: int = 10,
        comm: object = None,
        n_threads: int | None = None,
        accelerate: str = "none",
    ) -> None:
        self.n_components = n_components
        self.covariance_type = covariance_type
        self.tol = tol
        self.reg_covar = reg_covar
        self.max_iter = max_iter
        self.n_init = n_init
        self.init_params = init_params
        self.weights_init = weights_init
        self.means_init = means_init
        self.precisions_init = precisions_init
        self.random_state = random_state
        self.warm_start = warm_start
        self.verbose = verbose
        self.verbose_interval = verbose_interval
        self.comm = comm
        self.n_threads = n_threads
        self.accelerate = accelerate

    def __sklearn_clone__(self) -> GaussianMixture:
        params = self.get_params(deep=False)
        copies = {name: scikit.clone_value(value) for name, value in params.items() if name != "comm"}
        clone = type(self)(**copies)
        clone.comm = self.comm  # which the constructor of a subclass may not take
        if hasattr(self, "_metadata_request"):
            clone._metadata_request = copy.deepcopy(self._metadata_request)
        return clone

    def __deepcopy__(self, memo: dict[int, Any]) -> GaussianMixture:
        other = type(self).__new__(type(self))
        others = {name: value for name, value in self.__dict__.items() if name != "comm"}
        other.__dict__.update(copy.deepcopy(others, memo), comm=self.comm)
        return other

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "comm": None}

    def fit(
        self,
        X: Matrix | Files,  # noqa: N803
        y: object = None,
        sample_weight: ArrayLike | None = None,
    ) -> GaussianMixture:
        """Fit the mixture to rows X (n, D) with weights sample_weight (n,). Collective; y is not used.

        Raises `ParameterError`, `InputError`, or `IllDefinedError` where a covariance becomes singular.
        """
        self._fit(X, sample_weight)
        return self

    def partial_fit(
        self,
        X: Matrix | Files,  # noqa: N803
        y: object = None,
        sample_weight: ArrayLike | None = None,
    ) -> GaussianMixture:
        """Fit the mixture to rows X (n, D) or, where it is fitted, fold them in with one EM step. Collective.

        A fitted mixture is updated as by `Mixture.update`, from the sufficient statistics of all rows so far: one
        E-step over the new rows, and an M-step with the settings of the fit. Older rows are not needed again.
        `n_iter_`, `converged_` and the lower bounds remain those of the fit; y is not used.

        Raises `DataError` if the attributes were changed since the fit, if it kept no statistics, or if only some ranks
        have a fitted mixture. `fit` keeps statistics of at most 16 MiB, the first call of this method all.
        """
        if self._is_fitted_alike():
            self._update(X, sample_weight)
        else:
            self._fit(X, sample_weight, statistics=True)
        return self

    def fit_predict(
        self,
        X: Matrix | Files,  # noqa: N803
        y: object = None,
        sample_weight: ArrayLike | None = None,
    ) -> NDArray[np.int64]:
        """Fit the mixture, and return the component (n,) of each row of this rank, as `predict` does. Collective."""
        self._fit(X, sample_weight)
        return self.predict(X)

    def predict(self, X: Matrix | Files) -> NDArray[np.int64]:  # noqa: N803
        """The component (n,) with the largest posterior probability, of each row (n, D)."""
        return self._of_rows(X, (), np.int64, lambda resp, log_density: resp.argmax(axis=0))

    def predict_proba(self, X: Matrix | Files) -> FloatArray:  # noqa: N803
        """Posterior probabilities (n, K) of the components, of each row (n, D)."""
        return self._of_rows(X, (-1,), None, lambda resp, log_density: resp.T)

    def score_samples(self, X: Matrix | Files) -> FloatArray:  # noqa: N803
        """Log-density log p(x) (n,) of each row (n, D)."""
        return self._of_rows(X, (), None, lambda resp, log_density: log_density)

    def score(self, X: Matrix | Files, y: object = None, sample_weight: ArrayLike | None = None) -> float:  # noqa: N803
        """Mean log-likelihood of the rows (n, D), weighted with sample_weight (n,). Collective; y is not used."""
        return self._sums(X, sample_weight)[1].mean_log_likelihood

    def bic(self, X: Matrix | Files, sample_weight: ArrayLike | None = None) -> float:  # noqa: N803
        """The Bayesian information criterion, p log(sum of weights) - 2 log L; lower is better. Collective."""
        return criteria_of(*self._sums(X, sample_weight))["bic"]

    def aic(self, X: Matrix | Files, sample_weight: ArrayLike | None = None) -> float:  # noqa: N803
        """Akaike's information criterion, 2 p - 2 log L with p free parameters; lower is better. Collective."""
        return criteria_of(*self._sums(X, sample_weight))["aic"]

    def icl(self, X: Matrix | Files, sample_weight: ArrayLike | None = None) -> float:  # noqa: N803
        """The integrated completed likelihood, `bic` plus twice the entropy of the posteriors; see `Mixture.icl`.
        Collective."""
        return criteria_of(*self._sums(X, sample_weight, with_entropy=True))["icl"]

    def sample(self, n_samples: int = 1) -> tuple[FloatArray, NDArray[np.int64]]:
        """Rows (n, D) drawn from the mixture, sorted by component, and their components (n,).

        Raises `InputError` unless n_samples is at least 1.
        """
        self._check_fitted()
        if n_samples < 1:
            raise InputError(f"Invalid value for 'n_samples': {n_samples} . The sampling requires at least one sample.")
        seed = parameters.drawn_seed(self.random_state)

        def work(comm: Comm, stop: StopRequest) -> tuple[FloatArray, NDArray[np.int64]]:
            mixture = self._mixture()
            with factored(mixture.covariances):
                rows, labels = draw_rows(mixture, seed, 0, int(n_samples))
            order = np.argsort(labels, kind="stable")
            return rows[order], labels[order].astype(np.int64)

        return call(None, NOTHING_LOST, work)

    @property
    def mixture_(self) -> Mixture:
        """A copy of the attributes as a `Mixture`, which can be saved.

        If they are those of the fit, in float64, it keeps the statistics of the rows, so that it can be updated.
        """
        self._check_fitted()
        names, mixture = getattr(self, "feature_names_in_", None), copy.deepcopy(self._mixture())
        known: Model | None = getattr(self, "_model", None)
        if known is None or self.means_.dtype != np.float64 or not self._are_attributes(known.mixture):
            known = Model(mixture)
        return Mixture.from_model(
            replace(
                copy.deepcopy(known), mixture=mixture, feature_names=None if names is None else tuple(names.tolist())
            )
        )

    def _n_parameters(self) -> int:
        """Number of free parameters."""
        self._check_fitted()
        k, d = self.means_.shape
        return int(parameters.covariance_kind(self.covariance_type).n_parameters(k, d) + k * d + k - 1)

    def _check_fitted(self) -> None:
        """Raise `NotFittedError` without parameters of a mixture."""
        has_covariances = hasattr(self, "precisions_cholesky_") or hasattr(self, "covariances_")
        if not (has_covariances and hasattr(self, "weights_") and hasattr(self, "means_")):
            raise scikit.NotFittedError(NOT_FITTED.format(type(self).__name__))

    def _mixture(self) -> core.Mixture:
        """The mixture of the attributes; raises `DataError`."""
        kind = parameters.covariance_kind(self.covariance_type)
        weights, means = own_view(self.weights_), own_view(self.means_)
        values, roots = (
            self._matrices(name, kind.shape(*means.shape)) for name in ("covariances_", "precisions_cholesky_")
        )
        if roots is None:
            assert values is not None
            return core.Mixture(weights, means, kind(values))
        try:
            with factored(kind):
                covariances = kind.from_factors(kind.factor_kind.from_roots(roots), values)
        except np.linalg.LinAlgError as error:
            raise DataError(f"precisions_cholesky_ is {error}") from None
        return core.Mixture(weights, means, covariances)

    def _matrices(self, name: str, shape: tuple[int, ...]) -> FloatArray | None:
        """An attribute of a shape, if there is one; raises `DataError`."""
        if not hasattr(self, name):
            return None
        array = own_view(getattr(self, name))
        if array.shape != shape:
            raise DataError(f"{name} has shape {array.shape}, but {shape} is needed")
        return array

    def _of_rows(
        self,
        X: Matrix | Files,  # noqa: N803
        shape: tuple[int, ...],
        dtype: type[Any] | None,
        of_tile: OfTile,
    ) -> NDArray[Any]:
        """An array (n, *shape) of what of_tile computes from responsibilities (K, m) and log-densities (m,) of m rows.

        Its dtype is by default that of the rows and the attributes.
        """
        self._check_fitted()
        rows = GivenRows(self, X)

        def work(comm: Comm, stop: StopRequest) -> NDArray[Any]:
            source, mixture = rows.open(comm), self._mixture()
            kind = np.result_type(source.header.dtype, self.means_) if dtype is None else np.dtype(dtype)
            return collect(comm, mixture, source, stop, of_tile, shape, kind)

        return call(None, NOTHING_LOST, work)

    def _sums(
        self,
        X: Matrix | Files,  # noqa: N803
        sample_weight: ArrayLike | None,
        *,
        with_entropy: bool = False,
    ) -> tuple[core.Mixture, Score]:
        """The mixture, and the sums over the rows of all ranks. Collective."""

        def begin() -> GivenRows:
            self._check_fitted()
            return GivenRows(self, X, sample_weight)

        begun = prepared(self.comm, begin)

        def work(comm: Comm, stop: StopRequest) -> tuple[core.Mixture, Score]:
            with comm.together():
                rows, mixture = begun(), self._mixture()
            return mixture, score_all(comm, mixture, rows.open(comm), stop, with_entropy=with_entropy)

        return call(self.comm, NOTHING_LOST, work)

    def _fit(
        self,
        X: Matrix | Files,  # noqa: N803
        sample_weight: ArrayLike | None,
        *,
        statistics: bool | Literal["auto"] = "auto",
    ) -> None:
        """Fit the mixture and set the attributes; `statistics` is the option ``output.statistics``. Collective."""
        begun = prepared(self.comm, lambda: FitTask(self, X, sample_weight, self._mixture, statistics))
        voice = self._voice()
        try:
            found = call(self.comm, ADVICE, lambda comm, stop: run(comm, begun, voice, stop))
        except (ConstantFeatureError, DegenerateError) as error:
            raise IllDefinedError(f"{ILL_DEFINED}\n{in_words_of_estimators(str(error))}") from None
        except (ConfigError, DataError) as error:
            raise type(error)(in_words_of_estimators(str(error))) from None
        for text in voice.warnings:
            warnings.warn(in_words_of_estimators(text), MpigmmWarning, stacklevel=3)
        self._keep(found)
        if not self.converged_ and self.max_iter > 0:
            warnings.warn(UNCONVERGED, scikit.ConvergenceWarning, stacklevel=3)

    def _update(self, X: Matrix | Files, sample_weight: ArrayLike | None) -> None:  # noqa: N803
        """Fold rows into the mixture and set the attributes. Collective."""

        def begin() -> tuple[GivenRows, Model]:
            return GivenRows(self, X, sample_weight), self._unchanged_model()

        begun = prepared(self.comm, begin)
        compute = ComputeOptions(threads="auto" if self.n_threads is None else int(self.n_threads))

        def work(comm: Comm, stop: StopRequest) -> Model:
            with comm.together():
                rows, model = begun()
                kept_statistics(model, "the mixture")
            return update_alike(comm, model, rows.open(comm), UpdateSettings(1.0, compute), stop).model

        try:
            self._model = call(self.comm, NOTHING_LOST, work)
        except (ConfigError, DataError) as error:
            raise type(error)(in_words_of_estimators(str(error))) from None
        self._set_parameters(self._model.mixture, self.means_.dtype)

    def _is_fitted_alike(self) -> bool:
        """Whether the mixture is fitted. Collective; raises `DataError` if it is on some ranks only."""
        is_fitted = hasattr(self, "weights_")

        def work(comm: Comm, stop: StopRequest) -> bool:
            found = comm.allgather(is_fitted)
            with comm.together():
                if len(set(found)) > 1:
                    raise DataError(
                        f"the estimator is fitted on rank {found.index(True)}, but not on rank {found.index(False)}; "
                        "call partial_fit with the same one on all ranks"
                    )
            return is_fitted

        return call(self.comm, NOTHING_LOST, work)

    def _unchanged_model(self) -> Model:
        """The model of the last fit or update; raises `DataError` if the attributes are no longer its parameters."""
        model: Model | None = getattr(self, "_model", None)
        if model is None or not self._are_attributes(model.mixture):
            raise DataError(
                "weights_, means_ or covariances_ were changed since the last fit, so that its statistics are not "
                "those of this mixture; call fit before partial_fit"
            )
        return model

    def _are_attributes(self, mixture: core.Mixture) -> bool:
        """Whether the attributes are the parameters of a mixture."""
        own = self._mixture().arrays()
        return all(
            np.array_equal(own[name], array.astype(self.means_.dtype)) for name, array in mixture.arrays().items()
        )

    def _voice(self) -> Voice:
        if not self.verbose:
            return QuietVoice()
        return VerboseVoice(int(self.verbose), self.verbose_interval, self.tol)

    def _keep(self, found: Found) -> None:
        """Set the attributes."""
        self._model, summary = found.outcome.model, found.outcome.summary
        self.n_features_in_ = self._model.mixture.n_features
        scikit.set_names(self, found.names)
        self._set_parameters(self._model.mixture, found.dtype)
        self.convergence_ = convergence_table(found.outcome.history)
        bounds = bounds_by_start(self.convergence_)
        self.lower_bounds_ = bounds.get(summary["init"], [])
        self.lower_bound_ = max((own[-1] for own in bounds.values()), default=-np.inf)
        self.converged_, self.n_iter_ = summary["converged"], summary["n_iter"]

    def _set_parameters(self, mixture: core.Mixture, dtype: np.dtype[Any]) -> None:
        """Set the attributes with the parameters of a mixture."""
        covariances = mixture.covariances
        self.weights_ = mixture.weights.astype(dtype)
        self.means_ = mixture.means.astype(dtype)
        self.covariances_ = covariances.arrays()["covariances"].astype(dtype)
        with factored(covariances):
            self.precisions_ = covariances.precisions.astype(dtype)
            self.precisions_cholesky_ = covariances.factors.array.astype(dtype)
        mixture.release()


def bounds_by_start(convergence: NDArray[np.void]) -> dict[int, list[float]]:
    """The mean log-likelihoods that entered the iterations of each start, by its number."""
    inits, bounds = convergence["init"], convergence["mean_log_likelihood"]
    return {int(init): bounds[inits == init].tolist() for init in np.unique(inits)}


def own_view(array: ArrayLike) -> FloatArray:
    """An array in float64 that can be made read-only, while the array that it was made from is not."""
    return np.ascontiguousarray(array, np.float64).view()
