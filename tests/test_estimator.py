"""`mpigmm.GaussianMixture`: the bits of `mpigmm.fit`, and the behaviour of scikit-learn's estimator."""

from __future__ import annotations

import copy
import pickle
import re
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sklearn
from mpi4py import MPI
from scipy.sparse import csr_matrix
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning, NotFittedError
from sklearn.mixture import GaussianMixture as Theirs
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from support import TYPES, blobs, write_rows

import mpigmm
from mpigmm import GaussianMixture, errors
from mpigmm.estimator import scikit
from mpigmm.parallel.comm import Comm

ROWS = blobs(600, 3, 3)
WEIGHTS = np.random.default_rng(1).integers(0, 3, 600)
PARAMETERS = ("weights_", "means_", "covariances_", "precisions_", "precisions_cholesky_")

IS_RECENT = tuple(map(int, sklearn.__version__.split(".")[:2])) >= (1, 9)
recent = pytest.mark.skipif(not IS_RECENT, reason=f"scikit-learn {sklearn.__version__} behaves otherwise than 1.9")

pytestmark = [
    pytest.mark.filterwarnings("ignore:Best performing initialization did not converge"),
    pytest.mark.filterwarnings("ignore:.* on a node share"),
]


def bits(estimator: GaussianMixture) -> dict[str, bytes]:
    """All that a fit has found, but for times."""
    found = {name: getattr(estimator, name).tobytes() for name in PARAMETERS}
    return {**found, "bounds": np.array([estimator.lower_bound_, *estimator.lower_bounds_]).tobytes()}


def given(covariance_type: str, dtype: Any = float) -> dict[str, Any]:
    """Parameters of a first mixture."""
    random = np.random.default_rng(3)
    factors = random.standard_normal((3, 3, 3)) / 4
    full = factors @ factors.transpose(0, 2, 1) + np.eye(3)
    variances = np.diagonal(full, axis1=1, axis2=2)
    precisions = {"full": full, "tied": full[0], "diag": variances, "spherical": variances.mean(axis=1)}
    means = ROWS[random.choice(len(ROWS), 3, replace=False)]
    found = {"weights_init": [0.5, 0.2, 0.3], "means_init": means, "precisions_init": precisions[covariance_type]}
    return {name: np.asarray(value, dtype) for name, value in found.items()}


def settings_of(estimator: GaussianMixture, **data: Any) -> dict[str, Any]:
    """The settings of `mpigmm.fit` that the documentation names for those of an estimator."""
    methods = {"kmeans": "kmeans", "k-means++": "kmeans++", "random_from_data": "random", "random": "random_resp"}
    model = {name: getattr(estimator, name) for name in ("n_components", "covariance_type", "reg_covar")}
    return {
        "model": {**model, "variance_floor": 0},
        "init": {
            "method": methods[estimator.init_params],
            "n_init": estimator.n_init,
            "seed": estimator.random_state,
        },
        "em": {"max_iter": estimator.max_iter, "tol": estimator.tol, "reseed": False},
        **data,
    }


@pytest.mark.parametrize("covariance_type", TYPES)
@pytest.mark.parametrize("init_params", ["kmeans", "k-means++", "random", "random_from_data"])
def test_bits_of_fit_and_of_mixture(covariance_type: str, init_params: str, tmp_path: Path) -> None:
    ours = GaussianMixture(3, covariance_type=covariance_type, init_params=init_params, n_init=2, random_state=5)
    ours.fit(ROWS, sample_weight=WEIGHTS)
    found = mpigmm.fit(settings_of(ours), ROWS, sample_weight=WEIGHTS)
    for name in ("weights", "means", "covariances", "precisions"):
        assert getattr(ours, f"{name}_").tobytes() == getattr(found.mixture, name).tobytes()
    for name in ("predict", "predict_proba", "score_samples", "score", "bic", "aic", "icl"):
        one, other = (np.asarray(getattr(each, name)(ROWS)) for each in (ours, found.mixture))
        assert one.dtype == other.dtype and one.tobytes() == other.tobytes(), name
    assert (ours.converged_, ours.n_iter_) == (found.summary["converged"], found.summary["n_iter"])
    history = found.convergence["mean_log_likelihood"][found.convergence["init"] == found.summary["init"]]
    assert ours.lower_bounds_ == history.tolist() and ours.lower_bound_ >= history[-1]
    assert ours.convergence_["objective"].tobytes() == found.convergence["objective"].tobytes()
    assert ours.mixture_.bic(ROWS) == ours.bic(ROWS)
    ours.mixture_.save(tmp_path / "model.h5")
    assert mpigmm.Mixture.load(tmp_path / "model.h5").score(ROWS) == ours.score(ROWS)
    kept, before = ours.mixture_, ours.means_.copy()
    ours.means_ += 1
    assert (kept.means == before).all()


