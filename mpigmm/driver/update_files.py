"""For `update`: the model to start from, the rows in files, and the model file to write."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from mpigmm.data.file_source import FileHeader
from mpigmm.driver.row_output import stamp
from mpigmm.driver.score_rows import REMEDY, open_header, recorded
from mpigmm.driver.update_rows import (
    Updated,
    UpdateSettings,
    check_forget,
    kept_statistics,
    recorded_precision,
)
from mpigmm.errors import OutputError, counted, shown
from mpigmm.requests import UpdateRequest
from mpigmm.runs.model import Model
from mpigmm.runs.model_file import check_derived, load_model, save_model


@dataclass(frozen=True)
class UpdateTask:
    """A model that is to be updated, and how.

    Attributes
    ----------
    model : Model
    settings : UpdateSettings
    """

    model: Model
    settings: UpdateSettings


class ModelOut:
    """The model file that `update` writes. Root alone.

    Parameters
    ----------
    request : UpdateRequest

    Attributes
    ----------
    path : Path
    """

    def __init__(self, request: UpdateRequest) -> None:
        self.path, self._model, self._overwrite = Path(request.out), Path(request.model), request.overwrite
        self._stamp = self._present()

    @property
    def is_in_place(self) -> bool:
        """Whether it is the file of the model that is updated, which is read next time.

        Another link to that file is not: writing replaces the link, and leaves the model as it is.
        """
        return place_of(self.path) in (self._model.resolve(), place_of(self._model))

    def check(self, check: Callable[[], None]) -> None:
        """Raise `OutputError` where the file cannot be written, or may be what only a fit can make again; `check` as in
        `load_model`."""
        if not self.path.parent.is_dir():
            raise OutputError(
                f"--out {shown(self.path)} cannot be written: {shown(self.path.parent)} is no directory; make it, or "
                "choose another"
            )
        if not self.is_in_place:
            check_derived(self.path, check, overwrite=self._overwrite)

    def save(self, model: Model) -> None:
        """Write the model, whole or not at all. Raises `OutputError`, also where another program has written the
        file since this one looked at it last."""
        if self._present() != self._stamp:
            raise OutputError(
                f"{shown(self.path)} was changed by another program while this one ran; run the same command again"
            )
        save_model(self.path, model)
        self._stamp = self._present()

    def _present(self) -> tuple[str, int, int] | None:
        return stamp(str(self.path)) if self.path.exists() else None


def place_of(path: Path) -> Path:
    """The path without symbolic links, but for one that the path itself is."""
    return path.parent.resolve() / path.name


def open_update_task(request: UpdateRequest, check: Callable[[], None]) -> UpdateTask:
    """The task of a request, `check` as in `load_model`. Root alone; raises `UserError`."""
    forget = check_forget("--forget", request.forget)
    model = load_model(Path(request.model), check)
    kept_statistics(model, shown(request.model))
    compute = replace(request.rows.compute, precision=request.precision or recorded_precision(model))
    missing = request.rows.data.missing if "missing" in request.rows.given else recorded(model, "missing")
    return UpdateTask(model, UpdateSettings(forget, compute, missing == "drop", REMEDY))


def rows_of(request: UpdateRequest, model: Model, files: str | Sequence[str]) -> FileHeader:
    """The header of the rows in files. Root alone; raises `DataError`.

    Their weights are in the dataset that held those of the fit unless the user names another, or none.
    """
    rows = request.rows
    data = replace(rows.data, path=files if isinstance(files, str) else list(files))
    if "weights" not in rows.given:
        data = replace(data, weights=recorded(model, "weights"))
    return open_header(model, request.model, data, rows.given)


def update_text(updated: Updated) -> str:
    """What an update has done, in words."""
    left_out = f", {updated.n_dropped:,} left out (NaN or infinity)" if updated.n_dropped else ""
    repaired = f", {counted(len(updated.repairs.floored), 'covariance')} floored" if updated.repairs.floored else ""
    mean = f"mean log-likelihood before the update {updated.mean_log_likelihood:.9g}"
    return f"{counted(updated.n_samples, 'row')} folded in{left_out}, {mean}{repaired}"
