"""A process that the program forks has copies of its pools. The copies are inert."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import scripts
import tasks
from engine import DEADLINE
from gates import Diary, Gate, all_gone, gone
from programs import exit_code

pytestmark = pytest.mark.better


def in_copy(work: Callable[[], None], diary: Diary) -> None:
    """Run work in a forked copy of this process. The copy exits after work() in any case."""
    child = os.fork()
    if child == 0:
        try:
            work()
        except BaseException as error:
            diary.write(f"{type(error).__name__}: {error}")
        finally:
            os._exit(0)
    assert exit_code(child) == 0


# What a copy can do


def test_results_in_a_copy_are_never_ready(make_pool: Any, diary: Diary, gate: Gate) -> None:
    """Nothing in the copy could complete them: each call raises and does not wait."""
    pool = make_pool(1)
    held = pool.map_async(gate.hold, [5])
    items = pool.imap(tasks.square, [2])
    gate.arrived()
    looks: dict[str, Callable[[], Any]] = {
        "ready": held.ready,
        "successful": held.successful,
        "wait": held.wait,
        "get": held.get,
        "number left": lambda: held._number_left,
        "value": lambda: held._value,
        "next": items.next,
        "pending": lambda: len(pool._cache),
        "waiting": pool._taskqueue.qsize,
        "more workers": pool._repopulate_pool,
    }

    def work() -> None:
        for name, look in looks.items():
            try:
                look()
            except ValueError as error:
                assert str(error) == "Pool not running", name
                assert f"process {os.getpid()}" in error.__notes__[0]
                diary.write(name)

    in_copy(work, diary)
    assert diary.lines() == list(looks)
    gate.open()
    assert held.get(DEADLINE) == [5]
    assert items.next(DEADLINE) == 4


def test_results_read_before_the_fork_stay(make_pool: Any, diary: Diary) -> None:
    pool = make_pool(1)
    result = pool.map_async(tasks.square, [2, 3])
    assert result.get(DEADLINE) == [4, 9]
    in_copy(lambda: diary.write((result.ready(), result.get(), result.successful())), diary)
    assert diary.lines() == ["(True, [4, 9], True)"]


def test_a_copy_signals_no_worker(make_pool: Any, diary: Diary, gate: Gate) -> None:
    pool = make_pool(2)
    held = pool.map_async(gate.hold, range(2), 1)
    pids = gate.arrived(2)

    def work() -> None:
        for worker in pool._pool:
            worker.kill()
            worker.terminate()
        pool.terminate()
        diary.write("done")

    in_copy(work, diary)
    assert diary.lines() == ["done"]
    gate.open()
    assert held.get(DEADLINE) == [0, 1]
    assert sorted(worker.pid for worker in pool._pool) == sorted(pids)


def test_a_multiprocessing_child_leaves_the_pool_alone(make_pool: Any, diary: Diary) -> None:
    """multiprocessing ends the processes that it takes for its children."""
    pool = make_pool(2)
    pids = [worker.pid for worker in pool._pool]

    def work() -> None:
        try:
            pool.map(tasks.square, [1])
        except ValueError as error:
            diary.write(error)

    child = multiprocessing.get_context("fork").Process(target=work)
    child.start()
    child.join(DEADLINE)
    assert child.exitcode == 0
    assert diary.lines() == ["Pool not running"]
    assert pool.map(tasks.square, range(10), 1) == [x * x for x in range(10)]
    assert [worker.pid for worker in pool._pool] == pids


EXITS = """
import os, sys
from engine import Pool
from programs import exit_code
import tasks


def main():
    pool = Pool(2)
    result = pool.map_async(tasks.square, range(100), 1)
    pids = [worker.pid for worker in pool._pool]
    sys.stdout.flush()
    child = os.fork()
    if child == 0:
        {last}
        return
    print(exit_code(child))
    assert result.get() == [x * x for x in range(100)]
    assert [worker.pid for worker in pool._pool] == pids
    print(pool.map(tasks.square, [1, 2, 3]))

main()
"""


@pytest.mark.parametrize(
    ("last", "status"), [("pass", 0), ("sys.exit(3)", 3), ("del pool", 0), ("pool.terminate()", 0)]
)
def test_a_copy_may_exit_normally(tmp_path: Path, last: str, status: int) -> None:
    """In the stdlib the copy ends the workers, since it takes them for its own children."""
    lines = scripts.output(tmp_path, EXITS.format(last=last))
    assert lines == [str(status), "[1, 4, 9]"]


COPIED_AT_ANY_MOMENT = """
import os, threading
from engine import Pool
from programs import exit_code
import tasks


stop = threading.Event()

def load():
    while not stop.is_set():
        assert pool.map(tasks.square, range(20), 1) == [x * x for x in range(20)]
        assert list(pool.imap_unordered(abs, [3] * 20)) == [3] * 20

