"""Other files that contain a dataset's values: sources of a virtual dataset, and files of external storage.

HDF5 returns the fill value for a source that it cannot open, and zeros for bytes that are missing at the end of
external storage, in both cases without an error. So every such file is checked before and after it is read.
"""

from __future__ import annotations

import errno
import math
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import h5py

from mpigmm.data.datasets import check_dtype, get_dataset, has_shrunk, identity, load_filters, open_hdf5
from mpigmm.errors import DataError, reason, shown

RESTORE = "it holds rows that would be read as zeros; restore it and run the command again"


@dataclass(frozen=True)
class Origin:
    """A file as it was when it was first checked: name, device, inode, and the size that it must keep."""

    path: str
    device: int
    inode: int
    size: int

    @classmethod
    def of(cls, path: str, size: int | None = None) -> Origin:
        """The file as it is now, which must keep its first `size` bytes, or all; raises OSError."""
        status = Path(path).stat()
        return cls(path, status.st_dev, status.st_ino, status.st_size if size is None else size)

    def check(self) -> None:
        """Raise `DataError` where the file was removed, replaced or shortened since."""
        try:
            now = Origin.of(self.path)
        except OSError as error:
            raise DataError(f"{shown(self.path)} cannot be read any more{reason(error)}; {RESTORE}") from None
        if (now.device, now.inode) != (self.device, self.inode) or now.size < self.size:
            raise DataError(f"{shown(self.path)} was replaced or cut off while it was being read; {RESTORE}")


@dataclass(frozen=True)
class VirtualPart:
    """Rows start to stop - 1 of a virtual dataset, and the source of their values.

    Attributes
    ----------
    start, stop : int
    file, dataset : str
        Names of the source, as the virtual dataset gives them.
    n_values : int
        Number of values that are taken from the source.
    shape : tuple of int or None
        The smallest shape that the source may have; None: all its values are taken, and their number must agree.
    """

    start: int
    stop: int
    file: str
    dataset: str
    n_values: int
    shape: tuple[int, ...] | None

    def origins(self, virtual: h5py.Dataset, above: Sequence[tuple[int, int, int]]) -> list[Origin]:
        """The files that contain these rows, `above` as in `Origins`; raises `DataError` where values are missing."""
        owner = virtual.file.filename
        if self.file == ".":
            return self._inside(virtual.file, owner, virtual, above)
        path = find_source(self.file, owner)
        if path is None:
            raise DataError(
                f"{shown(virtual.name)} in {shown(owner)} is a virtual dataset; its source {shown(self.file)} does not "
                f"exist; {RESTORE}"
            )
        with open_hdf5(path, virtual.file) as file:
            if has_shrunk(file):  # of a file that is open already, HDF5 does not look at the size again
                raise DataError(f"{shown(path)} has shrunk since it was opened; {RESTORE}")
            found = self._inside(file, path, virtual, above)
        return [Origin.of(path), *found]

    def _inside(
        self, file: h5py.File, path: str, virtual: h5py.Dataset, above: Sequence[tuple[int, int, int]]
    ) -> list[Origin]:
        source = get_dataset(file, path, self.dataset)
        check_dtype(source, path)
        load_filters(source, path)
        if not self._is_held_by(source.shape):
            raise DataError(
                f"{shown(virtual.name)} in {shown(virtual.file.filename)} takes {self.n_values:,} values from "
                f"{shown(self.dataset)} in {shown(path)}, which do not stand in its shape {source.shape}; {RESTORE}"
            )
        own = source.file.filename
        linked = [] if own == file.filename else [Origin.of(own)]
        return [*linked, *Origins(source, above).find(0, source.shape[0] if source.shape else 1)]

    def _is_held_by(self, shape: tuple[int, ...]) -> bool:
        if self.shape is None:
            return math.prod(shape) == self.n_values
        return len(shape) == len(self.shape) and all(have >= need for have, need in zip(shape, self.shape, strict=True))


@dataclass(frozen=True)
class RawPart:
    """Rows start to stop - 1 of a dataset with external storage, the file with their bytes, and its smallest size."""

    start: int
    stop: int
    file: str
    size: int

    def origins(self, dataset: h5py.Dataset, above: Sequence[tuple[int, int, int]]) -> list[Origin]:
        """The file; raises `DataError` where it is missing or too short."""
        owner = dataset.file.filename
        path = str(Path(raw_prefix(owner)) / self.file)
        what = f"{shown(path)}, which holds {shown(dataset.name)} of {shown(owner)},"
        try:
            size = Path(path).stat().st_size
        except OSError as error:
            raise DataError(f"{what} cannot be read{reason(error)}; {RESTORE}") from None
        if size < self.size:
            raise DataError(f"{what} has {size:,} bytes of the {self.size:,} that it should have; {RESTORE}")
        return [Origin.of(path, self.size)]


