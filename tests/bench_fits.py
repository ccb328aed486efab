"""Whole fits of mpigmm and of scikit-learn, each from its own start."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from bench_iterations import OURS, SKLEARN, alternate
from bench_rows import REAL, real_rows
from bench_runs import apart, iterations, score, summary, write_blocks, write_settings
from bench_workloads import WORKLOADS
from support import write_rows

HELD_OUT = 100_000
TOL = 1e-3
"""scikit-learn's default tolerance: the change of the mean log-likelihood of a row."""

REAL_TITLES = ["rows", "seconds", "scikit-learn", "ratio", "iterations", "its", "log-likelihood", "scikit-learn's"]
RACE_TITLES = ["workload", "seconds", "scikit-learn", "ratio", "held-out log-likelihood", "scikit-learn's"]


def race(name: str, rounds: int) -> list[str]:
    """Whole fits, files and start included for ours, the start for scikit-learn's: a line of the table."""
    n_samples, _, n_components, kind = WORKLOADS[name]
    source = WORKLOADS[name].source(3.0, more=HELD_OUT, seed=1)
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        write_blocks(folder / "x.h5", source, 0, n_samples)
        write_blocks(folder / "held.h5", source, n_samples, n_samples + HELD_OUT)
        write_settings(folder, n_components, kind)

        def ours() -> list[float]:
            _, seconds = iterations(folder)
            return [seconds, score(folder)]

        theirs = lambda: apart("--fit", folder, "held.h5", n_components, kind, TOL)  # noqa: E731
        runs = alternate({OURS: ours, SKLEARN: theirs}, rounds)
    seconds = f"{runs.median(OURS):.1f}", f"{runs.median(SKLEARN):.1f}", f"{runs.ratios(SKLEARN)[1]:.1f}"
    return [name, *seconds, f"{runs.median(OURS, 1):.5f}", f"{runs.median(SKLEARN, 1):.5f}"]


def real_race(name: str, rows: np.ndarray, n_components: int, kind: str, rounds: int) -> list[str]:
    """Whole fits of real rows, the start of Python and of MPI aside: a line of the table."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        write_rows(folder / "x.h5", rows)
        write_settings(folder, n_components, kind, em={"tol": TOL})

        def ours() -> list[float]:
            iterations(folder)
            found = summary(folder)
            return [found["seconds"], found["mean_log_likelihood"], found["n_iter"]]

        theirs = lambda: apart("--fit", folder, "x.h5", n_components, kind, TOL)  # noqa: E731
        runs = alternate({OURS: ours, SKLEARN: theirs}, rounds)
    return [
        f"{name}: {len(rows):,} x {rows.shape[1]}, K = {n_components}, {kind}",
        *(f"{runs.median(OURS):.2f}", f"{runs.median(SKLEARN):.2f}", f"{runs.ratios(SKLEARN)[1]:.1f}"),
        *(f"{runs.median(program, 2):.0f}" for program in (OURS, SKLEARN)),
        *(f"{runs.median(program, 1):.4f}" for program in (OURS, SKLEARN)),
    ]


def real_races(name: str, packages: Path, rounds: int) -> Iterator[list[str]]:
    """Lines of a data set."""
    rows = real_rows(name, packages)
    yield from (real_race(name, rows, *case, rounds) for case in REAL[name])
