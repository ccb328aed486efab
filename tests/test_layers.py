"""The rules of the layers: imports point down and in no circle, and a foreign library has one home."""

from __future__ import annotations

import ast
from dataclasses import fields
from pathlib import Path
from typing import get_type_hints

import pytest
from layers import (
    Package,
    circles,
    defined,
    misplaced,
    options_named,
    put_off,
    reached,
    same_names,
    strayed,
    type_checking,
)

from mpigmm.options import FitOptions

PACKAGE = Path(__file__).parent.parent / "mpigmm"
MPIGMM = Package(PACKAGE)
FILES = sorted(PACKAGE.rglob("*.py"))

LAYERS = (
    "__main__",
    "cli",
    "config_text",
    "estimator | selection",
    "api",
    "fitted",
    "fitted_rows | fitted_plot",
    "exchange | calls | own_rows | settings | row_arguments",
    "config",
    "option_values | quantities",
    "commands",
    "driver",
    "runs",
    "data | parallel | core",
    "requests",
    "options",
    "errors | version | rows",
)
"""The package, from top to bottom: ``a | b`` stand beside each other and do not import one another."""

CORE = (
    "algorithms",
    "priors",
    "precision sum_format moments",
    "draw marginal conditional merging synthetic_mixture",
    "mixture",
    "covariances | estep",
    "factors statistics kept_statistics",
    "data_summary row_checks sampling adjusted_rand quantile",
    "ops",
    "gpu",
    "tile tile_rows",
    "arrays chunks exact triangle matrices raw_types",
)
"""`mpigmm.core`, from top to bottom: ``a b`` may import one another, though in no circle."""

HOMES = {
    "mpi4py": ("parallel/mpi.py",),
    "threadpoolctl": ("parallel/",),
    "cupy": ("core/gpu/",),
    "scipy": ("core/",),
    "h5py": ("data/", "runs/hdf5.py"),
    "flowio": ("data/conversion/",),
    "pyarrow": ("data/",),
    "pydantic": ("config.py",),
    "yaml": ("config.py",),
    "typer": ("cli.py",),
    "sklearn": ("estimator/scikit.py", "exchange.py"),
    "torch": ("exchange.py",),
    "rich": ("runs/progress.py",),
    "matplotlib": ("runs/plots/",),
}
"""Where foreign libraries are imported; NumPy is at home everywhere, and what is not listed nowhere."""

