"""Information criteria of a mixture on rows."""

from __future__ import annotations

import numpy as np

from mpigmm.core.mixture import Mixture


def criteria(mixture: Mixture, log_likelihood: float, total_weight: float) -> dict[str, float]:
    """Akaike's and the Bayesian information criterion: 2p - 2 log L and p log(sum of weights) - 2 log L."""
    p = mixture.n_parameters
    return {
        "aic": 2 * p - 2 * log_likelihood,
        "bic": p * float(np.log(total_weight)) - 2 * log_likelihood,
    }
