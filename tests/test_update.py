"""Updates: the recursion against NumPy, statistics that models keep, streams of files with kills, calls from Python."""

from __future__ import annotations

import os
import pickle
import re
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from inside import run_verb
from scipy.special import logsumexp
from scipy.stats import multivariate_normal
from support import TYPES, blobs, dense_covariances, launch, mixture_of, random_mixture, write_config, write_rows

import mpigmm
from mpigmm import errors
from mpigmm.core.kept_statistics import NAMES, KeptStatistics
from mpigmm.core.mixture import Mixture
from mpigmm.driver import update_files, watch
from mpigmm.parallel.comm import Comm, SingleProcess
from mpigmm.runs.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from mpigmm.runs.model import Model
from mpigmm.runs.model_file import load_model, save_model
from mpigmm.runs.state import Ended, Fitted, Progress
from mpigmm.runs.updates import FoldedFile, Updates

ON_GPUS = "MPIGMM_TEST_DEVICE" in os.environ
N_FILES, K, D = 20, 3, 2
ROWS = blobs(400 + 90 * N_FILES, D, K, seed=3)
WEIGHTS = np.random.default_rng(5).uniform(0.5, 2, len(ROWS))
PARTS = [slice(400 + 90 * i, 490 + 90 * i) for i in range(N_FILES)]


