"""`mpigmm.Mixture`: against scikit-learn and SciPy, and to the bits of the commands."""

from __future__ import annotations

import pickle
import sys
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from mpi4py import MPI
from scipy.special import xlogy
from scipy.stats import multivariate_normal
from sklearn.mixture import GaussianMixture
from support import TYPES, blobs, launch, write_rows

import mpigmm
from mpigmm import errors
from mpigmm.parallel.comm import Comm

ROWS = blobs(700, 4, 3)
WEIGHTS = np.random.default_rng(2).integers(0, 4, 700)


def fitted(covariance_type: str, rows: np.ndarray = ROWS) -> tuple[mpigmm.Mixture, GaussianMixture]:
    """The same mixture, ours and theirs."""
    theirs = GaussianMixture(3, covariance_type=covariance_type, random_state=0, max_iter=5, tol=1e-9)
    with pytest.warns(match="did not converge"):
        theirs.fit(rows)
    return mpigmm.Mixture(theirs.weights_, theirs.means_, theirs.covariances_, covariance_type), theirs


@pytest.mark.parametrize("covariance_type", TYPES)
def test_against_scikit_learn(covariance_type: str) -> None:
    mixture, theirs = fitted(covariance_type)
    assert mixture.covariance_type == covariance_type and (mixture.n_components, mixture.n_features) == (3, 4)
    np.testing.assert_allclose(mixture.covariances, theirs.covariances_)
    np.testing.assert_allclose(mixture.precisions, theirs.precisions_, rtol=1e-9, atol=1e-12)
    rows = np.concatenate([ROWS, 3 * ROWS[:50]])
    np.testing.assert_array_equal(mixture.predict(rows), theirs.predict(rows))
    np.testing.assert_allclose(mixture.predict_proba(rows), theirs.predict_proba(rows), rtol=1e-8, atol=1e-14)
    np.testing.assert_allclose(mixture.score_samples(rows), theirs.score_samples(rows), rtol=1e-11)
    assert mixture.score(rows) == pytest.approx(theirs.score(rows), rel=1e-12)
    assert mixture.aic(rows) == pytest.approx(theirs.aic(rows), rel=1e-12)
    assert mixture.bic(rows) == pytest.approx(theirs.bic(rows), rel=1e-12)
    entropy = -xlogy(proba := theirs.predict_proba(rows), proba).sum()
    assert mixture.icl(rows) == pytest.approx(theirs.bic(rows) + 2 * entropy, rel=1e-10)


def test_weights_count_rows() -> None:
    mixture, _ = fitted("full")
    repeated = np.repeat(ROWS, WEIGHTS, axis=0)
    for name in ("score", "aic", "bic", "icl"):
        weighted = getattr(mixture, name)(ROWS, sample_weight=WEIGHTS)
        assert weighted == pytest.approx(getattr(mixture, name)(repeated), rel=1e-12)
    unused = np.where(WEIGHTS[:, None] == 0, np.nan, ROWS)
    assert mixture.score(unused, sample_weight=WEIGHTS) == mixture.score(ROWS, sample_weight=WEIGHTS)


@pytest.mark.parallel
@pytest.mark.parametrize("covariance_type", TYPES)
def test_scores_are_those_of_all_ranks(comm: Comm, covariance_type: str) -> None:
    mixture = mpigmm.Mixture(*parameters(covariance_type), covariance_type)
    edges = [0, *[30 * rank for rank in range(comm.size - 1)], 700]  # the first has none, if there are two
    own = slice(edges[comm.rank], edges[comm.rank + 1])
    for name in ("score", "aic", "bic", "icl"):
        of_all = getattr(mixture, name)(ROWS[own], sample_weight=WEIGHTS[own], comm=MPI.COMM_WORLD)
        assert of_all == getattr(mixture, name)(ROWS, sample_weight=WEIGHTS)
    bad = np.where(np.arange(700)[:, None] == 699, np.nan, ROWS)[own]
    with pytest.raises(errors.DataError, match=r"row .* holds NaN in column 0; mend the row"):
        mixture.score(bad, comm=MPI.COMM_WORLD)
    with pytest.raises(errors.DataError, match="X has 3 features, but the mixture has 4"):
        mixture.bic(ROWS[own, :3], comm=MPI.COMM_WORLD)
    with pytest.raises(errors.DataError, match="X has no rows"):
        mixture.aic(ROWS[:0], comm=MPI.COMM_WORLD)
    with pytest.raises(errors.DataError, match="sample_weight: they sum to 0"):
        mixture.bic(ROWS[own], sample_weight=0 * WEIGHTS[own], comm=MPI.COMM_WORLD)
    other = mpigmm.Mixture(mixture.weights[::-1], mixture.means, mixture.covariances, covariance_type)
    if comm.size > 1:
        with pytest.raises(errors.ConfigError, match="the ranks have different mixtures"):
            (other if comm.rank else mixture).icl(ROWS[own], comm=MPI.COMM_WORLD)
    drawn = comm.allgather(mixture.sample(100, seed=3)[0].tobytes())
    assert len(set(drawn)) == 1


