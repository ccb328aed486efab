"""Root's record of the fits that `select` compares, and of their table."""

from __future__ import annotations

from dataclasses import dataclass

from mpigmm.data.source import Header
from mpigmm.driver.resume_plan import best_ops_known
from mpigmm.options import FitOptions
from mpigmm.runs.model import Model
from mpigmm.runs.selection import Row, table_text
from mpigmm.runs.sweep_voice import SweepVoice


@dataclass(frozen=True, eq=False)
class Selection:
    """What `select` has found.

    Attributes
    ----------
    rows : list of dict
        The table, a row for each fit.
    best : int
        Index of the best fit.
    model : Model
        Of the best fit, to all rows.
    tile_rows : int
        Rows of a tile in all fits.
    """

    rows: list[Row]
    best: int
    model: Model
    tile_rows: int


class SelectionRecord:
    """Keeps the selection in memory.

    Parameters
    ----------
    options : FitOptions
    header : Header
        Of the rows.
    voice : SweepVoice
    """

    def __init__(self, options: FitOptions, header: Header, voice: SweepVoice) -> None:
        self.options, self.header, self.voice = options, header, voice
        self.selection: Selection | None = None

    def open(self, tile_rows: int) -> tuple[int, str]:
        """The rows of a tile, which are the given ones for a new selection, and the array operations on the host."""
        return tile_rows, best_ops_known(self.voice.of_fit("select"))

    def finish(self, selection: Selection) -> None:
        """Record the selection. Raises `OutputError`."""
        self.selection = selection
        note = edge_text(selection)
        if note is not None:
            self.voice.say(note)
        self.voice.result(table_text(selection.rows, selection.best, self.options.select.criterion))

    def close(self) -> None:
        """Release what the record holds."""
        self.voice.close()


def edge_text(selection: Selection) -> str | None:
    """A remark where the best number of components is the largest of several that were tried."""
    tried = {row["n_components"] for row in selection.rows}
    best = selection.rows[selection.best]["n_components"]
    if len(tried) == 1 or best < max(tried):
        return None
    return f"select.n_components: the best number, {best}, is the largest that was tried; try larger ones"
