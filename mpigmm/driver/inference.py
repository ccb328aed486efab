"""What a mixture says of the rows of a source: posteriors on one process, sums over all ranks."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mpigmm.core.arrays import Indices
from mpigmm.core.conditional import Conditional
from mpigmm.core.covariances.base import Covariances, SingularCovarianceError
from mpigmm.core.exact import FloatArray
from mpigmm.core.mixture import Mixture
from mpigmm.data.source import Source
from mpigmm.driver.criteria import criteria
from mpigmm.driver.posteriors import ScoreTask, for_each_posterior, open_stream
from mpigmm.driver.scoring import Score, summed_scores
from mpigmm.driver.survey_pass import check_total_weight, first_centre
from mpigmm.driver.worker import RankContext
from mpigmm.errors import ConfigError, DataError, DegenerateError, counted
from mpigmm.parallel.comm import Comm
from mpigmm.parallel.stop import StopRequest
from mpigmm.parallel.threads import single_threaded_blas
from mpigmm.rows import Rows

OfTile = Callable[[FloatArray, FloatArray], NDArray[Any]]
"""Called with the responsibilities (K, m) and log-densities (m,) of m rows; returns an array (m, ...)."""


def collect(
    comm: Comm,
    mixture: Mixture,
    source: Source,
    stop: StopRequest,
    of_tile: OfTile,
    shape: tuple[int, ...],
    dtype: np.dtype[Any],
) -> NDArray[Any]:
    """An array (n, *shape) of what of_tile computes for the rows of a source, with -1 for the number of components.

    For a process alone.
    """
    shape = tuple(mixture.n_components if size < 0 else size for size in shape)
    found = np.empty((source.header.n_rows, *shape), dtype)

    def keep(rows: Rows, resp: FloatArray, log_density: FloatArray) -> None:
        found[rows.first : rows.first + len(rows)] = of_tile(resp, log_density)

    if source.header.n_rows:
        with streamed(comm, mixture, source, stop) as (context, task):
            for_each_posterior(context, task, lambda: keep)
    return found


def condition_all(
    comm: Comm, conditional: Conditional, source: Source, stop: StopRequest
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Mean (n, R) and covariance (n, R, R) of the remaining features for n rows of given ones, and log-densities (n,).

    For a process alone.
    """
    n_rows, n_remaining = source.header.n_rows, conditional.n_remaining
    mean, covariance = np.empty((n_rows, n_remaining)), np.empty((n_rows, n_remaining, n_remaining))
    log_densities = np.empty(n_rows)

    def keep(rows: Rows, resp: FloatArray, log_density: FloatArray) -> None:
        log_densities[rows.first : rows.first + len(rows)] = log_density
        for block, *moments in conditional.moments(rows.values, resp):
            part = slice(rows.first + block.start, rows.first + block.stop)
            mean[part], covariance[part] = moments

    if n_rows:
        with streamed(comm, conditional.marginal, source, stop) as (context, task):
            for_each_posterior(context, task, lambda: keep)
    return mean, covariance, log_densities


def score_all(comm: Comm, mixture: Mixture, source: Source, stop: StopRequest, *, with_entropy: bool = False) -> Score:
    """The sums over the rows of all ranks. Collective; raises `AgreedError`."""
    digests = comm.allgather(mixture.digest())
    with comm.together():
        if len(set(digests)) > 1:
            raise ConfigError("the ranks have different mixtures; call with the same on all of them")
        if not source.header.n_rows:
            raise DataError(f"{source.header.dataset} has no rows")
    with streamed(comm, mixture, source, stop) as (context, task):
        found = summed_scores(context, task, with_entropy=with_entropy)
    with comm.together():
        check_total_weight(found.total_weight, source.header)
    return found


def criteria_of(mixture: Mixture, sums: Score) -> dict[str, float]:
    """Information criteria from the sums over rows: `aic`, `bic`, and `icl`, which is `bic` plus twice the entropy."""
    found = criteria(mixture, sums.log_likelihood, sums.total_weight)
    return {**found, "icl": found["bic"] + 2 * sums.entropy}


@contextmanager
def streamed(
    comm: Comm, mixture: Mixture, source: Source, stop: StopRequest
) -> Iterator[tuple[RankContext, ScoreTask]]:
    """A context for one pass over the rows of a source. Collective; raises `AgreedError`."""
    with comm.together():
        check_features(mixture, source)
    with factored(mixture.covariances):
        task = ScoreTask(mixture, source.header, first_centre(comm, source))
        with closing(open_stream(comm, source, task, stop)) as context:
            yield context, task


def check_features(mixture: Mixture, source: Source) -> None:
    """Raise `DataError` where rows have another number of features than the mixture."""
    header = source.header
    if header.n_features != mixture.n_features:
        raise DataError(
            f"{header.dataset} has {counted(header.n_features, 'feature')}, but the mixture has {mixture.n_features}"
        )


def conditional_of(mixture: Mixture, given: Indices) -> Conditional:
    """The distribution of a mixture's other features given some; raises `DegenerateError`."""
    with definite():
        conditional = Conditional.of(mixture, given)
        _ = conditional.marginal.covariances.factors
    return conditional


@contextmanager
def definite() -> Iterator[None]:
    """A context for work with covariances of a mixture; raises `DegenerateError` where one is singular but for rounding
    errors."""
    try:
        yield
    except SingularCovarianceError as error:
        raise DegenerateError(
            f"{error} if its features are taken in another order: it is nearly singular; leave out a feature that "
            "others determine, or fit with a larger model.reg_covar"
        ) from None


@contextmanager
def factored(covariances: Covariances | type[Covariances]) -> Iterator[None]:
    """A context in which BLAS uses one thread, so that its results do not depend on the number of threads."""
    covariances.prepare()
    with single_threaded_blas:
        yield
