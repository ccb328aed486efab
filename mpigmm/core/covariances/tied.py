"""Covariance type `tied`: all components share one covariance matrix."""

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
    are_above_floor,
)
from mpigmm.core.covariances.cholesky import cholesky_coordinates, cholesky_matrices
from mpigmm.core.exact import FloatArray
from mpigmm.core.factors import SharedTriangularFactor
from mpigmm.core.ops.groups import SecondMoments
from mpigmm.core.triangle import lower_triangle, unpack


@dataclass(frozen=True, eq=False)
class Tied(EstimatedCovariances):
    """The covariance matrix, `values` of shape (D, D)."""

    name = "tied"
    second_moments = SecondMoments.PAIRS_SUMMED
    factor_kind = SharedTriangularFactor
    has_coordinates = True

    @classmethod
    def prepare(cls) -> None:
        matrices.lapack()

    @classmethod
    def shape(cls, n_components: int, n_features: int) -> tuple[int, ...]:
        return (n_features, n_features)

    @classmethod
    def n_second(cls, n_components: int, n_features: int) -> int:
        return n_features * (n_features + 1) // 2

    @classmethod
    def isotropic(cls, n_components: int, n_features: int) -> Covariances:
        return cls(np.eye(n_features))

    def check_symmetry(self) -> None:
        if not matrices.is_symmetric(self.values):
            raise SingularCovarianceError(None, "symmetric")

    def select(self, components: Indices) -> Tied:
        return self

    def marginal(self, features: Indices) -> Tied:
        return Tied(np.ascontiguousarray(self.of_features(features)))

    def of_features(self, features: Indices) -> FloatArray:
        return self.values[features[:, None], features]

    @property
    def variances(self) -> FloatArray:
        return np.diagonal(self.values)

    def factorised(self) -> SharedTriangularFactor:
        try:
            return SharedTriangularFactor(matrices.precision_cholesky(self.values))
        except np.linalg.LinAlgError:
            raise SingularCovarianceError(None) from None

    def with_components_of(self, other: Covariances, which: BoolArray) -> Covariances:
        return self

    def bounds(self, deviations: FloatArray) -> FloatArray:
        largest = deviations.max(axis=0)
        return np.outer(largest, largest).reshape(-1)[lower_triangle(len(largest))]

    def estimate(self, sums: MStepSums, deltas: FloatArray, empty: BoolArray) -> Tied:
        between = (sums.mean_counts[:, None] * deltas).T @ deltas
        about_old = unpack(sums.second_moments, deltas.shape[1])
        return Tied((about_old - (between + between.T) / 2) / sums.covariance_counts.sum())

    def regularise(self, reg_covar: float) -> Tied:
        return Tied(self.values + reg_covar * np.eye(len(self.values)))

    def floor(self, share: float, data_variances: FloatArray) -> tuple[Tied, Floored]:
        if self._is_above_floor(share, data_variances) or matrices.exceeds_floor(self.values, share * data_variances):
            return self, []
        return Tied(matrices.clip_eigenvalues(self.values, share, data_variances)), [None]

    def _is_above_floor(self, share: float, data_variances: FloatArray) -> bool:
        """Whether `are_above_floor` says so, from the factor, which the next E-step needs."""
        try:
            return bool(are_above_floor(self.factors, share, data_variances))
        except SingularCovarianceError:
            return False

    def to_vector(self, other: Covariances, roots: FloatArray, n_features: int) -> FloatArray:
        coordinates = cholesky_coordinates(self.values[None], other.arrays()["covariances"][None])
        return coordinates.reshape(-1)

    def from_vector(self, vector: FloatArray, roots: FloatArray, n_features: int) -> Tied:
        return Tied(cholesky_matrices(self.values[None], vector[None])[0])

    def principal_axis(self, component: int, data_variances: FloatArray) -> FloatArray:
        return matrices.principal_axis(self.values)
