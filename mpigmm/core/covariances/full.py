"""Covariance type `full`: each component has a covariance matrix."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mpigmm.core import matrices
from mpigmm.core.arrays import BoolArray, Indices
from mpigmm.core.chunks import chunks
from mpigmm.core.covariances.base import (
    Covariances,
    EstimatedCovariances,
    Floored,
    MStepSums,
    SingularCovarianceError,
    are_above_floor,
    inverses,
)
from mpigmm.core.covariances.cholesky import cholesky_coordinates, cholesky_matrices
from mpigmm.core.exact import FloatArray
from mpigmm.core.factors import TriangularFactors
from mpigmm.core.ops.groups import SecondMoments
from mpigmm.core.triangle import pair_products, unpack

SHARED_ENTRIES = 1 << 20
"""Number of entries of all covariances from which ranks share the M-step. With so many it takes 10 ms or more, and to
send the covariances and their factors takes a third of that or less."""


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
    def shares_update(cls, n_components: int, n_features: int) -> bool:
        return n_components * n_features**2 >= SHARED_ENTRIES

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
        factors, definite = matrices.precision_choleskys(self.values)
        if not definite.all():
            raise SingularCovarianceError(int(definite.argmin()))
        return TriangularFactors(factors)

    def bounds(self, deviations: FloatArray) -> FloatArray:
        return pair_products(deviations).reshape(-1)

    def estimate(self, sums: MStepSums, deltas: FloatArray, empty: BoolArray) -> Full:
        covariances = np.empty(deltas.shape + deltas.shape[1:])
        counts, shrunk = sums.covariance_counts[:, None], self.shrinkage(sums)[:, None] * deltas
        for some in chunks(len(deltas), covariances[0].size):
            about_old = unpack(sums.second_moments.reshape(len(deltas), -1)[some] / counts[some], deltas.shape[1])
            np.subtract(about_old, shrunk[some, :, None] * deltas[some, None, :], out=covariances[some])
        covariances[empty] = self.values[empty]
        return Full(covariances)

    def regularise(self, reg_covar: float) -> Full:
        np.einsum("kdd->kd", self.values)[:] += reg_covar
        return self

    def floor(self, share: float, data_variances: FloatArray) -> tuple[Full, Floored]:
        upper, definite = matrices.precision_choleskys(self.values)
        floored = []
        for k in np.flatnonzero(~(definite & are_above_floor(TriangularFactors(upper), share, data_variances))):
            if not matrices.exceeds_floor(self.values[k], share * data_variances):
                self.values[k] = matrices.clip_eigenvalues(self.values[k], share, data_variances)
                upper[k : k + 1], definite[k : k + 1] = matrices.precision_choleskys(self.values[k : k + 1])
                floored.append(int(k))
        if definite.all():
            self.__dict__["factors"] = TriangularFactors(upper)  # which the next E-step needs
        return self, floored

    def to_vector(self, other: Covariances, roots: FloatArray, n_features: int) -> FloatArray:
        coordinates = cholesky_coordinates(self.values, other.arrays()["covariances"])
        return np.asarray(roots[:, None] * coordinates).reshape(-1)

    def from_vector(self, vector: FloatArray, roots: FloatArray, n_features: int) -> Full:
        coordinates = vector.reshape(len(roots), -1) * inverses(roots)[:, None]
        return Full(cholesky_matrices(self.values, coordinates))

    def principal_axis(self, component: int, data_variances: FloatArray) -> FloatArray:
        return matrices.principal_axis(self.values[component])
