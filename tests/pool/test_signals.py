"""Ctrl-C and other signals. Each test runs a program: signals go to all its processes."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any

import engine
import pytest
import scripts
from gates import eventually

pytestmark = pytest.mark.better

# Seconds from the keystroke to the exception.
AT_ONCE = 0.2 * engine.DEADLINE / 10

PREFIX = """
import os, signal, sys, threading, time
from engine import DEADLINE, Pool, errors
from gates import Gate, eventually
from programs import pids, say
import tasks

gate = Gate(sys.argv[1])

def doze():
    # In short steps: a signal that arrives just before a sleep is noticed soon.
    end = time.monotonic() + DEADLINE
    while time.monotonic() < end:
        time.sleep(0.002)

def work(number=0):
    gate.enter()
    doze()
"""


def begin(tmp_path: Path, source: str) -> Any:
    """Start a program, and wait until it says that it is ready."""
    path = scripts.write(tmp_path, PREFIX + source)
    process = scripts.start(path, scripts.gate_folder(tmp_path))
    assert scripts.line(process) == "ready\n"
    return process


# The call in which the program waits. Two tasks run, and one waits for a worker.
WAITS = {
    "map": "pool.map(work, range(3), 1)",
    "starmap": "pool.starmap(work, [(1,), (2,), (3,)], 1)",
    "apply": "pool.apply_async(work); pool.apply(work)",
    "get": "pool.map_async(work, range(3), 1).get()",
    "wait": "pool.map_async(work, range(3), 1).wait()",
    "next": "next(pool.imap(work, range(3)))",
    "imap_unordered": "list(pool.imap_unordered(work, iter(range(3))))",
    "join": "pool.map_async(work, range(3), 1); pool.close(); pool.join()",
}

INTERRUPTED = """
pool = Pool(2)
first = pids(pool)

def ready():
    gate.arrived(2)
    say("ready")

threading.Thread(target=ready, daemon=True).start()
try:
    {wait}
except KeyboardInterrupt:
    say(time.monotonic())
if pool._state == "RUN":
    # Fresh workers have replaced those that ran a task.
    assert pool.map(tasks.square, range(20), 1) == [x * x for x in range(20)]
    eventually(lambda: len(pids(pool)) == 2 and not set(first) & set(pids(pool)))
pool.terminate()
pool.join()
"""


@pytest.mark.parametrize("name", WAITS)
def test_ctrl_c_raises_once_and_at_once_in_every_wait(tmp_path: Path, name: str) -> None:
    """bpo-8296. No worker prints anything, running tasks end, and the pool can be used again."""

    def attempt(folder: Path) -> float:
        folder.mkdir()
        process = begin(folder, INTERRUPTED.format(wait=WAITS[name]))
        pressed = time.monotonic()
        scripts.press_ctrl_c(process)
        done = scripts.finish(process)
        assert (done.returncode, done.stderr) == (0, "")
        [raised] = done.stdout.split()
        return float(raised) - pressed

    # Three attempts, since other load on the machine does not count.
    assert any(attempt(tmp_path / str(number)) < AT_ONCE for number in range(3))


IDLE = """
pool = Pool(3)
pool.map(tasks.square, range(20), 1)
first = pids(pool)
try:
    say("ready")
    doze()
except KeyboardInterrupt:
    assert pool.map(tasks.square, range(20), 1) == [x * x for x in range(20)]
    say(pids(pool) == first)
pool.close()
pool.join()
"""


def test_idle_workers_ignore_ctrl_c(tmp_path: Path) -> None:
    process = begin(tmp_path, IDLE)
    scripts.press_ctrl_c(process)
    done = scripts.finish(process)
    assert (done.returncode, done.stdout, done.stderr) == (0, "True\n", "")


STARTING = """
pool = Pool(2, gate.hold)
gate.arrived(2)
try:
    result = pool.apply_async(tasks.nothing)
    say("ready")
    result.get()
except KeyboardInterrupt:
    say("interrupted")
pool.terminate()
pool.join()
"""


def test_ctrl_c_in_the_initializers(tmp_path: Path) -> None:
    process = begin(tmp_path, STARTING)
    scripts.press_ctrl_c(process)
    done = scripts.finish(process)
    assert (done.returncode, done.stdout, done.stderr) == (0, "interrupted\n", "")


STUBBORN = """
def catch(number):
    try:
        work()
    except KeyboardInterrupt:
        return number

def ignore(number):
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    gate.hold()
    return number

pool = Pool(2)
result = pool.map_async({how}, range(2), 1)
gate.arrived(2)
try:
    say("ready")
    result.get()
except KeyboardInterrupt:
    gate.open()
    say("interrupted", result.get(DEADLINE))
first = pids(pool)
assert pool.map(tasks.square, range(20), 1) == [x * x for x in range(20)]
assert pids(pool) == first
pool.terminate()
pool.join()
"""


@pytest.mark.parametrize("how", ["catch", "ignore"])
def test_tasks_that_catch_or_ignore_ctrl_c_go_on(tmp_path: Path, how: str) -> None:
    """The parent is interrupted, and the results of the tasks arrive."""
    process = begin(tmp_path, STUBBORN.format(how=how))
    scripts.press_ctrl_c(process)
    done = scripts.finish(process)
    assert (done.returncode, done.stdout, done.stderr) == (0, "interrupted [0, 1]\n", "")


IMPATIENT = """
with Pool(3) as pool:
    first = pids(pool)
    results = pool.map_async(work, range(50), 1)
    gate.arrived(3)
    say("ready")
    results.get()
