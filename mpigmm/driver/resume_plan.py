"""What root decides before a fit begins: where it begins or resumes, the rows of a tile, and the array operations."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from mpigmm.core.algorithms import algorithm_type
from mpigmm.core.algorithms.initialise import NOTHING_GIVEN, GivenParameters
from mpigmm.core.covariances import COVARIANCE_TYPES
from mpigmm.core.mixture import Mixture
from mpigmm.core.ops import best_ops
from mpigmm.core.ops.numpy import NUMPY
from mpigmm.data.source import Header
from mpigmm.driver.devices import Devices
from mpigmm.driver.layout import choose_tile_rows
from mpigmm.errors import DataError, counted, shown
from mpigmm.options import FitOptions
from mpigmm.runs.state import Progress
from mpigmm.runs.voice import Voice


@dataclass(frozen=True)
class ResumePlan:
    """Where the fit begins or resumes, as root decides it for all ranks.

    Attributes
    ----------
    tile_rows : int
    ops : str
        Name of the array operations on the host.
    progress : Progress
        State of the fit to continue from.
    fingerprint : str or None
        Of the data of the run that is resumed; None for a new run.
    start : Mixture or None
        From ``init.file``.
    given : GivenParameters
        Parameters of the first mixture that the caller gives.
    complete : bool
        Whether an earlier run with these settings is finished; it still has to be checked that the data are the same.
    seconds_left : float
        Time until the run must have stopped.
    speeds : dict
        Rows a second by kind of rank, as far as they have been measured.
    """

    tile_rows: int
    ops: str
    progress: Progress = Progress()
    fingerprint: str | None = None
    start: Mixture | None = None
    given: GivenParameters = NOTHING_GIVEN
    complete: bool = False
    seconds_left: float = math.inf
    speeds: dict[str, int] = field(default_factory=dict)

    @property
    def resumed_from(self) -> int | None:
        """The iteration after which the run resumes; None for a new run."""
        return None if self.fingerprint is None else self.progress.iteration


def new_plan(options: FitOptions, header: Header, devices: Devices, start: Mixture | None, voice: Voice) -> ResumePlan:
    """The plan of a fit that begins. Raises `DataError` where the mixture of ``init.file`` is not of the model asked
    for."""
    if start is not None:
        check_start(start, options, header)
    return ResumePlan(tile_rows_of(options, header, devices), best_ops_known(voice), start=start)


def tile_rows_of(options: FitOptions, header: Header, devices: Devices, recorded: int | None = None) -> int:
    """Rows of a tile of a fit; see `choose_tile_rows`."""
    model = options.model
    kind = COVARIANCE_TYPES[model.covariance_type]
    takes_batches = algorithm_type(options.em).takes_batches
    return choose_tile_rows(
        options.compute, devices, header, kind, model.n_components, recorded, takes_batches=takes_batches
    )


def best_ops_known(voice: Voice) -> str:
    """Name of the fastest array operations on the host; the user is told where they are slow."""
    ops = best_ops()
    if ops == NUMPY.name:
        voice.warn(
            "mpigmm was installed without a C compiler, and computes several times as slowly with NumPy; install it "
            "anew where there is one"
        )
    return ops


def check_start(mixture: Mixture, options: FitOptions, header: Header) -> None:
    """Raise `DataError` where the mixture of ``init.file`` is not of the model asked for."""
    model, file = options.model, shown(options.init.file)
    for name, has, wanted in (
        ("n_components", mixture.n_components, model.n_components),
        ("covariance_type", mixture.covariances.name, model.covariance_type),
    ):
        if has != wanted:
            raise DataError(f"init.file: {file} has {name} {has}, but model.{name} is {wanted}")
    if mixture.n_features != header.n_features:
        raise DataError(
            f"init.file: {file} has {counted(mixture.n_features, 'feature')}, but {shown(header.dataset)} has "
            f"{counted(header.n_features, 'column')}; choose the same columns{header.by_columns}"
        )
