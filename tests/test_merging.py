"""Merging and splitting components: against brute force step by step; `Mixture.merge` and the verb ``merge``."""

from __future__ import annotations

import re
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from inside import run_verb
from support import TYPES, blobs, dense_covariances, mixture_of, random_mixture, scaled_features, write_rows

import mpigmm
from mpigmm import errors
from mpigmm.__main__ import serve
from mpigmm.core.merging import merge_components, split_component
from mpigmm.core.mixture import Mixture
from mpigmm.parallel.comm import Comm
from mpigmm.parallel.stop import StopRequest
from mpigmm.runs.guarded import never
from mpigmm.runs.model import Model
from mpigmm.runs.model_file import load_model, save_model

SCALE = 10.0 ** np.array([-7, 3, 0, 5])


def public(mixture: Mixture, **known: Any) -> mpigmm.Mixture:
    return mpigmm.Mixture.from_model(Model(mixture, **known))


def moments(mixture: Mixture) -> tuple[Any, Any, Any]:
    """Weight, mean and covariance of the whole mixture, with 80 bits."""
    weights, means = mixture.weights.astype(np.longdouble), mixture.means.astype(np.longdouble)
    mean = weights @ means / weights.sum()
    away = means - mean
    parts = dense_covariances(mixture).astype(np.longdouble) + away[:, :, None] * away[:, None, :]
    return weights.sum(), mean, (weights[:, None, None] * parts).sum(axis=0) / weights.sum()


def assert_same_moments(one: Mixture, other: Mixture) -> None:
    """To 1e-13, relative to the standard deviations."""
    (weight, mean, covariance), (own_weight, own_mean, own_covariance) = moments(one), moments(other)
    deviations = np.sqrt(np.diagonal(covariance))
    assert abs(weight - own_weight) <= 1e-13
    assert (np.abs(mean - own_mean) <= 1e-13 * deviations).all()
    assert (np.abs(covariance - own_covariance) <= 1e-13 * deviations * deviations[:, None]).all()


Component = tuple[float, np.ndarray, np.ndarray]


def merged_pair(one: Component, other: Component) -> Component:
    """Weight, mean and covariance of two components together."""
    weight = one[0] + other[0]
    mean = (one[0] * one[1] + other[0] * other[1]) / weight
    parts = [w * (c + np.outer(m - mean, m - mean)) for w, m, c in (one, other)]
    return weight, mean, sum(parts) / weight


def bound(one: Component, other: Component) -> float:
    """Runnalls' bound of the pair."""
    both, (_, *log_dets) = merged_pair(one, other), (0, *(np.linalg.slogdet(c[2])[1] for c in (one, other)))
    shares = one[0] * log_dets[0] + other[0] * log_dets[1]
    return float(0.5 * (both[0] * np.linalg.slogdet(both[2])[1] - shares))


def brute_step(mixture: Mixture) -> tuple[list[Component], float]:
    """The components after one step, found by trying all pairs."""
    components = list(zip(mixture.weights, mixture.means, dense_covariances(mixture), strict=True))
    pairs = [(i, j) for j in range(len(components)) for i in range(j)]
    least, first, second = min((bound(components[i], components[j]), i, j) for i, j in pairs)
    components[first] = merged_pair(components[first], components[second])
    del components[second]
    return components, least


@pytest.mark.parametrize("covariance_type", TYPES)
@pytest.mark.parametrize("scaled", [False, True], ids=["plain", "scaled"])
def test_each_step_takes_the_pair_of_least_bound_and_keeps_the_moments(covariance_type: str, scaled: bool) -> None:
    mixture = random_mixture(covariance_type, 9, 4)
    if scaled:
        mixture = scaled_features(mixture, SCALE)
    whole = mixture
    for left in range(8, 0, -1):
        expected, least = brute_step(mixture)
        mixture, bounds = merge_components(mixture, left, never)
        assert bounds == pytest.approx([least], abs=1e-12)
        for found, parts in zip((mixture.weights, mixture.means), zip(*expected, strict=True), strict=False):
            np.testing.assert_allclose(found, parts, rtol=1e-12)
        assert_same_moments(whole, mixture)
        at_once, all_bounds = merge_components(whole, left, never)
        assert all_bounds[-1] == pytest.approx(least, abs=1e-12)
        np.testing.assert_allclose(at_once.covariances.values, mixture.covariances.values, rtol=1e-11, atol=0)
    assert mixture.covariances.name == "full" and mixture.n_components == 1


