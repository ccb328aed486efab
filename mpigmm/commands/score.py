"""``score``: the log-likelihood of rows under a model."""

from __future__ import annotations

import json
import math
from typing import Any

from mpigmm.driver.inference import criteria_of
from mpigmm.driver.posteriors import ScoreTask
from mpigmm.driver.score_rows import open_rows, open_task
from mpigmm.driver.scoring import Score, summed_scores
from mpigmm.driver.survey_pass import check_total_weight
from mpigmm.errors import EXIT_DONE, DataError, shown
from mpigmm.parallel.comm import Comm
from mpigmm.parallel.stop import StopRequest
from mpigmm.parallel.threads import single_threaded_blas
from mpigmm.requests import ScoreRequest
from mpigmm.runs.streams import print_result, write_message


def run(comm: Comm, request: ScoreRequest, stop: StopRequest) -> int:
    """Print the score as JSON; returns the exit code. Collective."""
    task = None
    with comm.together():
        if comm.is_root:
            task = open_task(request.model, request.rows, stop.check)
    task = comm.bcast(task)
    context = open_rows(comm, task, request.rows, stop)
    with single_threaded_blas:
        score = summed_scores(context, task, with_entropy=True, of_components=True)
    with comm.together():
        check_score(score, task)
        if comm.is_root:
            print_result(as_json(task, score))
    return EXIT_DONE


def as_json(task: ScoreTask, score: Score) -> str:
    """The score as JSON.

    JSON has no infinity: a log-likelihood of -inf is written as null, with a warning on standard error. So is the mean
    log-density of a component without rows.
    """
    result: dict[str, Any] = {
        "n_samples": score.n_samples,
        "log_likelihood": score.log_likelihood,
        "mean_log_likelihood": score.mean_log_likelihood,
        **criteria_of(task.mixture, score),
        "counts": score.counts.tolist(),
        "mean_log_density": score.mean_log_density.tolist(),
    }
    if task.header.is_weighted:
        result["total_weight"] = score.total_weight
    if score.n_dropped:
        result["n_dropped"] = score.n_dropped
    if score.n_impossible:
        write_message(
            f"mpigmm: warning: {score.n_impossible:,} of {score.n_samples:,} rows are so many standard deviations from "
            "every component that the log-density is -inf, and so is the log-likelihood (null below); predict tells "
            "which rows"
        )
    return json.dumps({key: finite_or_null(value) for key, value in result.items()}, indent=2)


def finite_or_null(value: Any) -> Any:
    """A number, or None where it is not finite; the same of each number of a list."""
    if isinstance(value, list):
        return [finite_or_null(each) for each in value]
    return value if math.isfinite(value) else None


def check_score(score: Score, task: ScoreTask) -> None:
    """Raise `DataError` where no rows are left, or they weigh too little."""
    if score.n_dropped and not score.n_samples:
        raise DataError(f"all {score.n_dropped:,} rows of {shown(task.header.dataset)} hold NaN or infinity")
    if task.header.is_weighted:
        check_total_weight(score.total_weight, task.header)
