"""``score``: the log-likelihood of rows under a model."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field

import numpy as np

from mpigmm.core.exact import ExactSum, FixedPoint, FloatArray, IntArray, carry
from mpigmm.data.source import Header
from mpigmm.driver.criteria import criteria
from mpigmm.driver.reduction import Reduction
from mpigmm.driver.score_rows import PosteriorFunction, ScoreTask, for_each_posterior, open_stream, open_task
from mpigmm.driver.worker import RankContext
from mpigmm.errors import EXIT_DONE, DataError
from mpigmm.parallel.comm import Comm
from mpigmm.parallel.stop import StopRequest
from mpigmm.parallel.threads import single_threaded_blas
from mpigmm.requests import ScoreRequest
from mpigmm.runs.streams import print_result, write_message

FORM = FixedPoint.unbounded(1)
"""Format of the sum of log-densities, from 2^-980 to 2^959 in magnitude."""
LEAST_LOG_DENSITY = -(2.0**900)
"""Least log-density of a row that can be summed: the format holds the sum of 2^50 such rows."""


@dataclass
class Score:
    """Sum of the log-densities of some rows, and how many of them are -inf.

    Parameters
    ----------
    header : Header
        Of the rows.
    """

    header: Header
    total: ExactSum = field(default_factory=lambda: ExactSum(FORM))
    n_impossible: int = 0

    def add(self, first_row: int, resp: FloatArray, log_density: FloatArray) -> None:
        """Add a tile's rows. Raises `DataError` for a log-density that is too low for the sum."""
        possible = ~np.isneginf(log_density)
        bad = possible & ~(log_density >= LEAST_LOG_DENSITY)
        if bad.any():
            row = int(bad.argmax())
            raise DataError(
                f"{self.header.where(first_row + row)} has log-density {log_density[row]:g}, too low for a sum: it is "
                "too many standard deviations from every component; rescale the data, or leave the row out"
            )
        held = log_density[possible]
        self.n_impossible += log_density.size - held.size
        self.total.add(held.sum(keepdims=True))

    def packed(self) -> IntArray:
        """Limbs of the sum and number of impossible rows, an int64 vector that can be added over threads and ranks."""
        return np.append(carry(self.total.limbs), self.n_impossible)


def run(comm: Comm, request: ScoreRequest, stop: StopRequest) -> int:
    """Print the score as JSON; returns the exit code. Collective."""
    task = None
    with comm.together():
        if comm.is_root:
            task = open_task(request.model, request.data, request.dataset, stop.check)
    task = comm.bcast(task)
    context = open_stream(comm, task, stop)
    with single_threaded_blas:
        packed = summed_scores(context, task)
    if comm.is_root:
        text = as_json(task, packed)
    with comm.together():
        if comm.is_root:
            print_result(text)
    return EXIT_DONE


def summed_scores(context: RankContext, task: ScoreTask) -> IntArray:
    """`Score.packed`, summed over the rows of all ranks. Collective."""
    scores: list[Score] = []

    def new_function() -> PosteriorFunction:
        scores.append(Score(task.header))
        return scores[-1].add

    def add_own(total: IntArray) -> None:
        scores.clear()
        for_each_posterior(context, task, new_function)
        for score in scores:
            total += score.packed()

    sums, _ = Reduction(context).reduce(Score(task.header).packed().size, add_own, on_host=True)
    return sums


def as_json(task: ScoreTask, packed: IntArray) -> str:
    """The score as JSON, from the sum of all ranks' `Score.packed`.

    JSON has no infinity: a log-likelihood of -inf is written as null, with a warning on standard error.
    """
    n_samples, n_impossible = task.header.n_rows, int(packed[-1])
    log_likelihood = -math.inf if n_impossible else float(FORM.value(packed[:-1].reshape(-1, 1))[0])
    result = {
        "n_samples": n_samples,
        "log_likelihood": log_likelihood,
        "mean_log_likelihood": log_likelihood / n_samples,
        **criteria(task.mixture, log_likelihood, n_samples),
    }
    if n_impossible:
        write_message(
            f"mpigmm: warning: {n_impossible:,} of {n_samples:,} rows are so many standard deviations from every "
            "component that the log-density is -inf, and so is the log-likelihood (null below); predict tells "
            "which rows"
        )
    return json.dumps({key: value if math.isfinite(value) else None for key, value in result.items()}, indent=2)
