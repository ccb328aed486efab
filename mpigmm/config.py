"""Reads options from YAML and overrides; its error messages name the key and the remedy. Imported by root alone."""

from __future__ import annotations

import dataclasses
import difflib
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, get_args, get_type_hints

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, create_model

from mpigmm.errors import ConfigError, reason, shown
from mpigmm.option_values import BOUNDS, registered, values_text, without_coordinates
from mpigmm.options import EmOptions, FitOptions, as_mapping
from mpigmm.quantities import LARGEST, expand, parse_size, parse_time, shown_value

SECTIONS: dict[str, type[Any]] = get_type_hints(FitOptions)
ONE_OR_MORE = ("select.n_components", "select.covariance_type", "select.seeds")
"""Lists of which a single entry may stand without brackets."""

STEPWISE_KEYS = ("step_exponent", "step_offset", "batch_tiles", "held_out", "polish")
"""Keys of the section `em` that only stepwise EM uses."""

NO_KEYS: Mapping[str, str] = {}

YAML_TYPES = {"int": "a whole number", "float": "a number", "timestamp": "a date", "bool": "true or false"}

MOST_FAULTS = 20
"""Largest number of faults that a message lists."""


class Loader(yaml.SafeLoader):
    """YAML's safe loader, which refuses duplicate keys and reads 1:30 as a text.

    YAML 1.1 reads it as a number to the base 60. In these configurations only times contain colons.
    """

    def resolve(self, kind: type[yaml.Node], value: Any, implicit: Any) -> Any:
        if kind is yaml.ScalarNode and implicit[0] and re.fullmatch(r"[-+]?[0-9_]+(:[0-9_.]*)+", value):
            return self.DEFAULT_SCALAR_TAG
        return super().resolve(kind, value, implicit)  # type: ignore[no-untyped-call]

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        try:
            return super().construct_object(node, deep)
        except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError):
            value = shown_value(node.value) if isinstance(node, yaml.ScalarNode) else "this"
            kind = str(node.tag).rpartition(":")[2]
            problem = f"{value} cannot be read as {YAML_TYPES.get(kind, kind)}"
            raise yaml.constructor.ConstructorError(None, None, problem, node.start_mark) from None

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [key.value for key, _ in node.value]
        twice = [key for key in keys if keys.count(key) > 1]
        if twice:
            raise yaml.constructor.ConstructorError(
                None, None, f"the key {shown(twice[0])} stands twice", node.start_mark
            )
        return super().construct_mapping(node, deep)


def load_config(path: str, overrides: Sequence[str] = ()) -> FitOptions:
    """Options from a YAML file and ``section.key=value`` overrides; raises `ConfigError`."""
    options = resolve(read_yaml(path), overrides)
    if options.output.dir is None:
        directory = str(Path("runs") / Path(path).stem)
        options = dataclasses.replace(options, output=dataclasses.replace(options.output, dir=directory))
    return options


def resolve(
    raw: dict[str, Any],
    overrides: Sequence[str],
    sections: Collection[str] = tuple(SECTIONS),
    refused: Mapping[str, str] = NO_KEYS,
) -> FitOptions:
    """Options from nested mappings and overrides; raises `ConfigError`.

    Parameters
    ----------
    raw : dict
    overrides : sequence of str
    sections : collection of str
        Those that may be overridden.
    refused : dict of str to str
        Keys of these sections that may not be overridden, each with the reason.
    """
    faults = []
    for override in overrides:
        section, key = override.partition(".")[0], override.partition("=")[0]
        if section in SECTIONS and section not in sections:
            faults.append(f"{section}: has no meaning here; the sections that have are {', '.join(sections)}")
            continue
        if key in refused:
            faults.append(f"{key}: has no meaning here; {refused[key]}")
            continue
        try:
            apply_override(raw, override)
        except ConfigError as error:
            faults.append(str(error))
    return validate(raw, faults)


def read_yaml(path: str) -> dict[str, Any]:
    """The mapping in a YAML file; raises `ConfigError`."""
    name = shown(path) or "''"
    try:
        text = Path(path).read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"config file {name} cannot be read{reason(error)}; check its path") from None
    except UnicodeDecodeError:
        raise ConfigError(f"config file {name} is not UTF-8 text; give the YAML file of the run") from None
    try:
        raw = yaml.load(text, Loader)
    except (yaml.YAMLError, RecursionError) as error:
        raise ConfigError(f"config file {name} is not valid YAML: {_yaml_fault(error, text)}") from None
    if raw is None:
        raw = {}
    if not isinstance(raw, dict):
        raise ConfigError(f"config file {name} holds no sections; it should begin like 'data: {{path: rows.h5}}'")
    return {name: dict(section) if isinstance(section, dict) else section for name, section in raw.items()}