def parameters(covariance_type: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    factors = np.random.default_rng(0).standard_normal((3, 4, 4))
    full = factors @ factors.transpose(0, 2, 1) + np.eye(4)
    variances = np.diagonal(full, axis1=1, axis2=2)
    covariances = {"full": full, "tied": full[0], "diag": variances, "spherical": variances.mean(axis=1)}
    return np.array([0.5, 0.3, 0.2]), 3 * factors[:, 0], covariances[covariance_type]


def test_bits_of_the_commands(tmp_path: Path) -> None:
    mixture, path = fitted("full")[0], tmp_path / "m.h5"
    mixture.save(path)
    write_rows(tmp_path / "rows.h5", ROWS)
    command = [sys.executable, "-m", "mpigmm", "predict", "m.h5", "rows.h5", "--out", "out.h5", "--proba", "3"]
    done = launch(0, ["env", f"--chdir={tmp_path}", *command], 60)
    assert done.returncode == 0, done.stderr
    again = mpigmm.Mixture.load(path)
    with h5py.File(tmp_path / "out.h5") as out:
        assert (out["labels"][()] == again.predict(ROWS)).all()
        assert out["log_density"][()].tobytes() == again.score_samples(ROWS).tobytes()
        assert out["proba"][()].tobytes() == (-np.sort(-again.predict_proba(ROWS), axis=1)).tobytes()
    assert again.predict_proba(tuple(ROWS.T)).tobytes() == mixture.predict_proba(np.asfortranarray(ROWS)).tobytes()
    assert pickle.loads(pickle.dumps(again)).score(ROWS) == mixture.score(ROWS)


def test_samples_begin_alike_and_are_of_the_mixture() -> None:
    mixture, _ = fitted("full")
    rows, labels = mixture.sample(20_000, seed=5)
    few, few_labels = mixture.sample(1500, seed=5)
    assert few.tobytes() == rows[:1500].tobytes() and (few_labels == labels[:1500]).all()
    assert mixture.sample(10, seed=6)[0].tobytes() != rows[:10].tobytes()
    means = np.array([rows[labels == k].mean(axis=0) for k in range(3)])
    np.testing.assert_allclose(means, mixture.means, atol=0.12)
    normal = [multivariate_normal(mean, c) for mean, c in zip(mixture.means, mixture.covariances, strict=True)]
    density = sum(w * each.pdf(few) for w, each in zip(mixture.weights, normal, strict=True))
    np.testing.assert_allclose(mixture.score_samples(few), np.log(density), rtol=1e-9)
    assert mixture.sample(0)[0].shape == (0, 4)


@pytest.mark.parametrize(
    ("call", "kind", "message"),
    [
        (lambda m: m.predict(ROWS[:, 0]), errors.DataError, "X has shape"),
        (lambda m: m.predict(ROWS[:, :2]), errors.DataError, "X has 2 features, but the mixture has 4"),
        (
            lambda m: m.score_samples(ROWS / np.where(ROWS[3] == ROWS, 0, 1)),
            errors.DataError,
            "row 3 of X holds an inf",
        ),
        (lambda m: m.sample(-1), errors.ConfigError, "n_samples: -1 is not valid"),
        (lambda m: m.sample(10**20), errors.ConfigError, "n_samples: 100000000000000000000 is not valid"),
        (lambda m: m.sample(10**13), errors.UserError, "is out of memory; use a machine with more memory"),
        (lambda m: mpigmm.Mixture([1], [[0], [1, 2]], [1]), errors.DataError, "not the parameters of a mixture"),
        (lambda m: m.sample(2.5), errors.ConfigError, "n_samples: 2.5 is not valid"),
        (lambda m: m.sample(1, seed=-1), errors.ConfigError, "seed: -1 is not valid"),
        (lambda m: m.score(ROWS, comm="world"), errors.ConfigError, "comm: 'world' is neither"),
        (lambda m: mpigmm.Mixture([0.5, 0.6], [[0], [1]], [1, 1], "spherical"), errors.DataError, "weights are not"),
        (lambda m: mpigmm.Mixture([1], [[0, 0]], [[[1, 2], [2, 1]]]), errors.DataError, "not positive definite"),
        (lambda m: mpigmm.Mixture([1], [[0, 0]], [1], "round"), errors.DataError, "'round' is none of full, tied"),
        (lambda m: mpigmm.Mixture.load("nowhere.h5"), errors.DataError, "nowhere.h5"),
        (lambda m: m.save("/nowhere/m.h5"), errors.OutputError, "/nowhere/m.h5 cannot be written"),
    ],
)
def test_what_is_refused(call: Any, kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=message), np.errstate(divide="ignore"):
        call(fitted("full")[0])


def test_a_file_that_is_no_model_is_not_replaced(tmp_path: Path) -> None:
    mixture, _ = fitted("diag")
    rows = write_rows(tmp_path / "rows.h5", ROWS)
    before = rows.read_bytes()
    for path in (rows, tmp_path):
        with pytest.raises(errors.OutputError, match="exists, and is not a model that mpigmm wrote"):
            mixture.save(path)
    assert rows.read_bytes() == before
    (tmp_path / "empty").touch()
    for path in (tmp_path / "m.h5", tmp_path / "m.h5", tmp_path / "empty"):
        mixture.save(path)
    assert mpigmm.Mixture.load(tmp_path / "empty").means.tobytes() == mixture.means.tobytes()


def test_it_cannot_be_changed() -> None:
    weights, means, covariances = parameters("diag")
    mixture = mpigmm.Mixture(weights, means, covariances, "diag")
    means[:] = 0
    assert mixture.means.any() and repr(mixture) == "<Mixture: 3 components, 4 features, diag>"
    copy = pickle.loads(pickle.dumps(mixture))
    for array in (mixture.weights, mixture.means, mixture.covariances, copy.means):
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 1
    mixture.precisions[:] = 0
    assert mixture.precisions.all()


def test_no_rows() -> None:
    mixture, _ = fitted("tied")
    assert mixture.predict(ROWS[:0]).shape == (0,) and mixture.predict_proba(ROWS[:0]).shape == (0, 3)
