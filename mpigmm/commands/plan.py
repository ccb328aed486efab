"""``plan``: what a fit would need on any number of ranks, from its shape and what this machine does with such rows."""

from __future__ import annotations

import json
import math
import time
from dataclasses import asdict, dataclass, replace
from statistics import median
from typing import Any

import numpy as np

from mpigmm.commands.bench import measure
from mpigmm.commands.devices import CPU, Devices, choose_devices
from mpigmm.commands.team import build_team, common_loops, stage_of
from mpigmm.core.covariance import covariance_class
from mpigmm.data.memory import memory_budget
from mpigmm.data.source import Header, read_header
from mpigmm.data.synthetic import SyntheticSource
from mpigmm.errors import EXIT_DONE, DataError
from mpigmm.options import PlanOrder
from mpigmm.parallel.comm import Comm
from mpigmm.parallel.partition import count_tiles
from mpigmm.parallel.stop import StopRequest
from mpigmm.parallel.threads import count_threads, single_threaded_blas
from mpigmm.runs.streams import print_result

TILES_MEASURED = 4
"""Tiles of synthetic rows for each thread."""

APART, OVERLAPPING = 3.0, 0.1
"""Separations of the synthetic components: most work is left out with the one, none with the other."""

ASSUMED_LATENCY, ASSUMED_BANDWIDTH = 2e-6, 10e9
"""Of a cluster's network, where one rank measures nothing."""

MESSAGES = 50


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
        """Of an Allreduce: 2 log2 P messages, and 2 (P - 1) / P of the bytes."""
        share = (n_ranks - 1) / n_ranks
        return 2 * math.ceil(math.log2(n_ranks)) * self.latency + 2 * share * n_bytes / self.bandwidth


@dataclass(frozen=True)
class Rates:
    """What this machine does with rows of the fit's shape.

    Attributes
    ----------
    apart, overlapping : float
        Seconds a row of one thread, with components far apart and with overlapping ones.
    maximise : float
        Seconds of what every rank does once an iteration.
    work_bytes : int
        Memory of a rank besides its rows.
    reduced_bytes : int
    """

    apart: float
    overlapping: float
    maximise: float
    work_bytes: int
    reduced_bytes: int


def run(comm: Comm, order: PlanOrder, stop: StopRequest) -> int:
    """Print the plan; returns the exit code. Collective."""
    options = order.options
    covariance_class(options.model.covariance_type)
    devices = choose_devices(comm, options.compute.device)
    header = tile_rows = None
    with comm.together():
        if comm.is_root:
            header, tile_rows = shape_of(order, devices)
    header, tile_rows = comm.bcast((header, tile_rows))
    assert header is not None and tile_rows is not None
    with single_threaded_blas():
        rates = measured_rates(comm, order, devices, header, tile_rows, stop)
        network = measured_network(comm, order)
    n_threads = count_threads(options.compute.threads, comm.ranks_on_node())
    n_threads = n_threads if devices.device == CPU else 1
    with comm.together():
        stage = stage_of(devices, comm.rank, options.compute.memory)
    if comm.is_root:
        memory = stage.budget if stage else memory_budget(options.compute.memory, 1)
        plan = {
            "n_samples": header.n_rows,
            "n_features": header.n_features,
            "n_components": options.model.n_components,
            "covariance_type": options.model.covariance_type,
            "precision": options.compute.precision,
            "device": devices.device,
            "threads_per_rank": n_threads,
            "tile_rows": tile_rows,
            "bytes_reduced": rates.reduced_bytes,
            "memory_bytes": memory,
            "network": asdict(network),
            "measured_ranks": comm.size,
            "plans": [line(header, tile_rows, n, n_threads, memory, rates, network) for n in order.ranks],
        }
        text = json.dumps(plan, indent=2) if order.json else describe(plan)
    with comm.together():
        if comm.is_root:
            print_result(text)
    return EXIT_DONE


def shape_of(order: PlanOrder, devices: Devices) -> tuple[Header, int]:
    """Header of the input and rows of a tile. Root alone; raises `DataError`."""
    data, model, compute = order.options.data, order.options.model, order.options.compute
    header = read_header(data.path, data.dataset, data.weights, data.columns, data.rows)
    if header.n_rows < model.n_components:
        raise DataError(f"model.n_components: {model.n_components} components, but {header.n_rows} rows; lower it")
    if compute.tile_rows != "auto":
        return header, int(compute.tile_rows)
    return header, devices.default_rows(header.n_features, model.n_components, np.dtype(compute.precision))


