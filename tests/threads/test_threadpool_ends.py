"""How thread pools end, even while tasks, callbacks and iterables block: nothing hangs."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import sysconfig
import threading
import time
from collections.abc import Callable, Iterator
from multiprocessing import util
from pathlib import Path
from typing import Any

import engine
import pytest
import scripts
from engine import DEADLINE, pool_module
from gates import eventually
from leftovers import settled, threads
from programs import exit_code
from tasks import identity

from cpool._engine import end

pytestmark = pytest.mark.better

ThreadPool: Any = pool_module.ThreadPool
errors = engine.errors


class Door:
    """A gate between threads."""

    def __init__(self) -> None:
        self.inside = threading.Semaphore(0)
        self.opened = threading.Event()

    def hold(self, value: Any = None) -> Any:
        self.inside.release()
        assert self.opened.wait(DEADLINE)
        return value

    def arrived(self, count: int = 1) -> None:
        for _ in range(count):
            assert self.inside.acquire(timeout=DEADLINE)


@pytest.fixture
def door() -> Iterator[Door]:
    door = Door()
    yield door
    door.opened.set()


# terminate()


def test_pools_that_leave_threads_behind_need_one_finalizer_in_all() -> None:
    for _ in range(3):
        door = Door()
        pool = ThreadPool(1)
        pool.apply_async(door.hold)
        door.arrived()
        pool.terminate()
        door.opened.set()
        pool.join()
        end._left.clear()  # as when the thread is freed
    registered = [
        finalizer
        for finalizer in list(util._finalizer_registry.values())  # type: ignore[attr-defined]
        if getattr(finalizer, "_callback", None) is end._keep_files_of_threads_left
    ]
    assert len(registered) == 1


def test_terminate_returns_at_once_and_join_waits(door: Door) -> None:
    pool = ThreadPool(2)
    result = pool.map_async(door.hold, range(100), 1)
    door.arrived(2)
    began = time.monotonic()
    pool.terminate()
    assert time.monotonic() - began < DEADLINE / 2
    with pytest.raises(errors.PoolTerminated):
        result.get(DEADLINE)
    with pytest.raises(pool_module.TimeoutError):
        pool.join(0.01)
    assert all(thread.is_alive() for thread in pool._pool)
    door.opened.set()
    pool.join()
    assert not any(thread.is_alive() for thread in pool._pool)
    assert not door.inside.acquire(blocking=False)  # no other task has begun


@pytest.mark.parametrize("name", ["apply", "get", "wait", "map", "imap", "callback"])
def test_terminate_releases_all_waiting_threads(name: str, door: Door, in_threads: Any) -> None:
    pool = ThreadPool(1)
    results: list[Any] = []
    waits: dict[str, Callable[[], Any]] = {
        "apply": lambda: pool.apply(door.hold),
        "get": lambda: pool.apply_async(door.hold).get(),
        "wait": lambda: pool.apply_async(door.hold).wait(),
        "map": lambda: pool.map(door.hold, range(10), 1),
        "imap": lambda: next(pool.imap(door.hold, range(10))),
        "callback": lambda: pool.apply_async(door.hold, callback=results.append).get(),
    }

    def wait(number: int) -> Any:
        if number == 0:
            door.arrived()
            return pool.terminate()
        try:
            return waits[name]()
        except errors.PoolTerminated as error:
            return error
        except ValueError as error:  # the pool had ended before the call
            assert str(error) == "Pool not running"

    [_, *found] = in_threads(wait, range(4))
    kinds = {type(each) for each in found}
    assert kinds <= {type(None), errors.PoolTerminated}
    assert errors.PoolTerminated in kinds or name == "wait"
    door.opened.set()
    pool.join()
    assert results == []


@pytest.mark.skipif(
    bool(sysconfig.get_config_var("Py_GIL_DISABLED")), reason="a thread does not wait for a turn"
)
def test_terminate_drops_a_task_that_waits_for_the_gil() -> None:
    """A worker has taken the task and waits for the GIL when the pool is terminated."""
    pool = ThreadPool(2)
    open_job = pool_module.ApplyResult(pool)  # while it is open, no worker takes the GIL to tidy up
    ran: list[int] = []
    interval = sys.getswitchinterval()
    sys.setswitchinterval(DEADLINE)
    try:
        assert pool.map(identity, range(10), 1) == list(range(10))
        pool.map_async(ran.append, range(10), 1)
        end = time.monotonic() + DEADLINE / 2
        while (queued := pool._taskqueue.qsize()) == 10 and time.monotonic() < end:
            pass  # without releasing the GIL
        pool.terminate()
    finally:
        sys.setswitchinterval(interval)
    pool.join()
    del open_job
    assert (queued < 10, ran) == (True, [])


def test_leaving_the_with_block_does_not_wait(door: Door) -> None:
    with ThreadPool(1) as pool:
        pool.apply_async(door.hold)
        door.arrived()
    assert pool._state == "TERMINATE"
    assert pool._pool[0].is_alive()
    door.opened.set()
    pool.join()


def test_a_task_and_a_callback_may_terminate() -> None:
    for how in "task", "callback":
        pool = ThreadPool(2)
        if how == "task":
            result = pool.apply_async(pool.terminate)
        else:
            result = pool.apply_async(
                identity, (1,), callback=lambda _, pool=pool: pool.terminate()
            )
        result.wait(DEADLINE)
        assert result.ready()
        pool.join()


def test_a_task_or_callback_cannot_join_its_pool(door: Door) -> None:
    pool = ThreadPool(2)

    def end(_: Any) -> None:
        pool.close()
        pool.join()

    results = [
        pool.apply_async(lambda: end(door.hold(0))),
        pool.apply_async(identity, (1,), callback=end),
    ]
    door.opened.set()
    for result in results:
        with pytest.raises(RuntimeError, match="cannot join the pool"):
            result.get(DEADLINE)
    pool.close()
    pool.join()


def test_close_runs_submitted_tasks(door: Door) -> None:
    called: list[Any] = []
    pool = ThreadPool(2)
    held = pool.map_async(door.hold, range(20), 1, callback=called.append)
    items = pool.imap(identity, (x for x in range(500)))
    pool.close()
    door.opened.set()
    pool.join()
    assert called == [list(range(20))]
    assert held.get(0) == list(range(20))
    assert list(items) == list(range(500))


def test_a_blocked_iterable_does_not_delay_the_end(door: Door) -> None:
    def items() -> Iterator[int]:
        yield 1
        door.hold()

    pool = ThreadPool(1)
    found = pool.imap(identity, items())
    assert next(found) == 1
    door.arrived()
    pool.terminate()
    with pytest.raises(errors.PoolTerminated):
        next(found)
    pool.join()
    door.opened.set()


def test_dropped_tasks_run_destructors_that_use_the_pool() -> None:
    """Dropping a job may run any destructor, and a destructor may call the pool."""
    seen = []

    class Late:
        def __del__(self) -> None:
            try:
                pool.apply_async(identity, (1,))
            except ValueError as error:
                seen.append(str(error))

    door = Door()
    pool = ThreadPool(1)
    pool.apply_async(door.hold)
    door.arrived()
    pool.map_async(identity, [Late() for _ in range(5)], 2)
    pool.terminate()
    eventually(lambda: len(seen) == 5)  # another thread may be at it
    assert seen == ["Pool not running"] * 5
    door.opened.set()
    pool.join()


# Failures


def test_an_initializer_that_raises(capsys: Any) -> None:
    error = KeyError(object())

    def initialise() -> None:
        raise error

    pool = ThreadPool(3, initialise)
    for call in (
        lambda: pool.apply(identity, (1,)),
        lambda: pool.map(identity, range(10)),
        lambda: pool.map_async(identity, range(10)).get(DEADLINE),
        lambda: next(pool.imap(identity, range(10))),
    ):
        with pytest.raises(errors.InitializerError) as caught:
            call()
        assert caught.value.__cause__ is error
    pool.close()
    pool.join()
    told = capsys.readouterr().err
    assert told.count("Traceback") == 1
    assert told.startswith("cpool: the initializer raised in a worker thread:\n")
    assert "KeyError" in told


def test_an_initializer_that_exits_late(door: Door) -> None:
    local = threading.local()

    def initialise(turns: list[int]) -> None:
        local.number = turns.pop()  # without the GIL an iterator may repeat a number
        if local.number == 1:
            door.hold()
            raise SystemExit(3)

    pool = ThreadPool(2, initialise, ([1, 0],))
    assert pool.apply(identity, (5,)) == 5
    door.arrived()
    door.opened.set()
    with pytest.raises(errors.InitializerError) as caught:
        while True:
            pool.apply(identity, (5,))
    assert type(caught.value.__cause__) is SystemExit
    pool.terminate()
    pool.join()


def test_an_initializer_that_never_returns(door: Door) -> None:
    pool = ThreadPool(2, door.hold)
    result = pool.apply_async(identity, (1,))
    door.arrived(2)
    pool.terminate()
    with pytest.raises(errors.PoolTerminated):
        result.get(DEADLINE)
    door.opened.set()
    pool.join()


def test_a_thread_that_cannot_be_started() -> None:
    before = threads()

    class Failing(ThreadPool):  # type: ignore[misc]
        count = 0

        @staticmethod
        def Process(ctx: Any, *args: Any, **kwds: Any) -> Any:
            thread = ThreadPool.Process(ctx, *args, **kwds)
            Failing.count += 1
            if Failing.count == 3:
                thread.start = lambda: refuse()
            return thread

    def refuse() -> None:
        raise RuntimeError("can't start new thread")

    with pytest.raises(RuntimeError, match="can't start new thread"):
        Failing(5)
    assert Failing.count == 3
    assert settled(threads, before) == set()


def test_a_start_interrupted_although_the_thread_runs() -> None:
    """Ctrl-C may arrive while start() waits until the thread runs."""
    before = threads()

    class Interrupted(ThreadPool):  # type: ignore[misc]
        @staticmethod
        def Process(ctx: Any, *args: Any, **kwds: Any) -> Any:
            thread = ThreadPool.Process(ctx, *args, **kwds)
            thread.start = lambda: start(thread)
            return thread

    def start(thread: Any) -> None:
        type(thread).start(thread)
        if interrupt:
            raise KeyboardInterrupt

    interrupt = True
    with pytest.raises(KeyboardInterrupt):
        Interrupted(2)
    assert settled(threads, before) == set()
    interrupt = False
    pool = Interrupted(1)
    interrupt = True
    pool._processes = 2
    with pytest.raises(KeyboardInterrupt):
        pool._repopulate_pool()
    assert pool.map(identity, range(10), 1) == list(range(10))
    pool.close()
    pool.join()


def test_a_helper_that_cannot_be_started(monkeypatch: pytest.MonkeyPatch) -> None:
    pool = ThreadPool(1)

    def refuse(*_: Any) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        for call in (
            lambda: pool.apply_async(identity, (1,)),
            lambda: pool.imap(identity, iter([1])),
        ):
            with pytest.raises(RuntimeError, match="can't start new thread"):
                call()
    assert pool.apply_async(identity, (1,), callback=id).get(DEADLINE) == 1
    pool.close()
    pool.join()


# Forks


def test_the_pool_is_inert_in_a_forked_copy(door: Door) -> None:
    pool = ThreadPool(2)
    held = pool.map_async(door.hold, range(4), 1)
    door.arrived(2)
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            told = []
            for call in (
                lambda: pool.map(identity, [1]),
                lambda: pool.apply_async(identity, (1,)),
                lambda: held.get(),
                pool.join,
            ):
                try:
                    call()
                except ValueError as error:
                    told.append(str(error))
            pool.terminate()
            del held, pool
            with ThreadPool(2) as own:
                told.append(own.map(identity, [1, 2], 1))
            os.write(write, repr(told).encode())
        finally:
            os._exit(0)
    os.close(write)
    assert exit_code(child) == 0
    told = os.read(read, 1000).decode()
    os.close(read)
    not_running = "Pool not running"
    assert told == repr([not_running, not_running, not_running, "Pool is still running", [1, 2]])
    door.opened.set()
    assert held.get(DEADLINE) == list(range(4))
    pool.close()
    pool.join()


def test_a_task_that_forks() -> None:
    """The child has no thread but the copy of the worker, and exits at the end of the task."""
    pool = ThreadPool(1)
    child = pool.apply(os.fork)
    assert child > 0
    assert exit_code(child) == 0
    assert pool.apply(identity, (1,)) == 1
    pool.close()
    pool.join()


def test_an_item_of_a_chunk_that_forks() -> None:
    """The child does not run the rest of the chunk: that is the parent's."""
    read, write = os.pipe()

    def run(item: int) -> int:
        os.write(write, b"%d" % item)
        return os.fork() if item == 1 else item

    with ThreadPool(1) as pool:
        child = pool.map(run, range(4), 4)[1]
        assert exit_code(child) == 0
    os.close(write)
    with open(read, "rb") as ran:
        assert ran.read() == b"0123"


