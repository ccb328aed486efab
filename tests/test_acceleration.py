"""Accelerated EM: it ends where EM ends, in fewer E-steps, never loses likelihood, and resumes in the same bits."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from extension import extended
from mpi4py import MPI
from passes import Passes
from support import (
    TYPES,
    assert_same_bits,
    blobs,
    dense_covariances,
    mixture_of,
    random_mixture,
    read_lines,
    read_model,
    start_mixture,
    write_rows,
)

import mpigmm
from mpigmm.core.algorithms import ACCELERATIONS
from mpigmm.core.algorithms.accelerated import AcceleratedEM, AcceleratedState
from mpigmm.core.algorithms.base import Rejected, Report
from mpigmm.core.algorithms.mixture_coordinates import MixtureCoordinates
from mpigmm.core.algorithms.secant_model import SecantModel
from mpigmm.core.arrays import DOUBLE, SINGLE
from mpigmm.core.covariances.base import Safeguards
from mpigmm.core.mixture import Mixture
from mpigmm.errors import ConfigError, MpigmmWarning
from mpigmm.parallel.mpi import MpiComm

ROWS = blobs(800, 3, 3, seed=4, separation=1.2)
pytestmark = pytest.mark.filterwarnings(f"ignore::{MpigmmWarning.__module__}.{MpigmmWarning.__name__}")
of_both = pytest.mark.parametrize("name", ACCELERATIONS)
of_all_types = pytest.mark.parametrize("covariance_type", TYPES)


@of_both
@of_all_types
def test_a_limit_of_em_in_fewer_e_steps(name: str, covariance_type: str) -> None:
    start, em, passes = start_mixture(covariance_type, ROWS, 3), Passes("batch", ROWS), Passes(name, ROWS)
    reached = em.objectives(start, 120)[-1]
    assert passes.e_steps_to(start, reached, 80) < 80
    found = passes.objectives(start, 250)[-1]
    onwards = Passes("batch", ROWS).objectives(passes.algorithm.mixture(passes.state), 30)
    assert found >= reached and onwards[-1] - found < 1e-6


@of_both
@of_all_types
def test_the_log_likelihood_never_falls(name: str, covariance_type: str) -> None:
    for seed in range(4):
        random = np.random.default_rng([seed, TYPES.index(covariance_type)])
        k, d = random.integers(1, 5), random.integers(1, 5)
        rows = blobs(int(random.integers(300, 800)), d, k, seed, separation=random.uniform(0, 3))
        passes = Passes(name, rows * 10.0 ** random.uniform(-3, 3, d) + random.normal(size=d))
        objectives = passes.objectives(start_mixture(covariance_type, passes.rows, k, seed), 40)
        assert np.diff(objectives).min() > -1e-10


@of_both
@of_all_types
@pytest.mark.parametrize("dtype", [DOUBLE, SINGLE], ids=["float64", "float32"])
def test_a_state_after_any_pass_goes_on_in_the_same_bits(name: str, covariance_type: str, dtype: np.dtype) -> None:
    """Also after one that was rejected."""
    passes, other = (Passes(name, ROWS, dtype=dtype) for _ in range(2))
    kind, rejected = type(passes.algorithm), 0
    reports = passes.reports(passes.algorithm.start(start_mixture(covariance_type, ROWS, 4)))
    for _ in range(25):
        arrays = {key: array.copy() for key, array in kind.to_arrays(passes.state).items()} if passes.n else None
        report = next(reports)
        rejected += report.again
        if arrays is not None:
            other.state = kind.from_arrays(covariance_type, arrays)
            assert other.take() == report
            assert_same_bits(kind.to_arrays(passes.state), kind.to_arrays(other.state))
            assert kind.to_arrays(passes.state).keys() == kind.to_arrays(other.state).keys()


def proposing(name: str, covariance_type: str, dtype: np.dtype = DOUBLE) -> Passes:
    """Passes in a state that has a proposal."""
    passes = Passes(name, ROWS, dtype=dtype)
    for _ in passes.reports(passes.algorithm.start(start_mixture(covariance_type, ROWS, 3))):
        if passes.state.proposal is not None:
            return passes
    raise AssertionError


def assert_rejected(passes: Passes, before: AcceleratedState[Any], report: Report) -> None:
    """The next pass is over the safe mixture, which was the current one all the time."""
    algorithm: AcceleratedEM[Any] = passes.algorithm
    assert report.again and passes.state.proposal is None
    assert algorithm.mixture(passes.state) is algorithm.mixture(before) is before.safe.mixture
    assert algorithm.e_step_pass(passes.state).mixture is before.safe.mixture
    report = passes.take()
    assert not report.again and report.change is not None and report.change > 0


@of_both
@of_all_types
def test_a_proposal_that_loses_likelihood_is_rejected(name: str, covariance_type: str) -> None:
    passes = proposing(name, covariance_type)
    mixture = passes.state.proposal
    poor = Mixture(mixture.weights, mixture.means + 0.5 * ROWS.std(axis=0), mixture.covariances)
    before = passes.state = replace(passes.state, proposal=poor)
    assert passes.algorithm.mixture(before) is before.safe.mixture
    assert_rejected(passes, before, passes.take())


@of_both
@of_all_types
def test_a_proposal_without_sums_is_rejected(name: str, covariance_type: str) -> None:
    """It has a singular covariance, or is too far away."""
    passes = proposing(name, covariance_type)
    mixture, state = passes.state.proposal, passes.state
    singular = mixture_of(covariance_type, mixture.weights, mixture.means, 0 * mixture.covariances.values)
    far = Mixture(mixture.weights, mixture.means + 1e200, mixture.covariances)
    for bad in (singular, far):
        before = passes.state = replace(state, proposal=bad)
        assert isinstance(passes.outcome(), Rejected)
        assert_rejected(passes, before, passes.take())


@of_both
def test_a_proposal_that_float32_does_not_carry_is_rejected(name: str) -> None:
    passes = proposing(name, "diag", SINGLE)
    mixture = passes.state.proposal
    wide = mixture_of("diag", mixture.weights, mixture.means + 300.0, 1e6 * mixture.covariances.values)
    before = passes.state = replace(passes.state, proposal=wide)
    assert_rejected(passes, before, passes.take())


@of_both
@of_all_types
def test_a_repair_clears_the_history(name: str, covariance_type: str) -> None:
    """A proposal whose M-step would make one is rejected."""
    passes = proposing(name, covariance_type)
    mixture, state = passes.state.proposal, passes.state
    means = np.concatenate([mixture.means[:2], np.full((1, 3), 1e6)])
    empty = Mixture(mixture.weights, means, mixture.covariances)
    before = passes.state = replace(state, proposal=empty)
    assert_rejected(passes, before, passes.take())
    passes.state = replace(state, proposal=None, safe=replace(state.safe, mixture=empty))
    report = passes.take()
    assert report.repairs.reseeded == [2] and passes.state.history == () and passes.state.proposal is None


@of_both
@of_all_types
def test_a_component_of_weight_zero_stays_as_it_is(name: str, covariance_type: str) -> None:
    start = start_mixture(covariance_type, ROWS, 3)
    start = Mixture(np.array([0.5, 0.0, 0.5]), start.means, start.covariances)
    passes = Passes(name, ROWS, Safeguards(0.0, 0.0, reseed=False))
    objectives = passes.objectives(start, 30)
    found = passes.algorithm.mixture(passes.state)
    assert np.diff(objectives).min() > -1e-12 and found.weights[1] == 0
    assert (found.means[1] == start.means[1]).all() and passes.n > len(objectives) - 1
    two = start.covariances.select(np.array([0, 2]))
    expected = Passes(name, ROWS).objectives(Mixture(np.full(2, 0.5), start.means[[0, 2]], two), 20)
    np.testing.assert_allclose(objectives[: len(expected)], expected, atol=1e-6)


@of_both
@of_all_types
def test_other_units_and_another_origin_give_the_same_steps(name: str, covariance_type: str) -> None:
    scale = 8.0 if covariance_type == "spherical" else np.array([8.0, 0.25, 2.0**-20])
    start = start_mixture(covariance_type, ROWS, 3)
    scaled = start_mixture(covariance_type, ROWS * scale + 3, 3)
    shift = np.log(np.broadcast_to(scale, 3)).sum()
    one = Passes(name, ROWS).objectives(start, 20)
    other = Passes(name, ROWS * scale + 3).objectives(scaled, 20)
    np.testing.assert_allclose(np.array(other) + shift, one, atol=1e-6)


@of_both
def test_the_objective_includes_the_prior(name: str) -> None:
    with extended():
        from extension import ShrinkingPrior

        start = start_mixture("diag", ROWS, 3)
        em, passes = (Passes(kind, ROWS, prior=ShrinkingPrior) for kind in ("batch", name))
        reached = em.objectives(start, 100)[-1]
        assert passes.e_steps_to(start, reached, 70) < 70
        found = passes.objectives(start, 100)
        assert np.diff(found).min() > -1e-10 and found[-1] != passes.take().mean_log_likelihood


@of_all_types
def test_coordinates_and_back(covariance_type: str) -> None:
    reference, mixture = (random_mixture(covariance_type, 4, 3, seed) for seed in (0, 1))
    coordinates = MixtureCoordinates(reference)
    vector = coordinates.vector(mixture)
    found = coordinates.mixture(vector)
    assert vector.shape == (mixture.n_parameters + 1,)
    for name, array in mixture.arrays().items():
        np.testing.assert_allclose(found.arrays()[name], array, rtol=1e-12, atol=1e-14)
    np.testing.assert_allclose(coordinates.vector(reference)[4:], 0, atol=1e-14)


@of_all_types
def test_the_metric_is_that_of_the_fisher_information(covariance_type: str) -> None:
    """Half the squared distance of near mixtures is the divergence of rows with known components."""
    reference = random_mixture(covariance_type, 4, 3)
    coordinates = MixtureCoordinates(reference)
    origin = coordinates.vector(reference)
    step = 1e-4 * np.random.default_rng(0).standard_normal(origin.size)
    step[:4] -= np.sqrt(reference.weights) * (np.sqrt(reference.weights) @ step[:4])  # weights with the sum 1
    near = coordinates.mixture(origin + step)
    divergence = reference.weights @ np.log(reference.weights / near.weights)
    parts = (dense_covariances(reference), dense_covariances(near), near.means - reference.means, reference.weights)
    for old, new, delta, weight in zip(*parts, strict=True):
        inverse = np.linalg.inv(new)
        logarithm = np.linalg.slogdet(new)[1] - np.linalg.slogdet(old)[1]
        divergence += 0.5 * weight * (np.trace(inverse @ old) - 3 + delta @ inverse @ delta + logarithm)
    np.testing.assert_allclose(0.5 * step @ step, divergence, rtol=1e-3)


def quadratic(n: int, m: int, seed: int, least: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Curvatures of a quadratic objective in n coordinates, a gradient, and m differences from there."""
    random = np.random.default_rng(seed)
    axes, _ = np.linalg.qr(random.standard_normal((n, n)))
    hessian = -(axes * np.linspace(least, 1, n)) @ axes.T
    gradient, steps = random.standard_normal(n), random.standard_normal((m, n))
    return hessian, gradient, np.concatenate([steps, steps @ hessian, gradient[None]])