def measured_rates(
    comm: Comm, order: PlanOrder, devices: Devices, header: Header, tile_rows: int, stop: StopRequest
) -> Rates:
    """Iterations on a few synthetic tiles, one thread a rank. Collective."""
    model, compute = order.options.model, replace(order.options.compute, threads=1, memory="auto")
    options = replace(order.options, compute=compute)
    loops = common_loops(comm)
    tile_rows = min(tile_rows, header.n_rows)
    n_rows = max(TILES_MEASURED * comm.size * tile_rows, model.n_components)
    reports = []
    for separation in (APART, OVERLAPPING):
        correlated = model.covariance_type == "full"
        with comm.together():
            source = SyntheticSource(n_rows, header.n_features, model.n_components, separation, correlated=correlated)
        team = build_team(comm, source, tile_rows, compute, stop, loops, devices)
        reports.append(measure(team, source, options, iterations=3))
    apart, overlapping = reports
    return Rates(
        apart=comm.size * apart["seconds_compute"] / n_rows,
        overlapping=comm.size * overlapping["seconds_compute"] / n_rows,
        maximise=min(apart["seconds_maximise"], overlapping["seconds_maximise"]),
        work_bytes=max(report["peak_memory_bytes"] - report["rows_bytes"] for report in reports),
        reduced_bytes=apart["bytes_reduced"],
    )


def measured_network(comm: Comm, order: PlanOrder) -> Network:
    """The network as given or, where several ranks run, as a short and a long reduction find it. Collective."""
    latency, bandwidth, origin = ASSUMED_LATENCY, ASSUMED_BANDWIDTH, "assumed"
    if comm.size > 1:
        steps, share = 2 * math.ceil(math.log2(comm.size)), (comm.size - 1) / comm.size
        latency = seconds_of_sum(comm, 1) / steps
        size = 1 << 19
        moving = max(seconds_of_sum(comm, size) - steps * latency, 1e-9)
        bandwidth, origin = 2 * share * 8 * size / moving, "measured"
    if order.latency is not None or order.bandwidth is not None:
        origin = "given" if None not in (order.latency, order.bandwidth) else f"given in part, else {origin}"
    return Network(
        latency if order.latency is None else order.latency,
        bandwidth if order.bandwidth is None else order.bandwidth,
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
    return median(taken)


def line(
    header: Header, tile_rows: int, n_ranks: int, n_threads: int, memory: int, rates: Rates, network: Network
) -> dict[str, Any]:
    """The plan for one number of ranks; the rank with most tiles decides."""
    n_tiles = count_tiles(header.n_rows, tile_rows)
    most = -(-n_tiles // n_ranks)
    rows = min(most * tile_rows, header.n_rows)
    workers = max(1, min(n_threads, most))
    per_worker = min(-(-most // workers) * tile_rows, header.n_rows)
    reduction = network.seconds(n_ranks, rates.reduced_bytes)
    fixed = rates.maximise + reduction
    alone = header.n_rows / min(n_threads, n_tiles) * rates.apart + rates.maximise
    seconds = per_worker * rates.apart + fixed
    return {
        "n_ranks": n_ranks,
        "tiles_per_rank": most,
        "rows_per_rank": rows,
        "rows_bytes": rows * header.row_bytes,
        "resident": rows * header.row_bytes <= memory,
        "work_bytes": rates.work_bytes,
        "seconds_reduction": reduction,
        "seconds_maximise": rates.maximise,
        "seconds": seconds,
        "seconds_overlapping": per_worker * rates.overlapping + fixed,
        "efficiency": alone / n_ranks / seconds,
    }


def describe(plan: dict[str, Any]) -> str:
    """A plan in words, a line for each number of ranks."""
    network = plan["network"]
    lines = [
        f"{plan['n_samples']:,} x {plan['n_features']}, K = {plan['n_components']}, {plan['covariance_type']}, "
        f"{plan['precision']}, {plan['device']}; tiles of {plan['tile_rows']} rows, {plan['threads_per_rank']} threads "
        "a rank",
        f"{plan['bytes_reduced']:,} bytes reduced an iteration; a message takes {network['latency'] * 1e6:.3g} us, and "
        f"{network['bandwidth'] / 1e9:.3g} GB/s ({network['origin']})",
        f"rows beyond {plan['memory_bytes'] / 1e6:,.0f} MB a rank stream (compute.memory; auto: half of the free)",
        "",
        "ranks  tiles a rank  rows, MB a rank  other, MB   s an iteration, components   of which reduction  efficiency",
        f"{'':47}far apart  overlapping",
    ]
    for each in plan["plans"]:
        kept = "" if each["resident"] else " (streamed)"
        lines.append(
            f"{each['n_ranks']:5}  {each['tiles_per_rank']:12,}  {each['rows_bytes'] / 1e6:15,.0f}"
            f"  {each['work_bytes'] / 1e6:9,.0f}  {each['seconds']:10.3g}  {each['seconds_overlapping']:11.3g}"
            f"  {each['seconds_reduction']:18.2g}  {each['efficiency']:10.2f}{kept}"
        )
    return "\n".join(lines)
