"""Every option: its default, its bounds and its sentence of help.

Validation (`config.py`), ``--help`` and ``docs/configuration.md`` are all made from these classes.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any, Literal

OpsChoice = Literal["auto", "numpy", "compiled-generic", "compiled-avx2", "compiled-avx512"]
"""Values of ``bench --kernels``: array operations, from slow to fast; auto: the fastest that all ranks have."""

MANY_COMPONENTS = 256
"""Number of components from which all ranks compute the first mixture by k-means, and starts are not screened: k-means
alone takes seconds."""


def option(help: str, default: Any = None, **rules: Any) -> Any:
    """Declare an option.

    Parameters
    ----------
    help : str
        One sentence for the reference page.
    default : object
        Value where the user gives none.
    **rules
        Bounds (``ge``, ``gt``, ``le``); ``required=True``; or ``registry="..."``, the name of the registry whose
        entries are the values. Rules of a list hold for each of its entries.
    """
    return field(default=default, metadata={"help": help, **rules})


@dataclass(frozen=True)
class DataOptions:
    path: str | list[str] = option(
        "File of rows (HDF5, NetCDF-4, Parquet or .npy), list of files or glob (in natural order: p.2 before p.10); "
        "the rows of several are one matrix.",
        "",
        required=True,
    )
    dataset: str | list[str] = option(
        "Dataset that holds the rows, (n_samples, n_features) or (n_samples,); or a list of datasets (n_samples,), "
        "each of which is a column. Parquet and .npy files have no datasets.",
        "/X",
    )
    weights: str | None = option(
        "Dataset, or column of a Parquet file, in the same files with a weight >= 0 for each row; null: all weights "
        "are 1."
    )
    columns: list[int | str] | None = option("Columns to use, by name, or by number from 0; null: all.")
    rows: list[int] | None = option("Half-open range [start, stop] of rows to use; null: all.")
    missing: Literal["error", "drop"] = option(
        "What to do with a row that holds NaN or infinity: end and name the row, or leave it out.", "error"
    )


@dataclass(frozen=True)
class ModelOptions:
    n_components: int = option("Number of components.", 8, ge=1, le=2**31 - 1)
    covariance_type: str = option(
        "Shape of the covariances, named as in scikit-learn.", "full", registry="covariance types"
    )
    prior: str = option("Prior density of the parameters; none: maximum likelihood.", "none", registry="priors")
    reg_covar: float = option("Added to the diagonal of every covariance.", 1e-6, ge=0)
    variance_floor: float = option(
        "Least variance of a component in any direction, as a fraction of the variance of the data.", 1e-12, ge=0
    )


@dataclass(frozen=True)
class InitOptions:
    method: Literal["kmeans", "kmeans++", "random", "random_resp", "file", "labels"] = option(
        "Where the first mixture comes from: k-means, its seeding alone, random rows as means, an M-step with random "
        "responsibilities, a model file, or an M-step with labels or responsibilities of the rows.",
        "kmeans",
    )
    n_init: int = option("Number of starts; the one with the best log-likelihood is kept.", 1, ge=1)
    screening: bool = option(
        "Whether starts by k-means, in several units of the features, first take a few steps of EM on a sample of the "
        "rows, and the best of all of them alone goes on with all rows; false: each of n_init starts runs on all rows.",
        True,
    )
    seed: int = option("Seed of all random numbers.", 0, ge=0, le=2**63 - 1)
    file: str | None = option("Model file to start from (with method: file).")
    labels: str | None = option(
        "Dataset, or column of a Parquet file, in the files of the rows (with method: labels) that holds the component "
        "of each row, 0 to n_components - 1, or -1 for a row without a label; or responsibilities (n_samples, "
        "n_components), which are scaled to the sum 1, with zeros or NaN alone for a row without."
    )


@dataclass(frozen=True)
class EmOptions:
    algorithm: str = option(
        "How the mixture is fitted; batch: EM over all rows in every iteration; stepwise: an iteration sees a batch of "
        "tiles, and running statistics remember the others.",
        "batch",
        registry="algorithms",
    )
    max_iter: int = option(
        "Largest number of iterations; with stepwise, of passes over the rows, those of the initialisation, of "
        "held-out tiles and of polishing included.",
        100,
        ge=1,
    )
    tol: float = option(
        "Stop when the mean log-likelihood of a row changes by less than this; 0 runs all iterations.", 1e-4, ge=0
    )
    criterion: Literal["change", "aitken"] = option(
        "What must be below em.tol; change: the change of the mean log-likelihood; aitken: also all later changes "
        "together, projected from the ratio of the last ones.",
        "change",
    )
    accelerate: str = option(
        "Extrapolation of EM's steps, for fewer of them; anderson: from the last five; squarem: from two.",
        "none",
        registry="accelerations",
    )
    split_merge: int = option(
        "Largest number of moves that a start tries after it has converged: each merges two components and splits "
        "another one, and is kept if EM converges higher from there. em.max_iter then bounds each run of EM.",
        0,
        ge=0,
    )
    reseed: bool = option(
        "Whether a component without rows becomes half of the one with the largest weight; otherwise it keeps its mean "
        "and covariance, with weight 0.",
        True,
    )
    step_exponent: float = option(
        "Of stepwise: step t = 1, 2, ... has size (t + step_offset)^(-step_exponent), times the mean weight of the "
        "batch's rows over that of all rows.",
        0.6,
        ge=0.5,
        le=1,
    )
    step_offset: float = option("Of stepwise: the larger, the smaller are the first steps.", 10.0, ge=0)
    batch_tiles: int | Literal["auto"] = option(
        "Of stepwise: largest number of tiles of a batch; auto: so many that a pass has at least 1024 batches, or one.",
        "auto",
        ge=1,
    )
    held_out: float = option(
        "Of stepwise: share of the tiles that no step uses; the log has the mean log-likelihood of their rows after "
        "each pass.",
        0.0,
        ge=0,
        le=0.9,
    )
    polish: int = option("Of stepwise: iterations of batch EM at the end.", 1, ge=0)


@dataclass(frozen=True)
class ComputeOptions:
    device: Literal["auto", "cpu", "gpu"] = option(
        "Where the E-step runs; gpu: every rank uses a GPU, shared if there are fewer than ranks; auto: a rank uses a "
        "GPU if there is one that no other rank uses, otherwise its processors.",
        "auto",
    )
    gpu_aware_mpi: bool | Literal["auto"] = option(
        "Whether MPI adds statistics in the memory of GPUs, without a copy to the host; auto: if MPI reports "
        "that it can.",
        "auto",
    )
    precision: Literal["float64", "float32"] = option(
        "Precision of rows and matrix products; sums are float64. Components for which float32 would change the "
        "log-likelihood of a row by more than 1e-4 are computed in float64.",
        "float64",
    )
    threads: int | Literal["auto"] = option(
        "Threads of a rank; auto: as many as the batch system or the affinity of the process allows.",
        "auto",
        ge=1,
        le=4096,
    )
    memory: int | str = option(
        "Memory of a rank for rows, in bytes or as 256MB; rows beyond it are read anew in every pass. auto: the rank's "
        "share of half of the node's free memory. On a GPU at most half of its free memory.",
        "auto",
    )
    tile_rows: int | Literal["auto"] = option(
        "Rows of a tile, the unit of work and of summation; auto: a function of the problem alone, that is, of the "
        "numbers of rows, features and components, the covariance type, the precision and the algorithm.",
        "auto",
        ge=1,
        le=2**24,
    )


@dataclass(frozen=True)
class OutputOptions:
    dir: str | None = option("Directory of the run; null: runs/ and the name of the config file.")
    checkpoint_iterations: int = option("Write a checkpoint after this many iterations ...", 10, ge=1)
    checkpoint_seconds: float = option("... or after this many seconds, whichever is first.", 300, gt=0)
    walltime: int | None = option(
        "Time after which the run stops, with the last iteration saved: seconds, or a text "
        "[days-]hours:minutes:seconds. The end of a SLURM job is known without it.",
        gt=0,
    )
    statistics: bool | Literal["auto"] = option(
        "Whether the model keeps its sufficient statistics, from which `update` goes on; auto: if they take at most "
        "16 MiB.",
        "auto",
    )


@dataclass(frozen=True)
class SelectOptions:
    n_components: list[int] | None = option(
        "Numbers of components that `select` tries; null: model.n_components alone.", ge=1, le=2**31 - 1
    )
    covariance_type: list[str] | None = option(
        "Shapes of the covariances that it tries; null: model.covariance_type alone.", registry="covariance types"
    )
    seeds: list[int] | None = option(
        "Seeds with which it fits each of these, in place of init.seed; null: 0, 1 and 2.", ge=0, le=2**63 - 1
    )
    criterion: Literal["bic", "aic", "icl", "held_out"] = option(
        "What decides which fit is best: an information criterion, or the mean log-likelihood of held-out rows.", "bic"
    )
    held_out: float | None = option(
        "Share of the rows that no fit sees; null: 0.1 if criterion is held_out, otherwise 0.", ge=0, le=0.9
    )


@dataclass(frozen=True)
class FitOptions:
    """The configuration of a run: one field for each section."""

    data: DataOptions = field(default_factory=DataOptions)
    model: ModelOptions = field(default_factory=ModelOptions)
    init: InitOptions = field(default_factory=InitOptions)
    em: EmOptions = field(default_factory=EmOptions)
    compute: ComputeOptions = field(default_factory=ComputeOptions)
    output: OutputOptions = field(default_factory=OutputOptions)
    select: SelectOptions = field(default_factory=SelectOptions)

    @property
    def is_screened(self) -> bool:
        """Whether the first mixture is the best of several, according to a sample of the rows."""
        is_few = 1 < self.model.n_components < MANY_COMPONENTS
        return self.init.screening and self.init.method == "kmeans" and self.em.algorithm == "batch" and is_few

    @property
    def n_starts(self) -> int:
        """Number of starts that run on all rows."""
        return 1 if self.is_screened else self.init.n_init


def as_mapping(options: FitOptions) -> dict[str, Any]:
    """Options as nested mappings, as written to files; the section of `select` only where it differs from the
    defaults, since `fit` does not use it."""
    sections = asdict(options)
    if options.select == SelectOptions():
        del sections["select"]
    return sections