@pytest.fixture
def place(comm: Comm, shared_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory with rows, and with a directory of more files, 20 of them on one rank; the working directory."""
    monkeypatch.chdir(shared_path)
    if comm.is_root:
        write_rows(Path("x.h5"), ROWS[:400], w=WEIGHTS[:400])
        Path("in").mkdir()
        Path("run").mkdir()
        for i, part in enumerate(parts_of(comm)):
            write_rows(Path("in", f"p.{i}.h5"), ROWS[part], w=WEIGHTS[part])
    comm.mpi.Barrier()
    return shared_path


def parts_of(comm: Comm) -> list[slice]:
    """The rows of the files: few under mpirun, where each takes some twenty messages."""
    return PARTS if comm.size == 1 else PARTS[:3]


@cache
def first_mixture() -> mpigmm.Mixture:
    settings = {"model": {"n_components": K}, "em": {"tol": 0.01}, "compute": {"device": "cpu", "threads": 1}}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of more ranks than processors
        return mpigmm.fit(settings, ROWS[:400]).mixture


def write_first(comm: Comm) -> None:
    """The model of a fit to the first rows, run/model.h5, without the fit."""
    if comm.is_root:
        first_mixture().save("run/model.h5")
    comm.mpi.Barrier()


def fit_first(comm: Comm, *keys: str, name: str = "run", **model: Any) -> None:
    """Fit a model to the first rows: run/model.h5."""
    if comm.is_root:
        write_config(
            Path("c.yaml"),
            data={"path": "x.h5"},
            model={"n_components": K, **model},
            em={"max_iter": 5},
            compute={"tile_rows": 64, "threads": 1},
        )
    comm.mpi.Barrier()
    assert run_verb(comm, "fit", "c.yaml", f"output.dir={name}", *keys) == (0, "")


def read_all(path: str | Path) -> dict[str, np.ndarray]:
    """All arrays of a model file but the ledger."""
    with h5py.File(path) as file:
        return {name: file[name][()] for name in file if name != "updates"}


def assert_same_model(one: str | Path, other: str | Path) -> None:
    first, second = read_all(one), read_all(other)
    assert first.keys() == second.keys()
    for name, array in first.items():
        assert array.tobytes() == second[name].tobytes(), name


def folded_names(path: str) -> list[str]:
    return [file.name for file in load_model(Path(path)).updates.files]


def numpy_sums(mixture: Mixture, rows: np.ndarray, weights: np.ndarray) -> dict[str, Any]:
    """Counts, sums and second moments of rows about the origin, and the data's own moments."""
    logs = [
        np.log(weight) + multivariate_normal(mean, covariance).logpdf(rows)
        for weight, mean, covariance in zip(mixture.weights, mixture.means, dense_covariances(mixture), strict=True)
    ]
    resp = np.exp(np.array(logs) - logsumexp(logs, axis=0)) * weights
    return {
        "counts": resp.sum(axis=1),
        "first": resp @ rows,
        "second": np.einsum("kn,nd,ne->kde", resp, rows, rows),
        "total": weights.sum(),
        "n": float(len(rows)),
    }


def numpy_m_step(covariance_type: str, sums: dict[str, Any], reg_covar: float) -> Mixture:
    counts, total = sums["counts"], sums["counts"].sum()
    means = sums["first"] / counts[:, None]
    full = sums["second"] / counts[:, None, None] - np.einsum("kd,ke->kde", means, means)
    variances = np.einsum("kdd->kd", full)
    values = {
        "full": full + reg_covar * np.eye(D),
        "tied": np.einsum("k,kde->de", counts / total, full) + reg_covar * np.eye(D),
        "diag": variances + reg_covar,
        "spherical": variances.mean(axis=1) + reg_covar,
    }[covariance_type]
    return mixture_of(covariance_type, counts / total, means, values)


def numpy_stream(
    start: Mixture, parts: list[slice], forget: float, reg_covar: float, weights: np.ndarray
) -> tuple[Mixture, Any]:
    """The recursion S <- F S + s(rows; theta), theta <- M(S) over parts of the rows."""
    mixture, sums = start, numpy_sums(start, ROWS[:400], weights[:400])
    for part in parts:
        new = numpy_sums(mixture, ROWS[part], weights[part])
        sums = {name: forget * sums[name] + new[name] for name in sums}
        mixture = numpy_m_step(start.covariances.name, sums, reg_covar)
    return mixture, sums


@pytest.mark.parallel
@pytest.mark.parametrize(
    ("covariance_type", "forget"), [*((each, 1.0) for each in TYPES), ("full", 0.9), ("tied", 0.5)]
)
def test_a_stream_of_20_files_is_the_recursion(comm: Comm, place: Path, covariance_type: str, forget: float) -> None:
    if comm.size > 1 and forget == 1:
        pytest.skip("one type of each kind of second moments is enough")
    weighted = ["data.weights=/w"] if covariance_type in ("full", "tied") else []
    fit_first(comm, *weighted, covariance_type=covariance_type, reg_covar=1e-3)
    given = ["update", "run/model.h5", "--forget", str(forget), "--watch", "in", "--idle", "0"]
    assert run_verb(comm, *given, "--out", "all.h5") == (0, "")
    if comm.is_root:
        parts = parts_of(comm)
        assert folded_names("all.h5") == [f"p.{i}.h5" for i in range(len(parts))]
        weights = WEIGHTS if weighted else np.ones(len(ROWS))
        found = load_model(Path("all.h5"))
        mixture, sums = numpy_stream(load_model(Path("run/model.h5")).mixture, parts, forget, 1e-3, weights)
        for name, values in mixture.arrays().items():
            np.testing.assert_allclose(found.mixture.arrays()[name], values, rtol=1e-10, atol=1e-10)
        kept = found.statistics
        assert kept is not None and found.n_samples == parts[-1].stop and found.updates.count == len(parts)
        np.testing.assert_allclose(kept.counts, sums["counts"], rtol=1e-10)
        np.testing.assert_allclose(kept.total_weight, sums["total"], rtol=1e-12)
        np.testing.assert_allclose(kept.n_samples, sums["n"], rtol=1e-12)
        mean = sums["first"].sum(axis=0) / sums["total"]
        squares = np.einsum("kdd->d", sums["second"]) / sums["total"]
        np.testing.assert_allclose(kept.variances, squares - mean**2, rtol=1e-10)


@pytest.mark.parallel
def test_ranks_threads_and_rows_read_anew_change_no_bit(comm: Comm, place: Path) -> None:
    write_first(comm)
    if comm.is_root:
        for i in range(3, len(parts_of(comm))):
            Path("in", f"p.{i}.h5").unlink()
    comm.mpi.Barrier()
    assert run_verb(comm, *stream("all.h5"), "compute.tile_rows=16") == (0, "")
    if comm.is_root:
        streamed = ["compute.threads=2", "compute.memory=1", "compute.tile_rows=16"]
        assert run_verb(SingleProcess(), *stream("alone.h5"), *streamed) == (0, "")
        assert_same_model("all.h5", "alone.h5")
    comm.mpi.Barrier()
    model = "run/model.h5"
    for name in folded_names("all.h5"):
        assert run_verb(comm, "update", model, f"in/{name}", "--out", "one.h5", "compute.tile_rows=16") == (0, "")
        model = "one.h5"
    assert_same_model("all.h5", "one.h5")


def test_the_statistics_of_a_fit(comm: Comm, place: Path) -> None:
    for covariance_type in TYPES:
        fit_first(comm, covariance_type=covariance_type, name=covariance_type)
        model = load_model(Path(covariance_type, "model.h5"))
        kept, mixture = model.statistics, model.mixture
        assert kept is not None and kept.n_samples == kept.total_weight == 400
        sums = numpy_sums(mixture, ROWS[:400], np.ones(400))
        first = sums["first"] - sums["counts"][:, None] * mixture.means
        np.testing.assert_allclose(kept.counts, sums["counts"], rtol=1e-12)
        np.testing.assert_allclose(kept.first_moments, first, atol=1e-10)
        np.testing.assert_allclose(kept.variances, ROWS[:400].var(axis=0), rtol=1e-12)
        lines = {"full": K * 3, "tied": 3, "diag": K * 2, "spherical": K}
        assert kept.second_moments.shape == (lines[covariance_type],)


def test_whether_statistics_are_kept(comm: Comm, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fit_first(comm, "output.statistics=true", name="kept")
    fit_first(comm, "output.statistics=false", name="bare")
    assert load_model(Path("bare/model.h5")).statistics is None
    comm.mpi.Barrier()
    fit_first(comm, "output.statistics=true", name="bare")  # one more E-step
    if comm.is_root:
        assert_same_model("bare/model.h5", "kept/model.h5")
    comm.mpi.Barrier()
    monkeypatch.setattr("mpigmm.core.kept_statistics.FEW_BYTES", 8 * (1 + K + K * D + K * 3) - 1)
    fit_first(comm, name="auto")
    assert load_model(Path("auto/model.h5")).statistics is None
    comm.mpi.Barrier()
    code, message = run_verb(comm, "update", "auto/model.h5", "x.h5", "--out", "two.h5")
    assert (
        code == 2 and "auto/model.h5 does not keep the statistics" in message and "output.statistics: true" in message
    )
    assert not Path("two.h5").exists()


def test_of_several_starts_the_best_ones_statistics_are_kept(comm: Comm, place: Path) -> None:
    fit_first(comm, "init.n_init=3", "init.method=random", name="three")
    kept, mixture = load_model(Path("three/model.h5")).statistics, load_model(Path("three/model.h5")).mixture
    assert kept is not None
    np.testing.assert_allclose(kept.counts, numpy_sums(mixture, ROWS[:400], np.ones(400))["counts"], rtol=1e-12)


def some_statistics(mixture: Mixture) -> KeptStatistics:
    sizes = {name: mixture.layout[name] for name in ("counts", "first_moments", "second_moments")}
    arrays = {name: np.full(shape, 0.5) for name, shape in sizes.items()}
    return KeptStatistics(**arrays, variances=np.ones(D), n_samples=7.5, total_weight=0.5 * K)


def test_checkpoints_hold_the_statistics_of_the_best_start(tmp_path: Path) -> None:
    mixture = random_mixture("full", K, D)
    ended, kept = Ended(0, 3, -1.0, -1.5, (1e-5,), True, 4, 4.5), some_statistics(mixture)
    for statistics in (kept, None):
        progress = Progress(ended=(ended,), best=Fitted(mixture, ended, statistics), finished=True)
        identity = {"em.algorithm": "batch", "em.accelerate": "none"}
        save_checkpoint(tmp_path, Checkpoint(progress, identity, "50x2 f8 00", 64, "numpy"))
        found, _ = load_checkpoint(tmp_path)
        assert found is not None and found.progress.best is not None
        read = found.progress.best.statistics
        assert (read is None) == (statistics is None)
        if read is not None:
            assert all(read.arrays()[name].tobytes() == array.tobytes() for name, array in kept.arrays().items())


def test_statistics_in_files(tmp_path: Path) -> None:
    mixture = random_mixture("tied", K, D)
    kept = some_statistics(mixture)
    updates = Updates(2, "abc", (FoldedFile("a.h5", 3, 4, "d"), FoldedFile("ü.h5", 5, 6, "e")))
    save_model(tmp_path / "m.h5", Model(mixture, n_samples=9, statistics=kept, updates=updates))
    found = load_model(tmp_path / "m.h5")
    assert found.updates == updates and found.statistics is not None
    for name, array in kept.arrays().items():
        assert found.statistics.arrays()[name].tobytes() == array.tobytes()
    with h5py.File(tmp_path / "m.h5") as file, h5py.File(tmp_path / "theirs.h5", "w") as theirs:
        for name in file:
            file.copy(name, theirs)
        theirs.attrs.update(file.attrs)
    assert load_model(tmp_path / "theirs.h5").updates == updates  # another program's
    damages: list[tuple[str, Any]] = [("counts", [1.0]), ("counts", [-1.0] * K), ("counts", [0.0] * K)]
    for name, value in (*damages, ("variances", [np.nan] * D), ("n_samples", 0.0), ("total_weight", 1.0)):
        with h5py.File(tmp_path / "theirs.h5", "r+") as file:
            old = file["statistics_" + name][()]
            del file["statistics_" + name]
            file["statistics_" + name] = value
        with pytest.raises(errors.DataError, match="does not hold the statistics of its rows"):
            load_model(tmp_path / "theirs.h5")
        with h5py.File(tmp_path / "theirs.h5", "r+") as file:
            del file["statistics_" + name]
            file["statistics_" + name] = old
    with h5py.File(tmp_path / "theirs.h5", "r+") as file:
        del file["updates"]
        file["updates"] = np.arange(3, dtype=np.uint8)
    with pytest.raises(errors.DataError, match="/updates is not the ledger"):
        load_model(tmp_path / "theirs.h5")


def moving(step: int, n_rows: int = 300) -> np.ndarray:
    """Rows of two components, one of which moves, and one of which grows."""
    random = np.random.default_rng(step)
    n_first = random.binomial(n_rows, 0.3 + 0.02 * step)
    means = np.array([[0.3 * step, 0.0], [-4.0, 0.1 * step]])
    return np.repeat(means, [n_first, n_rows - n_first], axis=0) + random.standard_normal((n_rows, 2))


def test_a_moving_mixture_is_followed_if_old_rows_are_forgotten() -> None:
    first = np.concatenate([moving(0) for _ in range(10)])
    start = mpigmm.fit({"model": {"n_components": 2}, "init": {"seed": 1}}, first).mixture
    tracks = dict.fromkeys((1.0, 0.9, 0.5), start)
    scores: dict[float, list[float]] = {forget: [] for forget in tracks}
    for step in range(1, N_FILES + 1):
        for forget, mixture in tracks.items():
            scores[forget].append(mixture.score(moving(step)))
            tracks[forget] = mixture.update(moving(step), forget=forget)
    best = mpigmm.fit({"model": {"n_components": 2}}, moving(N_FILES)).mixture.score(moving(N_FILES))
    last = {forget: round(values[-1], 3) for forget, values in scores.items()}
    print("mean log-likelihood of the last file before its update", last, "of its own fit", round(best, 3))
    assert last[0.9] > last[1.0] + 0.5 and last[0.5] > best - 0.2


def test_components_that_become_empty_keep_their_parameters() -> None:
    near = blobs(500, D, 1)
    far = np.concatenate([near, near[:100] + 1000])
    settings = {"model": {"n_components": 2}, "init": {"method": "kmeans"}}
    mixture = mpigmm.fit(settings, far).mixture
    gone = int(mixture.means[:, 0].argmax())
    updated = mixture.update(near, forget=0)
    assert updated.weights[gone] == 0 and updated.weights[1 - gone] == 1
    assert updated.means[gone].tobytes() == mixture.means[gone].tobytes()
    assert updated.covariances[gone].tobytes() == mixture.covariances[gone].tobytes()
    again = updated.update(near)
    assert again.weights[gone] == 0 and again.means[gone].tobytes() == mixture.means[gone].tobytes()


def test_forgetting_all_is_an_iteration_over_the_new_rows() -> None:
    settings: dict[str, Any] = {"model": {"n_components": K}, "em": {"max_iter": 3, "tol": 0}}
    first = mpigmm.fit(settings, ROWS[:400]).mixture
    updated = first.update(ROWS[400:], forget=0.0)
    estimator = mpigmm.GaussianMixture(
        K, weights_init=first.weights, means_init=first.means, precisions_init=first.precisions, max_iter=1, tol=0
    )
    with pytest.warns(UserWarning, match="converge"):
        estimator.fit(ROWS[400:])
    np.testing.assert_allclose(updated.means, estimator.means_, rtol=1e-9)
    np.testing.assert_allclose(updated.covariances, estimator.covariances_, rtol=1e-8, atol=1e-12)


def check_mistake(comm: Comm, arguments: list[str], message: str, capfd: pytest.CaptureFixture[str]) -> None:
    """The message, and that nothing is written."""
    write_first(comm)
    if comm.is_root:
        write_rows(Path("wide.h5"), blobs(50, 3, 2))
        write_rows(Path("nan.h5"), np.where(np.arange(20).reshape(-1, 2) == 7, np.nan, 1.0))
        write_rows(Path("far.h5"), np.full((9, 2), 1e200))
        first_mixture().save("other.h5")
    comm.mpi.Barrier()
    before = read_all("run/model.h5")
    arguments = arguments if "--out" in arguments else [*arguments, "--out", "two.h5"]
    capfd.readouterr()
    code, said = run_verb(comm, "update", *arguments)
    assert code == 2
    if comm.is_root:
        assert re.search(message, said or capfd.readouterr().err), said
    assert not Path("two.h5").exists()
    assert all(before[name].tobytes() == array.tobytes() for name, array in read_all("run/model.h5").items())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run/model.h5"], "no file of rows is named; name files, .*, or a directory with --watch"),
        (["run/model.h5", "x.h5", "--watch", "in", "--idle", "1"], "x.h5 and --watch in: give files of rows or a dir"),
        (["run/model.h5", "--watch", "in"], "--watch and --idle belong together"),
        (["run/model.h5", "x.h5", "--idle", "1"], "--watch and --idle belong together"),
        (["run/model.h5", "--watch", ".", "--idle", "0"], "--out two.h5 lies in the directory that is watched"),
        (["run/model.h5", "x.h5", "--forget", "1.5"], "--forget"),
        (["run/model.h5", "x.h5", "--forget", "nan"], "--forget"),
        (["run/model.h5", "none.h5"], "none.h5"),
        (["run/model.h5", "nan.h5", "data.weights=/w"], "nan.h5.*/w"),
        (["run/model.h5", "x.h5", "data.rows=[0,0]"], "data.rows"),
        (["run/model.h5", "x.h5", "--out", "other.h5"], "other.h5 exists, .* add --overwrite"),
        (["run/model.h5", "x.h5", "--out", "x.h5"], "x.h5 exists, and is not a model that mpigmm wrote"),
        (["run/model.h5", "x.h5", "--out", "none/two.h5"], "none is no directory; make it, or choose another"),
        (["x.h5", "x.h5"], "x.h5 is not an mpigmm-model file"),
    ],
)
def test_mistakes(
    comm: Comm, place: Path, arguments: list[str], message: str, capfd: pytest.CaptureFixture[str]
) -> None:
    check_mistake(comm, arguments, message, capfd)