class Origins:
    """All files, besides its own, that contain a dataset's values; each is first checked when its rows are first read.

    Parameters
    ----------
    dataset : h5py.Dataset
    above : sequence of tuple
        Identities of the virtual datasets that take values from this one, directly or by way of others. Raises
        `DataError` where this dataset is among them.
    """

    def __init__(self, dataset: h5py.Dataset, above: Sequence[tuple[int, int, int]] = ()) -> None:
        self.dataset = dataset
        self.above = above
        self._parts: list[VirtualPart | RawPart] = [*_raw_files(dataset)]
        self._found: dict[int, list[Origin]] = {}
        self._is_virtual = bool(dataset.is_virtual)
        if self._is_virtual:
            own = identity(dataset)
            if own in above:
                raise DataError(f"{shown(dataset.name)} in {shown(dataset.file.filename)} is a source of itself")
            self.above = [*above, own]
            self._parts += _sources(dataset)

    def find(self, start: int, stop: int) -> list[Origin]:
        """The files that contain rows start to stop - 1; raises `DataError` for one that is missing or too short."""
        found: list[Origin] = []
        for i, part in enumerate(self._parts):
            if part.start < stop and start < part.stop:
                if i not in self._found:
                    self._found[i] = part.origins(self.dataset, self.above)
                found += self._found[i]
        return found

    def check(self, start: int, stop: int) -> None:
        """Raise `DataError` if a file with rows start to stop - 1 may have been missing when HDF5 read them."""
        for origin in self.find(start, stop):
            origin.check()
        if self._is_virtual:
            self._check_file_limit()

    def _check_file_limit(self) -> None:
        """Raise `DataError` where this process can open no more files.

        HDF5 keeps sources open, and treats one that it cannot open as missing.
        """
        try:
            os.close(os.dup(self.dataset.file.id.get_vfd_handle()))
        except OSError as error:
            if error.errno not in (errno.EMFILE, errno.ENFILE):
                raise
            raise DataError(
                f"{shown(self.dataset.name)} in {shown(self.dataset.file.filename)} has more sources than files may be "
                "open at once; raise the limit (ulimit -n), or run more ranks"
            ) from None


def _sources(dataset: h5py.Dataset) -> Iterator[VirtualPart]:
    """The parts of a virtual dataset, each of which has one source."""
    for mapping in dataset.virtual_sources():
        virtual, source = mapping.vspace, mapping.src_space
        names, growing = (mapping.file_name, mapping.dset_name), _growing_axis(virtual)
        if growing is None:
            start, stop, n_values = _fixed(virtual, dataset)
            yield VirtualPart(start, stop, *_numbered(names, 0), n_values, _extent(source))
        elif _growing_axis(source) is None:
            yield from _series(dataset, names, virtual, growing, _extent(source))
        else:
            taken = _count_indices(virtual, growing, dataset.shape[growing])
            n_values = taken * _across(virtual, growing)
            yield VirtualPart(0, dataset.shape[0], *_numbered(names, 0), n_values, _extent(source, taken))


def _fixed(virtual: h5py.h5s.SpaceID, dataset: h5py.Dataset) -> tuple[int, int, int]:
    """First row, row after the last, and number of values of a selection that is not unlimited."""
    if virtual.get_select_type() == h5py.h5s.SEL_ALL:
        return 0, dataset.shape[0], dataset.size
    n_values = int(virtual.get_select_npoints())
    if not n_values:
        return 0, 0, 0
    low, high = virtual.get_select_bounds()
    return int(low[0]), int(high[0]) + 1, n_values


def _series(
    dataset: h5py.Dataset,
    names: tuple[str, str],
    virtual: h5py.h5s.SpaceID,
    axis: int,
    shape: tuple[int, ...] | None,
) -> Iterator[VirtualPart]:
    """The parts of a virtual dataset whose sources have numbered names, one for each block along an axis."""
    first, stride, _, block = (part[axis] for part in virtual.get_regular_hyperslab())
    for number, start in enumerate(range(first, dataset.shape[axis], stride)):
        rows = (start, start + block) if axis == 0 else (0, dataset.shape[0])
        yield VirtualPart(*rows, *_numbered(names, number), block * _across(virtual, axis), shape)


