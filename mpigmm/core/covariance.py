"""What a covariance type must know; one class a type, and nothing else asks which type it is.

Shapes of ``covariances`` and ``precisions_cholesky`` are scikit-learn's: full (K, D, D), tied (D, D), diag (K, D),
spherical (K,). A precision's Cholesky factor U is upper triangular with U U^T = inverse covariance.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from mpigmm.core.arrays import DOUBLE
from mpigmm.core.exact import FloatArray
from mpigmm.core.ops.base import Ops
from mpigmm.core.ops.numpy import NUMPY
from mpigmm.core.tile import Tile

if TYPE_CHECKING:
    from mpigmm.core.statistics import Moments

PACKING_TOLERANCE = 3e-5
"""What products of float32 rows may cost a row's log density, in nats, before a safer way is taken."""

SUM_UNIT = 2.0**-23
"""Rounding error of float32 sums, relative to the root of the sum of their terms' squares."""


BoolArray = NDArray[np.bool_]

Floored = tuple[FloatArray, Sequence[int | None]]
"""Covariances, and the components whose ones were lifted to a floor; None stands for the tied covariance."""


class SingularCovarianceError(Exception):
    """A covariance that is not positive definite.

    Parameters
    ----------
    component : int or None
        Whose; None for the tied covariance.
    lacks : str
        What it is not.
    """

    def __init__(self, component: int | None, lacks: str = "positive definite") -> None:
        whose = "the tied covariance" if component is None else f"the covariance of component {component}"
        super().__init__(f"{whose} is not {lacks}")
        self.component = component


@dataclass(frozen=True, eq=False)
class Parameters:
    """A mixture as a kernel wants it.

    Attributes
    ----------
    means : ndarray of shape (K, D)
        Less the tiles' centre.
    covariances, precisions_cholesky : ndarray
        As the covariance type shapes them.
    log_constants : ndarray of shape (K,)
        log weights_k + log |U_k| - D/2 log 2 pi.
    reach : ndarray of shape (D,)
        Upper bounds of the tiles' entries in magnitude; infinite where not known.
    dtype : dtype
        Of the tiles.
    ops : Ops
        Those of the tiles.
    exact : ndarray of bool, (K,), optional
        Components to compute in float64, by differences; none where left out.
    partial : bool
        Whether these are some components of a mixture, so that a row's responsibilities do not add up to its weight.
    """

    means: FloatArray
    covariances: FloatArray
    precisions_cholesky: FloatArray
    log_constants: FloatArray
    reach: FloatArray
    dtype: np.dtype[Any] = DOUBLE
    ops: Ops = NUMPY
    exact: BoolArray | None = None
    partial: bool = False

    @property
    def inexact(self) -> BoolArray:
        """Components (K,) that may be computed in the precision of the tiles."""
        return np.ones(len(self.means), bool) if self.exact is None else ~self.exact

    def put(self, array: FloatArray, dtype: np.dtype[Any] | None = None) -> FloatArray:
        """An array in the precision of the tiles or another, where they are."""
        moved: FloatArray = self.ops.arrays.put(np.ascontiguousarray(array, dtype or self.dtype))
        return moved


class Kernel(ABC):
    """The part of an E-step that depends on the covariance type: made once an iteration, shared by all threads.

    Arrays of tiles, and those that the methods fill, are of the tiles' backend.
    """

    @abstractmethod
    def log_prob(self, tile: Tile, out: FloatArray) -> None:
        """log weights_k N(x | mean_k, covariance_k) of all rows and components into out (K, n)."""

    @abstractmethod
    def accumulate(self, tile: Tile, resp: FloatArray, first: FloatArray, second: FloatArray) -> None:
        """Moments about the means, weighted with resp (K, n), into first (K, D) and second (n_second,)."""

    def fused(self, tile: Tile, moments: Moments) -> bool:
        """The whole E-step of a tile at once, where there is a way; False, and nothing done, where there is none."""
        return False

    def dense_part(self) -> Kernel | None:
        """A kernel that computes all pairs of row and component, where this one would leave all to it."""
        return None


