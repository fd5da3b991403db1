"""A worker as user code sees it: the process, what the process inherits, and how it ends."""

from __future__ import annotations

import gc
import logging
import multiprocessing
import multiprocessing.process
import os
import random
import re
import signal
import sys
import sysconfig
import threading
from collections.abc import Iterator
from multiprocessing import connection, util
from pathlib import Path
from typing import Any

import psutil
import pytest
import scripts
import tasks
from engine import DEADLINE, WORKER_THREADS, Pool
from gates import Diary, Gate, all_gone, eventually

from cpool import _core
from cpool._engine import end

FORK = multiprocessing.get_context("fork")
FREEZES = pytest.mark.skipif(
    "t" in sys.abiflags, reason="without the GIL, freezing would copy what it is to keep shared"
)
EXIT_HANDLERS = sys.version_info >= (3, 13)  # from 3.13 on a worker runs atexit handlers


# The process


def test_a_worker_describes_itself(make_pool: Any) -> None:
    pool = make_pool(1)
    [worker] = pool._pool
    seen = pool.apply(tasks.describe)
    me = multiprocessing.current_process()
    assert re.fullmatch(r"ForkPoolWorker-\d+", seen["name"])
    [number] = seen["identity"]
    assert seen["name"] == worker.name == f"ForkPoolWorker-{number}"
    assert seen["class"] == type(worker).__name__ == "ForkProcess"
    assert seen["daemon"] is worker.daemon is True
    assert seen["repr"] == f"<ForkProcess name='{worker.name}' parent={os.getpid()} started daemon>"
    assert (seen["pid"], seen["ppid"]) == (worker.pid, os.getpid())
    assert (seen["parent_name"], seen["parent_pid"]) == (me.name, os.getpid())
    assert seen["alive_parent"] is True
    assert seen["authkey"] == bytes(me.authkey)
    assert seen["config"] == sorted({"authkey", "daemon", "semprefix", *me._config})  # type: ignore[attr-defined]
    assert seen["start_method"] == "fork"
    assert seen["active_children"] == []
    assert seen["threads"] == ["MainThread"]
    assert seen["native_id"] == seen["pid"]
    assert seen["tasks"] == WORKER_THREADS
    assert seen["group"] == os.getpgrp()
    assert seen["cwd"] == os.getcwd()
    assert seen["environ"] == dict(os.environ)
    assert seen["sys.argv"] == sys.argv
    assert seen["limit"] == sys.getrecursionlimit()
    for name in "cmdline", "comm":
        assert seen[name] == Path(f"/proc/self/{name}").read_text(encoding="utf-8")


def test_a_worker_is_a_process_object(make_pool: Any) -> None:
    pool = make_pool(2)
    assert all(isinstance(worker, FORK.Process) for worker in pool._pool)
    assert set(pool._pool) <= set(multiprocessing.active_children())
    one, two = pool._pool
    assert (one.is_alive(), one.exitcode) == (True, None)
    assert {one.pid, two.pid} == {one.ident, two.ident}
    assert connection.wait([one.sentinel, two.sentinel], 0) == []
    pool.close()
    pool.join()
    assert (one.is_alive(), one.exitcode, two.exitcode) == (False, 0, 0)
    assert set(connection.wait([one.sentinel, two.sentinel], 0)) == {one.sentinel, two.sentinel}
    assert repr(one).startswith(f"<ForkProcess name='{one.name}' pid={one.pid} ")
    assert repr(one).endswith(" stopped exitcode=0 daemon>")


def numbers(pool: Any) -> list[int]:
    return [worker._identity[0] for worker in pool._pool]


def test_worker_numbers_continue_from_pool_to_pool(make_pool: Any) -> None:
    first = make_pool(3)
    one, two, three = numbers(first)
    assert (two, three) == (one + 1, one + 2)
    assert numbers(make_pool(2)) == [one + 3, one + 4]
    other = FORK.Process(target=tasks.nothing)
    assert other.name == f"ForkProcess-{one + 5}"
    assert [worker.name for worker in first._pool] == [
        f"ForkPoolWorker-{n}" for n in numbers(first)
    ]


def test_a_replacement_has_a_new_number(make_pool: Any) -> None:
    pool = make_pool(1, maxtasksperchild=1)
    [start] = numbers(pool)
    found = [pool.apply(tasks.describe) for _ in range(3)]
    assert [seen["identity"] for seen in found] == [(start,), (start + 1,), (start + 2,)]
    assert [seen["name"] for seen in found] == [f"ForkPoolWorker-{start + i}" for i in range(3)]


