"""``score``: how likely rows are under a model."""

from __future__ import annotations

import json
from functools import reduce
from operator import add

from mpigmm.commands.record import criteria
from mpigmm.commands.rows import Visit, open_task, stream_team, sweep_posterior
from mpigmm.core.exact import ExactSum, FixedPoint, carry
from mpigmm.errors import EXIT_DONE
from mpigmm.options import ScoreOrder
from mpigmm.parallel.comm import Comm
from mpigmm.parallel.stop import StopRequest
from mpigmm.parallel.threads import single_threaded_blas
from mpigmm.runs.streams import print_result


def run(comm: Comm, order: ScoreOrder, stop: StopRequest) -> int:
    """Print the score as JSON; returns the exit code. Collective."""
    task = None
    with comm.together():
        if comm.is_root:
            task = open_task(order.model, order.data, order.dataset)
    task = comm.bcast(task)
    team = stream_team(comm, task, stop)
    form = FixedPoint.unbounded(1)
    sums: list[ExactSum] = []

    def visitor() -> Visit:
        own = ExactSum(form)
        sums.append(own)
        return lambda first, resp, log_density: own.add(log_density.sum(keepdims=True))

    with comm.together(), single_threaded_blas():
        sweep_posterior(team, task, visitor)
    total = comm.sum(carry(reduce(add, sums).limbs))
    if comm.is_root:
        log_likelihood = float(form.value(total)[0])
        n_samples = task.header.n_rows
        result = {
            "n_samples": n_samples,
            "log_likelihood": log_likelihood,
            "mean_log_likelihood": log_likelihood / n_samples,
            **criteria(task.mixture, log_likelihood, n_samples),
        }
        text = json.dumps(result, indent=2)
    with comm.together():
        if comm.is_root:
            print_result(text)
    return EXIT_DONE
