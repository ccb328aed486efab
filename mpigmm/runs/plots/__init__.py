"""Pictures of mixtures, fits and selections of models. This package alone imports matplotlib, and nothing imports the
package before it is needed: `UserError` is raised where matplotlib is missing."""

from __future__ import annotations

from mpigmm.errors import UserError

try:
    import matplotlib as matplotlib
except ImportError as error:
    raise UserError(f"pictures need matplotlib ({error}); pip install 'mpigmm[plot]'") from None

from mpigmm.runs.plots.fits import CRITERIA as CRITERIA
from mpigmm.runs.plots.fits import convergence_picture as convergence_picture
from mpigmm.runs.plots.fits import selection_curve as selection_curve
from mpigmm.runs.plots.mixtures import components_picture as components_picture
from mpigmm.runs.plots.mixtures import draw_mixture as draw_mixture
from mpigmm.runs.plots.mixtures import new_axes as new_axes
from mpigmm.runs.plots.mixtures import pairs_picture as pairs_picture
from mpigmm.runs.plots.mixtures import sizes_picture as sizes_picture
from mpigmm.runs.plots.view import Subject as Subject
from mpigmm.runs.plots.view import check_features as check_features
