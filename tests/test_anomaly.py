"""``predict --anomaly``: the quantile is exact, whatever the weights and ties are and on any number of ranks."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from inside import run_verb
from mpi4py import MPI
from support import blobs, write_rows

from mpigmm.commands import predict
from mpigmm.core.covariances import COVARIANCE_TYPES
from mpigmm.core.mixture import Mixture
from mpigmm.core.quantile import N_PASSES, QuantileSearch, WeightUnits, exponent_bounds, ordered_keys, value_of
from mpigmm.driver import anomalies
from mpigmm.driver.anomalies import WrittenRows
from mpigmm.errors import InterruptedRunError
from mpigmm.parallel.comm import Comm
from mpigmm.parallel.mpi import MpiComm
from mpigmm.runs.model import Model
from mpigmm.runs.model_file import save_model

RANDOM = np.random.default_rng(0)
N = 600
ROWS = np.round(blobs(N, 2, 2), 0)
"""Of whole numbers, so that many rows have the same log-density."""

WEIGHTS = {
    "all one": None,
    "counts": RANDOM.integers(0, 4, N).astype(float),
    "fractions": RANDOM.random(N),
    "float32": RANDOM.random(N).astype(np.float32),
    "of all magnitudes": np.exp(80 * RANDOM.standard_normal(N)),
    "subnormal ones, too": np.where(np.arange(N) % 3, RANDOM.random(N), 5e-324 * np.arange(N)),
}
VALUES = {
    "log-densities": RANDOM.standard_normal(N) - 10,
    "ties": RANDOM.integers(-3, 3, N) / 4,
    "zeros of both signs": RANDOM.choice([-0.0, 0.0, -5e-324, 1.0], N),
    "infinities": np.where(RANDOM.random(N) < 0.3, -np.inf, RANDOM.standard_normal(N)),
    "left out": np.where(RANDOM.random(N) < 0.3, np.nan, RANDOM.standard_normal(N)),
    "of all magnitudes": RANDOM.standard_normal(N) * 10.0 ** RANDOM.integers(-300, 300, N),
    "none": np.full(N, np.nan),
}


def brute_force(share: Fraction, values: np.ndarray, weight: np.ndarray | None) -> float:
    """The least number with at least a share of the weight at or below it, from sorted numbers and rational weights."""
    weight = np.ones(len(values)) if weight is None else weight
    used = ~np.isnan(values)
    total, below = sum(map(Fraction, weight[used].tolist())), Fraction(0)
    order = np.argsort(values[used], kind="stable")
    for value, each in zip(values[used][order], weight[used][order].tolist(), strict=True):
        below += Fraction(each)
        if total and below >= share * total:
            return float(value)
    return np.nan


@pytest.mark.parametrize("weights", WEIGHTS)
@pytest.mark.parametrize("values", VALUES)
def test_a_quantile_is_that_of_sorted_numbers(values: str, weights: str) -> None:
    parts, weight = np.array_split(VALUES[values], 3), WEIGHTS[weights]
    pieces = [None] * 3 if weight is None else np.array_split(weight, 3)
    units = WeightUnits() if weight is None else WeightUnits.of(np.max([exponent_bounds(w) for w in pieces], axis=0))
    for share in map(Fraction, ("0.001", "0.1", "1/3", "0.5", "0.999")):
        search = QuantileSearch(share, units)
        for _ in range(N_PASSES):
            search.narrow(sum(search.histogram(*each) for each in zip(parts, pieces, strict=True)))
        np.testing.assert_array_equal(search.quantile, brute_force(share, VALUES[values], weight))


def test_keys_have_the_order_of_their_values() -> None:
    values = np.unique(np.concatenate([VALUES["of all magnitudes"], VALUES["infinities"], [np.inf, 0.0]]))
    keys = ordered_keys(values)
    assert (np.diff(keys.astype(object)) > 0).all()
    assert [value_of(int(key)) for key in keys] == values.tolist()


@pytest.fixture
def place(comm: Comm, shared_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory, with rows, their weights and a model, which is fitted with ``missing: drop``."""
    monkeypatch.chdir(shared_path)
    monkeypatch.setattr(anomalies, "ROWS_AT_ONCE", 100)
    if comm.is_root:
        rows = ROWS.copy()
        rows[[17, 400], [0, 1]] = np.nan, np.inf
        rows[5] = 1e139  # its log-density is -inf
        weights = {name.split()[0]: weight for name, weight in WEIGHTS.items() if weight is not None}
        write_rows(Path("x.h5"), rows, negative=-np.ones(N), zero=np.zeros(N), **weights)
        write_rows(Path("missing.h5"), np.full((9, 2), np.nan))
        mixture = Mixture(np.array([0.5, 0.5]), ROWS[:2].copy(), COVARIANCE_TYPES["spherical"](np.full(2, 1e-40)))
        save_model(Path("m.h5"), Model(mixture, config={"data": {"missing": "drop"}}))
    comm.mpi.Barrier()
    return shared_path


