"""Work on many arrays of one size, a few at a time, so that what is computed in between stays in the cache."""

from __future__ import annotations

from collections.abc import Iterator

ENTRIES_AT_ONCE = 1 << 15
"""Number of entries, a quarter of a megabyte of float64, of the arrays that are processed at a time."""


def chunks(n_arrays: int, size: int) -> Iterator[slice]:
    """Slices of n_arrays arrays of a size: as many arrays at a time as have `ENTRIES_AT_ONCE` entries, at least one."""
    step = max(1, ENTRIES_AT_ONCE // size)
    for start in range(0, n_arrays, step):
        yield slice(start, min(start + step, n_arrays))
