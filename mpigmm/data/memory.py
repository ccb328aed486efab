"""Memory that a rank may use: what is free on the node, within the limits of control groups and of SLURM."""

from __future__ import annotations

import os
import re
import resource
from collections.abc import Iterator, Mapping
from pathlib import Path

MEGABYTE = 1 << 20

GROUP_FILES = {
    "cgroup2": (("memory.max", "memory.high"), "memory.current", "inactive_file"),
    "cgroup": (("memory.limit_in_bytes",), "memory.usage_in_bytes", "total_inactive_file"),
}
"""For each type of control groups' file system: the files with limits, the file with the bytes in use, and the line of
memory.stat with those of them that only cache files, which the kernel frees when memory is needed."""


def memory_budget(wanted: int | str, ranks_on_node: int) -> int:
    """Bytes of rows that a rank may keep in memory; `auto`: its share of half of the node's free memory."""
    if wanted != "auto":
        return int(wanted)
    return free_memory(ranks_on_node) // 2 // ranks_on_node


def free_memory(ranks_on_node: int = 1) -> int:
    """Bytes that are free for the ranks on this node.

    The minimum of what is left of the node's memory, of each limit of this process's control groups, and of the memory
    that SLURM grants.
    """
    free = [node_memory(), *group_memory(Path("/proc/self"))]
    granted = slurm_memory(os.environ, ranks_on_node)
    if granted is not None:
        free.append(granted - ranks_on_node * own_memory())
    return max(0, min(free))


def node_memory() -> int:
    """Bytes of free memory on this node."""
    found = re.search(r"MemAvailable:\s+(\d+) kB", Path("/proc/meminfo").read_text())
    return int(found[1]) * 1024 if found else os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2


def own_memory() -> int:
    """Bytes of memory that this process uses."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def peak_memory() -> int:
    """Peak memory of this process in bytes, without the memory that its parent used before the fork."""
    found = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    return int(found[1]) * 1024 if found else peak_since_fork()


def peak_since_fork() -> int:
    """Peak memory of this process in bytes, the parent's at the fork included; reads no file."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def slurm_memory(environment: Mapping[str, str], ranks_on_node: int) -> int | None:
    """Bytes of a node that SLURM grants to the job or step; None where it sets no limit."""
    per_node = positive(environment, "SLURM_MEM_PER_NODE")
    if per_node is not None:
        return per_node * MEGABYTE
    per_cpu = positive(environment, "SLURM_MEM_PER_CPU")
    if per_cpu is None:
        return None
    cpus = positive(environment, "SLURM_CPUS_ON_NODE")
    if cpus is None:
        cpus = ranks_on_node * (positive(environment, "SLURM_CPUS_PER_TASK") or 1)
    return per_cpu * cpus * MEGABYTE


def positive(environment: Mapping[str, str], name: str) -> int | None:
    """The value of an environment variable, if it is a whole number above zero; else None."""
    value = environment.get(name, "")
    return int(value) if re.fullmatch(r"[0-9]{1,18}", value) and int(value) > 0 else None


def group_memory(process: Path) -> Iterator[int]:
    """Bytes that are left of each limit of the control groups that contain a process, given its folder in /proc."""
    try:
        own, mounts = (process / "cgroup").read_text(), (process / "mountinfo").read_text()
    except OSError:
        return
    for kind, folder in group_folders(own, mounts):
        limits, used, cached = GROUP_FILES[kind]
        for limit in limits:
            try:
                left = int((folder / limit).read_text()) - int((folder / used).read_text())
            except (OSError, ValueError):  # no limit: the file is not there, or says "max"
                continue
            yield left + cached_bytes(folder, cached)


def cached_bytes(folder: Path, line: str) -> int:
    """Bytes in use by a control group that only cache files, from a line of its memory.stat."""
    try:
        found = re.search(rf"^{line} (\d+)$", (folder / "memory.stat").read_text(), re.MULTILINE)
    except OSError:
        return 0
    return int(found[1]) if found else 0


def group_folders(own: str, mounts: str) -> Iterator[tuple[str, Path]]:
    """File system type and folder of every control group that limits a process's memory, from its own up to the root.

    Parameters
    ----------
    own : str
        Content of /proc/PID/cgroup: lines ``number:controllers:path``, without controllers in version 2.
    mounts : str
        Content of /proc/PID/mountinfo; see cgroups(7) and proc(5).
    """
    paths = {}
    for line in own.splitlines():
        _, controllers, path = line.split(":", 2)
        if not controllers or "memory" in controllers.split(","):
            paths["cgroup" if controllers else "cgroup2"] = path
    for line in mounts.splitlines():
        before, _, after = line.partition(" - ")
        root, mount_point = (unescaped(field) for field in before.split()[3:5])
        kind, _, options = after.split()[:3]
        if kind in paths and (kind == "cgroup2" or "memory" in options.split(",")):
            top = Path(mount_point)
            # In a container the path may be that of the host, which is not below the mount.
            below = os.path.relpath(paths[kind], root)
            folder = top if below.startswith("..") else top / below
            for level in (folder, *folder.parents):
                if level.is_relative_to(top):
                    yield kind, level


def unescaped(field: str) -> str:
    """A field of mountinfo with its octal escapes, of spaces for example, replaced by the characters."""
    return re.sub(r"\\([0-7]{3})", lambda found: chr(int(found[1], 8)), field)
