"""Checks of how the modules of a package depend on one another, for any package on disk.

Each check takes a `Package` and a table of rules, and returns its findings: one line each, an empty list if the rules
hold. The rules of mpigmm itself are in ``test_layers.py``.
"""

from __future__ import annotations

import ast
import io
import re
import sys
import tokenize
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

DYNAMIC = ("import_module", "__import__")
"""Functions that import what no import statement names."""

Order = Sequence[str]
"""Layers from top to bottom. The names in a line form one layer: ``a b`` may import each other, ``a | b`` may not."""


@dataclass(frozen=True)
class Import:
    """An import in a module.

    Attributes
    ----------
    line : int
    module : str
        The module that the statement names, or the name of a function in `DYNAMIC`.
    names : tuple of str
        Dotted names of what it binds: ``a.b.c`` for ``from a.b import c``.
    put_off : bool
        Whether it runs with a function and not with the module.
    """

    line: int
    module: str
    names: tuple[str, ...]
    put_off: bool


@dataclass(frozen=True)
class Module:
    """A file of the package; its name is dotted and relative to the package, which is itself called ``""``."""

    name: str
    place: str
    text: str

    @cached_property
    def tree(self) -> ast.Module:
        return ast.parse(self.text)

    @property
    def ancestors(self) -> set[str]:
        """The module, and the packages that it lies in: they are being imported whenever the module is."""
        parts = self.name.split(".")
        return {"", *(".".join(parts[:n]) for n in range(1, len(parts) + 1))}

    @cached_property
    def imports(self) -> list[Import]:
        """All imports at any depth: in functions, under conditions, behind ``TYPE_CHECKING``."""
        return list(self._found(self.tree, put_off=False))

    def _found(self, node: ast.AST, put_off: bool) -> Iterator[Import]:
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield Import(node.lineno, alias.name, (alias.name,), put_off)
        elif isinstance(node, ast.ImportFrom):
            base = self._base(node)
            yield Import(node.lineno, base, tuple(f"{base}.{alias.name}" for alias in node.names), put_off)
        elif isinstance(node, ast.Call) and called(node) in DYNAMIC:
            yield Import(node.lineno, called(node), (), put_off)
        inside = put_off or isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda))
        for child in ast.iter_child_nodes(node):
            yield from self._found(child, inside)

    def _base(self, node: ast.ImportFrom) -> str:
        """The module after ``from``, absolute."""
        if not node.level:
            return node.module or ""
        package = Path(self.place).parts[:-1]
        inside = package[: len(package) - node.level + 1]
        return ".".join(filter(None, (PLACEHOLDER, *inside, node.module)))


PLACEHOLDER = "<package>"
"""Stands for the name of the package in relative imports."""


def called(node: ast.Call) -> str:
    """Last part of the name of the function that is called."""
    return ast.unparse(node.func).rpartition(".")[2]


class Package:
    """All modules below a folder."""

    def __init__(self, root: Path) -> None:
        self.name = root.name
        self.modules: dict[str, Module] = {}
        for path in sorted(root.rglob("*.py")):
            place = path.relative_to(root)
            parts = [part for part in place.with_suffix("").parts if part != "__init__"]
            self.modules[".".join(parts)] = Module(".".join(parts), place.as_posix(), path.read_text())

    def own(self, dotted: str) -> str | None:
        """The module of the package that a dotted name lies in, or None for what is foreign."""
        first, _, rest = dotted.partition(".")
        if first not in (self.name, PLACEHOLDER):
            return None
        while rest not in self.modules:
            rest = rest.rpartition(".")[0]
        return rest

    def targets(self, module: Module) -> dict[str, int]:
        """Own modules that a module imports by name, and the lines."""
        found: dict[str, int] = {}
        for each in module.imports:
            for name in each.names:
                own = self.own(name)
                if own is not None and own != module.name:
                    found.setdefault(own, each.line)
        return found

    def graph(self) -> dict[str, set[str]]:
        """What the import of each module runs before the module is complete.

        To import a.b.c runs the ``__init__`` of a and of a.b as well, unless they are being imported already.
        """
        return {name: self._runs(module) for name, module in self.modules.items()}

    def _runs(self, module: Module) -> set[str]:
        found: set[str] = set()
        for target in self.targets(module):
            found |= {target} | (self.modules[target].ancestors - module.ancestors)
        return found & self.modules.keys()


def rank(order: Order, name: str) -> tuple[int, bool] | None:
    """The number of the layer of a name, from the top, and whether the members of that layer stand apart."""
    for number, line in enumerate(order):
        if name in line.replace("|", " ").split():
            return number, "|" in line
    return None


def misplaced(package: Package, order: Order, below: str = "") -> list[str]:
    """Imports of a layer above or beside, among the parts of the package or, below a prefix, of one sub-package."""
    found = []
    for name, module in package.modules.items():
        own = part(name, below)
        if not own:
            continue
        if rank(order, own) is None:
            found.append(f"{module.place}: {below + own} has no place in the order")
            continue
        for target, line in package.targets(module).items():
            found += wrong_way(order, own, part(target, below), f"{module.place}:{line} imports {target}")
    return found


