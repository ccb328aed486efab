"""Pictures: the mathematics against SciPy, what is drawn by the artists on the axes, and the verb ``plot``."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from inside import run_verb
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection, PathCollection, PolyCollection
from matplotlib.figure import Figure
from PIL import Image
from scipy.stats import multivariate_normal, norm
from sklearn.datasets import load_iris
from support import TYPES, blobs, dense_covariances, write_rows

import mpigmm
from mpigmm import errors, runs
from mpigmm.core.marginal import DensityMap, density, outlines, quantile, separating_features
from mpigmm.core.mixture import Mixture
from mpigmm.data.array_source import ArrayHeader, ArraySource
from mpigmm.data.row_sample import MOST_DRAWN, PictureRows, sample_rows
from mpigmm.parallel.comm import Comm
from mpigmm.runs import plots
from mpigmm.runs.guarded import never
from mpigmm.runs.model import Model
from mpigmm.runs.model_file import save_model
from mpigmm.runs.plots import mixtures, style

IRIS = load_iris()


def mixture_of(covariance_type: str, n_features: int = 4, n_components: int = 3) -> Mixture:
    """A mixture with features of different scales."""
    random = np.random.default_rng(0)
    mixing = random.standard_normal((n_components, n_features, n_features))
    scale = 10.0 ** np.arange(n_features)
    full = (mixing @ mixing.transpose(0, 2, 1) + np.eye(n_features)) * np.outer(scale, scale)
    variances = np.diagonal(full, axis1=1, axis2=2)
    covariances = {"full": full, "tied": full[0], "diag": variances, "spherical": variances.mean(axis=1)}
    return made(covariance_type, random.dirichlet(np.ones(n_components)), 4 * scale * mixing[:, 0], covariances)


def made(covariance_type: str, weights: Any, means: Any, covariances: Any) -> Mixture:
    own = covariances[covariance_type] if isinstance(covariances, dict) else covariances
    arrays = {"weights": np.array(weights), "means": np.array(means, float), "covariances": np.array(own, float)}
    return Mixture.from_arrays(covariance_type, arrays)


def brute_density(mixture: Mixture, points: np.ndarray, features: list[int]) -> np.ndarray:
    covariances = dense_covariances(mixture)[:, features][:, :, features]
    parts = zip(mixture.weights, mixture.means[:, features], covariances, strict=True)
    return np.sum([weight * multivariate_normal(mean, c).pdf(points) for weight, mean, c in parts], axis=0)


@pytest.mark.parametrize("covariance_type", TYPES)
def test_a_marginal_is_that_of_scipy(covariance_type: str) -> None:
    mixture, features = mixture_of(covariance_type), [2, 0]
    marginal = mixture.marginal(np.array(features))
    points = mixture.means[np.arange(300) % 3][:, features] * np.random.default_rng(1).normal(1, 0.2, (300, 2))
    np.testing.assert_allclose(density(marginal, points), brute_density(mixture, points, features), rtol=1e-9)
    assert marginal.weights is mixture.weights and marginal.covariances.name == covariance_type


def test_a_quantile_inverts_the_distribution_of_scipy() -> None:
    mixture = mixture_of("full")
    for feature in range(4):
        for share in (0.001, 0.3, 0.999):
            found = quantile(mixture, feature, share)
            below = norm(mixture.means[:, feature], np.sqrt(mixture.variances[:, feature])).cdf(found)
            assert mixture.weights @ below == pytest.approx(share, rel=1e-9)


@pytest.mark.parametrize("covariance_type", TYPES)
def test_an_outline_lies_at_its_mahalanobis_distance(covariance_type: str) -> None:
    mixture = mixture_of(covariance_type, 2)
    for radius in (1.0, 2.0):
        for mean, covariance, outline in zip(
            mixture.means, dense_covariances(mixture), outlines(mixture, radius), strict=True
        ):
            check_ellipse(outline, mean, covariance, radius)


def check_ellipse(outline: np.ndarray, mean: np.ndarray, covariance: np.ndarray, radius: float) -> None:
    """Each point is at the distance; the first is the last; extents and the longest axis are as they should be."""
    away = outline - mean
    distances = np.einsum("ni,ij,nj->n", away, np.linalg.inv(covariance), away)
    np.testing.assert_allclose(distances, radius**2, rtol=1e-6)
    np.testing.assert_allclose(outline[0], outline[-1], rtol=1e-12)
    np.testing.assert_allclose(outline[:-1].mean(axis=0), mean, rtol=1e-9, atol=1e-9 * np.abs(outline).max())
    np.testing.assert_allclose(np.abs(away).max(axis=0), radius * np.sqrt(np.diag(covariance)), rtol=2e-3)
    longest = radius * np.sqrt(np.linalg.eigvalsh(covariance)[-1])
    np.testing.assert_allclose(np.hypot(*away.T).max(), longest, rtol=2e-3)


def test_an_outline_keeps_its_shape_whatever_the_scales_of_the_features() -> None:
    shape, scale = np.array([[2.0, 1.5], [1.5, 2.0]]), np.array([1e-12, 1e12])
    ours = outlines(made("tied", [1.0], [[0, 0]], shape * np.outer(scale, scale)), 1.0)
    np.testing.assert_allclose(ours / scale, outlines(made("tied", [1.0], [[0, 0]], shape), 1.0), rtol=1e-12)


def test_the_map_of_a_density_is_that_of_scipy_and_holds_what_its_levels_say() -> None:
    mixture = mixture_of("full").marginal(np.array([0, 3]))
    box = np.array([[quantile(mixture, d, share) for share in (1e-4, 1 - 1e-4)] for d in range(2)])
    found, size = DensityMap.of(mixture, box, 200), box[:, 1] - box[:, 0]
    points = np.stack(np.meshgrid(*found.axes), axis=-1).reshape(-1, 2)
    expected = brute_density(mixture, points, [0, 1]).reshape(200, 200) * size.prod()
    np.testing.assert_allclose(found.values, expected, rtol=0.02, atol=0.02 * expected.max())
    shares = np.array([0.95, 0.5, 0.2])
    for level, share in zip(found.levels(shares), shares, strict=True):
        assert found.values[found.values > level].sum() / found.values.sum() == pytest.approx(share, abs=0.03)


def test_a_component_narrower_than_a_cell_is_on_the_map_with_its_weight() -> None:
    mixture = made("diag", [0.3, 0.7], [[0.317, 0.611], [0.8, 0.2]], [[1e-20, 1e-20], [1e-3, 1e-3]])
    found = DensityMap.of(mixture, np.array([[0.0, 1], [0, 1]]), 101)
    near = np.abs(found.axes[0] - 0.317) < 0.1
    assert found.values[:, near].sum() / found.values.sum() == pytest.approx(0.3, abs=0.01)


def test_features_that_separate_components_are_chosen() -> None:
    means = np.zeros((2, 9))
    means[1, [7, 2, 4]] = [3.0, 1.0, 2.0]
    mixture = made("spherical", [0.5, 0.5], means, [1, 1])
    assert separating_features(mixture, 2).tolist() == [4, 7]
    assert separating_features(mixture, 20).tolist() == list(range(9))
    assert separating_features(made("spherical", [1.0], means[:1], [1]), 2).tolist() == [0, 1]


def sampled(values: np.ndarray, features: list[int], sample_weight: np.ndarray | None = None) -> PictureRows:
    header = ArrayHeader.of([len(values)], values.dtype.str, values.shape[1], is_weighted=sample_weight is not None)
    return sample_rows(ArraySource(header, 0, values, sample_weight), features, never)


def test_few_rows_are_drawn_all_and_many_from_everywhere() -> None:
    few = np.arange(3000.0).reshape(1000, 3)
    few[7, 0] = np.nan
    drawn = sampled(few, [2, 1])
    assert (drawn.n_rows, drawn.n_left_out) == (1000, 1)
    np.testing.assert_array_equal(drawn.columns[1], np.delete(few, 7, axis=0)[:, 1])
    many = np.arange(3_000_000.0)[:, None]
    rows = sampled(many, [0]).columns[0]
    assert len(rows) == MOST_DRAWN and (np.diff(rows) > 0).all()
    assert rows[0] < 3000 and rows[-1] > 3_000_000 - 3000 and np.diff(rows).max() < 6000
    assert rows.mean() == pytest.approx(1_500_000, rel=0.01)
    assert rows.tobytes() == sampled(many, [0]).columns[0].tobytes()


def test_rows_are_drawn_as_often_as_they_weigh() -> None:
    rows = sampled(np.arange(4.0)[:, None], [0], np.array([2.0, 0.0, 1.0, 1.0])).columns[0]
    assert rows.tolist() == [0, 0, 2, 3]
    assert not len(sampled(np.arange(4.0)[:, None], [0], np.zeros(4)).columns[0])


@pytest.fixture(autouse=True)
def coarse(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pictures of few pixels, which take less time."""
    monkeypatch.setitem(style.STYLE, "savefig.dpi", 40)


