"""Tests marked ``parallel`` run on any number of ranks, each of which holds its own assertions: a failure on one
rank fails the test on all. Under mpirun nothing else runs, and only root reports."""

from __future__ import annotations

import os
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mpi4py import MPI  # noqa: F401  # before mpigmm's, so that MPI may be called by any thread, as in most programs
from strict import StrictGpu

from mpigmm import config
from mpigmm.driver import devices
from mpigmm.options import FitOptions
from mpigmm.parallel.comm import Comm
from mpigmm.parallel.mpi import MpiComm

WORLD = MpiComm()
DEVICE = os.environ.get("MPIGMM_TEST_DEVICE")
"""gpu: ``compute.device`` where a config leaves it out; stand-in: the same, with the stand-in as the GPU."""


def resolve_with_gpu(
    raw: dict[str, Any], *others: Any, resolve: Callable[..., FitOptions] = config.resolve, **named: Any
) -> FitOptions:
    compute = raw.get("compute") or {}
    raw = raw | {"compute": {"device": "gpu"} | compute} if isinstance(compute, dict) else raw
    return resolve(raw, *others, **named)


if DEVICE:
    config.resolve = resolve_with_gpu
if DEVICE == "stand-in":
    devices.visible_gpus = lambda: ["stand-in"]
    devices.open_gpu = lambda number: StrictGpu()


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as in what a shell script starts in the background
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if WORLD.rank:
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115
    if WORLD.size > 1:  # ranks that number and clean pytest's own directories at once trip over each other
        directory = tempfile.TemporaryDirectory()
        config.add_cleanup(directory.cleanup)
        config.option.basetemp = str(Path(directory.name) / "pytest")


def pytest_ignore_collect(collection_path: Path) -> bool | None:
    """Under mpirun, leave out files that hold no test for several ranks: each rank would import them for nothing."""
    if WORLD.size == 1 or not collection_path.match("test_*.py"):
        return None
    return "mark.parallel" not in collection_path.read_text() or None


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if WORLD.size > 1:
        items[:] = [item for item in items if item.get_closest_marker("parallel")]


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Iterator[None]:
    """Let a failure on any rank fail the test on all, so that they stay in step."""
    if not item.get_closest_marker("parallel"):
        return (yield)
    error: BaseException | None = None
    try:
        result = yield
    except BaseException as raised:
        error = raised
    failed = WORLD.sum(np.array([error is not None and not isinstance(error, pytest.skip.Exception)], np.int64))[0]
    if error is not None:
        raise error
    if failed:
        pytest.fail("failed on another rank", pytrace=False)
    return result


@pytest.fixture
def comm() -> Comm:
    return WORLD


@pytest.fixture
def shared_path(tmp_path: Path) -> Path:
    """A directory that all ranks see."""
    return Path(WORLD.bcast(str(tmp_path)))
