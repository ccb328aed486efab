"""The registry of kernels, and the choice of a kernel from numbers that all ranks share."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from mpigmm.core.arrays import BoolArray
from mpigmm.core.estep.base import Kernel, RegisteredKernel
from mpigmm.core.estep.differences import DifferenceKernel
from mpigmm.core.estep.inputs import EStepInputs
from mpigmm.core.estep.pruned import PrunedKernel
from mpigmm.core.estep.pruned_diagonal import PrunedDiagonalKernel
from mpigmm.core.estep.pruned_tied import PrunedTiedKernel
from mpigmm.core.estep.quadratic import (
    DiagonalQuadraticKernel,
    FullQuadraticKernel,
    IsotropicQuadraticKernel,
    TiedQuadraticKernel,
)
from mpigmm.core.estep.split import SplitKernel
from mpigmm.core.estep.whitened import WhitenedKernel

Kinds = Sequence[type[RegisteredKernel]]

KERNELS: list[type[RegisteredKernel]] = [
    PrunedKernel,
    PrunedDiagonalKernel,
    PrunedTiedKernel,
    WhitenedKernel,
    FullQuadraticKernel,
    TiedQuadraticKernel,
    DiagonalQuadraticKernel,
    IsotropicQuadraticKernel,
    DifferenceKernel,
]
"""The registry, in the order in which kernels are considered. The last kernel must support all components."""


def choose_kernel(inputs: EStepInputs) -> Kernel:
    """The kernel for an E-step.

    The last kernel of the registry computes the components that no other kernel supports. The other components are
    computed by the first kernel that supports some of them and pays; the last kernel computes those of them that this
    one does not support.
    """
    supported = np.zeros(inputs.n_components, bool)
    for kind in KERNELS[:-1]:
        left = np.flatnonzero(~supported)
        if not left.size:
            break
        supported[left] = kind.supports(inputs if left.size == supported.size else inputs.part(left))
    return split(inputs, supported, lambda part: first_that_pays(part, KERNELS))


def first_that_pays(inputs: EStepInputs, kinds: Kinds) -> Kernel:
    """The first of the kernels `kinds` that supports some of the components and pays; see `split` for the others."""
    kind, *others = kinds
    suited = kind.supports(inputs)
    if not (suited.any() and kind.pays(inputs)):
        return first_that_pays(inputs, others)
    return split(inputs, suited, lambda part: kind(part, lambda: first_that_pays(part, others)))


def split(inputs: EStepInputs, is_fast: BoolArray, make: Callable[[EStepInputs], Kernel]) -> Kernel:
    """The kernel from `make` for the components in is_fast (K,), and the last kernel of the registry for the others."""

    if is_fast.all():
        return make(inputs)
    if not is_fast.any():
        return safe_kernel(inputs)
    chosen, left = np.flatnonzero(is_fast), np.flatnonzero(~is_fast)
    return SplitKernel(inputs, make(inputs.part(chosen)), safe_kernel(inputs.part(left)), chosen, left)


def safe_kernel(inputs: EStepInputs) -> Kernel:
    """The last kernel of the registry, for all components."""
    return KERNELS[-1](inputs, lambda: safe_kernel(inputs))
