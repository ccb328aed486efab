"""Run ``fit`` for several configs in one launch, so that 64 processes start only once: ``fit_all.py CONFIG ...``,
each followed by its overrides after commas."""

from __future__ import annotations

import sys

from mpigmm.__main__ import serve
from mpigmm.parallel.mpi import MpiComm
from mpigmm.parallel.stop import StopRequest

world = MpiComm()
for task in sys.argv[1:]:
    assert serve(world, ["fit", *task.split(",")], StopRequest()) == 0
