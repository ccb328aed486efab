"""For `predict` and `score`: opens a model and rows with its features."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from mpigmm.data.hdf5_source import Hdf5Source, find_dataset, read_header, resolve_paths
from mpigmm.data.source import Header
from mpigmm.driver.posteriors import ScoreTask
from mpigmm.driver.survey_pass import first_centre
from mpigmm.errors import DataError, counted, shown
from mpigmm.parallel.comm import SingleProcess
from mpigmm.runs.model import Model
from mpigmm.runs.model_file import load_model
from mpigmm.runs.streams import write_message

DATASET = "/X"
"""The dataset with the rows, unless the user or the model names another."""


def open_task(model_path: str, data: Sequence[str], dataset: str | None, check: Callable[[], None]) -> ScoreTask:
    """A model and the header of rows with its features, `check` as in `load_model`. Root alone; raises `DataError`."""
    model = load_model(Path(model_path), check)
    header = open_header(model, model_path, data, dataset)
    return ScoreTask(model.mixture, header, first_centre(SingleProcess(), Hdf5Source(header)))


def open_header(
    model: Model, model_path: str, data: Sequence[str], dataset: str | None, sample_weight: str | None = None
) -> Header:
    """The header of rows with the features of a model, and with weights if a dataset of them is named.

    Root alone; raises `DataError`.
    """
    dataset = dataset if dataset is not None else choose_dataset(model, model_path, data)
    header = read_header(data, dataset, sample_weight)
    columns = recorded_columns(model, header)
    if columns is not None:
        header = read_header(data, dataset, sample_weight, columns)
    if header.n_features != model.mixture.n_features:
        raise DataError(
            f"{shown(model_path)} has {counted(model.mixture.n_features, 'feature')}, but {shown(dataset)} in "
            f"{shown(header.paths[0])} has {counted(header.n_features, 'column')}; they must be the same"
        )
    if header.n_rows == 0:
        raise DataError(f"{shown(dataset)} has no rows in {header.files}")
    return header


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
