"""No duty of the pool waits for the program's code, and no call waits for another job's end."""

from __future__ import annotations

import functools
import itertools
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import engine
import pytest
import scripts
import tasks
from engine import DEADLINE
from gates import Gate, eventually

ITEMS = 40
AHEAD = 4


class Throttle:
    """A semaphore that the source takes from and that tasks give back to."""

    def __init__(self) -> None:
        self.semaphore = multiprocessing.get_context("fork").Semaphore(AHEAD)

    def take(self) -> None:
        if not self.semaphore.acquire(timeout=DEADLINE):
            raise RuntimeError("no task has run")

    def give_back(self, x: Any) -> Any:
        self.semaphore.release()
        return x


class ThrottledSource:
    """Its next item waits until earlier items have been worked on."""

    def __init__(self, throttle: Throttle) -> None:
        self.throttle = throttle

    def __len__(self) -> int:
        return ITEMS

    def __iter__(self) -> Iterator[tuple[int]]:
        for i in range(ITEMS):
            self.throttle.take()
            yield (i,)


class ThrottledItem:
    """Pickling it waits until earlier items have been worked on."""

    def __init__(self, throttle: Throttle, number: int) -> None:
        self.throttle, self.number = throttle, number

    def __reduce__(self) -> tuple[Any, ...]:
        self.throttle.take()
        return int, (self.number,)


throttle: Throttle


def give_back(x: Any) -> Any:
    return throttle.give_back(x)


@pytest.fixture(params=[None, 1])
def throttled_pool(request: Any, make_pool: Callable[..., Any]) -> Any:
    """Its workers may have to be replaced meanwhile, too."""
    global throttle
    throttle = Throttle()
    fork = multiprocessing.get_context("fork")
    return make_pool(2, maxtasksperchild=request.param, context=fork)


@pytest.mark.better
@pytest.mark.parametrize("method", ["map", "starmap", "map_async"])
def test_a_source_may_wait_for_tasks(throttled_pool: Any, method: str) -> None:
    source = ThrottledSource(throttle)
    results = getattr(throttled_pool, method)(give_back, source, chunksize=1)
    if method == "map_async":
        results = results.get(DEADLINE)
    expected = list(range(ITEMS)) if method == "starmap" else [(i,) for i in range(ITEMS)]
    assert results == expected


@pytest.mark.better
@pytest.mark.parametrize("method", ["map", "map_async"])
def test_pickling_may_wait_for_tasks(throttled_pool: Any, method: str) -> None:
    items = [ThrottledItem(throttle, i) for i in range(ITEMS)]
    results = getattr(throttled_pool, method)(give_back, items, chunksize=1)
    if method == "map_async":
        results = results.get(DEADLINE)
    assert results == list(range(ITEMS))


class RebuiltLast:
    """The first of these that is rebuilt waits until all tasks have run."""

    is_first = True

    def __reduce__(self) -> tuple[Any, ...]:
        throttle.give_back(None)
        return rebuild_last, ()


def rebuild_last() -> int:
    if RebuiltLast.is_first:
        RebuiltLast.is_first = False
        for _ in range(ITEMS + AHEAD):
            throttle.take()
    return 1


def make_rebuilt_last(_: object) -> RebuiltLast:
    return RebuiltLast()


READS: dict[str, Callable[[Any], list[int]]] = {
    "map": lambda pool: pool.map(make_rebuilt_last, range(ITEMS), 1),
    "map_async": lambda pool: pool.map_async(make_rebuilt_last, range(ITEMS), 1).get(DEADLINE),
    "imap": lambda pool: list(pool.imap(make_rebuilt_last, range(ITEMS))),
    "chunks": lambda pool: list(pool.imap_unordered(make_rebuilt_last, range(ITEMS), 3)),
}


