"""Starting labels and responsibilities (``init.method: labels``): the M-step with them is the first mixture."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from inside import run_verb
from mpi4py import MPI
from sklearn.mixture._gaussian_mixture import _estimate_gaussian_parameters
from strict import StrictGpu
from support import TYPES, blobs, read_model, write_config, write_rows

import mpigmm
from mpigmm import errors
from mpigmm.api import source_of
from mpigmm.core.algorithms import initialise
from mpigmm.data.file_source import FileSource
from mpigmm.driver import devices
from mpigmm.driver.fit_rows import fit_rows
from mpigmm.driver.memory_recorder import MemoryRecorder
from mpigmm.parallel.comm import Comm, SingleProcess
from mpigmm.parallel.mpi import MpiComm
from mpigmm.parallel.stop import StopRequest
from mpigmm.rows import LABEL
from mpigmm.runs.voice import Voice
from mpigmm.settings import agreed_options

pytestmark = pytest.mark.filterwarnings("ignore::mpigmm.errors.MpigmmWarning")
N, K = 2000, 3
ROWS = blobs(N, 4, K)
RANDOM = np.random.default_rng(3)
LABELS = (ROWS[:, 0] > 0).astype(int) + (ROWS[:, 1] > 1)
RESP = RANDOM.random((N, K))
WEIGHTS = RANDOM.integers(0, 3, N).astype(float)
SOME = np.where(RANDOM.random(N) < 0.3, -1, LABELS)
SETTINGS: dict[str, Any] = {
    "model": {"n_components": K, "variance_floor": 0},
    "init": {"method": "labels"},
    "em": {"max_iter": 3, "tol": 0},
    "compute": {"tile_rows": 100},
}


def with_type(covariance_type: str, settings: dict[str, Any] = SETTINGS) -> dict[str, Any]:
    """The settings with another covariance type."""
    return {**settings, "model": {**settings["model"], "covariance_type": covariance_type}}


def first_mixture(
    settings: dict[str, Any], rows: Any = None, labels: Any = None, weights: Any = None, comm: Comm | None = None
) -> mpigmm.Mixture:
    """The mixture with which a fit begins: the result of a fit without iterations."""
    comm = comm or SingleProcess()
    options = agreed_options(comm, settings, in_memory=rows is not None)
    options = replace(options, em=replace(options.em, max_iter=0))
    source = source_of(comm, options, rows, weights, labels, is_alone=False)
    recorder = fit_rows(comm, options, source, lambda: MemoryRecorder(options, source.header, Voice()), StopRequest())
    return mpigmm.Mixture.from_model(comm.bcast(recorder.outcome).model)


def bits(mixture: mpigmm.Mixture) -> dict[str, bytes]:
    """The parameters of a mixture."""
    return {name: getattr(mixture, name).tobytes() for name in ("weights", "means", "covariances")}


def assert_m_step(mixture: mpigmm.Mixture, rows: np.ndarray, resp: np.ndarray) -> None:
    """Hold the mixture against the M-step of scikit-learn with responsibilities (n, K), zero for unlabelled rows.

    Sums larger than one are weights of the rows, which are repeated.
    """
    repeats = np.round(resp.sum(axis=1)).astype(int)
    rows, resp = (np.repeat(array, repeats, axis=0) for array in (rows, resp / np.maximum(repeats, 1)[:, None]))
    counts, means, covariances = _estimate_gaussian_parameters(rows, resp, 1e-6, mixture.covariance_type)
    np.testing.assert_allclose(mixture.weights, counts / counts.sum(), rtol=1e-10)
    np.testing.assert_allclose(mixture.means, means, rtol=1e-10, atol=1e-10)
    np.testing.assert_allclose(mixture.covariances, covariances, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("covariance_type", TYPES)
def test_the_first_mixture_is_the_m_step_of_scikit_learn(covariance_type: str) -> None:
    settings = with_type(covariance_type)
    sure = np.eye(K)[LABELS]
    assert_m_step(first_mixture(settings, ROWS, LABELS), ROWS, sure)
    assert_m_step(first_mixture(settings, ROWS, SOME), ROWS, sure * (SOME >= 0)[:, None])
    assert_m_step(first_mixture(settings, ROWS, 7 * sure), ROWS, sure)
    scaled = RESP / RESP.sum(axis=1, keepdims=True)
    assert_m_step(first_mixture(settings, ROWS, RESP), ROWS, scaled)
    assert_m_step(first_mixture(settings, ROWS, RESP, WEIGHTS), ROWS, scaled * WEIGHTS[:, None])
    absent = np.where(SOME[:, None] < 0, np.where(LABELS[:, None] == 0, np.nan, 0.0), RESP)
    assert_m_step(first_mixture(settings, ROWS, absent), ROWS, scaled * (SOME >= 0)[:, None])

    lacking = np.where((np.arange(N) % 5 == 0)[:, None], np.nan, ROWS)
    dropping = {**settings, "data": {"missing": "drop"}}
    found = first_mixture(dropping, lacking, LABELS, WEIGHTS)
    assert_m_step(found, ROWS, sure * (WEIGHTS * (np.arange(N) % 5 > 0))[:, None])


def test_labels_and_the_responsibilities_of_a_mixture() -> None:
    """What `predict` and `predict_proba` of another mixture return starts a fit; the log shows the first mixture."""
    other = mpigmm.fit({**SETTINGS, "init": {"method": "kmeans"}}, ROWS).mixture
    result = mpigmm.fit(SETTINGS, ROWS, labels=other.predict_proba(ROWS))
    assert_m_step(first_mixture(SETTINGS, ROWS, other.predict_proba(ROWS)), ROWS, other.predict_proba(ROWS))
    assert result.convergence["mean_log_likelihood"][0] > other.score(ROWS)
    assert_m_step(first_mixture(SETTINGS, ROWS, other.predict(ROWS)), ROWS, np.eye(K)[other.predict(ROWS)])


@pytest.mark.parametrize("covariance_type", TYPES)
def test_labels_of_k_means_give_its_first_mixture(covariance_type: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The sample consists of all rows, in their order."""
    seen: list[np.ndarray] = []
    partition_mixture = initialise.partition_mixture

    def note(kind: Any, sample: Any, labels: np.ndarray, *others: Any) -> Any:
        seen.append(labels)
        return partition_mixture(kind, sample, labels, *others)

    monkeypatch.setattr(initialise, "partition_mixture", note)
    of_k_means = first_mixture({**with_type(covariance_type), "init": {"method": "kmeans", "screening": False}}, ROWS)
    of_labels = first_mixture(with_type(covariance_type), ROWS, seen[0])
    for name in ("weights", "means", "covariances"):
        np.testing.assert_allclose(getattr(of_labels, name), getattr(of_k_means, name), rtol=1e-12, atol=1e-12)


