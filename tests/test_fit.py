"""``fit`` end to end, in this process, on as many ranks as run the tests."""

from __future__ import annotations

import json
import os
import re
import time
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import yaml
from sklearn.mixture import GaussianMixture
from support import TYPES, assert_same_bits, blobs, read_lines, read_model, write_config, write_rows

from mpigmm.__main__ import serve
from mpigmm.core.algorithms.batch import BatchEM
from mpigmm.driver import e_step, recorder
from mpigmm.errors import AgreedError, OutputError
from mpigmm.parallel.comm import Comm
from mpigmm.parallel.stop import StopRequest
from mpigmm.runs.checkpoint import Checkpoint, load_checkpoint

pytestmark = pytest.mark.parallel
ROWS = blobs(5000, 3, 4)


class Case:
    """A data file, a config, and a directory, the same for all ranks."""

    def __init__(self, comm: Comm, path: Path) -> None:
        self.comm, self.path = comm, path
        self.config = path / "run.yaml"
        if comm.is_root:
            write_rows(path / "x.h5", ROWS, w=np.arange(len(ROWS)) % 4)
            write_config(
                self.config,
                data={"path": str(path / "x.h5")},
                model={"n_components": 4},
                compute={"tile_rows": 256},
                output={"dir": str(path / "out")},
            )
        comm.mpi.Barrier()

    def fit(self, *arguments: str) -> Path:
        """Run fit on all ranks; its directory."""
        assert serve(self.comm, ["fit", str(self.config), *arguments], StopRequest()) == 0
        overrides = dict(argument.split("=", 1) for argument in arguments if "=" in argument)
        return Path(overrides.get("output.dir", str(self.path / "out")))

    def refused(self, *arguments: str) -> str:
        """Run fit on all ranks, which all fail alike; the message."""
        with pytest.raises(AgreedError) as caught:
            self.fit(*arguments)
        assert caught.value.exit_code == 2
        messages = self.comm.mpi.allgather(str(caught.value))
        assert len(set(messages)) == 1
        return messages[0]


@pytest.fixture
def case(comm: Comm, shared_path: Path) -> Case:
    return Case(comm, shared_path)


