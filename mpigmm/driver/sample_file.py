"""The file of rows that `sample` and `generate` write."""

from __future__ import annotations

import math
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mpigmm.core.arrays import Indices
from mpigmm.core.exact import FloatArray
from mpigmm.core.moments import WANTED_ERROR
from mpigmm.data.output import Column, Content, RowWriter
from mpigmm.driver.row_output import RowOutput
from mpigmm.driver.sampler import Sample, Step, open_sampler
from mpigmm.errors import OutputError, shown
from mpigmm.parallel.comm import Comm
from mpigmm.parallel.stop import StopRequest
from mpigmm.runs.row_progress import RowProgress
from mpigmm.runs.streams import write_message


def sample_output(
    verb: str,
    path: str,
    sample: Sample,
    *,
    overwrite: bool,
    attributes: Mapping[str, Any],
    feature_names: Sequence[str] | None = None,
    inputs: Sequence[str] = (),
    moments: bool = False,
) -> RowOutput:
    """The file of a sample, with its seed among the attributes. Root alone.

    Parameters
    ----------
    verb, path, overwrite, inputs
        As in `RowOutput`.
    sample : Sample
    attributes : dict
    feature_names : sequence of str or None
        Names of the columns of /X.
    moments : bool
        Whether the rows are given the mean and covariance of the mixture.
    """
    columns = {"X": Column((sample.mixture.n_features,), "float64"), "labels": Column((), "int32")}
    return RowOutput(
        verb=verb,
        path=path,
        overwrite=overwrite,
        content=Content(
            n_rows=sample.n_rows,
            columns=columns,
            attributes={**attributes, "n_samples": sample.n_rows, "seed": sample.seed},
            column_attributes={} if feature_names is None else {"X": {"columns": list(feature_names)}},
        ),
        inputs=inputs,
        job=repr((sample.mixture.digest(), sample.seed, moments, sample.part_rows)),
        n_parts=sample.n_parts,
    )


def check_room(output: RowOutput) -> None:
    """Raise `OutputError` where a file would be larger than the file system is."""
    n_bytes = output.content.n_rows * sum(column.row_bytes for column in output.content.columns.values())
    try:
        most = shutil.disk_usage(Path(output.path).parent).total or math.inf
    except OSError:
        return  # a directory that cannot be used is reported where the file is made
    if n_bytes > most:
        raise OutputError(
            f"--n-samples {output.content.n_rows}: {shown(output.path)} would have {n_bytes / 1e9:,.3g} GB, more than "
            f"its file system ({most / 1e9:,.3g} GB); draw fewer rows"
        )


def text_of(path: str | Path) -> str:
    """The name of a file as an attribute."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def write_sample(
    comm: Comm, sample: Sample, verb: str, writer: RowWriter, stop: StopRequest, *, moments: bool = False
) -> None:
    """Write the rows of a sample and their components. Collective; raises `AgreedError`.

    Parameters
    ----------
    comm, sample
    verb : str
        With which messages begin.
    writer, stop
    moments : bool
        Whether to give the rows the mean and covariance of the mixture.
    """

    def new_step(name: str) -> Step:
        return RowProgress(f"{verb}: {name}", stop.pace).step if comm.is_root else lambda: None

    def write_part(first: int, rows: FloatArray, components: Indices) -> None:
        writer.write("X", first, rows)
        writer.write("labels", first, components)
        writer.finish(first // sample.part_rows)

    with open_sampler(comm, sample, stop, moments=moments) as sampler:
        error = sampler.match_moments(new_step) if moments else 0.0
        if comm.is_root and error > WANTED_ERROR:
            write_message(
                f"mpigmm: the mean and covariance of the rows are those of the mixture to {error:.1g} standard "
                "deviations: the rows are so far from zero that float64 rounds them more coarsely than --moments needs"
            )
        with comm.together():
            sampler.for_each_part(lambda: write_part, is_done=writer.is_finished)
