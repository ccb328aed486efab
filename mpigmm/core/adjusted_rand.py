"""How well two labellings of the same rows agree."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def adjusted_rand_index(one: NDArray[np.int64], other: NDArray[np.int64]) -> float:
    """The adjusted Rand index of two labellings (n,), whose labels are >= 0.

    It is 1 for equal partitions, whatever their labels are, and 0 on average for random ones with the same sizes
    (Hubert and Arabie, Journal of Classification 2, 1985, equation 5).
    """
    width = int(other.max(initial=0)) + 1
    both = np.unique(one * width + other, return_counts=True)[1]
    rows, columns = (np.unique(labels, return_counts=True)[1] for labels in (one, other))
    together, in_one, in_other, all_pairs = (n_pairs(sizes) for sizes in (both, rows, columns, np.array([len(one)])))
    expected = in_one * in_other / all_pairs if all_pairs else 0.0
    most = (in_one + in_other) / 2
    return 1.0 if most == expected else (together - expected) / (most - expected)


def n_pairs(sizes: NDArray[np.int64]) -> float:
    """Number of pairs within groups of these sizes."""
    return float((sizes * (sizes - 1) / 2).sum())
