"""Scenarios from the test suites of other pools (pebble, mpire, billiard, loky), on cpool.

Each paragraph names what those suites test, and the file with the tests of it here.

Time limits of a task, an item of an iterator, a chunk; several at once; callbacks; the worker is
another one then: here, test_limits_of_time.py.
Cancelling what waits, and what runs, with large data, with callbacks: here, test_cancel.py.
Workers that die in a task, while many submit, while they send: here, test_deaths.py.
Tasks that ignore SIGTERM, that return exceptions, that raise what cannot be changed: here.
Pools that end with large data, in a callback, with results to deliver, and leave no process: here,
test_ends.py.
Initializers that raise, hang, or exit: test_workers.py, test_lifecycle.py.
Functions at a worker's end that raise, hang, or exit: here, test_worker_life.py.
Workers' lifetimes: here, test_workers.py.
Processes and pools in tasks; pools in threads: here, test_nested.py, test_many_threads.py.
State of workers, their numbers, CPUs, bars: test_workers_options.py, test_progress.py.
The same in asyncio: here, test_asyncio.py.
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
import threading
import time
from collections.abc import Callable
from typing import Any

import engine
import pytest
import tasks
from engine import DEADLINE, Pool
from gates import Diary, Gate, all_gone, eventually
from leftovers import children

pytestmark = pytest.mark.better

cpool = engine.errors
LIMIT = 0.1


def sleep(_: Any = None) -> None:
    time.sleep(1000)


def nap(seconds: float) -> float:
    time.sleep(seconds)
    return seconds


def test_a_worker_that_ran_out_of_time_is_another_one_then(make_pool: Any) -> None:
    pool = make_pool(1)
    before = pool.apply(os.getpid)
    with pytest.raises(TimeoutError):
        pool.apply(sleep, task_timeout=LIMIT)
    assert pool.apply(os.getpid) != before


def test_an_iterator_goes_on_after_each_item_that_is_late(make_pool: Any) -> None:
    results = make_pool(3).imap(sleep, [1, 2, 3], task_timeout=LIMIT)
    found = []
    while True:
        try:
            found.append(next(results))
        except StopIteration:
            break
        except cpool.TaskTimeoutError as error:
            found.append(error.index)
    assert found == [0, 1, 2]


def test_a_chunk_may_take_longer_than_the_limit_of_its_items(make_pool: Any) -> None:
    found = make_pool(2).imap(nap, [LIMIT / 2] * 10, 5, task_timeout=5 * LIMIT)
    assert list(found) == [LIMIT / 2] * 10


@pytest.mark.parametrize(
    ("call", "options", "name"),
    [
        (sleep, {"task_timeout": LIMIT}, "TaskTimeoutError"),
        (tasks.die, {}, "WorkerLostError"),
        (sleep, {}, "TaskCancelledError"),
    ],
)
def test_callbacks_are_told(make_pool: Any, call: Any, options: Any, name: str) -> None:
    told: list[str] = []
    pool = make_pool(1)
    result = pool.apply_async(
        call, error_callback=lambda error: told.append(type(error).__name__), **options
    )
    if name == "TaskCancelledError":
        result.cancel()
    result.wait(DEADLINE)
    assert told == [name]
    assert pool.apply(tasks.square, (3,)) == 9


def test_terminate_while_large_data_waits_for_slow_workers(gate: Gate) -> None:
    with Pool(1, gate.hold) as pool:
        result = pool.apply_async(len, (bytes(4 << 20),))
        [pid] = gate.arrived()
    with pytest.raises(cpool.PoolTerminated):
        result.get(0)
    all_gone([pid])


def leave_at_once() -> None:
    os._exit(3)


def hang() -> None:
    threading.Event().wait()


@pytest.mark.parametrize("finalizer", [leave_at_once, tasks.fail, hang])
def test_pools_end_whatever_their_finalizers_do(finalizer: Any) -> None:
    args = ("good",) if finalizer is tasks.fail else ()
    began = time.monotonic()
    with Pool(2, finalizer=finalizer, finalargs=args) as pool:
        assert pool.map(tasks.square, range(10)) == [x * x for x in range(10)]
    assert time.monotonic() - began < DEADLINE


def test_a_worker_that_dies_in_its_finalizer_costs_nothing(make_pool: Any) -> None:
    pool = make_pool(2, maxtasksperchild=1, finalizer=leave_at_once)
    assert pool.map(tasks.square, range(20), 1) == [x * x for x in range(20)]
    pool.close()
    pool.join(DEADLINE)


def test_limits_hold_in_workers_that_are_replaced(make_pool: Any) -> None:
    pool = make_pool(2, maxtasksperchild=1)
    items = [0.0, 1000.0] * 4
    found = pool.map(nap, items, task_timeout=0.8, return_exceptions=True)
    assert [type(each) for each in found] == [float, cpool.TaskTimeoutError] * 4


def nested_failure(how: str) -> Any:
    with Pool(1, daemon=False) as pool:
        if how == "raise":
            return pool.apply(tasks.reciprocal, (0,))
        if how == "die":
            return pool.apply(tasks.die)
        return pool.apply(sleep, task_timeout=LIMIT)


@pytest.mark.parametrize(
    ("how", "error"),
    [("raise", "ZeroDivisionError"), ("die", "WorkerLostError"), ("late", "TaskTimeoutError")],
)
def test_failures_of_pools_in_tasks_arrive(make_pool: Any, how: str, error: str) -> None:
    pool = make_pool(1, daemon=False)
    pid = pool.apply(os.getpid)
    with pytest.raises(Exception) as caught:
        pool.apply(nested_failure, (how,))
    assert type(caught.value).__name__ == error
    assert "in Pool.apply(test_scenarios.nested_failure), worker 0" in str(caught.value.__cause__)
    assert pool.apply(os.getpid) == pid


def test_limits_and_retries_with_everything_else(make_pool: Any, diary: Diary) -> None:
    """An elastic pool with limits of memory and time, whose workers have children."""
    pool = make_pool(
        4,
        min_processes=1,
        idle_timeout=0.05,
        memory_limit=None if engine.PORTABLE else "1GB",
        daemon=False,
        maxtasksperchild=5,
        finalizer=diary.write,
        finalargs=("over",),
    )
    items = [0.0] * 50
    items[7] = items[31] = 1000.0
    found = pool.map(nap, items, 1, task_timeout=0.5, return_exceptions=True)
    assert [x for x, each in enumerate(found) if type(each) is not float] == [7, 31]
    eventually(lambda: sum(worker.is_alive() for worker in list(pool._pool)) == 1)
    assert diary.lines()
    workers = list(pool._pool)
    pool.terminate()
    assert all(worker.exitcode is not None for worker in workers)
    assert {worker.exitcode for worker in workers} <= {0, -signal.SIGKILL, -signal.SIGTERM}


class FrozenError(Exception):
    """Its attributes cannot be set, not even by the interpreter's own code in Python."""

    def __init__(self, x: int) -> None:
        super().__init__(x)

    def __setattr__(self, name: str, value: Any) -> None:
        raise AttributeError(f"{name} cannot be set")


