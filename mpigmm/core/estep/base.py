"""The interface of kernels; a kernel is one way to do the E-step."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable

from mpigmm.core.arrays import BoolArray
from mpigmm.core.estep.inputs import EStepInputs
from mpigmm.core.exact import FloatArray
from mpigmm.core.statistics import SufficientStatistics
from mpigmm.core.tile import Tile


class Kernel(ABC):
    """Computes log-densities and moments of the rows of a tile.

    An E-step makes one kernel, which all threads share. All array arguments of the methods belong to the array library
    of the array operations.
    """

    @abstractmethod
    def log_prob(self, tile: Tile, out: FloatArray) -> None:
        """Compute log(weights_k N(x | mean_k, covariance_k)) for all components and rows into out (K, n)."""

    @abstractmethod
    def accumulate(self, tile: Tile, resp: FloatArray, first: FloatArray, second: FloatArray) -> None:
        """Compute moments about the means, weighted with resp (K, n): responsibilities times sample weights.

        First moments go into first (K, D), packed second moments into second (n_second,); both are float64.
        """

    def e_step(self, tile: Tile, statistics: SufficientStatistics) -> bool:
        """Overwrite all statistics with those of a tile, in one pass through its rows.

        Returns False, and leaves the statistics unchanged, if the kernel cannot do this.
        """
        return False

    def posterior(self, tile: Tile, resp: FloatArray) -> FloatArray | None:
        """Compute responsibilities, without sample weights, into resp (K, n); returns the rows' log-densities (n,).

        Returns None, with resp undefined, if they have to be computed from the result of `log_prob`.
        """
        return None

    def dense_part(self) -> Kernel | None:
        """A kernel that computes all pairs of row and component: this kernel, or one to which it leaves every tile.

        None if there is no such kernel.
        """
        return None


NextKernel = Callable[[], Kernel]


class RegisteredKernel(Kernel):
    """A kernel in the registry, which may be chosen for some or all components of a mixture.

    Parameters
    ----------
    inputs : EStepInputs
    next_kernel : callable
        Makes the kernel that is chosen for the same components from the rest of the registry after this one.
    """

    @abstractmethod
    def __init__(self, inputs: EStepInputs, next_kernel: NextKernel) -> None: ...

    @classmethod
    @abstractmethod
    def supports(cls, inputs: EStepInputs) -> BoolArray:
        """Components (K,) for which the kernel computes accurate results."""

    @classmethod
    def pays(cls, inputs: EStepInputs) -> bool:
        """Whether the kernel is expected to be faster than those after it in the registry.

        Asked only if the kernel supports some of the components.
        """
        return True