def _yaml_fault(error: Exception, text: str) -> str:
    """Where a text is not YAML, and why."""
    if isinstance(error, yaml.reader.ReaderError):
        before = text[: error.position]
        line, column, problem = before.count("\n"), len(before) - before.rfind("\n") - 1, error.reason
    elif isinstance(error, yaml.MarkedYAMLError) and error.problem_mark:
        line, column = error.problem_mark.line, error.problem_mark.column
        problem = ", ".join(part for part in (error.context, error.problem) if part)
    else:
        return "it is nested too deeply" if isinstance(error, RecursionError) else "it cannot be read"
    return f"line {line + 1}, column {column + 1}: {shown(problem)}"


def apply_override(raw: dict[str, Any], override: str) -> None:
    """Set one ``section.key=value``, the value read as YAML; raises `ConfigError`."""
    key, equals, text = override.partition("=")
    section, dot, name = key.partition(".")
    if not equals or not dot or not name:
        raise ConfigError(
            f"override {shown_value(override)} is not of the form section.key=value, e.g. em.max_iter=200"
        )
    try:
        value = yaml.load(text, Loader)
    except (yaml.YAMLError, RecursionError):
        raise ConfigError(
            f"override {shown_value(override)}: its value is not valid YAML; quote it for YAML as well"
        ) from None
    part = raw.get(section)
    if part is None:
        part = raw[section] = {}
    if isinstance(part, dict):
        part[name] = value


def validate(raw: dict[str, Any], faults: Sequence[str] = ()) -> FitOptions:
    """Options from nested mappings; raises a `ConfigError` that lists `faults` and every fault of the mappings."""
    found = [*faults, *_unknown_names(raw)]
    sections = {}
    for name, section in SECTIONS.items():
        given = raw.get(name)
        given = {} if given is None else given
        if isinstance(given, dict):
            sections[name], wrong = _section(name, section, given)
            found += wrong
        else:
            found.append(f"{name}: a section of keys is needed, not {shown_value(given)}")
    if not found:
        options = FitOptions(**sections)
        found = list(_contradictions(options))
    found = list(dict.fromkeys(found))
    if found:
        more = [f"and {len(found) - MOST_FAULTS} more"] if len(found) > MOST_FAULTS else []
        raise ConfigError("\n".join([*found[:MOST_FAULTS], *more]))
    return options


def _section(name: str, section: type[Any], given: dict[str, Any]) -> tuple[Any, list[str]]:
    """The options of one section, with defaults for invalid values, and its faults."""
    values, wrong = _expanded(name, given)
    model = _model(name)
    try:
        checked = model.model_validate(values)
    except ValidationError as error:
        for fault in error.errors():
            wrong.setdefault(str(fault["loc"][0]), _explain(name, section, given, fault))
        needed = {field.name: "" for field in dataclasses.fields(section) if field.metadata.get("required")}
        checked = model.model_validate(needed | {key: value for key, value in values.items() if key not in wrong})
    options = section(**{field.name: getattr(checked, field.name) for field in dataclasses.fields(section)})
    return options, [*wrong.values(), *_refused(name, options, given, wrong)]


def dump(options: FitOptions) -> str:
    """Options as YAML."""
    text: str = yaml.safe_dump(as_mapping(options), sort_keys=False, allow_unicode=True)
    return text


@lru_cache
def _model(name: str) -> type[BaseModel]:
    """A pydantic model of one section's dataclass."""
    options, hints = SECTIONS[name], _type_hints(name)
    fields: dict[str, Any] = {}
    for field in dataclasses.fields(options):
        default = ... if field.metadata.get("required") else field.default
        fields[field.name] = (hints[field.name], Field(default))
    return create_model(options.__name__, __config__=ConfigDict(allow_inf_nan=False), **fields)


@lru_cache
def _type_hints(name: str) -> dict[str, Any]:
    """Types of the fields of one section."""
    return get_type_hints(SECTIONS[name])


def _unknown_names(raw: dict[str, Any]) -> Iterator[str]:
    known = [f"{section}.{field.name}" for section, o in SECTIONS.items() for field in dataclasses.fields(o)]
    for section, keys in raw.items():
        if section not in SECTIONS:
            yield unknown("section", str(section), list(SECTIONS))
            continue
        for key in keys if isinstance(keys, dict) else ():
            if f"{section}.{key}" not in known:
                yield unknown("key", f"{section}.{key}", known)


def unknown(what: str, name: str, known: list[str]) -> str:
    """The message for a name that is none of the known ones, with the nearest of them."""
    nearest = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    own = name.rpartition(".")[2]
    nearest = nearest or [k for k in known if difflib.get_close_matches(own, [k.rpartition(".")[2]], cutoff=0.6)]
    hint = f"did you mean {nearest[0]}?" if nearest else f"known are {', '.join(known)}"
    return f"unknown {what} {shown(name)}; {hint}"


def _expanded(section: str, given: dict[str, Any]) -> tuple[dict[str, Any], dict[str, str]]:
    """Values with ``~`` and ``$VAR`` expanded in paths, and sizes and times as numbers; and faults by key."""
    values, wrong = dict(given), {}
    for name in values:
        try:
            values[name] = _expanded_value(f"{section}.{name}", values[name])
        except ConfigError as error:
            wrong[name] = str(error)
    return values, wrong


