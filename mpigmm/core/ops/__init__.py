"""Array operations on tiles that BLAS does not have, in NumPy, in C for several instruction sets, and in CUDA.

`base` defines the operations. Those of the host have names, so that a resumed run uses the same ones. `cuda` contains
those of a GPU and is imported only if there is a GPU.
"""

from __future__ import annotations

from functools import cache

from mpigmm.core.ops.base import Ops
from mpigmm.core.ops.compiled import CompiledOps
from mpigmm.core.ops.libraries import COMPILED, best_compiled
from mpigmm.core.ops.numpy import NUMPY

OPS_NAMES = (NUMPY.name, *COMPILED)
"""Names of all array operations of the host, from the slowest to the fastest."""


def best_ops() -> str:
    """Name of the fastest array operations that are installed and that this processor can execute."""
    return best_compiled() or NUMPY.name


def ops_by_name(name: str) -> Ops:
    """The array operations of a name in `OPS_NAMES`; raises `ImportError` if they cannot be used."""
    if name == NUMPY.name:
        return NUMPY
    if name not in COMPILED:
        raise ImportError("this version does not know them")
    return compiled(name)


@cache
def compiled(name: str) -> CompiledOps:
    """The operations in C of a name; their functions are looked up once, and they keep no state."""
    return CompiledOps(name)
