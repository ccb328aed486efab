"""Iterations with one component that is unlike the others: it must cost no more than its share."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from bench_runs import iterations, write_settings
from support import mixture_of, write_rows

from mpigmm.core.covariances import COVARIANCE_TYPES
from mpigmm.core.mixture import Mixture
from mpigmm.data.synthetic import SyntheticSource
from mpigmm.driver.measure import true_mixture
from mpigmm.runs.model import Model
from mpigmm.runs.model_file import save_model

COLLAPSE_TITLES = ["case", "precision", "bits", "ms of each iteration", "against", "slower by", "nats off float64"]
COLLAPSE_CASES = ["random-512", *(f"{kind}-{d}" for kind in ("spherical", "tied", "full") for d in (8, 64))]
N_SAMPLES, N_COMPONENTS, N_ITER = 100_000, 16, 5
TIGHT = 1e-6
"""Variance of the collapsed component; the others have one."""

FAR = 1e4
"""Standard deviations to the far mean of `tied`."""


def collapse(case: str, rounds: int) -> Iterable[list[str]]:
    """Lines of the table, in float64 and float32."""
    kind, _, size = case.partition("-")
    exact = float("nan")
    with tempfile.TemporaryDirectory() as place:
        for precision in ("float64", "float32"):
            with_it, seconds, reference = (
                from_random_rows(Path(place), precision, rounds)
                if kind == "random"
                else one_unlike(Path(place), kind, int(size), precision, rounds)
            )
            found = [line["mean_log_likelihood"] for line in with_it]
            exact = found[-1] if precision == "float64" else exact
            yield [
                case,
                precision,
                "/".join(map(str, sorted({line["precision_bits"] for line in with_it}))),
                " ".join(f"{1e3 * line['seconds']:.0f}" for line in with_it),
                f"{1e3 * reference:.0f}",
                f"{seconds / reference:.2f}",
                f"{abs(found[-1] - exact):.0e}",
            ]


def from_random_rows(folder: Path, precision: str, rounds: int) -> tuple[list[dict[str, Any]], float, float]:
    """512 `diag` components from rows as means, one of which soon holds a single row: lines of the log, seconds of the
    slowest iteration, and median seconds of the first three."""
    rows = SyntheticSource(50_000, 40, 512, 3.0, correlated=False).read(0, 50_000).values
    write_rows(folder / "x.h5", rows)
    write_settings(folder, 512, "diag", em={"tol": 0}, init={"method": "random"})
    runs = [fit(folder, precision, 8) for _ in range(rounds)]
    seconds = np.median([[line["seconds"] for line in lines] for lines in runs], axis=0)
    return runs[0], float(seconds.max()), float(np.median(seconds[:3]))


def one_unlike(
    folder: Path, kind: str, n_features: int, precision: str, rounds: int
) -> tuple[list[dict[str, Any]], float, float]:
    """A component that holds one row, far tighter than the others or, for `tied`, far from them: lines of the log, and
    median seconds of the iterations after the first with it and without it, in alternation."""
    source = SyntheticSource(N_SAMPLES, n_features, N_COMPONENTS, 0.5, correlated=kind == "full")
    rows, mixture = source.read(0, N_SAMPLES).values, true_mixture(source, COVARIANCE_TYPES[kind])
    places = [folder / kind / name for name in ("without", "with")]
    for place in places:
        place.mkdir(parents=True, exist_ok=True)
        if place == places[1]:
            rows, mixture = with_one_unlike(rows, mixture)
        write_rows(place / "x.h5", rows)
        save_model(place / "start.h5", Model(mixture))
        start = {"method": "file", "file": str(place / "start.h5")}
        write_settings(place, N_COMPONENTS, kind, em={"tol": 0}, init=start)
    runs = [[fit(place, precision, N_ITER) for place in places] for _ in range(rounds)]
    without, with_it = (median(seconds_of(lines) for lines in each) for each in zip(*runs, strict=True))
    return runs[0][1], with_it, without


def with_one_unlike(rows: np.ndarray, mixture: Mixture) -> tuple[np.ndarray, Mixture]:
    """Rows and a mixture whose first component holds the first row alone."""
    rows, covariances = rows.copy(), mixture.covariances.values.copy()
    if mixture.covariances.name == "tied":
        rows[0] = FAR
    else:
        covariances[0] *= TIGHT
    means, weights = mixture.means.copy(), mixture.weights.copy()
    means[0], weights[0] = rows[0], 1 / len(rows)
    return rows, mixture_of(mixture.covariances.name, weights / weights.sum(), means, covariances)


def seconds_of(lines: list[dict[str, Any]]) -> float:
    """Median of the iterations after the first."""
    return median(line["seconds"] for line in lines[1:])


def fit(folder: Path, precision: str, n_iter: int) -> list[dict[str, Any]]:
    """Lines of the log of a fit of the rows in a folder."""
    return iterations(folder, f"compute.precision={precision}", f"em.max_iter={n_iter}")[0]
