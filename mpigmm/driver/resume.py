"""What a fit is: the data and settings that decide its bits, and where it goes on."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from mpigmm.core.mixture import Mixture
from mpigmm.data.source import Header
from mpigmm.driver.em_loop import goes_on
from mpigmm.errors import DataError, OutputError, counted, shown
from mpigmm.options import FitOptions
from mpigmm.runs.checkpoint import Checkpoint, Progress
from mpigmm.runs.directory import RunDirectory
from mpigmm.runs.hdf5 import is_whole
from mpigmm.runs.model_file import load_model
from mpigmm.runs.owned import MODEL, SUMMARY

NOT_IDENTITY = ("data.path", "data.dataset", "data.weights", "em.max_iter", "em.tol")
"""Settings that may change without making it another problem; of the data, the fingerprint speaks."""


@dataclass(frozen=True)
class Job:
    """What root has found out and every rank needs.

    Attributes
    ----------
    header : Header
    tile_rows : int
    loops : str
        Name of the loops over a tile.
    progress : Progress
        Where to go on.
    fingerprint : str or None
        Of the data that a resumed run belongs to.
    start : Mixture or None
        From ``init.file``.
    complete : bool
        Whether an earlier run of the same settings has left nothing to do, if the data are the same too.
    seconds_left : float
        Until the run has to have stopped by itself.
    speeds : dict
        Rows a second of kinds of ranks, as far as they have been measured.
    """

    header: Header
    tile_rows: int
    loops: str
    progress: Progress = Progress()
    fingerprint: str | None = None
    start: Mixture | None = None
    complete: bool = False
    seconds_left: float = math.inf
    speeds: dict[str, int] = field(default_factory=dict)

    @property
    def resumed_from(self) -> int | None:
        return None if self.fingerprint is None else self.progress.iteration


def identity(options: FitOptions, tile_rows: int, start: Mixture | None) -> dict[str, Any]:
    """The settings, by dotted key, that decide a fit's bits; a start from a file stands for its content."""
    sections = dataclasses.asdict(options)
    keys = {
        f"{section}.{key}": value
        for section in ("data", "model", "init", "em")
        for key, value in sections[section].items()
    }
    return {
        **{key: value for key, value in keys.items() if key not in NOT_IDENTITY},
        "init.file": start and f"content {start.digest()}",
        "compute.precision": options.compute.precision,
        "compute.tile_rows": tile_rows,
    }


def reopened(progress: Progress, options: FitOptions) -> Progress:
    """Progress as it stands, or taken up again where a finished single start may go on (`max_iter` raised, say)."""
    single = options.init.n_init == 1
    if progress.finished and single and goes_on(progress.iteration, progress.change, options.em):
        return replace(progress, finished=False, best=None, ended=())
    return progress


def shape_text(header: Header) -> str:
    """The part of the fingerprint that is known before any row is read."""
    return f"{header.n_rows}x{header.n_features} {header.dtype}{' weighted' if header.weights else ''}"


def load_start(options: FitOptions, check: Callable[[], None]) -> Mixture | None:
    """The mixture of ``init.file``, `check` as in `load_model`. Raises `DataError`."""
    return None if options.init.file is None else load_model(Path(options.init.file), check).mixture


def check_start(mixture: Mixture, options: FitOptions, header: Header) -> None:
    """Raise `DataError` where the mixture of ``init.file`` is not of the model asked for."""
    model, file = options.model, shown(options.init.file)
    for name, has, wanted in (
        ("n_components", mixture.n_components, model.n_components),
        ("covariance_type", mixture.covariance.name, model.covariance_type),
    ):
        if has != wanted:
            raise DataError(f"init.file: {file} has {name} {has}, but model.{name} is {wanted}")
    if mixture.n_features != header.n_features:
        raise DataError(
            f"init.file: {file} has {counted(mixture.n_features, 'feature')}, but {shown(header.dataset)} has "
            f"{counted(header.n_features, 'column')}; choose them by data.columns"
        )


def known_results(checkpoint: Checkpoint) -> tuple[str, ...]:
    """Digests of the mixtures that a run may have written as its model."""
    best = checkpoint.progress.best if checkpoint.progress.finished else None
    return tuple(sorted({*checkpoint.results, *([best.mixture.digest()] if best else [])}))


def found_model(path: Path, check: Callable[[], None], say: Callable[[str], None]) -> str | None:
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
        say(f"warning: {shown(path)} is damaged; the run writes it anew")
        return None


def check_own(directory: RunDirectory, digest: str | None, checkpoint: Checkpoint) -> None:
    """Raise `OutputError` where the model is neither what the run wrote nor what it starts from."""
    if digest in (None, *checkpoint.results) or f"content {digest}" == checkpoint.identity["init.file"]:
        return
    raise OutputError(
        f"output.dir: {shown(directory / MODEL)} is not a model that the run in {shown(directory.path)} wrote; move it "
        "away, add --restart to replace it, or choose another output.dir"
    )


def has_results(directory: RunDirectory, progress: Progress, digest: str | None) -> bool:
    """Whether the run has ended and its files are there, its model with that digest; if not, they are made anew."""
    best = progress.best if progress.finished else None
    return best is not None and best.mixture.digest() == digest and (directory / SUMMARY).exists()
