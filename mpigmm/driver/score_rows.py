"""For `predict` and `score`: opens a model and rows with its features."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mpigmm.data.file_source import (
    FileHeader,
    FileSource,
    Names,
    as_name,
    find_datasets,
    has_datasets,
    read_header,
    resolve_paths,
)
from mpigmm.data.row_files import DATASET, names_text, told
from mpigmm.driver.posteriors import ScoreTask
from mpigmm.driver.survey_pass import first_centre
from mpigmm.errors import DataError, counted, shown
from mpigmm.parallel.comm import SingleProcess
from mpigmm.runs.model import Model
from mpigmm.runs.model_file import load_model
from mpigmm.runs.streams import write_message


@dataclass(frozen=True)
class FileTask(ScoreTask):
    """The same for rows in files."""

    header: FileHeader


def open_task(model_path: str, data: Sequence[str], dataset: Names | None, check: Callable[[], None]) -> FileTask:
    """A model and the header of rows with its features, `check` as in `load_model`. Root alone; raises `DataError`."""
    model = load_model(Path(model_path), check)
    header = open_header(model, model_path, data, dataset)
    return FileTask(model.mixture, header, first_centre(SingleProcess(), FileSource(header)))


def open_header(
    model: Model, model_path: str, data: Sequence[str], dataset: Names | None, sample_weight: str | None = None
) -> FileHeader:
    """The header of rows with the features of a model, and with weights if a dataset of them is named.

    Root alone; raises `DataError`.
    """
    dataset = dataset if dataset is not None else choose_dataset(model, model_path, data)
    header = read_header(data, dataset, sample_weight)
    columns = columns_of_model(model, model_path, header)
    if columns is not None:
        header = read_header(data, dataset, sample_weight, columns)
    if header.n_features != model.mixture.n_features:
        raise DataError(
            f"{shown(model_path)} has {counted(model.mixture.n_features, 'feature')}, but {header.place(0)} has "
            f"{counted(header.n_features, 'column')}; they must be the same"
        )
    if header.n_rows == 0:
        raise DataError(f"{shown(header.dataset)} has no rows in {header.files}")
    return header


def choose_dataset(model: Model, model_path: str, data: Sequence[str]) -> Names:
    """The dataset that the model was fitted to; /X where the model names none, or the data do not have it."""
    fitted, path = recorded_dataset(model), resolve_paths(data)[0]
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