@pytest.mark.parametrize("radius", [1e9, 1.0, 0.01])
@pytest.mark.parametrize("least", [0.05, -0.5])
def test_the_model_predicts_the_gain_of_a_quadratic_objective(radius: float, least: float) -> None:
    for seed in range(10):
        hessian, gradient, differences = quadratic(8, 4, seed, least)
        proposal = SecantModel(differences).proposal(radius)
        step = proposal.coefficients @ differences
        inside = proposal.coefficients[:4] @ differences[:4]
        gain = gradient @ step + 0.5 * step @ hessian @ step
        assert proposal.length <= radius * (1 + 1e-9) or not proposal.is_bounded
        assert gain > 0 and proposal.predicted > 0
        if radius == 1e9 and least > 0:  # the maximum in the span, and a step of EM from there that is not longer
            basis = np.linalg.qr(differences[:4].T)[0]
            best = basis @ np.linalg.solve(-basis.T @ hessian @ basis, basis.T @ gradient)
            np.testing.assert_allclose(inside, best, atol=1e-8)
            remaining = gradient + hessian @ best
            remaining *= min(1.0, np.linalg.norm(gradient) / np.linalg.norm(remaining))
            np.testing.assert_allclose(step, best + remaining, atol=1e-8)


def settings(path: Path, name: str, **others: Any) -> dict[str, Any]:
    return {
        "data": {"path": str(path)},
        "model": {"n_components": 4, "covariance_type": others.pop("covariance_type", "full")},
        "init": {"method": "kmeans++", "seed": 1},
        "em": {"accelerate": name, "max_iter": 12, "tol": 0},
        "compute": {"tile_rows": 64, **others.pop("compute", {})},
        **others,
    }


