"""Promise 1: the same bits on any number of ranks and threads, streamed or resident."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from support import TYPES, assert_same_bits, blobs, fit_all, read_lines, read_model, write_config, write_rows

from mpigmm.core.estep.pruned_diagonal import PrunedDiagonalKernel
from mpigmm.core.estep.step import EStep
from mpigmm.core.ops import best_ops, ops_by_name
from mpigmm.runs.model_file import load_model


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weighted rows of uneven scales in two files, one of them chunked oddly, and a config."""
    path = tmp_path_factory.mktemp("bits")
    rows = (blobs(20_000, 4, 5, separation=1.5) * [1.0, 1e-3, 1e3, 7.0] + [0, 5, 1e4, -3]).astype(np.float32)
    weights = np.random.default_rng(2).random(len(rows))
    weights[::11] = 0
    write_rows(path / "a.h5", rows[:7001], w=weights[:7001])
    write_rows(path / "b.h5", rows[7001:], w=weights[7001:])
    write_config(
        path / "run.yaml",
        data={"path": str(path / "?.h5"), "weights": "/w"},
        model={"n_components": 5},
        init={"n_init": 2, "screening": False, "seed": 5},
        em={"max_iter": 5, "tol": 0},
        compute={"tile_rows": 389},
    )
    return path


def run(place: Path, n_ranks: int, variants: dict[str, list[str]], timeout: float) -> dict[str, Path]:
    """Fit every covariance type in every variant in one launch; directories by type and variant."""
    found, fits = {}, []
    for covariance_type in TYPES:
        for name, overrides in variants.items():
            key = f"{covariance_type}-{name}"
            found[key] = place / f"{n_ranks}-{key}"
            fixed = [f"model.covariance_type={covariance_type}", f"output.dir={found[key]}"]
            fits.append([str(place / "run.yaml"), *fixed, *overrides])
    fit_all(n_ranks, fits, timeout)
    return found


@pytest.fixture(scope="module")
def reference(place: Path) -> dict[str, Path]:
    return run(place, 0, {"resident": [], "screened": ["init.screening=true"]}, 100)


def assert_like_reference(reference: dict[str, Path], found: dict[str, Path]) -> None:
    for key, directory in found.items():
        is_screened = "screened" in key
        expected = reference[f"{key.split('-')[0]}-{'screened' if is_screened else 'resident'}"]
        assert_same_bits(read_model(directory / "model.h5"), read_model(expected / "model.h5"))
        logs = [read_lines(path / "convergence.jsonl") for path in (directory, expected)]
        assert len(logs[0]) == (5 if is_screened else 10)
        for name in ("init", "iteration", "mean_log_likelihood", "change", "floored", "reseeded"):
            assert [line[name] for line in logs[0]] == [line[name] for line in logs[1]]


@pytest.mark.parametrize("n_ranks", [0, 2, 3, 4])
def test_ranks_threads_and_streaming(place: Path, reference: dict[str, Path], n_ranks: int) -> None:
    variants = {
        "threads": ["compute.threads=2"],
        "streamed": ["compute.memory=1kB"],
        "both": ["compute.memory=1kB", "compute.threads=2"],
        "both-screened": ["compute.memory=1kB", "compute.threads=2", "init.screening=true"],
    }
    assert_like_reference(reference, run(place, n_ranks, variants, 110))


@pytest.mark.alone
@pytest.mark.timeout(300)
def test_sixty_four_ranks(place: Path, reference: dict[str, Path]) -> None:
    assert_like_reference(reference, run(place, 64, {"resident": []}, 280))


PRUNED = ["full", "tied", "diag", "spherical"]
"""Covariance types of the fits of components far apart: six of `full`, and more of the others, see `far`."""


@pytest.fixture(scope="module")
def far(place: Path) -> dict[str, list[str]]:
    """For each covariance type a config of components far apart, with overrides, whose fit by a process alone is in the
    directory far-TYPE."""
    write_rows(place / "far.h5", blobs(12_000, 64, 6))
    write_rows(place / "many.h5", blobs(5_000, 16, 24, separation=9.0))
    config = write_config(
        place / "far.yaml",
        data={"path": str(place / "far.h5")},
        model={"n_components": 6},
        em={"max_iter": 4, "tol": 0},
        compute={"tile_rows": 1500},
    )
    many = [f"data.path={place / 'many.h5'}", "model.n_components=24", "init.screening=false"]
    fits = {kind: [str(config), f"model.covariance_type={kind}", *(many if kind != "full" else [])] for kind in PRUNED}
    fit_all(0, [[*fit, f"output.dir={place / f'far-{kind}'}"] for kind, fit in fits.items()])
    return fits


@pytest.mark.parametrize("kind", PRUNED[1:])
def test_most_pairs_of_many_components_are_left_out(place: Path, far: dict[str, list[str]], kind: str) -> None:
    mixture = load_model(place / f"far-{kind}" / "model.h5").mixture
    step = EStep(mixture.e_step_inputs(np.zeros(16), np.full(16, 100.0), ops=ops_by_name(best_ops())))
    assert isinstance(step._kernel, PrunedDiagonalKernel)


@pytest.mark.parametrize("n_ranks", [2, 3])
def test_components_far_apart(place: Path, far: dict[str, list[str]], n_ranks: int) -> None:
    """Where most pairs of row and component are left out; with two ranks, the fits of many components are resumed."""
    threads, streamed = "compute.threads=2", "compute.memory=1kB"
    ways = [("full", [threads]), ("full", [streamed]), *((kind, [threads, streamed]) for kind in PRUNED[1:])]
    fits, outs = [], [place / f"far-{n_ranks}-{number}" for number in range(len(ways))]
    for (kind, way), out in zip(ways, outs, strict=True):
        fit = [*far[kind], f"output.dir={out}", *way]
        fits += [[*fit, "em.max_iter=2"], fit] if n_ranks == 2 and kind != "full" else [fit]
    fit_all(n_ranks, fits)
    for (kind, _), out in zip(ways, outs, strict=True):
        assert_same_bits(read_model(out / "model.h5"), read_model(place / f"far-{kind}" / "model.h5"))
