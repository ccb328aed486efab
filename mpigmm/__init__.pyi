"""The public names for type checkers and editors, which do not see what is loaded when it is first used."""

from mpigmm import errors as errors
from mpigmm.api import FitResult as FitResult
from mpigmm.api import fit as fit
from mpigmm.estimator.gaussian_mixture import GaussianMixture as GaussianMixture
from mpigmm.fitted import Mixture as Mixture
from mpigmm.fitted_rows import ConditionResult as ConditionResult
from mpigmm.selection import SelectResult as SelectResult
from mpigmm.selection import select as select
from mpigmm.version import __version__ as __version__