def found_in(path: str) -> dict[str, Any]:
    with h5py.File(path) as file:
        return {name: file[name][()] for name in file} | dict(file.attrs)


@pytest.mark.parallel
@pytest.mark.parametrize(
    "weights", [None, "counts", "of", pytest.param("fractions", id="fractions, 4 threads")], ids=lambda name: str(name)
)
def test_rows_up_to_the_quantile_are_marked(
    comm: Comm, place: Path, monkeypatch: pytest.MonkeyPatch, weights: str | None
) -> None:
    """On all ranks and on one with the same bytes; rows that are left out are not, and others even with weight 0."""
    arguments = [] if weights is None else [f"data.weights=/{weights}"]
    command = ("predict", "m.h5", "x.h5", *arguments, "--anomaly", "0.1", "compute.tile_rows=64", "compute.threads=4")
    assert run_verb(comm, *command, "--out", "a.h5") == (0, "")
    monkeypatch.setattr(MpiComm, "check_launcher", lambda self: None)
    assert run_verb(MpiComm(MPI.COMM_SELF), *command, "--out", f"{comm.rank}.h5") == (0, "")
    comm.mpi.Barrier()
    assert Path("a.h5").read_bytes() == Path(f"{comm.rank}.h5").read_bytes()
    found, weight = found_in("a.h5"), None
    if weights is not None:
        with h5py.File("x.h5") as file:
            weight = file[weights][()]
    density, marked = found["log_density"], found["anomaly"]
    threshold = brute_force(Fraction("0.1"), density, weight)
    assert found["anomaly_log_density"] == threshold and found["anomaly_quantile"] == 0.1
    assert marked.dtype == bool and (marked == (density <= threshold)).all() and marked[5]
    assert density[5] == -np.inf and np.isnan(density[[17, 400]]).all()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("x.h5", "--anomaly", "0"), "--anomaly 0 is not valid; give a share of the rows, 0 < Q < 1"),
        (("x.h5", "--anomaly", "1"), "--anomaly 1 is not valid"),
        (("x.h5", "--anomaly", "nan"), "--anomaly nan is not valid"),
        (("x.h5", "--anomaly", "0.1", "data.weights=/negative"), "row 0 of /X in x.h5 has weight -1"),
        (("x.h5", "--anomaly", "0.1", "data.weights=/zero"), "data.weights: they sum to 0, too little"),
    ],
)
def test_mistakes(comm: Comm, place: Path, arguments: tuple[str, ...], message: str) -> None:
    code, told = run_verb(comm, "predict", "m.h5", *arguments, "--out", "a.h5")
    assert code == 2 and message in told and not list(place.glob("*a.h5*"))


def test_where_no_row_has_a_density_none_is_marked(comm: Comm, place: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert run_verb(comm, "predict", "m.h5", "missing.h5", "--out", "a.h5", "--anomaly", "0.5") == (0, "")
    found = found_in("a.h5")
    assert np.isnan(found["anomaly_log_density"]) and (found["labels"] == -1).all()
    assert "a.h5: 9 rows, 9 of them left out (NaN or infinity; label -1), 0 anomalies" in capfd.readouterr().err


@pytest.mark.parallel
def test_a_command_goes_on_that_was_interrupted_before_it_marked_rows(
    comm: Comm, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It computes no log-density again, and ends with the same bytes."""
    command = ("predict", "m.h5", "x.h5", "--anomaly", "0.1", "compute.tile_rows=64", "--out")
    assert run_verb(comm, *command, "a.h5") == (0, "")
    whole = Path("a.h5").read_bytes()

    def nothing_to_do(context: Any, task: Any, new_function: Any, is_done: Any) -> None:
        assert all(map(is_done, context.block.tiles))

    mark = WrittenRows.mark
    monkeypatch.setattr(WrittenRows, "mark", lambda *arguments: comm.agree(InterruptedRunError("interrupted")))
    assert run_verb(comm, *command, "a.h5")[0] == 75
    monkeypatch.setattr(WrittenRows, "mark", mark)
    monkeypatch.setattr(predict, "for_each_posterior", nothing_to_do)
    assert run_verb(comm, *command, "a.h5") == (0, "")
    assert Path("a.h5").read_bytes() == whole
