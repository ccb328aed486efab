"""A Gaussian mixture: its parameters and what follows from them."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mpigmm.core.arrays import DOUBLE
from mpigmm.core.covariance import Covariance, Parameters, SingularCovarianceError, covariance_class
from mpigmm.core.exact import FloatArray
from mpigmm.core.ops.base import Ops
from mpigmm.core.ops.numpy import NUMPY

GOLDEN = 0x9E3779B97F4A7C15
"""2^64 over the golden ratio, odd: mixes bits upwards (Knuth, The Art of Computer Programming, vol. 3, section 6.4)."""


COARSE = 2.0**-26
"""Rounding of the rows, in standard deviations of a component, up to which a centre far from it is kept."""


class MixtureError(ValueError):
    """Parameters that are not those of a mixture; the message says which and why."""


@dataclass(frozen=True, eq=False)
class Mixture:
    """p(x) = sum_k weights_k N(x | means_k, covariances_k).

    Parameters
    ----------
    covariance : Covariance
        The covariance type.
    weights : ndarray of shape (K,), float64
    means : ndarray of shape (K, D), float64
    covariances : ndarray, float64
        Shaped by the type as in scikit-learn; variances, never standard deviations.
    """

    covariance: Covariance
    weights: FloatArray
    means: FloatArray
    covariances: FloatArray

    @classmethod
    def checked(cls, covariance_type: str, weights: object, means: object, covariances: object) -> Mixture:
        """A mixture of parameters that come from outside; raises `MixtureError`.

        Its factors are left to whoever uses it, under whatever holds there for BLAS.
        """
        try:
            covariance = covariance_class(covariance_type)()
        except ValueError as error:
            raise MixtureError(str(error)) from None
        parameters = [_array(value) for value in (weights, means, covariances)]
        cls(covariance, *parameters)._check()
        return cls(covariance, *parameters)

    def __reduce__(self) -> tuple[type[Mixture], tuple[object, ...]]:
        """Pickled are the parameters alone: the factors, as large as the covariances, are computed again."""
        return Mixture, (self.covariance, self.weights, self.means, self.covariances)

    @property
    def n_components(self) -> int:
        return int(self.means.shape[0])

    @property
    def n_features(self) -> int:
        return int(self.means.shape[1])

    @property
    def n_parameters(self) -> int:
        """Free parameters, for AIC and BIC."""
        k, d = self.means.shape
        return int(self.covariance.n_parameters(k, d) + k * d + k - 1)

    @cached_property
    def precisions_cholesky(self) -> FloatArray:
        """Factors U_k of the precisions; raises `SingularCovarianceError`."""
        return self.covariance.factor(self.covariances)

    @cached_property
    def log_constants(self) -> FloatArray:
        """log weights_k + log |U_k| - D/2 log 2 pi, shape (K,)."""
        with np.errstate(divide="ignore"):
            log_weights = np.log(self.weights)
        log_det = self.covariance.log_determinant(self.precisions_cholesky, self.n_features)
        return np.asarray(log_weights + log_det - 0.5 * self.n_features * np.log(2 * np.pi))

    def release(self) -> None:
        """Free the memory of what follows from the parameters; it is computed again where it is asked for."""
        for name in ("precisions_cholesky", "log_constants"):
            self.__dict__.pop(name, None)

    def parameters(
        self,
        centre: FloatArray,
        reach: FloatArray | None = None,
        dtype: np.dtype[Any] = DOUBLE,
        ops: Ops = NUMPY,
        exact: NDArray[np.bool_] | None = None,
    ) -> Parameters:
        """What a kernel wants, for tiles that hold rows less centre (D,) and no entry above reach (D,), if known.

        exact (K,) are components to compute in float64 whatever the dtype of the tiles.
        """
        reach = np.full(self.n_features, np.inf) if reach is None else reach
        means, factors = self.means - centre, self.precisions_cholesky
        return Parameters(means, self.covariances, factors, self.log_constants, reach, dtype, ops, exact)

    def digest(self) -> str:
        """64 bits, in hexadecimal, that differ where any bit of the parameters differs."""
        digest = hashlib.blake2b(digest_size=8)
        for array in (self.weights, self.means, self.covariances):
            digest.update(np.ascontiguousarray(array).data)
        return digest.hexdigest()

    def checksum(self) -> int:
        """20 bits, few enough for their squares to be summed over all ranks, that nearly surely differ where any bit
        of the parameters differs."""
        mixed = 0
        for array in (self.weights, self.means, self.covariances):
            words = array.reshape(-1).view(np.uint64)
            for start in range(0, words.size, len(odd_factors())):
                part = words[start : start + len(odd_factors())]
                mixed = (mixed + int((part * odd_factors()[: part.size]).sum())) * GOLDEN % 2**64
        return mixed >> 44

    def _check(self) -> None:
        if self.weights.ndim != 1 or self.means.ndim != 2 or len(self.weights) != len(self.means):
            raise MixtureError(
                f"weights {self.weights.shape} and means {self.means.shape} are not of shapes (K,) and (K, D)"
            )
        expected = self.covariance.shape(*self.means.shape)
        if self.covariances.shape != expected or not self.means.size:
            raise MixtureError(
                f"covariances of type {self.covariance.name} have shape {self.covariances.shape}, not {expected}"
            )
        if not all(np.isfinite(a).all() for a in (self.weights, self.means, self.covariances)):
            raise MixtureError("a parameter is not finite")
        if (self.weights < 0).any() or abs(self.weights.sum() - 1) > 1e-6:
            raise MixtureError("weights are not >= 0 with sum 1")
        try:
            self.covariance.check_symmetry(self.covariances)
            _ = self.precisions_cholesky
        except SingularCovarianceError as error:
            raise MixtureError(str(error)) from None


def variances(mixture: Mixture) -> FloatArray:
    """Variance of each component and feature, (K, D)."""
    return np.broadcast_to(mixture.covariance.diagonals(mixture.covariances), mixture.means.shape)


def precision_diagonals(mixture: Mixture) -> FloatArray:
    """Diagonals of the precision matrices, (K, D)."""
    factors = mixture.precisions_cholesky
    return np.broadcast_to(mixture.covariance.precision_diagonals(factors), mixture.means.shape)


def safe_centre(mixture: Mixture, centre: FloatArray) -> FloatArray:
    """A centre (D,) amid the rows, or zero in features where it would cost the rows of some component their digits.

    A row less the centre is rounded by 2^-53 of the centre. This matters where a component lies much closer to zero
    than the centre does and is narrow: rows that are used as they are keep all digits that they have.
    """
    with np.errstate(over="ignore"):
        rounding = 2.0**-53 * np.abs(centre) * np.sqrt(precision_diagonals(mixture))
    closer = (2 * np.abs(mixture.means) < np.abs(centre)) & (mixture.weights > 0)[:, None]
    return np.where((closer & (rounding > COARSE)).any(axis=0), 0.0, centre)


@lru_cache(maxsize=1)
def odd_factors() -> NDArray[np.uint64]:
    """Factors that tell words of a sum apart by their places, the same in every process."""
    return np.random.default_rng(0).integers(2**63, size=2**15, dtype=np.uint64) * np.uint64(2) + np.uint64(1)


def _array(value: object) -> FloatArray:
    array = np.asarray(value)
    if array.dtype.kind not in "iuf":
        raise MixtureError(f"a parameter has dtype {array.dtype}, which is no real number's")
    return np.ascontiguousarray(array, dtype=np.float64)
