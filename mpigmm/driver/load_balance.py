"""The speeds of ranks whose devices differ; tiles are distributed in proportion to them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from mpigmm.core.algorithms.base import EStepPass
from mpigmm.core.covariances import COVARIANCE_TYPES
from mpigmm.core.precision import Precision
from mpigmm.data.malloc import keep_freed_memory
from mpigmm.data.source import Header
from mpigmm.data.synthetic import SyntheticSource
from mpigmm.driver.devices import CPU, Devices, label
from mpigmm.driver.e_step import sum_e_step
from mpigmm.driver.em_loop import problem_of
from mpigmm.driver.layout import fits_gpu, gpu_budget, lay_out
from mpigmm.driver.measure import SAMPLED_ROWS, is_correlated, true_mixture
from mpigmm.driver.reduction import Reduction
from mpigmm.driver.resume_plan import ResumePlan
from mpigmm.driver.survey_pass import survey_rows
from mpigmm.driver.worker import open_context
from mpigmm.options import FitOptions
from mpigmm.parallel.comm import Comm
from mpigmm.parallel.stop import StopRequest
from mpigmm.parallel.threads import count_threads

SEPARATION = 1.0
"""Separation of the synthetic components, at which they overlap a little: see `SyntheticSource`."""


def measured_speeds(
    comm: Comm, options: FitOptions, header: Header, plan: ResumePlan, devices: Devices, stop: StopRequest
) -> tuple[list[int], dict[str, int]]:
    """Rows a second of every rank, and of every kind of rank; measured unless a checkpoint holds them. Collective."""
    n_threads = count_threads(options.compute.threads, comm.node_share())
    labels = comm.allgather(label(devices, comm.rank, n_threads))
    known = dict(plan.speeds)
    if not known.keys() >= set(labels):
        own = own_speed(comm, options, header, plan, devices, max(comm.allgather(n_threads)), stop)
        devices.release()
        speeds = comm.allgather(own)
        for kind in set(labels):
            known[kind] = int(np.median([speed for speed, other in zip(speeds, labels, strict=True) if other == kind]))
    return [known[kind] for kind in labels], known


def own_speed(
    comm: Comm,
    options: FitOptions,
    header: Header,
    plan: ResumePlan,
    devices: Devices,
    n_threads: int,
    stop: StopRequest,
) -> int:
    """Rows a second of this rank on synthetic rows, one tile a thread, measured on all ranks at once. Collective.

    If the rows of the fit will not fit on this rank's GPU, the synthetic rows are not kept there either.
    """
    model, rows = options.model, plan.tile_rows * n_threads
    kind = COVARIANCE_TYPES[model.covariance_type]
    n_rows = max(rows * comm.size, model.n_components)
    with comm.together():
        source = SyntheticSource(
            n_rows, header.n_features, model.n_components, SEPARATION, correlated=is_correlated(kind)
        )
        mixture = true_mixture(source, kind)
    compute = replace(options.compute, memory="auto" if holds_rows(header, devices, comm.rank, options) else 1)
    layout = lay_out(comm, source, plan.tile_rows, compute, devices)
    context = open_context(comm, source, layout, devices, stop, plan.ops)
    summary, _ = survey_rows(context, options, SAMPLED_ROWS)
    problem, reduction = problem_of(options, summary, context.grid), Reduction(context)
    e_step_pass = EStepPass(mixture, Precision(problem.dtype, np.zeros(model.n_components, bool)))
    keep_freed_memory()
    sum_e_step(reduction, problem, e_step_pass)
    spent = reduction.clock.compute
    sum_e_step(reduction, problem, e_step_pass)
    return max(1, int(context.block.n_rows / (reduction.clock.compute - spent)))


def holds_rows(header: Header, devices: Devices, rank: int, options: FitOptions) -> bool:
    """Whether the rows of this rank fit on its GPU if the rows are divided among the GPUs; True without a GPU."""
    if devices.ops is None:
        return True
    n_rows = -(-header.n_rows // max(1, len(devices.kinds) - devices.kinds.count(CPU)))
    return fits_gpu(devices, header, n_rows, gpu_budget(devices, rank, options.compute))
