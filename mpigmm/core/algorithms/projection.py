"""The limit of an objective that still rises, projected from its last changes.

EM converges linearly (Dempster, Laird and Rubin, J. R. Stat. Soc. B 39, 1977, section 3): near its end each change of
the objective is a constant ratio a of the one before. The changes after the change c then add up to

    a c + a^2 c + ... = c a / (1 - a),

which is Aitken's acceleration (Boehning, Dietz, Schaub, Schlattmann and Lindsay, Ann. Inst. Statist. Math. 46, 1994;
McLachlan and Krishnan, The EM Algorithm and Extensions, 2008, section 4.9).

Long before its end the ratio still rises, because the fast parts of the change die out first, and the last ratio
projects too little. A ratio that rises is therefore extrapolated.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from mpigmm.options import EmOptions

N_RATIOS = 2
"""Number of last ratios that decide."""

FURTHER = 2.0
"""Assumed further rise of a ratio, in units of its last rise: the sum if each rise is two thirds of the one before."""

Changes = tuple[float, ...]
"""The last changes of an objective, the newest last, all of one start and since its last repair."""


def with_change(changes: Changes, change: float | None) -> Changes:
    """The last changes after one more, as many as a projection needs; none where the new one is unknown."""
    return () if change is None else (*changes, change)[-1 - N_RATIOS :]


def projected_gain(changes: Sequence[float]) -> float | None:
    """How far the projected limit of the objective is above its value after these changes.

    It is None where it is unknown: after fewer changes than it needs, and where the ratios or their extrapolation are
    not in [0, 1). After a change of zero it is zero.

    Parameters
    ----------
    changes : sequence of float
        As `with_change` keeps them.
    """
    if changes and changes[-1] == 0:
        return 0.0
    if len(changes) <= N_RATIOS or 0 in changes:
        return None
    last, newest = (new / old for old, new in pairwise(changes))
    ratio = max(last, newest + FURTHER * max(newest - last, 0.0))
    return changes[-1] * ratio / (1 - ratio) if min(last, newest) >= 0 and ratio < 1 else None


def has_converged(changes: Changes, em: EmOptions) -> bool:
    """Whether the last iteration changed the objective by less than the tolerance; the first one, and one with a
    repair, have no change. Under the criterion aitken the projected gain must be below the tolerance as well."""
    if not changes or abs(changes[-1]) >= em.tol:
        return False
    gain = projected_gain(changes)
    return em.criterion == "change" or (gain is not None and abs(gain) < em.tol)
