"""When a fit has converged (`em.criterion`), and how far the projected limit of its objective is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import mpigmm
from mpigmm.api import FitResult
from mpigmm.core.algorithms.projection import FURTHER, N_RATIOS, has_converged, projected_gain, with_change
from mpigmm.errors import ConfigError, OutputError
from mpigmm.options import EmOptions
from mpigmm.runs.checkpoint import load_checkpoint
from mpigmm.runs.pacing import Trend

TOL = 1e-3


def overlapping_rows(n_features: int) -> np.ndarray:
    """Rows of two components whose means are 3 standard deviations apart in one of the features."""
    random = np.random.default_rng(n_features)
    labels = random.integers(0, 2, 2000)
    rows = random.standard_normal((2000, n_features))
    rows[:, 0] += 3 * labels
    return rows


ROWS = overlapping_rows(4)


def fitted(rows: np.ndarray = ROWS, directory: Path | None = None, **em: Any) -> FitResult:
    """The fit of two components; of settings besides those of `em`, only `n_init` may be given."""
    settings: dict[str, Any] = {
        "model": {"n_components": 2},
        "init": {"screening": False},
        "em": {"tol": TOL, "max_iter": 2000, **em},
    }
    if directory is not None:
        settings["output"] = {"dir": str(directory), "checkpoint_iterations": 7}
    return mpigmm.fit(settings, rows)


@pytest.mark.parametrize("ratio", [0.0, 0.3, 0.9, 0.9999])
@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_the_projection_of_a_geometric_series_is_its_sum(ratio: float, sign: float) -> None:
    changes: tuple[float, ...] = ()
    for power in range(5):
        changes = with_change(changes, sign * 0.5 * ratio**power)
    rest = sign * 0.5 * sum(ratio**power for power in range(5, 200_000)) if ratio < 0.999 else None
    rest = sign * 0.5 * ratio**5 / (1 - ratio) if rest is None else rest
    assert len(changes) == N_RATIOS + 1
    assert projected_gain(changes) == pytest.approx(rest, rel=1e-9, abs=1e-300)


def test_a_ratio_that_rises_is_extrapolated() -> None:
    assert projected_gain((1.0, 0.2, 0.06)) == pytest.approx(0.06 * 0.5 / 0.5)  # 0.2, 0.3: 0.3 + 2 * 0.1
    assert projected_gain((1.0, 0.5, 0.1)) == pytest.approx(0.1 * 0.5 / 0.5)  # one that falls is not
    assert FURTHER == 2.0 and projected_gain((1.0, 0.2, 0.16)) is None  # 0.2, 0.8


@pytest.mark.parametrize(
    "changes",
    [(), (1e-9,), (1e-3, 1e-9), (1e-9, 1e-9, 1e-9), (1e-9, 1e-8, 1e-9), (1e-9, -1e-10, 1e-11), (0.0, 1e-9, 1e-12)],
)
def test_an_unknown_projection_ends_no_fit(changes: tuple[float, ...]) -> None:
    assert projected_gain(changes) is None
    assert not has_converged(changes, EmOptions(tol=TOL, criterion="aitken"))
    assert has_converged(changes, EmOptions(tol=TOL)) == bool(changes)


def test_a_fit_that_changes_no_more_has_converged() -> None:
    for changes in ((0.0,), (1e-3, 0.0)):
        assert projected_gain(changes) == 0.0 and has_converged(changes, EmOptions(tol=TOL, criterion="aitken"))
    assert not has_converged((0.0,), EmOptions(tol=0.0, criterion="aitken"))
    assert with_change((0.1, 0.01), None) == ()  # a repair


@pytest.mark.parametrize("ratio", [0.1, 0.9, 0.99])
def test_aitken_ends_a_series_at_the_tolerance_and_never_before_change(ratio: float) -> None:
    changes, ended = (), {}
    for number in range(2000):
        changes = with_change(changes, ratio**number)
        for criterion in ("change", "aitken"):
            if has_converged(changes, EmOptions(tol=TOL, criterion=criterion)):
                ended.setdefault(criterion, number)
    assert ended["change"] <= ended["aitken"]
    assert ratio ** ended["aitken"] * max(ratio / (1 - ratio), 1) < TOL
    assert ratio ** (ended["aitken"] - 1) * max(ratio / (1 - ratio), 1) >= TOL


def test_a_slow_fit_stops_at_the_limit_and_not_where_it_is_slow(capfd: pytest.CaptureFixture[str]) -> None:
    """The case of scikit-learn's issue 10122: components that overlap."""
    early, late, limit = fitted(), fitted(criterion="aitken"), fitted(tol=1e-12)
    far = {name: limit.summary["mean_log_likelihood"] - found.summary["mean_log_likelihood"]
           for name, found in (("change", early), ("aitken", late))}  # fmt: skip
    assert early.summary["converged"] and far["change"] > 50 * TOL
    assert late.summary["converged"] and 0 <= far["aitken"] < TOL
    before = late.summary["n_iter"] - 1
    projected = late.convergence["objective"][before] + late.summary["projected_gain"]
    assert projected == pytest.approx(limit.summary["mean_log_likelihood"], abs=TOL / 2)
    assert 0 < late.summary["projected_gain"] < TOL
    assert np.array_equal(limit.convergence["objective"][: before + 1], late.convergence["objective"])
    assert capfd.readouterr() == ("", "")


