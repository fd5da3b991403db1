"""`worker=`, `key=` and `broadcast()`."""

from __future__ import annotations

import os
import random
import signal
from collections import Counter
from concurrent.futures import Future
from typing import Any

import engine
import pytest
import tasks
from engine import DEADLINE, Pool
from gates import Gate, eventually

pytestmark = pytest.mark.better

cpool = engine.errors
ThreadPool = engine.pool_module.ThreadPool


def index(_: Any = None) -> int:
    return int(cpool.current_worker().index)


def index_and_pid() -> tuple[int, int]:
    return index(), os.getpid()


def fail_in(worker: int) -> int:
    if index() == worker:
        raise ValueError(worker)
    return worker


def die_in(worker: int) -> int:
    return tasks.die() if index() == worker else worker


def hold_and_tell(gate: Gate) -> int:
    gate.hold()
    return index()


@pytest.fixture(params=[Pool, ThreadPool], ids=["processes", "threads"])
def four(request: pytest.FixtureRequest, make_pool: Any) -> Any:
    return make_pool(4, cls=request.param)


# worker=


def test_a_call_runs_in_its_worker(four: Any) -> None:
    for worker in range(4):
        assert four.apply(index, worker=worker) == worker
    wanted = [random.Random(1).randrange(4) for _ in range(200)]
    results = [four.apply_async(index, worker=worker) for worker in wanted]
    assert [result.get(DEADLINE) for result in results] == wanted


def test_it_waits_for_that_worker_though_others_are_idle(four: Any, gate: Gate) -> None:
    held = four.apply_async(hold_and_tell, (gate,), worker=2)
    gate.arrived()
    results = [four.apply_async(index, worker=2) for _ in range(10)]
    assert four.map(tasks.square, range(40), 1) == [x * x for x in range(40)]
    assert not any(result.ready() for result in results)
    gate.open()
    assert held.get(DEADLINE) == 2
    assert [result.get(DEADLINE) for result in results] == [2] * 10


def test_other_calls_are_served_beside_it(make_pool: Any, gate: Gate) -> None:
    """Tasks for one worker and those for any take turns."""
    pool = make_pool(1)
    pool.apply(tasks.nothing)
    held = pool.apply_async(gate.hold)
    gate.arrived()
    order: list[str] = []
    results = [
        pool.apply_async(tasks.nothing, callback=lambda _, k=kind: order.append(k), **asked)
        for kind, asked in [("one", {"worker": 0})] * 50 + [("any", {})] * 50
    ]
    gate.open()
    held.get(DEADLINE)
    for result in results:
        result.get(DEADLINE)
    assert 15 <= order[:50].count("one") <= 35


def test_a_large_argument_for_a_busy_worker(make_pool: Any, gate: Gate) -> None:
    pool = make_pool(2)
    held = pool.apply_async(gate.hold, worker=1)
    gate.arrived()
    results = [pool.apply_async(len, (bytes(100_000),), worker=1) for _ in range(30)]
    results += [pool.apply_async(len, (b"12",), worker=0) for _ in range(30)]
    assert [result.get(DEADLINE) for result in results[30:]] == [2] * 30
    gate.open()
    assert [result.get(DEADLINE) for result in results[:30]] == [100_000] * 30
    held.get(DEADLINE)


def test_the_worker_that_takes_the_place_has_its_calls(make_pool: Any, gate: Gate) -> None:
    pool = make_pool(3)
    pid = pool.apply(index_and_pid, worker=1)[1]
    held = pool.apply_async(gate.hold, worker=1)
    gate.arrived()
    results = [pool.apply_async(index_and_pid, worker=1) for _ in range(5)]
    os.kill(pid, signal.SIGKILL)
    with pytest.raises(cpool.WorkerLostError):
        held.get(DEADLINE)
    found = {result.get(DEADLINE) for result in results}
    assert len(found) == 1
    assert found.pop()[0] == 1
    assert pool.apply(index_and_pid, worker=1)[1] != pid


def test_maxtasksperchild(make_pool: Any) -> None:
    pool = make_pool(2, None, (), 2)
    results = [pool.apply_async(index_and_pid, worker=n % 2) for n in range(20)]
    found = [result.get(DEADLINE) for result in results]
    assert [each for each, _ in found] == [n % 2 for n in range(20)]
    assert len({pid for _, pid in found}) >= 10


