"""Reads files and overrides from the command line of a verb that applies a model to rows. Imported by root alone."""

from __future__ import annotations

import dataclasses
import difflib
import glob
import os
import re
from collections.abc import Sequence

from mpigmm.config import SECTIONS, resolve
from mpigmm.errors import ConfigError
from mpigmm.requests import Datasets, RowsRequest

REFUSED = {
    "data.path": "name the files after the model",
    "compute.precision": "log-densities are computed in float64",
    "compute.gpu_aware_mpi": "nothing is summed in the memory of GPUs",
}
"""Keys of the sections ``data`` and ``compute`` that cannot be overridden, each with the reason."""

NAMED = "as named"
"""Stands for the files, in whose names the shell alone expands variables."""


def rows_request(arguments: Sequence[str], dataset: Datasets | None) -> RowsRequest:
    """The rows that the arguments after the model name, and how to compute; raises `ConfigError`.

    Parameters
    ----------
    arguments : sequence of str
        Files, globs of files and overrides, in any order.
    dataset : str or tuple of str or None
        Value of ``--dataset``.
    """
    overrides = [argument for argument in arguments if is_override(argument)]
    files = [argument for argument in arguments if argument not in overrides]
    keys = {override.partition("=")[0] for override in overrides}
    if not files:
        raise ConfigError("no file of rows is named; name files, or quoted globs, after the model")
    if dataset is not None and "data.dataset" in keys:
        raise ConfigError("--dataset and data.dataset say the same; give one of them")
    named = {} if dataset is None else {"dataset": list(dataset) if isinstance(dataset, tuple) else dataset}
    options = resolve({"data": {"path": NAMED, **named}}, overrides, ("data", "compute"), REFUSED)
    data = dataclasses.replace(options.data, path=files)
    compute = options.compute
    if "compute.memory" not in keys:
        compute = dataclasses.replace(compute, memory=0)  # rows are read once, a few tiles at a time
    given = {key.removeprefix("data.") for key in keys if key.startswith("data.")}
    return RowsRequest(data, compute, frozenset(given | named.keys()))


def is_override(argument: str) -> bool:
    """Whether an argument is ``section.key=value``, with a section that may be misspelt, and not the name of a file."""
    found = re.match(r"(\w+)\.\w+=", argument)
    is_section = found is not None and bool(difflib.get_close_matches(found[1], SECTIONS, cutoff=0.7))
    return is_section and not os.path.lexists(argument) and not glob.glob(argument)