def test_names_in_a_child_process(diary: Diary) -> None:
    def work() -> None:
        with Pool(1) as pool:
            seen = pool.apply(tasks.describe)
            diary.write(seen["name"])
            diary.write(seen["parent_name"])
            pool.close()
            pool.join()

    child = FORK.Process(target=work)
    child.start()
    child.join(DEADLINE)
    number = child._identity[0]
    assert diary.lines() == [f"ForkPoolWorker-{number}:1", f"ForkProcess-{number}"]


@pytest.mark.parametrize("kind", ["pool", "process"])
def test_a_daemon_may_have_no_children(make_pool: Any, kind: str) -> None:
    pool = make_pool(1)
    with pytest.raises(AssertionError) as caught:
        pool.apply({"pool": tasks.pool_inside, "process": tasks.process_inside}[kind])
    assert str(caught.value) == "daemonic processes are not allowed to have children"


def test_a_pool_of_threads_works_in_a_worker(make_pool: Any) -> None:
    assert make_pool(1).apply(tasks.thread_pool_inside, ([1, 2, 3],)) == [1, 4, 9]


def test_log_records_name_the_worker(make_pool: Any, diary: Diary) -> None:
    pool = make_pool(1)
    assert pool.apply(tasks.log_format, ("%(processName)s",)) == pool._pool[0].name
    assert logging.getLogger("tasks").handlers == []


def test_wrapping_bootstrap_reaches_every_worker(
    monkeypatch: pytest.MonkeyPatch, diary: Diary
) -> None:
    """The hook of coverage tools and profilers."""
    original = multiprocessing.process.BaseProcess._bootstrap  # type: ignore[attr-defined]

    def wrapped(self: Any, *args: Any, **kwds: Any) -> Any:
        diary.write(f"begin {self.name}")
        try:
            return original(self, *args, **kwds)
        finally:
            diary.write(f"end {self.name}")

    monkeypatch.setattr(multiprocessing.process.BaseProcess, "_bootstrap", wrapped)
    with Pool(2, maxtasksperchild=1) as pool:
        first = [worker.name for worker in pool._pool]
        assert pool.map(tasks.square, range(4), 1) == [0, 1, 4, 9]
        pool.close()
        pool.join()
    lines = diary.lines()
    begun = [line.split()[1] for line in lines if line.startswith("begin")]
    ended = [line.split()[1] for line in lines if line.startswith("end")]
    assert set(first) <= set(begun)
    assert len(begun) == len(set(begun)) >= 4
    assert sorted(begun) == sorted(ended)


def test_run_of_the_process_class_is_called(make_pool: Any, diary: Diary) -> None:
    class Told(FORK.Process):  # type: ignore[name-defined, misc]
        def run(self) -> None:
            diary.write("before")
            super().run()
            diary.write("after")

    class Context(type(FORK)):  # type: ignore[misc]
        Process = Told

    pool = make_pool(1, context=Context())
    assert pool.apply(tasks.square, (3,)) == 9
    pool.close()
    pool.join()
    assert diary.lines() == ["before", "after"]
    assert type(pool._pool[0]) is Told
    assert re.fullmatch(r"Told-\d+", pool._pool[0].name)


# What happens around the fork

HOOKS = """
import os, sys
from multiprocessing import util
from engine import Pool
import tasks

def say(word):
    print(word, flush=True)

os.register_at_fork(before=lambda: say("before"), after_in_child=lambda: say("child"))
os.register_at_fork(after_in_parent=lambda: None)

class Registered:
    pass

kept = Registered()
util.register_after_fork(kept, lambda found: say(f"registered {found is kept}"))
with Pool(1) as pool:
    pool.apply(tasks.nothing)
    pool.close()
    pool.join()
"""


def test_fork_hooks_run(tmp_path: Path) -> None:
    assert scripts.output(tmp_path, HOOKS) == ["before", "child", "registered True"]


def test_hooks_in_the_parent_run_once_a_worker(make_pool: Any) -> None:
    seen: list[int] = []
    active = [True]
    # A hook cannot be unregistered, only disabled.
    os.register_at_fork(after_in_parent=lambda: seen.append(1) if active else None)
    make_pool(3)
    active.clear()
    assert len(seen) == 3