def raise_frozen(x: int) -> None:
    raise FrozenError(x)


def call_executor(pool: Any) -> Any:
    with cpool.ProcessPoolExecutor(1) as executor:
        return executor.submit(raise_frozen, 5).result(DEADLINE)


@pytest.mark.parametrize(
    "call",
    [
        lambda pool: pool.apply(raise_frozen, (5,)),
        lambda pool: pool.apply_async(raise_frozen, (5,)).get(DEADLINE),
        lambda pool: pool.map(raise_frozen, [5]),
        lambda pool: list(pool.imap(raise_frozen, [5])),
        lambda pool: pool.apply(raise_frozen, (5,), retries=1, retry_on=FrozenError),
        call_executor,
    ],
    ids=["apply", "apply_async", "map", "imap", "retries", "executor"],
)
def test_an_exception_that_cannot_be_changed(make_pool: Any, call: Callable[[Any], Any]) -> None:
    pool = make_pool(1)
    with pytest.raises(FrozenError, match="5"):
        call(pool)
    assert pool.apply(tasks.square, (3,)) == 9


def return_error(x: int) -> Exception:
    return ValueError(x)


def test_an_exception_that_is_returned_is_a_value(make_pool: Any) -> None:
    pool = make_pool(2)
    told: list[Any] = []
    result = pool.apply_async(return_error, (1,), callback=told.append, error_callback=told.clear)
    assert result.get(DEADLINE).args == (1,)
    assert result.successful()
    eventually(lambda: told)
    options: list[dict[str, Any]] = [
        {},
        {"return_exceptions": True},
        {"fail_fast": True},
        {"retries": 2, "retry_on": ValueError},
    ]
    for each in options:
        assert [e.args for e in pool.map(return_error, range(4), **each)] == [
            (x,) for x in range(4)
        ]
    assert [e.args for e in pool.imap(return_error, range(4))] == [(x,) for x in range(4)]


def ignore_sigterm(gate: Gate) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    gate.hold()


@pytest.mark.parametrize("how", ["cancel", "terminate", "with", "limit"])
def test_a_task_that_ignores_sigterm(make_pool: Any, gate: Gate, how: str) -> None:
    pool = make_pool(1)
    limit = {"task_timeout": 10 * LIMIT} if how == "limit" else {}
    result = pool.apply_async(ignore_sigterm, (gate,), **limit)
    [pid] = gate.arrived()
    if how == "cancel":
        assert result.cancel()
    elif how == "terminate":
        pool.terminate()
        pool.join(DEADLINE)
    elif how == "with":
        with pool:
            pass
    error = {"cancel": cpool.TaskCancelledError, "limit": cpool.TaskTimeoutError}
    with pytest.raises(error.get(how, cpool.PoolTerminated)):
        result.get(DEADLINE)
    all_gone([pid])


def test_each_call_has_its_own_limit(make_pool: Any) -> None:
    pool = make_pool(4)
    limits = [None, LIMIT, 100 * DEADLINE, 2 * LIMIT]
    results = [
        pool.apply_async(sleep if limit in (LIMIT, 2 * LIMIT) else nap, (0.0,), task_timeout=limit)
        for limit in limits
    ]
    found = []
    for result in results:
        try:
            found.append(result.get(DEADLINE))
        except cpool.TaskTimeoutError as error:
            found.append(error.limit)
    assert found == [0.0, LIMIT, 0.0, 2 * LIMIT]