PUT_OFF = {
    ("__main__.py", "mpigmm.parallel.mpi"): "help and the version need no MPI, which takes longer to start",
    ("__main__.py", "mpigmm.parallel.comm"): "it loads NumPy, which help and the version do not need",
    ("__main__.py", "mpigmm.cli"): "only root reads the command line, and so loads typer, pydantic and yaml",
    ("__main__.py", "import_module"): "a verb loads its own module alone",
    ("__init__.py", "import_module"): "importing the package loads nothing but the version and the errors",
    ("api.py", "mpigmm.driver.file_rows"): "it loads h5py, which rows in memory do not need, and which may start MPI",
    ("api.py", "mpigmm.driver.recorder"): "it loads h5py, as before",
    ("selection.py", "mpigmm.driver.selection_files"): "it loads h5py, as before",
    ("driver/selection_files.py", "mpigmm.runs.plots"): "it loads matplotlib, which may be missing",
    ("calls.py", "mpigmm.parallel"): "a process that fits alone does not start MPI",
    ("fitted.py", "mpigmm.runs.model_file"): "it loads h5py, as before",
    ("fitted.py", "mpigmm.runs.owned"): "it loads h5py, as before",
    ("exchange.py", "sklearn.mixture"): "it takes a second to load, and may be missing",
    ("exchange.py", "torch"): "it takes seconds to load, and may be missing",
    ("settings.py", "mpigmm.config"): "only root needs pydantic and yaml, unless the ranks give different settings",
    ("data/conversion/rows_file.py", "mpigmm.data.parquet_file"): "it loads pyarrow.parquet, which only Parquet needs",
    (
        "option_values.py",
        "mpigmm.core.algorithms",
    ): "NumPy, which it imports, takes longer than --help",
    ("option_values.py", "mpigmm.core.covariances"): "NumPy, as before",
    ("option_values.py", "mpigmm.core.priors"): "NumPy, as before",
    ("driver/memory_recorder.py", "mpigmm.runs.model_file"): "it loads h5py, which starts MPI if it was built with it",
    ("core/matrices.py", "scipy.linalg.lapack"): "only full and tied need it, and it opens hundreds of files",
    ("core/gpu/discovery.py", "cupy"): "it takes seconds to load, and is missing where there is no GPU",
    ("core/algorithms/initialise.py", "scipy.sparse"): "only root needs it, and it opens hundreds of files",
    ("commands/convert.py", "mpigmm.data.conversion.inputs"): "it loads pyarrow, which may not fit the NumPy here",
    ("data/formats.py", "mpigmm.data.parquet_file"): "it loads pyarrow, which only Parquet files need",
    ("data/datasets.py", "import_module"): "only files with compressed rows need hdf5plugin, which may be missing",
    ("commands/plot.py", "mpigmm.runs"): "plots: only root draws, and so loads matplotlib, which may be missing",
    ("fitted_plot.py", "mpigmm.core.marginal"): "only plot needs it, and it loads scipy.special",
    ("fitted_plot.py", "mpigmm.runs"): "plots: matplotlib, which takes long to load and may be missing",
    ("runs/plots/mixtures.py", "matplotlib"): "pyplot: it chooses a window system, which pictures in files do not need",
    ("runs/progress.py", "rich.console"): "only a terminal needs it",
    ("runs/progress.py", "rich.live"): "only a terminal needs it",
}
"""Imports inside functions, by file and module, with the reason."""

OPTIONS = {
    "--restart",
    *(f"{section}.{each.name}" for section, options in get_type_hints(FitOptions).items() for each in fields(options)),
}
"""Words of the user's, which the messages of the lower layers do not name: the layers above add them."""

UNREACHED = [
    ("commands.score", "driver.recorder"),
    ("commands.predict", "driver.recorder"),
    *(("", heavy) for heavy in ("parallel.mpi", "core.mixture", "config")),
]
"""Modules of which the first (``""``: the package itself) may not import the second, not even through others."""

GENERIC, SHARED = {"describe"}, {"run", "FORMAT", "FORMAT_VERSION"}
"""Names that only one function may have; names that several modules of a layer may define."""


def hold(findings: list[str]) -> None:
    """Fail where a check has found anything, and list it."""
    if findings:
        pytest.fail("\n".join(findings), pytrace=False)


def test_imports_point_down() -> None:
    hold(misplaced(MPIGMM, LAYERS))


def test_imports_point_down_inside_core() -> None:
    hold(misplaced(MPIGMM, CORE, "core."))


def test_a_verb_imports_no_other() -> None:
    verbs = {name.split(".")[1] for name in MPIGMM.modules if name.startswith("commands.")}
    hold(misplaced(MPIGMM, [" | ".join(sorted(verbs))], "commands."))
    assert all("run" in defined(MPIGMM.modules[f"commands.{verb}"]) for verb in verbs)


def test_imports_form_no_circle() -> None:
    hold(circles(MPIGMM))


def test_imports_hide_nowhere() -> None:
    hold(type_checking(MPIGMM))


def test_imports_inside_functions_have_a_reason() -> None:
    hold(put_off(MPIGMM, PUT_OFF))


def test_foreign_libraries_stay_at_home() -> None:
    hold(strayed(MPIGMM, HOMES, everywhere=["numpy"]))


def test_what_imports_what_through_others() -> None:
    hold(reached(MPIGMM, UNREACHED))


def test_the_mathematics_and_the_communication_know_no_options() -> None:
    hold(options_named(MPIGMM, OPTIONS, ["core/", "parallel/"]))


def test_a_name_stands_for_one_thing() -> None:
    hold(same_names(MPIGMM, GENERIC, SHARED))


