"""What has been folded into a model since its fit, and the ledger of the files that a directory brought."""

from __future__ import annotations

import json
from dataclasses import astuple, dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class FoldedFile:
    """A file that was folded into a model.

    Attributes
    ----------
    name : str
        Without its directory.
    size : int
        In bytes.
    mtime : int
        When it was changed last, in nanoseconds.
    digest : str
        BLAKE2b of its bytes, in hexadecimal.
    """

    name: str
    size: int
    mtime: int
    digest: str


@dataclass(frozen=True)
class Updates:
    """What has been folded into a model since its fit.

    Attributes
    ----------
    count : int
        Number of updates.
    origin : str
        Digest of the model that a stream of files was begun with; empty without one.
    files : tuple of FoldedFile
        The ledger: the files of streams, in the order in which they were folded in.
    """

    count: int = 0
    origin: str = ""
    files: tuple[FoldedFile, ...] = ()

    def with_rows(self) -> Updates:
        """After one more update with rows that no ledger names."""
        return replace(self, count=self.count + 1)

    def with_file(self, file: FoldedFile) -> Updates:
        """After one more update with a file of a stream."""
        return replace(self, count=self.count + 1, files=(*self.files, file))

    def as_array(self) -> NDArray[np.uint8]:
        """All of it as JSON, to be stored as a dataset: an HDF5 attribute has at most 64 KiB."""
        content = {"count": self.count, "origin": self.origin, "files": [astuple(file) for file in self.files]}
        return np.frombuffer(json.dumps(content).encode(), np.uint8)

    @classmethod
    def from_array(cls, array: NDArray[Any]) -> Updates:
        """The updates from `as_array`; raises `ValueError` or `TypeError` for an array that holds none."""
        content = json.loads(np.asarray(array, np.uint8).tobytes())
        files = tuple(FoldedFile(*map(expected, file, (str, int, int, str))) for file in content["files"])
        return cls(expected(content["count"], int), expected(content["origin"], str), files)


def expected(value: Any, kind: type[Any]) -> Any:
    """The value, if it is of a type; else raises `TypeError`."""
    if not isinstance(value, kind):
        raise TypeError(f"{value!r} is no {kind.__name__}")
    return value