def test_processes_may_be_used_from_a_task() -> None:
    with ThreadPool(2) as pool, pool_module.Pool(1) as processes:
        found = pool.map(lambda x: processes.apply(identity, (x,)), range(10), 1)
        assert found == list(range(10))
        processes.close()
        processes.join()
    pool.join()
    ran = subprocess.run(["true"], check=True)
    assert ran.returncode == 0


# The end of the program

PREFIX = """
import atexit, os, sys, threading, time
from engine import pool_module
ThreadPool = pool_module.ThreadPool
begun = threading.Semaphore(0)
def sleep(_=None):
    begun.release()
    time.sleep(1000)
def compute(_=None):
    begun.release()
    while True: pass
"""

PROGRAMS = {
    "idle": "pool = ThreadPool(2); print(pool.map(abs, [-1]))",
    "sleeping": "pool = ThreadPool(2); r = pool.map_async(sleep, range(9), 1); begun.acquire()",
    "computing": "pool = ThreadPool(2); r = pool.map_async(compute, range(9), 1); begun.acquire()",
    "nobody kept": "ThreadPool(2).map_async(sleep, range(9), 1); begun.acquire()",
    "closed": "pool = ThreadPool(2); pool.map_async(sleep, [1]); begun.acquire(); pool.close()",
    "terminated": "pool = ThreadPool(1); pool.map_async(sleep, [1]); begun.acquire(); "
    "pool.terminate()",
    "in a block": "with ThreadPool(2) as pool:\n    pool.map_async(sleep, [1]); begun.acquire()",
    "a thread waits": "pool = ThreadPool(1)\n"
    "threading.Thread(target=pool.map, args=(sleep, [1]), daemon=True).start(); begun.acquire()",
    "the initializer": "pool = ThreadPool(2, sleep); begun.acquire()",
    "atexit": "pool = ThreadPool(2); atexit.register(lambda: print(pool.map(abs, [-1])))",
    "a callback": "pool = ThreadPool(1); pool.apply_async(abs, (-1,), callback=sleep); "
    "begun.acquire()",
    "an iterable": "pool = ThreadPool(1); pool.imap(abs, (sleep() for _ in '1')); begun.acquire()",
    "a cycle": "pool = ThreadPool(2); pool.me = pool; r = pool.map_async(sleep, [pool]); "
    "begun.acquire()",
}


