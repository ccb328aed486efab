"""Opens HDF5 files and datasets for reading; its error messages name the remedy."""

from __future__ import annotations

import os
from contextlib import suppress
from importlib import import_module

import h5py
import numpy as np
from numpy.typing import DTypeLike

from mpigmm.data.row_files import READ_ERRORS, check_file
from mpigmm.errors import DataError, reason, shown

CHUNK_CACHE_BYTES = 1 << 26
"""Smallest size of HDF5's cache of decompressed chunks, for chunks that two tiles share to be decompressed once."""

CHUNK_SLOTS, KEEP_PARTLY_READ = 12_421, 0.75
"""Hash slots of that cache, a prime number, and HDF5's preference (0 to 1) for evicting chunks that are read whole."""

MOST_LINKS = 16
"""Largest number of consecutive soft links that are followed to find a broken external link."""


def open_hdf5(path: str, owner: h5py.File | None = None) -> h5py.File:
    """Open a file for reading, without HDF5's locks; raises `DataError`.

    Parameters
    ----------
    path : str
    owner : h5py.File, optional
        A file with a virtual dataset of which the file at `path` is a source. It is then opened with the settings with
        which HDF5 itself opens sources: HDF5 refuses to open one file with two different settings at once, and some
        versions lock sources.
    """
    check_file(path)
    name = shown(path)
    try:
        return h5py.File(h5py.h5f.open(os.fsencode(path), h5py.h5f.ACC_RDONLY, fapl=_file_access(owner)))
    except PermissionError:
        raise DataError(f"{name} may not be read by this user; check its permissions") from None
    except OSError as error:
        raise DataError(f"{name} cannot be opened as HDF5{reason(error)}; is it whole, and HDF5?") from None


def _file_access(owner: h5py.File | None) -> h5py.h5p.PropFAID:
    """Settings with which a file is opened, `owner` as in `open_hdf5`."""
    if owner is not None:
        access = owner.id.get_access_plist()
        access.set_fclose_degree(h5py.h5f.CLOSE_WEAK)
        return access
    access = h5py.h5p.create(h5py.h5p.FILE_ACCESS)
    access.set_fclose_degree(h5py.h5f.CLOSE_WEAK)
    access.set_file_locking(False, False)
    metadata, slots, _, keep = access.get_cache()
    access.set_cache(metadata, slots, CHUNK_CACHE_BYTES, keep)
    return access


def has_shrunk(file: h5py.File) -> bool:
    """Whether a file is shorter than when it was opened: HDF5 returns zeros for the bytes that are missing."""
    size_when_opened: int = file.id.get_filesize()
    return os.fstat(file.id.get_vfd_handle()).st_size < size_when_opened


def raw_offset(dataset: h5py.Dataset, dtype: DTypeLike) -> int | None:
    """Offset of a dataset's bytes in its file, where they are those of a C-ordered array of this dtype.

    None where only HDF5 can read the values: chunks, values in another file, and numbers in another format, for which
    h5py may report the same dtype (12 bits in two bytes, a float of 24 bits, an enumeration).
    """
    if dataset.id.get_create_plist().get_external_count():
        return None
    if not dataset.id.get_type().equal(h5py.h5t.py_create(np.dtype(dtype))):
        return None
    offset: int | None = dataset.id.get_offset()
    return offset


def identity(dataset: h5py.Dataset) -> tuple[int, int, int]:
    """Device, inode, and address in the file: equal for two names of one dataset, and different for two datasets."""
    status = os.fstat(dataset.file.id.get_vfd_handle())
    return status.st_dev, status.st_ino, h5py.h5o.get_info(dataset.id).addr


def get_dataset(file: h5py.File, path: str, name: str) -> h5py.Dataset:
    """The dataset of this name, links followed; raises `DataError`, which lists the datasets that exist."""
    try:
        item = file[name]
    except READ_ERRORS:
        link = external_link(file, name)
        if link is not None:
            raise DataError(
                f"{shown(name)} in {shown(path)} is a link to {shown(link.path)} in {shown(link.filename)}, which "
                "cannot be read; restore that file, or mend the link"
            ) from None
        found = ", ".join(map(shown, dataset_names(file)))
        has = f"; it has {found}" if found else ", nor any other that can be read; is it whole?"
        raise DataError(f"{shown(path)} has no dataset {shown(name)}{has}") from None
    if not isinstance(item, h5py.Dataset):
        found = ", ".join(map(shown, dataset_names(file)))
        raise DataError(f"{shown(name)} in {shown(path)} is a group, not a dataset; it has {found}")
    return item


def external_link(file: h5py.File, name: str, most: int = MOST_LINKS) -> h5py.ExternalLink | None:
    """The first link to another file among the links that a name leads through; None where there is none."""
    parts = name.strip("/").split("/")
    for i in range(1, len(parts) + 1):
        link = None
        with suppress(*READ_ERRORS):
            link = file.get("/".join(parts[:i]), getlink=True)
        if isinstance(link, h5py.ExternalLink):
            return link
        if isinstance(link, h5py.SoftLink) and most:
            target = link.path if link.path.startswith("/") else "/".join([*parts[: i - 1], link.path])
            return external_link(file, "/".join([target, *parts[i:]]), most - 1)
    return None


def open_dataset(file: h5py.File, path: str, name: str) -> h5py.Dataset:
    """Open a dataset to read rows from, with a cache for chunks that two successive tiles share; raises `DataError`."""
    dataset = get_dataset(file, path, name)
    load_filters(dataset, path)
    if dataset.chunks is None:
        return dataset
    across = -(-np.array(dataset.shape[1:], int) // dataset.chunks[1:]) * dataset.chunks[1:]
    wanted = 2 * dataset.chunks[0] * int(across.prod()) * dataset.dtype.itemsize
    if wanted <= CHUNK_CACHE_BYTES:
        return dataset
    dataset.id.close()
    access = h5py.h5p.create(h5py.h5p.DATASET_ACCESS)
    access.set_chunk_cache(CHUNK_SLOTS, wanted, KEEP_PARTLY_READ)
    return h5py.Dataset(h5py.h5d.open(file.id, name.encode(), access))


def load_filters(dataset: h5py.Dataset, path: str) -> None:
    """Load the filters that decompress a dataset; raises `DataError` for one that is not installed."""
    properties = dataset.id.get_create_plist()
    filters = [properties.get_filter(i) for i in range(properties.get_nfilters())]
    for number, _, _, name in filters:
        if not h5py.h5z.filter_avail(number):
            with suppress(ImportError):
                import_module("hdf5plugin")
        if not h5py.h5z.filter_avail(number):
            raise DataError(
                f"{shown(dataset.name)} in {shown(path)} is compressed by filter {number} "
                f"({shown(name.decode(errors='replace'))}), which HDF5 does not have here; "
                "pip install mpigmm[filters] on every node, or rewrite the file with h5repack"
            )


def dataset_names(file: h5py.File) -> list[str]:
    """Names of the first 20 datasets of a file."""
    names: list[str] = []
    with suppress(*READ_ERRORS):
        file.visititems(lambda name, item: names.append("/" + name) if isinstance(item, h5py.Dataset) else None)
    return names[:20]


def check_dtype(dataset: h5py.Dataset, path: str) -> None:
    """Raise `DataError` for anything but integers and floats of up to 64 bits."""
    if dataset.dtype.kind not in "iuf" or dataset.dtype.itemsize > 8:
        raise DataError(
            f"{shown(dataset.name)} in {shown(path)} has dtype {dataset.dtype}; integers and float16, 32 or 64 can be "
            "read"
        )
