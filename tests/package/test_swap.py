"""Unchanged programs on cpool: install(), and python -m cpool in front of the script."""

from __future__ import annotations

import py_compile
import re
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest
import scripts
from engine import STDLIB, pool_module

# The arguments between python and the program. The stdlib's own pool needs none.
LAUNCH = [] if STDLIB else ["-m", "cpool"]


def launch(folder: Path, source: str, *args: str, **options: Any) -> Any:
    """Run a program that does not mention cpool."""
    return scripts.run(*LAUNCH, scripts.write(folder, source), *args, **options)


def lines(done: Any) -> list[str]:
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    found: list[str] = done.stdout.splitlines()
    return found


# python -m cpool SCRIPT

SCRIPT = """
import multiprocessing, sys
from multiprocessing import Pool
from multiprocessing.pool import ThreadPool
import multiprocessing.pool

def square(x):
    return x * x

class Thing:
    def __init__(self, x):
        self.x = x

if __name__ == "__main__":
    with Pool(2) as pool:
        print(type(pool).__module__, isinstance(pool, multiprocessing.pool.Pool))
        print(pool.map(square, range(5)), pool.apply(Thing, (4,)).x)
    with multiprocessing.pool.Pool(1, context=multiprocessing.get_context("spawn")) as pool:
        print(type(pool).__module__, pool.map(square, [3]), pool.apply(Thing, (5,)).x)
    with ThreadPool(2) as pool:
        print(pool.map(square, [4]))
"""


def test_a_program_runs_unchanged(tmp_path: Path) -> None:
    name = pool_module.__name__
    assert lines(launch(tmp_path, SCRIPT)) == [
        f"{name} True",
        "[0, 1, 4, 9, 16] 4",
        f"{name} [9] 5",
        "[16]",
    ]


MAIN = """
import os, sys
print(__name__, __file__, sys.argv)
print(sys.path[0])
print(sys.modules["__main__"].__dict__ is globals(), __spec__, __package__)
print("cpool" in sys.argv[0], sys.flags.isolated)
"""


def test_a_program_finds_itself(tmp_path: Path) -> None:
    path = tmp_path / "program.py"
    args = ["a", "--flag", "-m", "-h", "--", ""]
    assert lines(launch(tmp_path, MAIN, *args)) == [
        f"__main__ {path} {[str(path), *args]}",
        str(tmp_path),
        "True None None",
        "False 0",
    ]


def test_a_program_with_a_relative_path(tmp_path: Path) -> None:
    (tmp_path / "beside.py").write_text("value = 5\n", encoding="utf-8")
    scripts.write(tmp_path, "import sys, beside\nprint(sys.argv, beside.value)\n")
    done = scripts.run(*LAUNCH, "program.py", "x", cwd=tmp_path)
    assert lines(done) == ["['program.py', 'x'] 5"]


@pytest.mark.parametrize(
    ("source", "status", "complaint"),
    [
        ("", 0, ""),
        ("import sys; sys.exit(3)", 3, ""),
        ("import sys; sys.exit()", 0, ""),
        ("import sys; sys.exit('bye')", 1, "bye"),
        ("raise ValueError('no')", 1, "ValueError: no"),
        ("import os; os._exit(5)", 5, ""),
        ("import os; os.kill(os.getpid(), 9)", -9, ""),
        ("x = = 1", 1, "SyntaxError: invalid syntax"),
        ("raise KeyboardInterrupt", -2, "KeyboardInterrupt"),
    ],
)
def test_a_program_ends_with_its_own_status(
    tmp_path: Path, source: str, status: int, complaint: str
) -> None:
    done = launch(tmp_path, source + "\n")
    assert done.returncode == status
    assert done.stderr.splitlines()[-1:] == ([complaint] if complaint else [])


def test_the_traceback_shows_only_the_program(tmp_path: Path) -> None:
    done = launch(tmp_path, "def f():\n    raise ValueError('no')\n\nf()\n")
    assert f'File "{tmp_path / "program.py"}", line 4, in <module>' in done.stderr
    assert f'File "{tmp_path / "program.py"}", line 2, in f' in done.stderr