# What Mixture.plot draws


@pytest.fixture
def ax() -> Axes:
    return Figure().add_subplot()


def public(mixture: Mixture) -> mpigmm.Mixture:
    return mpigmm.Mixture.from_model(Model(mixture))


@pytest.mark.parametrize("covariance_type", TYPES)
def test_the_ellipses_on_the_axes_are_those_of_the_components(covariance_type: str, ax: Axes) -> None:
    mixture = mixture_of(covariance_type)
    assert public(mixture).plot(ax=ax, features=[3, 1]) is ax
    drawn = [each for each in ax.collections if isinstance(each, LineCollection)]
    assert len(drawn) == 2
    own = np.ix_(range(3), [3, 1], [3, 1])
    for radius, lines in zip((1, 2), drawn, strict=True):
        for outline, mean, c in zip(
            lines.get_segments(), mixture.means[:, [3, 1]], dense_covariances(mixture)[own], strict=True
        ):
            check_ellipse(np.asarray(outline), mean, c, radius)
        widths, opacity = np.array(lines.get_linewidths()), lines.get_colors()[:, 3]
        order = np.argsort(mixture.weights)
        assert (np.diff(widths[order]) > 0).all() and (np.diff(opacity[order]) > 0).all()
    assert [text.get_text() for text in ax.texts] == ["0", "1", "2"]
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("feature 3", "feature 1")
    assert legend_of(ax) == ["1 standard deviation", "2 standard deviations", "99, 95, 80, 50, 20 % of the mixture"]


