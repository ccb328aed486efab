"""EM iterations on two ranks against scikit-learn on the same cores, in alternation: ``make bench``, or
``python tests/bench.py W2 W5`` for some workloads, ``--precision=float32`` for that; and whole fits, from start to end:
``python tests/bench.py --races W3 W5``.

Both start from the same parameters and see the same rows; each run gives the median of its iterations after the first,
each figure is the median of the runs, and so is the ratio, pair by pair. The share of the machine's floor and the
efficiency of two ranks against one are those of ``mpigmm bench``.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Iterable
from itertools import chain
from pathlib import Path
from statistics import median

import h5py
import numpy as np
from sklearn.exceptions import ConvergenceWarning
from sklearn.mixture import GaussianMixture
from support import clean_environment, read_lines, write_config

from mpigmm.data.synthetic import SyntheticSource

WORKLOADS = {
    "W1": (1_000_000, 100, 10, "diag", [3.0]),
    "W2": (200_000, 100, 10, "full", [3.0, 0.5, 0.1]),
    "W3": (2_000_000, 3, 8, "full", [3.0]),
    "W4": (100_000, 40, 512, "diag", [3.0]),
    "W5": (200_000, 32, 64, "full", [3.0, 0.5, 0.1]),
    "W6": (50_000, 256, 16, "full", [3.0, 0.5, 0.1]),
    "W7": (1_000_000, 16, 32, "tied", [3.0]),
}
"""Rows, features, components, covariance type, and how far apart the components are."""

RANKS, ROUNDS, BLOCK, ITERATIONS, HELD_OUT = 2, 3, 100_000, 3, 100_000
RACE_TITLES = ["workload", "seconds", "scikit-learn", "ratio", "held-out log-likelihood", "scikit-learn's"]
TITLES = [
    "workload",
    "separation",
    "ns a row",
    "scikit-learn",
    "ratio",
    "of the floor",
    "1 -> 2 ranks",
    "differs by",
    "MB",
]


def write_workload(path: Path, source: SyntheticSource, first: int, last: int) -> None:
    """Some rows of a workload."""
    with h5py.File(path, "w") as file:
        rows = file.create_dataset("X", (last - first, source.header.n_features), "float64")
        for start in range(first, last, BLOCK):
            stop = min(start + BLOCK, last)
            rows[start - first : stop - first] = source.read(start, stop)[0]


def our_seconds(folder: Path, n_iter: int) -> tuple[float, float, int]:
    """Seconds an iteration, mean log-likelihood of the last, and peak bytes of the largest rank."""
    command = ["mpirun", "-n", str(RANKS), sys.executable, "-m", "mpigmm", "fit", str(folder / "run.yaml"), "--restart"]
    told = subprocess.run([*command, f"em.max_iter={n_iter}"], env=clean_environment(), capture_output=True, text=True)
    assert told.returncode == 0, told.stderr
    lines = read_lines(folder / "out" / "convergence.jsonl")
    peak = json.loads((folder / "out" / "summary.json").read_text())["peak_memory_bytes"]
    return median(line["seconds"] for line in lines[1:]), lines[-1]["mean_log_likelihood"], peak


def their_seconds(folder: Path, n_iter: int) -> tuple[float, float]:
    """The same of scikit-learn with all cores, from the same start; run as a process of its own."""
    with h5py.File(folder / "x.h5") as file, h5py.File(folder / "start.h5") as start:
        rows = file["X"][()]
        weights, means, covariances = (start[name][()] for name in ("weights", "means", "covariances"))
        kind = start.attrs["covariance_type"]
    precisions = np.linalg.inv(covariances) if kind in ("full", "tied") else 1 / covariances
    if kind in ("full", "tied"):
        precisions = (precisions + precisions.swapaxes(-1, -2)) / 2  # which it asks to be symmetric
    seconds: list[float] = []

    class Timed(GaussianMixture):
        def _e_step(self, *arguments, **options):
            seconds.append(-time.perf_counter())
            return super()._e_step(*arguments, **options)

        def _m_step(self, *arguments, **options):
            super()._m_step(*arguments, **options)
            seconds[-1] += time.perf_counter()

    model = Timed(
        len(weights), covariance_type=kind, tol=0, max_iter=n_iter,
        weights_init=weights, means_init=means, precisions_init=precisions,
    )  # fmt: skip
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        model.fit(rows)
    return median(seconds[1:n_iter]), model.lower_bound_


def own_bench(shape: list[str], n_ranks: int) -> dict[str, float]:
    """What ``mpigmm bench`` reports."""
    command = ["mpirun", "-n", str(n_ranks), sys.executable, "-m", "mpigmm", "bench", "--json", *shape]
    told = subprocess.run(command, env=clean_environment(), capture_output=True, text=True, check=True)
    report: dict[str, float] = json.loads(told.stdout)
    return report


def their_fit(folder: Path, n_components: int) -> tuple[float, float]:
    """Seconds of scikit-learn's fit with its defaults, and the mean log-likelihood of held-out rows."""
    with h5py.File(folder / "x.h5") as file, h5py.File(folder / "held.h5") as held:
        rows, others = file["X"][()], held["X"][()]
    begin = time.perf_counter()
    model = GaussianMixture(n_components, random_state=0).fit(rows)
    return time.perf_counter() - begin, float(model.score(others))


