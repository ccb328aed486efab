"""What a kernel is: one way to do the E-step."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable

from mpigmm.core.estep.inputs import BoolArray, EStepInputs
from mpigmm.core.exact import FloatArray
from mpigmm.core.statistics import SufficientStatistics
from mpigmm.core.tile import Tile


class Kernel(ABC):
    """Log-densities and moments of the rows of any tile; made once an E-step, shared by all threads.

    Arrays of tiles, and those that the methods fill, lie in the memory of the operations' array library.
    """

    @abstractmethod
    def log_prob(self, tile: Tile, out: FloatArray) -> None:
        """log weights_k N(x | mean_k, covariance_k) of all rows and components into out (K, n)."""

    @abstractmethod
    def accumulate(self, tile: Tile, resp: FloatArray, first: FloatArray, second: FloatArray) -> None:
        """Moments about the means, weighted with resp (K, n), into first (K, D) and packed second (n_second,)."""

    def e_step(self, tile: Tile, statistics: SufficientStatistics) -> bool:
        """All statistics of a tile at once, where the kernel has a way; False, and nothing done, where it has none."""
        return False

    def dense_part(self) -> Kernel | None:
        """The kernel that computes all pairs of row and component, where this one would leave all pairs to it."""
        return None


NextKernel = Callable[[], Kernel]


class RegisteredKernel(Kernel):
    """A kernel that may be chosen for some or all components of a mixture.

    Parameters
    ----------
    inputs : EStepInputs
    next_kernel : callable
        Makes the kernel that would be chosen for the same components if this one were not in the registry.
    """

    @abstractmethod
    def __init__(self, inputs: EStepInputs, next_kernel: NextKernel) -> None: ...

    @classmethod
    @abstractmethod
    def supports(cls, inputs: EStepInputs) -> BoolArray:
        """Components (K,) for which the kernel gives all the digits that are needed."""

    @classmethod
    def pays(cls, inputs: EStepInputs) -> bool:
        """Whether the kernel is expected to be faster than those after it in the registry, where it supports some of
        the components."""
        return True