def same(one: mpigmm.FitResult, other: mpigmm.FitResult) -> bool:
    keys = ("mean_log_likelihood", "e_steps")
    return all(
        getattr(one.mixture, name).tobytes() == getattr(other.mixture, name).tobytes()
        for name in ("weights", "means", "covariances")
    ) and all(one.convergence[key].tolist() == other.convergence[key].tolist() for key in keys)


@pytest.mark.parallel
@of_both
@of_all_types
def test_any_number_of_ranks_and_streamed(comm: MpiComm, shared_path: Path, name: str, covariance_type: str) -> None:
    path = shared_path / "x.h5"
    with comm.together():
        if comm.is_root:
            write_rows(path, ROWS)
    expected = mpigmm.fit(settings(path, name, covariance_type=covariance_type), comm=MPI.COMM_SELF)
    for compute in ({}, {"memory": 1}, {"threads": 2}):
        found = mpigmm.fit(settings(path, name, covariance_type=covariance_type, compute=compute), comm=comm.mpi)
        assert same(expected, found)
    log = expected.convergence
    assert len(log["e_steps"]) == 12 and (np.diff(log["e_steps"]) >= 1).all()
    assert np.diff(log["mean_log_likelihood"]).min() > -1e-12


@of_both
def test_a_run_resumes_after_any_iteration(tmp_path: Path, name: str) -> None:
    given = settings(write_rows(tmp_path / "x.h5", ROWS), name)
    whole = mpigmm.fit(given)
    given["output"] = {"dir": str(tmp_path / "out")}
    for n in range(1, 13):
        given["em"]["max_iter"] = n
        found = mpigmm.fit(given)
    assert same(found, whole)


