"""For verbs that apply a model to rows: opens the model, and rows with its features."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mpigmm.data.file_source import (
    FileHeader,
    FileSource,
    Names,
    as_name,
    find_datasets,
    has_datasets,
    resolve_paths,
)
from mpigmm.data.row_files import DATASET, joined, names_text, told
from mpigmm.driver.file_rows import rows_header
from mpigmm.driver.posteriors import ScoreTask, open_stream
from mpigmm.driver.survey_pass import first_centre
from mpigmm.driver.worker import RankContext
from mpigmm.errors import DataError, counted, shown
from mpigmm.options import DataOptions
from mpigmm.parallel.comm import Comm, SingleProcess
from mpigmm.parallel.stop import StopRequest
from mpigmm.requests import RowsRequest
from mpigmm.rows import VALUES
from mpigmm.runs.model import Model
from mpigmm.runs.model_file import load_model
from mpigmm.runs.streams import write_message

REMEDY = "mend the row, or add data.missing=drop to leave such rows out"
"""What the user can do about a row that holds NaN or infinity."""


@dataclass(frozen=True)
class FileTask(ScoreTask):
    """The same for rows in files."""

    header: FileHeader


def open_task(model_path: str, rows: RowsRequest, check: Callable[[], None]) -> FileTask:
    """A model and the header of rows with its features, `check` as in `load_model`. Root alone; raises `DataError`.

    The header describes the weights of the rows, too, where the request names them.
    """
    model = load_model(Path(model_path), check)
    header = open_header(model, model_path, rows.data, rows.given)
    missing = rows.data.missing if "missing" in rows.given else recorded(model, "missing")
    centre = first_centre(SingleProcess(), FileSource(header.only(VALUES)))
    return FileTask(model.mixture, header, centre, drop=missing == "drop", remedy=REMEDY)


def open_rows(comm: Comm, task: FileTask, rows: RowsRequest, stop: StopRequest) -> RankContext:
    """A context for one pass over the rows of a task, on the devices of a request. Collective; raises `AgreedError`.

    Root tells the user about the choice of devices, and where ranks have too many threads.
    """
    context = open_stream(comm, FileSource(task.header), task, stop, rows.compute)
    for text in filter(None, (context.layout.warning, context.devices.note) if comm.is_root else ()):
        write_message(f"mpigmm: {text}")
    return context


def open_header(model: Model, model_path: str, data: DataOptions, given: Collection[str]) -> FileHeader:
    """The header of rows with the features of a model. Root alone; raises `DataError`.

    Parameters
    ----------
    model, model_path
    data : DataOptions
    given : collection of str
        Keys of `data` that the user has set. Without them, the dataset and the columns are those that the model was
        fitted to.
    """
    if "dataset" not in given:
        data = replace(data, dataset=as_list(choose_dataset(model, model_path, data)))
    header = rows_header(data, None)
    if "columns" not in given:
        columns = columns_of_model(model, model_path, header)
        header = header if columns is None else rows_header(replace(data, columns=list(columns)), None)
    if header.n_features != model.mixture.n_features:
        raise DataError(
            f"{shown(model_path)} has {counted(model.mixture.n_features, 'feature')}, but {header.place(0)} has "
            f"{counted(header.n_features, 'column')}; they must be the same"
        )
    if header.n_rows == 0:
        raise DataError(f"{shown(header.dataset)} has no rows in {header.files}")
    return header


def as_list(names: Names) -> str | list[str]:
    """Names of datasets, as options hold them."""
    return names if isinstance(names, str) else list(names)


def choose_dataset(model: Model, model_path: str, data: DataOptions) -> Names:
    """The dataset that the model was fitted to; /X where the model names none, or the data do not have it."""
    fitted, path = recorded_dataset(model), resolve_paths(data.path)[0]
    if fitted == DATASET or not has_datasets(path):
        return DATASET
    found, name = find_datasets(path, [fitted, DATASET]), shown(told(as_name(fitted)))
    if found is None:
        raise DataError(
            f"{shown(path)} has no dataset {name}, to which {shown(model_path)} was fitted, and no {DATASET}; "
            "name one with --dataset"
        )
    if found == DATASET:
        write_message(
            f"mpigmm: {shown(path)} has no dataset {name}, to which {shown(model_path)} was fitted; its {DATASET} is "
            "read (--dataset names another)"
        )
    return found


def recorded_dataset(model: Model) -> Names:
    """What the configuration that the model was fitted with has as ``data.dataset``; /X where it has nothing."""
    found = recorded(model, "dataset")
    is_list = isinstance(found, list) and bool(found) and all(isinstance(name, str) for name in found)
    return found if is_list or isinstance(found, str) else DATASET


def recorded(model: Model, key: str) -> Any:
    """The value of a key of section ``data`` of the configuration that the model was fitted with, or None."""
    section = (model.config or {}).get("data")
    return section.get(key) if isinstance(section, dict) else None


def columns_of_model(model: Model, model_path: str, header: FileHeader) -> Sequence[int | str] | None:
    """The columns of rows that are the features of a model; None where these are all columns.

    They are found by name if the model and the rows have names, otherwise by the numbers to which the model was fitted.
    Raises `DataError`.
    """
    names = model.feature_names
    if names is None or header.file_names is None:
        return recorded_columns(model, header)
    missing = [name for name in names if name not in header.file_names]
    if missing:
        raise DataError(
            f"{header.place(0)} has no column {shown(missing[0])!r}, to which {shown(model_path)} was fitted; it has "
            f"{names_text(header.file_names, missing[0])}; name its columns as those of the model"
        )
    return None if names == header.feature_names else names


def recorded_columns(model: Model, header: FileHeader) -> list[int] | None:
    """The columns that the model was fitted to; None where it names none, or where the rows have too few columns."""
    columns = recorded(model, "columns")
    if not isinstance(columns, list) or not all(isinstance(column, int) for column in columns):
        return None
    return columns if columns and max(columns) < header.file_features else None


def origin(model_path: str, header: FileHeader) -> tuple[dict[str, Any], dict[str, Sequence[Any]]]:
    """Attributes and small datasets of an output with an entry a row, which name its model and the files of its rows.

    For each file ``offsets`` has the entry of the output that its first row has or, if it is not used, would have.
    """
    model = os.fsencode(model_path).decode("utf-8", "backslashreplace")
    rows = [header.start, header.stop]
    attributes = {"model": model, "dataset": joined(header.datasets[VALUES]), "rows": rows}
    offsets = [first - header.start for first in header.first_rows]
    return attributes, {"files": [os.fsencode(path) for path in header.paths], "offsets": offsets}


def computed_with(context: RankContext) -> tuple[str, ...]:
    """What the last bits of log-densities depend on: the devices and their array operations."""
    kinds = context.devices.kinds
    return (context.host_ops.name, *(kinds if context.devices.mixed else kinds[:1]))