@pytest.mark.parametrize("name", PROGRAMS)
def test_the_program_ends_at_once(tmp_path: Path, name: str) -> None:
    printed = scripts.output(tmp_path, PREFIX + PROGRAMS[name])
    assert printed == (["[1]"] if name in ("idle", "atexit") else [])


LATE = """
class Late:
    def __del__(self, write=os.write):
        try:
            self.wait()
        except BaseException as exc:
            write(1, type(exc).__name__.encode() + b"\\n")
        write(1, b"end\\n")

lock = threading.Lock()
lock.acquire()
wait = lock.acquire  # no function of this module, which would be kept with all that is in it
late = Late()
pool = ThreadPool(2)
result = pool.apply_async(wait)
"""

# How the program waits while the interpreter ends, and what is raised. The pool was terminated
# before.
LATE_WAITS = {
    "join": ("pool.close(); late.wait = pool.join", []),
    "join in time": ("pool.close(); late.wait = lambda: pool.join(1000)", []),
    "get": ("late.wait = result.get", ["PoolTerminated"]),
    "next": ("late.wait = pool.imap(time.sleep, [1000]).__next__", ["PoolTerminated"]),
    "as_completed": ("import cpool; late.wait = cpool.as_completed([result]).__next__", []),
}


@pytest.mark.parametrize("name", LATE_WAITS)
def test_no_wait_for_threads_while_the_interpreter_ends(tmp_path: Path, name: str) -> None:
    """None of them runs any more."""
    wait, error = LATE_WAITS[name]
    *told, last = scripts.output(tmp_path, PREFIX + LATE + wait)
    assert last == "end"
    # Without the GIL the modules are cleared first, and any call may fail.
    if not sysconfig.get_config_var("Py_GIL_DISABLED"):
        assert told == error


