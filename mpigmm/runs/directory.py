"""``output.dir``: made, locked and filled by root."""

from __future__ import annotations

import fcntl
import json
import os
import time
from pathlib import Path
from typing import Any

from mpigmm.data.files import remedy, write_whole
from mpigmm.errors import OutputError

LOCK_SECONDS = 10.0
OUTPUTS = ("model.h5", "checkpoint.h5", "checkpoint.previous.h5", "convergence.jsonl", "summary.json", "config.yaml")


class RunDirectory:
    """The directory of a run, held by one run at a time.

    Parameters
    ----------
    path : str
        Made where it does not exist.
    """

    def __init__(self, path: str) -> None:
        self.path = Path(path)
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self._lock = open(self.path / ".lock", "a+")  # noqa: SIM115
        except OSError as error:
            raise OutputError(
                f"output.dir: {self.path} cannot be written to ({error.strerror}); {remedy(error)}"
            ) from None
        self._take_lock()

    def __truediv__(self, name: str) -> Path:
        return self.path / name

    def close(self) -> None:
        """Let another run have the directory."""
        self._lock.close()

    def clear(self) -> None:
        """Remove what an earlier run left."""
        for name in OUTPUTS:
            (self.path / name).unlink(missing_ok=True)

    def write_json(self, name: str, value: dict[str, Any]) -> None:
        """Write a JSON file whole."""
        write_whole(self / name, json.dumps(value, indent=2).encode() + b"\n")

    def _take_lock(self) -> None:
        deadline = time.monotonic() + LOCK_SECONDS
        while True:
            try:
                fcntl.lockf(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except (BlockingIOError, PermissionError):
                if time.monotonic() > deadline:
                    raise OutputError(
                        f"output.dir: {self.path} is in use by another run ({self._holder()}); wait for it to end, "
                        "or choose another output.dir"
                    ) from None
                time.sleep(0.2)
            except OSError:
                return  # a file system without locks: best effort
        self._lock.truncate(0)
        job = os.environ.get("SLURM_JOB_ID")
        self._lock.write(f"process {os.getpid()} on {os.uname().nodename}" + (f", job {job}" if job else ""))
        self._lock.flush()

    def _holder(self) -> str:
        self._lock.seek(0)
        return self._lock.read().strip() or "unknown"