def test_the_program_reads_stdin(tmp_path: Path) -> None:
    done = launch(tmp_path, "import sys\nprint(repr(sys.stdin.read()))\n")
    assert lines(done) == ["''"]


# python -m cpool -m MODULE


@pytest.fixture
def package(tmp_path: Path) -> Path:
    folder = tmp_path / "somewhere" / "package"
    folder.mkdir(parents=True)
    (folder / "__init__.py").write_text("", encoding="utf-8")
    (folder / "__main__.py").write_text("print(__name__, __package__)\n", encoding="utf-8")
    (folder / "other.py").write_text("value = 7\n", encoding="utf-8")
    (folder / "tool.py").write_text(
        "import sys\n"
        "from multiprocessing import Pool\n"
        "from . import other\n"
        "def add(x):\n"
        "    return x + other.value\n"
        "if __name__ == '__main__':\n"
        "    with Pool(2) as pool:\n"
        "        print(type(pool).__module__, pool.map(add, [1, 2]))\n"
        "    print(sys.argv, __package__, __spec__.name)\n"
        "    sys.exit(len(sys.argv))\n",
        encoding="utf-8",
    )
    return folder


def test_a_module_runs_unchanged(package: Path) -> None:
    done = scripts.run(*LAUNCH, "-m", "package.tool", "a", "-m", "--b", cwd=package.parent)
    assert done.stderr == ""
    assert done.returncode == 4
    assert done.stdout.splitlines() == [
        f"{pool_module.__name__} [8, 9]",
        f"{[str(package / 'tool.py'), 'a', '-m', '--b']} package package.tool",
    ]


def test_a_package_runs_by_its_main_module(package: Path) -> None:
    done = scripts.run(*LAUNCH, "-m", "package", cwd=package.parent)
    assert lines(done) == ["__main__ package"]


def test_a_missing_module(tmp_path: Path) -> None:
    done = scripts.run(*LAUNCH, "-m", "no_such_module", cwd=tmp_path)
    assert done.returncode == 1
    assert "No module named no_such_module" in done.stderr.replace("'", "")


def test_a_missing_script(tmp_path: Path) -> None:
    done = scripts.run(*LAUNCH, tmp_path / "nothing.py")
    assert done.returncode != 0
    assert "nothing.py" in done.stderr
    assert "No such file or directory" in done.stderr


@pytest.mark.better
@pytest.mark.parametrize("args", [(), ("-m",), ("--nonsense",)])
def test_a_wrong_command_line_shows_the_usage(args: Any) -> None:
    done = scripts.run("-m", "cpool", *args)
    assert done.returncode == 2
    assert "usage: python -m cpool" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.better
def test_help_goes_to_stdout() -> None:
    done = scripts.run("-m", "cpool", "--help")
    assert (done.returncode, done.stderr) == (0, "")
    assert "usage: python -m cpool" in done.stdout


# What python runs, python -m cpool runs in the same way

GLOBALS = """
import sys
names = {n: type(v).__name__ if n == "__loader__" else v for n, v in globals().items()}
print(sorted((n, str(v)) for n, v in names.items() if n not in ("sys", "__builtins__")))
print(sys.argv, sys.path, sys.flags, sys._getframe().f_code.co_filename)
"""

ANNOTATIONS = """
import dataclasses
@dataclasses.dataclass
class Point:
    x: int
def f(a: float) -> str: ...
print(dataclasses.fields(Point)[0].type, f.__annotations__, compile("1", "", "eval").co_flags)
"""

FRAMES = """
import inspect, sys, traceback, warnings
def deep(n):
    try:
        return deep(n + 1)
    except RecursionError:
        return n
print(deep(0), sys.getrecursionlimit(), len(inspect.stack()), sys._getframe().f_back)
traceback.print_stack()
warnings.warn("beside", stacklevel=2)
print(sys.orig_argv[1:], sorted(sys.modules["__main__"].__dict__) == sorted(globals()))
def f():
    raise ValueError("no")
f()
"""

BESIDE = """
import inspect, os, sys
os.chdir("/")
try:
    import beside
    print(beside.value)
except ImportError as error:
    print(error)
def f(): pass
try:
    print(open(__file__, "rb").read()[:20], sys.path[0])
    print(inspect.getsource(f))
except (OSError, NameError) as error:
    print(error)
"""

