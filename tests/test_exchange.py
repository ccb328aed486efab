"""Mixtures as objects of scikit-learn and PyTorch, against those libraries."""

from __future__ import annotations

import pickle
import sys
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.mixture import BayesianGaussianMixture, GaussianMixture
from sklearn.utils.validation import check_is_fitted
from support import TYPES, blobs

import mpigmm
from mpigmm import errors

ROWS = blobs(700, 4, 3)
FEW_STEPS = "ignore:.*did not converge"


def ours(covariance_type: str) -> mpigmm.Mixture:
    """A fitted mixture."""
    sections = {
        "model": {"n_components": 3, "covariance_type": covariance_type},
        "em": {"max_iter": 4, "tol": 0},
        "compute": {"threads": 1},
    }
    return mpigmm.fit(sections, ROWS).mixture


@pytest.mark.parametrize("covariance_type", TYPES)
def test_a_mixture_becomes_a_fitted_estimator_of_scikit_learn(covariance_type: str) -> None:
    mixture = ours(covariance_type)
    theirs = mixture.to_sklearn()
    assert type(theirs) is GaussianMixture
    check_is_fitted(theirs)
    for estimator in (theirs, pickle.loads(pickle.dumps(theirs))):
        for method in ("predict", "predict_proba", "score_samples", "score", "aic", "bic"):
            wanted = getattr(estimator, method)(ROWS)
            np.testing.assert_allclose(getattr(mixture, method)(ROWS), wanted, rtol=1e-10, atol=1e-10, err_msg=method)
        np.testing.assert_allclose(estimator.precisions_, mixture.precisions, rtol=1e-12)
    rows, labels = theirs.sample(20_000)
    np.testing.assert_allclose(rows.mean(axis=0), mixture.weights @ mixture.means, atol=0.2)
    assert set(labels) == {0, 1, 2}
    assert theirs.n_iter_ == 4 and not theirs.converged_
    assert theirs.lower_bound_ == theirs.lower_bounds_[-1] == pytest.approx(mixture.score(ROWS), rel=1e-12)
    with pytest.raises(ValueError, match="X has 3 features"):
        theirs.predict(ROWS[:, :3])
    theirs.means_[:] = 0.0  # a copy
    assert mixture.means.any()


@pytest.mark.filterwarnings(FEW_STEPS)
@pytest.mark.parametrize("covariance_type", TYPES)
def test_there_and_back_has_the_same_bits(covariance_type: str) -> None:
    mixture = ours(covariance_type)
    back = mpigmm.Mixture.from_sklearn(mixture.to_sklearn())
    assert back.covariance_type == covariance_type
    for name in ("weights", "means", "covariances"):
        assert getattr(back, name).tobytes() == getattr(mixture, name).tobytes(), name
    fitted_on = clone(mixture.to_sklearn()).set_params(max_iter=2).fit(ROWS)  # it can be fitted anew
    assert np.isfinite(fitted_on.score(ROWS))


@pytest.mark.filterwarnings(FEW_STEPS)
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("covariance_type", TYPES)
@pytest.mark.parametrize("kind", [GaussianMixture, BayesianGaussianMixture])
def test_an_estimator_of_scikit_learn_becomes_a_mixture(kind: Any, covariance_type: str, dtype: Any) -> None:
    theirs = kind(n_components=3, covariance_type=covariance_type, random_state=0, max_iter=5).fit(ROWS.astype(dtype))
    assert theirs.covariances_.dtype == dtype or kind is BayesianGaussianMixture
    mixture = mpigmm.Mixture.from_sklearn(theirs)
    np.testing.assert_allclose(mixture.weights, theirs.weights_, rtol=1e-6)
    assert abs(mixture.weights.sum() - 1) < 1e-14
    np.testing.assert_array_equal(mixture.means, theirs.means_)
    np.testing.assert_allclose(mixture.covariances, theirs.covariances_, rtol=1e-6, atol=1e-6)
    if kind is GaussianMixture:
        rtol = 1e-10 if dtype == np.float64 else 1e-4
        np.testing.assert_allclose(mixture.score_samples(ROWS), theirs.score_samples(ROWS), rtol=rtol, atol=rtol)


def test_a_covariance_need_not_be_symmetric_to_the_last_bit() -> None:
    theirs = SimpleNamespace(weights_=np.ones(1), means_=np.zeros((1, 2)), covariance_type="full")
    theirs.covariances_ = np.array([[[1.0, 0.5 + 2e-5], [0.5, 1.0]]], np.float32)
    covariance = mpigmm.Mixture.from_sklearn(theirs).covariances[0]
    assert covariance[0, 1] == covariance[1, 0] == pytest.approx(0.50001)
    theirs.covariances_ = np.array([[[1.0, 0.6], [0.5, 1.0]]])
    with pytest.raises(errors.DataError, match="component 0 is not symmetric"):
        mpigmm.Mixture.from_sklearn(theirs)
    for shape in ((1, 2, 3), (4,)):
        theirs.covariances_ = np.ones(shape)
        with pytest.raises(errors.DataError, match="have shape"):
            mpigmm.Mixture.from_sklearn(theirs)


