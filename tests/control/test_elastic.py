"""`min_processes=` and `idle_timeout=`."""

from __future__ import annotations

import multiprocessing
import os
import random
import time
from typing import Any

import engine
import pytest
import tasks
from engine import DEADLINE, Pool
from gates import Gate, eventually

pytestmark = pytest.mark.better

cpool = engine.errors
FOREVER = 1000.0


def alive(pool: Any) -> int:
    return sum(worker.is_alive() for worker in list(pool._pool))


def hold_and_tell(gate: Gate) -> int:
    gate.hold()
    return int(cpool.current_worker().index)


def test_it_starts_small_and_grows_while_work_waits(make_pool: Any, gate: Gate) -> None:
    pool = make_pool(4, min_processes=1)
    assert len(pool._pool) == 1
    results = [pool.apply_async(hold_and_tell, (gate,)) for _ in range(6)]
    gate.arrived(4)
    eventually(lambda: len(pool._pool) == 4)
    gate.open()
    assert {result.get(DEADLINE) for result in results} == {0, 1, 2, 3}
    assert len(pool._pool) == 4


@pytest.mark.parametrize("method", ["map", "starmap", "imap"])
def test_it_grows_for_a_call_that_waits(make_pool: Any, gate: Gate, method: str) -> None:
    """Even while the first items run."""
    pool = make_pool(3, min_processes=1)
    opener = make_pool(1).apply_async(await_and_open, (gate, 3))
    items: Any = [(gate,)] * 9 if method == "starmap" else [gate] * 9
    assert set(getattr(pool, method)(hold_and_tell, items)) == {0, 1, 2}
    opener.get(DEADLINE)


def await_and_open(gate: Gate, number: int) -> None:
    gate._fds = [os.open(path, os.O_RDWR | os.O_NONBLOCK) for path in (gate.arrivals, gate.opening)]
    gate.arrived(number)
    gate.open()


def test_an_elastic_pool_does_not_grow_without_work(make_pool: Any) -> None:
    pool = make_pool(4, min_processes=2)
    for x in range(50):
        assert pool.apply(tasks.square, (x,)) == x * x
    assert len(pool._pool) == 2


def test_idle_workers_end(make_pool: Any, gate: Gate) -> None:
    pool = make_pool(4, min_processes=2, idle_timeout=0.05)
    results = [pool.apply_async(hold_and_tell, (gate,)) for _ in range(4)]
    gate.arrived(4)
    gate.open()
    assert {result.get(DEADLINE) for result in results} == {0, 1, 2, 3}
    eventually(lambda: alive(pool) == 2)
    time.sleep(0.15)
    assert alive(pool) == 2
    assert pool.map(tasks.square, range(100)) == [x * x for x in range(100)]


def test_busy_workers_do_not_end(make_pool: Any, gate: Gate) -> None:
    pool = make_pool(2, idle_timeout=0.02)
    held = pool.apply_async(gate.hold, (7,))
    [pid] = gate.arrived()
    eventually(lambda: alive(pool) == 1)
    time.sleep(0.1)
    eventually(lambda: [worker.pid for worker in list(pool._pool)] == [pid])
    gate.open()
    assert held.get(DEADLINE) == 7


def test_a_pool_that_only_blocking_calls_use(make_pool: Any) -> None:
    pool = make_pool(3, idle_timeout=0.02)
    assert pool.map(tasks.square, range(10)) == [x * x for x in range(10)]
    eventually(lambda: alive(pool) == 1)


def test_an_elastic_pool_grows_again(make_pool: Any, make_gate: Any) -> None:
    pool = make_pool(3, min_processes=1, idle_timeout=0.02)
    for _ in range(3):
        gate = make_gate()
        results = [pool.apply_async(gate.hold, (x,)) for x in range(6)]
        eventually(lambda: len(pool._pool) == 3)
        gate.open()
        assert [result.get(DEADLINE) for result in results] == list(range(6))
        eventually(lambda: alive(pool) == 1)
    [index] = [worker._popen.index for worker in pool._pool if worker.is_alive()]
    assert index in (0, 1, 2)


