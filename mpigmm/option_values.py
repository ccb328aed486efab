"""The values that an option accepts, in words, and the registries that some of them come from."""

from __future__ import annotations

import json
import operator
import types
import typing
from collections.abc import Collection
from typing import Any, Literal, get_args, get_origin, get_type_hints

BOUNDS = {"ge": (">=", operator.ge), "gt": (">", operator.gt), "le": ("<=", operator.le)}


def registered(field: Any) -> tuple[str, ...]:
    """The names in the registry of an option; none where it has no registry."""
    if "registry" not in field.metadata:
        return ()
    from mpigmm.core.algorithms import ACCELERATIONS, ALGORITHMS  # NumPy, which it imports, takes longer than --help
    from mpigmm.core.covariances import COVARIANCE_TYPES
    from mpigmm.core.priors import PRIORS

    registries: dict[str, Collection[str]] = {
        "covariance types": COVARIANCE_TYPES,
        "priors": PRIORS,
        "algorithms": ALGORITHMS,
        "accelerations": ("none", *ACCELERATIONS),
    }
    return tuple(registries[field.metadata["registry"]])


def without_coordinates(covariance_types: Collection[str]) -> list[str]:
    """Those of the covariance types, in this order, in which EM cannot be accelerated."""
    from mpigmm.core.covariances import COVARIANCE_TYPES  # NumPy, as before

    return [name for name in covariance_types if not COVARIANCE_TYPES[name].has_coordinates]


def values_text(options: type[Any], field: Any) -> str:
    """The values that an option accepts, in words."""
    if "registry" in field.metadata:
        return ", ".join(registered(field))
    bounds = [f" {sign} {field.metadata[rule]}" for rule, (sign, _) in BOUNDS.items() if rule in field.metadata]
    return type_text(get_type_hints(options)[field.name], "".join(bounds))


def type_text(hint: Any, bounds: str) -> str:
    names = {int: "a whole number" + bounds, float: "a number" + bounds, str: "a text", type(None): "null"}
    names[bool] = "true or false"
    if get_origin(hint) is Literal:
        return ", ".join(str(value) for value in get_args(hint))
    if get_origin(hint) in (types.UnionType, typing.Union):
        return " or ".join(type_text(part, bounds) for part in get_args(hint))
    if get_origin(hint) is list:
        entries = {str: "texts", int: "whole numbers", int | str: "whole numbers or texts"}
        return f"a list of {entries[get_args(hint)[0]]}{bounds}"
    return names[hint]


def yaml_text(value: Any) -> str:
    """A value as YAML reads it."""
    return json.dumps(value) if value is None or isinstance(value, bool) else str(value)