IMPORTS = """
import builtins, gc, os, threading
from engine import Pool

parent = os.getpid()
usual = builtins.__import__
asked = []

def replaced(name, *args, **kwds):
    if os.getpid() != parent:
        asked.append(name)
    return usual(name, *args, **kwds)

def names():
    return asked

gc.freeze()  # without the GIL, the child has to look at these objects as well
threading.Thread(target=threading.Event().wait, daemon=True).start()
builtins.__import__ = replaced
with Pool(1) as pool:
    found = pool.apply(names)
builtins.__import__ = usual
print(sorted({"_signal", "signal", "gc"}.intersection(found)))
"""


@pytest.mark.better
def test_the_start_of_a_worker_imports_nothing_by_the_programs_function(tmp_path: Path) -> None:
    """What runs before anything else: a lock that the function waits for may be held for ever."""
    assert scripts.output(tmp_path, IMPORTS) == ["[]"]


HOOKS_THAT_PRINT = """
import os
from engine import Pool

os.register_at_fork(before=lambda: print("before"), after_in_parent=lambda: print("parent"))
with Pool(3) as pool:
    pool.close()
    pool.join()
"""


def test_workers_do_not_inherit_what_hooks_printed_at_the_fork_before(tmp_path: Path) -> None:
    """What a hook prints before a fork is in the buffers of both processes, and nothing else is."""
    printed = scripts.output(tmp_path, HOOKS_THAT_PRINT)
    assert sorted(printed) == 6 * ["before"] + 3 * ["parent"]


# Several workers are forked one right after the other, before their Process objects are started.


class Prepared(multiprocessing.process.BaseProcess):
    """A class of the program that does something before it starts."""

    _start_method = "fork"
    prepared = False

    def start(self) -> None:
        self.prepared = True
        super().start()

    def run(self) -> None:
        assert self.prepared
        super().run()


class Preparing(multiprocessing.context.ForkContext):
    Process = Prepared  # type: ignore[assignment]


def test_a_class_of_the_program_starts_its_processes(make_pool: Any) -> None:
    pool = make_pool(3, context=Preparing())
    assert pool.map(abs, range(-3, 0)) == [3, 2, 1]
    assert all(worker.prepared for worker in pool._pool)


def fork_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """The system forks one worker of the next pool, and no more."""
    fork_all = _core._fork_all

    def fork(workers: Any, *args: Any) -> Any:
        return fork_all(workers[:1], *args)[0], BlockingIOError("no more")

    monkeypatch.setattr(_core, "_fork_all", fork)


def check_workers(pool: Any, number: int) -> None:
    """The pool lists so many workers, each a process of its own that multiprocessing knows."""
    assert len(pool._workers) == number
    pids = {worker.pid for worker in pool._workers}
    assert len(pids) == number
    assert pids <= {child.pid for child in multiprocessing.active_children()}


@pytest.mark.better
def test_forks_that_fail_leave_no_process(monkeypatch: pytest.MonkeyPatch) -> None:
    before = set(multiprocessing.active_children())
    fork_one(monkeypatch)
    with pytest.raises(BlockingIOError, match="no more"):
        Pool(3)
    eventually(lambda: set(multiprocessing.active_children()) <= before)


@pytest.mark.better
def test_an_engine_without_a_pool_reaps_its_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Although a handler of SIGCHLD gets each of them first, and the pool's own end fails."""

    def pids() -> set[int]:  # with those that have ended and were not reaped
        return {child.pid for child in psutil.Process().children()}

    def fail(*args: object) -> None:
        started.update(pids() - before)
        for pid in started:
            os.kill(pid, signal.SIGKILL)
            os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
        raise ZeroDivisionError

    before, started = pids(), set[int]()
    fork_one(monkeypatch)
    monkeypatch.setattr(end, "shut_down", fail)
    handler = signal.signal(signal.SIGCHLD, lambda number, frame: None)
    try:
        with pytest.raises(ZeroDivisionError):
            Pool(3)
        gc.collect()
        assert len(started) == 1
        assert not pids() & started
    finally:
        signal.signal(signal.SIGCHLD, handler)