def test_a_worker_that_resize_ends(four: Any, make_gate: Any) -> None:
    gates = [make_gate() for _ in range(4)]
    held = [four.apply_async(hold_and_tell, (each,), worker=n) for n, each in enumerate(gates)]
    for each in gates:
        each.arrived()
    waiting = [four.apply_async(index, worker=n) for n in range(4)]
    called = four.broadcast_async(index)
    four.resize(2)
    for result in waiting[2:]:
        with pytest.raises(
            cpool.WorkerLostError, match=r"worker [23], which resize\(\) has removed"
        ):
            result.get(DEADLINE)
    for each in gates:
        each.open()
    assert [result.get(DEADLINE) for result in held] == [0, 1, 2, 3]
    assert [result.get(DEADLINE) for result in waiting[:2]] == [0, 1]
    with pytest.raises(cpool.WorkerLostError, match=r"item [23] of Pool\.broadcast\("):
        called.get(DEADLINE)
    with pytest.raises(ValueError, match="from 0 to 1"):
        four.apply(index, worker=2)
    four.resize(3)
    assert four.apply(index, worker=2) == 2
    assert four.broadcast(index) == [0, 1, 2]


@pytest.mark.parametrize("retries", [0, 2])
def test_calls_that_are_with_a_worker_that_resize_ends(
    make_pool: Any, gate: Gate, retries: int
) -> None:
    """Short calls, which are sent ahead. Those that it has not begun fail as well."""
    pool = make_pool(3)
    for _ in range(20):
        pool.apply(index, worker=2)
    held = pool.apply_async(hold_and_tell, (gate,), worker=2)
    gate.arrived()
    waiting = [pool.apply_async(index, worker=2, retries=retries) for _ in range(5)]
    pool.resize(1)
    for result in waiting:
        with pytest.raises(cpool.WorkerLostError, match=r"worker 2, which resize\(\) has removed"):
            result.get(DEADLINE)
    gate.open()
    assert held.get(DEADLINE) == 2
    assert pool.apply(index) == 0


def test_cancelled_calls_leave_the_queue_of_their_worker(four: Any, gate: Gate) -> None:
    held = four.apply_async(gate.hold, worker=0)
    gate.arrived()
    results = [four.apply_async(index, worker=0) for _ in range(10)]
    assert all(result.cancel() for result in results[::2])
    gate.open()
    assert [result.get(DEADLINE) for result in results[1::2]] == [0] * 5
    assert four._engine.counts()[1] == 0
    held.get(DEADLINE)


def test_a_pool_that_ends(four: Any, gate: Gate) -> None:
    held = four.apply_async(gate.hold, worker=3)
    gate.arrived()
    result = four.apply_async(index, worker=3)
    four.close()
    gate.open()
    four.join()
    assert result.get(0) == 3
    assert held.ready()


def test_a_pool_that_is_terminated(make_pool: Any, gate: Gate) -> None:
    pool = make_pool(2)
    pool.apply_async(gate.hold, worker=1)
    gate.arrived()
    results = [pool.apply_async(index, worker=1), pool.broadcast_async(index)]
    pool.terminate()
    for result in results:
        with pytest.raises(cpool.PoolTerminated):
            result.get(DEADLINE)


def test_executors_take_worker_and_key_by_options(make_pool: Any) -> None:
    with cpool.ProcessPoolExecutor(3) as executor:
        futures: list[Future[int]] = [
            executor.options(worker=n % 3).submit(index) for n in range(9)
        ]
        assert [future.result(DEADLINE) for future in futures] == [0, 1, 2] * 3


@pytest.mark.parametrize(
    ("asked", "error"),
    [
        ({"worker": 4}, ValueError),
        ({"worker": -1}, ValueError),
        ({"worker": "a"}, TypeError),
        ({"worker": 1, "key": 2}, ValueError),
        ({"key": []}, TypeError),
    ],
)
def test_invalid_workers_and_keys_are_refused(
    four: Any, make_pool: Any, asked: Any, error: Any
) -> None:
    for pool in (four, make_pool(4, serial=True)):
        with pytest.raises(error):
            pool.apply(index, **asked)
        with pytest.raises(error):
            pool.apply_async(index, **asked)


@pytest.mark.parametrize("asked", [{"worker": 1}, {"key": "a"}])
def test_calls_of_many_tasks_refuse_worker_and_key(four: Any, asked: Any) -> None:
    for call in (four.map, four.map_async, four.imap, four.imap_unordered):
        with pytest.raises(ValueError, match="for single calls"):
            call(tasks.square, [1], **asked)
    with pytest.raises(ValueError, match="for single calls"):
        four.broadcast(index, **asked)


# elastic pools


def places(pool: Any) -> list[int]:
    return sorted(worker._popen.index for worker in list(pool._pool))


def worker_at(pool: Any, place: int) -> Any:
    """The worker with an index. A new worker may run a task before the pool lists the worker."""
    [worker] = eventually(lambda: [each for each in list(pool._pool) if each._popen.index == place])
    return worker


