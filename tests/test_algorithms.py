"""Algorithms as state machines, without ranks: what they ask for, what they make of the sums, and what they choose."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from strict import StrictGpu
from support import (
    TYPES,
    assert_same_bits,
    blobs,
    fit_in_memory,
    mixture_of,
    scaled_covariances,
    start_mixture,
    statistics_of,
    survey_of,
)

from mpigmm.core.algorithms import ALGORITHMS
from mpigmm.core.algorithms.base import EStepPass, Grid, Problem, Rejected, Report, Summed
from mpigmm.core.algorithms.batch import BatchEM, BatchState
from mpigmm.core.algorithms.m_step import m_step
from mpigmm.core.arrays import DOUBLE, SINGLE
from mpigmm.core.covariances import COVARIANCE_TYPES
from mpigmm.core.covariances.base import MStepSums, Safeguards, SingularCovarianceError
from mpigmm.core.data_summary import DataSummary
from mpigmm.core.estep.base import Kernel
from mpigmm.core.estep.choose import KERNELS, choose_kernel
from mpigmm.core.estep.differences import DifferenceKernel
from mpigmm.core.estep.inputs import EStepInputs
from mpigmm.core.estep.pruned_diagonal import PrunedDiagonalKernel
from mpigmm.core.estep.split import SplitKernel
from mpigmm.core.estep.step import EStep
from mpigmm.core.mixture import Mixture
from mpigmm.core.ops import best_ops, ops_by_name
from mpigmm.core.ops.base import Ops
from mpigmm.core.ops.cuda import CudaOps
from mpigmm.core.ops.groups import SecondMoments
from mpigmm.core.ops.numpy import NUMPY
from mpigmm.core.priors import ConjugatePrior, NoPrior
from mpigmm.core.statistics import SufficientStatistics
from mpigmm.core.sum_format import MOST_LIMBS, SumRangeError
from mpigmm.core.tile import Tile
from mpigmm.options import EmOptions
from mpigmm.rows import Rows

ROWS = blobs(1500, 4, 3)
SAFEGUARDS = Safeguards(1e-6, 1e-3)
MOST_PASSES = 9
ALL_OPS = [NUMPY, ops_by_name(best_ops()), CudaOps(StrictGpu())]


class MoreRows(ConjugatePrior):
    """A prior whose additional rows have given statistics."""

    name = "more"

    def __init__(self, summary: DataSummary, statistics: SufficientStatistics) -> None:
        super().__init__(summary)
        self.more = statistics

    def pseudo_statistics(self, mixture: Mixture) -> MStepSums:
        counts = self.more.counts
        return MStepSums(counts, counts, counts, self.more.first_moments, self.more.second_moments)

    def log_density(self, mixture: Mixture) -> float:
        return 0.0


def problem_of(survey: DataSummary, safeguards: Safeguards, dtype: np.dtype = DOUBLE) -> Problem:
    return Problem(survey, safeguards, NoPrior(survey), dtype, Grid(survey.n_samples, 256))


def batch_em(survey: DataSummary, safeguards: Safeguards | None = None, dtype: np.dtype = DOUBLE) -> BatchEM:
    return BatchEM(problem_of(survey, safeguards or Safeguards(0.0, 0.0), dtype), EmOptions())


def summed(wanted: EStepPass, rows: np.ndarray, survey: DataSummary) -> Summed:
    """The sums of a pass over rows in memory."""
    dtype, in_double = wanted.precision.dtype, wanted.precision.in_double
    sums = statistics_of(wanted.mixture, rows, survey, dtype=dtype, in_double=in_double, n_limbs=wanted.n_limbs)
    return Summed(wanted, SufficientStatistics.of(sums.value(), wanted.mixture.layout), sums.form.n_limbs)


def one_pass(algorithm: BatchEM, state: BatchState, rows: np.ndarray) -> tuple[BatchState, Report]:
    """The state after a pass over the rows, and what it reports."""
    return algorithm.update(state, summed(algorithm.e_step_pass(state), rows, algorithm.problem.summary))


def one_step(
    algorithm: BatchEM, state: BatchState, rows: np.ndarray
) -> tuple[BatchState, list[EStepPass], list[Report]]:
    """The state after a step, the passes that it takes, and the report of each."""
    asked, reports = [], []
    for _ in range(MOST_PASSES):
        asked.append(algorithm.e_step_pass(state))
        state, report = one_pass(algorithm, state, rows)
        reports.append(report)
        if not report.again:
            return state, asked, reports
    raise AssertionError("the step comes to no end")


def steps(algorithm: BatchEM, state: BatchState, rows: np.ndarray, n: int) -> tuple[BatchState, list[Report]]:
    """The state after n steps, and the reports of the passes that count."""
    counted = []
    for _ in range(n):
        state, _, reports = one_step(algorithm, state, rows)
        counted.append(reports[-1])
    return state, counted


@pytest.mark.parametrize("covariance_type", TYPES)
def test_batch_em_by_hand_is_the_fit_in_memory(covariance_type: str) -> None:
    start, safeguards = start_mixture(covariance_type, ROWS, 3), Safeguards(1e-6, 1e-12)
    expected, history, _ = fit_in_memory(start, ROWS, 8, safeguards=safeguards)
    algorithm = batch_em(survey_of(ROWS), safeguards)
    state, reports = steps(algorithm, algorithm.start(start), ROWS, 8)
    assert_same_bits(algorithm.mixture(state).arrays(), expected.arrays())
    found = [report.mean_log_likelihood for report in reports]
    assert found == history and [report.objective for report in reports] == history
    changes = [report.change for report in reports]
    assert changes == [None, *(b - a for a, b in pairwise(found))]


@pytest.mark.parametrize("dtype", [DOUBLE, SINGLE], ids=["float64", "float32"])
@pytest.mark.parametrize("covariance_type", TYPES)
@pytest.mark.parametrize("name", ALGORITHMS)
def test_a_stored_state_goes_on_in_the_same_bits(name: str, covariance_type: str, dtype: np.dtype) -> None:
    survey, kind = survey_of(ROWS), ALGORITHMS[name]
    algorithm: Any = kind(problem_of(survey, Safeguards(1e-6, 1e-12), dtype), EmOptions(algorithm=name))
    start = start_mixture(covariance_type, ROWS, 3)
    for n in (0, 3):
        state, _ = steps(algorithm, algorithm.start(start), ROWS, n)
        arrays = kind.to_arrays(state)
        assert set(kind.mixture(state).arrays()) <= set(arrays)
        restored = kind.from_arrays(covariance_type, {key: array.copy() for key, array in arrays.items()})
        (plain, told), (resumed, told_too) = (steps(algorithm, each, ROWS, 4) for each in (state, restored))
        assert told == told_too
        assert_same_bits(kind.to_arrays(plain), kind.to_arrays(resumed))


def wide_start(covariance_type: str, rows: np.ndarray, is_far: list[bool]) -> Mixture:
    """Components of standard deviations a thousand times those of the rows, some with means 300 of these away."""
    start = start_mixture(covariance_type, rows, len(is_far))
    means = start.means + 300 * rows.std(axis=0) * np.array(is_far)[:, None]
    return scaled_covariances(Mixture(start.weights, means, start.covariances), 1e6)


@pytest.mark.parametrize("covariance_type", TYPES)
def test_float32_that_loses_digits_is_taken_again_in_float64_and_counts_once(covariance_type: str) -> None:
    rows = ROWS + 1e7
    start, survey = wide_start(covariance_type, rows, [True, True]), survey_of(rows)
    single, double = batch_em(survey, dtype=SINGLE), batch_em(survey)
    state, asked, reports = one_step(single, single.start(start), rows)
    assert [each.precision.dtype for each in asked] == [SINGLE, DOUBLE]
    assert all(each.mixture is start for each in asked) and [each.change for each in reports] == [None, None]
    expected, (counted,) = steps(double, double.start(start), rows, 1)
    assert_same_bits(state.mixture.arrays(), expected.mixture.arrays())
    assert state.objective == expected.objective == counted.objective == reports[-1].objective
    assert state.precision is None and state.n_limbs is None


@pytest.mark.parametrize("covariance_type", ["full", "diag", "spherical"])
def test_only_components_that_lose_digits_are_taken_again_in_float64(covariance_type: str) -> None:
    rows, is_far = ROWS + 1e7, [True, False, False]
    algorithm = batch_em(survey_of(rows), dtype=SINGLE)
    state, report = one_pass(algorithm, algorithm.start(wide_start(covariance_type, rows, is_far)), rows)
    wanted = algorithm.e_step_pass(state)
    assert report.again and wanted.precision.dtype == SINGLE and wanted.precision.in_double.tolist() == is_far
    state, report = one_pass(algorithm, state, rows)
    assert not report.again and algorithm.e_step_pass(state).mixture is state.mixture


def test_a_step_with_finer_sums_counts_once() -> None:
    """From the deviation of rows far away to that of rows that differ in their eighth digit, in one step."""
    rows = np.concatenate([1e-8 * blobs(1000, 3, 3), 1e16 * np.array([[1.0, 1, 1], [-1, -1, -1], [1, -1, 1]])])
    start = mixture_of("diag", np.full(2, 0.5), np.zeros((2, 3)), np.outer([1e20, 1e32], np.ones(3)))
    algorithm = batch_em(survey_of(rows))
    state, asked, _ = one_step(algorithm, algorithm.start(start), rows)
    limbs = [each.n_limbs or 0 for each in asked]
    assert limbs[0] == 0 and len(limbs) > 1 and limbs == sorted(set(limbs))
    assert all(each.mixture is start for each in asked)
    expected, history, _ = fit_in_memory(start, rows, 1)
    assert_same_bits(state.mixture.arrays(), expected.arrays())
    assert [state.objective] == history and state.n_limbs is None


def collapsed(wanted: EStepPass, survey: DataSummary) -> Summed:
    """Sums, as fine as can be, of rows that all lie at the means."""
    sums = summed(wanted, ROWS, survey)
    sums.statistics.first_moments[:] = 0.0
    sums.statistics.second_moments[:] = 0.0
    return replace(sums, n_limbs=MOST_LIMBS)


@pytest.mark.parametrize("covariance_type", TYPES)
def test_a_singular_covariance_ends_float64_and_is_taken_again_in_it_from_float32(covariance_type: str) -> None:
    survey, start = survey_of(ROWS), start_mixture(covariance_type, ROWS, 3)
    algorithm = batch_em(survey, dtype=SINGLE)
    state = algorithm.start(start)
    assert algorithm.e_step_pass(state).precision.dtype == SINGLE
    state, report = algorithm.update(state, collapsed(algorithm.e_step_pass(state), survey))
    wanted = algorithm.e_step_pass(state)
    assert report.again and wanted.mixture is start and wanted.precision.dtype == DOUBLE and wanted.n_limbs is None
    with pytest.raises(SingularCovarianceError) as caught:
        algorithm.update(state, collapsed(wanted, survey))
    assert caught.value.component == (None if covariance_type == "tied" else 0)


@pytest.mark.parametrize("error", [SingularCovarianceError(1), SumRangeError("too far")])
def test_a_rejected_pass_raises_why(error: SingularCovarianceError | SumRangeError) -> None:
    algorithm = batch_em(survey_of(ROWS))
    with pytest.raises(type(error)) as caught:
        algorithm.update(algorithm.start(start_mixture("full", ROWS, 2)), Rejected(error))
    assert caught.value is error


@pytest.mark.parametrize("emptied", [False, True])
@pytest.mark.parametrize("covariance_type", TYPES)
def test_a_prior_of_no_rows_changes_no_bit(covariance_type: str, emptied: bool) -> None:
    survey, start = survey_of(ROWS), start_mixture(covariance_type, ROWS, 3)
    if emptied:
        start = Mixture(start.weights, np.concatenate([start.means[:2], np.full((1, 4), 1e6)]), start.covariances)
    statistics = SufficientStatistics.of(statistics_of(start, ROWS, survey).value(), start.layout)
    one, repairs = m_step(start, statistics, survey, SAFEGUARDS, NoPrior(survey))
    none = SufficientStatistics.of(np.zeros_like(statistics.flat), start.layout)
    other, repairs_too = m_step(start, statistics, survey, SAFEGUARDS, MoreRows(survey, none))
    assert_same_bits(one.arrays(), other.arrays())
    assert repairs == repairs_too and repairs.reseeded == ([2] if emptied else [])


@pytest.mark.parametrize("covariance_type", TYPES)
def test_a_conjugate_prior_is_as_good_as_more_rows(covariance_type: str) -> None:
    survey, start = survey_of(ROWS), start_mixture(covariance_type, ROWS, 3)
    one, more = (
        SufficientStatistics.of(statistics_of(start, rows, survey).value(), start.layout)
        for rows in (ROWS[:1000], ROWS[1000:])
    )
    whole = SufficientStatistics.of(one.flat + more.flat, start.layout)
    expected, _ = m_step(start, whole, survey, SAFEGUARDS, NoPrior(survey))
    found, _ = m_step(start, one, survey, SAFEGUARDS, MoreRows(survey, more))
    assert_same_bits(found.arrays(), expected.arrays())


def test_tied_with_as_many_components_as_features_keeps_its_matrix() -> None:
    """A component without rows must not put a row of the old matrix into the new one."""
    rows = blobs(400, 2, 2) @ np.array([[2.0, 0.0], [1.0, 3.0]])
    start, survey = start_mixture("tied", rows, 2), survey_of(rows)
    start = Mixture(start.weights, np.stack([np.full(2, 1e6), start.means[1]]), start.covariances)
    statistics = SufficientStatistics.of(statistics_of(start, rows, survey).value(), start.layout)
    new, repairs = m_step(start, statistics, survey, Safeguards(0.0, 0.0), NoPrior(survey))
    assert repairs.reseeded == [0] and new.covariances.values.shape == (2, 2)
    np.testing.assert_allclose(new.covariances.values, np.cov(rows.T, bias=True), rtol=1e-10)
    assert (new.covariances.values == new.covariances.values.T).all()


@pytest.mark.parametrize("covariance_type", TYPES)
def test_statistics_of_parts_add_to_the_whole(covariance_type: str) -> None:
    mixture, survey = start_mixture(covariance_type, ROWS, 3), survey_of(ROWS)
    whole, *parts = (
        SufficientStatistics.of(statistics_of(mixture, rows, survey).value(), mixture.layout)
        for rows in (ROWS, ROWS[:512], ROWS[512:])
    )
    assert list(whole.arrays) == list(mixture.layout)
    for name, values in whole.arrays.items():
        assert values.base is not None and values.shape == mixture.layout[name]
        total = parts[0].arrays[name] + parts[1].arrays[name]
        np.testing.assert_allclose(total, values, rtol=1e-14, atol=1e-13 * np.abs(values).max())


def leaves(kernel: Kernel, places: np.ndarray) -> list[tuple[Kernel, np.ndarray]]:
    """The kernels that compute components, and the numbers of these."""
    if not isinstance(kernel, SplitKernel):
        return [(kernel, places)]
    own = [places[np.array(kernel._ops.arrays.get(part))] for part in kernel._components]
    return [*leaves(kernel.fast, own[0]), *leaves(kernel.safe, own[1])]


def uneven_inputs(covariance_type: str, n_features: int, dtype: np.dtype, ops: Ops) -> EStepInputs:
    """Eight components, of which some are too narrow for products of rows, and one is to be computed in float64."""
    rows = blobs(400, n_features, 3)
    mixture, survey = start_mixture(covariance_type, rows, 8), survey_of(rows)
    if covariance_type == "tied":
        mixture = Mixture(mixture.weights, mixture.means + 1e4 * (np.arange(8) < 2)[:, None], mixture.covariances)
    else:
        mixture = scaled_covariances(mixture, [1e-12, 1e-18, *[1.0] * 6])
    in_double = (np.arange(8) == 5) & (dtype == SINGLE)
    return mixture.e_step_inputs(survey.centre, survey.max_abs_deviation, dtype, ops, in_double)


@pytest.mark.parametrize("n_features", [3, 20, 100])
@pytest.mark.parametrize("ops", ALL_OPS, ids=["numpy", "compiled", "cuda"])
@pytest.mark.parametrize("dtype", [DOUBLE, SINGLE], ids=["float64", "float32"])
@pytest.mark.parametrize("covariance_type", TYPES)
def test_each_component_has_one_kernel_the_first_that_pays(
    covariance_type: str, dtype: np.dtype, ops: Ops, n_features: int
) -> None:
    inputs = uneven_inputs(covariance_type, n_features, dtype, ops)
    chosen = leaves(choose_kernel(inputs), np.arange(8))
    assert sorted(np.concatenate([places for _, places in chosen])) == list(range(8))
    for kernel, places in chosen:
        part = inputs if len(places) == 8 else inputs.part(places)
        kind: Any = type(kernel)
        assert kind in KERNELS and kind.supports(part).all()
    fast = [(kernel, places) for kernel, places in chosen if not isinstance(kernel, DifferenceKernel)]
    for kernel, _ in fast:
        supported = np.zeros(8, bool)
        for kind in KERNELS[:-1]:
            supported |= kind.supports(inputs)
        candidates = inputs.part(np.flatnonzero(supported))
        earlier = KERNELS[: KERNELS.index(type(kernel))]  # type: ignore[arg-type]
        assert not any(kind.supports(candidates).any() and kind.pays(candidates) for kind in earlier)
    if dtype == SINGLE:
        assert all(5 not in places for _, places in fast)


def test_the_order_of_the_registry_decides(monkeypatch: pytest.MonkeyPatch) -> None:
    inputs = uneven_inputs("full", 20, DOUBLE, NUMPY)
    first = type(leaves(choose_kernel(inputs), np.arange(8))[0][0])
    for kind in KERNELS[:-1]:
        if not kind.supports(inputs).any():
            continue
        monkeypatch.setattr(kind, "pays", classmethod(lambda cls, inputs: True))
    others = [kind for kind in KERNELS[:-1] if kind is not first and kind.supports(inputs).any()]
    assert len(others) == 2
    for kind in others:
        monkeypatch.setattr("mpigmm.core.estep.choose.KERNELS", [kind, *(k for k in KERNELS if k is not kind)])
        assert isinstance(leaves(choose_kernel(inputs), np.arange(8))[0][0], kind)


@pytest.mark.parametrize("ops", ALL_OPS, ids=lambda ops: ops.name)
@pytest.mark.parametrize("covariance_type", TYPES)
def test_responsibilities_of_half_a_row_count_half(covariance_type: str, ops: Ops) -> None:
    """Of whatever sum: no kernel takes them for those of the posterior."""

    def halves(xp: Any, log_prob: Any) -> tuple[Any, Any]:
        best = log_prob.max(axis=0)
        resp = xp.exp(log_prob - best)
        resp /= 2 * resp.sum(axis=0)
        return resp, best * 0

    weight, found = np.random.default_rng(0).random(len(ROWS)), []
    mixture, survey = start_mixture(covariance_type, ROWS, 3), survey_of(ROWS, weight)
    inputs = mixture.e_step_inputs(survey.centre, survey.max_abs_deviation, ops=ops)
    for e_step in (EStep(inputs), EStep(inputs, halves)):
        tile = Tile(4, len(ROWS), ops)
        tile.fill(Rows.of(ROWS, weight).mapped(ops.arrays.put), ops.arrays.put(survey.centre), mask=False)
        statistics = SufficientStatistics.empty(mixture.layout, ops.arrays)
        e_step(tile, statistics)
        found.append(ops.arrays.get(statistics.flat))
    np.testing.assert_allclose(2 * found[1][1:], found[0][1:], rtol=1e-9, atol=1e-9 * np.abs(found[0]).max())


@pytest.mark.parametrize(
    ("covariance_type", "ops"),
    [("full", NUMPY), *((kind, ALL_OPS[1]) for kind in TYPES)],
    ids=lambda value: getattr(value, "name", value),
)
def test_no_pair_is_negligible_unless_responsibilities_are_the_posterior(covariance_type: str, ops: Ops) -> None:
    """Tempered ones, say, of a pair may be large although its density is not."""
    random, seen = np.random.default_rng(0), []
    means = 1e3 + 10 * random.standard_normal((24, 64))
    rows = means[np.arange(400) % 24] + random.standard_normal((400, 64))
    covariances = COVARIANCE_TYPES[covariance_type].isotropic(24, 64)
    centre = means[0] if covariance_type == "full" else np.zeros(64)

    def tempered(xp: Any, log_prob: Any) -> tuple[Any, Any]:
        seen.append(log_prob.copy())
        return log_prob, log_prob[0].copy()

    inputs = Mixture(np.full(24, 1 / 24), means, covariances).e_step_inputs(centre, np.full(64, 2e3), ops=ops)
    tile, log_prob = Tile(64, 400, ops), np.empty((24, 400))
    tile.fill(Rows.of(rows), centre, mask=False)
    kernel = choose_kernel(inputs)
    kernel.log_prob(tile, log_prob)
    assert np.isneginf(log_prob).any() == (covariance_type == "full")
    assert isinstance(kernel, PrunedDiagonalKernel) == (covariance_type in ("diag", "spherical"))
    EStep(inputs, tempered).posterior(tile)
    assert np.isfinite(seen[0]).all()


def test_a_prior_of_fewer_than_no_rows_makes_no_weight_negative() -> None:
    survey, start = survey_of(ROWS), start_mixture("diag", ROWS, 3)
    statistics = SufficientStatistics.of(statistics_of(start, ROWS, survey).value(), start.layout)

    class FewerRows(NoPrior):
        def m_step_sums(self, mixture: Mixture, statistics: SufficientStatistics) -> MStepSums:
            return replace(super().m_step_sums(mixture, statistics), weight_counts=np.array([-5.0, 10.0, 30.0]))

    mixture, _ = m_step(start, statistics, survey, SAFEGUARDS, FewerRows(survey))
    np.testing.assert_allclose(mixture.weights, [0.0, 0.25, 0.75])


def test_second_moments_that_no_operation_computes_are_refused() -> None:
    """C would read arrays of another shape."""
    mixture = start_mixture("diag", ROWS, 3)
    inputs = replace(mixture.e_step_inputs(ROWS.mean(axis=0)), second_moments=SecondMoments.ALL_FEATURES)
    with pytest.raises(TypeError, match="ALL_FEATURES with DiagonalFactors"):
        choose_kernel(inputs)