def test_narrow_components_far_from_the_rest_keep_their_digits() -> None:
    """Moments about the data's centre would lose all digits of the variance: the distance is 1e9 deviations."""
    narrow = np.ldexp(np.round(1e6 * RANDOM.standard_normal((500, 2))), -40)
    rows = np.concatenate([RANDOM.standard_normal((500, 2)), 1024.0 + narrow])
    settings = {**SETTINGS, "model": {"n_components": 2, "reg_covar": 0, "variance_floor": 0}}
    mixture = first_mixture(settings, rows, np.repeat([0, 1], 500))
    np.testing.assert_allclose(mixture.covariances[1], np.cov(narrow.T, bias=True), rtol=1e-8)


def test_a_component_without_rows_is_reseeded() -> None:
    labels = np.where(LABELS == 1, 2, LABELS)
    mixture = first_mixture(SETTINGS, ROWS, labels)
    assert np.isfinite(mixture.means).all() and mixture.weights.min() > 0
    halves = np.bincount(labels).max() / N / 2
    assert np.isclose(mixture.weights, halves).sum() == 2 and np.isclose(mixture.weights[1], halves)


@pytest.fixture
def case(comm: Comm, shared_path: Path) -> dict[str, Any]:
    """Settings that read rows, weights, labels and responsibilities from two files."""
    with comm.together():
        if comm.is_root:
            for name, part in (("a.h5", slice(0, 700)), ("b.h5", slice(700, N))):
                own = {"w": WEIGHTS[part], "labels": SOME[part].astype(np.int32), "resp": RESP[part]}
                write_rows(shared_path / name, ROWS[part], **own)
    path = [str(shared_path / "a.h5"), str(shared_path / "b.h5")]
    return {**SETTINGS, "data": {"path": path, "weights": "/w"}}


def from_dataset(case: dict[str, Any], name: str, **compute: Any) -> dict[str, Any]:
    """The settings with labels in a dataset, and with other keys of `compute`."""
    init, compute = {"method": "labels", "labels": name}, {**SETTINGS["compute"], **compute}
    return {**case, "init": init, "compute": compute}


