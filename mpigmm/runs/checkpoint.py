"""``checkpoint.h5``: the loop's state, so that a run goes on where it was cut off."""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mpigmm.core.mixture import Mixture
from mpigmm.errors import DataError, OutputError, shown
from mpigmm.runs import hdf5
from mpigmm.runs.convergence import COLUMNS
from mpigmm.runs.model_file import mixture_of
from mpigmm.version import __version__

FORMAT = "mpigmm-checkpoint"
FORMAT_VERSION = 4
NEWEST, PREVIOUS = "checkpoint.h5", "checkpoint.previous.h5"


@dataclass(frozen=True)
class Ended:
    """How one start ended; `change` is that of its last iteration."""

    init: int
    n_iter: int
    mean_log_likelihood: float
    change: float | None
    converged: bool


@dataclass(frozen=True)
class Fitted:
    """The mixture of a start that has ended."""

    mixture: Mixture
    ended: Ended


@dataclass(frozen=True)
class Progress:
    """State of the fit between two iterations, all that the next one depends on.

    Attributes
    ----------
    init : int
        Number of the start under way.
    iteration : int
        Iterations of it that are complete.
    mixture : Mixture or None
        The mixture after them; None before the start is initialised.
    mean_log_likelihood, change : float or None
        As of the last iteration's log line.
    ended : tuple of Ended
        The starts that are complete.
    best : Fitted or None
        The best of them.
    finished : bool
        Whether all starts are complete.
    """

    init: int = 0
    iteration: int = 0
    mixture: Mixture | None = None
    mean_log_likelihood: float | None = None
    change: float | None = None
    ended: tuple[Ended, ...] = ()
    best: Fitted | None = None
    finished: bool = False


NO_LINES = np.empty((0, len(COLUMNS)))


@dataclass(frozen=True)
class Checkpoint:
    """A `Progress`, how it came about, and the identity of the problem that it belongs to.

    Attributes
    ----------
    identity : dict
        The settings, by dotted key, that make it this problem and no other.
    fingerprint : str
        Of the data: shape, dtype and content.
    tile_rows : int
    loops : str
        Name of the loops over a tile.
    config : str
        The configuration as resolved, in YAML.
    history : ndarray of float64, (n, number of columns)
        The convergence log up to this point.
    version : str
        Of the program that wrote it.
    devices : tuple of str
        Kinds that have taken part so far, in alphabetical order; of processors ``cpu``, of GPUs their names.
    speeds : dict
        Rows a second of kinds of ranks, where they shared the tiles by it.
    results : tuple of str
        Digests of the mixtures that this run has ended with, and that ``model.h5`` may hold.
    """

    progress: Progress
    identity: dict[str, Any]
    fingerprint: str
    tile_rows: int
    loops: str
    config: str = ""
    history: NDArray[np.float64] = field(default_factory=lambda: NO_LINES)
    version: str = __version__
    devices: tuple[str, ...] = ()
    speeds: dict[str, int] = field(default_factory=dict)
    results: tuple[str, ...] = ()


def save_checkpoint(directory: Path, checkpoint: Checkpoint) -> None:
    """Write a checkpoint whole, keeping the one before as ``checkpoint.previous.h5``; raises `OutputError`."""
    progress = checkpoint.progress
    state = {
        "init": progress.init,
        "iteration": progress.iteration,
        "mean_log_likelihood": progress.mean_log_likelihood,
        "change": progress.change,
        "finished": progress.finished,
    }
    attributes = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "version": checkpoint.version,
        "state": json.dumps(state),
        "fingerprint": checkpoint.fingerprint,
        "tile_rows": checkpoint.tile_rows,
        "loops": checkpoint.loops,
        "devices": json.dumps([checkpoint.devices, checkpoint.speeds]),
        "results": json.dumps(checkpoint.results),
    }
    arrays: dict[str, NDArray[Any]] = {
        "history": checkpoint.history,
        "config": _as_array(checkpoint.config),
        "identity": _as_array(json.dumps(checkpoint.identity)),
        "ended": _as_array(json.dumps([asdict(ended) for ended in progress.ended])),
    }
    best = progress.best
    for prefix, mixture in (("", progress.mixture), ("best_", best.mixture if best else None)):
        if mixture is not None:
            attributes["covariance_type"] = mixture.covariance.name
            arrays[prefix + "weights"] = mixture.weights
            arrays[prefix + "means"] = mixture.means
            arrays[prefix + "covariances"] = mixture.covariances
    if best is not None:
        attributes["best"] = best.ended.init
    hdf5.save(directory / NEWEST, hdf5.Content(arrays, attributes), directory / PREVIOUS)


def drop_damaged(directory: Path) -> None:
    """Remove the newest checkpoint, so that it does not take the place of the one before."""
    with suppress(OSError):
        (directory / NEWEST).unlink()


def load_checkpoint(directory: Path) -> tuple[Checkpoint | None, str | None]:
    """The newest whole checkpoint of a directory, if any, and a warning where the newest one was damaged.

    Raises `DataError` where checkpoints exist and none is whole.
    """
    damage: list[str] = []
    for name in (NEWEST, PREVIOUS):
        path = directory / name
        if not path.exists():
            continue
        try:
            return read_checkpoint(path), "; ".join([*damage, f"going on from {name}"]) if damage else None
        except DataError as error:
            damage.append(str(error))
    if damage:
        raise DataError("; ".join(damage) + "; restore one from a copy, or add --restart to start over")
    return None, None


def read_checkpoint(path: Path) -> Checkpoint:
    """Read one checkpoint file; raises `DataError`, and `OutputError` where another version wrote it."""
    content = hdf5.load_own(path, FORMAT)
    attributes, arrays = content.attributes, content.arrays
    if attributes.get("format_version") != FORMAT_VERSION:
        raise OutputError(
            f"{shown(path)} was written by mpigmm {attributes.get('version')}, whose runs this version does not go on "
            "with; finish the run with that version, start from its model by init.method: file and init.file, or add "
            "--restart to start over"
        )
    try:
        ended = tuple(Ended(**start) for start in json.loads(_as_text(arrays["ended"])))
        progress = Progress(**json.loads(attributes["state"]), ended=ended)
        if "weights" in arrays:
            progress = replace(progress, mixture=mixture_of(content, path))
        if "best" in attributes:
            best = Fitted(mixture_of(content, path, "best_"), ended[attributes["best"]])
            progress = replace(progress, best=best)
        devices, speeds = json.loads(attributes.get("devices", '[["cpu"], {}]'))
        return Checkpoint(
            progress=progress,
            identity=json.loads(_as_text(arrays["identity"])),
            fingerprint=str(attributes["fingerprint"]),
            tile_rows=int(attributes["tile_rows"]),
            loops=str(attributes["loops"]),
            config=_as_text(arrays["config"]),
            history=arrays["history"].reshape(-1, len(COLUMNS)),
            version=str(attributes["version"]),
            devices=tuple(devices),
            speeds=speeds,
            results=tuple(json.loads(attributes.get("results", "[]"))),
        )
    except (KeyError, IndexError, TypeError, ValueError) as error:
        raise DataError(f"{shown(path)} is not a whole checkpoint ({error!r})") from None


def _as_array(text: str) -> NDArray[np.uint8]:
    """A text as a dataset: an attribute ends at 64 KiB."""
    return np.frombuffer(text.encode(), np.uint8)


def _as_text(array: NDArray[np.uint8]) -> str:
    return array.tobytes().decode()
