"""Run ``fit`` for several configs in one launch, so that processes start only once: ``fit_all.py LINE CONFIG ...``,
each config followed by its overrides after commas. LINE ends what each fit says on standard error."""

from __future__ import annotations

import sys

from mpigmm.__main__ import serve
from mpigmm.parallel.mpi import MpiComm
from mpigmm.parallel.stop import StopRequest

world = MpiComm()
for task in sys.argv[2:]:
    assert serve(world, ["fit", *task.split(",")], StopRequest()) == 0
    if world.is_root:
        print(sys.argv[1], file=sys.stderr, flush=True)
