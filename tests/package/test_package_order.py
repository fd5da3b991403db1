"""The modules of cpool/ have an order, and each imports only from those before it.

Read from the text: imports within functions count, those for type checkers alone do not.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest
import scripts

pytestmark = pytest.mark.better

CPOOL = scripts.ROOT / "cpool"

# Lowest first. The extension stands where the modules end that it imports itself.
ORDER = """
    errors
    _base
    _base.stdlib
    _base.pickling
    _base.amounts
    _base.handlers
    _base.broken
    _base.driven
    _base.failures
    _base.by_value
    _base.contexts
    _base.completed
    _base.current
    _base.size
    _core
    _base.arrays
    _base.importing
    _start
    _start.surroundings
    _start.guard
    _start.libraries
    _start.logs
    _start.child
    _start.popen
    _start.launchers
    _start.written
    _start.method
    _engine
    _engine.thread
    _engine.end
    _engine.loops
    _engine.progress
    _engine.results
    _engine.queue
    _engine.serial
    _engine.shared
    _engine.fronts
    _engine.places
    _engine.options
    _engine.configured
    _engine.statistics
    _engine.dump
    _engine.known
    _engine.trace
    _engine.workers
    _engine.logs
    _engine.processes
    _engine.threads
    _engine.executors
    joblib
    pool
    _program
    _program.fallback
    _program.swap
    _program.report
    _program.startup
    _program.run
    __init__
    _cluster
    _cluster.errors
    _cluster.versions
    _cluster.frames
    _cluster.plan
    _cluster.worker
    _cluster.parameters
    _cluster.results
    _cluster.jobs
    _cluster.waiting
    _cluster.arbiter
    _cluster.node
    _cluster.statistics
    _cluster.keeper
    _cluster.pool
    _cluster.serial
    distributed
    __main__
""".split()


def module_name(path: Path) -> str:
    parts = path.relative_to(CPOOL).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 1 else parts)


def run_time_nodes(node: ast.AST) -> Iterator[ast.AST]:
    """The node and all nodes within, but for the bodies of `if TYPE_CHECKING`."""
    yield node
    children = list(ast.iter_child_nodes(node))
    if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
        children = list(node.orelse)
    for child in children:
        yield from run_time_nodes(child)


def absolute_names(node: ast.AST, package: str) -> list[str]:
    """The full names of what a node imports: `from x import y` may import the module x.y."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom):
        base = node.module or ""
        if node.level:
            above = package.split(".")[: len(package.split(".")) - node.level + 1]
            base = ".".join([*above, base] if base else above)
        return [f"{base}.{alias.name}" for alias in node.names]
    if isinstance(node, ast.Call) and ast.unparse(node.func).endswith(
        ("import_module", "__import__")
    ):
        first = node.args[0]
        return [first.value] if isinstance(first, ast.Constant) else []
    return []


def imports_of(text: str, name: str, is_package: bool, known: set[str]) -> set[str]:
    """The modules of the package that a module's text imports."""
    package = "cpool" if name == "__init__" else f"cpool.{name}"
    if not is_package:
        package = package.rpartition(".")[0]
    found = set()
    for node in run_time_nodes(ast.parse(text)):
        for full in absolute_names(node, package):
            if full != "cpool" and not full.startswith("cpool."):
                continue
            inside = full.removeprefix("cpool").removeprefix(".")
            while inside not in known and "." in inside:
                inside = inside.rpartition(".")[0]
            found.add(inside if inside in known else "__init__")
    return found - {name}


def graph() -> dict[str, set[str]]:
    paths = {module_name(path): path for path in CPOOL.rglob("*.py")}
    known = {*paths, "_core"}
    edges = {
        name: imports_of(path.read_text("utf-8"), name, path.name == "__init__.py", known)
        for name, path in paths.items()
    }
    c_files = "".join(path.read_text("utf-8") for path in CPOOL.parent.glob("csrc/**/*.c"))
    of_c = re.findall(r'PyImport_ImportModule\("cpool\.([\w.]+)"\)', c_files)
    assert of_c, "the extension imports modules by another call"
    edges["_core"] = set(of_c)
    return edges


def test_there_is_no_circle() -> None:
    try:
        TopologicalSorter(graph()).prepare()
    except CycleError as error:
        pytest.fail(" -> ".join(error.args[1]))


def test_every_module_has_its_place() -> None:
    assert sorted(graph()) == sorted(ORDER)


def test_no_import_goes_up() -> None:
    place = {name: number for number, name in enumerate(ORDER)}
    wrong = [
        f"{name} imports {used}"
        for name, imported in graph().items()
        for used in imported
        if place[used] >= place[name]
    ]
    assert wrong == []


KNOWN = {"__init__", "pool", "_core", "_start.child", "_start.popen", "_engine", "_start"}


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("import os, _core", []),
        ("from . import child", ["_start.child"]),
        ("from .child import main", ["_start.child"]),
        ("from .. import _core, pool as p", ["_core", "pool"]),
        ("from ..pool import Pool", ["pool"]),
        ("from .. import __version__", ["__init__"]),
        ("from .._engine import nothing_known", ["_engine"]),
        ("import cpool.pool", ["pool"]),
        ("import cpool", ["__init__"]),
        ("from cpool import Pool", ["__init__"]),
        ("def f():\n    from .child import main", ["_start.child"]),
        ("class C:\n  def f(self):\n    if self:\n      import cpool._core", ["_core"]),
        ("import importlib\nimportlib.import_module('cpool._core')", ["_core"]),
        ("if TYPE_CHECKING:\n    from . import child\nelse:\n    from .. import _core", ["_core"]),
    ],
)
def test_imports_are_found(text: str, found: list[str]) -> None:
    assert sorted(imports_of(text, "_start.popen", False, KNOWN)) == found


def test_importing_cpool_imports_little(tmp_path: Path) -> None:
    """No typing, which a worker that is not forked would import anew, and no launchers."""
    source = (
        "import __future__, importlib, sys, multiprocessing.pool\n"
        "def added():\n"
        "    names = set(sys.modules) - before\n"
        "    print(*sorted(name for name in names if not name.startswith('cpool')))\n"
        "before = set(sys.modules)\n"
        "import cpool\n"
        "added()\n"
        "with cpool.Pool(1, context=multiprocessing.get_context('fork')) as pool:\n"
        "    pool.map(abs, [1])\n"
        "added()\n"
        "print('cpool._start.launchers' in sys.modules)\n"
    )
    imported, used, launchers = scripts.output(tmp_path, source)
    assert set(imported.split()) <= {"faulthandler", "gc", "multiprocessing.popen_fork"}
    # The stdlib's pool imports it as well, when it makes its queues.
    assert set(used.split()) - set(imported.split()) <= {"multiprocessing.queues"}
    assert launchers == "False"
