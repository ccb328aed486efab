"""What the benchmarks run: our command on two ranks, and other programs on the same cores in processes of their own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import warnings
from pathlib import Path
from statistics import mean
from types import TracebackType
from typing import Any

import h5py
import numpy as np
from sklearn.exceptions import ConvergenceWarning
from sklearn.mixture import GaussianMixture
from support import mpirun, read_lines, write_config

from mpigmm.data.synthetic import SyntheticSource

RANKS, BLOCK = 2, 100_000
HOUR = 3600.0
FLOOR_ROWS = 10_000

ONEDAL_PYTHON = Path(__file__).parent.parent / ".venv-onedal" / "bin" / "python"
"""The Python with oneDAL that ``make bench-onedal`` installs."""


def write_blocks(path: Path, source: SyntheticSource, first: int, last: int) -> None:
    """Some rows of a source, a block at a time."""
    with h5py.File(path, "w") as file:
        rows = file.create_dataset("X", (last - first, source.header.n_features), "float64")
        for start in range(first, last, BLOCK):
            stop = min(start + BLOCK, last)
            rows[start - first : stop - first] = source.read(start, stop).values


def write_settings(
    folder: Path, n_components: int, kind: str, reg_covar: float = 1e-6, **sections: dict[str, Any]
) -> dict[str, Any]:
    """A config of rows in a folder; returns its sections."""
    settings = {
        "data": {"path": str(folder / "x.h5")},
        "model": {"n_components": n_components, "covariance_type": kind, "reg_covar": reg_covar},
        "output": {"dir": str(folder / "out")},
        **sections,
    }
    write_config(folder / "run.yaml", **settings)
    return settings


def ours(n_ranks: int, *arguments: str) -> str:
    """What our command prints."""
    told = mpirun(n_ranks, *arguments, timeout=HOUR)
    assert told.returncode == 0, told.stderr
    return told.stdout


def iterations(folder: Path, *overrides: str, n_ranks: int = RANKS) -> tuple[list[dict[str, Any]], float]:
    """Lines of the convergence log of a fit with the config in a folder, and seconds from the command to its end."""
    begin = time.perf_counter()
    ours(n_ranks, "fit", str(folder / "run.yaml"), "--restart", *overrides)
    return read_lines(folder / "out" / "convergence.jsonl"), time.perf_counter() - begin


def summary(folder: Path) -> dict[str, Any]:
    """The summary of the last fit."""
    found: dict[str, Any] = json.loads((folder / "out" / "summary.json").read_text())
    return found


def score(folder: Path) -> float:
    """Mean log-likelihood of held-out rows under the mixture of the last fit."""
    told = ours(RANKS, "score", str(folder / "out" / "model.h5"), str(folder / "held.h5"))
    return float(json.loads(told)["mean_log_likelihood"])


def our_iterations(folder: Path, n_iter: int, *overrides: str, n_ranks: int = RANKS) -> list[float]:
    """Seconds of an iteration after the first, mean log-likelihood that enters the last, and peak bytes of a rank."""
    lines, _ = iterations(folder, f"em.max_iter={n_iter + 1}", *overrides, n_ranks=n_ranks)
    seconds = mean(line["seconds"] for line in lines[1:])
    return [seconds, lines[-1]["mean_log_likelihood"], summary(folder)["peak_memory_bytes"]]


def own_bench(shape: list[str], n_ranks: int) -> dict[str, float]:
    """What ``mpigmm bench`` reports."""
    report: dict[str, float] = json.loads(ours(n_ranks, "bench", "--json", *shape))
    return report


def floor_seconds(options: list[str], n_samples: int, precision: str) -> list[float]:
    """Seconds of an iteration at this machine's floor, measured now by `mpigmm bench` with few rows."""
    report = own_bench([*options, f"--n-samples={FLOOR_ROWS}", f"--precision={precision}", "--iterations=1"], RANKS)
    return [report["seconds"] * report["fraction_of_floor"] * n_samples / FLOOR_ROWS]


def apart(*arguments: object) -> list[float]:
    """What this file prints, run as a process of its own with all cores."""
    environment = {key: value for key, value in os.environ.items() if key != "OMP_NUM_THREADS"}
    command = [sys.executable, __file__, *map(str, arguments)]
    told = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    found: list[float] = json.loads(told.stdout)
    return found


class OneDal:
    """A process that does iterations of oneDAL with the rows and the start in a folder."""

    def __init__(self, python: Path, folder: Path, n_iter: int) -> None:
        command = [python, Path(__file__).with_name("bench_onedal.py"), folder, n_iter]
        hidden = ("OMP_NUM_THREADS", "PYTHONPATH")
        environment = {key: value for key, value in os.environ.items() if key not in hidden}
        self._process = subprocess.Popen(
            [*map(str, command)],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )

    def __enter__(self) -> OneDal:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.communicate()

    def measure(self) -> list[float]:
        """Seconds of an iteration after the first, and the mean log-likelihood that enters the last; NaN if oneDAL
        ended with an error."""
        assert self._process.stdin and self._process.stdout
        if self._process.poll() is None:
            self._process.stdin.write("measure\n")
            self._process.stdin.flush()
        found: list[float] = json.loads(self._process.stdout.readline() or "[NaN, NaN]")
        return found


def has_onedal(python: Path) -> bool:
    """Whether a Python can run `bench_onedal.py`."""
    command = [str(python), "-c", "import daal4py, h5py"]
    return python.exists() and not subprocess.run(command, capture_output=True, env={}).returncode


def their_iterations(folder: Path, n_iter: int) -> list[float]:
    """Seconds of an iteration of scikit-learn after the first, from the mixture in a folder, and the mean
    log-likelihood that enters the last."""
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
        len(weights), covariance_type=kind, tol=0, max_iter=n_iter + 1, reg_covar=0,
        weights_init=weights, means_init=means, precisions_init=precisions,
    )  # fmt: skip
    model.fit(rows)
    return [mean(seconds[1 : n_iter + 1]), model.lower_bound_]


def their_fit(folder: Path, judged: str, n_components: int, kind: str, tol: float) -> list[float]:
    """Seconds of a whole fit of scikit-learn's, mean log-likelihood of the rows in a file, and iterations."""
    with h5py.File(folder / "x.h5") as file, h5py.File(folder / judged) as other:
        rows, others = file["X"][()], other["X"][()]
    begin = time.perf_counter()
    model = GaussianMixture(n_components, covariance_type=kind, tol=tol, random_state=0).fit(rows)
    return [time.perf_counter() - begin, float(model.score(others)), model.n_iter_]


if __name__ == "__main__":
    warnings.simplefilter("ignore", ConvergenceWarning)
    match sys.argv[1:]:
        case ["--iterate", folder, n_iter]:
            print(json.dumps(their_iterations(Path(folder), int(n_iter))))
        case ["--fit", folder, judged, n_components, kind, tol]:
            print(json.dumps(their_fit(Path(folder), judged, int(n_components), kind, float(tol))))