@pytest.mark.better
def test_workers_before_a_fork_that_failed_stay(
    make_pool: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    pool = make_pool(1)
    fork_one(monkeypatch)
    with pytest.raises(BlockingIOError, match="no more"):
        pool.resize(3)
    check_workers(pool, 2)
    monkeypatch.undo()
    pool.resize(3)
    assert pool.map(abs, range(-9, 0), 1) == list(range(9, 0, -1))


@pytest.mark.better
def test_an_interrupt_between_the_forks_and_the_starts(
    make_pool: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Processes that run already become workers; the interrupt goes on to the program."""
    pool = make_pool(1)
    clean_up = multiprocessing.process._cleanup  # type: ignore[attr-defined]

    def interrupted() -> None:
        monkeypatch.setattr(multiprocessing.process, "_cleanup", clean_up)
        raise KeyboardInterrupt

    monkeypatch.setattr(multiprocessing.process, "_cleanup", interrupted)
    with pytest.raises(KeyboardInterrupt):
        pool.resize(3)
    check_workers(pool, 3)
    assert pool.map(abs, range(-9, 0), 1) == list(range(9, 0, -1))


@pytest.mark.better
def test_an_interrupt_right_after_the_forks(
    make_pool: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody was told yet how many there are."""
    pool = make_pool(1)
    fork_all = _core._fork_all

    def fork(*args: Any) -> Any:
        fork_all(*args)
        monkeypatch.setattr(_core, "_fork_all", fork_all)
        raise KeyboardInterrupt

    monkeypatch.setattr(_core, "_fork_all", fork)
    with pytest.raises(KeyboardInterrupt):
        pool.resize(3)
    assert len(pool._workers) == 3
    pool.resize(3)
    check_workers(pool, 3)
    assert pool.map(abs, range(-9, 0), 1) == list(range(9, 0, -1))


def test_random_numbers_differ(make_pool: Any, gate: Gate) -> None:
    random.seed(5)
    expected = random.Random(5).random()
    pool = make_pool(3)
    results = [pool.apply_async(tasks.held_random, (gate,)) for _ in range(3)]
    gate.arrived(3)
    gate.open()
    assert len({expected, *(result.get(DEADLINE) for result in results)}) == 4


@pytest.mark.better
@FREEZES
def test_a_garbage_collection_does_not_touch_shared_memory(make_pool: Any) -> None:
    """A collection in a worker does not touch, and so does not copy, the parent's objects."""
    assert make_pool(1).apply(tasks.frozen_objects) > 1000


COPIES = """
import gc
from engine import Pool

heap = [{"key": [n]} for n in range(150_000)]

def own():
    with open("/proc/self/smaps_rollup") as file:
        return sum(int(line.split()[1]) for line in file if line.startswith("Private_Dirty"))

def grown():
    before = own()
    gc.collect()
    return own() - before

with Pool(1) as pool:
    print(pool.apply(own), pool.apply(grown))
"""


@pytest.mark.better
def test_a_start_copies_little(tmp_path: Path) -> None:
    """A worker shares 40 MB with its parent."""
    [line] = scripts.output(tmp_path, COPIES)
    assert int(line.split()[0]) < 12_000  # kilobytes


@pytest.mark.better
@FREEZES
def test_a_collection_copies_nothing(tmp_path: Path) -> None:
    """Less than a tenth of the same 40 MB is copied (bpo-31558)."""
    [line] = scripts.output(tmp_path, COPIES)
    assert int(line.split()[1]) < 2000  # kilobytes


# A process that has imported numpy takes twice as long to fork.
RANDOM_NUMBERS_OF_NUMPY = """
import sys
import threading
import numpy.random
from engine import DEADLINE, Pool
from gates import Gate

gate = Gate(sys.argv[1])

def number():
    gate.hold()
    return numpy.random.standard_normal()

if sys.argv[2] == "another" and hasattr(numpy.random, "set_bit_generator"):
    numpy.random.set_bit_generator(numpy.random.PCG64(5))
numpy.random.seed(5)
numpy.random.standard_normal()
state = numpy.random.get_state(legacy=False)
print(numpy.random.standard_normal())  # of two that it drew
numpy.random.set_state(state)

def hold():
    with numpy.random.mtrand._rand._bit_generator.lock:
        held.set()
        ended.wait()

held, ended = threading.Event(), threading.Event()
if sys.argv[2] == "drawn by a thread":
    threading.Thread(target=hold).start()
    held.wait()
with Pool(3) as pool:
    ended.set()
    results = [pool.apply_async(number) for _ in range(3)]
    gate.arrived(3)
    gate.open()
    for result in results:
        print(result.get(DEADLINE))
"""


@pytest.mark.better
@pytest.mark.parametrize("generator", ["usual", "another", "drawn by a thread"])
def test_random_numbers_of_numpy_differ(tmp_path: Path, generator: str) -> None:
    """In the stdlib all workers draw the same numbers, or none if a thread of the parent was
    drawing during the fork: it has left the generator locked."""
    lines = scripts.output(tmp_path, RANDOM_NUMBERS_OF_NUMPY, str(tmp_path), generator)
    assert len(lines) == len(set(lines)) == 4


def test_finalizers_of_the_parent_do_not_run_in_workers(diary: Diary) -> None:
    finalizer = util.Finalize(None, diary.write, args=("ran",), exitpriority=1)
    try:
        for how in "close", "terminate":
            with Pool(2) as pool:
                pool.map(tasks.square, range(9), 1)
                getattr(pool, how)()
                pool.join()
        assert diary.lines() == []
    finally:
        finalizer.cancel()


# Signals


@pytest.fixture
def handlers() -> Iterator[None]:
    """Restore the parent's signal handlers after the test."""
    names = [signal.SIGTERM, signal.SIGUSR1, signal.SIGINT]
    before = [(name, signal.getsignal(name)) for name in names]
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, [])
    yield
    for name, handler in before:
        signal.signal(name, handler)
    signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def test_handlers_are_inherited(make_pool: Any, handlers: None, diary: Diary) -> None:
    signal.signal(signal.SIGUSR1, lambda *_: diary.write("heard"))
    pool = make_pool(1)
    assert pool.apply(tasks.signal_self, (signal.SIGUSR1,)) == 1
    assert diary.lines() == ["heard"]


@pytest.mark.better
def test_sigterm_has_its_default_in_a_worker(
    make_pool: Any, handlers: None, diary: Diary, gate: Gate
) -> None:
    """A server's own handler never runs in a worker, and terminate needs no force."""
    signal.signal(signal.SIGTERM, lambda *_: diary.write("heard"))
    pool = make_pool(1)
    assert pool.apply(tasks.has_default, (signal.SIGTERM,))
    pool.apply_async(gate.hold)
    gate.arrived()
    pool.terminate()
    pool.join()
    assert pool._pool[0].exitcode == -signal.SIGTERM
    assert diary.lines() == []


@pytest.mark.better
def test_no_signal_is_blocked_in_a_worker(make_pool: Any, handlers: None) -> None:
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1, signal.SIGTERM])
    pool = make_pool(1)
    assert pool.apply(tasks.blocked_signals) == []
    assert {signal.SIGUSR1, signal.SIGTERM} <= signal.pthread_sigmask(signal.SIG_BLOCK, [])