def test_an_elastic_pool_starts_the_worker_of_a_call(make_pool: Any, gate: Gate) -> None:
    pool = make_pool(8, min_processes=1)
    assert pool.apply(index, worker=5) == 5
    eventually(lambda: places(pool) == [0, 5])
    held = [pool.apply_async(hold_and_tell, (gate,), worker=n) for n in (7, 5, 2)]
    gate.arrived(3)
    eventually(lambda: places(pool) == [0, 2, 5, 7])
    waiting = [pool.apply_async(index, worker=n) for n in (2, 7, 5, 0)]
    assert waiting[3].get(DEADLINE) == 0
    gate.open()
    assert [result.get(DEADLINE) for result in held] == [7, 5, 2]
    assert [result.get(DEADLINE) for result in waiting[:3]] == [2, 7, 5]
    with pytest.raises(ValueError, match="from 0 to 7"):
        pool.apply(index, worker=8)


def test_an_elastic_pool_starts_the_worker_of_a_key(make_pool: Any) -> None:
    pool = make_pool(3, min_processes=1)
    assert [pool.apply(index, key=key) for key in "abcdef" * 2] == [0, 1, 2] * 4


def test_a_worker_that_was_idle_comes_back_for_its_calls(make_pool: Any) -> None:
    pool = make_pool(4, min_processes=1, idle_timeout=0.02)
    before = pool.apply(index_and_pid, worker=3)
    assert before[0] == 3
    for _ in range(3):
        eventually(lambda: len(pool._pool) == 1)
        (left,) = places(pool)
        wanted = (left + 1) % 4
        found = pool.apply(index_and_pid, worker=wanted)
        assert found[0] == wanted
        assert found != before
        before = found


def test_a_worker_of_an_elastic_pool_is_replaced_at_its_place(make_pool: Any, gate: Gate) -> None:
    pool = make_pool(5, min_processes=1)
    held = pool.apply_async(gate.hold, worker=4)
    gate.arrived()
    results = [pool.apply_async(index, worker=4) for _ in range(5)]
    worker_at(pool, 4).kill()
    with pytest.raises(cpool.WorkerLostError):
        held.get(DEADLINE)
    assert [result.get(DEADLINE) for result in results] == [4] * 5
    eventually(lambda: places(pool) == [0, 4])


def test_broadcast_runs_in_the_workers_of_an_elastic_pool(make_pool: Any, gate: Gate) -> None:
    pool = make_pool(6, min_processes=1)
    assert pool.broadcast(index) == [0]
    assert pool.apply(index, worker=4) == 4
    held = pool.apply_async(gate.hold, worker=4)
    gate.arrived()
    result = pool.broadcast_async(index)
    worker_at(pool, 4).kill()
    with pytest.raises(cpool.WorkerLostError):
        held.get(DEADLINE)
    assert result.get(DEADLINE) == [0, 4]  # by the one that took its place
    found = pool.broadcast(die_in, (4,), return_exceptions=True)
    assert found[0] == 4
    assert isinstance(found[1], cpool.WorkerLostError)
    assert "item 1 of Pool.broadcast(" in str(found[1])
    assert pool.broadcast(index) in ([0, 4], [0, 1])


def test_resize_of_an_elastic_pool_ends_the_highest(make_pool: Any, gate: Gate) -> None:
    pool = make_pool(6, min_processes=1)
    assert pool.apply(index, worker=5) == 5
    held = [pool.apply_async(hold_and_tell, (gate,), worker=n) for n in (0, 5)]
    gate.arrived(2)
    waiting = [pool.apply_async(index, worker=n) for n in (0, 5)]
    called = pool.broadcast_async(index, return_exceptions=True)
    pool.resize(3)
    with pytest.raises(cpool.WorkerLostError, match=r"worker 5, which resize\(\) has removed"):
        waiting[1].get(DEADLINE)
    gate.open()
    assert [result.get(DEADLINE) for result in held] == [0, 5]
    assert waiting[0].get(DEADLINE) == 0
    found = called.get(DEADLINE)
    assert found[0] == 0
    assert isinstance(found[1], cpool.WorkerLostError)
    assert pool.apply(index, worker=2) == 2
    with pytest.raises(ValueError, match="from 0 to 2"):
        pool.apply(index, worker=3)


# key=


def test_calls_of_a_key_go_to_one_worker(four: Any) -> None:
    keys = [key for key in range(1000) for _ in range(2)]
    random.Random(2).shuffle(keys)
    results = [(key, four.apply_async(index, key=key)) for key in keys]
    found: dict[int, set[int]] = {}
    for key, result in results:
        found.setdefault(key, set()).add(result.get(DEADLINE))
    assert all(len(workers) == 1 for workers in found.values())
    spread = Counter(workers.pop() for workers in found.values())
    assert set(spread.values()) == {250}


