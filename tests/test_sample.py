"""``sample`` and ``generate``: rows of a model and of a random mixture, the same bytes on any number of ranks."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from inside import FinishedParts, run_verb
from support import TYPES, mixture_of

import mpigmm
from mpigmm.cli import parse
from mpigmm.commands import generate, sample
from mpigmm.core.covariances import COVARIANCE_TYPES
from mpigmm.core.moments import MomentMatching
from mpigmm.core.synthetic_mixture import synthetic_mixture
from mpigmm.driver import sampler
from mpigmm.errors import ConfigError, DataError
from mpigmm.parallel.comm import Comm, SingleProcess
from mpigmm.parallel.stop import StopRequest
from mpigmm.runs.model import Model
from mpigmm.runs.model_file import save_model

Arrays = dict[str, np.ndarray]


@pytest.fixture
def place(comm: Comm, shared_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory with a model of each type, of three features; the working directory. Parts of a sample are small."""
    monkeypatch.chdir(shared_path)
    monkeypatch.setattr(sampler, "PART_VALUES", 1)
    if comm.is_root:
        for kind in TYPES:
            save_model(Path(f"{kind}.h5"), Model(synthetic_mixture(COVARIANCE_TYPES[kind], 4, 3, 3.0, 5)))
    comm.mpi.Barrier()
    return shared_path


def read(path: str) -> tuple[Arrays, dict[str, Any]]:
    with h5py.File(path) as file:
        return {name: file[name][()] for name in file}, dict(file.attrs)


def run_alone(*arguments: str) -> None:
    """Run a command on this process, whatever ranks there are besides."""
    verb = {"sample": sample, "generate": generate}[arguments[0]]
    assert verb.run(SingleProcess(), parse(list(arguments))[0], StopRequest()) == 0


@pytest.mark.parallel
@pytest.mark.parametrize("moments", [False, True], ids=["", "moments"])
@pytest.mark.parametrize("kind", TYPES)
def test_the_rows_are_those_of_the_call(comm: Comm, place: Path, kind: str, *, moments: bool) -> None:
    """And the file has the same bytes on any number of ranks."""
    command = ("sample", f"{kind}.h5", "--n-samples", "5000", "--seed", "7", *(["--moments"] if moments else []))
    assert run_verb(comm, *command, "--out", "all.h5") == (0, "")
    if comm.is_root:
        run_alone(*command, "--out", "one.h5")
        assert Path("all.h5").read_bytes() == Path("one.h5").read_bytes()
    rows, labels = mpigmm.Mixture.load(f"{kind}.h5").sample(5000, 7, moments=moments)
    found, attributes = read("all.h5")
    assert found["X"].tobytes() == rows.tobytes() and np.array_equal(found["labels"], labels)
    expected = {"format": "mpigmm-sample", "model": f"{kind}.h5", "n_samples": 5000, "seed": 7, "moments": moments}
    assert attributes == expected


def test_names_of_features_are_those_of_the_model(comm: Comm, place: Path) -> None:
    """And a fit of the rows knows them."""
    named = synthetic_mixture(COVARIANCE_TYPES["diag"], 2, 2, 9.0, 0)
    save_model(Path("named.h5"), Model(named, feature_names=("mass", "energy")))
    assert run_verb(comm, "sample", "named.h5", "--n-samples", "500", "--out", "s.h5") == (0, "")
    with h5py.File("s.h5") as file:
        assert list(file["X"].attrs["columns"]) == ["mass", "energy"]
    found = mpigmm.fit({"data": {"path": "s.h5"}, "model": {"n_components": 2}}).mixture
    assert found.feature_names == ("mass", "energy")


@pytest.mark.parallel
def test_ranks_without_rows(comm: Comm, place: Path) -> None:
    assert run_verb(comm, "sample", "full.h5", "--n-samples", "4", "--out", "few.h5", "--moments") == (0, "")
    rows, _ = mpigmm.Mixture.load("full.h5").sample(4, moments=True)
    assert read("few.h5")[0]["X"].tobytes() == rows.tobytes()


