"""A few rows that are drawn from a mixture, from which kernels estimate how many pairs are negligible."""

from __future__ import annotations

import numpy as np

from mpigmm.core.estep.inputs import EStepInputs
from mpigmm.core.exact import FloatArray

N_EXAMPLES = 16
"""Number of rows."""

SEED = 20761
"""A seed that users are unlikely to choose: the rows must not be made of the random numbers that data are made of."""


def example_rows(inputs: EStepInputs) -> FloatArray:
    """Rows (`N_EXAMPLES`, D) minus the tiles' centre, drawn from the mixture: from each component about its share.

    They are the same whenever the mixture is the same.
    """
    order = (np.arange(N_EXAMPLES) + 0.5) / N_EXAMPLES
    components = np.searchsorted(component_weights(inputs)[:-1].cumsum(), order)
    standard = np.random.default_rng(SEED).standard_normal((N_EXAMPLES, inputs.n_features))
    return inputs.factors.unwhiten(standard, components) + inputs.means[components]


def component_weights(inputs: EStepInputs) -> FloatArray:
    """Mixture weights (K,) of the components, scaled to the sum 1."""
    log_weights = inputs.log_norm - inputs.factors.log_determinants(inputs.n_features)
    weights = np.exp(log_weights - log_weights.max())
    return np.asarray(weights / weights.sum())
