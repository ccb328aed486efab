"""The options as texts for people: config files with comments, and the reference page of the documentation."""

from __future__ import annotations

import dataclasses
import textwrap
from collections.abc import Iterator, Mapping
from typing import Any

from mpigmm.config import SECTIONS, unknown
from mpigmm.errors import ConfigError
from mpigmm.option_values import values_text, yaml_text

WIDTH = 100
"""Largest number of characters in a comment of a config file."""

Key = tuple[str, Any]
"""A section, and the field of its dataclass that declares an option."""

ALL_HEAD = """\
# Every setting of mpigmm with its default; only data.path must be set. Keys that you do not change may be left out.
# On the command line a key is written with a dot: mpigmm fit run.yaml model.n_components=16 em.tol=1e-5"""

EXAMPLE_HEAD = """\
# Fit a mixture, or resume an unfinished fit: mpirun -n 2 mpigmm fit run.yaml
# All other settings and their defaults: mpigmm config"""

EXAMPLE = {
    "data.path": "rows.h5",
    "data.dataset": "/X",
    "model.n_components": 8,
    "model.covariance_type": "full",
    "em.max_iter": 100,
    "em.tol": 1e-4,
    "output.dir": "runs/first",
}
"""Keys of the example, with their values."""


def keys() -> dict[str, Key]:
    """All options by dotted key."""
    return {
        f"{section}.{field.name}": (section, field)
        for section, options in SECTIONS.items()
        for field in dataclasses.fields(options)
    }


def example_file() -> str:
    """A short config file with comments."""
    return "\n".join([EXAMPLE_HEAD, *config_lines(EXAMPLE)])


def whole_file() -> str:
    """A config file of all keys with their defaults; `data.path`, which has none, is a comment."""
    return "\n".join([ALL_HEAD, *config_lines(dict.fromkeys(keys()))])


def part_of_file(name: str) -> str:
    """The part of `whole_file` about a section, a key, or keys of this name in any section; raises `ConfigError`."""
    found = [key for key in keys() if name == key or key.startswith(f"{name}.") or key.endswith(f".{name}")]
    if not found:
        raise ConfigError(unknown("section" if "." not in name else "key", name, [*keys(), *SECTIONS]))
    return "\n".join(config_lines(dict.fromkeys(found)))[1:]


def config_lines(chosen: Mapping[str, Any]) -> Iterator[str]:
    """Lines of YAML with the values of options by dotted key, None for their defaults, below what they mean."""
    last = None
    for key, value in chosen.items():
        section, field = keys()[key]
        if section != last:
            yield from ("", f"{section}:")
            last = section
        yield from wrapped(field.metadata["help"])
        values = values_text(SECTIONS[section], field)
        if value is None and field.metadata.get("required"):
            yield f"  # {field.name}:  # must be set: {values}"
        else:
            yield f"  {field.name}: {in_yaml(field.default if value is None else value)}  # {values}"


def wrapped(text: str) -> list[str]:
    """A text as lines of a comment."""
    return textwrap.wrap(text, WIDTH, initial_indent="  # ", subsequent_indent="  # ", break_on_hyphens=False)


def in_yaml(value: Any) -> str:
    """A value in YAML, which takes a number with an exponent and no point for a text."""
    text = yaml_text(value)
    return text.replace("e", ".0e") if isinstance(value, float) and "." not in text else text


def reference() -> str:
    """The page ``docs/configuration.md``, a table for each section."""
    lines = [
        "# Configuration",
        "",
        "Every key, its default and what it does; made from `mpigmm/options.py` by `make docs`.",
        "`mpigmm config` prints the same as a config file with comments, `mpigmm config em.tol` one key, and",
        "`mpigmm config --example` a short file to begin with.",
        "",
        "On the command line a key is written with a dot: `mpigmm fit run.yaml model.n_components=16 em.tol=1e-5`.",
        "`~` and `$VAR` expand in `data.path`, `init.file` and `output.dir`.",
    ]
    for section, options in SECTIONS.items():
        lines += ["", f"## {section}", "", "| key | default | values | meaning |", "| --- | --- | --- | --- |"]
        for field in dataclasses.fields(options):
            default = "required" if field.metadata.get("required") else f"`{yaml_text(field.default)}`"
            lines.append(f"| `{field.name}` | {default} | {values_text(options, field)} | {field.metadata['help']} |")
    return "\n".join(lines) + "\n"
