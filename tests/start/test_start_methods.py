"""What spawned and fork-server workers must have in common with forked workers."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import engine
import pytest
import scripts
import tasks
from engine import Pool
from gates import Gate, all_gone

from cpool import WorkerLostError, _core

METHODS = ["fork", "spawn", "forkserver"]


@pytest.fixture(scope="module", params=METHODS)
def method(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture(scope="module")
def context(method: str) -> Any:
    return multiprocessing.get_context(method)


@pytest.fixture(scope="module")
def pool(context: Any) -> Iterator[Pool]:
    with Pool(2, context=context) as pool:
        # Its threads belong to no test: large data start one of them.
        pool.apply_async(abs, (1,)).get()
        yield pool


@pytest.mark.better
def test_the_engine_runs_the_pool(pool: Pool) -> None:
    assert isinstance(pool._engine, _core.Engine)
    assert pool.map(tasks.square, range(1000)) == [x * x for x in range(1000)]
    assert pool.apply(len, (b"x" * 3_000_000,)) == 3_000_000


@pytest.mark.better
def test_a_killed_worker_loses_its_task_and_is_replaced(context: Any, gate: Gate) -> None:
    pool = Pool(1, context=context)
    result = pool.apply_async(gate.hold, (0,))
    (pid,) = gate.arrived(1)
    os.kill(pid, signal.SIGKILL)
    with pytest.raises(WorkerLostError) as caught:
        result.get()
    assert (caught.value.pid, caught.value.exitcode) == (pid, -signal.SIGKILL)
    assert pool.map(tasks.square, range(9), 1) == [x * x for x in range(9)]
    pool.terminate()
    pool.join()


@pytest.mark.better
def test_exit_codes_are_those_of_the_processes(context: Any) -> None:
    with Pool(1, context=context) as pool:
        with pytest.raises(WorkerLostError) as caught:
            pool.apply(os._exit, (7,))
        assert caught.value.exitcode == 7
    with Pool(1, context=context) as pool:
        assert pool.apply(abs, (-1,)) == 1
        pool.close()
        pool.join()
        assert [worker.exitcode for worker in pool._pool] == [0]


@pytest.mark.better
def test_workers_are_replaced_after_their_tasks(context: Any) -> None:
    with Pool(1, maxtasksperchild=2, context=context) as pool:
        pids = pool.map(tasks.pid, range(4), 1)
    assert pids[0] == pids[1] != pids[2] == pids[3]


def test_terminate_ends_busy_workers(context: Any, gate: Gate) -> None:
    pool = Pool(2, context=context)
    pool.map_async(gate.hold, range(2), 1)
    pids = gate.arrived(2)
    pool.terminate()
    pool.join()
    all_gone(pids)


@pytest.mark.parametrize("name", ["spawn", "forkserver"])
def test_the_constructor_refuses_unpicklable_arguments(name: str) -> None:
    context = multiprocessing.get_context(name)
    before = multiprocessing.active_children()
    with pytest.raises((pickle.PicklingError, AttributeError, TypeError)):
        Pool(2, tasks.remember, (threading.Lock(),), context=context)
    assert set(multiprocessing.active_children()) == set(before)


@pytest.mark.better
@pytest.mark.parametrize("name", ["spawn", "forkserver"])
def test_a_worker_is_pickled_only_to_be_started(name: str) -> None:
    with Pool(1, context=multiprocessing.get_context(name)) as pool:
        assert pool._engine is not None
        with pytest.raises(TypeError):
            pickle.dumps(pool._engine.worker(None))


NEVER_READY = """
import multiprocessing, os, sys
from engine import Pool
from cpool import PoolError

if __name__ != "__main__":
    sys.stderr = open(os.devnull, "w")
    raise ImportError("not here")
if __name__ == "__main__":
    if "preloaded" not in sys.argv:
        multiprocessing.set_forkserver_preload([])
    try:
        with Pool(1, context=multiprocessing.get_context(sys.argv[1])) as pool:
            pool.apply(abs, (-1,))
    except PoolError as exc:
        print("no worker can be started" in str(exc))
    except (OSError, EOFError):
        print("preloaded" in sys.argv)
"""


@pytest.mark.better
@pytest.mark.parametrize("args", [["spawn"], ["forkserver"], ["forkserver", "preloaded"]])
def test_workers_that_cannot_start_fail_the_job(tmp_path: Path, args: list[str]) -> None:
    """From 3.14 on the fork server imports the main module, and so cannot start either."""
    # Many processes start, one after the other.
    done = scripts.run_source(tmp_path, NEVER_READY, *args, seconds=1.8 * engine.DEADLINE)
    assert (done.returncode, done.stdout) == (0, "True\n"), done.stderr


SERVER_KILLED = """
import multiprocessing, multiprocessing.forkserver, os, signal, sys
from engine import Pool
from gates import Gate, all_gone
from cpool import WorkerLostError

