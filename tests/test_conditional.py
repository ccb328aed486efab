"""Mixture regression: the distribution of some features given the others, against brute force; marginal mixtures."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from inside import FinishedParts, run_verb
from scipy.stats import multivariate_normal
from support import TYPES, dense_covariances, random_mixture, scaled_features, write_rows

import mpigmm
from mpigmm import errors
from mpigmm.cli import parse
from mpigmm.commands import condition
from mpigmm.core.conditional import BLOCK_NUMBERS, Conditional
from mpigmm.core.covariances.base import SingularCovarianceError
from mpigmm.core.covariances.full import Full
from mpigmm.core.mixture import Mixture
from mpigmm.parallel.comm import Comm, SingleProcess
from mpigmm.parallel.stop import StopRequest
from mpigmm.runs.model import Model
from mpigmm.runs.model_file import save_model


def public(mixture: Mixture, **known: Any) -> mpigmm.Mixture:
    return mpigmm.Mixture.from_model(Model(mixture, **known))


def brute(mixture: Mixture, given: Sequence[int], rows: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mean, covariance and log-density by the formulas of the textbook, one component after another."""
    covariances, known = dense_covariances(mixture), list(given)
    rest = [d for d in range(mixture.n_features) if d not in known]
    densities, means, within = [], [], []
    for weight, mean, covariance in zip(mixture.weights, mixture.means, covariances, strict=True):
        gain = covariance[np.ix_(rest, known)] @ np.linalg.inv(covariance[np.ix_(known, known)])
        densities.append(weight * multivariate_normal(mean[known], covariance[np.ix_(known, known)]).pdf(rows))
        means.append(mean[rest] + (rows - mean[known]) @ gain.T)
        within.append(covariance[np.ix_(rest, rest)] - gain @ covariance[np.ix_(known, rest)])
    density = np.reshape(densities, (len(means), -1))
    resp = density / density.sum(axis=0)
    mean = np.einsum("kn,knr->nr", resp, means)
    away = np.array(means) - mean
    covariance = np.einsum("kn,krs->nrs", resp, within) + np.einsum("kn,knr,kns->nrs", resp, away, away)
    return mean, covariance, np.log(density.sum(axis=0))


def check_close(found: mpigmm.ConditionResult, expected: Sequence[np.ndarray], tolerance: float = 1e-10) -> None:
    for name, values, other in zip(found._fields, found, expected, strict=True):
        np.testing.assert_allclose(values, other, rtol=tolerance, atol=tolerance, err_msg=name)


@pytest.mark.parametrize("covariance_type", TYPES)
@pytest.mark.parametrize("given", [[0], [2, 0], [4, 1, 3, 0]], ids=str)
def test_against_brute_force(covariance_type: str, given: list[int]) -> None:
    mixture = random_mixture(covariance_type, 6, 5)
    rows = public(mixture).sample(500, seed=1)[0][:, given]
    check_close(public(mixture).condition(rows, given), brute(mixture, given, rows))


def test_rows_are_cut_into_blocks_that_do_not_matter() -> None:
    mixture = random_mixture("full", 30, 40)
    rows = public(mixture).sample(300, seed=1)[0][:, :2]
    conditional = Conditional.of(mixture, np.arange(2))
    assert BLOCK_NUMBERS // conditional.covariances.size < 10  # rows in a block
    check_close(public(mixture).condition(rows, [0, 1]), brute(mixture, [0, 1], rows))


def test_units_and_places_of_the_features_cost_no_digits() -> None:
    """Powers of two and shifts that both mixtures represent exactly."""
    mixture, given = random_mixture("full", 5, 4), [2, 1]
    mixture = Mixture(mixture.weights, np.round(mixture.means * 1024) / 1024, mixture.covariances)
    rows = np.round(public(mixture).sample(300, seed=1)[0] * 1024) / 1024
    plain = public(mixture).condition(rows, given)
    scale = 2.0 ** np.array([-40, 33, -20, 3])
    scaled = public(scaled_features(mixture, scale)).condition(rows * scale, given)
    mean, covariance, log_density = plain
    rest = scale[[0, 3]]
    check_close(
        scaled, (mean * rest, covariance * rest * rest[:, None], log_density - np.log(scale[given]).sum()), 1e-13
    )
    far = public(Mixture(mixture.weights, mixture.means + 2.0**30, mixture.covariances)).condition(
        rows + 2.0**30, given
    )
    check_close(far, (mean + 2.0**30, covariance, log_density), 1e-13)


