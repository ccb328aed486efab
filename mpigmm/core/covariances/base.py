"""The covariances of a mixture: a value that owns its arrays and knows its M-step; one class a type."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from mpigmm.core.exact import FloatArray
from mpigmm.core.factors import Factors, Places
from mpigmm.core.ops.groups import SecondMoments
from mpigmm.core.statistics import Layout, layout_of

BoolArray = NDArray[np.bool_]

Floored = Sequence[int | None]
"""Numbers of the components whose variances were raised to a floor; None stands for a covariance that all share."""


class CovarianceError(ValueError):
    """Arrays that are not covariances of the type; the message says which and why."""


class SingularCovarianceError(Exception):
    """A covariance that is not positive definite.

    Parameters
    ----------
    component : int or None
        Its component; None for a covariance that all components share.
    lacks : str
        The property that it lacks.
    """

    def __init__(self, component: int | None, lacks: str = "positive definite") -> None:
        whose = "the tied covariance" if component is None else f"the covariance of component {component}"
        super().__init__(f"{whose} is not {lacks}")
        self.component = component


@dataclass(frozen=True)
class Safeguards:
    """What keeps covariances away from zero.

    Parameters
    ----------
    reg_covar : float
        Added to every diagonal entry.
    variance_floor : float
        Least variance in any direction as a share of the data's.
    """

    reg_covar: float
    variance_floor: float


@dataclass(frozen=True, eq=False)
class MStepSums:
    """The sums of an M-step: statistics of the rows, and what a prior adds to them.

    A prior may count differently for weights, means and covariances; without one the three counts are those of the
    rows.

    Attributes
    ----------
    weight_counts, mean_counts, covariance_counts : ndarray of shape (K,)
        Denominators of the new parameters.
    first_moments : ndarray of shape (K, D)
    second_moments : ndarray of shape (n_second,)
        Both about the means that entered the E-step.
    """

    weight_counts: FloatArray
    mean_counts: FloatArray
    covariance_counts: FloatArray
    first_moments: FloatArray
    second_moments: FloatArray


class Covariances(ABC):
    """The covariances of all components, positive definite but for what `factors` refuses.

    A value: no method changes its arrays once another may have seen them.

    Attributes
    ----------
    name : str
        Of the type.
    array_names : tuple of str
        Keys of `arrays`.
    second_moments : SecondMoments
        Which second moments its M-step needs.
    """

    name: ClassVar[str]
    array_names: ClassVar[tuple[str, ...]]
    second_moments: ClassVar[SecondMoments]

    @classmethod  # noqa: B027
    def prepare(cls) -> None:
        """Import the libraries that the type computes with, so that limits of threads set afterwards hold for them."""

    @classmethod
    @abstractmethod
    def isotropic(cls, n_components: int, n_features: int) -> Covariances:
        """Unit variances."""

    @classmethod
    @abstractmethod
    def from_arrays(cls, arrays: Mapping[str, FloatArray], n_components: int, n_features: int) -> Covariances:
        """The covariances in arrays like those of `arrays`, which become theirs. Raises `CovarianceError`."""

    def check_symmetry(self) -> None:  # noqa: B027
        """Raise `SingularCovarianceError` for a matrix that is not symmetric, of which factors see one triangle
        alone."""

    @abstractmethod
    def arrays(self) -> dict[str, FloatArray]:
        """The arrays that the covariances consist of, by name; checkpoints and models hold them."""

    @classmethod
    @abstractmethod
    def n_parameters(cls, n_components: int, n_features: int) -> int:
        """Free parameters, for AIC and BIC."""

    @classmethod
    @abstractmethod
    def n_second(cls, n_components: int, n_features: int) -> int:
        """Entries of the packed second moments."""

    @classmethod
    def layout(cls, n_components: int, n_features: int) -> Layout:
        """Names and shapes of the sums that the M-step needs."""
        return layout_of(n_components, n_features, cls.n_second(n_components, n_features))

    @abstractmethod
    def select(self, places: Places) -> Covariances:
        """Those of some components, in any order; a component may be selected again."""

    @property
    @abstractmethod
    def variances(self) -> FloatArray:
        """The diagonals, of a shape that broadcasts to (K, D)."""

    @cached_property
    def factors(self) -> Factors:
        """Factors of the precisions; raises `SingularCovarianceError`."""
        return self.factorised()

    @abstractmethod
    def factorised(self) -> Factors:
        """What `factors` keeps."""

    @abstractmethod
    def bounds(self, deviations: FloatArray) -> FloatArray:
        """Upper bounds (n_second,) of one row's part in the second moments, given |x_d - mean_kd| <= deviations (K,
        D)."""

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
            Components without rows, which keep their covariances.
        safeguards : Safeguards
        data_variances : ndarray of shape (D,)

        Returns
        -------
        covariances : Covariances
        floored : sequence of int or None
            Whose variances were raised to the floor.
        """

    @abstractmethod
    def principal_axis(self, component: int, data_variances: FloatArray) -> FloatArray:
        """Direction (D,) of the component's largest variance, with its standard deviation as length.

        Where the component's variances are all equal, the direction is that of the data's largest variance (D,).
        """

    def release(self) -> None:
        """Free the memory of the factors, which are computed again where they are needed."""
        self.__dict__.pop("factors", None)

    def __getstate__(self) -> dict[str, Any]:
        """Factors, as large as the arrays, are not pickled: the receiver computes them."""
        return {name: value for name, value in self.__dict__.items() if name != "factors"}


