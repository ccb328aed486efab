"""The E-step of a tile."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from mpigmm.core.estep.choose import choose_kernel
from mpigmm.core.estep.inputs import EStepInputs
from mpigmm.core.exact import FloatArray
from mpigmm.core.statistics import SufficientStatistics
from mpigmm.core.tile import Tile

Responsibilities = Callable[[Any, FloatArray], tuple[FloatArray, FloatArray]]
"""Called with an array library and weighted log-densities (K, n), which it may overwrite. Returns responsibilities
(K, n) and each row's term of the objective (n,), in writeable arrays of the same dtype.

The magnitude of a term must not exceed the bound of the log-density's magnitude, on which the format of the exact sums
rests."""


class EStep:
    """The E-step of one mixture; one object serves any number of tiles and threads.

    Parameters
    ----------
    inputs : EStepInputs
    responsibilities : callable, optional
        A function of type `Responsibilities`. By default responsibilities are posterior probabilities, and the terms of
        the objective are log-densities.
    """

    def __init__(self, inputs: EStepInputs, responsibilities: Responsibilities | None = None) -> None:
        self._inputs, self._ops = inputs, inputs.ops
        self._responsibilities = responsibilities
        self._kernel = choose_kernel(inputs if responsibilities is None else replace(inputs, is_posterior=False))

    def posterior(self, tile: Tile) -> tuple[FloatArray, FloatArray]:
        """Responsibilities (K, n) and log-densities (n,) of a tile's rows, or the result of `responsibilities`.

        The next call for the same tile overwrites the arrays.
        """
        log_prob = tile.array("log_prob", self._inputs.n_components, tile.n_rows)
        if self._responsibilities is None:
            log_density = self._kernel.posterior(tile, log_prob)
            if log_density is not None:
                return log_prob, log_density
        with np.errstate(over="ignore"):  # a distance beyond the range of float64 is infinite, and the density zero
            self._kernel.log_prob(tile, log_prob)
        if self._responsibilities is not None:
            return self._responsibilities(self._ops.xp, log_prob)
        return self._ops.log_sum_exp(log_prob, tile)

    def __call__(self, tile: Tile, statistics: SufficientStatistics) -> None:
        """Overwrite the statistics with those of a tile."""
        if not self.at_once(tile, statistics):
            self._one_by_one(tile, statistics)

    def at_once(self, tile: Tile, statistics: SufficientStatistics) -> bool:
        """Overwrite the statistics with those of a tile in one pass; returns False, doing nothing, if that is
        impossible."""
        return self._responsibilities is None and self._kernel.e_step(tile, statistics)

    def _one_by_one(self, tile: Tile, statistics: SufficientStatistics) -> None:
        """Overwrite the statistics in several passes: log-densities, responsibilities, then sums."""
        resp, log_density = self.posterior(tile)
        if tile.sample_weight is not None:
            resp *= tile.sample_weight
            log_density *= tile.sample_weight
        statistics.log_likelihood[:] = log_density.sum(dtype=np.float64)
        statistics.counts[:] = resp.sum(axis=1, dtype=np.float64)
        self._kernel.accumulate(tile, resp, statistics.first_moments, statistics.second_moments)