class Covariance(ABC):
    """One covariance type: its shapes, its E-step kernel and its M-step formulae."""

    name: str

    @abstractmethod
    def shape(self, n_components: int, n_features: int) -> tuple[int, ...]:
        """Shape of ``covariances``."""

    @abstractmethod
    def n_parameters(self, n_components: int, n_features: int) -> int:
        """Free parameters of the covariances, for AIC and BIC."""

    @abstractmethod
    def n_second(self, n_components: int, n_features: int) -> int:
        """Entries of the second moments, packed."""

    def check_symmetry(self, covariances: FloatArray) -> None:  # noqa: B027
        """Raise `SingularCovarianceError` for a matrix that is not symmetric: a factor sees one triangle alone."""

    @abstractmethod
    def factor(self, covariances: FloatArray) -> FloatArray:
        """``precisions_cholesky``; raises `SingularCovarianceError`."""

    @abstractmethod
    def log_determinant(self, precisions_cholesky: FloatArray, n_features: int) -> FloatArray:
        """log |U_k|, half the log-determinant of the precision, shape (K,) or ()."""

    @abstractmethod
    def kernel(self, parameters: Parameters) -> Kernel:
        """The E-step of a mixture: for each component the fastest way that leaves the digits needed."""

    def part(self, parameters: Parameters, places: NDArray[np.intp]) -> Parameters:
        """Those of some components."""
        return replace(
            parameters,
            means=parameters.means[places],
            covariances=self.of_components(parameters.covariances, places),
            precisions_cholesky=self.of_components(parameters.precisions_cholesky, places),
            log_constants=parameters.log_constants[places],
            exact=None if parameters.exact is None else parameters.exact[places],
            partial=True,
        )

    def of_components(self, arrays: FloatArray, places: NDArray[np.intp]) -> FloatArray:
        """Covariances or factors of some components."""
        return arrays[places]

    @abstractmethod
    def second_bounds(self, extents: FloatArray) -> FloatArray:
        """Upper bounds (n_second,) of a row's part in the second moments, from |x_d - mu_kd| <= extents (K, D)."""

    @abstractmethod
    def distance_bounds(self, precisions_cholesky: FloatArray, extents: FloatArray) -> FloatArray:
        """Upper bounds (K,) of the squared Mahalanobis distances of any row in the data's box."""

    def farthest(self, parameters: Parameters) -> FloatArray:
        """Upper bounds (K,) of the squared Mahalanobis distances of the rows; infinite where nothing bounds them."""
        if not np.isfinite(parameters.reach).all():
            return np.full(len(parameters.means), np.inf)
        return self.distance_bounds(parameters.precisions_cholesky, np.abs(parameters.means) + parameters.reach)

    @abstractmethod
    def diagonals(self, covariances: FloatArray) -> FloatArray:
        """Variances, of a shape that broadcasts to (K, D)."""

    @abstractmethod
    def precision_diagonals(self, precisions_cholesky: FloatArray) -> FloatArray:
        """Diagonals of the precisions, of a shape that broadcasts to (K, D)."""

    @abstractmethod
    def estimate(self, counts: FloatArray, deltas: FloatArray, second: FloatArray) -> FloatArray:
        """Covariances about the new means from moments about the old ones, deltas (K, D) = new - old means."""

    @abstractmethod
    def regularise(self, covariances: FloatArray, reg_covar: float) -> FloatArray:
        """Add reg_covar to every variance on the diagonal, maybe in place."""

    @abstractmethod
    def floor(self, covariances: FloatArray, share: float, variances: FloatArray) -> Floored:
        """Lift every direction's variance to share times the data's variances (D,); whose were lifted."""

    @abstractmethod
    def principal_axis(self, covariances: FloatArray, component: int, variances: FloatArray) -> FloatArray:
        """Direction (D,) of the component's largest variance, as long as its standard deviation; where it has no such
        direction, that of the data's largest variance (D,)."""

    def keep_components(self, covariances: FloatArray, previous: FloatArray, which: NDArray[np.bool_]) -> None:
        """Give components which (K,) their previous covariances, in place."""
        covariances[which] = previous[which]

    def copy_component(self, covariances: FloatArray, source: int, target: int) -> None:
        """Give target the covariance of source, in place."""
        covariances[target] = covariances[source]


def covariance_class(name: str) -> type[Covariance]:
    """The class of a covariance type by name; SciPy is imported for the types that need it and no other."""
    if name == "full":
        from mpigmm.core.full import Full

        return Full
    if name == "tied":
        from mpigmm.core.tied import Tied

        return Tied
    if name == "diag":
        from mpigmm.core.diag import Diag

        return Diag
    if name == "spherical":
        from mpigmm.core.spherical import Spherical

        return Spherical
    raise ValueError(f"covariance type {name!r} is none of full, tied, diag, spherical")


def packing_error(terms: FloatArray) -> FloatArray:
    """What rounding costs a row's log density in float32, where the terms (K, n) of its distance are summed; (K,)."""
    return np.asarray(SUM_UNIT * np.sqrt(np.square(terms).sum(axis=-1)))


def first_singular(variances: FloatArray) -> int | None:
    """Index of the first line of variances (K, ...) that is not all positive and finite."""
    bad = ~((variances > 0) & np.isfinite(variances)).reshape(len(variances), -1).all(axis=1)
    return int(bad.argmax()) if bad.any() else None
