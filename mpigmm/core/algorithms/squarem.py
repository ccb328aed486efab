"""EM accelerated by squared extrapolation."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np

from mpigmm.core.algorithms.accelerated import LEAST_SHARE, AcceleratedEM, EMStep, History
from mpigmm.core.algorithms.mixture_coordinates import MixtureCoordinates
from mpigmm.core.exact import FloatArray

FIRST_LENGTH, FACTOR = 4.0, 2.0
"""The bound of the step length in the first extrapolation, and the factor by which it changes."""


@dataclass(frozen=True)
class StepLength:
    """The bound of the step length.

    Attributes
    ----------
    bound : float
        Of the next extrapolation.
    if_accepted, if_rejected : float
        The next bound after the proposal is accepted, and after it is rejected.
    least_gain : float
        Of the objective, with which the proposal is accepted.
    """

    bound: float
    if_accepted: float
    if_rejected: float
    least_gain: float


class Squarem(AcceleratedEM[StepLength]):
    """SQUAREM with the third step length (Varadhan and Roland, Scand. J. Stat. 35, 2008), never losing likelihood.

    Two steps of EM, x0 -> x1 -> x2, give r = x1 - x0 and v = x2 - x1 - r, and the proposal x0 + 2 a r + a^2 v with
    a = |r| / |v|; a = 1 is x2. From the result of its M-step the next two steps are taken. As in the authors' package,
    a has a bound, which is raised where it was reached and the proposal was accepted, and lowered after a rejection.
    """

    name = "squarem"
    first_control: ClassVar[StepLength] = StepLength(FIRST_LENGTH, FIRST_LENGTH, FIRST_LENGTH, np.inf)
    controls = (StepLength,)

    def extended(self, history: History, step: EMStep, was_proposed: bool, control: StepLength) -> History:
        if was_proposed:
            return ()
        return (step,) if len(history) == 2 else (*history, step)

    def propose(self, history: History, control: StepLength) -> tuple[FloatArray | None, StepLength]:
        if len(history) < 2:
            return None, control
        coordinates = MixtureCoordinates(history[-1].old)
        first, second = (coordinates.vector(step.old) for step in history)
        third = coordinates.vector(history[-1].new)
        r = second - first
        v = third - second - r
        lengths = np.sqrt(np.square(r).sum()), np.sqrt(np.square(v).sum())
        wanted = float(lengths[0] / lengths[1]) if lengths[1] > 0 else 1.0
        length = max(min(wanted, control.bound), 1.0)
        raised = FACTOR * control.bound if wanted >= control.bound else control.bound
        if length == 1.0:
            return None, replace(control, bound=raised)
        least_gain = LEAST_SHARE * 0.5 * float(np.square(third - second).sum())
        proposed = StepLength(control.bound, raised, max(length / FACTOR, 1.0), least_gain)
        return first + 2 * length * r + length**2 * v, proposed

    def least_gain(self, control: StepLength) -> float:
        return control.least_gain

    def after_accepted(self, control: StepLength, gain: float) -> StepLength:
        return replace(control, bound=control.if_accepted)

    def after_rejected(self, control: StepLength) -> StepLength:
        return replace(control, bound=control.if_rejected)