PROGRAMS = {"globals": GLOBALS, "annotations": ANNOTATIONS, "beside": BESIDE}


def same(folder: Path, before: list[str], argv: list[Any], **options: Any) -> str:
    """Check that python and python -m cpool print the same and exit alike; return the output."""
    plain = scripts.run(*before, *argv, cwd=folder, fresh=True, **options)
    ours = scripts.run(*before, "-m", "cpool", *argv, cwd=folder, fresh=True, **options)
    found = [
        (done.returncode, re.sub("0x[0-9a-f]+", "ADDRESS", done.stdout + done.stderr))
        for done in (ours, plain)
    ]
    assert found[0] == found[1]
    return found[0][1]


@pytest.fixture(params=["new interpreter", "this interpreter"])
def before(request: pytest.FixtureRequest) -> list[str]:
    """Without site no interpreter reads cpool.pth, and cpool runs the program itself."""
    return ["-S"] if request.param == "this interpreter" else []


@pytest.mark.better
@pytest.mark.parametrize("form", ["file", "absolute", "link", "folder", "zip", "pyc", "-m", "-c"])
@pytest.mark.parametrize("program", PROGRAMS)
def test_whatever_python_runs(tmp_path: Path, before: list[str], form: str, program: str) -> None:
    source = PROGRAMS[program]
    places = {"file": "p.py", "link": "real/p.py", "folder": "p/__main__.py", "-m": "p/__main__.py"}
    path = tmp_path / places.get(form, "p.py")
    path.parent.mkdir(exist_ok=True)
    path.write_text(source, encoding="utf-8")
    (path.parent / "beside.py").write_text("value = 5\n", encoding="utf-8")
    argv: list[Any] = [path.relative_to(tmp_path)]
    if form == "absolute":
        argv = [path]
    elif form == "link":
        (tmp_path / "link.py").symlink_to(path)
        argv = ["link.py"]
    elif form == "folder":
        argv = ["p"]
    elif form == "zip":
        with zipfile.ZipFile(tmp_path / "p.zip", "w") as archive:
            archive.writestr("__main__.py", source)
            archive.writestr("beside.py", "value = 6\n")
        argv = ["p.zip"]
    elif form == "pyc":
        py_compile.compile(str(path), str(tmp_path / "q.pyc"))
        argv = ["q.pyc"]
    elif form == "-m":
        argv = ["-m", "p"]
    elif form == "-c":
        argv = ["-c", source]
    assert same(tmp_path, before, [*argv, "a", "-m", "-x", ""]) != ""


@pytest.mark.better
@pytest.mark.parametrize("options", [["-P"], ["-I"], ["-OO", "-B"], ["-X", "utf8", "-bb"], ["-u"]])
def test_options_of_the_interpreter(tmp_path: Path, options: list[str]) -> None:
    (tmp_path / "beside.py").write_text("value = 5\n", encoding="utf-8")
    for source in GLOBALS, BESIDE:
        (tmp_path / "p.py").write_text(source, encoding="utf-8")
        same(tmp_path, options, ["p.py"])
        same(tmp_path, options, ["-c", source])


@pytest.mark.better
def test_a_safe_path_by_the_environment(tmp_path: Path, before: list[str]) -> None:
    (tmp_path / "beside.py").write_text("value = 5\n", encoding="utf-8")
    (tmp_path / "p.py").write_text(BESIDE, encoding="utf-8")
    out = same(tmp_path, before, ["p.py"], env={"PYTHONSAFEPATH": "1"})
    assert out.startswith("No module named 'beside'")


@pytest.mark.better
def test_options_that_share_a_word_with_m(tmp_path: Path) -> None:
    (tmp_path / "p.py").write_text("import sys; print(sys.flags, sys.argv)", encoding="utf-8")
    plain = scripts.run("-OB", "p.py", "a", cwd=tmp_path)
    for way in ["-OBm", "cpool"], ["-OBmcpool"], ["-OB", "-mcpool"], ["-O", "-Bm", "cpool"]:
        assert lines(scripts.run(*way, "p.py", "a", cwd=tmp_path)) == plain.stdout.splitlines()


