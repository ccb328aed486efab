"""Rows of a known mixture, the same whoever draws them."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from mpigmm.data.source import Header
from mpigmm.rows import VALUES, Field, Rows

BLOCK_ROWS = 4096
"""Rows drawn together, from a stream of random numbers of their own."""


class SyntheticSource:
    """Rows drawn instead of read, in place of a `Source`.

    Means are separation times normal; features have unit variance within each component, independent of one another or,
    where ``mixing`` says so, correlated differently in each.

    Parameters
    ----------
    n_samples, n_features, n_components : int
    separation : float
    correlated : bool
    seed : int
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

    def read(self, start: int, stop: int, into: Rows | None = None) -> Rows:
        """Rows start to stop - 1, in the first entries of the arrays of `into` where that is given."""
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