@pytest.mark.better
def test_a_workers_signals_do_not_wake_the_parent(make_pool: Any, handlers: None) -> None:
    """An event loop's wake-up descriptor is shared by the fork, and unset in the worker."""
    ours, theirs = os.pipe()
    os.set_blocking(ours, False)
    os.set_blocking(theirs, False)
    signal.signal(signal.SIGUSR1, lambda *_: None)
    before = signal.set_wakeup_fd(theirs)
    try:
        pool = make_pool(1)
        assert pool.apply(tasks.signal_self, (signal.SIGUSR1,)) == 1
        with pytest.raises(BlockingIOError):
            os.read(ours, 1)
    finally:
        signal.set_wakeup_fd(before)
        os.close(ours)
        os.close(theirs)


INTERRUPTED = """
import sys
from engine import Pool
from gates import Gate
import tasks

gate = Gate(sys.argv[1])
with Pool(3) as pool:
    results = pool.map_async(gate.hold, range(2), 1)
    gate.arrived(2)
    print(*[worker.pid for worker in pool._pool], flush=True)
    results.get()
"""


def interrupt(tmp_path: Path) -> Any:
    """Press Ctrl-C: the signal goes to the parent and to every worker."""
    path = scripts.write(tmp_path, INTERRUPTED)
    process = scripts.start(path, scripts.gate_folder(tmp_path))
    pids = [int(word) for word in scripts.line(process).split()]
    scripts.press_ctrl_c(process)
    done = scripts.finish(process)
    assert len(pids) == 3, done.stderr
    all_gone(pids)
    return done


@pytest.mark.better
def test_an_interrupt_is_reported_once(tmp_path: Path) -> None:
    """In the stdlib each worker prints a traceback, and an idle worker may die with the lock of
    the queue, so that the program never ends.
    """
    done = interrupt(tmp_path)
    assert done.returncode == -signal.SIGINT
    assert done.stderr.endswith("\nKeyboardInterrupt\n")
    assert done.stderr.count("Traceback (most recent call last)") == 1
    assert "PoolWorker" not in done.stderr


# Descriptors