def test_of_equal_bounds_the_lowest_numbers_are_taken() -> None:
    means = np.array([[0.0, 0], [8, 0], [8, 0], [0, 8], [0, 0], [8, 0]])
    mixture = mixture_of("spherical", np.array([0.1, 0.2, 0.1, 0.3, 0.2, 0.1]), means, np.ones(6))
    after = [[0, 8, 8, 0, 8], [0, 8, 0, 8], [0, 8, 0]]
    for left, x in zip((5, 4, 3), after, strict=True):
        merged, bounds = merge_components(mixture, left, never)
        assert merged.means[:, 0].tolist() == x and not bounds.any()
        assert (merged.covariances.values == np.eye(2)).all()


def test_components_of_weight_zero_go_first() -> None:
    mixture = random_mixture("diag", 5, 3)
    weights = mixture.weights.copy()
    weights[[0, 3]], weights[1] = 0, weights[[0, 1, 3]].sum()
    mixture = Mixture(weights, mixture.means, mixture.covariances)
    for left, kept in ((4, [1, 2, 3, 4]), (3, [1, 2, 4])):
        merged, bounds = merge_components(mixture, left, never)
        assert merged.means.tobytes() == mixture.means[kept].tobytes() and not bounds.any()
        assert merged.weights.tobytes() == weights[kept].tobytes()
    alone = Mixture(weights[[1, 2, 4]], mixture.means[[1, 2, 4]], mixture.covariances.select(np.array([1, 2, 4])))
    merged, bounds = merge_components(mixture, 2, never)
    assert merged.means.tobytes() == merge_components(alone, 2, never)[0].means.tobytes()
    assert bounds[:2].tolist() == [0, 0] and bounds[2] > 0


def test_as_many_components_are_the_same_mixture() -> None:
    mixture = random_mixture("tied", 3, 2)
    merged, bounds = merge_components(mixture, 3, never)
    assert merged.covariances.name == "full" and not len(bounds)
    assert merged.means.tobytes() == mixture.means.tobytes()
    np.testing.assert_array_equal(merged.covariances.values, dense_covariances(mixture))


def test_units_of_powers_of_two_change_no_bit() -> None:
    mixture, scale = random_mixture("full", 8, 4), 2.0 ** np.array([-300, 90, -7, 40])
    plain, bounds = merge_components(mixture, 3, never)
    scaled, own_bounds = merge_components(scaled_features(mixture, scale), 3, never)
    expected = scaled_features(plain, scale)
    assert scaled.means.tobytes() == expected.means.tobytes() and own_bounds.tobytes() == bounds.tobytes()
    assert scaled.covariances.values.tobytes() == expected.covariances.values.tobytes()


def test_collapsed_components_far_apart_can_be_merged() -> None:
    """Their common covariance is singular but for rounding errors."""
    mixture = random_mixture("diag", 6, 3)
    variances = mixture.covariances.variances.copy()
    variances[:2] = 1e-24
    weights = np.array([1e-9, 1e-9, 0.2, 0.3, 0.25, 0.25 - 2e-9])
    mixture = mixture_of("diag", weights, mixture.means, variances)
    pair = mixture_of("diag", np.array([0.5, 0.5]), mixture.means[:2], variances[:2])
    for one, left in ((mixture, 4), (mixture, 2), (pair, 1)):
        merged, bounds = merge_components(one, left, never)
        assert_same_moments(one, merged)
        assert np.isfinite(bounds).all() and (bounds >= 0).all()
        public(merged).score_samples(merged.means)