@pytest.mark.better
@pytest.mark.parametrize("call", READS)
def test_rebuilding_may_wait_for_tasks(
    throttled_pool: Any, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    monkeypatch.setattr(RebuiltLast, "is_first", True)
    assert READS[call](throttled_pool) == [1] * ITEMS


def test_a_source_of_a_thread_pool_may_wait_for_tasks(make_pool: Callable[..., Any]) -> None:
    global throttle
    throttle = Throttle()
    pool = make_pool(2, cls=engine.pool_module.ThreadPool)
    assert len(pool.map(give_back, ThrottledSource(throttle), chunksize=1)) == ITEMS


# Callbacks


def test_a_callback_may_wait_for_a_task_of_a_worker_to_come(make_pool: Callable[..., Any]) -> None:
    fork = multiprocessing.get_context("fork")
    event, told = fork.Event(), threading.Event()
    came: list[bool] = []

    def callback(_: Any) -> None:
        came.append(event.wait(DEADLINE))
        told.set()

    pool = make_pool(1, init_event, (event,), maxtasksperchild=1, context=fork)
    pool.apply_async(tasks.nothing, callback=callback)
    pool.apply_async(set_event)
    assert told.wait(2 * DEADLINE)
    assert came == [True]


def hold_and_fail(gate: Gate) -> None:
    gate.hold()
    raise LookupError


@pytest.mark.better
@pytest.mark.parametrize("how", ["error_callback", "dropped", "reported"])
def test_code_on_the_helpers_thread_may_wait_for_a_worker_to_come(
    make_pool: Any, gate: Gate, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    """Also a `__del__`, and what is called for a failure that nobody has asked for."""
    fork = multiprocessing.get_context("fork")
    event = fork.Event()
    came: list[bool] = []
    home = os.getpid()

    def wait(*_: Any) -> None:
        came.append(event.wait(DEADLINE))

    class Waits:
        def __call__(self, _: Any) -> None:
            pass

        def __del__(self) -> None:
            if os.getpid() == home:
                wait()

    pool = make_pool(1, init_event, (event,), maxtasksperchild=1, context=fork)
    monkeypatch.setattr(sys, "unraisablehook", wait if how == "reported" else id)
    if how == "error_callback":
        pool.apply_async(hold_and_fail, (gate,), error_callback=wait)
    elif how == "dropped":
        pool.apply_async(gate.hold, callback=Waits())
    else:
        pool.apply_async(hold_and_fail, (gate,))
    pool.apply_async(set_event)
    gate.open()
    # Without the GIL, the last reference may have to be dropped by this thread.
    eventually(lambda: came[:1] == [True])  # reports of other garbage may follow


def test_a_call_behind_many_callables_that_were_dropped(make_pool: Any) -> None:
    """That the worker may forget these is still to be sent; no thread waits in a call."""
    pool = make_pool(1)
    results = [pool.apply_async(functools.partial(tasks.add, i), (1,)) for i in range(4000)]
    assert [result.get(DEADLINE) for result in results] == list(range(1, 4001))
    results.clear()
    told = threading.Event()
    pool.apply_async(tasks.nothing, callback=lambda _: told.set())
    assert told.wait(DEADLINE)


def init_event(event: Any) -> None:
    global the_event
    the_event = event


def set_event() -> None:
    the_event.set()


@pytest.mark.better
def test_a_dead_worker_is_replaced_while_callbacks_wait(make_pool: Callable[..., Any]) -> None:
    pool = make_pool(1)
    pid = pool.apply(os.getpid)
    entered, go_on = threading.Event(), threading.Event()

    def callback(_: Any) -> None:
        entered.set()
        go_on.wait(2 * DEADLINE)

    calls = [pool.apply_async(tasks.nothing, callback=callback) for _ in range(3)]
    assert entered.wait(DEADLINE)
    pool.apply(tasks.nothing)  # behind the calls on the only worker, which are done now
    os.kill(pid, signal.SIGKILL)
    last = pool.apply_async(os.getpid)
    eventually(last.ready, "the worker was not replaced")  # no thread waits in a call
    assert last.get(0) != pid
    go_on.set()
    for call in calls:
        call.get(DEADLINE)


# Turns


@pytest.mark.better
@pytest.mark.parametrize("kind", ["processes", "threads"])
def test_calls_are_served_beside_endless_jobs(make_pool: Callable[..., Any], kind: str) -> None:
    pool = make_pool(2, cls=engine.pool_module.ThreadPool) if kind == "threads" else make_pool(2)
    endless = [pool.imap(tasks.identity, itertools.count()) for _ in range(3)]
    assert [next(iterator) for iterator in endless] == [0] * 3
    for _ in range(5):
        assert pool.apply_async(abs, (-1,)).get(DEADLINE) == 1
        assert pool.map_async(abs, range(20), 1).get(DEADLINE) == list(range(20))
        assert list(pool.imap(abs, range(20), 3)) == list(range(20))
    for i in range(1, 300):  # read in turn
        assert [next(iterator) for iterator in endless] == [i] * 3
    pool.terminate()


def test_single_calls_keep_their_order(make_pool: Callable[..., Any], gate: Gate) -> None:
    pool = make_pool(1)
    order: list[int] = []
    held = pool.apply_async(gate.hold)
    gate.arrived()
    calls = [pool.apply_async(abs, (i,), callback=order.append) for i in range(100)]
    gate.open()
    held.get(DEADLINE)
    for call in calls:
        call.get(DEADLINE)
    assert order == list(range(100))


# Threads and wake-ups


WAITS = """
import time
from pathlib import Path
from engine import Pool

def count_switches():  # how often the threads of this process have gone to sleep so far
    count = 0
    for status in Path("/proc/self/task").glob("*/status"):
        for line in status.read_text().splitlines():
            if line.startswith("voluntary_ctxt_switches"):
                count += int(line.split()[1])
    return count

with Pool(2) as pool:
    pool.apply_async(abs, (1,)).get()
    least = None
    for _ in range(4):  # on a loaded machine threads wait for locks, too
        before = count_switches()
        pool.apply(time.sleep, (3,))
        found = count_switches() - before
        least = found if least is None else min(least, found)
        if least <= 20:
            break
    print(least)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_long_wait_does_not_wake_up_again_and_again(tmp_path: Path) -> None:
    """A tick of 16 ms would be 190 times. There are two looks for signals and three probes."""
    [switches] = scripts.output(tmp_path, WAITS, seconds=3 * DEADLINE)
    assert int(switches) <= 20


CLOSED = """
import os, sys, time
from engine import Pool, pool_module
ThreadPool = pool_module.ThreadPool
uses = [
    lambda pool: pool.map_async(abs, [1]).get(),
    lambda pool: list(pool.imap(abs, iter([1]))),
    lambda pool: pool.apply_async(abs, (1,), callback=id).get(),
    lambda pool: pool.map(abs, iter([1])),
]
pools = [cls(2) for cls in (Pool, ThreadPool) for _ in range(2 * len(uses))]
for pool, use in zip(pools, uses * 4, strict=True):
    use(pool)
    pool.close()
end = time.monotonic() + 20
while len(os.listdir("/proc/self/task")) > 1 and time.monotonic() < end:
    time.sleep(.01)
print(len(os.listdir("/proc/self/task")))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_closed_pool_keeps_no_thread(tmp_path: Path) -> None:
    assert scripts.output(tmp_path, CLOSED) == ["1"]


UNREAD = """
import os, select, sys, threading
from engine import Pool
from gates import eventually

LONG = "x" * 100_000  # more than a pipe holds

def fail(_):
    raise LookupError(LONG)

def drain():
    while os.read(unread, 65536):
        pass

def submit():
    if sys.argv[1] == "callback":
        pool.apply_async(abs, (-1,), callback=fail)
    else:
        pool.apply_async(fail, (1,))  # nobody asks for this failure

unread, stderr = os.pipe()
os.dup2(stderr, 2)
with Pool(1, maxtasksperchild=2) as pool:
    # Without the GIL the thread that has made an object may be the one that drops it, and reports.
    threading.Thread(target=submit, daemon=True).start()
    eventually(lambda: not select.select([], [2], [], 0)[1])
    calls = [pool.apply_async(os.getpid) for _ in range(4)]
    eventually(lambda: all(call.ready() for call in calls))  # no thread waits in a call
    print(len({call.get(0) for call in calls}))
    threading.Thread(target=drain, daemon=True).start()
"""


@pytest.mark.better
@pytest.mark.skipif(sys.platform != "linux", reason="asks a full pipe whether it takes more")
@pytest.mark.parametrize("how", ["callback", "task"])
def test_a_report_that_nobody_reads_holds_up_no_worker(tmp_path: Path, how: str) -> None:
    """A thread writes it to a stderr that is full, and workers have to be replaced meanwhile."""
    assert scripts.output(tmp_path, UNREAD, how, fresh=True) == ["3"]


FULL = """
import logging, multiprocessing, os, select, sys, threading
from engine import Pool
from gates import eventually

method, name = sys.argv[1:]
LONG = "x" * 100_000  # more than a pipe holds

def ours():  # anew each time: a worker may have another one than the program
    return getattr(sys, name)

def other():
    return sys.stderr if name == "stdout" else sys.stdout

def say(text):
    print(text, file=other(), flush=True)
    return os.getpid()

def say_there(text):
    print(text, file=ours(), flush=True)
    logging.warning("logged")
    return shape()

def shape():
    stream = ours()
    assert getattr(sys, f"__{name}__") is stream
    return [
        getattr(stream, attribute)
        for attribute in "name mode encoding errors line_buffering write_through closed".split()
    ]

def drain():
    while not b"".join(read).endswith(b"end"):
        read.append(os.read(unread, 65536))

logging.basicConfig(stream=ours())
if __name__ == "__main__":
    read = []
    unread, end = os.pipe()
    os.dup2(end, ours().fileno())
    with Pool(1, maxtasksperchild=1, context=multiprocessing.get_context(method)) as pool:
        options = {"file": ours(), "flush": True}  # from 3.14 on a buffer takes 128 KiB
        threading.Thread(target=print, args=(LONG,), kwargs=options, daemon=True).start()
        eventually(lambda: not select.select([], [ours()], [], 0)[1])
        ours().write("once")  # stays in a buffer, which a fork copies
        calls = [pool.apply_async(say, ("heard",)) for _ in range(4)]
        eventually(lambda: all(call.ready() for call in calls))  # no thread waits in a call
        workers = {call.get(0) for call in calls}
        eventually(lambda: not any(os.path.exists(f"/proc/{pid}") for pid in workers))
        drainer = threading.Thread(target=drain, daemon=True)
        drainer.start()
        assert pool.apply(say_there, ("there",)) == shape()
    print("end", end="", file=ours(), flush=True)
    drainer.join()
    text = b"".join(read).decode()
    print(len(workers), *map(text.count, ("x", "once", "there", "logged")), file=other())
"""


@pytest.mark.better
@pytest.mark.skipif(sys.platform != "linux", reason="asks a full pipe whether it takes more")
@pytest.mark.parametrize("name", ["stdout", "stderr"])
@pytest.mark.parametrize("method", engine.START_METHODS)
def test_a_stream_that_nobody_reads_holds_up_no_worker(
    tmp_path: Path, method: str, name: str
) -> None:
    """A thread prints to it meanwhile. Workers print to the other stream, and end; and what the
    program has printed is there once when somebody reads."""
    done = scripts.run_source(tmp_path, FULL, method, name, fresh=True)
    texts = [done.stdout, done.stderr]
    heard, silent = texts if name == "stderr" else reversed(texts)
    assert (done.returncode, silent) == (0, ""), done
    assert heard.splitlines() == ["heard"] * 4 + ["4 100000 1 1 1"]