def test_stdin_is_empty_and_descriptor_zero_stays(make_pool: Any) -> None:
    text, fd, first = make_pool(1).apply(tasks.stdin)
    assert text == ""
    assert fd > 2
    assert first == os.readlink("/proc/self/fd/0")


@pytest.mark.parametrize("processes", [1, 10])
@pytest.mark.parametrize("stdin", ["opened again", "closed", "closed by its descriptor"])
def test_descriptor_zero_of_a_program_that_changes_its_stdin(
    tmp_path: Path, stdin: str, processes: int
) -> None:
    """No file of the worker gets the number, which the processes that a task starts would read."""
    assert scripts.output(tmp_path, CHANGES_STDIN, stdin, str(processes)) == ["True ''"]


CHANGES_STDIN = """
import os
import sys
from engine import Pool

if sys.argv[1] == "opened again":
    sys.stdin = open(0)
elif sys.argv[1] == "closed":
    sys.stdin.close()
else:
    os.close(0)

def look():
    return os.path.sameopenfile(0, os.open(os.devnull, os.O_RDONLY)), sys.stdin.read()

with Pool(int(sys.argv[2])) as pool:
    is_null, text = pool.apply(look)
    print(is_null, repr(text))
"""


def null_descriptors() -> set[str]:
    found = set()
    for fd in os.listdir("/proc/self/fd"):
        path = f"/proc/self/fd/{fd}"
        if os.path.lexists(path) and os.readlink(path) == os.devnull:
            found.add(fd)
    return found


def test_each_worker_has_a_stdin_of_its_own(make_pool: Any) -> None:
    """Also of those that are forked together; none stays open in the parent."""
    before = null_descriptors()
    pool = make_pool(10)
    for found in pool.map(tasks.describe_stdin, range(50), 1):
        assert found == (os.devnull, False, "utf-8")
    assert null_descriptors() == before


def test_a_process_of_a_task_opens_its_own_stdin(make_pool: Any) -> None:
    mine, own = make_pool(1, daemon=False).apply(tasks.stdin_of_process)
    assert own == ("", os.devnull)
    assert not mine


def test_a_program_that_lets_workers_have_its_stdin(tmp_path: Path) -> None:
    """To run a debugger there, some replace the function that takes it from child processes."""
    assert scripts.output(tmp_path, KEEPS_STDIN) == ["[True, True, True]"]


KEEPS_STDIN = """
from engine import Pool
from multiprocessing import util
import sys

util._close_stdin = lambda: None
mine = sys.stdin

def is_mine(_):
    return sys.stdin is mine and not sys.stdin.closed

with Pool(10) as pool:
    print(pool.map(is_mine, range(3)))
"""


def test_descriptors_are_inherited(make_pool: Any) -> None:
    ours, theirs = os.pipe()
    try:
        pool = make_pool(1)
        assert pool.apply(os.write, (theirs, b"hello")) == 5
        assert os.read(ours, 5) == b"hello"
    finally:
        os.close(ours)
        os.close(theirs)


@pytest.mark.better
def test_a_worker_holds_no_descriptors_of_other_workers(make_pool: Any) -> None:
    """Otherwise the end of one worker would not be seen while another lives."""
    counts = []
    for processes in 1, 6:
        pool = make_pool(processes)
        counts.append(max(pool.map(tasks.count_descriptors, range(50), 1)))
        pool.terminate()
        pool.join()
    assert counts[0] == counts[1]


OUTPUT = """
import sys
from engine import Pool
from gates import Gate

gate = Gate(sys.argv[1])

def work(x):
    print(x, end=" ")
    return x

def work_and_hold(x):
    print(x, end=" ")
    gate.hold()

print("parent", end=" ")
with Pool(1) as pool:
    {work}
    pool.join()
print("end")
"""


@pytest.mark.parametrize(
    ("work", "text"),
    [
        ("pool.map(work, range(5)); pool.close()", "parent 0 1 2 3 4 end\n"),
        # A terminated worker flushes nothing, not even text inherited from the parent.
        ("pool.apply_async(work_and_hold, (1,)); gate.arrived(); pool.terminate()", "parent end\n"),
    ],
    ids=["closed", "terminated"],
)
def test_what_a_worker_prints_is_flushed_when_it_ends(tmp_path: Path, work: str, text: str) -> None:
    source = OUTPUT.replace("{work}", work)
    done = scripts.run_source(tmp_path, source, scripts.gate_folder(tmp_path))
    assert (done.returncode, done.stdout, done.stderr) == (0, text, "")


# The end of a worker

