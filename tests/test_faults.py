"""Ten kills, ten signals and 1,500 iterations of soak; ``make test-kill`` and ``make test-soak`` do more of it."""

from __future__ import annotations

from pathlib import Path

import pytest
from faults import Patient, damage, describe, signals, soak

pytestmark = pytest.mark.alone


@pytest.fixture(scope="module")
def patient(tmp_path_factory: pytest.TempPathFactory) -> Patient:
    return Patient(tmp_path_factory.mktemp("faults"), seed=0)


@pytest.mark.timeout(400)
def test_kills_beside_a_rank_that_lives_for_long(patient: Patient, capsys: pytest.CaptureFixture[str]) -> None:
    landed, words = soak(patient, 0, rounds=10, iterations=1500, n_rows=60_000)
    with capsys.disabled():
        print(f"\n{words}; {landed.total()} kills: {describe(landed)}")


@pytest.mark.timeout(200)
def test_signals(patient: Patient, capsys: pytest.CaptureFixture[str]) -> None:
    landed = signals(patient, 10)
    with capsys.disabled():
        print(f"\n10 signals: {describe(landed)}")


def test_damaged_checkpoints(tmp_path: Path) -> None:
    ends = damage(tmp_path, 8)
    assert ends.total() == 8 and len(ends) == 2
