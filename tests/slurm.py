"""A SLURM of two virtual nodes on this machine, from the system's own packages, in a directory of its own."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from pathlib import Path

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch")
PACKAGES = "munge slurmctld slurmd slurm-client"
CONFIG = """
ClusterName=mpigmm
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket={place}/munge.socket,cred_expire=5
StateSaveLocation={place}/state
SlurmdSpoolDir={place}/spool-%n
SlurmctldPidFile={place}/slurmctld.pid
SlurmdPidFile={place}/slurmd-%n.pid
SlurmctldLogFile={place}/slurmctld.log
SlurmdLogFile={place}/slurmd-%n.log
SlurmdParameters=config_overrides
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerParameters=sched_interval=2
KillWait=5
ReturnToService=2
NodeName=node1 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[1]} CPUs=16
NodeName=node2 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[2]} CPUs=16
PartitionName=main Nodes=node1,node2 Default=YES MaxTime=INFINITE State=UP
"""


def missing() -> str | None:
    """Why there can be no cluster here, if so."""
    absent = [name for name in PROGRAMS if shutil.which(name, path=search_path()) is None]
    if absent:
        return f"no {', '.join(absent)}: apt-get install {PACKAGES}"
    return None if os.geteuid() == 0 else "the daemons of SLURM want root"


def search_path() -> str:
    return os.environ["PATH"] + ":/usr/sbin:/sbin"


class Cluster:
    """What users do with a cluster.

    Parameters
    ----------
    place : Path
    environment : dict
        That of the jobs.
    """

    def __init__(self, place: Path, environment: dict[str, str]) -> None:
        self.place = place
        self.environment = environment | {"SLURM_CONF": str(place / "slurm.conf")}

    def command(self, *words: str, **environment: str) -> str:
        """What a command of SLURM prints."""
        done = subprocess.run(
            words, env=self.environment | environment, cwd=self.place, capture_output=True, text=True, timeout=30
        )
        assert done.returncode == 0, f"{words}: {done.stderr}"
        return done.stdout.strip()

    def submit(self, *words: str, **environment: str) -> str:
        """Number of a new job."""
        options = ("--parsable", "--output=%j-%A_%a.out", "--cpus-per-task=1")
        return self.command("sbatch", *options, *words, **environment)

    def state(self, job: str) -> str:
        return self.command("squeue", "--noheader", "--states=all", "--format=%T", f"--jobs={job}").split("\n")[0]

    def ended(self, job: str, timeout: float = 60) -> str:
        """A job's last state, once it has ended."""
        return self.until(lambda: self.state(job), lambda state: state not in UNDER_WAY, timeout, job)

    def until(self, ask, is_right, timeout: float, job: str):  # type: ignore[no-untyped-def]
        """The first answer that is right."""
        deadline = time.monotonic() + timeout
        while not is_right(answer := ask()):
            assert time.monotonic() < deadline, f"job {job}: {answer} after {timeout} s\n{self.output()}"
            time.sleep(0.2)
        return answer

    def output(self, job: str = "*") -> str:
        """What a job has printed, or all jobs."""
        files = sorted(self.place.glob(f"{job}-*.out"))
        return "\n".join(f"== {path.name}\n{path.read_text(errors='replace')}" for path in files)


UNDER_WAY = ("PENDING", "RUNNING", "SIGNALING", "COMPLETING", "CONFIGURING", "REQUEUED", "")


@contextmanager
def cluster(place: Path, environment: dict[str, str]) -> Iterator[Cluster]:
    """A cluster that is up, and is gone at the end whatever happens."""
    (place / "state").mkdir()
    key = place / "munge.key"
    key.write_bytes(os.urandom(1024))
    key.chmod(0o600)
    text = CONFIG.format(host=socket.gethostname().split(".")[0], place=place, ports=free_ports(3))
    (place / "slurm.conf").write_text(text)
    munge = [
        f"--{name}={place}/munge.{name.partition('-')[0]}" for name in ("socket", "pid-file", "log-file", "seed-file")
    ]
    found = Cluster(place, environment | {"PATH": f"{environment['PATH']}:/usr/sbin:/sbin"})
    with ExitStack() as stack:
        for command in (
            ["munged", "--foreground", "--force", f"--key-file={key}", *munge],
            ["slurmctld", "-D"],
            ["slurmd", "-D", "-N", "node1"],
            ["slurmd", "-D", "-N", "node2"],
        ):
            stack.enter_context(daemon(command, found.environment))
        found.until(
            lambda: found.command("sinfo", "-h", "-o", "%T") if is_up(found) else "", lambda s: s == "idle", 30, "none"
        )
        yield found
        with suppress(AssertionError):
            found.command("scancel", "--full", "--user=root")


def is_up(found: Cluster) -> bool:
    return subprocess.run(["scontrol", "ping"], env=found.environment, capture_output=True, timeout=30).returncode == 0


@contextmanager
def daemon(command: list[str], environment: dict[str, str]) -> Iterator[None]:
    with subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            time.sleep(0.3)
            yield
        finally:
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(closing(socket.socket())) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]
