"""Features that a user chooses, by number or by name."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from mpigmm.core.arrays import Indices
from mpigmm.data.row_files import names_text
from mpigmm.errors import ConfigError, counted

Features = int | str | Iterable[int | str]
"""A feature, or several, by number or by name."""


def chosen_features(
    argument: str, features: Features, n_features: int, most: int, names: Sequence[str] | None = None
) -> Indices:
    """The numbers of features of a mixture; raises `ConfigError`, which names the argument.

    Parameters
    ----------
    argument : str
        What the user calls it.
    features : Features
        Numbers, or names where the mixture has names; a text that is no name may be a number.
    n_features : int
        Features of the mixture.
    most : int
        How many may be chosen; at least one must be.
    names : sequence of str, optional
        Of all features.
    """
    if not most:
        raise ConfigError(f"{argument}: the mixture has 1 feature, so that no other is left")
    listed = [features] if isinstance(features, str) or not isinstance(features, Iterable) else list(features)
    numbers = [feature_number(argument, feature, n_features, names or ()) for feature in listed]
    if not 0 < len(set(numbers)) == len(numbers) <= most:
        raise ConfigError(
            f"{argument}: {listed} is not valid; name at least 1 and at most {most} of the mixture's "
            f"{counted(n_features, 'feature')}, each once"
        )
    return np.array(numbers, np.intp)


def feature_number(argument: str, feature: int | str, n_features: int, names: Sequence[str]) -> int:
    """The number of one feature; raises `ConfigError`."""
    if isinstance(feature, str) and feature in names:
        return list(names).index(feature)
    number = int(feature) if isinstance(feature, str) and feature.strip().isdecimal() else feature
    if isinstance(number, (int, np.integer)) and not isinstance(number, bool) and 0 <= number < n_features:
        return int(number)
    has = f"has features 0 to {n_features - 1}" if n_features > 1 else "has feature 0 alone"
    what, named = ("number or name", f" ({names_text(names, str(feature))})") if names else ("number", "")
    raise ConfigError(f"{argument}: {feature!r} is not the {what} of a feature; the mixture {has}{named}")