@pytest.mark.parametrize("covariance_type", TYPES)
@pytest.mark.parametrize("dtype", [np.float64, pytest.param(np.float32, marks=recent)])
def test_the_same_steps_from_the_same_start_as_theirs(covariance_type: str, dtype: Any) -> None:
    rows, parameters = ROWS.astype(dtype), {"tol": 1e-9, **given(covariance_type, dtype)}
    parameters["covariance_type"] = covariance_type
    tolerance = 1e-7 if dtype == np.float64 else 2e-3
    for max_iter in (1, 7, 400) if dtype == np.float64 else (1, 7):
        ours, theirs = (kind(3, max_iter=max_iter, **parameters).fit(rows) for kind in (GaussianMixture, Theirs))
        assert (ours.n_iter_, ours.converged_) == (theirs.n_iter_, theirs.converged_)
        for name in (*PARAMETERS, "lower_bound_", *(["lower_bounds_"] if hasattr(theirs, "lower_bounds_") else [])):
            np.testing.assert_allclose(getattr(ours, name), getattr(theirs, name), tolerance, tolerance, err_msg=name)
            assert np.asarray(getattr(ours, name)).dtype == (dtype if name in PARAMETERS else np.float64)
        for name in ("predict", "predict_proba", "score_samples"):
            one, other = (getattr(each, name)(rows) for each in (ours, theirs))
            np.testing.assert_allclose(one, other, tolerance, tolerance)
            assert one.dtype == other.dtype and one.shape == other.shape
        assert ours.aic(rows) == pytest.approx(theirs.aic(rows), rel=tolerance)
        assert ours._n_parameters() == theirs._n_parameters()


@pytest.mark.parametrize("covariance_type", TYPES)
def test_no_iteration_gives_the_first_mixture(covariance_type: str) -> None:
    ours = GaussianMixture(3, covariance_type=covariance_type, max_iter=0, **given(covariance_type)).fit(ROWS)
    for name in ("weights", "means", "precisions"):
        np.testing.assert_allclose(getattr(ours, f"{name}_"), given(covariance_type)[f"{name}_init"], rtol=1e-12)
    assert ours.lower_bound_ == -np.inf and ours.lower_bounds_ == [] and ours.n_iter_ == 0 and not ours.converged_
    means = ROWS[:3]
    part = GaussianMixture(3, covariance_type=covariance_type, max_iter=0, means_init=means).fit(ROWS)
    assert (part.means_ == means).all() and part.weights_.std() > 0  # the shares of the rows nearest to the means


@pytest.mark.parametrize("covariance_type", TYPES)
def test_a_warm_start_goes_on_to_the_bits_of_one_fit(covariance_type: str) -> None:
    parameters = {"covariance_type": covariance_type, "init_params": "k-means++", "random_state": 0, "tol": 1e-6}
    whole = GaussianMixture(3, max_iter=9, **parameters).fit(ROWS)
    parts = GaussianMixture(3, max_iter=3, warm_start=True, **parameters)
    for _ in range(3):
        parts.fit(ROWS)
    assert all(bits(parts)[name] == bits(whole)[name] for name in PARAMETERS)
    assert parts.lower_bounds_ == whole.lower_bounds_[-3:] and parts.converged_ == whole.converged_
    with pytest.raises(errors.ParameterError, match="warm_start: the last fit had n_components=3, but now it is 2"):
        parts.set_params(n_components=2).fit(ROWS)


