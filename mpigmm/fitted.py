"""The mixture of the Python interface: parameters, files, and what can be computed for rows."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mpigmm import exchange
from mpigmm.calls import call
from mpigmm.core import mixture as core
from mpigmm.core.exact import FloatArray
from mpigmm.data.row_sample import NO_ROWS, PictureRows, sample_rows
from mpigmm.driver.inference import OfTile, check_features, collect, criteria_of, score_all
from mpigmm.driver.sampler import Sample, draw_all
from mpigmm.driver.scoring import Score
from mpigmm.errors import ConfigError, DataError, counted
from mpigmm.own_rows import Matrix, OwnRows, array_source, names_in
from mpigmm.parallel.comm import Comm
from mpigmm.parallel.stop import StopRequest
from mpigmm.runs.model import Model

NOTHING_LOST = "nothing was changed"

MOST_SAMPLES = 2**53
"""Number of rows to draw that is too large."""


class Mixture:
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

    @property
    def feature_names(self) -> tuple[str, ...] | None:
        """Names of the features, where the rows of the fit had names; else None."""
        return self._model.feature_names

    def predict(self, X: Matrix) -> NDArray[np.int64]:  # noqa: N803
        """The component (n,) with the largest posterior probability, of each row (n, D)."""
        return self._of_rows(X, (), np.int64, lambda resp, log_density: resp.argmax(axis=0))

    def predict_proba(self, X: Matrix) -> FloatArray:  # noqa: N803
        """Posterior probabilities (n, K) of the components, of each row (n, D): their shares of its density."""
        return self._of_rows(X, (-1,), np.float64, lambda resp, log_density: resp.T)

    def score_samples(self, X: Matrix) -> FloatArray:  # noqa: N803
        """Log-density log p(x) (n,) of each row (n, D)."""
        return self._of_rows(X, (), np.float64, lambda resp, log_density: log_density)

    def score(self, X: Matrix, sample_weight: ArrayLike | None = None, comm: object = None) -> float:  # noqa: N803
        """Mean log-likelihood of the rows (n, D), weighted with sample_weight (n,). Collective."""
        return self._score(X, sample_weight, comm).mean_log_likelihood

    def aic(self, X: Matrix, sample_weight: ArrayLike | None = None, comm: object = None) -> float:  # noqa: N803
        """Akaike's information criterion, 2 p - 2 log L; lower is better. Collective.

        p is the number of free parameters, and log L the sum of the log-densities of the rows, weighted with
        sample_weight.
        """
        return self._criteria(X, sample_weight, comm)["aic"]

    def bic(self, X: Matrix, sample_weight: ArrayLike | None = None, comm: object = None) -> float:  # noqa: N803
        """The Bayesian information criterion, p log W - 2 log L; lower is better. Collective.

        p and log L are those of `aic`. W is the sum of the weights: the number of rows where sample_weight is None.
        """
        return self._criteria(X, sample_weight, comm)["bic"]

    def icl(self, X: Matrix, sample_weight: ArrayLike | None = None, comm: object = None) -> float:  # noqa: N803
        """The integrated completed likelihood in its form for BIC, `bic` + 2 H; lower is better. Collective.

        H = -sum_i weight_i sum_k r_ik log r_ik is the entropy of the posterior probabilities r_ik (McLachlan and Peel,
        Finite Mixture Models, 2000, section 6.10).
        """
        return self._criteria(X, sample_weight, comm, with_entropy=True)["icl"]

    def sample(self, n_samples: int = 1, seed: int = 0, moments: bool = False) -> tuple[FloatArray, NDArray[np.int64]]:
        """Rows (n, D) drawn from the mixture, and the components (n,) that they come from.

        Row i depends only on the mixture, the seed and i: a longer sample begins with the shorter one, and all ranks
        draw the same.

        Parameters
        ----------
        n_samples : int
            Number of rows, n.
        seed : int
            0 or larger, and less than 2**63.
        moments : bool
            Whether to map the rows, x to A (x - m) + b, so that their mean and covariance (divisor n) are those of the
            mixture, to 1e-13 of its standard deviations. Rows further than some 1000 standard deviations from zero are
            rounded more coarsely; the error is then up to 2**-52 of their magnitude. There must be more rows than
            features. Each row then depends on the number of rows, too.
        """
        n_rows, known = checked_number("n_samples", n_samples, MOST_SAMPLES), checked_number("seed", seed, 2**63)
        if moments and n_rows <= self.n_features:
            raise ConfigError(
                f"n_samples: {n_rows} is not valid with moments=True: the covariance of rows is singular unless there "
                f"are more of them than features; draw {counted(self.n_features + 1, 'row')} or more"
            )

        def work(comm: Comm, stop: StopRequest) -> tuple[FloatArray, NDArray[np.int64]]:
            return draw_all(comm, Sample(self._core, n_rows, known), stop, moments=moments)

        return call(None, NOTHING_LOST, work)

    def plot(
        self,
        X: Matrix | None = None,  # noqa: N803
        sample_weight: ArrayLike | None = None,
        *,
        ax: Any = None,
        features: Sequence[int] | None = None,
        feature_names: Sequence[str] | None = None,
    ) -> Any:
        """Draw the components over the density, or the density of one feature. Needs matplotlib.

        Ellipses of one and two standard deviations lie over the regions of highest density that hold 99, 95, 80, 50 and
        20 % of the probability, and over the rows.

        Parameters
        ----------
        X : array_like of shape (n, D), optional
            Rows to draw; of more than 32,768 a sample. Rows that are not finite are left out.
        sample_weight : array_like of shape (n,), optional
            A row is drawn as often as its weight demands.
        ax : matplotlib.axes.Axes, optional
            Where to draw; by default, new axes.
        features : sequence of int, optional
            One feature or two; by default the two in which the components differ most.
        feature_names : sequence of str, optional
            Names of the D features; by default those of the columns of X, if it is a data frame, or of the mixture.

        Returns
        -------
        matplotlib.axes.Axes

        Raises
        ------
        ConfigError
            The features or their names do not fit the mixture.
        DataError
            The rows do not fit the mixture.
        UserError
            matplotlib is not installed.
        """
        from mpigmm.core.marginal import separating_features
        from mpigmm.runs import plots

        chosen = separating_features(self._core, 2).tolist() if features is None else list(features)
        plots.check_features("features", chosen, self.n_features, 2)
        rows = NO_ROWS if X is None else self._sampled(X, sample_weight, chosen)
        names = tuple(feature_names) if feature_names is not None else names_in(X) or self.feature_names
        if names and len(names) != self.n_features:
            raise ConfigError(f"feature_names: {len(names)} are given, but the mixture has {self.n_features} features")
        axes = plots.new_axes() if ax is None else ax
        plots.draw_mixture(axes, plots.Subject(self._core, names, rows).view(*chosen))
        return axes

    def _sampled(
        self,
        X: Matrix,  # noqa: N803
        sample_weight: ArrayLike | None,
        features: Sequence[int],
    ) -> PictureRows:
        """Some features of the rows to draw."""

        def work(comm: Comm, stop: StopRequest) -> PictureRows:
            source = array_source(comm, OwnRows.of(X, sample_weight))
            check_features(self._core, source)
            return sample_rows(source, features, stop.check)

        return call(None, NOTHING_LOST, work)

    def _of_rows(
        self,
        X: Matrix,  # noqa: N803
        shape: tuple[int, ...],
        dtype: type[Any],
        of_tile: OfTile,
    ) -> NDArray[Any]:
        """An array (n, *shape) of what of_tile computes from responsibilities (K, m) and log-densities (m,) of m
        rows."""

        def work(comm: Comm, stop: StopRequest) -> NDArray[Any]:
            source = array_source(comm, OwnRows.of(X, None))
            return collect(comm, self._core, source, stop, of_tile, shape, np.dtype(dtype))

        return call(None, NOTHING_LOST, work)

    def _criteria(
        self,
        X: Matrix,  # noqa: N803
        sample_weight: ArrayLike | None,
        comm: object,
        *,
        with_entropy: bool = False,
    ) -> dict[str, float]:
        return criteria_of(self._core, self._score(X, sample_weight, comm, with_entropy=with_entropy))

    def _score(
        self,
        X: Matrix,  # noqa: N803
        sample_weight: ArrayLike | None,
        comm: object,
        *,
        with_entropy: bool = False,
    ) -> Score:
        """The sums over the rows of all ranks. Collective."""

        def work(comm: Comm, stop: StopRequest) -> Score:
            own = None
            with comm.together():
                own = OwnRows.of(X, sample_weight)
            assert own is not None
            return score_all(comm, self._core, array_source(comm, own), stop, with_entropy=with_entropy)

        return call(comm, NOTHING_LOST, work)


def frozen(model: Model) -> Model:
    """The model, whose arrays can no longer be changed."""
    for array in model.mixture.arrays().values():
        array.flags.writeable = False
    return model


def checked_number(name: str, value: object, limit: int) -> int:
    """A whole number >= 0 and < limit; raises `ConfigError`, which names it."""
    if isinstance(value, (int, np.integer)) and not isinstance(value, bool) and 0 <= value < limit:
        return int(value)
    raise ConfigError(f"{name}: {value!r} is not valid; a whole number >= 0 and < {limit} is needed")
