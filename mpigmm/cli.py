"""Verbs and flags of the command line, without logic. Imported by root alone."""

from __future__ import annotations

from typing import Annotated

import typer

from mpigmm.config import dump, load_config, resolve
from mpigmm.config_text import example_file, part_of_file, whole_file
from mpigmm.errors import ConfigError
from mpigmm.options import OpsChoice
from mpigmm.requests import (
    PREDICTED,
    BenchRequest,
    ConditionRequest,
    ConvertRequest,
    FitRequest,
    GenerateRequest,
    InspectRequest,
    MergeRequest,
    PlanRequest,
    PlotRequest,
    PredictRequest,
    SampleRequest,
    ScoreRequest,
    SelectRequest,
    UpdateRequest,
    VerbRequest,
)
from mpigmm.row_arguments import rows_request, update_request
from mpigmm.version import __version__

LARGEST_INT, LARGEST_ROWS, LARGEST_FEATURES, LARGEST_SEED = 2**31 - 1, 2**53, 2**24, 2**63 - 1
"""Largest counts: of MPI (32 bits), of whole numbers in float64, and of features; and largest seed of a sample."""

app = typer.Typer(
    help="Gaussian mixtures by expectation-maximisation, on any number of MPI ranks: mpirun -n 64 mpigmm fit run.yaml",
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)

ConfigFile = Annotated[str, typer.Argument(metavar="CONFIG", help="YAML file; its keys: docs/configuration.md.")]
Overrides = Annotated[list[str] | None, typer.Argument(metavar="KEY=VALUE", help="Settings that override the file's.")]
ModelFile = Annotated[str, typer.Argument(metavar="MODEL", help="Model file, as written by fit.")]
DataFiles = Annotated[
    list[str],
    typer.Argument(
        metavar="DATA [KEY=VALUE]",
        help="Files of rows (HDF5, Parquet, .npy), or quoted globs; together one matrix. And keys of the sections data "
        "and compute: data.columns and data.missing are those of the fit unless they are given.",
    ),
]
Dataset = Annotated[
    str | None,
    typer.Option(
        metavar="NAME[,NAME...]",
        help="Dataset that holds the rows, or several that are one column each; else that of the model's fit, or /X.",
    ),
]

RowCount = Annotated[int, typer.Option(min=1, max=LARGEST_ROWS, metavar="N", help="Rows to draw.")]
Seed = Annotated[int, typer.Option(min=0, max=LARGEST_SEED, metavar="S", help="Seed of the random numbers.")]

Overwrite = Annotated[
    bool, typer.Option("--overwrite", help="Replace --out even if it is not what this verb wrote before.")
]


def written(*datasets: str) -> str:
    """What datasets of the output of `predict` hold, for its help."""
    return "; ".join(f"/{name}: {PREDICTED[name]}" for name in datasets)


def parse(arguments: list[str]) -> tuple[VerbRequest | None, int]:
    """The request of a command line, or None where help or a usage error was printed; and the exit code."""
    requests: list[VerbRequest] = []
    try:
        app(arguments, prog_name="mpigmm", obj=requests)
    except SystemExit as end:
        if not requests:
            return None, int(end.code or 0)
    return requests[0], 0


def parts(text: str | None) -> str | tuple[str, ...] | None:
    """A text, or the several that commas separate in it."""
    return tuple(text.split(",")) if text is not None and "," in text else text


def show_version(wanted: bool) -> None:
    """Print the version and end."""
    if wanted:
        print(f"mpigmm {__version__}")
        raise typer.Exit


