"""A run struck at random moments and rerun: ``python tests/faults.py kills|signals|damage COUNT`` or ``soak SECONDS``.

Whatever happened to a run, the same command goes on where its last checkpoint stands and ends in the bits and the log
of the run that nothing happened to. With checkpoints damaged anywhere, it ends in those bits or in a message.
"""

from __future__ import annotations

import faulthandler
import io
import math
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
from support import (
    assert_same_bits,
    blobs,
    clean_environment,
    mpirun,
    ranks_below,
    read_lines,
    read_model,
    write_config,
    write_rows,
)

from mpigmm.errors import AgreedError
from mpigmm.parallel.stop import StopRequest
from mpigmm.runs.checkpoint import load_checkpoint

PHASES = ("survey", "initialisation", "iteration", "checkpoint")
LONGEST = {"survey": 0.02, "initialisation": 0.3, "iteration": 1.0, "checkpoint": 0.001}
"""Seconds within which to strike, once the phase has begun."""

MOMENT = 0.0002
"""Seconds between two looks at the files of a run; a look without end would take a processor from its ranks."""

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2)
KEPT = ("init", "iteration", "mean_log_likelihood", "change", "floored", "reseeded")
TEN_SECONDS, STOP_SECONDS = 10.0, 2.0


@dataclass
class Struck:
    """What was done to a run, and what came of it."""

    phase: str
    processes: list[int]
    moment: float


class Patient:
    """A problem, the run that nothing happens to, and the runs that something does."""

    def __init__(self, place: Path, seed: int) -> None:
        self.place, self.random = place, random.Random(seed)
        self.out = place / "out"
        rows = write_rows(place / "x.h5", blobs(40_000, 6, 12, separation=0.8))
        self.config = write_config(
            place / "run.yaml",
            data={"path": str(rows)},
            model={"n_components": 12},
            init={"n_init": 2, "screening": False},
            em={"tol": 0, "max_iter": 8},
            compute={"tile_rows": 1000, "memory": "64kB"},
            output={"dir": str(self.out), "checkpoint_iterations": 2},
        )
        done = self.run(1)
        assert done.returncode == 0, done.stderr
        self.model, self.log = read_model(self.out / "model.h5"), self.read_log()

    def run(self, n_ranks: int, *options: str, during: Any = None) -> subprocess.CompletedProcess[str]:
        return mpirun(n_ranks, "fit", str(self.config), *options, during=during)

    def read_log(self) -> list[list[Any]]:
        return [[line[name] for name in KEPT] for line in read_lines(self.out / "convergence.jsonl")]

    def phase(self) -> str | None:
        """Where the run stands, by its files; None before it has begun."""
        if not (self.out / ".lock").exists():
            return None
        if any(self.out.glob(".checkpoint.h5.*.tmp")):
            return "checkpoint"
        if (self.out / "checkpoint.h5").exists():
            return "iteration"
        return "initialisation" if (self.out / "convergence.jsonl").exists() else "survey"

    def struck(self, n_ranks: int, strike: Callable[[int, list[int]], None]) -> tuple[Struck, Any]:
        """A fresh run, struck at a random moment of a random phase."""
        shutil.rmtree(self.out, ignore_errors=True)
        wanted, found = self.random.choice(PHASES), []

        def wait_and_strike(process: subprocess.Popen[str]) -> None:
            while self.phase() is None:
                time.sleep(MOMENT)
            ranks = ranks_below(process.pid) if n_ranks else [process.pid]
            while self.phase() != wanted and process.poll() is None:
                time.sleep(MOMENT)
            time.sleep(self.random.random() * LONGEST[wanted])
            found.append(Struck(self.phase() or "start", [process.pid, *ranks], time.monotonic()))
            strike(process.pid, ranks)

        done = self.run(n_ranks, during=wait_and_strike)
        return found[0], done

    def recover(self) -> None:
        """Run the same command again, on any number of ranks: it says where it goes on, and ends as it should."""
        checkpoint, _ = load_checkpoint(self.out)
        again = self.run(self.random.randint(0, 4))
        assert again.returncode == 0, again.stderr
        told = (
            f"resuming start {checkpoint.progress.init + 1} after iteration {checkpoint.progress.iteration}"
            if checkpoint
            else ""
        )
        assert told in again.stderr or "is finished already" in again.stderr, again.stderr
        assert bool(checkpoint) == ("resuming" in again.stderr or "is finished already" in again.stderr)
        assert_same_bits(read_model(self.out / "model.h5"), self.model)
        assert self.read_log() == self.log


def send(number: int, processes: list[int]) -> None:
    """Signal processes, some of which may have ended."""
    for process in processes:
        with suppress(ProcessLookupError):
            os.kill(process, number)


