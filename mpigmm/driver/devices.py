"""The device of each rank, a GPU or its processors, and the array operations that it computes with there."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from mpigmm.core.gpu.arrays import NoDeviceError
from mpigmm.core.gpu.discovery import has_driver, open_gpu, usable, visible_gpus
from mpigmm.core.ops import OPS_NAMES, best_ops, ops_by_name
from mpigmm.core.ops.base import Ops
from mpigmm.core.ops.cuda import CudaOps
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
        For each rank, the number of ranks that use its GPU; 1 for processors.
    ops : CudaOps or None
        Array operations of this rank's GPU, where it has one.
    cupy : str or None
        Newest version of CuPy that a rank uses; None if none does.
    note : str or None
        A message to the user about the choice.
    """

    kinds: tuple[str, ...]
    sharing: tuple[int, ...]
    ops: CudaOps | None = None
    cupy: str | None = None
    note: str | None = None

    @classmethod
    def cpus(cls, size: int) -> Devices:
        """Processors for all ranks."""
        return cls((CPU,) * size, (1,) * size)

    @property
    def n_ranks(self) -> int:
        return len(self.kinds)

    @property
    def device(self) -> str:
        """cpu, gpu, or mixed."""
        n_cpus = self.kinds.count(CPU)
        return CPU if n_cpus == len(self.kinds) else "mixed" if n_cpus else "gpu"

    @property
    def mixed(self) -> bool:
        """Whether ranks compute on different kinds of devices; the last bits then depend on which ranks take part."""
        return len(set(self.kinds)) > 1

    def release(self) -> None:
        """Return to this rank's GPU, if any, the memory that no array uses any more."""
        if self.ops is not None:
            self.ops.arrays.release()

    def counts(self) -> dict[str, int]:
        """Ranks of each kind."""
        return dict(sorted(Counter(self.kinds).items()))


def choose_devices(comm: Comm, wanted: str) -> Devices:
    """The devices of all ranks, from ``compute.device``. Collective; raises `AgreedError`."""
    if wanted == CPU:
        return Devices.cpus(comm.size)
    with comm.together():
        seen, reason = find_gpus(wanted)
    visible = comm.allgather((host(), seen))
    addresses = assign(visible, share=wanted == "gpu")
    mine = addresses[comm.rank]
    with comm.together():
        ops, reason = (None, reason) if mine is None else open_ops(seen.index(mine), wanted)
    gpu = ops and ops.arrays
    told = comm.allgather((gpu.name, gpu.version, None) if gpu else (CPU, None, reason and f"{host()}: {reason}"))
    kinds, reasons = tuple(kind for kind, _, _ in told), [reason for _, _, reason in told if reason]
    users = Counter(zip((node for node, _ in visible), addresses, strict=True))
    sharing = tuple(
        users[node, address] if kind != CPU else 1
        for (node, _), address, kind in zip(visible, addresses, kinds, strict=True)
    )
    devices = Devices(kinds, sharing, ops, max((version for _, version, _ in told if version), default=None))
    return replace(devices, note=choice_note(devices, reasons))


def find_gpus(wanted: str) -> tuple[list[str], str | None]:
    """Addresses of the GPUs that this rank sees, and the reason if there are none in spite of a driver or a request."""
    if wanted == "auto" and not has_driver():
        return [], None
    try:
        return visible_gpus(), None
    except NoDeviceError as error:
        return [], refused(error, wanted)


def open_ops(number: int, wanted: str) -> tuple[CudaOps | None, str | None]:
    """Array operations of the GPU with this number; or None, and the reason."""
    try:
        with usable():
            return CudaOps(open_gpu(number)), None
    except NoDeviceError as error:
        return None, refused(error, wanted)


def refused(error: NoDeviceError, wanted: str) -> str:
    """The text of an error where ``compute.device`` is auto; raises `UserError` where it is gpu."""
    if wanted == "gpu":
        raise UserError(f"compute.device: gpu cannot be had on {host()}: {error}; or set compute.device: cpu")
    return str(error)


def assign(visible: Sequence[tuple[str, Sequence[str]]], share: bool) -> list[str | None]:
    """The address of each rank's GPU: of those visible to the rank, the one that the fewest ranks have so far.

    Parameters
    ----------
    visible : sequence of (str, sequence of str)
        For each rank, its node and the addresses of the GPUs that are visible to it.
    share : bool
        Whether several ranks may use one GPU.

    Returns
    -------
    addresses : list of str or None
        None for a rank that sees no GPU, or only GPUs of other ranks while `share` is false.
    """
    users: Counter[tuple[str, str]] = Counter()
    chosen: list[str | None] = []
    for node, seen in visible:
        least = min((users[node, address] for address in seen), default=1)
        free = [address for address in seen if users[node, address] == least]
        chosen.append(free[0] if free and (share or not least) else None)
        users.update((node, address) for address in free[:1] if chosen[-1])
    return chosen


def choice_note(devices: Devices, reasons: Sequence[str]) -> str | None:
    """A message to the user where ranks compute on different devices, or a GPU was found and cannot be used."""
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
    """The name under which the speed of a rank is recorded."""
    kind, sharing = devices.kinds[rank], devices.sharing[rank]
    return f"{kind}, {n_threads} threads" if kind == CPU else f"{kind}, shared by {sharing}"


def common_ops(comm: Comm) -> str:
    """Name of the fastest array operations on the host that every rank has. Collective."""
    with comm.together():
        own = OPS_NAMES.index(best_ops())
    return OPS_NAMES[-int(comm.max(np.array([-float(own)]))[0])]


def load_ops(name: str) -> Ops:
    """The array operations on the host of that name; raises `UserError`."""
    try:
        return ops_by_name(name)
    except ImportError as error:
        raise UserError(
            f"{name}, the array operations that this run computes with, cannot be had on {host()}: {error}; run on "
            "processors like those that it began on, with mpigmm installed where there is a C compiler, or add "
            "--restart to start over"
        ) from None