def test_weights_count_rows() -> None:
    repeated = np.repeat(ROWS, WEIGHTS, axis=0)
    start = {"tol": 1e-9, "max_iter": 5, **given("full")}
    weighted, plain = GaussianMixture(3, **start).fit(ROWS, sample_weight=WEIGHTS), GaussianMixture(3, **start)
    np.testing.assert_allclose(weighted.means_, plain.fit(repeated).means_, rtol=1e-9)
    for name in ("score", "bic", "aic", "icl"):
        counted = getattr(weighted, name)(ROWS, sample_weight=WEIGHTS)
        assert counted == pytest.approx(getattr(weighted, name)(repeated), rel=1e-12)


def test_predictions_follow_the_attributes() -> None:
    """Users reorder components, and make estimators without a fit."""
    fitted = GaussianMixture(3, random_state=0).fit(ROWS)
    order = np.array([2, 0, 1])
    other = copy.copy(fitted)
    for name in PARAMETERS:
        setattr(other, name, getattr(fitted, name)[order])
    assert (order[other.predict(ROWS)] == fitted.predict(ROWS)).all()
    assert other.predict_proba(ROWS).tobytes() == fitted.predict_proba(ROWS)[:, order].tobytes()
    for left_out in ("covariances_", "precisions_cholesky_"):
        made = GaussianMixture(3)
        for name in {"weights_", "means_", "covariances_", "precisions_cholesky_"} - {left_out}:
            setattr(made, name, getattr(fitted, name))
        np.testing.assert_allclose(made.score_samples(ROWS), fitted.score_samples(ROWS), rtol=1e-12)
        assert made.sample(7)[0].shape == (7, 3)
    made.precisions_cholesky_ = np.linalg.cholesky(np.linalg.inv(fitted.covariances_))  # lower triangular
    np.testing.assert_allclose(made.score_samples(ROWS), fitted.score_samples(ROWS), rtol=1e-12)
    made.precisions_cholesky_ = made.precisions_cholesky_[:2]
    with pytest.raises(errors.DataError, match=r"precisions_cholesky_ has shape \(2, 3, 3\), but \(3, 3, 3\)"):
        made.predict(ROWS)
    assert fitted.means_.flags.writeable


def test_seeds() -> None:
    fits = [GaussianMixture(3, init_params="random", random_state=seed).fit(ROWS).means_ for seed in (7, 7, 8)]
    assert fits[0].tobytes() == fits[1].tobytes() != fits[2].tobytes()
    drawing = GaussianMixture(3, init_params="random", random_state=np.random.RandomState(0))
    assert drawing.fit(ROWS).means_.tobytes() != drawing.fit(ROWS).means_.tobytes()
    globally = []
    for _ in range(2):
        np.random.seed(3)
        globally.append(GaussianMixture(3, init_params="random").fit(ROWS).means_.tobytes())
    assert globally[0] == globally[1]


def test_samples_are_sorted_by_component_and_of_the_mixture() -> None:
    fitted = GaussianMixture(3, random_state=0).fit(ROWS)
    rows, labels = fitted.sample(20_000)
    assert (np.diff(labels) >= 0).all() and rows.dtype == np.float64
    np.testing.assert_allclose(np.bincount(labels) / 20_000, fitted.weights_, atol=0.02)
    for k in range(3):
        np.testing.assert_allclose(np.cov(rows[labels == k].T), fitted.covariances_[k], atol=0.15)
    assert rows.tobytes() == fitted.sample(20_000)[0].tobytes()


def test_clones_and_copies_share_the_communicator_and_pickles_drop_it() -> None:
    fitted = GaussianMixture(3, random_state=0, comm=MPI.COMM_SELF, means_init=ROWS[:3]).fit(ROWS)
    cloned = clone(fitted)
    assert cloned.comm is MPI.COMM_SELF and not hasattr(cloned, "means_") and cloned.means_init is not ROWS
    assert copy.deepcopy(fitted).comm is MPI.COMM_SELF
    again = pickle.loads(pickle.dumps(fitted))
    assert again.comm is None and bits(again) == bits(fitted)
    assert again.predict_proba(ROWS).tobytes() == fitted.predict_proba(ROWS).tobytes()


