"""Fits side by side, each by a group of ranks, where there are too many ranks for one fit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from mpigmm.data.memory import memory_budget
from mpigmm.data.source import Source
from mpigmm.driver.candidates import Candidate
from mpigmm.driver.devices import CPU, Devices
from mpigmm.driver.null_recorder import Outcome
from mpigmm.driver.sweep import Sweep, ended_text, fit_all
from mpigmm.errors import AgreedError
from mpigmm.parallel.comm import Comm
from mpigmm.parallel.partition import balanced, count_tiles
from mpigmm.parallel.threads import count_threads
from mpigmm.runs.sweep_voice import SweepVoice

TILES_PER_THREAD = 4
"""A fit is given so few ranks that each of their threads has at least so many tiles, if there are enough fits for all
ranks."""


def groups_of(comm: Comm, sweep: Sweep, candidates: Sequence[Candidate], source: Source) -> int:
    """The number of groups in which ranks make fits side by side; 1: all ranks make each fit together. Collective.

    Ranks are divided if they compute on processors and read files, and if all of them together would have fewer than
    `TILES_PER_THREAD` tiles a thread. A group has at least so many ranks that all rows fit into their memory.
    """
    share, compute = comm.node_share(), sweep.options.compute
    n_threads = max(comm.allgather(count_threads(compute.threads, share)))
    budget = min(comm.allgather(memory_budget(compute.memory, share.n_ranks)))
    header = source.header
    if source.held is not None or set(sweep.devices.kinds) != {CPU}:
        return 1
    n_tiles, n_bytes = count_tiles(header.n_rows, sweep.tile_rows), header.n_rows * header.row_bytes
    busy = max(1, n_tiles // (TILES_PER_THREAD * n_threads))
    holding = -(-n_bytes // max(1, budget))
    return max(1, min(len(candidates), comm.size // max(busy, holding)))


def fit_in_groups(
    comm: Comm, sweep: Sweep, candidates: Sequence[Candidate], source: Source, n_groups: int
) -> list[Outcome | None]:
    """Make several fits to the same rows, each by one of the groups of ranks; returns their outcomes on root.

    Collective; raises `AgreedError`. If a group fails, the others end before their next pass.
    """
    group = comm.rank * n_groups // comm.size
    costs = [candidate.n_statistics(source.header.n_features) for candidate in candidates]
    indices = balanced(costs, n_groups)[group]
    outcomes: list[Outcome | None] = []
    error: AgreedError | None = None
    part = comm.split(group)
    voice = sweep.voice if group == 0 else SweepVoice()
    own = replace(sweep, voice=voice, devices=Devices.cpus(part.size))
    sweep.stop.others = comm.is_rung
    try:
        with part.guarded():
            outcomes = fit_all(part, own, [candidates[index] for index in indices], source)
    except AgreedError as raised:
        error = raised
        if part.is_root:
            comm.ring()
    sweep.stop.others = None
    comm.silence()
    is_teller = part.is_root
    part.free()
    comm.agree(error)
    told = comm.gather((indices, outcomes, voice.warnings) if is_teller else ([], [], []))
    return gathered(sweep, candidates, told)


def gathered(
    sweep: Sweep, candidates: Sequence[Candidate], told: Sequence[tuple[list[int], list[Outcome | None], list[str]]]
) -> list[Outcome | None]:
    """The outcomes of all groups, on root, in the order of the candidates; the user is told of other groups'."""
    found: list[Outcome | None] = [None] * len(candidates)
    for rank, (indices, outcomes, warnings) in enumerate(told):
        for index, outcome in zip(indices, outcomes, strict=True):
            found[index] = outcome
            if rank and outcome is not None:
                sweep.voice.ended(ended_text(candidates[index], outcome))
        for text in warnings if rank else ():
            sweep.voice.warn(text)
    return found
