"""Settings of a call from Python, of which all ranks must give the same."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import reprlib
from collections.abc import Mapping
from typing import Any

from mpigmm.errors import ConfigError
from mpigmm.options import DataOptions, FitOptions
from mpigmm.parallel.comm import Comm

Config = str | os.PathLike[str] | Mapping[str, Any] | FitOptions
"""The path of a YAML file, its sections as a mapping, or options."""

IN_MEMORY = "rows in memory"
"""Stands for `data.path`, and `init.labels` where it is needed, where rows are given as arrays."""

SELECTING = ("path", "dataset", "weights", "columns", "rows")
"""Keys of section `data` that choose rows in files."""


def agreed_options(comm: Comm, config: Config, *, in_memory: bool) -> FitOptions:
    """The options that all ranks give. Collective; raises `AgreedError`.

    Root reads them for all ranks. Only where ranks give different settings do all of them read their own, so that the
    message can name what is wrong, or in which keys they differ.

    Parameters
    ----------
    comm : Comm
    config : path, mapping or FitOptions
    in_memory : bool
        Whether the rows are given as arrays.
    """
    raw: str | dict[str, Any] = ""
    own = None
    with comm.together():
        raw = plain_settings(config)
        own = digest(raw)
    told = comm.allgather((own, in_memory))
    with comm.together():
        check_rows_given([has_rows for _, has_rows in told])
    if len({own for own, _ in told}) > 1:
        return compared(comm, raw, in_memory=in_memory)
    options = None
    with comm.together():
        if comm.is_root:
            options = resolved(raw, in_memory=in_memory)
    return comm.bcast(options)


def plain_settings(config: Config) -> str | dict[str, Any]:
    """A path, or nested dictionaries of Python's own types; raises `ConfigError`."""
    if isinstance(config, (str, os.PathLike)):
        return os.fspath(config)
    if dataclasses.is_dataclass(config) and not isinstance(config, type):
        config = dataclasses.asdict(config)
    if not isinstance(config, Mapping):
        raise ConfigError(
            f"config: {reprlib.repr(config)} is neither the path of a YAML file, nor a dictionary of sections such as "
            "{'model': {'n_components': 8}}, nor options"
        )
    try:
        return {str(name): plain(section) for name, section in config.items()}
    except RecursionError:
        raise ConfigError("config: it is nested too deeply, or contains itself") from None


def plain(value: Any) -> Any:
    """A value of a configuration as YAML would give it: paths as texts, numbers and arrays of NumPy as Python's."""
    if isinstance(value, Mapping):
        return {str(key): plain(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(each) for each in value]
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    return value.tolist() if type(value).__module__ == "numpy" else value


def digest(raw: object) -> str | None:
    """A hash that is the same for the same settings; None for settings that no file can hold, and that are refused."""
    try:
        text = json.dumps(raw, sort_keys=True, default=repr)
    except Exception:
        return None
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def check_rows_given(given: list[bool]) -> None:
    """Raise `ConfigError` where some ranks give rows as arrays and others do not."""
    if len(set(given)) > 1:
        raise ConfigError(
            f"X is given on rank {given.index(True)}, but not on rank {given.index(False)}; give it on all ranks (an "
            "array of no rows where a rank has none), or on none to read data.path"
        )


def compared(comm: Comm, raw: str | dict[str, Any], *, in_memory: bool) -> FitOptions:
    """The options of ranks that give them in different words. Collective; raises `AgreedError` where they differ."""
    options = None
    with comm.together():
        try:
            options = resolved(raw, in_memory=in_memory)
        except ConfigError as error:
            raise ConfigError(f"on rank {comm.rank}: {error}") from None
    assert options is not None
    all_options = comm.allgather(options)
    with comm.together():
        check_same(all_options)
    return options


def check_same(all_options: list[FitOptions]) -> None:
    """Raise `ConfigError` where the options of ranks differ."""
    first = keys_of(all_options[0])
    for rank, options in enumerate(all_options):
        differing = [
            f"{key} is {first[key]!r} on rank 0 and {value!r} on rank {rank}"
            for key, value in keys_of(options).items()
            if value != first[key]
        ]
        if differing:
            raise ConfigError(f"the ranks give different settings: {'; '.join(differing)}; give all ranks the same")


def keys_of(options: FitOptions) -> dict[str, Any]:
    """The values of options by dotted key."""
    return {
        f"{section}.{key}": value
        for section, values in dataclasses.asdict(options).items()
        for key, value in values.items()
    }


def resolved(raw: str | dict[str, Any], *, in_memory: bool) -> FitOptions:
    """The options of settings as `plain_settings` returns them; raises `ConfigError`."""
    from mpigmm.config import read_yaml, resolve

    sections = read_yaml(raw) if isinstance(raw, str) else {**raw}
    if in_memory:
        data = sections.get("data")
        sections["data"] = without_files({} if data is None else data)
        sections["init"] = without_dataset(sections.get("init"))
    elif not has_path(sections.get("data")):
        raise ConfigError("data.path is missing; name the files of the rows there, or give the rows as X")
    return resolve(sections, [])


def data_options(section: Mapping[str, Any]) -> DataOptions:
    """The options of a section ``data`` that names files; raises `ConfigError`."""
    return resolved({"data": plain(section)}, in_memory=False).data


def has_path(data: Any) -> bool:
    """Whether section `data` names files; True where it is no section, of which validation tells."""
    return bool(data.get("path")) if isinstance(data, Mapping) else data is not None


def without_files(data: Any) -> Any:
    """Section `data` for rows that are given as arrays; raises `ConfigError` where it chooses rows in files."""
    if not isinstance(data, Mapping):
        return data
    defaults = {field.name: field.default for field in dataclasses.fields(DataOptions)}
    chosen = [key for key in SELECTING if key in data and data[key] not in (None, "", IN_MEMORY, defaults[key])]
    if chosen:
        raise ConfigError(
            f"data.{chosen[0]}: the rows are given as X; leave the key out, or call without X to read files"
        )
    return {**data, "path": IN_MEMORY}


def without_dataset(init: Any) -> Any:
    """Section `init` for rows that are given as arrays; raises `ConfigError` where it names a dataset of labels."""
    if not isinstance(init, Mapping):
        return init
    if init.get("labels") not in (None, "", IN_MEMORY):
        raise ConfigError("init.labels: the rows are given as X; leave the key out, and give labels beside X")
    return {**init, "labels": IN_MEMORY} if init.get("method") == "labels" else init


def check_labels_given(method: str, *, given: bool, n_rows: int) -> None:
    """Raise `ConfigError` where labels are given beside n_rows rows, and the method of initialisation needs none, or
    the other way round."""
    if given and method != "labels":
        raise ConfigError(
            f"labels: they are given, but init.method is {method!r}; set init.method: labels, or omit them"
        )
    if method == "labels" and n_rows and not given:
        raise ConfigError("labels are missing: init.method is 'labels', so give the starting labels beside X")


def config_text(options: FitOptions) -> str:
    """Options as YAML."""
    from mpigmm.config import dump

    return dump(options)


def config_path(config: Config) -> str:
    """The path that a configuration was read from; empty where it was not."""
    return os.fspath(config) if isinstance(config, (str, os.PathLike)) else ""
