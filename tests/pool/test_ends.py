"""Pools and programs that end in the middle of work: at once, and with nothing left behind."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import engine
import pytest
import scripts
from engine import DEADLINE
from gates import Gate, all_gone
from misbehaving import ignore_sigterm_and_hold

pytestmark = pytest.mark.better

errors = engine.errors

A_SECOND = DEADLINE / 10

# terminate()


def block_and_hold(gate: Gate) -> None:
    signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals() - {signal.SIGKILL})
    gate.hold()


def compute(gate: Gate) -> None:
    signal.signal(signal.SIGTERM, lambda *_: None)  # never gets to run
    gate.enter()
    sum(range(10**15))


def leave_a_thread(gate: Gate) -> None:
    """The process would wait for the thread at exit."""
    threading.Thread(target=gate.hold).start()


def exit_slowly(gate: Gate) -> None:
    signal.signal(signal.SIGTERM, lambda *_: time.sleep(DEADLINE))
    gate.hold()


STUBBORN = [ignore_sigterm_and_hold, block_and_hold, compute, leave_a_thread, exit_slowly]


def quickest(attempt: Callable[[], float]) -> float:
    """The shortest of three attempts, since other load on the machine does not count."""
    times = []
    while len(times) < 3 and min(times, default=A_SECOND) >= A_SECOND:
        times.append(attempt())
    return min(times)


@pytest.mark.parametrize(
    ("work", "in_initializer"),
    [*((work, False) for work in STUBBORN), (ignore_sigterm_and_hold, True)],
)
def test_terminate_takes_less_than_a_second(
    make_pool: Any, make_gate: Callable[[], Gate], work: Any, in_initializer: bool
) -> None:
    """gh-73945, gh-78178: in the stdlib terminate() can take for ever."""

    def attempt() -> float:
        gate = make_gate()
        pool = make_pool(2, work, (gate,)) if in_initializer else make_pool(2)
        results = [pool.apply_async(work, (gate,)) for _ in range(3)]
        gate.arrived(2)
        began = time.monotonic()
        pool.terminate()
        passed = time.monotonic() - began
        pool.join(timeout=DEADLINE)
        assert not any(worker.is_alive() for worker in pool._pool)
        assert all(result.ready() for result in results)
        return passed

    assert quickest(attempt) < A_SECOND


def test_terminate_ends_workers_that_are_stopped(make_pool: Any, gate: Gate) -> None:
    def attempt() -> float:
        pool = make_pool(2)
        held = pool.apply_async(gate.hold)
        gate.arrived()
        for worker in pool._pool:
            os.kill(worker.pid, signal.SIGSTOP)
        began = time.monotonic()
        pool.terminate()
        passed = time.monotonic() - began
        assert type(held._value) is errors.PoolTerminated
        pool.join(timeout=DEADLINE)
        return passed

    assert quickest(attempt) < A_SECOND


# The end of the program

PREFIX = """
import atexit, os, signal, sys, threading, time
from engine import DEADLINE, Pool, errors
from gates import Gate, eventually
from programs import pids, say
import misbehaving, tasks

gate = Gate(sys.argv[1])

def show():
    say(*pids(pool))
"""


def program(tmp_path: Path, source: str) -> Any:
    """Run a program that calls show() once. Its workers must end with the program."""
    done = scripts.run_source(tmp_path, PREFIX + source, scripts.gate_folder(tmp_path))
    pids, _, done.stdout = done.stdout.partition("\n")
    assert pids, done.stderr
    all_gone(map(int, pids.split()))
    return done


AT_WORK = {
    "a callback that blocks": """
pool = Pool(1)
show()
pool.apply_async(abs, (1,), callback=lambda _: gate.hold())
gate.arrived()
""",
    "an iterable that blocks": """
def items():
    yield 1
    gate.hold()

pool = Pool(1)
show()
results = pool.imap(abs, items())
gate.arrived()
""",
    "an iterable without end": """
import itertools
pool = Pool(1)
show()
results = pool.imap(abs, itertools.count())
next(results)
""",
    "initializers that hang": """
pool = Pool(2, gate.hold)
show()
result = pool.apply_async(abs, (1,))
gate.arrived(2)
""",
    "workers that ignore SIGTERM": """
