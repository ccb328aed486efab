"""Covariance type `full`: each component has a covariance matrix."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mpigmm.core import matrices
from mpigmm.core.arrays import BoolArray, Indices
from mpigmm.core.covariances.base import (
    Covariances,
    EstimatedCovariances,
    Floored,
    MStepSums,
    SingularCovarianceError,
    inverses,
)
from mpigmm.core.covariances.cholesky import cholesky_coordinates, cholesky_matrices
from mpigmm.core.exact import FloatArray
from mpigmm.core.factors import TriangularFactors
from mpigmm.core.ops.groups import SecondMoments
from mpigmm.core.triangle import lower_triangle, unpack


@dataclass(frozen=True, eq=False)
class Full(EstimatedCovariances):
    """Covariance matrices, `values` of shape (K, D, D)."""

    name = "full"
    second_moments = SecondMoments.PAIRS_OF_EACH
    factor_kind = TriangularFactors
    has_coordinates = True

    @classmethod
    def prepare(cls) -> None:
        matrices.lapack()

    @classmethod
    def shape(cls, n_components: int, n_features: int) -> tuple[int, ...]:
        return (n_components, n_features, n_features)

    @classmethod
    def n_second(cls, n_components: int, n_features: int) -> int:
        return n_components * n_features * (n_features + 1) // 2

    @classmethod
    def isotropic(cls, n_components: int, n_features: int) -> Covariances:
        return cls(np.zeros(cls.shape(n_components, n_features))).regularise(1.0)

    def check_symmetry(self) -> None:
        for k, covariance in enumerate(self.values):
            if not matrices.is_symmetric(covariance):
                raise SingularCovarianceError(k, "symmetric")

    def select(self, components: Indices) -> Full:
        return Full(self.values[components])

    def marginal(self, features: Indices) -> Full:
        return Full(np.ascontiguousarray(self.of_features(features)))

    def of_features(self, features: Indices) -> FloatArray:
        return self.values[:, features[:, None], features]

    @property
    def variances(self) -> FloatArray:
        return np.diagonal(self.values, axis1=1, axis2=2)

    def factorised(self) -> TriangularFactors:
        factors = np.empty_like(self.values)
        for k, covariance in enumerate(self.values):
            try:
                factors[k] = matrices.precision_cholesky(covariance)
            except np.linalg.LinAlgError:
                raise SingularCovarianceError(k) from None
        return TriangularFactors(factors)

    def bounds(self, deviations: FloatArray) -> FloatArray:
        lower = lower_triangle(deviations.shape[1])
        return np.concatenate([np.outer(own, own).reshape(-1)[lower] for own in deviations])

    def estimate(self, sums: MStepSums, deltas: FloatArray, empty: BoolArray) -> Full:
        covariances, shrinkage = np.empty(deltas.shape + deltas.shape[1:]), self.shrinkage(sums)
        for k, line in enumerate(sums.second_moments.reshape(len(deltas), -1)):
            about_old = unpack(line / sums.covariance_counts[k], deltas.shape[1])
            covariances[k] = about_old - np.outer(shrinkage[k] * deltas[k], deltas[k])
        covariances[empty] = self.values[empty]
        return Full(covariances)

    def regularise(self, reg_covar: float) -> Full:
        np.einsum("kdd->kd", self.values)[:] += reg_covar
        return self

    def floor(self, share: float, data_variances: FloatArray) -> tuple[Full, Floored]:
        values, floored = self.values.copy(), []
        for k, covariance in enumerate(values):
            if not matrices.exceeds_floor(covariance, share * data_variances):
                values[k] = matrices.clip_eigenvalues(covariance, share, data_variances)
                floored.append(k)
        return Full(values), floored

    def to_vector(self, other: Covariances, roots: FloatArray, n_features: int) -> FloatArray:
        coordinates = cholesky_coordinates(self.values, other.arrays()["covariances"])
        return np.asarray(roots[:, None] * coordinates).reshape(-1)

    def from_vector(self, vector: FloatArray, roots: FloatArray, n_features: int) -> Full:
        coordinates = vector.reshape(len(roots), -1) * inverses(roots)[:, None]
        return Full(cholesky_matrices(self.values, coordinates))

    def principal_axis(self, component: int, data_variances: FloatArray) -> FloatArray:
        return matrices.principal_axis(self.values[component])
