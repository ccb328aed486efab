"""The kernels of `predict` and `score`, which do not know the bounds of the rows."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import logsumexp
from scipy.stats import multivariate_normal

import mpigmm
from mpigmm.core.estep.step import EStep
from mpigmm.core.tile import Tile

K, D = 6, 20
RNG = np.random.default_rng(0)
MEANS = RNG.normal(size=(K, D)) * 5
ROWS = MEANS[RNG.integers(K, size=900)] + RNG.normal(size=(900, D))


def mixture(kind: str) -> mpigmm.Mixture:
    """Components of unit variance."""
    shapes = {"full": (K, D, D), "tied": (D, D), "diag": (K, D), "spherical": (K,)}
    covariances = np.broadcast_to(np.eye(D) if kind in ("full", "tied") else 1.0, shapes[kind])
    return mpigmm.Mixture(np.full(K, 1 / K), MEANS, covariances, covariance_type=kind)


@pytest.mark.parametrize("kind", ["full", "diag", "tied", "spherical"])
@pytest.mark.parametrize("far", [None, 1e8, 1e30])
def test_far_rows_are_exact_and_spoil_no_others(kind: str, far: float | None, monkeypatch: pytest.MonkeyPatch) -> None:
    rows, bounded = ROWS.copy(), set()
    if far is not None:
        rows[17, 3] = far
    posterior = EStep.posterior

    def noted(step: EStep, tile: Tile) -> tuple[np.ndarray, np.ndarray]:
        bounded.add(step._inputs.is_bounded)
        return posterior(step, tile)

    monkeypatch.setattr(EStep, "posterior", noted)
    found = mixture(kind).score_samples(rows)
    expected = logsumexp([multivariate_normal(mean, np.eye(D)).logpdf(rows) for mean in MEANS], axis=0) - np.log(K)
    np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-10)
    assert bounded == {far is None}
    assert (mixture(kind).predict(rows)[:17] == mixture(kind).predict(ROWS)[:17]).all()