class Labelled(GaussianMixture):
    """An estimator with a constructor of its own."""

    def __init__(self, n_components: int = 2, label: str = "", *, random_state: int | None = 0) -> None:
        super().__init__(n_components, random_state=random_state)
        self.label = label


def test_a_subclass_chooses_its_parameters() -> None:
    ours = clone(Labelled(3, "a")).fit(ROWS)
    assert (ours.label, ours.n_components, ours.comm) == ("a", 3, None)
    np.testing.assert_array_equal(ours.means_, GaussianMixture(3, random_state=0).fit(ROWS).means_)


def test_weights_of_zero_are_named() -> None:
    with pytest.raises(ValueError, match=r"has 0 usable ones of .*; lower it, or check X and sample_weight; rows of"):
        GaussianMixture(2).fit(ROWS, sample_weight=np.zeros(len(ROWS)))


@pytest.mark.parametrize("name", ["tol", "reg_covar"])
def test_no_parameter_is_infinite(name: str) -> None:
    with pytest.raises(ValueError, match=rf"The '{name}' parameter .* in the range \[0.0, inf\). Got inf instead"):
        GaussianMixture(2, **{name: np.inf}).fit(ROWS)


def test_in_searches_and_pipelines() -> None:
    search = GridSearchCV(GaussianMixture(random_state=0), {"n_components": [1, 3], "covariance_type": ["diag"]}, cv=2)
    assert search.fit(ROWS).best_params_ == {"covariance_type": "diag", "n_components": 3}
    assert make_pipeline(StandardScaler(), GaussianMixture(3)).fit(ROWS).predict(ROWS).shape == (600,)


BAD: dict[str, tuple[Any, ...]] = {
    "n_components": (0, 2.5, "x", None),
    "tol": (-1, "x", np.nan),
    "reg_covar": (-1e-9,),
    "max_iter": (-1, 1.5),
    "n_init": (0,),
    "random_state": (-1, 2**32, "x"),
    "warm_start": (1,),
    "verbose": (-1,),
    "verbose_interval": (0,),
    "weights_init": ("x", [0.5, 0.6, 0.2], [1, 2], [-0.5, 1, 0.5]),
    "means_init": (3, [[1, 2, 3]]),
    "precisions_init": (3, -np.ones((3, 3, 3)), np.ones((3, 3)), np.triu(np.ones((3, 3, 3)))),
}


@pytest.mark.parametrize("name", BAD)
def test_their_messages_for_parameters(name: str) -> None:
    for value in BAD[name]:
        with pytest.raises(ValueError) as theirs:
            Theirs(3).set_params(**{name: value}).fit(ROWS)
        with pytest.raises(errors.MpigmmError, match=f"^{re.escape(str(theirs.value))}") as ours:
            GaussianMixture(3).set_params(**{name: value}).fit(ROWS)
        assert isinstance(ours.value, ValueError) and isinstance(ours.value, TypeError)


@recent
@pytest.mark.parametrize(
    "rows",
    [
        np.where(ROWS[5, 1] == ROWS, np.nan, ROWS),
        np.where(ROWS[5, 1] == ROWS, np.inf, ROWS),
        ROWS[:, 0],
        ROWS[None],
        ROWS[:1],
        ROWS[:2],
        ROWS[:, :0],
        ROWS + 1j,
        [["a", "b", "c"]] * 5,
    ],
)
def test_their_messages_for_rows(rows: Any) -> None:
    with pytest.raises((ValueError, TypeError)) as theirs:
        Theirs(3).fit(rows)
    with pytest.raises(errors.MpigmmError) as ours:
        GaussianMixture(3).fit(rows)
    assert str(ours.value) == str(theirs.value) and isinstance(ours.value, ValueError)
    fitted = GaussianMixture(3).fit(ROWS)
    for call in (fitted.predict, fitted.score):
        with pytest.raises(ValueError, match="X has 2 features, but GaussianMixture is expecting 3 features as input"):
            call(ROWS[:, :2])
    with pytest.raises(NotFittedError, match="This GaussianMixture instance is not fitted yet") as unfitted:
        GaussianMixture().bic(ROWS)
    assert isinstance(unfitted.value, errors.NotFittedError) and not hasattr(GaussianMixture(), "mixture_")


