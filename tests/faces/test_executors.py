"""cpool's executors: what they do beyond CPython's own tests of concurrent.futures."""

from __future__ import annotations

import concurrent.futures
import gc
import os
import signal
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures.process import BrokenProcessPool
from concurrent.futures.thread import BrokenThreadPool
from pathlib import Path
from typing import Any

import pytest
import scripts
import tasks
from engine import DEADLINE
from gates import Diary, Gate, eventually
from leftovers import all_freed

import cpool
from cpool._engine import executors

pytestmark = pytest.mark.better

KINDS = [cpool.ProcessPoolExecutor, cpool.ThreadPoolExecutor]


@pytest.fixture(params=KINDS, ids=["processes", "threads"])
def executor(request: pytest.FixtureRequest) -> Iterator[Any]:
    with request.param(2) as made:
        yield made


@pytest.fixture
def processes() -> Iterator[Any]:
    with cpool.ProcessPoolExecutor(2) as made:
        yield made


def is_stdlib_future(future: Any) -> bool:
    return type(future) is concurrent.futures.Future


def test_types(executor: Any) -> None:
    stdlib = {
        cpool.ProcessPoolExecutor: concurrent.futures.ProcessPoolExecutor,
        cpool.ThreadPoolExecutor: concurrent.futures.ThreadPoolExecutor,
    }[type(executor)]
    assert isinstance(executor, stdlib)
    assert isinstance(executor, concurrent.futures.Executor)
    future = executor.submit(tasks.square, 3)
    assert is_stdlib_future(future)
    assert future.result(DEADLINE) == 9
    assert repr(future).endswith("state=finished returned int>")


