"""``inspect``: what a file holds."""

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
    """Print what the file holds; returns the exit code. Collective."""
    with comm.together():
        if comm.is_root:
            found = describe(Path(request.file), stop.check)
            print_result(json.dumps(found, indent=2) if request.json else as_text(found))
    return EXIT_DONE


def describe(path: Path, check: Callable[[], None]) -> dict[str, Any]:
    """What a model, checkpoint or data file holds, `check` as in `hdf5.load`; raises `DataError`."""
    if not path.is_file():
        raise DataError(f"{shown(path)} is not a file; check the path")
    found = hdf5.outline(path, check)
    kind = found.attributes.get("format")
    if kind == model_file.FORMAT:
        return describe_model(path, check)
    if kind == checkpoint.FORMAT:
        return describe_checkpoint(path)
    return {"kind": "data", "file": str(path), "datasets": found.datasets}


def describe_model(path: Path, check: Callable[[], None]) -> dict[str, Any]:
    """A model file in a few values."""
    model = model_file.load_model(path, check)
    return {
        "kind": "model",
        "file": str(path),
        **describe_mixture(model.mixture),
        "n_samples": model.n_samples,
        "mean_log_likelihood": model.mean_log_likelihood,
        "n_iter": model.n_iter,
        "converged": model.converged,
        "weights": model.mixture.weights.tolist(),
        "config": model.config,
    }


def describe_checkpoint(path: Path) -> dict[str, Any]:
    """A checkpoint in a few values."""
    found = checkpoint.read_checkpoint(path)
    progress = found.progress
    return {
        "kind": "checkpoint",
        "file": str(path),
        **(describe_mixture(progress.mixture) if progress.mixture else {}),
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


def describe_mixture(mixture: Mixture) -> dict[str, Any]:
    """Type and size of a mixture."""
    return {
        "covariance_type": mixture.covariance.name,
        "n_components": mixture.n_components,
        "n_features": mixture.n_features,
    }


def as_text(found: dict[str, Any]) -> str:
    """The same, a line a value."""
    width = max(map(len, found))
    return "\n".join(f"{name:{width}}  {shown(value)}" for name, value in found.items())