@pytest.mark.parallel
@pytest.mark.parametrize("name", ["labels", "resp"])
def test_the_bits_do_not_depend_on_ranks_threads_memory_or_devices(
    comm: MpiComm, case: dict[str, Any], name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor on whether the rows are in files or in memory, where the borders of the ranks cut tiles."""
    labels = {"labels": SOME, "resp": RESP}[name]
    expected = bits(first_mixture(SETTINGS, ROWS, labels, WEIGHTS))
    edges = [0, *[330 * rank for rank in range(comm.size - 1)], N]  # the first has none, if there are two
    own = slice(edges[comm.rank], edges[comm.rank + 1])
    strided = np.asfortranarray(ROWS)[own]  # not contiguous, so that tiles are copied
    kept = None if own.start == own.stop else labels[own].astype(np.float32 if name == "resp" else np.int16)
    assert bits(first_mixture(SETTINGS, ROWS[own], labels[own], WEIGHTS[own], comm)) == expected
    if name == "labels":
        assert bits(first_mixture(SETTINGS, strided, kept, WEIGHTS[own], comm)) == expected
    for compute in ({}, {"threads": 1}, {"memory": 1}, {"memory": 1, "threads": 3}):
        assert bits(first_mixture(from_dataset(case, f"/{name}", **compute), comm=comm)) == expected, compute
    monkeypatch.setattr(devices, "has_driver", lambda: True)
    monkeypatch.setattr(devices, "visible_gpus", lambda: ["stand-in"])
    monkeypatch.setattr(devices, "open_gpu", lambda number: StrictGpu())
    assert bits(first_mixture(from_dataset(case, f"/{name}", device="gpu"), comm=comm)) == expected


@pytest.mark.parallel
def test_a_range_of_rows_cuts_the_labels_too(comm: MpiComm, case: dict[str, Any]) -> None:
    cut = {**from_dataset(case, "/labels"), "data": {**case["data"], "rows": [650, 1250]}}
    of_files = mpigmm.fit(cut, comm=comm.mpi)
    part = slice(650, 1250)
    in_memory = mpigmm.fit(SETTINGS, ROWS[part], sample_weight=WEIGHTS[part], labels=SOME[part], comm=MPI.COMM_SELF)
    assert bits(of_files.mixture) == bits(in_memory.mixture)


@pytest.mark.parallel
def test_a_command_resumes_and_refuses_other_labels(comm: MpiComm, case: dict[str, Any], shared_path: Path) -> None:
    whole = mpigmm.fit(from_dataset(case, "/labels"), comm=comm.mpi).mixture
    with comm.together():
        if comm.is_root:
            write_config(shared_path / "run.yaml", **from_dataset(case, "/labels"), output={"dir": "out"})
    command = "fit", str(shared_path / "run.yaml"), f"output.dir={shared_path / 'out'}"
    assert run_verb(comm, *command, "em.max_iter=1") == (0, "")
    code, message = run_verb(comm, *command, "init.labels=/resp")
    assert code == 2 and "the rows of" in message and "are not those" in message
    assert run_verb(comm, *command) == (0, "")
    assert {name: array.tobytes() for name, array in read_model(shared_path / "out" / "model.h5").items()} == bits(
        whole
    )
    code, message = run_verb(comm, *command, "init.method=kmeans", "init.labels=null")
    assert code == 2 and "init.method was 'labels', is 'kmeans'" in message


@pytest.mark.parametrize("memory", ["auto", 1])
def test_iterations_do_not_read_the_labels(case: dict[str, Any], memory: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The survey reads them, and each of the two passes of the start; rows that stay in memory are read once."""
    read: dict[str, int] = dict.fromkeys(["values", "sample_weight", LABEL], 0)
    read_file = FileSource._read_file

    def count(self: FileSource, index: int, start: int, rows: Any) -> None:
        for name in rows.arrays:
            read[name] += len(rows)
        read_file(self, index, start, rows)

    monkeypatch.setattr(FileSource, "_read_file", count)
    mpigmm.fit(from_dataset(case, "/labels", memory=memory, device="cpu"))
    first = 1024  # rows from which the survey finds a centre
    assert read[LABEL] == 3 * N + first
    assert read["values"] == (N if memory == "auto" else 7 * N) + first


REFUSED = {
    "a label too large": (np.where(np.arange(N) == 901, 7, LABELS), r"row 901 of X has label 7, but a label is 0 to 2"),
    "a label too small": (np.where(np.arange(N) == 3, -2, LABELS), "row 3 of X has label -2"),
    "no label at all": (np.full(N, -1), "labels: no row that is used has a label"),
    "labels that are no integers": (LABELS.astype(float), "labels has shape .* and dtype float64; starting labels are"),
    "a label too few": (LABELS[1:], "labels has shape .*but X has 2,000 rows"),
    "a column too few": (RESP[:, :2], "responsibilities of 2 components, but model.n_components is 3"),
    "a negative responsibility": (RESP - 2.0 * (RESP[5, 1] == RESP), r"row 5 of X has responsibility -1\.\d+ of comp"),
    "an infinite responsibility": (np.where(RESP[8, 2] == RESP, np.inf, RESP), "row 8 .* responsibility inf of compon"),
    "NaN beside numbers": (np.where(RESP[8, 2] == RESP, np.nan, RESP), "row 8 .* responsibility nan of component 2"),
    "rows of zeros alone": (np.zeros((N, K)), "no row that is used has a label"),
    "three axes": (RESP[:, :, None], r"labels has shape \(2000, 3, 1\)"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_labels_that_cannot_be_used_are_refused_by_row_and_value(name: str) -> None:
    labels, message = REFUSED[name]
    with pytest.raises(errors.DataError, match=message):
        mpigmm.fit(SETTINGS, ROWS, labels=labels)


@pytest.mark.parallel
def test_a_bad_label_of_one_rank_ends_all(comm: MpiComm, case: dict[str, Any]) -> None:
    rank = comm.size - 1
    labels = np.where(np.arange(50) == 17, 7 if comm.rank == rank else 0, 1)
    where = "row 17 of X" + f" on rank {rank}" * (comm.size > 1)
    with pytest.raises(errors.DataError, match=f"labels: {where} has label 7, but a label is 0 to 2, or -1 for none"):
        mpigmm.fit(SETTINGS, ROWS[:50], labels=labels, comm=comm.mpi)
    if comm.size > 1:
        given: Any = RESP[:50] if comm.rank else labels
        with pytest.raises(errors.DataError, match=r"rank 1 gives responsibilities .*, but rank 0 a label a row"):
            mpigmm.fit(SETTINGS, ROWS[:50], labels=given, comm=comm.mpi)
        with pytest.raises(errors.ConfigError, match=r"labels are missing: init\.method is 'labels'"):
            mpigmm.fit(SETTINGS, ROWS[:50], labels=None if comm.rank else labels, comm=comm.mpi)


def test_labels_without_their_method_and_the_other_way_round(case: dict[str, Any]) -> None:
    k_means = {**SETTINGS, "init": {"method": "kmeans"}}
    for settings, arrays, message in (
        (k_means, {"X": ROWS, "labels": LABELS}, "labels: they are given, but init.method is 'kmeans'"),
        (SETTINGS, {"X": ROWS}, "labels are missing: init.method is 'labels'"),
        (from_dataset(case, "/labels"), {"labels": LABELS}, "init.labels names the labels"),
        ({**SETTINGS, "init": {"method": "labels", "labels": "/l"}}, {"X": ROWS, "labels": LABELS}, "given as X"),
        ({**case, "init": {"method": "labels"}}, {}, "init.labels is missing: init.method is 'labels'"),
        ({**case, "init": {"labels": "/labels"}}, {}, "init.labels is set but init.method is 'kmeans'"),
        ({**SETTINGS, "init": {"method": "labels", "n_init": 2}}, {"X": ROWS, "labels": LABELS}, "init.n_init"),
    ):
        with pytest.raises(errors.ConfigError, match=message):
            mpigmm.fit(settings, **arrays)


def test_datasets_that_are_no_labels(case: dict[str, Any], tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.h5", "a") as file:
        file["float"], file["few"], file["kind"] = WEIGHTS[:700], LABELS[:699], SOME[:700]
    with h5py.File(tmp_path / "b.h5", "a") as file:
        file["float"], file["few"], file["kind"] = WEIGHTS[700:], LABELS[700:], RESP[700:]
    for name, message in (
        ("/none", "/none"),
        ("/float", r"init.labels: /float in .*a\.h5 has shape \(700,\) and dtype float64; starting labels are"),
        ("/few", r"init.labels: /few in .*a\.h5 has shape \(699,\), but /X has 700 rows"),
        ("/kind", r"init.labels: .*b\.h5 has responsibilities .*, but .*a\.h5 has a label a row"),
        ("/X", "init.labels: it holds responsibilities of 4 components, but model.n_components is 3"),
    ):
        with pytest.raises(errors.DataError, match=message):
            mpigmm.fit(from_dataset(case, name))


def test_a_rank_without_rows_needs_no_labels() -> None:
    with pytest.raises(errors.DataError, match="need at least as many rows"):
        mpigmm.fit(SETTINGS, ROWS[:0], labels=[])


def test_plan_knows_that_labels_need_no_sample(
    comm: Comm, case: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_config(tmp_path / "run.yaml", **from_dataset(case, "/labels"))
    assert run_verb(comm, "plan", str(tmp_path / "run.yaml")) == (0, "")
    assert "init.method" not in capsys.readouterr().out


def test_select_takes_no_labels(case: dict[str, Any], comm: Comm, tmp_path: Path) -> None:
    write_config(tmp_path / "run.yaml", **from_dataset(case, "/labels"))
    code, message = run_verb(comm, "select", str(tmp_path / "run.yaml"))
    assert code == 2 and "init.method: 'labels' belongs to one number of components" in message
    with pytest.raises(errors.ConfigError, match="belongs to one number of components"):
        mpigmm.select(SETTINGS, ROWS)
