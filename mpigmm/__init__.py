"""Gaussian mixture models by expectation-maximisation, in parallel and to the last bit.

`fit`, `Mixture` and `GaussianMixture` are loaded when they are first used: to import the package starts nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

from mpigmm import errors as errors
from mpigmm.version import __version__ as __version__

HOMES = {
    "fit": "mpigmm.api",
    "FitResult": "mpigmm.api",
    "Mixture": "mpigmm.fitted",
    "ConditionResult": "mpigmm.fitted_rows",
    "GaussianMixture": "mpigmm.estimator.gaussian_mixture",
    "select": "mpigmm.selection",
    "SelectResult": "mpigmm.selection",
}
"""The public names, and the modules that define them."""

__all__ = [
    "ConditionResult",
    "FitResult",
    "GaussianMixture",
    "Mixture",
    "SelectResult",
    "__version__",
    "errors",
    "fit",
    "select",
]


def __getattr__(name: str) -> Any:
    if name not in HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
