"""What takes a GPU: ``make test-gpu``, the parallel tests with ``compute.device=gpu``; and ``make bench-gpu``, an
iteration on one GPU against its limits, scikit-learn on the processors beside it and, if that is installed, torchgmm on
the same GPU. The table goes to docs/performance.md as well.
"""

from __future__ import annotations

import importlib.util
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import date
from itertools import chain
from pathlib import Path
from statistics import median

import h5py
from bench import print_table
from bench_runs import apart, own_bench, write_blocks
from bench_workloads import WORKLOADS, Workload
from support import clean_environment

from mpigmm.core.covariances import COVARIANCE_TYPES
from mpigmm.core.gpu.arrays import GpuArrays, NoDeviceError
from mpigmm.core.gpu.discovery import open_gpu, usable, visible_gpus
from mpigmm.driver.measure import true_mixture
from mpigmm.runs.model import Model
from mpigmm.runs.model_file import save_model

PAGE = Path(__file__).parent.parent / "docs" / "performance.md"
LARGE = {"large": Workload(1_000_000, 128, 1024, "spherical")}
SEPARATIONS = {"full": (3.0, 0.5, 0.1)}
"""Separations of the components by covariance type; 3 of the other types."""

RANKS, N_ITER, FEW, MORE = (1, 2, 3, 4), 4, 2, 8
TITLES = [
    "workload",
    "separation",
    "precision",
    "ms an iteration",
    "of its products",
    "of its reading",
    "of the floor",
    "scikit-learn, ms",
    "ratio",
    "torchgmm, ms",
    "ratio",
]


def gpu_here() -> GpuArrays | str:
    """A GPU, or why there is none."""
    try:
        visible_gpus()
        with usable():
            return open_gpu(0)
    except NoDeviceError as error:
        return str(error)


def run_tests() -> None:
    """The tests of the CUDA kernels, and all parallel ones, on the GPU."""
    environment = clean_environment() | {"MPIGMM_TEST_DEVICE": "gpu"}
    pytest = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider"]
    subprocess.run([*pytest, "tests/test_gpu.py"], env=environment, check=True)
    for n_ranks in RANKS:
        print(f"== {n_ranks} ranks", flush=True)
        subprocess.run(["mpirun", "-n", str(n_ranks), *pytest, "-m", "parallel"], env=environment, check=True)


def compare(name: str, separation: float) -> list[list[str]]:
    """Lines of the table: a workload in both precisions."""
    workload = (WORKLOADS | LARGE)[name]
    n_samples, n_features, _, kind = workload
    source = workload.source(separation)
    shape = [*workload.options(), f"--separation={separation}", "--device=gpu"]
    lines = []
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        write_blocks(folder / "x.h5", source, 0, n_samples)
        mixture = true_mixture(source, COVARIANCE_TYPES[kind])
        save_model(folder / "start.h5", Model(mixture, n_samples, 0.0, 0, False, None))
        theirs = tried("scikit-learn", lambda: apart("--iterate", place, N_ITER)[0])
        for precision in ("float64", "float32"):
            ours = own_bench([*shape, f"--precision={precision}"], 1)
            torch = tried("torchgmm", lambda p=precision: torch_apart(place, p)) if has_torchgmm() else None
            seconds = ours["seconds"]
            lines.append(
                [
                    workload.title(name),
                    f"{separation:g}",
                    precision,
                    f"{1e3 * seconds:.3g}",
                    f"{ours['useful_flops_per_second'] / ours['gemm_flops_per_second']:.2f}",
                    f"{8 * n_samples * n_features / seconds / ours['read_bytes_per_second']:.2f}",
                    f"{ours['fraction_of_floor']:.2f}",
                    *beside(theirs, seconds),
                    *beside(torch, seconds),
                ]
            )
    return lines


def tried(what: str, seconds: Callable[[], float]) -> float | None:
    """Seconds of another program, if it comes through with this workload."""
    try:
        return seconds()
    except subprocess.CalledProcessError as error:
        print(f"{what} failed: {(error.stderr or '').strip().splitlines()[-1:]}", file=sys.stderr)
        return None


def beside(theirs: float | None, ours: float) -> tuple[str, str]:
    """Milliseconds of another program, and what they are in ours."""
    return ("-", "-") if theirs is None else (f"{1e3 * theirs:.3g}", f"{theirs / ours:.3g}")


def has_torchgmm() -> bool:
    return importlib.util.find_spec("torchgmm") is not None


def torch_apart(folder: str, precision: str) -> float:
    """`torch_seconds` in a process of its own, which leaves the GPU as it was."""
    command = [sys.executable, __file__, "--torch", folder, precision]
    return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()[-1])


def torch_seconds(folder: Path, precision: str) -> float:
    """Seconds of an iteration of torchgmm: those of a fit with some, less those of one with fewer."""
    import torch
    from torchgmm.bayes import GaussianMixture

    kind = getattr(torch, precision)
    with h5py.File(folder / "x.h5") as file, h5py.File(folder / "start.h5") as start:
        rows = torch.from_numpy(file["X"][()]).to(kind)
        means, covariance_type = torch.from_numpy(start["means"][()]).to(kind), start.attrs["covariance_type"]
    torch.set_default_dtype(kind)

    def fit_seconds(n_iter: int) -> float:
        trainer = {"max_epochs": n_iter, "accelerator": "gpu", "devices": 1, "precision": 8 * kind.itemsize}
        model = GaussianMixture(
            len(means),
            covariance_type=covariance_type,
            init_means=means,
            convergence_tolerance=-1.0,
            trainer_params=trainer | {"enable_progress_bar": False},
        )
        begin = time.perf_counter()
        model.fit(rows)
        torch.cuda.synchronize()
        return time.perf_counter() - begin

    fit_seconds(1)
    return median((fit_seconds(FEW + MORE) - fit_seconds(FEW)) / MORE for _ in range(3))


def run_bench(gpu: GpuArrays) -> None:
    """Print the table, and put it on the page."""
    cases = (
        (name, separation)
        for name, workload in (WORKLOADS | LARGE).items()
        for separation in SEPARATIONS.get(workload.kind, (3.0,))
    )
    made = print_table(TITLES, chain.from_iterable(compare(*case) for case in cases))
    with PAGE.open("a") as page:
        page.write(f"\n### {gpu.name}, CuPy {gpu.version}, {date.today()}\n\n{made}")


def main(what: str) -> None:
    """Do it, or say why not."""
    gpu = gpu_here()
    if isinstance(gpu, str):
        print(f"{what}: skipped, since {gpu}")
    elif what == "test-gpu":
        run_tests()
    else:
        run_bench(gpu)


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["--torch", place, precision]:
            print(torch_seconds(Path(place), precision))
        case [what]:
            main(what)