@pytest.mark.better
@pytest.mark.parametrize("form", ["p.py", "-m", "-c"])
def test_there_is_no_frame_but_the_programs(tmp_path: Path, form: str) -> None:
    """In tracebacks and stacks; and the recursion limit is reached at the same depth."""
    (tmp_path / "p.py").write_text(FRAMES, encoding="utf-8")
    argv = {"p.py": ["p.py"], "-m": ["-m", "p"], "-c": ["-c", FRAMES]}[form]
    assert "ValueError: no" in same(tmp_path, [], argv, env={"PYTHONWARNINGS": "always"})


@pytest.mark.better
@pytest.mark.parametrize("argv", [["no.py"], ["-m", "no.such"], ["-m", "os.no"], ["-c", "x = = 1"]])
def test_a_program_that_cannot_run(tmp_path: Path, argv: list[str]) -> None:
    assert same(tmp_path, [], argv) != ""


@pytest.mark.better
def test_a_program_from_stdin(tmp_path: Path, before: list[str]) -> None:
    path = tmp_path / "p.py"
    path.write_text("import sys\nprint(__name__, sys.argv, sys.path[0])\n", encoding="utf-8")
    for way in [], ["-m", "cpool"]:
        with path.open() as stdin:
            done = scripts.run(*before, *way, "-", "a", stdin=stdin)
        assert lines(done) == ["__main__ ['-', 'a'] "]


# New processes of the program

CHILDREN = """
import multiprocessing, os, subprocess, sys

def where():
    with multiprocessing.Pool(1) as pool:
        return type(pool).__module__, pool.map(abs, [-1])

def child(queue, deep):
    from multiprocessing.pool import Pool
    queue.put((Pool.__module__, *where(), os.environ.get("CPOOL_INSTALL")))
    if deep:
        start(multiprocessing.get_context(), queue, False)

def start(context, queue, deep=True):
    process = context.Process(target=child, args=(queue, deep))
    process.start()
    process.join(30)

if __name__ == "__main__":
    {prepare}
    for method in "spawn", "forkserver", "fork":
        context = multiprocessing.get_context(method)
        queue = context.Queue()
        start(context, queue)
        print(method, *(queue.get(timeout=30) for _ in range(2)))
    code = "import multiprocessing.pool as p; print(p.__name__)"
    print(subprocess.run([sys.executable, "-c", code], stdout=-1, text=True).stdout.strip())
"""


def in_children(tmp_path: Path, prepare: str, env: dict[str, str], *way: str) -> list[str]:
    path = tmp_path / "program.py"
    path.write_text(CHILDREN.replace("{prepare}", prepare), encoding="utf-8")
    return lines(scripts.run(*way, path, env=env))


def told(name: str, value: str | None) -> list[str]:
    said = (name, name, [1], value)
    return [f"{method} {said} {said}" for method in ("spawn", "forkserver", "fork")]


@pytest.mark.better
def test_children_of_multiprocessing_are_on_cpool_too(tmp_path: Path) -> None:
    """And the children of those. Other processes are not, unless the environment says so."""
    found = in_children(tmp_path, "", {}, "-m", "cpool")
    assert found == [*told("cpool.pool", None), "multiprocessing.pool"]


@pytest.mark.better
def test_children_of_a_program_that_installs_cpool(tmp_path: Path) -> None:
    found = in_children(tmp_path, "import cpool; cpool.install(); cpool.install()", {})
    assert found == [*told("cpool.pool", None), "multiprocessing.pool"]


@pytest.mark.better
def test_children_of_a_program_that_took_cpool_back(tmp_path: Path) -> None:
    prepare = "import cpool; cpool.install(); cpool.uninstall()"
    name = "multiprocessing.pool"
    assert in_children(tmp_path, prepare, {}) == [*told(name, None), name]


@pytest.mark.better
@pytest.mark.parametrize("way", [[], ["-m", "cpool"]])
def test_all_processes_by_the_environment(tmp_path: Path, way: list[str]) -> None:
    found = in_children(tmp_path, "", {"CPOOL_INSTALL": "1"}, *way)
    assert found == [*told("cpool.pool", "1"), "cpool.pool"]


