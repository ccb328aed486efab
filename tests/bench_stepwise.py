"""Stepwise EM against batch EM from the same starts: ``python tests/bench_stepwise.py``, or ``... photo-8-full
--seeds 0`` for some data and starts.

Batch EM runs until a row's mean log-likelihood changes by less than 1e-6. Stepwise EM has its defaults and three
passes, with everything that they count. Both are scored on the same rows, which neither has seen. The real rows are a
photograph that comes with scikit-learn and eleven wells of a flow cytometer that come with FlowCytometryTools.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from bench_rows import download, read_fcs

import mpigmm

FOLDER = Path(__file__).parent.parent / "runs" / "bench-rows"
PACKAGES = {"FlowCytometryTools": "0.5.1"}
HEIGHTS = [2, 5, 8, 11, 14]
"""Columns of the wells with the heights of pulses; the others are their areas, their widths, and the time."""
COFACTOR = 150.0
"""Of the inverse hyperbolic sine to which such heights are usually transformed."""

HELD_OUT, SEED = 0.1, 7
N_SYNTHETIC = 10**7

HEAD = [
    *("rows", "K and type", "seed", "batch: E-steps", "held-out", "s"),
    *("stepwise: E-steps", "passes", "held-out", "s", "difference"),
]

BATCH = {"algorithm": "batch", "max_iter": 2000, "tol": 1e-6}
STEPWISE = {"algorithm": "stepwise", "max_iter": 3, "tol": 0}


def photo() -> np.ndarray:
    """Colour and position of the pixels of a photograph, (273280, 5), as in the demo."""
    from sklearn.datasets import load_sample_image

    pixels = load_sample_image("china.jpg") / 255
    height, width, _ = pixels.shape
    position = np.stack(np.mgrid[:height, :width], axis=-1) / height / 2
    return np.concatenate([pixels, position], axis=-1).reshape(-1, 5)


def wells() -> np.ndarray:
    """Heights of pulses in eleven wells, (110000, 5)."""
    download(FOLDER, PACKAGES)
    files = sorted((FOLDER / "FlowCytometryTools/tests/data").glob("Plate0*/*.fcs"))
    return np.arcsinh(np.concatenate([read_fcs(file)[:, HEIGHTS] for file in files]) / COFACTOR)


def synthetic() -> np.ndarray:
    """Rows (`N_SYNTHETIC`, 8) of ten overlapping components with correlations, in random order."""
    random = np.random.default_rng(SEED)
    means = 0.5 * random.standard_normal((10, 8))
    mixing = np.eye(8) + 0.4 * random.standard_normal((10, 8, 8))
    labels = random.choice(10, size=N_SYNTHETIC, p=random.dirichlet(np.full(10, 5.0)))
    rows = random.standard_normal((N_SYNTHETIC, 8))
    for k in range(10):
        own = labels == k
        rows[own] = rows[own] @ mixing[k] + means[k]
    return rows


ROWS: dict[str, Callable[[], np.ndarray]] = {"photo": photo, "wells": wells, "synthetic": synthetic}
CASES = {
    "photo-6-tied": ("photo", 6, "tied"),
    "photo-8-full": ("photo", 8, "full"),
    "photo-12-full": ("photo", 12, "full"),
    "photo-16-diag": ("photo", 16, "diag"),
    "wells-8-tied": ("wells", 8, "tied"),
    "wells-6-diag": ("wells", 6, "diag"),
    "wells-8-full": ("wells", 8, "full"),
    "synthetic": ("synthetic", 10, "full"),
}
"""Rows, components and covariance type."""


def split(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The rows for the fits, and those that neither sees."""
    apart = np.random.default_rng(SEED).random(len(rows)) < HELD_OUT
    return np.ascontiguousarray(rows[~apart]), np.ascontiguousarray(rows[apart])


def fit(rows: np.ndarray, k: int, kind: str, seed: int, em: dict[str, Any]) -> tuple[mpigmm.FitResult, float]:
    """A fit, and the seconds that it took."""
    begin = time.perf_counter()
    model = {"n_components": k, "covariance_type": kind}
    found = mpigmm.fit({"model": model, "init": {"seed": seed}, "em": em}, rows)
    return found, time.perf_counter() - begin


def score(found: mpigmm.FitResult, rows: np.ndarray) -> float:
    """Mean log-likelihood of rows."""
    parts = np.array_split(rows, max(1, len(rows) // 100_000))
    return float(sum(found.mixture.score_samples(part).sum() for part in parts) / len(rows))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("cases", nargs="*", default=list(CASES))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    given = parser.parse_args()
    for cells in (HEAD, ["---"] * len(HEAD)):
        print(f"| {' | '.join(cells)} |")
    for case in given.cases:
        name, k, kind = CASES[case]
        fitted, apart = split(ROWS[name]())
        for seed in given.seeds[:1] if name == "synthetic" else given.seeds:
            batch, batch_seconds = fit(fitted, k, kind, seed, BATCH)
            few, few_seconds = fit(fitted, k, kind, seed, STEPWISE)
            one, other = score(batch, apart), score(few, apart)
            print(
                f"| {name}, {len(fitted):,} x {fitted.shape[1]} | {k}, {kind} | {seed} "
                f"| {batch.summary['e_steps']} | {one:.4f} | {batch_seconds:.1f} "
                f"| {few.summary['e_steps']} | {few.summary['passes']:.2f} | {other:.4f} | {few_seconds:.1f} "
                f"| {other - one:+.4f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
