"""Which part of a mixture and of its rows a picture shows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mpigmm.core.exact import FloatArray
from mpigmm.core.marginal import quantile
from mpigmm.core.mixture import Mixture
from mpigmm.data.row_sample import NO_ROWS, PictureRows
from mpigmm.errors import ConfigError

OUTSIDE, MOST_EMPTY = (0.002, 0.02), 5
"""Share of the probability beyond each limit of a picture; the second where the first would make the picture more than
`MOST_EMPTY` times as large."""

MARGIN = 0.06
LEAST_MARGIN = 1e-9
"""Margin of a picture, as a share of the distance of its limits; and its least value, as a share of the limits
themselves, so that numbers between them differ."""

MOST_POINTS = 4000
"""Rows that are drawn as points; more are counted in hexagons."""


@dataclass(frozen=True, eq=False)
class View:
    """One or two features of a mixture and of rows.

    Attributes
    ----------
    mixture : Mixture
        Of these features alone.
    names : list of str
    rows : ndarray of shape (n, number of features)
    n_rows : int
        Number of rows of which these are a sample.
    box : ndarray of shape (number of features, 2)
        Lower and upper limits of the picture.
    """

    mixture: Mixture
    names: list[str]
    rows: FloatArray
    n_rows: int
    box: FloatArray

    @property
    def has_many_rows(self) -> bool:
        return len(self.rows) > MOST_POINTS

    @property
    def hidden(self) -> FloatArray:
        """Weights of the components whose means lie outside the limits."""
        inside = (self.box[:, 0] <= self.mixture.means) & (self.mixture.means <= self.box[:, 1])
        return self.mixture.weights[~inside.all(axis=1)]


@dataclass(frozen=True, eq=False)
class Subject:
    """A mixture, and rows beside it.

    Attributes
    ----------
    mixture : Mixture
    names : sequence of str, or None
        Names of the D features, where known.
    rows : PictureRows
        With the features that are looked at, or with none where there are no rows.
    """

    mixture: Mixture
    names: Sequence[str] | None = None
    rows: PictureRows = NO_ROWS

    def name(self, feature: int) -> str:
        return self.names[feature] if self.names else f"feature {feature}"

    def view(self, *features: int) -> View:
        """Some features, in this order."""
        own = np.array(features, np.intp)
        mixture = self.mixture.marginal(own)
        columns = self.rows.columns
        rows = np.stack([columns[each] for each in features], axis=1) if columns else np.empty((0, len(own)))
        return View(mixture, [self.name(each) for each in features], rows, self.rows.n_rows, limits(mixture, rows))


def check_features(name: str, features: Sequence[object], n_features: int, most: int) -> None:
    """Raise `ConfigError`, which names the argument, unless these are 1 to `most` different features of a mixture."""
    wrong = [each for each in features if not (isinstance(each, (int, np.integer)) and 0 <= each < n_features)]
    if wrong:
        has = f"has features 0 to {n_features - 1}" if n_features > 1 else "has feature 0 alone"
        raise ConfigError(f"{name}: {wrong[0]!r} is not the number of a feature; the mixture {has}")
    if not 0 < len(set(features)) == len(features) <= most:
        raise ConfigError(f"{name}: {list(features)} is not valid; name at most {most} features, each once")


def limits(mixture: Mixture, rows: FloatArray) -> FloatArray:
    """Lower and upper limits (D, 2) that show nearly all of the mixture and of the rows (n, D), and a margin.

    Components far from all others are left out where the others would be too small to see.
    """
    wide, narrow = (limits_without(share, mixture, rows) for share in OUTSIDE)
    size, enough = (box[:, 1:] - box[:, :1] for box in (wide, narrow))
    box = np.where(size > MOST_EMPTY * enough, narrow, wide)
    size = box[:, 1:] - box[:, :1]
    margin = np.maximum(MARGIN * size, LEAST_MARGIN * np.abs(box).max(axis=1, keepdims=True))
    return np.asarray(box + margin * [-1, 1])


def limits_without(share: float, mixture: Mixture, rows: FloatArray) -> FloatArray:
    """Limits (D, 2) beyond each of which lie at most this share of the mixture and at most this share of the rows."""
    shares = [share, 1 - share]
    box = np.array([[quantile(mixture, d, each) for each in shares] for d in range(mixture.n_features)])
    if len(rows):
        low, high = np.quantile(rows, shares, axis=0)
        box = np.stack([np.minimum(box[:, 0], low), np.maximum(box[:, 1], high)], axis=1)
    return box
