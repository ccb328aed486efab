"""The options as texts for people: the reference page of the documentation."""

from __future__ import annotations

import dataclasses

from mpigmm.config import SECTIONS
from mpigmm.option_values import values_text, yaml_text


def reference() -> str:
    """The page ``docs/configuration.md``, a table for each section."""
    lines = [
        "# Configuration",
        "",
        "Every key, its default and what it does; made from `mpigmm/options.py` by `make docs`.",
        "On the command line a key is written with a dot: `mpigmm fit run.yaml model.n_components=16 em.tol=1e-5`.",
        "`~` and `$VAR` expand in `data.path`, `init.file` and `output.dir`.",
    ]
    for section, options in SECTIONS.items():
        lines += ["", f"## {section}", "", "| key | default | values | meaning |", "| --- | --- | --- | --- |"]
        for field in dataclasses.fields(options):
            default = "required" if field.metadata.get("required") else f"`{yaml_text(field.default)}`"
            lines.append(f"| `{field.name}` | {default} | {values_text(options, field)} | {field.metadata['help']} |")
    return "\n".join(lines) + "\n"
