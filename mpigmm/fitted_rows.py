"""What a mixture says of rows, as methods of `mpigmm.Mixture`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, TypeGuard

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mpigmm.calls import NOTHING_LOST, call
from mpigmm.core.arrays import Indices
from mpigmm.core.exact import FloatArray
from mpigmm.data.row_files import names_text
from mpigmm.driver.features import Features, chosen_features
from mpigmm.driver.inference import (
    OfTile,
    collect,
    condition_all,
    conditional_of,
    criteria_of,
    factored,
    score_all,
)
from mpigmm.driver.sampler import Sample, draw_all
from mpigmm.driver.scoring import Score
from mpigmm.errors import ConfigError, DataError, counted
from mpigmm.own_rows import Matrix, OwnRows, array_source
from mpigmm.parallel.comm import Comm
from mpigmm.parallel.stop import StopRequest
from mpigmm.runs.model import Model

MOST_SAMPLES = 2**53
"""Number of rows to draw that is too large."""


class ConditionResult(NamedTuple):
    """What `Mixture.condition` finds for n rows: the distribution of R features given the others.

    Attributes
    ----------
    mean : ndarray of shape (n, R)
        Conditional means.
    covariance : ndarray of shape (n, R, R)
        Conditional covariances.
    log_density : ndarray of shape (n,)
        Log-density of the given values.
    """

    mean: FloatArray
    covariance: FloatArray
    log_density: FloatArray


class RowMethods:
    """Posteriors, densities and criteria of rows, and rows drawn from the mixture."""

    _model: Model

    def predict(self, X: Matrix) -> NDArray[np.int64]:  # noqa: N803
        """The component (n,) with the largest posterior probability, of each row (n, D)."""
        return self._of_rows(X, (), np.int64, lambda resp, log_density: resp.argmax(axis=0))

    def predict_proba(self, X: Matrix) -> FloatArray:  # noqa: N803
        """Posterior probabilities (n, K) of the components, of each row (n, D): their shares of its density."""
        return self._of_rows(X, (-1,), np.float64, lambda resp, log_density: resp.T)

    def score_samples(self, X: Matrix) -> FloatArray:  # noqa: N803
        """Log-density log p(x) (n,) of each row (n, D)."""
        return self._of_rows(X, (), np.float64, lambda resp, log_density: log_density)

    def condition(self, X: Matrix, given: Features) -> ConditionResult:  # noqa: N803
        """The other features of rows of which some are given: mixture regression.

        Given the values x of some features, the others z are distributed as a mixture of the same components:
        p(z | x) = sum_k r_k(x) N(z | m_k(x), C_k). With the blocks of the covariance S of component k,

            m_k(x) = means_kz + S_zx S_xx^-1 (x - means_kx),  C_k = S_zz - S_zx S_xx^-1 S_xz,

        and r_k(x) is the posterior of the component under the marginal mixture of the given features. `condition`
        computes the mean and the covariance of this mixture (Bishop, Pattern Recognition and Machine Learning, 2006,
        section 2.3.1; Ghahramani and Jordan, Supervised learning from incomplete data via an EM approach, NIPS 6,
        1994).

        Parameters
        ----------
        X : array_like of shape (n, G) or (n, D)
            Values of the G given features, in the order of `given`; or rows of all features, of which only those need
            be finite. Columns of a data frame are found by name where the mixture has names.
        given : sequence of int or str
            Numbers of the given features or, where they have names, names: at least one, and not all.

        Returns
        -------
        ConditionResult
            mean (n, R) and covariance (n, R, R) of the R other features, in ascending order, and the log_density (n,)
            of the given values. Mean and covariance are NaN in a row whose density is zero (log-density -inf).

        Raises
        ------
        ConfigError
            `given` does not fit the mixture.
        DataError
            The rows do not fit, or a given value is not finite.
        """
        mixture = self._model.mixture
        names = self._model.feature_names
        known = chosen_features("given", given, mixture.n_features, mixture.n_features - 1, names)

        def work(comm: Comm, stop: StopRequest) -> ConditionResult:
            own = with_features(OwnRows.of(X, None), known, mixture.n_features, names)
            with factored(mixture.covariances):
                conditional = conditional_of(mixture, known)
            return ConditionResult(*condition_all(comm, conditional, array_source(comm, own), stop))

        return call(None, NOTHING_LOST, work)

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
        if moments and n_rows <= self._model.mixture.n_features:
            raise ConfigError(
                f"n_samples: {n_rows} is not valid with moments=True: the covariance of rows is singular unless there "
                f"are more of them than features; draw {counted(self._model.mixture.n_features + 1, 'row')} or more"
            )

        def work(comm: Comm, stop: StopRequest) -> tuple[FloatArray, NDArray[np.int64]]:
            return draw_all(comm, Sample(self._model.mixture, n_rows, known), stop, moments=moments)

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
            return collect(comm, self._model.mixture, source, stop, of_tile, shape, np.dtype(dtype))

        return call(None, NOTHING_LOST, work)

    def _criteria(
        self,
        X: Matrix,  # noqa: N803
        sample_weight: ArrayLike | None,
        comm: object,
        *,
        with_entropy: bool = False,
    ) -> dict[str, float]:
        return criteria_of(self._model.mixture, self._score(X, sample_weight, comm, with_entropy=with_entropy))

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
            return score_all(comm, self._model.mixture, array_source(comm, own), stop, with_entropy=with_entropy)

        return call(comm, NOTHING_LOST, work)


def with_features(own: OwnRows, chosen: Indices, n_features: int, names: Sequence[str] | None) -> OwnRows:
    """The rows with the columns of chosen features (G,) of a mixture alone; raises `DataError`.

    They are found by name if the rows and the mixture have names. Otherwise the rows have these columns, in this order,
    or those of all features.
    """
    found = own.feature_names
    if found is not None and names is not None and {names[feature] for feature in chosen} <= set(found):
        return own.chosen([found.index(names[feature]) for feature in chosen])
    if own.shape.n_features == n_features:
        return own.chosen(chosen.tolist())
    if own.n_rows and own.shape.n_features != len(chosen):
        raise DataError(
            f"X has {counted(own.shape.n_features, 'feature')}; give the {len(chosen)} given ones, or all "
            f"{n_features} of the mixture"
        )
    return own


def with_all_features(own: OwnRows, names: Sequence[str] | None) -> OwnRows:
    """The rows with the columns of all features of a mixture, which are found by name if both have names; raises
    `DataError`."""
    found = own.feature_names
    if found is None or names is None:
        return own
    missing = [name for name in names if name not in found]
    if missing:
        raise DataError(
            f"X has no column {missing[0]!r}, which the mixture has; it has {names_text(found, missing[0])}"
        )
    return own if tuple(names) == found else own.chosen([found.index(name) for name in names])


def checked_number(name: str, value: object, limit: int) -> int:
    """A whole number >= 0 and < limit; raises `ConfigError`, which names it."""
    if is_whole(value) and 0 <= value < limit:
        return int(value)
    raise ConfigError(f"{name}: {value!r} is not valid; a whole number >= 0 and < {limit} is needed")


def is_whole(value: object) -> TypeGuard[int]:
    """Whether a value is an integer of Python or NumPy."""
    return isinstance(value, (int, np.integer)) and not isinstance(value, bool)