@dataclass(frozen=True, eq=False)
class EstimatedCovariances(Covariances):
    """A type of one array, estimated from second moments.

    Attributes
    ----------
    values : ndarray, float64
        Variances and covariances, shaped as in scikit-learn.
    """

    values: FloatArray

    array_names = ("covariances",)

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

    def update(
        self, sums: MStepSums, deltas: FloatArray, empty: BoolArray, safeguards: Safeguards, data_variances: FloatArray
    ) -> tuple[Covariances, Floored]:
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            estimated = self.estimate(sums, deltas, empty)
        new = estimated.regularise(safeguards.reg_covar)
        share = safeguards.variance_floor
        return (new, []) if new.is_above_floor(share, data_variances) else new.floor(share, data_variances)

    @abstractmethod
    def estimate(self, sums: MStepSums, deltas: FloatArray, empty: BoolArray) -> EstimatedCovariances:
        """Covariances about the new means, from moments about the old ones; `empty` components keep theirs."""

    @abstractmethod
    def regularise(self, reg_covar: float) -> EstimatedCovariances:
        """These, which no one else has seen, with reg_covar added to every variance on the diagonal."""

    @abstractmethod
    def floor(self, share: float, data_variances: FloatArray) -> tuple[EstimatedCovariances, Floored]:
        """These, with every direction's variance raised to share times the data's variances (D,), and whose were
        raised."""

    def is_above_floor(self, share: float, data_variances: FloatArray) -> bool:
        """Whether the variance surely exceeds share of the data's variances (D,) in every direction.

        The largest eigenvalue of V^(1/2) P V^(1/2), whose inverse is the least share, is at most its trace
        sum_d V_d P_dd. The next E-step needs the factors that this computes.
        """
        try:
            with np.errstate(over="ignore", invalid="ignore"):
                return bool((share * (self.factors.precision_diagonals() * data_variances).sum(axis=-1) < 1.0).all())
        except SingularCovarianceError:
            return False

    @staticmethod
    def shrinkage(sums: MStepSums) -> FloatArray:
        """Weight (K,) of the square of a mean's change in its covariance: one, unless a prior counts differently."""
        return sums.mean_counts / sums.covariance_counts


def first_singular(variances: FloatArray) -> int | None:
    """Number of the first component whose variances (K, ...) are not all positive and finite."""
    bad = ~((variances > 0) & np.isfinite(variances)).reshape(len(variances), -1).all(axis=1)
    return int(bad.argmax()) if bad.any() else None