def test_samples_are_distributed_as_it_says() -> None:
    mixture = random_mixture("full", 4, 4)
    rows, _ = public(mixture).sample(40_000, seed=2)
    mean, covariance, _ = public(mixture).condition(rows, [3, 0])
    residuals = rows[:, 1:3] - mean
    whitened = np.linalg.solve(np.linalg.cholesky(covariance), residuals[:, :, None])[:, :, 0]
    np.testing.assert_allclose(whitened.mean(axis=0), 0, atol=4 / np.sqrt(len(rows)))
    np.testing.assert_allclose(np.cov(whitened.T), np.eye(2), atol=0.04)
    total = covariance.mean(axis=0) + np.cov(mean.T)
    np.testing.assert_allclose(total, np.cov(rows[:, 1:3].T), rtol=0.03, atol=0.03)


def test_one_component_is_linear_regression_and_densities_multiply() -> None:
    mixture = random_mixture("full", 1, 3)
    rows, _ = public(mixture).sample(200, seed=3)
    mean, covariance, log_density = public(mixture).condition(rows, 1)
    own = [multivariate_normal(m, c).logpdf(row) for m, c, row in zip(mean, covariance, rows[:, [0, 2]], strict=True)]
    np.testing.assert_allclose(log_density + own, public(mixture).score_samples(rows), rtol=1e-11)
    assert (covariance == covariance[0]).all()


def test_rows_may_hold_all_features_of_which_the_given_must_be_finite() -> None:
    mixture = public(random_mixture("tied", 3, 4))
    rows, _ = mixture.sample(100, seed=4)
    found = mixture.condition(rows[:, [3, 1]], [3, 1])
    holes = rows.copy()
    holes[:, [0, 2]] = np.nan
    for each in (rows, holes, np.asfortranarray(holes), tuple(holes.T), tuple(holes[:, [3, 1]].T)):
        for values, expected in zip(mixture.condition(each, [3, 1]), found, strict=True):
            assert values.tobytes() == expected.tobytes()
    np.testing.assert_allclose(found.covariance, found.covariance.transpose(0, 2, 1), rtol=1e-14)
    assert (np.linalg.eigvalsh(found.covariance) > 0).all()
    empty = mixture.condition(np.empty((0, 2)), [3, 1])
    assert (empty.mean.shape, empty.covariance.shape, empty.log_density.shape) == ((0, 2), (0, 2, 2), (0,))


def test_a_row_without_density_has_no_mean() -> None:
    mixture = public(scaled_features(random_mixture("diag", 3, 3), np.array([1, 1e-20, 1])))
    mean, covariance, log_density = mixture.condition([[0.0], [1e140], [0.0]], [1])
    assert np.isnan(mean[1]).all() and np.isnan(covariance[1]).all() and log_density[1] == -np.inf
    assert np.isfinite(mean[[0, 2]]).all() and np.isfinite(covariance[[0, 2]]).all()


def test_a_component_of_weight_zero_and_one_far_away_have_no_part() -> None:
    mixture = random_mixture("full", 2, 3)
    third = np.concatenate([mixture.means, [[1e100, -1e100, 0]]]), Full(dense_covariances(mixture)[[0, 1, 0]])
    for weights in ([0.4, 0.6, 0.0], [0.4 * (1 - 1e-9), 0.6 * (1 - 1e-9), 1e-9]):
        rows = public(mixture).sample(50, seed=5)[0][:, :1]
        found = public(Mixture(np.array(weights), *third)).condition(rows, 0)
        expected = brute(Mixture(np.array([0.4, 0.6]), mixture.means, mixture.covariances), [0], rows)
        np.testing.assert_allclose(found.mean, expected[0], rtol=1e-11)
        np.testing.assert_allclose(found.covariance, expected[1], rtol=1e-11)


def test_a_covariance_that_is_nearly_singular_is_named() -> None:
    singular = Mixture(np.array([0.5, 0.5]), np.zeros((2, 3)), Full(np.array([np.eye(3), np.ones((3, 3))])))
    with pytest.raises(SingularCovarianceError, match="component 1 is not positive definite"):
        Conditional.of(singular, np.array([1]))
    with pytest.raises(errors.DegenerateError, match=r"covariance of component 1 is not .* leave out a feature"):
        public(singular).condition([[0.0]], 0)
    with pytest.raises(errors.DegenerateError, match="component 1"):
        public(singular).marginal([2, 0])


