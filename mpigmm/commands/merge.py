"""``merge``: a model with fewer components."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from mpigmm.core.exact import FloatArray
from mpigmm.core.merging import merge_components
from mpigmm.driver.inference import factored
from mpigmm.errors import EXIT_DONE, ConfigError, OutputError, counted, shown
from mpigmm.parallel.comm import Comm
from mpigmm.parallel.stop import StopRequest
from mpigmm.requests import MergeRequest
from mpigmm.runs.model import Model
from mpigmm.runs.model_file import check_derived, load_model, save_model
from mpigmm.runs.streams import print_result


def run(comm: Comm, request: MergeRequest, stop: StopRequest) -> int:
    """Write the merged model and print what merging cost; returns the exit code. Collective; root alone works."""
    with comm.together():
        if comm.is_root:
            check_model_out(request, stop.check)
            model = load_model(Path(request.model), stop.check)
            check_enough_components(request, model)
            with factored(model.mixture.covariances):
                merged, bounds = merge_components(model.mixture, request.n_components, stop.check)
            check_model_out(request, stop.check)
            save_model(Path(request.out), model.derived(merged))
            print_result(result_text(request, bounds))
    return EXIT_DONE


def check_model_out(request: MergeRequest, check: Callable[[], None]) -> None:
    """Raise `OutputError` where ``--out`` is the model that is read, or is not what merge may have written before."""
    out, model = Path(request.out), Path(request.model)
    if out.exists() and model.exists() and out.samefile(model):
        raise OutputError(
            f"--out {shown(out)} would overwrite the model that is merged, which cannot be made again from the result; "
            "choose another name"
        )
    check_derived(out, check, overwrite=request.overwrite)


def check_enough_components(request: MergeRequest, model: Model) -> None:
    """Raise `ConfigError` where the model has fewer components than it is to be left with."""
    n_components = model.mixture.n_components
    if request.n_components > n_components:
        raise ConfigError(
            f"--n-components {request.n_components}: {shown(request.model)} has {counted(n_components, 'component')}; "
            "ask for no more"
        )


def result_text(request: MergeRequest, bounds: FloatArray) -> str:
    """The result in words, from the bounds (n_steps,) of the steps."""
    before = request.n_components + len(bounds)
    result = f"{shown(request.out)}: {counted(before, 'component')} merged into {request.n_components}"
    if not len(bounds):
        return result
    return (
        f"{result}; bounds of the Kullback-Leibler divergence of the {counted(len(bounds), 'step')}, in nats: "
        f"sum {np.sum(bounds):.4g}, largest {np.max(bounds):.4g}"
    )
