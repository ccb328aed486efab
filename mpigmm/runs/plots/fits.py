"""Pictures of fits: how they converge, and which of them to choose."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator, StrMethodFormatter

from mpigmm.errors import DataError, counted
from mpigmm.runs.plots.style import BLACK, BLUE, GREEN, ORANGE, PURPLE, SKY, VERMILION, picture

Line = Mapping[str, Any]
"""A line of the convergence log, or the entry of a fit in ``selection.json``."""

BEST_START: dict[str, Any] = {"color": BLUE, "linewidth": 1.6, "zorder": 2.2}
OTHER_START: dict[str, Any] = {"color": "#9A9A9A", "linewidth": 0.9}
"""Lines of the best start and of the others."""

REPAIRS: dict[str, tuple[dict[str, Any], str]] = {
    "reseeded": ({"marker": "X", "color": VERMILION, "markersize": 7, "zorder": 2.5}, "components re-seeded"),
    "floored": (
        {"marker": "o", "color": "#F7D58A", "markersize": 7, "markeredgewidth": 0, "zorder": 1},
        "variances raised to the floor",
    ),
}
"""Marks of iterations with repairs, by the key of the log, and their texts in the legend."""

FEW_ITERATIONS = 30
"""Iterations up to which each has a mark."""


def convergence_picture(lines: Sequence[Line], path: Path) -> None:
    """Write a picture of the objective of each start by iteration, and of its distance from the best of all.

    Parameters
    ----------
    lines : sequence of mappings
        Lines of the convergence log, at least one.
    path : Path
    """
    starts: dict[int, list[Line]] = {}
    for line in lines:
        starts.setdefault(line["init"], []).append(line)
    best = max(starts, key=lambda init: starts[init][-1]["objective"])
    top = max(line["objective"] for line in lines)
    n_panels = 1 + any(line["objective"] < top for line in lines)
    with picture(path, 6.4, 2.6 * n_panels) as figure:
        panels = list(figure.subplots(n_panels, 1, sharex=True, squeeze=False)[:, 0])
        for init, own in starts.items():
            draw_start(panels, own, top, BEST_START if init == best else OTHER_START)
        panels[0].set_ylabel(objective_in_words(lines))
        for lower in panels[1:]:
            lower.set_yscale("log")
            lower.set_ylabel("below the best\n(nats)")
        panels[-1].set(xlabel="iteration", xlim=(0, max(line["iteration"] for line in lines) + 1))
        panels[-1].xaxis.set_major_locator(MaxNLocator(integer=True, steps=[1, 2, 5, 10]))
        figure.align_ylabels()
        entries = start_entries(len(starts), best) + repair_entries(lines)
        if entries:
            panels[0].legend(handles=entries, loc="lower right")


def objective_in_words(lines: Sequence[Line]) -> str:
    is_likelihood = all(line["objective"] == line["mean_log_likelihood"] for line in lines)
    return f"{'mean log-likelihood' if is_likelihood else 'objective'}\nof a row (nats)"


def draw_start(panels: Sequence[Axes], lines: Sequence[Line], top: float, style: dict[str, Any]) -> None:
    """Draw the objective of a start in the first panel and, if there is a second, its distance from top there."""
    iteration = np.array([line["iteration"] for line in lines])
    objective = np.array([line["objective"] for line in lines], float)
    below = np.where(objective < top, top - objective, np.nan)
    marker: dict[str, Any] = {"marker": ".", "markersize": 5} if len(lines) <= FEW_ITERATIONS else {}
    for ax, values in zip(panels, (objective, below), strict=False):
        ax.plot(iteration, values, **style, **marker)
        for name, (mark, _) in REPAIRS.items():
            repaired = np.array([line[name] > 0 for line in lines])
            ax.plot(iteration[repaired], values[repaired], linestyle="", **mark)


def start_entries(n_starts: int, best: int) -> list[Line2D]:
    """Entries of the legend for the starts, if there is more than one."""
    texts = {f"best start (number {best})": BEST_START, counted(n_starts - 1, "other start"): OTHER_START}
    return [Line2D([], [], label=text, **style) for text, style in texts.items()] if n_starts > 1 else []


def repair_entries(lines: Sequence[Line]) -> list[Line2D]:
    """Entries of the legend for the repairs that were made."""
    made = [REPAIRS[name] for name in REPAIRS if any(line[name] for line in lines)]
    return [Line2D([], [], linestyle="", label=text, **mark) for mark, text in made]


CRITERIA = {
    "bic": "BIC (lower is better)",
    "aic": "AIC (lower is better)",
    "icl": "ICL (lower is better)",
    "held_out": "mean log-likelihood of a held-out row\n(nats, higher is better)",
}
HIGHER_IS_BETTER = {"held_out"}

CURVES: dict[str, tuple[str, str, Any]] = {
    "full": (BLUE, "o", "solid"),
    "tied": (VERMILION, "s", (0, (5, 2))),
    "diag": (GREEN, "^", (0, (3, 1, 1, 1))),
    "spherical": (PURPLE, "D", (0, (1, 1.2))),
}
OTHER_CURVES: list[tuple[str, str, Any]] = [
    (ORANGE, "v", (0, (8, 2))),
    (SKY, "P", (0, (4, 1, 1, 1, 1, 1))),
    (BLACK, "*", "solid"),
]
"""Colour, marker and line of each covariance type, and of types that are added."""

WIDE_RANGE = 20
"""Ratio of the largest to the smallest number of components from which on their axis is logarithmic."""


def selection_curve(fits: Sequence[Line], criterion: str, path: str | Path) -> None:
    """Write a picture of a criterion by the number of components.

    Each fit is a point. A line for each covariance type joins its best fits, and the best of all is marked.

    Parameters
    ----------
    fits : sequence of mappings
        Entries of ``fits`` in ``selection.json``. Fits whose criterion is None or not finite are left out.
    criterion : str
        ``bic``, ``aic``, ``icl`` or ``held_out``; of the last, a higher value is better.
    path : str or Path
        The PNG file.

    Raises
    ------
    DataError
        No fit has a criterion that is finite.
    OutputError
        The file cannot be written, or exists and is not a picture that mpigmm wrote.
    """
    known = [fit for fit in fits if fit[criterion] is not None and np.isfinite(fit[criterion])]
    if not known:
        raise DataError(f"no fit has a finite {criterion}; nothing can be drawn")
    sign = -1 if criterion in HIGHER_IS_BETTER else 1
    types = list(dict.fromkeys(fit["covariance_type"] for fit in known))
    with picture(Path(path), 6.4, 4.2) as figure:
        ax = figure.add_subplot()
        for name, curve in zip(types, curves(types), strict=True):
            draw_type(ax, [fit for fit in known if fit["covariance_type"] == name], criterion, sign, curve)
        mark_best(ax, min(known, key=lambda fit: sign * fit[criterion]), criterion)
        scale_components(ax, [fit["n_components"] for fit in known])
        ax.set(xlabel="number of components", ylabel=CRITERIA[criterion])
        ax.legend()


def curves(types: Sequence[str]) -> list[tuple[str, str, Any]]:
    """Colour, marker and line of each of these covariance types."""
    others = [name for name in types if name not in CURVES]
    added = {name: OTHER_CURVES[i % len(OTHER_CURVES)] for i, name in enumerate(others)}
    return [(CURVES | added)[name] for name in types]


def draw_type(ax: Axes, fits: Sequence[Line], criterion: str, sign: int, curve: tuple[str, str, Any]) -> None:
    """All fits of a covariance type as points, and a line through the best for each number of components."""
    colour, marker, line = curve
    n_components = np.array([fit["n_components"] for fit in fits])
    values = np.array([fit[criterion] for fit in fits], float)
    points: dict[str, Any] = {"linestyle": "", "markersize": 4, "fillstyle": "none", "alpha": 0.7}
    ax.plot(n_components, values, color=colour, marker=marker, **points)
    different = np.unique(n_components)
    best = [sign * (sign * values[n_components == each]).min() for each in different]
    name = fits[0]["covariance_type"]
    ax.plot(different, best, color=colour, linestyle=line, marker=marker, markersize=5, label=name, zorder=2.2)


def mark_best(ax: Axes, fit: Line, criterion: str) -> None:
    """Draw a ring around a fit, which the legend describes."""
    text = f"best: {counted(fit['n_components'], 'component')}, {fit['covariance_type']}, seed {fit['seed']}"
    ring: dict[str, Any] = {"linestyle": "", "marker": "o", "markersize": 13, "fillstyle": "none", "zorder": 2.4}
    ax.plot(fit["n_components"], fit[criterion], color=BLACK, label=text, **ring)


def scale_components(ax: Axes, n_components: Sequence[int]) -> None:
    """Whole numbers on the horizontal axis, on a logarithmic scale where they range widely."""
    if max(n_components) > WIDE_RANGE * min(n_components):
        ax.set_xscale("log", base=2)
        ax.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    else:
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
