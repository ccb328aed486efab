"""Datasets by name, and groups that stand for one in files of openPMD."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from typing import Any, TypeAlias

import h5py
import numpy as np

from mpigmm.data.datasets import get_dataset
from mpigmm.data.row_files import READ_ERRORS
from mpigmm.errors import DataError

CONSTANT = ("value", "shape")
"""Attributes of a group in openPMD that stands for a dataset of this shape, in which all entries have this value."""


@dataclass(frozen=True)
class ConstantComponent:
    """A group of openPMD that stands for a dataset in which all entries are equal; it has a dataset's attributes."""

    group: h5py.Group
    shape: tuple[int, ...]
    value: np.generic

    @property
    def name(self) -> str:
        return str(self.group.name)

    @property
    def file(self) -> h5py.File:
        return self.group.file

    @property
    def id(self) -> Any:
        return self.group.id

    @property
    def ndim(self) -> int:
        return len(self.shape)

    @property
    def dtype(self) -> np.dtype[Any]:
        return self.value.dtype


Item: TypeAlias = "h5py.Dataset | ConstantComponent"


def constant_component(file: h5py.File, name: str) -> ConstantComponent | None:
    """The constant component of this name; None where there is none."""
    with suppress(*READ_ERRORS):
        value, shape = (np.ravel(file[name].attrs[attribute]) for attribute in CONSTANT)
        if shape.dtype.kind in "iu" and shape.min() >= 0:
            return ConstantComponent(file[name], tuple(shape.tolist()), value[0])
    return None


def get_item(file: h5py.File, path: str, name: str) -> Item:
    """The dataset of this name, or what stands for one; raises `DataError`."""
    try:
        return get_dataset(file, path, name)
    except DataError:
        component = constant_component(file, name)
        if component is None:
            raise
        return component
