"""The operations on a tile that no BLAS has, in NumPy, in C for several sets of instructions, and in CUDA.

`base` says what operations there are. Those of the host have names, by which a run finds the ones that it began with;
`cuda` has those of a GPU, and is imported where there is one.
"""

from __future__ import annotations

from mpigmm.core.ops.base import Ops
from mpigmm.core.ops.compiled import CompiledOps
from mpigmm.core.ops.library import COMPILED, best_compiled
from mpigmm.core.ops.numpy import NUMPY

OPS_NAMES = (NUMPY.name, *COMPILED)
"""Names of all operations of the host, from slow to fast."""


def best_ops() -> str:
    """Name of the fastest operations that this installation has for this processor."""
    return best_compiled() or NUMPY.name


def ops_by_name(name: str) -> Ops:
    """The operations of that name, one of `OPS_NAMES`; raises `ImportError`."""
    if name == NUMPY.name:
        return NUMPY
    if name not in COMPILED:
        raise ImportError("this version does not know them")
    return CompiledOps(name)
