"""``predict`` and ``score`` where digits are scarce: means far away, rows at far places, densities beyond float64."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from scipy.stats import multivariate_normal
from support import TYPES, blobs, mixture_of, write_rows

from mpigmm.__main__ import serve
from mpigmm.core.mixture import Mixture, safe_centre
from mpigmm.core.ops.numpy import NUMPY
from mpigmm.core.tile import Tile
from mpigmm.driver import posteriors
from mpigmm.errors import AgreedError
from mpigmm.parallel.comm import Comm
from mpigmm.parallel.stop import StopRequest
from mpigmm.rows import Rows
from mpigmm.runs.model import Model
from mpigmm.runs.model_file import save_model

ROWS = blobs(500, 3, 2)


def equal_mixture(covariance_type: str, means: Any, variances: Any = 1.0) -> Mixture:
    """Equal weights, and one variance for each component in every direction."""
    means = np.array(means, float)
    (k, d), each = means.shape, np.broadcast_to(variances, len(means)).astype(float)
    covariances = {
        "full": each[:, None, None] * np.eye(d),
        "tied": each[0] * np.eye(d),
        "diag": np.repeat(each[:, None], d, axis=1),
        "spherical": each,
    }[covariance_type]
    return mixture_of(covariance_type, np.full(k, 1 / k), means, covariances)


class Place:
    """A directory with a model and rows, the same for all ranks."""

    def __init__(self, comm: Comm, path: Path) -> None:
        self.comm, self.path = comm, path

    def put(self, mixture: Mixture, rows: np.ndarray) -> None:
        with self.comm.together():
            if self.comm.is_root:
                save_model(self.path / "model.h5", Model(mixture, 1, 0.0, 1, True, {}))
                write_rows(self.path / "x.h5", rows)

    def run(self, verb: str, *arguments: str) -> None:
        names = [str(self.path / name) for name in ("model.h5", "x.h5")]
        assert serve(self.comm, [verb, *names, *arguments], StopRequest()) == 0
        self.comm.mpi.Barrier()

    def predict(self) -> tuple[np.ndarray, np.ndarray]:
        """Labels and log densities."""
        out = self.path / "labels.h5"
        with self.comm.together():
            if self.comm.is_root:
                out.unlink(missing_ok=True)
        self.run("predict", "--out", str(out))
        with h5py.File(out) as file:
            return file["labels"][()], file["log_density"][()]

    def score(self, capfd: pytest.CaptureFixture[str]) -> tuple[dict[str, Any], str]:
        """What root prints, and its messages."""
        capfd.readouterr()
        self.run("score")
        said = capfd.readouterr()
        return (json.loads(said.out, parse_constant=pytest.fail) if self.comm.is_root else {}), said.err


@pytest.fixture
def place(comm: Comm, shared_path: Path) -> Place:
    return Place(comm, shared_path)


@pytest.fixture(params=["numpy", "best"])
def loops(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """NumPy's loops, then the best ones."""
    if request.param == "numpy":
        monkeypatch.setattr(posteriors, "common_ops", lambda comm: NUMPY.name)


@pytest.mark.parallel
@pytest.mark.parametrize("far", [1e12, 1e20])
@pytest.mark.parametrize("covariance_type", TYPES)
def test_a_mean_far_away_costs_the_others_no_digits(place: Place, covariance_type: str, far: float) -> None:
    means = [[0.0, 0, 0], [1.0, 0, 0], [far, far, -far]]
    place.put(equal_mixture(covariance_type, means), ROWS)
    labels, log_density = place.predict()
    densities = [multivariate_normal(mean).logpdf(ROWS) - np.log(3) for mean in means[:2]]
    assert (labels == np.argmax(densities, axis=0)).all()
    np.testing.assert_allclose(log_density, np.logaddexp(*densities), rtol=1e-13)


@pytest.mark.parallel
@pytest.mark.parametrize("covariance_type", TYPES)
def test_rows_of_two_places_keep_their_digits(place: Place, covariance_type: str) -> None:
    """Narrow components at zero and far from it, whose rows come first and are the most."""
    rows = np.concatenate([ROWS + 1e12, ROWS + 1e12, 1e-3 * ROWS])
    variances = 1.0 if covariance_type == "tied" else [1.0, 1e-6]
    place.put(equal_mixture(covariance_type, [[1e12] * 3, [0.0] * 3], variances), rows)
    labels, log_density = place.predict()
    assert (labels == np.repeat([0, 1], [1000, 500])).all()
    narrow = multivariate_normal(np.zeros(3), np.min(variances) * np.eye(3))
    np.testing.assert_allclose(log_density[1000:], narrow.logpdf(rows[1000:]) - np.log(2), rtol=1e-12)


@pytest.mark.parallel
@pytest.mark.parametrize("covariance_type", TYPES)
def test_what_has_no_density_has_none(
    place: Place, covariance_type: str, loops: None, capfd: pytest.CaptureFixture[str]
) -> None:
    rows = np.concatenate([1e-20 * ROWS, np.full((2, 3), 1e139)])
    place.put(equal_mixture(covariance_type, [[0.0] * 3, [1e-20] * 3], 1e-40), rows)
    labels, log_density = place.predict()
    assert np.isfinite(log_density[:-2]).all() and (log_density[-2:] == -np.inf).all()
    assert (labels[-2:] == 0).all()
    told, said = place.score(capfd)
    if place.comm.is_root:
        assert {told[name] for name in ("log_likelihood", "mean_log_likelihood", "aic", "bic")} == {None}
        assert "mpigmm: warning: 2 of 502 rows" in said


@pytest.mark.parallel
def test_a_sum_beyond_float64_is_refused(place: Place) -> None:
    place.put(equal_mixture("diag", [[0.0] * 3], 1e-10), np.concatenate([ROWS, np.full((1, 3), 1e138)]))
    with pytest.raises(AgreedError, match=r"row 500 of /X.* has log-density -1.5e") as caught:
        place.run("score")
    assert caught.value.exit_code == 2


@pytest.mark.parametrize("n_features", [2, 40])
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_rows_without_density_have_no_responsibilities(n_features: int, dtype: type) -> None:
    tile = Tile(n_features, 3, NUMPY)
    tile.fill(Rows.of(np.zeros((3, n_features))), np.zeros(n_features), mask=False, dtype=np.dtype(dtype))
    log_prob = np.array([[-1.0, -np.inf, -np.inf], [-np.inf, -np.inf, 2.0]], dtype)
    resp, log_density = NUMPY.log_sum_exp(log_prob, tile)
    assert log_density.tolist() == [-1.0, -np.inf, 2.0]
    np.testing.assert_allclose(resp, [[1, 0, 0], [0, 0, 1]], atol=1e-30)


def test_a_centre_far_from_a_narrow_component_is_left() -> None:
    centre = np.array([1e12, 1e7, -3.0])
    assert safe_centre(equal_mixture("diag", [[1e12, 1e7, -3.0]]), centre).tolist() == centre.tolist()
    assert safe_centre(equal_mixture("diag", [[1e15, 1e7, -3.0], [0.0] * 3]), centre).tolist() == [0.0, 1e7, -3.0]
    assert safe_centre(equal_mixture("tied", [[1e15, 1e7, -3.0], [0.0] * 3], 1e-4), centre).tolist() == [0.0, 0.0, -3.0]
    ignored = equal_mixture("full", [[1e15, 1e7, -3.0], [0.0] * 3])
    ignored.weights[:] = [1.0, 0.0]
    assert safe_centre(ignored, centre).tolist() == centre.tolist()
