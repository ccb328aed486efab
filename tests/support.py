"""What several tests share: data files, launches under mpirun, and a brute-force mixture."""

from __future__ import annotations

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import h5py
import numpy as np
import yaml

from mpigmm.core.algorithms.m_step import m_step
from mpigmm.core.algorithms.repair import Repairs
from mpigmm.core.arrays import DOUBLE
from mpigmm.core.covariances import COVARIANCE_TYPES
from mpigmm.core.covariances.base import Safeguards
from mpigmm.core.data_summary import DataSummary, DataSummaryStatistics
from mpigmm.core.estep.step import EStep
from mpigmm.core.exact import ExactSum
from mpigmm.core.mixture import Mixture, safe_centre
from mpigmm.core.ops.base import Ops
from mpigmm.core.ops.numpy import NUMPY
from mpigmm.core.priors import NoPrior
from mpigmm.core.statistics import SufficientStatistics
from mpigmm.core.sum_format import refined_limbs, sum_format
from mpigmm.core.tile import Tile
from mpigmm.rows import Rows

TYPES = ("full", "tied", "diag", "spherical")


def blobs(n_samples: int, n_features: int, n_components: int, seed: int = 0, separation: float = 3.0) -> np.ndarray:
    """Rows of correlated components, in random order."""
    random = np.random.default_rng(seed)
    means = separation * random.standard_normal((n_components, n_features))
    mixing = np.eye(n_features) + 0.4 * random.standard_normal((n_components, n_features, n_features))
    labels = random.integers(n_components, size=n_samples)
    noise = random.standard_normal((n_samples, n_features))
    return means[labels] + np.einsum("nd,nde->ne", noise, mixing[labels])


def write_rows(path: Path, rows: np.ndarray, **others: np.ndarray) -> Path:
    """An HDF5 file with /X and other datasets."""
    with h5py.File(path, "w") as file:
        file["X"] = rows
        for name, values in others.items():
            file[name] = values
    return path


def write_config(path: Path, **sections: dict[str, Any]) -> Path:
    """A YAML config file."""
    path.write_text(yaml.safe_dump(sections))
    return path


During = Callable[[subprocess.Popen[str]], None]


def mpirun(
    n_ranks: int, *arguments: str, timeout: float = 60, during: During | None = None, **environment: str
) -> subprocess.CompletedProcess[str]:
    """``mpirun -n n_ranks python -m mpigmm ...`` or, for no ranks, without mpirun; killed whole on time-out."""
    command = [sys.executable, "-m", "mpigmm", *map(str, arguments)]
    return launch(n_ranks, command, timeout, during, **environment)