def refused(func, *args):
    try:
        func(*args)
    except ValueError:
        return
    raise AssertionError(func)

def use():
    refused(pool.map, abs, [1])
    refused(pool.apply_async, abs, (1,))
    refused(pool.imap, abs, [1])
    refused(result.get)
    refused(len, pool._cache)
    refused(pool.join, 0)
    pool.terminate()
    repr(pool)

pool = Pool(2)
result = pool.apply_async(__import__("time").sleep, (3600,))
threads = [threading.Thread(target=load) for _ in range(3)]
for thread in threads:
    thread.start()
for _ in range(30):
    child = os.fork()
    if child == 0:
        status = 1
        try:
            use()
            status = 0
        finally:
            os._exit(status)
    assert exit_code(child) == 0
stop.set()
for thread in threads:
    thread.join()
print(pool.map(abs, [-1]))
pool.terminate()
"""


def test_a_copy_made_at_any_moment_does_not_hang(tmp_path: Path) -> None:
    """Other threads use the pool, and may be anywhere in its code at the fork."""
    assert scripts.output(tmp_path, COPIED_AT_ANY_MOMENT) == ["[1]"]


COPIED_IN_A_WAIT = """
import os, signal, sys, threading
from engine import DEADLINE, pool_module
from gates import Gate, eventually
from programs import exit_code
import tasks


child = None

def fork(*_):
    global child
    child = os.fork()

def press():
    gate.arrived()
    assert go.wait(DEADLINE)
    os.kill(os.getpid(), signal.SIGUSR1)
    eventually(lambda: child)
    gate.open()

signal.signal(signal.SIGUSR1, fork)
gate = Gate(sys.argv[1])
go = threading.Event()
if "go.set()" not in {call!r}:
    go.set()
pool = pool_module.{cls}(1)
threading.Thread(target=press).start()
try:
    print({call})
except ValueError as error:
    os._exit(3 if child == 0 and str(error) == "Pool not running" else 4)
print(exit_code(child))
pool.terminate()
"""


@pytest.mark.parametrize("cls", ["Pool", "ThreadPool"])
@pytest.mark.parametrize(
    "call",
    [
        "pool.apply(tasks.held, (gate, 1))",
        "pool.starmap(tasks.held, [(gate, 1)])[0]",
        "pool.apply_async(tasks.held, (gate, 1)).get()",
        "next(pool.imap(gate.hold, [1]))",
        "(pool.apply_async(tasks.held, (gate, 1)), pool.close(), go.set(), pool.join())[0].get()",
    ],
    ids=["apply", "starmap", "get", "next", "join"],
)
def test_a_signal_handler_may_fork_during_a_wait(tmp_path: Path, cls: str, call: str) -> None:
    """In the copy the wait raises."""
    source = COPIED_IN_A_WAIT.format(cls=cls, call=call)
    assert scripts.output(tmp_path, source, scripts.gate_folder(tmp_path)) == ["1", "3"]


COPIED_WITHIN = """
import os, sys, threading
from cpool import ProcessPoolExecutor
from engine import Pool
from programs import exit_code
import tasks

children = []
gate = os.pipe()

class Forking:
    def __reduce__(self):
        return fork, ()

def hold(func):
    os.read(gate[0], 1)
    return func(1)

def finish(call):
    done = threading.Event()
    call.add_done_callback(lambda _: done.set())
    os.write(gate[1], b"1")
    done.wait()

def forking(_):
    return Forking()

def fork(_=None):
    children.append(os.fork())
    return children[-1]

def told(func):
    try:
        return func()
    except ValueError as error:
        if children and children[-1] == 0:
            os._exit(3 if str(error).startswith("Pool not running") else 4)
        raise

with {pool} as pool:
    {call}
    print(pool.{after})
for child in children:
    print(exit_code(child))