@pytest.mark.better
@pytest.mark.parametrize("value", ["0", ""])
def test_the_environment_asks_for_nothing(tmp_path: Path, value: str) -> None:
    env = {"CPOOL_INSTALL": value}
    code = "import multiprocessing.pool as p, sys; print(p.__name__, 'cpool' in sys.modules)"
    assert lines(scripts.run("-c", code, env=env)) == ["multiprocessing.pool False"]
    assert lines(scripts.run("-m", "cpool", "-c", code, env=env)) == ["cpool.pool True"]


# Other ways to a pool

WAYS = """
import multiprocessing
import multiprocessing.dummy
import multiprocessing.pool

def square(x):
    return x * x

if __name__ == "__main__":
    for name in "fork", "spawn", "forkserver":
        with multiprocessing.get_context(name).Pool(1) as pool:
            print(type(pool).__module__, pool._ctx.get_start_method(), pool.map(square, [2, 3]))
    with multiprocessing.dummy.Pool(2) as pool:
        print(type(pool).__name__, pool.map(lambda x: x + 1, [1]))
    try:
        multiprocessing.Pool(context=multiprocessing.get_context("fork"))
    except TypeError as error:
        print(error)
    default = multiprocessing.get_all_start_methods()[0]
    with multiprocessing.Pool(1) as pool:
        print(pool._ctx.get_start_method() == default)
"""


def test_contexts_and_dummies(tmp_path: Path) -> None:
    name = pool_module.__name__
    assert lines(launch(tmp_path, WAYS)) == [
        f"{name} fork [4, 9]",
        f"{name} spawn [4, 9]",
        f"{name} forkserver [4, 9]",
        "ThreadPool [2]",
        "BaseContext.Pool() got an unexpected keyword argument 'context'",
        "True",
    ]


MANAGER = """
import multiprocessing, operator
from multiprocessing.managers import SyncManager

def fail(x):
    raise ValueError(f"no {x}")

if __name__ == "__main__":
    with multiprocessing.get_context("fork").Manager() as manager:
        pool = manager.Pool(2)
        print(type(pool).__name__, pool.apply(abs, (-1,)), pool.map(abs, [-1, -2]))
        print(pool.starmap(operator.add, [(1, 2)]), pool.apply_async(abs, (-3,)).get(10))
        print(list(pool.imap(abs, [-1, -2])), sorted(pool.imap_unordered(abs, [-1, -2])))
        result = pool.map_async(abs, [-4])
        result.wait(10)
        print(result.ready(), result.successful(), result.get())
        try:
            pool.apply(fail, (5,))
        except ValueError as error:
            print(error)
        try:
            manager.Pool(0)
        except multiprocessing.managers.RemoteError as error:
            print("Number of processes must be at least 1" in str(error))
        pool.close()
        pool.join()
        other = manager.Pool(1)
        other.terminate()
        other.join()
    print(SyncManager._registry["Pool"][0].__module__)
"""


def test_a_managers_pool(tmp_path: Path) -> None:
    assert lines(launch(tmp_path, MANAGER)) == [
        "PoolProxy 1 [1, 2]",
        "[3] 3",
        "[1, 2] [1, 2]",
        "True True [4]",
        "no 5",
        "True",
        pool_module.__name__,
    ]


# install and uninstall

INSTALL = """
import sys
import multiprocessing, multiprocessing.pool
from multiprocessing.pool import Pool as Captured, ThreadPool
import cpool, cpool.pool

multiprocessing.set_start_method("fork")  # after the swap the interpreter's own default applies
original = sys.modules["multiprocessing.pool"]

def where():
    from multiprocessing.pool import Pool
    with multiprocessing.Pool(1) as pool:
        print(
            type(pool).__module__,
            Pool.__module__,
            multiprocessing.pool.__name__,
            sys.modules["multiprocessing.pool"].__name__,
            isinstance(pool, Captured),
            pool.map(abs, [-1]),
        )

class Mine(Captured):
    pass

def subclass():
    with Mine(1) as pool, ThreadPool(1) as threads:
        print(pool.map(abs, [-1]), threads.map(abs, [-1]))

cpool.uninstall()  # nothing to undo
where()
for _ in range(2):
    cpool.install()
    where()
subclass()
for _ in range(2):
    cpool.uninstall()
    where()
subclass()
cpool.install()
where()
with cpool.pool.ThreadPool(1) as pool:
    print(pool.apply(abs, (-1,)))
cpool.uninstall()
print(sys.modules["multiprocessing.pool"] is multiprocessing.pool is original)
"""