def part(name: str, below: str) -> str:
    """First part of a module's name after a prefix, or nothing for other modules."""
    return name.removeprefix(below).split(".")[0] if name.startswith(below) else ""


def wrong_way(order: Order, own: str, other: str, what: str) -> list[str]:
    """A finding where one part must not import another."""
    here, there = rank(order, own), rank(order, other)
    if here is None or there is None or own == other:
        return []
    if there[0] < here[0]:
        return [f"{what}, which lies above {own}"]
    return [f"{what}, which stands beside {own}"] if there[0] == here[0] and here[1] else []


def strayed(package: Package, homes: Mapping[str, tuple[str, ...]], everywhere: Collection[str]) -> list[str]:
    """Imports of foreign libraries outside the modules that they are confined to."""
    found = []
    for module in package.modules.values():
        for each in module.imports:
            library = each.module.split(".")[0]
            if library in (package.name, PLACEHOLDER, *DYNAMIC, *everywhere) or library in sys.stdlib_module_names:
                continue
            allowed = homes.get(library, ())
            if not module.place.startswith(tuple(allowed)) or not allowed:
                found.append(f"{module.place}:{each.line} imports {library}, whose home is {allowed or 'nowhere'}")
    return found


def circles(package: Package) -> list[str]:
    """Circles of imports, whether they run with a module, with a function, or for type checkers alone."""
    graph, found = package.graph(), []
    while True:
        try:
            TopologicalSorter(graph).prepare()
            return found
        except CycleError as error:
            circle = error.args[1][::-1]  # each module is followed by one that it imports
            found.append(" -> ".join(f"{package.name}.{name}".rstrip(".") for name in circle))
            graph[circle[0]].discard(circle[1])


def type_checking(package: Package) -> list[str]:
    """Uses of ``TYPE_CHECKING``, behind which imports hide."""
    named = re.compile(r"\bTYPE_CHECKING\b")
    return [
        f"{module.place}:{number} names TYPE_CHECKING"
        for module in package.modules.values()
        for number, line in enumerate(module.text.splitlines(), 1)
        if named.search(line)
    ]


def put_off(package: Package, reasons: Mapping[tuple[str, str], str]) -> list[str]:
    """Imports inside functions without a reason by place and module, and reasons that no import needs any longer."""
    seen: dict[tuple[str, str], int] = {}
    for module in package.modules.values():
        seen |= {(module.place, each.module): each.line for each in module.imports if each.put_off}
    found = [f"{place}:{line} imports {name} inside a function" for (place, name), line in seen.items()
             if (place, name) not in reasons]  # fmt: skip
    return found + [f"{place} no longer imports {name} inside a function" for place, name in reasons.keys() - seen]


def words(module: Module) -> Iterator[tuple[int, str]]:
    """Strings, docstrings and comments, with their lines."""
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.lineno, node.value
    for token in tokenize.generate_tokens(io.StringIO(module.text).readline):
        if token.type == tokenize.COMMENT:
            yield token.start[0], token.string


def options_named(package: Package, options: Collection[str], layers: Sequence[str]) -> list[str]:
    """Option keys and command-line flags in the words of layers that are not to know them."""
    option = re.compile(rf"(?<![\w.-])(?:{'|'.join(map(re.escape, options))})(?!\w)")
    return [
        f"{module.place}:{line} names {found.group()}"
        for module in package.modules.values()
        if module.place.startswith(tuple(layers))
        for line, text in words(module)
        for found in option.finditer(text)
    ]


def same_names(package: Package, generic: Collection[str], shared: Collection[str]) -> list[str]:
    """Public functions, classes and constants that two modules of a layer define, and generic names that any two do."""
    places: dict[tuple[str, str], list[str]] = {}
    for module in package.modules.values():
        for name in sorted(defined(module) - set(shared)):
            layer = "" if name in generic else module.name.split(".")[0]
            places.setdefault((layer, name), []).append(module.place)
    return [f"{name} is defined in {', '.join(where)}" for (_, name), where in places.items() if len(where) > 1]


def defined(module: Module) -> set[str]:
    """Public names of functions, classes and constants of a module."""
    found = {node.name for node in module.tree.body if isinstance(node, (ast.FunctionDef, ast.ClassDef))}
    for node in module.tree.body:
        if isinstance(node, (ast.Assign, ast.AnnAssign)):
            names = (
                each.id for each in ast.walk(node) if isinstance(each, ast.Name) and isinstance(each.ctx, ast.Store)
            )
            found |= {name for name in names if name.isupper() and len(name) > 1}
    return {name for name in found if not name.startswith("_")}


def reached(package: Package, forbidden: Sequence[tuple[str, str]]) -> list[str]:
    """Pairs of modules of which the first imports the second, directly or through others; or which do not exist."""
    graph, found = package.graph(), []
    for start, end in forbidden:
        found += [f"there is no module {name}" for name in (start, end) if name not in graph]
        found += (
            [f"{start or package.name} imports {end}, directly or through others"]
            if end in closure(graph, start)
            else []
        )
    return found


def closure(graph: Mapping[str, set[str]], start: str) -> set[str]:
    """All that can be reached from a node."""
    seen, waiting = {start}, [start]
    while waiting:
        new = graph.get(waiting.pop(), set()) - seen
        seen |= new
        waiting += new
    return seen