"""


@pytest.mark.better
@pytest.mark.parametrize(
    ("call", "codes"),
    [
        ("told(lambda: pool.map(forking, [1, 2], 1))", ["3", "3"]),
        ("told(pool.map_async(forking, [1], 1).get)", ["3"]),
        (
            "r = pool.map_async(forking, [1, 2], 1); pool.apply(abs, (0,)); told(r.get)",
            ["3", "3"],
        ),
        ("told(lambda: pool.apply(forking, (1,)))", ["3"]),
        ("pool.apply_async(forking, (1,), callback=id).get()", ["0"]),
        ("pool.apply_async(abs, (1,), callback=fork).get()", ["0"]),
        ("pool.map_async(forking, [1, 2], 1, callback=id).get()", ["0", "0"]),
    ],
    ids=[
        "map",
        "get",
        "get-of-what-has-come",
        "apply",
        "value-for-a-callback",
        "callback",
        "values-for-a-callback",
    ],
)
def test_a_fork_inside_a_call_ends_the_call_in_the_copy(
    tmp_path: Path, call: str, codes: list[str]
) -> None:
    """A callback, or code that rebuilds a value, forks and returns in both processes.

    The call of the copy raises and rebuilds no other value. The thread that runs callbacks ends
    in the copy, and so does the copy, which has no other thread.
    """
    program = COPIED_WITHIN.format(pool="Pool(1)", call=call, after="apply(abs, (-1,))")
    assert scripts.output(tmp_path, program) == ["1", *codes]


@pytest.mark.better
@pytest.mark.parametrize(
    ("call", "codes"),
    [
        ("told(pool.submit(forking, 1).result)", ["3"]),
        (
            "calls = [pool.submit(forking, n) for n in range(2)]; told(calls[1].result); "
            "calls[0].result()",
            ["3", "3"],
        ),
        ("told(lambda: list(pool.map(forking, [1, 2])))", ["3", "3"]),
        (
            "call = pool.submit(hold, abs); call.add_done_callback(fork); finish(call)",
            ["0"],
        ),
        ("finish(pool.submit(hold, forking))", ["0"]),
    ],
    ids=["result", "result-of-the-last", "map", "callback", "value-for-a-callback"],
)
def test_a_fork_inside_a_call_of_an_executor(tmp_path: Path, call: str, codes: list[str]) -> None:
    """As above. The copy does not wait for a lock that another thread had at the fork."""
    program = COPIED_WITHIN.format(
        pool="ProcessPoolExecutor(1)", call=call, after="submit(abs, -1).result()"
    )
    assert scripts.output(tmp_path, program) == ["1", *codes]


LEFT_AT_ANY_MOMENT = """
import gc, os, sys, threading
from engine import Pool
from programs import exit_code
import tasks


stop = threading.Event()

def load(pool):
    while not stop.is_set():
        assert pool.map(tasks.square, range(20), 1) == [x * x for x in range(20)]
        assert pool.apply_async(abs, (-1,), callback=id).get() == 1

pools = [Pool(2), Pool(1)]
held = [pools[0].apply_async(__import__("time").sleep, (3600,)), pools[1].imap(abs, [1, 2])]
threads = [threading.Thread(target=load, args=(pools[n % 2],)) for n in range(4)]
for thread in threads:
    thread.start()
for number in range(18):
    child = os.fork()
    if child == 0:
        if number % 3 == 0:  # collects its copies
            del pools, held
            gc.collect()
        elif number % 3 == 1:  # has a pool of its own as well
            with Pool(1) as own:
                assert own.map(abs, [-1]) == [1]
            own.join()
        sys.exit(0)
    assert exit_code(child) == 0
stop.set()
for thread in threads:
    thread.join()
print(pools[0].map(abs, [-1]), list(held[1]))
for pool in pools:
    pool.terminate()
"""


@pytest.mark.timeout(5 * DEADLINE, method="signal")
def test_a_copy_made_at_any_moment_exits_normally(tmp_path: Path) -> None:
    """Another thread may hold any lock of the pool at that moment."""
    assert scripts.output(tmp_path, LEFT_AT_ANY_MOMENT, seconds=4 * DEADLINE) == ["[1] [1, 2]"]


# What a copy keeps


@pytest.mark.parametrize("how", ["close", "terminate"])
def test_a_living_copy_does_not_delay_the_end_of_the_pool(
    make_pool: Any, gate: Gate, how: str
) -> None:
    """The copy holds no end of a worker's pipes."""
    pool = make_pool(2)
    workers = list(pool._pool)
    child = tasks.fork_and_hold(gate)
    gate.arrived()
    try:
        error = pool.apply_async(tasks.die)
        error.wait(DEADLINE)
        assert error.ready(), "the worker's death is not seen"
        assert not error.successful()
        getattr(pool, how)()
        pool.join(timeout=DEADLINE)
        assert all(gone(worker.pid) for worker in workers)
    finally:
        gate.open()
        assert exit_code(child) == 0


ORPHANS = """
import sys
from engine import Pool
from gates import Gate
import tasks

gate = Gate(sys.argv[1])
pool = Pool(2)
held = pool.map_async(gate.hold, range(2), 1)
pids = gate.arrived(2)
child = tasks.fork_and_hold(gate)
gate.arrived()
print(child, *pids, flush=True)
held.get()
"""


def test_a_living_copy_does_not_keep_the_workers_alive(tmp_path: Path) -> None:
    """The workers end with the process that made them."""
    path = scripts.write(tmp_path, ORPHANS)
    process = scripts.start(path, scripts.gate_folder(tmp_path))
    copy, *workers = map(int, scripts.line(process).split())
    try:
        os.kill(process.pid, signal.SIGKILL)
        all_gone(workers)
        assert not gone(copy)
    finally:
        os.kill(copy, signal.SIGKILL)
        scripts.finish(process)