BROKEN = {
    "a circle": (
        {"core/a.py": "import mpigmm.core.b", "core/b.py": "from mpigmm.core import a"},
        circles,
        "mpigmm.core.a -> mpigmm.core.b -> mpigmm.core.a",
    ),
    "a circle through the __init__ of a package": (
        {
            "core/tile.py": "from mpigmm.core.ops.base import Ops",
            "core/ops/__init__.py": "from mpigmm.core.ops.numpy import NUMPY",
            "core/ops/base.py": "Ops = object",
            "core/ops/numpy.py": "import mpigmm.core.tile",
        },
        circles,
        "mpigmm.core.ops -> mpigmm.core.ops.numpy -> mpigmm.core.tile -> mpigmm.core.ops",
    ),
    "a circle by a relative import": (
        {"core/a.py": "from . import b", "core/b.py": "from .a import x"},
        circles,
        "mpigmm.core.a -> mpigmm.core.b -> mpigmm.core.a",
    ),
    "a circle inside a function": (
        {"core/a.py": "def f():\n    from mpigmm.core import b", "core/b.py": "import mpigmm.core.a"},
        circles,
        "mpigmm.core.a -> mpigmm.core.b -> mpigmm.core.a",
    ),
    "a circle behind TYPE_CHECKING": (
        {"core/a.py": "if TYPE_CHECKING:\n    import mpigmm.core.b", "core/b.py": "import mpigmm.core.a"},
        circles,
        "mpigmm.core.a -> mpigmm.core.b -> mpigmm.core.a",
    ),
    "an import behind TYPE_CHECKING": (
        {"core/a.py": "import typing\nif typing.TYPE_CHECKING:\n    import mpigmm.core.b", "core/b.py": ""},
        type_checking,
        "core/a.py:2 names TYPE_CHECKING",
    ),
    "an import of a layer above": (
        {"runs/a.py": "from mpigmm.commands import fit", "commands/fit.py": ""},
        lambda package: misplaced(package, LAYERS),
        "runs/a.py:1 imports commands.fit, which lies above runs",
    ),
    "an import of a layer beside": (
        {"core/a.py": "def f():\n    import mpigmm.data.source", "data/source.py": ""},
        lambda package: misplaced(package, LAYERS),
        "core/a.py:2 imports data.source, which stands beside core",
    ),
    "an import of a layer above inside core": (
        {"core/ops/a.py": "from mpigmm.core.estep.base import Kernel", "core/estep/base.py": ""},
        lambda package: misplaced(package, CORE, "core."),
        "core/ops/a.py:1 imports core.estep.base, which lies above ops",
    ),
    "a module without a place": (
        {"core/new.py": ""},
        lambda package: misplaced(package, CORE, "core."),
        "core/new.py: core.new has no place in the order",
    ),
    "an import inside a function without a reason": (
        {"core/a.py": "def f():\n    import mpigmm.core.b", "core/b.py": ""},
        lambda package: put_off(package, {}),
        "core/a.py:2 imports mpigmm.core.b inside a function",
    ),
    "an import by name at run time without a reason": (
        {"core/a.py": "import importlib\ndef f():\n    importlib.import_module('mpigmm.core.b')"},
        lambda package: put_off(package, {}),
        "core/a.py:3 imports import_module inside a function",
    ),
    "a reason without its import": (
        {"core/a.py": "import scipy"},
        lambda package: put_off(package, {("core/a.py", "scipy"): "slow"}),
        "core/a.py no longer imports scipy inside a function",
    ),
    "a foreign library away from home": (
        {"core/a.py": "import cupy.cuda"},
        lambda package: strayed(package, HOMES, ["numpy"]),
        "core/a.py:1 imports cupy, whose home is ('core/gpu/',)",
    ),
    "a foreign library without a home": (
        {"core/a.py": "import numpy, json, pandas"},
        lambda package: strayed(package, HOMES, ["numpy"]),
        "core/a.py:1 imports pandas, whose home is nowhere",
    ),
    "an import through others": (
        {"commands/score.py": "import mpigmm.runs.a", "runs/a.py": "import mpigmm.runs.b", "runs/b.py": ""},
        lambda package: reached(package, [("commands.score", "runs.b")]),
        "commands.score imports runs.b, directly or through others",
    ),
    "an option in a message": (
        {"core/a.py": "x = 1\ny = f'{x}; raise model.reg_covar'"},
        lambda package: options_named(package, ["model.reg_covar"], ["core/"]),
        "core/a.py:2 names model.reg_covar",
    ),
    "an option's name as an attribute is none": (
        {"core/a.py": "x = model.reg_covar\ny = 'a.model.reg_covar, model.reg_covariance'"},
        lambda package: ["nothing", *options_named(package, ["model.reg_covar"], ["core/"])],
        "nothing",
    ),
    "an option in a docstring": (
        {"core/a.py": '"""As ``model.reg_covar`` says."""'},
        lambda package: options_named(package, ["model.reg_covar"], ["core/"]),
        "core/a.py:1 names model.reg_covar",
    ),
    "an option in a comment": (
        {"core/a.py": "x = 1  # as model.reg_covar"},
        lambda package: options_named(package, ["model.reg_covar"], ["core/"]),
        "core/a.py:1 names model.reg_covar",
    ),
    "a flag in a message": (
        {"parallel/a.py": "x = 'add --restart'"},
        lambda package: options_named(package, ["--restart"], ["parallel/"]),
        "parallel/a.py:1 names --restart",
    ),
    "a generic name twice": (
        {"core/a.py": "def describe(): ...", "data/b.py": "def describe(): ..."},
        lambda package: same_names(package, GENERIC, SHARED),
        "describe is defined in core/a.py, data/b.py",
    ),
    "a constant twice in a layer": (
        {"core/a.py": "WIDEST = 1", "core/b.py": "WIDEST: int = 2"},
        lambda package: same_names(package, GENERIC, SHARED),
        "WIDEST is defined in core/a.py, core/b.py",
    ),
}
"""Packages that break one rule each: their files, the check, and what it finds."""


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_rule_is_found(name: str, tmp_path: Path) -> None:
    files, check, expected = BROKEN[name]
    assert check(make_package(tmp_path / "mpigmm", files)) == [expected]


