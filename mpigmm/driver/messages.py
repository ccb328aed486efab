"""Messages of root to the user of a fit."""

from __future__ import annotations

from collections.abc import Sequence

from mpigmm.core.algorithms import algorithm_type
from mpigmm.core.algorithms.repair import Repairs
from mpigmm.core.data_summary import DataSummary
from mpigmm.data.source import Header
from mpigmm.errors import counted, shown
from mpigmm.options import EmOptions, FitOptions
from mpigmm.runs.state import Fitted, Progress
from mpigmm.runs.voice import Voice

TOO_COARSE = "in float32 rounding would cost more than 1e-4 of a row's log-likelihood, or numbers would leave its range"
MORE_TIME = "allow more time (output.walltime, or the limit of the batch system), or take more ranks"
MUCH_MORE = 5
"""Projected gain, in units of the tolerance, above which the user is told of it."""
FEW = 5
"""Largest number of components that a message names."""
MOST_FEATURES = 8
"""Largest number of features that it names."""


def problem_text(summary: DataSummary, header: Header, options: FitOptions, n_ranks: int) -> str:
    """Size of the data and of the mixture, and the number of ranks."""
    return (
        f"{counted(summary.n_samples, 'row')} of {counted(header.n_features, 'feature')}{in_brackets(header)}, "
        f"{counted(options.model.n_components, 'component')}, {options.model.covariance_type}, "
        f"on {counted(n_ranks, 'rank')}"
    )


def in_brackets(header: Header) -> str:
    """The names of the features, where they are known: the first few."""
    names = header.feature_names
    if names is None:
        return ""
    return f" ({', '.join(map(shown, names[:MOST_FEATURES]))}{', ...' * (len(names) > MOST_FEATURES)})"


def tell_beginning(
    voice: Voice,
    summary: DataSummary,
    header: Header,
    options: FitOptions,
    n_ranks: int,
    warnings: Sequence[str | None],
) -> None:
    """Tell the user what is going to be fitted."""
    voice.say(problem_text(summary, header, options, n_ranks))
    dropped = dropped_text(summary, header)
    if dropped:
        voice.say(dropped)
    for warning in filter(None, warnings):
        voice.warn(warning)


def dropped_text(summary: DataSummary, header: Header) -> str | None:
    """How many rows are left out, if any."""
    if not summary.n_dropped:
        return None
    return f"{summary.n_dropped:,} of {header.n_rows:,} rows hold NaN or infinity and are left out (data.missing: drop)"


def precision_text(iteration: int, bits: int) -> str:
    """From which iteration on tiles are float32 or float64, and the reason for float64."""
    text = f"iteration {iteration} and those after it are computed in float{bits}"
    return f"{text}: {TOO_COARSE}" if bits == 64 else text


def iteration_text(progress: Progress) -> str:
    """The last complete iteration of a fit, and of which start, unless that is the first."""
    name = f"iteration {progress.iteration}" if progress.iteration else "the first mixture"
    return name + (f" of start {progress.init + 1}" if progress.init else "")


def result_text(name: str, best: Fitted) -> str:
    """The name of the fitted mixture, and how the fit ended."""
    return (
        f"{name}: {counted(best.mixture.n_components, 'component')}, "
        f"{'converged' if best.ended.converged else 'stopped'} after {counted(best.ended.n_iter, 'iteration')}, "
        f"mean log-likelihood {best.ended.mean_log_likelihood:.9g}"
    )


def projected_text(best: Fitted, em: EmOptions) -> str | None:
    """A remark where a fit ended by its last change, but is projected to gain much more than the tolerance."""
    gain = best.ended.projected_gain
    if em.criterion != "change" or not best.ended.converged or gain is None or gain <= MUCH_MORE * em.tol:
        return None
    remedy = "lower em.tol" if em.algorithm == "stepwise" else "lower em.tol, or set em.criterion: aitken"
    return f"the log-likelihood is projected to rise by another {gain:.2g} a row (em.tol: {em.tol:g}); {remedy}"


def unconverged_text(options: FitOptions, repairs: Repairs) -> str:
    """A warning that a fit ended before it converged, from the repairs of its last iteration, if any."""
    said = f"max_iter came before convergence (em.max_iter: {options.em.max_iter}, em.tol: {options.em.tol:g})"
    decides_end = algorithm_type(options.em).decides_end
    if not repairs or decides_end:  # an algorithm that decides its end does not do so by the last iteration alone
        can_go_on = options.n_starts == 1 and not decides_end
        again = " and run the same command again to go on" if can_go_on else " and add --restart"
        return f"{said}; raise em.max_iter{again if options.output.dir is not None else ''}"
    made = []
    if repairs.floored:
        floored = covariances_text(repairs.floored)
        made.append(f"raised {floored} to model.variance_floor ({options.model.variance_floor:g})")
    if repairs.reseeded:
        made.append(f"re-seeded {components_text(repairs.reseeded)}, which held no rows")
    return (
        f"{said}: an iteration with a repair does not count as converged, and the last one {' and '.join(made)}; if "
        "that goes on, more iterations do not help: lower model.n_components, raise model.reg_covar, leave out columns "
        "that hardly vary (data.columns), or mend values far from all others"
    )


def covariances_text(components: Sequence[int | None]) -> str:
    """The covariances of components; None stands for the tied covariance."""
    own = [component for component in components if component is not None]
    return f"the covariance of {components_text(own)}" if own else "the tied covariance"


def components_text(components: Sequence[int]) -> str:
    """Components, the first few by number."""
    few = ", ".join(map(str, components[:FEW]))
    return f"component {few}" + (f" and {len(components) - FEW} others" if len(components) > FEW else "")
