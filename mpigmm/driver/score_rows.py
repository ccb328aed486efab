"""For verbs that apply a model to rows: opens the model, and rows with its features."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import replace
from pathlib import Path
from typing import Any

from mpigmm.data.hdf5_source import Hdf5Source, find_dataset, resolve_paths
from mpigmm.data.source import Header
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

DATASET = "/X"
"""The dataset with the rows, unless the user or the model names another."""

REMEDY = "mend the row, or add data.missing=drop to leave such rows out"
"""What the user can do about a row that holds NaN or infinity."""


def open_task(model_path: str, rows: RowsRequest, check: Callable[[], None]) -> ScoreTask:
    """A model and the header of rows with its features, `check` as in `load_model`. Root alone; raises `DataError`.

    The header describes the weights of the rows, too, where the request names them.
    """
    model = load_model(Path(model_path), check)
    header = open_header(model, model_path, rows.data, rows.given)
    missing = rows.data.missing if "missing" in rows.given else recorded(model, "missing")
    centre = first_centre(SingleProcess(), Hdf5Source(header.only(VALUES)))
    return ScoreTask(model.mixture, header, centre, drop=missing == "drop", remedy=REMEDY)


def open_rows(comm: Comm, task: ScoreTask, rows: RowsRequest, stop: StopRequest) -> RankContext:
    """A context for one pass over the rows of a task, on the devices of a request. Collective; raises `AgreedError`.

    Root tells the user about the choice of devices, and where ranks have too many threads.
    """
    context = open_stream(comm, Hdf5Source(task.header), task, stop, rows.compute)
    for text in filter(None, (context.layout.warning, context.devices.note) if comm.is_root else ()):
        write_message(f"mpigmm: {text}")
    return context


def open_header(model: Model, model_path: str, data: DataOptions, given: Collection[str]) -> Header:
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
        data = replace(data, dataset=choose_dataset(model, model_path, data))
    header = rows_header(data, None)
    if "columns" not in given:
        columns = recorded_columns(model, header)
        header = header if columns is None else rows_header(replace(data, columns=columns), None)
    if header.n_features != model.mixture.n_features:
        raise DataError(
            f"{shown(model_path)} has {counted(model.mixture.n_features, 'feature')}, but {shown(header.dataset)} in "
            f"{shown(header.paths[0])} has {counted(header.n_features, 'column')}; they must be the same"
        )
    if header.n_rows == 0:
        raise DataError(f"{shown(header.dataset)} has no rows in {header.files}")
    return header


def choose_dataset(model: Model, model_path: str, data: DataOptions) -> str:
    """The dataset that the model was fitted to; /X where the model names none, or the data do not have it."""
    fitted = recorded(model, "dataset")
    if not isinstance(fitted, str) or fitted == DATASET:
        return DATASET
    path = resolve_paths(data.path)[0]
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
