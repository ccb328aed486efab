"""``checkpoint.h5``: the state of a fit, from which an interrupted run resumes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mpigmm.core.algorithms import ACCELERATIONS, ALGORITHMS, algorithm_type
from mpigmm.core.algorithms.base import Algorithm
from mpigmm.core.covariances import COVARIANCE_TYPES
from mpigmm.core.exact import FloatArray
from mpigmm.core.mixture import Mixture
from mpigmm.errors import DataError, OutputError, shown
from mpigmm.options import EmOptions
from mpigmm.runs import hdf5
from mpigmm.runs.convergence import COLUMNS
from mpigmm.runs.model_file import STATISTICS, mixture_of, statistics_of
from mpigmm.runs.state import Ended, Fitted, Progress
from mpigmm.version import __version__

FORMAT = "mpigmm-checkpoint"
FORMAT_VERSION = 6
NEWEST, PREVIOUS = "checkpoint.h5", "checkpoint.previous.h5"
STATE, BEST = "state_", "best_"
"""Prefixes of the names of arrays: of the algorithm's state, and of the best mixture so far."""

NO_LINES = np.empty((0, len(COLUMNS)))


@dataclass(frozen=True)
class Checkpoint:
    """The state of a fit, its history, and the identity of the problem that it belongs to.

    Attributes
    ----------
    identity : dict
        The settings, by dotted key, that decide the result's bits.
    fingerprint : str
        Shape, dtype and hash of the rows.
    tile_rows : int
    ops : str
        Name of the array operations that compute, such as ``numpy``.
    config : str
        The configuration with all defaults filled in, in YAML.
    history : ndarray of float64, (n, number of columns)
        The convergence log up to this state.
    version : str
        Version of the program that wrote the checkpoint.
    devices : tuple of str
        Kinds of devices that have computed so far, in alphabetical order: ``cpu``, or the name of a GPU.
    speeds : dict
        Rows a second by kind of rank, where ranks of unequal speed share the tiles.
    results : tuple of str
        Digests of the final mixtures of this run, one of which ``model.h5`` may contain.
    """

    progress: Progress
    identity: dict[str, Any]
    fingerprint: str
    tile_rows: int
    ops: str
    config: str = ""
    history: NDArray[np.float64] = field(default_factory=lambda: NO_LINES)
    version: str = __version__
    devices: tuple[str, ...] = ()
    speeds: dict[str, int] = field(default_factory=dict)
    results: tuple[str, ...] = ()

    @property
    def algorithm(self) -> type[Algorithm[Any]]:
        """Class of the algorithm whose state the progress holds."""
        return algorithm_type(em_options(self.identity))

    @property
    def mixture(self) -> Mixture | None:
        """The mixture of the progress; None before the start has a first mixture."""
        return None if self.progress.state is None else self.algorithm.mixture(self.progress.state)


def save_checkpoint(directory: Path, checkpoint: Checkpoint) -> None:
    """Write a checkpoint, and keep the last one as ``checkpoint.previous.h5``; raises `OutputError`."""
    progress = checkpoint.progress
    state = {
        "init": progress.init,
        "iteration": progress.iteration,
        "mean_log_likelihood": progress.mean_log_likelihood,
        "changes": progress.changes,
        "e_steps": progress.e_steps,
        "rows_seen": progress.rows_seen,
        "finished": progress.finished,
    }
    attributes = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "version": checkpoint.version,
        "state": json.dumps(state),
        "fingerprint": checkpoint.fingerprint,
        "tile_rows": checkpoint.tile_rows,
        "ops": checkpoint.ops,
        "devices": json.dumps([checkpoint.devices, checkpoint.speeds]),
        "results": json.dumps(checkpoint.results),
    }
    arrays: dict[str, NDArray[Any]] = {
        "history": checkpoint.history,
        "config": _as_array(checkpoint.config),
        "identity": _as_array(json.dumps(checkpoint.identity)),
        "ended": _as_array(json.dumps([asdict(ended) for ended in progress.ended])),
    }
    if progress.state is not None:
        arrays |= prefixed(STATE, checkpoint.algorithm.to_arrays(progress.state))
        attributes["covariance_type"] = checkpoint.algorithm.mixture(progress.state).covariances.name
    if progress.best is not None:
        arrays |= prefixed(BEST, progress.best.mixture.arrays())
        attributes["covariance_type"] = progress.best.mixture.covariances.name
        attributes["best"] = progress.best.ended.init
        if progress.best.statistics is not None:
            arrays |= prefixed(BEST + STATISTICS, progress.best.statistics.arrays())
    hdf5.save(directory / NEWEST, hdf5.Content(arrays, attributes), directory / PREVIOUS)


