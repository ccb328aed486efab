"""A fitted mixture with what is known of its fit."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from mpigmm.core.arrays import Indices
from mpigmm.core.kept_statistics import KeptStatistics
from mpigmm.core.mixture import Mixture
from mpigmm.runs.updates import Updates


@dataclass(frozen=True)
class Model:
    """A mixture, and facts about the fit that it comes from.

    Attributes
    ----------
    mixture : Mixture
    n_samples : int
    mean_log_likelihood : float
        Log-likelihood of this mixture, divided by the sum of the rows' weights.
    n_iter : int
    converged : bool
    config : dict
        The configuration of the fit, as in ``config.yaml``; empty for files that another program wrote.
    feature_names : tuple of str or None
        Names of the features, where they are known.
    statistics : KeptStatistics or None
        Of the rows, about the means of this mixture, where they are kept.
    updates : Updates
        What has been folded into the mixture since its fit.
    """

    mixture: Mixture
    n_samples: int = 0
    mean_log_likelihood: float = float("nan")
    n_iter: int = 0
    converged: bool = False
    config: dict[str, Any] | None = None
    feature_names: tuple[str, ...] | None = None
    statistics: KeptStatistics | None = None
    updates: Updates = Updates()

    def digest(self) -> str:
        """A hash of the mixture and the statistics, in hexadecimal."""
        digest = hashlib.blake2b(self.mixture.digest().encode(), digest_size=16)
        for array in () if self.statistics is None else self.statistics.arrays().values():
            digest.update(np.ascontiguousarray(array).data)
        return digest.hexdigest()

    def derived(self, mixture: Mixture) -> Model:
        """A mixture that was computed from this one and not fitted, with the configuration that names its rows."""
        return Model(mixture, config=self.config, feature_names=self.feature_names)

    def marginal(self, features: Indices) -> Model:
        """The marginal mixture of some features, whose configuration names the columns, or datasets, of these alone."""
        names = self.feature_names and tuple(self.feature_names[feature] for feature in features)
        derived = replace(self.derived(self.mixture.marginal(features)), feature_names=names)
        section = (self.config or {}).get("data")
        if not isinstance(section, dict):
            return derived
        dataset, columns = section.get("dataset"), section.get("columns")
        if columns is None:
            key, known = (
                ("dataset", dataset) if isinstance(dataset, list) else ("columns", [*range(self.mixture.n_features)])
            )
        else:
            key, known = "columns", columns
        if not isinstance(known, list) or len(known) != self.mixture.n_features:
            return derived
        chosen = {**section, key: [known[feature] for feature in features]}
        return replace(derived, config={**(self.config or {}), "data": chosen})
