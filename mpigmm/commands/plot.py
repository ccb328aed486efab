"""``plot``: pictures of a model, or of what a directory holds."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from mpigmm.core.marginal import separating_features
from mpigmm.data.file_source import FileSource, find_datasets, resolve_paths
from mpigmm.data.files import cannot_write
from mpigmm.data.row_files import names_text
from mpigmm.data.row_sample import NO_ROWS, PictureRows, sample_rows
from mpigmm.driver.score_rows import as_list, open_header, recorded
from mpigmm.errors import EXIT_DONE, ConfigError, DataError, counted, shown
from mpigmm.options import DataOptions
from mpigmm.parallel.comm import Comm
from mpigmm.parallel.stop import StopRequest
from mpigmm.requests import PlotRequest
from mpigmm.runs.convergence import read_log
from mpigmm.runs.model import Model
from mpigmm.runs.model_file import load_model
from mpigmm.runs.owned import LOG, MODEL, check_picture
from mpigmm.runs.selection import SELECTION_JSON, SELECTION_PICTURE
from mpigmm.runs.streams import print_result, write_message

MOST_PAIRED, LARGEST_MATRIX = 6, 20
"""Features in the matrix of pairs unless others are named, and the most that may be named."""

Draw = Callable[[Path], None]
"""Writes a picture to a file."""


def run(comm: Comm, request: PlotRequest, stop: StopRequest) -> int:
    """Write pictures and print the names of their files; returns the exit code. Collective."""
    with comm.together():
        if comm.is_root:
            directory, pictures = planned(request, stop.check)
            for name in pictures:
                check_picture(directory / name)
            for name, draw in pictures.items():
                stop.check()
                draw(directory / name)
                print_result(str(directory / name))
    return EXIT_DONE


def planned(request: PlotRequest, check: Callable[[], None]) -> tuple[Path, dict[str, Draw]]:
    """The directory for the pictures, which is created, and the pictures by name. Raises `UserError`."""
    source = Path(request.source)
    if source.is_dir():
        pictures = pictures_of_directory(source, request, check)
    elif source.exists():
        prefix = "" if source.name == MODEL else f"{source.stem}."
        found = pictures_of_model(source, request, check)
        pictures = {prefix + name: draw for name, draw in found.items()}
    else:
        raise DataError(f"{shown(source)} does not exist; name the directory of a run, or a model")
    directory = Path(request.out) if request.out else source if source.is_dir() else source.parent
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise cannot_write(directory, error) from None
    return directory, pictures


def pictures_of_directory(directory: Path, request: PlotRequest, check: Callable[[], None]) -> dict[str, Draw]:
    """The pictures that the files in a directory allow; raises `UserError` where there are none."""
    found: dict[str, Draw] = {}
    if (directory / LOG).exists():
        found |= pictures_of_log(directory / LOG)
    if (directory / SELECTION_JSON).exists():
        found |= pictures_of_selection(directory / SELECTION_JSON)
    if (directory / MODEL).exists():
        found |= pictures_of_model(directory / MODEL, request, check)
    elif request.data or request.features:
        raise DataError(f"{shown(directory)} holds no {MODEL}; leave out --data and --features, or name a model")
    if not found:
        raise DataError(
            f"{shown(directory)} holds no {MODEL}, no {SELECTION_JSON} and no {LOG} with iterations; name the "
            "directory of a run, or a model"
        )
    return found


def pictures_of_log(path: Path) -> dict[str, Draw]:
    """The picture of a convergence log, unless it has no lines."""
    from mpigmm.runs import plots

    lines = read_log(path)
    return {"convergence.png": partial(plots.convergence_picture, lines)} if lines else {}


def pictures_of_selection(path: Path) -> dict[str, Draw]:
    """The picture of a selection; raises `DataError` for a file that holds none."""
    from mpigmm.runs import plots

    try:
        content = json.loads(path.read_bytes())
        fits, criterion = content["fits"], content.get("criterion", "bic")
        for fit in fits:
            _ = plots.CRITERIA[criterion], float(fit[criterion] or 0), int(fit["n_components"])
            _ = fit["covariance_type"], fit["seed"]
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        raise DataError(f"{shown(path)} is not what select writes; restore it, or name a model") from None
    return {SELECTION_PICTURE: partial(plots.selection_curve, fits, criterion)}


def pictures_of_model(path: Path, request: PlotRequest, check: Callable[[], None]) -> dict[str, Draw]:
    """Pictures of the components of a model, of pairs of its features if it has several, and of component sizes."""
    from mpigmm.runs import plots

    model = load_model(path, check)
    named = named_features(request.features, model.feature_names or ())
    if named:
        plots.check_features("--features", named, model.mixture.n_features, LARGEST_MATRIX)
    first = (named or separating_features(model.mixture, 2).tolist())[:2]
    paired = named or separating_features(model.mixture, MOST_PAIRED).tolist()
    names, rows = names_and_rows(model, str(path), request, sorted({*first, *paired}), check)
    subject = plots.Subject(model.mixture, names, rows)
    components = "ellipses.png" if len(first) == 2 else "density.png"
    pictures: dict[str, Draw] = {components: partial(plots.components_picture, subject, first)}
    if len(paired) > 1:
        pictures["pairs.png"] = partial(plots.pairs_picture, subject, paired)
    return {**pictures, "sizes.png": partial(plots.sizes_picture, model.mixture)}


def named_features(text: str | None, names: Sequence[str]) -> list[int]:
    """The features in the text of ``--features``, by number or by their names; raises `ConfigError`."""
    if text is None:
        return []
    parts = text.split(",")
    try:
        return [names.index(part) if part in names else int(part) for part in parts]
    except ValueError:
        known = f", or names: {names_text(names)}" if names else ""
        raise ConfigError(f"--features {text!r} is not valid; give numbers of features, such as 0,1{known}") from None


def names_and_rows(
    model: Model, model_path: str, request: PlotRequest, features: Sequence[int], check: Callable[[], None]
) -> tuple[tuple[str, ...] | None, PictureRows]:
    """Names of all features, where known, and some features of the rows that the request names; raises `DataError`."""
    if not request.data:
        return model.feature_names, NO_ROWS
    named = () if request.dataset is None else ("dataset",)
    data = DataOptions(list(request.data), as_list(request.dataset or ()), recorded_weights(model, request.data))
    header = open_header(model, model_path, data, named)
    rows = sample_rows(FileSource(header), features, check)
    if rows.n_left_out:
        write_message(f"mpigmm: {counted(rows.n_left_out, 'row')} with values that are not finite, not drawn")
    return header.feature_names or model.feature_names, rows


def recorded_weights(model: Model, data: Sequence[str]) -> str | None:
    """The dataset of the weights to which the model was fitted, if the data have it."""
    weights = recorded(model, "weights")
    is_there = isinstance(weights, str) and find_datasets(resolve_paths(data)[0], [weights]) is not None
    return weights if is_there else None
