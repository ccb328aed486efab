"""Iterations of EM on two ranks, beside those of oneDAL and scikit-learn from the same start on the same cores."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from bench_rows import REAL, UNEVEN, real_rows
from bench_runs import OneDal, apart, floor_seconds, our_iterations, write_blocks, write_settings
from bench_workloads import SEPARATIONS, SHAPES, STARTS, WORKLOADS, Workload, spherical_start
from support import write_config, write_rows

from mpigmm.core.mixture import Mixture
from mpigmm.runs.model import Model
from mpigmm.runs.model_file import load_model, save_model

OURS, ONEDAL, SKLEARN, FLOOR = "mpigmm", "oneDAL", "scikit-learn", "floor"
ONEDAL_TYPES = ("full", "diag")
"""Covariance types that oneDAL has."""

N_TIMED = ((1.5e9, 3), (3e10, 2))
"""Multiplications of an iteration up to which so many iterations are timed in a run; beyond, a single one."""

SETTLED = 5
"""Iterations from a spherical start after which a mixture of real rows counts as near the solution."""

EVEN_TITLES = [
    *("workload", "start", "oneDAL, ns a row", "mpigmm", *SEPARATIONS),
    *("of the floor", "differs by", "MB"),
]
OTHER_TITLES = [
    *("workload", "start", "components", "ns a row", ONEDAL, "ratio", "quartiles", "of the floor"),
    *("differs by", "MB", SKLEARN, "ratio"),
]


@dataclass(frozen=True)
class Runs:
    """Figures of each program's runs, which were made in alternation; the first figure is the seconds."""

    figures: dict[str, list[list[float]]]

    def median(self, program: str, figure: int = 0) -> float:
        return float(np.median([run[figure] for run in self.figures[program]]))

    def ratios(self, program: str) -> tuple[float, float, float]:
        """Quartiles of a program's seconds in those of ours, pair by pair; the second is the median."""
        pairs = zip(self.figures[OURS], self.figures[program], strict=True)
        low, middle, high = np.quantile([their[0] / our[0] for our, their in pairs], (0.25, 0.5, 0.75))
        return float(low), float(middle), float(high)

    def difference(self) -> float:
        """Largest relative difference of another program's log-likelihood from ours; NaN if all others failed."""
        others = [self.median(name, 1) for name in self.figures if name not in (OURS, FLOOR)]
        return max((abs(self.median(OURS, 1) / other - 1) for other in others if np.isfinite(other)), default=np.nan)


def alternate(programs: Mapping[str, Callable[[], list[float]]], rounds: int) -> Runs:
    """Run programs in alternation."""
    runs = Runs({name: [] for name in programs})
    for _ in range(rounds):
        for name, run in programs.items():
            runs.figures[name].append(run())
    return runs


class KeptRuns:
    """Runs that a file keeps, a line of JSON for each measurement, so that they need not be made again."""

    def __init__(self, path: Path | None) -> None:
        self._path = path
        lines = path.read_text().splitlines() if path and path.exists() else []
        self._runs = {key: Runs(figures) for key, figures in map(json.loads, lines)}

    def once(self, key: Sequence[str], measure: Callable[[], Runs]) -> Runs:
        """The runs under a key, which are made where there are none."""
        name = " ".join(key)
        if name not in self._runs:
            self._runs[name] = measure()
            if self._path:
                with self._path.open("a") as file:
                    file.write(json.dumps([name, self._runs[name].figures]) + "\n")
        return self._runs[name]


@dataclass(frozen=True)
class Comparison:
    """What is compared with ours: the programs, oneDAL's Python, how often, and our precision."""

    programs: tuple[str, ...]
    python: Path
    rounds: int
    precision: str
    kept: KeptRuns

    def once(self, key: Sequence[str], measure: Callable[[], Runs]) -> Runs:
        """The runs of this comparison that are kept under a key, or new ones."""
        return self.kept.once((*key, self.precision, *self.programs), measure)

    def runs(self, folder: Path, start: Mixture, workload: Workload) -> Runs:
        """Runs of all programs with the rows x.h5 in a folder, from one start."""
        kind, n_iter = workload.kind, n_timed(workload)
        compute = {"precision": self.precision}
        settings = write_settings(folder, workload.n_components, kind, 0.0, em={"tol": 0}, compute=compute)
        save_model(folder / "start.h5", Model(start))
        write_config(folder / "run.yaml", **settings, init={"method": "file", "file": str(folder / "start.h5")})
        programs: dict[str, Callable[[], list[float]]] = {OURS: partial(our_iterations, folder, n_iter)}
        with ExitStack() as stack:
            if ONEDAL in self.programs and kind in ONEDAL_TYPES:
                programs[ONEDAL] = stack.enter_context(OneDal(self.python, folder, n_iter)).measure
            if SKLEARN in self.programs:
                programs[SKLEARN] = partial(apart, "--iterate", folder, n_iter)
            programs[FLOOR] = partial(floor_seconds, workload.options(), workload.n_samples, self.precision)
            return alternate(programs, self.rounds)


def n_timed(workload: Workload) -> int:
    """Iterations that are timed in each run."""
    n_terms = workload.n_features ** (2 if workload.kind == "full" else 1)
    work = workload.n_samples * workload.n_components * n_terms
    return next((n_iter for most, n_iter in N_TIMED if work <= most), 1)


