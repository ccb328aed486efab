"""For `predict` and `score`: opens a model and rows with its features, and computes posteriors tile by tile."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mpigmm.core.estep.step import EStep
from mpigmm.core.exact import FloatArray
from mpigmm.core.mixture import Mixture, safe_centre
from mpigmm.core.row_checks import BadRowError, check_finite, check_magnitude
from mpigmm.core.tile import Tile
from mpigmm.data.source import Header, Source, find_dataset, read_header, resolve_paths
from mpigmm.driver.devices import Devices, common_ops
from mpigmm.driver.layout import choose_tile_rows, lay_out
from mpigmm.driver.survey_pass import bad_row_text, first_centre
from mpigmm.driver.worker import RankContext, Tiles, open_context
from mpigmm.errors import DataError, counted, shown
from mpigmm.options import ComputeOptions
from mpigmm.parallel.comm import Comm
from mpigmm.parallel.stop import StopRequest
from mpigmm.runs.model_file import Model, load_model
from mpigmm.runs.streams import write_message

DATASET = "/X"
"""The dataset with the rows, unless the user or the model names another."""

PosteriorFunction = Callable[[int, FloatArray, FloatArray], None]
"""Called for each tile with the number of its first row, responsibilities (K, n) and log-densities (n,)."""


@dataclass(frozen=True)
class ScoreTask:
    """A mixture, the header of the rows to apply it to, and a point amid these rows (D,)."""

    mixture: Mixture
    header: Header
    centre: FloatArray


def open_task(model_path: str, data: Sequence[str], dataset: str | None, check: Callable[[], None]) -> ScoreTask:
    """A model and the header of rows with its features, `check` as in `load_model`. Root alone; raises `DataError`."""
    model = load_model(Path(model_path), check)
    dataset = dataset if dataset is not None else choose_dataset(model, model_path, data)
    header = read_header(data, dataset)
    columns = recorded_columns(model, header)
    if columns is not None:
        header = read_header(data, dataset, columns=columns)
    if header.n_features != model.mixture.n_features:
        raise DataError(
            f"{shown(model_path)} has {counted(model.mixture.n_features, 'feature')}, but {shown(dataset)} in "
            f"{shown(header.paths[0])} has {counted(header.n_features, 'column')}; they must be the same"
        )
    if header.n_rows == 0:
        raise DataError(f"{shown(dataset)} has no rows in {header.files}")
    return ScoreTask(model.mixture, header, first_centre(Source(header)))


def choose_dataset(model: Model, model_path: str, data: Sequence[str]) -> str:
    """The dataset that the model was fitted to; /X where the model names none, or the data do not have it."""
    fitted = recorded(model, "dataset")
    if not isinstance(fitted, str) or fitted == DATASET:
        return DATASET
    path = resolve_paths(data)[0]
    found = find_dataset(path, [fitted, DATASET])
    if found is None:
        raise DataError(
            f"{shown(path)} has no dataset {shown(fitted)}, to which {shown(model_path)} was fitted, and no {DATASET}; "
            "name one with --dataset"
        )
    if found == DATASET:
        write_message(
            f"mpigmm: {shown(path)} has no dataset {shown(fitted)}, to which {shown(model_path)} was fitted; its "
            f"{DATASET} is read (--dataset names another)"
        )
    return found


def recorded(model: Model, key: str) -> Any:
    """The value of a key of section ``data`` of the configuration that the model was fitted with, or None."""
    section = (model.config or {}).get("data")
    return section.get(key) if isinstance(section, dict) else None


def recorded_columns(model: Model, header: Header) -> list[int] | None:
    """The columns that the model was fitted to; None where it names none, or where the rows have too few columns."""
    columns = recorded(model, "columns")
    if not isinstance(columns, list) or not all(isinstance(column, int) for column in columns):
        return None
    return columns if columns and max(columns) < header.file_features else None


def open_stream(comm: Comm, task: ScoreTask, stop: StopRequest) -> RankContext:
    """A context for one pass over the rows on processors, without rows kept in memory. Collective."""
    task.mixture.covariances.prepare()
    devices, compute = Devices.cpus(comm.size), ComputeOptions(memory=0)
    kind = type(task.mixture.covariances)
    tile_rows = choose_tile_rows(compute, devices, task.header, kind, task.mixture.n_components)
    ops = common_ops(comm)
    layout = lay_out(comm, task.header, tile_rows, compute, devices)
    return open_context(comm, Source(task.header), layout, devices, stop, ops)


def for_each_posterior(context: RankContext, task: ScoreTask, new_function: Callable[[], PosteriorFunction]) -> None:
    """Compute the posterior of each of this rank's tiles and pass it to a function, one function for each thread.

    Raises `DataError`, which names the first row that is not finite.

    Parameters
    ----------
    context, task
    new_function : callable
        Returns the function of a thread.
    """
    centre = safe_centre(task.mixture, task.centre)
    e_step = EStep(task.mixture.e_step_inputs(centre, ops=context.host_ops))

    def tile_function(tile: Tile, tiles: Tiles) -> None:
        posterior_function = new_function()
        for rows in tiles:
            check_finite(rows.values, rows.first)
            tile.fill(rows, centre, mask=False)
            check_magnitude(tile.rows.T, rows.values, rows.first)
            posterior_function(rows.first, *e_step.posterior(tile))

    try:
        context.for_each_tile(tile_function)
    except BadRowError as error:
        raise DataError(bad_row_text(error, task.header, "mend the row or leave it out")) from None
