"""E-steps of accelerated EM against plain EM, from the same starts, and the largest fall of its log-likelihood:

``python bench_acceleration.py [overlapping [N]] [monotone [N]] [real [ROWS.npy ...]]``

* overlapping: N mixtures (20), each by a rule from its number: the covariance type in turn, 3 to 8 components, 2 to 8
  features, 2000 to 8000 rows drawn from a synthetic mixture whose means are standard
  normal numbers times a gap between 1.5 and 3, divided by the root of the number of features. Starts are k-means.
  E-steps until the log-likelihood of a row is within 1e-6 nats of the limit of plain EM.
* monotone: N random problems (200) of each type with `reg_covar: 0`, 60 E-steps each.
* real: scikit-learn's iris, wine, breast cancer and digits, and rows in .npy files, whose E-steps are counted alike.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
from passes import Passes
from support import TYPES, blobs, start_mixture, survey_of

from mpigmm.core.algorithms import ACCELERATIONS
from mpigmm.core.algorithms.initialise import initialise
from mpigmm.core.covariances import COVARIANCE_TYPES
from mpigmm.core.covariances.base import Safeguards, SingularCovarianceError
from mpigmm.core.mixture import Mixture
from mpigmm.core.synthetic_mixture import synthetic_mixture

WITHIN = 1e-6
"""Nats of a row from the limit of plain EM."""

MOST_PLAIN, AT_LIMIT = 20_000, 1e-11
"""Plain EM is at its limit where ten iterations gain less than `AT_LIMIT`, or after `MOST_PLAIN`."""

LEAST_TRIED = 300
"""Accelerated EM is given up after as many E-steps as plain EM took, but not before so many."""

EXACT = Safeguards(0.0, 1e-12)
DEFAULT = Safeguards(1e-6, 1e-12)


@dataclass(frozen=True)
class Case:
    """Rows, and the mixture from which all methods start."""

    title: str
    rows: np.ndarray
    start: Mixture
    safeguards: Safeguards = EXACT


def k_means(covariance_type: str, rows: np.ndarray, n_components: int, seed: int, safeguards: Safeguards) -> Mixture:
    kind, sample = COVARIANCE_TYPES[covariance_type], (rows, np.ones(len(rows)))
    return initialise("kmeans", kind, n_components, sample, survey_of(rows), safeguards, (seed, 0))


def overlapping(number: int) -> Case:
    covariance_type, random = TYPES[number % len(TYPES)], np.random.default_rng(number)
    k, d, n = (int(random.integers(*bounds)) for bounds in ((3, 9), (2, 9), (2000, 8000)))
    gap = random.uniform(1.5, 3.0)
    mixture = synthetic_mixture(COVARIANCE_TYPES[covariance_type], k, d, gap / np.sqrt(d), number)
    labels = random.choice(k, n, p=mixture.weights)
    factors = np.linalg.cholesky(mixture.covariance_matrices(np.arange(d)))
    rows = np.empty((n, d))
    for component in range(k):
        own = np.flatnonzero(labels == component)
        rows[own] = mixture.means[component] + random.standard_normal((len(own), d)) @ factors[component].T
    title = f"{number} {covariance_type} {k}x{d} of {n}, gap {gap:.2f}"
    return Case(title, rows, k_means(covariance_type, rows, k, number, EXACT))


def real(paths: list[str]) -> Iterator[Case]:
    from sklearn import datasets

    named = [(name, getattr(datasets, f"load_{name}")().data) for name in ("iris", "wine", "breast_cancer", "digits")]
    named += [(Path(path).stem, np.load(path)) for path in paths]
    for name, rows in named:
        varied = np.asarray(rows[:, np.ptp(rows, axis=0) > 0], float)
        for covariance_type in TYPES:
            k = {"iris": 3, "wine": 3, "breast_cancer": 4}.get(name, 10)
            start = k_means(covariance_type, varied, k, 0, DEFAULT)
            yield Case(f"{name} {covariance_type} {k}x{varied.shape[1]} of {len(varied)}", varied, start, DEFAULT)


def limit_of_plain(case: Case) -> tuple[int, float]:
    """E-steps of plain EM to within `WITHIN` of its limit, and the limit."""
    passes, found = Passes("batch", case.rows, case.safeguards), []
    for report in passes.reports(passes.algorithm.start(case.start)):
        found.append((passes.n, report.objective))
        if len(found) > MOST_PLAIN or (len(found) > 20 and abs(found[-1][1] - found[-11][1]) < AT_LIMIT):
            break
    limit = found[-1][1]
    return next(n for n, objective in found if objective >= limit - WITHIN), limit


def e_steps_of(name: str, case: Case, plain: int, limit: float) -> tuple[float, int, float]:
    """E-steps to within `WITHIN` of a limit, infinite where it is not reached; how many of them were rejected; and the
    last objective minus the limit."""
    passes, rejected, last = Passes(name, case.rows, case.safeguards), 0, -np.inf
    for report in passes.reports(passes.algorithm.start(case.start)):
        rejected += report.again
        last = last if report.again else report.objective
        if last >= limit - WITHIN:
            return passes.n, rejected, last - limit
        if passes.n >= max(plain, LEAST_TRIED):
            return np.inf, rejected, last - limit
    raise AssertionError


def compare(cases: Iterator[Case]) -> None:
    """A line for each case, then the median and the least ratio of each method."""
    ratios: dict[str, list[float]] = {name: [] for name in ACCELERATIONS}
    for case in cases:
        plain, limit = limit_of_plain(case)
        cells = []
        for name in ACCELERATIONS:
            n, rejected, off = e_steps_of(name, case, plain, limit)
            ratios[name].append(plain / n)
            cells.append(f"{name} {n:.0f} ({rejected}) {plain / n:.2f}" if n < np.inf else f"{name} not: {off:+.1e}")
        print(f"{case.title:45s} plain {plain:5d}  " + "  ".join(f"{cell:28s}" for cell in cells), flush=True)
    for name, found in ratios.items():
        lost = sum(ratio == 0 for ratio in found)
        print(f"{name}: {np.median(found):.2f} times fewer in the median, at least {min(found):.2f}; {lost} elsewhere")


def monotone(n_problems: int, most: int = 60) -> None:
    """The largest fall of the log-likelihood in random problems of each type."""
    for covariance_type in TYPES:
        for name in ("batch", *ACCELERATIONS):
            falls, repaired, collapsed = [], 0, 0
            for seed in range(n_problems):
                random = np.random.default_rng([seed, TYPES.index(covariance_type)])
                k, d, n = (int(random.integers(*bounds)) for bounds in ((1, 7), (1, 6), (200, 600)))
                rows = blobs(n, d, k, seed, separation=random.uniform(0, 3)) * 10.0 ** random.uniform(-3, 3, d)
                rows += random.normal(size=d)
                passes, last = Passes(name, rows, EXACT), -np.inf
                try:
                    for report in passes.reports(passes.algorithm.start(start_mixture(covariance_type, rows, k, seed))):
                        if not report.again:
                            falls.append(last - report.objective)
                            last = -np.inf if report.repairs else report.objective
                        repaired += bool(report.repairs)
                        if passes.n >= most:
                            break
                except SingularCovarianceError:
                    collapsed += 1
            told = f"largest fall {max(falls):.1e}, {repaired} repairs, {collapsed} collapsed"
            print(f"{covariance_type:10s} {name:10s} {n_problems} problems: {told}", flush=True)


def sections(words: list[str]) -> Iterator[tuple[str, list[str]]]:
    """The tables to print, each with its arguments."""
    starts = [i for i, word in enumerate(words) if word in ("overlapping", "monotone", "real")]
    for start, stop in pairwise([*starts, len(words)]):
        yield words[start], words[start + 1 : stop]


if __name__ == "__main__":
    for name, arguments in sections(sys.argv[1:] or ["overlapping", "monotone", "real"]):
        print(f"== {name}", flush=True)
        if name == "overlapping":
            compare(map(overlapping, range(*map(int, arguments or ["20"]))))
        elif name == "monotone":
            monotone(*map(int, arguments or ["200"]))
        else:
            compare(real(arguments))
