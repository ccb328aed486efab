"""When a start has converged or reached its last iteration, and whether other options would continue it."""

from __future__ import annotations

from dataclasses import replace

from mpigmm.core.algorithms import algorithm_type
from mpigmm.core.algorithms.projection import Changes, has_converged
from mpigmm.core.kept_statistics import are_small
from mpigmm.core.mixture import Mixture
from mpigmm.errors import OutputError
from mpigmm.options import EmOptions, FitOptions
from mpigmm.runs.state import Fitted, Progress


def goes_on(iteration: int, changes: Changes, em: EmOptions) -> bool:
    """Whether a start takes another iteration after this one, given the last changes of its objective."""
    return iteration < em.max_iter and not has_converged(changes, em)


def check_ended(progress: Progress, options: FitOptions, name: str) -> None:
    """Raise `OutputError` if one of several starts that have ended would go on: only the best mixture was kept."""
    could_go_on = options.n_starts > 1 and not algorithm_type(options.em).decides_end
    for ended in progress.ended if could_go_on else ():
        if goes_on(ended.n_iter, ended.changes, options.em):
            raise OutputError(
                f"em.max_iter, em.tol, em.criterion: start {ended.init + 1} of {name} ended after {ended.n_iter} "
                "iterations and would now go on, but of several starts only the best one's mixture is kept; "
                "add --restart to start over, or set them as they were"
            )


def reopened(progress: Progress, options: FitOptions) -> Progress:
    """The progress, no longer finished if its only start goes on, for example because `max_iter` was raised."""
    could_go_on = options.n_starts == 1 and not algorithm_type(options.em).decides_end
    if progress.finished and could_go_on and goes_on(progress.iteration, progress.changes, options.em):
        return replace(progress, finished=False, best=None, ended=())
    return progress


def keeps_statistics(mixture: Mixture, options: FitOptions) -> bool:
    """Whether a fit keeps the statistics of the rows with its mixture."""
    wanted = options.output.statistics
    return are_small(mixture.layout) if wanted == "auto" else wanted


def lacks_statistics(best: Fitted, options: FitOptions) -> bool:
    """Whether the result of a fit, which may have ended under other options, lacks statistics that are to be kept."""
    return best.statistics is None and keeps_statistics(best.mixture, options)