@pytest.mark.parallel
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run/model.h5", "wide.h5"], "run/model.h5 has 2 features, but .*wide.h5 has 3 columns"),
        (["run/model.h5", "nan.h5"], "row 3 of /X in nan.h5 holds NaN in column 1; .*data.missing=drop"),
        (["run/model.h5", "far.h5"], "check the new rows or, if they are in order, fit again"),
        (["run/model.h5", "--watch", "none", "--idle", "1"], "--watch none is no directory"),
    ],
)
def test_mistakes_that_all_ranks_learn_of(
    comm: Comm, place: Path, arguments: list[str], message: str, capfd: pytest.CaptureFixture[str]
) -> None:
    check_mistake(comm, arguments, message, capfd)


def test_the_models_that_update_replaces(comm: Comm, place: Path) -> None:
    write_first(comm)
    Path("copy.h5").write_bytes(Path("run/model.h5").read_bytes())
    assert run_verb(comm, "update", "run/model.h5", "in/p.0.h5", "--out", "two.h5") == (0, "")
    code, said = run_verb(comm, "update", "run/model.h5", "in/p.1.h5", "--out", "two.h5")
    assert code == 2 and "two.h5 exists, and may be the model" in said
    assert run_verb(comm, "update", "run/model.h5", "in/p.0.h5", "--out", "two.h5", "--overwrite") == (0, "")
    assert run_verb(comm, "update", "copy.h5", "in/p.0.h5", "--out", "copy.h5") == (0, "")  # in place
    assert_same_model("two.h5", "copy.h5")
    assert load_model(Path("copy.h5")).updates == Updates(1)


