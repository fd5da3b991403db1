"""Without the extension: the stdlib's pool on Windows, an error elsewhere."""

from __future__ import annotations

import re
import runpy
import sys
import types
from pathlib import Path
from typing import Any

import pytest
import scripts

pytestmark = pytest.mark.better

# A simulated Windows: its name, its missing names in modules, and no extension. The stdlib's
# modules are imported first, or they would look for Windows' own modules.
WINDOWS = """
import multiprocessing, multiprocessing.pool, multiprocessing.popen_fork, os, pathlib, signal, sys
import importlib.util, random, resource, runpy, threading, warnings
from multiprocessing import context, popen_spawn_posix, resource_tracker, synchronize
real = sys.platform
if __name__ == "__main__":
    sys.modules["cpool._core"] = None
    sys.platform = "win32"
    for module, names in (
        (os, "register_at_fork"),
        (signal, "SIGKILL"),
    ):
        for name in names.split():
            vars(module).pop(name, None)
"""

POOLS = """
if __name__ == "__main__":
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        import cpool
        from cpool import *
        from cpool.pool import IMapIterator, MapResult, mapstar
        import cpool.pool
    [warning] = caught
    print(warning.category.__name__, os.path.basename(warning.filename), warning.message)
    stdlib = multiprocessing.pool
    print(cpool.pool is stdlib, Pool is stdlib.Pool, ThreadPool is stdlib.ThreadPool)
    print(AsyncResult is stdlib.AsyncResult, TimeoutError is multiprocessing.TimeoutError)
    print(sorted(set(cpool.__all__) - set(globals())), default_processes() >= 1)
    print([issubclass(e, PoolError) for e in (InitializerError, PoolTerminated, RemoteError)])
    print(issubclass(WorkerLostError, RuntimeError))
    for change in install, install, uninstall, uninstall:
        change()
        print(sys.modules["multiprocessing.pool"] is multiprocessing.pool is stdlib)
    sys.platform = real
    with Pool(2) as pool, ThreadPool(2) as threads:
        print(pool.map(abs, [-1, -2]), threads.map(abs, [-3]), pool.apply_async(abs, (-4,)).get(10))
"""


def test_windows_has_the_pool_of_the_stdlib(tmp_path: Path) -> None:
    first, *rest = scripts.output(tmp_path, WINDOWS + POOLS, fresh=True)
    assert re.match(r"RuntimeWarning program\.py cpool has no engine for Windows yet: ", first)
    assert rest == [
        "True True True",
        "True True",
        "[] True",
        "[True, True, True]",
        "True",
        *["True"] * 4,
        "[1, 2] [3] 4",
    ]


WORKERS = """
import warnings
warnings.simplefilter("ignore" if __name__ == "__main__" else "always")
if __name__ != "__main__":
    sys.modules["cpool._core"] = None
    sys.platform = "win32"
import cpool
sys.platform = real

if __name__ == "__main__":
    with cpool.Pool(2, context=multiprocessing.get_context("spawn")) as pool:
        print(pool.map(abs, [-1, -2]))
"""


def test_windows_workers_do_not_warn_again(tmp_path: Path) -> None:
    """Windows spawns workers, and each worker imports the program, which imports cpool."""
    assert scripts.output(tmp_path, WINDOWS + WORKERS, fresh=True) == ["[1, 2]"]


PROGRAM = """
if __name__ == "__main__":
    warnings.simplefilter("ignore")
    import cpool.__main__
    sys.argv[:] = ["cpool", "-m", "this_program", "x"]
    sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
    os.chdir(sys.path[0])
    pathlib.Path("this_program.py").write_text("import sys; print(__name__, sys.argv[1:])")
    cpool.__main__.main()
"""


def test_windows_runs_programs(tmp_path: Path) -> None:
    assert scripts.output(tmp_path, WINDOWS + PROGRAM, fresh=True) == ["__main__ ['x']"]


def test_elsewhere_a_missing_extension_is_an_error(tmp_path: Path) -> None:
    done = scripts.run_source(
        tmp_path, "import sys\nsys.modules['cpool._core'] = None\nimport cpool", fresh=True
    )
    assert done.returncode == 1
    assert "ModuleNotFoundError: import of cpool._core halted" in done.stderr
    assert "ModuleNotFoundError: cpool's C extension was not built" in done.stderr.splitlines()[-1]


@pytest.mark.parametrize("platform", ["linux", "win32"])
def test_a_broken_extension_is_an_error_everywhere(tmp_path: Path, platform: str) -> None:
    source = f"""
import multiprocessing.pool, sys
from importlib.machinery import ModuleSpec, SourceFileLoader

class Broken:
    def find_spec(self, name, path=None, target=None):
        return ModuleSpec(name, self) if name == "cpool._core" else None

    def create_module(self, spec):
        import no_such_library

    exec_module = create_module

sys.meta_path.insert(0, Broken())
sys.platform = {platform!r}
import cpool
"""
    done = scripts.run_source(tmp_path, source, fresh=True)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == "ModuleNotFoundError: No module named 'no_such_library'"


@pytest.mark.parametrize(("platform", "built"), [("win32", 0), ("linux", 1), ("darwin", 1)])
def test_setup_builds_nothing_for_windows(
    monkeypatch: pytest.MonkeyPatch, platform: str, built: int
) -> None:
    asked: dict[str, Any] = {}

    def module(name: str, **contents: Any) -> None:
        fake = types.ModuleType(name)
        vars(fake).update(contents)
        monkeypatch.setitem(sys.modules, name, fake)

    module("setuptools", Extension=lambda name, **_: name, setup=asked.update)
    module("setuptools.command")
    module("setuptools.command.build", build=object)
    module("setuptools.command.build_ext", build_ext=object)
    module("setuptools.command.editable_wheel", editable_wheel=object)
    module("setuptools.command.sdist", sdist=object)
    module("setuptools.errors", CCompilerError=Exception)
    monkeypatch.setattr(sys, "platform", platform)
    runpy.run_path(str(scripts.ROOT / "setup.py"))
    assert asked["ext_modules"] == ["cpool._core"] * built
