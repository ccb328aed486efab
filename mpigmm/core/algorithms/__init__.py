"""The algorithms that fit a mixture."""

from __future__ import annotations

from typing import Any

from mpigmm.core.algorithms.anderson import Anderson
from mpigmm.core.algorithms.base import Algorithm
from mpigmm.core.algorithms.batch import BatchEM
from mpigmm.core.algorithms.split_merge import split_merge_of
from mpigmm.core.algorithms.squarem import Squarem
from mpigmm.core.algorithms.stepwise import StepwiseEM
from mpigmm.options import EmOptions

ALGORITHMS: dict[str, type[Algorithm[Any]]] = {kind.name: kind for kind in (BatchEM, StepwiseEM)}
"""The registry of algorithms by name."""

ACCELERATIONS: dict[str, type[Algorithm[Any]]] = {kind.name: kind for kind in (Anderson, Squarem)}
"""The registry of accelerated forms of batch EM by name."""


def algorithm_type(em: EmOptions) -> type[Algorithm[Any]]:
    """The class of the algorithm that options name."""
    runs = ALGORITHMS[em.algorithm] if em.accelerate == "none" else ACCELERATIONS[em.accelerate]
    return split_merge_of(runs) if em.split_merge else runs