def legend_of(ax: Axes) -> list[str]:
    legend = ax.get_legend()
    return [text.get_text() for text in legend.get_texts()] if legend else []


class Frame:
    """What a data frame has that matters here."""

    columns = IRIS.feature_names

    def __array__(self, dtype: Any = None, copy: Any = None) -> np.ndarray:
        return IRIS.data


def test_rows_are_points_and_a_frame_names_its_columns(ax: Axes) -> None:
    result = mpigmm.fit({"model": {"n_components": 3}}, IRIS.data)
    result.mixture.plot(Frame(), ax=ax)
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("petal length (cm)", "petal width (cm)")
    points = [each for each in ax.collections if isinstance(each, PathCollection) and len(each.get_offsets()) == 150]
    np.testing.assert_array_equal(points[0].get_offsets(), IRIS.data[:, 2:])
    assert "150 rows" in legend_of(ax)


def test_many_rows_are_counted_in_hexagons(ax: Axes) -> None:
    rows = np.random.default_rng(0).standard_normal((50_000, 2))
    public(made("tied", [1.0], [[0, 0]], np.eye(2))).plot(rows, ax=ax)
    hexagons = [each for each in ax.collections if isinstance(each, PolyCollection)]
    assert len(hexagons) == 1 and 0.98 * MOST_DRAWN < hexagons[0].get_array().sum() <= MOST_DRAWN
    assert "32,768 of 50,000 rows" in legend_of(ax) and "95 and 50 % of the mixture" in legend_of(ax)