@pytest.mark.parallel
@pytest.mark.parametrize("moments", [False, True], ids=["", "moments"])
def test_an_interrupted_command_goes_on(
    comm: Comm, place: Path, monkeypatch: pytest.MonkeyPatch, *, moments: bool
) -> None:
    """With the parts that are not written yet, and to the same bytes."""
    command = ("sample", "full.h5", "--n-samples", "20000", "--out", "long.h5", *(["--moments"] if moments else []))
    parts = FinishedParts(monkeypatch)
    assert run_verb(comm, *command) == (0, "")
    n_parts, whole = parts.count, Path("long.h5").read_bytes()
    comm.mpi.Barrier()
    parts.begin(n_parts // 2)
    assert run_verb(comm, *command)[0] == 75
    comm.mpi.Barrier()
    parts.begin()
    assert run_verb(comm, *command) == (0, "")
    assert parts.count == n_parts - n_parts // 2
    assert Path("long.h5").read_bytes() == whole and not list(place.glob(".long*"))


def exact_moments(rows: np.ndarray, about: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and covariance of rows, minus a point, computed in extended precision."""
    moved = rows.astype(np.longdouble) - about
    mean = moved.mean(axis=0)
    return mean, (moved - mean).T @ (moved - mean) / len(rows)


def errors(mixture: mpigmm.Mixture, rows: np.ndarray) -> tuple[float, float]:
    """Errors of the mean and covariance of rows, in standard deviations of the mixture."""
    weights = mixture.weights.astype(np.longdouble)
    weights /= weights.sum()
    mean = weights @ mixture.means.astype(np.longdouble)
    deviations = mixture.means - mean
    covariance = (weights[:, None] * deviations).T @ deviations
    covariance += np.tensordot(weights, mixture._core.covariance_matrices(np.arange(mixture.n_features)), 1)
    found_mean, found_covariance = exact_moments(rows, mean)
    scale = np.sqrt(np.diagonal(covariance))
    return (
        float(np.abs(found_mean / scale).max()),
        float(np.abs((found_covariance - covariance) / np.outer(scale, scale)).max()),
    )


def public(core: Any) -> mpigmm.Mixture:
    return mpigmm.Mixture.from_model(Model(core))


@pytest.mark.parametrize("n_features", [1, 2, 20])
@pytest.mark.parametrize("kind", TYPES)
def test_moments_are_those_of_the_mixture(kind: str, n_features: int) -> None:
    """Also with one row more than features."""
    mixture = public(synthetic_mixture(COVARIANCE_TYPES[kind], 3, n_features, 2.0, 1))
    for n_rows in (n_features + 1, n_features + 50, 20_000):
        rows, labels = mixture.sample(n_rows, 3, moments=True)
        assert max(errors(mixture, rows)) < 1e-13
        drawn, same = mixture.sample(n_rows, 3)
        assert np.array_equal(labels, same)
    assert np.abs(rows - drawn).max() < 0.5  # of many rows, hardly moved


def test_the_map_is_affine() -> None:
    mixture = public(synthetic_mixture(COVARIANCE_TYPES["full"], 3, 4, 2.0, 1))
    drawn, mapped = mixture.sample(300)[0], mixture.sample(300, moments=True)[0]
    design = np.column_stack([drawn, np.ones(300)])
    coefficients = np.linalg.lstsq(design, mapped, rcond=None)[0]
    assert np.abs(design @ coefficients - mapped).max() < 1e-12


def ill_conditioned(condition: float) -> mpigmm.Mixture:
    random = np.random.default_rng(2)
    turned = [np.linalg.qr(random.standard_normal((12, 12)))[0] for _ in range(2)]
    covariances = np.array([(q * np.geomspace(1, 1 / condition, 12)) @ q.T for q in turned])
    means = 1e-3 * random.standard_normal((2, 12))
    return mpigmm.Mixture([0.3, 0.7], means, (covariances + covariances.transpose(0, 2, 1)) / 2)


def far_outliers() -> mpigmm.Mixture:
    """Components that are rare and far from the others: bounds of the rows are large against the deviations."""
    return mpigmm.Mixture([1 - 1e-9, 1e-9], [[0.0, 0.0], [1e4, -1e5]], [[1.0, 4.0], [1e6, 1.0]], "diag")


def odd_units() -> mpigmm.Mixture:
    """Features whose variances are nearly the smallest and largest numbers of float64."""
    return mpigmm.Mixture([0.5, 0.5], [[0.0, 1e150], [1e-140, 0.0]], [[1e-280, 1e300], [1e-279, 1e299]], "diag")


@pytest.mark.parametrize(
    "mixture",
    [ill_conditioned(1e8), ill_conditioned(1e13), far_outliers(), odd_units()],
    ids=["1e8", "1e13", "far", "odd"],
)
def test_moments_of_difficult_mixtures(mixture: mpigmm.Mixture) -> None:
    for n_rows in (mixture.n_features + 1, 5000):
        assert max(errors(mixture, mixture.sample(n_rows, 1, moments=True)[0])) < 1e-13


@pytest.mark.parametrize("distance", [1e3, 1e6, 1e12])
def test_far_from_zero_the_rounding_of_rows_limits_moments(distance: float) -> None:
    """One unit in the last place of a row is 2^-52 of it, at most; of more rows, the errors cancel."""
    mixture = mpigmm.Mixture([0.5, 0.5], [[distance, -distance], [distance + 1, 3.0]], [[1.0, 4.0], [2.0, 1.0]], "diag")
    for n_rows in (3, 5000):
        limit = max(1e-13, 2.0**-52 * distance)
        assert max(errors(mixture, mixture.sample(n_rows, 1, moments=True)[0])) < limit


def test_the_command_says_what_rounding_has_left(comm: Comm, place: Path, capfd: pytest.CaptureFixture[str]) -> None:
    save_model(Path("far.h5"), Model(mixture_of("diag", np.ones(1), np.full((1, 2), 1e9), np.ones((1, 2)))))
    assert run_verb(comm, "sample", "far.h5", "--n-samples", "50", "--out", "s.h5", "--moments") == (0, "")
    assert "mean and covariance of the rows are those of the mixture to" in capfd.readouterr().err


def test_rows_that_rounding_makes_equal_are_refused(comm: Comm, place: Path) -> None:
    save_model(Path("far.h5"), Model(mixture_of("diag", np.ones(1), np.full((1, 2), 1e20), np.ones((1, 2)))))
    code, message = run_verb(comm, "sample", "far.h5", "--n-samples", "50", "--out", "s.h5", "--moments")
    assert code == 2 and "the covariance of the rows is singular" in message and not Path("s.h5").exists()
    huge = mpigmm.Mixture([0.5, 0.5], [[0.0], [1e200]], [1.0, 1.0], "spherical")
    with pytest.raises(DataError, match="the covariance of the mixture leaves the range of float64"):
        huge.sample(50, moments=True)


def test_no_row_exceeds_its_bound() -> None:
    mixture = synthetic_mixture(COVARIANCE_TYPES["full"], 3, 5, 2.0, 1)
    matching = MomentMatching.to(mixture)
    rows = public(mixture).sample(200_000)[0]
    assert (np.abs(matching.in_units(rows)) < matching.bounds).all()


MISTAKES = {
    "no rows": ("sample full.h5 --n-samples 0", "for '--n-samples'"),
    "a word for a number": ("sample full.h5 --n-samples many", "for '--n-samples'"),
    "too many rows": ("sample full.h5 --n-samples 9007199254740993", "'--n-samples'"),
    "more rows than disk": ("sample full.h5 --n-samples 9007199254740992", "more than its file system"),
    "a negative seed": ("sample full.h5 --n-samples 5 --seed -1", "for '--seed'"),
    "a large seed": ("sample full.h5 --n-samples 5 --seed 9223372036854775808", "for '--seed'"),
    "few rows": ("sample full.h5 --n-samples 3 --moments", "draw 4 rows or more"),
    "no model": ("sample none.h5 --n-samples 5", "none.h5"),
    "no file of the model": ("sample text.h5 --n-samples 5", "text.h5"),
    "the model as output": ("sample full.h5 --n-samples 5 --out full.h5", "would overwrite the input full.h5"),
    "another file as output": ("sample full.h5 --n-samples 5 --out text.h5", "is not what sample wrote before"),
    "no directory": ("sample full.h5 --n-samples 5 --out none/s.h5", "none is no directory"),
    "a directory": ("sample full.h5 --n-samples 5 --out .", "is not the name of a file"),
    "an unknown option": ("sample full.h5 --n-samples 5 --moment", "--moment"),
    "generate no rows": ("generate --n-samples 0 --n-features 2 --n-components 2", "for '--n-samples'"),
    "no features": ("generate --n-samples 9 --n-features 0 --n-components 2", "for '--n-features'"),
    "too many features": ("generate --n-samples 9 --n-features 99999999 --n-components 2", "'--n-features'"),
    "no components": ("generate --n-samples 9 --n-features 2 --n-components 0", "for '--n-components'"),
    "too many components": ("generate --n-samples 9 --n-features 9999999 --n-components 9", "GB of memory"),
    "no such type": ("generate --n-samples 9 --n-features 2 --n-components 2 --covariance-type oval", "oval"),
    "no separation": ("generate --n-samples 9 --n-features 2 --n-components 2 --separation nan", "for '--separation'"),
    "a negative separation": (
        "generate --n-samples 9 --n-features 2 --n-components 2 --separation -1",
        "for '--separation'",
    ),
    "generate over a file": ("generate --n-samples 9 --n-features 2 --n-components 2 --out text.h5", "generate wrote"),
    "generate a model over a file": ("generate --n-samples 9 --n-features 2 --n-components 2 --out a.h5", "a.model.h5"),
    "generate into no file": ("generate --n-samples 9 --n-features 2 --n-components 2 --out /", "not the name of a"),
}


@pytest.mark.parametrize("words, told", MISTAKES.values(), ids=MISTAKES)
def test_a_mistake_is_named_and_costs_nothing(
    comm: Comm, place: Path, capfd: pytest.CaptureFixture[str], words: str, told: str
) -> None:
    for name in ("text.h5", "a.model.h5"):
        Path(name).write_text("theirs")
    before = {path: path.read_bytes() for path in place.iterdir()}
    out = [] if "--out" in words else ["--out", "out.h5"]
    code, message = run_verb(comm, *words.split(), *out)
    assert code == 2
    assert told in " ".join((message + capfd.readouterr().err).replace("\u2502", "").split())
    assert {path: path.read_bytes() for path in place.iterdir()} == before


@pytest.mark.parallel
@pytest.mark.parametrize("kind", TYPES)
def test_generated_rows_are_a_sample_of_their_model(comm: Comm, place: Path, kind: str) -> None:
    command = f"generate --n-samples 4000 --n-features 3 --n-components 5 --covariance-type {kind} --seed 3".split()
    assert run_verb(comm, *command, "--out", "rows.h5") == (0, "")
    comm.mpi.Barrier()
    found, attributes = read("rows.h5")
    mixture = mpigmm.Mixture.load("rows.model.h5")
    rows, labels = mixture.sample(4000, 3)
    assert found["X"].tobytes() == rows.tobytes() and np.array_equal(found["labels"], labels)
    assert attributes.pop("format") == "mpigmm-generate" and attributes["model"] == "rows.model.h5"
    assert (mixture.covariance_type, mixture.n_components) == (attributes["covariance_type"], 5) == (kind, 5)
    if comm.is_root:
        Path("one").mkdir()
        run_alone(*command, "--out", "one/rows.h5")
        assert Path("one/rows.model.h5").read_bytes() == Path("rows.model.h5").read_bytes()
        assert read("one/rows.h5")[0]["X"].tobytes() == rows.tobytes()


@pytest.mark.parametrize("kind", TYPES)
def test_a_synthetic_mixture_is_what_its_docs_say(kind: str) -> None:
    mixture = public(synthetic_mixture(COVARIANCE_TYPES[kind], 40, 6, 3.0, 0))
    assert 1 / 3.1 < mixture.weights.min() / mixture.weights.max() < 1 / 2
    assert 0.9 < mixture.means.std() / 3 < 1.1
    matrices = mixture._core.covariance_matrices(np.arange(6))
    variances = np.diagonal(matrices, axis1=1, axis2=2)
    assert (variances > 0.5 - 1e-9).all() and (variances < 2 + 1e-9).all() and variances.std() > 0.2
    scale = np.sqrt(variances)
    correlations = matrices / scale[:, :, None] / scale[:, None, :]
    off = np.abs(correlations - np.eye(6)).max(axis=(1, 2))
    assert (off > 0.1).all() == (kind in ("full", "tied")) and (np.linalg.cond(correlations) < 50).all()


def test_rows_are_not_published_without_their_model(comm: Comm, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are kept until the same command can write the model, too."""

    def full(*arguments: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    command = ["generate", "--n-samples", "4000", "--n-features", "3", "--n-components", "2", "--out", "rows.h5"]
    with monkeypatch.context() as patch:
        patch.setattr(generate, "save_model", full)
        assert run_verb(comm, *command)[0] == 2
    assert not Path("rows.h5").exists()
    assert run_verb(comm, *command) == (0, "")
    assert Path("rows.h5").exists() and not list(place.glob(".*.part"))
    assert run_verb(comm, *command, "--seed", "1") == (0, "")  # what generate wrote it replaces, the model as well


def test_the_model_of_a_fit_is_not_overwritten(comm: Comm, place: Path) -> None:
    fitted = synthetic_mixture(COVARIANCE_TYPES["diag"], 2, 2, 9.0, 0)
    save_model(Path("r.model.h5"), Model(fitted, n_samples=9))
    command = ["generate", "--n-samples", "9", "--n-features", "3", "--n-components", "2", "--out", "r.h5"]
    code, message = run_verb(comm, *command)
    assert (
        code == 2 and "r.model.h5 exists, and may be the model or checkpoint of a fit; choose another --out" in message
    )
    assert mpigmm.Mixture.load("r.model.h5").n_features == 2 and not list(place.glob("*r.h5*"))
    assert run_verb(comm, *command, "--overwrite") == (0, "")
    assert mpigmm.Mixture.load("r.model.h5").n_features == 3


def test_a_fit_finds_the_mixture_again() -> None:
    """Each parameter within four of its standard errors, from the start that a fit makes by itself."""
    n_rows = 40_000
    true = public(synthetic_mixture(COVARIANCE_TYPES["full"], 3, 2, 8.0, 4))
    found = mpigmm.fit({"model": {"n_components": 3}}, true.sample(n_rows, 1)[0]).mixture
    order = [int(np.abs(found.means - mean).sum(axis=1).argmin()) for mean in true.means]
    counts = n_rows * true.weights
    assert (np.abs(found.weights[order] - true.weights) < 4 * np.sqrt(true.weights * (1 - true.weights) / n_rows)).all()
    variances = np.diagonal(true.covariances, axis1=1, axis2=2)
    assert (np.abs(found.means[order] - true.means) < 4 * np.sqrt(variances / counts[:, None])).all()
    squared = variances[:, :, None] * variances[:, None, :] + true.covariances**2
    assert (np.abs(found.covariances[order] - true.covariances) < 4 * np.sqrt(squared / counts[:, None, None])).all()


def test_moments_in_a_call_need_more_rows_than_features() -> None:
    mixture = mpigmm.Mixture([1.0], [[0.0, 0.0, 0.0]], [1.0], "spherical")
    with pytest.raises(ConfigError, match=r"n_samples: 3 is not valid with moments=True: .*; draw 4 rows or more"):
        mixture.sample(3, moments=True)
