"""The covariance types, with the names that scikit-learn gives them."""

from __future__ import annotations

from mpigmm.core.covariances.base import Covariances
from mpigmm.core.covariances.diag import Diag
from mpigmm.core.covariances.full import Full
from mpigmm.core.covariances.spherical import Spherical
from mpigmm.core.covariances.tied import Tied

COVARIANCE_TYPES: dict[str, type[Covariances]] = {kind.name: kind for kind in (Full, Tied, Diag, Spherical)}
"""The registry of covariance types by name."""
