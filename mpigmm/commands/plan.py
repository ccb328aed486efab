"""``plan``: memory and seconds of a fit on any number of ranks, from iterations measured on this machine."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

from mpigmm.core.algorithms import ALGORITHMS
from mpigmm.core.covariances import COVARIANCE_TYPES
from mpigmm.data.source import Header
from mpigmm.driver.devices import CPU, choose_devices
from mpigmm.driver.file_rows import rows_header
from mpigmm.driver.iteration_costs import Rates, measured_first_mixture, measured_rates
from mpigmm.driver.layout import row_budget
from mpigmm.driver.network import Network, measured_network
from mpigmm.driver.resume_plan import tile_rows_of
from mpigmm.driver.survey_pass import check_labels
from mpigmm.errors import EXIT_DONE, DataError, counted
from mpigmm.options import FitOptions
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
    kind = COVARIANCE_TYPES[options.model.covariance_type]
    kind.prepare()
    devices = choose_devices(comm, options.compute.device)
    header = None
    with comm.together():
        if comm.is_root:
            header = checked_header(options)
    header = comm.bcast(header)
    tile_rows = tile_rows_of(options, header, devices)
    with single_threaded_blas:
        rates = measured_rates(comm, request, devices, header, tile_rows, stop)
        start = measured_first_mixture(comm, request, header, stop)
        network = measured_network(comm, request)
    n_threads = count_threads(options.compute.threads, comm.node_share()) if devices.device == CPU else 1
    with comm.together():
        memory = row_budget(devices, comm.rank, options.compute)
    if comm.is_root:
        plan = {
            "n_samples": header.n_rows,
            "n_features": header.n_features,
            "n_components": options.model.n_components,
            "covariance_type": options.model.covariance_type,
            "algorithm": options.em.algorithm,
            "precision": options.compute.precision,
            "device": devices.device,
            "threads_per_rank": n_threads,
            "tile_rows": tile_rows,
            "bytes_reduced": rates.reduced_bytes,
            "memory_bytes": memory,
            "network": asdict(network),
            "measured_ranks": comm.size,
            "measured_components": rates.components,
            "initialisation": {**asdict(start), "n_init": options.n_starts},
            "plans": [plan_of(n, header, tile_rows, n_threads, memory, rates, network) for n in request.ranks],
        }
        text = json.dumps(plan, indent=2) if request.json else plan_text(plan)
    with comm.together():
        if comm.is_root:
            print_result(text)
    return EXIT_DONE


def checked_header(options: FitOptions) -> Header:
    """Header of the rows to fit. Root alone; raises `DataError`."""
    header, n_components = rows_header(options.data, options.init.labels), options.model.n_components
    check_labels(header, n_components)
    if header.n_rows < n_components:
        raise DataError(f"model.n_components: {n_components} components, but {header.n_rows} rows; lower it")
    return header


def plan_of(
    n_ranks: int, header: Header, tile_rows: int, n_threads: int, memory: int, rates: Rates, network: Network
) -> dict[str, Any]:
    """The plan for one number of ranks, from the rank with the most tiles."""
    n_tiles = count_tiles(header.n_rows, tile_rows)
    most = -(-n_tiles // n_ranks)
    rows = min(most * tile_rows, header.n_rows)
    workers = max(1, min(n_threads, most))
    per_worker = min(-(-most // workers) * tile_rows, header.n_rows)
    reduction = network.seconds(n_ranks, rates.reduced_bytes)
    once = rates.prepare + rates.m_step
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
        "seconds_maximise": rates.m_step,
        "seconds": seconds,
        "seconds_overlapping": per_worker * rates.overlapping + fixed,
        "efficiency": alone / n_ranks / seconds,
    }


def plan_text(plan: dict[str, Any]) -> str:
    """A plan as text, with a line for each number of ranks."""
    network, measured = plan["network"], plan["measured_components"]
    lines = [
        f"{plan['n_samples']:,} x {plan['n_features']}, K = {plan['n_components']}, {plan['covariance_type']}, "
        f"{plan['precision']}, {plan['device']}; tiles of {plan['tile_rows']} rows, "
        f"{counted(plan['threads_per_rank'], 'thread')} a rank",
        f"{plan['bytes_reduced']:,} bytes reduced an iteration; a message takes {network['latency'] * 1e6:.3g} us, and "
        f"{network['bandwidth'] / 1e9:.3g} GB/s ({network['origin']})",
        *initialisation_lines(plan["initialisation"], plan["measured_ranks"]),
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
    if ALGORITHMS[plan["algorithm"]].takes_batches:
        lines += ["", f"em.algorithm {plan['algorithm']}: an iteration above is a pass over all rows, not over a batch"]
    if measured < plan["n_components"]:
        lines += ["", f"measured with {counted(measured, 'component')}, and scaled to {plan['n_components']:,}"]
    return "\n".join(lines)


def about(seconds: float) -> str:
    """Seconds with two digits; as hours, minutes and seconds from 100 s on."""
    return f"{seconds:.2g} s" if seconds < 100 else duration(seconds)


def initialisation_lines(start: dict[str, Any], measured_ranks: int) -> list[str]:
    """A line with the costs of the first mixtures; none where there is no sample."""
    if not start["rows"]:
        return []
    times = f", {start['n_init']:,} times" if start["n_init"] > 1 else ""
    where = f"{counted(measured_ranks, 'rank')}, less on more" if start["distributed"] else "rank 0"
    return [
        f"init.method {start['method']}: about {about(start['seconds'])}{times} on {where}, from a sample of "
        f"{start['rows']:,} rows; {start['bytes'] / 1e6:,.0f} MB on rank 0"
    ]
