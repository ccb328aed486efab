"""EM iterations of Intel's oneDAL, run as a program with the Python of an environment that has daal4py and h5py:

    python tests/bench_onedal.py FOLDER N_ITER

reads the rows x.h5 and the mixture start.h5, of type `full` or `diag`, in a folder. Then it prints, for each line of
the standard input, a line with the seconds of an iteration and the mean log-likelihood that enters the last one.
Iteration 1 is not timed: the seconds are the time of N_ITER + 1 iterations without that of one, divided by N_ITER.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import daal4py
import h5py
import numpy as np

THREADS = 2
STORAGE = {"full": "", "diag": "diagonal"}
"""Names of the types of covariances."""

FEW_ROWS = 1000


class Iterations:
    """oneDAL's EM with the rows and the start in a folder."""

    def __init__(self, folder: Path) -> None:
        with h5py.File(folder / "x.h5") as file, h5py.File(folder / "start.h5") as start:
            self._rows = file["X"][()].astype(np.float64)
            self._weights, self._means = start["weights"][()][None, :], start["means"][()]
            covariances, self._kind = start["covariances"][()], start.attrs["covariance_type"]
        self._covariances = [np.atleast_2d(covariance) for covariance in covariances]

    def run(self, n_iter: int, n_rows: int | None = None) -> tuple[float, Any]:
        """Seconds of some iterations, and what they result in.

        The threshold 0 of the change of the log-likelihood stops no run. Covariances are regularised only where they
        are singular.
        """
        begin = time.perf_counter()
        algorithm = daal4py.em_gmm(
            nComponents=len(self._means),
            maxIterations=n_iter,
            accuracyThreshold=0.0,
            covarianceStorage=STORAGE[self._kind],
        )
        found = algorithm.compute(self._rows[:n_rows], self._weights, self._means, self._covariances)
        return time.perf_counter() - begin, found

    def measure(self, n_iter: int) -> list[float]:
        """Seconds of an iteration, and the mean log-likelihood that enters the last."""
        one, _ = self.run(1)
        several, found = self.run(n_iter + 1)
        assert found.nIterations[0, 0] == n_iter + 1, "fewer iterations than asked for"
        return [(several - one) / n_iter, found.goalFunction[0, 0] / len(self._rows)]


def main(folder: Path, n_iter: int) -> None:
    """Measure once for each line of the standard input."""
    daal4py.daalinit(THREADS)
    iterations = Iterations(folder)
    iterations.run(1, FEW_ROWS)  # its threads start, and the caches fill
    for _ in sys.stdin:
        print(json.dumps(iterations.measure(n_iter)), flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
