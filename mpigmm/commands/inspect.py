"""``inspect``: the content of a model, checkpoint or data file, for people or as JSON."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from mpigmm.core.algorithms.projection import projected_gain
from mpigmm.core.mixture import Mixture
from mpigmm.data.file_source import outline_of
from mpigmm.errors import EXIT_DONE, DataError, counted, shown
from mpigmm.options import FitOptions
from mpigmm.parallel.comm import Comm
from mpigmm.parallel.stop import StopRequest
from mpigmm.requests import CONDITIONED, DRAWN, PREDICTED, InspectRequest
from mpigmm.runs import checkpoint, hdf5, model_file
from mpigmm.runs.checkpoint import Checkpoint
from mpigmm.runs.component_table import component_table
from mpigmm.runs.hdf5 import Outline
from mpigmm.runs.model import Model
from mpigmm.runs.streams import print_result
from mpigmm.runs.text_table import aligned, listed

CONTENTS = {
    "mpigmm-predict": PREDICTED,
    "mpigmm-condition": CONDITIONED,
    "mpigmm-sample": DRAWN,
    "mpigmm-generate": DRAWN,
}
"""What the datasets of files with rows hold, by the attribute ``format`` and by name."""

Facts = dict[str, Any]
"""What is known of a file, as JSON."""

Lines = list[tuple[str, str]]
"""Names of facts, and their values in words."""


def run(comm: Comm, request: InspectRequest, stop: StopRequest) -> int:
    """Print the content of a file; returns the exit code. Collective."""
    with comm.together():
        if comm.is_root:
            print_result(content_text(Path(request.file), request.json, stop.check))
    return EXIT_DONE


def content_text(path: Path, as_json: bool, check: Callable[[], None]) -> str:
    """The content of a file, `check` as in `hdf5.load`; raises `DataError`."""
    if not path.is_file():
        raise DataError(f"{shown(path)} is not a file; check the path")
    table = outline_of(str(path))
    if table:
        return json_text({"kind": "data", "file": str(path), **table}) if as_json else table_text(path, table)
    found = hdf5.outline(path, check)
    kind = found.attributes.get("format")
    if kind == model_file.FORMAT:
        model = model_file.load_model(path, check)
        return json_text(model_facts(path, model)) if as_json else model_text(path, model)
    if kind == checkpoint.FORMAT:
        state = checkpoint.read_checkpoint(path)
        return json_text(checkpoint_facts(path, state)) if as_json else checkpoint_text(path, state)
    return json_text(data_facts(path, found)) if as_json else data_text(path, found)


def json_text(facts: Facts) -> str:
    """Facts as JSON, which has null for numbers that are not finite."""
    return json.dumps(without_nan(facts), indent=2, allow_nan=False)


def without_nan(value: Any) -> Any:
    """A value of JSON with None in place of numbers that are not finite."""
    if isinstance(value, dict):
        return {name: without_nan(part) for name, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [without_nan(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def model_facts(path: Path, model: Model) -> Facts:
    """The content of a model file."""
    kept = model.statistics
    return {
        "kind": "model",
        "file": str(path),
        **size_facts(model.mixture),
        "n_samples": model.n_samples,
        "mean_log_likelihood": model.mean_log_likelihood,
        "n_iter": model.n_iter,
        "converged": model.converged,
        "feature_names": model.feature_names,
        "statistics": kept and {"n_samples": kept.n_samples, "total_weight": kept.total_weight},
        "updates": model.updates.count,
        "files_folded_in": [file.name for file in model.updates.files],
        **component_facts(model.mixture),
        "config": model.config,
    }


def model_text(path: Path, model: Model) -> str:
    """The content of a model file for people; what another program has left out is not shown."""
    names = model.feature_names and tuple(map(shown, model.feature_names))
    lines = [*size_lines("model", path, model.mixture, names)]
    if model.n_samples:
        lines.append(("rows", f"{model.n_samples:,}"))
    if math.isfinite(model.mean_log_likelihood):
        lines.append(("mean log-likelihood", f"{model.mean_log_likelihood:.6g}"))
    if model.n_iter:
        lines.append(("iterations", f"{model.n_iter:,}, {'converged' if model.converged else 'not converged'}"))
    lines += [*update_lines(model), *settings_lines(flat(model.config or {}))]
    return "\n".join([*head(lines), "", *component_table(model.mixture, model.n_samples, names)])


def update_lines(model: Model) -> Lines:
    """The statistics that a model keeps, and what was folded into it."""
    kept, updates = model.statistics, model.updates
    lines = []
    if kept is not None:
        weight = "" if kept.total_weight == kept.n_samples else f", total weight {kept.total_weight:.6g}"
        lines.append(("statistics", f"of {kept.n_samples:,.6g} rows{weight}"))
    if updates.count:
        files = f", {counted(len(updates.files), 'file')} of a stream" if updates.files else ""
        lines.append(("updates", f"{updates.count:,}{files}"))
    return lines


def checkpoint_facts(path: Path, found: Checkpoint) -> Facts:
    """The content of a checkpoint."""
    progress = found.progress
    return {
        "kind": "checkpoint",
        "file": str(path),
        **(size_facts(found.mixture) if found.mixture else {}),
        "init": progress.init,
        "iteration": progress.iteration,
        "mean_log_likelihood": progress.mean_log_likelihood,
        "change": progress.change,
        "projected_gain": projected_gain(progress.changes),
        "finished": progress.finished,
        "starts_ended": len(progress.ended),
        "iterations_logged": len(found.history),
        "version": found.version,
        "data": found.fingerprint,
        "tile_rows": found.tile_rows,
        "settings": found.identity,
        **(component_facts(found.mixture) if found.mixture else {}),
    }


def checkpoint_text(path: Path, found: Checkpoint) -> str:
    """The content of a checkpoint for people."""
    progress, mixture = found.progress, found.mixture
    state = f"start {progress.init + 1}, {counted(progress.iteration, 'iteration')}"
    lines = size_lines("checkpoint", path, mixture) if mixture else [("kind", "checkpoint"), ("file", shown(path))]
    lines += [
        ("state", f"{state}, finished" if progress.finished else state),
        ("starts ended", str(len(progress.ended))),
        ("rows", found.fingerprint.rpartition(" ")[0]),
        ("tile rows", f"{found.tile_rows:,}"),
        ("written by", f"mpigmm {found.version}"),
    ]
    if progress.mean_log_likelihood is not None:
        lines.append(("mean log-likelihood", f"{progress.mean_log_likelihood:.6g}"))
    if progress.change is not None:
        lines.append(("change", f"{progress.change:+.3g}"))
    gain = projected_gain(progress.changes)
    if gain is not None:
        lines.append(("projected gain", f"{gain:+.3g}"))
    lines += settings_lines(found.identity)
    return "\n".join([*head(lines), *(["", *component_table(mixture)] if mixture else [])])


def data_facts(path: Path, found: Outline) -> Facts:
    """The datasets of any other HDF5 file."""
    return {"kind": "data", "file": str(path), "attributes": found.attributes, "datasets": found.datasets}


def data_text(path: Path, found: Outline) -> str:
    """The datasets of any other HDF5 file for people."""
    contents = CONTENTS.get(str(found.attributes.get("format")), {})
    lines = [("kind", "data"), ("file", shown(path))]
    lines += [(shown(name), value_text(value)) for name, value in found.attributes.items()]
    rows = [dataset_cells(name, each, contents) for name, each in found.datasets.items()]
    titles = ["dataset", "shape", "type", "chunks", "content"]
    return "\n".join([*head(lines), "", *aligned([titles, *rows], left=range(len(titles)))])


def table_text(path: Path, table: Facts) -> str:
    """A file of rows without datasets for people, with the types of its columns where they have names."""
    lines = [("kind", "data"), ("file", shown(path))]
    lines += [(name, value_text(value)) for name, value in table.items() if not isinstance(value, dict)]
    named = table["columns"] if isinstance(table["columns"], dict) else {}
    cells = [["column", "type"], *([shown(name), kind] for name, kind in named.items())]
    return "\n".join([*head(lines), *(["", *aligned(cells, left=(0, 1))] if named else [])])


def dataset_cells(name: str, dataset: Facts, contents: Mapping[str, str]) -> list[str]:
    """The line of a dataset in the table; what it holds and the names of its columns come last."""
    shape, chunks, columns = dataset["shape"], dataset["chunks"], dataset.get("columns")
    words = [contents.get(name.removeprefix("/"), ""), columns and f"columns {listed(list(map(shown, columns)), 50)}"]
    return [
        shown(name),
        "no values" if shape is None else shape_text(shape),
        dataset["dtype"],
        shape_text(chunks) if chunks else "-",
        "; ".join(filter(None, words)),
    ]


def shape_text(shape: Sequence[int]) -> str:
    return " x ".join(f"{length:,}" for length in shape) or "1 value"


def size_facts(mixture: Mixture) -> Facts:
    """Type and size of a mixture."""
    return {
        "covariance_type": mixture.covariances.name,
        "n_components": mixture.n_components,
        "n_features": mixture.n_features,
    }


def component_facts(mixture: Mixture) -> Facts:
    """The parameters of all components but for covariances between features, which the file itself holds."""
    return {
        "weights": mixture.weights.tolist(),
        "means": mixture.means.tolist(),
        "standard_deviations": np.sqrt(mixture.variances).tolist(),
        "condition_numbers": mixture.condition_numbers.tolist(),
    }


def size_lines(kind: str, path: Path, mixture: Mixture, names: tuple[str, ...] | None = None) -> Lines:
    """What a file is, and type and size of its mixture."""
    features = f"{mixture.n_features:,}"
    return [
        ("kind", kind),
        ("file", shown(path)),
        ("covariance type", mixture.covariances.name),
        ("components", f"{mixture.n_components:,}"),
        ("features", f"{features}: {listed(names, 60)}" if names else features),
    ]


def settings_lines(settings: Mapping[str, Any]) -> Lines:
    """The settings that are not the defaults, one a line."""
    defaults = flat(asdict(FitOptions()))
    lines = [f"{key}: {value_text(value)}" for key, value in settings.items() if value != defaults.get(key, ())]
    return [("" if i else "settings", line) for i, line in enumerate(lines)]


def flat(sections: Mapping[str, Any]) -> dict[str, Any]:
    """Settings by dotted key."""
    return {
        f"{section}.{key}": value
        for section, keys in sections.items()
        for key, value in (keys.items() if isinstance(keys, dict) else ())
    }


def value_text(value: Any) -> str:
    """A setting or an attribute in one line."""
    if isinstance(value, list):
        return f"[{listed(list(map(value_text, value)), 60)}]"
    return shown(json.dumps(value)) if value is None or isinstance(value, bool) else shown(value)


def head(lines: Lines) -> list[str]:
    """Names and values in two columns."""
    width = max(len(name) for name, _ in lines)
    return [f"{name:{width}}  {value}" for name, value in lines]