# Marginal mixtures


@pytest.mark.parametrize("covariance_type", TYPES)
def test_a_marginal_of_a_marginal_is_one_of_the_whole(covariance_type: str) -> None:
    whole = public(random_mixture(covariance_type, 4, 5))
    part = whole.marginal([4, 1, 2]).marginal([2, 0])
    direct = whole.marginal([2, 4])
    assert part.covariance_type == direct.covariance_type == covariance_type and part.n_features == 2
    assert part.covariances.tobytes() == direct.covariances.tobytes() and part.means.tobytes() == direct.means.tobytes()
    rows, _ = whole.sample(50, seed=6)
    expected = whole.condition(rows, [2, 4]).log_density
    np.testing.assert_allclose(part.score_samples(rows[:, [2, 4]]), expected, rtol=1e-13)


@pytest.mark.parametrize("columns", [None, [0, 3, 2], ["a", "d", "c"]], ids=["all", "some", "named"])
def test_the_marginal_of_a_fit_knows_its_columns(columns: list[Any] | None) -> None:
    config = {"data": {"path": "x.h5", "columns": columns}, "model": {}}
    known = public(random_mixture("full", 2, 3), n_samples=9, converged=True, config=config)
    model = known.marginal([2, 0])._model
    chosen = [2, 0] if columns is None else [columns[2], columns[0]]
    assert model.config == {"data": {"path": "x.h5", "columns": chosen}, "model": {}}
    assert (model.n_samples, model.converged) == (0, False)
    assert known._model.config is config and config["data"]["columns"] is columns


def test_the_saved_marginal_reads_its_columns_of_the_data(tmp_path: Path) -> None:
    rows, _ = public(random_mixture("full", 2, 4)).sample(300, seed=7)
    settings = {"data": {"path": str(write_rows(tmp_path / "x.h5", rows)), "columns": [3, 0, 1]}}
    result = mpigmm.fit(settings | {"model": {"n_components": 2}, "em": {"max_iter": 3, "tol": 1}})
    result.mixture.marginal([2, 0]).save(tmp_path / "m.h5")
    again = mpigmm.Mixture.load(tmp_path / "m.h5")
    assert again._model.config["data"]["columns"] == [1, 3]
    with h5py.File(tmp_path / "m.h5") as file:
        assert file.attrs["n_features"] == 2


class Frame:
    """What a data frame has that matters here."""

    def __init__(self, values: np.ndarray, columns: list[str]) -> None:
        self.values, self.columns = values, columns

    def __array__(self, dtype: Any = None, copy: Any = None) -> np.ndarray:
        return self.values


def test_features_have_names() -> None:
    named = public(random_mixture("full", 3, 4), feature_names=("a", "b", "c", "2"))
    plain, (rows, _) = public(random_mixture("full", 3, 4)), named.sample(50, seed=9)
    expected = plain.condition(rows, [2, 0])
    mixed = Frame(rows[:, [3, 0, 1, 2]], ["2", "a", "b", "c"])
    for found in (named.condition(mixed, ["c", "a"]), named.condition(rows, ("c", 0)), named.condition(mixed, [2, 0])):
        assert all(values.tobytes() == other.tobytes() for values, other in zip(found, expected, strict=True))
    assert named.condition(Frame(rows[:, :2], ["x", "y"]), ["a", 1]).mean.shape == (50, 2)
    assert named.condition(rows, "2").mean.tobytes() == plain.condition(rows, 3).mean.tobytes()
    assert named.marginal(["c", "a"]).feature_names == ("c", "a") and plain.marginal([1]).feature_names is None
    assert named.merge(2).feature_names == named.split(0).feature_names == named.feature_names
    with pytest.raises(
        errors.ConfigError, match=r"'d' is not the number or name of a feature; .* 0 to 3 \(a, b, c, 2\)"
    ):
        named.marginal(["d"])
    holes = rows.copy()
    holes[1, 2] = np.nan
    with pytest.raises(errors.DataError, match=r"row 1 of X holds NaN in column 3 \(c\)"):
        named.condition(Frame(holes[:, [3, 0, 1, 2]], ["2", "a", "b", "c"]), "c")