def test_one_feature_is_a_curve(ax: Axes) -> None:
    mixture = mixture_of("full")
    rows = public(mixture).sample(5000)[0]
    public(mixture).plot(rows, ax=ax, features=[2], feature_names=list("abcd"))
    whole, *parts = ax.lines
    x, y = np.asarray(whole.get_data())
    expected = brute_density(mixture, x, [2])
    np.testing.assert_allclose(y, expected, rtol=0.01, atol=0.01 * expected.max())
    np.testing.assert_allclose(np.sum([line.get_ydata() for line in parts], axis=0), y, rtol=1e-9)
    assert len(parts) == 3 and ax.get_xlabel() == "c"
    bars = np.array([(bar.get_x() + bar.get_width() / 2, bar.get_height()) for bar in ax.patches])
    np.testing.assert_allclose(bars[:, 1], np.interp(bars[:, 0], x, y), atol=0.15 * y.max())


def test_new_axes_are_made_where_none_are_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MPLBACKEND", "agg")
    from matplotlib import pyplot

    pyplot.switch_backend("agg")
    ax = public(mixture_of("diag")).plot()
    assert pyplot.gcf() is ax.figure
    pyplot.close(ax.figure)


@pytest.mark.parametrize(
    ("arguments", "kind", "message"),
    [
        ({"features": [4, 0]}, errors.ConfigError, "features: 4 is not the number of a feature; .* features 0 to 3"),
        ({"features": [-1]}, errors.ConfigError, "features: -1 is not the number"),
        ({"features": ["a"]}, errors.ConfigError, "features: 'a' is not the number"),
        ({"features": [1, 1]}, errors.ConfigError, r"features: \[1, 1\] is not valid; name at most 2 features"),
        ({"features": [0, 1, 2]}, errors.ConfigError, "at most 2 features, each once"),
        ({"features": []}, errors.ConfigError, "at most 2 features"),
        ({"feature_names": ["a"]}, errors.ConfigError, "feature_names: 1 are given, but the mixture has 4 features"),
        ({"X": IRIS.data[:, :3]}, errors.DataError, "X has 3 features, but the mixture has 4"),
    ],
)
def test_what_plot_refuses(arguments: dict[str, Any], kind: type[Exception], message: str, ax: Axes) -> None:
    with pytest.raises(kind, match=message):
        public(mixture_of("full")).plot(**arguments, ax=ax)


@pytest.fixture
def no_matplotlib(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(runs, "plots")
    for name in [each for each in sys.modules if each.startswith("mpigmm.runs.plots")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "matplotlib", None)


def test_without_matplotlib_the_message_names_the_remedy(no_matplotlib: None, comm: Comm, tmp_path: Path) -> None:
    remedy = "pictures need matplotlib .*; pip install 'mpigmm\\[plot\\]'"
    with pytest.raises(errors.UserError, match=remedy):
        public(mixture_of("full")).plot()
    save_model(tmp_path / "m.h5", Model(mixture_of("full")))
    with pytest.raises(errors.UserError, match=remedy):
        import_module("mpigmm.runs.plots")
    code, message = run_verb(comm, "plot", str(tmp_path / "m.h5"))
    assert code == 2 and "pip install 'mpigmm[plot]'" in message


# Pictures in files


@pytest.fixture
def figures(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Figure]]:
    """The figures that are written to files."""
    found: list[Figure] = []

    class Kept(Figure):
        def __init__(self, *arguments: Any, **named: Any) -> None:
            super().__init__(*arguments, **named)
            found.append(self)

    monkeypatch.setattr(style, "Figure", Kept)
    yield found


def size_of(path: Path) -> tuple[int, int]:
    """Width and height of a picture, which is decoded."""
    with Image.open(path) as picture:
        picture.load()
        return picture.size


def fit_line(n_components: int, covariance_type: str, seed: int, bic: float | None, **others: Any) -> dict[str, Any]:
    return {"n_components": n_components, "covariance_type": covariance_type, "seed": seed, "bic": bic, **others}


