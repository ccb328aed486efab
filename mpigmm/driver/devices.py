"""What each rank computes with: a GPU or its processors, and what share of the rows it takes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from mpigmm.core.backend import (
    DOUBLE,
    NoDeviceError,
    has_driver,
    open_gpu,
    usable,
    visible_gpus,
)
from mpigmm.core.cuda import CudaLoops
from mpigmm.core.tile import default_gpu_rows, default_rows
from mpigmm.errors import UserError
from mpigmm.parallel.comm import Comm, host

CPU = "cpu"


@dataclass(frozen=True)
class Devices:
    """The devices of all ranks.

    Attributes
    ----------
    kinds : tuple of str
        Of each rank: ``cpu``, or the name of its GPU.
    sharing : tuple of int
        Ranks among which each rank's GPU is shared; 1 for processors.
    engine : CudaLoops or None
        The loops of this rank's own GPU.
    cupy : str or None
        Version of CuPy, where a rank uses it.
    note : str or None
        What the user should know.
    """

    kinds: tuple[str, ...]
    sharing: tuple[int, ...]
    engine: CudaLoops | None = None
    cupy: str | None = None
    note: str | None = None

    @classmethod
    def cpus(cls, size: int) -> Devices:
        """Processors for all ranks."""
        return cls((CPU,) * size, (1,) * size)

    @property
    def device(self) -> str:
        """cpu, gpu, or mixed."""
        n_cpus = self.kinds.count(CPU)
        return CPU if n_cpus == len(self.kinds) else "mixed" if n_cpus else "gpu"

    @property
    def mixed(self) -> bool:
        """Whether ranks compute with different kinds, so that the last bits of a sum depend on who takes part."""
        return len(set(self.kinds)) > 1

    def default_rows(self, n_features: int, n_components: int, dtype: np.dtype[Any] = DOUBLE) -> int:
        """Rows of a tile: those of GPUs where all ranks have one."""
        rows = default_rows if CPU in self.kinds else default_gpu_rows
        return rows(n_features, n_components, dtype)

    def counts(self) -> dict[str, int]:
        """Ranks of each kind."""
        return dict(sorted(Counter(self.kinds).items()))


def choose_devices(comm: Comm, wanted: str) -> Devices:
    """Give every rank its device, as ``compute.device`` says. Collective; raises `AgreedError`."""
    if wanted == CPU:
        return Devices.cpus(comm.size)
    with comm.together():
        seen, reason = look(wanted)
    places = comm.allgather((host(), seen))
    addresses = assign(places, share=wanted == "gpu")
    mine = addresses[comm.rank]
    with comm.together():
        engine, reason = (None, reason) if mine is None else take(seen.index(mine), wanted)
    gpu = engine and engine.backend
    told = comm.allgather((gpu.name, gpu.version, None) if gpu else (CPU, None, reason and f"{host()}: {reason}"))
    kinds, reasons = tuple(kind for kind, _, _ in told), [reason for _, _, reason in told if reason]
    users = Counter(zip((node for node, _ in places), addresses, strict=True))
    sharing = tuple(
        users[node, address] if kind != CPU else 1
        for (node, _), address, kind in zip(places, addresses, kinds, strict=True)
    )
    devices = Devices(kinds, sharing, engine, max((version for _, version, _ in told if version), default=None))
    return replace(devices, note=describe(devices, reasons))


def look(wanted: str) -> tuple[list[str], str | None]:
    """Addresses of the GPUs that this rank sees, and why there are none where some may be expected."""
    if wanted == "auto" and not has_driver():
        return [], None
    try:
        return visible_gpus(), None
    except NoDeviceError as error:
        return [], refused(error, wanted)


def take(number: int, wanted: str) -> tuple[CudaLoops | None, str | None]:
    """The loops of this rank's GPU, or why they cannot be had."""
    try:
        with usable():
            return CudaLoops(open_gpu(number)), None
    except NoDeviceError as error:
        return None, refused(error, wanted)


def refused(error: NoDeviceError, wanted: str) -> str:
    """The reason in words, where the processors can do instead; raises `UserError` where a GPU was asked for."""
    if wanted == "gpu":
        raise UserError(f"compute.device: gpu cannot be had on {host()}: {error}; or set compute.device: cpu")
    return str(error)


def assign(places: Sequence[tuple[str, Sequence[str]]], share: bool) -> list[str | None]:
    """The address of each rank's GPU, from its node and the addresses that it sees: the one that fewest others have.

    Where GPUs are not to be shared, what is left over goes without.
    """
    users: Counter[tuple[str, str]] = Counter()
    chosen: list[str | None] = []
    for node, seen in places:
        least = min((users[node, address] for address in seen), default=1)
        free = [address for address in seen if users[node, address] == least]
        chosen.append(free[0] if free and (share or not least) else None)
        users.update((node, address) for address in free[:1] if chosen[-1])
    return chosen


def describe(devices: Devices, reasons: Sequence[str]) -> str | None:
    """What the user should know of the choice, in one line."""
    if devices.mixed:
        counts = ", ".join(f"{count} on {kind}" for kind, count in devices.counts().items())
        why = f" ({reasons[0]})" if reasons else ""
        return (
            f"ranks compute on unlike devices: {counts}{why}; the last bits of the result are not promised then: "
            "set compute.device: cpu for that"
        )
    if reasons:
        return f"the processors compute, since no GPU can be used on {reasons[0]} (compute.device: auto)"
    return None


def label(devices: Devices, rank: int, n_threads: int) -> str:
    """What the speed of a rank is filed under."""
    kind, sharing = devices.kinds[rank], devices.sharing[rank]
    return f"{kind}, {n_threads} threads" if kind == CPU else f"{kind}, shared by {sharing}"