pool = Pool(2)
show()
pool.map_async(misbehaving.ignore_sigterm_and_hold, [gate] * 2, 1)
gate.arrived(2)
""",
    "workers that are being replaced": """
pool = Pool(2)
show()
first = pool.apply_async(tasks.die)
deaths = pool.map_async(tasks.die, ["SIGKILL"] * 100, 1)
first.wait()
assert not first.successful()
""",
    "threads that wait for results": """
pool = Pool(2)
show()
held = pool.apply_async(gate.hold)
items = pool.imap(gate.hold, [1])
waits = [held.get, held.wait, items.next, lambda: pool.map(abs, [1] * 100),
         lambda: pool.apply(abs, (1,)), lambda: list(pool.imap_unordered(abs, [1] * 100))]
for wait in waits:
    threading.Thread(target=wait, daemon=True).start()
gate.arrived(2)
""",
    "a pool that a thread has made": """
def make():
    global pool
    pool = Pool(2)

thread = threading.Thread(target=make)
thread.start()
thread.join()
show()
pool.map_async(gate.hold, range(2), 1)
gate.arrived(2)
""",
}


@pytest.mark.parametrize(
    ("name", "last"),
    [
        *((name, "") for name in AT_WORK),
        ("an iterable that blocks", "pool.close()"),
        ("workers that are being replaced", "pool.close()"),
    ],
)
def test_a_program_ends_in_the_middle_of_work(tmp_path: Path, name: str, last: str) -> None:
    done = program(tmp_path, AT_WORK[name] + last)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_a_thread_may_use_the_pool_after_the_main_thread(tmp_path: Path) -> None:
    """The program ends with its last thread, and so does the pool."""
    done = program(
        tmp_path,
        """
def work():
    main.join()
    print(pool.map(abs, range(-3, 0)), pool.apply_async(abs, (-5,)).get(DEADLINE))
    with Pool(1) as other:
        print(other.map(abs, [-1]))

main = threading.main_thread()
pool = Pool(2)
if (3, 12) <= sys.version_info < (3, 12, 2):  # no thread can start by then (gh-113964)
    pool.apply_async(abs, (-4,)).get(DEADLINE)
show()
threading.Thread(target=work).start()
""",
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "[3, 2, 1] 5\n[1]\n", "")


def test_daemon_threads_say_nothing_of_the_pools_end(tmp_path: Path) -> None:
    """Whatever they call while the program exits; an exit handler that joins them goes on."""
    source = """
import atexit
import threading

def after():
    ended.set()
    for thread in threads:
        thread.join(0.05)
    print(all(thread.is_alive() for thread in threads))
    for thread in threads:
        thread.join()
    print(*said)

atexit.register(after)
import sys
from engine import Pool
from gates import Gate

ended = threading.Event()
said = []

def call(function):
    ended.wait()
    try:
        function()
    except Exception as error:
        said.append(type(error).__name__)

gate = Gate(sys.argv[1])
pool = Pool(1)
held = pool.apply_async(gate.hold)
items = pool.imap(gate.hold, [1])
calls = [held.get, items.next, lambda: pool.map(abs, [1]), lambda: pool.apply(abs, (1,)),
         lambda: list(pool.imap_unordered(abs, [1])), lambda: pool.apply_async(abs, (1,)).get()]
threads = [threading.Thread(target=call, args=[f], daemon=True) for f in calls]
for thread in threads:
    thread.start()
gate.arrived()
"""
    names = scripts.output(tmp_path, source, scripts.gate_folder(tmp_path), fresh=True)
    assert names[0] == "True"
    assert sorted(names[1].split()) == ["PoolTerminated"] * 2 + ["ValueError"] * 4


def test_exit_handlers_before_and_after_the_pools_end(tmp_path: Path) -> None:
    """Handlers registered before multiprocessing was imported run after the pool has ended."""
    source = """
import atexit

def after():
    print(pool._state, held.ready(), type(held._value).__name__)
    try:
        pool.map(abs, [1])
    except ValueError as error:
        print(error)

atexit.register(after)
import sys
from engine import Pool
from gates import Gate
import tasks

