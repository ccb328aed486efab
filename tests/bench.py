"""EM iterations on two ranks, and the same by other programs on the same cores. One or several tables, in Markdown:

* ``onedal`` (``make bench-onedal``; 50 minutes): oneDAL from the same starts, for many shapes and for real rows. It
  needs ``--onedal``, a Python with daal4py and h5py, by default the one that ``make bench-onedal`` installs;
* ``iterations``: oneDAL, where it is installed, and scikit-learn, for W1 to W7 and uneven rows;
* ``ratios``: float32, streamed rows, two ranks and two threads, for W1 to W7;
* ``ops``: the compiled libraries and NumPy;
* ``speech``: many components, pruned, dense and by Gaussian selection;
* ``races``: whole fits from the start to the end; ``real``: those of real rows, which come with two packages
  (downloaded, not installed);
* ``collapse``: iterations in which one component is far tighter or farther than all others.

``make bench`` prints those from `iterations` to `speech`. Iterations of all programs start from the same mixture:
`first` is a spherical one with random rows as means, `near` the one that the rows are drawn from. A run gives the mean
of its iterations after the first. The runs of all programs alternate; figures are medians of the runs, and ratios are
medians of the ratios pair by pair. With ``--saved FILE`` the runs of `onedal` to `ops` are kept in a file, and those
found there are not repeated.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable, Iterable
from itertools import chain
from pathlib import Path

from bench_collapse import COLLAPSE_CASES, COLLAPSE_TITLES, collapse
from bench_fits import RACE_TITLES, REAL_TITLES, race, real_races
from bench_iterations import (
    EVEN_TITLES,
    ONEDAL,
    ONEDAL_TYPES,
    OTHER_TITLES,
    SKLEARN,
    Comparison,
    KeptRuns,
    even_line,
    even_runs,
    other_line,
    real_lines,
    uneven_line,
)
from bench_ratios import OPS_TITLES, RATIO_TITLES, ops_line, ratio_line
from bench_rows import REAL, UNEVEN, download
from bench_runs import ONEDAL_PYTHON, has_onedal
from bench_speech import SPEECH, SPEECH_TITLES, speech_lines
from bench_workloads import SEPARATIONS, SHAPES, STARTS, WORKLOADS

Lines = Iterable[list[str]]

BRIEF = [("near", "apart"), ("first", "overlapping")]
"""Starts and separations of the table with all programs."""

BRIEF_SEPARATIONS = ("apart", "overlapping")
"""Separations of the tables of ratios and of array operations."""


def onedal_tables(names: list[str], chosen: argparse.Namespace) -> None:
    """Print the tables against oneDAL alone: of even rows, then of all others."""
    if not has_onedal(chosen.onedal):
        print(
            f"oneDAL: skipped, since {chosen.onedal} cannot import daal4py and h5py; `make bench-onedal` installs them"
        )
        return
    how = Comparison((ONEDAL,), chosen.onedal, chosen.rounds or 5, chosen.precision, chosen.kept)
    even = [name for name, workload in (WORKLOADS | SHAPES).items() if workload.kind in ONEDAL_TYPES]
    uneven = [name for name, (_, _, kind) in UNEVEN.items() if kind in ONEDAL_TYPES]
    lines = (even_line(name, start, chosen.separations, how) for name in wanted(names, even) for start in chosen.starts)
    print_table(EVEN_TITLES, lines)
    others = chain(
        (uneven_line(name, how) for name in wanted(names, uneven)),
        with_packages(wanted(names, REAL), chosen.packages, lambda name, at: real_lines(name, at, how)),
    )
    print_table(OTHER_TITLES, others)


def iteration_lines(names: list[str], chosen: argparse.Namespace) -> Lines:
    """Lines of iterations beside all other programs."""
    programs = (ONEDAL, SKLEARN) if has_onedal(chosen.onedal) else (SKLEARN,)
    how = Comparison(programs, chosen.onedal, chosen.rounds or 3, chosen.precision, chosen.kept)
    for name in wanted(names, WORKLOADS):
        for start, separation in BRIEF:
            runs, workload = even_runs(name, start, separation, how), WORKLOADS[name]
            yield other_line(workload.title(name), start, separation, runs, workload)
    yield from (uneven_line(name, how) for name in wanted(names, UNEVEN))


def ratio_lines(names: list[str], chosen: argparse.Namespace) -> Lines:
    for name in wanted(names, WORKLOADS):
        yield from (ratio_line(name, separation, chosen.rounds or 5, chosen.kept) for separation in BRIEF_SEPARATIONS)


def ops_lines(names: list[str], chosen: argparse.Namespace) -> Lines:
    for name in wanted(names, WORKLOADS):
        yield from (ops_line(name, separation, chosen.rounds or 3, chosen.kept) for separation in BRIEF_SEPARATIONS)


def real_fits(names: list[str], chosen: argparse.Namespace) -> Lines:
    rounds = chosen.rounds or 3
    return with_packages(wanted(names, REAL), chosen.packages, lambda name, at: real_races(name, at, rounds))


def with_packages(names: Iterable[str], folder: Path | None, lines: Callable[[str, Path], Lines]) -> Lines:
    """Lines of real data sets; the packages that they come with are downloaded where there is no folder."""
    with tempfile.TemporaryDirectory() as place:
        for name in names:
            download(folder or Path(place))
            yield from lines(name, folder or Path(place))


def wanted(names: list[str], known: Iterable[str]) -> list[str]:
    """Those of the known lines that were named, or all."""
    return [name for name in known if not names or name in names]


def print_table(titles: list[str], lines: Lines) -> str:
    """Print a table line by line; returns it. Nothing is printed if there is no line."""
    printed: list[str] = []
    for line in lines:
        for cells in [line] if printed else [titles, ["---"] * len(titles), line]:
            printed.append(f"| {' | '.join(cells)} |\n")
            print(printed[-1], end="", flush=True)
    return "".join(printed)


TABLES: dict[str, tuple[list[str], Callable[[list[str], argparse.Namespace], Lines]]] = {
    "iterations": (OTHER_TITLES, iteration_lines),
    "ratios": (RATIO_TITLES, ratio_lines),
    "ops": (OPS_TITLES, ops_lines),
    "speech": (
        SPEECH_TITLES,
        lambda names, chosen: chain.from_iterable(
            speech_lines(name, chosen.rounds or 5) for name in wanted(names, SPEECH)
        ),
    ),
    "races": (
        RACE_TITLES,
        lambda names, chosen: (race(name, chosen.rounds or 3) for name in wanted(names, WORKLOADS)),
    ),
    "real": (REAL_TITLES, real_fits),
    "collapse": (
        COLLAPSE_TITLES,
        lambda names, chosen: chain.from_iterable(
            collapse(name, chosen.rounds or 3) for name in wanted(names, COLLAPSE_CASES)
        ),
    ),
}
"""Titles and lines of the tables, but those of `onedal`."""

USUAL = ["iterations", "ratios", "ops", "speech"]


def main() -> None:
    """Print tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tables", nargs="*", metavar="TABLE", help=f"{', '.join(USUAL)} unless named")
    parser.add_argument("--only", nargs="+", default=[], help="workloads, data sets or cases; all unless named")
    parser.add_argument("--precision", default="float64")
    parser.add_argument("--rounds", type=int, help="runs of each, in alternation; 3 or 5 unless said")
    parser.add_argument("--separations", nargs="+", default=list(SEPARATIONS), choices=SEPARATIONS, help="of onedal")
    parser.add_argument("--starts", nargs="+", default=list(STARTS), choices=STARTS, help="of onedal")
    parser.add_argument("--onedal", type=Path, default=ONEDAL_PYTHON, help="a Python with daal4py and h5py")
    parser.add_argument("--saved", type=Path, help="file that keeps the runs of onedal, iterations, ratios and ops")
    parser.add_argument("--packages", type=Path, help="folder of the wheels with real rows")
    chosen = parser.parse_args()
    chosen.kept = KeptRuns(chosen.saved)
    for table in chosen.tables or USUAL:
        if table == "onedal":
            onedal_tables(chosen.only, chosen)
        elif table in TABLES:
            titles, lines = TABLES[table]
            print_table(titles, lines(chosen.only, chosen))
        else:
            parser.error(f"there is no table {table}")
        print()


if __name__ == "__main__":
    main()
