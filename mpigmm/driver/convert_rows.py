"""Files of rows in other formats, written as one HDF5 dataset by all ranks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mpigmm.data.conversion.base import InputFile, Part
from mpigmm.data.conversion.selection import Selection
from mpigmm.data.output import RowWriter
from mpigmm.driver.shared_work import Check, SharedWork
from mpigmm.errors import DataError, shown
from mpigmm.runs.row_progress import RowProgress


@dataclass(frozen=True)
class Conversion:
    """What all ranks are to do.

    Attributes
    ----------
    files : sequence of InputFile
    selection : Selection
    dtype : str
        Of the output.
    arcsinh : float or None
        Number by which values are divided before their inverse hyperbolic sine is taken; None: they are kept.
    parts : sequence of (int, Part)
        All parts in order, each with the number of its file.
    """

    files: Sequence[InputFile]
    selection: Selection
    dtype: str
    arcsinh: float | None
    parts: Sequence[tuple[int, Part]] = ()

    @property
    def lengths(self) -> list[int]:
        """Number of rows in each part."""
        return [part.n_rows or 0 for _, part in self.parts]

    @property
    def n_rows(self) -> int:
        return sum(self.lengths)

    @property
    def n_columns(self) -> int:
        return len(self.selection.numbers[0])

    def read(self, number: int) -> Iterator[NDArray[Any]]:
        """The rows of a part, in blocks. Raises `DataError`."""
        index, part = self.parts[number]
        for block in self.files[index].read(part, self.selection.numbers[index]):
            values = block.astype(self.dtype, copy=False)
            yield values if self.arcsinh is None else np.arcsinh(values / np.dtype(self.dtype).type(self.arcsinh))


def with_parts(work: SharedWork, conversion: Conversion) -> Conversion:
    """The conversion with all parts, whose rows are counted. Collective; raises `AgreedError`."""
    files, parts = list(conversion.files), [each.parts() for each in conversion.files]
    for index in count_rows(work, files, parts):
        files[index] = files[index].uncut()
        parts[index] = files[index].parts()
    count_rows(work, files, parts)
    numbered = [(i, part) for i, file in enumerate(files) for part in file.numbered(parts[i])]
    found = replace(conversion, files=files, parts=numbered)
    with work.comm.together():
        if not found.n_rows:
            raise DataError(f"{', '.join(shown(each.path) for each in files[:3])}{', ...' * (len(files) > 3)}: no rows")
    return found


def count_rows(work: SharedWork, files: Sequence[InputFile], parts: list[list[Part]]) -> list[int]:
    """Count the rows of all parts in which they are not counted; returns the files that cannot be cut. Collective."""
    todo = [(i, k) for i, own in enumerate(parts) for k, part in enumerate(own) if part.n_rows is None]
    counted: dict[tuple[int, int], Part | None] = {}
    progress = RowProgress("convert: counting rows", work.stop.pace)

    def count(piece: int, check: Check) -> None:
        i, k = todo[piece]
        counted[i, k] = files[i].count(parts[i][k], check)
        work.stop.pace.step(parts[i][k].n_bytes)
        if work.comm.is_root:
            progress.step()

    work.run([parts[i][k].n_bytes for i, k in todo], count)
    uncut = set()
    for (i, k), part in (item for each in work.comm.allgather(counted) for item in each.items()):
        if part is None:
            uncut.add(i)
        else:
            parts[i][k] = part
    return sorted(uncut)


def convert_rows(work: SharedWork, conversion: Conversion, dataset: str, writer: RowWriter) -> None:
    """Write the rows of all parts that are not finished to a dataset. Collective; raises `AgreedError`."""
    lengths = conversion.lengths
    first_rows = list(accumulate(lengths, initial=0))
    todo = [number for number in range(len(lengths)) if not writer.is_finished(number)]

    def convert(piece: int, check: Check) -> None:
        number = todo[piece]
        row = first_rows[number]
        for block in conversion.read(number):
            check()
            writer.write(dataset, row, block)
            row += len(block)
            work.stop.pace.step(len(block))
        writer.finish(number)

    work.run([lengths[number] for number in todo], convert)
