"""``sample``: draws rows from a model."""

from __future__ import annotations

from pathlib import Path

from mpigmm.driver.row_output import writing_rows
from mpigmm.driver.sample_file import check_room, sample_output, text_of, write_sample
from mpigmm.driver.sampler import Sample
from mpigmm.errors import EXIT_DONE, ConfigError, counted, shown
from mpigmm.parallel.comm import Comm
from mpigmm.parallel.stop import StopRequest
from mpigmm.requests import SampleRequest
from mpigmm.runs.model_file import load_model


def run(comm: Comm, request: SampleRequest, stop: StopRequest) -> int:
    """Write the rows of a request; returns the exit code. Collective."""
    sample = output = None
    with comm.together():
        if comm.is_root:
            model = load_model(Path(request.model), stop.check)
            sample = Sample(model.mixture, request.n_samples, request.seed)
            check_count(request, sample)
            output = sample_output(
                "sample",
                request.out,
                sample,
                overwrite=request.overwrite,
                attributes={"model": text_of(request.model), "moments": request.moments},
                feature_names=model.feature_names,
                inputs=[request.model],
                moments=request.moments,
            )
            check_room(output)
    sample = comm.bcast(sample)
    with writing_rows(comm, output, stop) as writer:
        write_sample(comm, sample, "sample", writer, stop, moments=request.moments)
    return EXIT_DONE


def check_count(request: SampleRequest, sample: Sample) -> None:
    """Raise `ConfigError` for a covariance matrix of rows that would be singular."""
    n_features = sample.mixture.n_features
    if request.moments and request.n_samples <= n_features:
        raise ConfigError(
            f"--n-samples {request.n_samples} --moments: the covariance of rows is singular unless there are more of "
            f"them than features, of which {shown(request.model)} has {n_features}; draw "
            f"{counted(n_features + 1, 'row')} or more"
        )