def test_the_user_is_told_where_change_stops_early(capfd: pytest.CaptureFixture[str]) -> None:
    settings = {"model": {"n_components": 2}, "em": {"tol": TOL}, "init": {"method": "random"}}
    found = mpigmm.fit(settings, overlapping_rows(2), verbose=True)
    gain = found.summary["projected_gain"]
    said = capfd.readouterr().err
    assert gain > 5 * TOL
    assert said.count("is projected to rise by another") == 1
    assert f"another {gain:.2g} a row (em.tol: 0.001); lower em.tol, or set em.criterion: aitken\n" in said


@pytest.mark.filterwarnings("ignore:max_iter came before convergence")
def test_an_interrupted_fit_and_a_changed_criterion_go_on_to_the_same_bits(tmp_path: Path) -> None:
    whole = fitted(directory=tmp_path / "whole", criterion="aitken")
    n_iter = whole.summary["n_iter"]
    for max_iter in (*range(1, 5), n_iter - 1, n_iter):
        parts = fitted(directory=tmp_path / "parts", criterion="aitken", max_iter=max_iter)
    found, _ = load_checkpoint(tmp_path / "parts")
    assert found is not None and len(found.progress.ended[0].changes) == N_RATIOS + 1
    assert parts.summary["converged"] and parts.summary["projected_gain"] == whole.summary["projected_gain"]
    fitted(directory=tmp_path / "changed")
    changed = fitted(directory=tmp_path / "changed", criterion="aitken")
    for each in (parts, changed):
        assert each.summary["n_iter"] == n_iter
        assert np.array_equal(each.convergence["objective"], whole.convergence["objective"])
        assert np.array_equal(each.mixture.covariances, whole.mixture.covariances)


def test_errors_name_the_criterion(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"em\.criterion: 'atken' is not valid; change, aitken expected"):
        fitted(criterion="atken")
    settings: dict[str, Any] = {
        "model": {"n_components": 2},
        "init": {"n_init": 2, "screening": False},
        "em": {"tol": TOL},
        "output": {"dir": str(tmp_path / "starts")},
    }
    mpigmm.fit(settings, ROWS)
    settings["em"]["criterion"] = "aitken"
    with pytest.raises(OutputError, match=r"em\.max_iter, em\.tol, em\.criterion: start 1 .* would now go on"):
        mpigmm.fit(settings, ROWS)


@pytest.mark.parametrize("ratio", [0.3, 0.95])
def test_the_time_left_is_that_until_the_gain_is_small(ratio: float) -> None:
    trend, changes, seconds = Trend(10**6, 1e-6, is_projected=True), (), []
    em = EmOptions(tol=1e-6, criterion="aitken")
    while not has_converged(changes, em):
        changes = with_change(changes, ratio ** len(seconds))
        line = {"init": 0, "iteration": len(seconds) + 1, "change": changes[-1], "seconds": 0.25}
        trend.add({**line, "floored": 0, "reseeded": 0})
        seconds.append(trend.seconds_left())
    for iteration, left in enumerate(seconds[6:], 7):
        assert left == pytest.approx((len(seconds) - iteration) * 0.25, abs=0.3)
