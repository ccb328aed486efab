"""A fitted mixture with what is known of its fit."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from mpigmm.core.mixture import Mixture


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
    """

    mixture: Mixture
    n_samples: int = 0
    mean_log_likelihood: float = float("nan")
    n_iter: int = 0
    converged: bool = False
    config: dict[str, Any] | None = None
    feature_names: tuple[str, ...] | None = None