def test_weights_columns_and_missing_rows_are_those_of_the_fit(comm: Comm, place: Path) -> None:
    rows = np.column_stack([np.zeros(400), ROWS[:400, ::-1]])
    rows[7, 2] = np.nan
    write_rows(Path("x.h5"), rows, w=WEIGHTS[:400])
    fit_first(comm, "data.columns=[2,1]", "data.weights=/w", "data.missing=drop")
    write_rows(Path("y.h5"), rows, w=WEIGHTS[:400])
    assert run_verb(comm, "update", "run/model.h5", "y.h5", "--out", "two.h5") == (0, "")
    kept = load_model(Path("two.h5")).statistics
    assert kept is not None and kept.n_samples == 2 * 399
    assert kept.total_weight == pytest.approx(2 * np.delete(WEIGHTS[:400], 7).sum(), rel=1e-12)
    assert run_verb(comm, "update", "run/model.h5", "y.h5", "--out", "three.h5", "data.weights=null") == (0, "")
    kept = load_model(Path("three.h5")).statistics
    assert kept is not None and kept.total_weight == pytest.approx(np.delete(WEIGHTS[:400], 7).sum() + 399, rel=1e-12)


def stream(out: str, *others: str, idle: str = "0") -> list[str]:
    return ["update", "run/model.h5", "--watch", "in", "--idle", idle, "--out", out, *others]