def test_ill_defined_covariances() -> None:
    constant = np.concatenate([ROWS, np.ones((600, 1))], axis=1)
    for rows, reason in (
        (constant, "column 3 of X has the same value in every row"),
        (np.repeat(ROWS[:4], 5, axis=0), "not positive definite at the start; raise reg_covar, or lower n_components"),
    ):
        with pytest.raises(errors.IllDefinedError, match=f"^Fitting the mixture model failed because(.|\n)*{reason}"):
            GaussianMixture(3, reg_covar=0).fit(rows)
    assert GaussianMixture(3).fit(constant).converged_
    far = np.concatenate([ROWS, [[90.0, 90, 90]]])
    with pytest.raises(errors.IllDefinedError, match="after iteration"):
        GaussianMixture(3, reg_covar=0, **lonely("full")).fit(far)
    collapsed = GaussianMixture(3, reg_covar=0, covariance_type="diag", **lonely("diag")).fit(far)
    assert 0 < collapsed.covariances_.min() < 1e-9 and not collapsed.converged_


def lonely(covariance_type: str) -> dict[str, Any]:
    """A first mixture of which a component has but one row, far from all others."""
    return {**given(covariance_type), "means_init": [[0, 0, 0], [1, 1, 1], [90, 90, 90]]}


def test_warnings() -> None:
    with pytest.warns(ConvergenceWarning, match="Best performing initialization did not converge. Try different"):
        GaussianMixture(3, max_iter=1).fit(ROWS)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        GaussianMixture(3, max_iter=0).fit(ROWS)
        GaussianMixture(3).fit(ROWS)


@pytest.mark.parametrize("verbose", [1, 2])
def test_the_lines_that_theirs_prints(verbose: int, capsys: pytest.CaptureFixture[str]) -> None:
    printed = []
    for kind in (Theirs, GaussianMixture):
        options = {"verbose": verbose, "verbose_interval": 3}
        kind(3, max_iter=0, **options).fit(ROWS)
        kind(3, tol=1e-6, n_init=2, **options, **given("full")).fit(ROWS)
        printed.append(re.sub(r"lapse \d+\.\d+s", "lapse", capsys.readouterr().out))
    assert printed[0] == printed[1] and "did not converge" not in printed[0] and "Iteration 3" in printed[0]


def test_files_columns_and_sections(tmp_path: Path) -> None:
    write_rows(tmp_path / "a.h5", ROWS[:400])
    write_rows(tmp_path / "b.h5", ROWS[400:])
    paths, whole = [tmp_path / "a.h5", tmp_path / "b.h5"], GaussianMixture(3, random_state=0).fit(ROWS)
    write_rows(tmp_path / "all.h5", np.concatenate([np.zeros((600, 1)), ROWS], axis=1))
    section = {"path": str(tmp_path / "all.h5"), "columns": [1, 2, 3]}
    for rows in (paths, section, tuple(ROWS.T), ROWS.tolist(), np.asfortranarray(ROWS)):
        again = clone(whole).fit(rows)
        assert bits(again) == bits(whole) and again.n_features_in_ == 3
        assert (again.predict(rows) == whole.predict(ROWS)).all() and again.icl(rows) == whole.icl(ROWS)
    part = GaussianMixture(3, random_state=0).fit(str(paths[0]))
    assert bits(part) == bits(clone(part).fit(ROWS[:400])) and len(part.fit_predict(paths[1])) == 200
    for mistaken, message in (
        ({"dataset": "/X"}, "data.path is missing"),
        ({"path": "a", "rwos": 1}, "data.rwos"),
        (str(tmp_path / "c.h5"), "c.h5"),
    ):
        with pytest.raises(errors.UserError, match=message):
            whole.fit(mistaken)


def frames() -> list[Callable[[np.ndarray], Any]]:
    """What makes data frames, of the libraries that are installed."""
    found: list[Callable[[np.ndarray], Any]] = []
    for library in ("pandas", "polars"):
        try:
            module = __import__(library)
        except ImportError:
            continue
        found.append(lambda rows, module=module: module.DataFrame({f"x{i}": rows[:, i] for i in range(3)}))
    return found


