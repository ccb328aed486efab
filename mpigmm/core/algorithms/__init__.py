"""Algorithms that fit a mixture, by name."""

from __future__ import annotations

from typing import Any

from mpigmm.core.algorithms.base import Algorithm
from mpigmm.core.algorithms.batch import BatchEM

ALGORITHMS: dict[str, type[Algorithm[Any]]] = {kind.name: kind for kind in (BatchEM,)}
"""The registry: algorithms added here can be chosen by their names."""
