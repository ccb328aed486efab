"""The E-step on a GPU, as far as a machine without one can show it, and where there is one, on that."""

from __future__ import annotations

import ast
import inspect
import os
import re
from functools import reduce
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
from strict import StrictGpu, StrictStreams, check_signature, kernel_names
from support import TYPES, blobs, start_mixture, survey_of

from mpigmm.core.arrays import DOUBLE, SINGLE
from mpigmm.core.data_summary import DataSummary
from mpigmm.core.estep.step import EStep
from mpigmm.core.exact import FixedPoint, carry
from mpigmm.core.gpu import arrays, discovery, streams
from mpigmm.core.gpu.arrays import GpuArrays, NoDeviceError
from mpigmm.core.gpu.discovery import open_gpu, visible_gpus
from mpigmm.core.gpu.streams import Streams
from mpigmm.core.mixture import Mixture
from mpigmm.core.ops.base import Ops
from mpigmm.core.ops.cuda import REAL_TYPES, CudaOps, compiler_options, source
from mpigmm.core.ops.groups import Products
from mpigmm.core.ops.numpy import NUMPY
from mpigmm.core.statistics import SufficientStatistics
from mpigmm.core.tile import Tile
from mpigmm.rows import Rows

PRECISIONS = pytest.mark.parametrize("dtype", [DOUBLE, SINGLE], ids=["float64", "float32"])
REAL_GPU = os.environ.get("MPIGMM_TEST_DEVICE") == "gpu"
GPU = CudaOps(open_gpu(0) if REAL_GPU else StrictGpu())


def filled(ops: Ops, rows: np.ndarray, weights: np.ndarray | None, dtype: np.dtype, mask: bool = False) -> Tile:
    """A tile in the memory of the operations' arrays."""
    put = ops.arrays.put
    tile = Tile(rows.shape[1], len(rows), ops)
    centre = np.full(rows.shape[1], 0.25)
    tile.fill(Rows.of(rows, weights).mapped(put), put(centre), mask=mask, dtype=dtype)
    return tile


def close(found: object, expected: np.ndarray, dtype: np.dtype, factor: float = 8) -> None:
    values = GPU.arrays.get(found)
    assert values.dtype == expected.dtype and values.shape == expected.shape
    scale = np.abs(expected[np.isfinite(expected)]).max(initial=1e-300)
    np.testing.assert_allclose(values, expected, rtol=0, atol=factor * np.finfo(dtype).eps * scale)


