"""Paths, sizes and times as people write them in settings, and values in messages about settings."""

from __future__ import annotations

import os
import re
import reprlib
from typing import Any

from mpigmm.errors import ConfigError, shown

SHOWN = reprlib.Repr()
SHOWN.maxlevel, SHOWN.maxstring, SHOWN.maxother = 2, 200, 200
"""Shortens values in messages: a few aliases in YAML can expand to more than fits into memory."""

UNITS = {"": 1, "b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "tb": 10**12, "kib": 2**10, "mib": 2**20, "gib": 2**30}

LARGEST = 2**63 - 1
"""Largest whole number: HDF5 files and MPI messages hold integers of 64 bits."""


def expand(path: Any, key: str) -> Any:
    """A path with ``~`` and variables expanded; raises `ConfigError` for a variable that is not set."""
    if not isinstance(path, str):
        return path
    if not path or "\0" in path:
        raise ConfigError(f"{key}: {path!r} is no path; name a file or directory")
    expanded = os.path.expandvars(os.path.expanduser(path))  # noqa: PTH111
    unset = re.search(r"\$(\w+|\{\w+\})", expanded)
    if unset:
        raise ConfigError(
            f"{key}: {shown(path)}: the environment variable {unset[0]} is not set; set it, or write the path out"
        )
    return expanded


def parse_size(size: Any) -> int | str:
    """Bytes from a number or a text such as 256MB; ``auto`` stays. Raises `ConfigError`."""
    if size == "auto":
        return "auto"
    text = size if isinstance(size, str) else shown_value(size)
    found = re.fullmatch(r"\s*([0-9]+(?:\.[0-9]*)?)\s*([A-Za-z]*)\s*", text)
    n_bytes = float(found[1]) * UNITS.get(found[2].lower(), 0) if found and not isinstance(size, bool) else 0
    if not 1 <= n_bytes <= LARGEST:
        raise ConfigError(
            f"compute.memory: {shown_value(size)} is no size; write bytes, or a text such as 256MB or 4GiB, or auto"
        )
    return int(n_bytes)


def parse_time(text: str) -> int:
    """Seconds from digits, ``minutes:seconds``, ``hours:minutes:seconds`` or ``days-hours:...``; `ConfigError` else."""
    digits = "([0-9]{1,15})"
    found = re.fullmatch(f"(?:(?:(?:{digits}-)?{digits}:)?{digits}:)?{digits}", text.strip())
    parts = found.groups() if found else ()
    days, hours, minutes, seconds = (int(part or 0) for part in parts or "0000")
    limits = zip(parts, (hours, minutes, seconds), (24, 60, 60), strict=False)
    if not found or any(larger is not None and part >= limit for larger, part, limit in limits):
        raise ConfigError(
            f"output.walltime: {shown_value(text)} is no time; write seconds, or a text such as 04:00:00 or 1-12:00:00"
        )
    return ((days * 24 + hours) * 60 + minutes) * 60 + seconds


def shown_value(value: Any) -> str:
    """A value in a message."""
    try:
        return SHOWN.repr(value)
    except ValueError:  # Python writes no number of more than 4300 digits
        return "a number of thousands of digits"
