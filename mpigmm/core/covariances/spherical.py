"""Covariance type `spherical`: each component has one variance, the same for all features."""

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
)
from mpigmm.core.exact import FloatArray
from mpigmm.core.factors import IsotropicFactors
from mpigmm.core.ops.groups import SecondMoments


@dataclass(frozen=True, eq=False)
class Spherical(EstimatedCovariances):
    """Variances, `values` of shape (K,)."""

    name = "spherical"
    second_moments = SecondMoments.ALL_FEATURES
    factor_kind = IsotropicFactors
    has_coordinates = True

    @classmethod
    def shape(cls, n_components: int, n_features: int) -> tuple[int, ...]:
        return (n_components,)

    @classmethod
    def n_second(cls, n_components: int, n_features: int) -> int:
        return n_components

    @classmethod
    def isotropic(cls, n_components: int, n_features: int) -> Covariances:
        return cls(np.ones(n_components))

    def select(self, components: Indices) -> Spherical:
        return Spherical(self.values[components])

    def marginal(self, features: Indices) -> Spherical:
        return self

    def of_features(self, features: Indices) -> FloatArray:
        return np.asarray(self.values[:, None, None] * np.eye(len(features)))

    @property
    def variances(self) -> FloatArray:
        return self.values[:, None]

    @property
    def condition_numbers(self) -> FloatArray:
        return np.ones(len(self.values))

    def factorised(self) -> IsotropicFactors:
        singular = first_singular(self.values)
        if singular is not None:
            raise SingularCovarianceError(singular)
        return IsotropicFactors(1.0 / np.sqrt(self.values))

    def bounds(self, deviations: FloatArray) -> FloatArray:
        return np.asarray(np.square(deviations).sum(axis=1))

    def estimate(self, sums: MStepSums, deltas: FloatArray, empty: BoolArray) -> Spherical:
        squares = self.shrinkage(sums) * np.square(deltas).sum(axis=1)
        variances = (sums.second_moments / sums.covariance_counts - squares) / deltas.shape[1]
        variances[empty] = self.values[empty]
        return Spherical(variances)

    def regularise(self, reg_covar: float) -> Spherical:
        return Spherical(self.values + reg_covar)

    def floor(self, share: float, data_variances: FloatArray) -> tuple[Spherical, Floored]:
        least = share * data_variances.mean()
        return Spherical(np.maximum(self.values, least)), np.flatnonzero(self.values < least).tolist()

    def to_vector(self, other: Covariances, roots: FloatArray, n_features: int) -> FloatArray:
        return np.asarray(np.sqrt(0.5 * n_features) * roots * np.log(other.variances[:, 0] / self.values))

    def from_vector(self, vector: FloatArray, roots: FloatArray, n_features: int) -> Spherical:
        return Spherical(self.values * np.exp(vector * inverses(np.sqrt(0.5 * n_features) * roots)))

    def principal_axis(self, component: int, data_variances: FloatArray) -> FloatArray:
        axis = np.zeros(len(data_variances))
        axis[data_variances.argmax()] = np.sqrt(self.values[component])
        return axis
