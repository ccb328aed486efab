"""The compiled libraries, the types of their functions, and their structures.

A library contains the operations of c/ops.c, compiled for one instruction set. The functions, structures and
enumerations here must agree with those of the C files; `INTERFACE` tells whether a library was built from the same
version.
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from functools import lru_cache
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path
from typing import Any, get_args

from mpigmm.core.arrays import DOUBLE, SINGLE
from mpigmm.options import OpsChoice

COMPILED: tuple[str, ...] = get_args(OpsChoice)[2:]
"""Names of the libraries, each with an instruction set that contains the one before; `level` in ops.c returns an index
in this tuple."""

INTERFACE = 10
"""Version of the arguments of the C functions and of the sizes of their arrays; `interface` in ops.c returns it."""


class Real:
    """In the table of functions: the C type of the precision, double or float."""


Pointer, Size, Int, Double = ctypes.c_void_p, ctypes.c_ssize_t, ctypes.c_int, ctypes.c_double


@dataclass(frozen=True)
class Function:
    """Types of a C function.

    Attributes
    ----------
    arguments : dict
        Types of the arguments by name, in their order.
    result : type or None
        Type of the result.
    """

    arguments: dict[str, type]
    result: Any = None

    def bind(self, library: ctypes.CDLL, name: str, real: type | None = None) -> Any:
        """The function of that name in a library, with `real` in place of `Real`."""
        found = getattr(library, name)
        found.argtypes = [real if kind is Real else kind for kind in self.arguments.values()]
        found.restype = self.result
        return found


ADD = Function(
    {
        "limbs": Pointer,
        "n_limbs": Size,
        "stride": Size,
        "size": Size,
        "values": Pointer,
        "quanta": Pointer,
        "limb_unit": Double,
    }
)
DIFFERENCE_WORK_SIZE = Function({"group": Pointer, "n_features": Size, "stride": Size}, Size)
BOUNDED_WORK_SIZE = Function({"group": Pointer}, Size)
BOUNDED_SWEEP = Function(
    {"tile": Pointer, "group": Pointer, "least": Double, "work": Pointer, "log_likelihood": Pointer}, Int
)
BOUNDED_POSTERIOR = Function(
    {
        "tile": Pointer,
        "group": Pointer,
        "least": Double,
        "is_single": Int,
        "work": Pointer,
        "resp": Pointer,
        "log_density": Pointer,
    },
    Int,
)
LIMIT = Function({}, Size)

FUNCTIONS = {
    "center_transpose": Function(
        {
            "raw": Pointer,
            "kind": Int,
            "n": Size,
            "n_features": Size,
            "n_used": Size,
            "centre": Pointer,
            "out": Pointer,
            "stride": Size,
        }
    ),
    "center": Function(
        {"raw": Pointer, "kind": Int, "n": Size, "n_features": Size, "centre": Pointer, "out": Pointer},
    ),
    "log_sum_exp": Function(
        {"log_prob": Pointer, "n_components": Size, "n": Size, "stride": Size, "log_density": Pointer, "least": Real},
    ),
    "sweep": Function(
        {
            "tile": Pointer,
            "products": Pointer,
            "moments": Pointer,
            "group": Pointer,
            "least": Real,
            "step": Size,
            "work": Pointer,
            "wide": Pointer,
            "blocks": Pointer,
            "chosen": Pointer,
        },
        Double,
    ),
    "product_log_prob": Function(
        {"tile": Pointer, "products": Pointer, "step": Size, "work": Pointer, "out": Pointer},
    ),
    "sums_size": Function({"height": Size, "width": Size}, Size),
    "difference_log_prob": Function(
        {"tile": Pointer, "group": Pointer, "step": Size, "wide": Pointer, "out": Pointer},
    ),
    "difference_moments": Function(
        {"tile": Pointer, "group": Pointer, "step": Size, "wide": Pointer, "chosen": Pointer, "resp": Pointer},
    ),
    "whitened_log_prob": Function(
        {
            "tile": Pointer,
            "n_used": Size,
            "packed": Pointer,
            "size": Size,
            "log_norm": Pointer,
            "n_components": Size,
            "step": Size,
            "work": Pointer,
            "out": Pointer,
        }
    ),
    "pruned_distances": Function(
        {
            "rows": Pointer,
            "n_rows": Size,
            "n_features": Size,
            "rest": Pointer,
            "n_rest": Size,
            "stride": Size,
            "n_components": Size,
            "highest": Real,
            "nats": Real,
            "most": Size,
            "out": Pointer,
            "work": Pointer,
            "best": Pointer,
            "chosen": Pointer,
        },
        Int,
    ),
    "pruned_moments": Function(
        {
            "rows": Pointer,
            "n_rows": Size,
            "n_features": Size,
            "resp": Pointer,
            "means": Pointer,
            "n_components": Size,
            "least": Pointer,
            "scaled": Pointer,
            "panel": Size,
            "roots": Pointer,
            "at_once": Size,
            "scatter": Pointer,
            "stride": Size,
            "relevant": Pointer,
            "chosen": Pointer,
            "first_moments": Pointer,
            "second_moments": Pointer,
        }
    ),
}
"""The functions that exist once for each precision; in C their names end in `_double` or `_single`."""

PRECISIONS = {DOUBLE: ("double", ctypes.c_double), SINGLE: ("single", ctypes.c_float)}


class RowsStructure(ctypes.Structure):
    """struct rows in ops.c."""

    _fields_ = (
        ("raw", Pointer),
        ("kind", Int),
        ("row_bytes", Size),
        ("n_rows", Size),
        ("n_features", Size),
        ("centre", Pointer),
        ("sample_weight", Pointer),
        ("max_sample_weight", Double),
    )


class ProductsStructure(ctypes.Structure):
    """struct products in ops.c."""

    _fields_ = (
        ("n_components", Size),
        ("n_lines", Size),
        ("kind", Int),
        ("whiten", Pointer),
        ("coefficients", Pointer),
        ("sums", Pointer),
        ("scatter", Pointer),
    )


class DifferencesStructure(ctypes.Structure):
    """struct differences in differences.h."""

    _fields_ = (
        ("n_components", Size),
        ("form", Int),
        ("second_moments", Int),
        ("means", Pointer),
        ("subtracted", Pointer),
        ("factors", Pointer),
        ("whiten", Pointer),
        ("log_norm", Pointer),
        ("least", Pointer),
        ("counts", Pointer),
        ("first", Pointer),
        ("second", Pointer),
    )


class BoundedStructure(ctypes.Structure):
    """struct bounded in bounded.h."""

    _fields_ = (
        ("n_components", Size),
        ("width", Size),
        ("n_leading", Size),
        ("nats", Double),
        ("most_share", Double),
        ("leading", Pointer),
        ("units", Pointer),
        ("scales", Pointer),
        ("offsets", Pointer),
        ("constants", Pointer),
        ("is_tight", Pointer),
        ("minor_nats", Double),
        ("stretch", Double),
        ("minor_offsets", Pointer),
        ("minor_means", Pointer),
        ("minor_scale", Pointer),
        ("single_width", Size),
        ("whiten", Pointer),
        ("means", Pointer),
        ("subtracted", Pointer),
        ("roots", Pointer),
        ("log_norm", Pointer),
        ("counts", Pointer),
        ("first", Pointer),
        ("second", Pointer),
        ("scatter", Pointer),
    )


SCALED, SHARED, FACTORED = range(3)
"""How squared distances are computed: see differences.h."""


@lru_cache
def load_library(name: str) -> ctypes.CDLL:
    """The library of a name in `COMPILED`; raises `ImportError` if it does not exist or cannot be loaded."""
    for suffix in EXTENSION_SUFFIXES:
        path = Path(__file__).with_name(f"_ops_{name.removeprefix('compiled-')}{suffix}")
        if path.exists():
            try:
                found = ctypes.CDLL(str(path))
                if found.interface() == INTERFACE:
                    return found
            except (OSError, AttributeError) as error:
                raise ImportError(str(error)) from None
            raise ImportError(f"{path.name} is another version's; install mpigmm anew")
    raise ImportError("mpigmm was installed without a C compiler, or with one that does not know these instructions")


def best_compiled() -> str | None:
    """Name of the last library in `COMPILED` that was built and that this processor can execute; None if there is
    none."""
    try:
        most = load_library(COMPILED[0]).level()
    except ImportError:
        return None
    for name in reversed(COMPILED[: most + 1]):
        try:
            load_library(name)
        except ImportError:
            continue
        return name
    return None
