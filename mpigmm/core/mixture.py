"""A mixture of Gaussian components, as an immutable value."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mpigmm.core.arrays import DOUBLE, BoolArray, Indices
from mpigmm.core.covariances import COVARIANCE_TYPES
from mpigmm.core.covariances.base import CovarianceError, Covariances, SingularCovarianceError
from mpigmm.core.estep.inputs import EStepInputs
from mpigmm.core.exact import FloatArray
from mpigmm.core.ops.base import Ops
from mpigmm.core.ops.numpy import NUMPY
from mpigmm.core.statistics import Layout

GOLDEN = 0x9E3779B97F4A7C15
"""The odd integer nearest to 2^64 divided by the golden ratio, for multiplicative hashing (Knuth, The Art of Computer
Programming, vol. 3, section 6.4)."""

COARSE = 2.0**-26
"""Largest rounding error of rows minus the centre, in standard deviations of a component near them, with which the
centre is used."""


class MixtureError(ValueError):
    """Arrays that are not a mixture's parameters; the message says which and why."""


@dataclass(frozen=True, eq=False)
class Mixture:
    """p(x) = sum_k weights_k N(x | means_k, covariances_k).

    Parameters
    ----------
    weights : ndarray of shape (K,), float64
    means : ndarray of shape (K, D), float64
    covariances : Covariances
    """

    weights: FloatArray
    means: FloatArray
    covariances: Covariances

    @classmethod
    def from_arrays(cls, covariance_type: str, arrays: Mapping[str, object]) -> Mixture:
        """The mixture with parameters from outside the program, named like those of `arrays`.

        Raises `MixtureError` where they are not parameters of a mixture.
        """
        kind = COVARIANCE_TYPES.get(covariance_type)
        if kind is None:
            raise MixtureError(f"covariance type {covariance_type!r} is none of {', '.join(COVARIANCE_TYPES)}")
        found = {name: _array(arrays[name]) for name in ("weights", "means", *kind.array_names)}
        weights, means = found["weights"], found["means"]
        if weights.ndim != 1 or means.ndim != 2 or len(weights) != len(means):
            raise MixtureError(f"weights {weights.shape} and means {means.shape} are not of shapes (K,) and (K, D)")
        if not means.size:
            raise MixtureError(f"means of shape {means.shape} hold no number")
        try:
            mixture = cls(weights, means, kind.from_arrays(found, *means.shape))
            mixture._check()
        except (CovarianceError, SingularCovarianceError) as error:
            raise MixtureError(str(error)) from None
        return mixture

    def arrays(self) -> dict[str, FloatArray]:
        """The parameters by name, as checkpoints and model files store them."""
        return {"weights": self.weights, "means": self.means, **self.covariances.arrays()}

    @property
    def n_components(self) -> int:
        return int(self.means.shape[0])

    @property
    def n_features(self) -> int:
        return int(self.means.shape[1])

    @property
    def n_parameters(self) -> int:
        """Number of free parameters, for AIC and BIC."""
        k, d = self.means.shape
        return int(self.covariances.n_parameters(k, d) + k * d + k - 1)

    @property
    def layout(self) -> Layout:
        """Names and shapes of the sums of an E-step."""
        return self.covariances.layout(*self.means.shape)

    @property
    def variances(self) -> FloatArray:
        """Variance of each component and feature, (K, D)."""
        return np.broadcast_to(self.covariances.variances, self.means.shape)

    @property
    def condition_numbers(self) -> FloatArray:
        """Ratio of the largest to the least eigenvalue of each component's covariance, (K,)."""
        return np.broadcast_to(self.covariances.condition_numbers, self.weights.shape)

    @property
    def precision_diagonals(self) -> FloatArray:
        """Diagonals of the precision matrices, (K, D); raises `SingularCovarianceError`."""
        return np.broadcast_to(self.covariances.factors.precision_diagonals(), self.means.shape)

    @cached_property
    def log_norm(self) -> FloatArray:
        """log weights_k + log det U_k - D/2 log 2 pi, shape (K,): a component's weighted log-density at its mean."""
        with np.errstate(divide="ignore"):
            log_weights = np.log(self.weights)
        log_det = self.covariances.factors.log_determinants(self.n_features)
        return np.asarray(log_weights + log_det - 0.5 * self.n_features * np.log(2 * np.pi))

    def marginal(self, features: Indices) -> Mixture:
        """The mixture, of the same type, of the features with these numbers, in this order."""
        means = np.ascontiguousarray(self.means[:, features])
        return Mixture(self.weights, means, self.covariances.marginal(features))

    def covariance_matrices(self, features: Indices) -> FloatArray:
        """The covariance matrices (K, m, m) of the m features with these numbers, in this order; a new array."""
        shape = (self.n_components, len(features), len(features))
        return np.array(np.broadcast_to(self.covariances.of_features(features), shape))

    def release(self) -> None:
        """Free the memory of quantities derived from the parameters; they are computed again when they are needed."""
        self.__dict__.pop("log_norm", None)
        self.covariances.release()

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "log_norm"}

    def e_step_inputs(
        self,
        centre: FloatArray,
        max_abs_deviation: FloatArray | None = None,
        dtype: np.dtype[Any] = DOUBLE,
        ops: Ops = NUMPY,
        in_double: BoolArray | None = None,
    ) -> EStepInputs:
        """The inputs of an E-step with this mixture.

        Parameters
        ----------
        centre : ndarray of shape (D,)
            The centre of the tiles.
        max_abs_deviation : ndarray of shape (D,), optional
            Upper bounds of |x_d - centre_d| over all rows x; unknown by default.
        dtype : dtype
            Of the tiles.
        ops : Ops
            The array operations, in whose memory the tiles lie.
        in_double : ndarray of bool, shape (K,), optional
            Components to compute in float64 whatever the dtype; none by default.
        """
        return EStepInputs(
            means=self.means - centre,
            variances=self.variances,
            factors=self.covariances.factors,
            log_norm=self.log_norm,
            second_moments=self.covariances.second_moments,
            max_abs_deviation=np.full(self.n_features, np.inf) if max_abs_deviation is None else max_abs_deviation,
            dtype=dtype,
            ops=ops,
            in_double=np.zeros(self.n_components, bool) if in_double is None else in_double,
        )

    def digest(self) -> str:
        """A hash of 64 bits of the parameters, in hexadecimal."""
        digest = hashlib.blake2b(digest_size=8)
        for array in self.arrays().values():
            digest.update(np.ascontiguousarray(array).data)
        return digest.hexdigest()

    def checksum(self) -> int:
        """A hash of 20 bits of the parameters, so small that its square can be summed over all ranks exactly."""
        mixed = 0
        for array in self.arrays().values():
            words = array.reshape(-1).view(np.uint64)
            for start in range(0, words.size, len(odd_factors())):
                part = words[start : start + len(odd_factors())]
                mixed = (mixed + int((part * odd_factors()[: part.size]).sum())) * GOLDEN % 2**64
        return mixed >> 44

    def _check(self) -> None:
        if not all(np.isfinite(array).all() for array in self.arrays().values()):
            raise MixtureError("a parameter is not finite")
        if (self.weights < 0).any() or abs(self.weights.sum() - 1) > 1e-6:
            raise MixtureError("weights are not >= 0 with sum 1")
        self.covariances.check_symmetry()
        self.covariances.factorised()