def test_a_package_may_import_its_own_modules(tmp_path: Path) -> None:
    """Its ``__init__`` fills a registry with them, while each imports what it needs beside it and below."""
    files = {
        "core/ops/__init__.py": "from mpigmm.core.ops import numpy",
        "core/ops/base.py": "from mpigmm.core import tile",
        "core/ops/numpy.py": "from mpigmm.core.ops.base import Ops",
        "core/tile.py": "",
        "core/mixture.py": "from mpigmm.core.ops import NUMPY",
    }
    package = make_package(tmp_path / "mpigmm", files)
    assert not circles(package) and not misplaced(package, CORE, "core.")


def make_package(root: Path, files: dict[str, str]) -> Package:
    """A package of these files, and of the ``__init__`` of each folder."""
    for place, text in files.items():
        path = root / place
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    for folder in {folder for place in files for folder in (root / place).parents if root in (folder, *folder.parents)}:
        (folder / "__init__.py").touch()
    return Package(root)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_what_is_printed_passes_the_functions_that_may_fail(path: Path) -> None:
    """Typer's own output is collected, and passes them then; a process of its own answers through its output."""
    if path.relative_to(PACKAGE).as_posix() in ("runs/streams.py", "cli.py", "runs/guarded.py"):
        return
    for node in ast.walk(ast.parse(path.read_text())):
        assert not (isinstance(node, ast.Name) and node.id == "print"), f"print in line {node.lineno}"
        is_stream = isinstance(node, ast.Attribute) and node.attr in ("stdout", "stderr", "__stdout__", "__stderr__")
        assert not is_stream or path.name == "progress.py", f"a standard stream in line {node.lineno}"
