"""`env=` and `preload=`, and the surroundings of workers that start afresh."""

from __future__ import annotations

import multiprocessing
import os
import sys
import threading
from multiprocessing import forkserver, spawn
from pathlib import Path
from typing import Any

import engine
import pytest
import scripts
from engine import Pool

pytestmark = pytest.mark.better

cpool = engine.errors
ThreadPool = engine.pool_module.ThreadPool

METHODS = ["fork", "spawn", "forkserver"]
AT_IMPORT = os.environ.get("CPOOL_TEST_DEVICE")


def device(_: Any = None) -> str | None:
    return os.environ.get("CPOOL_TEST_DEVICE")


def at_import() -> str | None:
    return AT_IMPORT


def variable(name: str) -> str | None:
    return os.environ.get(name)


def has_module(name: str) -> bool:
    return name in sys.modules


def place() -> tuple[str, str]:
    return os.getcwd(), sys.path[0]


@pytest.fixture(params=METHODS)
def make(request: pytest.FixtureRequest, make_pool: Any) -> Any:
    context = multiprocessing.get_context(request.param)
    return lambda *args, **kwds: make_pool(*args, context=context, **kwds)


def test_workers_have_the_variables_of_env(make: Any) -> None:
    pool = make(2, env={"CPOOL_TEST_DEVICE": "7"})
    assert pool.broadcast(device) == ["7", "7"]
    assert device() is None


