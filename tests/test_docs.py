"""The pages of the documentation: their code runs, their commands exist, and what they are made from is complete."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
import yaml
from support import blobs, write_rows

import mpigmm
from mpigmm.__main__ import serve
from mpigmm.cli import parse
from mpigmm.parallel.mpi import MpiComm
from mpigmm.parallel.stop import StopRequest

ROOT = Path(__file__).parent.parent
PAGES = [str(path.relative_to(ROOT)) for path in (ROOT / "README.md", *sorted(ROOT.glob("docs/**/*.md")))]
RUN = (
    "docs/quickstart.md",
    *(f"docs/recipes/{name}.md" for name in ("csv", "nan", "choose-k", "anomalies", "regression")),
)
"""Pages whose commands are run, on one process; those of the others are parsed."""

BLOCK = re.compile(r"^```(python|bash|yaml)\n(.*?)^```", re.MULTILINE | re.DOTALL)
COMMAND = re.compile(r"^(?:mpirun .*?|srun .*?)?(?:python -m )?mpigmm (?=\w)(.*)", re.MULTILINE)
PRINTED = re.compile(r"^ *print\(.*\)  # (.*)", re.MULTILINE)


@pytest.fixture(autouse=True)
def in_a_directory_with_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_rows(tmp_path / "rows.h5", blobs(300, 4, 3))
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("page", PAGES)
def test_the_blocks_of_a_page_run_one_after_another(
    page: str, comm: MpiComm, capsys: pytest.CaptureFixture[str]
) -> None:
    """An error names the page and the line."""
    text = (ROOT / page).read_text()
    if page == "docs/quickstart.md":  # it makes its rows itself
        Path("rows.h5").unlink()
    names: dict[str, object] = {}
    for block in BLOCK.finditer(text):
        if block[1] == "python":
            lines_before = text[: block.start(2)].count("\n")
            exec(compile("\n" * lines_before + block[2], page, "exec"), names)
            printed = capsys.readouterr().out
            assert all(expected in printed for expected in PRINTED.findall(block[2])), printed
        elif block[1] == "yaml":
            save_settings(text[: block.start()], block[2])
        else:
            for command in COMMAND.findall(block[2]):
                command = command.partition(" > ")[0]  # what it prints goes to a file
                arguments = [existing(argument) for argument in shlex.split(command, comments=True)]
                code = serve(comm, arguments, StopRequest()) if page in RUN else parsed(arguments)
                assert code == 0, arguments


def save_settings(before: str, settings: str) -> None:
    """Write a block of YAML to the file that the paragraph before it names, if it does."""
    found = re.search(r"Save this as `(\S+\.yaml)`:\s*\Z", before)
    if found:
        Path(found[1]).write_text(settings)
    yaml.safe_load(settings)


def existing(argument: str) -> str:
    """An argument; if it is a config file that is neither here nor in the repository, one is made."""
    if (ROOT / argument).is_file():
        return str(ROOT / argument)
    if argument.endswith(".yaml") and not Path(argument).exists():
        Path(argument).write_text("data: {path: rows.h5}\n")
    return argument


def parsed(arguments: list[str]) -> int:
    """The exit code of the command line alone."""
    return parse(arguments)[1]


@pytest.mark.parametrize("page", [*PAGES, "CHANGELOG.md"])
def test_links_to_files_work_in_the_repository(page: str) -> None:
    """The site has them, too, as its strict build finds; but it leaves out the README and the changelog."""
    for link in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", (ROOT / page).read_text()):
        assert (ROOT / page).parent.joinpath(link).exists(), link


def test_the_api_page_has_all_public_names() -> None:
    page = (ROOT / "docs/api.md").read_text().splitlines()
    assert all(f"::: mpigmm.{name}" in page for name in mpigmm.__all__ if not name.startswith("_"))


def test_the_citation_names_this_version() -> None:
    assert yaml.safe_load((ROOT / "CITATION.cff").read_text())["version"] == mpigmm.__version__
