"""The latency and bandwidth of messages between ranks, and the seconds of a reduction that follow from them."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass

import numpy as np

from mpigmm.parallel.comm import Comm
from mpigmm.requests import PlanRequest

ASSUMED_LATENCY, ASSUMED_BANDWIDTH = 2e-6, 10e9
"""Seconds and bytes/s, as of a cluster's network; assumed where there is one rank, which cannot measure them."""

MESSAGES = 50
"""Number of reductions of which the median time is taken."""


@dataclass(frozen=True)
class Network:
    """Time of a reduction over P ranks: reduce-scatter and gather (Rabenseifner 2004; Thakur et al. 2005, section 4).

    Attributes
    ----------
    latency : float
        Seconds of a message, however short.
    bandwidth : float
        Bytes a second that a rank sends and adds.
    origin : str
        measured, given or assumed.
    """

    latency: float
    bandwidth: float
    origin: str

    def seconds(self, n_ranks: int, n_bytes: int) -> float:
        """Seconds of an Allreduce: of 2 log2 P messages, and of 2 (P - 1) / P of the bytes."""
        share = (n_ranks - 1) / n_ranks
        return 2 * math.ceil(math.log2(n_ranks)) * self.latency + 2 * share * n_bytes / self.bandwidth


def measured_network(comm: Comm, request: PlanRequest) -> Network:
    """The network as the user gives it or, with several ranks, as measured by short and long reductions. Collective."""
    latency, bandwidth, origin = ASSUMED_LATENCY, ASSUMED_BANDWIDTH, "assumed"
    if comm.size > 1:
        steps, share = 2 * math.ceil(math.log2(comm.size)), (comm.size - 1) / comm.size
        latency = seconds_of_sum(comm, 1) / steps
        size = 1 << 19
        moving = max(seconds_of_sum(comm, size) - steps * latency, 1e-9)
        bandwidth, origin = 2 * share * 8 * size / moving, "measured"
    if request.latency is not None or request.bandwidth is not None:
        origin = "given" if None not in (request.latency, request.bandwidth) else f"given in part, else {origin}"
    return Network(
        latency if request.latency is None else request.latency,
        bandwidth if request.bandwidth is None else request.bandwidth,
        origin,
    )


def seconds_of_sum(comm: Comm, size: int) -> float:
    """Median seconds of a reduction of this many integers. Collective."""
    values, taken = np.zeros(size, np.int64), []
    for _ in range(MESSAGES):
        comm.agree(None)
        begin = time.perf_counter()
        comm.sum(values)
        taken.append(time.perf_counter() - begin)
    return float(np.median(taken))
