"""The table of `select`: its columns, and the files that hold it."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mpigmm.data.files import write_whole
from mpigmm.errors import OutputError, shown
from mpigmm.runs.owned import CHECKPOINTS, MODEL, beginning
from mpigmm.runs.text_table import aligned

SELECTION_JSON, SELECTION_CSV, SELECTION_PICTURE = "selection.json", "selection.csv", "selection.png"

TABLE_COLUMNS = (
    "n_components",
    "covariance_type",
    "seed",
    "mean_log_likelihood",
    "held_out",
    "aic",
    "bic",
    "icl",
    "stability",
    "n_iter",
    "converged",
    "seconds",
)
CSV_BEGIN = ",".join(TABLE_COLUMNS).encode()

Row = dict[str, Any]
"""A row of the table: the value of each of `TABLE_COLUMNS`, None where it is not defined."""


def csv_text(rows: Sequence[Row]) -> str:
    """The table as CSV, with an empty field for None."""
    text = io.StringIO()
    writer = csv.DictWriter(text, TABLE_COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def table_text(rows: Sequence[Row], best: int, criterion: str) -> str:
    """The table as text with aligned columns, in which a star marks the best fit."""
    lines = [["", *TABLE_COLUMNS]]
    lines += [
        ["*" if i == best else "", *(cell_text(row[name]) for name in TABLE_COLUMNS)] for i, row in enumerate(rows)
    ]
    return "\n".join([*aligned(lines), f"* best by {criterion}"])


def cell_text(value: object) -> str:
    """A value of the table as text."""
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def finite(value: float | None) -> float | None:
    """The number, or None where it is not finite, which JSON cannot express."""
    return value if value is not None and math.isfinite(value) else None


def write_table(directory: Path, rows: Sequence[Row], others: Mapping[str, Any]) -> None:
    """Write the table as CSV and as JSON, there with other values. Raises `OutputError`."""
    write_whole(directory / SELECTION_CSV, csv_text(rows).encode())
    content = {"fits": list(rows), **others}
    write_whole(directory / SELECTION_JSON, json.dumps(content, indent=2, allow_nan=False).encode() + b"\n")


def read_selection(directory: Path) -> dict[str, Any] | None:
    """The content of ``selection.json`` in a directory; None where there is none.

    Raises `OutputError` where a file of a selection's name, or a model, is not one of a selection.
    """
    path = directory / SELECTION_JSON
    found = None
    if path.exists():
        found = parsed(beginning(path))
        if found is None:
            raise foreign(path)
    table = directory / SELECTION_CSV
    if table.exists() and not beginning(table).startswith(CSV_BEGIN):
        raise foreign(table)
    for name in (*CHECKPOINTS, MODEL):
        if (directory / name).exists() and (name != MODEL or not (found is not None or table.exists())):
            raise OutputError(
                f"output.dir: {shown(directory)} holds {name} of a fit; choose another output.dir for select"
            )
    return found


def parsed(content: bytes) -> dict[str, Any] | None:
    """The content of a ``selection.json`` that mpigmm wrote; {} of an empty file, None of any other."""
    if not content.strip(b"\0"):
        return {}
    try:
        found = json.loads(content)
        is_own = "mpigmm" in found["versions"] and "fits" in found and type(found["tile_rows"]) is int
        return found if is_own and found["tile_rows"] > 0 and isinstance(found["ops"], str) else None
    except (ValueError, TypeError, KeyError, RecursionError):
        return None


def foreign(path: Path) -> OutputError:
    """The error for a file of a selection's name that another program wrote."""
    return OutputError(
        f"output.dir: {shown(path)} was not written by mpigmm, or somebody has changed it; move it away, or choose "
        "another output.dir"
    )