def safe_centre(mixture: Mixture, centre: FloatArray) -> FloatArray:
    """The centre (D,), or zero in those features where it would cost the rows near some component too many digits.

    The difference of a row and the centre is rounded to 2^-53 of the centre. This error is too large for a narrow
    component whose mean is much closer to zero than the centre is. With the centre zero, rows are not rounded at all.
    """
    with np.errstate(over="ignore"):
        rounding = 2.0**-53 * np.abs(centre) * np.sqrt(mixture.precision_diagonals)
    closer = (2 * np.abs(mixture.means) < np.abs(centre)) & (mixture.weights > 0)[:, None]
    return np.where((closer & (rounding > COARSE)).any(axis=0), 0.0, centre)


@lru_cache(maxsize=1)
def odd_factors() -> NDArray[np.uint64]:
    """Odd random factors of the words of an array, the same in every process, so that a sum of the products depends on
    the order of the words."""
    return np.random.default_rng(0).integers(2**63, size=2**15, dtype=np.uint64) * np.uint64(2) + np.uint64(1)


def _array(value: object) -> FloatArray:
    array = np.asarray(value)
    if array.dtype.kind not in "iuf":
        raise MixtureError(f"a parameter has dtype {array.dtype}, which is no real number's")
    return np.ascontiguousarray(array, dtype=np.float64)
