"""The rules of the layers: imports point down, and a foreign library has one home."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "mpigmm"
ORDER = ["__main__", "cli", "config", "commands", "driver", "runs", "data", "parallel", "core"]
ORDER += ["requests", "options", "errors", "version", "rows"]
APART = {"data", "parallel", "core"}
HOMES = {
    "mpi4py": ("parallel/comm.py",),
    "threadpoolctl": ("parallel/",),
    "cupy": ("core/gpu/",),
    "scipy": ("core/",),
    "h5py": ("data/", "runs/hdf5.py"),
    "pydantic": ("config.py",),
    "yaml": ("config.py",),
    "typer": ("cli.py",),
    "rich": ("runs/progress.py",),
    "matplotlib": ("runs/plots.py",),
}
MODULES = sorted(PACKAGE.rglob("*.py"))


def imported(path: Path) -> set[str]:
    """Dotted names of all modules that a file imports, at any depth."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def layer(dotted: str) -> str:
    return dotted.split(".")[1] if "." in dotted else "mpigmm"


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports(path: Path) -> None:
    place = path.relative_to(PACKAGE).as_posix()
    own = place.split("/")[0].removesuffix(".py")
    for name in imported(path):
        if name.startswith("mpigmm.") and layer(name) in ORDER and own in ORDER:
            other = layer(name)
            assert ORDER.index(own) <= ORDER.index(other), f"{place} imports {name}, which lies above it"
            assert own == other or not {own, other} <= APART, f"{place} imports {name} from beside it"
        homes = HOMES.get(name.split(".")[0])
        assert homes is None or place.startswith(homes), f"{place} imports {name}, whose home is {homes}"


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_what_is_printed_passes_the_functions_that_may_fail(path: Path) -> None:
    """Typer's own output is collected, and passes them then; a process of its own answers through its output."""
    if path.relative_to(PACKAGE).as_posix() in ("runs/streams.py", "cli.py", "runs/guarded.py"):
        return
    for node in ast.walk(ast.parse(path.read_text())):
        assert not (isinstance(node, ast.Name) and node.id == "print"), f"print in line {node.lineno}"
        is_stream = isinstance(node, ast.Attribute) and node.attr in ("stdout", "stderr", "__stdout__", "__stderr__")
        assert not is_stream or path.name == "progress.py", f"a standard stream in line {node.lineno}"
