"""``score``: the log-likelihood of rows under a model."""

from __future__ import annotations

import json
import math

from mpigmm.data.file_source import FileSource
from mpigmm.driver.criteria import criteria
from mpigmm.driver.posteriors import ScoreTask, open_stream
from mpigmm.driver.score_rows import open_task
from mpigmm.driver.scoring import Score, summed_scores
from mpigmm.errors import EXIT_DONE
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
            task = open_task(request.model, request.data, request.dataset, stop.check)
    task = comm.bcast(task)
    context = open_stream(comm, FileSource(task.header), task, stop)
    with single_threaded_blas:
        score = summed_scores(context, task)
    if comm.is_root:
        text = as_json(task, score)
    with comm.together():
        if comm.is_root:
            print_result(text)
    return EXIT_DONE


def as_json(task: ScoreTask, score: Score) -> str:
    """The score as JSON.

    JSON has no infinity: a log-likelihood of -inf is written as null, with a warning on standard error.
    """
    n_samples = task.header.n_rows
    result = {
        "n_samples": n_samples,
        "log_likelihood": score.log_likelihood,
        "mean_log_likelihood": score.mean_log_likelihood,
        **criteria(task.mixture, score.log_likelihood, n_samples),
    }
    if score.n_impossible:
        write_message(
            f"mpigmm: warning: {score.n_impossible:,} of {n_samples:,} rows are so many standard deviations from every "
            "component that the log-density is -inf, and so is the log-likelihood (null below); predict tells "
            "which rows"
        )
    return json.dumps({key: value if math.isfinite(value) else None for key, value in result.items()}, indent=2)