def _across(space: h5py.h5s.SpaceID, axis: int) -> int:
    """Number of values that a regular selection has for one index along an axis."""
    _, _, counts, blocks = space.get_regular_hyperslab()
    return math.prod(
        int(count * block) for i, (count, block) in enumerate(zip(counts, blocks, strict=True)) if i != axis
    )


def _numbered(names: tuple[str, str], number: int) -> tuple[str, str]:
    """Names of a source's file and dataset, in which HDF5 writes %b for the source's number and %% for %."""
    file, dataset = (re.sub("%(.)", lambda found: str(number) if found[1] == "b" else "%", name) for name in names)
    return file, dataset


def _growing_axis(space: h5py.h5s.SpaceID) -> int | None:
    """The axis along which a selection is unlimited; None where there is none."""
    if space.get_select_type() != h5py.h5s.SEL_HYPERSLABS or not space.is_regular_hyperslab():
        return None
    _, _, counts, blocks = space.get_regular_hyperslab()
    return next((i for i, ends in enumerate(zip(counts, blocks, strict=True)) if h5py.h5s.UNLIMITED in ends), None)


def _count_indices(space: h5py.h5s.SpaceID, axis: int, length: int) -> int:
    """Number of indices below `length` that an unlimited selection contains along its axis."""
    first, stride, _, block = (part[axis] for part in space.get_regular_hyperslab())
    if block == h5py.h5s.UNLIMITED:
        return int(max(0, length - first))
    whole, rest = divmod(max(0, length - first), stride)
    return int(whole * block + min(rest, block))


def _extent(space: h5py.h5s.SpaceID, taken: int = 0) -> tuple[int, ...] | None:
    """The smallest shape of a dataset that contains a selection; None: the selection is the whole dataset.

    For an unlimited selection, the shape that contains its first `taken` indices along its axis.
    """
    axis = _growing_axis(space)
    if space.get_select_type() == h5py.h5s.SEL_ALL:
        return None
    if axis is None:
        return tuple(int(last) + 1 for last in space.get_select_bounds()[1])
    first, stride, counts, blocks = space.get_regular_hyperslab()
    ends = [int(f + s * (c - 1) + b) for f, s, c, b in zip(first, stride, counts, blocks, strict=True)]
    end = 0
    if taken:
        whole, rest = divmod(taken - 1, blocks[axis])  # an unlimited block is longer than `taken`
        end = int(first[axis] + whole * stride[axis] + rest + 1)
    return (*ends[:axis], end, *ends[axis + 1 :])


def _raw_files(dataset: h5py.Dataset) -> Iterator[RawPart]:
    """The external files with a dataset's bytes, in order."""
    n_bytes = dataset.size * dataset.id.get_type().get_size() if dataset.external else 0
    row_bytes = max(1, n_bytes // max(1, dataset.shape[0] if dataset.shape else 1))
    begin = 0
    for file, offset, size in dataset.external or ():
        end = n_bytes if size == h5py.h5f.UNLIMITED else min(n_bytes, begin + size)
        if begin < end:
            yield RawPart(begin // row_bytes, -(-end // row_bytes), file, offset + end - begin)
        begin = end


def raw_prefix(owner: str) -> str:
    """The directory of external storage, by HDF5's rules: the working directory unless HDF5_EXTFILE_PREFIX is set."""
    prefix = os.environ.get("HDF5_EXTFILE_PREFIX", "")
    return str(Path(owner).absolute().parent) + prefix[len("${ORIGIN}") :] if prefix.startswith("${ORIGIN}") else prefix


def find_source(name: str, owner: str) -> str | None:
    """The source that a virtual dataset in the file `owner` names, looked for where HDF5 does, or None."""
    file = Path(name).name if Path(name).is_absolute() else name
    prefixes = [prefix for prefix in os.environ.get("HDF5_VDS_PREFIX", "").split(":") if prefix]
    beside = Path(owner).absolute().parent
    origin = [str(beside) + p[len("${ORIGIN}") :] if p.startswith("${ORIGIN}") else p for p in prefixes]
    places = [Path(name)] if Path(name).is_absolute() else []
    places += [Path(prefix) / file for prefix in origin]
    places += [beside / file, Path(file), Path(owner).resolve().parent / file]
    return next((str(place) for place in places if place.is_file()), None)


def check_origins(dataset: h5py.Dataset) -> None:
    """Raise `DataError` where some of a dataset's values are missing."""
    Origins(dataset).find(0, dataset.shape[0])
