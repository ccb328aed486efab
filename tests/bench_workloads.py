"""The workloads of the benchmarks: even rows, and the mixtures that fits of them start from."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from bench_runs import BLOCK, RANKS
from support import mixture_of

from mpigmm.core.covariances import COVARIANCE_TYPES
from mpigmm.core.mixture import Mixture
from mpigmm.data.synthetic import SyntheticSource
from mpigmm.driver.measure import is_correlated, true_mixture


class Workload(NamedTuple):
    """Rows that are drawn from a mixture."""

    n_samples: int
    n_features: int
    n_components: int
    kind: str

    def source(self, separation: float, *, more: int = 0, seed: int = 0) -> SyntheticSource:
        """The rows, and some more, of components whose means are `separation` times standard normal numbers."""
        return SyntheticSource(
            self.n_samples + more,
            self.n_features,
            self.n_components,
            separation,
            correlated=is_correlated(COVARIANCE_TYPES[self.kind]),
            seed=seed,
        )

    def options(self) -> list[str]:
        """The options of ``mpigmm bench`` for these rows."""
        n_samples, n_features, n_components, kind = self
        sizes = [f"--n-samples={n_samples}", f"--n-features={n_features}", f"--n-components={n_components}"]
        return [*sizes, f"--covariance-type={kind}"]

    @property
    def rank_bytes(self) -> float:
        """Bytes of a rank's rows."""
        return self.n_samples * self.n_features * 8 / RANKS

    def title(self, name: str) -> str:
        n_samples, n_features, n_components, kind = self
        return f"{name}: {n_samples:,} x {n_features}, K = {n_components}, {kind}"


WORKLOADS = {
    "W1": Workload(1_000_000, 100, 10, "diag"),
    "W2": Workload(200_000, 100, 10, "full"),
    "W3": Workload(2_000_000, 3, 8, "full"),
    "W4": Workload(100_000, 40, 512, "diag"),
    "W5": Workload(200_000, 32, 64, "full"),
    "W6": Workload(50_000, 256, 16, "full"),
    "W7": Workload(1_000_000, 16, 32, "tied"),
}

SHAPES = {
    "F1": Workload(2_000_000, 6, 8, "full"),
    "F2": Workload(1_000_000, 12, 20, "full"),
    "F3": Workload(400_000, 24, 16, "full"),
    "F4": Workload(100_000, 48, 32, "full"),
    "F5": Workload(40_000, 64, 64, "full"),
    "F6": Workload(40_000, 90, 30, "full"),
    "F7": Workload(60_000, 128, 8, "full"),
    "D1": Workload(2_000_000, 32, 8, "diag"),
    "D2": Workload(1_000_000, 32, 32, "diag"),
    "D3": Workload(1_000_000, 64, 16, "diag"),
    "D4": Workload(400_000, 128, 32, "diag"),
}
"""More shapes, for the comparison with oneDAL."""

SEPARATIONS = {"apart": 3.0, "touching": 0.5, "overlapping": 0.1}


def spherical_start(rows: np.ndarray, n_components: int, kind: str) -> Mixture:
    """Random rows as means, equal weights, and one variance: the mean variance v of the D features, times D^(1/2) / 2.

    The squared norms of the means, without the centre's, differ by (2 D)^(1/2) v. With the variance v itself, the few
    components with short means would take almost all rows of many features, and others would have too few to go on.
    """
    n_features, variance = rows.shape[1], float(rows.var(axis=0, dtype=np.float64).mean())
    variance *= max(1.0, n_features**0.5 / 2)
    chosen = np.random.default_rng(0).choice(len(rows), n_components, replace=False)
    shape = COVARIANCE_TYPES[kind].shape(n_components, n_features)
    unit = np.eye(n_features) if kind in ("full", "tied") else np.ones(())
    covariances = np.ascontiguousarray(np.broadcast_to(variance * unit, shape))
    return mixture_of(kind, np.full(n_components, 1 / n_components), rows[chosen].astype(np.float64), covariances)


def first_start(source: SyntheticSource, workload: Workload) -> Mixture:
    """A start from which all components are spherical and far from the solution."""
    rows = source.read(0, min(BLOCK, workload.n_samples)).values
    return spherical_start(rows, workload.n_components, workload.kind)


def near_start(source: SyntheticSource, workload: Workload) -> Mixture:
    """The mixture that the rows are drawn from."""
    return true_mixture(source, COVARIANCE_TYPES[workload.kind])


STARTS: dict[str, Callable[[SyntheticSource, Workload], Mixture]] = {"first": first_start, "near": near_start}
"""Where a comparison starts: in the first iterations of a fit, or near its solution."""
