"""Requests: root reads the command line and broadcasts one of these to all ranks. One class for each verb."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from mpigmm.options import ComputeOptions, DataOptions, FitOptions, OpsChoice

PREDICTED = {
    "labels": "number of the component with the largest posterior, or -1 for a row that is left out",
    "log_density": "log of the mixture's density at the row, or NaN",
    "proba": "the largest posteriors, the largest first",
    "components": "numbers of the components that they belong to",
    "anomaly": "whether the log-density is at or below the quantile",
    "files": "names of the files that the rows come from",
    "offsets": "entry of each file's first row",
}
"""The datasets that ``predict`` writes, and what they hold."""

CONDITIONED = {
    "mean": "expected values of the remaining features, or NaN for a row that is left out",
    "covariance": "their covariance matrix",
    "log_density": "log-density of the given features, or NaN",
    "files": PREDICTED["files"],
    "offsets": PREDICTED["offsets"],
}
"""The same of ``condition``."""

DRAWN = {"X": "rows", "labels": "number of the component that each row comes from"}
"""The same of ``sample`` and ``generate``."""

Datasets = str | tuple[str, ...]
"""A dataset with the rows, or several that are one column each."""


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
class SampleRequest:
    """``sample``: a model, how many rows to draw, and the file to write; `moments`: with the mixture's moments."""

    model: str
    n_samples: int
    seed: int
    out: str
    moments: bool = False
    overwrite: bool = False


@dataclass(frozen=True)
class GenerateRequest:
    """``generate``: a random mixture, how many rows to draw, and the file to write."""

    n_samples: int
    n_features: int
    n_components: int
    covariance_type: str
    separation: float
    seed: int
    out: str
    overwrite: bool = False


@dataclass(frozen=True)
class ConditionRequest:
    """``condition``: a model, rows, the given features as text, and the file to write."""

    model: str
    rows: RowsRequest
    given: str
    out: str
    overwrite: bool = False


@dataclass(frozen=True)
class MergeRequest:
    """``merge``: a model, how many components to leave, and the model to write; root alone computes."""

    model: str
    n_components: int
    out: str
    overwrite: bool = False


@dataclass(frozen=True)
class UpdateRequest:
    """``update``: a model, rows or a directory in which files of rows appear, and the model to write.

    Attributes
    ----------
    model, out : str
    rows : RowsRequest
        Without files where a directory is watched.
    forget : float
        Factor of the old statistics.
    watch : str or None
        The directory.
    idle : float or None
        Seconds without a new file after which the command ends.
    precision : str or None
        ``compute.precision``, where the user has set it; else that of the model's fit counts.
    overwrite : bool
    """

    model: str
    rows: RowsRequest
    out: str
    forget: float = 1.0
    watch: str | None = None
    idle: float | None = None
    precision: Literal["float64", "float32"] | None = None
    overwrite: bool = False


@dataclass(frozen=True)
class ConvertRequest:
    """``convert``: files or directories, the file and the dataset to write, columns as text, and how to read them."""

    inputs: tuple[str, ...]
    out: str
    dataset: str = "/X"
    columns: str | None = None
    overwrite: bool = False
    delimiter: str | None = None
    header: bool | None = None
    decimal: str = "."
    compensate: bool = False
    arcsinh: float | None = None


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
    dataset: Datasets | None = None
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
    | ConvertRequest
    | SampleRequest
    | GenerateRequest
    | ConditionRequest
    | MergeRequest
    | UpdateRequest
    | InspectRequest
    | PlotRequest
    | BenchRequest
    | PlanRequest
)