def test_data_frames() -> None:
    if not frames():
        pytest.skip("neither pandas nor polars is installed")
    plain = GaussianMixture(3, random_state=0).fit(ROWS)
    for frame in frames():
        fitted = GaussianMixture(3, random_state=0).fit(frame(ROWS))
        assert bits(fitted) == bits(plain) and fitted.feature_names_in_.tolist() == ["x0", "x1", "x2"]
        assert (fitted.predict(frame(ROWS)) == plain.predict(ROWS)).all()
        with pytest.raises(ValueError, match="The feature names should match those that were passed during fit"):
            fitted.predict(frame(ROWS)[["x1", "x0", "x2"]])
        with pytest.warns(UserWarning, match="X does not have valid feature names, but GaussianMixture was fitted"):
            fitted.predict(ROWS)
        assert not hasattr(fitted.fit(ROWS), "feature_names_in_")


@pytest.mark.parallel
@pytest.mark.parametrize("covariance_type", ["full", "diag"])
def test_ranks_fit_together(comm: Comm, shared_path: Path, covariance_type: str) -> None:
    """The first has no rows, if there are two."""
    world = MPI.COMM_WORLD
    edges = [0, *[70 * rank for rank in range(comm.size - 1)], 600]
    own = ROWS[edges[comm.rank] : edges[comm.rank + 1]]
    ours = GaussianMixture(
        3, covariance_type=covariance_type, random_state=np.random.RandomState(comm.rank), comm=world
    )
    alone = clone(ours).set_params(comm=None, random_state=np.random.RandomState(0)).fit(ROWS)
    own_labels = ours.fit_predict(own)
    assert bits(ours) == bits(alone) and ours.n_features_in_ == 3
    assert (own_labels == alone.predict(ROWS)[edges[comm.rank] : edges[comm.rank + 1]]).all()
    for name in ("score", "bic", "aic", "icl"):
        assert getattr(ours, name)(own) == getattr(alone, name)(ROWS)
    assert len(set(comm.allgather(ours.set_params(random_state=1).sample(9)[0].tobytes()))) == 1
    with comm.together():
        if comm.is_root:
            write_rows(shared_path / "rows.h5", ROWS)
    from_file = clone(ours).set_params(random_state=np.random.RandomState(0)).fit(str(shared_path / "rows.h5"))
    assert bits(from_file) == bits(alone)
    assert from_file.score(str(shared_path / "rows.h5")) == alone.score(ROWS)


@pytest.mark.parallel
def test_ranks_raise_the_same_errors(comm: Comm) -> None:
    last, ours = comm.rank == comm.size - 1, GaussianMixture(2, random_state=0, comm=MPI.COMM_WORLD)
    with pytest.raises(errors.InputError, match=r"Input X contains NaN\."):
        ours.fit(np.where(last, np.nan, ROWS))
    with pytest.raises(errors.ParameterError, match=r"The 'n_components' parameter .* Got 0 instead\."):
        clone(ours).set_params(n_components=0 if last else 2).fit(ROWS)
    with pytest.raises(errors.InputError, match="Expected n_samples >= n_components but got n_components = 90"):
        clone(ours).set_params(n_components=90).fit(ROWS[:3])
    with pytest.raises(errors.InputError, match="Found array with 0 sample"):
        ours.fit(ROWS[:0])
    for wrong, message in ((csr_matrix(ROWS), "Sparse data was passed"), (np.array(1.0), "Expected 2D array")):
        with pytest.raises(errors.InputError, match=message):
            ours.fit(wrong if last else ROWS)
    if comm.size > 1:
        with pytest.raises(
            errors.ConfigError, match=r"the ranks give different parameters: tol is 0\.001 on rank 0 and"
        ):
            clone(ours).set_params(tol=2e-3 if last else 1e-3).fit(ROWS)
        fitted = clone(ours).fit(ROWS)
        with pytest.raises(errors.NotFittedError, match="not fitted yet"):
            (clone(ours) if last else fitted).score(ROWS)
    with pytest.raises(errors.IllDefinedError, match="Fitting the mixture model failed because"):
        clone(ours).set_params(reg_covar=0).fit(np.ones((5, 2)))


