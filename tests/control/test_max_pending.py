"""`max_pending=`: a call that submits waits while so many calls wait."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import engine
import pytest
import tasks
from engine import DEADLINE, Pool
from gates import Gate, eventually

pytestmark = pytest.mark.better

cpool = engine.errors
ThreadPool = engine.pool_module.ThreadPool


@pytest.fixture(params=[Pool, ThreadPool], ids=["processes", "threads"])
def bounded(request: pytest.FixtureRequest, make_pool: Any) -> Any:
    """A pool with one worker and max_pending=2."""
    return make_pool(1, cls=request.param, max_pending=2)


class Submitting:
    """A thread that submits a call."""

    def __init__(self, call: Any) -> None:
        self.result: Any = None
        self.error: Any = None
        self.thread = threading.Thread(target=self._run, args=(call,), daemon=True)
        self.thread.start()

    def _run(self, call: Any) -> None:
        try:
            self.result = call()
        except Exception as exc:
            self.error = exc

    def waits(self) -> bool:
        self.thread.join(0.1)
        return self.thread.is_alive()

    def wait(self) -> Any:
        self.thread.join(DEADLINE)
        assert not self.thread.is_alive()
        return self.result


def fill(pool: Any, gate: Gate) -> list[Any]:
    held = [pool.apply_async(gate.hold)]
    gate.arrived()
    return held + [pool.apply_async(tasks.square, (x,)) for x in range(2)]


def test_submitting_waits(bounded: Any, gate: Gate) -> None:
    results = fill(bounded, gate)
    third = Submitting(lambda: bounded.apply_async(tasks.square, (3,)))
    blocking = Submitting(lambda: bounded.map(tasks.square, range(5)))
    assert third.waits()
    assert blocking.waits()
    gate.open()
    assert third.wait().get(DEADLINE) == 9
    assert blocking.wait() == [0, 1, 4, 9, 16]
    assert [result.get(DEADLINE) for result in results[1:]] == [0, 1]


def test_a_call_that_is_cancelled_makes_room(bounded: Any, gate: Gate) -> None:
    results = fill(bounded, gate)
    third = Submitting(lambda: bounded.apply_async(tasks.square, (3,)))
    assert third.waits()
    assert results[1].cancel()
    third.wait()
    gate.open()
    assert third.result.get(DEADLINE) == 9


def test_a_pool_that_is_closed_meanwhile(bounded: Any, gate: Gate) -> None:
    fill(bounded, gate)
    third = Submitting(lambda: bounded.apply_async(tasks.square, (3,)))
    assert third.waits()
    bounded.close()
    third.wait()
    assert isinstance(third.error, ValueError)
    gate.open()
    bounded.join()


def test_callbacks_do_not_wait(bounded: Any, gate: Gate) -> None:
    made: list[Any] = []

    def more(_: Any) -> None:
        made.extend(bounded.apply_async(tasks.square, (x,)) for x in range(10))

    held = bounded.apply_async(gate.hold, callback=more)
    gate.arrived()
    gate.open()
    held.get(DEADLINE)
    assert [result.get(DEADLINE) for result in made] == [x * x for x in range(10)]


def test_iterables_do_not_wait(bounded: Any) -> None:
    def items() -> Any:
        for x in range(5):
            yield from (bounded.apply_async(tasks.square, (x,)) for _ in range(4))

    found = list(bounded.imap(str, (type(each).__name__ for each in items())))
    assert len(found) == 20


def test_tasks_of_threads_do_not_wait(make_pool: Any) -> None:
    pool = make_pool(1, cls=ThreadPool, max_pending=1)

    def submit() -> list[Any]:
        return [pool.apply_async(tasks.square, (x,)) for x in range(5)]

    results = pool.apply(submit)
    assert [result.get(DEADLINE) for result in results] == [x * x for x in range(5)]


def test_a_coroutine_does_not_hold_up_its_loop(bounded: Any, gate: Gate) -> None:
    async def main() -> list[Any]:
        held = bounded.apply_async(gate.hold)
        results = [bounded.apply_async(tasks.square, (x,)) for x in range(6)]
        gate.open()
        await held
        return [await result for result in results]

    assert asyncio.run(main()) == [x * x for x in range(6)]


def test_many_threads(bounded: Any) -> None:
    sums: list[int] = []

    def work(n: int) -> None:
        sums.extend(bounded.apply(tasks.square, (n,)) for _ in range(20))

    threads = [threading.Thread(target=work, args=(n,)) for n in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(DEADLINE)
    assert sorted(sums) == sorted(n * n for n in range(6) for _ in range(20))


@pytest.mark.parametrize("cls", [Pool, ThreadPool])
def test_maps_of_many_threads(make_pool: Any, cls: Any) -> None:
    """A map that waits to be submitted does not count as waiting for a worker."""
    pool = make_pool(2, cls=cls, max_pending=1)
    found: list[Any] = []
    maps = [
        lambda: pool.map(tasks.square, range(9)),
        lambda: list(pool.imap(tasks.square, range(9))),
    ]
    threads = [threading.Thread(target=lambda n=n: found.append(maps[n % 2]())) for n in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(DEADLINE)
    assert found == [[x * x for x in range(9)]] * 6


def test_a_worker_that_dies(make_pool: Any) -> None:
    pool = make_pool(1, max_pending=1)
    results = [pool.apply_async(tasks.die if n % 5 == 0 else tasks.nothing) for n in range(20)]
    for n, result in enumerate(results):
        result.wait(DEADLINE)
        assert result.successful() == (n % 5 != 0)


@pytest.mark.parametrize(("limit", "error"), [(0, ValueError), (-1, ValueError), ("a", TypeError)])
@pytest.mark.parametrize("cls", [Pool, ThreadPool])
def test_an_invalid_max_pending_is_refused(cls: Any, limit: Any, error: Any) -> None:
    with pytest.raises(error):
        cls(1, max_pending=limit)


@pytest.mark.parametrize("huge", [2**63, 2**64, 10**400])
def test_huge_limits(make_pool: Any, huge: int) -> None:
    assert make_pool(1, max_pending=huge).map_async(tasks.square, [2]).get(DEADLINE) == [4]


def test_a_serial_pool_never_waits(make_pool: Any) -> None:
    pool = make_pool(1, serial=True, max_pending=1)
    results = [pool.apply_async(tasks.square, (x,)) for x in range(5)]
    eventually(lambda: all(result.ready() for result in results))
