"""The components of a mixture as a table for people."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mpigmm.core.exact import FloatArray
from mpigmm.core.mixture import Mixture
from mpigmm.runs.text_table import WIDTH, aligned

MOST_COMPONENTS, MOST_FEATURES, MOST_LETTERS = 30, 16, 12
"""Components and features in the table, and letters of a feature's name."""

SKIPPED = "..."


def component_table(mixture: Mixture, n_samples: int = 0, names: Sequence[str] | None = None) -> list[str]:
    """Lines with weight, size, condition number, mean and standard deviations of each component.

    Of many components only the largest are shown, and of many features the first and the last.

    Parameters
    ----------
    mixture : Mixture
    n_samples : int
        Number of rows of the fit, for the sizes: the expected number of rows of each component. 0: not known.
    names : sequence of str, optional
        Of the features, which have numbers by default.
    """
    components, headings = shown_components(mixture), names or [str(i) for i in range(mixture.n_features)]
    first = component_block(mixture, components, n_samples)
    for n_shown in range(min(mixture.n_features, MOST_FEATURES), 0, -1):
        features = shown_features(mixture.n_features, n_shown)
        blocks = [
            feature_block(caption, values[components], features, headings)
            for caption, values in (("mean", mixture.means), ("standard deviation", np.sqrt(mixture.variances)))
        ]
        lines = ["    ".join(parts).rstrip() for parts in zip(first, *blocks, strict=True)]
        if max(map(len, lines)) <= WIDTH:
            break
    return [*lines, *left_out(mixture, len(components), features)]


def shown_components(mixture: Mixture) -> list[int]:
    """The numbers of all components in order or, of too many, of the largest, the largest first."""
    if mixture.n_components <= MOST_COMPONENTS:
        return list(range(mixture.n_components))
    return [int(k) for k in np.argsort(-mixture.weights, kind="stable")[:MOST_COMPONENTS]]


def shown_features(n_features: int, n_shown: int) -> list[int | None]:
    """The numbers of all features, or of the first and the last with None between them for those left out."""
    if n_shown == n_features:
        return list(range(n_features))
    return [*range(n_shown - 1), None, n_features - 1] if n_shown > 1 else [0, None]


def component_block(mixture: Mixture, components: list[int], n_samples: int) -> list[str]:
    """The lines of the columns with one number for each component, all of one length."""
    columns = [["component", *map(str, components)], ["weight", *map(number, mixture.weights[components])]]
    if n_samples:
        columns.append(["size", *(f"{n_samples * weight:,.0f}" for weight in mixture.weights[components])])
    return block("", [*columns, ["condition", *map(number, mixture.condition_numbers[components])]])


def feature_block(caption: str, values: FloatArray, features: list[int | None], headings: Sequence[str]) -> list[str]:
    """The lines of the columns of some features, with the values (components, D); None stands for those left out."""
    skipped = [SKIPPED] * (1 + len(values))
    return block(
        caption,
        [skipped if i is None else [headings[i][:MOST_LETTERS], *map(number, values[:, i])] for i in features],
    )


def block(caption: str, columns: list[list[str]]) -> list[str]:
    """Columns as lines of one length, below a caption."""
    lines = [caption, *aligned([*zip(*columns, strict=True)])]
    width = max(map(len, lines))
    return [line.ljust(width) for line in lines]


def number(value: float) -> str:
    return f"{value:.5g}"


def left_out(mixture: Mixture, n_components: int, features: list[int | None]) -> list[str]:
    """A line that tells how much of the mixture is not shown; none where all of it is."""
    n_features = len([i for i in features if i is not None])
    parts = []
    if n_components < mixture.n_components:
        parts.append(f"the {n_components} largest of {mixture.n_components:,} components")
    if n_features < mixture.n_features:
        parts.append(f"{n_features} of {mixture.n_features:,} features")
    return [f"shown are {' and '.join(parts)}; --json prints all"] if parts else []
