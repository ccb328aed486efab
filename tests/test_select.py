"""`select`: the same table on any number of ranks, however its fits are scheduled, and after an interruption."""

from __future__ import annotations

import csv
import json
import os
import re
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from inside import run_verb
from sklearn.metrics import adjusted_rand_score
from sklearn.mixture import GaussianMixture
from support import assert_same_bits, blobs, read_model, write_config, write_rows

import mpigmm
from mpigmm.__main__ import serve
from mpigmm.core.adjusted_rand import adjusted_rand_index
from mpigmm.driver import e_step, groups, sweep
from mpigmm.driver.candidates import Candidate, batches, candidates_of, costliest, held_out_share, n_fits
from mpigmm.driver.comparison import stabilities
from mpigmm.driver.held_out import HeldOut
from mpigmm.errors import AgreedError, InterruptedRunError, MpigmmError
from mpigmm.options import FitOptions, SelectOptions
from mpigmm.parallel.comm import Comm
from mpigmm.parallel.partition import balanced
from mpigmm.parallel.stop import StopRequest
from mpigmm.rows import Rows

ROWS = blobs(900, 3, 4, separation=2.5)
WEIGHTS = np.random.default_rng(3).integers(0, 3, len(ROWS)).astype(float)
SELECT = {"n_components": [2, 5], "covariance_type": ["full", "diag"], "seeds": [0, 4]}
ON_GPUS = "MPIGMM_TEST_DEVICE" in os.environ
parallel = pytest.mark.parallel


def write(comm: Comm, path: Path, weighted: bool = False, **select: Any) -> str:
    """The rows in a file, and a configuration of a selection; its path on all ranks."""
    config = None
    if comm.is_root:
        data = {"path": str(write_rows(path / "rows.h5", ROWS, w=WEIGHTS)), **({"weights": "/w"} if weighted else {})}
        config = write_config(
            path / "c.yaml",
            data=data,
            em={"max_iter": 8},
            compute={"tile_rows": 100, "threads": 1},
            output={"dir": str(path / "out")},
            select={**SELECT, **select},
        )
    return str(comm.bcast(config))


def table(out: Path) -> list[dict[str, Any]]:
    """The rows of ``selection.json``, which are those of ``selection.csv``, without seconds."""
    content = json.loads((out / "selection.json").read_text())
    assert content["finished"]
    with open(out / "selection.csv", newline="") as file:
        lines = list(csv.DictReader(file))
    for line, row in zip(lines, content["fits"], strict=True):
        assert {name: "" if value is None else str(value) for name, value in row.items()} == line
        assert row.pop("seconds") >= 0
    return content["fits"]


