"""Draws ``algorithms.svg``: how far four algorithms are from the limit of batch EM, against passes over the rows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

import mpigmm

N_ROWS, K, D = 20_000, 8, 5
MOST_PASSES = 400
ALGORITHMS: dict[str, dict[str, Any]] = {
    "batch": {},
    "batch, anderson": {"accelerate": "anderson"},
    "batch, squarem": {"accelerate": "squarem"},
}
LEAST_GAP = 1e-8
"""Smaller gaps are rounding errors of the limit."""


def overlapping_rows() -> NDArray[np.float64]:
    """Rows of components whose means are about as far apart as their standard deviations."""
    random = np.random.default_rng(1)
    means = 1.0 * random.standard_normal((K, D))
    factors = np.tril(0.15 * random.standard_normal((K, D, D))) + np.eye(D)
    which = random.integers(K, size=N_ROWS)
    noise = np.einsum("nij,nj->ni", factors[which], random.standard_normal((N_ROWS, D)))
    return np.asarray(means[which] + noise)


def fit(rows: NDArray[np.float64], **em: Any) -> mpigmm.FitResult:
    """A fit from one start for all algorithms, which by default does not end before its last iteration."""
    return mpigmm.fit({"model": {"n_components": K}, "init": {"screening": False}, "em": {"tol": 0, **em}}, rows)


def stepwise_curve(rows: NDArray[np.float64]) -> tuple[list[float], list[float]]:
    """Passes, and the mean log-likelihood of all rows, after 1, 2, 3, ... passes of stepwise EM."""
    found = [fit(rows, algorithm="stepwise", max_iter=n, polish=0) for n in range(2, 12)]
    return [each.summary["passes"] for each in found], [each.summary["mean_log_likelihood"] for each in found]


def main() -> None:
    rows = overlapping_rows()
    limit = fit(rows, tol=1e-11, max_iter=5000).summary["mean_log_likelihood"]
    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.subplots()
    for name, em in ALGORITHMS.items():  # the log-likelihood of a line is that of the mixture before its E-step
        log = fit(rows, max_iter=MOST_PASSES, **em).convergence
        axes.plot(log["passes"] - 1, np.maximum(limit - log["mean_log_likelihood"], LEAST_GAP), label=name)
    passes, means = stepwise_curve(rows)
    axes.plot(passes, np.maximum(limit - np.array(means), LEAST_GAP), "o-", markersize=3, label="stepwise")
    axes.set(yscale="log", xlim=(0, MOST_PASSES), xlabel="passes over the rows", ylabel="gap to the limit, nats a row")
    axes.legend()
    axes.grid(alpha=0.3)
    mpl.rcParams["svg.hashsalt"] = "mpigmm"  # so that a second run writes the same file
    figure.savefig(Path(__file__).with_name("algorithms.svg"), metadata={"Date": None})


if __name__ == "__main__":
    main()