@PRECISIONS
@pytest.mark.parametrize("raw", ["f8", "f4", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8"])
@pytest.mark.parametrize("shape", [(1, 1), (15, 3), (300, 16), (1000, 33)])
def test_rows_are_centred_and_transposed(shape: tuple[int, int], raw: str, dtype: np.dtype) -> None:
    rows = (100 * np.random.default_rng(0).random(shape)).astype(raw)
    ours, theirs = (filled(ops, rows, None, dtype) for ops in (GPU, NUMPY))
    assert GPU.arrays.get(ours.rows).tobytes() == theirs.rows.tobytes()
    assert GPU.arrays.get(ours.by_row()).tobytes() == theirs.by_row().tobytes()


@PRECISIONS
@pytest.mark.parametrize("kind", Products)
@pytest.mark.parametrize("shape", [(1, 1), (300, 5), (257, 20)])
def test_products(kind: Products, shape: tuple[int, int], dtype: np.dtype) -> None:
    rows = np.random.default_rng(1).standard_normal(shape)
    n, d = shape
    n_products = {Products.PAIRS: d * (d + 1) // 2, Products.SQUARES: d, Products.SQUARED_NORM: 1}[kind]
    made = []
    for ops in (GPU, NUMPY):
        tile = filled(ops, rows, None, dtype)
        ops.products(kind, tile.rows, tile.array("out", n_products, n))
        made.append(tile.array("out", n_products, n))
    close(made[0], made[1], dtype)


@PRECISIONS
@pytest.mark.parametrize("shared", [True, False])
def test_distances(shared: bool, dtype: np.dtype) -> None:
    random = np.random.default_rng(2)
    rows, k, d = random.standard_normal((300, 20)), 3, 20
    means, precisions, start = random.random((k, d)), random.random((k, 1 if shared else d)), random.random(k)
    made = []
    for ops in (GPU, NUMPY):
        tile = filled(ops, rows, None, dtype)
        out = tile.array("out", k, 300)
        of_tile = [ops.arrays.put(values.astype(dtype)) for values in (means, precisions, start)]
        ops.distances(tile, tile.rows, *of_tile, out)
        made.append(out)
    close(made[0], made[1], dtype, 32)


@PRECISIONS
def test_scaled_rows_and_sums(dtype: np.dtype) -> None:
    random = np.random.default_rng(3)
    rows, weights, mean = random.standard_normal((40_001, 18)), random.random(40_001), random.random(18)
    made = []
    for ops in (GPU, NUMPY):
        tile = filled(ops, rows, None, dtype)
        scaled = tile.array("scaled", 18, 40_001)
        own_weights, own_mean = (ops.arrays.put(values.astype(dtype)) for values in (weights, mean))
        root = ops.scale(tile, own_weights, own_mean, scaled)
        made.append((root, scaled, ops.sums(tile, "sums", scaled[:4], scaled)))
    for found, expected in zip(*made, strict=True):
        close(found, expected, dtype, 64)
    assert made[0][2].dtype == DOUBLE


@PRECISIONS
@pytest.mark.parametrize("n_components", [1, 2, 32, 33, 100])
def test_responsibilities(n_components: int, dtype: np.dtype) -> None:
    log_prob = (np.random.default_rng(4).standard_normal((n_components, 777)) * 300 - 500).astype(dtype)
    log_prob[0, 3] = -np.inf if n_components > 1 else -1e4
    made = []
    for ops in (GPU, NUMPY):
        tile = filled(ops, np.zeros((777, 40)), None, dtype)
        made.append(ops.log_sum_exp(ops.arrays.put(log_prob.copy()), tile))
    for found, expected in zip(*made, strict=True):
        np.testing.assert_allclose(GPU.arrays.get(found), expected, rtol=8 * np.finfo(dtype).eps, atol=1e-30)


@pytest.mark.parametrize("value", [np.nan, -np.inf, np.inf])
@pytest.mark.parametrize("where", [0, 39, slice(None)])
def test_what_is_not_finite_is_seen(value: float, where: int | slice) -> None:
    log_prob = np.zeros((40, 9))
    log_prob[slice(None) if value < 0 else where, 4] = value
    _, log_density = GPU.log_sum_exp(GPU.arrays.put(log_prob), filled(GPU, np.zeros((9, 2)), None, DOUBLE))
    found = GPU.arrays.get(log_density)
    assert not np.isfinite(found[4]) and np.isfinite(np.delete(found, 4)).all()


@PRECISIONS
@pytest.mark.parametrize("n_used", [1, 16, 130])
def test_log_densities_of_whitened_rows(n_used: int, dtype: np.dtype) -> None:
    random = np.random.default_rng(5)
    rows, log_norm = random.standard_normal((333, 140)), random.random(5)
    coefficients = np.tril(random.random((5, n_used, 1 + n_used)), 1)
    made = []
    for ops in (GPU, NUMPY):
        tile = filled(ops, rows, None, dtype)
        out = tile.array("out", 5, 333)
        whitening = ops.whitening(coefficients, dtype)
        ops.whitened_log_prob(tile, whitening, ops.arrays.put(log_norm.astype(dtype)), out)
        made.append(out)
    close(made[0], made[1], dtype, 32)


@pytest.mark.parametrize("n_limbs", [1, 2, 5])
def test_fixed_point_sums_are_those_of_the_host_to_the_last_bit(n_limbs: int) -> None:
    random = np.random.default_rng(6)
    form = FixedPoint(random.integers(-600, 600, 1000).astype(np.int32), n_limbs)
    ours, theirs = GPU.arrays.zeros(n_limbs * 1000, np.dtype(np.int64)).reshape(n_limbs, 1000), form.zeros()
    for _ in range(20):
        values = random.uniform(-1, 1, 1000) * 2.0 ** (form.top - random.integers(6, 90, 1000))
        GPU.add(form, ours, GPU.arrays.put(values))
        form.add(theirs, values)
        carry(theirs)
    assert GPU.arrays.get(ours).tobytes() == theirs.tobytes()


def statistics_of_tile(
    ops: Ops,
    mixture: Mixture,
    survey: DataSummary,
    rows: np.ndarray,
    sample_weight: np.ndarray | None,
    dtype: np.dtype,
    bounded: bool,
) -> SufficientStatistics:
    """Statistics of one tile, on the host."""
    put = ops.arrays.put
    tile, statistics = Tile(rows.shape[1], len(rows), ops), SufficientStatistics.empty(mixture.layout, ops.arrays)
    tile.fill(Rows.of(rows, sample_weight).mapped(put), put(survey.centre), mask=survey.masked, dtype=dtype)
    max_abs_deviation = survey.max_abs_deviation if bounded else None
    EStep(mixture.e_step_inputs(survey.centre, max_abs_deviation, dtype, ops))(tile, statistics)
    return SufficientStatistics.of(ops.arrays.get(statistics.flat), mixture.layout)


@PRECISIONS
@pytest.mark.parametrize("weighted", ["", "weights", "masked"])
@pytest.mark.parametrize("bounded", [True, False], ids=["products", "differences"])
@pytest.mark.parametrize("shape", [(1, 1, 1), (500, 3, 4), (700, 30, 3), (300, 70, 2)])
@pytest.mark.parametrize("covariance_type", TYPES)
def test_statistics_are_those_of_the_host(
    covariance_type: str, shape: tuple[int, int, int], bounded: bool, weighted: str, dtype: np.dtype
) -> None:
    n, d, k = shape
    rows = blobs(n, d, k, separation=1.0)
    if n == 1:
        rows, mixture = np.ones((1, 1)), start_mixture(covariance_type, blobs(9, 1, 1), 1)
    else:
        mixture = start_mixture(covariance_type, rows + 0.1 * np.random.default_rng(9).standard_normal(rows.shape), k)
    weights = np.random.default_rng(8).random(n) + 0.1 if weighted else None
    if weighted == "masked" and n > 1:
        weights[::7] = 0
        rows[3, 0] = np.nan
        weights[3] = 0
    survey = survey_of(rows, weights, tile_rows=n)
    ours = statistics_of_tile(GPU, mixture, survey, rows, weights, dtype, bounded)
    theirs = statistics_of_tile(NUMPY, mixture, survey, rows, weights, dtype, bounded)
    tolerance = 1e-4 if dtype == SINGLE else 1e-9 if REAL_GPU else 1e-12
    for name in ("log_likelihood", "counts", "first_moments", "second_moments"):
        found, expected = getattr(ours, name), getattr(theirs, name)
        np.testing.assert_allclose(found, expected, rtol=0, atol=tolerance * max(1.0, np.abs(expected).max()))


ARCHITECTURES = ("sm_70", "sm_80", "sm_90")


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("dtype", REAL_TYPES, ids=["float64", "float32"])
def test_kernels_compile(architecture: str, dtype: np.dtype) -> None:
    """For V100, A100 and H100, without a warning; sums that depend on the order of threads would be atomic."""
    nvrtc = pytest.importorskip("cupy_backends.cuda.libs.nvrtc", exc_type=ImportError)
    options = (*compiler_options(dtype), "--std=c++17", f"--gpu-architecture={architecture}")
    program = nvrtc.createProgram(source(), "kernels.cu", (), ())
    try:
        nvrtc.compileProgram(program, options)
    finally:
        log = nvrtc.getProgramLog(program)
    assert "kernels.cu(" not in log, log
    code = nvrtc.getPTX(program).decode()
    assert all(f".entry {name}(" in code for name in kernel_names())
    assert not re.search(r"\b(atom|red)\.", code)
    assert len(nvrtc.getCUBIN(program)) > 1000


class FakeRuntime:
    """A runtime of CUDA that finds nothing, and why."""

    class CUDARuntimeError(RuntimeError):
        pass

    def __init__(self, driver: int, error: str | None) -> None:
        self.driver, self.error = driver, error

    def getDeviceCount(self) -> int:  # noqa: N802
        if self.error:
            raise self.CUDARuntimeError(self.error)
        return 0

    def driverGetVersion(self) -> int:  # noqa: N802
        return self.driver

    def runtimeGetVersion(self) -> int:  # noqa: N802
        return 12090


@pytest.mark.parametrize(
    ("driver", "error", "message"),
    [
        (0, "cudaErrorInsufficientDriver: ...", "no driver of NVIDIA's is installed"),
        (11040, "cudaErrorInsufficientDriver: ...", "the driver knows CUDA 11.4, but this CuPy needs 12.9; .* CUDA 11"),
        (12090, "cudaErrorNoDevice: no CUDA-capable device is detected", "no GPU is visible .*cudaErrorNoDevice"),
        (12090, None, "no GPU is visible .*CUDA_VISIBLE_DEVICES"),
    ],
)
def test_why_there_is_no_gpu(driver: int, error: str | None, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    cupy = SimpleNamespace(cuda=SimpleNamespace(runtime=FakeRuntime(driver, error)))
    monkeypatch.setattr(discovery, "import_cupy", lambda: cupy)
    with pytest.raises(NoDeviceError, match=message):
        visible_gpus()


def known(cupy: ModuleType) -> dict[str, Any]:
    """What the names in core/gpu/ that come from CuPy stand for."""
    return {
        "cupy": cupy,
        "self.xp": cupy,
        "gpu.xp": cupy,
        "self._cuda": cupy.cuda,
        "runtime": cupy.cuda.runtime,
        "self._work": cupy.cuda.Stream,
        "self._copies": cupy.cuda.Stream,
        "self._cuda.Device(number)": cupy.cuda.Device,
        "self.xp.get_default_memory_pool()": cupy.cuda.MemoryPool,
        "self.xp.get_default_pinned_memory_pool()": cupy.cuda.PinnedMemoryPool,
        "array": cupy.ndarray,
        "target": cupy.ndarray,
        "sent": cupy.cuda.Event,
    }


def owner_of(node: ast.Attribute, names: dict[str, Any]) -> Any:
    """The module or class of CuPy's whose attribute this is, if any."""
    parts = ast.unparse(node.value).split(".")
    for i in range(len(parts), 0, -1):
        root = names.get(".".join(parts[:i]))
        if root is not None and "(" not in "".join(parts[i:]):
            return reduce(getattr, parts[i:], root)
    return None


def test_cupy_has_what_is_called() -> None:
    """With such arguments. (What `core` calls besides is checked at each call, by the stand-in.)"""
    names = known(pytest.importorskip("cupy"))
    used = set()
    nodes = (node for module in (arrays, discovery, streams) for node in ast.walk(ast.parse(inspect.getsource(module))))
    for node in nodes:
        if isinstance(node, ast.Attribute) and (owner := owner_of(node, names)) is not None:
            assert hasattr(owner, node.attr), ast.unparse(node)
            used.add(ast.unparse(node))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            owner = owner_of(node.func, names)
            if owner is not None:
                values = (None,) * (inspect.isclass(owner) + len(node.args))
                options = {keyword.arg: None for keyword in node.keywords if keyword.arg}
                check_signature(getattr(owner, node.func.attr), values, options)
    assert {"self.xp.RawKernel", "self._cuda.memory.OutOfMemoryError", "self._copies.wait_event"} <= used


def test_the_stand_in_is_called_as_the_gpu_is() -> None:
    for real, stand_in in ((GpuArrays, StrictGpu), (Streams, StrictStreams)):
        for name, method in inspect.getmembers(real, inspect.isfunction):
            if not name.startswith("_"):
                own = inspect.signature(getattr(stand_in, name))
                assert [*own.parameters] == [*inspect.signature(method).parameters], name
