"""Accelerated batch EM: the next E-step is taken at a mixture that is extrapolated from several steps of EM.

After an E-step at an accepted mixture, the result of the M-step is safe: its objective is not below that of the
accepted one. The next pass may evaluate a proposal in its place. If the proposal is rejected, the pass after it
evaluates the safe mixture.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import astuple, dataclass, replace
from typing import Any, ClassVar, Generic, TypeVar

import numpy as np

from mpigmm.core.algorithms.base import Algorithm, EStepPass, Problem, Rejected, Report, Summed
from mpigmm.core.algorithms.batch import BatchEM, BatchState
from mpigmm.core.algorithms.mixture_coordinates import MixtureCoordinates
from mpigmm.core.algorithms.repair import Repairs
from mpigmm.core.covariances.base import SingularCovarianceError
from mpigmm.core.exact import FloatArray
from mpigmm.core.mixture import Mixture
from mpigmm.core.sum_format import SumRangeError
from mpigmm.options import EmOptions

ControlT = TypeVar("ControlT", bound=Any)

LEAST_SHARE = 0.25
"""A proposal is accepted if it raises the objective by at least this share of what EM's step is bound to gain: half the
squared length of the step, in coordinates whose metric is the Fisher information. The stopping rule then sees no small
change while EM would still make large ones."""


@dataclass(frozen=True, eq=False)
class EMStep:
    """A step of EM: the mixture of the E-step, and the result of the M-step."""

    old: Mixture
    new: Mixture

    def keeps_components(self) -> bool:
        """Whether the same components have a weight above zero before and after the step."""
        return bool(((self.old.weights > 0) == (self.new.weights > 0)).all())


History = tuple[EMStep, ...]
"""Steps of EM, the one from the last accepted mixture at the end."""


@dataclass(frozen=True, eq=False)
class AcceleratedState(Generic[ControlT]):
    """The state of accelerated EM between two passes.

    Attributes
    ----------
    safe : BatchState
        The state of batch EM: the result of the last M-step from an accepted mixture, and the objective of the latter.
    proposal : Mixture or None
        The mixture that the next pass evaluates; None for the safe one.
    history : tuple of EMStep
    control : dataclass of floats
        Numbers that the method keeps from step to step.
    """

    safe: BatchState
    proposal: Mixture | None
    history: History
    control: ControlT

    @property
    def evaluated(self) -> BatchState:
        """The state of batch EM whose mixture the next pass evaluates."""
        return self.safe if self.proposal is None else BatchState(self.proposal, self.safe.objective)


class AcceleratedEM(Algorithm[AcceleratedState[ControlT]], Generic[ControlT]):
    """Base of the accelerated forms of batch EM, which differ in the mixtures that they propose.

    A proposal is rejected if it does not raise the objective by `least_gain`, if a covariance is singular, if sums may
    leave the range of float64, if its pass would have to be repeated with more digits, or if its M-step makes a repair
    or empties a component. The pass of a rejected proposal counts as an E-step. A repair of the safe mixture clears the
    history.

    Parameters
    ----------
    problem : Problem
    em : EmOptions

    Attributes
    ----------
    first_control : dataclass of floats
        The control of a start, and after a repair.
    controls : tuple of types
        The classes that a control may have.
    """

    first_control: ClassVar[Any]
    controls: ClassVar[tuple[type[Any], ...]]

    def __init__(self, problem: Problem, em: EmOptions) -> None:
        super().__init__(problem, em)
        self._batch = BatchEM(problem, em)

    @abstractmethod
    def extended(self, history: History, step: EMStep, was_proposed: bool, control: ControlT) -> History:
        """The history with a step from a mixture that was accepted; whether this was a proposal or a safe one."""

    def with_rejected(self, history: History, step: EMStep, control: ControlT) -> History:
        """The history with a step from a proposal that was rejected; by default without it."""
        return history

    @abstractmethod
    def propose(self, history: History, control: ControlT) -> tuple[FloatArray | None, ControlT]:
        """Coordinates, relative to the last accepted mixture, of the one to evaluate next; None for the safe one."""

    @abstractmethod
    def least_gain(self, control: ControlT) -> float:
        """The least gain of the objective with which the proposal is accepted; above zero."""

    @abstractmethod
    def after_accepted(self, control: ControlT, gain: float) -> ControlT:
        """The control after the proposal was accepted, with this gain of the objective."""

    @abstractmethod
    def after_rejected(self, control: ControlT) -> ControlT:
        """The control after the proposal was rejected."""

    def start(self, mixture: Mixture, objective: float | None = None) -> AcceleratedState[ControlT]:
        return AcceleratedState(self._batch.start(mixture, objective), None, (), self.first_control)

    def e_step_pass(self, state: AcceleratedState[ControlT]) -> EStepPass:
        return self._batch.e_step_pass(state.evaluated)

    def update(
        self, state: AcceleratedState[ControlT], outcome: Summed | Rejected
    ) -> tuple[AcceleratedState[ControlT], Report]:
        take = self._take_safe if state.proposal is None else self._take_proposal
        return take(state, outcome)

    def _take_safe(
        self, state: AcceleratedState[ControlT], outcome: Summed | Rejected
    ) -> tuple[AcceleratedState[ControlT], Report]:
        safe, report = self._batch.update(state.safe, outcome)
        if report.again:
            return replace(state, safe=safe), report
        step = EMStep(state.safe.mixture, safe.mixture)
        if report.repairs or not step.keeps_components():
            return AcceleratedState(safe, None, (), self.first_control), report
        return self._next(safe, self.extended(state.history, step, False, state.control), state.control), report

    def _take_proposal(
        self, state: AcceleratedState[ControlT], outcome: Summed | Rejected
    ) -> tuple[AcceleratedState[ControlT], Report]:
        assert state.proposal is not None and state.safe.objective is not None
        try:
            safe, report = self._batch.update(state.evaluated, outcome)
        except (SingularCovarianceError, SumRangeError):
            return self._rejected(state, state.history), NOTHING
        step = EMStep(state.proposal, safe.mixture)
        if report.again or report.repairs or not step.keeps_components():
            return self._rejected(state, state.history), replace(report, again=True)
        gain = report.objective - state.safe.objective
        if not gain >= self.least_gain(state.control):
            return self._rejected(state, self.with_rejected(state.history, step, state.control)), replace(
                report, again=True
            )
        control = self.after_accepted(state.control, gain)
        return self._next(safe, self.extended(state.history, step, True, control), control), report

    def _rejected(self, state: AcceleratedState[ControlT], history: History) -> AcceleratedState[ControlT]:
        """The state after the proposal was rejected."""
        return AcceleratedState(state.safe, None, history, self.after_rejected(state.control))

    def _next(self, safe: BatchState, history: History, control: ControlT) -> AcceleratedState[ControlT]:
        """The state with the next proposal, if there is one."""
        vector, control = self.propose(history, control)
        proposal = None
        if vector is not None:
            proposal = valid_proposal(MixtureCoordinates(history[-1].old).mixture(vector), safe.mixture)
            control = self.after_rejected(control) if proposal is None else control
        for step in history:
            step.old.release()
        return AcceleratedState(safe, proposal, history, control)

    @classmethod
    def mixture(cls, state: AcceleratedState[ControlT]) -> Mixture:
        return state.safe.mixture

    @classmethod
    def to_arrays(cls, state: AcceleratedState[ControlT]) -> dict[str, FloatArray]:
        mixtures = {} if state.proposal is None else {"proposal": state.proposal}
        for number, step in enumerate(state.history):
            mixtures |= {f"old{number}": step.old, f"new{number}": step.new}
        arrays = {f"{of}_{name}": array for of, own in mixtures.items() for name, array in own.arrays().items()}
        control = {type(state.control).__name__: np.array(astuple(state.control))}
        return {**BatchEM.to_arrays(state.safe), **arrays, **control}

    @classmethod
    def from_arrays(cls, covariance_type: str, arrays: Mapping[str, FloatArray]) -> AcceleratedState[ControlT]:
        def mixture(of: str) -> Mixture:
            prefix = f"{of}_"
            own = {name.removeprefix(prefix): array for name, array in arrays.items() if name.startswith(prefix)}
            return Mixture.from_arrays(covariance_type, own)

        control = next(kind for kind in cls.controls if kind.__name__ in arrays)
        n_steps = sum(name.startswith("old") and name.endswith("_weights") for name in arrays)
        return AcceleratedState(
            BatchEM.from_arrays(covariance_type, arrays),
            mixture("proposal") if "proposal_weights" in arrays else None,
            tuple(EMStep(mixture(f"old{number}"), mixture(f"new{number}")) for number in range(n_steps)),
            control(*arrays[control.__name__].tolist()),
        )


NOTHING = Report(np.nan, np.nan, None, Repairs(), again=True)
"""The report of a rejected proposal of which there are no sums."""


def valid_proposal(proposal: Mixture, safe: Mixture) -> Mixture | None:
    """The proposal, or None if it is no mixture with the same components as the safe one."""
    if not all(np.isfinite(array).all() for array in proposal.arrays().values()):
        return None
    try:
        _ = proposal.covariances.factors
    except SingularCovarianceError:
        return None
    return proposal if ((proposal.weights > 0) == (safe.weights > 0)).all() else None
