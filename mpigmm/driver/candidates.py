"""The fits that `select` compares, and the order in which they are done. Arithmetic without communication."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from mpigmm.core.algorithms.initialise import sample_size
from mpigmm.core.covariances import COVARIANCE_TYPES
from mpigmm.driver.survey_pass import SampleRequest
from mpigmm.errors import ConfigError, counted
from mpigmm.options import FitOptions, SelectOptions

SEEDS = (0, 1, 2)
"""Seeds of the fits, unless the user gives others."""

FITS = "fits"
"""Directory in ``output.dir`` with a directory for each fit."""


REFIT = "-all"
"""End of the name of the directory in which the best candidate is fitted to all rows, where some were held out."""


@dataclass(frozen=True, order=True)
class Candidate:
    """One of the fits that are compared."""

    covariance_type: str
    n_components: int
    seed: int

    @property
    def name(self) -> str:
        """The name of its directory."""
        return f"{self.covariance_type}-{self.n_components}-seed{self.seed}"

    @property
    def text(self) -> str:
        """What it is called in messages."""
        return f"{self.covariance_type}, {counted(self.n_components, 'component')}, seed {self.seed}"

    def options(self, options: FitOptions, tile_rows: int, *, suffix: str = "") -> FitOptions:
        """The options of its fit, with its own directory if there is one."""
        directory = options.output.dir
        own = None if directory is None else str(Path(directory) / FITS / (self.name + suffix))
        return replace(
            options,
            model=replace(options.model, n_components=self.n_components, covariance_type=self.covariance_type),
            init=replace(options.init, seed=self.seed),
            compute=replace(options.compute, tile_rows=tile_rows),
            output=replace(options.output, dir=own),
            select=SelectOptions(),
        )

    def sample(self, n_features: int) -> SampleRequest:
        """The sample of rows that its first mixture is made from."""
        return SampleRequest(self.seed, sample_size(self.n_components, n_features))

    def n_statistics(self, n_features: int) -> int:
        """Number of second moments of an E-step, by which its cost is estimated."""
        kind = COVARIANCE_TYPES[self.covariance_type]
        return self.n_components * (n_features + 1) + kind.n_second(self.n_components, n_features)


def candidates_of(options: FitOptions) -> list[Candidate]:
    """All fits, those of the same type and number of components one after the other."""
    select, model = options.select, options.model
    return [
        Candidate(kind, n_components, seed)
        for kind in select.covariance_type or [model.covariance_type]
        for n_components in select.n_components or [model.n_components]
        for seed in select.seeds or SEEDS
    ]


def check_method(method: str) -> None:
    """Raise `ConfigError` where first mixtures come from labels or a file, which fit one number of components, and do
    not depend on the seed."""
    if method in ("labels", "file"):
        raise ConfigError(
            f"init.method: {method!r} belongs to one number of components; choose another method for select, or use fit"
        )


def batches(candidates: Sequence[Candidate], n_features: int, most: int) -> list[list[Candidate]]:
    """The candidates in consecutive batches, each with at most `most` statistics unless it has one candidate alone."""
    found: list[list[Candidate]] = []
    n_statistics = 0
    for candidate in candidates:
        n_statistics += candidate.n_statistics(n_features)
        if not found or n_statistics > most:
            found.append([])
            n_statistics = candidate.n_statistics(n_features)
        found[-1].append(candidate)
    return found


def n_fits(options: FitOptions) -> int:
    """Number of fits that a selection makes: one more where the best candidate is fitted to all rows."""
    return len(candidates_of(options)) + (held_out_share(options.select) > 0)


def held_out_share(select: SelectOptions) -> float:
    """Share of the rows that no fit sees."""
    if select.held_out is not None:
        return select.held_out
    return 0.1 if select.criterion == "held_out" else 0.0


def costliest(candidates: Sequence[Candidate], n_features: int) -> Candidate:
    """The candidate whose iteration takes longest; it determines the grid of tiles of all."""
    return max(candidates, key=lambda candidate: (candidate.n_statistics(n_features), candidate.n_components))
