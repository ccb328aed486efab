"""Covariance type `diag`: each component has a variance of each feature, and no correlations."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mpigmm.core.arrays import BoolArray, Indices
from mpigmm.core.covariances.base import (
    Covariances,
    EstimatedCovariances,
    Floored,
    MStepSums,
    SingularCovarianceError,
    first_singular,
    inverses,
    ratios,
)
from mpigmm.core.exact import FloatArray
from mpigmm.core.factors import DiagonalFactors
from mpigmm.core.ops.groups import SecondMoments


@dataclass(frozen=True, eq=False)
class Diag(EstimatedCovariances):
    """Variances, `values` of shape (K, D)."""

    name = "diag"
    second_moments = SecondMoments.EACH_FEATURE
    factor_kind = DiagonalFactors
    has_coordinates = True

    @classmethod
    def shape(cls, n_components: int, n_features: int) -> tuple[int, ...]:
        return (n_components, n_features)

    @classmethod
    def n_second(cls, n_components: int, n_features: int) -> int:
        return n_components * n_features

    @classmethod
    def isotropic(cls, n_components: int, n_features: int) -> Covariances:
        return cls(np.ones((n_components, n_features)))

    def select(self, components: Indices) -> Diag:
        return Diag(self.values[components])

    def marginal(self, features: Indices) -> Diag:
        return Diag(np.ascontiguousarray(self.values[:, features]))

    def of_features(self, features: Indices) -> FloatArray:
        return np.asarray(self.values[:, features, None] * np.eye(len(features)))

    @property
    def variances(self) -> FloatArray:
        return self.values

    @property
    def condition_numbers(self) -> FloatArray:
        return ratios(self.values.max(axis=1), self.values.min(axis=1))

    def factorised(self) -> DiagonalFactors:
        singular = first_singular(self.values)
        if singular is not None:
            raise SingularCovarianceError(singular)
        return DiagonalFactors(1.0 / np.sqrt(self.values))

    def bounds(self, deviations: FloatArray) -> FloatArray:
        return np.square(deviations).reshape(-1)

    def estimate(self, sums: MStepSums, deltas: FloatArray, empty: BoolArray) -> Diag:
        about_old = sums.second_moments.reshape(deltas.shape) / sums.covariance_counts[:, None]
        variances = about_old - self.shrinkage(sums)[:, None] * np.square(deltas)
        variances[empty] = self.values[empty]
        return Diag(variances)

    def regularise(self, reg_covar: float) -> Diag:
        return Diag(self.values + reg_covar)

    def floor(self, share: float, data_variances: FloatArray) -> tuple[Diag, Floored]:
        low = (self.values < share * data_variances).any(axis=1)
        return Diag(np.maximum(self.values, share * data_variances)), np.flatnonzero(low).tolist()

    def to_vector(self, other: Covariances, roots: FloatArray, n_features: int) -> FloatArray:
        return np.asarray(np.sqrt(0.5) * roots[:, None] * np.log(other.variances / self.values)).reshape(-1)

    def from_vector(self, vector: FloatArray, roots: FloatArray, n_features: int) -> Diag:
        logarithms = vector.reshape(self.values.shape) * inverses(np.sqrt(0.5) * roots)[:, None]
        return Diag(self.values * np.exp(logarithms))

    def principal_axis(self, component: int, data_variances: FloatArray) -> FloatArray:
        axis = np.zeros(len(data_variances))
        largest = self.values[component].argmax()
        axis[largest] = np.sqrt(self.values[component, largest])
        return axis
