"""Folds the rows of a source into a model that keeps the statistics of its rows."""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from mpigmm.core.algorithms.base import Grid, Problem
from mpigmm.core.algorithms.repair import Repairs
from mpigmm.core.algorithms.update import UpdateState, UpdateStep
from mpigmm.core.covariances.base import Safeguards, SingularCovarianceError
from mpigmm.core.data_summary import DataSummary
from mpigmm.core.kept_statistics import KeptStatistics
from mpigmm.core.mixture import Mixture
from mpigmm.core.priors import PRIORS
from mpigmm.core.sum_format import SumRangeError
from mpigmm.data.source import Header, Source
from mpigmm.driver.devices import Devices, choose_devices, common_ops
from mpigmm.driver.e_step import sum_e_step
from mpigmm.driver.inference import check_features
from mpigmm.driver.layout import choose_tile_rows, lay_out
from mpigmm.driver.reduction import Reduction
from mpigmm.driver.shared_update import SharedUpdate
from mpigmm.driver.survey_pass import check_total_weight, survey_summary
from mpigmm.driver.worker import RankContext, open_context
from mpigmm.errors import AgreedError, CollapsedError, ConfigError, DataError, shown
from mpigmm.options import ComputeOptions, ModelOptions
from mpigmm.parallel.comm import Comm
from mpigmm.parallel.stop import StopRequest
from mpigmm.parallel.threads import single_threaded_blas
from mpigmm.runs.model import Model

FIT_AGAIN = "fit again with output.statistics: true; in the output.dir of a finished fit this takes one more E-step"
"""What the user can do about a model that does not keep statistics."""


@dataclass(frozen=True)
class UpdateSettings:
    """How rows are folded in.

    Attributes
    ----------
    forget : float
        Factor from 0 to 1 that multiplies the old statistics.
    compute : ComputeOptions
    drop : bool
        Whether rows that hold NaN or infinity are left out; otherwise they are errors.
    remedy : str
        What the user can do about such an error.
    """

    forget: float
    compute: ComputeOptions
    drop: bool = False
    remedy: str = "mend the row or leave it out"


@dataclass(frozen=True, eq=False)
class Updated:
    """A model after an update.

    Attributes
    ----------
    model : Model
    n_samples, n_dropped : int
        Rows that were folded in, and rows that were left out.
    mean_log_likelihood : float
        Of the new rows under the mixture before the update, per unit of weight.
    repairs : Repairs
        Of the M-step.
    """

    model: Model
    n_samples: int
    n_dropped: int
    mean_log_likelihood: float
    repairs: Repairs


def check_forget(name: str, forget: object) -> float:
    """The factor of old statistics, an argument of this name; raises `ConfigError` where it is not from 0 to 1."""
    if not isinstance(forget, (int, float, np.number)) or not 0 <= forget <= 1:
        raise ConfigError(f"{name} {forget!r} is not valid; a number from 0 to 1 multiplies the old statistics")
    return float(forget)


def kept_statistics(model: Model, name: str) -> KeptStatistics:
    """The statistics that the model of this name keeps; raises `DataError` where it has none."""
    if model.statistics is None:
        raise DataError(f"{name} does not keep the statistics of its rows, from which an update goes on; {FIT_AGAIN}")
    return model.statistics


def update_rows(
    comm: Comm, model: Model, source: Source, settings: UpdateSettings, devices: Devices, stop: StopRequest
) -> Updated:
    """The model with the rows of a source folded in. Collective; raises `AgreedError`.

    Parameters
    ----------
    comm
    model : Model
        The same on all ranks.
    source, settings, devices, stop
    """
    with comm.together():
        kept = kept_statistics(model, "the mixture")
        options = recorded_options(model)
        check_features(model.mixture, source)
    type(model.mixture.covariances).prepare()
    with single_threaded_blas, closing(open_update(comm, model, source, settings, devices, stop)) as context:
        summary = survey_summary(context, drop=settings.drop, remedy=settings.remedy)
        with comm.together():
            check_new_rows(summary, source.header)
        problem = update_problem(options, summary, settings.compute, context.grid)
        problem = replace(problem, update_covariances=SharedUpdate(comm))
        step = UpdateStep(problem, kept, settings.forget)
        state, mean, repairs = folded(Reduction(context), step, model)
        updated = replace(
            model,
            mixture=state.mixture,
            n_samples=model.n_samples + summary.n_samples,
            mean_log_likelihood=float("nan"),
            statistics=state.kept,
            updates=model.updates.with_rows(),
        )
        return Updated(updated, summary.n_samples, summary.n_dropped, mean, repairs)