@pytest.mark.parametrize("covariance_type", TYPES)
@pytest.mark.parametrize("distance", [1e-3, 0.5, 0.999])
def test_the_halves_of_a_component_have_its_moments(covariance_type: str, distance: float) -> None:
    mixture = random_mixture(covariance_type, 4, 4)
    for component in range(4):
        halves = split_component(mixture, component, distance)
        assert_same_moments(mixture, halves)
        weights, means = halves.weights[[component, -1]], halves.means[[component, -1]]
        pair = zip(weights, means, dense_covariances(halves)[[component, -1]], strict=True)
        weight, mean, covariance = merged_pair(*pair)
        assert weight == mixture.weights[component] and weights[0] == weights[1]
        np.testing.assert_allclose(mean, mixture.means[component], rtol=1e-13, atol=1e-13)
        np.testing.assert_allclose(covariance, dense_covariances(mixture)[component], rtol=1e-13, atol=1e-13)
        values, vectors = np.linalg.eigh(dense_covariances(mixture)[component])
        axis = (means[0] - means[1]) / 2
        assert np.linalg.norm(axis) == pytest.approx(distance * np.sqrt(values[-1]))
        assert covariance_type == "spherical" or abs(axis @ vectors[:, -1]) == pytest.approx(np.linalg.norm(axis))
        others = np.setdiff1d(np.arange(4), component)
        assert halves.means[others].tobytes() == mixture.means[others].tobytes()


def test_a_component_with_features_of_all_scales_can_be_split() -> None:
    mixture = scaled_features(random_mixture("full", 2, 4), 10.0 ** np.array([-90, 60, -12, 0]))
    halves = split_component(mixture, 1, 0.9)
    assert_same_moments(mixture, halves)
    _ = halves.covariances.factors


def test_merging_undoes_a_split() -> None:
    mixture = public(random_mixture("full", 3, 3))
    for component in range(3):
        again = mixture.split(component, 0.3).merge(3)
        np.testing.assert_allclose(again.means, mixture.means, rtol=1e-13)
        np.testing.assert_allclose(again.covariances, mixture.covariances, rtol=1e-12)


def test_what_is_known_of_the_fit_is_not_said_of_what_was_not_fitted() -> None:
    config = {"data": {"dataset": "/Y"}}
    known = public(random_mixture("diag", 3, 2), n_samples=7, mean_log_likelihood=-1.0, converged=True, config=config)
    for made in (known.merge(2), known.split(0)):
        model = made._model
        assert model.config == config and (model.n_samples, model.n_iter, model.converged) == (0, 0, False)
        assert np.isnan(model.mean_log_likelihood)
        with pytest.raises(ValueError, match="read-only"):
            made.means[0] = 1


MIXTURE = public(random_mixture("full", 3, 2))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: MIXTURE.merge(4), "n_components: 4 is not valid; a whole number from 1 to 3"),
        (lambda: MIXTURE.merge(0), "n_components: 0 is not valid"),
        (lambda: MIXTURE.merge(True), "n_components: True is not valid"),
        (lambda: MIXTURE.merge(2.0), "n_components: 2.0 is not valid"),
        (lambda: MIXTURE.split(3), "component: 3 is not valid; a whole number >= 0 and < 3"),
        (lambda: MIXTURE.split(-1), "component: -1 is not valid"),
        (lambda: MIXTURE.split(0, 1), "distance: 1 is not valid; a number above 0 and below 1"),
        (lambda: MIXTURE.split(0, 0), "distance: 0 is not valid"),
        (lambda: MIXTURE.split(0, np.nan), "distance: nan is not valid"),
        (lambda: MIXTURE.split(0, "far"), "distance: 'far' is not valid"),
    ],
)
def test_what_is_refused(call: Callable[[], object], message: str) -> None:
    with pytest.raises(errors.ConfigError, match=message):
        call()


# The verb


