"""Iterations of EM on two ranks, beside those of oneDAL and scikit-learn from the same start on the same cores."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from bench_rows import UNEVEN, real_rows
from bench_runs import RANKS, OneDal, apart, our_iterations, own_bench, write_blocks, write_settings
from bench_workloads import SEPARATIONS, SHAPES, STARTS, WORKLOADS, Workload, spherical_start
from support import write_config, write_rows

from mpigmm.core.mixture import Mixture
from mpigmm.runs.model import Model
from mpigmm.runs.model_file import load_model, save_model

OURS, ONEDAL, SKLEARN = "mpigmm", "oneDAL", "scikit-learn"
ONEDAL_TYPES = ("full", "diag")
"""Covariance types that oneDAL has."""

N_ITER = 3
LONG = 1e10
"""Multiplications of a workload's iteration above which only two iterations are timed."""

FLOOR_ROWS = 20_000

REAL_CASES = {"cytometry": [(60, "diag"), (20, "full")], "digits": [(10, "diag")]}
"""Components and covariance types of real rows."""

SETTLED = 20
"""Iterations from a spherical start after which a mixture of real rows counts as near the solution."""

ITERATION_TITLES = [
    *("workload", "start", "components", "ns a row", ONEDAL, "ratio", "quartiles", SKLEARN, "ratio"),
    *("of the floor", "differs by", "MB"),
]


@dataclass(frozen=True)
class Runs:
    """Figures of each program's runs, which were made in alternation; the first figure is the seconds."""

    figures: dict[str, list[list[float]]]

    def median(self, program: str, figure: int = 0) -> float:
        return float(np.median([run[figure] for run in self.figures[program]]))

    def ratios(self, program: str) -> tuple[float, float, float]:
        """Quartiles of a program's seconds in those of ours, pair by pair; the median is the second."""
        pairs = zip(self.figures[OURS], self.figures[program], strict=True)
        low, middle, high = np.quantile([their[0] / our[0] for our, their in pairs], (0.25, 0.5, 0.75))
        return float(low), float(middle), float(high)

    def difference(self) -> float:
        """Largest relative difference of another program's log-likelihood from ours."""
        ours = self.median(OURS, 1)
        return max((abs(ours / self.median(name, 1) - 1) for name in self.figures if name != OURS), default=0.0)


def alternate(programs: Mapping[str, Callable[[], list[float]]], rounds: int) -> Runs:
    """Run programs in alternation."""
    runs = Runs({name: [] for name in programs})
    for _ in range(rounds):
        for name, run in programs.items():
            runs.figures[name].append(run())
    return runs


@dataclass(frozen=True)
class Comparison:
    """What is to be compared: programs other than ours, the Python of oneDAL's, rounds and precision."""

    programs: tuple[str, ...]
    python: Path
    rounds: int
    precision: str = "float64"

    def runs(self, folder: Path, start: Mixture, n_iter: int) -> Runs:
        """Runs of all programs with the rows x.h5 in a folder, from one start."""
        k, kind = start.n_components, start.covariances.name
        compute = {"precision": self.precision}
        settings = write_settings(folder, k, kind, reg_covar=0.0, em={"tol": 0}, compute=compute)
        save_model(folder / "start.h5", Model(start))
        write_config(folder / "run.yaml", **settings, init={"method": "file", "file": str(folder / "start.h5")})
        programs: dict[str, Callable[[], list[float]]] = {OURS: partial(our_iterations, folder, n_iter)}
        with ExitStack() as stack:
            if ONEDAL in self.programs and kind in ONEDAL_TYPES:
                programs[ONEDAL] = stack.enter_context(OneDal(self.python, folder, n_iter)).measure
            if SKLEARN in self.programs:
                programs[SKLEARN] = partial(apart, "--iterate", folder, n_iter)
            return alternate(programs, self.rounds)


def cells(runs: Runs, shape: tuple[int, int], floor: float | None) -> list[str]:
    """The figures of a line: those of other programs, too, where they ran."""
    ns = {name: runs.median(name) * 1e9 / shape[0] for name in runs.figures}
    onedal, sklearn = ["", "", ""], ["", ""]
    if ONEDAL in ns:
        low, middle, high = runs.ratios(ONEDAL)
        onedal = [rounded(ns[ONEDAL]), f"{middle:.2f}", f"{low:.2f} to {high:.2f}"]
    if SKLEARN in ns:
        sklearn = [rounded(ns[SKLEARN]), f"{runs.ratios(SKLEARN)[1]:.1f}"]
    peak = runs.median(OURS, 2) - shape[0] * shape[1] * 8 / RANKS
    return [
        *(rounded(ns[OURS]), *onedal, *sklearn),
        "" if floor is None else f"{floor / ns[OURS]:.2f}",
        f"{runs.difference():.0e}",
        f"{peak / 1e6:.0f}",
    ]


def rounded(value: float) -> str:
    """A number with three digits, but without an exponent."""
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def floor_ns(workload: Workload, precision: str) -> float:
    """Nanoseconds of a row at this machine's floor, measured now on two ranks."""
    few = workload._replace(n_samples=FLOOR_ROWS)
    report = own_bench([*few.options(), f"--precision={precision}", "--iterations=1"], RANKS)
    return report["ns_per_row"] * report["fraction_of_floor"]


def n_timed(workload: Workload) -> int:
    """Iterations that are timed in each run."""
    d = workload.n_features
    n_terms = d * d if workload.kind == "full" else d
    return 2 if workload.n_samples * workload.n_components * n_terms > LONG else N_ITER


def even_lines(name: str, separations: Iterable[str], starts: Iterable[str], how: Comparison) -> Iterator[list[str]]:
    """Lines of a workload of even rows."""
    workload = (WORKLOADS | SHAPES)[name]
    for separation in separations:
        source = workload.source(SEPARATIONS[separation])
        with tempfile.TemporaryDirectory() as place:
            folder = Path(place)
            write_blocks(folder / "x.h5", source, 0, workload.n_samples)
            for start in starts:
                runs = how.runs(folder, STARTS[start](source, workload), n_timed(workload))
                floor = floor_ns(workload, how.precision)
                yield [workload.title(name), start, separation, *cells(runs, workload[:2], floor)]


def uneven_line(name: str, how: Comparison) -> list[str]:
    """The line of a workload of uneven rows, from the mixture that they are drawn from."""
    make, n_components, kind = UNEVEN[name]
    rows, mixture = make(n_components, kind)
    with tempfile.TemporaryDirectory() as place:
        write_rows(Path(place) / "x.h5", rows)
        runs = how.runs(Path(place), mixture, N_ITER)
    title = Workload(*rows.shape, n_components, kind).title(name)
    return [title, "near", "uneven", *cells(runs, rows.shape, None)]


def real_lines(name: str, packages: Path, how: Comparison) -> Iterator[list[str]]:
    """Lines of real rows, from a spherical start and from what it leads to."""
    rows = real_rows(name, packages)
    for n_components, kind in REAL_CASES[name]:
        title = Workload(*rows.shape, n_components, kind).title(name)
        with tempfile.TemporaryDirectory() as place:
            write_rows(Path(place) / "x.h5", rows)
            start = spherical_start(rows, n_components, kind)
            yield [title, "first", "real", *cells(how.runs(Path(place), start, N_ITER), rows.shape, None)]
            our_iterations(Path(place), SETTLED)
            near = load_model(Path(place) / "out" / "model.h5").mixture
            yield [title, "near", "real", *cells(how.runs(Path(place), near, N_ITER), rows.shape, None)]
