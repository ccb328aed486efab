"""Files of flow cytometers (FCS 2.0, 3.0 and 3.1), by flowio."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import flowio
import numpy as np
from numpy.typing import NDArray

from mpigmm.data.conversion.base import Columns, InputFile, Part, ReadOptions
from mpigmm.errors import ConfigError, DataError, shown

FCS_MAGIC = b"FCS"


@dataclass(frozen=True)
class FcsFile(InputFile):
    """A file, which is read as a whole. Its columns have the channels' short names ($PnN).

    Attributes
    ----------
    n_events : int
    compensate : bool
        Whether to undo the spillover between channels.
    """

    n_events: int
    compensate: bool

    def parts(self) -> list[Part]:
        n_bytes = self.n_events * self.columns.count * np.dtype(self.dtype).itemsize
        return [Part(0, self.n_events, n_bytes, self.n_events)]

    def read(self, part: Part, columns: Sequence[int]) -> Iterator[NDArray[np.float64]]:
        flow = open_flow(self.path)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            values = flow.as_array(preprocess=True)
        if values.shape != (part.n_rows, self.columns.count):
            raise DataError(f"{shown(self.path)} has changed while it was being read; run the command again")
        if self.compensate:
            uncover(values, *spillover(self.path, flow))
        yield values[:, list(columns)]


def open_fcs(path: str, options: ReadOptions) -> FcsFile:
    """Describe a file. Raises `DataError`."""
    flow = open_flow(path, only_text=True)
    names = tuple(flow.pnn_labels)
    others = {label: i for i, label in enumerate(flow.pns_labels) if label and flow.pns_labels.count(label) == 1}
    if options.compensate:
        spillover(path, flow)
    return FcsFile(path, "<f8", Columns(len(names), names, others), flow.event_count, options.compensate)


def open_flow(path: str, *, only_text: bool = False) -> flowio.FlowData:
    """The data set of a file, or only the keywords that describe it. Raises `DataError`."""
    try:
        with open(path, "rb") as file, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            flow = flowio.FlowData(file, ignore_offset_error=True, only_text=only_text)
    except flowio.exceptions.MultipleDataSetsError:
        raise DataError(f"{shown(path)} holds several data sets; save each as a file of its own") from None
    except Exception as error:  # of any kind, for a file that is damaged
        raise DataError(f"{shown(path)} cannot be read as FCS: {shown(error)[:200]}; is the file whole?") from None
    if not only_text and flow.events is None:
        raise DataError(f"{shown(path)} has events of a bit width that cannot be read; export it as numbers of 32 bits")
    if not only_text and len(flow.events) != flow.event_count * flow.channel_count:
        raise DataError(f"{shown(path)} does not hold the {flow.event_count:,} events that it tells of; is it whole?")
    return flow


def spillover(path: str, flow: flowio.FlowData) -> tuple[list[int], NDArray[np.float64]]:
    """The channels of the spillover matrix of a file, and the matrix. Raises `ConfigError` and `DataError`."""
    text = flow.text.get("spillover") or flow.text.get("spill")
    if not text:
        raise ConfigError(
            f"--compensate: {shown(path)} has no spillover matrix ($SPILLOVER or SPILL); leave the option out, or "
            "convert such files separately"
        )
    fields = [field.strip() for field in text.split(",")]
    try:
        count = int(fields[0])
        channels = [flow.pnn_labels.index(name) for name in fields[1 : count + 1]]
        matrix = np.array(fields[count + 1 :], float).reshape(count, count)
        is_usable = 0 < len(set(channels)) == count and bool(np.isfinite(np.linalg.inv(matrix)).all())
    except (ValueError, np.linalg.LinAlgError):
        is_usable = False
    if not is_usable:
        raise DataError(f"{shown(path)}: the spillover matrix cannot be used: {shown(text[:60])}...")
    return channels, matrix


def uncover(values: NDArray[np.float64], channels: Sequence[int], matrix: NDArray[np.float64]) -> None:
    """Replace the measured values y of some channels by x, where y = x S and S is the spillover matrix."""
    values[:, channels] = np.linalg.solve(matrix.T, values[:, channels].T).T