if __name__ == "__main__":
    pool = Pool(1, context=multiprocessing.get_context("forkserver"))
    gate = Gate(sys.argv[1])
    result = pool.apply_async(gate.hold, (0,))
    pids = gate.arrived(1)
    os.kill(multiprocessing.forkserver._forkserver._forkserver_pid, signal.SIGKILL)
    try:
        result.get()
    except WorkerLostError as exc:
        print(exc.exitcode)
    all_gone(pids)
    print(pool.apply(abs, (-1,)))
    pool.terminate()
    pool.join()
"""


@pytest.mark.better
def test_a_killed_fork_server_is_an_error(tmp_path: Path) -> None:
    done = scripts.run_source(tmp_path, SERVER_KILLED, scripts.gate_folder(tmp_path))
    assert (done.returncode, done.stdout) == (0, "255\n1\n"), done.stderr


NO_DAEMON = """
import multiprocessing, sys
from engine import Pool

base = multiprocessing.get_context(sys.argv[1])

class NoDaemonProcess(base.Process):
    @property
    def daemon(self):
        return False

    @daemon.setter
    def daemon(self, value):
        pass

class NoDaemonContext(type(base)):
    Process = NoDaemonProcess

def inner(x):
    with multiprocessing.get_context(multiprocessing.get_start_method()).Pool(1) as pool:
        return pool.apply(abs, (x,))

if __name__ == "__main__":
    with Pool(1, context=NoDaemonContext()) as pool:
        print(type(pool._engine).__name__, pool.map(inner, [-1, -2]))
        pool.close()
        pool.join()
"""


@pytest.mark.better
def test_workers_that_are_not_daemons(tmp_path: Path, method: str) -> None:
    assert scripts.output(tmp_path, NO_DAEMON, method) == ["Engine [1, 2]"]


def test_another_build_is_refused(tmp_path: Path) -> None:
    """The data passed to a worker must come from the same build."""
    with (tmp_path / "memory").open("w+b") as file:
        file.truncate(24)
        fds = [os.dup(file.fileno()) for _ in range(5)]
        code = f"from cpool import _core; _core._attach(*{fds}, -1, 0, 1)"
        done = scripts.run("-c", code, pass_fds=fds)
        for fd in fds:
            os.close(fd)
    assert done.returncode == 1
    assert "another build" in done.stderr


PRELOADED = """
import multiprocessing
from engine import Pool

if __name__ == "__main__":
    multiprocessing.set_forkserver_preload(["cpool"])
    with Pool(2, context=multiprocessing.get_context("forkserver")) as pool:
        print(pool.map(abs, range(-3, 0), 1))
"""


def test_a_fork_server_may_have_imported_cpool(tmp_path: Path) -> None:
    assert scripts.output(tmp_path, PRELOADED) == ["[3, 2, 1]"]


NO_MEMFD = """
import ctypes, errno, multiprocessing, os, struct, sys
from engine import Pool
import tasks

def refuse(number):
    # A seccomp filter: this system call fails with EPERM.
    code = [(0x20, 0, 0, 0), (0x15, 0, 1, number), (6, 0, 0, 0x50000 | errno.EPERM),
            (6, 0, 0, 0x7fff0000)]
    buffer = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *line) for line in code))
    program = ctypes.create_string_buffer(struct.pack("HxxxxxxP", 4, ctypes.addressof(buffer)))
    libc = ctypes.CDLL(None, use_errno=True)
    assert libc.prctl(38, 1, 0, 0, 0) == 0 and libc.prctl(22, 2, program) == 0

if __name__ == "__main__":
    refuse({"x86_64": 319, "aarch64": 279}[os.uname().machine])
    try:
        os.memfd_create("test")
    except PermissionError:
        pass
    with Pool(2, context=multiprocessing.get_context(sys.argv[1])) as pool:
        print(sum(pool.map(tasks.square, range(100), 1)))
    pool.join()
"""


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_memory_is_shared_where_memfd_is_refused(tmp_path: Path, method: str) -> None:
    done = scripts.run_source(tmp_path, NO_MEMFD, method)
    assert (done.returncode, done.stdout) == (0, "328350\n"), done.stderr


PARENT_LIVES = """
import multiprocessing, sys
from engine import Pool

def parent_lives(_=None):
    parent = multiprocessing.parent_process()
    parent.join(0)
    return parent.is_alive()

if __name__ == "__main__":
    with Pool(1, context=multiprocessing.get_context(sys.argv[1])) as pool:
        print(pool.map(parent_lives, range(2)))
    pool.join()
"""


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_a_worker_sees_that_its_parent_lives(tmp_path: Path, method: str) -> None:
    done = scripts.run_source(tmp_path, PARENT_LIVES, method)
    assert (done.returncode, done.stdout) == (0, "[True, True]\n"), done.stderr
