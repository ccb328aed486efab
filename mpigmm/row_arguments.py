"""Reads files and overrides from the command line of a verb that applies a model to rows. Imported by root alone."""

from __future__ import annotations

import dataclasses
import difflib
import glob
import os
import re
from collections.abc import Mapping, Sequence
from typing import Literal

from mpigmm.config import SECTIONS, resolve
from mpigmm.errors import ConfigError, shown
from mpigmm.requests import Datasets, RowsRequest

REFUSED = {
    "data.path": "name the files after the model",
    "compute.precision": "log-densities are computed in float64",
    "compute.gpu_aware_mpi": "nothing is summed in the memory of GPUs",
}
"""Keys of the sections ``data`` and ``compute`` that cannot be overridden, each with the reason."""

NO_FILES = "no file of rows is named; name files, or quoted globs, after the model"

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
    if all(map(is_override, arguments)):
        raise ConfigError(NO_FILES)
    _, request, keys = split_arguments(arguments, dataset, REFUSED)
    if "compute.memory" in keys:
        return request
    compute = dataclasses.replace(request.compute, memory=0)  # rows are read once, a few tiles at a time
    return dataclasses.replace(request, compute=compute)


def update_request(
    arguments: Sequence[str], dataset: Datasets | None, watch: str | None, idle: float | None
) -> tuple[RowsRequest, Literal["float64", "float32"] | None]:
    """The rows that the arguments of ``update`` name, and ``compute.precision``, where it is set; raises `ConfigError`.

    Parameters
    ----------
    arguments, dataset
        As in `rows_request`; without files where a directory is watched.
    watch : str or None
        Value of ``--watch``.
    idle : float or None
        Value of ``--idle``.
    """
    if watch is None and all(map(is_override, arguments)):
        raise ConfigError(f"{NO_FILES}, or a directory with --watch")
    files, request, keys = split_arguments(arguments, dataset, {"data.path": REFUSED["data.path"]})
    if watch is not None and files:
        raise ConfigError(f"{shown(files[0])} and --watch {shown(watch)}: give files of rows or a directory, not both")
    if (watch is None) != (idle is None):
        raise ConfigError("--watch and --idle belong together: --watch DIR --idle SECONDS")
    return request, request.compute.precision if "compute.precision" in keys else None


def split_arguments(
    arguments: Sequence[str], dataset: Datasets | None, refused: Mapping[str, str]
) -> tuple[list[str], RowsRequest, set[str]]:
    """The files among the arguments, the rows and how to compute, and the keys that are set; raises `ConfigError`.

    Parameters
    ----------
    arguments, dataset
        As in `rows_request`.
    refused : mapping of str to str
        Keys that cannot be set, each with the reason.
    """
    overrides = [argument for argument in arguments if is_override(argument)]
    files = [argument for argument in arguments if argument not in overrides]
    keys = {override.partition("=")[0] for override in overrides}
    if dataset is not None and "data.dataset" in keys:
        raise ConfigError("--dataset and data.dataset say the same; give one of them")
    named = {} if dataset is None else {"dataset": list(dataset) if isinstance(dataset, tuple) else dataset}
    options = resolve({"data": {"path": NAMED, **named}}, overrides, ("data", "compute"), refused)
    data = dataclasses.replace(options.data, path=files)
    given = {key.removeprefix("data.") for key in keys if key.startswith("data.")}
    return files, RowsRequest(data, options.compute, frozenset(given | named.keys())), keys


def is_override(argument: str) -> bool:
    """Whether an argument is ``section.key=value``, with a section that may be misspelt, and not the name of a file."""
    found = re.match(r"(\w+)\.\w+=", argument)
    is_section = found is not None and bool(difflib.get_close_matches(found[1], SECTIONS, cutoff=0.7))
    return is_section and not os.path.lexists(argument) and not glob.glob(argument)
