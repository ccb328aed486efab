"""Files that `fit` reads as they are: .npy, Parquet and HDF5 (``/X``)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

from numpy.typing import NDArray

from mpigmm.data.conversion.base import BLOCK_BYTES, Columns, InputFile, Part, ReadOptions
from mpigmm.data.file_source import FileHeader, FileSource, read_header
from mpigmm.data.formats import PARQUET
from mpigmm.data.row_files import DATASET
from mpigmm.rows import VALUES, Field

ROWS_BYTES = 1 << 26
"""Size of the values of a part."""


@dataclass(frozen=True)
class RowsFile(InputFile):
    """A file of rows; a part of a Parquet file is a row group.

    Attributes
    ----------
    header : FileHeader
    ends : tuple of int
        For each part, the number of the first row after it.
    """

    header: FileHeader
    ends: tuple[int, ...]

    def parts(self) -> list[Part]:
        return [
            Part(start, stop, (stop - start) * self.header.row_bytes, stop - start)
            for start, stop in pairwise((0, *self.ends))
        ]

    def read(self, part: Part, columns: Sequence[int]) -> Iterator[NDArray[Any]]:
        own = self.header.columns
        chosen = tuple(columns) if own is None else tuple(own[column] for column in columns)
        fields = {VALUES: Field(self.dtype, len(chosen))}
        header = replace(self.header, columns=chosen, selections=(chosen,), fields=fields, feature_names=None)
        source, step = FileSource(header), max(1, BLOCK_BYTES // header.row_bytes)
        for start in range(part.start, part.stop, step):
            yield source.read(start, min(part.stop, start + step)).values


def open_rows(path: str, options: ReadOptions) -> RowsFile:
    """Describe a file. Raises `DataError`."""
    header = read_header([path], DATASET)
    columns = Columns(header.n_features, header.feature_names)
    if header.formats[0] == PARQUET:
        from mpigmm.data.parquet_file import ParquetTable

        return RowsFile(path, header.dtype, columns, header, tuple(ParquetTable(path).group_ends))
    step = max(1, ROWS_BYTES // header.row_bytes)
    ends = (*range(step, header.n_rows, step), header.n_rows)
    return RowsFile(path, header.dtype, columns, header, ends)