def test_which_files_of_a_directory_are_folded_in(comm: Comm, place: Path, capfd: pytest.CaptureFixture[str]) -> None:
    write_first(comm)
    for i in range(3, N_FILES):
        Path("in", f"p.{i}.h5").unlink()
    for name in (".hidden.h5", "p.3.h5.tmp", "p.4.h5.part"):
        Path("in", name).write_text("not finished")
    Path("in", "sub").mkdir()
    Path("in", "p.10.h5").symlink_to(Path("x.h5").resolve())
    assert run_verb(comm, *stream("s.h5")) == (0, "")
    assert folded_names("s.h5") == ["p.0.h5", "p.1.h5", "p.2.h5", "p.10.h5"]
    before = Path("s.h5").read_bytes()
    os.utime("in/p.1.h5")  # the same content
    assert run_verb(comm, *stream("s.h5")) == (0, "")
    assert Path("s.h5").read_bytes() == before
    write_rows(Path("in/p.1.h5"), ROWS[:50])  # another content under the same name is another file
    capfd.readouterr()
    assert run_verb(comm, *stream("s.h5")) == (0, "")
    assert folded_names("s.h5") == ["p.0.h5", "p.1.h5", "p.2.h5", "p.10.h5", "p.1.h5"]
    said = capfd.readouterr()
    assert said.out == "s.h5 holds 5 files, 1 file of them folded in now\n" and "p.1.h5: 50 rows folded in" in said.err
    assert run_verb(comm, *stream("run/model.h5")) == (0, "")  # in place
    assert folded_names("run/model.h5") == ["p.0.h5", "p.1.h5", "p.2.h5", "p.10.h5"]
    assert load_model(Path("run/model.h5")).n_samples == 400 + 90 + 50 + 90 + 400


def test_links_to_the_model(comm: Comm, place: Path) -> None:
    write_first(comm)
    for i in range(2, N_FILES):
        Path("in", f"p.{i}.h5").unlink()
    Path("run/soft.h5").symlink_to("model.h5")
    Path("run/hard.h5").hardlink_to("run/model.h5")
    before = Path("run/model.h5").read_bytes()
    for name in ("run/soft.h5", "run/hard.h5"):
        code, said = run_verb(comm, *stream(name))
        assert code == 2 and "add --overwrite" in said
        for _ in range(2):  # the second time, it goes on from what it has written
            assert run_verb(comm, *stream(name, "--overwrite")) == (0, "")
            assert folded_names(name) == ["p.0.h5", "p.1.h5"] and load_model(Path(name)).updates.count == 2
    assert Path("run/model.h5").read_bytes() == before
    Path("soft.h5").symlink_to("run/model.h5")
    for model, out in (("soft.h5", "run/model.h5"), ("soft.h5", "soft.h5"), ("run/../run/model.h5", "run/model.h5")):
        command = ["update", model, "--watch", "in", "--idle", "0", "--out", out]
        assert run_verb(comm, *command) == (0, "")
        assert run_verb(comm, *command) == (0, "")
        assert load_model(Path(out)).updates.count == 2