def test_the_selection_curve_joins_the_best_seeds_and_marks_the_best_fit(figures: list[Figure], tmp_path: Path) -> None:
    values = {("full", 1): (9.0, 8.0), ("full", 2): (5.0, 3.0), ("diag", 1): (7.0, 7.5), ("diag", 2): (6.0, None)}
    fits = [fit_line(k, t, seed, bic) for (t, k), seeds in values.items() for seed, bic in enumerate(seeds)]
    plots.selection_curve(fits, "bic", tmp_path / "selection.png")
    lines = {line.get_label(): line for line in figures[0].axes[0].lines}
    assert lines["full"].get_xydata().tolist() == [[1, 8], [2, 3]]
    assert lines["diag"].get_xydata().tolist() == [[1, 7], [2, 6]]
    assert lines["best: 2 components, full, seed 1"].get_xydata().tolist() == [[2, 3]]
    assert len({(line.get_color(), line.get_marker()) for line in lines.values()}) >= 3
    points = [line for line in figures[0].axes[0].lines if line.get_linestyle() == "None"]
    assert sorted(len(line.get_xdata()) for line in points) == [1, 3, 4]
    assert size_of(tmp_path / "selection.png") == (256, 168)
    with pytest.raises(errors.DataError, match="no fit has a finite bic"):
        plots.selection_curve([fit_line(1, "full", 0, None)], "bic", tmp_path / "selection.png")


def test_of_held_out_rows_a_higher_likelihood_is_better(figures: list[Figure], tmp_path: Path) -> None:
    fits = [fit_line(k, "tied", seed, 0, held_out=-5 + k + seed) for k in (1, 64) for seed in (0, 1)]
    plots.selection_curve(fits, "held_out", str(tmp_path / "selection.png"))
    ax = figures[0].axes[0]
    assert ax.get_xscale() == "log" and "higher is better" in ax.get_ylabel()
    found = {line.get_label(): line.get_xydata().tolist() for line in ax.lines}
    assert found["tied"] == [[1, -3], [64, 60]] and found["best: 64 components, tied, seed 1"] == [[64, 60]]


def log_line(init: int, iteration: int, objective: float | None, **others: int) -> dict[str, Any]:
    line = {"init": init, "iteration": iteration, "mean_log_likelihood": objective, "objective": objective}
    return {**line, "floored": 0, "reseeded": 0, **others}


def test_convergence_shows_all_starts_and_their_repairs(figures: list[Figure], tmp_path: Path) -> None:
    lines = [log_line(0, i, -3 - 1 / i) for i in (1, 2, 3)]
    lines += [log_line(1, i, -2 - 1 / i, floored=int(i == 2), reseeded=int(i == 3)) for i in (1, 2, 3, 4)]
    plots.convergence_picture(lines, tmp_path / "convergence.png")
    upper, lower = figures[0].axes
    curves = [line for line in upper.lines if line.get_linestyle() == "-"]
    assert [len(line.get_xdata()) for line in curves] == [3, 4]
    np.testing.assert_allclose(curves[1].get_ydata(), [-3, -2.5, -7 / 3, -2.25])
    others = next(line for line in lower.lines if len(line.get_xdata()) == 3)
    np.testing.assert_allclose(others.get_ydata(), [1.75, 1.25, 13 / 12])
    marks = {line.get_marker(): line.get_xdata().tolist() for line in upper.lines if len(line.get_xdata()) == 1}
    assert marks == {"X": [3], "o": [2]} and lower.get_yscale() == "log"
    expected = ["best start (number 1)", "1 other start", "components re-seeded", "variances raised to the floor"]
    assert legend_of(upper) == expected and upper.get_ylabel() == "mean log-likelihood\nof a row (nats)"


def test_one_iteration_is_a_point(figures: list[Figure], tmp_path: Path) -> None:
    plots.convergence_picture([log_line(0, 1, -3.0) | {"objective": -4.0}], tmp_path / "convergence.png")
    assert len(figures[0].axes) == 1 and figures[0].axes[0].get_ylabel() == "objective\nof a row (nats)"


