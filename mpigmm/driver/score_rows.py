"""What `predict` and `score` share: a model, rows that fit it, and a sweep over them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mpigmm.core.em import EStep
from mpigmm.core.exact import FloatArray
from mpigmm.core.mixture import Mixture, safe_centre
from mpigmm.core.survey import BadRowError, check_finite, check_magnitude
from mpigmm.core.tile import Tile, default_rows
from mpigmm.data.source import Header, Source, find_dataset, read_header, resolve_paths
from mpigmm.driver.survey_pass import explain, first_centre
from mpigmm.driver.worker import Team, Tiles, build_team, common_loops
from mpigmm.errors import DataError, counted, shown
from mpigmm.options import ComputeOptions
from mpigmm.parallel.comm import Comm
from mpigmm.parallel.stop import StopRequest
from mpigmm.runs.model_file import Model, load_model
from mpigmm.runs.streams import write_message

DATASET = "/X"
"""Where rows stand, unless the user or the model says otherwise."""

Visit = Callable[[int, FloatArray, FloatArray], None]


@dataclass(frozen=True)
class Task:
    """A mixture and the rows to apply it to: their header, and a point amid them (D,)."""

    mixture: Mixture
    header: Header
    centre: FloatArray


def open_task(model_path: str, data: Sequence[str], dataset: str | None, check: Callable[[], None]) -> Task:
    """Read a model, `check` as in `load_model`, and the header of rows that fit it; root alone. Raises `DataError`."""
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
    return Task(model.mixture, header, first_centre(Source(header)))


def choose_dataset(model: Model, model_path: str, data: Sequence[str]) -> str:
    """The dataset that the model was fitted to; else /X, where the model names none or the data do not have it."""
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
    """A key of the section data of the configuration that the model was fitted with, or None."""
    section = (model.config or {}).get("data")
    return section.get(key) if isinstance(section, dict) else None


def recorded_columns(model: Model, header: Header) -> list[int] | None:
    """The columns that the model was fitted to, where the rows have them."""
    columns = recorded(model, "columns")
    if not isinstance(columns, list) or not all(isinstance(column, int) for column in columns):
        return None
    return columns if columns and max(columns) < header.file_features else None


def stream_team(comm: Comm, task: Task, stop: StopRequest) -> Team:
    """Tiles and threads for one pass, in which nothing is held. Collective."""
    tile_rows = default_rows(task.mixture.n_features, task.mixture.n_components)
    return build_team(comm, Source(task.header), tile_rows, ComputeOptions(memory=0), stop, common_loops(comm))


def sweep_posterior(team: Team, task: Task, visit: Callable[[], Visit]) -> None:
    """Call a visit, one made for each thread, with first row, responsibilities (K, n) and log densities (n,).

    Raises `DataError` naming the first row that is not finite.
    """
    centre = safe_centre(task.mixture, task.centre)
    e_step = EStep(task.mixture, centre, loops=team.loops)

    def work(tile: Tile, tiles: Tiles) -> None:
        own = visit()
        for first, rows, _ in tiles:
            check_finite(rows, first)
            tile.fill(rows, None, centre, mask=False)
            check_magnitude(tile.rows.T, rows, first)
            own(first, *e_step.posterior(tile))

    try:
        team.sweep(work)
    except BadRowError as error:
        raise DataError(explain(error, task.header, "mend the row or leave it out")) from None