ENDING = """
import atexit, os, sys, threading, time
from multiprocessing import util
from engine import Pool

def note(word):
    with open(sys.argv[1], "a") as file:
        file.write(word + "\\n")

class Kept:
    def __del__(self):
        note("del")

def initializer():
    global kept
    kept = Kept()
    util.Finalize(None, note, args=("finalizer",), exitpriority=1)
    atexit.register(note, "atexit first")
    atexit.register(note, "atexit last")
    threading.Thread(target=thread).start()

def thread():
    threading.main_thread().join()  # the main thread ends when it waits for the other threads
    note("thread")

with Pool(1, initializer) as pool:
    pool.apply(os.getpid)
    pool.close()
    pool.join()
    print(pool._pool[0].exitcode)
"""


def test_the_order_of_a_workers_exit(tmp_path: Path) -> None:
    """The interpreter is not finalized: remaining objects are not destroyed."""
    path = tmp_path / "notes"
    lines = scripts.output(tmp_path, ENDING, str(path))
    assert lines == ["0"]
    found = path.read_text(encoding="utf-8").splitlines()
    if EXIT_HANDLERS:
        assert found == ["thread", "atexit last", "atexit first", "finalizer"]
    else:
        assert found == ["finalizer", "thread"]


@pytest.mark.parametrize("pending", [True, False])
def test_close_ends_workers_with_exit_code_zero(make_pool: Any, pending: bool) -> None:
    pool = make_pool(3)
    if pending:
        pool.map_async(tasks.square, range(100), 1)
    pool.close()
    pool.join()
    assert [worker.exitcode for worker in pool._pool] == [0, 0, 0]


# maxtasksperchild


@pytest.mark.parametrize(("chunksize", "workers"), [(1, 4), (2, 2), (4, 1), (3, 2)])
def test_a_worker_ends_after_maxtasksperchild_chunks(
    make_pool: Any, chunksize: int, workers: int
) -> None:
    pool = make_pool(1, maxtasksperchild=2)
    pids = pool.map(tasks.pid, range(8), chunksize)
    assert len(pids) == 8
    assert len(set(pids)) == workers
    assert pids == sorted(pids, key=pids.index)  # one after the other


def test_single_calls_count_as_tasks(make_pool: Any) -> None:
    pool = make_pool(1, maxtasksperchild=2)
    pids = [pool.apply(tasks.pid) for _ in range(6)]
    assert pids[0] == pids[1] != pids[2] == pids[3] != pids[4] == pids[5]
    assert len(set(pids)) == 3


def test_a_failed_task_counts(make_pool: Any) -> None:
    pool = make_pool(1, maxtasksperchild=1)
    [before] = [worker.pid for worker in pool._pool]
    with pytest.raises(ValueError):
        pool.apply(tasks.fail)
    assert pool.apply(tasks.pid) != before


def test_workers_are_replaced_in_the_same_list(make_pool: Any) -> None:
    pool = make_pool(2, maxtasksperchild=1)
    workers = pool._pool
    before = list(workers)
    pool.map(tasks.square, range(2), 1)
    pool.map(tasks.square, range(10), 1)
    eventually(lambda: len(pool._pool) == 2 and not set(workers) & set(before))
    assert pool._pool is workers
    assert [worker.exitcode for worker in before] == [0, 0]
    found = numbers(pool)  # read once: more workers may have been replaced at each look
    assert found == sorted(found)


def test_workers_are_replaced_after_close(make_pool: Any) -> None:
    """There are more tasks than the current workers may run."""
    pool = make_pool(3, maxtasksperchild=1)
    results = [pool.apply_async(tasks.identity, (i,)) for i in range(6)]
    mapped = pool.map_async(tasks.pid, range(10), 1)
    pool.close()
    pool.join()
    assert [result.get(0) for result in results] == list(range(6))
    assert len(set(mapped.get(0))) == 10


def test_no_task_is_lost_or_doubled_at_a_replacement(make_pool: Any, diary: Diary) -> None:
    pool = make_pool(2, maxtasksperchild=3)
    pool.starmap(tasks.noted, [(diary, i) for i in range(60)], 1)
    assert sorted(map(int, diary.lines())) == list(range(60))


