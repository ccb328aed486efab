"""How loops are compiled.

Numba keeps what it compiled as long as the function's own file does not change: compiled functions that call one
another, or share constants, stand in one file.
"""

from __future__ import annotations

from typing import Any

import numba


def compiled(function: Any, *more: str) -> Any:
    """Compile at the first call; releases Python's lock. A product and a sum may be fused, nothing else be altered."""
    options: dict[str, Any] = {"nogil": True, "error_model": "numpy", "fastmath": {"contract", *more}}
    try:
        return numba.njit(function, cache=True, **options)
    except RuntimeError:  # no directory to keep it in
        return numba.njit(function, **options)


def compiled_freely(function: Any) -> Any:
    """The same for sums whose order is left to the compiler."""
    return compiled(function, "reassoc")
