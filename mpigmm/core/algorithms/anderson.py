"""EM accelerated by damped Anderson extrapolation."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np

from mpigmm.core.algorithms.accelerated import LEAST_SHARE, AcceleratedEM, EMStep, History
from mpigmm.core.algorithms.base import Problem
from mpigmm.core.algorithms.mixture_coordinates import MixtureCoordinates
from mpigmm.core.algorithms.secant_model import TINY, SecantModel
from mpigmm.core.algorithms.squarem import Squarem, StepLength
from mpigmm.core.arrays import HOST
from mpigmm.core.exact import FloatArray
from mpigmm.options import EmOptions

ORDER = 5
"""Number of earlier steps of EM from which a proposal is computed."""

NEAR = 2e-5
"""Anderson extrapolation begins where the step of EM is bound to gain no more than this, in nats of a row."""

FIRST_RADIUS, WIDER, NARROWER = 2.0, 2.0, 0.25
"""The first radius in lengths of EM's step; the factors of the radius after a proposal that reached it and whose gain
was predicted well, and after one that was rejected."""

LEAST_RADIUS = 1e-3
"""The least radius in lengths of EM's step."""

WELL_PREDICTED, BADLY_PREDICTED = 0.5, 0.1
"""Shares of the predicted gain: with more than the first the radius may grow, with less than the second it shrinks.
With less than the first, or more than its inverse, a step of EM comes before the next proposal."""


@dataclass(frozen=True)
class Radius:
    """The radius of the region in which the next proposal may lie, and what the last proposal was.

    Attributes
    ----------
    radius : float
        NaN before the first proposal.
    if_good, if_poor, if_rejected : float
        The next radius after the proposal is accepted with a gain that was predicted well or badly, and after it is
        rejected.
    predicted, least_gain : float
        The gain of the objective that the model predicts, and the least one with which the proposal is accepted.
    n_rejected, n_waiting : float
        Number of proposals in a row that were rejected, and number of steps of EM before the next proposal.
    """

    radius: float
    if_good: float
    if_poor: float
    if_rejected: float
    predicted: float
    least_gain: float
    n_rejected: float
    n_waiting: float


FIRST_CONTROL_NEAR = Radius(np.nan, np.nan, np.nan, np.nan, 0.0, np.inf, 0.0, 0.0)


class Anderson(AcceleratedEM[StepLength | Radius]):
    """Damped Anderson acceleration (Henderson and Varadhan, J. Comput. Graph. Stat. 28, 2019) that never loses
    likelihood.

    Anderson acceleration proposes G(x) - (S + Y) c, where the columns of S are the differences of earlier mixtures from
    x, and those of Y the differences of their steps of EM, G(x) - x, from that of x. The coefficients c are not those
    of least squares, which minimise the length of the step f - Y c (type II), but make it orthogonal to S (type I; Fang
    and Saad, Numer. Linear Algebra Appl. 16, 2009): in coordinates whose metric is the Fisher information, they
    maximise the quadratic model of the objective (`SecantModel`). Least squares makes steps shorter, but often the
    objective smaller, so that its proposals are rejected.

    The damping is the radius of a trust region: the coefficients maximise the model among the mixtures within it. A
    gain that was predicted well lets it grow, a rejection shrinks it.
    """

    name = "anderson"
    first_control: ClassVar[StepLength] = Squarem.first_control
    controls = (StepLength, Radius)

    def __init__(self, problem: Problem, em: EmOptions) -> None:
        super().__init__(problem, em)
        self._far = Squarem(problem, em)

    def extended(self, history: History, step: EMStep, was_proposed: bool, control: StepLength | Radius) -> History:
        if isinstance(control, StepLength):
            return self._far.extended(history, step, was_proposed, control)
        return (*history, step)[-(ORDER + 1) :]

    def with_rejected(self, history: History, step: EMStep, control: StepLength | Radius) -> History:
        return history if isinstance(control, StepLength) else (*history[:-1], step, history[-1])

    def propose(self, history: History, control: StepLength | Radius) -> tuple[FloatArray | None, StepLength | Radius]:
        if isinstance(control, StepLength):
            if not history or gain_of(history[-1]) > NEAR:
                return self._far.propose(history, control)
            control = FIRST_CONTROL_NEAR
        if len(history) < 2:
            return None, control
        if control.n_waiting > 0:
            return None, replace(control, n_waiting=control.n_waiting - 1)
        return extrapolated(history, control)

    def least_gain(self, control: StepLength | Radius) -> float:
        return control.least_gain

    def after_accepted(self, control: StepLength | Radius, gain: float) -> StepLength | Radius:
        if isinstance(control, StepLength):
            return self._far.after_accepted(control, gain)
        radius = control.radius
        if gain > WELL_PREDICTED * control.predicted:
            radius = control.if_good
        elif gain < BADLY_PREDICTED * control.predicted:
            radius = control.if_poor
        is_predicted = WELL_PREDICTED < gain / max(control.predicted, TINY) < 1 / WELL_PREDICTED
        return replace(control, radius=radius, n_rejected=0.0, n_waiting=0.0 if is_predicted else 1.0)

    def after_rejected(self, control: StepLength | Radius) -> StepLength | Radius:
        """Each further rejection in a row doubles the number of steps of EM before the next proposal."""
        if isinstance(control, StepLength):
            return self._far.after_rejected(control)
        waiting = 2.0**control.n_rejected - 1
        return replace(control, radius=control.if_rejected, n_rejected=control.n_rejected + 1, n_waiting=waiting)


def gain_of(step: EMStep) -> float:
    """The gain of the objective to which a step of EM is bound near a maximum: half its squared length."""
    coordinates = MixtureCoordinates(step.old)
    return 0.5 * float(np.square(coordinates.vector(step.new) - coordinates.vector(step.old)).sum())


def extrapolated(history: History, control: Radius) -> tuple[FloatArray | None, Radius]:
    """The coordinates of a proposal, relative to the last accepted mixture, and the control with it."""
    point, differences = differences_of(history)
    model = SecantModel(differences)
    if model.is_stationary:
        return None, control
    radius = FIRST_RADIUS * model.step_length if np.isnan(control.radius) else control.radius
    radius = max(radius, LEAST_RADIUS * model.step_length)
    proposal = model.proposal(radius)
    short = min(proposal.length, radius)
    proposed = Radius(
        radius,
        max(radius, WIDER * proposal.length) if proposal.is_bounded else radius,
        0.5 * short,
        NARROWER * short,
        proposal.predicted,
        LEAST_SHARE * 0.5 * model.step_length**2,
        control.n_rejected,
        0.0,
    )
    return point + proposal.coefficients @ differences, proposed


def differences_of(history: History) -> tuple[FloatArray, FloatArray]:
    """Coordinates (n,) of the last accepted mixture, and an array (2 m + 1, n): the differences from it of the m other
    mixtures, the differences of their steps of EM from its step, and its step."""
    coordinates, last = MixtureCoordinates(history[-1].old), history[-1]
    point = coordinates.vector(last.old)
    m = len(history) - 1
    differences = HOST.empty((2 * m + 1) * point.size).reshape(-1, point.size)
    differences[2 * m] = coordinates.vector(last.new) - point
    for i, step in enumerate(history[:-1]):
        vector = coordinates.vector(step.old)
        differences[i] = vector - point
        differences[m + i] = coordinates.vector(step.new) - vector - differences[2 * m]
    return point, differences
