"""The parameters of the estimator: what they may be, and what they mean for a fit.

The messages are those of scikit-learn 1.9, word for word.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from mpigmm.core.algorithms import ACCELERATIONS
from mpigmm.core.algorithms.initialise import GivenParameters
from mpigmm.core.covariances import COVARIANCE_TYPES
from mpigmm.core.covariances.base import EstimatedCovariances, SingularCovarianceError
from mpigmm.core.exact import FloatArray
from mpigmm.core.factors import Factors
from mpigmm.errors import ConfigError, InputError, ParameterError
from mpigmm.estimator.scikit import FLOATS, to_floats
from mpigmm.options import ComputeOptions, DataOptions, EmOptions, FitOptions, InitOptions, ModelOptions, OutputOptions
from mpigmm.parallel.comm import Comm

Parameters = Mapping[str, Any]
"""The parameters of the constructor by name."""

INIT_METHODS = {
    "kmeans": "kmeans",
    "random": "random_resp",
    "random_from_data": "random",
    "k-means++": "kmeans++",
}
"""`init.method` for each of scikit-learn's `init_params`."""

NEEDED = {
    "full": "symmetric, positive-definite",
    "tied": "symmetric, positive-definite",
    "diag": "positive",
    "spherical": "positive",
}
"""What the precisions of each covariance type have to be."""

LARGEST_SEED = 2**32 - 1


@dataclass(frozen=True)
class Rule:
    """What a parameter may be, in words and as a function."""

    text: str
    allows: Callable[[Any], bool]


def at_least(least: int | float) -> Rule:
    """Numbers from `least` on: whole ones if it is an int."""
    kind: Any = Integral if isinstance(least, int) else Real
    name = "an int" if isinstance(least, int) else "a float"
    return Rule(
        f"{name} in the range [{least}, inf)",
        lambda value: isinstance(value, kind) and bool(least <= value < float("inf")),
    )


def one_of(values: Collection[str]) -> Rule:
    """Some texts."""
    names = ", ".join(map(repr, values))
    return Rule(f"a str among {{{names}}}", lambda value: isinstance(value, str) and value in values)


def either(*rules: Rule) -> Rule:
    """What one of some rules allows."""
    *first, last = (rule.text for rule in rules)
    return Rule(f"{', '.join(first)} or {last}", lambda value: any(rule.allows(value) for rule in rules))


NONE = Rule("None", lambda value: value is None)
BOOLS = (
    Rule("an instance of 'bool'", lambda value: isinstance(value, bool)),
    Rule(f"an instance of 'numpy.{np.bool_.__name__}'", lambda value: isinstance(value, np.bool_)),
)
ARRAY = Rule("an array-like", lambda value: not isinstance(value, (str, bytes)) and hasattr(value, "__len__"))
SEED = Rule(
    f"an int in the range [0, {LARGEST_SEED}]",
    lambda value: isinstance(value, Integral) and 0 <= int(value) <= LARGEST_SEED,
)
GENERATOR = Rule(
    "an instance of 'numpy.random.mtrand.RandomState'", lambda value: isinstance(value, np.random.RandomState)
)

RULES = {
    "n_components": at_least(1),
    "tol": at_least(0.0),
    "reg_covar": at_least(0.0),
    "max_iter": at_least(0),
    "n_init": at_least(1),
    "init_params": one_of(INIT_METHODS),
    "random_state": either(SEED, GENERATOR, NONE),
    "warm_start": either(*BOOLS),
    "verbose": either(at_least(0), *BOOLS),
    "verbose_interval": at_least(1),
    "covariance_type": one_of(NEEDED),
    "weights_init": either(ARRAY, NONE),
    "means_init": either(ARRAY, NONE),
    "precisions_init": either(ARRAY, NONE),
    "n_threads": either(at_least(1), NONE),
    "accelerate": one_of(("none", *ACCELERATIONS)),
}
"""Rules by parameter; `comm` is checked where it is used."""

UNCOMPARED = ("comm", "n_threads", "random_state", "verbose", "verbose_interval")
"""Parameters that may differ between ranks: those of root count, but for the first two."""


def check(name: str, parameters: Parameters) -> None:
    """Raise `ParameterError` for the first of an estimator's parameters that is not allowed."""
    for key, rule in RULES.items():
        if not rule.allows(parameters[key]):
            raise ParameterError(
                f"The {key!r} parameter of {name} must be {rule.text}. Got {parameters[key]!r} instead."
            )


def covariance_kind(covariance_type: str) -> type[EstimatedCovariances]:
    """The class of a covariance type of scikit-learn."""
    kind = COVARIANCE_TYPES[covariance_type]
    assert issubclass(kind, EstimatedCovariances)
    return kind