MIXTURE = public(random_mixture("full", 3, 4))
ROWS = np.zeros((5, 4))


@pytest.mark.parametrize(
    ("call", "kind", "message"),
    [
        (lambda: MIXTURE.condition(ROWS, []), errors.ConfigError, r"given: \[\] is not valid; name at least 1 and at"),
        (lambda: MIXTURE.condition(ROWS, range(4)), errors.ConfigError, "at most 3 of the mixture's 4 features, each"),
        (lambda: MIXTURE.condition(ROWS, [1, 1]), errors.ConfigError, r"given: \[1, 1\] is not valid"),
        (lambda: MIXTURE.condition(ROWS, [4]), errors.ConfigError, "given: 4 is not the number of a feature; the mix"),
        (lambda: MIXTURE.condition(ROWS, -1), errors.ConfigError, "-1 is not the number .* has features 0 to 3"),
        (lambda: MIXTURE.condition(ROWS, 0.5), errors.ConfigError, "given: 0.5 is not the number"),
        (lambda: MIXTURE.condition(ROWS, "x"), errors.ConfigError, "given: 'x' is not the number"),
        (lambda: MIXTURE.condition(ROWS[:, :3], [0, 1]), errors.DataError, "X has 3 features; give the 2 given ones"),
        (lambda: MIXTURE.condition(ROWS[0], [0, 1]), errors.DataError, "X has shape"),
        (lambda: MIXTURE.condition(bad(3, 1), [0, 1]), errors.DataError, "row 3 of X holds NaN in column 1; mend"),
        (lambda: MIXTURE.condition(bad(3, 1)[:, [2, 1]], [2, 1]), errors.DataError, "row 3 of X holds NaN in column 1"),
        (lambda: MIXTURE.condition(bad(2, 3), [3]), errors.DataError, "row 2 of X holds NaN in column 3"),
        (lambda: MIXTURE.marginal([0, 7]), errors.ConfigError, "features: 7 is not the number"),
        (lambda: MIXTURE.marginal([0, 0]), errors.ConfigError, r"features: \[0, 0\] is not valid"),
        (lambda: MIXTURE.marginal([]), errors.ConfigError, "at least 1 and at most 4"),
        (lambda: MIXTURE.marginal(2).condition([[1]], 0), errors.ConfigError, "given: the mixture has 1 feature, so"),
    ],
)
def test_what_is_refused(call: Callable[[], object], kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=message):
        call()


def bad(row: int, column: int) -> np.ndarray:
    rows = ROWS.copy()
    rows[row, column] = np.nan
    return rows


# The verb