def test_a_key_stays_where_the_worker_was_replaced(make_pool: Any) -> None:
    pool = make_pool(2)
    before = {key: pool.apply(index, key=key) for key in "abcd"}
    with pytest.raises(cpool.WorkerLostError):
        pool.apply(tasks.die, key="a")
    assert {key: pool.apply(index, key=key) for key in "abcd"} == before
    restarts = [worker.restarts for worker in pool.statistics().workers]
    assert restarts == [int(before["a"] == 0), int(before["a"] == 1)]


def test_keys_of_a_worker_that_was_ended_go_to_others(four: Any) -> None:
    for key in range(40):
        four.apply(index, key=key)
    four.resize(2)
    found = Counter(four.apply(index, key=key) for key in range(40))
    assert found == {0: 20, 1: 20}
    four.resize(4)
    assert {four.apply(index, key=("new", key)) for key in range(40)} == {2, 3}


def test_more_keys_than_are_remembered(monkeypatch: pytest.MonkeyPatch, make_pool: Any) -> None:
    from cpool._engine import places

    monkeypatch.setattr(places, "_MOST_KEYS", 10)
    keys = places.Keys()
    found = [keys.place(key, 4) for key in range(1000)]
    assert [keys.place(key, 4) for key in range(1000)] == found
    assert max(Counter(found).values()) <= 275
    assert len(keys._places) == 10


def test_a_serial_pool_has_one_worker(make_pool: Any) -> None:
    pool = make_pool(4, serial=True)
    assert [pool.apply(index, worker=3), pool.apply(index, key="a")] == [0, 0]
    assert pool.broadcast(index) == [0]


# broadcast


def test_broadcast_runs_once_in_each_worker(four: Any) -> None:
    assert four.broadcast(index) == [0, 1, 2, 3]
    seen: list[Any] = []
    result = four.broadcast_async(pow, (2,), {"exp": 3}, callback=seen.append)
    assert result.get(DEADLINE) == [8] * 4 == seen[0]
    for n in range(4):
        results = [four.broadcast_async(index) for _ in range(n)]
        assert [each.get(DEADLINE) for each in results] == [[0, 1, 2, 3]] * n


def test_broadcast_reaches_busy_workers(four: Any, gate: Gate) -> None:
    held = [four.apply_async(hold_and_tell, (gate,)) for _ in range(4)]
    gate.arrived(4)
    result = four.broadcast_async(index)
    gate.open()
    assert result.get(DEADLINE) == [0, 1, 2, 3]
    assert sorted(each.get(DEADLINE) for each in held) == [0, 1, 2, 3]


def test_broadcast_that_fails_in_one_worker(four: Any) -> None:
    with pytest.raises(ValueError, match="2"):
        four.broadcast(fail_in, (2,))
    found = four.broadcast(fail_in, (2,), return_exceptions=True)
    assert [type(each) for each in found] == [int, int, ValueError, int]


def test_broadcast_that_kills_a_worker(make_pool: Any) -> None:
    pool = make_pool(3)
    found = pool.broadcast(die_in, (1,), return_exceptions=True)
    assert isinstance(found[1], cpool.WorkerLostError)
    assert found[1].index == 1
    assert pool.broadcast(index) == [0, 1, 2]


def test_the_stdlibs_engine_refuses_worker_key_and_broadcast() -> None:
    class Own(Pool):  # type: ignore[misc]
        def _handle_tasks(self) -> None: ...  # type: ignore[override]

    pool = Own.__new__(Own)
    pool._engine, pool._state = None, "RUN"
    for call in (pool.broadcast, pool.broadcast_async):
        with pytest.raises(ValueError, match="cpool's engine"):
            call(index)
    for asked in ({"worker": 0}, {"key": 1}, {"priority": 1}):
        with pytest.raises(ValueError, match="cpool's engine"):
            pool.apply_async(index, **asked)
    pool._state = "CLOSE"


def test_kills_at_random(make_pool: Any) -> None:
    """Each call runs in its worker, or is lost with it."""
    pool = make_pool(3)
    rng = random.Random(3)
    for _ in range(15):
        wanted = [rng.randrange(3) for _ in range(20)]
        results = [pool.apply_async(index, worker=worker) for worker in wanted]
        called = pool.broadcast_async(index, return_exceptions=True)
        rng.choice(eventually(lambda: list(pool._pool))).kill()  # or reaped since the last round
        for worker, result in zip(wanted, results, strict=True):
            result.wait(DEADLINE)
            assert result.ready()
            if result.successful():
                assert result.get() == worker
        for n, found in enumerate(called.get(DEADLINE)):
            assert found == n or isinstance(found, cpool.WorkerLostError)
    eventually(lambda: pool._engine.counts()[2] == 3)
