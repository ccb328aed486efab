"""Compiled loops over the rows that matter to a component."""

from __future__ import annotations

import numpy as np

from mpigmm.core.compiling import compiled, compiled_freely


@compiled
def pick_moments(rows, resp, means, least, picked, scatter, first, second):  # type: ignore[no-untyped-def]
    n_components, n_rows = resp.shape
    n_features = rows.shape[1]
    for k in range(n_components):
        first[k] = 0.0
        count = 0
        for i in range(n_rows):
            if resp[k, i] > least:
                root = np.sqrt(resp[k, i])
                line = picked[count]
                for d in range(n_features):
                    line[d] = (rows[i, d] - means[k, d]) * root
                    first[k, d] += root * line[d]
                count += 1
        picked[count : (count + 3) // 4 * 4] = 0.0
        scatter[:] = 0.0
        for i in range(0, count, 4):
            p, q, s, t = picked[i], picked[i + 1], picked[i + 2], picked[i + 3]
            for d in range(n_features):
                line = scatter[d]
                a, b, c, e = p[d], q[d], s[d], t[d]
                for j in range(d + 1):
                    line[j] += a * p[j] + b * q[j] + c * s[j] + e * t[j]
        at = 0
        for d in range(n_features):
            for j in range(d + 1):
                second[k, at] = scatter[d, j]
                at += 1


@compiled_freely
def complete(rows, chosen, count, rest, offsets, bounds):  # type: ignore[no-untyped-def]
    """Subtract half the squares of the other whitened coordinates of some rows from their bounds, four at a time."""
    n_rest, n_features = rest.shape
    last = count - 1
    for i in range(0, count, 4):
        second, third, fourth = chosen[min(i + 1, last)], chosen[min(i + 2, last)], chosen[min(i + 3, last)]
        p, q, s, t = rows[chosen[i]], rows[second], rows[third], rows[fourth]
        squares_p = squares_q = squares_s = squares_t = offsets[0] * 0
        for j in range(n_rest):
            line = rest[j]
            a = b = c = e = offsets[j]
            for d in range(n_features - n_rest + j + 1):
                a += p[d] * line[d]
                b += q[d] * line[d]
                c += s[d] * line[d]
                e += t[d] * line[d]
            squares_p += a * a
            squares_q += b * b
            squares_s += c * c
            squares_t += e * e
        bounds[chosen[i]] -= squares_p / 2
        if i + 1 < count:
            bounds[second] -= squares_q / 2
        if i + 2 < count:
            bounds[third] -= squares_s / 2
        if i + 3 < count:
            bounds[fourth] -= squares_t / 2


@compiled
def pick_distances(rows, rest, offsets, highest, nats, most, out, best, reached, chosen):  # type: ignore[no-untyped-def]
    n_components, n_rows = out.shape
    for i in range(n_rows):
        best[i] = 0
        reached[i] = out[0, i]
    for k in range(1, n_components):
        for i in range(n_rows):
            if out[k, i] > reached[i]:
                reached[i] = out[k, i]
                best[i] = k
    for k in range(n_components):
        count = 0
        for i in range(n_rows):
            if best[i] == k:
                chosen[count] = i
                count += 1
        complete(rows, chosen, count, rest[k], offsets[k], out[k])
    for i in range(n_rows):
        value = out[best[i], i]
        reached[i] = value - np.log(highest + 1 - value) - nats
    pairs = 0
    for k in range(n_components):
        for i in range(n_rows):
            pairs += out[k, i] >= reached[i]
    if pairs > most:
        return False
    for k in range(n_components):
        count = 0
        for i in range(n_rows):
            if best[i] != k:
                if out[k, i] >= reached[i]:
                    chosen[count] = i
                    count += 1
                else:
                    out[k, i] = -np.inf
        complete(rows, chosen, count, rest[k], offsets[k], out[k])
    return True
