"""What every set of operations has to provide, and what the three languages share."""

from __future__ import annotations

import numpy as np
import pytest

from mpigmm.core.arrays import HOST
from mpigmm.core.ops import OPS_NAMES, best_ops, ops_by_name
from mpigmm.core.ops.base import MOST_LANES, Ops, OpsCosts, UnsupportedOperationError
from mpigmm.core.ops.compiled import ROW_UNIT, CompiledOps
from mpigmm.core.ops.cuda import CudaOps
from mpigmm.core.ops.host import HostOps
from mpigmm.core.ops.libraries import COMPILED, LIMIT, best_compiled, load_library
from mpigmm.core.ops.numpy import NUMPY, NumpyOps
from mpigmm.core.raw_types import RAW_TYPES, raw_dtype
from mpigmm.core.tile import Tile


@pytest.mark.parametrize("missing", sorted(Ops.__abstractmethods__))
def test_operations_that_lack_one_cannot_be_made(missing: str) -> None:
    present = {name: getattr(NumpyOps, name) for name in Ops.__abstractmethods__ - {missing}}
    with pytest.raises(TypeError, match=missing):
        type("Lacking", (Ops,), present)()


@pytest.mark.parametrize("kind", [NumpyOps, CompiledOps, CudaOps])
def test_flags_tell_what_is_there(kind: type[Ops]) -> None:
    assert not kind.__abstractmethods__
    assert kind.fuses == (kind.sweep is not Ops.sweep)
    for name in ("pruned_distances", "pruned_moments"):
        assert kind.prunes == (getattr(kind, name) is not getattr(Ops, name))
    assert isinstance(kind.costs, OpsCosts)
    assert issubclass(kind, HostOps) == (kind is not CudaOps)


def test_an_operation_that_is_not_there_is_refused() -> None:
    with pytest.raises(UnsupportedOperationError, match="numpy has no fused E-step"):
        NUMPY.sweep(Tile(1, 1, NUMPY), None, None)


def test_names() -> None:
    assert OPS_NAMES[0] == NUMPY.name and ops_by_name(NUMPY.name) is NUMPY
    assert ops_by_name(best_ops()).name == best_ops() and ops_by_name(best_ops()).arrays is HOST
    with pytest.raises(ImportError, match="this version does not know them"):
        ops_by_name("fortran")


def test_raw_types() -> None:
    assert RAW_TYPES == ("f8", "f4", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8")
    assert raw_dtype(np.dtype("u2")) == "u2"
    assert raw_dtype(np.dtype(">f4")) == raw_dtype(np.dtype("f2")) == raw_dtype(np.dtype("g")) == "f8"


def test_rows_at_a_time_fill_the_blocks_of_every_library() -> None:
    best = best_compiled()
    assert best is not None
    for name in COMPILED[: COMPILED.index(best) + 1]:
        library = load_library(name)
        widest = LIMIT.bind(library, "widest")()
        assert ROW_UNIT % widest == 0 and widest <= 2 * MOST_LANES
