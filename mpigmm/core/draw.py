"""Random rows of a mixture that depend on the seed and the row number alone.

Any number of ranks that draw any ranges of rows therefore draw, together, the same sample.
"""

from __future__ import annotations

import numpy as np

from mpigmm.core.arrays import Indices
from mpigmm.core.exact import FloatArray
from mpigmm.core.mixture import Mixture

BLOCK_ROWS = 1024
"""Number of rows that are drawn together. Ranges that start and end at multiples of it draw no row in vain."""


def draw_rows(mixture: Mixture, seed: int, start: int, stop: int) -> tuple[FloatArray, Indices]:
    """Rows start to stop - 1 of the endless sample of the mixture with this seed.

    A row is the same to the last bit in whatever range it is drawn. Blocks of rows are drawn as a whole and then cut to
    the range, because the solution of a linear system may be rounded differently for another number of rows. Beside the
    result, memory holds a few blocks.

    Parameters
    ----------
    mixture : Mixture
    seed : int
        At least 0 and less than 2^64.
    start, stop : int
        Row numbers, 0 <= start <= stop.

    Returns
    -------
    rows : ndarray of shape (stop - start, D), float64
    components : ndarray of shape (stop - start,), intp
        Number of the component from which each row comes.

    Raises
    ------
    SingularCovarianceError
        A covariance is not positive definite.
    """
    _ = mixture.covariances.factors  # an empty range, too, raises an error for a singular covariance
    rows, components = np.empty((stop - start, mixture.n_features)), np.empty(stop - start, np.intp)
    for block in range(start // BLOCK_ROWS, -(-stop // BLOCK_ROWS)):
        first = block * BLOCK_ROWS
        low, high = max(start, first), min(stop, first + BLOCK_ROWS)
        drawn, drawn_from = draw_block(mixture, seed, block)
        rows[low - start : high - start] = drawn[low - first : high - first]
        components[low - start : high - start] = drawn_from[low - first : high - first]
    return rows, components


def draw_block(mixture: Mixture, seed: int, block: int) -> tuple[FloatArray, Indices]:
    """Rows (`BLOCK_ROWS`, D) of a block of the sample, and the components from which they come.

    A row of component k is mean_k + U_k^-T z with standard normal z; its covariance is (U_k U_k^T)^-1. The random
    numbers are those of the counter-based generator Philox (Salmon, Moraes, Dror and Shaw, Parallel random numbers: as
    easy as 1, 2, 3, SC 2011) whose key is the seed. The block number is the highest of the four 64-bit words of its
    counter, so that blocks never share random numbers.
    """
    random = np.random.Generator(np.random.Philox(key=seed, counter=block << 192))
    components = draw_components(mixture.weights, random.random(BLOCK_ROWS))
    standard = random.standard_normal((BLOCK_ROWS, mixture.n_features))
    rows = mixture.covariances.factors.unwhiten(standard, components)
    rows += mixture.means[components]
    return rows, components


def draw_components(weights: FloatArray, uniform: FloatArray) -> Indices:
    """Components (n,) drawn with probabilities proportional to the weights (K,), from numbers (n,) uniform on [0, 1).

    Component k is drawn where the sum of the weights before it is at most u times the sum of all, and the sum up to it
    is greater: never if its weight is zero. Since u <= 1 - 2^-53, the product is rounded to less than the sum of all.
    """
    cumulative = np.cumsum(weights)
    return np.asarray(np.searchsorted(cumulative, uniform * cumulative[-1], side="right"))
