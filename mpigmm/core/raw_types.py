"""The dtypes of rows that the array operations read without a conversion to float64."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np

from mpigmm.core.arrays import DOUBLE

HEADER = Path(__file__).with_suffix(".h").read_text()
"""The table of these types as text; the C and CUDA sources include it."""

RAW_TYPES = tuple(re.findall(r"^ +F\((\w+), [\w ]+, argument\)", HEADER, re.MULTILINE))
"""NumPy's codes of the types. The index of a code in this tuple is the number of the type in C."""


def is_raw(dtype: np.dtype[Any]) -> bool:
    """Whether array operations read rows of this dtype without a conversion."""
    return dtype.isnative and dtype.str[1:] in RAW_TYPES


def raw_dtype(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """The dtype in which array operations read rows of a dtype: the same, or float64 where it is none of
    `RAW_TYPES`."""
    return dtype if is_raw(dtype) else DOUBLE