def kills(patient: Patient, count: int) -> Counter[str]:
    """Kill ranks or the launcher, `count` times; how many kills landed in each phase."""
    landed: Counter[str] = Counter()
    for _ in range(count):
        victim = patient.random.choice(("launcher", "rank", "all ranks"))

        def strike(launcher: int, ranks: list[int], victim: str = victim) -> None:
            chosen = {"launcher": [launcher], "rank": ranks and [patient.random.choice(ranks)], "all ranks": ranks}
            send(signal.SIGKILL, chosen[victim])

        struck, _ = patient.struck(patient.random.randint(2, 4), strike)
        await_end(struck)
        patient.recover()
        landed[struck.phase] += 1
    return landed


def signals(patient: Patient, count: int) -> Counter[str]:
    """Signal a rank, all ranks, the launcher or a run without one, `count` times; where the signals landed."""
    landed: Counter[str] = Counter()
    for _ in range(count):
        n_ranks, number = patient.random.choice((0, 2, 3, 4)), patient.random.choice(SIGNALS)
        target = patient.random.choice(("launcher", "rank", "all ranks"))
        if target == "launcher" and n_ranks:
            number = patient.random.choice(forwarded())

        def strike(launcher: int, ranks: list[int], target: str = target, number: int = number) -> None:
            chosen = {"launcher": [launcher], "rank": ranks and [patient.random.choice(ranks)], "all ranks": ranks}
            send(number, chosen[target])

        struck, done = patient.struck(n_ranks, strike)
        seconds = time.monotonic() - struck.moment
        if done.returncode == 0:  # it came after the last tile
            landed["end"] += 1
        else:
            assert done.returncode == 75, (done.returncode, done.stderr)
            assert done.stderr.count(f"interrupted by {number.name}") == 1, done.stderr
            assert seconds < STOP_SECONDS, f"{seconds} s from the signal to the end"
            landed[struck.phase] += 1
            assert_nothing_lost(patient)
        await_end(struck)
        patient.recover()
    return landed


def forwarded() -> tuple[signal.Signals, ...]:
    """Signals that this mpirun passes on to its ranks: MPICH's knows one of the two."""
    version = subprocess.run(["mpirun", "--version"], capture_output=True, text=True, timeout=30).stdout
    return (signal.SIGUSR1,) if "HYDRA" in version else (signal.SIGUSR1, signal.SIGUSR2)


def assert_nothing_lost(patient: Patient) -> None:
    """The checkpoint stands where the log ends."""
    checkpoint, _ = load_checkpoint(patient.out)
    log = patient.out / "convergence.jsonl"
    assert len(checkpoint.history if checkpoint else ()) == (len(read_lines(log)) if log.exists() else 0)


def await_end(struck: Struck) -> None:
    """All processes of a run are gone ten seconds after it was struck."""
    while any(is_running(process) for process in struck.processes):
        assert time.monotonic() < struck.moment + TEN_SECONDS, f"processes live on: {struck}"
        time.sleep(0.02)


