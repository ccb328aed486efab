"""The algorithms that fit a mixture."""

from __future__ import annotations

from typing import Any

from mpigmm.core.algorithms.base import Algorithm
from mpigmm.core.algorithms.batch import BatchEM

ALGORITHMS: dict[str, type[Algorithm[Any]]] = {kind.name: kind for kind in (BatchEM,)}
"""The registry of algorithms by name."""
