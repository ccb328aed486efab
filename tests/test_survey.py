"""The survey: moments, box, fingerprint, and the rows it refuses."""

from __future__ import annotations

import numpy as np
import pytest
from support import blobs, survey_of

from mpigmm.core.data_summary import DataSummaryStatistics
from mpigmm.core.ops.numpy import NUMPY
from mpigmm.core.row_checks import BadRowError
from mpigmm.core.tile import Tile
from mpigmm.driver.held_out import are_usable
from mpigmm.rows import Rows

ROWS = blobs(3000, 4, 3) + 1e6


def test_moments_and_box() -> None:
    weights = np.random.default_rng(0).random(len(ROWS))
    survey = survey_of(ROWS, weights)
    mean = np.average(ROWS, axis=0, weights=weights)
    assert ((survey.low < survey.centre) & (survey.centre < survey.high)).all()
    np.testing.assert_allclose(survey.variances, np.average((ROWS - mean) ** 2, axis=0, weights=weights), rtol=1e-8)
    assert survey.total_weight == pytest.approx(weights.sum(), rel=1e-15)
    assert survey.n_samples == len(ROWS)
    np.testing.assert_allclose([survey.low, survey.high], [ROWS.min(axis=0), ROWS.max(axis=0)], rtol=1e-15)
    assert not survey.masked


def test_rows_of_weight_zero_count_for_nothing() -> None:
    rows = ROWS.copy()
    rows[::3] = np.nan
    survey = survey_of(rows, np.arange(len(rows)) % 3 / 1.0)
    assert survey.n_samples == 2000
    assert survey.masked
    assert np.isfinite(survey.variances).all()


def test_dropped_rows_are_counted_apart_from_those_of_weight_zero() -> None:
    rows, weights = ROWS.copy(), np.ones(len(ROWS))
    rows[::3, 1], rows[0, 0], weights[:900] = np.nan, np.inf, 0
    for given, n_dropped in ((None, 1000), (weights, 700)):
        parts = [DataSummaryStatistics(ROWS[0], drop=True) for _ in range(2)]
        tile = Tile(4, 256, NUMPY)
        for start in range(0, 3000, 256):
            part = slice(start, start + 256)
            parts[start % 2].add(tile, Rows.of(rows, given)[part])
        total = parts[0]
        total += parts[1]
        survey = total.finish(total.packed(), total.low, total.high)
        assert (survey.n_dropped, survey.n_samples) == (n_dropped, 2000 if given is None else 1400)
    assert survey_of(ROWS).n_dropped == 0


def test_float32_rows_are_checked_without_warnings() -> None:
    rows = np.ones((50, 2), np.float32)
    rows[7, 1] = np.nan
    statistics = DataSummaryStatistics(np.zeros(2), drop=True)
    statistics.add(Tile(2, 50, NUMPY), Rows.of(rows))
    assert statistics.n_dropped == 1
    assert are_usable(rows, np.ones(50)).tolist() == [number != 7 for number in range(50)]


def test_the_order_of_tiles_does_not_matter() -> None:
    parts = []
    for order in (range(0, 3000, 256), reversed(range(0, 3000, 256))):
        statistics, tile = DataSummaryStatistics(ROWS[0], drop=False), Tile(4, 256, NUMPY)
        for start in order:
            statistics.add(tile, Rows.of(ROWS)[start : start + 256])
        parts.append(statistics.finish(statistics.packed(), statistics.low, statistics.high))
    assert parts[0].centre.tobytes() == parts[1].centre.tobytes()
    assert parts[0].variances.tobytes() == parts[1].variances.tobytes()
    assert parts[0].fingerprint == parts[1].fingerprint


def test_any_change_of_a_row_changes_the_fingerprint() -> None:
    print_ = survey_of(ROWS).fingerprint
    changed = ROWS.copy()
    changed[1234, 2] = np.nextafter(changed[1234, 2], np.inf)
    assert survey_of(changed).fingerprint != print_
    swapped = ROWS.copy()
    swapped[[0, 2999]] = swapped[[2999, 0]]
    assert survey_of(swapped).fingerprint != print_
    assert survey_of(ROWS, np.ones(len(ROWS))).fingerprint != print_
    assert survey_of(ROWS.copy()).fingerprint == print_


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e200, 1e308, -1.7e308])
def test_the_first_bad_value_is_named(value: float) -> None:
    rows = ROWS.copy()
    rows[700, 3] = rows[2000, 0] = value
    with pytest.raises(BadRowError) as caught:
        survey_of(rows)
    assert (caught.value.row, caught.value.column) == (700, 3)


@pytest.mark.parametrize("value", [-1.0, np.nan, np.inf])
def test_the_first_bad_weight_is_named(value: float) -> None:
    weights = np.ones(len(ROWS))
    weights[[500, 900]] = value
    with pytest.raises(BadRowError) as caught:
        survey_of(ROWS, weights)
    assert (caught.value.row, caught.value.column) == (500, None)