def is_running(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def soak(
    patient: Patient, seconds: float, rounds: int = 2, iterations: float = math.inf, n_rows: int = 200_000
) -> tuple[Counter[str], str]:
    """Fit, kill, resume and predict until time and rounds are over, beside one rank that lives as long.

    That rank is suspended once it has made its iterations, each over so many rows. Returns where the kills landed, and
    the other figures in words.
    """
    begin, landed, labels = time.monotonic(), Counter[str](), None
    log = patient.place / "long" / "convergence.jsonl"
    with long_lived(patient.place, n_rows) as companion:
        sizes = [resident(companion.pid)]
        try:
            while time.monotonic() < begin + seconds or landed.total() < rounds or n_lines(log) < iterations < math.inf:
                landed += kills(patient, 1)
                labels = same_labels(patient, labels)
                sizes.append(resident(companion.pid))
                if n_lines(log) >= iterations:
                    companion.send_signal(signal.SIGSTOP)
            companion.send_signal(signal.SIGCONT)
            companion.send_signal(signal.SIGUSR1)
            assert companion.wait(TEN_SECONDS) == 75
        finally:
            companion.kill()
    growth = max(sizes) / sizes[0] - 1
    assert growth < 0.02, f"the long-lived rank grew by {growth:.1%}: {sizes}"
    words = (
        f"{time.monotonic() - begin:.0f} s of soak: the long-lived rank made {n_lines(log)} iterations, "
        f"grew by {growth:.2%}"
    )
    return landed, words


def long_lived(place: Path, n_rows: int) -> subprocess.Popen[str]:
    """A fit without end, once its first iterations are through."""
    rows = write_rows(place / "long.h5", blobs(n_rows, 8, 8))
    command = [sys.executable, "-m", "mpigmm", "fit", str(place / "run.yaml"), f"data.path={rows}"]
    options = [f"output.dir={place / 'long'}", "init.n_init=1", "em.max_iter=1000000000"]
    process = subprocess.Popen([*command, *options], env=clean_environment(), stderr=subprocess.DEVNULL, text=True)
    log = place / "long" / "convergence.jsonl"
    while n_lines(log) < 12:
        assert process.poll() is None
        time.sleep(0.1)
    return process


def n_lines(log: Path) -> int:
    """Lines that a run has logged."""
    return log.read_bytes().count(b"\n") if log.exists() else 0


def same_labels(patient: Patient, before: bytes | None) -> bytes:
    """What predict writes, which is the same in every round."""
    out = patient.place / "labels.h5"
    done = mpirun(2, "predict", str(patient.out / "model.h5"), str(patient.place / "x.h5"), "--out", str(out))
    assert done.returncode == 0, done.stderr
    with h5py.File(out) as file:
        labels = file["labels"][()].tobytes() + file["log_density"][()].tobytes()
    assert before in (None, labels)
    return labels


def resident(process: int) -> int:
    """Bytes of memory that a process holds."""
    return int(Path(f"/proc/{process}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def damage(place: Path, count: int, seed: int = 0) -> Counter[str]:
    """Go on from checkpoints that are damaged anywhere, in this process, `count` times; how these runs ended."""
    from mpigmm.__main__ import serve  # which starts MPI
    from mpigmm.parallel.mpi import MpiComm

    config = write_config(
        place / "small.yaml",
        data={"path": str(write_rows(place / "small.h5", blobs(1000, 3, 3)))},
        model={"n_components": 3},
        em={"tol": 0, "max_iter": 8},
        output={"dir": str(place / "out"), "checkpoint_iterations": 1},
    )

    def fit(*overrides: str) -> int:
        with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
            return serve(MpiComm(), ["fit", str(config), *overrides], StopRequest())

    assert fit() == fit("em.max_iter=4", f"output.dir={place / 'begun'}") == 0
    bits, chance, ends = read_model(place / "out" / "model.h5"), random.Random(seed), Counter[str]()
    for _ in range(count):
        shutil.rmtree(place / "out")
        shutil.copytree(place / "begun", place / "out")
        names = chance.choice((("checkpoint.h5",), ("checkpoint.previous.h5", "checkpoint.h5")))
        for name in names:
            spoil(place / "out" / name, chance)
        faulthandler.dump_traceback_later(60, exit=True)
        try:
            assert fit() == 0
            assert_same_bits(read_model(place / "out" / "model.h5"), bits)
            ends["the right bits"] += 1
        except AgreedError as error:
            assert error.exit_code == 2 and names[-1] in str(error) and len(names) == 2, error
            ends["a message"] += 1
        finally:
            faulthandler.cancel_dump_traceback_later()
    return ends


def spoil(path: Path, chance: random.Random) -> None:
    """Damage a file: some bits, a part that is lost, or a part that is zero; half of the time its mark as well."""
    whole = bytearray(path.read_bytes())
    place = chance.randrange(chance.choice((512, len(whole))))
    how = chance.choice(("bits", "bits", "cut", "zeros"))
    if how == "cut":
        del whole[place:]
    elif how == "zeros":
        whole[place : place + 512] = bytes(len(whole[place : place + 512]))
    for _ in range(chance.randint(1, 4) if how == "bits" else 0):
        whole[chance.randrange(len(whole))] ^= chance.randint(1, 255)
    if whole and chance.random() < 0.5:
        whole[chance.randrange(min(14, len(whole)))] ^= 1
    path.write_bytes(whole)


def describe(landed: Counter[str]) -> str:
    return ", ".join(f"{landed[phase]} in {phase}" for phase in (*PHASES, "end") if landed[phase] or phase != "end")


def main(what: str, amount: str, seed: str = "0") -> None:
    with tempfile.TemporaryDirectory() as place:
        if what == "damage":
            ends = damage(Path(place), int(amount), int(seed))
            print(f"{amount} damaged checkpoints:", ", ".join(f"{count} ended in {end}" for end, count in ends.items()))
            return
        patient = Patient(Path(place), int(seed))
        if what == "soak":
            landed, words = soak(patient, float(amount))
            print(f"{words}; {landed.total()} kills:", describe(landed))
        else:
            print(f"{amount} {what}:", describe({"kills": kills, "signals": signals}[what](patient, int(amount))))


if __name__ == "__main__":
    main(*sys.argv[1:])
