"""Exact sums: any order, any partition, the same bits; and the right value."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mpigmm.core import exact
from mpigmm.core.exact import ExactSum, FixedPoint, SharedSum, carry

values = st.floats(-1e6, 1e6, allow_nan=False, width=64)


def total(form: FixedPoint, rows: np.ndarray) -> np.ndarray:
    limbs = form.zeros()
    for row in rows:
        form.add(limbs, row.copy())
    return limbs


@given(st.lists(values, min_size=1, max_size=60), st.randoms(use_true_random=False), st.integers(2, 4))
def test_any_order_and_partition_give_the_same_bits(terms: list[float], shuffle: object, n_limbs: int) -> None:
    form = FixedPoint(np.array([27], np.int32), n_limbs)
    rows = np.array(terms)[:, None]
    whole = form.value(total(form, rows))
    shuffle.shuffle(terms)  # type: ignore[attr-defined]
    half = len(terms) // 2
    parts = [carry(total(form, np.array(part)[:, None].reshape(-1, 1))) for part in (terms[:half], terms[half:])]
    assert form.value(parts[0] + parts[1]).tobytes() == whole.tobytes()


@given(st.lists(values, min_size=1, max_size=60))
def test_the_sum_is_exact_to_the_resolution(terms: list[float]) -> None:
    form = FixedPoint(np.array([27], np.int32), 3)
    got = form.value(total(form, np.array(terms)[:, None]))[0]
    exact = sum(map(Fraction, terms))
    resolution = len(terms) * Fraction(2) ** (27 - 60 - 80)
    assert abs(Fraction(float(got)) - exact) <= resolution + abs(exact) * Fraction(2) ** -52


@given(st.lists(st.floats(-1e140, 1e140, allow_nan=False).filter(lambda v: v == 0 or abs(v) > 1e-250), max_size=40))
def test_the_unbounded_format_takes_anything(terms: list[float]) -> None:
    form = FixedPoint.unbounded(1)
    got = form.value(total(form, np.array(terms).reshape(-1, 1)))[0]
    exact = sum(map(Fraction, terms), Fraction(0))
    assert abs(Fraction(float(got)) - exact) <= abs(exact) * Fraction(2) ** -51 + Fraction(2) ** -900


def test_small_negative_sums_keep_their_digits() -> None:
    form = FixedPoint(np.array([40], np.int32), 3)
    limbs = total(form, np.array([[-1e-12], [3e-13]]))
    assert abs(form.value(limbs)[0] / -7e-13 - 1) < 1e-6


def test_carrying_changes_no_value() -> None:
    form = FixedPoint(np.array([10, 20], np.int32), 3)
    limbs = np.array([[5, -7], [2**62, -(2**62)], [-(2**61), 2**61]])
    exact = [sum(int(limbs[j, i]) * 2 ** (40 * (2 - j)) for j in range(3)) for i in range(2)]
    carried = carry(limbs.copy())
    assert [sum(int(carried[j, i]) * 2 ** (40 * (2 - j)) for j in range(3)) for i in range(2)] == exact
    assert np.abs(carried[1:]).max() <= 2**39
    assert form.value(limbs).tobytes() == form.value(carried).tobytes()


def test_threads_that_share_a_sum_give_its_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exact, "LOCKED_AT_ONCE", 32)
    form, random = FixedPoint(np.full(200, 20, np.int32), 3), np.random.default_rng(0)
    terms = random.standard_normal((40, 200))
    alone, shared = ExactSum(form), SharedSum(form, form.zeros())
    for term in terms:
        alone.add(term.copy())
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda term: shared.add(term.copy()), terms))
    assert (alone.limbs == shared.limbs).all()