def schedule(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Notes the number of fits that each batch shares its passes with."""
    sizes, fit_batch = [], sweep.fit_batch

    def noting(context: Any, common: Any, batch: Any, *others: Any) -> Any:
        sizes.append(len(batch))
        return fit_batch(context, common, batch, *others)

    monkeypatch.setattr(sweep, "fit_batch", noting)
    return sizes


@parallel
@pytest.mark.parametrize("held_out", [0, 0.2])
def test_one_table_for_all_ranks_and_schedules(
    comm: Comm, shared_path: Path, monkeypatch: pytest.MonkeyPatch, held_out: float
) -> None:
    config = write(comm, shared_path, weighted=True, held_out=held_out)
    sizes, tables, models = schedule(monkeypatch), [], []
    splits: list[int] = []
    split = type(comm).split
    monkeypatch.setattr(type(comm), "split", lambda self, group: splits.append(group) or split(self, group))
    for name, tiles, overrides in (("resident", 1, []), ("streamed", 1, ["compute.memory=1"]), ("groups", 10**6, [])):
        monkeypatch.setattr(groups, "TILES_PER_THREAD", tiles)
        own = [f"output.dir={shared_path / name}", *overrides]
        assert run_verb(comm, "select", config, *own) == (0, "")
        tables.append(table(shared_path / name))
        models.append(read_model(shared_path / name / "model.h5"))
        refits = [1] if held_out else []
        if name != "groups" or comm.size == 1 or ON_GPUS:
            assert sizes == ([8] if name == "streamed" else [1] * 8) + refits
        else:
            assert len(splits) == 1 and sum(comm.allgather(len(sizes) - len(refits))) >= 8
        sizes.clear()
    assert tables[0] == tables[1] == tables[2]
    for model in models[1:]:
        assert_same_bits(model, models[0])
    best = min(tables[0], key=lambda row: row["bic"])
    fit = run_verb(
        comm,
        "fit",
        config,
        f"model.n_components={best['n_components']}",
        f"model.covariance_type={best['covariance_type']}",
        f"init.seed={best['seed']}",
        f"output.dir={shared_path / 'fit'}",
    )
    assert fit == (0, "")
    assert_same_bits(read_model(shared_path / "fit" / "model.h5"), models[0])


def stop_after(monkeypatch: pytest.MonkeyPatch, n_passes: int) -> StopRequest:
    """A request that comes as if by a signal once this rank has begun so many passes of EM."""
    stop, answer_requests, begun = StopRequest(), e_step.answer_requests, []

    def counting(*arguments: Any) -> None:
        begun.append(1)
        if len(begun) >= n_passes:
            stop.received = signal.SIGTERM
        answer_requests(*arguments)

    monkeypatch.setattr(e_step, "answer_requests", counting)
    return stop


@parallel
@pytest.mark.parametrize("name", ["resident", "streamed", "groups"])
def test_an_interrupted_selection_goes_on(
    comm: Comm, shared_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    config = write(comm, shared_path)
    monkeypatch.setattr(groups, "TILES_PER_THREAD", 10**6 if name == "groups" else 1)
    memory = ["compute.memory=1"] if name == "streamed" else []
    assert run_verb(comm, "select", config, *memory, f"output.dir={shared_path / 'whole'}") == (0, "")
    n_passes = {"resident": 20, "streamed": 4, "groups": 20 // min(comm.size, 8)}[name]
    for _ in range(2):
        with monkeypatch.context() as patch, pytest.raises(AgreedError) as stopped:
            serve(comm, ["select", config, *memory], stop_after(patch, n_passes))
        assert stopped.value.exit_code == 75
        assert json.loads((shared_path / "out" / "selection.json").read_text())["finished"] is False
    assert run_verb(comm, "select", config, *memory) == (0, "")
    assert table(shared_path / "out") == table(shared_path / "whole")
    resumed = [json.loads(path.read_text())["resumed_from"] for path in shared_path.glob("out/fits/*/summary.json")]
    assert any(resumed)
    assert run_verb(comm, "select", config, *memory) == (0, "")
    assert table(shared_path / "out") == table(shared_path / "whole")


@parallel
def test_an_error_of_one_group_ends_all(comm: Comm, shared_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if comm.size == 1 or ON_GPUS:
        pytest.skip("one rank, and ranks with GPUs, make one group")
    monkeypatch.setattr(groups, "TILES_PER_THREAD", 10**6)
    config = write(comm, shared_path, n_components=[1, 500], covariance_type="full", seeds=0)
    endless = ["em.max_iter=1000000", "em.tol=0", "model.reg_covar=0", "model.variance_floor=0"]
    code, message = run_verb(comm, "select", config, *endless)
    assert code == 2
    assert (
        "full, 500 components, seed 0: the covariance of component" in message
        and "leave this fit out of select" in message
    )


def model_of(row: dict[str, Any], mixture: mpigmm.Mixture) -> GaussianMixture:
    """scikit-learn's mixture with the same parameters."""
    model = GaussianMixture(row["n_components"], covariance_type=row["covariance_type"])
    model.weights_, model.means_, model.covariances_ = mixture.weights, mixture.means, mixture.covariances
    precisions = mixture.precisions
    model.precisions_cholesky_ = (
        np.sqrt(precisions)
        if precisions.ndim < 3
        else np.linalg.inv(np.linalg.cholesky(mixture.covariances)).transpose(0, 2, 1)
    )
    return model


def test_the_table_against_scikit_learn(tmp_path: Path) -> None:
    settings = {"em": {"max_iter": 8}, "output": {"dir": str(tmp_path)}, "select": {**SELECT, "held_out": 0.25}}
    result = mpigmm.select(settings, ROWS)
    _, held = HeldOut(0.25).split(Rows.of(ROWS), None)
    fitted, kept = ROWS[held == 0], ROWS[held > 0]
    assert 150 < len(kept) < 300
    labels = []
    for row in result.fits:
        candidate = Candidate(row["covariance_type"], row["n_components"], row["seed"])
        model = model_of(row, mpigmm.Mixture.load(tmp_path / "fits" / candidate.name / "model.h5"))
        assert row["bic"] == pytest.approx(model.bic(fitted), rel=1e-12)
        assert row["aic"] == pytest.approx(model.aic(fitted), rel=1e-12)
        assert row["mean_log_likelihood"] == pytest.approx(model.score(fitted), rel=1e-12)
        assert row["held_out"] == pytest.approx(model.score(kept), rel=1e-12)
        resp = model.predict_proba(fitted)
        entropy = -(resp * np.log(np.where(resp > 0, resp, 1))).sum()
        assert row["icl"] == pytest.approx(row["bic"] + 2 * entropy, rel=1e-10)
        labels.append(model.predict(ROWS))
    for i in range(0, len(labels), 2):
        expected = adjusted_rand_score(labels[i], labels[i + 1])
        assert result.fits[i]["stability"] == pytest.approx(expected, rel=1e-12)
        assert result.fits[i + 1]["stability"] == result.fits[i]["stability"]
    assert result.best == min(result.fits, key=lambda row: row["bic"])


def test_rows_that_no_fit_uses_have_no_part_in_the_stability(tmp_path: Path) -> None:
    """All rows of weight zero would otherwise have one label, in which all fits agree."""
    settings = {
        "select": {"n_components": 5, "seeds": [0, 4]},
        "init": {"screening": False},  # with which the fits would agree on all rows
        "em": {"max_iter": 8},
        "output": {"dir": str(tmp_path)},
    }
    weight = np.repeat([1.0, 0.0], len(ROWS))
    found = mpigmm.select(settings, np.concatenate([ROWS, ROWS + 1]), sample_weight=weight).fits
    models = [mpigmm.Mixture.load(tmp_path / "fits" / f"full-5-seed{seed}" / "model.h5") for seed in (0, 4)]
    expected = adjusted_rand_score(*(model.predict(ROWS) for model in models))
    assert expected < 0.9
    assert found[0]["stability"] == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("criterion", ["bic", "aic", "icl", "held_out"])
def test_the_criterion_decides(criterion: str) -> None:
    select = {"n_components": [1, 2, 4, 8], "seeds": 0, "criterion": criterion}
    result = mpigmm.select({"select": select}, ROWS)
    values = [row[criterion] for row in result.fits]
    assert result.best[criterion] == (max(values) if criterion == "held_out" else min(values))
    assert result.mixture.n_components == result.best["n_components"]
    assert all(
        (row["held_out"] is None) == (criterion != "held_out") and row["stability"] is None for row in result.fits
    )
    assert repr(result).startswith("<SelectResult: <Mixture: ") and repr(result).endswith("best of 4 fits>")


def test_rows_in_memory_and_weights_as_repetitions() -> None:
    whole = np.repeat(ROWS, WEIGHTS.astype(int), axis=0)
    settings = {"model": {"n_components": 3}, "select": {"seeds": [1]}, "em": {"tol": 1e-9, "max_iter": 300}}
    weighted = mpigmm.select(settings, ROWS, sample_weight=WEIGHTS).fits[0]
    repeated = mpigmm.select(settings, whole).fits[0]
    for name in ("mean_log_likelihood", "bic", "icl"):
        assert weighted[name] == pytest.approx(repeated[name], rel=1e-3)


def test_iris_as_scikit_learns_best_of_ten_starts() -> None:
    from sklearn.datasets import load_iris

    rows = load_iris().data
    result = mpigmm.select({"select": {"n_components": [1, 2, 3], "covariance_type": ["full", "tied"]}}, rows)
    found, theirs = {}, {}
    for row in result.fits:
        key = row["covariance_type"], row["n_components"]
        found[key] = min(found.get(key, np.inf), row["bic"])
        if key not in theirs:
            kind, n_components = key
            model = GaussianMixture(
                n_components, covariance_type=kind, n_init=10, random_state=0, tol=1e-4, max_iter=500
            )
            theirs[key] = model.fit(rows).bic(rows)
    assert all(found[key] <= theirs[key] + 1 for key in found)
    assert min(found, key=found.get) == min(theirs, key=theirs.get)  # type: ignore[arg-type]


@pytest.mark.parametrize("sizes", [(3, 3), (1, 4), (5, 2)])
def test_adjusted_rand_index(sizes: tuple[int, int]) -> None:
    random = np.random.default_rng(sum(sizes))
    one, other = random.integers(sizes[0], size=200), random.integers(sizes[1], size=200)
    other[:100] = one[:100] % sizes[1]
    assert adjusted_rand_index(one, other) == pytest.approx(adjusted_rand_score(one, other), abs=1e-14)
    assert adjusted_rand_index(one, (one + 1) % sizes[0]) == 1.0


def test_stability_is_the_mean_over_the_other_seeds() -> None:
    labels = list(np.random.default_rng(0).integers(3, size=(4, 50)))
    found = stabilities(["a", "a", "b", "a"], labels)
    pairs = [adjusted_rand_score(labels[0], labels[j]) for j in (1, 3)]
    assert found[0] == pytest.approx(np.mean(pairs)) and found[2] is None


def test_candidates() -> None:
    options = FitOptions(select=SelectOptions([4, 2], ["diag", "full"], criterion="held_out"))
    found = candidates_of(options)
    assert [each.name for each in found[:4]] == ["diag-4-seed0", "diag-4-seed1", "diag-4-seed2", "diag-2-seed0"]
    assert (held_out_share(options.select), n_fits(options)) == (0.1, 13)
    assert costliest(found, 10) == Candidate("full", 4, 0)
    assert [each.name for each in candidates_of(FitOptions())] == ["full-8-seed0", "full-8-seed1", "full-8-seed2"]
    sizes = [len(batch) for batch in batches(found, 10, 2 * found[0].n_statistics(10))]
    assert sum(sizes) == 12 and sizes[:2] == [2, 3] and max(sizes) < 5
    assert [len(batch) for batch in batches(found, 10, 0)] == [1] * 12
    shared = balanced([each.n_statistics(10) for each in found], 3)
    assert sorted(index for indices in shared for index in indices) == list(range(12))
    costs = [sum(found[index].n_statistics(10) for index in indices) for indices in shared]
    assert max(costs) - min(costs) <= found[6].n_statistics(10)


def leave(name: str, content: str = "not ours") -> Callable[[Path], None]:
    def prepare(out: Path) -> None:
        out.mkdir()
        (out / name).write_text(content)

    return prepare


def leave_a_fit(out: Path) -> None:
    mpigmm.fit({"model": {"n_components": 2}, "output": {"dir": str(out)}}, ROWS)


REFUSED: dict[str, tuple[str, list[str], Callable[[Path], None] | None]] = {
    "a table of another program": (r"selection.json was not written by mpigmm", [], leave("selection.json", "{}")),
    "another CSV": (r"selection.csv was not written by mpigmm", [], leave("selection.csv", "a,b")),
    "a run of fit": (r"output.dir: .* holds checkpoint.h5 of a fit", [], leave_a_fit),
    "more components than rows": (r"select.n_components: 901 components", ["select.n_components=[2,901]"], None),
    "more components than fitted rows": (
        r"select.n_components: 800 components need .* 4\d\d usable ones .*, or lower select.held_out",
        ["select.n_components=[2,800]", "select.held_out=0.5"],
        None,
    ),
    "an unknown key": (r"unknown key select.n_component; did you mean", ["select.n_component=3"], None),
    "components of no kind": (r"select.n_components: 'few' is not valid", ["select.n_components=few"], None),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_mistake_is_named(comm: Comm, tmp_path: Path, capsys: pytest.CaptureFixture[str], case: str) -> None:
    pattern, overrides, prepare = REFUSED[case]
    config = write(comm, tmp_path)
    if prepare is not None:
        prepare(tmp_path / "out")
    code, message = run_verb(comm, "select", config, *overrides)
    assert code == 2
    assert re.search(pattern, message + capsys.readouterr().err)


def begun_fits(monkeypatch: pytest.MonkeyPatch, *, interrupted_after: int = 100) -> list[str]:
    """Notes the fits that begin, and interrupts the next one after some of them."""
    begun, fit_batch = [], sweep.fit_batch

    def noting(context: Any, common: Any, batch: Any, *others: Any) -> Any:
        if len(begun) == interrupted_after:
            raise InterruptedRunError("interrupted")
        begun.append(batch[0].name)
        return fit_batch(context, common, batch, *others)

    monkeypatch.setattr(sweep, "fit_batch", noting)
    return begun


NOT_A_NUMBER, NEGATIVE = ROWS.copy(), np.ones(len(ROWS))
HELD = int(np.flatnonzero(HeldOut(0.3).split(Rows.of(ROWS), None)[1])[3])
NOT_A_NUMBER[HELD, 1], NEGATIVE[HELD] = np.nan, -1.0


@pytest.mark.parametrize(
    ("settings", "rows", "sample_weight", "message"),
    [
        ({"select": {"held_out": 0.3}}, NOT_A_NUMBER, None, f"row {HELD} of X holds NaN in column 1"),
        ({"select": {"held_out": 0.3}}, ROWS, NEGATIVE, f"row {HELD} of X has weight -1"),
        ({"init": {"method": "file", "file": "MODEL"}}, ROWS, None, "'file' belongs to one number of components"),
        ({"model": {"reg_covar": 0.1}, "output": {"dir": "DIR"}}, ROWS, None, "full-3-seed0 holds a run of another"),
    ],
)
def test_no_fit_begins_before_what_would_be_refused_after_it(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    settings: dict[str, Any],
    rows: Any,
    sample_weight: Any,
    message: str,
) -> None:
    model = tmp_path / "model.h5"
    if "init" in settings:
        mpigmm.fit({"model": {"n_components": 2}}, ROWS).mixture.save(model)
    if "output" in settings:
        mpigmm.select({"select": {"n_components": 3, "seeds": 0}, "output": {"dir": str(tmp_path)}}, ROWS)
    settings = json.loads(json.dumps(settings).replace("MODEL", str(model)).replace("DIR", str(tmp_path)))
    settings["select"] = {**settings.get("select", {}), "n_components": [2, 3], "seeds": 0}
    begun = begun_fits(monkeypatch)
    with pytest.raises(MpigmmError, match=re.escape(message)):
        mpigmm.select(settings, rows, sample_weight=sample_weight)
    assert not begun


def test_an_interrupted_restart_goes_on_without_restart(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    settings = {"select": {"n_components": [2, 3], "seeds": 0}, "output": {"dir": str(tmp_path / "out")}}
    others = {**settings, "model": {"reg_covar": 0.1}}
    mpigmm.select(settings, ROWS)
    with monkeypatch.context() as patch, pytest.raises(MpigmmError, match="interrupted"):
        begun_fits(patch, interrupted_after=1)
        mpigmm.select(others, ROWS, restart=True)
    begun = begun_fits(monkeypatch)
    result = mpigmm.select(others, ROWS)
    assert len(begun) == 2 and len(result.fits) == 2
    others["output"] = {"dir": str(tmp_path / "new")}
    assert mpigmm.select(others, ROWS).best["bic"] == result.best["bic"]


@pytest.mark.parametrize("name", ["full-2-seed0", "full-5-seed0"])
def test_an_error_after_the_last_pass_is_told(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    tell_end = sweep.tell_end

    def failing(common: Any, candidate: Candidate, recorder: Any) -> None:
        if candidate.name == name:
            raise MpigmmError(f"cannot tell of {name}")
        tell_end(common, candidate, recorder)

    monkeypatch.setattr(sweep, "tell_end", failing)
    with pytest.raises(MpigmmError, match=name):
        mpigmm.select({"select": {"n_components": [2, 5], "seeds": 0}}, ROWS)


@pytest.mark.parametrize("content", [None, '{"fits": [', '{"tile_rows": 0}'])
def test_without_its_table_a_selection_keeps_its_fits(tmp_path: Path, content: str | None) -> None:
    settings = {"select": {"n_components": [2, 3], "seeds": 0}, "output": {"dir": str(tmp_path)}}
    before, path = mpigmm.select(settings, ROWS), tmp_path / "selection.json"
    if content is not None:
        path.write_text(
            content if "tile" not in content else path.read_text().replace('"tile_rows": ', '"tile_rows": -')
        )
        with pytest.raises(MpigmmError, match=r"selection.json was not written by mpigmm, .* move it away"):
            mpigmm.select(settings, ROWS)
    path.unlink()
    after = mpigmm.select(settings, ROWS)
    drop = [{name: row[name] for name in row if name != "seconds"} for row in (*before.fits, *after.fits)]
    assert drop[:2] == drop[2:]


def test_other_settings_are_refused_and_restart_starts_over(comm: Comm, tmp_path: Path) -> None:
    config = write(comm, tmp_path)
    few = ["select.n_components=2", "select.covariance_type=full", "select.seeds=0"]
    assert run_verb(comm, "select", config, *few) == (0, "")
    code, message = run_verb(comm, "select", config, *few, "model.reg_covar=0.1")
    assert code == 2 and "full-2-seed0 holds a run of another problem: model.reg_covar was 1e-06, is 0.1" in message
    assert run_verb(comm, "select", config, *few, "model.reg_covar=0.1", "--restart") == (0, "")
    assert len(table(tmp_path / "out")) == 1
    with h5py.File(tmp_path / "out" / "model.h5") as file:
        assert json.loads(file.attrs["config"])["model"]["reg_covar"] == 0.1
