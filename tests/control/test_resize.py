"""`resize()` and `restart_workers()`."""

from __future__ import annotations

import random
import threading
import time
from pathlib import Path
from typing import Any

import engine
import pytest
import scripts
import tasks
from engine import DEADLINE, Pool
from gates import Gate, all_gone, eventually

pytestmark = pytest.mark.better

cpool = engine.errors
ThreadPool = engine.pool_module.ThreadPool


def hold_and_tell(gate: Gate) -> int:
    gate.hold()
    return int(cpool.current_worker().index)


def indexes(pool: Any, gate: Gate, number: int) -> list[int]:
    """The indexes of the workers of so many tasks, which all run at once."""
    results = [pool.apply_async(hold_and_tell, (gate,)) for _ in range(number)]
    gate.arrived(number)
    gate.open()
    return sorted(result.get(DEADLINE) for result in results)


def alive(pool: Any) -> int:
    return sum(worker.is_alive() for worker in list(pool._pool))


def test_more_workers(either: Any, gate: Gate) -> None:
    either.resize(4)
    assert indexes(either, gate, 4) == [0, 1, 2, 3]
    assert "pool_size=4" in repr(either)


def test_fewer_workers(either: Any) -> None:
    either.resize(5)
    either.apply_async(tasks.nothing).get(DEADLINE)
    either.resize(1)
    eventually(lambda: alive(either) == 1)
    assert either.map(tasks.square, range(100)) == [x * x for x in range(100)]


def test_what_runs_goes_on(either: Any, gate: Gate) -> None:
    results = [either.apply_async(hold_and_tell, (gate,)) for _ in range(2)]
    gate.arrived(2)
    either.resize(1)
    assert not any(result.ready() for result in results)
    either.resize(2)
    gate.open()
    assert sorted(result.get(DEADLINE) for result in results) == [0, 1]
    assert either.map(tasks.square, range(10), 1) == [x * x for x in range(10)]


def test_what_had_not_begun_is_run_by_others(make_pool: Any, gate: Gate) -> None:
    pool = make_pool(1)
    held = pool.apply_async(gate.hold, (7,))
    gate.arrived()
    results = [pool.apply_async(tasks.square, (x,)) for x in range(20)]
    pool.restart_workers()
    assert [result.get(DEADLINE) for result in results] == [x * x for x in range(20)]
    assert not held.ready()
    gate.open()
    assert held.get(DEADLINE) == 7


def test_nothing_is_lost_under_load(either: Any) -> None:
    rng = random.Random(1)
    results = [either.map_async(tasks.square, range(200), 1) for _ in range(20)]
    for _ in range(60):
        either.resize(rng.randint(1, 4))
        time.sleep(0.001)
    for result in results:
        assert result.get(2 * DEADLINE) == [x * x for x in range(200)]
    either.resize(2)
    assert either.apply(tasks.square, (3,)) == 9


def test_a_pool_that_is_closed_ends(either: Any, gate: Gate) -> None:
    held = either.apply_async(gate.hold, (7,))
    gate.arrived()
    either.resize(1)
    either.close()
    threading.Timer(0.01, gate.open).start()
    either.join(timeout=DEADLINE)
    assert held.get(0) == 7


def test_workers_are_replaced(make_pool: Any) -> None:
    pool = make_pool(2)
    before = {worker.pid for worker in pool._pool}
    pool.apply_async(tasks.nothing).get(DEADLINE)
    pool.restart_workers()
    assert set(pool.map(tasks.pid, range(20), 1)).isdisjoint(before)
    all_gone(before)
    eventually(lambda: sorted(worker._popen.index for worker in list(pool._pool)) == [0, 1])


TODAY = """
from engine import Pool

setting = "old"

def read(x):
    return setting

if __name__ == "__main__":
    with Pool(2) as pool:
        print(pool.map(read, range(3), 1))
        setting = "new"
        print(pool.map(read, range(3), 1))
        pool.restart_workers()
        print(pool.map(read, range(3), 1))
"""


def test_new_workers_see_todays_globals(tmp_path: Path) -> None:
    old, new = str(["old"] * 3), str(["new"] * 3)
    assert scripts.output(tmp_path, TODAY) == [old, old, new]


def test_bad_sizes(either: Any) -> None:
    with pytest.raises(ValueError, match="at least 1"):
        either.resize(0)
    with pytest.raises(TypeError):
        either.resize(1.5)
    either.terminate()
    with pytest.raises(ValueError, match="not running"):
        either.resize(2)


def test_threads_are_not_restarted(make_pool: Any) -> None:
    with pytest.raises(ValueError, match="needs worker processes"):
        make_pool(1, cls=ThreadPool).restart_workers()


def test_the_stdlibs_engine_cannot_be_resized() -> None:
    class Own(Pool):  # type: ignore[misc]
        def _get_sentinels(self) -> Any:
            return super()._get_sentinels()

    with Own(1) as pool:
        with pytest.raises(ValueError, match="cpool's engine"):
            pool.resize(2)
        with pytest.raises(ValueError, match="cpool's engine"):
            pool.restart_workers()
