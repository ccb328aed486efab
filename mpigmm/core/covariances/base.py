"""The interface of covariance types. The covariances of a mixture are a value that owns its arrays and has an
M-step."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import numpy as np

from mpigmm.core.arrays import BoolArray, Indices
from mpigmm.core.exact import FloatArray
from mpigmm.core.factors import Factors
from mpigmm.core.ops.groups import SecondMoments
from mpigmm.core.statistics import Layout, layout_of

Floored = Sequence[int | None]
"""Numbers of the components whose variances were raised to a floor; None stands for a covariance that all components
share."""


class CovarianceError(ValueError):
    """Arrays that are not covariances of a type; the message names the arrays and the reason."""


class SingularCovarianceError(Exception):
    """A covariance that is not positive definite.

    Parameters
    ----------
    component : int or None
        Number of its component; None for a covariance that all components share.
    lacks : str
        The property that the covariance lacks, for the message.
    """

    def __init__(self, component: int | None, lacks: str = "positive definite") -> None:
        whose = "the tied covariance" if component is None else f"the covariance of component {component}"
        super().__init__(f"{whose} is not {lacks}")
        self.component = component


@dataclass(frozen=True)
class Safeguards:
    """Parameters that keep components from degenerating.

    Parameters
    ----------
    reg_covar : float
        Variance that is added to every diagonal entry.
    variance_floor : float
        Least variance in any direction, as a share of the data's variance.
    reseed : bool
        Whether empty components are given new parameters.
    """

    reg_covar: float
    variance_floor: float
    reseed: bool = True


@dataclass(frozen=True, eq=False)
class MStepSums:
    """The sums from which an M-step computes parameters: the statistics of the rows, and the terms that a prior adds.

    A prior may add different counts for weights, means and covariances. Without a prior all three are the counts N_k of
    the rows.

    Attributes
    ----------
    weight_counts, mean_counts, covariance_counts : ndarray of shape (K,)
        Denominators of the new parameters. Weights are scaled to the sum 1.
    first_moments : ndarray of shape (K, D)
    second_moments : ndarray of shape (n_second,)
        Packed, of the kind `Covariances.second_moments`. Moments are about the means that entered the E-step.
    """

    weight_counts: FloatArray
    mean_counts: FloatArray
    covariance_counts: FloatArray
    first_moments: FloatArray
    second_moments: FloatArray

    def part(self, components: slice) -> MStepSums:
        """The sums of some components, of a type with second moments of each component."""
        second = self.second_moments.reshape(len(self.weight_counts), -1)
        return MStepSums(
            self.weight_counts[components],
            self.mean_counts[components],
            self.covariance_counts[components],
            self.first_moments[components],
            second[components].reshape(-1),
        )


class Covariances(ABC):
    """The covariances of all components.

    Instances are immutable: no method changes the arrays of an instance that other code may hold. They may be singular,
    in which case `factors` raises an error.

    Attributes
    ----------
    name : str
        Name of the type.
    array_names : tuple of str
        Keys of the result of `arrays`.
    second_moments : SecondMoments
        The second moments that the M-step needs.
    factor_kind : type of Factors
    has_coordinates : bool
        Whether the type has `to_vector` and `from_vector`, which accelerated EM needs.
    """

    name: ClassVar[str]
    array_names: ClassVar[tuple[str, ...]]
    second_moments: ClassVar[SecondMoments]
    factor_kind: ClassVar[type[Factors]]
    has_coordinates: ClassVar[bool] = False

    @classmethod  # noqa: B027
    def prepare(cls) -> None:
        """Import the libraries that the type uses, so that limits of the number of threads, set later, apply to
        them."""

    @classmethod
    @abstractmethod
    def isotropic(cls, n_components: int, n_features: int) -> Covariances:
        """Covariances of unit variances, without correlations."""

    @classmethod
    @abstractmethod
    def from_arrays(cls, arrays: Mapping[str, FloatArray], n_components: int, n_features: int) -> Covariances:
        """Covariances that own the given arrays, which are named like those of `arrays`. Raises `CovarianceError`."""

    def check_symmetry(self) -> None:  # noqa: B027
        """Raise `SingularCovarianceError` for a matrix that is not symmetric; `factors` reads only one triangle of
        it."""

    @abstractmethod
    def arrays(self) -> dict[str, FloatArray]:
        """The arrays of the covariances by name, as checkpoints and model files store them."""

    @classmethod
    @abstractmethod
    def n_parameters(cls, n_components: int, n_features: int) -> int:
        """Number of free parameters, for AIC and BIC."""

    @classmethod
    @abstractmethod
    def n_second(cls, n_components: int, n_features: int) -> int:
        """Number of entries of the packed second moments."""

    @classmethod
    def shares_update(cls, n_components: int, n_features: int) -> bool:
        """Whether ranks save time if each updates some of the components and tells the others the result.

        The update of a component must depend on its own sums only, to the last bit.
        """
        return False

    @classmethod
    def layout(cls, n_components: int, n_features: int) -> Layout:
        """Names and shapes of the sums that the M-step needs."""
        return layout_of(n_components, n_features, cls.n_second(n_components, n_features))

    @abstractmethod
    def select(self, components: Indices) -> Covariances:
        """The covariances of the components with these numbers, in this order; a number may occur several times."""

    @abstractmethod
    def marginal(self, features: Indices) -> Covariances:
        """The covariances, of the same type, of the features with these numbers, in this order."""

    @abstractmethod
    def of_features(self, features: Indices) -> FloatArray:
        """Covariance matrices of the m features with these numbers, of a shape that broadcasts to (K, m, m)."""

    @property
    @abstractmethod
    def variances(self) -> FloatArray:
        """The diagonals of the covariances, of a shape that broadcasts to (K, D)."""

    @property
    def condition_numbers(self) -> FloatArray:
        """Largest eigenvalue of each covariance divided by its least, of a shape that broadcasts to (K,).

        Infinite where rounding leaves the least eigenvalue without a positive value.
        """
        matrices = self.of_features(np.arange(self.variances.shape[-1]))
        eigenvalues = np.asarray(np.linalg.eigvalsh(matrices), np.float64)
        return ratios(eigenvalues[..., -1], eigenvalues[..., 0])

    @cached_property
    def factors(self) -> Factors:
        """Factors of the precision matrices; raises `SingularCovarianceError`."""
        return self.factorised()

    @abstractmethod
    def factorised(self) -> Factors:
        """Compute the value of `factors`; raises `SingularCovarianceError`."""

    @property
    def precisions(self) -> FloatArray:
        """The inverses of the covariances, in the shape that scikit-learn gives `precisions_` of the same type.

        They are computed from the factors at each call. Raises `SingularCovarianceError`.
        """
        return self.factors.precisions()

    @abstractmethod
    def bounds(self, deviations: FloatArray) -> FloatArray:
        """Upper bounds (n_second,) of one row's terms in the packed second moments.

        Deviations (K, D) bound |x_d - mean_kd| for the row x.
        """

    @abstractmethod
    def update(
        self, sums: MStepSums, deltas: FloatArray, empty: BoolArray, safeguards: Safeguards, data_variances: FloatArray
    ) -> tuple[Covariances, Floored]:
        """The M-step of the covariances.

        Parameters
        ----------
        sums : MStepSums
        deltas : ndarray of shape (K, D)
            New means minus old ones.
        empty : ndarray of bool, shape (K,)
            Whether a component is empty. Empty components keep their covariances.
        safeguards : Safeguards
        data_variances : ndarray of shape (D,)
            Variance of each feature over all rows.

        Returns
        -------
        covariances : Covariances
        floored : sequence of int or None
            Components whose variances were raised to the floor; see `Floored`.
        """

    def to_vector(self, other: Covariances, roots: FloatArray, n_features: int) -> FloatArray:
        """Unconstrained coordinates of other covariances relative to these, whose own are zero.

        Their scale is such that, near these covariances, the squared distance of two vectors is the metric of the
        Fisher information of rows whose components are known: w_k tr((S_k^-1 dS_k)^2) / 2, where w_k is the weight of
        component k, S_k its covariance here and dS_k the difference. An invertible lower triangular map of the
        features, such as other units, does not change the coordinates.

        Parameters
        ----------
        other : Covariances
            Of the same type.
        roots : ndarray of shape (K,)
            Square roots of the weights. The coordinates of a component of weight zero are zero.
        n_features : int
        """
        raise NotImplementedError

    def from_vector(self, vector: FloatArray, roots: FloatArray, n_features: int) -> Covariances:
        """The covariances with the coordinates of `to_vector`. They may be singular if the vector is far from zero."""
        raise NotImplementedError

    def with_components_of(self, other: Covariances, which: BoolArray) -> Covariances:
        """These covariances with those of another value, of the same type, for the components which (K,).

        A type whose components share one covariance keeps it.
        """
        return self

    @abstractmethod
    def principal_axis(self, component: int, data_variances: FloatArray) -> FloatArray:
        """Vector (D,) in the direction of the component's largest variance; its norm is the standard deviation.

        For a component with equal variances in all directions, it is in the direction of the feature with the largest
        of data_variances (D,).
        """

    def release(self) -> None:
        """Free the memory of `factors`, which are computed again when they are needed."""
        self.__dict__.pop("factors", None)

    def __getstate__(self) -> dict[str, Any]:
        """Factors are not pickled, since they are as large as the arrays; the receiver computes them."""
        return {name: value for name, value in self.__dict__.items() if name != "factors"}


@dataclass(frozen=True, eq=False)
class EstimatedCovariances(Covariances):
    """Base of the types whose covariances are one array, which the M-step computes from second moments.

    Attributes
    ----------
    values : ndarray, float64
        Variances and covariances, in the shape that scikit-learn gives `covariances_` of the same type.
    """

    values: FloatArray

    array_names = ("covariances",)

    @classmethod
    def from_factors(cls, factors: Factors, values: FloatArray | None = None) -> Covariances:
        """Covariances of which factors are known, and are not computed again.

        Where the covariances are not given, or are not those of the factors, they are computed from the factors, which
        may raise `numpy.linalg.LinAlgError`. The first variances tell.
        """
        known = factors.first_variances()
        if values is None or not (np.abs(cls(values).variances[..., 0] - known) <= 1e-3 * known).all():
            values = factors.covariances()
        covariances = cls(values)
        covariances.__dict__["factors"] = factors
        return covariances

    @classmethod
    @abstractmethod
    def shape(cls, n_components: int, n_features: int) -> tuple[int, ...]:
        """Shape of `values`."""

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, FloatArray], n_components: int, n_features: int) -> Covariances:
        values, expected = arrays["covariances"], cls.shape(n_components, n_features)
        if values.shape != expected:
            raise CovarianceError(f"covariances of type {cls.name} have shape {values.shape}, not {expected}")
        return cls(values)

    def arrays(self) -> dict[str, FloatArray]:
        return {"covariances": self.values}

    @classmethod
    def n_parameters(cls, n_components: int, n_features: int) -> int:
        return cls.n_second(n_components, n_features)  # each is estimated from one second moment

    def update(
        self, sums: MStepSums, deltas: FloatArray, empty: BoolArray, safeguards: Safeguards, data_variances: FloatArray
    ) -> tuple[Covariances, Floored]:
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            estimated = self.estimate(sums, deltas, empty)
        return estimated.regularise(safeguards.reg_covar).floor(safeguards.variance_floor, data_variances)

    def with_components_of(self, other: Covariances, which: BoolArray) -> Covariances:
        assert isinstance(other, type(self))
        values = self.values.copy()
        values[which] = other.values[which]
        return type(self)(values)

    @abstractmethod
    def estimate(self, sums: MStepSums, deltas: FloatArray, empty: BoolArray) -> EstimatedCovariances:
        """Covariances about the new means, old means plus deltas (K, D), from moments about the old means.

        Components that are empty (K,) keep their covariances.
        """

    @abstractmethod
    def regularise(self, reg_covar: float) -> EstimatedCovariances:
        """These covariances with reg_covar added to the diagonals.

        `update` calls it, and then `floor`, for the result of `estimate`, which no other code holds and which may
        therefore be overwritten.
        """

    @abstractmethod
    def floor(self, share: float, data_variances: FloatArray) -> tuple[EstimatedCovariances, Floored]:
        """These covariances with the variance in every direction at least share times the data's variances (D,).

        Returns, too, which components were changed.
        """

    @staticmethod
    def shrinkage(sums: MStepSums) -> FloatArray:
        """Coefficient (K,) of the squared change of a mean in its component's covariance.

        It is one unless a prior adds different counts for means and covariances.
        """
        return sums.mean_counts / sums.covariance_counts


def are_above_floor(factors: Factors, share: float, data_variances: FloatArray) -> BoolArray:
    """Whether a bound shows that the variance in every direction exceeds share times the data's variances V (D,).

    The result has the shape (K,), or () where all components share a factor. The least ratio of the two is the inverse
    of the largest eigenvalue of V^(1/2) P V^(1/2), where P is a precision matrix. This eigenvalue is at most the trace
    sum_d V_d P_dd.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        return np.asarray(share * (factors.precision_diagonals() * data_variances).sum(axis=-1) < 1.0)


def ratios(largest: FloatArray, least: FloatArray) -> FloatArray:
    """The quotients of two arrays of one shape; infinite where the divisor is not positive."""
    return np.asarray(np.divide(largest, least, out=np.full(np.shape(least), np.inf), where=least > 0))


def inverses(scales: FloatArray) -> FloatArray:
    """1 / scales, and zero where a scale is zero."""
    return np.asarray(np.divide(1.0, scales, out=np.zeros_like(scales), where=scales > 0))


def first_singular(variances: FloatArray) -> int | None:
    """Number of the first component whose variances (K, ...) are not all positive and finite."""
    bad = ~((variances > 0) & np.isfinite(variances)).reshape(len(variances), -1).all(axis=1)
    return int(bad.argmax()) if bad.any() else None