def test_a_stream_without_files_writes_the_model(comm: Comm, place: Path) -> None:
    write_first(comm)
    Path("none").mkdir()
    assert run_verb(comm, "update", "run/model.h5", "--watch", "none", "--idle", "0", "--out", "s.h5") == (0, "")
    assert_same_model("s.h5", "run/model.h5")
    assert run_verb(comm, *stream("s.h5")) == (0, "")
    assert len(folded_names("s.h5")) == N_FILES


def test_a_stream_does_not_go_on_from_another_ones_model(comm: Comm, place: Path) -> None:
    write_first(comm)
    assert run_verb(comm, *stream("s.h5")) == (0, "")
    fit_first(comm, "init.seed=7", "init.method=random", name="other")
    command = ["update", "other/model.h5", "--watch", "in", "--idle", "0", "--out", "s.h5"]
    code, said = run_verb(comm, *command)
    assert code == 2 and "s.h5 exists" in said
    assert run_verb(comm, *command, "--overwrite") == (0, "")
    assert len(folded_names("s.h5")) == N_FILES and load_model(Path("s.h5")).updates.count == N_FILES


@pytest.mark.parallel
def test_a_file_that_cannot_be_read_stops_the_stream(comm: Comm, place: Path) -> None:
    write_first(comm)
    if comm.is_root:
        good = Path("in/p.1.h5").read_bytes()
        Path("in/p.1.h5").write_bytes(good[:700])
    comm.mpi.Barrier()
    code, said = run_verb(comm, *stream("s.h5"))
    assert code == 2 and "p.1.h5" in said and "s.h5 holds 1 file, and the same command goes on" in said
    assert folded_names("s.h5") == ["p.0.h5"]
    comm.mpi.Barrier()
    if comm.is_root:
        Path("in/p.1.h5").write_bytes(good)
        write_rows(Path("in/p.2.h5"), np.full((4, 2), np.nan))
    comm.mpi.Barrier()
    code, said = run_verb(comm, *stream("s.h5"))
    assert code == 2 and "row 0 of /X in in/p.2.h5 holds NaN" in said and "s.h5 holds 2 files" in said


class Killed(BaseException):
    """Stands for a signal that ends the process at once."""


