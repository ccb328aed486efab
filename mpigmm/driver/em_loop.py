"""The EM loop: threads sweep tiles, one reduction joins the ranks, every rank takes the same M-step."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from mpigmm.core.backend import DOUBLE, HOST, Array, Backend, DeviceMemoryError
from mpigmm.core.covariance import SingularCovarianceError
from mpigmm.core.em import EStep, Repairs, Safeguards, check_log_likelihood, m_step
from mpigmm.core.exact import ExactSum, FixedPoint, FloatArray, IntArray
from mpigmm.core.mixture import Mixture, safe_centre
from mpigmm.core.precision import Precision, choose_precision, finer_precision
from mpigmm.core.statistics import Moments, refined_limbs, statistics_format
from mpigmm.core.survey import Survey
from mpigmm.core.tile import Tile
from mpigmm.data.block import keep_freed_memory
from mpigmm.driver.worker import Team, Tiles
from mpigmm.errors import EXIT_FAULT, AgreedError, DegenerateError
from mpigmm.options import EmOptions
from mpigmm.runs.checkpoint import Progress

CLOCKS = FixedPoint(np.full(3, 60, np.int32), 3)
"""Format of the sums over ranks of compute seconds, their squares, and read seconds."""

N_FLAGS = 5
N_CLOCKS = CLOCKS.n_limbs * CLOCKS.top.size
Record = Callable[[Progress, dict[str, Any], Repairs], None]


@dataclass
class Clock:
    """Seconds spent so far by this rank, by what they were spent on."""

    read: float = 0.0
    compute: float = 0.0
    communicate: float = 0.0


@dataclass(frozen=True)
class Reduced:
    """What one reduction brought, the same on every rank.

    Attributes
    ----------
    moments : Moments
        Of all rows.
    dtype : dtype
        Of the tiles that they come from.
    n_limbs : int
        Of the sums.
    compute, read : float
        Mean seconds a rank.
    imbalance : float
        Standard deviation over mean of the ranks' compute seconds.
    communicate : float
        Seconds of this rank in the reduction, waiting included.
    is_last : bool
        Whether a rank has found that there is no time for another iteration.
    """

    moments: Moments
    dtype: np.dtype[Any]
    n_limbs: int
    compute: float
    read: float
    imbalance: float
    communicate: float
    is_last: bool


class Loop:
    """EM from one mixture to the next.

    Parameters
    ----------
    team : Team
    survey : Survey
    safeguards : Safeguards
    precision : str
        float32 or float64: of the tiles, where the mixture leaves the digits for it.
    is_spent : callable
        Asked on this rank before each reduction: is there no time for another iteration?
    say : callable
        Called with what the user should know, on all ranks alike.
    """

    def __init__(
        self,
        team: Team,
        survey: Survey,
        safeguards: Safeguards,
        precision: str,
        is_spent: Callable[[], bool] = lambda: False,
        say: Callable[[str], None] = lambda text: None,
    ) -> None:
        self.team = team
        self.survey = survey
        self.safeguards = safeguards
        self.precision = np.dtype(precision)
        self.is_spent = is_spent
        self.say = say
        self.clock = Clock()
        self._error: Exception | None = None
        self._no_room: DeviceMemoryError | None = None
        keep_freed_memory()

    def run(self, progress: Progress, em: EmOptions, record: Record) -> Progress:
        """Iterate until `em` says stop; returns the last `Progress`. Collective.

        Parameters
        ----------
        progress : Progress
            Where to go on, with a mixture.
        em : EmOptions
        record : callable
            Called after every iteration with its progress, log line and repairs, on this rank alone; an error that it
            raises ends all ranks at the next reduction.
        """
        begin, is_last = time.perf_counter(), False
        while goes_on(progress.iteration, progress.change, em):
            assert progress.mixture is not None
            if is_last:
                self.team.comm.agree(self._error or self.team.stop.out_of_time())
            reduced, mixture, repairs = self.advance(progress.mixture, progress.iteration + 1)
            progress.mixture.release()  # a caller may hold it until the loop ends
            mean = float(reduced.moments.log_likelihood[0]) / self.survey.total_weight
            change = None if progress.mean_log_likelihood is None else mean - progress.mean_log_likelihood
            progress = replace(
                progress,
                iteration=progress.iteration + 1,
                mixture=mixture,
                mean_log_likelihood=mean,
                change=None if repairs else change,
            )
            seconds, begin = time.perf_counter() - begin, time.perf_counter()
            line = log_line(progress, change, repairs, reduced, seconds)
            self._note(lambda p=progress, text=line, made=repairs: record(p, text, made))  # type: ignore[misc]
            is_last = reduced.is_last
        self.team.comm.agree(self._error)
        return progress

    def mean_log_likelihood(self, mixture: Mixture) -> float:
        """Of a mixture over all rows, per unit of weight. Collective."""
        precision = choose_precision(self.precision, mixture, self._survey(mixture))
        return float(self.expect(mixture, precision).moments.log_likelihood[0]) / self.survey.total_weight

    def advance(self, mixture: Mixture, iteration: int) -> tuple[Reduced, Mixture, Repairs]:
        """One iteration: what its reduction brought, and the new mixture. Collective.

        Where float32 turns out to leave too few digits for the new mixture, it is taken again in finer precision.
        """
        precision: Precision | None = choose_precision(self.precision, mixture, self._survey(mixture))
        while precision is not None:
            used = precision
            try:
                reduced, new, repairs = self._resolved(mixture, used, iteration)
                precision = finer_precision(used, mixture, new, reduced.moments, self.survey)
            except AgreedError:
                if used.dtype == DOUBLE:
                    raise
                precision = Precision.of(DOUBLE, used.exact)
        return reduced, new, repairs

    def _survey(self, mixture: Mixture) -> Survey:
        """The survey, with a centre that is safe for a mixture."""
        return replace(self.survey, centre=safe_centre(mixture, self.survey.centre))

    def _resolved(self, mixture: Mixture, precision: Precision, iteration: int) -> tuple[Reduced, Mixture, Repairs]:
        """An E-step and an M-step, again with finer sums where these turn out too coarse for the new mixture.
        Collective."""
        n_limbs = None
        while True:
            reduced = self.expect(mixture, precision, n_limbs)
            new, repairs = self.maximise(mixture, reduced.moments)
            n_limbs = refined_limbs(reduced.n_limbs, mixture, new, reduced.moments.counts, self.survey)
            if n_limbs == reduced.n_limbs:
                factor(new, iteration)
                return reduced, new, repairs

    def expect(self, mixture: Mixture, precision: Precision, n_limbs: int | None = None) -> Reduced:
        """The E-step over all rows: this rank's tiles, then the one reduction. Collective."""
        try:
            form = statistics_format(mixture, self.survey, n_limbs)
        except OverflowError as error:
            remedy = "raise model.reg_covar or model.variance_floor, rescale the data, or choose another init.file"
            message = f"{error}; {remedy}"
            raise AgreedError(message, DegenerateError.exit_code) from None
        while True:
            clock = Clock()
            begin, read = time.perf_counter(), self.team.block.seconds_read
            packed = self._own_sums(form, mixture, precision)
            clock.read = self.team.block.seconds_read - read
            clock.compute = time.perf_counter() - begin - clock.read
            begin = time.perf_counter()
            packed = self._reduced(packed, self._tail(mixture, clock))
            clock.communicate = time.perf_counter() - begin
            self._spend(clock)
            if not self._is_short(packed):
                return self._unpack(packed, form, mixture, precision.dtype, clock.communicate)

    def maximise(self, mixture: Mixture, moments: Moments) -> tuple[Mixture, Repairs]:
        """The M-step, identical on all ranks."""
        return m_step(mixture, moments, self.survey, self.safeguards)

    def _own_sums(self, form: FixedPoint, mixture: Mixture, precision: Precision) -> Array:
        """The reduction's buffer with the statistics of this rank's tiles, where MPI is to sum it; zero after an error.

        An error of the GPU for lack of memory is kept apart: less may be staged, and the iteration done again.
        """
        self._no_room = None
        with self.team.guarded():
            packed = empty_buffer(form, self.team.summing_backend)  # ahead of what may take all room
        if self._error is None:
            try:
                with self.team.guarded():
                    self._sum_own(packed, form, mixture, precision)
                return packed
            except DeviceMemoryError as error:
                self._no_room = DeviceMemoryError(str(error))  # without the frames, and what they hold of the GPU
            except Exception as error:
                self._error = error
            with self.team.guarded():
                packed[:] = 0
        return packed

    def _sum_own(self, packed: Array, form: FixedPoint, mixture: Mixture, precision: Precision) -> None:
        """Fill the buffer, by way of one of the engine's if it is not."""
        backend = self.team.engine.backend
        own = packed if backend is self.team.summing_backend else empty_buffer(form, backend)
        self._add_own(form, own[: form.n_limbs * form.top.size].reshape(form.n_limbs, -1), mixture, precision)
        if own is not packed:
            packed[:] = backend.get(own)
        backend.synchronize()

    def _reduced(self, packed: Array, tail: IntArray) -> IntArray:
        """The one reduction, of a buffer with this tail, on the host or on a GPU."""
        backend = self.team.summing_backend
        with self.team.guarded():
            packed[-tail.size :] = backend.put(tail)
            backend.synchronize()
        self.team.comm.sum(packed)
        with self.team.guarded():
            return backend.get(packed)

    def _add_own(self, form: FixedPoint, total: IntArray, mixture: Mixture, precision: Precision) -> None:
        """Add the statistics of this rank's tiles to total, which is zero: one thread does so at once."""
        engine = self.team.engine
        survey, dtype = self._survey(mixture), precision.dtype
        e_step = EStep(mixture, survey.centre, survey.reach, dtype, engine, precision.exact)
        centre = engine.backend.put(survey.centre)
        _ = form.quanta  # once, and not by every thread
        room = iter([total])

        def visit(tile: Tile, tiles: Tiles) -> tuple[ExactSum, FloatArray]:
            statistics, moments = ExactSum(form, next(room, None)), Moments.empty(mixture, engine.backend)
            seen = engine.backend.zeros(1, DOUBLE)
            for _, rows, weights in tiles:
                tile.fill(rows, weights, centre, mask=survey.masked, dtype=dtype)
                e_step(tile, moments)
                seen += moments.log_likelihood
                statistics.add(moments.flat, engine)
            return statistics, seen

        for statistics, seen in self.team.sweep_engine(visit):
            check_log_likelihood(engine.backend.get(seen))
            engine.carry(statistics.limbs)
            if statistics.limbs is not total:
                total += statistics.limbs
        engine.carry(total)

    def _tail(self, mixture: Mixture, clock: Clock) -> IntArray:
        """What the reduction carries besides the statistics: flags, checksums, clocks."""
        tail = np.zeros(N_FLAGS + N_CLOCKS, np.int64)
        checksum = mixture.checksum()
        tail[:N_FLAGS] = (
            self._error is not None,
            self.is_spent(),
            self._no_room is not None,
            checksum,
            checksum**2,
        )
        seconds = np.array([clock.compute, clock.compute**2, clock.read])
        CLOCKS.add(tail[N_FLAGS:].reshape(CLOCKS.n_limbs, -1), seconds)
        return tail

    def _is_short(self, packed: IntArray) -> bool:
        """Whether some GPU had no room for what was staged; all ranks stage less from then on.

        Raises `AgreedError` where none can.
        """
        failed, _, short = packed[-N_FLAGS - N_CLOCKS :][:3]
        if failed or not short:
            return False
        if not self.team.can_stage_less:
            self.team.comm.agree(self._no_room)
        self.say(f"a GPU is out of memory: from here on {self.team.stage_less()}")
        return True

    def _unpack(
        self,
        packed: IntArray,
        form: FixedPoint,
        mixture: Mixture,
        dtype: np.dtype[Any],
        communicate: float,
    ) -> Reduced:
        size = self.team.comm.size
        n_limbs = form.n_limbs * form.top.size
        failed, spent, _, checksums, squares = (int(value) for value in packed[n_limbs : n_limbs + N_FLAGS])
        if failed:
            self.team.comm.agree(self._error)
        if size * squares != checksums**2:
            raise AgreedError(
                "ranks hold different parameters, so that their sums mean nothing: run on nodes with one type of "
                "processor and the same libraries, and go on from the last checkpoint",
                EXIT_FAULT,
            )
        compute, square, read = CLOCKS.value(packed[n_limbs + N_FLAGS :].reshape(CLOCKS.n_limbs, -1)) / size
        spread = float(np.sqrt(max(square - compute**2, 0.0)))
        moments = Moments.of(form.value(packed[:n_limbs].reshape(form.n_limbs, -1)), mixture)
        imbalance = spread / compute if compute else 0.0
        return Reduced(moments, dtype, form.n_limbs, float(compute), float(read), imbalance, communicate, spent > 0)

    def _note(self, work: Callable[[], None]) -> None:
        """Do local work; an error waits for the next reduction, which carries its flag to all ranks."""
        try:
            work()
        except Exception as error:
            self._error = error

    def _spend(self, clock: Clock) -> None:
        self.clock.read += clock.read
        self.clock.compute += clock.compute
        self.clock.communicate += clock.communicate


