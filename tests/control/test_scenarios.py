"""Scenarios that other pools are tested for (pebble, mpire, billiard, loky): those left over.

Time limits, cancelling, the death of workers, functions at a worker's end, and nesting, together.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from typing import Any

import engine
import pytest
import tasks
from engine import DEADLINE, Pool
from gates import Diary, Gate, all_gone, eventually

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
    found = pool.map(nap, items, task_timeout=0.3, return_exceptions=True)
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
    """Elastic, with limits of memory and time, and workers that have children."""
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
    eventually(lambda: sum(worker.is_alive() for worker in pool._pool) == 1)
    assert diary.lines()
    workers = list(pool._pool)
    pool.terminate()
    assert all(worker.exitcode is not None for worker in workers)
    assert {worker.exitcode for worker in workers} <= {0, -signal.SIGKILL, -signal.SIGTERM}