@pytest.mark.parametrize("moment", ["before", "after"])
def test_a_kill_at_any_moment_loses_nothing_and_counts_nothing_twice(
    comm: Comm, place: Path, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    write_first(comm)
    assert run_verb(comm, *stream("whole.h5")) == (0, "")
    save, n_calls = update_files.save_model, 0

    def killed(path: Path, model: Model) -> None:
        nonlocal n_calls
        n_calls += 1
        if n_calls % 2 and moment == "before":
            raise Killed
        save(path, model)
        if n_calls % 2 and moment == "after":
            raise Killed

    monkeypatch.setattr(update_files, "save_model", killed)
    for _ in range(N_FILES + 1):
        try:
            assert run_verb(comm, *stream("s.h5")) == (0, "")
            break
        except Killed:
            pass
    assert folded_names("s.h5") == folded_names("whole.h5") and n_calls >= N_FILES
    assert_same_model("s.h5", "whole.h5")


def test_a_file_that_changes_while_it_is_read_is_read_again(
    comm: Comm, place: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    write_first(comm)
    update, changes = watch.update_rows, iter([ROWS[:30]])

    def changing(*arguments: Any) -> Any:
        updated = update(*arguments)
        for rows in changes:
            write_rows(Path("new"), rows)
            Path("new").rename("in/p.0.h5")
        return updated

    monkeypatch.setattr(watch, "update_rows", changing)
    assert run_verb(comm, *stream("s.h5")) == (0, "")
    assert "p.0.h5 was changed while it was read" in capfd.readouterr().err
    assert load_model(Path("s.h5")).n_samples == 400 + 30 + 90 * (N_FILES - 1)
    assert load_model(Path("s.h5")).updates.count == N_FILES


def test_a_file_that_is_removed_before_it_is_read_is_left_out(
    comm: Comm, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_first(comm)
    digest = watch.Directory._digest

    def removing(directory: watch.Directory, name: str) -> str | None:
        if name == "p.1.h5":
            Path("in", name).unlink()
        return digest(directory, name)

    monkeypatch.setattr(watch.Directory, "_digest", removing)
    assert run_verb(comm, *stream("s.h5")) == (0, "")
    assert folded_names("s.h5") == [f"p.{i}.h5" for i in range(len(parts_of(comm))) if i != 1]


def test_another_program_that_writes_the_model_is_noticed(
    comm: Comm, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_first(comm)
    fold = watch.update_rows

    def meanwhile(*arguments: Any) -> Any:
        save_model(Path("s.h5"), load_model(Path("run/model.h5")))
        return fold(*arguments)

    monkeypatch.setattr(watch, "update_rows", meanwhile)
    code, said = run_verb(comm, *stream("s.h5"))
    assert code == 2 and "s.h5 was changed by another program" in said


@pytest.mark.parallel
def test_a_full_disk_loses_the_last_file_alone(comm: Comm, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_first(comm)
    save = update_files.save_model

    def full(path: Path, model: Model) -> None:
        if len(model.updates.files) == 2:
            raise errors.OutputError(f"{path} cannot be written: No space left on device; free some space")
        save(path, model)

    with monkeypatch.context() as patch:
        patch.setattr(update_files, "save_model", full)
        code, said = run_verb(comm, *stream("s.h5"))
    assert code == 2 and "No space left on device" in said
    assert "s.h5 holds 1 file, and the same command goes on" in said
    assert folded_names("s.h5") == ["p.0.h5"]
    comm.mpi.Barrier()
    assert run_verb(comm, *stream("s.h5")) == (0, "")
    assert len(folded_names("s.h5")) == len(parts_of(comm))


def test_kills_and_signals(comm: Comm, place: Path) -> None:
    """SIGKILL in the midst of a stream, then SIGTERM once it waits for files."""
    write_first(comm)
    assert run_verb(comm, *stream("whole.h5")) == (0, "")
    seconds = []

    def when_folded(n_files: int, number: signal.Signals) -> Callable[[subprocess.Popen[str]], None]:
        def during(process: subprocess.Popen[str]) -> None:
            end = time.monotonic() + 30
            while time.monotonic() < end and not (Path("s.h5").exists() and len(folded_names("s.h5")) >= n_files):
                time.sleep(0.02)
            process.send_signal(number)
            seconds.append(time.monotonic())

        return during

    command = [sys.executable, "-m", "mpigmm", *stream("s.h5", idle="60")]
    killed = launch(0, command, 60, when_folded(4, signal.SIGKILL))
    assert killed.returncode == -signal.SIGKILL
    stopped = launch(0, command, 60, when_folded(N_FILES, signal.SIGTERM))
    assert stopped.returncode == 75 and time.monotonic() - seconds[-1] < 3
    assert f"s.h5 holds {N_FILES} files; run the same command again" in stopped.stderr
    assert folded_names("s.h5") == folded_names("whole.h5")
    assert_same_model("s.h5", "whole.h5")


@pytest.mark.parallel
@pytest.mark.skipif(ON_GPUS, reason="calls for rows compute on processors")
@pytest.mark.filterwarnings("ignore::mpigmm.errors.MpigmmWarning")
@pytest.mark.parametrize("covariance_type", TYPES)
def test_calls_have_the_bits_of_the_command(comm: Comm, place: Path, covariance_type: str) -> None:
    if comm.size > 1 and covariance_type in ("diag", "spherical"):
        pytest.skip("the other types are enough")
    fit_first(comm, covariance_type=covariance_type)
    command = ["update", "run/model.h5", "in/p.0.h5", "in/p.1.h5", "--forget", "0.75", "--out", "two.h5"]
    assert run_verb(comm, *command, "data.weights=/w") == (0, "")
    rows, weights = ROWS[400:580], WEIGHTS[400:580]
    edges = [180 * rank // comm.size for rank in range(comm.size + 1)]
    own = slice(edges[comm.rank], edges[comm.rank + 1])
    mixture = mpigmm.Mixture.load("run/model.h5")
    updated = mixture.update(rows[own], weights[own], forget=0.75, comm=comm.mpi)
    updated.save(f"call.{comm.rank}.h5")
    assert_same_model("two.h5", f"call.{comm.rank}.h5")
    assert pickle.loads(pickle.dumps(updated)).update(rows).means.tobytes() == updated.update(rows).means.tobytes()
    fitted = mpigmm.fit("c.yaml", comm=comm.mpi).mixture
    assert fitted.update(rows[own], weights[own], 0.75, comm.mpi).means.tobytes() == updated.means.tobytes()


@pytest.mark.parallel
@pytest.mark.skipif(ON_GPUS, reason="as above")
@pytest.mark.filterwarnings("ignore::mpigmm.errors.MpigmmWarning")
def test_partial_fit_is_a_fit_and_updates(comm: Comm) -> None:
    edges = [400 * rank // comm.size for rank in range(comm.size + 1)]
    own = slice(edges[comm.rank], edges[comm.rank + 1])
    estimator = mpigmm.GaussianMixture(K, random_state=0, comm=comm.mpi)
    assert estimator.partial_fit(ROWS[:400][own]) is estimator
    fitted = mpigmm.GaussianMixture(K, random_state=0, comm=comm.mpi).fit(ROWS[:400][own])
    assert fitted.means_.tobytes() == estimator.means_.tobytes()
    mixture = estimator.mixture_
    for part in (slice(400, 800), slice(800, 1200)):
        rows, weights = ROWS[part][own], WEIGHTS[part][own]
        mixture = mixture.update(rows, weights, comm=comm.mpi)
        estimator.partial_fit(rows, sample_weight=weights)
        fitted = pickle.loads(pickle.dumps(fitted)).set_params(comm=comm.mpi).partial_fit(rows, sample_weight=weights)
        for found in (estimator, fitted):
            assert found.weights_.tobytes() == mixture.weights.tobytes()
            assert found.means_.tobytes() == mixture.means.tobytes()
            assert found.covariances_.tobytes() == mixture.covariances.tobytes()
    assert estimator.n_iter_ == fitted.n_iter_
    estimator.means_ = estimator.means_ + 1
    with pytest.raises(errors.DataError, match="changed since the last fit"):
        estimator.partial_fit(ROWS[:400][own])


@pytest.mark.parallel
@pytest.mark.skipif(ON_GPUS, reason="as above")
@pytest.mark.filterwarnings("ignore::mpigmm.errors.MpigmmWarning")
def test_partial_fit_on_ranks_without_rows_or_without_a_fit(comm: Comm) -> None:
    def own(part: slice, dtype: type = float) -> np.ndarray:
        rows: np.ndarray = ROWS[part] if comm.is_root else ROWS[:0]
        return rows.astype(dtype)

    first, more = slice(400), slice(400, 600)
    estimator = mpigmm.GaussianMixture(K, random_state=0, comm=comm.mpi).partial_fit(own(first))
    estimator.partial_fit(own(more, np.float32))
    alone = mpigmm.GaussianMixture(K, random_state=0).partial_fit(ROWS[first])
    alone.partial_fit(ROWS[more].astype(np.float32))
    assert estimator.means_.tobytes() == alone.means_.tobytes() and estimator.means_.dtype == np.float64
    if comm.size > 1:
        other = estimator if comm.is_root else mpigmm.GaussianMixture(K, random_state=0, comm=comm.mpi)
        with pytest.raises(errors.DataError, match="is fitted on rank 0, but not on rank 1; call partial_fit with the"):
            other.partial_fit(ROWS[more])


def test_calls_that_cannot_update() -> None:
    mixture = mpigmm.fit({"model": {"n_components": K}}, ROWS[:400]).mixture
    for other in (mixture.merge(2), mixture.marginal([0]), mpigmm.Mixture([1], [[0.0, 0]], [[1.0, 1]], "diag")):
        with pytest.raises(errors.DataError, match="does not keep the statistics of its rows"):
            other.update(ROWS[:, : other.n_features])
    for forget in (-0.1, 2, float("nan"), "1", None):
        with pytest.raises(errors.ConfigError, match=r"forget: .* a number from 0 to 1"):
            mixture.update(ROWS, forget=forget)  # type: ignore[arg-type]
    with pytest.raises(errors.DataError, match="X has 1 feature, but the mixture has 2"):
        mixture.update(ROWS[:, :1])
    with pytest.raises(errors.DataError, match="row 1 of X holds NaN in column 0; mend the row or leave it out"):
        mixture.update([[0, 0], [np.nan, 0]])
    with pytest.raises(errors.DataError, match="X has no rows"):
        mixture.update(ROWS[:0])
    with pytest.raises(errors.DataError, match="they sum to 0"):
        mixture.update(ROWS, np.zeros(len(ROWS)))
    with pytest.raises(ValueError, match="read-only"):
        mixture._model.statistics.counts[:] = 0  # type: ignore[union-attr]


@pytest.mark.parametrize("section", [{"prior": ["none"]}, {"prior": "other"}, {"reg_covar": -1}, {"reg_covar": "1"}])
def test_settings_of_another_version_are_refused(section: dict[str, Any]) -> None:
    mixture = random_mixture("full", K, D)
    model = Model(mixture, config={"model": section}, statistics=some_statistics(mixture))
    with pytest.raises(errors.DataError, match="which this installation does not know; update it where it was fitted"):
        mpigmm.Mixture.from_model(model).update(ROWS)


@pytest.mark.filterwarnings("ignore:.*encountered in:RuntimeWarning")
def test_a_result_that_is_not_finite_is_an_error() -> None:
    mixture = first_mixture()
    kept = mixture._model.statistics
    assert kept is not None
    model = replace(mixture._model, statistics=replace(kept, variances=np.full(D, 1e308)))
    with pytest.raises(errors.CollapsedError, match="leaves the range of float64; check the new rows"):
        mpigmm.Mixture.from_model(model).update(ROWS)


def test_float32_tiles_and_their_statistics() -> None:
    settings: dict[str, Any] = {"model": {"n_components": K}, "compute": {"precision": "float32", "device": "cpu"}}
    single, double = (
        mpigmm.fit({**settings, "compute": {"precision": precision, "device": "cpu"}}, ROWS[:400]).mixture.update(ROWS)
        for precision in ("float32", "float64")
    )
    np.testing.assert_allclose(single.means, double.means, rtol=1e-3, atol=1e-3)
    assert single.means.tobytes() != double.means.tobytes()


def test_names_of_columns() -> None:
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame(ROWS, columns=["a", "b"])
    mixture = mpigmm.fit({"model": {"n_components": K}}, frame[:400]).mixture
    swapped = mixture.update(frame[400:][["b", "a"]])
    assert swapped.means.tobytes() == mixture.update(ROWS[400:]).means.tobytes()
    with pytest.raises(errors.DataError, match="X has no column 'b'"):
        mixture.update(frame[["a"]])


def test_all_names_are_documented() -> None:
    text = (Path(__file__).parent.parent / "docs/files.md").read_text()
    assert all(f"statistics_{name}" in text for name in NAMES) and "`/updates`" in text