CTRL_C = """
import sys
from engine import pool_module
from gates import Gate
pool = pool_module.ThreadPool(2)
gate = Gate(sys.argv[1])
print("up", flush=True)
try:
    {call}
except KeyboardInterrupt:
    print("interrupted")
gate.open()
pool.terminate()
pool.join()
print("end")
"""


@pytest.mark.parametrize(
    "call",
    [
        "pool.apply(gate.hold)",
        "pool.map(gate.hold, range(9), 1)",
        "pool.apply_async(gate.hold).get()",
        "next(pool.imap(gate.hold, [1]))",
        "pool.apply_async(gate.hold); pool.close(); pool.join()",
    ],
)
def test_ctrl_c_interrupts_a_waiting_call(tmp_path: Path, call: str) -> None:
    folder = scripts.gate_folder(tmp_path)
    process = scripts.start(scripts.write(tmp_path, CTRL_C.format(call=call)), folder)
    assert scripts.line(process) == "up\n"
    arrivals = os.open(f"{folder}/arrivals", os.O_RDONLY)
    assert os.read(arrivals, 4)
    os.close(arrivals)
    process.send_signal(signal.SIGINT)
    done = scripts.finish(process)
    assert (done.stdout, done.stderr, done.returncode) == ("interrupted\nend\n", "", 0)


def test_a_pool_that_is_ended_gets_no_thread_for_one_that_leaves(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pool = pool_module.ThreadPool(1)
    monkeypatch.setattr(pool, "_processes", 2)  # a thread is lacking, as after resize()
    # By another thread.
    monkeypatch.setattr("cpool._engine.threads.check_can_start", pool._engine.end)
    pool._fill_up()
    assert len(pool._pool) == 1
    pool.terminate()
    pool.join(DEADLINE)


def test_a_thread_leaves_where_there_is_no_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only code that allocates nothing runs at its end, or join() would wait for ever."""

    def refuse(*_: object) -> Any:
        raise MemoryError

    pool = pool_module.ThreadPool(1)
    monkeypatch.setattr(contextlib, "suppress", refuse)
    pool.close()
    pool.join(DEADLINE)