@pytest.fixture
def place(comm: Comm, shared_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory with rows and a model; the working directory."""
    monkeypatch.chdir(shared_path)
    if comm.is_root:
        write_rows(Path("x.h5"), blobs(100, 3, 2), Y=blobs(60, 3, 2))
        save_model(Path("m.h5"), Model(random_mixture("diag", 5, 3), n_samples=9, config={"data": {"dataset": "/Y"}}))
    comm.mpi.Barrier()
    return shared_path


@pytest.mark.parallel
def test_the_verb_writes_what_the_call_computes(comm: Comm, place: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert run_verb(comm, "merge", "m.h5", "--n-components", "2", "--out", "two.h5") == (0, "")
    said = (
        r"two.h5: 5 components merged into 2; bounds of the Kullback-Leibler divergence of the 3 steps, in nats: sum "
    )
    assert re.match(said + r"[\d.e-]+, largest [\d.e-]+\n$" if comm.is_root else "$", capfd.readouterr().out)
    expected = mpigmm.Mixture.load("m.h5").merge(2)
    found = load_model(Path("two.h5"))
    assert found.config == {"data": {"dataset": "/Y"}} and found.n_samples == 0
    for name, values in found.mixture.arrays().items():
        assert values.tobytes() == getattr(expected, name).tobytes()
    expected.save(f"call.{comm.rank}.h5")
    assert Path("two.h5").read_bytes() == Path(f"call.{comm.rank}.h5").read_bytes()
    assert run_verb(comm, "merge", "m.h5", "--n-components", "5", "--out", "two.h5") == (0, "")
    assert capfd.readouterr().out == ("two.h5: 5 components merged into 5\n" if comm.is_root else "")
    assert run_verb(comm, "predict", "two.h5", "x.h5", "--out", "labels.h5") == (0, "")
    with h5py.File("labels.h5") as file:
        assert file.attrs["dataset"] == "/Y" and file["labels"].shape == (60,)


def test_a_signal_ends_the_verb(comm: Comm, place: Path) -> None:
    stop = StopRequest()
    stop.received = signal.SIGTERM
    with pytest.raises(errors.AgreedError, match="interrupted by SIGTERM; run the same command again") as raised:
        serve(comm, ["merge", "m.h5", "--n-components", "2", "--out", "two.h5"], stop)
    assert raised.value.exit_code == 75 and not Path("two.h5").exists()


@pytest.mark.parallel
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["m.h5", "--n-components", "6"], "--n-components 6: m.h5 has 5 components; ask for no more"),
        (["x.h5", "--n-components", "2"], "x.h5 is not an mpigmm-model file"),
        (["none.h5", "--n-components", "2"], r"none.h5 cannot be read \(No such file or directory\); check the path"),
        (["m.h5", "--n-components", "2", "--out", "x.h5"], "x.h5 exists, and is not a model that mpigmm wrote"),
        (["m.h5", "--n-components", "2", "--out", "m.h5"], "--out m.h5 would overwrite the model that is merged"),
        (["m.h5", "--n-components", "2", "--out", "."], r"\. exists, and is not a model that mpigmm wrote"),
        (["m.h5", "--n-components", "2", "--out", "none/two.h5"], "two.h5 cannot be written .*choose another place"),
        (["m.h5", "--n-components", "0"], "--n-components"),
        (["m.h5", "--n-components", "two"], "--n-components"),
        (["m.h5"], "--n-components"),
        (["m.h5", "--n-components", "2", "--out"], "--out"),
    ],
    ids=lambda value: value if isinstance(value, str) else " ".join(value),
)
def test_what_the_verb_refuses(
    comm: Comm, place: Path, arguments: list[str], message: str, capfd: pytest.CaptureFixture[str]
) -> None:
    before = {path.name: path.read_bytes() for path in place.iterdir()}
    out = [] if "--out" in arguments else ["--out", "two.h5"]
    code, told = run_verb(comm, "merge", *arguments, *out)
    told = comm.bcast(told or capfd.readouterr().err)
    assert code == 2 and re.search(message, told) and "Traceback" not in told, told
    comm.mpi.Barrier()
    assert {path.name: path.read_bytes() for path in place.iterdir()} == before


def test_the_model_of_a_fit_is_replaced_only_if_asked(comm: Comm, place: Path) -> None:
    """What merge wrote before is replaced by the same command."""
    fitted = load_model(Path("m.h5"))
    save_model(Path("fitted.h5"), replace(fitted, n_samples=10))
    command = ["merge", "m.h5", "--n-components", "2", "--out"]
    code, told = run_verb(comm, *command, "fitted.h5")
    assert code == 2 and "fitted.h5 exists, and may be the model or checkpoint of a fit" in told
    assert "--overwrite" in told and load_model(Path("fitted.h5")).n_samples == 10
    for overwrite in (["--overwrite"], []):
        assert run_verb(comm, *command, "fitted.h5", *overwrite) == (0, "")
    assert load_model(Path("fitted.h5")).mixture.n_components == 2
