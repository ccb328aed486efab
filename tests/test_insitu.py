"""The simulation in ``configs/insitu`` that fits the velocities of its particles while it runs.

As a program, this file runs the simulation and prints what each rank did meanwhile.
"""

from __future__ import annotations

import json
import re
import resource
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from inside import run_verb
from support import launch, read_model, write_config, write_rows

import mpigmm
from mpigmm.errors import MpigmmWarning
from mpigmm.parallel.mpi import MpiComm

FOLDER = Path(__file__).parent.parent / "configs" / "insitu"
N_PARTICLES, N_STEPS, EVERY = 50_000, 60, 5
LINE = re.compile(
    r"step (\d+): particles (\[.*?\]), weights (\[.*?\]), temperatures (\[.*?\]), mean log-likelihood (\S+)"
)
MOST_BYTES = 200_000_000
"""What a rank needs besides its rows."""

pytestmark = pytest.mark.filterwarnings(f"ignore::{MpigmmWarning.__module__}.{MpigmmWarning.__name__}")


def load_particles() -> Any:
    """The module of the simulation."""
    sys.path.insert(0, str(FOLDER))
    import particles

    sys.path.remove(str(FOLDER))
    return particles


@pytest.mark.parallel
def test_a_fit_in_place_has_the_bits_of_the_same_rows_in_a_file(
    comm: MpiComm, shared_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The borders of the ranks cut tiles, and of three ranks the last has no particles at the first step."""
    simulation = load_particles()
    monkeypatch.setitem(simulation.MIXTURE, "compute", {"tile_rows": 300})
    for step, particles in simulation.simulate(comm.mpi, 5000, 20):
        if step not in (1, 20):
            continue
        assert not (step == 1 and comm.size == 3 and comm.rank == 2 and particles.size)
        in_place = simulation.fit_velocities(comm.mpi, particles).mixture
        sections = {**simulation.MIXTURE, "data": {"path": str(shared_path / f"rows{step}.h5")}}
        velocities = comm.concatenate(np.ascontiguousarray(particles[1:].T))
        with comm.together():
            if comm.is_root:
                write_rows(Path(sections["data"]["path"]), velocities)
                write_config(shared_path / "run.yaml", **sections, output={"dir": str(shared_path / f"run{step}")})
        assert bits(mpigmm.fit(sections, comm=comm.mpi).mixture) == bits(in_place)
        assert run_verb(comm, "fit", str(shared_path / "run.yaml")) == (0, "")
        of_command = read_model(shared_path / f"run{step}" / "model.h5")
        assert {name: array.tobytes() for name, array in of_command.items()} == bits(in_place)


def bits(mixture: mpigmm.Mixture) -> dict[str, bytes]:
    """The parameters of a mixture."""
    return {name: getattr(mixture, name).tobytes() for name in ("weights", "means", "covariances")}


def test_it_prints_a_line_for_each_fit_and_needs_neither_files_nor_much_memory() -> None:
    """A rank has no particles at some of the fits, and all of them are there in each."""
    done = launch(3, [sys.executable, __file__], timeout=60)
    assert done.returncode == 0, done.stderr
    lines = [LINE.fullmatch(line) for line in done.stdout.splitlines() if line.startswith("step")]
    assert all(lines) and [int(line[1]) for line in lines if line] == [*range(EVERY, N_STEPS + 1, EVERY)]
    counts, weights, temperatures = (np.array([json.loads(line[i]) for line in lines if line]) for i in (2, 3, 4))
    assert (counts.sum(axis=1) == N_PARTICLES).all() and counts.shape[1] == 3
    assert (counts == 0).any() and len(np.unique(counts[:, 0])) > 2
    np.testing.assert_allclose(weights, [[0.7, 0.3]] * len(weights), atol=0.02)
    assert (temperatures[0] < [0.003, 0.02]).all() and temperatures[-1, 0] > 1.5 * temperatures[0, 0]

    ranks = [json.loads(text) for text in re.findall(r"\{[^{}]*\}", done.stderr)]
    assert len(ranks) == 3 and [rank["fits"] for rank in ranks] == [N_STEPS // EVERY] * 3
    assert [rank["opened"] for rank in ranks] == [[]] * 3
    assert max(rank["peak_bytes"] for rank in ranks) < 3 * 8 * N_PARTICLES + MOST_BYTES, ranks


class Watch:
    """What is opened in the fits after the first."""

    def __init__(self) -> None:
        self.n_fits, self._is_on = 0, False
        self.opened: list[str] = []
        sys.addaudithook(self._heard)

    def _heard(self, event: str, arguments: tuple[Any, ...]) -> None:
        if self._is_on and event == "open":
            self.opened.append(str(arguments[0]))

    @contextmanager
    def fit(self) -> Iterator[None]:
        """A context for a fit."""
        self._is_on = self.n_fits > 0
        yield
        self._is_on = False
        self.n_fits += 1


def main() -> None:
    """Run the simulation, and write on standard error how many fits it made, what they opened, and its memory."""
    simulation, watch = load_particles(), Watch()
    fit_velocities = simulation.fit_velocities

    def watched(*arguments: Any) -> mpigmm.FitResult:
        with watch.fit():
            return fit_velocities(*arguments)

    simulation.fit_velocities = watched
    sys.argv[1:] = ["--n-particles", str(N_PARTICLES), "--n-steps", str(N_STEPS), "--every", str(EVERY)]
    simulation.main()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(json.dumps({"fits": watch.n_fits, "opened": watch.opened, "peak_bytes": peak}), file=sys.stderr)


if __name__ == "__main__":
    main()