def test_what_is_no_fitted_mixture_is_refused_by_name() -> None:
    with pytest.raises(errors.DataError, match=r"of type GaussianMixture, has no weights_; .* fit it first"):
        mpigmm.Mixture.from_sklearn(GaussianMixture())
    with pytest.raises(errors.DataError, match="of type int, has no weights_"):
        mpigmm.Mixture.from_sklearn(3)
    theirs = SimpleNamespace(weights_=[1.0], means_=[[0.0]], covariances_=[1.0], covariance_type="round")
    with pytest.raises(errors.DataError, match="'round' is none of"):
        mpigmm.Mixture.from_sklearn(theirs)


@pytest.mark.parametrize(
    ("method", "module", "package"), [("to_sklearn", "sklearn.mixture", "scikit-learn"), ("to_torch", "torch", "torch")]
)
def test_a_library_that_is_missing_is_named(
    method: str, module: str, package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(errors.MissingLibraryError, match=rf"{method} needs {package}, .*: pip install {package}$"):
        getattr(ours("diag"), method)()


@pytest.mark.parametrize("covariance_type", TYPES)
def test_densities_of_pytorch(covariance_type: str) -> None:
    torch = pytest.importorskip("torch")
    mixture = ours(covariance_type)
    d = mixture.to_torch()
    assert isinstance(d, torch.distributions.MixtureSameFamily)
    log_density = d.log_prob(torch.tensor(ROWS)).numpy()
    np.testing.assert_allclose(log_density, mixture.score_samples(ROWS), rtol=1e-10, atol=1e-10)
    single = mixture.to_torch(dtype=torch.float32, device="cpu").log_prob(torch.tensor(ROWS, dtype=torch.float32))
    assert single.dtype == torch.float32
    np.testing.assert_allclose(single.numpy(), log_density, rtol=1e-3, atol=1e-3)
    torch.manual_seed(0)
    np.testing.assert_allclose(d.sample((20_000,)).mean(dim=0).numpy(), d.mean.numpy(), atol=0.2)
    np.testing.assert_allclose(d.mean.numpy(), mixture.weights @ mixture.means, rtol=1e-12)


def parameters_of(d: Any) -> list[Any]:
    """The tensors that the docstring of `to_torch` names."""
    components = d.component_distribution
    own = (
        (components.loc, components.scale_tril)
        if hasattr(components, "scale_tril")
        else (components.base_dist.loc, components.base_dist.scale)
    )
    return [d.mixture_distribution.logits, *own]


@pytest.mark.parametrize("covariance_type", TYPES)
def test_densities_of_pytorch_are_differentiable(covariance_type: str) -> None:
    """With respect to x, against finite differences; with respect to all parameters, by which a step then improves."""
    torch = pytest.importorskip("torch")
    mixture = ours(covariance_type)
    d, x = mixture.to_torch(), torch.tensor(ROWS[:5], requires_grad=True)
    (slope,) = torch.autograd.grad(d.log_prob(x).sum(), x)
    ahead, behind = (mixture.score_samples(ROWS[:5] + step * np.eye(4)[2]) for step in (1e-5, -1e-5))
    np.testing.assert_allclose(slope.numpy()[:, 2], (ahead - behind) / 2e-5, rtol=1e-6)

    parameters = parameters_of(d)
    for tensor in parameters:
        tensor.requires_grad_()
    optimiser, losses = torch.optim.Adam(parameters, lr=0.01), []
    for _ in range(20):
        optimiser.zero_grad()
        loss = -d.log_prob(torch.tensor(ROWS)).mean()
        loss.backward()
        assert all(tensor.grad is not None and tensor.grad.abs().max() > 0 for tensor in parameters)
        optimiser.step()
        losses.append(loss.item())
    assert losses[0] == pytest.approx(-mixture.score(ROWS), rel=1e-10) and losses[-1] < losses[0]


def test_a_component_of_weight_zero_stays_out_of_the_densities_of_pytorch() -> None:
    torch = pytest.importorskip("torch")
    mixture = mpigmm.Mixture([1.0, 0.0], [[0.0], [5.0]], [[1.0], [1.0]], "diag")
    d = mixture.to_torch()
    np.testing.assert_allclose(d.log_prob(torch.zeros(1, 1)).item(), mixture.score_samples([[0.0]]), rtol=1e-12)
