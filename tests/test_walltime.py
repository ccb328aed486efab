"""The time that a run may take: starts that lead nowhere end for good, and numbers of any size are read."""

from __future__ import annotations

import math
import signal
import time
from pathlib import Path

import pytest
from support import blobs, write_config, write_rows

from mpigmm.__main__ import serve
from mpigmm.core.estep.step import EStep
from mpigmm.driver import fit_rows as fit_module
from mpigmm.errors import AgreedError, UserError
from mpigmm.parallel.comm import Comm
from mpigmm.parallel.stop import Pace, StopRequest
from mpigmm.parallel.walltime import seconds_left, too_short
from mpigmm.runs.stalls import STALLED, forget_stall, note_stall


@pytest.fixture
def config(comm: Comm, shared_path: Path) -> Path:
    if comm.is_root:
        write_rows(shared_path / "x.h5", blobs(2560, 2, 2))
        write_config(
            shared_path / "run.yaml",
            data={"path": str(shared_path / "x.h5")},
            model={"n_components": 2},
            em={"tol": 0},
            compute={"tile_rows": 64},
            output={"dir": str(shared_path / "out")},
        )
    comm.agree(None)
    return shared_path / "run.yaml"


def start(comm: Comm, config: Path, *overrides: str, received: signal.Signals | None = None) -> tuple[int, str]:
    """Exit code and message of a start of the fit."""
    stop = StopRequest()
    stop.received = received if comm.rank == comm.size - 1 else None
    try:
        return serve(comm, ["fit", str(config), *overrides], stop), ""
    except AgreedError as error:
        return error.exit_code, str(error)


@pytest.mark.parallel
def test_two_starts_too_short_for_an_iteration_end_with_the_time_that_is_needed(
    comm: Comm, config: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert start(comm, config, "em.max_iter=1")[0] == 0
    mark = config.parent / "out" / STALLED
    with monkeypatch.context() as patch:
        e_step = EStep.__call__
        patch.setattr(EStep, "__call__", lambda *arguments: (time.sleep(0.1), e_step(*arguments)))
        patch.setattr(fit_module, "RESERVE_SECONDS", 2.7)
        capsys.readouterr()
        for exit_code in (75, 2, 2):
            code, message = start(comm, config, "em.max_iter=3", "output.walltime=3")
            comm.agree(None)
            assert code == exit_code and mark.exists(), message
            told = capsys.readouterr().err if code == 75 else message
            assert comm.rank or ("to get further it needs about" in told and "allow more time" in told)
            assert ("two starts in a row" in message) == (code == 2)
        assert start(comm, config, "em.max_iter=4", "output.walltime=3")[0] == 75  # other settings
    comm.agree(None)
    assert start(comm, config, "em.max_iter=3")[0] == 0 and not mark.exists()


@pytest.mark.parallel
@pytest.mark.parametrize(("received", "codes"), [(signal.SIGINT, [75, 75]), (signal.SIGUSR1, [75, 2])])
def test_what_people_stop_is_not_counted(comm: Comm, config: Path, received: signal.Signals, codes: list[int]) -> None:
    assert [start(comm, config, received=received)[0] for _ in codes] == codes


def test_a_note_of_another_configuration_or_before_something_was_saved(tmp_path: Path) -> None:
    note_stall(tmp_path, "one", "...")
    note_stall(tmp_path, "another", "...")
    with pytest.raises(UserError, match="two starts in a row have saved nothing new: more time"):
        note_stall(tmp_path, "another", "more time")
    forget_stall(tmp_path)
    note_stall(tmp_path, "another", "...")
    strange = tmp_path / "a\nb"
    strange.mkdir()
    note_stall(strange, "one", "...")
    with pytest.raises(UserError, match=r"a\\nb: two starts"):
        note_stall(strange, "one", "...")
    assert "needs about 127 s" in too_short(12.1, 100)


@pytest.mark.parametrize(("spent", "granted"), [(0.0, 2), (0.99, 3), (12.1, 15)])
def test_a_start_is_told_no_less_time_than_it_had(spent: float, granted: int) -> None:
    told = too_short(spent, None)
    assert f"this start had {granted} s" in told and f"needs more than {granted} s" in told


def test_the_pace_of_a_sweep(monkeypatch: pytest.MonkeyPatch) -> None:
    pace = Pace()
    pace.begin(4)
    monkeypatch.setattr(time, "monotonic", lambda now=pace.begun + 3: now)
    assert pace.seconds() is None
    pace.step()
    assert pace.seconds() == pytest.approx(12)
    for _ in range(3):
        pace.step()
    assert pace.seconds() is None


@pytest.mark.parametrize("end", ["9" * 400, "²", "-5", "soon", ""])
def test_ends_of_jobs_that_are_no_times(monkeypatch: pytest.MonkeyPatch, end: str) -> None:
    monkeypatch.setenv("SLURM_JOB_END_TIME", end)
    assert seconds_left(None) == (math.inf, None) and seconds_left(5) == (5.0, None)