def factor(mixture: Mixture, iteration: int) -> None:
    """Factor the covariances of an iteration's new mixture, on all ranks alike; raises `AgreedError`."""
    try:
        _ = mixture.precisions_cholesky
    except SingularCovarianceError as error:
        message = (
            f"{error} after iteration {iteration}; raise model.reg_covar or model.variance_floor, or lower "
            "model.n_components"
        )
        raise AgreedError(message, DegenerateError.exit_code) from None


def empty_buffer(form: FixedPoint, backend: Backend = HOST) -> Array:
    """Room for what one reduction carries: statistics, flags, clocks."""
    return backend.zeros(form.n_limbs * form.top.size + N_FLAGS + N_CLOCKS, np.dtype(np.int64))


def goes_on(iteration: int, change: float | None, em: EmOptions) -> bool:
    """Whether a start at this iteration, whose last one brought this change, takes another."""
    return iteration < em.max_iter and not converged(change, em)


def converged(change: float | None, em: EmOptions) -> bool:
    """Whether the last iteration changed the mean log-likelihood by less than the tolerance."""
    return change is not None and abs(change) < em.tol


def log_line(
    progress: Progress, change: float | None, repairs: Repairs, reduced: Reduced, seconds: float
) -> dict[str, Any]:
    """A line of ``convergence.jsonl``; its log-likelihood is that of the mixture which entered the iteration."""
    return {
        "init": progress.init,
        "iteration": progress.iteration,
        "mean_log_likelihood": progress.mean_log_likelihood,
        "change": change,
        "seconds": seconds,
        "seconds_read": reduced.read,
        "seconds_compute": reduced.compute,
        "seconds_communicate": reduced.communicate,
        "imbalance": reduced.imbalance,
        "floored": len(repairs.floored),
        "reseeded": len(repairs.reseeded),
        "precision_bits": 8 * reduced.dtype.itemsize,
    }