def nap(seconds: float) -> float:
    time.sleep(seconds)
    return seconds


def test_workers_that_die_are_replaced(make_pool: Any, gate: Gate) -> None:
    pool = make_pool(3, min_processes=2, idle_timeout=FOREVER)
    for _ in range(3):
        with pytest.raises(cpool.WorkerLostError):
            pool.apply(tasks.die)
    eventually(lambda: alive(pool) == 2)


def test_nothing_is_lost_under_a_bursty_load(make_pool: Any) -> None:
    pool = make_pool(4, min_processes=1, idle_timeout=0.001)
    rng = random.Random(1)
    for _ in range(40):
        number = rng.choice([1, 3, 20, 200])
        result = pool.map_async(nap, [0.0005] * number, 1)
        assert result.get(2 * DEADLINE) == [0.0005] * number
        time.sleep(rng.choice([0, 0.001, 0.005]))
    eventually(lambda: len(pool._pool) <= 4)  # without those that are leaving


def test_a_closed_pool_grows_and_ends(make_pool: Any, gate: Gate) -> None:
    pool = make_pool(2, min_processes=1, idle_timeout=FOREVER)
    results = [pool.apply_async(hold_and_tell, (gate,)) for _ in range(3)]
    pool.close()
    gate.arrived(2)
    gate.open()
    pool.join(DEADLINE)
    assert {result.get(0) for result in results} == {0, 1}


def test_a_new_size(make_pool: Any, gate: Gate) -> None:
    pool = make_pool(2, min_processes=2, idle_timeout=FOREVER)
    pool.resize(4)
    assert len(pool._pool) == 2
    results = [pool.apply_async(hold_and_tell, (gate,)) for _ in range(5)]
    gate.arrived(4)
    gate.open()
    assert {result.get(DEADLINE) for result in results} == {0, 1, 2, 3}
    pool.resize(1)
    eventually(lambda: alive(pool) == 1)
    assert pool.apply(tasks.square, (3,)) == 9


def test_restart_workers_keeps_the_number_of_workers(make_pool: Any) -> None:
    pool = make_pool(4, min_processes=2, idle_timeout=FOREVER)
    before = {worker.pid for worker in pool._pool}
    pool.restart_workers()
    eventually(lambda: before.isdisjoint(worker.pid for worker in list(pool._pool)))
    eventually(lambda: alive(pool) == 2)


@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_workers_that_start_afresh(make_pool: Any, method: str) -> None:
    pool = make_pool(
        2, min_processes=1, idle_timeout=0.05, context=multiprocessing.get_context(method)
    )
    results = [pool.apply_async(nap, (0.5,)) for _ in range(4)]
    eventually(lambda: len(pool._pool) == 2)
    assert [result.get(DEADLINE) for result in results] == [0.5] * 4
    eventually(lambda: alive(pool) == 1)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"min_processes": 0}, "min_processes must be a number from 1 to 2"),
        ({"min_processes": 3}, "min_processes must be a number from 1 to 2"),
        ({"idle_timeout": 0}, "idle_timeout must be more than 0 seconds"),
        ({"idle_timeout": -1}, "idle_timeout must be more than 0 seconds"),
        ({"idle_timeout": float("nan")}, "idle_timeout must be a number of seconds"),
    ],
)
def test_bad_values(options: Any, text: str) -> None:
    with pytest.raises(ValueError, match=text):
        Pool(2, **options)


@pytest.mark.parametrize("bad", ["5", b"5", []])
def test_bad_types(bad: Any) -> None:
    with pytest.raises(TypeError, match="idle_timeout must be a number of seconds"):
        Pool(2, idle_timeout=bad)


@pytest.mark.parametrize("huge", [1e300, 10**400])
def test_a_huge_timeout(make_pool: Any, huge: float) -> None:
    pool = make_pool(1, idle_timeout=huge)
    assert pool.apply(tasks.square, (3,)) == 9
