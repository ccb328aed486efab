"""Tables as text with aligned columns."""

from __future__ import annotations

from collections.abc import Sequence

WIDTH = 100
"""Largest number of characters in a line of what the program prints for people."""


def aligned(lines: Sequence[Sequence[str]], left: Sequence[int] = ()) -> list[str]:
    """Lines of cells as text; the cells of a column are aligned on the right, in the columns `left` on the left."""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return ["  ".join(padded(line, widths, left)).rstrip() for line in lines]


def padded(line: Sequence[str], widths: Sequence[int], left: Sequence[int]) -> list[str]:
    """The cells of a line with the widths of their columns."""
    cells = zip(line, widths, strict=True)
    return [cell.ljust(width) if i in left else cell.rjust(width) for i, (cell, width) in enumerate(cells)]


def listed(names: Sequence[str], width: int = WIDTH) -> str:
    """Names with commas between them; where they take more characters than `width`, the first and the last ones."""
    text = ", ".join(names)
    for n_shown in range(min(len(names) - 1, width), 1, -1):
        if len(text) <= width:
            break
        text = ", ".join([*names[: n_shown - 1], "...", names[-1]])
    return text if len(text) <= width else f"{text[: width - 4]} ..."
