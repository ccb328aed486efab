"""Rows drawn from a mixture, by all threads of all ranks."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
from numpy.typing import NDArray

from mpigmm.core.arrays import Indices
from mpigmm.core.draw import BLOCK_ROWS, draw_rows
from mpigmm.core.exact import ExactSum, FloatArray, carry
from mpigmm.core.matrices import lapack
from mpigmm.core.mixture import Mixture
from mpigmm.core.moments import GOOD_ERROR, WANTED_ERROR, MomentMatching, Moments, MomentsError, row_sums
from mpigmm.driver.inference import factored
from mpigmm.errors import AgreedError, DataError, counted
from mpigmm.parallel.comm import Comm
from mpigmm.parallel.partition import count_tiles, own_tiles
from mpigmm.parallel.stop import StopRequest
from mpigmm.parallel.threads import Workers, count_threads

PART_VALUES = 1 << 15
"""Values of a part of a sample, few enough for the cache, unless one block of rows has more."""

MOST_MAPS = 4
"""Largest number of maps of a `MomentMatching`."""

PartFunction = Callable[[int, FloatArray, Indices], None]
"""Called for each part with the number of its first row, its rows (n, D) and their components (n,)."""

Step = Callable[[], None]
"""Called after each part."""


@dataclass(frozen=True, eq=False)
class Sample:
    """Random rows of a mixture, and the components that they come from; the same on all ranks.

    Attributes
    ----------
    mixture : Mixture
    n_rows : int
    seed : int
    matching : MomentMatching or None
        Applied to the rows that `draw_rows` draws.
    """

    mixture: Mixture
    n_rows: int
    seed: int
    matching: MomentMatching | None = None

    @property
    def part_rows(self) -> int:
        """Number of rows of each part but the last: a multiple of `BLOCK_ROWS` that depends on D alone."""
        return BLOCK_ROWS * max(1, PART_VALUES // (BLOCK_ROWS * self.mixture.n_features))

    @property
    def n_parts(self) -> int:
        return count_tiles(self.n_rows, self.part_rows)

    def draw(self, part: int) -> tuple[int, FloatArray, Indices]:
        """Number of the first row of a part, its rows (n, D) and their components (n,)."""
        first = part * self.part_rows
        rows, components = draw_rows(self.mixture, self.seed, first, min(self.n_rows, first + self.part_rows))
        return first, rows if self.matching is None else self.matching(rows), components


class Sampler:
    """Draws this rank's parts of a sample; use `open_sampler`.

    Parameters
    ----------
    comm : Comm
    sample : Sample
    stop : StopRequest
        Checked before each part.
    workers : Workers
    """

    def __init__(self, comm: Comm, sample: Sample, stop: StopRequest, workers: Workers) -> None:
        self.sample = sample
        self._comm, self._stop, self._workers = comm, stop, workers

    def for_each_part(
        self,
        new_function: Callable[[], PartFunction],
        step: Step = lambda: None,
        is_done: Callable[[int], bool] = lambda part: False,
    ) -> None:
        """Draw each part of this rank and pass it to a function, one function for each thread.

        Parameters
        ----------
        new_function : callable
            Returns the function of a thread.
        step : callable
        is_done : callable
            Whether to leave out the part with this number.
        """
        own = own_tiles(self.sample.n_parts, self._comm.rank, [1] * self._comm.size)
        left = [part for part in own if not is_done(part)]
        self._stop.pace.begin(len(left))
        _ = self.sample.mixture.covariances.factors  # computed here once, and not by every thread

        def share(worker: int) -> None:
            function = new_function()
            for part in left[worker :: self._workers.n_threads]:
                self._stop.check()
                function(*self.sample.draw(part))
                self._stop.pace.step()
                step()

        self._workers.run(share)

    def match_moments(self, new_step: Callable[[str], Step]) -> float:
        """Give the sample the mean and covariance of its mixture. Collective; raises `AgreedError`.

        Returns the error that is left, in standard deviations. It and the rows are the same on any number of ranks and
        threads.

        Parameters
        ----------
        new_step : callable
            Returns what is called after each part of a pass, given the name of the pass.
        """
        matching = self._from_root(partial(MomentMatching.to, self.sample.mixture))
        found, error = self._moments(matching, new_step("moments, pass 1,")), np.inf
        for n_passes in range(2, MOST_MAPS + 2):
            longer = self._from_root(partial(matching.followed_by_map, found))
            found = self._moments(longer, new_step(f"moments, pass {n_passes},"))
            if not longer.error(found) < error:
                break
            matching, error = longer, longer.error(found)
            if error <= GOOD_ERROR:
                break
        if error > max(WANTED_ERROR, matching.rounding):
            raise AgreedError(self._text("the covariance of the rows is nearly singular"), DataError)
        self.sample = replace(self.sample, matching=matching)
        return error

    def _from_root(self, work: Callable[[], MomentMatching]) -> MomentMatching:
        """What work() returns on root, on every rank. Collective; raises `AgreedError`."""
        matching = None
        with self._comm.together():
            try:
                matching = work() if self._comm.is_root else None
            except MomentsError as error:
                raise DataError(self._text(str(error))) from None
        return self._comm.bcast(matching)

    def _moments(self, matching: MomentMatching, step: Step) -> Moments:
        """The moments, in units, that the rows of all ranks have after a matching. Collective; raises `AgreedError`."""
        self.sample = replace(self.sample, matching=matching)
        form = matching.sum_format(self.sample.n_rows)
        total, sums = form.zeros(), list[ExactSum]()

        def new_function() -> PartFunction:
            own = ExactSum(form)
            sums.append(own)
            return lambda first, rows, components: own.add(row_sums(matching.in_units(rows)))

        with self._comm.together():
            _ = form.quanta  # computed here once, and not by every thread
            self.for_each_part(new_function, step)
            for own in sums:
                total += carry(own.limbs)
        self._comm.sum(total.reshape(-1))
        return Moments.of_sums(form.value(total), self.sample.n_rows, self.sample.mixture.n_features)

    def _text(self, why: str) -> str:
        return (
            f"mean and covariance of {counted(self.sample.n_rows, 'row')} cannot be made those of the mixture: {why}; "
            "draw more rows, or leave them as they are drawn"
        )


@contextmanager
def open_sampler(comm: Comm, sample: Sample, stop: StopRequest, *, moments: bool) -> Iterator[Sampler]:
    """A context with the threads of this rank that draw a sample. Collective.

    Parameters
    ----------
    comm, sample, stop
    moments : bool
        Whether `Sampler.match_moments` will be called.
    """
    if moments:
        lapack()  # before the number of its threads is limited
    n_threads = min(count_threads("auto", comm.node_share()), -(-sample.n_parts // comm.size))
    with factored(sample.mixture.covariances), closing(Workers(max(1, n_threads))) as workers:
        yield Sampler(comm, sample, stop, workers)


def draw_all(comm: Comm, sample: Sample, stop: StopRequest, *, moments: bool) -> tuple[FloatArray, NDArray[np.int64]]:
    """The rows (n, D) of a sample and their components (n,), in the memory of a process alone.

    Parameters
    ----------
    comm : Comm
        This process.
    sample : Sample
    stop : StopRequest
    moments : bool
        Whether to give the rows the mean and covariance of the mixture.
    """
    rows, labels = np.empty((sample.n_rows, sample.mixture.n_features)), np.empty(sample.n_rows, np.int64)

    def keep(first: int, drawn: FloatArray, components: Indices) -> None:
        rows[first : first + len(drawn)] = drawn
        labels[first : first + len(drawn)] = components

    with open_sampler(comm, sample, stop, moments=moments) as sampler:
        if moments:
            sampler.match_moments(lambda name: lambda: None)
        sampler.for_each_part(lambda: keep)
    return rows, labels
