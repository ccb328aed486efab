"""The E-step by packed products in one compiled sweep: some rows at a time go through all of it in the cache."""

from __future__ import annotations

import numpy as np
import scipy.linalg.cython_blas  # noqa: F401  (Numba's np.dot calls it: loaded here, it can be held at one thread)

from mpigmm.core.elementary import compiled, compiled_freely
from mpigmm.core.loops import Products
from mpigmm.core.passes import normalise, turn

PAIRS, SQUARES = int(Products.PAIRS), int(Products.SQUARES)
CACHED, LEAST_ROWS, MOST_ROWS = 2**19, 128, 256
"""Bytes to work on at a time, and what their rows may be: few are too short for BLAS, many leave the cache."""

LARGEST_THIN = 16
"""Components up to which BLAS is slower than a plain loop for the sums over rows."""


def rows_at_once(n_lines: int, n_components: int, itemsize: int) -> int:
    """Rows whose phi (n_lines, n) and responsibilities (K, n) stay in the cache; a multiple of 16."""
    fit = CACHED // itemsize // (n_lines + n_components)
    return int(max(LEAST_ROWS, min(MOST_ROWS, fit // 16 * 16)))


@compiled
def multiply(kind, rows, whitened, out):  # type: ignore[no-untyped-def]
    """Products of rows (D, n) into out (Q, n), which does not overlap them; lengths are those of the whitened rows."""
    n_features = len(rows)
    if kind == PAIRS:
        at = 0
        for d in range(n_features):
            for j in range(d + 1):
                one, other, line = rows[d], rows[j], out[at]
                for i in range(len(line)):
                    line[i] = one[i] * other[i]
                at += 1
    elif kind == SQUARES:
        for d in range(n_features):
            one, line = rows[d], out[d]
            for i in range(len(line)):
                line[i] = one[i] * one[i]
    else:
        line, one = out[0], whitened[0]
        for i in range(len(line)):
            line[i] = one[i] * one[i]
        for d in range(1, n_features):
            one = whitened[d]
            for i in range(len(line)):
                line[i] += one[i] * one[i]


@compiled_freely
def add_thin(resp, phi, sums):  # type: ignore[no-untyped-def]
    """Add resp phi^T to sums, four components and two lines of phi at a time."""
    n_components, n_rows = resp.shape
    n_lines, zero = len(phi), phi.dtype.type(0)
    for k in range(0, n_components, 4):
        last = n_components - 1 - k
        p, q, r, s = resp[k], resp[k + min(1, last)], resp[k + min(2, last)], resp[k + min(3, last)]
        for at in range(0, n_lines, 2):
            one, other = phi[at], phi[min(at + 1, n_lines - 1)]
            p1 = q1 = r1 = s1 = p2 = q2 = r2 = s2 = zero
            for i in range(n_rows):
                x, y = one[i], other[i]
                p1 += p[i] * x
                q1 += q[i] * x
                r1 += r[i] * x
                s1 += s[i] * x
                p2 += p[i] * y
                q2 += q[i] * y
                r2 += r[i] * y
                s2 += s[i] * y
            first, second = (p1, q1, r1, s1), (p2, q2, r2, s2)
            for j in range(min(4, n_components - k)):
                sums[k + j, at] += first[j]
                if at + 1 < n_lines:
                    sums[k + j, at + 1] += second[j]


@compiled
def multiply_matrices(one, other, out):  # type: ignore[no-untyped-def]
    np.dot(one, other, out)


@compiled
def add_product(one, other, part, sums):  # type: ignore[no-untyped-def]
    """Add one other^T to sums."""
    np.dot(one, other.T, part)
    for i in range(sums.shape[0]):
        for j in range(sums.shape[1]):
            sums[i, j] += part[i, j]


@compiled
def scale(lines, weights):  # type: ignore[no-untyped-def]
    for line in lines:
        for i in range(len(line)):
            line[i] *= weights[i]


@compiled
def packed_sums(  # type: ignore[no-untyped-def]
    raw, centre, weights, kind, whiten, lines, least, step, phis, resps, others, part, scatter_part, sums, scatter
):
    """Sums over rows of responsibilities times phi(x) = [1, x, products of x].

    Parameters
    ----------
    raw, centre : ndarrays of shape (n, D) and (D,)
    weights : ndarray of shape (n,) or (0,)
        None of them is one where all are.
    kind : int
        Which products.
    whiten : ndarray of shape (D, D) or (0, 0)
        Factor whose transform's lengths are wanted; the rows' own where left out.
    lines : ndarray of shape (K, L)
        Factors of phi in the weighted log-densities.
    least : float
        Exponent at which responsibilities stop.
    step : int
        Rows at a time.
    phis, resps, others, part, scatter_part : ndarrays
        Work space of step times L, K and D + 2, (K, L), and that of scatter.
    sums, scatter : ndarrays of shape (K, L) and (D, D) or (0, 0), float64
        What is added to: the sums, and those of all rows' weighted products where there is room for them.

    Returns
    -------
    log_likelihood : float
    """
    n_rows, n_features = raw.shape
    n_components, n_lines = lines.shape
    log_likelihood = 0.0
    for start in range(0, n_rows, step):
        n = min(n_rows - start, step)
        phi, resp = phis[: n_lines * n].reshape(n_lines, n), resps[: n_components * n].reshape(n_components, n)
        log_density, total, other = others[:n], others[n : 2 * n], others[2 * n : (2 + n_features) * n]
        whitened = other.reshape(n_features, n)
        rows = phi[1 : 1 + n_features]
        for i in range(n):
            phi[0, i] = 1
        turn(raw[start : start + n], centre, rows)
        if len(whiten):
            multiply_matrices(whiten, rows, whitened)
            multiply(kind, rows, whitened, phi[1 + n_features :])
        else:
            multiply(kind, rows, rows, phi[1 + n_features :])
        multiply_matrices(lines, phi, resp)
        normalise(resp, log_density, total, least)
        if len(weights):
            own = weights[start : start + n]
            scale(resp, own)
            scale(others[:n].reshape(1, n), own)
        for i in range(n):
            log_likelihood += log_density[i]
        if n_components <= LARGEST_THIN:
            add_thin(resp, phi, sums)
        else:
            add_product(resp, phi, part, sums)
        if len(scatter):
            for d in range(n_features):
                for i in range(n):
                    whitened[d, i] = rows[d, i]
            if len(weights):
                scale(whitened, own)
            add_product(whitened, rows, scatter_part, scatter)
    return log_likelihood


@compiled
def squared_lengths(augmented, lines, height, group, step, parts, works, out):  # type: ignore[no-untyped-def]
    """Lengths of K times height lines' products with the first of the augmented rows, some components at a time."""
    n_components, n_rows = out.shape
    width = lines.shape[1]
    for start in range(0, n_rows, step):
        n = min(n_rows - start, step)
        part = parts[: width * n].reshape(width, n)
        for d in range(width):
            for i in range(n):
                part[d, i] = augmented[d, start + i]
        for first in range(0, n_components, group):
            some = lines[first * height : min(n_components, first + group) * height]
            whitened = works[: len(some) * n].reshape(len(some), n)
            multiply_matrices(some, part, whitened)
            for at in range(0, len(some), height):
                line, one = out[first + at // height, start : start + n], whitened[at]
                for i in range(n):
                    line[i] = one[i] * one[i]
                for h in range(1, height):
                    one = whitened[at + h]
                    for i in range(n):
                        line[i] += one[i] * one[i]
