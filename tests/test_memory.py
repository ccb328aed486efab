"""``compute.memory: auto``: control groups of both versions, and what SLURM grants."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from support import clean_environment

from mpigmm.data import memory
from mpigmm.data.memory import free_memory, group_folders, group_memory, memory_budget, slurm_memory

MB = 1 << 20


def write(folder: Path, **files: object) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / name.replace("__", ".")).write_text(f"{content}\n")


def process(tmp_path: Path, own: str, mount: str) -> Path:
    """The folder of a process in /proc, as far as it tells of control groups."""
    write(tmp_path / "proc", cgroup=own, mountinfo=f"22 1 0:21 / /proc rw,nosuid - proc proc rw\n{mount}")
    return tmp_path / "proc"


def test_every_level_of_version_2_counts_and_cached_files_do_not(tmp_path: Path) -> None:
    top = tmp_path / "a b"
    mount = rf"31 23 0:28 / {tmp_path}/a\040b rw,relatime shared:9 - cgroup2 cgroup2 rw,nsdelegate"
    write(top / "job_1", memory__max=900 * MB, memory__high="max", memory__current=500 * MB)
    write(top / "job_1", memory__stat=f"anon 1\ninactive_file {300 * MB}\nactive_file 7")
    write(top / "job_1" / "step_0", memory__max="max", memory__high=800 * MB, memory__current=10 * MB)
    found = list(group_memory(process(tmp_path, "0::/job_1/step_0", mount)))
    assert found == [790 * MB, 700 * MB]


def test_version_1_below_the_folder_of_a_container(tmp_path: Path) -> None:
    mount = f"35 31 0:32 /docker/x {tmp_path}/memory rw - cgroup cgroup rw,memory\n"
    mount += f"36 31 0:33 / {tmp_path}/cpu rw - cgroup cgroup rw,cpu"
    write(tmp_path / "memory", memory__limit_in_bytes=64 * MB, memory__usage_in_bytes=60 * MB)
    write(tmp_path / "memory", memory__stat=f"inactive_file 1\ntotal_inactive_file {8 * MB}")
    write(tmp_path / "memory" / "inner", memory__limit_in_bytes=2**63 - 4096, memory__usage_in_bytes=5)
    own = "4:cpu:/other\n3:freezer,memory:/docker/x/inner\n0::/"
    assert list(group_memory(process(tmp_path, own, mount))) == [2**63 - 4096 - 5, 12 * MB]
    elsewhere = "3:memory:/of/the/host\n"
    assert list(group_folders(elsewhere, mount)) == [("cgroup", tmp_path / "memory")]


def test_no_control_groups_at_all(tmp_path: Path) -> None:
    assert list(group_memory(tmp_path)) == []
    assert list(group_memory(process(tmp_path, "0::/gone", "31 23 0:28 / /nowhere rw - cgroup2 cgroup2 rw"))) == []


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, None),
        ({"SLURM_MEM_PER_NODE": "0", "SLURM_CPUS_ON_NODE": "8"}, None),
        ({"SLURM_MEM_PER_NODE": "4000"}, 4000 * MB),
        ({"SLURM_MEM_PER_CPU": "500", "SLURM_CPUS_ON_NODE": "8"}, 4000 * MB),
        ({"SLURM_MEM_PER_CPU": "500", "SLURM_CPUS_PER_TASK": "3"}, 3000 * MB),
        ({"SLURM_MEM_PER_CPU": "500"}, 1000 * MB),
        ({"SLURM_MEM_PER_NODE": "9" * 400, "SLURM_MEM_PER_CPU": "-5"}, None),
    ],
)
def test_what_slurm_grants(environment: dict[str, str], expected: int | None) -> None:
    assert slurm_memory(environment, ranks_on_node=2) == expected


def test_the_least_limit_decides(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "node_memory", lambda: 10_000 * MB)
    monkeypatch.setattr(memory, "own_memory", lambda: 100 * MB)
    monkeypatch.setattr(memory, "group_memory", lambda process: iter([8000 * MB, 9000 * MB]))
    monkeypatch.delenv("SLURM_MEM_PER_CPU", raising=False)
    monkeypatch.delenv("SLURM_MEM_PER_NODE", raising=False)
    assert free_memory(4) == 8000 * MB and memory_budget("auto", 4) == 1000 * MB
    monkeypatch.setenv("SLURM_MEM_PER_NODE", "2000")
    assert free_memory(4) == 1600 * MB and memory_budget("auto", 4) == 200 * MB
    monkeypatch.setenv("SLURM_MEM_PER_NODE", "300")
    assert memory_budget("auto", 4) == 0 and memory_budget(7, 4) == 7


@pytest.fixture
def limited_group() -> Iterator[Path]:
    """A control group of 256 MB below that of this process."""
    own, mounts = Path("/proc/self/cgroup").read_text(), Path("/proc/self/mountinfo").read_text()
    kind, parent = next(group_folders(own, mounts), ("", Path()))
    limit = {"cgroup": "memory.limit_in_bytes", "cgroup2": "memory.max"}.get(kind)
    group = parent / f"mpigmm-test-{os.getpid()}"
    try:
        group.mkdir()
    except OSError:
        pytest.skip("no control group can be made here")
    try:
        if limit is None or not (group / limit).exists():
            pytest.skip("the control group here does not limit memory")
        (group / limit).write_text(str(256 * MB))
        yield group
    finally:
        with suppress(OSError):
            time.sleep(0.05)  # the kernel takes a moment to empty it
            group.rmdir()


def test_inside_a_real_control_group(limited_group: Path) -> None:
    code = f"""
import os, pathlib
pathlib.Path({str(limited_group / "cgroup.procs")!r}).write_text(str(os.getpid()))
from mpigmm.data.memory import free_memory
print(free_memory())
"""
    done = subprocess.run(
        [sys.executable, "-c", code], env=clean_environment(), capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert 64 * MB < int(done.stdout) <= 256 * MB
