"""The exit of the interpreter while a pool exists. Each case is a program of its own."""

from __future__ import annotations

import os
import re
import signal
import sysconfig
from pathlib import Path
from typing import Any

import pytest
import scripts
from gates import all_gone

PREFIX = """
import atexit, os, sys, threading, time
from engine import DEADLINE, Pool
from gates import Gate
from programs import pids, say
import tasks
"""


def program(tmp_path: Path, source: str, *flags: str) -> Any:
    """Run a program that first prints its workers' process ids. The workers must end with it."""
    path = scripts.write(tmp_path, PREFIX + source)
    done = scripts.run(*flags, path, scripts.gate_folder(tmp_path))
    assert done.stdout, done.stderr
    all_gone(map(int, done.stdout.splitlines()[0].split()))
    return done


SHOW = "say(*pids(pool))\n"
BUSY = """
gate = Gate(sys.argv[1])
result = pool.map_async(gate.hold, range(100), 1)
gate.arrived(2)
"""


@pytest.mark.parametrize(
    "work", ["", "pool.map(tasks.square, range(9))\n", BUSY], ids=["fresh", "idle", "busy"]
)
@pytest.mark.parametrize(
    ("last", "status", "complaint"),
    [
        ("", 0, ""),
        ("sys.exit(3)", 3, ""),
        ("raise SystemExit('bye')", 1, "bye\n"),
        ("1 / 0", 1, r"Traceback .*\nZeroDivisionError: division by zero\n"),
        ("del pool", 0, ""),
        ("pool.close()", 0, ""),
        ("pool.terminate()", 0, ""),
        ("atexit.register(pool.terminate)", 0, ""),
    ],
)
def test_the_program_ends_with_its_own_status(
    tmp_path: Path, work: str, last: str, status: int, complaint: str
) -> None:
    done = program(tmp_path, f"pool = Pool(2)\n{SHOW}{work}{last}\n")
    assert done.returncode == status
    assert re.fullmatch(complaint, done.stderr, re.DOTALL)


def test_a_closed_pool_finishes_before_the_program_ends(tmp_path: Path) -> None:
    source = "pool = Pool(2)\n" + SHOW + "r = pool.map_async(tasks.square, range(99), 1)\n"
    done = program(tmp_path, source + "pool.close()\npool.join()\nprint(r.get(0)[-1:])\n")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.endswith("[9604]\n")


def test_an_open_pool_warns_at_exit_if_warnings_are_on(tmp_path: Path) -> None:
    source = "pool = Pool(2)\n" + SHOW + "pool.map(tasks.square, range(9))\n"
    done = program(tmp_path, source, "-W", "default::ResourceWarning")
    assert done.returncode == 0
    assert "ResourceWarning: unclosed running multiprocessing pool <" in done.stderr
    assert "Traceback" not in done.stderr


def test_exit_handlers_may_use_the_pool(tmp_path: Path) -> None:
    """Handlers registered after the import run before the pool ends."""
    source = f"""
def last():
    print(pool._state, pool.map(tasks.square, [1, 2, 3]))

atexit.register(last)
pool = Pool(2)
{SHOW}
"""
    done = program(tmp_path, source)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.endswith("RUN [1, 4, 9]\n")


def test_exit_handlers_may_end_the_pool(tmp_path: Path) -> None:
    source = f"""
pool = Pool(2)
{SHOW}
@atexit.register
def last():
    pool.close()
    pool.join()
    print(*[worker.exitcode for worker in pool._pool])
"""
    done = program(tmp_path, source)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.endswith("\n0 0\n")


def test_a_pool_in_an_object_of_the_module_ends_well(tmp_path: Path) -> None:
    """CPython's own case (bpo-39360): the object is destroyed at interpreter shutdown."""
    source = f"""
class Owner:
    def __init__(self):
        self.pool = Pool(1)

owner = Owner()
pool = owner.pool
{SHOW}
owner.pool.map(tasks.square, range(3))
del pool
"""
    done = program(tmp_path, source)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_waiting_thread_does_not_delay_the_exit(tmp_path: Path) -> None:
    source = f"""
pool = Pool(2)
{SHOW}
{BUSY}
threading.Thread(target=result.get, daemon=True).start()
threading.Thread(target=pool.apply, args=(tasks.nothing,), daemon=True).start()
"""
    done = program(tmp_path, source)
    assert done.returncode == 0


@pytest.mark.parametrize(
    "work",
    [
        pytest.param("", id="fresh"),
        pytest.param("pool.apply(tasks.nothing)\n", id="idle"),
        # In the stdlib a busy worker lives on until it has a result to send.
        pytest.param(BUSY, id="busy", marks=pytest.mark.better),
    ],
)
@pytest.mark.parametrize(
    ("how", "status"), [("os._exit(5)", 5), ("os.kill(os.getpid(), 9)", -signal.SIGKILL)]
)
def test_workers_do_not_outlive_their_parent(
    tmp_path: Path, work: str, how: str, status: int
) -> None:
    done = program(tmp_path, f"pool = Pool(2)\n{SHOW}{work}{how}\n")
    assert done.returncode == status


