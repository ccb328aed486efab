"""Options of glibc's malloc: whether memory that the program frees goes back to the operating system.

Nothing is set unless the process belongs to mpigmm: a program that calls mpigmm as a library keeps its own settings.
"""

from __future__ import annotations

import ctypes

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
"""Numbers of the options, from malloc.h."""

SMALLEST_RETURNED = 1 << 20
LARGEST_KEPT = 1 << 25


class Ownership:
    """Whether the process was started to run mpigmm.

    Attributes
    ----------
    is_ours : bool
    """

    is_ours = False


PROCESS = Ownership()


def return_freed_memory() -> None:
    """Have malloc return the memory of arrays of `SMALLEST_RETURNED` bytes and more as soon as they are freed.

    For the time before the first iteration: the sample for the first mixture is large and short-lived.
    """
    set_malloc(M_MMAP_THRESHOLD, SMALLEST_RETURNED)


def keep_freed_memory() -> None:
    """Have malloc keep the memory of freed arrays of up to `LARGEST_KEPT` bytes for later arrays.

    For the iterations, which all need arrays of the same sizes. Obtaining these from the operating system, which clears
    every page, would take longer than the computation with them.
    """
    set_malloc(M_MMAP_THRESHOLD, LARGEST_KEPT)
    set_malloc(M_TRIM_THRESHOLD, (1 << 31) - 1)


def set_malloc(option: int, value: int) -> None:
    """Set an option by mallopt(3), if the process is ours; does nothing where the C library has no such function."""
    if not PROCESS.is_ours:
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(option, value)
