"""What `select` computes of all fitted mixtures at once, in one pass over the rows after the fits."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass

import numpy as np

from mpigmm.core.adjusted_rand import adjusted_rand_index
from mpigmm.core.estep.step import EStep
from mpigmm.core.exact import FloatArray, IntArray
from mpigmm.core.mixture import Mixture, safe_centre
from mpigmm.core.sampling import RowSampler
from mpigmm.core.tile import Tile
from mpigmm.data.source import Header, Source
from mpigmm.driver.devices import Devices
from mpigmm.driver.held_out import HeldOut
from mpigmm.driver.layout import lay_out
from mpigmm.driver.reduction import Reduction
from mpigmm.driver.scoring import Score, ScoreSums
from mpigmm.driver.survey_pass import first_centre
from mpigmm.driver.worker import RankContext, Tiles, open_context
from mpigmm.options import ComputeOptions
from mpigmm.parallel.comm import Comm
from mpigmm.parallel.stop import StopRequest
from mpigmm.rows import Rows

LABELLED_SEED, N_LABELLED = 0x6C6162656C6C6564, 1 << 14
"""Seed of the sample of rows whose labels are compared, and about how many rows it has."""


@dataclass(frozen=True, eq=False)
class Compared:
    """What is known of a mixture after the pass.

    Attributes
    ----------
    fitted, held_out : Score
        Sums over the rows that were fitted, and over those that were held out.
    labels : ndarray of int64, (m,)
        On root, the likeliest component of each row of the sample; empty on other ranks.
    """

    fitted: Score
    held_out: Score
    labels: IntArray


class MixtureSums:
    """The sums of a thread for one mixture, and the labels of its rows of the sample."""

    def __init__(self, header: Header, held_out: HeldOut) -> None:
        self.held_out = held_out
        self.fitted, self.held = ScoreSums(header, with_entropy=True), ScoreSums(header)
        self.labels: list[IntArray] = []

    def add(self, rows: Rows, tile: Tile, posterior: tuple[FloatArray, FloatArray], sampled: IntArray) -> None:
        """Add a tile of rows, given their responsibilities and log-densities, and the indices of the sampled ones.

        The tile's sample weights are zero where no fit can use a row.
        """
        fitted, held = self.held_out.split(rows, tile.sample_weight)
        self.labels.append(posterior[0][:, sampled].argmax(axis=0))
        self.fitted.add(Rows.of(rows.values, fitted, rows.first), *posterior)
        self.held.add(Rows.of(rows.values, held, rows.first), *posterior)

    def packed(self) -> IntArray:
        """Both sums as one vector."""
        return np.concatenate([self.fitted.packed(), self.held.packed()])


def compare(
    comm: Comm,
    source: Source,
    mixtures: Sequence[Mixture],
    held_out: HeldOut,
    tile_rows: int,
    ops: str,
    stop: StopRequest,
    *,
    masked: bool,
) -> list[Compared]:
    """Compute the posteriors of all rows under all mixtures, on processors. Collective; raises `AgreedError`.

    Parameters
    ----------
    comm, source
    mixtures : sequence of Mixture
    held_out : HeldOut
    tile_rows : int
    ops : str
        Name of the array operations.
    stop : StopRequest
    masked : bool
        Whether there may be rows that no fit uses.
    """
    centre = first_centre(comm, source)
    layout = lay_out(comm, source, tile_rows, ComputeOptions(memory=0), Devices.cpus(comm.size))
    with closing(open_context(comm, source, layout, Devices.cpus(comm.size), stop, ops)) as context:
        return _compared(context, mixtures, centre, held_out, masked)


def _compared(
    context: RankContext, mixtures: Sequence[Mixture], centre: FloatArray, held_out: HeldOut, masked: bool
) -> list[Compared]:
    header = context.header
    sampler = RowSampler(LABELLED_SEED, N_LABELLED / header.n_rows)
    centres = [safe_centre(mixture, centre) for mixture in mixtures]
    steps = [
        EStep(mixture.e_step_inputs(own, ops=context.host_ops)) for mixture, own in zip(mixtures, centres, strict=True)
    ]
    numbers: list[IntArray] = []
    parts: list[list[MixtureSums]] = []

    def tile_function(tile: Tile, tiles: Tiles) -> tuple[list[MixtureSums], list[IntArray]]:
        own, seen = [MixtureSums(header, held_out) for _ in mixtures], []
        for rows in tiles:
            chosen = sampler.chosen(rows.first, len(rows))
            for step, middle, sums in zip(steps, centres, own, strict=True):
                tile.fill(rows, middle, mask=masked)
                weight = tile.sample_weight  # the same for all mixtures
                sampled = chosen if weight is None else chosen[weight[chosen] > 0]
                sums.add(rows, tile, step.posterior(tile), sampled)
            seen.append(sampled + rows.first)
        return own, seen

    def add_own(total: IntArray) -> None:
        numbers.clear()
        parts.clear()
        for own, seen in context.for_each_tile(tile_function):
            parts.append(own)
            numbers.extend(seen)
            total += np.concatenate([sums.packed() for sums in own])

    size = MixtureSums(header, held_out).packed().size
    sums, _ = Reduction(context).reduce(size * len(mixtures), add_own, on_host=True)
    scores = [ScoreSums.unpacked(part) for part in sums.reshape(2 * len(mixtures), -1)]
    labels = _labels(context.comm, numbers, parts, len(mixtures))
    return [Compared(*each) for each in zip(scores[::2], scores[1::2], labels, strict=True)]


def _labels(
    comm: Comm, numbers: Sequence[IntArray], parts: Sequence[Sequence[MixtureSums]], n_mixtures: int
) -> list[IntArray]:
    """On root, the labels of all sampled rows under each mixture, in the order of rows. Collective."""
    order = np.argsort(np.concatenate([np.empty(0, np.int64), *numbers]))
    own = np.empty((len(order), n_mixtures))
    for i in range(n_mixtures):
        found = [labels for sums in parts for labels in sums[i].labels]
        own[:, i] = np.concatenate([np.empty(0), *found])[order]
    return list(comm.concatenate(own).T.astype(np.int64))


def stabilities(groups: Sequence[object], labels: Sequence[IntArray]) -> list[float | None]:
    """For each fit, the mean adjusted Rand index of its labels and those of the other fits of its group.

    None where it is alone in its group.
    """
    found: list[float | None] = []
    for i, group in enumerate(groups):
        others = [j for j, other in enumerate(groups) if other == group and j != i]
        indices = [adjusted_rand_index(labels[i], labels[j]) for j in others]
        found.append(float(np.mean(indices)) if indices else None)
    return found
