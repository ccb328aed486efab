"""One pass over rows that computes their posteriors under a mixture, tile by tile."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache

import numpy as np

from mpigmm.core.arrays import Array, BoolArray
from mpigmm.core.estep.step import EStep
from mpigmm.core.exact import FloatArray
from mpigmm.core.mixture import Mixture, safe_centre
from mpigmm.core.row_checks import (
    LARGEST_MAGNITUDE,
    BadRowError,
    check_finite,
    check_magnitude,
    check_sample_weight,
    used_values,
)
from mpigmm.core.tile import Tile
from mpigmm.data.malloc import keep_freed_memory
from mpigmm.data.source import Header, Source
from mpigmm.driver.devices import choose_devices, common_ops
from mpigmm.driver.layout import choose_tile_rows, lay_out
from mpigmm.driver.survey_pass import bad_row_text
from mpigmm.driver.worker import RankContext, Tiles, open_context
from mpigmm.errors import DataError
from mpigmm.options import ComputeOptions
from mpigmm.parallel.comm import Comm
from mpigmm.parallel.stop import StopRequest
from mpigmm.rows import SAMPLE_WEIGHT, Rows

PosteriorFunction = Callable[[Rows, Array, Array], None]
"""Called for each tile with its rows, responsibilities (K, n) and log-densities (n,), which it may overwrite.

All are in the memory of the context's `ops`. The log-density of a row that is left out is NaN, and its responsibilities
have no meaning."""

ON_PROCESSORS = ComputeOptions(device="cpu", memory=0)
"""Processors compute, and keep no rows in memory."""


@dataclass(frozen=True)
class ScoreTask:
    """A mixture and the rows to apply it to.

    Attributes
    ----------
    mixture : Mixture
    header : Header
        Of the rows.
    centre : ndarray of shape (D,)
        A point amid the rows.
    drop : bool
        Whether rows that hold NaN or infinity are left out; otherwise they are errors.
    remedy : str
        What the user can do about such an error.
    """

    mixture: Mixture
    header: Header
    centre: FloatArray
    drop: bool = False
    remedy: str = "mend the row or leave it out"


def open_stream(
    comm: Comm, source: Source, task: ScoreTask, stop: StopRequest, compute: ComputeOptions = ON_PROCESSORS
) -> RankContext:
    """A context for one pass over the rows. Collective; raises `AgreedError`."""
    task.mixture.covariances.prepare()
    devices = choose_devices(comm, compute.device)
    kind = type(task.mixture.covariances)
    tile_rows = choose_tile_rows(compute, devices, task.header, kind, task.mixture.n_components)
    ops = common_ops(comm)
    layout = lay_out(comm, source, tile_rows, compute, devices)
    return open_context(comm, source, layout, devices, stop, ops)


FAR = 2.0**20
"""A row is far where it is more than so many times as far from the centre, in some feature, as any component is."""


def near(mixture: Mixture, centre: FloatArray) -> FloatArray:
    """Deviations (D,) from the centre within which a row is not `FAR`.

    They stand for the bounds of the rows, which are not known before the pass. So a tile's kernel depends on its own
    rows alone, and the fast kernels compute all tiles but those with far rows.
    """
    reach = np.abs(mixture.means - centre) + np.sqrt(mixture.variances)
    return np.asarray(np.minimum(FAR * reach.max(axis=0), LARGEST_MAGNITUDE))


class RowFilter:
    """Fills tiles with rows, and refuses or leaves out those that cannot be used.

    Parameters
    ----------
    context, task
    centre : ndarray of shape (D,)
        Subtracted from every row.
    """

    def __init__(self, context: RankContext, task: ScoreTask, centre: FloatArray) -> None:
        self._arrays, self._source = context.ops.arrays, context.block.source
        self._on_host = context.stage is None
        self._drop = task.drop
        self._centre, self._own_centre = centre, self._arrays.put(centre)

    def fill(self, tile: Tile, rows: Rows) -> tuple[BoolArray | None, FloatArray]:
        """Fill a tile.

        Raises `BadRowError` for the first row that cannot be used.

        Returns
        -------
        left_out : ndarray of bool, shape (n,), or None
            Which rows are left out, in the memory of the tile; None if none is.
        deviation : ndarray of shape (D,)
            Largest deviation of the other rows from the centre, in each feature.
        """
        weight = rows.sample_weight
        if weight is not None:
            check_sample_weight(Rows(rows.first, {SAMPLE_WEIGHT: self._arrays.get(weight)}))
        tile.fill(rows, self._own_centre, mask=False)
        deviation = self._deviation(tile)
        is_regular = bool((deviation <= LARGEST_MAGNITUDE).all())  # false for NaN
        if not is_regular:
            self._refuse(rows)
        if weight is not None or not is_regular:
            tile.mask()
            deviation = self._deviation(tile)
        left_out = None if is_regular or not self._drop or tile.sample_weight is None else tile.sample_weight == 0
        return left_out, deviation

    def _deviation(self, tile: Tile) -> FloatArray:
        """Largest deviation (D,) of a tile's rows from the centre, in each feature; NaN where a value is."""
        least, greatest = (self._arrays.get(each) for each in (tile.rows.min(axis=1), tile.rows.max(axis=1)))
        return np.asarray(np.maximum(-least, greatest))

    def _refuse(self, rows: Rows) -> None:
        """Raise `BadRowError` for the first row that cannot be used, unless all such rows are left out."""
        if not self._on_host:
            rows = self._source.read(rows.first, rows.first + len(rows), fields=self._source.header.kept_fields)
        values = used_values(rows.values, rows)
        if not self._drop:
            check_finite(values, rows.first)
        with np.errstate(invalid="ignore", over="ignore"):
            deviations = used_values(rows.values - self._centre, rows)
        check_magnitude(np.where(np.isfinite(values), deviations, 0), rows.values, rows.first)


def for_each_posterior(
    context: RankContext,
    task: ScoreTask,
    new_function: Callable[[], PosteriorFunction],
    is_done: Callable[[int], bool] = lambda tile: False,
) -> None:
    """Compute the posterior of each of this rank's tiles and pass it to a function, one function for each thread.

    Raises `DataError`, which names the first row that cannot be used.

    Parameters
    ----------
    context, task
    new_function : callable
        Returns the function of a thread.
    is_done : callable
        Whether to leave out the tile with this number.
    """
    keep_freed_memory()
    centre = safe_centre(task.mixture, task.centre)
    limit, inputs = near(task.mixture, centre), task.mixture.e_step_inputs(centre, ops=context.ops)
    near_step, row_filter = EStep(replace(inputs, max_abs_deviation=limit)), RowFilter(context, task, centre)

    @cache
    def far_step() -> EStep:
        """The E-step of tiles with far rows."""
        return EStep(inputs)

    def tile_function(tile: Tile, tiles: Tiles) -> None:
        posterior_function = new_function()
        for rows in tiles:
            left_out, deviation = row_filter.fill(tile, rows)
            e_step = near_step if (deviation <= limit).all() else far_step()
            resp, log_density = e_step.posterior(tile)
            if left_out is not None:
                context.ops.xp.copyto(log_density, np.nan, where=left_out)
            posterior_function(rows, resp, log_density)

    try:
        context.for_each_device_tile(tile_function, tiles=[tile for tile in context.block.tiles if not is_done(tile)])
    except BadRowError as error:
        raise DataError(bad_row_text(error, task.header, task.remedy)) from None