def test_sizes_are_sorted_and_numbered(figures: list[Figure], tmp_path: Path) -> None:
    mixture = made("spherical", [0.2, 0.5, 0.0, 0.3], np.zeros((4, 1)), np.ones(4))
    plots.sizes_picture(mixture, tmp_path / "sizes.png")
    ax = figures[0].axes[0]
    assert [bar.get_height() for bar in ax.patches] == [0.5, 0.3, 0.2, 0.0]
    assert [text.get_text() for text in ax.get_xticklabels()] == ["1", "3", "0", "2"]
    weights = np.random.default_rng(0).dirichlet(np.ones(3000))
    weights[5], weights[6] = 0, weights[5] + weights[6]
    plots.sizes_picture(made("spherical", weights, np.zeros((3000, 1)), np.ones(3000)), tmp_path / "sizes.png")
    curve = figures[1].axes[0].lines[0]
    np.testing.assert_array_equal(curve.get_ydata(), np.sort(weights[weights > 0])[::-1])
    assert f"largest: {weights.argmax()}, " in figures[1].axes[0].texts[0].get_text()
    assert "of weight zero: 1 component" in figures[1].axes[0].texts[0].get_text()


def test_a_matrix_of_pairs_has_ellipses_below_and_densities_above(figures: list[Figure], tmp_path: Path) -> None:
    rows = sampled(IRIS.data, [0, 1, 2])
    plots.pairs_picture(plots.Subject(mixture_of("full"), None, rows), [2, 0, 1], tmp_path / "pairs.png")
    panels = np.array(figures[0].axes).reshape(3, 3)
    for i in range(3):
        for j in range(3):
            kinds = {type(each) for each in panels[i, j].collections}
            assert (LineCollection in kinds) == (i > j) and bool(panels[i, j].lines) == (i == j)
            assert bool(panels[i, j].patches) == (i == j)
    assert [ax.get_xlabel() for ax in panels[2]] == ["feature 2", "feature 0", "feature 1"]
    assert [ax.get_ylabel() for ax in panels[:, 0]] == ["feature 2", "feature 0", "feature 1"]
    assert panels[1, 0].get_xlim() == panels[2, 0].get_xlim() == panels[0, 0].get_xlim()


HARD = {
    "thin": made("full", [0.5, 0.5], [[0, 0], [5, 3]], [[[1, 1 - 1e-12], [1 - 1e-12, 1]], [[1e-20, 0], [0, 4]]]),
    "a far one": made("diag", [0.999, 0.001], [[0, 0], [1e9, 1]], np.ones((2, 2))),
    "far apart": made("spherical", [0.5, 0.3, 0.2], [[0, 0], [1e7, 1], [1, 1e7]], [1, 1, 1e-8]),
    "a point": made("diag", [1.0], [[1e12, 1]], [[1e-12, 1]]),
    "empty": made("diag", [1.0, 0.0], [[0, 0], [5, 5]], np.ones((2, 2))),
    "scales": made("diag", [0.5, 0.5], [[1e140, 1e-140], [2e140, 2e-140]], [[1e279, 1e-281]] * 2),
    "many": made("spherical", np.full(500, 1 / 500), blobs(500, 2, 3), np.full(500, 1e-4)),
}
"""Mixtures of which it is hard to make a picture."""


@pytest.mark.parametrize("name", HARD)
def test_hard_mixtures_give_pictures(name: str, tmp_path: Path) -> None:
    """Without a warning, since tests turn warnings into errors."""
    plots.components_picture(plots.Subject(HARD[name]), [0, 1], tmp_path / "ellipses.png")
    plots.components_picture(plots.Subject(HARD[name]), [0], tmp_path / "density.png")
    assert size_of(tmp_path / "ellipses.png") == (224, 192) and size_of(tmp_path / "density.png") == (224, 144)


