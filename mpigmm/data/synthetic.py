"""Rows that are drawn from a known mixture, the same on any number of ranks."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from mpigmm.data.source import Header, Source
from mpigmm.rows import VALUES, Field, Fields, Rows

BLOCK_ROWS = 4096
"""Number of rows that are drawn together, from one stream of random numbers."""


class SyntheticSource(Source):
    """A source of random rows from a mixture with equal weights.

    Each feature has unit variance within each component.

    Parameters
    ----------
    n_samples, n_features, n_components : int
    separation : float
        The means are standard normal numbers multiplied by this.
    correlated : bool
        Whether features are correlated, differently in each component; if not, they are independent.
    seed : int

    Attributes
    ----------
    means : ndarray of shape (K, D)
    mixing : ndarray of shape (K, D, D)
        A row of component k is its mean plus a row of D standard normal numbers times mixing[k].
    """

    def __init__(
        self, n_samples: int, n_features: int, n_components: int, separation: float, *, correlated: bool, seed: int = 0
    ) -> None:
        fields = {VALUES: Field("float64", n_features)}
        self.header = Header(("synthetic rows",), (n_samples,), {VALUES: "/X"}, fields, None, 0, n_samples, n_features)
        self._seed = seed
        random = np.random.default_rng(seed)
        self.means = separation * random.standard_normal((n_components, n_features))
        self.mixing = np.broadcast_to(np.eye(n_features), (n_components, n_features, n_features))
        self._correlated = correlated
        if correlated:
            self.mixing = self.mixing + 0.5 / np.sqrt(n_features) * random.standard_normal(self.mixing.shape)
            self.mixing /= np.sqrt(np.square(self.mixing).sum(axis=1, keepdims=True))
        self._block = lru_cache(maxsize=2)(self._draw)

    def read(self, start: int, stop: int, into: Rows | None = None, fields: Fields | None = None) -> Rows:
        blocks = range(start // BLOCK_ROWS, -(-stop // BLOCK_ROWS))
        whole = np.concatenate([self._block(block) for block in blocks])
        values = whole[start - blocks.start * BLOCK_ROWS :][: stop - start]
        if into is None:
            return Rows.of(values, first=start)
        rows = Rows(start, into[: stop - start].arrays)
        rows.values[:] = values
        return rows

    def _draw(self, block: int) -> NDArray[np.float64]:
        random = np.random.Generator(np.random.Philox(key=[self._seed, block]))
        labels = random.integers(len(self.means), size=BLOCK_ROWS)
        rows = random.standard_normal((BLOCK_ROWS, self.header.n_features))
        for component in np.unique(labels) if self._correlated else ():
            own = labels == component
            rows[own] = rows[own] @ self.mixing[component]
        rows += self.means[labels]
        return rows
