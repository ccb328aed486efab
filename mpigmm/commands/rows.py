"""What `predict` and `score` share: a model, rows that fit it, and a sweep over them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from mpigmm.commands.survey import explain
from mpigmm.commands.team import Team, Tiles, build_team, common_loops
from mpigmm.core.em import EStep
from mpigmm.core.exact import FloatArray
from mpigmm.core.mixture import Mixture
from mpigmm.core.survey import BadRowError, check_finite, check_magnitude
from mpigmm.core.tile import Tile, default_rows
from mpigmm.data.source import Header, Source, read_header
from mpigmm.errors import DataError, counted
from mpigmm.options import ComputeOptions
from mpigmm.parallel.comm import Comm
from mpigmm.parallel.stop import StopRequest
from mpigmm.runs.model_file import Model, load_model

Visit = Callable[[int, FloatArray, FloatArray], None]


@dataclass(frozen=True)
class Task:
    """A mixture and the header of the rows to apply it to."""

    mixture: Mixture
    header: Header


def open_task(model_path: str, data: str, dataset: str) -> Task:
    """Read a model and the header of rows that fit it; root alone. Raises `DataError`."""
    model = load_model(Path(model_path))
    header = read_header(data, dataset)
    columns = recorded_columns(model, header)
    if columns is not None:
        header = read_header(data, dataset, columns=columns)
    if header.n_features != model.mixture.n_features:
        raise DataError(
            f"{model_path} has {counted(model.mixture.n_features, 'feature')}, but {dataset} in {data} has "
            f"{counted(header.n_features, 'column')}; they must be the same"
        )
    if header.n_rows == 0:
        raise DataError(f"{dataset} in {data} has no rows")
    return Task(model.mixture, header)


def recorded_columns(model: Model, header: Header) -> list[int] | None:
    """The columns that the model was fitted to, where the rows have them."""
    section = (model.config or {}).get("data")
    columns = section.get("columns") if isinstance(section, dict) else None
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
    centre = task.mixture.weights @ task.mixture.means
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