def test_env_may_be_a_function_of_the_workers_index(
    make: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CPOOL_TEST_OLD", "old")
    pool = make(3, env=lambda index: {"CPOOL_TEST_DEVICE": str(index), "CPOOL_TEST_OLD": None})
    assert pool.broadcast(device) == ["0", "1", "2"]
    assert pool.broadcast(variable, ("CPOOL_TEST_OLD",)) == [None] * 3
    with pytest.raises(cpool.WorkerLostError):
        pool.apply(os._exit, (1,), worker=1)
    assert pool.apply(device, worker=1) == "1"


@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_they_are_set_before_modules_are_imported(make_pool: Any, method: str) -> None:
    context = multiprocessing.get_context(method)
    pool = make_pool(2, context=context, env=lambda index: {"CPOOL_TEST_DEVICE": str(index)})
    assert pool.broadcast(at_import) == ["0", "1"]


def test_they_are_set_before_the_initializer(make: Any) -> None:
    pool = make(1, remember, env={"CPOOL_TEST_DEVICE": "3"})
    assert pool.apply(recall) == "3"


def remember() -> None:
    cpool.current_worker().state["device"] = device()


def recall() -> Any:
    return cpool.current_worker().state["device"]


def test_the_environment_is_that_of_the_workers_start(
    make: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """And so are the working directory and the path, whenever the fork server was started."""
    monkeypatch.setenv("CPOOL_TEST_SECRET", "secret")
    assert make(1).apply(variable, ("CPOOL_TEST_SECRET",)) == "secret"
    monkeypatch.delenv("CPOOL_TEST_SECRET")
    monkeypatch.setenv("CPOOL_TEST_NEW", "new")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    pool = make(1)
    assert pool.apply(variable, ("CPOOL_TEST_SECRET",)) is None
    assert pool.apply(variable, ("CPOOL_TEST_NEW",)) == "new"
    assert pool.apply(place) == (str(tmp_path), str(tmp_path))


@pytest.mark.parametrize("env", [3, {"a": 1}, {1: "a"}, lambda index: [index]])
def test_an_invalid_env_is_refused(make: Any, env: Any) -> None:
    with pytest.raises(TypeError, match="env"):
        make(1, env=env)


def test_a_function_that_raises() -> None:
    with pytest.raises(ZeroDivisionError):
        Pool(1, env=lambda index: 1 // index)


def test_a_pool_without_processes_has_no_environment_of_its_own(
    monkeypatch: pytest.MonkeyPatch, make_pool: Any
) -> None:
    with pytest.raises(ValueError, match="env needs worker processes"):
        Pool(1, serial=True, env={"A": "b"})
    with pytest.raises(TypeError):
        ThreadPool(1, env={"A": "b"})
    monkeypatch.setenv("CPOOL_SERIAL", "1")
    with pytest.warns(RuntimeWarning, match="env is ignored"):
        make_pool(1, env={"CPOOL_TEST_DEVICE": "1"})


def test_fork_servers_of_pools_with_env_are_not_told_of_the_main_module(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """And the program's list of modules is left alone, although it changes meanwhile."""
    from cpool._start import launchers

    main = {"init_main_from_name", "init_main_from_path"}
    assert main & set(spawn.get_preparation_data("ignore"))
    server: Any = forkserver._forkserver  # type: ignore[attr-defined]
    monkeypatch.setattr(server, "_preload_modules", ["__main__"])
    told: list[set[str]] = []
    both = threading.Barrier(2, timeout=engine.DEADLINE)

    def ensure_running() -> None:
        both.wait()
        told.append(main & set(spawn.get_preparation_data("ignore")))
        if both.wait() == 0:
            multiprocessing.set_forkserver_preload(["colorsys"])

    monkeypatch.setattr(forkserver, "ensure_running", ensure_running)

    def prepare() -> None:
        popen = launchers.ForkServerPopen.__new__(launchers.ForkServerPopen)
        popen._environment = {}
        popen._prepare()

    threads = [threading.Thread(target=prepare) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (told, server._preload_modules) == ([set(), set()], ["colorsys"])
    assert main & set(spawn.get_preparation_data("ignore"))


# preload


def test_modules_are_imported_before_tasks(make: Any) -> None:
    pool = make(2, preload=["colorsys"])
    assert pool.broadcast(has_module, ("colorsys",)) == [True, True]


def test_preload_may_be_a_single_name(make_pool: Any) -> None:
    pool = make_pool(1, preload="colorsys")
    assert "colorsys" in sys.modules
    assert pool.apply(has_module, ("colorsys",))


def test_a_module_that_there_is_not(make: Any) -> None:
    with pytest.raises(ModuleNotFoundError, match="no_such_module"):
        make(1, preload=["no_such_module"])
    with pytest.raises(TypeError):
        make(1, preload=[3])


def test_a_module_that_raises_in_spawned_workers(
    make_pool: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "raising_module.py").write_text("1 / 0\n", encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(ZeroDivisionError):
        Pool(1, preload="raising_module")
    context = multiprocessing.get_context("spawn")
    pool = make_pool(1, context=context, preload="raising_module")
    with pytest.raises(cpool.InitializerError) as caught:
        pool.apply(device)
    assert isinstance(caught.value.__cause__, ZeroDivisionError)


SERVER = """
import multiprocessing, os, sys
from cpool import Pool

DEVICE = os.environ.get("CPOOL_TEST_DEVICE")

def tell():
    return DEVICE if "counted" in sys.modules else None

if __name__ == "__main__":
    context = multiprocessing.get_context("forkserver")
    env = lambda index: {"CPOOL_TEST_DEVICE": f"device {index}"}
    with Pool(2, context=context, preload="counted", env=env) as pool:
        print(*pool.broadcast(tell))
"""


def test_the_fork_server_imports_preloaded_modules_once(tmp_path: Path) -> None:
    """Each import writes a line. The main module is not among them if the pool has an `env=`: it
    sees the variables when a worker imports it, also on versions whose fork server would import it.
    """
    (tmp_path / "counted.py").write_text(
        "import os\n"
        f"with open({str(tmp_path / 'imports')!r}, 'a') as file: print(os.getpid(), file=file)\n",
        encoding="utf-8",
    )
    (tmp_path / "program.py").write_text(SERVER, encoding="utf-8")
    done = scripts.run(tmp_path / "program.py", cwd=tmp_path)
    assert (done.stdout, done.stderr) == ("device 0 device 1\n", "")
    assert len((tmp_path / "imports").read_text().splitlines()) == 1
