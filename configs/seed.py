"""Write the rows of ``seed.yaml``: 1,000,000 x 100 standard normal numbers in float32, one block after another."""

from __future__ import annotations

import sys
from pathlib import Path

import h5py
import numpy as np

N_SAMPLES, N_FEATURES, BLOCK = 1_000_000, 100, 50_000


def main(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(0)
    with h5py.File(path, "w") as file:
        rows = file.create_dataset("X", (N_SAMPLES, N_FEATURES), "float32")
        for start in range(0, N_SAMPLES, BLOCK):
            rows[start : start + BLOCK] = random.standard_normal((BLOCK, N_FEATURES), np.float32)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
