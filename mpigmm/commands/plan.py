"""``plan``: what a fit would need on any number of ranks, from its shape and what this machine does with such rows."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

import numpy as np

from mpigmm.core.covariance import covariance_class
from mpigmm.data.memory import memory_budget
from mpigmm.data.source import Header, read_header
from mpigmm.driver.devices import CPU, Devices, choose_devices
from mpigmm.driver.iteration_costs import Rates, measured_rates, measured_start
from mpigmm.driver.network import Network, measured_network
from mpigmm.driver.worker import stage_of
from mpigmm.errors import EXIT_DONE, DataError, counted
from mpigmm.parallel.comm import Comm
from mpigmm.parallel.partition import count_tiles
from mpigmm.parallel.stop import StopRequest
from mpigmm.parallel.threads import count_threads, single_threaded_blas
from mpigmm.requests import PlanRequest
from mpigmm.runs.progress import duration
from mpigmm.runs.streams import print_result


def run(comm: Comm, request: PlanRequest, stop: StopRequest) -> int:
    """Print the plan; returns the exit code. Collective."""
    options = request.options
    covariance_class(options.model.covariance_type)
    devices = choose_devices(comm, options.compute.device)
    header = tile_rows = None
    with comm.together():
        if comm.is_root:
            header, tile_rows = shape_of(request, devices)
    header, tile_rows = comm.bcast((header, tile_rows))
    assert header is not None and tile_rows is not None
    with single_threaded_blas():
        rates = measured_rates(comm, request, devices, header, tile_rows, stop)
        start = measured_start(comm, request, header, stop)
        network = measured_network(comm, request)
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
            "measured_components": rates.components,
            "initialisation": {**asdict(start), "n_init": options.init.n_init},
            "plans": [line(header, tile_rows, n, n_threads, memory, rates, network) for n in request.ranks],
        }
        text = json.dumps(plan, indent=2) if request.json else describe(plan)
    with comm.together():
        if comm.is_root:
            print_result(text)
    return EXIT_DONE


def shape_of(request: PlanRequest, devices: Devices) -> tuple[Header, int]:
    """Header of the input and rows of a tile. Root alone; raises `DataError`."""
    data, model, compute = request.options.data, request.options.model, request.options.compute
    header = read_header(data.path, data.dataset, data.weights, data.columns, data.rows)
    if header.n_rows < model.n_components:
        raise DataError(f"model.n_components: {model.n_components} components, but {header.n_rows} rows; lower it")
    if compute.tile_rows != "auto":
        return header, int(compute.tile_rows)
    return header, devices.default_rows(header.n_features, model.n_components, np.dtype(compute.precision))


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
    once = rates.prepare + rates.maximise
    fixed = once + reduction
    alone = header.n_rows / min(n_threads, n_tiles) * rates.apart + once
    seconds = per_worker * rates.apart + fixed
    return {
        "n_ranks": n_ranks,
        "tiles_per_rank": most,
        "rows_per_rank": rows,
        "rows_bytes": rows * header.row_bytes,
        "resident": rows * header.row_bytes <= memory,
        "work_bytes": rates.work_bytes,
        "seconds_reduction": reduction,
        "seconds_prepare": rates.prepare,
        "seconds_maximise": rates.maximise,
        "seconds": seconds,
        "seconds_overlapping": per_worker * rates.overlapping + fixed,
        "efficiency": alone / n_ranks / seconds,
    }


def describe(plan: dict[str, Any]) -> str:
    """A plan in words, a line for each number of ranks."""
    network, measured = plan["network"], plan["measured_components"]
    lines = [
        f"{plan['n_samples']:,} x {plan['n_features']}, K = {plan['n_components']}, {plan['covariance_type']}, "
        f"{plan['precision']}, {plan['device']}; tiles of {plan['tile_rows']} rows, "
        f"{counted(plan['threads_per_rank'], 'thread')} a rank",
        f"{plan['bytes_reduced']:,} bytes reduced an iteration; a message takes {network['latency'] * 1e6:.3g} us, and "
        f"{network['bandwidth'] / 1e9:.3g} GB/s ({network['origin']})",
        *describe_start(plan["initialisation"]),
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
    if measured < plan["n_components"]:
        lines += ["", f"measured with {counted(measured, 'component')}, and scaled to {plan['n_components']:,}"]
    return "\n".join(lines)


def about(seconds: float) -> str:
    """Seconds in few digits, or a time where they are many."""
    return f"{seconds:.2g} s" if seconds < 100 else duration(seconds)


def describe_start(start: dict[str, Any]) -> list[str]:
    """What the first mixtures take, in words; nothing where a file holds the only one."""
    if not start["rows"]:
        return []
    times = f", {start['n_init']:,} times" if start["n_init"] > 1 else ""
    return [
        f"init.method {start['method']}: about {about(start['seconds'])}{times} on rank 0, from a sample of "
        f"{start['rows']:,} rows; {start['bytes'] / 1e6:,.0f} MB there"
    ]
