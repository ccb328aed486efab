"""Packed numbers of NetCDF variables: attributes that say what a stored number stands for.

The attributes and their meaning are those of the CF Metadata Conventions, section 8.1, "Packed Data", and section
2.5.1, "Missing data". They count in any HDF5 file.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from mpigmm.errors import DataError, shown

FACTOR, OFFSET = "scale_factor", "add_offset"
MARKERS = ("_FillValue", "missing_value")
UNSIGNED = "_Unsigned"


@dataclass(frozen=True, eq=False)
class Packing:
    """How the values of a dataset are computed from the numbers that it stores.

    Attributes
    ----------
    stored : dtype
        Of the stored numbers. It differs from that of the dataset where the attribute ``_Unsigned`` says that signed
        integers stand for unsigned ones.
    dtype : dtype
        Of the values.
    missing : ndarray of shape (m,)
        Stored numbers that stand for a missing value, which is NaN.
    factor, offset : float or None
        A value is the stored number times the factor plus the offset, computed in `dtype`.
    """

    stored: np.dtype[Any]
    dtype: np.dtype[Any]
    missing: NDArray[Any]
    factor: float | None
    offset: float | None

    def unpack(self, raw: NDArray[Any]) -> NDArray[Any]:
        """The values of stored numbers; a new array of the same shape."""
        raw = raw.view(self.stored)
        values = raw.astype(self.dtype)
        if self.factor is not None:
            values *= self.dtype.type(self.factor)
        if self.offset is not None:
            values += self.dtype.type(self.offset)
        for number in self.missing:
            values[raw == number] = np.nan
        return values


def packing_of(dataset: h5py.Dataset, path: str) -> Packing | None:
    """How a dataset of integers or floats is packed; None where its numbers are its values. Raises `DataError`."""
    stored: np.dtype[Any] = dataset.dtype
    if stored.kind == "i" and str(_text(dataset.attrs.get(UNSIGNED))).lower() == "true":
        stored = np.dtype(stored.str.replace("i", "u"))
    factors = {name: _numbers(dataset, name, path)[:1] for name in (FACTOR, OFFSET) if name in dataset.attrs}
    given = [_numbers(dataset, name, path) for name in MARKERS if name in dataset.attrs]
    markers = [each.view(stored) if each.dtype == dataset.dtype else each for each in given]
    missing = np.array([n for each in markers for n in each.tolist() if _is_stored(n, stored)], stored)
    dtype = _dtype_of_values(stored, [number.dtype for number in factors.values()], is_masked=bool(markers))
    if stored == dataset.dtype and not factors and not (missing.size or dtype != stored):
        return None
    factor, offset = (float(factors[name][0]) if name in factors else None for name in (FACTOR, OFFSET))
    return Packing(stored, dtype, missing, factor, offset)


def _numbers(dataset: h5py.Dataset, name: str, path: str) -> NDArray[Any]:
    """The numbers of an attribute, as a vector; raises `DataError` where it holds none."""
    value = dataset.attrs[name]
    found = np.ravel(np.empty(0) if isinstance(value, h5py.Empty) else value)
    if found.dtype.kind not in "iuf" or not found.size:
        raise DataError(
            f"{shown(dataset.name)} in {shown(path)} has the attribute {name} {shown(_text(value))!r}, which is no "
            "number; mend or remove it"
        )
    return found


def _text(value: object) -> object:
    return value.decode(errors="replace") if isinstance(value, bytes) else value


def _is_stored(number: float, stored: np.dtype[Any]) -> bool:
    """Whether a dtype has a number, and comparing with it finds anything: NaN is missing already."""
    if stored.kind == "f":
        return (number == number and abs(number) <= float(np.finfo(stored).max)) or abs(number) == np.inf
    limits = np.iinfo(stored)
    return abs(number) < np.inf and number == int(number) and limits.min <= number <= limits.max


def _dtype_of_values(stored: np.dtype[Any], factors: list[np.dtype[Any]], *, is_masked: bool) -> np.dtype[Any]:
    """The dtype of values: with a factor or offset that of these, float32 or float64, and at least that of the numbers
    if they are floats; with a missing value alone, integers become float64."""
    native = stored.newbyteorder("=")
    if factors:
        is_single = all(factor.kind == "f" and factor.itemsize <= 4 for factor in factors)
        wanted = np.dtype(np.float32 if is_single else np.float64)
        return np.result_type(wanted, native) if native.kind == "f" else wanted
    return np.dtype(np.float64) if is_masked and native.kind != "f" else native