@contextmanager
def even_rows(workload: Workload, separation: str) -> Iterator[Path]:
    """A folder with the rows of a workload."""
    with tempfile.TemporaryDirectory() as place:
        write_blocks(Path(place) / "x.h5", workload.source(SEPARATIONS[separation]), 0, workload.n_samples)
        yield Path(place)


def even_runs(name: str, start: str, separation: str, how: Comparison) -> Runs:
    """Runs of a workload of even rows."""
    workload = (WORKLOADS | SHAPES)[name]

    def measure() -> Runs:
        with even_rows(workload, separation) as folder:
            mixture = STARTS[start](workload.source(SEPARATIONS[separation]), workload)
            return how.runs(folder, mixture, workload)

    return how.once((name, start, separation), measure)


def even_line(name: str, start: str, separations: Sequence[str], how: Comparison) -> list[str]:
    """A line that compares with oneDAL alone: a workload and a start, the separations beside one another."""
    workload = (WORKLOADS | SHAPES)[name]
    runs = {separation: even_runs(name, start, separation, how) for separation in separations}
    each = runs.values()
    ratios = {name: "{} ({})".format(*in_words(own.ratios(ONEDAL))) for name, own in runs.items()}
    return [
        *(workload.title(name), start, rounded(np.median([ns(own, ONEDAL, workload) for own in each]))),
        " / ".join(rounded(ns(own, OURS, workload)) for own in each),
        *(ratios.get(name, "") for name in SEPARATIONS),
        " / ".join(f"{own.ratios(FLOOR)[1]:.2f}" for own in each),
        f"{max(own.difference() for own in each):.0e}",
        megabytes(max(each, key=lambda own: own.median(OURS, 2)), workload),
    ]


def other_line(title: str, start: str, components: str, runs: Runs, workload: Workload) -> list[str]:
    """A line of one comparison with every program that ran."""
    onedal, sklearn = ["not installed" if workload.kind in ONEDAL_TYPES else "no such type", "", ""], [""] * 2
    if ONEDAL in runs.figures:
        onedal = [rounded(ns(runs, ONEDAL, workload)), *in_words(runs.ratios(ONEDAL))]
    if SKLEARN in runs.figures:
        sklearn = [rounded(ns(runs, SKLEARN, workload)), f"{runs.ratios(SKLEARN)[1]:.1f}"]
    return [
        *(title, start, components, rounded(ns(runs, OURS, workload)), *onedal),
        *(f"{runs.ratios(FLOOR)[1]:.2f}", f"{runs.difference():.0e}", megabytes(runs, workload), *sklearn),
    ]


def ns(runs: Runs, program: str, workload: Workload) -> float:
    """Nanoseconds of a row."""
    return runs.median(program) * 1e9 / workload.n_samples


def megabytes(runs: Runs, workload: Workload) -> str:
    """Peak memory of a rank of ours without its rows."""
    return f"{(runs.median(OURS, 2) - workload.rank_bytes) / 1e6:.0f}"


def rounded(value: float) -> str:
    """A number with three digits, or more before the point; NaN is the result of a program that failed."""
    if np.isnan(value):
        return "error"
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def in_words(quartiles: tuple[float, float, float]) -> tuple[str, str]:
    """The median, and the other quartiles."""
    low, median, high = quartiles
    return f"{median:.2f}", f"{low:.2f} to {high:.2f}"


def uneven_line(name: str, how: Comparison) -> list[str]:
    """The line of a workload of uneven rows, from the mixture that they are drawn from."""
    make, n_components, kind = UNEVEN[name]
    rows, mixture = make(n_components, kind)
    workload = Workload(*rows.shape, n_components, kind)

    def measure() -> Runs:
        with tempfile.TemporaryDirectory() as place:
            write_rows(Path(place) / "x.h5", rows)
            return how.runs(Path(place), mixture, workload)

    return other_line(workload.title(name), "near", "uneven", how.once((name, "near"), measure), workload)


def real_lines(name: str, packages: Path, how: Comparison) -> Iterator[list[str]]:
    """Lines of real rows with the types that oneDAL has, from a spherical start and from where it leads to."""
    rows = real_rows(name, packages)
    for n_components, kind in (case for case in REAL[name] if case[1] in ONEDAL_TYPES):
        workload = Workload(*rows.shape, n_components, kind)
        with tempfile.TemporaryDirectory() as place:
            folder = Path(place)
            write_rows(folder / "x.h5", rows)
            first = spherical_start(rows, n_components, kind)
            runs = how.once((name, kind, "first"), partial(how.runs, folder, first, workload))
            yield other_line(workload.title(name), "first", "real", runs, workload)
            runs = how.once((name, kind, "near"), lambda: how.runs(folder, settled(folder, first), workload))  # noqa: B023
            yield other_line(workload.title(name), "near", "real", runs, workload)


def settled(folder: Path, first: Mixture) -> Mixture:
    """The mixture that EM finds for the rows in a folder from a first one."""
    save_model(folder / "start.h5", Model(first))
    init = {"method": "file", "file": str(folder / "start.h5")}
    write_settings(folder, first.n_components, first.covariances.name, 0.0, em={"tol": 0}, init=init)
    our_iterations(folder, SETTLED)
    return load_model(folder / "out" / "model.h5").mixture