def drawn_seed(random_state: Any) -> int:
    """A seed: the number itself, or one drawn from a generator of NumPy, by default from its global one."""
    if isinstance(random_state, Integral):
        return int(random_state)
    generator = np.random if random_state is None else random_state
    return int(generator.randint(LARGEST_SEED, dtype=np.uint32))


def options_of(
    parameters: Parameters,
    data: DataOptions,
    seed: int,
    *,
    n_init: int,
    screening: bool,
    statistics: bool | Literal["auto"] = "auto",
) -> FitOptions:
    """The options of the fit that the parameters ask for."""
    threads = parameters["n_threads"]
    return FitOptions(
        data=data,
        model=ModelOptions(
            n_components=int(parameters["n_components"]),
            covariance_type=parameters["covariance_type"],
            reg_covar=float(parameters["reg_covar"]),
            variance_floor=0.0,
        ),
        init=InitOptions(
            method=INIT_METHODS[parameters["init_params"]],  # type: ignore[arg-type]
            n_init=n_init,
            screening=screening,
            seed=seed,
        ),
        em=EmOptions(
            max_iter=int(parameters["max_iter"]),
            tol=float(parameters["tol"]),
            accelerate=parameters["accelerate"],
            reseed=False,
        ),
        compute=ComputeOptions(threads="auto" if threads is None else int(threads)),
        output=OutputOptions(statistics=statistics),
    )


def given_parameters(parameters: Parameters, n_features: int) -> GivenParameters:
    """The parts of the first mixture that the parameters give; raises `InputError`."""
    k, covariance_type = int(parameters["n_components"]), parameters["covariance_type"]
    kind = covariance_kind(covariance_type)
    weights = given(parameters["weights_init"], (k,), "weights")
    if weights is not None:
        check_weights(weights)
    means = given(parameters["means_init"], (k, n_features), "means")
    precisions = doubles(
        given(parameters["precisions_init"], kind.shape(k, n_features), f"{covariance_type} precision")
    )
    covariances = None if precisions is None else kind.from_factors(factors_of_precisions(kind, precisions))
    return GivenParameters(doubles(weights), doubles(means), covariances)


def given(value: Any, shape: tuple[int, ...], name: str) -> NDArray[Any] | None:
    """A parameter as an array of floats, if it is given; raises `InputError`."""
    if value is None:
        return None
    try:
        array = to_floats(value, FLOATS)
    except (TypeError, ValueError) as error:
        raise InputError(f"The parameter '{name}' is no array of numbers: {error}") from None
    if array.shape != shape:
        raise InputError(f"The parameter '{name}' should have the shape of {shape}, but got {array.shape}")
    if not np.isfinite(array).all():
        raise InputError(f"Input contains {'NaN' if np.isnan(array).any() else 'infinity'}: the parameter '{name}'")
    return array


def check_weights(weights: NDArray[Any]) -> None:
    """Raise `InputError` where weights (K,) are not in [0, 1] or do not sum to 1."""
    if (weights < 0).any() or (weights > 1).any():
        raise InputError(
            "The parameter 'weights' should be in the range [0, 1], but got max value "
            f"{weights.min():.5f}, min value {weights.max():.5f}"
        )
    if abs(1.0 - weights.sum()) > (1e-6 if weights.dtype == np.float32 else 1e-8):
        raise InputError(f"The parameter 'weights' should be normalized, but got sum(weights) = {weights.sum():.5f}")


def factors_of_precisions(kind: type[EstimatedCovariances], precisions: FloatArray) -> Factors:
    """Factors of precisions, which are positive definite; raises `InputError`."""
    try:
        kind(precisions).check_symmetry()
        return kind.factor_kind.from_precisions(precisions)
    except (np.linalg.LinAlgError, SingularCovarianceError):
        raise InputError(f"'{kind.name} precision' should be {NEEDED[kind.name]}") from None


def doubles(array: NDArray[Any] | None) -> FloatArray | None:
    """The array in float64, if there is one."""
    return None if array is None else np.ascontiguousarray(array, np.float64)


def check_same_parameters(comm: Comm, own: Mapping[str, Any]) -> None:
    """Raise `AgreedError` where the ranks give different parameters. Collective."""
    told = comm.allgather({name: comparable(value) for name, value in own.items() if name not in UNCOMPARED})
    with comm.together():
        for rank, values in enumerate(told):
            for name, value in values.items():
                if value != told[0][name]:
                    raise ConfigError(
                        f"the ranks give different parameters: {name} is {told[0][name]} on rank 0 and {value} on "
                        f"rank {rank}; give all ranks the same"
                    )


def comparable(value: Any) -> str:
    """A text that is the same for the same values."""
    if not isinstance(value, np.ndarray) and not isinstance(value, (list, tuple)):
        return repr(value)
    array = np.ascontiguousarray(value)
    return f"an array {array.shape} with hash {hashlib.blake2b(array.tobytes(), digest_size=6).hexdigest()}"
