"""Ratios of the seconds of our own iterations: precisions, streamed rows, ranks, threads, and array operations."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median

import h5py
from bench_iterations import OURS, KeptRuns, Runs, alternate, even_rows, n_timed, ns, rounded
from bench_runs import RANKS, our_iterations, own_bench, write_settings
from bench_workloads import SEPARATIONS, STARTS, WORKLOADS, Workload
from support import write_config

from mpigmm.core.ops import ops_by_name
from mpigmm.runs.model import Model
from mpigmm.runs.model_file import save_model

RATIO_TITLES = [
    *("workload", "components", "ns a row", "float32", "float32 rows", "streamed", "float32 rows streamed"),
    *("1 -> 2 ranks", "two threads", "MB", "MB streamed"),
]
OPS = ("compiled-avx512", "compiled-avx2", "compiled-generic", "numpy")
OPS_TITLES = ["workload", "components", *OPS]
"""The figures are nanoseconds of a row."""

STREAMED_PART = 4
"""Rows of a rank over those that it may keep in memory if it streams them."""


def ratio_line(name: str, separation: str, rounds: int, kept: KeptRuns) -> list[str]:
    """A line of ratios: how many times as fast float32 is and float32 with rows of a float32 file; the speed of
    streamed rows, of float32 too, and of one rank with two threads in that of two ranks with the same rows in memory;
    the efficiency of two ranks."""
    workload = WORKLOADS[name]
    runs = kept.once(("ratios", name, separation), lambda: ratio_runs(workload, separation, rounds))
    speed = {way: 1 / runs.ratios(way)[1] for way in runs.figures}
    streamed32 = median(a[0] / b[0] for a, b in zip(runs.figures["rows32"], runs.figures["streamed32"], strict=True))
    return [
        *(workload.title(name), separation, rounded(ns(runs, OURS, workload))),
        *(f"{speed[way]:.2f}" for way in ("float32", "rows32", "streamed")),
        *(f"{streamed32:.2f}", f"{1 / speed['one'] / RANKS:.2f}", f"{speed['threads']:.2f}"),
        f"{(runs.median(OURS, 2) - workload.rank_bytes) / 1e6:.0f}",
        f"{runs.median('streamed', 2) / 1e6:.0f}",
    ]


def ratio_runs(workload: Workload, separation: str, rounds: int) -> Runs:
    """Runs of a workload in different ways."""
    with even_rows(workload, separation) as folder:
        prepare(folder, workload, separation)
        few = f"compute.memory={int(workload.rank_bytes / STREAMED_PART)}"
        few32 = f"compute.memory={int(workload.rank_bytes / 2 / STREAMED_PART)}"
        single, rows32 = "compute.precision=float32", f"data.path={folder / 'x32.h5'}"
        run = partial(our_iterations, folder, n_timed(workload))
        ways: dict[str, Callable[[], list[float]]] = {
            OURS: run,
            "float32": partial(run, single),
            "rows32": partial(run, single, rows32),
            "streamed": partial(run, few),
            "streamed32": partial(run, single, rows32, few32),
            "one": partial(run, "compute.threads=1", n_ranks=1),
            "threads": partial(run, f"compute.threads={RANKS}", n_ranks=1),
        }
        return alternate(ways, rounds)


def prepare(folder: Path, workload: Workload, separation: str) -> None:
    """Write the config, the start near the solution, and the rows in float32 as well."""
    save_model(folder / "start.h5", Model(STARTS["near"](workload.source(SEPARATIONS[separation]), workload)))
    settings = write_settings(folder, workload.n_components, workload.kind, 0.0, em={"tol": 0})
    write_config(folder / "run.yaml", **settings, init={"method": "file", "file": str(folder / "start.h5")})
    with h5py.File(folder / "x.h5") as file, h5py.File(folder / "x32.h5", "w") as single:
        single["X"] = file["X"].astype("float32")[()]


def ops_line(name: str, separation: str, rounds: int, kept: KeptRuns) -> list[str]:
    """A line of nanoseconds a row with each of the array operations that work here, near the solution."""
    workload = WORKLOADS[name]
    options = [*workload.options(), f"--separation={SEPARATIONS[separation]}", "--iterations=3"]
    ways = {ops: partial(ops_seconds, [*options, f"--kernels={ops}"]) for ops in OPS if works(ops)}
    runs = kept.once(("ops", name, separation), lambda: alternate(ways, rounds))
    return [
        workload.title(name),
        separation,
        *(rounded(ns(runs, ops, workload)) if ops in runs.figures else "" for ops in OPS),
    ]


def works(ops: str) -> bool:
    """Whether array operations are installed, and this processor can execute them."""
    try:
        ops_by_name(ops)
    except ImportError:
        return False
    return True


def ops_seconds(options: list[str]) -> list[float]:
    """Seconds of an iteration on two ranks."""
    return [own_bench(options, RANKS)["seconds"]]
