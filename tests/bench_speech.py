"""E-steps with many components and rows like those of speech: pruned and dense, and by Gaussian selection."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from statistics import median

import numpy as np
from bench_rows import speech_rows
from scipy.cluster.vq import kmeans2
from threadpoolctl import threadpool_limits

from mpigmm.core.arrays import DOUBLE
from mpigmm.core.estep.step import EStep
from mpigmm.core.mixture import Mixture
from mpigmm.core.ops import best_ops, ops_by_name
from mpigmm.core.statistics import SufficientStatistics
from mpigmm.core.tile import Tile
from mpigmm.core.tile_rows import most_rows
from mpigmm.rows import Rows

SPEECH = {"512": (512, 40_000), "4096": (4096, 10_000)}
"""Components and rows."""

SPEECH_TITLES = [
    *("E-step", "K", "ns a row", "faster than dense", "pairs evaluated"),
    *("error: nats a row", "rows of other components", "moments"),
]
THRESHOLD = 1.9
"""Mean squared distance for each feature, in variances, up to which a component is on the list of a codeword."""

COMPONENTS_A_CODEWORD = 8


@dataclass(frozen=True)
class Sums:
    """Sums of an E-step over rows: the log-likelihood, and statistics whose first column holds the counts (K, ...)."""

    log_likelihood: float
    counts: np.ndarray
    moments: np.ndarray

    def errors(self, exact: Sums) -> tuple[float, float, float]:
        """Error of the log-likelihood of a row, share of the rows' weight that other components have, and the largest
        error of a moment, relative to the largest one."""
        n_samples = exact.counts.sum()
        moved = np.abs(self.counts - exact.counts).sum() / 2
        moments = np.abs(self.moments - exact.moments).max() / np.abs(exact.moments).max()
        return abs(self.log_likelihood - exact.log_likelihood) / n_samples, moved / n_samples, float(moments)


def our_sums(mixture: Mixture, rows: np.ndarray, *, prunes: bool) -> Sums:
    """The sums by our kernels in one thread, tile by tile.

    Kernels compute all pairs of row and component if responsibilities need not be posterior probabilities.
    """
    centre, ops = rows.mean(axis=0), ops_by_name(best_ops())
    inputs = mixture.e_step_inputs(centre, np.abs(rows - centre).max(axis=0), DOUBLE, ops)
    e_step = EStep(replace(inputs, is_posterior=prunes))
    (k, d), tile_rows = mixture.means.shape, most_rows(*mixture.means.shape[::-1])
    tile, part = Tile(d, tile_rows, ops), SufficientStatistics.empty(mixture.layout)
    total = np.zeros_like(part.flat)
    for start in range(0, len(rows), tile_rows):
        tile.fill(Rows.of(rows[start : start + tile_rows]), centre, mask=False, dtype=DOUBLE)
        e_step(tile, part)
        total += part.flat
    found = SufficientStatistics.of(total, mixture.layout)
    moments = np.concatenate([found.first_moments, found.second_moments.reshape(k, d)], axis=1)
    return Sums(float(found.log_likelihood[0]), found.counts, moments)


class GaussianSelection:
    """The approximation of speech recognisers (Bocchieri, Vector quantization for the efficient computation of
    continuous density likelihoods, ICASSP 1993).

    The components' means are clustered into codewords. For a row, only the components on the list of the nearest
    codeword are evaluated; the densities of the others count as zero.
    """

    def __init__(self, mixture: Mixture, threshold: float = THRESHOLD) -> None:
        means, variances = mixture.means, mixture.covariances.variances
        precisions = 1 / variances
        self._scale = 1 / np.sqrt(variances.mean(axis=0))
        log_norm = np.log(mixture.weights) - 0.5 * np.log(2 * np.pi * variances).sum(axis=1)
        constant = log_norm - 0.5 * (np.square(means) * precisions).sum(axis=1)
        self._coefficients = np.concatenate([constant[:, None], means * precisions, -0.5 * precisions], axis=1)
        self._means, self.lists = means, list[np.ndarray]()
        n_codewords = max(1, len(means) // COMPONENTS_A_CODEWORD)
        self._codewords, nearest = kmeans2(means * self._scale, n_codewords, minit="++", seed=0)
        for number, codeword in enumerate(self._codewords):
            distances = np.square(means * self._scale - codeword).mean(axis=1)
            self.lists.append(np.flatnonzero((distances <= threshold) | (nearest == number)))

    def sums(self, rows: np.ndarray) -> tuple[Sums, float]:
        """The sums of an E-step, and the share of the pairs of row and component that were evaluated."""
        features = np.concatenate([np.ones((len(rows), 1)), rows, np.square(rows)], axis=1)
        sums, log_likelihood, n_pairs = np.zeros_like(self._coefficients), 0.0, 0
        nearest = self._nearest(rows)
        for number in np.unique(nearest):
            chosen, own = self.lists[number], features[nearest == number]
            log_prob = own @ self._coefficients[chosen].T
            highest = log_prob.max(axis=1, keepdims=True, initial=-np.inf)
            resp = np.exp(log_prob - highest)
            total = resp.sum(axis=1, keepdims=True)
            log_likelihood += float((highest + np.log(total)).sum())
            sums[chosen] += (resp / total).T @ own
            n_pairs += log_prob.size
        counts, d = sums[:, 0], rows.shape[1]
        first = sums[:, 1 : 1 + d] - counts[:, None] * self._means
        second = sums[:, 1 + d :] - self._means * (sums[:, 1 : 1 + d] + first)
        return Sums(log_likelihood, counts, np.concatenate([first, second], axis=1)), n_pairs / len(rows) / len(sums)

    def _nearest(self, rows: np.ndarray) -> np.ndarray:
        """Number (n,) of the codeword that is nearest to each row."""
        products = rows * self._scale @ self._codewords.T
        return (products - 0.5 * np.square(self._codewords).sum(axis=1)).argmax(axis=1)


def timed(run: Callable[[], Sums]) -> tuple[float, Sums]:
    """Seconds of a run, and its result."""
    begin = time.perf_counter()
    found = run()
    return time.perf_counter() - begin, found


def speech_lines(name: str, rounds: int) -> Iterator[list[str]]:
    """Lines of the table: three ways to do the E-step with the same rows and mixture, in alternation, in one thread."""
    n_components, n_samples = SPEECH[name]
    rows, mixture = speech_rows(n_samples, n_components)
    selection = GaussianSelection(mixture)
    ways: dict[str, Callable[[], Sums]] = {
        "dense": lambda: our_sums(mixture, rows, prunes=False),
        "pruned": lambda: our_sums(mixture, rows, prunes=True),
        "Gaussian selection, NumPy": lambda: selection.sums(rows)[0],
    }
    with threadpool_limits(1):
        runs = [{way: timed(run) for way, run in ways.items()} for _ in range(rounds)]
    for way in ways:
        seconds, ratios = zip(*((run[way][0], run["dense"][0] / run[way][0]) for run in runs), strict=True)
        errors = runs[0][way][1].errors(runs[0]["dense"][1])
        pairs = selection.sums(rows)[1] if way.startswith("Gaussian") else 1.0
        yield [
            *(way, str(n_components), f"{median(seconds) * 1e9 / n_samples:.0f}", f"{median(ratios):.2f}"),
            *(f"{pairs:.2f}" if way != "pruned" else "", *(f"{error:.0e}" for error in errors)),
        ]
