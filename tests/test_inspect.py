"""``inspect``: tables that fit a line, JSON in full precision, and no MPI."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import h5py
import numpy as np
import pyarrow.parquet
import pytest
from support import TYPES, blobs, launch, write_rows

from mpigmm.commands.inspect import content_text
from mpigmm.commands.predict import run as predict
from mpigmm.core.mixture import Mixture
from mpigmm.errors import DataError
from mpigmm.parallel.comm import SingleProcess
from mpigmm.parallel.stop import StopRequest
from mpigmm.requests import PREDICTED, PredictRequest
from mpigmm.row_arguments import rows_request
from mpigmm.runs.component_table import MOST_COMPONENTS, component_table
from mpigmm.runs.guarded import never
from mpigmm.runs.model import Model
from mpigmm.runs.model_file import save_model
from mpigmm.runs.text_table import listed


def mixture_of(kind: str, n_components: int, n_features: int, scale: float = 1.0) -> Mixture:
    """A mixture with random parameters."""
    random = np.random.default_rng(3)
    factors = random.standard_normal((n_components, n_features, n_features)) + 2 * np.eye(n_features)
    full = scale**2 * factors @ factors.transpose(0, 2, 1)
    covariances = {
        "full": (full + full.transpose(0, 2, 1)) / 2,
        "tied": (full[0] + full[0].T) / 2,
        "diag": np.diagonal(full, axis1=1, axis2=2),
        "spherical": full[:, 0, 0],
    }[kind]
    weights = random.dirichlet(np.ones(n_components))
    means = scale * random.standard_normal((n_components, n_features))
    return Mixture.from_arrays(kind, {"weights": weights, "means": means, "covariances": covariances})


@pytest.mark.parametrize("kind", TYPES)
def test_condition_numbers_are_numpys(kind: str) -> None:
    mixture = mixture_of(kind, 3, 4)
    expected = [np.linalg.cond(matrix) for matrix in mixture.covariance_matrices(np.arange(4))]
    assert mixture.condition_numbers == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize(("n_components", "n_features"), [(1, 1), (4, 3), (2, 100), (200, 2)])
@pytest.mark.parametrize("scale", [1e-120, 1.0, 1e6])
def test_a_table_of_any_mixture_fits_a_line(kind: str, n_components: int, n_features: int, scale: float) -> None:
    mixture = mixture_of(kind, n_components, n_features, scale)
    lines = component_table(mixture, 10**9, ["a name that does not end"] * n_features)
    assert max(map(len, lines)) <= 100
    n_shown = min(n_components, MOST_COMPONENTS)
    rows = [line.split() for line in lines[2 : 2 + n_shown]]
    weights = [mixture.weights[int(row[0])] for row in rows]
    assert [float(row[1]) for row in rows] == pytest.approx(weights, rel=1e-4)
    assert [float(row[2].replace(",", "")) for row in rows] == pytest.approx(np.multiply(weights, 1e9), rel=1e-6)
    assert [float(row[4]) for row in rows] == pytest.approx(mixture.means[[int(row[0]) for row in rows], 0], rel=1e-4)
    if n_shown < n_components:
        assert weights == sorted(mixture.weights, reverse=True)[:n_shown]
        assert lines[-1].startswith(f"shown are the {n_shown} largest of {n_components} components")
    assert n_features < 100 or "of 100 features; --json prints all" in lines[-1]


def test_a_model_for_people_and_as_json(tmp_path: Path) -> None:
    mixture, path = mixture_of("full", 2, 3), tmp_path / "model.h5"
    config = {"data": {"path": "x.h5", "missing": "error"}, "em": {"tol": 1e-9, "reseed": True}, "of old": {"a": None}}
    save_model(path, Model(mixture, 1000, -1.25, 7, True, config, ("energy", "length", "width")))
    text = content_text(path, False, never)
    assert "\niterations           7, converged\nsettings             data.path: x.h5\n" in text
    assert "em.tol: 1e-09\n" in text and "of old.a: null" in text and "missing" not in text and "reseed" not in text
    assert "\nfeatures             3: energy, length, width\n" in text
    assert "energy length width energy length width" in " ".join(text.split())
    facts = json.loads(content_text(path, True, never))
    assert facts["means"] == mixture.means.tolist() and facts["config"] == config
    assert facts["standard_deviations"] == np.sqrt(mixture.variances).tolist()
    assert facts["condition_numbers"] == mixture.condition_numbers.tolist()


def test_what_a_foreign_model_does_not_say_is_left_out(tmp_path: Path) -> None:
    save_model(tmp_path / "model.h5", Model(mixture_of("diag", 2, 2)))
    text = content_text(tmp_path / "model.h5", False, never)
    assert not any(word in text for word in ("nan", "rows", "iterations", "settings", "size"))
    assert json.loads(content_text(tmp_path / "model.h5", True, never))["mean_log_likelihood"] is None


def test_rows_and_predictions_in_words(tmp_path: Path) -> None:
    rows, model, out = tmp_path / "rows.h5", tmp_path / "model.h5", tmp_path / "labels.h5"
    with h5py.File(write_rows(rows, blobs(50, 2, 2)), "a") as file:
        file["X"].attrs["columns"] = ["energy", "length"]
        file["u"] = h5py.Empty("f8")
    text = content_text(rows, False, never)
    assert "/X       50 x 2     float64  -       columns energy, length\n/u       no values" in text
    assert json.loads(content_text(rows, True, never))["datasets"]["/X"]["columns"] == ["energy", "length"]
    save_model(model, Model(mixture_of("full", 2, 2)))
    request = PredictRequest(str(model), rows_request([str(rows)], "/X"), str(out), proba=2, anomaly=0.1)
    predict(SingleProcess(), request, StopRequest())
    with h5py.File(out) as file:
        assert set(file) == set(PREDICTED)
    text = content_text(out, False, never)
    assert all(words in text for words in PREDICTED.values())


def test_rows_without_datasets(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", blobs(50, 3, 2))
    assert json.loads(content_text(tmp_path / "x.npy", True, never))["n_samples"] == 50
    assert "n_features  3\n" in content_text(tmp_path / "x.npy", False, never)
    table = pyarrow.table({"energy": np.zeros(5), "name": ["a"] * 5})
    pyarrow.parquet.write_table(table, tmp_path / "x.parquet")
    assert "\n\ncolumn  type\nenergy  double\nname    string" in content_text(tmp_path / "x.parquet", False, never)
    (tmp_path / "x.csv").write_text("a,b\n1,2\n")
    with pytest.raises(DataError, match="make it HDF5 with: mpigmm convert"):
        content_text(tmp_path / "x.csv", False, never)


def test_long_lists_are_shortened() -> None:
    names = [f"feature {i}" for i in range(100)]
    assert listed(names[:3]) == "feature 0, feature 1, feature 2"
    assert listed(names, 40) == "feature 0, feature 1, ..., feature 99"
    assert listed(["x" * 100], 20) == f"{'x' * 16} ..."


@pytest.mark.parametrize("n_ranks", [0, 3])
def test_no_mpi_is_loaded_and_one_process_answers(tmp_path: Path, n_ranks: int) -> None:
    path = write_rows(tmp_path / "rows.h5", blobs(50, 2, 2))
    code = "import sys; sys.modules['mpi4py'] = None; from mpigmm.__main__ import main; main()"
    done = launch(n_ranks, [sys.executable, "-c", code, "inspect", str(path)], 30)
    assert (done.returncode, done.stderr) == (0, "") and done.stdout.count("50 x 2") == 1