@atexit.register
def before():
    print(pool._state, pool.map(abs, [-1]), held.ready())

gate = Gate(sys.argv[1])
pool = Pool(2)
held = pool.apply_async(gate.hold)
gate.arrived()
"""
    assert scripts.output(tmp_path, source, scripts.gate_folder(tmp_path), fresh=True) == [
        "RUN [1] False",
        "RUN True PoolTerminated",
        "Pool not running",
    ]


@pytest.mark.parametrize(
    ("last", "status"), [("sys.exit(3)", 0), ("os._exit(4)", 4), ("raise SystemExit", 0)]
)
def test_exit_from_a_thread(tmp_path: Path, last: str, status: int) -> None:
    done = program(
        tmp_path,
        f"""
pool = Pool(2)
show()
result = pool.map_async(gate.hold, range(2), 1)
gate.arrived(2)

def leave():
    {last}

thread = threading.Thread(target=leave)
thread.start()
thread.join()
""",
    )
    assert (done.returncode, done.stdout, done.stderr) == (status, "", "")


COLLECTED = """
import sys
from engine import Pool, pool_module

class Model:
    def __init__(self, cls):
        self.pool = cls(2)

    def __getstate__(self):
        return {}

    def one(self, x):
        return x

    def __del__(self):
        if "pool" in self.__dict__:
            self.pool.close()
            self.pool.join()

def fail(model):
    try:
        model.pool.apply_async(model.one, (1, 2)).get()
    except TypeError:
        pass

WAYS = {
    "imap": lambda m: list(m.pool.imap(m.one, range(5))),
    "of a generator": lambda m: list(m.pool.imap_unordered(m.one, (x for x in range(5)), 2)),
    "half read": lambda m: next(m.pool.imap(m.one, range(100))),
    "callback": lambda m: m.pool.map_async(m.one, range(5), 1, id).get(),
    "error": fail,
}

if __name__ == "__main__":
    # All are made before, or workers would be forked with what threads of other pools refer to.
    models = [Model(getattr(pool_module, sys.argv[1])) for _ in range(20)]
    while models:
        model = models.pop()
        WAYS[sys.argv[2]](model)
        del model
"""


@pytest.mark.parametrize("cls", ["Pool", "ThreadPool"])
@pytest.mark.parametrize("way", ["imap", "of a generator", "half read", "callback", "error"])
def test_what_is_collected_on_a_thread_of_the_pool_may_join_it(
    tmp_path: Path, cls: str, way: str
) -> None:
    """A `__del__` that closes and joins runs wherever the last reference is dropped."""
    assert scripts.output(tmp_path, COLLECTED, cls, way) == []


LOWERED = """
import multiprocessing, os, sys, time
from engine import DEADLINE, Pool
from gates import Gate, all_gone

def compute(gate):
    gate.enter()
    sum(range(10**15))

if __name__ == "__main__":
    gate = Gate(sys.argv[2])
    pool = Pool(3, context=multiprocessing.get_context(sys.argv[1]))
    results = [pool.apply_async(compute, (gate,), error_callback=id) for _ in range(2)]
    pids = [worker.pid for worker in pool._pool]
    gate.arrived(2)
    os.setgid(65534)
    os.setuid(65534)
    began = time.monotonic()
    if sys.argv[3] == "terminate":
        pool.terminate()
        pool.join()
        print([worker.exitcode for worker in pool._pool].count(-9))
        all_gone(pids)
        print(time.monotonic() - began < DEADLINE)
"""


@pytest.mark.parametrize("method", ["fork", "spawn"])
@pytest.mark.parametrize(
    ("how", "output"),
    [("terminate", ["2", "True"]), ("exit", [])],
)
def test_workers_end_that_may_not_be_signalled_any_more(
    tmp_path: Path, method: str, how: str, output: list[str]
) -> None:
    """Root made the pool and has changed its user: the kernel ends the workers."""
    tmp_path.chmod(0o755)
    folder = tmp_path / "gate"
    folder.mkdir()
    assert scripts.output(tmp_path, LOWERED, method, str(folder), how) == output


if os.geteuid() != 0:  # only root can make workers that may not be signalled
    del test_workers_end_that_may_not_be_signalled_any_more
