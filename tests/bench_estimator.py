"""`mpigmm.GaussianMixture` against scikit-learn's, from the start of a process to its end: ``python
tests/bench_estimator.py``, or ``... W2 iris --pairs 5`` for some rows and more pairs.

Each process imports NumPy and the class, loads the rows, fits with default parameters, and scores the same rows. The
two classes take turns, each pair with another random state. Figures are medians of the pairs; so is the ratio.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

SHAPES = {
    "W1": (100_000, 100, 10, "diag", 3.0),
    "W2": (20_000, 100, 10, "full", 3.0),
    "W2-overlapping": (20_000, 100, 10, "full", 0.5),
    "W3": (500_000, 3, 8, "full", 3.0),
    "W4": (20_000, 40, 512, "diag", 3.0),
    "W5": (20_000, 32, 64, "full", 3.0),
    "W5-overlapping": (20_000, 32, 64, "full", 0.5),
    "W6": (10_000, 256, 16, "full", 3.0),
    "W7": (100_000, 16, 32, "tied", 3.0),
    "S1": (1_000, 5, 3, "full", 3.0),
    "S2": (1_000, 5, 3, "diag", 3.0),
    "S3": (1_000, 5, 3, "tied", 3.0),
    "S4": (1_000, 5, 3, "spherical", 3.0),
    "S5": (3_000, 20, 8, "full", 1.0),
    "S6": (10_000, 10, 5, "full", 1.0),
    "S7": (10_000, 10, 5, "diag", 1.0),
}
"""Rows, features, components, covariance type, and how far apart the components are: the workloads of ``make bench``
with fewer rows, and small ones."""

LOADED = {"iris": 3, "wine": 3, "breast_cancer": 2, "digits": 10}
"""Data sets of scikit-learn, and numbers of components."""

CODE = """
import sys, time, json
import numpy as np
if sys.argv[1] == "ours":
    from mpigmm import GaussianMixture
else:
    from sklearn.mixture import GaussianMixture
import warnings
warnings.simplefilter("ignore")
rows = np.load(sys.argv[2])
begin = time.perf_counter()
model = GaussianMixture(int(sys.argv[3]), covariance_type=sys.argv[4], random_state=int(sys.argv[5])).fit(rows)
fitted = time.perf_counter() - begin
print(json.dumps([fitted, model.score(rows), model.n_iter_]))
"""

TITLES = ("rows", "seconds", "scikit-learn", "ratio", "fit alone", "its", "log-likelihood", "its", "iterations", "its")


def drawn(shape: tuple[int, int, int, str, float]) -> np.ndarray:
    """Rows of a mixture of correlated components of different widths."""
    n_samples, n_features, n_components, covariance_type, separation = shape
    random = np.random.default_rng(0)
    means = separation * random.standard_normal((n_components, n_features))
    widths = np.exp(0.5 * random.standard_normal((n_components, 1 if covariance_type == "tied" else n_features)))
    rows = random.standard_normal((n_samples, n_features))
    if covariance_type in ("full", "tied"):
        rows = rows @ (np.eye(n_features) + 0.3 * random.standard_normal((n_features, n_features)) / n_features**0.5)
    labels = random.integers(n_components, size=n_samples)
    return means[labels] + widths[labels] * rows


def cases(names: list[str]) -> Iterator[tuple[str, np.ndarray, int, str]]:
    """Name, rows, number of components and covariance type of each comparison."""
    from sklearn import datasets

    for name, shape in SHAPES.items():
        if not names or name in names:
            yield f"{name}: {shape[0]:,} x {shape[1]}, K = {shape[2]}, {shape[3]}", drawn(shape), shape[2], shape[3]
    for name, n_components in LOADED.items():
        if not names or name in names:
            rows = getattr(datasets, f"load_{name}")().data
            for covariance_type in ("full", "tied", "diag", "spherical"):
                yield f"{name}, K = {n_components}, {covariance_type}", rows, n_components, covariance_type


def run(which: str, path: Path, n_components: int, covariance_type: str, seed: int) -> dict[str, Any]:
    """A fit in a process of its own, with as many threads as it likes."""
    environment = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
    command = [sys.executable, "-c", CODE, which, str(path), str(n_components), covariance_type, str(seed)]
    begin = time.perf_counter()
    done = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
    seconds = time.perf_counter() - begin
    fit, score, n_iter = json.loads(done.stdout)
    return {"seconds": seconds, "fit": fit, "score": score, "n_iter": n_iter}


def compared(path: Path, n_components: int, covariance_type: str, pairs: int) -> list[str]:
    """The figures of a comparison."""
    found = [
        [run(which, path, n_components, covariance_type, seed) for which in ("ours", "theirs")] for seed in range(pairs)
    ]

    def middle(name: str, which: int) -> float:
        return median(pair[which][name] for pair in found)

    return [
        f"{middle('seconds', 0):.2f}",
        f"{middle('seconds', 1):.2f}",
        f"{median(theirs['seconds'] / ours['seconds'] for ours, theirs in found):.2f}",
        f"{middle('fit', 0):.3f}",
        f"{middle('fit', 1):.3f}",
        f"{middle('score', 0):.4f}",
        f"{middle('score', 1):.4f}",
        f"{middle('n_iter', 0):g}",
        f"{middle('n_iter', 1):g}",
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", help=f"of {', '.join([*SHAPES, *LOADED])}")
    parser.add_argument("--pairs", type=int, default=3)
    arguments = parser.parse_args()
    print(f"| {' | '.join(TITLES)} |\n| {' | '.join('---' for _ in TITLES)} |")
    with tempfile.TemporaryDirectory() as folder:
        for name, rows, n_components, covariance_type in cases(arguments.names):
            path = Path(folder) / "rows.npy"
            np.save(path, rows)
            print(
                f"| {name} | {' | '.join(compared(path, n_components, covariance_type, arguments.pairs))} |", flush=True
            )


if __name__ == "__main__":
    main()
