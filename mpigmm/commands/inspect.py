"""``inspect``: the content of a model, checkpoint or data file in a few values."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mpigmm.core.mixture import Mixture
from mpigmm.errors import EXIT_DONE, DataError, shown
from mpigmm.parallel.comm import Comm
from mpigmm.parallel.stop import StopRequest
from mpigmm.requests import InspectRequest
from mpigmm.runs import checkpoint, hdf5, model_file
from mpigmm.runs.streams import print_result


def run(comm: Comm, request: InspectRequest, stop: StopRequest) -> int:
    """Print the content of a file in a few values; returns the exit code. Collective."""
    with comm.together():
        if comm.is_root:
            found = file_outline(Path(request.file), stop.check)
            print_result(json.dumps(found, indent=2) if request.json else as_text(found))
    return EXIT_DONE


def file_outline(path: Path, check: Callable[[], None]) -> dict[str, Any]:
    """A model, checkpoint or data file in a few values, `check` as in `hdf5.load`; raises `DataError`."""
    if not path.is_file():
        raise DataError(f"{shown(path)} is not a file; check the path")
    found = hdf5.outline(path, check)
    kind = found.attributes.get("format")
    if kind == model_file.FORMAT:
        return model_outline(path, check)
    if kind == checkpoint.FORMAT:
        return checkpoint_outline(path)
    return {"kind": "data", "file": str(path), "datasets": found.datasets}


def model_outline(path: Path, check: Callable[[], None]) -> dict[str, Any]:
    """The content of a model file in a few values."""
    model = model_file.load_model(path, check)
    return {
        "kind": "model",
        "file": str(path),
        **mixture_outline(model.mixture),
        "n_samples": model.n_samples,
        "mean_log_likelihood": model.mean_log_likelihood,
        "n_iter": model.n_iter,
        "converged": model.converged,
        "weights": model.mixture.weights.tolist(),
        "config": model.config,
    }


def checkpoint_outline(path: Path) -> dict[str, Any]:
    """The content of a checkpoint in a few values."""
    found = checkpoint.read_checkpoint(path)
    progress = found.progress
    return {
        "kind": "checkpoint",
        "file": str(path),
        **(mixture_outline(found.mixture) if found.mixture else {}),
        "init": progress.init,
        "iteration": progress.iteration,
        "mean_log_likelihood": progress.mean_log_likelihood,
        "change": progress.change,
        "finished": progress.finished,
        "starts_ended": len(progress.ended),
        "iterations_logged": len(found.history),
        "version": found.version,
        "data": found.fingerprint,
        "tile_rows": found.tile_rows,
        "settings": found.identity,
    }


def mixture_outline(mixture: Mixture) -> dict[str, Any]:
    """Type and size of a mixture."""
    return {
        "covariance_type": mixture.covariances.name,
        "n_components": mixture.n_components,
        "n_features": mixture.n_features,
    }


def as_text(found: dict[str, Any]) -> str:
    """An outline as text, with a line for each value."""
    width = max(map(len, found))
    return "\n".join(f"{name:{width}}  {shown(value)}" for name, value in found.items())
