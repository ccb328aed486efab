"""Standard streams that are closed, full or read by nobody: messages are dropped, results lost are an error."""

from __future__ import annotations

import io
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from support import blobs, clean_environment, write_config, write_rows

from mpigmm.errors import OutputError
from mpigmm.runs.model_file import load_model
from mpigmm.runs.progress import Reporter
from mpigmm.runs.streams import print_result, write_message


class FullStream(io.StringIO):
    """A stream whose disk is full."""

    def flush(self) -> None:
        raise OSError(28, "No space left on device")


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("streams")
    write_rows(place / "x.h5", blobs(500, 2, 2))
    return write_config(
        place / "run.yaml",
        data={"path": str(place / "x.h5")},
        model={"n_components": 2},
        em={"max_iter": 3},
        output={"dir": str(place / "out")},
    )


def shell(words: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a line of shell in which PROGRAM stands for this program with its arguments."""
    command = shlex.join([sys.executable, "-m", "mpigmm", *arguments])
    return subprocess.run(
        ["bash", "-c", words.replace("PROGRAM", command)],
        env=clean_environment(),
        capture_output=True,
        text=True,
        timeout=60,
    )


@pytest.mark.parametrize(
    ("redirected", "exit_code", "message"),
    [
        ("PROGRAM 2>/dev/full", 0, ""),
        ("PROGRAM 2>&-", 0, ""),
        ("PROGRAM >/dev/full", 2, "standard output (No space left on device)"),
        ("PROGRAM <&- >&- 2>&-", 2, ""),
    ],
)
def test_a_fit_is_saved_before_its_messages_matter(config: Path, redirected: str, exit_code: int, message: str) -> None:
    done = shell(redirected, "fit", str(config), "--restart")
    assert (done.returncode, message in done.stderr, "Traceback" in done.stderr) == (exit_code, True, False), done
    out = config.parent / "out"
    assert load_model(out / "model.h5").n_iter == 3
    assert "\ndata:" in (out / "config.yaml").read_text()


@pytest.mark.parametrize("words", ["PROGRAM >/dev/full", "(PROGRAM; echo $? >&2) | true"])
@pytest.mark.parametrize("verb", ["score", "--help"])
def test_a_result_that_cannot_be_printed(config: Path, verb: str, words: str) -> None:
    if verb == "score" and not (config.parent / "out" / "model.h5").exists():
        assert shell("PROGRAM", "fit", str(config)).returncode == 0
    arguments = [str(config.parent / "out" / "model.h5"), str(config.parent / "x.h5")] if verb == "score" else []
    done = shell(words.replace("PROGRAM", "sleep 0.2; PROGRAM") if "|" in words else words, verb, *arguments)
    code = done.stderr.split()[-1] if "|" in words else str(done.returncode)
    assert code == "2" and done.stderr.count("mpigmm: the result cannot be written to standard output") == 1, done
    assert "Exception ignored" not in done.stderr and "Traceback" not in done.stderr


def test_a_usage_error_on_a_full_disk() -> None:
    assert shell("PROGRAM 2>/dev/full", "fit").returncode == 2


@pytest.mark.parametrize("stream", [FullStream(), None], ids=["full", "closed"])
def test_streams_in_process(monkeypatch: pytest.MonkeyPatch, stream: io.StringIO | None) -> None:
    monkeypatch.setattr(sys, "stdout", stream)
    monkeypatch.setattr(sys, "stderr", stream or FullStream())
    write_message("dropped")
    Reporter(10, 1).say("dropped")
    with pytest.raises(OutputError, match="the result cannot be written"):
        print_result("lost")