def _expanded_value(key: str, value: Any) -> Any:
    if key in ("data.path", "init.file", "output.dir"):
        return [expand(path, key) for path in value] if isinstance(value, list) else expand(value, key)
    if key in ONE_OR_MORE and value is not None and not isinstance(value, list):
        return [value]
    if key == "compute.memory":
        return parse_size(value)
    if key == "output.walltime" and isinstance(value, str):
        return parse_time(value)
    return value


def _refused(section: str, values: Any, given: dict[str, Any], wrong: Collection[str]) -> Iterator[str]:
    """Faults of values of the right type: out of bounds, in no registry, or a boolean in place of a number."""
    for field in [field for field in dataclasses.fields(values) if field.name not in wrong]:
        value = getattr(values, field.name)
        entries = value if isinstance(value, list) else [value]
        outside = any(
            not holds(entry, field.metadata[rule])
            for rule, (_, holds) in BOUNDS.items()
            for entry in entries
            if rule in field.metadata and isinstance(entry, (int, float))
        )
        raw = given.get(field.name)
        hint = _type_hints(section)[field.name]
        is_switch = bool in (hint, *get_args(hint))
        parts = raw if isinstance(raw, list) else [raw]
        mistaken = raw in (0, 1) and not isinstance(raw, bool) if is_switch else any(isinstance(p, bool) for p in parts)
        numbers = [entry for entry in entries if isinstance(entry, int)]
        if outside or mistaken:
            yield _invalid(section, type(values), field, raw)
        elif any(abs(number) > LARGEST for number in numbers):
            yield f"{section}.{field.name}: {shown_value(raw)} is too large"
        known = (*registered(field), field.default)
        for entry in entries if "registry" in field.metadata else ():
            if entry not in known:
                yield _invalid(section, type(values), field, entry)


def _explain(section: str, options: type[Any], given: dict[str, Any], fault: Any) -> str:
    """The message for a fault that pydantic found."""
    name = str(fault["loc"][0])
    key = f"{section}.{name}"
    if fault["type"] == "missing":
        return f"{key} is missing; set it in the config file, or on the command line as {key}=VALUE"
    field = next(field for field in dataclasses.fields(options) if field.name == name)
    return _invalid(section, options, field, given.get(name))


def _invalid(section: str, options: type[Any], field: Any, value: Any) -> str:
    return f"{section}.{field.name}: {shown_value(value)} is not valid; {values_text(options, field)} expected"


def _contradictions(options: FitOptions) -> Iterator[str]:
    """Faults of keys that require or exclude one another."""
    init = options.init
    if init.method == "file" and not init.file:
        yield "init.file is missing: init.method is 'file', so name the model file to start from"
    if init.method != "file" and init.file:
        yield f"init.file is set but init.method is {init.method!r}; set init.method: file, or drop init.file"
    if init.method == "labels" and not init.labels:
        yield "init.labels is missing: init.method is 'labels', so name the dataset that holds the starting labels"
    if init.method != "labels" and init.labels:
        yield f"init.labels is set but init.method is {init.method!r}; set init.method: labels, or drop init.labels"
    if init.method in ("file", "labels") and init.n_init > 1:
        source = "a model file" if init.method == "file" else "the same labels"
        yield f"init.n_init: starts from {source} are all the same; set it to 1"
    em = options.em
    if em.accelerate != "none" and em.algorithm != "batch":
        yield f"em.accelerate: {em.accelerate!r} is of em.algorithm: batch, not of {em.algorithm!r}; set it to none"
    for name in STEPWISE_KEYS if em.algorithm != "stepwise" else ():
        if getattr(em, name) != getattr(EmOptions(), name):
            yield f"em.{name}: has no meaning with em.algorithm: {em.algorithm}; drop the key, or set it to stepwise"
    if em.algorithm == "stepwise":
        for name, value in (("criterion", em.criterion != "change"), ("split_merge", em.split_merge)):
            if value:
                yield f"em.{name}: has no meaning with em.algorithm: stepwise; drop the key, or set em.algorithm: batch"
    select = options.select
    if em.accelerate != "none":
        for name in without_coordinates(select.covariance_type or [options.model.covariance_type]):
            yield f"em.accelerate: covariances of type {name!r} have no coordinates to extrapolate in; set it to none"
    for name in ("n_components", "covariance_type", "seeds"):
        entries = getattr(select, name)
        if entries == []:
            yield f"select.{name}: the list is empty; name what to try, or drop the key"
        elif entries is not None and len(set(entries)) < len(entries):
            yield f"select.{name}: {shown_value(entries)} names an entry twice; name each once"
    if select.criterion == "held_out" and select.held_out == 0:
        yield "select.held_out: 0 leaves no rows for select.criterion: held_out; raise it, or drop the key"