@app.callback()
def mpigmm(
    version: Annotated[
        bool, typer.Option("--version", callback=show_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Verbs below; each has a --help of its own."""


@app.command()
def fit(
    context: typer.Context,
    config: ConfigFile,
    overrides: Overrides = None,
    restart: Annotated[bool, typer.Option("--restart", help="Start over, whatever output.dir holds.")] = False,
) -> None:
    """Fit a mixture, or resume the unfinished fit of the same problem in output.dir."""
    options = load_config(config, overrides or [])
    context.obj.append(FitRequest(options, dump(options), restart, config))


@app.command()
def select(
    context: typer.Context,
    config: ConfigFile,
    overrides: Overrides = None,
    restart: Annotated[bool, typer.Option("--restart", help="Start over, whatever output.dir holds.")] = False,
) -> None:
    """Fit every combination of select.n_components, select.covariance_type and select.seeds, and compare the fits."""
    options = load_config(config, overrides or [])
    context.obj.append(SelectRequest(options, dump(options), restart, config))


@app.command()
def convert(
    context: typer.Context,
    inputs: Annotated[
        list[str],
        typer.Argument(
            metavar="IN",
            help="Files (CSV, also compressed; npy, npz, Parquet, FCS), directories of them, quoted globs.",
        ),
    ],
    out: Annotated[str, typer.Option(metavar="FILE", help="HDF5 file to write.")],
    dataset: Annotated[str, typer.Option(help="Dataset to write.")] = "/X",
    columns: Annotated[
        str | None, typer.Option(metavar="a,b", help="Columns to convert, by name or number from 0; else all.")
    ] = None,
    delimiter: Annotated[
        str | None, typer.Option(metavar="CHARACTER", help="Between the fields of a CSV file; else detected.")
    ] = None,
    header: Annotated[
        bool | None, typer.Option(help="Whether a CSV file begins with names of the columns; else detected.")
    ] = None,
    decimal: Annotated[str, typer.Option(metavar="CHARACTER", help="Decimal point in CSV files.")] = ".",
    compensate: Annotated[
        bool, typer.Option("--compensate", help="Apply the spillover matrix of FCS files ($SPILLOVER).")
    ] = False,
    arcsinh: Annotated[float | None, typer.Option(metavar="C", help="Convert each value x to arcsinh(x / C).")] = None,
    overwrite: Overwrite = False,
) -> None:
    """Convert files of other formats to the HDF5 that fit reads."""
    context.obj.append(
        ConvertRequest(tuple(inputs), out, dataset, columns, overwrite, delimiter, header, decimal, compensate, arcsinh)
    )


@app.command()
def predict(
    context: typer.Context,
    model: ModelFile,
    data: DataFiles,
    out: Annotated[
        str, typer.Option(help=f"HDF5 file to write. {written('labels', 'log_density', 'files', 'offsets')}.")
    ],
    dataset: Dataset = None,
    proba: Annotated[
        int,
        typer.Option(min=0, metavar="M", help=f"Write M posteriors as well. {written('proba', 'components')}."),
    ] = 0,
    anomaly: Annotated[
        float | None,
        typer.Option(metavar="Q", help=f"Mark rows up to the quantile Q, 0 < Q < 1. {written('anomaly')}."),
    ] = None,
    overwrite: Overwrite = False,
) -> None:
    """Assign rows to components."""
    rows = rows_request(data, parts(dataset))
    context.obj.append(PredictRequest(model, rows, out, proba, anomaly, overwrite))


@app.command()
def score(context: typer.Context, model: ModelFile, data: DataFiles, dataset: Dataset = None) -> None:
    """Print log-likelihood, AIC, BIC and ICL of a model on rows, and how well each component describes its rows."""
    context.obj.append(ScoreRequest(model, rows_request(data, parts(dataset))))


@app.command()
def sample(
    context: typer.Context,
    model: ModelFile,
    n_samples: RowCount,
    out: Annotated[str, typer.Option(help="HDF5 file to write: /X, and /labels, the components of the rows.")],
    seed: Seed = 0,
    moments: Annotated[
        bool,
        typer.Option(
            "--moments",
            help="Map the rows so that mean and covariance are the mixture's, to 1e-13 of its standard deviations.",
        ),
    ] = False,
    overwrite: Overwrite = False,
) -> None:
    """Draw rows from a model. Without --moments, row i depends only on the model, the seed and i."""
    context.obj.append(SampleRequest(model, n_samples, seed, out, moments, overwrite))


@app.command()
def generate(
    context: typer.Context,
    n_samples: RowCount,
    n_features: Annotated[int, typer.Option(min=1, max=LARGEST_FEATURES, metavar="D", help="Features.")],
    n_components: Annotated[int, typer.Option(min=1, max=LARGEST_INT, metavar="K", help="Components.")],
    out: Annotated[
        str, typer.Option(help="HDF5 file to write: /X and /labels; rows.h5 has its mixture beside it, rows.model.h5.")
    ],
    covariance_type: Annotated[str, typer.Option(help="full, tied, diag or spherical.")] = "full",
    separation: Annotated[
        float, typer.Option(min=0, max=1e15, help="Means are this times standard normal numbers; variances are near 1.")
    ] = 3.0,
    seed: Seed = 0,
    overwrite: Overwrite = False,
) -> None:
    """Draw synthetic rows from a random mixture, and write that mixture as a model."""
    context.obj.append(
        GenerateRequest(n_samples, n_features, n_components, covariance_type, separation, seed, out, overwrite)
    )


@app.command()
def condition(
    context: typer.Context,
    model: ModelFile,
    data: DataFiles,
    given: Annotated[str, typer.Option(metavar="0,1", help="Numbers or names of the features that are given.")],
    out: Annotated[str, typer.Option(help="HDF5 file to write.")],
    dataset: Dataset = None,
    overwrite: Overwrite = False,
) -> None:
    """Predict features of rows from others by mixture regression. The rows hold the given features, in the order of
    --given, or all features of the model. The datasets of --out have an entry for each row:

    /mean: the mean of each of the other features, in ascending order, given these values.

    /covariance: their covariance matrix.

    /log_density: log-density of the given values. All are NaN for a row that data.missing=drop leaves out.

    /files and /offsets say from which file and row each entry comes.
    """
    context.obj.append(ConditionRequest(model, rows_request(data, parts(dataset)), given, out, overwrite))


@app.command()
def merge(
    context: typer.Context,
    model: ModelFile,
    n_components: Annotated[
        int, typer.Option(min=1, max=LARGEST_INT, metavar="M", help="Components of the merged mixture.")
    ],
    out: Annotated[str, typer.Option(metavar="MODEL2", help="Model file to write.")],
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace --out even if it is the model or checkpoint of a fit.")
    ] = False,
) -> None:
    """Merge components of a model, two at a time, with the least loss of information (Runnalls 2007)."""
    context.obj.append(MergeRequest(model, n_components, out, overwrite))


@app.command()
def update(
    context: typer.Context,
    model: ModelFile,
    out: Annotated[str, typer.Option(metavar="MODEL2", help="Model file to write; may be MODEL itself.")],
    data: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="DATA KEY=VALUE",
            help="Files of new rows, or quoted globs; together one matrix. And keys of the sections data and compute: "
            "data.columns, data.weights, data.missing and compute.precision are those of the fit unless they are "
            "given.",
        ),
    ] = None,
    forget: Annotated[
        float, typer.Option(min=0, max=1, metavar="F", help="Multiplies the old statistics at each update.")
    ] = 1.0,
    watch: Annotated[
        str | None,
        typer.Option(metavar="DIR", help="Fold in each file that is renamed into DIR, in natural order, exactly once."),
    ] = None,
    idle: Annotated[
        float | None, typer.Option(min=0, metavar="SECONDS", help="End --watch once no file came for so long.")
    ] = None,
    dataset: Dataset = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace --out even if it is the model or checkpoint of a fit.")
    ] = False,
) -> None:
    """Fold new rows into a fitted model, from the statistics kept with it (output.statistics).

    One EM step: an E-step over the new rows, and an M-step with the statistics of all rows, the old ones times F.

    With --watch, MODEL2 is written after each file and holds the ledger of the files: after an interruption the same
    command goes on. Names that begin with a dot or end in .tmp or .part are left alone.
    """
    rows, precision = update_request(data or [], parts(dataset), watch, idle)
    context.obj.append(UpdateRequest(model, rows, out, forget, watch, idle, precision, overwrite))


@app.command()
def plan(
    context: typer.Context,
    config: ConfigFile,
    overrides: Overrides = None,
    ranks: Annotated[
        list[int], typer.Option(min=1, max=LARGEST_INT, metavar="P", help="Ranks; may be given again.")
    ] = [1],  # noqa: B006
    latency: Annotated[
        float | None, typer.Option(min=0, max=1e6, metavar="SECONDS", help="Of a message; else measured, or assumed.")
    ] = None,
    bandwidth: Annotated[
        float | None,
        typer.Option(min=1, max=1e18, metavar="BYTES/S", help="Of a rank's messages; else measured, or assumed."),
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False,
) -> None:
    """Predict what a fit needs on P ranks: memory, tiles, bytes reduced, seconds an iteration. Reads no rows."""
    options = load_config(config, overrides or [])
    context.obj.append(PlanRequest(options, tuple(ranks), latency, bandwidth, json))


@app.command()
def inspect(
    context: typer.Context,
    file: Annotated[str, typer.Argument(metavar="FILE", help="A model, checkpoint or data file.")],
    json: Annotated[bool, typer.Option("--json", help="As JSON, in full precision.")] = False,
) -> None:
    """Describe the content of a file: the components of a model, or the datasets. Needs no MPI."""
    context.obj.append(InspectRequest(file, json))


@app.command()
def config(
    key: Annotated[
        str | None, typer.Argument(metavar="KEY", help="A key such as em.tol, or a section such as em; else all.")
    ] = None,
    example: Annotated[bool, typer.Option("--example", help="Print a short file to begin with.")] = False,
) -> None:
    """Print a config file of all keys with their defaults, and what they mean as comments."""
    if example and key is not None:
        raise ConfigError(f"--example prints a whole file: leave out {key!r}, or --example")
    print(example_file() if example else whole_file() if key is None else part_of_file(key))


@app.command()
def plot(
    context: typer.Context,
    source: Annotated[str, typer.Argument(metavar="DIR_OR_MODEL", help="Directory of a fit or select, or a model.")],
    data: Annotated[
        list[str] | None,
        typer.Option(metavar="FILE", help="File with rows to draw, or a quoted glob; may be given again."),
    ] = None,
    dataset: Dataset = None,
    features: Annotated[
        str | None,
        typer.Option(metavar="0,1", help="By number or name; else those in which components differ most."),
    ] = None,
    out: Annotated[
        str | None, typer.Option(metavar="DIR", help="Directory for the pictures; else that of DIR_OR_MODEL.")
    ] = None,
) -> None:
    """Draw convergence, components, pairs of features, component sizes and selections; prints the files' names."""
    context.obj.append(PlotRequest(source, tuple(data or ()), parts(dataset), features, out))


@app.command()
def bench(
    context: typer.Context,
    overrides: Annotated[
        list[str] | None,
        typer.Argument(metavar="KEY=VALUE", help="Other settings of model and compute, e.g. compute.threads=2."),
    ] = None,
    n_samples: Annotated[int, typer.Option(min=1, max=LARGEST_ROWS, help="Rows.")] = 200_000,
    n_features: Annotated[int, typer.Option(min=1, max=LARGEST_FEATURES, help="Features.")] = 32,
    n_components: Annotated[int, typer.Option(min=1, max=LARGEST_INT, help="Components.")] = 16,
    covariance_type: Annotated[str, typer.Option(help="full, tied, diag or spherical.")] = "full",
    precision: Annotated[str, typer.Option(help="float64 or float32.")] = "float64",
    device: Annotated[str, typer.Option(help="auto, cpu or gpu.")] = "auto",
    separation: Annotated[
        float, typer.Option(min=0, max=1e15, help="Means are this times standard normal numbers.")
    ] = 3.0,
    iterations: Annotated[
        int, typer.Option(min=1, max=LARGEST_INT, help="Iterations, of which the median counts.")
    ] = 5,
    ops: Annotated[
        OpsChoice, typer.Option("--kernels", help="Array operations; auto: the fastest that all ranks have.")
    ] = "auto",
    json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False,
) -> None:
    """Time an EM iteration on synthetic rows, against this machine's matrix products and memory."""
    raw = {
        "data": {"path": "synthetic rows"},
        "model": {"n_components": n_components, "covariance_type": covariance_type},
        "compute": {"precision": precision, "device": device},
    }
    options = resolve(raw, overrides or [], sections=("model", "compute"))
    context.obj.append(BenchRequest(options, n_samples, n_features, separation, iterations, ops, json))