def our_fit(folder: Path) -> tuple[float, float]:
    """The same of the whole of our command, with its defaults."""
    command = ["mpirun", "-n", str(RANKS), sys.executable, "-m", "mpigmm"]
    begin = time.perf_counter()
    told = subprocess.run(
        [*command, "fit", str(folder / "run.yaml"), "--restart"],
        env=clean_environment(),
        capture_output=True,
        text=True,
    )
    seconds = time.perf_counter() - begin
    assert told.returncode == 0, told.stderr
    score = [*command, "score", str(folder / "out" / "model.h5"), str(folder / "held.h5")]
    told = subprocess.run(score, env=clean_environment(), capture_output=True, text=True, check=True)
    return seconds, json.loads(told.stdout)["mean_log_likelihood"]


def race(name: str) -> list[str]:
    """Whole fits, files and start included for ours, the start for scikit-learn's: a line of the table."""
    n_samples, n_features, n_components, kind, separations = WORKLOADS[name]
    source = SyntheticSource(
        n_samples + HELD_OUT, n_features, n_components, separations[0], correlated=kind == "full", seed=1
    )
    ours, theirs = [], []
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        write_workload(folder / "x.h5", source, 0, n_samples)
        write_workload(folder / "held.h5", source, n_samples, n_samples + HELD_OUT)
        write_config(
            folder / "run.yaml",
            data={"path": str(folder / "x.h5")},
            model={"n_components": n_components, "covariance_type": kind},
            output={"dir": str(folder / "out")},
        )
        for _ in range(ROUNDS):
            ours.append(our_fit(folder))
            theirs.append(apart("--their-fit", str(folder), str(n_components)))
    (a, ours_held), (b, their_held) = (np.median(runs, axis=0) for runs in (ours, theirs))
    ratio = median(their[0] / our[0] for our, their in zip(ours, theirs, strict=True))
    return [name, f"{a:.1f}", f"{b:.1f}", f"{ratio:.1f}", f"{ours_held:.5f}", f"{their_held:.5f}"]


def apart(*arguments: str) -> list[float]:
    """What this file prints, run as a process of its own with all cores."""
    environment = {key: value for key, value in os.environ.items() if key != "OMP_NUM_THREADS"}
    command = [sys.executable, __file__, *arguments]
    told = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    found: list[float] = json.loads(told.stdout)
    return found


def compare(name: str, separation: float, precision: str) -> list[str]:
    """A line of the table."""
    n_samples, n_features, n_components, kind, _ = WORKLOADS[name]
    source = SyntheticSource(n_samples, n_features, n_components, separation, correlated=kind == "full")
    ours, theirs = [], []
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        write_workload(folder / "x.h5", source, 0, n_samples)
        settings = {
            "data": {"path": str(folder / "x.h5")},
            "model": {"n_components": n_components, "covariance_type": kind},
            "em": {"tol": 0},
            "compute": {"precision": precision},
            "output": {"dir": str(folder / "out")},
        }
        write_config(folder / "run.yaml", **settings)
        our_seconds(folder, 2)
        (folder / "out" / "model.h5").rename(folder / "start.h5")
        write_config(folder / "run.yaml", **settings, init={"method": "file", "file": str(folder / "start.h5")})
        for _ in range(ROUNDS):
            ours.append(our_seconds(folder, ITERATIONS + 1))
            theirs.append(apart("--theirs", str(folder), str(ITERATIONS + 1)))
    a, b = (median(run[0] for run in runs) * 1e9 / n_samples for runs in (ours, theirs))
    shape = [f"--n-samples={n_samples}", f"--n-features={n_features}", f"--n-components={n_components}"]
    shape += [f"--covariance-type={kind}", f"--separation={separation}", f"--precision={precision}"]
    one, two = own_bench(shape, 1), own_bench(shape, RANKS)
    return [
        f"{name}: {n_samples:,} x {n_features}, K = {n_components}, {kind}",
        f"{separation:g}",
        f"{a:.0f}",
        f"{b:.0f}",
        f"{median(their[0] / our[0] for our, their in zip(ours, theirs, strict=True)):.1f}",
        f"{two['fraction_of_floor']:.2f}",
        f"{one['seconds'] / two['seconds'] / RANKS:.2f}",
        f"{abs(ours[-1][1] / theirs[-1][1] - 1):.0e}",
        f"{(max(run[2] for run in ours) - n_samples * n_features * 8 / RANKS) / 1e6:.0f}",
    ]


def print_table(titles: list[str], lines: Iterable[list[str]]) -> str:
    """Print a table line by line; returns it."""
    printed = []
    for cells in chain((titles, ["---"] * len(titles)), lines):
        printed.append(f"| {' | '.join(cells)} |\n")
        print(printed[-1], end="", flush=True)
    return "".join(printed)


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", default=list(WORKLOADS), help="workloads")
    parser.add_argument("--precision", default="float64")
    parser.add_argument("--races", action="store_true", help="whole fits")
    chosen = parser.parse_args()
    if chosen.races:
        print_table(RACE_TITLES, map(race, chosen.names))
    else:
        cases = ((name, separation) for name in chosen.names for separation in WORKLOADS[name][-1])
        print_table(TITLES, (compare(*case, chosen.precision) for case in cases))


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["--theirs", folder, n_iter]:
            print(json.dumps(their_seconds(Path(folder), int(n_iter))))
        case ["--their-fit", folder, n_components]:
            print(json.dumps(their_fit(Path(folder), int(n_components))))
        case _:
            main()
