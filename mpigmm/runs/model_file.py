"""``model.h5``: a fitted mixture."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from mpigmm.core.covariances import COVARIANCE_TYPES
from mpigmm.core.kept_statistics import NAMES, KeptStatistics
from mpigmm.core.mixture import Mixture, MixtureError
from mpigmm.errors import DataError, OutputError, shown
from mpigmm.runs import hdf5
from mpigmm.runs.guarded import never
from mpigmm.runs.model import Model
from mpigmm.runs.owned import check_replaceable
from mpigmm.runs.updates import Updates

FORMAT = "mpigmm-model"
FORMAT_VERSION = 1
COMMON = ("weights", "means")
"""Arrays of a mixture with any type of covariances."""

STATISTICS, UPDATES = "statistics_", "updates"
"""Beginning of the names of arrays with the statistics of the rows, and name of that with `Updates`."""


def save_model(path: Path, model: Model) -> None:
    """Write a model file."""
    mixture = model.mixture
    attributes = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "covariance_type": mixture.covariances.name,
        "n_features": mixture.n_features,
        "n_components": mixture.n_components,
        "n_samples": model.n_samples,
        "mean_log_likelihood": model.mean_log_likelihood,
        "n_iter": model.n_iter,
        "converged": model.converged,
        "config": json.dumps(model.config or {}),
    }
    if model.feature_names is not None:
        attributes["feature_names"] = json.dumps(model.feature_names)
    arrays: dict[str, NDArray[Any]] = {**mixture.arrays()}
    if model.statistics is not None:
        arrays |= {STATISTICS + name: array for name, array in model.statistics.arrays().items()}
    if model.updates != Updates():
        arrays[UPDATES] = model.updates.as_array()
    hdf5.save(path, hdf5.with_digest(hdf5.Content(arrays, attributes)))


def load_model(path: Path, check: Callable[[], None] = never) -> Model:
    """Read a model file, `check` as in `hdf5.load`; raises `DataError`."""
    content = hdf5.load(path, FORMAT, all_names(), check)
    attributes = content.attributes
    if attributes.get("format_version") != FORMAT_VERSION:
        version = attributes.get("format_version")
        raise DataError(f"{shown(path)} has format_version {version!r}; this version of mpigmm reads {FORMAT_VERSION}")
    mixture, config = mixture_of(content, path), _config(attributes.get("config"), path)
    try:
        return Model(
            mixture=mixture,
            n_samples=int(attributes.get("n_samples", 0)),
            mean_log_likelihood=float(attributes.get("mean_log_likelihood", "nan")),
            n_iter=int(attributes.get("n_iter", 0)),
            converged=bool(attributes.get("converged", False)),
            config=config,
            feature_names=_names(attributes.get("feature_names"), mixture.n_features),
            statistics=statistics_of(content, mixture, path),
            updates=_updates(content, path),
        )
    except DataError:
        raise
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(f"{shown(path)} has an attribute of another type than a model file's: {error}") from None


def check_derived(path: Path, check: Callable[[], None], *, overwrite: bool) -> None:
    """Raise `OutputError` where a file exists that is neither empty nor a model that no fit made, `check` as in `load`.

    Parameters
    ----------
    path, check
    overwrite : bool
        Whether models and checkpoints of fits may be replaced as well.
    """
    check_replaceable(path)
    if overwrite or not path.exists() or not path.stat().st_size:
        return
    try:
        is_fitted = load_model(path, check).n_samples > 0
    except DataError:  # a checkpoint, or a damaged model
        is_fitted = True
    if is_fitted:
        raise OutputError(
            f"{shown(path)} exists, and may be the model or checkpoint of a fit; choose another --out, or add "
            "--overwrite to replace it"
        )


def all_names() -> list[str]:
    """Names of the arrays of models with all types of covariances."""
    own = [name for kind in COVARIANCE_TYPES.values() for name in kind.array_names]
    return list(dict.fromkeys([*COMMON, *own, *(STATISTICS + name for name in NAMES), UPDATES]))


def mixture_of(content: hdf5.Content, path: Path, prefix: str = "") -> Mixture:
    """The mixture in a file's arrays; raises `DataError`."""
    covariance_type = str(content.attributes.get("covariance_type"))
    kind = COVARIANCE_TYPES.get(covariance_type)
    names = [*COMMON, *(kind.array_names if kind else ())]
    missing = [name for name in names if prefix + name not in content.arrays]
    if missing:
        raise DataError(f"{shown(path)} lacks the dataset /{prefix}{missing[0]}")
    try:
        return Mixture.from_arrays(covariance_type, {name: content.arrays[prefix + name] for name in names})
    except (MixtureError, ValueError, TypeError) as error:
        raise DataError(f"{shown(path)} does not hold a mixture: {error}") from None


def statistics_of(content: hdf5.Content, mixture: Mixture, path: Path, prefix: str = "") -> KeptStatistics | None:
    """The statistics that are kept with a mixture in a file's arrays, if there are any; raises `DataError`."""
    prefix += STATISTICS
    found = {name: content.arrays[prefix + name] for name in NAMES if prefix + name in content.arrays}
    if not found:
        return None
    try:
        return KeptStatistics.from_arrays(found, mixture.layout)
    except (ValueError, TypeError) as error:
        raise DataError(f"{shown(path)} does not hold the statistics of its rows: {error}") from None


def _updates(content: hdf5.Content, path: Path) -> Updates:
    """What was folded into the model of a file; raises `DataError`."""
    if UPDATES not in content.arrays:
        return Updates()
    try:
        return Updates.from_array(content.arrays[UPDATES])
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(f"{shown(path)}: its dataset /{UPDATES} is not the ledger of its updates ({error!r})") from None


def _names(text: Any, n_features: int) -> tuple[str, ...] | None:
    """Names of the features, from their attribute; None where it is missing, or does not hold one text for each."""
    try:
        names = json.loads(text or "null")
    except (TypeError, ValueError):
        return None
    is_whole = isinstance(names, list) and len(names) == n_features and all(isinstance(name, str) for name in names)
    return tuple(names) if is_whole else None


def _config(text: Any, path: Path) -> dict[str, Any]:
    try:
        config = json.loads(text or "{}")
    except (TypeError, ValueError):
        raise DataError(f"{shown(path)}: its attribute 'config' is not JSON") from None
    return config if isinstance(config, dict) else {}