def summary(directory: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((directory / "summary.json").read_text())
    return found


@pytest.mark.parametrize("covariance_type", TYPES)
def test_a_fit_leaves_what_the_contract_says(case: Case, covariance_type: str) -> None:
    out = case.fit(f"model.covariance_type={covariance_type}")
    lines, told = read_lines(out / "convergence.jsonl"), summary(out)
    assert [line["iteration"] for line in lines] == list(range(1, told["n_iter"] + 1))
    assert lines[0]["change"] is None and lines[0]["init"] == 0
    assert told["converged"] and abs(lines[-1]["change"]) < 1e-4
    assert told["n_ranks"] == case.comm.size and told["reproducible"] and told["resumed_from"] is None
    assert {"seconds_read", "seconds_compute", "seconds_communicate", "imbalance", "floored", "reseeded"} < set(
        lines[0]
    )
    with h5py.File(out / "model.h5") as file:
        assert file.attrs["covariance_type"] == covariance_type
        assert file.attrs["n_samples"] == len(ROWS)
        stored = file.attrs["mean_log_likelihood"]
    model, parameters = GaussianMixture(4, covariance_type=covariance_type), read_model(out / "model.h5")
    model.weights_, model.means_, model.covariances_ = parameters.values()
    dense = covariance_type in ("full", "tied")
    model.precisions_cholesky_ = (
        np.swapaxes(np.linalg.inv(np.linalg.cholesky(model.covariances_)), -1, -2)
        if dense
        else 1 / np.sqrt(model.covariances_)
    )
    assert stored == pytest.approx(model.score(ROWS), rel=1e-10)
    assert (told["aic"], told["bic"]) == pytest.approx((model.aic(ROWS), model.bic(ROWS)))
    config = yaml.safe_load((out / "config.yaml").read_text())
    assert config["model"]["covariance_type"] == covariance_type and config["em"]["max_iter"] == 100


def test_one_reduction_an_iteration_and_no_other_collective(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []

    class Counting:
        """A communicator that notes the names of its methods as they are called."""

        def __init__(self, mpi: Any) -> None:
            self.mpi = mpi

        def __getattr__(self, name: str) -> Any:
            method = getattr(self.mpi, name)
            if not callable(method):
                return method

            def counted(*arguments: Any, **options: Any) -> Any:
                calls.append(name)
                return method(*arguments, **options)

            return counted

    per_iteration: list[list[str]] = []
    update = BatchEM.update

    def noted(*arguments: Any) -> Any:
        per_iteration.append(calls.copy())
        calls.clear()
        return update(*arguments)

    monkeypatch.setattr(BatchEM, "update", noted)
    monkeypatch.setattr(case.comm, "mpi", Counting(case.comm.mpi))
    case.fit("em.max_iter=6", "em.tol=0", "output.checkpoint_iterations=2")
    assert len(per_iteration) == 6
    assert per_iteration[1:] == [["Allreduce"]] * 5


def test_weights_and_selection(case: Case) -> None:
    out = case.fit("data.weights=/w", "data.columns=[2,0]", "data.rows=[100,4100]", "em.max_iter=5")
    told = summary(out)
    assert told["n_samples"] == 3000
    assert told["n_features"] == 2
    assert read_model(out / "model.h5")["means"].shape == (4, 2)


def test_missing_rows_are_dropped(case: Case, capfd: pytest.CaptureFixture[str]) -> None:
    if case.comm.is_root:
        rows = ROWS.copy()
        rows[[3, 999, 4000], [0, 1, 2]] = np.nan, np.inf, np.nan
        write_rows(case.path / "holes.h5", rows)
        write_rows(case.path / "without.h5", np.delete(rows, [3, 999, 4000], axis=0))
        write_rows(case.path / "start.h5", ROWS[:0])
    case.comm.mpi.Barrier()
    dropped = case.fit(f"data.path={case.path / 'holes.h5'}", "data.missing=drop", "em.max_iter=30", "em.tol=0")
    assert summary(dropped)["n_samples"] == 4997 and summary(dropped)["n_dropped"] == 3
    told = "3 of 5,000 rows hold NaN or infinity and are left out (data.missing: drop)\n"
    assert capfd.readouterr().err.count(told) == case.comm.is_root
    message = case.refused(f"data.path={case.path / 'holes.h5'}", f"output.dir={case.path / 'other'}")
    assert "row 3 of /X in" in message and "NaN in column 0" in message and "data.missing: drop" in message
    without = case.fit(
        f"data.path={case.path / 'without.h5'}", f"output.dir={case.path / 'o2'}", "em.tol=0", "em.max_iter=30"
    )
    np.testing.assert_allclose(
        np.sort(read_model(dropped / "model.h5")["weights"]),
        np.sort(read_model(without / "model.h5")["weights"]),
        rtol=1e-3,
    )


def test_mostly_masked_rows_still_give_a_start(case: Case) -> None:
    if case.comm.is_root:
        weights = np.zeros(60_000)
        weights[::1500] = 1.0
        write_rows(case.path / "few.h5", np.tile(ROWS, (12, 1)), w=weights)
    case.comm.mpi.Barrier()
    out = case.fit(f"data.path={case.path / 'few.h5'}", "data.weights=/w", "em.max_iter=3", "compute.tile_rows=auto")
    assert summary(out)["n_samples"] == 40


@pytest.mark.parametrize("method", ["kmeans", "kmeans++", "random"])
def test_restarts_keep_the_best(case: Case, method: str) -> None:
    options = [f"init.method={method}", "em.max_iter=4", "em.tol=0"]
    several = case.fit(*options, "init.n_init=3", "init.screening=false", f"output.dir={case.path / 'several'}")
    lines = read_lines(several / "convergence.jsonl")
    assert [(line["init"], line["iteration"]) for line in lines] == [(i, j) for i in range(3) for j in range(1, 5)]
    best = summary(several)
    assert best["mean_log_likelihood"] >= max(line["mean_log_likelihood"] for line in lines) - 1e-12
    assert best["n_iter"] == 4


def test_a_start_from_a_model_file(case: Case) -> None:
    first = case.fit("em.max_iter=5", "em.tol=0", f"output.dir={case.path / 'first'}")
    warm = ["init.method=file", f"init.file={first / 'model.h5'}"]
    second = case.fit(*warm, "em.max_iter=5", "em.tol=0", f"output.dir={case.path / 'second'}")
    whole = case.fit("em.max_iter=10", "em.tol=0", f"output.dir={case.path / 'whole'}")
    assert_same_bits(read_model(second / "model.h5"), read_model(whole / "model.h5"))
    assert "n_components 4, but model.n_components is 5" in case.refused(*warm, "model.n_components=5")
    assert "features, but /X has 2 columns" in case.refused(*warm, "data.columns=[0,1]")


def test_finished_runs_say_so_and_go_on_when_asked(case: Case, capfd: pytest.CaptureFixture[str]) -> None:
    out = case.fit("em.max_iter=7", "em.tol=0")
    before = read_model(out / "model.h5")
    capfd.readouterr()
    case.fit("em.max_iter=7", "em.tol=0")
    if case.comm.is_root:
        assert "is finished already; add --restart to start over" in capfd.readouterr().err
    assert_same_bits(before, read_model(out / "model.h5"))
    case.fit("em.max_iter=12", "em.tol=0")
    assert summary(out)["resumed_from"] == 7
    straight = case.fit("em.max_iter=12", "em.tol=0", f"output.dir={case.path / 'straight'}")
    assert_same_bits(read_model(out / "model.h5"), read_model(straight / "model.h5"))
    kept = ("iteration", "mean_log_likelihood", "change")
    logs = [[{k: line[k] for k in kept} for line in read_lines(d / "convergence.jsonl")] for d in (out, straight)]
    assert logs[0] == logs[1]


class SuddenEndError(Exception):
    """Stands for a run's sudden end."""


@pytest.mark.parametrize("stop_after", [1, 4, 5, 9, 13])
def test_a_run_cut_off_anywhere_resumes_to_the_same_bits(
    case: Case, stop_after: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = [
        "em.max_iter=7",
        "em.tol=0",
        "init.n_init=2",
        "init.screening=false",
        "output.checkpoint_iterations=2",
        "data.weights=/w",
    ]
    straight = case.fit(*options, f"output.dir={case.path / 'straight'}")
    done, update = [], BatchEM.update

    def interrupted(*arguments: Any) -> Any:
        if len(done) == stop_after:
            raise SuddenEndError
        done.append(1)
        return update(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(BatchEM, "update", interrupted)
        with pytest.raises(SuddenEndError):
            case.fit(*options)
    out = case.fit(*options)
    assert_same_bits(read_model(out / "model.h5"), read_model(straight / "model.h5"))
    kept = ("init", "iteration", "mean_log_likelihood", "change")
    logs = [[{k: line[k] for k in kept} for line in read_lines(d / "convergence.jsonl")] for d in (out, straight)]
    assert logs[0] == logs[1]


def test_another_problem_in_the_same_directory_is_refused(case: Case) -> None:
    out = case.fit("em.max_iter=3")
    before = read_model(out / "model.h5")
    message = case.refused("em.max_iter=3", "model.n_components=5", "init.seed=3")
    assert "model.n_components was 4, is 5" in message and "init.seed was 0, is 3" in message
    assert "--restart" in message
    assert "5000x3" in case.refused("data.rows=[0,100]") or "data.rows" in case.refused("data.rows=[0,100]")
    assert_same_bits(before, read_model(out / "model.h5"))
    case.fit("--restart", "model.n_components=5", "em.max_iter=3")
    assert read_model(out / "model.h5")["weights"].shape == (5,)


def test_several_starts_that_would_go_on_are_refused(case: Case) -> None:
    several = ["init.n_init=2", "init.screening=false"]
    out = case.fit(*several, "em.max_iter=3")
    message = case.refused(*several, "em.max_iter=5")
    assert "start 1 of" in message and "after 3 iterations" in message and "--restart" in message
    case.fit(*several, "em.max_iter=2", "output.checkpoint_iterations=3")
    case.fit(*several, "em.max_iter=5", "--restart")
    assert summary(out)["n_iter"] == 5


@pytest.mark.parametrize("told_by", ["output.walltime", "SLURM_JOB_END_TIME"])
def test_a_run_stops_ahead_of_the_end_of_its_time(case: Case, monkeypatch: pytest.MonkeyPatch, told_by: str) -> None:
    options, begin = ["em.tol=0", "em.max_iter=1000000"], time.time()
    if told_by == "output.walltime":
        options.append("output.walltime=3")
    else:
        monkeypatch.setenv(told_by, f"{begin + 4:.0f}")
    with pytest.raises(AgreedError, match="stopped ahead of the end of its time after iteration") as caught:
        case.fit(*options)
    assert caught.value.exit_code == 75 and time.time() < begin + 4.5
    iteration = saved_iteration(case.path / "out")
    assert len(read_lines(case.path / "out" / "convergence.jsonl")) == iteration
    saved = f"{iteration}, which is saved in {case.path / 'out' / 'checkpoint.h5'}; run the same command again"
    assert saved in str(caught.value)


def test_an_end_that_has_passed_is_ignored(
    case: Case, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SLURM_JOB_END_TIME", f"{time.time() - 1:.0f}")
    case.fit("em.max_iter=2")
    assert ("SLURM_JOB_END_TIME has passed" in capsys.readouterr().err) == case.comm.is_root


def saved_iteration(directory: Path) -> int:
    found, _ = load_checkpoint(directory)
    assert found is not None
    return found.progress.iteration


def test_a_full_disk_costs_a_warning_and_the_run_catches_up(
    case: Case, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    straight = case.fit(f"output.dir={case.path / 'straight'}", "em.max_iter=9", "em.tol=0")
    capsys.readouterr()
    save, saved = recorder.save_checkpoint, []

    def sometimes(directory: Path, checkpoint: Checkpoint) -> None:
        if checkpoint.progress.iteration in (3, 4, 7):
            raise OutputError("checkpoint.h5 cannot be written (No space left on device); free some space")
        saved.append(checkpoint.progress.iteration)
        save(directory, checkpoint)

    monkeypatch.setattr(recorder, "save_checkpoint", sometimes)
    out = case.fit("em.max_iter=9", "em.tol=0", "output.checkpoint_iterations=1")
    assert saved == ([0, 1, 2, 5, 6, 8, 9, 9] if case.comm.is_root else [])
    assert capsys.readouterr().err.count("free some space; the run goes on") == 2 * case.comm.is_root
    assert_same_bits(read_model(out / "model.h5"), read_model(straight / "model.h5"))


def test_changed_data_are_refused_and_copied_data_are_not(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    case.fit("em.max_iter=3", "em.tol=0")
    if case.comm.is_root:
        changed = ROWS.copy()
        changed[4321, 1] += 1e-9
        write_rows(case.path / "changed.h5", changed)
        write_rows(case.path / "copy.h5", ROWS)
    case.comm.mpi.Barrier()
    message = case.refused("em.max_iter=5", "em.tol=0", f"data.path={case.path / 'changed.h5'}")
    assert "are not those that" in message and "--restart" in message
    case.fit("em.max_iter=5", "em.tol=0", f"data.path={case.path / 'copy.h5'}")


def test_more_ranks_than_tiles_one_row_one_feature(case: Case) -> None:
    if case.comm.is_root:
        write_rows(case.path / "one.h5", np.array([4.0]))
    case.comm.mpi.Barrier()
    out = case.fit(f"data.path={case.path / 'one.h5'}", "model.n_components=1", "model.reg_covar=1e-3")
    assert read_model(out / "model.h5")["means"].tolist() == [[4.0]]


def test_an_error_on_one_rank_ends_all(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    if case.comm.rank == case.comm.size - 1:

        def broken(*arguments: Any) -> Any:
            raise ValueError("inside the mathematics")

        monkeypatch.setattr(e_step, "add_tiles", broken)
    with pytest.raises(AgreedError, match="inside the mathematics") as caught:
        case.fit()
    assert caught.value.exit_code == 1
    assert f"rank {case.comm.size - 1} failed" in str(caught.value)


def test_ranks_that_drifted_apart_are_noticed(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    if case.comm.size == 1:
        pytest.skip("one rank cannot differ from itself")
    answer_requests, calls = e_step.answer_requests, []

    def drifting(reduction: Any, requests: Any) -> Any:
        calls.append(1)
        if len(calls) == 3 and reduction.context.comm.rank == 1:
            means = requests[0].e_step_pass.mixture.means
            means[0, 0] = np.nextafter(means[0, 0], np.inf)
        return answer_requests(reduction, requests)

    monkeypatch.setattr(e_step, "answer_requests", drifting)
    with pytest.raises(AgreedError, match="ranks hold different parameters"):
        case.fit()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["data.path=/no/such/file.h5"], "does not exist"),
        (["data.dataset=/Y"], "has no dataset /Y; it has /X, /w"),
        (["model.n_components=6000"], "model.n_components: 6000"),
        (["data.weights=/none"], "has no dataset /none"),
        (["data.columns=[0,3]"], "data.columns: .3.; /X has columns 0 to 2"),
        (["data.columns=[1,1]"], "twice"),
        (["data.rows=[10,9000]"], "data.rows: .10, 9000. is not a range"),
        (["output.dir=/proc/nothing"], "output.dir: /proc/nothing cannot be written to"),
        (["init.method=file", "init.file=/no/model.h5"], "/no/model.h5 cannot be read"),
    ],
)
def test_mistakes_end_all_ranks_with_one_message(case: Case, arguments: list[str], message: str) -> None:
    assert re.search(message, case.refused(*arguments))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("cube", "has shape .* a matrix"),
        ("text", "has dtype"),
        ("group", "is a group"),
        ("complex", "has dtype complex"),
        ("nothing", "needs? .*rows|at least"),
    ],
)
def test_datasets_that_are_no_matrix(case: Case, name: str, message: str) -> None:
    if case.comm.is_root:
        with h5py.File(case.path / "odd.h5", "w") as file:
            file["cube"], file["complex"] = np.zeros((3, 3, 3)), np.zeros((4, 2), complex)
            file["text"] = np.array([[b"a"], [b"b"]])
            file["group/inner"], file["nothing"] = 1, np.zeros((0, 3))
    case.comm.mpi.Barrier()
    assert re.search(message, case.refused(f"data.path={case.path / 'odd.h5'}", f"data.dataset=/{name}"))


def test_bad_weights(case: Case) -> None:
    if case.comm.is_root:
        bad = np.ones(len(ROWS))
        bad[4100] = -2
        write_rows(case.path / "bad.h5", ROWS, negative=bad, short=np.ones(10))
    case.comm.mpi.Barrier()
    path = f"data.path={case.path / 'bad.h5'}"
    assert "row 4,100 of /X" in (message := case.refused(path, "data.weights=/negative")) and "weight -2" in message
    assert "has shape (10,), but /X has 5,000 rows" in case.refused(path, "data.weights=/short")


def test_a_constant_feature_needs_regularisation(case: Case) -> None:
    if case.comm.is_root:
        write_rows(case.path / "constant.h5", np.column_stack([ROWS, np.full(len(ROWS), 7.0)]))
    case.comm.mpi.Barrier()
    path = f"data.path={case.path / 'constant.h5'}"
    message = case.refused(path, "model.reg_covar=0")
    assert "column 3" in message and "model.reg_covar" in message
    case.fit(path, "em.max_iter=3")


@pytest.mark.parametrize("scale", [1e-150, 1e-165])
def test_a_feature_too_narrow_to_square_is_not_called_constant(case: Case, scale: float) -> None:
    if case.comm.is_root:
        write_rows(case.path / "narrow.h5", ROWS * [1, scale, 1])
    case.comm.mpi.Barrier()
    path = f"data.path={case.path / 'narrow.h5'}"
    assert "column 1 of /X varies by less than float64 can square" in case.refused(path, "model.reg_covar=0")
    case.fit(path, "em.max_iter=3")


@pytest.mark.parametrize("covariance_type", ["full", "tied"])
def test_a_floor_that_acts_for_ever_is_named_at_the_end(
    case: Case, covariance_type: str, capfd: pytest.CaptureFixture[str]
) -> None:
    if case.comm.is_root:
        rows = ROWS.copy()
        rows[1234, 2] = 9.97e36
        write_rows(case.path / "filled.h5", rows)
    case.comm.mpi.Barrier()
    path, kind = f"data.path={case.path / 'filled.h5'}", f"model.covariance_type={covariance_type}"
    case.fit(path, kind, "em.max_iter=3")
    if case.comm.is_root:
        told = capfd.readouterr().err
        whose = "the covariance of component 0, 1, 2, 3" if covariance_type == "full" else "the tied covariance"
        assert (
            f"the last one raised {whose} to model.variance_floor (1e-12)" in told and "raise em.max_iter" not in told
        )
        assert "model.reg_covar" in told


def test_damaged_files(case: Case) -> None:
    if case.comm.is_root:
        whole = (case.path / "x.h5").read_bytes()
        (case.path / "torn.h5").write_bytes(whole[: len(whole) // 2])
        (case.path / "noise.h5").write_bytes(np.random.default_rng(0).bytes(5000))
    case.comm.mpi.Barrier()
    for name in ("torn", "noise"):
        assert "cannot be opened as HDF5" in case.refused(f"data.path={case.path / name}.h5")


def test_a_fill_value_is_a_warning(case: Case, capfd: pytest.CaptureFixture[str]) -> None:
    if case.comm.is_root:
        rows = ROWS.copy()
        rows[1234, 2] = 9.97e36
        write_rows(case.path / "filled.h5", rows)
    case.comm.mpi.Barrier()
    out = case.fit(f"data.path={case.path / 'filled.h5'}", "em.max_iter=5")
    if case.comm.is_root:
        told = capfd.readouterr().err
        assert told.count("warning: row 1,234 of /X") == 1 and "9.97e+36 in column 2" in told
    assert all(np.isfinite(values).all() for values in read_model(out / "model.h5").values())


def test_file_names_with_spaces_and_quotes(case: Case) -> None:
    if case.comm.is_root:
        write_rows(case.path / "odd 'näme' [x] #1.h5", ROWS)
    case.comm.mpi.Barrier()
    name = json.dumps(str(case.path / "odd 'näme' [x] #1.h5"))
    case.fit(f"data.path={name}", "em.max_iter=2")


def test_absent_rows_ahead_of_the_others_change_nothing(case: Case) -> None:
    """Not even the centre of the tiles, whatever stands in them."""
    if case.comm.is_root:
        absent = np.full((2000, 3), 9.97e36)
        weights = np.concatenate([np.zeros(2000), np.ones(len(ROWS))])
        write_rows(case.path / "absent.h5", np.concatenate([absent, ROWS]), w=weights)
        absent[:, 0] = np.nan
        write_rows(case.path / "missing.h5", np.concatenate([absent, ROWS]))
        write_rows(case.path / "plain.h5", ROWS)
    case.comm.mpi.Barrier()
    found = []
    for name, option in (
        ("plain", "data.weights=null"),
        ("absent", "data.weights=/w"),
        ("missing", "data.missing=drop"),
    ):
        out = case.fit(f"data.path={case.path / name}.h5", option, f"output.dir={case.path / name}", "em.max_iter=40")
        found.append(summary(out)["mean_log_likelihood"])
    assert found[1:] == pytest.approx([found[0]] * 2, rel=1e-3)


def test_a_finished_run_is_finished_for_its_own_data_alone(case: Case) -> None:
    case.fit("em.max_iter=3")
    if case.comm.is_root:
        write_rows(case.path / "other.h5", ROWS[::-1])
    case.comm.mpi.Barrier()
    assert "are not those that" in case.refused("em.max_iter=3", f"data.path={case.path / 'other.h5'}")


def test_another_start_is_another_problem(case: Case) -> None:
    starts = [case.fit("em.max_iter=1", f"init.seed={seed}", f"output.dir={case.path / str(seed)}") for seed in (0, 1)]
    warm = [["init.method=file", f"init.file={start / 'model.h5'}", "em.max_iter=2"] for start in starts]
    case.fit(*warm[0])
    assert "init.file was 'content" in case.refused(*warm[1])


def test_weights_too_small_to_sum(case: Case) -> None:
    if case.comm.is_root:
        write_rows(case.path / "tiny.h5", ROWS, w=np.full(len(ROWS), 1e-200))
    case.comm.mpi.Barrier()
    assert "data.weights: they sum to" in case.refused(f"data.path={case.path / 'tiny.h5'}", "data.weights=/w")


def test_special_files_are_refused(case: Case) -> None:
    if case.comm.is_root:
        os.mkfifo(case.path / "fifo")
    case.comm.mpi.Barrier()
    assert "is not a regular file" in case.refused(f"data.path={case.path / 'fifo'}")
    start = ["init.method=file", f"init.file={case.path / 'fifo'}"]
    assert "is not a regular file" in case.refused(*start)