def update_alike(comm: Comm, model: Model, source: Source, settings: UpdateSettings, stop: StopRequest) -> Updated:
    """The same for a model and settings that each rank gives. Collective; raises `AgreedError`."""
    told = comm.allgather((model.digest(), settings.forget))
    with comm.together():
        if len(set(told)) > 1:
            raise ConfigError("the ranks have different mixtures or factors; call with the same on all of them")
        if not source.header.n_rows:
            raise DataError(f"{source.header.dataset} has no rows")
    devices = choose_devices(comm, settings.compute.device)
    try:
        return update_rows(comm, model, source, settings, devices, stop)
    finally:
        devices.release()


def open_update(
    comm: Comm, model: Model, source: Source, settings: UpdateSettings, devices: Devices, stop: StopRequest
) -> RankContext:
    """A context for passes over the rows. Collective; raises `AgreedError`."""
    mixture, compute = model.mixture, settings.compute
    tile_rows = choose_tile_rows(compute, devices, source.header, type(mixture.covariances), mixture.n_components)
    layout = lay_out(comm, source, tile_rows, compute, devices)
    return open_context(comm, source, layout, devices, stop, common_ops(comm))


def update_problem(options: ModelOptions, summary: DataSummary, compute: ComputeOptions, grid: Grid) -> Problem:
    """The problem of an update with rows of this summary; empty components are not re-seeded."""
    safeguards = Safeguards(options.reg_covar, options.variance_floor, reseed=False)
    return Problem(summary, safeguards, PRIORS[options.prior](summary), np.dtype(compute.precision), grid)


def folded(reduction: Reduction, step: UpdateStep, model: Model) -> tuple[UpdateState, float, Repairs]:
    """The state after an update, the mean log-likelihood of its rows before it, and repairs. Collective; raises
    `AgreedError`."""
    state = step.start(model.mixture)
    try:
        while not isinstance(state, UpdateState):
            summed, _ = sum_e_step(reduction, step.problem, step.e_step_pass(state))
            state, report = step.update(state, summed)
        check_finite(state.mixture)
    except (SingularCovarianceError, SumRangeError) as error:
        raise AgreedError(
            f"{error}; check the new rows or, if they are in order, fit again to the old and the new ones together",
            CollapsedError,
        ) from None
    return state, report.mean_log_likelihood, report.repairs


def check_finite(mixture: Mixture) -> None:
    """Raise `SumRangeError` where a parameter of a new mixture is not finite."""
    if not all(np.isfinite(array).all() for array in mixture.arrays().values()):
        raise SumRangeError("a sum over the old and the new rows leaves the range of float64")


def check_new_rows(summary: DataSummary, header: Header) -> None:
    """Raise `DataError` where no rows are left, or they weigh too little."""
    if summary.n_dropped and not summary.n_samples:
        raise DataError(f"all {summary.n_dropped:,} rows of {shown(header.dataset)} hold NaN or infinity")
    if header.is_weighted:
        check_total_weight(summary.total_weight, header)


def recorded_options(model: Model) -> ModelOptions:
    """The options of the M-step with which a model was fitted; raises `DataError` for those that no fit has."""
    section = (model.config or {}).get("model")
    known = {**section} if isinstance(section, dict) else {}
    default = ModelOptions()
    prior = known.get("prior", default.prior)
    numbers = [known.get(name, getattr(default, name)) for name in ("reg_covar", "variance_floor")]
    are_numbers = all(isinstance(number, (int, float)) and number >= 0 for number in numbers)
    if not isinstance(prior, str) or prior not in PRIORS or not are_numbers:
        raise DataError(
            f"the model was fitted with model.prior {prior!r}, model.reg_covar {numbers[0]!r} and "
            f"model.variance_floor {numbers[1]!r}, which this installation does not know; update it where it was fitted"
        )
    return replace(default, prior=prior, reg_covar=float(numbers[0]), variance_floor=float(numbers[1]))


def recorded_precision(model: Model) -> Literal["float64", "float32"]:
    """The precision of the tiles in the fit of a model: float64 or float32."""
    section = (model.config or {}).get("compute")
    return "float32" if isinstance(section, dict) and section.get("precision") == "float32" else "float64"
