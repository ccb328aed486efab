"""Progress on standard error: few lines in a batch log, each shorter than 80 columns."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from mpigmm.runs.pacing import Trend
from mpigmm.runs.progress import Reporter, duration, rough
from mpigmm.runs.sweep_voice import SweepReporter

Capture = pytest.CaptureFixture[str]


def log_line(iteration: int, change: float | None = None, seconds: float = 2.0, **others: object) -> dict[str, Any]:
    """A line of the log."""
    found = {"init": 0, "iteration": iteration, "mean_log_likelihood": -1.25, "change": change, "seconds": seconds}
    return {**found, "floored": 0, "reseeded": 0, **others}


def test_an_iteration_in_words() -> None:
    text = Reporter(10, 1, 1e-4).format(log_line(3, floored=1))
    assert text == "iteration 3  mean log-likelihood -1.250000  floored 1  2 s each"
    reporter = Reporter(10**6, 1000, 1e-4)
    longest = log_line(10**6, -1.2e-300, 1e-7, init=998, mean_log_likelihood=-1.2345678e300, floored=999, reseeded=999)
    assert len(reporter.format(longest)) < 80
    assert "start 999/1000  iteration 1000000  mean log-likelihood -1.234568e+300" in reporter.format(longest)


@pytest.mark.parametrize(("n_iter", "seconds", "fewest", "most"), [(1500, 0.008, 5, 14), (36000, 0.1, 150, 220)])
def test_a_batch_log_gets_few_iterations(
    n_iter: int, seconds: float, fewest: int, most: int, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    """1,500 iterations in 12 s, and an hour of them: the first, the last, and fewer and fewer between them."""
    clock, times = [1000.0], []
    monkeypatch.setattr("time.monotonic", lambda: clock[0])
    reporter = Reporter(n_iter, 1, 1e-9)
    monkeypatch.setattr(reporter, "say", lambda text: times.append((clock[0], text)))
    for iteration in range(1, n_iter + 1):
        clock[0] += seconds
        reporter.iteration(log_line(iteration, 0.5, seconds))
    reporter.result("done")
    told = [text for _, text in times]
    assert fewest < len(told) < most and max(map(len, told)) < 80
    assert told[0].startswith("iteration 1 ") and told[-1].startswith(f"iteration {n_iter} ")
    gaps = np.diff([moment for moment, _ in times[1:-1]])  # the first iteration is shown at once
    assert gaps.min() >= 0.99 and gaps.max() <= 30.2 and (np.diff(gaps) > -0.2).all()
    assert capsys.readouterr().out == "done\n"


@pytest.mark.parametrize("rate", [0.5, 0.9, 0.999])
def test_the_time_left_is_that_of_changes_that_decay(rate: float) -> None:
    trend, change, iteration = Trend(10**6, 1e-6), 1.0, 0
    whole = np.log(1e-6) / np.log(rate)
    while change >= 1e-6:
        iteration, change = iteration + 1, change * rate
        trend.add(log_line(iteration, change, 0.25))
        left = trend.seconds_left()
        assert left is None if iteration < 6 else left == pytest.approx((whole - iteration) * 0.25, abs=0.5, rel=0.02)
    assert Trend(10**6, 1e-6).seconds_left() is None


def test_no_time_left_is_told_without_a_trend() -> None:
    trend = Trend(1000, 1e-6)
    for iteration in range(1, 100):
        trend.add(log_line(iteration, 1e-3 * (1 + iteration % 3)))
    assert trend.seconds_left() is None
    for iteration in range(100, 120):
        trend.add(log_line(iteration, 0.5**iteration, floored=1))
    assert trend.seconds_left() is None
    endless = Trend(1000, 0.0)
    endless.add(log_line(400, 1e-3, 2.0))
    assert endless.seconds_left() == 1200.0
    assert [rough(s) for s in (0.1, 99, 200, 7200, 3e5, 1e300)] == [
        "1 s",
        "99 s",
        "3 min",
        "2 h",
        "3 days",
        "many years",
    ]


def test_passes_are_counted_where_they_end_a_start() -> None:
    trend = Trend(3, 0.0, counts_passes=True)
    for iteration in range(1, 101):
        trend.add(log_line(iteration) | {"passes": iteration / 100, "seconds": 0.5})
    assert trend.seconds_left() == pytest.approx(100.0)
    assert Trend(3, 1e-4, counts_passes=True).seconds_left() is None


def test_long_times_in_words() -> None:
    assert [duration(3661.0), duration(2 * 86400.0), duration(np.inf)] == ["01:01:01", "2.0 days", "many years"]


def test_a_batch_log_gets_few_lines_of_a_start(monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    clock = [100.0]
    monkeypatch.setattr("time.monotonic", lambda: clock[0])
    reporter = Reporter(10, 1)
    for done in range(100):
        clock[0] += 0.3
        reporter.initialisation(0, "k-means, step", done, 100)
    lines = capsys.readouterr().err.splitlines()
    assert lines[:20] == [f"initialisation: k-means, step {done}/100" for done in range(3, 80, 4)]
    assert 20 < len(lines) < 25


def test_a_batch_log_gets_few_lines_of_a_selection(monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    clock = [100.0]
    monkeypatch.setattr("time.monotonic", lambda: clock[0])
    sweep = SweepReporter(100)
    fit = sweep.of_fit("K=1000 spherical seed 1000000")
    for iteration in range(36000):
        clock[0] += 0.1
        fit.iteration(log_line(iteration, 1e-3))
    lines = capsys.readouterr().err.splitlines()
    assert 150 < len(lines) < 220 and max(map(len, lines)) < 100