@pytest.mark.better
def test_install_and_uninstall(tmp_path: Path) -> None:
    theirs = "multiprocessing.pool multiprocessing.pool multiprocessing.pool multiprocessing.pool"
    theirs += " True [1]"
    ours = "cpool.pool cpool.pool cpool.pool cpool.pool True [1]"
    assert scripts.output(tmp_path, INSTALL) == [
        theirs,
        *[ours] * 2,
        "[1] [1]",
        *[theirs] * 2,
        "[1] [1]",
        ours,
        "1",
        "True",
    ]


EXECUTORS = """
import asyncio, concurrent.futures, multiprocessing
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor

def square(x):
    return x * x

async def in_a_thread():
    return await asyncio.to_thread(square, 5)

if __name__ == "__main__":
    with ProcessPoolExecutor(2) as executor:
        print(type(executor).__module__, executor.submit(square, 3).result())
    with concurrent.futures.ThreadPoolExecutor(2) as executor:
        print(type(executor).__module__, list(executor.map(square, range(3))))
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context) as executor:
        print(executor.submit(square, 4).result())
    print(asyncio.run(in_a_thread()))
"""


@pytest.mark.better
def test_executors_are_replaced_where_that_is_asked(tmp_path: Path) -> None:
    script = scripts.write(tmp_path, EXECUTORS)
    assert lines(scripts.run("-m", "cpool", "--executors", script)) == [
        "cpool 9", "cpool [0, 1, 4]", "16", "25",
    ]  # fmt: skip
    assert lines(scripts.run("-m", "cpool", script)) == [
        "concurrent.futures.process 9", "concurrent.futures.thread [0, 1, 4]", "16", "25",
    ]  # fmt: skip


@pytest.mark.better
def test_executors_are_put_back(tmp_path: Path) -> None:
    program = """
import concurrent.futures, cpool
own = concurrent.futures.ThreadPoolExecutor
cpool.install(executors=True)
print(concurrent.futures.ThreadPoolExecutor is cpool.ThreadPoolExecutor)
cpool.uninstall()
print(concurrent.futures.ThreadPoolExecutor is own)
"""
    assert lines(scripts.run(scripts.write(tmp_path, program))) == ["True", "True"]


@pytest.mark.better
def test_importing_cpool_swaps_nothing(tmp_path: Path) -> None:
    source = (
        "import sys, multiprocessing.pool\n"
        "before = multiprocessing.pool\n"
        "import cpool, cpool.pool\n"
        "from cpool import Pool\n"
        "print(multiprocessing.pool is before is sys.modules['multiprocessing.pool'])\n"
        "print(cpool.Pool is cpool.pool.Pool, multiprocessing.pool.Pool is Pool)\n"
    )
    assert scripts.output(tmp_path, source) == ["True", "True False"]


@pytest.mark.better
def test_the_package_has_its_names() -> None:
    import cpool

    for name in (
        "AsyncResult",
        "InitializerError",
        "MemoryLimitError",
        "Pool",
        "PoolError",
        "PoolTerminated",
        "RemoteError",
        "ThreadPool",
        "TimeoutError",
        "TaskCancelledError",
        "TaskInterrupted",
        "TaskTimeoutError",
        "WorkerLostError",
        "__version__",
        "as_completed",
        "current_worker",
        "default_processes",
        "empty",
        "install",
        "uninstall",
    ):
        assert hasattr(cpool, name)
    assert cpool.Pool is pool_module.Pool
    assert set(cpool.__all__) <= set(dir(cpool))
    assert sys.modules["cpool.pool"] is pool_module