@pytest.fixture
def place(comm: Comm, shared_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory with a model, and rows of all its features and of two; the working directory."""
    monkeypatch.chdir(shared_path)
    if comm.is_root:
        rows, _ = MIXTURE.sample(1000, seed=8)
        write_rows(Path("all.h5"), rows)
        write_rows(Path("given.h5"), rows[:, [2, 0]], wide=np.tile(rows, 2)[:, 1:7])
        holes = rows.copy()
        holes[[3, 700], 2], holes[5, 1] = [np.nan, -np.inf], np.nan
        write_rows(Path("holes.h5"), holes)
        MIXTURE.save("m.h5")
        save_model(Path("columns.h5"), replace(MIXTURE._model, config={"data": {"columns": [3, 0, 5, 2]}}))
        save_model(Path("dropped.h5"), replace(MIXTURE._model, config={"data": {"missing": "drop"}}))
    comm.mpi.Barrier()
    return shared_path


def read(path: str) -> dict[str, np.ndarray]:
    with h5py.File(path) as file:
        return {name: file[name][()] for name in file}


CUT = "compute.tile_rows=96"


@pytest.mark.parallel
def test_the_verb_writes_what_the_call_computes(comm: Comm, place: Path) -> None:
    expected = MIXTURE.condition(read("all.h5")["X"], [2, 0])
    for data, model, options in (
        (["all.h5"], "m.h5", []),
        (["given.h5"], "m.h5", [CUT]),
        (["given.h5", "data.dataset=/wide"], "columns.h5", []),
        (["given.h5", "data.columns=[3,4,1,2]"], "m.h5", ["--dataset", "/wide"]),
        (["given.h5", "data.columns=[1,3]"], "m.h5", ["--dataset", "/wide"]),
    ):
        arguments = ["condition", model, *data, *options, "compute.device=cpu", "--given", "2,0", "--out", "out.h5"]
        assert run_verb(comm, *arguments) == (0, "")
        found = read("out.h5")
        for name, values in zip(expected._fields, expected, strict=True):
            np.testing.assert_allclose(found[name], values, rtol=1e-12, atol=1e-13)
            assert options == [CUT] or found[name].tobytes() == values.tobytes()
        with h5py.File("out.h5") as file:
            assert (file.attrs["format"], file.attrs["model"]) == ("mpigmm-condition", model)
            assert (file.attrs["given"].tolist(), file.attrs["remaining"].tolist()) == ([2, 0], [1, 3])
            assert file["files"][()].tolist() == [data[0].encode()] and file["offsets"][()].tolist() == [0]
        comm.mpi.Barrier()


@pytest.mark.parallel
def test_columns_are_found_by_name(comm: Comm, place: Path) -> None:
    rows = read("all.h5")["X"]
    names = ("vx", "vy", "vz", "energy")
    if comm.is_root:
        save_model(Path("named.h5"), replace(MIXTURE._model, feature_names=names))
        vectors = {"dataset": [f"/p/{name}" for name in names]}
        save_model(Path("vectors.h5"), replace(MIXTURE._model, config={"data": vectors}))
        with h5py.File("table.h5", "w") as file:
            file["X"] = rows[:, [3, 0, 2]]
            file["X"].attrs["columns"] = ["energy", "vx", "vz"]
            for name in ("vx", "vz"):
                file[f"p/{name}"] = rows[:, names.index(name)]
    comm.mpi.Barrier()
    expected = MIXTURE.condition(rows, [2, 0]).mean
    for model, data, given in (
        ("named.h5", ["table.h5"], "vz,vx"),
        ("named.h5", ["all.h5"], "vz, 0"),
        ("named.h5", ["table.h5", "data.columns=[vz,vx]"], "2,0"),
        ("vectors.h5", ["table.h5"], "2,0"),
        ("m.h5", ["table.h5", "--dataset", "/p/vz,/p/vx"], "2,0"),
    ):
        assert run_verb(comm, "condition", model, *data, "--given", given, "--out", "out.h5") == (0, "")
        np.testing.assert_allclose(read("out.h5")["mean"], expected, rtol=1e-12, atol=1e-13)
        with h5py.File("out.h5") as file:
            assert json.loads(file.attrs.get("feature_names", "null")) == ([*names] if model == "named.h5" else None)
            assert [*file["mean"].attrs.get("columns", ())] == (["vy", "energy"] if model == "named.h5" else [])
        comm.mpi.Barrier()
    code, message = run_verb(comm, "condition", "named.h5", "table.h5", "--given", "vy", "--out", "out.h5")
    assert code == 2 and "/X in table.h5 has no column 'vy', to which named.h5 was fitted; it has" in message


@pytest.mark.parallel
def test_the_file_does_not_depend_on_the_ranks(comm: Comm, place: Path) -> None:
    arguments = ["condition", "m.h5", "all.h5", CUT, "compute.device=cpu", "--given", "1", "--out"]
    assert run_verb(comm, *arguments, "out.h5") == (0, "")
    if comm.is_root:
        request, _ = parse([*arguments, "alone.h5"])
        condition.run(SingleProcess(), request, StopRequest())
        assert Path("alone.h5").read_bytes() == Path("out.h5").read_bytes()


@pytest.mark.parallel
def test_rows_with_holes_in_given_features_are_left_out_if_asked(comm: Comm, place: Path) -> None:
    arguments = ["holes.h5", CUT, "--given", "2,0", "--out", "out.h5"]
    code, message = run_verb(comm, "condition", "m.h5", *arguments)
    assert code == 2 and re.search("row 3 of /X in holes.h5 holds NaN in column 2; .*data.missing=drop", message)
    rows = read("all.h5")["X"]
    for model, more in (("m.h5", ["data.missing=drop"]), ("dropped.h5", [])):
        assert run_verb(comm, "condition", model, *arguments, *more) == (0, "")
        found, kept = read("out.h5"), np.delete(np.arange(1000), [3, 700])
        for name, values in zip(("mean", "covariance", "log_density"), MIXTURE.condition(rows, [2, 0]), strict=True):
            assert np.isnan(found[name][[3, 700]]).all()
            np.testing.assert_allclose(found[name][kept], values[kept], rtol=1e-12, atol=1e-13)
        comm.mpi.Barrier()


@pytest.mark.parallel
def test_an_interrupted_command_goes_on(comm: Comm, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = ["condition", "m.h5", "all.h5", CUT, "--given", "0", "--out"]
    assert run_verb(comm, *arguments, "whole.h5") == (0, "")
    tiles = FinishedParts(monkeypatch)
    tiles.begin(2)
    assert run_verb(comm, *arguments, "out.h5")[0] == 75 and not Path("out.h5").exists()
    tiles.begin()
    assert run_verb(comm, *arguments, "out.h5") == (0, "")
    n_tiles = comm.sum(np.array([tiles.count], np.int64))[0]
    assert n_tiles <= 11 - comm.size
    assert Path("out.h5").read_bytes() == Path("whole.h5").read_bytes()


@pytest.mark.parallel
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["m.h5", "all.h5", "--given", "4"], "--given: '4' is not the number of a feature; the mixture has features 0"),
        (["m.h5", "all.h5", "--given", "0,"], "--given: '' is not the number of a feature"),
        (["m.h5", "all.h5", "--given", "x,1"], "--given: 'x' is not the number of a feature"),
        (["m.h5", "all.h5", "--given", "-1"], "--given: '-1' is not the number of a feature"),
        (["m.h5", "all.h5", "--given", "1,1"], "--given: .* is not valid; .* at most 3 of the mixture's 4 features"),
        (["m.h5", "all.h5", "--given", "0,1,2,3"], "--given: .* is not valid; name at least 1 and at most 3"),
        (["m.h5", "all.h5"], "--given"),
        (["m.h5", "given.h5", "--given", "0"], "/X in given.h5 has 2 columns, but m.h5 has 4 features, of which 1 are"),
        (["m.h5", "all.h5", "data.columns=[0,1,2]", "--given", "0"], "has 3 columns, but m.h5 has 4 features"),
        (["m.h5", "all.h5", "data.columns=[0,7]", "--given", "0,1"], r"data.columns: \[7\]; /X has columns 0 to 3"),
        (["m.h5", "all.h5", "em.tol=1", "--given", "0"], "em"),
        (["m.h5", "none.h5", "--given", "0"], "none.h5 does not exist; check the path"),
        (["m.h5", "--given", "0"], "DATA"),
        (["m.h5", "data.missing=drop", "--given", "0"], "no file of rows is named"),
        (["all.h5", "all.h5", "--given", "0"], "all.h5 is not an mpigmm-model file"),
        (["m.h5", "all.h5", "--dataset", "/Y", "--given", "0"], "has no dataset /Y; it has /X"),
        (["m.h5", "all.h5", "--given", "0", "--out", "given.h5"], "given.h5 exists, and is not what condition wrote"),
        (["m.h5", "all.h5", "--given", "0", "--out", "all.h5"], "would overwrite the input all.h5"),
        (["m.h5", "all.h5", "--given", "0", "--out", "m.h5", "--overwrite"], "would overwrite the input m.h5"),
        (["m.h5", "all.h5", "--given", "0", "--out", "none/out.h5"], "none is no directory; make it"),
        (["m.h5", "holes.h5", "--given", "1"], "row 5 of /X in holes.h5 holds NaN in column 1; mend the row"),
    ],
    ids=lambda value: value if isinstance(value, str) else " ".join(value),
)
def test_what_the_verb_refuses(
    comm: Comm, place: Path, arguments: list[str], message: str, capfd: pytest.CaptureFixture[str]
) -> None:
    before = {path.name: path.read_bytes() for path in place.iterdir()}
    comm.mpi.Barrier()
    out = [] if "--out" in arguments else ["--out", "out.h5"]
    code, told = run_verb(comm, "condition", *arguments, *out)
    told = comm.bcast(told or capfd.readouterr().err)
    assert code == 2 and re.search(message, told) and "Traceback" not in told, told
    comm.mpi.Barrier()
    assert {path.name: path.read_bytes() for path in place.iterdir()} == before