# Forks by the pool

MANY_THREADS = """
import logging, queue, threading, time, warnings
from engine import Pool
import tasks

warnings.simplefilter("error", DeprecationWarning)
pool = Pool(2, maxtasksperchild=1)
first = {worker.pid for worker in pool._pool}
stop = threading.Event()
things = queue.Queue()

with open("/dev/null", "w") as devnull:
    logging.basicConfig(stream=devnull, level=logging.INFO)

    def work():
        while not stop.is_set():
            things.put(1)
            things.get()
            logging.info("busy")
            print("busy", file=devnull)
            time.sleep(0)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    print(pool.map(tasks.square, range(40), 1) == [x * x for x in range(40)])
    print(len(set(pool.map(tasks.pid, range(10), 1)) - first))
    stop.set()
    for thread in threads:
        thread.join()
    pool.close()
    pool.join()
"""


@pytest.mark.timeout(5 * DEADLINE, method="signal")
def test_workers_are_replaced_in_a_process_with_many_threads(tmp_path: Path) -> None:
    """A thread may hold any lock at that moment. No warning is given."""
    assert scripts.output(tmp_path, MANY_THREADS, seconds=4 * DEADLINE) == ["True", "10"]


MUCH_GARBAGE = """
import gc, threading
from engine import DEADLINE, Pool
import tasks

stop = threading.Event()

class Node:
    pass

def litter():
    while not stop.is_set():
        node = Node()
        node.itself = node
        gc.collect()

pool = Pool(2, maxtasksperchild=1)
first = {worker.pid for worker in pool._pool}
threads = [threading.Thread(target=litter) for _ in range(3)]
for thread in threads:
    thread.start()
try:
    # Each worker is started between two collections, and the machine may be busy.
    pids = pool.map_async(tasks.pid, range(8), 1).get(4 * DEADLINE)
    collected = pool.map_async(gc.collect, [0] * 2, 1).get(4 * DEADLINE)
finally:
    stop.set()
for thread in threads:
    thread.join()
pool.close()
pool.join()
# Last: a worker that is forked beside a print() has the text in its buffer, too.
print(len(set(pids)), len(set(pids) - first))
print(len(collected))
"""


@pytest.mark.timeout(10 * DEADLINE, method="signal")
def test_workers_are_replaced_while_other_threads_collect_garbage(tmp_path: Path) -> None:
    """Without the GIL, a thread that collects holds a lock of the interpreter at the fork."""
    assert scripts.output(tmp_path, MUCH_GARBAGE, seconds=9 * DEADLINE) == ["8 6", "2"]


LOCAL_TO_A_THREAD = """
import os, threading
from engine import Pool

class Probe:
    def __init__(self, pool):
        self.pool, self.home = pool, os.getpid()
    def __del__(self):
        if os.getpid() != self.home:
            os.write(1, b"ours " if self.pool._engine.is_ours else b"copy ")

def work():
    local.probe = Probe(Pool(1))
    ready.set()
    go_on.wait()
    assert local.probe.pool.apply(abs, (-1,)) == 1
    local.probe.pool.terminate()

if __name__ == "__main__":
    local, ready, go_on = threading.local(), threading.Event(), threading.Event()
    thread = threading.Thread(target=work)
    thread.start()
    ready.wait()
    {fork}
    go_on.set()
    thread.join()
"""


@pytest.mark.parametrize(
    "fork",
    ["os.waitpid(os.fork() or os._exit(0), 0)", "Pool(1).terminate()"],
    ids=["os.fork", "a worker of another pool"],
)
def test_thread_locals_of_other_threads_see_a_copy(tmp_path: Path, fork: str) -> None:
    """The child frees the other threads' locals before the pool's hook has run in the child."""
    done = scripts.run_source(tmp_path, LOCAL_TO_A_THREAD.replace("{fork}", fork))
    assert (done.returncode, done.stderr, done.stdout.split()) == (0, "", ["copy"])


LOCKED_BY_THE_CALLER = """
from engine import Pool
import tasks

pool = Pool(2, maxtasksperchild=1)
squares = list(pool.imap(tasks.square, range(8)))
order = sorted(range(6), key=lambda x: pool.apply(tasks.size, ([0] * (6 - x),)))
pool.close()
pool.join()
# Not earlier: a worker that another thread forks during a print would print the text again.
print(squares == [x * x for x in range(8)])
print(order)
"""


def test_workers_are_forked_while_the_caller_has_a_container_locked(tmp_path: Path) -> None:
    """Without the GIL list() and sort() hold the list's lock. A worker has its own lock."""
    done = scripts.run_source(tmp_path, LOCKED_BY_THE_CALLER)
    assert (done.stdout, done.stderr) == ("True\n[5, 4, 3, 2, 1, 0]\n", "")