def launch(
    n_ranks: int, command: list[str], timeout: float, during: During | None = None, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Run a command under mpirun in a process group of its own; during(process) is called once it has started.

    It has a directory for temporary files of its own, too: a launcher that is killed leaves some.
    """
    launcher = shutil.which("mpirun") or str(Path(sys.executable).with_name("mpirun"))
    if n_ranks:
        command = [launcher, "-n", str(n_ranks), *command]
    with (
        TemporaryDirectory(ignore_cleanup_errors=True) as scratch,
        subprocess.Popen(
            command,
            env=clean_environment() | {"TMPDIR": scratch} | environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        ) as process,
    ):
        try:
            if during is not None:
                during(process)
            out, err = process.communicate(timeout=timeout)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            out, err = process.communicate()
            raise AssertionError(f"no end within {timeout} s: {command}\n{out}\n{err}") from None
    return subprocess.CompletedProcess(command, process.returncode, out, err)


def fit_all(n_ranks: int, fits: Sequence[Sequence[str]], timeout: float = 60) -> list[str]:
    """Run ``fit`` in one launch for several configs, each with its overrides, which hold no commas; what each said."""
    program, line = str(Path(__file__).with_name("fit_all.py")), "-- end of a fit --"
    done = launch(n_ranks, [sys.executable, program, line, *(",".join(words) for words in fits)], timeout)
    assert done.returncode == 0, done.stderr
    said = done.stderr.split(f"{line}\n")
    assert len(said) == len(fits) + 1, done.stderr
    return said[:-1]


def ranks_below(process: int) -> list[int]:
    """Processes of this program below a launcher, at any depth, in the order of their numbers."""
    found: list[int] = []
    with suppress(OSError):
        for child in map(int, Path(f"/proc/{process}/task/{process}/children").read_text().split()):
            command = Path(f"/proc/{child}/cmdline").read_bytes().split(b"\0")
            is_rank = b"python" in command[0] and b"mpigmm" in command
            found += [child] if is_rank else ranks_below(child)
    return sorted(found)


def clean_environment() -> dict[str, str]:
    """The environment less what a launcher of this very process put there, fit for root and for few cores."""
    launcher = ("OMPI_", "PMIX_", "PRTE_", "PMI_", "SLURM_")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(launcher)}
    return kept | {
        "OMP_NUM_THREADS": "1",
        "OMPI_ALLOW_RUN_AS_ROOT": "1",
        "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
        "PRTE_MCA_rmaps_default_mapping_policy": ":oversubscribe",
        "OMPI_MCA_rmaps_base_oversubscribe": "1",
        "OMPI_MCA_btl": "^ofi",
    }


@contextmanager
def file_size_limit(size: int) -> Iterator[None]:
    """Files that cannot grow beyond a size: a full disk, near enough."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)


def read_model(path: Path) -> dict[str, np.ndarray]:
    """Parameters of a model file."""
    with h5py.File(path) as file:
        return {name: file[name][()] for name in ("weights", "means", "covariances") if name in file}


def read_lines(path: Path) -> list[dict[str, Any]]:
    """Lines of a convergence log."""
    return [json.loads(line) for line in path.read_text().splitlines()]


def assert_same_bits(one: dict[str, np.ndarray], other: dict[str, np.ndarray]) -> None:
    """Equal parameters, to the last bit."""
    for name, values in one.items():
        assert values.tobytes() == other[name].tobytes(), f"{name} differ by {np.abs(values - other[name]).max()}"


def survey_of(rows: np.ndarray, sample_weight: np.ndarray | None = None, tile_rows: int = 256) -> DataSummary:
    """The survey of rows in memory."""
    statistics = DataSummaryStatistics(np.nanmedian(rows, axis=0).astype(float), drop=False)
    tile = Tile(rows.shape[1], tile_rows, NUMPY)
    for start in range(0, len(rows), tile_rows):
        statistics.add(tile, Rows.of(rows, sample_weight)[start : start + tile_rows])
    return statistics.finish(statistics.packed(), statistics.low, statistics.high)


def statistics_of(
    mixture: Mixture,
    rows: np.ndarray,
    survey: DataSummary,
    sample_weight: np.ndarray | None = None,
    tile_rows: int = 256,
    dtype: np.dtype = DOUBLE,
    ops: Ops = NUMPY,
    n_limbs: int | None = None,
    in_double: np.ndarray | None = None,
) -> ExactSum:
    """An E-step over rows in memory."""
    total, part = ExactSum(sum_format(mixture, survey, n_limbs)), SufficientStatistics.empty(mixture.layout)
    survey = replace(survey, centre=safe_centre(mixture, survey.centre))
    tile = Tile(rows.shape[1], tile_rows, ops)
    e_step = EStep(mixture.e_step_inputs(survey.centre, survey.max_abs_deviation, dtype, ops, in_double))
    for start in range(0, len(rows), tile_rows):
        own = Rows.of(rows, sample_weight)[start : start + tile_rows]
        tile.fill(own, survey.centre, mask=survey.masked, dtype=dtype)
        e_step(tile, part)
        total.add(part.flat, ops)
    return total


def step_in_memory(
    mixture: Mixture,
    rows: np.ndarray,
    survey: DataSummary,
    sample_weight: np.ndarray | None = None,
    safeguards: Safeguards = Safeguards(0.0, 0.0),  # noqa: B008
    ops: Ops = NUMPY,
) -> tuple[Mixture, SufficientStatistics, Repairs, int]:
    """An iteration on rows in memory: the new mixture, the sums, the repairs made, and how many limbs the sums had."""
    n_limbs = None
    while True:
        sums = statistics_of(mixture, rows, survey, sample_weight, ops=ops, n_limbs=n_limbs)
        statistics = SufficientStatistics.of(sums.value(), mixture.layout)
        new, repairs = m_step(mixture, statistics, survey, safeguards, NoPrior(survey))
        n_limbs = refined_limbs(sums.form.n_limbs, mixture, new, statistics.counts, survey)
        if n_limbs == sums.form.n_limbs:
            return new, statistics, repairs, n_limbs


def fit_in_memory(
    mixture: Mixture,
    rows: np.ndarray,
    n_iter: int,
    sample_weight: np.ndarray | None = None,
    safeguards: Safeguards = Safeguards(0.0, 0.0),  # noqa: B008
    ops: Ops = NUMPY,
) -> tuple[Mixture, list[float], int]:
    """EM on rows in memory: the mixture, the mean log-likelihood entering each iteration, and repairs made."""
    survey = survey_of(rows, sample_weight)
    history, repaired = [], 0
    for _ in range(n_iter):
        mixture, statistics, repairs, _ = step_in_memory(mixture, rows, survey, sample_weight, safeguards, ops)
        history.append(float(statistics.log_likelihood[0]) / survey.total_weight)
        repaired += len(repairs.floored) + len(repairs.reseeded)
    return mixture, history, repaired


def mixture_of(covariance_type: str, weights: np.ndarray, means: np.ndarray, covariances: np.ndarray) -> Mixture:
    """A mixture of parameters that nothing checks."""
    return Mixture(weights, means, COVARIANCE_TYPES[covariance_type](covariances))


def random_mixture(covariance_type: str, n_components: int, n_features: int, seed: int = 0) -> Mixture:
    """A mixture of overlapping components, correlated where the type allows it."""
    random = np.random.default_rng(seed)
    mixing = random.standard_normal((n_components, n_features, n_features))
    full = mixing @ mixing.transpose(0, 2, 1) / n_features + 0.2 * np.eye(n_features)
    variances = np.diagonal(full, axis1=1, axis2=2)
    covariances = {"full": full, "tied": full[0], "diag": variances.copy(), "spherical": variances.mean(axis=1)}
    means = 1.5 * random.standard_normal((n_components, n_features))
    return mixture_of(covariance_type, random.dirichlet(np.ones(n_components)), means, covariances[covariance_type])


def dense_covariances(mixture: Mixture) -> np.ndarray:
    """All covariance matrices, (K, D, D), by the shapes that scikit-learn defines."""
    values, (k, d) = mixture.covariances.arrays()["covariances"], mixture.means.shape
    expand = {
        "full": lambda: values,
        "tied": lambda: np.repeat(values[None], k, axis=0),
        "diag": lambda: np.array([np.diag(own) for own in values]),
        "spherical": lambda: values[:, None, None] * np.eye(d),
    }
    return expand[mixture.covariances.name]()


def scaled_features(mixture: Mixture, scale: np.ndarray) -> Mixture:
    """The mixture, of type full, of its features times scale (D,)."""
    covariances = dense_covariances(mixture) * scale * scale[:, None]
    return mixture_of("full", mixture.weights, mixture.means * scale, covariances)


def with_covariances(mixture: Mixture, covariances: np.ndarray) -> Mixture:
    """The mixture with other covariances, of the same type."""
    return mixture_of(mixture.covariances.name, mixture.weights, mixture.means, covariances)


def scaled_covariances(mixture: Mixture, factors: Any) -> Mixture:
    """The mixture with each component's covariance multiplied by a factor (K,)."""
    values = mixture.covariances.values
    return with_covariances(mixture, values * np.reshape(factors, (-1, *[1] * (values.ndim - 1))))


def factors_of(mixture: Mixture) -> np.ndarray:
    """Factors of the precisions, as scikit-learn shapes them."""
    factors = mixture.covariances.factors
    return factors.upper if mixture.covariances.name in ("full", "tied") else factors.roots


def start_mixture(covariance_type: str, rows: np.ndarray, n_components: int, seed: int = 0) -> Mixture:
    """Random rows as means, equal weights, the data's covariance."""
    random = np.random.default_rng(seed)
    means = rows[random.choice(len(rows), n_components, replace=False)].astype(float)
    whole = np.atleast_2d(np.cov(rows, rowvar=False))
    variances = np.diag(whole)
    single = {"full": whole[None], "tied": whole, "diag": variances[None], "spherical": variances.mean()}
    shape = COVARIANCE_TYPES[covariance_type].shape(*means.shape)
    covariances = np.broadcast_to(single[covariance_type], shape).copy()
    return mixture_of(covariance_type, np.full(n_components, 1 / n_components), means, covariances)