def prefixed(prefix: str, arrays: dict[str, FloatArray]) -> dict[str, FloatArray]:
    """Arrays under names that begin with a prefix."""
    return {prefix + name: array for name, array in arrays.items()}


def drop_damaged(directory: Path) -> None:
    """Remove the newest checkpoint, which is damaged and must not replace the previous one when the next is saved."""
    with suppress(OSError):
        (directory / NEWEST).unlink()


def load_checkpoint(directory: Path) -> tuple[Checkpoint | None, str | None]:
    """The newest undamaged checkpoint of a directory, if any, and a warning where the newest one is damaged.

    Raises `DataError` where checkpoints exist and all are damaged.
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
    """Read one checkpoint file; raises `DataError`, and `OutputError` where its format version is another."""
    content = hdf5.load_own(path, FORMAT)
    attributes, arrays = content.attributes, content.arrays
    if attributes.get("format_version") != FORMAT_VERSION:
        raise OutputError(
            f"{shown(path)} was written by mpigmm {attributes.get('version')}, whose runs this version does not go on "
            "with; finish the run with that version, start from its model by init.method: file and init.file, or add "
            "--restart to start over"
        )
    try:
        ended = tuple(Ended(**with_changes(start)) for start in json.loads(_as_text(arrays["ended"])))
        progress = Progress(**with_changes(json.loads(attributes["state"])), ended=ended)
        identity = json.loads(_as_text(arrays["identity"]))
        progress = replace(progress, state=state_of(content, path, em_options(identity)))
        if "best" in attributes:
            mixture = mixture_of(content, path, BEST)
            best = Fitted(mixture, ended[attributes["best"]], statistics_of(content, mixture, path, BEST))
            progress = replace(progress, best=best)
        devices, speeds = json.loads(attributes.get("devices", '[["cpu"], {}]'))
        return Checkpoint(
            progress=progress,
            identity=identity,
            fingerprint=str(attributes["fingerprint"]),
            tile_rows=int(attributes["tile_rows"]),
            ops=str(attributes["ops"]),
            config=_as_text(arrays["config"]),
            history=arrays["history"].reshape(-1, len(COLUMNS)),
            version=str(attributes["version"]),
            devices=tuple(devices),
            speeds=speeds,
            results=tuple(json.loads(attributes.get("results", "[]"))),
        )
    except DataError:
        raise
    except (KeyError, IndexError, TypeError, ValueError) as error:
        raise DataError(f"{shown(path)} is not a whole checkpoint ({error!r})") from None


def with_changes(values: dict[str, Any]) -> dict[str, Any]:
    """The fields of a `Progress` or `Ended` from JSON, which has no tuples."""
    return {**values, "changes": tuple(values["changes"])}


def em_options(identity: Mapping[str, Any]) -> EmOptions:
    """The options of section em in the identity of a run, which decide its algorithm."""
    return EmOptions(**{key.removeprefix("em."): identity[key] for key in identity if key.startswith("em.")})


def state_of(content: hdf5.Content, path: Path, em: EmOptions) -> object:
    """The state of an algorithm in a file; None where it holds none. Raises `OutputError` for unknown names."""
    arrays = {name.removeprefix(STATE): array for name, array in content.arrays.items() if name.startswith(STATE)}
    if not arrays:
        return None
    covariance_type = str(content.attributes["covariance_type"])
    for key, name, known in (
        ("em.algorithm", em.algorithm, ALGORITHMS),
        ("em.accelerate", em.accelerate, ("none", *ACCELERATIONS)),
        ("model.covariance_type", covariance_type, COVARIANCE_TYPES),
    ):
        if name not in known:
            raise OutputError(
                f"{shown(path)} holds a run of {key} {name!r}, which this installation does not have; go on where it "
                "was begun, or add --restart to start over"
            )
    return algorithm_type(em).from_arrays(covariance_type, arrays)


def _as_array(text: str) -> NDArray[np.uint8]:
    """A text as an array, to be stored as a dataset: an HDF5 attribute has at most 64 KiB."""
    return np.frombuffer(text.encode(), np.uint8)


def _as_text(array: NDArray[np.uint8]) -> str:
    return array.tobytes().decode()
