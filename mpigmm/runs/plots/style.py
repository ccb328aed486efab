"""What all pictures have in common: colours, sizes, and how they are written."""

from __future__ import annotations

import io
import textwrap
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.figure import Figure

from mpigmm.data.files import write_whole
from mpigmm.errors import shown
from mpigmm.runs.owned import PICTURE_MAKER, check_picture

BLACK, ORANGE, SKY, GREEN, BLUE, VERMILION, PURPLE = (
    "#000000", "#E69F00", "#56B4E9", "#009E73", "#0072B2", "#D55E00", "#CC79A7",
)  # fmt: skip
"""Colours that the colour-blind can tell apart (Okabe and Ito, Color universal design, 2008)."""

DASHES = (0, (4, 2))

STYLE: Any = {
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.labelsize": 10,
    "figure.constrained_layout.use": True,
    "font.size": 9,
    "legend.fontsize": 8.5,
    "legend.frameon": False,
    "savefig.dpi": 200,
}
"""Settings of matplotlib for pictures in files."""


@contextmanager
def picture(path: Path, width: float, height: float) -> Iterator[Figure]:
    """A context with an empty figure of a size in inches, which is then written to a PNG file.

    Raises `OutputError`, also where the file exists and is not a picture that mpigmm wrote.
    """
    check_picture(path)
    with matplotlib.rc_context(STYLE), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing")  # of a name in a script that the font lacks
        figure = Figure(figsize=(width, height))
        yield figure
        content = io.BytesIO()
        figure.savefig(content, format="png", metadata={"Software": PICTURE_MAKER})
    write_whole(path, content.getbuffer())


def set_name(set_label: Callable[..., Any], name: str, width: int = 40) -> None:
    """Set a label to the name of a feature, of any length and any characters, in at most two lines."""
    lines = textwrap.wrap(shown(name), width)
    set_label("\n".join(lines[:2]) + "..." * (len(lines) > 2), parse_math=False)