def test_a_far_component_does_not_shrink_the_others_and_is_told_of() -> None:
    view = plots.Subject(HARD["a far one"]).view(0, 1)
    assert view.box[0, 1] < 10 and view.hidden.tolist() == [0.001]
    assert mixtures.legend_entries(view)[-1][1] == "outside: 1 component of weight 0.001"
    assert (plots.Subject(HARD["far apart"]).view(0, 1).box[:, 1] > 1e7).all()


@pytest.mark.parametrize("name", ["cost ($) of $x_1^$", "線形", "two\nlines", "long " * 40, ""])
def test_any_text_can_be_a_name(name: str, tmp_path: Path) -> None:
    subject = plots.Subject(mixture_of("full", 1), [name])
    plots.components_picture(subject, [0], tmp_path / "density.png")


# The verb


@pytest.fixture
def place(comm: Comm, shared_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory with rows of iris and the run of a fit to two of their columns; the working directory."""
    monkeypatch.chdir(shared_path)
    if comm.is_root:
        write_rows(Path("iris.h5"), IRIS.data)
        with h5py.File("iris.h5", "r+") as file:
            file["X"].attrs["columns"] = IRIS.feature_names
        Path("run").mkdir()
        data = {"path": "iris.h5", "dataset": "/X", "columns": [3, 2]}
        names = tuple(IRIS.feature_names[column] for column in (3, 2))
        save_model(Path("run/model.h5"), Model(mixture_of("full", 2), config={"data": data}, feature_names=names))
        Path("run/convergence.jsonl").write_text(
            json.dumps(log_line(0, 1, -3.0)) + "\n" + json.dumps(log_line(0, 2, -2.0)) + '\n{"init": 0, "ite'
        )
        Path("run/selection.json").write_text(json.dumps({"fits": [fit_line(1, "full", 0, 5.0)]}))
    comm.mpi.Barrier()
    return shared_path


@pytest.mark.parallel
def test_a_directory_gets_what_its_files_allow(comm: Comm, place: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert run_verb(comm, "plot", "run", "--data", "iris.h5") == (0, "")
    printed = capfd.readouterr().out.splitlines()
    names = ["convergence.png", "selection.png", "ellipses.png", "pairs.png", "sizes.png"]
    assert printed == ([f"run/{name}" for name in names] if comm.is_root else [])
    for name in names:
        assert min(size_of(place / "run" / name)) > 100
    assert run_verb(comm, "plot", "iris.h5")[0] == 2


def test_a_model_gives_pictures_with_its_name(
    comm: Comm, place: Path, capfd: pytest.CaptureFixture[str], figures: list[Figure]
) -> None:
    Path("run/model.h5").rename("other.h5")
    assert run_verb(comm, "plot", "other.h5", "--features", "1", "--out", "new/pictures") == (0, "")
    assert capfd.readouterr().out.split() == ["new/pictures/other.density.png", "new/pictures/other.sizes.png"]
    assert figures[0].axes[0].get_xlabel() == "petal length (cm)"
    first = Path("new/pictures/other.density.png").read_bytes()
    assert run_verb(comm, "plot", "other.h5", "--features", "1", "--out", "new/pictures") == (0, "")
    assert Path("new/pictures/other.density.png").read_bytes() == first
    assert run_verb(comm, "plot", "other.h5", "--data", "iris.h5", "--features", "petal length (cm),0") == (0, "")
    assert capfd.readouterr().out.split()[2:] == ["other.ellipses.png", "other.pairs.png", "other.sizes.png"]
    ax = figures[-3].axes[0]
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("petal length (cm)", "petal width (cm)")
    points = [each for each in ax.collections if len(each.get_offsets()) == 150]
    np.testing.assert_array_equal(points[0].get_offsets(), IRIS.data[:, [2, 3]])


def test_rows_that_are_not_finite_are_told_of_and_weights_count(
    comm: Comm, place: Path, capfd: pytest.CaptureFixture[str], figures: list[Figure]
) -> None:
    rows = IRIS.data.copy()
    rows[3, 1] = np.inf
    write_rows(Path("weighted.h5"), rows, w=np.r_[np.ones(100), np.zeros(50)])
    data = {"path": "gone.h5", "dataset": "/X", "weights": "w"}
    save_model(Path("weighted.model.h5"), Model(mixture_of("diag", 4), config={"data": data}))
    assert run_verb(comm, "plot", "weighted.model.h5", "--data", "weighted.h5", "--features", "0,1") == (0, "")
    assert capfd.readouterr().err == "mpigmm: 1 row with values that are not finite, not drawn\n"
    offsets = [np.asarray(each.get_offsets()) for each in figures[0].axes[0].collections]
    drawn = next(each for each in offsets if len(each) == 149)
    assert {tuple(row) for row in drawn} == {tuple(row) for row in np.delete(rows[:100, :2], 3, axis=0)}
    assert figures[0].axes[0].get_xlabel() == "feature 0" and "149 of 150 rows" in legend_of(figures[0].axes[0])


def test_files_that_plot_did_not_write_stay(comm: Comm, place: Path) -> None:
    Image.new("RGB", (9, 9)).save("run/sizes.png")
    before = Path("run/sizes.png").read_bytes()
    arguments = ["plot", "run/model.h5", "--features", "0"]
    code, message = run_verb(comm, *arguments)
    assert code == 2 and "run/sizes.png exists, and is not a picture that mpigmm wrote; move it away" in message
    assert Path("run/sizes.png").read_bytes() == before and not Path("run/density.png").exists()
    Path("run/sizes.png").write_bytes(b"")
    assert run_verb(comm, *arguments) == (0, "") and size_of(Path("run/sizes.png"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["lost"], "lost does not exist; name the directory of a run, or a model"),
        (["empty"], "empty holds no model.h5, no selection.json and no convergence.jsonl with iterations"),
        (["iris.h5"], "iris.h5 is not an mpigmm-model file"),
        (["run", "--features", "0,3"], "--features: 3 is not the number of a feature; the mixture has features 0 to 1"),
        (
            ["run", "--features", "0;1"],
            "--features '0;1' is not valid; give numbers of features, such as 0,1, or names: petal",
        ),
        (["run", "--features", "1,1"], "--features: [1, 1] is not valid; name at most 20 features, each once"),
        (["run", "--data", "lost.h5"], "lost.h5 does not exist"),
        (["run", "--data", "narrow.h5"], "run/model.h5 has 2 features, but /X in narrow.h5 has 1 column"),
        (["logs", "--data", "iris.h5"], "logs holds no model.h5; leave out --data and --features, or name a model"),
        (["run", "--out", "iris.h5/new"], "iris.h5/new cannot be written"),
        (["bad log"], "line 1 of bad log/convergence.jsonl is not a line of a convergence log"),
        (["bad selection"], "bad selection/selection.json is not what select writes"),
    ],
)
def test_what_the_verb_refuses(comm: Comm, place: Path, arguments: list[str], message: str) -> None:
    for name in ("empty", "logs", "bad log", "bad selection"):
        Path(name).mkdir()
    Path("empty/convergence.jsonl").touch()
    Path("logs/convergence.jsonl").write_text(json.dumps(log_line(0, 1, -3.0)) + "\n")
    Path("bad log/convergence.jsonl").write_text('{"init": 0, "iteration": 1}\n')
    Path("bad selection/selection.json").write_text('{"fits": [{"n_components": 1}]}')
    write_rows(Path("narrow.h5"), IRIS.data[:, :1])
    code, found = run_verb(comm, "plot", *arguments)
    assert code == 2 and message in found, found


def test_a_log_of_version_0_1_0_is_drawn(comm: Comm, place: Path) -> None:
    """It has no objective; a null is left out."""
    lines = [log_line(0, 1, None), log_line(0, 2, -2.0)]
    for line in lines:
        del line["objective"]
    Path("old").mkdir()
    Path("old/convergence.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert run_verb(comm, "plot", "old") == (0, "") and size_of(Path("old/convergence.png"))
