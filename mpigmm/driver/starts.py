"""The starts of a fit, each from its own first mixture; the result with the largest log-likelihood is kept."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial

from mpigmm.core.algorithms.base import Problem
from mpigmm.core.algorithms.initialise import NOTHING_GIVEN, GivenParameters, initialise
from mpigmm.core.algorithms.responsibilities import ProgressCallback
from mpigmm.core.algorithms.screening import Screening
from mpigmm.core.covariances import COVARIANCE_TYPES
from mpigmm.core.covariances.base import SingularCovarianceError
from mpigmm.core.mixture import Mixture
from mpigmm.core.ops.base import Ops
from mpigmm.driver.distributed_kmeans import distributed_mixture, is_distributed
from mpigmm.driver.e_step import Fit
from mpigmm.driver.em_loop import EmLoop
from mpigmm.driver.label_pass import LABEL_PASSES, labelled_mixture
from mpigmm.driver.null_recorder import NullRecorder
from mpigmm.driver.stopping import keeps_statistics, lacks_statistics
from mpigmm.driver.survey_pass import Sample
from mpigmm.errors import DegenerateError
from mpigmm.options import FitOptions
from mpigmm.parallel.comm import Comm
from mpigmm.runs.state import Ended, Fitted, Progress


class Starts:
    """The first mixtures of all starts: root or, with many components, all ranks make them from a sample of the rows,
    all ranks make them from starting labels, or a file holds them.

    Parameters
    ----------
    options : FitOptions
    from_file : Mixture or None
        The mixture of ``init.file``.
    given : GivenParameters
        Parameters that the caller gives; where these are all, they are the first mixture.
    sample : tuple of ndarrays
        On root, rows and their weights; freed once the last start has begun.
    report : callable
        Called with the number of the start and the arguments with which `initialise` reports its progress.
    """

    def __init__(
        self,
        options: FitOptions,
        from_file: Mixture | None,
        given: GivenParameters,
        sample: Sample,
        report: Callable[[int, str, int, int], None],
    ) -> None:
        self.options = options
        self.from_file = from_file
        self.given = given
        self.sample: Sample | None = sample
        self.report = report

    def first_mixture(self, loop: EmLoop, init: int) -> tuple[Mixture, int]:
        """The first mixture of start number init, and the number of rows that it took. Collective; raises
        `AgreedError`."""
        comm, mixture, rows_seen = loop.context.comm, self.from_file or self.given.mixture, 0
        if mixture is None and self.options.init.method == "labels":
            mixture, rows_seen = self._of_labels(loop, init)
        if mixture is None and is_distributed(self.options, self.given):
            mixture, rows_seen = self._distributed(loop, init)
        with comm.together():
            if comm.is_root and self.from_file is None:
                if mixture is None:
                    mixture, rows_seen = self._initialised(loop, init)
                check_factors(mixture)
        self.release_sample(init)
        return comm.bcast(None if mixture is None else (mixture, rows_seen))

    def _of_labels(self, loop: EmLoop, init: int) -> tuple[Mixture, int]:
        model = self.options.model
        kind = COVARIANCE_TYPES[model.covariance_type]
        report = partial(self.report, init)
        mixture = labelled_mixture(loop.reduction, loop.problem, kind, model.n_components, report)
        return self.given.applied(mixture), LABEL_PASSES * loop.problem.grid.n_rows

    def _distributed(self, loop: EmLoop, init: int) -> tuple[Mixture | None, int]:
        assert self.sample is not None
        report = partial(self.report, init)
        mixture = distributed_mixture(loop.reduction, self.options, loop.problem, self.sample, init, report, self.given)
        return mixture, len(self.sample[0])

    def _initialised(self, loop: EmLoop, init: int) -> tuple[Mixture, int]:
        assert self.sample is not None

        def step(name: str, done: int, most: int) -> None:
            loop.context.stop.check()
            self.report(init, name, done, most)

        return mixture_of_sample(self.options, self.sample, loop.problem, init, loop.context.host_ops, step, self.given)

    def release_sample(self, init: int) -> None:
        """Free the sample if start number init, which has its first mixture now, is the last."""
        if init + 1 == self.options.n_starts:
            self.sample = None


def mixture_of_sample(
    options: FitOptions,
    sample: Sample,
    problem: Problem,
    init: int,
    ops: Ops,
    progress: ProgressCallback,
    given: GivenParameters = NOTHING_GIVEN,
) -> tuple[Mixture, int]:
    """The first mixture of start number init from a sample of the rows, and the number of rows that it took.

    Short runs use the array operations `ops` of the host.
    """
    method, model, kind = options.init.method, options.model, COVARIANCE_TYPES[options.model.covariance_type]
    if options.is_screened and given.is_empty:
        return Screening(problem, kind, model.n_components, options.init.n_init, sample, ops, progress).start()
    summary, safeguards, seed = problem.summary, problem.safeguards, (problem.seed, init)
    mixture = initialise(method, kind, model.n_components, sample, summary, safeguards, seed, progress, given)
    return mixture, len(sample[0])


def fit_starts(
    loop: EmLoop, options: FitOptions, progress: Progress, starts: Starts, recorder: NullRecorder
) -> Fit[Progress]:
    """Run all starts that are not complete; returns the finished progress with the best of them. Collective."""
    comm, algorithm = loop.context.comm, loop.algorithm
    while not progress.finished:
        if progress.state is None:
            first, rows_seen = starts.first_mixture(loop, progress.init)
            state = algorithm.initialised(algorithm.start(first, starts.given.objective), rows_seen)
            progress = replace(progress, state=state, rows_seen=rows_seen)
            save(comm, recorder, progress)
        else:
            starts.release_sample(progress.init)
        progress = yield from loop.run(progress, options.em, recorder.record)
        mixture = algorithm.mixture(progress.state)
        found = yield from loop.evaluate(mixture, keep=keeps_statistics(mixture, options))
        ended = Ended(
            progress.init,
            progress.iteration,
            found.mean_log_likelihood,
            found.objective,
            algorithm.changes(progress.state, progress.changes),
            loop.has_converged(progress, options.em),
            progress.e_steps,
            progress.rows_seen / loop.problem.grid.n_rows,
        )
        progress = with_ended(progress, Fitted(mixture, ended, found.statistics))
        if progress.init + 1 == options.n_starts:
            return replace(progress, finished=True)
        progress = Progress(init=progress.init + 1, ended=progress.ended, best=progress.best)
        save(comm, recorder, progress)
    return (yield from with_statistics(loop, options, progress))


def with_statistics(loop: EmLoop, options: FitOptions, progress: Progress) -> Fit[Progress]:
    """The progress of a finished fit, with the statistics of its best mixture if they are to be kept. Collective.

    They are missing where the fit was finished under other options.
    """
    best = progress.best
    assert best is not None
    if not lacks_statistics(best, options):
        return progress
    found = yield from loop.evaluate(best.mixture, keep=True)
    return replace(progress, best=replace(best, statistics=found.statistics))


def save(comm: Comm, recorder: NullRecorder, progress: Progress) -> None:
    """Write a checkpoint. Collective."""
    with comm.together():
        recorder.save(progress)


def with_ended(progress: Progress, fitted: Fitted) -> Progress:
    """Progress with the result of the current start, which becomes the best if its objective is the largest."""
    best = progress.best
    if best is None or fitted.ended.objective > best.ended.objective:
        best = fitted
    return replace(progress, ended=(*progress.ended, fitted.ended), best=best)


def check_factors(mixture: Mixture) -> None:
    """Raise `DegenerateError` where a covariance of a first mixture cannot be factored."""
    try:
        _ = mixture.covariances.factors
    except SingularCovarianceError as error:
        raise DegenerateError(
            f"{error} at the start; raise model.reg_covar or model.variance_floor, or lower model.n_components"
        ) from None
