"""One pass over rows that computes their posteriors under a mixture, tile by tile."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from mpigmm.core.estep.step import EStep
from mpigmm.core.exact import FloatArray
from mpigmm.core.mixture import Mixture, safe_centre
from mpigmm.core.row_checks import BadRowError, check_finite, check_magnitude, check_sample_weight, used_values
from mpigmm.core.tile import Tile
from mpigmm.data.source import Header, Source
from mpigmm.driver.devices import Devices, common_ops
from mpigmm.driver.layout import choose_tile_rows, lay_out
from mpigmm.driver.survey_pass import bad_row_text
from mpigmm.driver.worker import RankContext, Tiles, open_context
from mpigmm.errors import DataError
from mpigmm.options import ComputeOptions
from mpigmm.parallel.comm import Comm
from mpigmm.parallel.stop import StopRequest
from mpigmm.rows import Rows

PosteriorFunction = Callable[[Rows, FloatArray, FloatArray], None]
"""Called for each tile with its rows, responsibilities (K, n) and log-densities (n,), which it may overwrite."""


@dataclass(frozen=True)
class ScoreTask:
    """A mixture, the header of the rows to apply it to, and a point amid these rows (D,)."""

    mixture: Mixture
    header: Header
    centre: FloatArray


def open_stream(comm: Comm, source: Source, task: ScoreTask, stop: StopRequest) -> RankContext:
    """A context for one pass over the rows on processors, which keeps none in memory. Collective."""
    task.mixture.covariances.prepare()
    devices, compute = Devices.cpus(comm.size), ComputeOptions(memory=0)
    kind = type(task.mixture.covariances)
    tile_rows = choose_tile_rows(compute, devices, task.header, kind, task.mixture.n_components)
    ops = common_ops(comm)
    layout = lay_out(comm, source, tile_rows, compute, devices)
    return open_context(comm, source, layout, devices, stop, ops)


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
    centre = safe_centre(task.mixture, task.centre)
    e_step = EStep(task.mixture.e_step_inputs(centre, ops=context.host_ops))

    def tile_function(tile: Tile, tiles: Tiles) -> None:
        posterior_function = new_function()
        for rows in tiles:
            check_sample_weight(rows)
            check_finite(used_values(rows.values, rows), rows.first)
            tile.fill(rows, centre, mask=False)
            check_magnitude(used_values(tile.rows.T, rows), rows.values, rows.first)
            if rows.sample_weight is not None:
                tile.mask()
            posterior_function(rows, *e_step.posterior(tile))

    try:
        context.for_each_tile(tile_function, is_done=is_done)
    except BadRowError as error:
        raise DataError(bad_row_text(error, task.header, "mend the row or leave it out")) from None
