"""Root's record of a selection in ``output.dir``: a directory for each fit, the table, and the best model."""

from __future__ import annotations

import json
from contextlib import closing
from typing import Any

from mpigmm.data.source import Header
from mpigmm.driver.candidates import FITS, REFIT, candidates_of
from mpigmm.driver.recorder import Recorder
from mpigmm.driver.selection_record import Selection, SelectionRecord
from mpigmm.driver.summary import versions
from mpigmm.errors import UserError
from mpigmm.options import FitOptions, as_mapping
from mpigmm.requests import FitRequest, SelectRequest
from mpigmm.runs.directory import RunDirectory
from mpigmm.runs.model_file import save_model
from mpigmm.runs.owned import MODEL, check_picture
from mpigmm.runs.selection import SELECTION_PICTURE, Row, read_selection, write_table
from mpigmm.runs.sweep_voice import SweepVoice
from mpigmm.runs.voice import Voice


def fit_recorder(options: FitOptions, header: Header, voice: Voice, restart: bool) -> Recorder:
    """The recorder of one of the fits, in its own directory."""
    config = json.dumps(as_mapping(options), indent=2) + "\n"  # JSON is YAML too
    return Recorder(FitRequest(options, config, restart), header, voice)


class SelectionFiles(SelectionRecord):
    """The directory of a selection.

    Parameters
    ----------
    request : SelectRequest
    header : Header
        Of the rows.
    voice : SweepVoice

    Raises
    ------
    OutputError
        Where the directory cannot be used.
    """

    def __init__(self, request: SelectRequest, header: Header, voice: SweepVoice) -> None:
        super().__init__(request.options, header, voice)
        self.request = request
        self.directory = RunDirectory(str(request.options.output.dir), request.config_file)
        self._others: dict[str, Any] = {}

    def open(self, tile_rows: int) -> tuple[int, str]:
        self.directory.check_inputs(self.header.paths)
        found = read_selection(self.directory.path)
        self.directory.check_writable()
        tile_rows, ops = super().open(tile_rows)
        if found and not self.request.restart:
            ops = found.get("ops", ops)
            if self.options.compute.tile_rows == "auto":
                tile_rows = found.get("tile_rows", tile_rows)
        self._others = {"criterion": self.options.select.criterion, "tile_rows": tile_rows, "ops": ops}
        self.directory.write_config(self.request.config)
        if not found or self.request.restart:
            self._write([], finished=False)
        if self.request.restart:
            self._clear_fits()
        return tile_rows, ops

    def _clear_fits(self) -> None:
        """Remove what earlier fits of the candidates left, before the first of them begins anew: if this selection is
        interrupted, it goes on without a restart, and finds no fit of another problem."""
        for candidate in candidates_of(self.options):
            for suffix in ("", REFIT):
                path = self.directory / FITS / f"{candidate.name}{suffix}"
                if path.is_dir():
                    with closing(RunDirectory(str(path))) as directory:
                        directory.check_inputs(self.header.paths)
                        directory.check_writable()
                        directory.clear(keep_model=False)

    def finish(self, selection: Selection) -> None:
        save_model(self.directory / MODEL, selection.model)
        self._write(selection.rows, finished=True, best=selection.best)
        self._draw(selection)
        super().finish(selection)

    def close(self) -> None:
        try:
            super().close()
        finally:
            self.directory.close()

    def _draw(self, selection: Selection) -> None:
        """Draw the curve of the criterion, where matplotlib is installed."""
        path = self.directory / SELECTION_PICTURE
        try:
            from mpigmm.runs.plots import selection_curve  # loads matplotlib, which may be missing

            check_picture(path)
            selection_curve(selection.rows, self.options.select.criterion, path)
        except UserError as error:
            self.voice.say(f"no picture was drawn: {error}")

    def _write(self, rows: list[Row], **others: Any) -> None:
        write_table(self.directory.path, rows, {**self._others, **others, **versions(None)})
