"""The types of number that rows may have in a file without being converted first."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np

from mpigmm.core.arrays import DOUBLE

HEADER = Path(__file__).with_suffix(".h").read_text()
"""The table of types as the C and the CUDA operations include it."""

RAW_TYPES = tuple(re.findall(r"^ +F\((\w+), [\w ]+, argument\)", HEADER, re.MULTILINE))
"""NumPy's codes of the types; the place of a code in this tuple is the type's number in C."""


def is_raw(dtype: np.dtype[Any]) -> bool:
    """Whether rows of a type are read as they are."""
    return dtype.isnative and dtype.str[1:] in RAW_TYPES


def raw_dtype(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """The type in which rows of a type are read: their own, or float64 where the operations do not know it."""
    return dtype if is_raw(dtype) else DOUBLE
