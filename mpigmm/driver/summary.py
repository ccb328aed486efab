"""The content of ``model.h5`` and of ``summary.json``."""

from __future__ import annotations

import platform
import time
from typing import Any

import numpy as np

from mpigmm.core.data_summary import DataSummary
from mpigmm.data.memory import peak_memory, peak_since_fork
from mpigmm.data.source import Header
from mpigmm.driver.criteria import criteria
from mpigmm.driver.devices import Devices
from mpigmm.driver.reduction import Reduction
from mpigmm.options import FitOptions, as_mapping
from mpigmm.parallel.comm import host
from mpigmm.runs.model import Model
from mpigmm.runs.state import Fitted
from mpigmm.version import __version__


def fitted_model(best: Fitted, data_summary: DataSummary, options: FitOptions, header: Header) -> Model:
    """The content of ``model.h5``."""
    return Model(
        best.mixture,
        data_summary.n_samples,
        best.ended.mean_log_likelihood,
        best.ended.n_iter,
        best.ended.converged,
        as_mapping(options),
        header.feature_names,
        best.statistics,
    )


def summary(best: Fitted, data_summary: DataSummary, kinds: tuple[str, ...], devices: Devices) -> dict[str, Any]:
    """The part of ``summary.json`` about the mixture, the rows and the devices.

    Parameters
    ----------
    best : Fitted
    data_summary : DataSummary
    kinds : tuple of str
        Kinds of devices that have taken part since the run began.
    devices : Devices
        The devices of this process and the other ranks.
    """
    return {
        **fit_summary(best, data_summary),
        "reproducible": len(kinds) == 1,
        "device": devices.device,
        "devices": devices.counts(),
    }


def fit_summary(best: Fitted, data_summary: DataSummary) -> dict[str, Any]:
    """Sizes, convergence, log-likelihood and information criteria."""
    ended = best.ended
    log_likelihood = ended.mean_log_likelihood * data_summary.total_weight
    return {
        "n_samples": data_summary.n_samples,
        "n_dropped": data_summary.n_dropped,
        "n_features": best.mixture.n_features,
        "n_components": best.mixture.n_components,
        "covariance_type": best.mixture.covariances.name,
        "init": ended.init,
        "n_iter": ended.n_iter,
        "e_steps": ended.e_steps,
        "passes": ended.passes,
        "converged": ended.converged,
        "projected_gain": ended.projected_gain,
        "mean_log_likelihood": ended.mean_log_likelihood,
        **criteria(best.mixture, log_likelihood, data_summary.total_weight),
    }


def usage(reduction: Reduction) -> dict[str, Any]:
    """The part of ``summary.json`` about time and memory, complete on root alone. Collective.

    Seconds are root's, since the run began; memory is the largest peak of a rank.
    """
    context, clock = reduction.context, reduction.clock
    peak = peak_memory if context.block.source.held is None else peak_since_fork  # such a fit opens no file
    ranks = context.comm.gather((host(), peak()))
    return {
        "n_ranks": context.comm.size,
        "threads_per_rank": context.n_threads,
        "hosts": sorted({name for name, _ in ranks}),
        "seconds": time.monotonic() - context.stop.begun,
        "seconds_read": context.block.seconds_read,
        "seconds_compute": clock.compute,
        "seconds_communicate": clock.communicate,
        "peak_memory_bytes": max((peak for _, peak in ranks), default=0),
        **({"mpi_library": context.comm.mpi_library} if context.comm.mpi_library else {}),
    }


def versions(cupy: str | None, **others: str) -> dict[str, Any]:
    """The part of ``summary.json`` with versions of libraries: of CuPy where a rank uses it, and of `others`."""
    return {
        "versions": {
            "mpigmm": __version__,
            "python": platform.python_version(),
            "numpy": np.__version__,
            **others,
            **({"cupy": cupy} if cupy else {}),
        },
    }
