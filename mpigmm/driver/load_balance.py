"""How fast ranks of unlike devices are, so that each takes its share of the tiles."""

from __future__ import annotations

from dataclasses import replace
from statistics import median

import numpy as np

from mpigmm.core.em import Safeguards
from mpigmm.core.precision import Precision
from mpigmm.data.synthetic import SyntheticSource
from mpigmm.driver.devices import CPU, Devices, label
from mpigmm.driver.em_loop import Loop
from mpigmm.driver.measure import true_mixture
from mpigmm.driver.resume import Job
from mpigmm.driver.survey_pass import survey_rows
from mpigmm.driver.worker import build_team, stage_of
from mpigmm.options import FitOptions
from mpigmm.parallel.comm import Comm
from mpigmm.parallel.stop import StopRequest
from mpigmm.parallel.threads import count_threads

SEPARATION = 1.0
"""Of the synthetic components: some overlap."""

SAMPLE = 1024


def measured_speeds(
    comm: Comm, options: FitOptions, job: Job, devices: Devices, stop: StopRequest
) -> tuple[list[int], dict[str, int]]:
    """Rows a second of every rank, and of every kind of rank, measured unless a checkpoint tells them. Collective."""
    n_threads = count_threads(options.compute.threads, comm.ranks_on_node())
    labels = comm.allgather(label(devices, comm.rank, n_threads))
    known = dict(job.speeds)
    if not known.keys() >= set(labels):
        own = own_speed(comm, options, job, devices, max(comm.allgather(n_threads)), stop)
        if devices.engine is not None:
            devices.engine.backend.release()
        taken = comm.allgather(own)
        for kind in set(labels):
            known[kind] = int(median(speed for speed, own in zip(taken, labels, strict=True) if own == kind))
    return [known[kind] for kind in labels], known


def own_speed(comm: Comm, options: FitOptions, job: Job, devices: Devices, n_threads: int, stop: StopRequest) -> int:
    """Rows a second of this rank with synthetic rows, a tile a thread, while the others do the same. Collective.

    A GPU that will not hold its rank's rows is sent these each time, too.
    """
    model, rows = options.model, job.tile_rows * n_threads
    correlated = model.covariance_type == "full"
    n_rows = max(rows * comm.size, model.n_components)
    with comm.together():
        source = SyntheticSource(n_rows, job.header.n_features, model.n_components, SEPARATION, correlated=correlated)
        mixture = true_mixture(source, model.covariance_type)
    compute = replace(options.compute, memory="auto" if holds_rows(job, devices, comm.rank, options) else 1)
    team = build_team(comm, source, job.tile_rows, compute, stop, job.loops, devices)
    survey, _ = survey_rows(team, options, SAMPLE)
    loop = Loop(team, survey, Safeguards(model.reg_covar, model.variance_floor), options.compute.precision)
    precision = Precision(loop.precision, np.zeros(model.n_components, bool))
    loop.expect(mixture, precision)
    spent = loop.clock.compute
    loop.expect(mixture, precision)
    return max(1, int((team.block.stop - team.block.start) / (loop.clock.compute - spent)))


def holds_rows(job: Job, devices: Devices, rank: int, options: FitOptions) -> bool:
    """Whether this rank's GPU will hold its rows, were the GPUs to share them all."""
    stage, header = stage_of(devices, rank, options.compute.memory), job.header
    n_rows = -(-header.n_rows // max(1, len(devices.kinds) - devices.kinds.count(CPU)))
    return stage is None or stage.holds(np.dtype(header.dtype), n_rows, header.n_features, header.weights is not None)
