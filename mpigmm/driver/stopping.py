"""When a start of EM has taken its last iteration."""

from __future__ import annotations

from mpigmm.options import EmOptions


def goes_on(iteration: int, change: float | None, em: EmOptions) -> bool:
    """Whether a start takes another iteration after this one, which changed the mean log-likelihood by this much."""
    return iteration < em.max_iter and not converged(change, em)


def converged(change: float | None, em: EmOptions) -> bool:
    """Whether the last iteration changed the mean log-likelihood by less than the tolerance."""
    return change is not None and abs(change) < em.tol
