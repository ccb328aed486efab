"""For `condition`: opens a model, and rows that hold the given features, or all."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from pathlib import Path

from mpigmm.core.arrays import Indices
from mpigmm.core.conditional import Conditional
from mpigmm.data.file_source import FileHeader, FileSource
from mpigmm.driver.features import chosen_features
from mpigmm.driver.file_rows import rows_header
from mpigmm.driver.inference import conditional_of, factored
from mpigmm.driver.score_rows import (
    REMEDY,
    FileTask,
    as_list,
    choose_dataset,
    columns_of_model,
    recorded,
    recorded_columns,
)
from mpigmm.driver.survey_pass import first_centre
from mpigmm.errors import DataError, counted, shown
from mpigmm.options import DataOptions
from mpigmm.parallel.comm import SingleProcess
from mpigmm.requests import ConditionRequest
from mpigmm.runs.model import Model
from mpigmm.runs.model_file import load_model


@dataclass(frozen=True, eq=False)
class ConditionTask:
    """The distribution of some features of a mixture given others, and rows that hold these.

    Attributes
    ----------
    conditional : Conditional
    digest : str
        Of the mixture.
    given : ndarray of shape (G,)
        Numbers of the given features.
    feature_names : tuple of str or None
        Of all features of the mixture.
    rows : FileTask
        The marginal mixture of the given features, and the rows.
    """

    conditional: Conditional
    digest: str
    given: Indices
    feature_names: tuple[str, ...] | None
    rows: FileTask


def open_condition(request: ConditionRequest, check: Callable[[], None]) -> ConditionTask:
    """The task of a request, `check` as in `load_model`. Root alone; raises `UserError`."""
    model, rows = load_model(Path(request.model), check), request.rows
    n_features, listed = model.mixture.n_features, [part.strip() for part in request.given.split(",")]
    given = chosen_features("--given", listed, n_features, n_features - 1, model.feature_names)
    header = given_header(model, request.model, rows.data, rows.given, given)
    with factored(model.mixture.covariances):
        conditional = conditional_of(model.mixture, given)
    missing = rows.data.missing if "missing" in rows.given else recorded(model, "missing")
    centre = first_centre(SingleProcess(), FileSource(header))
    task = FileTask(conditional.marginal, header, centre, drop=missing == "drop", remedy=REMEDY)
    return ConditionTask(conditional, model.mixture.digest(), given, model.feature_names, task)


def given_header(
    model: Model, model_path: str, data: DataOptions, known: Collection[str], given: Indices
) -> FileHeader:
    """The header of rows, of which the columns of the given features (G,) are used. Root alone; raises `DataError`.

    Parameters
    ----------
    model, model_path
    data : DataOptions
    known : collection of str
        Keys of `data` that the user has set. Without them, the dataset and the columns are those that the model was
        fitted to.
    given : ndarray of shape (G,)
    """
    if "dataset" not in known:
        data = replace(data, dataset=as_list(choose_dataset(model.marginal(given), model_path, data)))
    data = replace(data, weights=None)
    header = rows_header(data, None)
    if header.n_rows == 0:
        raise DataError(f"{shown(header.dataset)} has no rows in {header.files}")
    columns = columns_of_given(model, model_path, header, given, are_chosen="columns" in known)
    return rows_header(replace(data, columns=columns), None)


def columns_of_given(
    model: Model, model_path: str, header: FileHeader, given: Indices, *, are_chosen: bool
) -> list[int | str]:
    """The columns of the given features (G,); raises `DataError`.

    They are found by name if the model and the rows have names, unless the user has chosen columns. Otherwise the
    columns that are used are those of the given features, in their order, or those of all features of the model.
    """
    if not are_chosen and model.feature_names is not None and header.file_names is not None:
        return list(columns_of_model(model.marginal(given), model_path, header) or header.file_names)
    fitted = None if are_chosen else recorded_columns(model, header)
    columns = [header.column(index) for index in range(header.n_features)] if fitted is None else fitted
    n_features = model.mixture.n_features
    if len(columns) not in (len(given), n_features):
        raise DataError(
            f"{header.place(0)} has {counted(len(columns), 'column')}, but {shown(model_path)} has "
            f"{counted(n_features, 'feature')}, of which {len(given)} are given; the rows must have the columns of "
            "these, in the order of --given, or those of all features"
        )
    return [columns[feature] for feature in given] if len(columns) == n_features else [*columns]
