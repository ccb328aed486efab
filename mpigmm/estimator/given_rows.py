"""The rows that a caller gives to an estimator: matrices, data frames, tuples of columns, or files."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any, TypeGuard

import numpy as np
from numpy.typing import ArrayLike

from mpigmm.api import source_of
from mpigmm.data.source import Source
from mpigmm.estimator import scikit
from mpigmm.options import DataOptions, FitOptions
from mpigmm.own_rows import Matrix
from mpigmm.parallel.comm import Comm
from mpigmm.settings import IN_MEMORY, data_options

Files = str | os.PathLike[str] | Sequence[str | os.PathLike[str]] | Mapping[str, Any]
"""The path of a file of rows, several of them, or a section ``data`` of a configuration."""

LEAST_SAMPLES = 2
"""Least number of rows of a fit, as in scikit-learn."""


class GivenRows:
    """The rows that this rank gives, checked.

    Sets `n_features_in_` and `feature_names_in_` of the estimator if the rows are those of a fit; otherwise compares
    with them. Raises `InputError` or, for the names of files, `ConfigError`.

    Parameters
    ----------
    estimator : GaussianMixture
    X : matrix or files
    sample_weight : array_like of shape (n,), optional
    is_fit : bool

    Attributes
    ----------
    data : DataOptions
        The files or, for rows in memory, default options.
    """

    def __init__(
        self,
        estimator: Any,
        X: Matrix | Files,  # noqa: N803
        sample_weight: ArrayLike | None = None,
        *,
        is_fit: bool = False,
    ) -> None:
        self._rows: Any = None
        self._sample_weight = sample_weight
        self._must_be_alone = is_fit and estimator.comm is None
        named = named_files(X)
        self.data = named or DataOptions(path=IN_MEMORY)
        if named is not None or is_columns(X):
            if is_fit:
                scikit.set_names(estimator, None)
            self._rows = None if named else X
        elif estimator.comm is not None and is_empty(X):
            self._rows = np.empty((0, 0))
        else:
            least = 1 if not is_fit or estimator.comm is not None else LEAST_SAMPLES
            self._rows = scikit.checked_rows(estimator, X, reset=is_fit, least=least)

    @property
    def is_empty(self) -> bool:
        """Whether this rank brings no rows."""
        return self._rows is not None and is_empty(self._rows)

    def open(self, comm: Comm) -> Source:
        """The rows of all ranks. Collective; raises `AgreedError`."""
        return source_of(
            comm, FitOptions(data=self.data), self._rows, self._sample_weight, is_alone=self._must_be_alone
        )


def named_files(X: object) -> DataOptions | None:  # noqa: N803
    """The options that name files; None for rows in memory. Raises `ConfigError`."""
    if isinstance(X, Mapping) and not hasattr(X, "shape"):  # some sparse matrices are mappings
        return data_options(X)
    if isinstance(X, (str, os.PathLike)):
        return DataOptions(path=os.fspath(X))
    if isinstance(X, list) and X and all(isinstance(each, (str, os.PathLike)) for each in X):
        return DataOptions(path=[os.fspath(each) for each in X])
    return None


def is_columns(X: object) -> TypeGuard[tuple[Any, ...]]:  # noqa: N803
    """Whether rows are given as a tuple of vectors, one for each feature."""
    return isinstance(X, tuple) and bool(X) and all(isinstance(each, np.ndarray) and each.ndim == 1 for each in X)


def is_empty(X: object) -> bool:  # noqa: N803
    """Whether a rank among others brings no rows."""
    shape = getattr(X, "shape", None)  # of sparse matrices and scalars, `len` raises an error
    return hasattr(X, "__len__") and (len(X) if shape is None else (*shape, 1)[0]) == 0