@pytest.mark.parametrize("fails", [False, True])
def test_terminate_in_a_callback(make_pool: Any, gate: Gate, fails: bool) -> None:
    pool = make_pool(2)
    held = pool.apply_async(gate.hold)
    gate.arrived()
    ended = threading.Event()

    def end(_: Any) -> None:
        pool.terminate()
        ended.set()

    pool.apply_async(tasks.fail if fails else tasks.nothing, callback=end, error_callback=end)
    assert ended.wait(DEADLINE)
    pool.join(DEADLINE)
    with pytest.raises(cpool.PoolTerminated):
        held.get(DEADLINE)


def large(size: int) -> bytes:
    return b"x" * size


@pytest.mark.parametrize("size", [100, 3 << 20])
def test_workers_die_while_many_submit(make_pool: Any, size: int) -> None:
    """Workers also die while they send results: each call has one outcome, and the pool ends."""
    pool = make_pool(3)
    rng = random.Random(size)
    results: list[Any] = []

    def submit() -> None:
        results.extend([pool.apply_async(large, (size,)) for _ in range(40)])

    threads = [threading.Thread(target=submit) for _ in range(3)]
    for thread in threads:
        thread.start()
    for _ in range(15):
        rng.choice(eventually(lambda: list(pool._pool))).kill()  # or reaped since the last round
        time.sleep(rng.random() / 100)
    for thread in threads:
        thread.join()
    lost = 0
    for result in results:
        try:
            assert result.get(2 * DEADLINE) == b"x" * size
        except cpool.WorkerLostError:
            lost += 1
    assert lost <= 15
    assert len(results) == 120
    pool.apply_async(large, (size,))
    pool.terminate()
    pool.join(DEADLINE)


def test_large_calls_are_cancelled(make_pool: Any, gate: Gate) -> None:
    pool = make_pool(1)
    held = pool.apply_async(gate.hold)
    gate.arrived()
    body = bytes(3 << 20)
    results = [pool.apply_async(len, (body,)) for _ in range(20)]
    assert [result.cancel() for result in results] == [True] * 20
    gate.open()
    held.get(DEADLINE)
    assert pool.apply(len, (body,)) == len(body)
    results = [pool.apply_async(len, (body,)) for _ in range(20)]
    assert [result.cancel() or result.get() == len(body) for result in results] == [True] * 20
    assert pool.apply(tasks.square, (3,)) == 9


@pytest.mark.parametrize("how", ["close", "terminate", "raise", "kill"])
def test_no_process_remains(how: str) -> None:
    before = children()
    try:
        with Pool(3) as pool:
            pool.map(tasks.square, range(10), 1)
            pool.apply_async(nap, (0.01,))
            if how == "close":
                pool.close()
                pool.join(DEADLINE)
            elif how == "terminate":
                pool.terminate()
                pool.join(DEADLINE)
            elif how == "kill":
                for worker in list(pool._pool):
                    worker.kill()
            else:
                raise KeyError(how)
    except KeyError:
        assert how == "raise"
    eventually(lambda: children() == before)


def test_what_waits_when_a_pool_is_closed_is_delivered(make_pool: Any, gate: Gate) -> None:
    told: list[int] = []
    pool = make_pool(2, maxtasksperchild=3)
    held = [pool.apply_async(gate.hold) for _ in range(2)]
    gate.arrived(2)
    results = [pool.apply_async(tasks.square, (x,), callback=told.append) for x in range(50)]
    items = pool.imap(tasks.square, range(50))
    pool.close()
    gate.open()
    pool.join(2 * DEADLINE)
    assert [result.get(0) for result in results] == [x * x for x in range(50)]
    assert list(items) == [x * x for x in range(50)]
    assert sorted(told) == [x * x for x in range(50)]
    assert all(result.ready() for result in held)


def test_in_asyncio(make_pool: Any) -> None:
    pool = make_pool(2)

    async def main() -> list[Any]:
        calls: list[Any] = [
            pool.apply_async(tasks.square, (3,)),
            pool.apply_async(sleep, task_timeout=LIMIT),
            pool.apply_async(tasks.die),
            pool.apply_async(raise_frozen, (4,)),
            pool.apply_async(return_error, (5,)),
        ]
        found = await asyncio.wait_for(
            asyncio.gather(*calls, return_exceptions=True), timeout=2 * DEADLINE
        )
        waiting = asyncio.ensure_future(asyncio.wait_for(pool.apply_async(sleep), LIMIT))
        with pytest.raises(asyncio.TimeoutError):
            await waiting
        found.append(await pool.apply_async(tasks.square, (4,)))
        return found

    found = asyncio.run(main())
    assert (found[0], found[-1]) == (9, 16)
    assert [type(each) for each in found[1:5]] == [
        cpool.TaskTimeoutError,
        cpool.WorkerLostError,
        FrozenError,
        ValueError,
    ]