def test_the_debug_log_mentions_workers(tmp_path: Path) -> None:
    done = scripts.run_source(
        tmp_path,
        "import multiprocessing\n"
        "from engine import Pool\n"
        "multiprocessing.log_to_stderr(10)\n"
        "with Pool(1, maxtasksperchild=2) as pool:\n"
        "    for i in range(2):\n"
        "        pool.apply(abs, (i,))\n"
        "    pool.close()\n"
        "    pool.join()\n",
    )
    assert done.returncode == 0
    assert "[DEBUG/MainProcess] added worker" in done.stderr
    assert re.search(r"\[DEBUG/ForkPoolWorker-1\] worker exiting after 2 tasks", done.stderr)
    assert "[INFO/ForkPoolWorker-1] child process calling self.run()" in done.stderr
    assert "[INFO/ForkPoolWorker-1] process exiting with exitcode 0" in done.stderr


def test_threads_of_the_parent_are_not_in_the_worker(make_pool: Any) -> None:
    stop = threading.Event()
    thread = threading.Thread(target=stop.wait, name="of the parent")
    thread.start()
    try:
        seen = make_pool(1).apply(tasks.describe)
    finally:
        stop.set()
        thread.join()
    assert (seen["threads"], seen["tasks"]) == (["MainThread"], WORKER_THREADS)


REPLACED_EXIT = """
import os, signal, sys
from engine import Pool

def raises(code, before=os._exit):
    os.write(w, b"x")
    if os.getpid() == parent:
        before(code)
    raise {what}

def returns(code):
    os.write(w, b"x")

def counts(code, before=os._exit):
    os.write(w, b"x")
    before(code)

parent = os.getpid()
r, w = os.pipe()
os._exit = {how}
with Pool(2, maxtasksperchild=3) as pool:
    print(pool.map(abs, range(-4, 0), 1))
    try:
        pool.apply(signal.raise_signal, (9,))
    except RuntimeError:
        print("lost")
    try:
        pool.apply(sys.exit, (7,))
    except SystemExit as exc:
        print(exc.code)
    pool.close()
    pool.join()
    print([worker.exitcode for worker in pool._pool])
os.write(w, b".")
print(len(os.read(r, 100)) >= 2)
"""


@pytest.mark.better
@pytest.mark.parametrize(
    ("how", "what"),
    [
        ("counts", "None"),
        ("returns", "None"),
        ("raises", "SystemExit(5)"),
        ("raises", "ValueError('no')"),
        ("raises", "KeyboardInterrupt"),
        ("raises", "GeneratorExit"),
    ],
)
def test_a_replaced_exit_is_called_and_nothing_runs_on(tmp_path: Path, how: str, what: str) -> None:
    """As coverage and Scalene replace os._exit; an error there is not the parent's program's."""
    source = REPLACED_EXIT.replace("{how}", how).replace("{what}", what)
    found = scripts.output(tmp_path, source)
    assert found[:3] == ["[4, 3, 2, 1]", "lost", "7"]
    assert set(eval(found[3])) <= {0, 7}
    assert found[4:] == ["True"]


LARGE = 60_000_000


def own_memory(process: psutil.Process) -> int:
    """Without what is mapped: a pool keeps its shared memory for the next large data."""
    found = process.memory_info()
    return int(found.rss - found.shared)


given_back = pytest.mark.skipif(
    bool(sysconfig.get_config_var("Py_GIL_DISABLED")),
    reason="without the GIL, the interpreter keeps the memory of large objects that were freed",
)


@given_back
@pytest.mark.parametrize("kind", [bytes, bytearray])
@pytest.mark.parametrize("method", ["apply", "map", "imap"])
def test_no_large_memory_is_kept_when_the_answer_is_out(
    make_pool: Any, kind: Any, method: str
) -> None:
    """Neither by an idle worker nor by the parent."""
    pool = make_pool(1)
    call: Any = getattr(pool, method)
    processes = [psutil.Process(), psutil.Process(pool.apply(os.getpid))]
    before = [own_memory(process) for process in processes]
    found = call(kind, (LARGE,) if method == "apply" else [LARGE])
    assert len(found if method == "apply" else next(iter(found))) == LARGE
    del found
    for process, least in zip(processes, before, strict=True):
        eventually(lambda p=process, n=least: own_memory(p) < n + LARGE / 3)  # type: ignore[misc]


@given_back
def test_no_large_argument_is_kept_when_the_answer_is_out(make_pool: Any) -> None:
    pool = make_pool(1)
    process = psutil.Process(pool.apply(os.getpid))
    before = own_memory(process)
    for _ in range(2):
        assert pool.map(len, [bytes(LARGE)]) == [LARGE]
        eventually(lambda: own_memory(process) < before + LARGE / 3)