def test_the_thread_that_made_the_pool_may_end(tmp_path: Path) -> None:
    """A worker does not depend on that thread, as it would with PR_SET_PDEATHSIG."""
    source = f"""
made = []
thread = threading.Thread(target=lambda: made.append(Pool(2)))
thread.start()
thread.join()
[pool] = made
{SHOW}
print(pool.map(tasks.square, [1, 2, 3]))
pool.close()
pool.join()
print(*[worker.exitcode for worker in pool._pool])
"""
    done = program(tmp_path, source)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.endswith("[1, 4, 9]\n0 0\n")


LATE = """
pool = Pool(2)
say(*pids(pool))

def late():
    names = []
    called = lambda _: names.append(threading.current_thread().name)
    first = pool.apply_async(abs, (-1,), callback=called)
    print(first.get(DEADLINE), names, list(pool.imap(abs, (x for x in [-1, -2]))))
    for worker in list(pool._pool):
        worker.kill()
    print(pool.apply_async(tasks.square, (3,)).get(DEADLINE))
    pool.close()
    pool.join()
    [helper] = [thread for thread in pool._threads if thread.name == "cpool-helper"]
    helper.join(DEADLINE)  # the thread may still be exiting
    print(helper.is_alive())

def live_on():
    threading.main_thread().join()
    late()
"""


@pytest.mark.better  # the name of the thread, and that its end is visible
@pytest.mark.parametrize(
    "start", ["atexit.register(late)", "threading.Thread(target=live_on).start()"]
)
def test_the_first_asynchronous_call_may_come_after_the_main_thread(
    tmp_path: Path, start: str
) -> None:
    """The first releases of CPython 3.12 start no thread then. The stdlib's pool needs none."""
    done = program(tmp_path, LATE + start)
    assert (done.returncode, done.stderr) == (0, "")
    _, *lines = done.stdout.splitlines()
    assert lines == ["1 ['cpool-helper'] [1, 2]", "9", "False"]


VERY_LAST = """
from engine import pool_module

class Last:
    def __init__(self, make):
        self.make = make
        self.pool = make(1)

    # Defaults keep the names alive: the modules are gone by then.
    def __del__(self, say=print, Error=Exception):
        try:
            {call}
        except Error as error:
            say(error)

last = Last(pool_module.{cls})
"""

ENDED, NO_THREAD = "Pool not running", "can't create new thread at interpreter shutdown"


@pytest.mark.better
@pytest.mark.parametrize(
    ("cls", "call", "error"),
    [
        ("Pool", "self.pool.apply_async(abs, (-1,)).get(5)", ENDED),
        ("ThreadPool", "self.pool.apply_async(abs, (-1,)).get(5)", ENDED),
        ("ThreadPool", "self.pool.imap(abs, (x for x in [1]))", ENDED),
        pytest.param(
            "ThreadPool",
            "self.make(1)",
            NO_THREAD,
            marks=pytest.mark.skipif(
                bool(sysconfig.get_config_var("Py_GIL_DISABLED")),
                reason="without the GIL the package's own modules are gone before",
            ),
        ),
    ],
)
def test_a_call_from_the_last_finalizer_is_refused(
    tmp_path: Path, cls: str, call: str, error: str
) -> None:
    """A thread started during shutdown never runs, and nobody may wait for it."""
    source = VERY_LAST.format(cls=cls, call=call)
    assert scripts.output(tmp_path, source) == [error]


READS_STDIN = """
import os, sys
from engine import Pool, pool_module
from programs import say

pool = {make}
text = open(0, closefd=False)
items = pool.imap(len, {source})
say(next(items))
{end}
"""


@pytest.mark.parametrize("make", ["Pool(1)", "pool_module.ThreadPool(1)"])
@pytest.mark.parametrize(
    ("source", "end"),
    [
        ("sys.stdin.buffer", ""),
        ("sys.stdin.buffer", "pool.terminate()"),
        ("sys.stdin.buffer", "del pool, items"),
        ("sys.stdin", ""),
        ("(line for line in sys.stdin.buffer)", "pool.close()"),
        ("text.buffer", ""),
    ],
)
def test_an_iterable_that_blocks_in_reading_a_file(
    tmp_path: Path, make: str, source: str, end: str
) -> None:
    """The program ends although a thread of the pool has the lock of the file's buffer."""
    reads, writes = os.pipe()
    try:
        path = scripts.write(tmp_path, READS_STDIN.format(make=make, source=source, end=end))
        process = scripts.start(path, stdin=reads)
        os.write(writes, b"a\n")
        done = scripts.finish(process)
    finally:
        os.close(reads)
        os.close(writes)
    assert (done.returncode, done.stdout, done.stderr) == (0, "2\n", "")
