"""Random fits without regularisation, whose log-likelihood must not fall: ``falls.py COUNT [FIRST]``.

Rows with correlated features, offsets, scales and overlaps at random; half of the fits have pairs of components that
overlap among others 500 to 2500 standard deviations away, where products of rows lose the most digits.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass

import numpy as np
from support import TYPES, blobs, start_mixture, step_in_memory, survey_of, with_covariances

from mpigmm.core.covariances.base import Safeguards, SingularCovarianceError
from mpigmm.core.mixture import Mixture
from mpigmm.core.ops import best_ops, ops_by_name
from mpigmm.core.ops.base import Ops
from mpigmm.core.ops.numpy import NUMPY

MOST = 1e-10
"""Fall of the mean log-likelihood of a row, in nats, that a fit may show."""

SAFEGUARDS = Safeguards(0.0, 1e-12)
N_ITER = 120


@dataclass(frozen=True)
class Trial:
    """A random fit: its largest fall, the iteration that it came with, and why it ended early, if it did."""

    seed: int
    covariance_type: str
    ops: str
    pairs: bool
    fall: float
    iteration: int
    ended: str = ""


def paired(random: np.random.Generator, n_features: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows of two to four pairs of overlapping components, and the components' means."""
    centres = random.standard_normal((random.integers(2, 5), n_features))
    centres *= random.uniform(500, 2500) / np.linalg.norm(centres, axis=1, keepdims=True)
    means = np.repeat(centres, 2, axis=0)
    means[1::2] += random.uniform(0.5, 3) * random.standard_normal(centres.shape) / np.sqrt(n_features)
    mixing = np.eye(n_features) + 0.4 * random.standard_normal((n_features, n_features))
    n_rows = int(random.integers(40, 200))  # few, so that roundings do not cancel
    noise = random.standard_normal((n_rows, n_features)) @ mixing
    return means[random.integers(len(means), size=n_rows)] + noise, means


def start_near(covariance_type: str, rows: np.ndarray, means: np.ndarray, random: np.random.Generator) -> Mixture:
    """A mixture with about these means, and covariances of about one."""
    start = start_mixture(covariance_type, rows, len(means))
    start.means[:] = means + 0.3 * random.standard_normal(means.shape)
    own = start_mixture(covariance_type, random.standard_normal((4 * means.size, means.shape[1])), len(means))
    return with_covariances(start, 2 * own.covariances.values)


def scattered(random: np.random.Generator, n_features: int, seed: int) -> np.ndarray:
    """Rows of components as far apart as may be, with offsets and scales."""
    separation = 10 ** random.uniform(-0.5, 2.5)
    rows = blobs(int(random.integers(300, 2500)), n_features, int(random.integers(2, 7)), seed, separation)
    offset = 10 ** random.uniform(-1, 4) * random.standard_normal(n_features)
    return rows * 10 ** random.uniform(-2, 2, n_features) + offset


def trial(seed: int) -> Trial:
    """The fit of a seed."""
    random, pairs = np.random.default_rng(seed), seed % 2 == 0
    covariance_type = TYPES[seed // 2 % len(TYPES)]
    ops = NUMPY if seed % 5 == 0 else ops_by_name(best_ops())
    if pairs:
        covariance_type = "tied" if seed % 4 else covariance_type
        rows, means = paired(random, int(random.integers(1, 5)))
        start = start_near(covariance_type, rows, means, random)
    else:
        rows = scattered(random, int(random.integers(1, 9)), seed)
        start = start_mixture(covariance_type, rows, int(random.integers(2, 7)), seed)
    return Trial(seed, covariance_type, ops.name, pairs, *largest_fall(start, rows, ops))


def largest_fall(mixture: Mixture, rows: np.ndarray, ops: Ops) -> tuple[float, int, str]:
    """Largest fall of the mean log-likelihood, the iteration that it came with, and why the fit ended early."""
    survey, before, fall, at, ended = survey_of(rows), -np.inf, 0.0, 0, ""
    try:
        for iteration in range(1, N_ITER + 1):
            mixture, statistics, repairs, _ = step_in_memory(mixture, rows, survey, None, SAFEGUARDS, ops)
            entered = float(statistics.log_likelihood[0]) / len(rows)
            if before - entered > fall:
                fall, at = before - entered, iteration
            before = -np.inf if repairs else entered
    except SingularCovarianceError as error:
        ended = str(error)
    return fall, at, ended


def main(count: str, first: str = "0") -> None:
    trials = [trial(seed) for seed in range(int(first), int(first) + int(count))]
    for found in trials:
        if found.fall > MOST or found.ended:
            print(found)
    fallen = [found for found in trials if found.fall > MOST]
    worst = max(trials, key=lambda found: found.fall)
    print(f"{len(fallen)} of {count} fits fall by more than {MOST:g}; the worst is {worst}")
    sys.exit(bool(fallen))


if __name__ == "__main__":
    main(*sys.argv[1:])
