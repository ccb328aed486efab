"""Whether a run continues an earlier one: compares their settings, their data, and the model that was written."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mpigmm.core.algorithms import algorithm_type
from mpigmm.core.mixture import Mixture
from mpigmm.data.source import Header
from mpigmm.driver.stopping import lacks_statistics
from mpigmm.errors import DataError, OutputError, shown
from mpigmm.options import FitOptions
from mpigmm.runs.checkpoint import Checkpoint
from mpigmm.runs.directory import RunDirectory
from mpigmm.runs.hdf5 import is_whole
from mpigmm.runs.model_file import load_model
from mpigmm.runs.owned import MODEL, SUMMARY
from mpigmm.runs.state import Progress

NOT_IDENTITY = ("data.path", "data.dataset", "data.weights", "init.labels", "em.max_iter", "em.tol", "em.criterion")
"""Settings that may change without making it another problem. The data are compared by their fingerprint instead."""

ENDS = ("em.max_iter", "em.tol", "em.criterion")
"""Settings in `NOT_IDENTITY` that make it another problem if the algorithm decides when a start ends: they then also
decide which steps come before the last ones."""


def identity(options: FitOptions, tile_rows: int, start: Mixture | None) -> dict[str, Any]:
    """The settings, by dotted key, that decide a fit's bits; ``init.file`` is replaced by a digest of its content."""
    sections = dataclasses.asdict(options)
    keys = {
        f"{section}.{key}": value
        for section in ("data", "model", "init", "em")
        for key, value in sections[section].items()
    }
    kept = ENDS if algorithm_type(options.em).decides_end else ()
    return {
        **{key: value for key, value in keys.items() if key in kept or key not in NOT_IDENTITY},
        "init.file": start and f"content {start.digest()}",
        "compute.precision": options.compute.precision,
        "compute.tile_rows": tile_rows,
    }


def shape_text(header: Header) -> str:
    """The part of the data's fingerprint that is known before any row is read."""
    others = " weighted" * header.is_weighted + " labelled" * header.is_labelled
    return f"{header.n_rows}x{header.n_features} {header.dtype}{others}"


def check_same_problem(found: Checkpoint, mine: dict[str, Any], header: Header, name: str) -> None:
    """Raise `OutputError` where a checkpoint's settings, or the shape of its data, are not those of this run.

    Parameters
    ----------
    found : Checkpoint
    mine : dict
        The `identity` of this run.
    header : Header
        Of the data of this run.
    name : str
        The directory, for the message.
    """
    differing = [
        f"{key} was {found.identity.get(key)!r}, is {mine.get(key)!r}"
        for key in dict.fromkeys([*mine, *found.identity])
        if found.identity.get(key) != mine.get(key) and (key not in ENDS or key in mine.keys() & found.identity.keys())
    ]
    if not found.fingerprint.startswith(shape_text(header) + " "):
        differing.append(f"the data were {found.fingerprint.rpartition(' ')[0]}, are {shape_text(header)}")
    if differing:
        raise OutputError(
            f"output.dir: {name} holds a run of another problem: {'; '.join(differing)}; "
            "add --restart to start over, or choose another output.dir"
        )


def check_same_data(found: str | None, mine: str, header: Header, name: str) -> None:
    """Raise `DataError` where the fingerprint found in a checkpoint, if any, is not that of this run's data.

    Parameters
    ----------
    found, mine : str
        Fingerprints.
    header : Header
        Of the data of this run.
    name : str
        The directory, for the message.
    """
    if found not in (None, mine):
        raise DataError(
            f"the rows of {header.files} are not those that {name} was begun with; "
            "add --restart to start over, or choose another output.dir"
        )


def known_results(checkpoint: Checkpoint) -> tuple[str, ...]:
    """Digests of the mixtures that a run may have written as its model."""
    best = checkpoint.progress.best if checkpoint.progress.finished else None
    return tuple(sorted({*checkpoint.results, *([best.mixture.digest()] if best else [])}))


def model_digest(path: Path, check: Callable[[], None], warn: Callable[[str], None]) -> str | None:
    """Digest of the model in a run's directory, `check` as in `load_model`; None where there is none or it is damaged.

    Raises `DataError` where the file is whole and no model.
    """
    if not path.exists():
        return None
    try:
        return load_model(path, check).mixture.digest()
    except DataError:
        if is_whole(path):
            raise
        warn(f"{shown(path)} is damaged; the run writes it anew")
        return None


def check_own_model(directory: RunDirectory, digest: str | None, checkpoint: Checkpoint) -> None:
    """Raise `OutputError` where the model with this digest is neither what the run wrote nor what it starts from."""
    if digest in (None, *checkpoint.results) or f"content {digest}" == checkpoint.identity["init.file"]:
        return
    raise OutputError(
        f"output.dir: {shown(directory / MODEL)} is not a model that the run in {shown(directory.path)} wrote; move it "
        "away, add --restart to replace it, or choose another output.dir"
    )


def has_results(directory: RunDirectory, progress: Progress, digest: str | None, options: FitOptions) -> bool:
    """Whether the run has ended, and its summary and its model, which has this digest, have been written with all that
    the options ask for."""
    best = progress.best if progress.finished else None
    if best is None or lacks_statistics(best, options):
        return False
    return best.mixture.digest() == digest and (directory / SUMMARY).exists()
