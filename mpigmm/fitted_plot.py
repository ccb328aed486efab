"""The picture of a mixture, as a method of `mpigmm.Mixture`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from numpy.typing import ArrayLike

from mpigmm.calls import NOTHING_LOST, call
from mpigmm.data.row_sample import NO_ROWS, PictureRows, sample_rows
from mpigmm.driver.inference import check_features
from mpigmm.errors import ConfigError
from mpigmm.own_rows import Matrix, OwnRows, array_source, names_in
from mpigmm.parallel.comm import Comm
from mpigmm.parallel.stop import StopRequest
from mpigmm.runs.model import Model


class PlotMethods:
    """The picture of a mixture."""

    _model: Model

    def plot(
        self,
        X: Matrix | None = None,  # noqa: N803
        sample_weight: ArrayLike | None = None,
        *,
        ax: Any = None,
        features: Sequence[int] | None = None,
        feature_names: Sequence[str] | None = None,
    ) -> Any:
        """Draw the components over the density, or the density of one feature. Needs matplotlib.

        Ellipses of one and two standard deviations lie over the regions of highest density that hold 99, 95, 80, 50 and
        20 % of the probability, and over the rows.

        Parameters
        ----------
        X : array_like of shape (n, D), optional
            Rows to draw; of more than 32,768 a sample. Rows that are not finite are left out.
        sample_weight : array_like of shape (n,), optional
            A row is drawn as often as its weight demands.
        ax : matplotlib.axes.Axes, optional
            Where to draw; by default, new axes.
        features : sequence of int, optional
            One feature or two; by default the two in which the components differ most.
        feature_names : sequence of str, optional
            Names of the D features; by default those of the columns of X, if it is a data frame, or of the mixture.

        Returns
        -------
        matplotlib.axes.Axes

        Raises
        ------
        ConfigError
            The features or their names do not fit the mixture.
        DataError
            The rows do not fit the mixture.
        UserError
            matplotlib is not installed.
        """
        from mpigmm.core.marginal import separating_features
        from mpigmm.runs import plots

        mixture = self._model.mixture
        chosen = separating_features(mixture, 2).tolist() if features is None else list(features)
        plots.check_features("features", chosen, mixture.n_features, 2)
        rows = NO_ROWS if X is None else self._sampled(X, sample_weight, chosen)
        names = tuple(feature_names) if feature_names is not None else names_in(X) or self._model.feature_names
        if names and len(names) != mixture.n_features:
            raise ConfigError(
                f"feature_names: {len(names)} are given, but the mixture has {mixture.n_features} features"
            )
        axes = plots.new_axes() if ax is None else ax
        plots.draw_mixture(axes, plots.Subject(mixture, names, rows).view(*chosen))
        return axes

    def _sampled(
        self,
        X: Matrix,  # noqa: N803
        sample_weight: ArrayLike | None,
        features: Sequence[int],
    ) -> PictureRows:
        """Some features of the rows to draw."""

        def work(comm: Comm, stop: StopRequest) -> PictureRows:
            source = array_source(comm, OwnRows.of(X, sample_weight))
            check_features(self._model.mixture, source)
            return sample_rows(source, features, stop.check)

        return call(None, NOTHING_LOST, work)