def test_rejected_proposals_count_and_have_no_line(tmp_path: Path) -> None:
    given = settings(write_rows(tmp_path / "x.h5", ROWS), "anderson", output={"dir": str(tmp_path / "out")})
    given["em"]["max_iter"] = 60
    result = mpigmm.fit(given)
    lines = read_lines(tmp_path / "out" / "convergence.jsonl")
    assert [line["iteration"] for line in lines] == list(range(1, 61))
    assert lines[-1]["e_steps"] == result.summary["e_steps"] > 60
    assert lines[-1]["passes"] == 1 + lines[-1]["e_steps"]
    assert read_model(tmp_path / "out" / "model.h5")["means"].tobytes() == result.mixture.means.tobytes()


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ({"algorithm": "classification"}, "em.accelerate: 'squarem' is of em.algorithm: batch"),
        ({"covariance_type": "unit"}, "em.accelerate: covariances of type 'unit' have no coordinates"),
    ],
)
def test_what_cannot_be_accelerated_is_refused_by_name(tmp_path: Path, override: dict[str, str], message: str) -> None:
    given = settings(write_rows(tmp_path / "x.h5", ROWS), "squarem")
    given["em"] |= {key: value for key, value in override.items() if key == "algorithm"}
    given["model"] |= {key: value for key, value in override.items() if key != "algorithm"}
    with extended(), pytest.raises(ConfigError, match=message):
        mpigmm.fit(given)


@pytest.mark.parametrize("step", [0.0, 1.0])
def test_mixtures_that_are_all_the_same_lead_to_no_proposal(step: float) -> None:
    assert SecantModel(np.array([[0.0, 0.0], [0.0, 0.0], [step, 0.0]])).is_stationary
    assert SecantModel(np.array([[1.0, 0.0], [-0.5, 0.0], [step, 0.0]])).is_stationary == (step == 0)
