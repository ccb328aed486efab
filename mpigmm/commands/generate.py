"""``generate``: draws synthetic rows from a random mixture."""

from __future__ import annotations

from pathlib import Path

from mpigmm.core.covariances import COVARIANCE_TYPES
from mpigmm.core.covariances.base import Covariances
from mpigmm.core.mixture import Mixture
from mpigmm.core.synthetic_mixture import synthetic_mixture
from mpigmm.data.memory import free_memory
from mpigmm.driver.inference import factored
from mpigmm.driver.row_output import writing_rows
from mpigmm.driver.sample_file import check_room, sample_output, text_of, write_sample
from mpigmm.driver.sampler import Sample
from mpigmm.errors import EXIT_DONE, ConfigError
from mpigmm.parallel.comm import Comm
from mpigmm.parallel.stop import StopRequest
from mpigmm.requests import GenerateRequest
from mpigmm.runs.model import Model
from mpigmm.runs.model_file import check_derived, save_model

COPIES = 6
"""Arrays as large as the parameters that a rank holds at most: moments, parameters, factors, and messages."""


def run(comm: Comm, request: GenerateRequest, stop: StopRequest) -> int:
    """Write the rows of a request and their mixture; returns the exit code. Collective."""
    sample = output = None
    with comm.together():
        if comm.is_root:
            sample = Sample(true_mixture(request), request.n_samples, request.seed)
            output = sample_output(
                "generate",
                request.out,
                sample,
                overwrite=request.overwrite,
                attributes={
                    "model": text_of(model_path(request)),
                    "covariance_type": request.covariance_type,
                    "n_components": request.n_components,
                    "separation": request.separation,
                },
            )
            output.check(stop.check)
            check_derived(model_path(request), stop.check, overwrite=request.overwrite)
            check_room(output)
    sample = comm.bcast(sample)
    with writing_rows(comm, output, stop) as writer:
        write_sample(comm, sample, "generate", writer, stop)
        with comm.together():
            if comm.is_root:
                save_model(model_path(request), Model(sample.mixture))
    return EXIT_DONE


def model_path(request: GenerateRequest) -> Path:
    """The file of the mixture, beside that of the rows."""
    out = Path(request.out)
    return out.parent / f"{out.stem}.model.h5"


def true_mixture(request: GenerateRequest) -> Mixture:
    """The mixture of a request; raises `ConfigError`."""
    kind = COVARIANCE_TYPES.get(request.covariance_type)
    if kind is None:
        raise ConfigError(
            f"--covariance-type {request.covariance_type!r} is not valid; choose one of {', '.join(COVARIANCE_TYPES)}"
        )
    check_size(kind, request.n_components, request.n_features)
    with factored(kind):
        return synthetic_mixture(kind, request.n_components, request.n_features, request.separation, request.seed)


def check_size(kind: type[Covariances], n_components: int, n_features: int) -> None:
    """Raise `ConfigError` where the parameters of a mixture do not fit into memory."""
    needed = 8 * COPIES * (n_components * n_features + kind.n_second(n_components, n_features))
    free = free_memory()
    if needed > free:
        raise ConfigError(
            f"--n-components {n_components} --n-features {n_features}: a mixture of type {kind.name} needs "
            f"{needed / 1e9:,.1f} GB of memory, and {free / 1e9:,.1f} GB are free; choose fewer of one of them, or "
            "another --covariance-type"
        )