"""


def test_ctrl_c_again_and_again(tmp_path: Path) -> None:
    process = begin(tmp_path, IMPATIENT)
    while process.poll() is None:
        scripts.press_ctrl_c(process)
        eventually(lambda: True)
    done = scripts.finish(process)
    assert done.returncode == -signal.SIGINT
    assert "PoolWorker" not in done.stderr


TERMINATING = """
def stubborn():
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    work()

def press():
    eventually(lambda: pool._state == "TERMINATE")
    os.kill(os.getpid(), signal.SIGINT)

pool = Pool(1)
pool.apply_async(stubborn)
gate.arrived(1)
[pid] = pids(pool)
say("ready")
thread = threading.Thread(target=press)
thread.start()
try:
    pool.terminate()
    thread.join()
except KeyboardInterrupt:
    say("interrupted")
pool.join()
os.kill(pid, 0)
"""


def test_ctrl_c_in_terminate_still_ends_the_workers(tmp_path: Path) -> None:
    done = scripts.finish(begin(tmp_path, TERMINATING))
    assert done.stdout == "interrupted\n"
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("ProcessLookupError")


# Other signals, and the program's own handlers

HANDLERS = """
def handler(*_):
    {handler}

signal.signal(signal.SIGUSR1, handler)
pool = Pool(2)
threading.Thread(target=lambda: (gate.arrived(2), say("ready")), daemon=True).start()
try:
    say(pool.map(gate.hold, range(2), 1))
except LookupError:
    say("raised")
pool.terminate()
pool.join()
"""


@pytest.mark.parametrize(
    ("handler", "told"),
    [
        ("raise LookupError", "raised\n"),
        ("gate.open()", "[0, 1]\n"),
        # The handler runs inside the wait, and may use the pool.
        ("say(pool.apply_async(abs, (-3,)).ready()); gate.open()", "False\n[0, 1]\n"),
        (
            "extra = Pool(1); say(extra.map(abs, [-3])); extra.terminate(); gate.open()",
            "[3]\n[0, 1]\n",
        ),
    ],
)
def test_handlers_run_while_the_program_waits(tmp_path: Path, handler: str, told: str) -> None:
    process = begin(tmp_path, HANDLERS.format(handler=handler))
    os.kill(process.pid, signal.SIGUSR1)
    done = scripts.finish(process)
    assert (done.returncode, done.stdout, done.stderr) == (0, told, "")


# concurrent.futures.thread is imported first, since its import registers functions that lock before
# a fork and unlock after it. On 3.13t other threads run during a fork. If this import came during
# the fork of a replacement, only the second function would run, and unlock what the main thread has
# locked.
SERVER = """
import asyncio
import concurrent.futures.thread

async def main():
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    with Pool(2) as pool:
        result = pool.map_async(gate.hold, range(2), 1)
        gate.arrived(2)
        for worker in list(pool._pool):  # which another thread changes
            os.kill(worker.pid, signal.SIGTERM)
        await asyncio.to_thread(result.wait)
        say("ready")
        assert not stop.is_set()
        await stop.wait()
        say("stopped")

asyncio.run(main())
"""


def test_sigterm_to_a_worker_does_not_reach_the_server(tmp_path: Path) -> None:
    process = begin(tmp_path, SERVER)
    os.kill(process.pid, signal.SIGTERM)
    done = scripts.finish(process)
    assert (done.returncode, done.stdout) == (0, "stopped\n")


# The end of the parent

ORPHANS = """
import itertools

def compute(number):
    if number == 1:  # no signal that can be blocked ends this worker
        signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals() - {{signal.SIGKILL}})
    gate.enter()
    sum(itertools.repeat(1, 10**15))

made = []
def make():
    made.append(Pool(3))
if {in_a_thread}:
    thread = threading.Thread(target=make)
    thread.start()
    thread.join()
else:
    make()
[pool] = made
result = pool.map_async(compute, range(2), 1)
gate.arrived(2)
say("ready")
say(*pids(pool))
result.get()
"""


@pytest.mark.parametrize("in_a_thread", [False, True])
def test_no_worker_outlives_a_parent_that_is_killed(tmp_path: Path, in_a_thread: bool) -> None:
    """Not even a worker that only computes. With PR_SET_PDEATHSIG the workers would have died with
    the thread that made the pool."""
    process = begin(tmp_path, ORPHANS.format(in_a_thread=in_a_thread))
    pids = [int(word) for word in scripts.line(process).split()]
    assert len(pids) == 3
    scripts.kill(process, pids)


STOPPED = """
pool = Pool(3)
result = pool.map_async(work, range(3), 1)
gate.arrived(3)  # a worker that is still starting does not watch its parent yet
for worker in pool._pool:
    os.kill(worker.pid, signal.SIGSTOP)
say("ready")
say(*pids(pool))
result.get()
"""


def test_stopped_workers_do_not_outlive_a_killed_parent(tmp_path: Path) -> None:
    process = begin(tmp_path, STOPPED)
    pids = [int(word) for word in scripts.line(process).split()]
    assert len(pids) == 3
    # In the portable build a thread in the worker ends it, and a stopped process runs no thread.
    scripts.kill(process, pids, resume=engine.PORTABLE)
