"""A fit that an estimator asks for: what each rank brings, and what all of them find."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal, NoReturn, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mpigmm.core.algorithms.initialise import GivenParameters
from mpigmm.core.mixture import Mixture
from mpigmm.data.source import Header
from mpigmm.driver.fit_rows import fit_rows
from mpigmm.driver.memory_recorder import MemoryRecorder
from mpigmm.driver.null_recorder import Outcome
from mpigmm.errors import AgreedError, CollapsedError, DataError, InputError, ParameterError
from mpigmm.estimator import parameters
from mpigmm.estimator.given_rows import LEAST_SAMPLES, Files, GivenRows
from mpigmm.options import FitOptions
from mpigmm.own_rows import Matrix
from mpigmm.parallel.comm import Comm
from mpigmm.parallel.stop import StopRequest
from mpigmm.runs.voice import Voice

T = TypeVar("T")

WORDS = {
    r" or model\.variance_floor": "",
    r"X, sample_weight and data\.missing": "X and sample_weight",
    r"set data\.missing: drop to leave such rows out": "mend the row or leave it out",
    r"\b(?:model|em|init|compute)\.(?=[a-z])": "",
}
"""Patterns in messages of a fit, and what stands for them in those of an estimator."""

FLOORED, ROUNDING = ("diag", "spherical"), 10 * float(np.finfo(np.float64).eps)
"""Types whose variances do not reach zero while scikit-learn's EM runs, because of a term of this size that it adds to
the counts. Where a component collapses, they are fitted again with variances of at least this share of the data's."""


@dataclass(frozen=True, eq=False)
class Found:
    """What a fit has found, the same on all ranks: its outcome, the header of the rows, and the features' names."""

    outcome: Outcome
    header: Header
    names: NDArray[np.object_] | None

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of the attributes: float32 if the rows are, else float64."""
        return np.dtype(np.float32 if np.dtype(self.header.dtype) == np.float32 else np.float64)


class FitTask:
    """What this rank brings to a fit, checked.

    Parameters
    ----------
    estimator : GaussianMixture
    X : matrix or files
    sample_weight : array_like of shape (n,), optional
    last : callable
        Returns the mixture of the last fit.
    statistics : bool or "auto"
        The option ``output.statistics``.

    Raises
    ------
    ParameterError, InputError
    """

    def __init__(
        self,
        estimator: Any,
        X: Matrix | Files,  # noqa: N803
        sample_weight: ArrayLike | None,
        last: Callable[[], Mixture],
        statistics: bool | Literal["auto"] = "auto",
    ) -> None:
        self.statistics = statistics
        self.name = type(estimator).__name__
        self.parameters = {name: getattr(estimator, name) for name in parameters.RULES}
        parameters.check(self.name, self.parameters)
        self.rows = GivenRows(estimator, X, sample_weight, is_fit=True)
        self.names: NDArray[np.object_] | None = getattr(estimator, "feature_names_in_", None)
        self.start: GivenParameters | None = None
        if self.parameters["warm_start"] and hasattr(estimator, "converged_"):
            mixture = last()
            mixture.release()  # of the ranks, all but the first compute the factors again
            last_bound = float([estimator.lower_bound_, *estimator.lower_bounds_][-1])
            objective = last_bound if np.isfinite(last_bound) else None
            self.start = GivenParameters(mixture.weights, mixture.means, mixture.covariances, objective)

    def compared(self) -> dict[str, Any]:
        """What must be the same on all ranks, by name."""
        start = {} if self.start is None or self.start.mixture is None else self.start.mixture.arrays()
        return {**self.parameters, "X": self.rows.data, **{f"{name}_": array for name, array in start.items()}}

    def first(self, header: Header) -> GivenParameters:
        """What is known of the first mixture of rows with this header; raises `InputError`, `ParameterError`."""
        if self.start is None or self.start.mixture is None:
            return parameters.given_parameters(self.parameters, header.n_features)
        last, wanted = self.start.mixture, self.parameters["n_components"]
        if last.n_components != wanted:
            raise ParameterError(
                f"warm_start: the last fit had n_components={last.n_components}, but now it is {wanted}; set "
                "warm_start=False to begin anew"
            )
        if last.n_features != header.n_features:
            raise InputError(
                f"warm_start: the last fit had {last.n_features} features, but X has {header.n_features}; set "
                "warm_start=False to begin anew"
            )
        return self.start

    def check_size(self, header: Header) -> None:
        """Raise `InputError` where all ranks together have too few rows."""
        n_rows, k = header.n_rows, self.parameters["n_components"]
        if n_rows < LEAST_SAMPLES:
            raise InputError(
                f"Found array with {n_rows} sample(s) (shape={(n_rows, header.n_features)}) while a minimum of "
                f"{LEAST_SAMPLES} is required by {self.name}."
            )
        if n_rows < k:
            raise InputError(f"Expected n_samples >= n_components but got n_components = {k}, n_samples = {n_rows}")


def run(comm: Comm, begun: Callable[[], FitTask], voice: Voice, stop: StopRequest) -> Found:
    """Fit. Collective; raises `AgreedError`.

    Parameters
    ----------
    comm : Comm
    begun : callable
        Returns the task of this rank, or raises the error that arose when it was made.
    voice : Voice
        Told of the fit on root.
    stop : StopRequest
    """
    seed, given = None, GivenParameters()
    with comm.together():
        task = begun()
        if comm.is_root:
            seed = parameters.drawn_seed(task.parameters["random_state"])
    parameters.check_same_parameters(comm, task.compared())
    source = task.rows.open(comm)
    with comm.together():
        task.check_size(source.header)
        given = task.first(source.header)
    names = common_names(comm, task)
    n_init = 1 if task.start else int(task.parameters["n_init"])
    options = parameters.options_of(
        task.parameters,
        task.rows.data,
        comm.bcast(seed),
        n_init=n_init,
        screening=given.is_empty,
        statistics=task.statistics,
    )

    def fit(options: FitOptions) -> Outcome:
        recorder = fit_rows(comm, options, source, lambda: MemoryRecorder(options, source.header, voice, given), stop)
        return comm.bcast(recorder.outcome)

    try:
        return Found(fit(options), source.header, names)
    except AgreedError as error:
        if error.kind is not CollapsedError or options.model.covariance_type not in FLOORED:
            raise
    model = replace(options.model, variance_floor=ROUNDING)
    return Found(fit(replace(options, model=model)), source.header, names)


def common_names(comm: Comm, task: FitTask) -> NDArray[np.object_] | None:
    """The names of the features on all ranks that have rows. Collective; raises `AgreedError` where they differ."""
    told = comm.allgather(None if task.rows.is_empty else (task.names,))
    names = [each[0] for each in told if each is not None]
    with comm.together():
        if any(not np.array_equal(each, names[0]) for each in names):  # type: ignore[arg-type]
            raise DataError("the columns of X have other names on some ranks than on others, or another order")
    return names[0] if names else None


def prepared(comm: object, work: Callable[[], T]) -> Callable[[], T]:
    """A function that returns the result of work(), which is done at once, or raises its error.

    The work is done in the thread of the caller, for which scikit-learn keeps a configuration. An error of a process
    that is alone is raised at once; one of a rank among others is raised where all of them can learn of it.
    """
    try:
        result = work()
    except Exception as error:
        if comm is None:
            raise
        return partial(fail, error)
    return lambda: result


def fail(error: Exception) -> NoReturn:
    """Raise an error."""
    raise error


def in_words_of_estimators(message: str) -> str:
    """A message in which options are parameters of an estimator."""
    for pattern, word in WORDS.items():
        message = re.sub(pattern, word, message)
    return message