@pytest.mark.parametrize("name", ["_ExecutorPool", "_ExecutorThreads"])
def test_an_interrupt_once_the_pool_runs_leaves_no_pool(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """A signal handler may raise before the executor knows the pool that it has just made."""
    kind = getattr(executors, name)
    init = kind.__init__

    def interrupted(pool: Any, *args: Any) -> None:
        init(pool, *args)
        raise KeyboardInterrupt

    executor = (cpool.ProcessPoolExecutor if name == "_ExecutorPool" else cpool.ThreadPoolExecutor)(
        2
    )
    before = set(executors._pools)
    with executor:
        with monkeypatch.context() as patch:
            patch.setattr(kind, "__init__", interrupted)
            with pytest.raises(KeyboardInterrupt):
                executor.submit(abs, -1)
        eventually(lambda: executors._pools == before)
        assert executor.submit(abs, -2).result(DEADLINE) == 2


@pytest.mark.parametrize("is_shut", [False, True])
@pytest.mark.parametrize("name", ["ProcessPoolExecutor", "ThreadPoolExecutor"])
def test_an_executor_that_nobody_waits_for_leaves_no_pool(name: str, is_shut: bool) -> None:
    before = set(executors._pools)
    executor = getattr(cpool, name)(2)
    future = executor.submit(abs, -1)
    pools = [weakref.ref(pool) for pool in executors._pools - before]
    if is_shut:
        executor.shutdown(wait=False)
    del executor
    assert future.result(DEADLINE) == 1
    assert len(pools) == 1
    eventually(lambda: gc.collect() >= 0 and pools[0]() is None)


@pytest.mark.parametrize("chunksize", [1, 10])
def test_map_goes_through_an_own_submit(executor: Any, chunksize: int) -> None:
    """tqdm's process_map() replaces submit(), and counts in callbacks up to the end of the map."""
    submit, calls, called = executor.submit, [], []

    def counted(*args: Any) -> Any:
        future = submit(*args)
        calls.append(future)
        future.add_done_callback(called.append)
        return future

    executor.submit = counted
    for n in range(1, 4):
        found = executor.map(tasks.square, range(500), chunksize=chunksize, timeout=DEADLINE)
        assert list(found) == [i * i for i in range(500)]
        each = 1 if isinstance(executor, cpool.ThreadPoolExecutor) else chunksize
        assert len(calls) == len(called) == n * 500 // each


def test_shutdown_cancels_calls_with_options_that_have_not_begun(executor: Any, gate: Gate) -> None:
    configured = executor.options(fail_fast=False)
    begun = [configured.submit(tasks.held, gate, i) for i in range(2)]
    gate.arrived(2)
    rest = [configured.submit(tasks.square, i) for i in range(5)]
    executor.shutdown(wait=False, cancel_futures=True)
    assert [future.cancelled() for future in rest] == [True] * 5
    gate.open()
    assert [future.result(DEADLINE) for future in begun] == [0, 1]


LATE = """
import os, threading

over = threading.Event()
threading._register_atexit(over.set)  # the last of these that is called

import cpool

def late():
    over.wait()
    for submit in executor.submit, executor.options(fail_fast=True).submit, executor.map:
        try:
            submit(abs, [])
        except RuntimeError as error:
            print(error)

if __name__ == "__main__":
    executor = cpool.{}(1)
    executor.submit(abs, -3).result()
    pid = os.fork()
    if pid == 0:
        try:
            executor.submit(abs, -3)
        except RuntimeError as error:
            print(error, flush=True)
        os._exit(0)
    os.waitpid(pid, 0)
    threading.Thread(target=late).start()
"""


@pytest.mark.parametrize("kind", KINDS)
def test_calls_at_the_exit_and_in_a_forked_process_are_refused(kind: Any, tmp_path: Path) -> None:
    done = scripts.run(scripts.write(tmp_path, LATE.format(kind.__name__)))
    refused = "cannot schedule new futures "
    assert [line.removeprefix(refused) for line in done.stdout.splitlines()] == [
        "in a forked process: the executor belongs to its parent",
        *["after interpreter shutdown"] * 3,
    ], done.stderr


def test_a_burst_keeps_each_result_with_its_call(executor: Any) -> None:
    futures = [executor.submit(tasks.add, i, b=1) for i in range(2000)]
    assert [future.result(DEADLINE) for future in futures] == list(range(1, 2001))


def test_results_of_all_kinds_of_callables(executor: Any) -> None:
    assert executor.submit(tasks.add, 1, b=2).result(DEADLINE) == 3
    assert executor.submit("abc".upper).result(DEADLINE) == "ABC"
    assert executor.submit(int, "7", base=8).result(DEADLINE) == 7
    futures = [executor.submit(f, 4) for f in (tasks.square, tasks.identity, str) * 20]
    assert [future.result(DEADLINE) for future in futures] == [16, 4, "4"] * 20


def test_what_a_call_raises(executor: Any) -> None:
    future = executor.submit(tasks.make_and_raise, KeyError, "no")
    with pytest.raises(KeyError, match="no"):
        future.result(DEADLINE)
    assert isinstance(future.exception(), KeyError)
    if isinstance(executor, cpool.ProcessPoolExecutor):
        cause: Any = future.exception().__cause__
        assert type(cause) is concurrent.futures.process._RemoteTraceback  # type: ignore[attr-defined]
        assert "make_and_raise" in str(cause)


def test_one_worker_keeps_the_order_of_calls(diary: Diary) -> None:
    with cpool.ProcessPoolExecutor(1) as executor:
        for i in range(30):
            executor.submit(tasks.noted, diary, i)
            executor.submit(tasks.note_item, (diary, -i))
    assert diary.lines() == [str(x) for i in range(30) for x in (i, -i)]


def test_a_callable_is_sent_as_it_is_when_it_is_submitted(processes: Any) -> None:
    items: list[int] = []
    futures = []
    for i in range(4):
        items.append(i)
        futures.append(processes.submit(items.count, 3))
    assert [future.result(DEADLINE) for future in futures] == [0, 0, 0, 1]


def test_a_dead_worker_fails_its_own_call(processes: Any) -> None:
    before = processes.submit(tasks.pid)
    dead = processes.submit(os._exit, 3)
    after = [processes.submit(tasks.square, i) for i in range(50)]
    with pytest.raises(BrokenProcessPool) as caught:
        dead.result(DEADLINE)
    assert isinstance(caught.value, cpool.WorkerLostError)
    assert caught.value.exitcode == 3
    assert "terminated abruptly with exit code 3" in str(caught.value.__cause__)
    assert before.exception(DEADLINE) is None
    assert [future.result(DEADLINE) for future in after] == [i * i for i in range(50)]
    assert processes._broken is False
    assert processes.submit(tasks.square, 5).result(DEADLINE) == 25


def test_each_error_of_a_dead_worker_is_its_own(processes: Any) -> None:
    lost = [processes.submit(os._exit, i) for i in (1, 2)]
    assert [future.exception(DEADLINE).exitcode for future in lost] == [1, 2]


@pytest.mark.parametrize("kind", KINDS)
def test_an_initializer_that_raises(kind: Any, capfd: pytest.CaptureFixture[str]) -> None:
    broken = {KINDS[0]: BrokenProcessPool, KINDS[1]: BrokenThreadPool}[kind]
    with kind(1, initializer=tasks.fail) as executor:
        try:
            future = executor.submit(tasks.square, 1)
        except broken:
            pass
        else:
            with pytest.raises(broken) as caught:
                future.result(DEADLINE)
            assert isinstance(caught.value, cpool.InitializerError)
            assert caught.value.__cause__ is not None
        eventually(lambda: executor._broken)
        with pytest.raises(broken):
            executor.submit(tasks.square, 1)
        with pytest.raises(broken):
            executor.map(tasks.square, [1])
    assert "cpool:" not in capfd.readouterr().err  # it is logged, as the stdlib does


def test_cancel_withdraws_what_has_not_begun(executor: Any, gate: Gate) -> None:
    held = [executor.submit(tasks.held, gate, i) for i in range(2)]
    gate.arrived(2)
    waiting = [executor.submit(tasks.square, i) for i in range(40)]
    eventually(lambda: all(future.running() for future in held))
    assert [future.cancel() for future in held] == [False, False]
    assert all(future.cancel() for future in waiting[::2])
    with pytest.raises(concurrent.futures.CancelledError):
        waiting[0].result()
    gate.open()
    assert [future.result(DEADLINE) for future in waiting[1::2]] == [i * i for i in range(1, 40, 2)]
    assert all(future.cancelled() for future in waiting[::2])
    assert [future.result(DEADLINE) for future in held] == [0, 1]


def test_a_cancelled_call_never_runs(processes: Any, gate: Gate, diary: Diary) -> None:
    held = [processes.submit(tasks.held, gate) for _ in range(2)]
    gate.arrived(2)
    futures = [processes.submit(tasks.noted, diary, i) for i in range(20)]
    kept = [i for i, future in enumerate(futures) if not (i % 2 and future.cancel())]
    gate.open()
    concurrent.futures.wait([*futures, *held], DEADLINE)
    assert kept == list(range(0, 20, 2))
    assert sorted(map(int, diary.lines())) == kept


def test_cancel_wakes_who_waits(executor: Any, gate: Gate) -> None:
    held = [executor.submit(tasks.held, gate) for _ in range(2)]
    gate.arrived(2)
    future = executor.submit(tasks.square, 2)
    found: list[Any] = []

    def wait() -> None:
        try:
            future.result(DEADLINE)
        except concurrent.futures.CancelledError as error:
            found.append(error)

    thread = threading.Thread(target=wait)
    thread.start()
    assert future.cancel()
    thread.join(DEADLINE)
    assert len(found) == 1
    gate.open()
    concurrent.futures.wait(held, DEADLINE)


def test_wait_and_as_completed(executor: Any, gate: Gate) -> None:
    held = executor.submit(tasks.held, gate, 7)
    quick = [executor.submit(tasks.square, i) for i in range(100)]
    done, pending = concurrent.futures.wait([held, *quick], DEADLINE, return_when="FIRST_COMPLETED")
    assert done and held in pending
    gate.open()
    found = {
        future.result() for future in concurrent.futures.as_completed([held, *quick], DEADLINE)
    }
    assert found == {i * i for i in range(100)} | {7}


def test_futures_end_alike_whether_the_program_looked_at_them_before(
    executor: Any, gate: Gate
) -> None:
    """A future whose lock nobody took ends by a shorter way."""
    held = [executor.submit(tasks.held, gate) for _ in range(2)]
    gate.arrived(2)
    calls: list[Any] = []
    alone, failing = executor.submit(tasks.square, 3), executor.submit(divmod, 1, 0)
    looked, called, taken = (executor.submit(tasks.square, i) for i in (4, 5, 6))
    awaited, cancelled = executor.submit(tasks.square, 7), executor.submit(tasks.square, 8)
    assert not looked.done()
    called.add_done_callback(calls.append)
    taken.set_result("the program's own")
    waiter = threading.Thread(
        target=lambda: calls.append(concurrent.futures.wait([awaited], DEADLINE).done)
    )
    waiter.start()
    eventually(lambda: awaited._waiters)
    assert cancelled.cancel()
    gate.open()
    waiter.join(DEADLINE)
    concurrent.futures.wait(held, DEADLINE)
    eventually(lambda: alone._state == failing._state == "FINISHED")  # without its lock
    executor.shutdown()
    assert (alone.result(0), looked.result(0), called.result(0)) == (9, 16, 25)
    assert (taken.result(0), awaited.result(0)) == ("the program's own", 49)
    assert isinstance(failing.exception(0), ZeroDivisionError) and alone.exception(0) is None
    assert cancelled.cancelled()
    eventually(lambda: called in calls)
    assert {awaited} in calls and len(calls) == 2
    late: list[Any] = []
    alone.add_done_callback(late.append)
    assert late == [alone]


def test_arguments_arrive_as_they_were_given(executor: Any) -> None:
    def arrived(*args: Any, **kwargs: Any) -> Any:
        return executor.submit(tasks.given, *args, **kwargs).result(DEADLINE)

    assert arrived() == ((), {})
    assert arrived(1, (2,)) == ((1, (2,)), {})
    assert arrived(fn=1, self=2, args=3) == ((), {"fn": 1, "self": 2, "args": 3})
    assert arrived(0, key=[1]) == ((0,), {"key": [1]})
    named = {"key": 1}
    future = executor.submit(tasks.given, **named)
    named["key"] = 2
    assert future.result(DEADLINE) == ((), {"key": 1})


def test_callbacks_run_once_and_in_order(executor: Any, gate: Gate) -> None:
    calls: list[int] = []
    future = executor.submit(tasks.held, gate, 9)  # one that is added later runs at once
    for i in range(3):
        future.add_done_callback(lambda done, i=i: calls.append(i + done.result()))
    gate.open()
    future.result(DEADLINE)
    eventually(lambda: len(calls) == 3)
    future.add_done_callback(lambda _: calls.append(0))
    assert sorted(calls[:3]) == calls[:3] == [9, 10, 11]
    assert calls[3:] == [0]


def test_a_callback_may_wait_for_another_call(executor: Any) -> None:
    """A thread that runs callbacks has claimed no other call meanwhile."""
    for _ in range(20):
        found: list[int] = []
        first, second = executor.submit(tasks.square, 2), executor.submit(tasks.square, 3)
        first.add_done_callback(lambda _, f=found, s=second: f.append(s.result(DEADLINE)))
        eventually(lambda f=found: f == [9])  # type: ignore[misc]


def test_a_blocked_callback_holds_up_no_waiter(processes: Any, gate: Gate) -> None:
    release, entered = threading.Event(), threading.Event()

    def block(_: Any) -> None:
        entered.set()
        release.wait(DEADLINE)

    try:
        processes.submit(tasks.held, gate).add_done_callback(block)
        gate.open()
        assert entered.wait(DEADLINE)
        futures = [processes.submit(tasks.square, i) for i in range(50)]
        assert [future.result(DEADLINE) for future in futures] == [i * i for i in range(50)]
        with pytest.raises(BrokenProcessPool):
            processes.submit(os._exit, 1).result(DEADLINE)
        assert processes.submit(tasks.square, 4).result(DEADLINE) == 16
    finally:
        release.set()


def test_many_threads_share_an_executor(
    executor: Any, in_threads: Callable[..., list[Any]]
) -> None:
    def work(first: int) -> list[int]:
        futures = [executor.submit(tasks.square, i) for i in range(first, first + 100)]
        return [future.result(DEADLINE) for future in futures]

    found = in_threads(work, range(0, 800, 100))
    assert found == [[i * i for i in range(n, n + 100)] for n in range(0, 800, 100)]


def test_a_timeout_and_then_the_result(executor: Any, gate: Gate) -> None:
    future = executor.submit(tasks.held, gate, 5)
    with pytest.raises(TimeoutError):
        future.result(0.01)
    with pytest.raises(TimeoutError):
        future.exception(0)
    gate.open()
    assert future.result(DEADLINE) == 5


@pytest.mark.parametrize("chunksize", [1, 3, 100])
@pytest.mark.parametrize("buffersize", [None, 1, 4])
def test_map(executor: Any, chunksize: int, buffersize: int | None) -> None:
    def run(*iterables: Any) -> list[Any]:
        func = tasks.add if len(iterables) == 2 else tasks.square
        found = executor.map(func, *iterables, chunksize=chunksize, buffersize=buffersize)
        return list(found)

    assert run(range(20)) == [i * i for i in range(20)]
    assert run(iter(range(20)), range(5)) == [2 * i for i in range(5)]
    assert run([]) == []


def test_a_source_of_map_may_wait_for_calls(executor: Any, gate: Gate) -> None:
    gate.open()

    def source() -> Iterator[int]:
        for i in range(3):
            yield i
            assert gate.arrived()

    assert list(executor.map(gate.hold, source())) == [0, 1, 2]


def test_map_ends_with_the_first_failure(executor: Any) -> None:
    items = executor.map(tasks.fail_on, [1] * 4, [0, 2, 1, 3])
    assert [next(items), next(items)] == [0, 2]
    with pytest.raises(ValueError):
        next(items)
    assert list(items) == []


def test_map_of_lost_items(processes: Any) -> None:
    items = processes.map(tasks.die_on, [3] * 6, range(6))
    assert [next(items) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(BrokenProcessPool):
        next(items)
    assert processes.submit(tasks.square, 3).result(DEADLINE) == 9


def test_map_reads_no_more_than_its_buffer(executor: Any) -> None:
    pulled: list[int] = []

    def source() -> Iterator[int]:
        for i in range(100):
            pulled.append(i)
            yield i

    items = executor.map(tasks.square, source(), buffersize=3)
    assert next(items) == 0
    assert len(pulled) == 4
    items.close()


@pytest.mark.parametrize("read_before", [0, 1])
def test_shutdown_cuts_off_a_map_with_a_buffer_aloud(executor: Any, read_before: int) -> None:
    """Results of submitted items can be read, and then an error is raised."""
    items = executor.map(tasks.square, range(8), buffersize=3)
    found = [next(items) for _ in range(read_before)]
    executor.shutdown()
    with pytest.raises(RuntimeError, match="cannot schedule new futures after shutdown"):
        for item in items:
            found.append(item)
    assert found == [i * i for i in range(3 + read_before)]
    assert list(items) == []


def test_a_collected_executor_cuts_off_a_map_with_a_buffer_aloud() -> None:
    executor = cpool.ThreadPoolExecutor(1)
    items = executor.map(tasks.square, range(8), buffersize=3)
    assert next(items) == 0
    gone = weakref.ref(executor)
    del executor
    all_freed([gone])
    found = []
    with pytest.raises(RuntimeError, match="the executor was collected"):
        for item in items:
            found.append(item)
    assert found == [1, 4, 9]


def test_shutdown_waits_for_all_calls(executor: Any) -> None:
    futures = [executor.submit(tasks.square, i) for i in range(100)]
    executor.shutdown()
    assert all(future.done() for future in futures)
    executor.shutdown()
    with pytest.raises(RuntimeError, match="cannot schedule new futures after shutdown"):
        executor.submit(tasks.square, 1)
    with pytest.raises(RuntimeError, match="cannot schedule new futures after shutdown"):
        executor.map(tasks.square, [1])


def test_shutdown_cancels(executor: Any, gate: Gate) -> None:
    held = [executor.submit(tasks.held, gate, i) for i in range(2)]
    gate.arrived(2)
    waiting = [executor.submit(tasks.square, i) for i in range(10)]
    mapped = executor.map(tasks.square, range(10))
    executor.shutdown(wait=False, cancel_futures=True)
    assert all(future.cancelled() for future in waiting)
    with pytest.raises(concurrent.futures.CancelledError):
        next(mapped)
    gate.open()
    assert [future.result(DEADLINE) for future in held] == [0, 1]
    executor.shutdown()


@pytest.mark.parametrize("how", ["terminate_workers", "kill_workers"])
def test_workers_are_ended(processes: Any, gate: Gate, how: str) -> None:
    held = processes.submit(tasks.held, gate)
    gate.arrived(1)
    waiting = [processes.submit(tasks.held, gate) for _ in range(5)]
    workers = list(processes._processes.values())
    getattr(processes, how)()
    with pytest.raises(BrokenProcessPool):
        held.result(DEADLINE)
    done, _ = concurrent.futures.wait(waiting, DEADLINE)
    assert len(done) == 5
    processes.shutdown()
    assert all(worker.exitcode != 0 for worker in workers[:1])


def test_a_collected_executor_runs_its_calls(executor: Any) -> None:
    made = type(executor)(1)
    futures = [made.submit(tasks.square, i) for i in range(20)]
    reference = weakref.ref(made)
    gc.disable()  # it is freed by its count of references alone
    try:
        del made
        # Without the GIL, a thread may be about to drop its reference.
        eventually(lambda: reference() is None)
    finally:
        gc.enable()
    assert [future.result(DEADLINE) for future in futures] == [i * i for i in range(20)]


def test_no_reference_is_kept(executor: Any) -> None:
    class Value:
        pass

    if isinstance(executor, cpool.ThreadPoolExecutor):
        value = Value()
        seen = weakref.ref(value)
        assert executor.submit(tasks.identity, value).result(DEADLINE) is value
        del value
        eventually(lambda: gc.collect() is not None and seen() is None)
    future = executor.submit(tasks.square, 1)
    future.result(DEADLINE)
    gone = weakref.ref(future)
    del future
    eventually(lambda: gc.collect() is not None and gone() is None)


def test_calls_may_have_child_processes(processes: Any) -> None:
    assert processes.submit(nested, 4).result(DEADLINE) == 16


def nested(x: int) -> Any:
    with cpool.ProcessPoolExecutor(1) as inner:
        return inner.submit(tasks.square, x).result(DEADLINE)


def test_what_cannot_be_pickled_fails_its_call(processes: Any) -> None:
    lock = threading.Lock()
    bad = processes.submit(tasks.identity, lock)
    with pytest.raises(TypeError):
        bad.result(DEADLINE)
    import pickle

    with pytest.raises(pickle.PicklingError):
        processes.submit(tasks.unpicklable).result(DEADLINE)
    assert processes.submit(tasks.square, 3).result(DEADLINE) == 9


def test_a_subclass_may_replace_submit(executor: Any) -> None:
    class Counting(type(executor)):  # type: ignore[misc]
        calls = 0

        def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> Any:
            self.calls += 1
            return super().submit(fn, *args, **kwargs)

    with Counting(1) as made:
        assert list(made.map(tasks.square, range(5))) == [0, 1, 4, 9, 16]
        assert made.calls == 5


def test_spawned_workers_come_as_calls_wait() -> None:
    import multiprocessing

    context = multiprocessing.get_context("spawn")
    with cpool.ProcessPoolExecutor(3, mp_context=context) as executor:
        for i in range(3):
            assert executor.submit(tasks.square, i).result(DEADLINE) == i * i
        assert executor._processes is not None
        assert len(executor._processes) == 1


def test_max_tasks_per_child() -> None:
    import multiprocessing

    with pytest.raises(ValueError, match="incompatible with the 'fork'"):
        cpool.ProcessPoolExecutor(
            1, mp_context=multiprocessing.get_context("fork"), max_tasks_per_child=2
        )
    with cpool.ProcessPoolExecutor(1, max_tasks_per_child=2) as executor:
        pids = [executor.submit(os.getpid) for _ in range(6)]
        assert len({future.result(DEADLINE) for future in pids}) == 3


def test_arguments_are_checked() -> None:
    for kind in KINDS:
        with pytest.raises(ValueError, match="max_workers must be greater than 0"):
            kind(0)
        with pytest.raises(TypeError, match="initializer must be a callable"):
            kind(1, initializer=3)
    with pytest.raises(TypeError):
        cpool.ProcessPoolExecutor(max_tasks_per_child=1.5)  # type: ignore[arg-type]
    executor = cpool.ThreadPoolExecutor(1)
    for bad in ({"chunksize": 0}, {"buffersize": 0}):
        with pytest.raises(ValueError):
            executor.map(tasks.square, [1], **bad)  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        executor.map(tasks.square, [1], buffersize=1.5)  # type: ignore[arg-type]
    executor.shutdown()


def test_ctrl_c_leaves_the_executor_usable(processes: Any, gate: Gate) -> None:
    future = processes.submit(tasks.held, gate, 3)
    gate.arrived(1)
    timer = threading.Timer(0.05, os.kill, (os.getpid(), signal.SIGINT))
    timer.start()
    with pytest.raises(KeyboardInterrupt):
        while True:
            future.exception(DEADLINE)
            time.sleep(0)
    timer.join()
    gate.open()
    concurrent.futures.wait([future], DEADLINE)
    assert processes.submit(tasks.square, 3).result(DEADLINE) == 9


def test_options_of_calls(processes: Any, gate: Gate) -> None:
    limited = processes.options(task_timeout=0.1)
    with pytest.raises(cpool.TaskTimeoutError):
        limited.submit(tasks.held, gate).result(DEADLINE)
    limited = processes.options(task_timeout=DEADLINE)
    assert limited.submit(tasks.square, 3).result(DEADLINE) == 9
    with pytest.raises(ValueError):
        limited.submit(tasks.make_and_raise, ValueError, "no").result(DEADLINE)


def test_cancel_kills_a_call_with_options(processes: Any, gate: Gate) -> None:
    future = processes.options(retries=1).submit(tasks.held, gate)
    gate.arrived(1)
    assert future.cancel()
    assert processes.submit(tasks.square, 3).result(DEADLINE) == 9


# What is freed too early is overwritten at once: using it crashes the program.
OVERWRITES = {"PYTHONMALLOC": "debug", "MALLOC_PERTURB_": "165"}

ENDS_MEANWHILE = """
import os, sys, threading, time
import cpool

begun, go = threading.Event(), threading.Event()

def rebuild():
    begun.set()
    go.wait(SECONDS)
    return 1

class Slow:
    def __reduce__(self):
        return rebuild, ()

def work(how):
    if how == "stuck":
        time.sleep(SECONDS)
    return Slow()

executor = cpool.ProcessPoolExecutor(2)
stuck = executor.submit(work, "stuck")
executor.submit(work, "slow")
assert begun.wait(SECONDS)
pool = executor._inner
pool._engine.end()
try:
    stuck.result(SECONDS)
except Exception as exc:
    print(type(exc).__name__)
go.set()
pool.manager.join(SECONDS)
print("end")
sys.stdout.flush()
os._exit(0)
"""


def test_calls_end_while_a_thread_rebuilds_the_result_of_one(tmp_path: Path) -> None:
    """And the program has dropped the future of that one."""
    source = ENDS_MEANWHILE.replace("SECONDS", str(DEADLINE))
    done = scripts.run_source(tmp_path, source, fresh=True, env=OVERWRITES)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["CallCancelled", "end"]


INTERRUPTED_END = """
import os, sys
import cpool

def rebuild():
    return 1

class Rebuilt:
    def __reduce__(self):
        return rebuild, ()

def work(path):
    with open(path) as file:
        file.read()
    return Rebuilt()

class Interrupts:
    def add_result(self, future):
        raise KeyboardInterrupt

os.mkfifo(sys.argv[1])
with cpool.ProcessPoolExecutor(1) as executor:
    future = executor.submit(work, sys.argv[1])
    with future._condition:
        future._waiters.append(Interrupts())
    open(sys.argv[1], "w").close()
    try:
        value = future.result(SECONDS)
    except KeyboardInterrupt:
        value = future.result(SECONDS)
    print(value, executor.submit(abs, -2).result(SECONDS))
"""


def test_an_interrupt_at_the_end_of_a_call_whose_result_was_rebuilt(tmp_path: Path) -> None:
    source = INTERRUPTED_END.replace("SECONDS", str(DEADLINE))
    path = str(tmp_path / "gate")
    done = scripts.run_source(tmp_path, source, path, fresh=True, env=OVERWRITES)
    assert (done.returncode, done.stdout.split()) == (0, ["1", "2"]), done.stderr


def test_a_worker_thread_ends_futures_once_whatever_others_do_with_them(in_threads: Any) -> None:
    """A worker ends a future at which nobody has looked by itself; others may begin to look, wait,
    add callbacks or cancel at any moment."""
    called: list[Any] = []
    with cpool.ThreadPoolExecutor(2) as executor:

        def user(k: int) -> None:
            futures = []
            for i in range(300):
                future = executor.submit(tasks.square, i)
                if (i + k) % 5 == 0:
                    future.add_done_callback(called.append)
                elif (i + k) % 5 == 1:
                    assert future.result(DEADLINE) == i * i
                elif (i + k) % 5 == 2 and future.cancel():
                    continue
                elif (i + k) % 5 == 3:
                    assert future.exception(DEADLINE) is None
                futures.append((i, future))
            done = concurrent.futures.wait([future for _, future in futures], DEADLINE).done
            assert len(done) == len(futures)
            for i, future in futures:
                assert future.result(0) == i * i

        in_threads(user, range(3))
    eventually(lambda: len(called) == 3 * 60)
    assert len(set(map(id, called))) == 3 * 60


@pytest.mark.parametrize("kwds", [{}, {"key": int}], ids=["plain", "keywords"])
def test_worker_threads_release_what_other_threads_have_made(kwds: Any) -> None:
    """Callables, arguments and values, which this thread, a worker or a third thread has made."""

    class Value:
        def __call__(self, *args: Any, **kwds: Any) -> Any:
            return args[0] if args else Value()

    made: list[Any] = []
    maker = threading.Thread(target=lambda to: to.extend(Value() for _ in range(20)), args=(made,))
    maker.start()
    maker.join(DEADLINE)
    made += [Value() for _ in range(20)]
    with cpool.ThreadPoolExecutor(2) as executor:
        for _ in range(3):
            futures = [executor.submit(each, each, **kwds) for each in made]
            assert [future.result(DEADLINE) for future in futures] == made
            fresh = [executor.submit(each, **kwds) for each in made]
            values = [future.result(DEADLINE) for future in fresh]
        unread = [executor.submit(each) for each in made]
        gone = [weakref.ref(each) for each in made + values]
        del made, values, futures, fresh, unread
        all_freed(gone)


# Code that rebuilds a value, and waits for it


class Rebuilt:
    """Unpickles as the value of `then()`."""

    then: Callable[[], Any]

    def __reduce__(self) -> tuple[Any, ...]:
        return rebuild, ()


def rebuild() -> Any:
    return Rebuilt.then()


def make_rebuilt() -> Rebuilt:
    return Rebuilt()


def test_what_rebuilds_a_value_waits_for_its_future(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a limit of time it would wait for ever."""
    made = threading.Event()

    def ask() -> str:
        assert made.wait(DEADLINE)
        for wait in (future.result, future.exception):
            with pytest.raises(RuntimeError, match="cannot wait"):
                wait()
            with pytest.raises(TimeoutError):
                wait(0.01)
        assert not future.done()
        return "value"

    monkeypatch.setattr(Rebuilt, "then", ask, raising=False)
    with cpool.ProcessPoolExecutor(1) as executor:
        future = executor.submit(make_rebuilt)
        made.set()
        assert future.result(DEADLINE) == "value"
