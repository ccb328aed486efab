"""``bench`` and the rows that it draws."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from bench_iterations import KeptRuns, Runs
from bench_rows import UNEVEN, read_fcs, speech_rows
from bench_speech import GaussianSelection, our_sums
from bench_workloads import spherical_start
from support import TYPES, mpirun

from mpigmm.core.covariances import COVARIANCE_TYPES
from mpigmm.core.mixture import Mixture
from mpigmm.data.synthetic import BLOCK_ROWS, SyntheticSource
from mpigmm.driver.measure import row_flops, true_mixture

SHAPE = ("--n-samples", "9000", "--n-features", "4", "--n-components", "3", "--iterations", "2")


@pytest.mark.timeout(120)
@pytest.mark.parametrize("covariance_type", TYPES)
@pytest.mark.parametrize("n_ranks", [0, 2])
def test_a_report(n_ranks: int, covariance_type: str) -> None:
    done = mpirun(n_ranks, "bench", *SHAPE, "--covariance-type", covariance_type, "--json")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["n_ranks"] == max(1, n_ranks) and report["n_samples"] == 9000
    assert report["covariance_type"] == covariance_type
    assert report["seconds"] * 1e9 / 9000 == pytest.approx(report["ns_per_row"])
    rates = ("useful_flops_per_second", "gemm_flops_per_second", "read_bytes_per_second", "fraction_of_floor")
    assert all(report[name] > 0 for name in rates)


def test_a_report_in_words() -> None:
    done = mpirun(0, "bench", *SHAPE, "--kernels=numpy", "compute.threads=2", "compute.tile_rows=1000")
    assert done.returncode == 0, done.stderr
    assert "9,000 x 4, K = 3, full, float64, 1 rank of 2 threads, numpy" in done.stdout and "ns a row" in done.stdout


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--precision", "float16"], "compute.precision: 'float16' is not valid"),
        (["--device", "tpu"], "compute.device: 'tpu' is not valid"),
        (["--covariance-type", "round"], "model.covariance_type: 'round' is not valid"),
        (["compute.thread=2"], "did you mean compute.threads"),
        (["em.max_iter=3"], "em: has no meaning here; the sections that have are model, compute"),
        (["--n-samples", "2"], "at least 3 rows"),
        (["--n-features", "3000000"], "is out of memory"),
    ],
)
def test_mistakes(options: list[str], message: str) -> None:
    done = mpirun(0, "bench", "--n-components", "3", *options)
    assert done.returncode == 2 and message in done.stderr, done.stderr


def test_rows_do_not_depend_on_who_draws_them() -> None:
    size = 2 * BLOCK_ROWS + 100
    source = SyntheticSource(size, 3, 4, 2.0, correlated=True)
    whole = source.read(0, size).values
    parts = [source.read(start, min(start + 777, size)).values for start in range(0, size, 777)]
    assert whole.shape == (size, 3) and np.concatenate(parts).tobytes() == whole.tobytes()


def test_rows_are_the_mixtures() -> None:
    source = SyntheticSource(100_000, 3, 2, 2.0, correlated=True)
    mixture, rows = true_mixture(source, COVARIANCE_TYPES["full"]), source.read(0, 100_000).values
    np.testing.assert_allclose(mixture.variances, 1.0)
    mean = mixture.weights @ mixture.means
    spread = mixture.means - mean
    np.testing.assert_allclose(rows.mean(axis=0), mean, atol=0.05)
    expected = mixture.covariances.values.mean(axis=0) + spread.T @ spread / 2
    np.testing.assert_allclose(np.cov(rows.T), expected, atol=0.1)


def test_flops_of_a_row() -> None:
    found = [row_flops(COVARIANCE_TYPES[kind], 3, 4) for kind in TYPES]
    assert found == [4 * 3 * 15, 4 * 3 * 5 + 2 * 16 + 20, 4 * 3 * 9, 4 * 3 * 6]


@pytest.mark.parametrize("name", sorted(UNEVEN))
def test_uneven_rows_start_from_their_own_mixture(name: str) -> None:
    make, n_components, kind = UNEVEN[name]
    rows, mixture = make(n_components, kind)
    checked = Mixture.from_arrays(kind, mixture.arrays())
    variances = checked.variances
    near = np.abs(rows - checked.means.mean(axis=0)).max(axis=1) < 300
    assert 0.997 < near.mean() <= 1.0
    assert variances.max() > (1 if kind == "tied" else 1000) * variances.min()
    overall = rows[near].astype(float).var(axis=0).mean()
    assert overall == pytest.approx((variances + np.square(checked.means - checked.means.mean(axis=0))).mean(), rel=0.2)


@pytest.mark.parametrize(("order", "dtype"), [("4,3,2,1", ">f4"), ("1,2,3,4", "<f4")])
def test_events_of_an_fcs_file(tmp_path: Path, order: str, dtype: str) -> None:
    events = np.arange(12.0).reshape(4, 3)
    text = f"/$BYTEORD/{order}/$DATATYPE/F/$TOT/4   /$PAR/3/".encode()
    offsets = 58, 57 + len(text), 58 + len(text), 57 + len(text) + 48
    header = b"FCS3.0    " + b"".join(b"%8d" % offset for offset in (*offsets, 0, 0))
    (tmp_path / "x.fcs").write_bytes(header + text + events.astype(dtype).tobytes())
    assert (read_fcs(tmp_path / "x.fcs") == events).all()


def test_speech_rows_are_their_mixtures() -> None:
    (rows, mixture), (again, _) = speech_rows(5000, 64), speech_rows(5000, 64)
    assert rows.tobytes() == again.tobytes() and rows.shape == (5000, 40)
    mean = mixture.weights @ mixture.means
    expected = mixture.weights @ (mixture.variances + np.square(mixture.means - mean))
    np.testing.assert_allclose(rows.var(axis=0), expected, rtol=0.2)
    assert expected[1] > 4 * expected[13] and expected[1] > 4 * expected[14] and expected[14] > 2 * expected[27]


@pytest.mark.parametrize("prunes", [False, True])
def test_gaussian_selection_of_all_components_is_exact(prunes: bool) -> None:
    rows, mixture = speech_rows(300, 24)
    exact, (selected, pairs) = our_sums(mixture, rows, prunes=prunes), GaussianSelection(mixture, np.inf).sums(rows)
    assert pairs == 1 and max(selected.errors(exact)) < 1e-11


def test_gaussian_selection_leaves_pairs_out() -> None:
    rows, mixture = speech_rows(300, 24)
    exact, (selected, pairs) = our_sums(mixture, rows, prunes=False), GaussianSelection(mixture, 0.5).sums(rows)
    assert 0 < pairs < 0.5 and selected.log_likelihood < exact.log_likelihood
    assert selected.counts.sum() == pytest.approx(300) and min(selected.errors(exact)) > 1e-9


@pytest.mark.parametrize("covariance_type", TYPES)
def test_a_spherical_start(covariance_type: str) -> None:
    rows = np.random.default_rng(0).standard_normal((50, 3)) * [1, 2, 3]
    start = spherical_start(rows, 4, covariance_type)
    checked = Mixture.from_arrays(covariance_type, start.arrays())
    np.testing.assert_allclose(np.broadcast_to(checked.variances, (4, 3)), rows.var(axis=0).mean())
    assert all((rows == mean).all(axis=1).any() for mean in start.means)


def test_runs_that_a_file_keeps_are_not_repeated(tmp_path: Path) -> None:
    made: list[Runs] = []

    def measure() -> Runs:
        made.append(Runs({"mpigmm": [[2.0, -1.0], [1.0, -1.0]], "oneDAL": [[4.0, -1.0], [3.0, float("nan")]]}))
        return made[-1]

    for _ in range(2):
        kept = KeptRuns(tmp_path / "runs.jsonl")
        assert kept.once(("W1", "near"), measure).ratios("oneDAL") == (2.25, 2.5, 2.75)
    assert len(made) == 1