ALONE = """
import sys
import mpigmm
assert "sklearn" not in sys.modules and "numpy" not in sys.modules
if sys.argv[1] == "without":
    sys.modules["sklearn"] = None
import numpy as np
from mpigmm import GaussianMixture, errors
rows = np.random.default_rng(0).normal(size=(200, 2)) + 9 * np.arange(2).repeat(100)[:, None]
gm = GaussianMixture(random_state=0).set_params(n_components=2)
assert repr(gm) == "GaussianMixture(n_components=2, random_state=0)", repr(gm)
assert gm.get_params()["n_components"] == 2 and gm.get_params()["tol"] == 1e-3
print(gm.fit(rows).means_.tobytes().hex(), gm.fit_predict(rows).sum(), gm.n_features_in_)
class Frame:
    columns = ["a", "b"]
    def __array__(self, dtype=None, copy=None):
        return rows
if sys.argv[1] == "without":
    assert GaussianMixture().fit(Frame()).feature_names_in_.tolist() == ["a", "b"]
for wrong, message in (
    (lambda: gm.fit(rows * np.nan), "Input X contains NaN"),
    (lambda: gm.fit(rows[0]), "Expected 2D array, got 1D array instead"),
    (lambda: gm.fit(rows[:1]), "Found array with 1 sample(s)"),
    (lambda: gm.fit(rows + 1j), "Complex data not supported"),
    (lambda: gm.predict(rows[:, :1]), "X has 1 features, but GaussianMixture is expecting 2 features as input"),
    (lambda: GaussianMixture().predict(rows), "This GaussianMixture instance is not fitted yet"),
    (lambda: GaussianMixture(tol=-1).fit(rows), "The 'tol' parameter of GaussianMixture must be"),
    (lambda: gm.set_params(wrong=1), "Invalid parameter 'wrong'"),
):
    try:
        wrong()
    except ValueError as error:
        assert str(error).startswith(message), str(error)
    else:
        raise AssertionError(message)
import copy, pickle
assert pickle.loads(pickle.dumps(copy.deepcopy(gm))).n_components == 2
started = {"pydantic", "yaml", "typer", "rich", "h5py", "mpi4py", "sklearn.mixture"} & set(sys.modules)
assert not started, started
"""


def test_it_needs_no_scikit_learn_and_starts_nothing_else() -> None:
    printed = []
    for argument in ("with", "without"):
        command = [sys.executable, "-W", "error", "-c", ALONE, argument]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr
        printed.append(done.stdout)
    assert printed[0] == printed[1]


EXEMPT = {
    "check_sample_weight_equivalence_on_dense_data": "random responsibilities belong to rows, of which repeated ones "
    "have several; the check passes with one component, and from a given start (test_weights_count_rows)"
}
"""Checks that the second estimator need not pass, with reasons; the first passes all."""

if scikit.validate_data:
    from sklearn.utils.estimator_checks import parametrize_with_checks

    @pytest.mark.filterwarnings("ignore")
    @parametrize_with_checks(
        [GaussianMixture(), GaussianMixture(2, covariance_type="diag", init_params="random")],
        expected_failed_checks=lambda estimator: EXEMPT if estimator.n_components > 1 else {},
    )
    def test_checks_of_scikit_learn(estimator: GaussianMixture, check: Callable[[Any], None]) -> None:
        check(estimator)


def test_acceleration_needs_fewer_iterations_for_the_same_mixture() -> None:
    rows = blobs(1500, 2, 3, seed=4, separation=1.0)
    settings = {"n_components": 3, "random_state": 0, "tol": 1e-10, "max_iter": 2000, "init_params": "k-means++"}
    plain = GaussianMixture(**settings).fit(rows)
    fast = GaussianMixture(**settings, accelerate="anderson").fit(rows)
    assert fast.n_iter_ < plain.n_iter_ / 2 and fast.score(rows) >= plain.score(rows) - 1e-7
    with pytest.raises(
        ValueError, match=r"'accelerate' parameter .* must be a str among {'none', 'anderson', 'squarem'}"
    ):
        GaussianMixture(accelerate="nesterov").fit(rows)
