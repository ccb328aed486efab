"""Requests: root reads the command line and broadcasts one of these to all ranks. One class for each verb."""

from __future__ import annotations

from dataclasses import dataclass

from mpigmm.options import ComputeOptions, DataOptions, FitOptions, OpsChoice


@dataclass(frozen=True)
class FitRequest:
    """``fit``: the options, the same as YAML text, whether to start over, and the configuration file as given."""

    options: FitOptions
    config: str
    restart: bool = False
    config_file: str = ""


@dataclass(frozen=True)
class SelectRequest(FitRequest):
    """``select``: the same."""


@dataclass(frozen=True)
class RowsRequest:
    """The rows to which a verb applies a model, and how it computes.

    Attributes
    ----------
    data : DataOptions
        Its `path` holds the files.
    compute : ComputeOptions
    given : frozenset of str
        Keys of section ``data`` that the user has set. Of the others, the model may know better (`open_header`).
    """

    data: DataOptions
    compute: ComputeOptions
    given: frozenset[str] = frozenset()


@dataclass(frozen=True)
class PredictRequest:
    """``predict``: a model, rows, the file to write.

    `proba` says how many of the largest posteriors to write, `anomaly` up to which quantile rows are marked.
    """

    model: str
    rows: RowsRequest
    out: str
    proba: int = 0
    anomaly: float | None = None
    overwrite: bool = False


@dataclass(frozen=True)
class ScoreRequest:
    """``score``: a model, and rows."""

    model: str
    rows: RowsRequest


@dataclass(frozen=True)
class InspectRequest:
    """``inspect``: a file; root alone reads it."""

    file: str
    json: bool = False


@dataclass(frozen=True)
class PlotRequest:
    """``plot``: a directory or a model, files of rows, and numbers of features as text; root alone draws."""

    source: str
    data: tuple[str, ...] = ()
    dataset: str | None = None
    features: str | None = None
    out: str | None = None


@dataclass(frozen=True)
class BenchRequest:
    """``bench``: synthetic rows and the iterations to time; of the options, only model and compute are used."""

    options: FitOptions
    n_samples: int
    n_features: int
    separation: float
    iterations: int
    ops: OpsChoice = "auto"
    json: bool = False


@dataclass(frozen=True)
class PlanRequest:
    """``plan``: the numbers of ranks to plan for, and the latency and bandwidth of the network where they are known."""

    options: FitOptions
    ranks: tuple[int, ...]
    latency: float | None = None
    bandwidth: float | None = None
    json: bool = False


VerbRequest = (
    FitRequest
    | SelectRequest
    | PredictRequest
    | ScoreRequest
    | InspectRequest
    | PlotRequest
    | BenchRequest
    | PlanRequest
)
