"""scikit-learn, where it is installed: base classes of estimators, their checks of rows, and their exceptions.

Without it, classes and checks of our own stand in. Nothing of `sklearn.mixture` is imported.
"""

from __future__ import annotations

import inspect
import warnings
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mpigmm import errors

FLOATS: list[type[np.floating[Any]]] = [np.float64, np.float32]
"""The dtypes that rows and parameters keep; others become the first of these."""

try:
    import sklearn.base as theirs
    from sklearn.exceptions import ConvergenceWarning as ConvergenceWarning
    from sklearn.exceptions import NotFittedError as TheirNotFittedError
except ImportError:
    IS_INSTALLED = False

    class ConvergenceWarning(UserWarning):  # type: ignore[no-redef]
        """A fit ended before it converged."""

    class TheirNotFittedError(ValueError, AttributeError):  # type: ignore[no-redef]
        """An estimator was asked for what only a fit knows."""
else:
    IS_INSTALLED = True

try:
    from sklearn.utils.validation import validate_data  # since scikit-learn 1.6
except ImportError:
    validate_data = None


class NotFittedError(errors.NotFittedError, TheirNotFittedError):  # type: ignore[misc]
    """An estimator was asked for what only a fit knows; scikit-learn's class where it is installed."""


class PlainEstimator:
    """What an estimator has of scikit-learn's `BaseEstimator` where that is not installed: parameters and a repr."""

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """The parameters of the constructor, by name."""
        return {name: getattr(self, name) for name in inspect.signature(type(self)).parameters}

    def set_params(self, **params: Any) -> Any:
        """Set parameters of the constructor; raises `ValueError` for a name that it does not have."""
        valid = list(self.get_params())
        for name, value in params.items():
            if name not in valid:
                raise ValueError(
                    f"Invalid parameter {name!r} for estimator {self!r}. Valid parameters are: {sorted(valid)}."
                )
            setattr(self, name, value)
        return self

    def __repr__(self) -> str:
        defaults = inspect.signature(type(self)).parameters
        set_here = {name: value for name, value in self.get_params().items() if value is not defaults[name].default}
        return f"{type(self).__name__}({', '.join(f'{name}={value!r}' for name, value in set_here.items())})"

    def __getstate__(self) -> dict[str, Any]:
        return dict(self.__dict__)


BASES: tuple[type, ...] = (theirs.DensityMixin, theirs.BaseEstimator) if IS_INSTALLED else (PlainEstimator,)
"""Base classes of an estimator of a density."""


def clone_value(value: Any) -> Any:
    """A copy of a parameter of an estimator, as scikit-learn's `clone` makes it."""
    return theirs.clone(value, safe=False)


def checked_rows(estimator: Any, X: Any, *, reset: bool, least: int) -> NDArray[Any]:  # noqa: N803
    """Rows (n, D) of float64 or float32, with the checks and the messages of scikit-learn.

    Sets `n_features_in_` and `feature_names_in_` of the estimator, or compares with them.

    Parameters
    ----------
    estimator : GaussianMixture
    X : array_like of shape (n, D)
    reset : bool
        Whether to set these attributes.
    least : int
        Least number of rows.

    Raises
    ------
    InputError
    """
    check = validate_data or check_without
    try:
        rows: NDArray[Any] = check(estimator, X, reset=reset, dtype=FLOATS, ensure_min_samples=least)
    except (TypeError, ValueError) as error:
        raise errors.InputError(str(error)) from None
    return rows


def check_without(
    estimator: Any,
    X: Any,  # noqa: N803
    *,
    reset: bool,
    dtype: list[Any],
    ensure_min_samples: int,
) -> NDArray[Any]:
    """The checks of `validate_data` that matter to rows, for where scikit-learn is missing or older than 1.6."""
    check_names(estimator, names_of(X), reset=reset)
    name, rows = type(estimator).__name__, to_floats(X, dtype)
    if rows.ndim != 2:
        raise ValueError(f"Expected 2D array, got {rows.ndim}D array instead: give rows (n_samples, n_features)")
    for what, has, least in zip(("sample", "feature"), rows.shape, (ensure_min_samples, 1), strict=True):
        if has < least:
            raise ValueError(
                f"Found array with {has} {what}(s) (shape={rows.shape}) while a minimum of {least} is required by "
                f"{name}."
            )
    if not np.isfinite(rows).all():
        found = "NaN" if np.isnan(rows).any() else f"infinity or a value too large for {rows.dtype!r}"
        raise ValueError(f"Input X contains {found}.")
    if reset:
        estimator.n_features_in_ = rows.shape[1]
    elif getattr(estimator, "n_features_in_", rows.shape[1]) != rows.shape[1]:
        raise ValueError(
            f"X has {rows.shape[1]} features, but {name} is expecting {estimator.n_features_in_} features as input."
        )
    return rows


def to_floats(value: Any, dtypes: list[Any]) -> NDArray[Any]:
    """An array of one of some dtypes, the first of which is made of all others; raises `ValueError`."""
    if hasattr(value, "toarray"):
        raise TypeError("Sparse data was passed, but dense data is required. Use '.toarray()' to convert it.")
    array = np.asarray(value)
    if array.dtype.kind == "c":
        raise ValueError(f"Complex data not supported\n{array}\n")
    return array if array.dtype in dtypes else array.astype(dtypes[0])


def names_of(X: Any) -> NDArray[np.object_] | None:  # noqa: N803
    """The names (D,) of the columns of a data frame, if all are texts."""
    names = list(getattr(X, "columns", ()))
    return np.array(names, object) if names and all(isinstance(name, str) for name in names) else None


def check_names(estimator: Any, names: NDArray[np.object_] | None, *, reset: bool) -> None:
    """Set the names (D,) of an estimator's features, or raise `ValueError` where these are others."""
    known = getattr(estimator, "feature_names_in_", None)
    if reset:
        set_names(estimator, names)
    elif (names is None) != (known is None):
        text = "has feature names, but" if known is None else "does not have valid feature names, but"
        with_names = "without" if known is None else "with"
        warnings.warn(f"X {text} {type(estimator).__name__} was fitted {with_names} feature names", stacklevel=2)
    elif names is not None and known is not None and not np.array_equal(known, names):
        raise ValueError("The feature names should match those that were passed during fit.\n")


def set_names(estimator: Any, names: NDArray[np.object_] | None) -> None:
    """Set the names (D,) of an estimator's features, or delete them."""
    if names is not None:
        estimator.feature_names_in_ = names
    elif hasattr(estimator, "feature_names_in_"):
        del estimator.feature_names_in_
