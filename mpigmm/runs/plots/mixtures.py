"""Pictures of a mixture: ellipses over its density, a matrix of pairs of features, sizes of the components."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.colors import LinearSegmentedColormap, to_rgba
from matplotlib.legend_handler import HandlerTuple
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.patheffects import withStroke
from matplotlib.ticker import MaxNLocator

from mpigmm.core.arrays import Indices
from mpigmm.core.exact import FloatArray
from mpigmm.core.marginal import DensityMap, outlines
from mpigmm.core.mixture import Mixture
from mpigmm.errors import counted
from mpigmm.runs.plots.style import BLACK, BLUE, DASHES, VERMILION, picture, set_name
from mpigmm.runs.plots.view import Subject, View

SHARES = np.array([0.99, 0.95, 0.8, 0.5, 0.2])
SHADES = ["#EEF4F9", "#D9E8F3", "#BAD6EA", "#92BEDD", "#63A1CC"]
"""Shares of the probability, and the shade of the region of highest density that holds each."""

OUTLINED = np.array([0.95, 0.5])
"""Shares of the probability whose regions are outlined over many rows."""

COUNTS = LinearSegmentedColormap.from_list("counts", ["#E4E4E4", "#383838"])
BARS, DOTS = "#CFCFCF", "#505050"
"""Colours of rows: counted in hexagons, in a histogram, and as points."""

PART: dict[str, Any] = {"color": VERMILION, "linewidth": 0.9, "linestyle": DASHES}
"""Line of the density of a component."""

LEGEND: dict[str, Any] = {"handler_map": {tuple: HandlerTuple(None, 0)}, "frameon": False, "borderaxespad": 0.2}
WIDTH_OF_LEGEND = 4.2
"""Inches for two columns of a legend."""

GRID_OF_ONE, GRID_OF_TWO, GRID_OF_PAIR = 600, 240, 90
"""Points along an axis of the grid for a density of one feature, of two, and of two in a matrix of pairs."""

HIGHEST_PEAK = 8
"""Limit of the density of one feature, as a multiple of its median: a narrow peak is cut off there."""

MOST_LABELS, MOST_DOUBLE, MOST_CURVES, MOST_BARS = 30, 100, 20, 50
"""Components up to which they are numbered, have an ellipse of two standard deviations beside that of one, have a curve
of their own in the density of one feature, and have a bar of their own."""


def new_axes() -> Axes:
    """Axes of a new figure, which a notebook shows."""
    from matplotlib import pyplot

    return pyplot.subplots(layout="constrained")[1]


def components_picture(subject: Subject, features: Sequence[int], path: Path) -> None:
    """Write a picture of one feature or two, as `draw_mixture` draws it."""
    with picture(path, 5.6, 4.8 if len(features) == 2 else 3.6) as figure:
        draw_mixture(figure.add_subplot(), subject.view(*features))


def draw_mixture(ax: Axes, view: View) -> None:
    """Draw one feature as curves, or two as ellipses over the density and the rows, with labels and a legend."""
    if len(view.names) == 1:
        draw_curves(ax, view)
        ax.set_ylabel("density")
    else:
        (draw_outlines if view.has_many_rows else draw_shades)(ax, view, GRID_OF_TWO)
        draw_rows(ax, view)
        draw_ellipses(ax, view)
        draw_numbers(ax, view.mixture)
        set_name(ax.set_ylabel, view.names[1])
    set_name(ax.set_xlabel, view.names[0])
    place_legend(ax, legend_entries(view))


def draw_shades(ax: Axes, view: View, n_points: int) -> None:
    """Shade the regions of highest density that hold the shares `SHARES` of the probability."""
    density = DensityMap.of(view.mixture, view.box, n_points)
    levels = density.levels(SHARES)
    ax.contourf(*density.axes, density.values, [*levels, density.values.max() + levels[-1]], colors=SHADES)
    set_limits(ax, view)


def draw_outlines(ax: Axes, view: View, n_points: int) -> None:
    """Outline the regions of highest density that hold the shares `OUTLINED` of the probability."""
    density = DensityMap.of(view.mixture, view.box, n_points)
    ax.contour(*density.axes, density.values, density.levels(OUTLINED), colors=[BLUE], linewidths=1.2)
    set_limits(ax, view)


def draw_rows(ax: Axes, view: View, n_hexagons: int = 60) -> None:
    """Rows as points or, if they are many, their numbers in hexagons as shades of grey, on a logarithmic scale."""
    across, up = view.rows.T
    if view.has_many_rows:
        extent: Any = view.box.reshape(-1)
        ax.hexbin(
            across, up, gridsize=n_hexagons, extent=extent, bins="log", mincnt=1, cmap=COUNTS, linewidths=0.1,
            zorder=0.5,
        )  # fmt: skip
    elif len(view.rows):
        area = float(np.clip(2000 / len(view.rows), 1.5, 8))
        ax.scatter(across, up, s=area, color=DOTS, alpha=0.6, linewidths=0, zorder=1.2)
    set_limits(ax, view)


def draw_ellipses(ax: Axes, view: View, scale: float = 1.0) -> None:
    """Ellipses of one and two standard deviations; lines are the wider and more opaque the larger the weight."""
    mixture = view.mixture
    few = mixture.n_components <= MOST_DOUBLE
    share = np.sqrt(mixture.weights / mixture.weights.max())
    colours = [to_rgba(VERMILION, opacity) for opacity in 0.4 + 0.6 * share]
    widths = scale * (1 if few else 0.5) * (0.8 + share)
    for radius, style in ((1, "solid"), (2, DASHES)) if few else ((1, "solid"),):
        lines = LineCollection(
            list(outlines(mixture, radius)), colors=colours, linewidths=widths.tolist(), linestyles=[style]
        )
        ax.add_collection(lines, autolim=False)
    if few:
        across, up = mixture.means.T
        ax.scatter(across, up, s=8 * scale * widths, c=colours, linewidths=0, zorder=2.5)
    set_limits(ax, view)


def draw_numbers(ax: Axes, mixture: Mixture) -> None:
    """Write the number of each component beside its mean, unless they are too many."""
    for k, (across, up) in enumerate(mixture.means if mixture.n_components <= MOST_LABELS else ()):
        ax.annotate(
            str(k), (across, up), (2.5, 2.5), textcoords="offset points", fontsize=8.5, annotation_clip=True,
            path_effects=[withStroke(linewidth=2, foreground="white")],
        )  # fmt: skip


def draw_curves(ax: Axes, view: View) -> None:
    """The density of one feature, its parts by component if these are few, and a histogram of the rows."""
    low, high = view.box[0]
    if len(view.rows):
        n_bins = int(np.clip(np.sqrt(len(view.rows)), 10, 80))
        weights = np.full(len(view.rows), n_bins / (high - low) / len(view.rows))
        ax.hist(view.rows[:, 0], bins=n_bins, range=(low, high), weights=weights, color=BARS)
    density = DensityMap.of(view.mixture, view.box, GRID_OF_ONE)
    ax.plot(density.axes[0], density.values / (high - low), color=BLUE, linewidth=1.6)
    if 1 < view.mixture.n_components <= MOST_CURVES:
        ax.plot(density.axes[0], density.parts().T / (high - low), **PART)
    highest = HIGHEST_PEAK * density.levels(np.array([0.5]))[0] / (high - low)
    ax.set(xlim=(low, high), ylim=(0, min(ax.get_ylim()[1], highest)))


def set_limits(ax: Axes, view: View) -> None:
    ax.set(xlim=view.box[0], ylim=view.box[1])


Entry = tuple[Any, str]
"""Handle and text of an entry of a legend."""

NOTHING = Line2D([], [], linestyle="")


def legend_entries(view: View) -> list[Entry]:
    """Entries for `draw_mixture`: short texts for the first of two columns, long ones for the second."""
    short = curve_entries(view) if len(view.names) == 1 else ellipse_entries(view)
    long = hidden_entries(view)
    if len(view.names) == 2:
        long = [outline_entry() if view.has_many_rows else shade_entry(), *long]
    return short + [(NOTHING, "")] * (len(long) - len(short)) + long


def place_legend(ax: Axes, entries: list[Entry]) -> None:
    """Two columns above the axes or, if these are narrow, one within them."""
    if ax.bbox.width >= WIDTH_OF_LEGEND * ax.figure.dpi:
        above = {"loc": "lower left", "bbox_to_anchor": (0, 1.02), "ncols": 2}
        ax.legend(*zip(*entries, strict=True), **above, **LEGEND)
    else:
        within = {"loc": "upper right", "frameon": True, "framealpha": 0.8, "fontsize": "x-small"}
        ax.legend(*zip(*filter(all, entries), strict=True), **LEGEND | within)


def pair_entries(view: View) -> list[Entry]:
    """Entries for a matrix of pairs, each text once."""
    found = {text: handle for handle, text in [*curve_entries(view), *ellipse_entries(view), shade_entry()]}
    return [(handle, text) for text, handle in found.items()]


def curve_entries(view: View) -> list[Entry]:
    found: list[Entry] = [(Line2D([], [], color=BLUE), "mixture")]
    if 1 < view.mixture.n_components <= MOST_CURVES:
        found.append((Line2D([], [], **PART), "its components"))
    return found + row_entries(view, Patch(color=BARS))


def ellipse_entries(view: View) -> list[Entry]:
    found: list[Entry] = [(Line2D([], [], color=VERMILION), "1 standard deviation")]
    if view.mixture.n_components <= MOST_DOUBLE:
        found.append((Line2D([], [], color=VERMILION, linestyle=DASHES), "2 standard deviations"))
    point = Line2D([], [], color=DOTS, alpha=0.6, marker="o", markersize=3, linestyle="", markeredgewidth=0)
    return found + row_entries(view, Patch(color=COUNTS(0.6)) if view.has_many_rows else point)


def row_entries(view: View, handle: Any) -> list[Entry]:
    """An entry for the rows, if there are any."""
    total = counted(view.n_rows, "row")
    text = total if len(view.rows) == view.n_rows else f"{len(view.rows):,} of {total}"
    return [(handle, text)] if len(view.rows) else []


def shade_entry() -> Entry:
    shares = ", ".join(f"{100 * share:.0f}" for share in SHARES)
    return tuple(Patch(color=shade) for shade in SHADES), f"{shares} % of the mixture"


def outline_entry() -> Entry:
    shares = " and ".join(f"{100 * share:.0f}" for share in OUTLINED)
    return Line2D([], [], color=BLUE, linewidth=1.2), f"{shares} % of the mixture"


def hidden_entries(view: View) -> list[Entry]:
    """An entry that says how many components lie outside the picture, if any do."""
    hidden = view.hidden
    text = f"outside: {counted(len(hidden), 'component')} of weight {hidden.sum():.2g}"
    return [(NOTHING, text)] if len(hidden) else []


def pairs_picture(subject: Subject, features: Sequence[int], path: Path) -> None:
    """Write a matrix of features: ellipses and rows below the diagonal, densities of one on it and of two above."""
    n = len(features)
    side = min(1.5 + 1.4 / n, 20 / n)
    with picture(path, side * n + 0.6, side * n + 0.6) as figure:
        panels = figure.subplots(n, n, squeeze=False)
        for i, vertical in enumerate(features):
            for j, horizontal in enumerate(features):
                draw_panel(panels[i, j], subject, i, j, horizontal, vertical)
                finish_panel(panels[i, j], is_first=j == 0, is_last=i == n - 1, is_diagonal=i == j)
            set_name(panels[-1, i].set_xlabel, subject.name(vertical), 18)
            set_name(panels[i, 0].set_ylabel, subject.name(vertical), 18)
        figure.align_labels()
        entries = zip(*pair_entries(subject.view(*features[:2])), strict=True)
        figure.legend(*entries, loc="outside upper left", ncols=2 if n < 4 else 3, **LEGEND)


def draw_panel(ax: Axes, subject: Subject, i: int, j: int, horizontal: int, vertical: int) -> None:
    """Draw the panel in row i and column j of the matrix."""
    if i == j:
        draw_curves(ax, subject.view(horizontal))
        return
    view = subject.view(horizontal, vertical)
    if i < j:
        draw_shades(ax, view, GRID_OF_PAIR)
    else:
        draw_rows(ax, view, 30)
        draw_ellipses(ax, view, 0.6)


def finish_panel(ax: Axes, *, is_first: bool, is_last: bool, is_diagonal: bool) -> None:
    """Few ticks, with numbers in the first column and the last row alone."""
    ax.tick_params(labelsize=7, labelbottom=is_last, labelleft=is_first and not is_diagonal)
    ax.xaxis.set_major_locator(MaxNLocator(3))
    ax.yaxis.set_major_locator(MaxNLocator(3))
    if is_diagonal:
        ax.set_yticks([])


def sizes_picture(mixture: Mixture, path: Path) -> None:
    """Write a picture of the weights in descending order, with the numbers of the components."""
    order = np.argsort(-mixture.weights, kind="stable")
    with picture(path, 6.4, 3.4) as figure:
        ax = figure.add_subplot()
        (draw_bars if len(order) <= MOST_BARS else draw_ranks)(ax, order, mixture.weights[order])
        ax.axhline(1 / len(order), color=BLACK, linewidth=0.8, linestyle=DASHES, zorder=0.5)
        ax.annotate(
            "equal weights", (1, 1 / len(order)), (-2, 2), xycoords=("axes fraction", "data"),
            textcoords="offset points", ha="right", fontsize=8,
        )  # fmt: skip
        ax.set_ylabel("weight")


def draw_bars(ax: Axes, order: Indices, weights: FloatArray) -> None:
    ax.bar(np.arange(len(order)), weights, color=BLUE, width=0.75)
    ax.set_xticks(np.arange(len(order)), [str(k) for k in order], fontsize=9 if len(order) <= 25 else 6.5)
    ax.tick_params(axis="x", length=0)
    ax.set(xlim=(-0.6, len(order) - 0.4), xlabel="number of the component")


def draw_ranks(ax: Axes, order: Indices, weights: FloatArray) -> None:
    used = weights > 0
    ax.plot(np.arange(1, len(order) + 1)[used], weights[used], color=BLUE)
    ax.set_yscale("log")
    ax.set(xlim=(0, len(order) + 1), xlabel=f"rank of the component by weight, of {len(order):,}")
    text = f"largest: {numbers(order[:5])}\nsmallest: {numbers(order[used][-5:])}"
    if not used.all():
        text += f"\nof weight zero: {counted(int((~used).sum()), 'component')}"
    ax.annotate(text, (0.99, 0.97), xycoords="axes fraction", fontsize=8.5, ha="right", va="top")


def numbers(components: Indices) -> str:
    return ", ".join(map(str, components))
