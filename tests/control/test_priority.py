"""`priority=`: among calls that wait, a higher one is served first."""

from __future__ import annotations

import random
from typing import Any

import engine
import pytest
import tasks
from engine import DEADLINE, Pool
from gates import Gate

pytestmark = pytest.mark.better

ThreadPool = engine.pool_module.ThreadPool


@pytest.fixture(params=[Pool, ThreadPool], ids=["processes", "threads"])
def one(request: pytest.FixtureRequest, make_pool: Any) -> Any:
    return make_pool(1, cls=request.param)


class Order:
    """The order in which calls have run, by their callbacks."""

    def __init__(self, pool: Any, gate: Gate) -> None:
        self.pool = pool
        self.gate = gate
        self.seen: list[Any] = []
        pool.apply(tasks.nothing)
        self.results = [pool.apply_async(gate.hold)]
        gate.arrived()

    def call(self, name: Any, **asked: Any) -> None:
        callback = lambda _: self.seen.append(name)  # noqa: E731
        self.results.append(self.pool.apply_async(tasks.nothing, callback=callback, **asked))

    def open(self) -> list[Any]:
        self.gate.open()
        for result in self.results:
            result.get(DEADLINE)
        return self.seen


def test_calls_of_higher_priority_run_first(one: Any, gate: Gate) -> None:
    order = Order(one, gate)
    wanted = list(range(-5, 6)) * 3
    random.Random(1).shuffle(wanted)
    for number, priority in enumerate(wanted):
        order.call((-priority, number), priority=priority)
    assert order.open() == sorted((-priority, n) for n, priority in enumerate(wanted))


def test_priorities_from_the_lowest_to_the_highest(one: Any, gate: Gate) -> None:
    order = Order(one, gate)
    for priority in (0, -128, 127, -1, 1, 64, -64, 63, -65):
        order.call(priority, priority=priority)
    assert order.open() == [127, 64, 63, 1, 0, -1, -64, -65, -128]


def test_an_endless_job_gives_way(one: Any) -> None:
    endless = one.imap_unordered(tasks.square, iter(int, 1), buffersize=100, priority=-1)
    next(endless)
    for n in range(20):
        assert one.apply(tasks.square, (n,)) == n * n
    endless.close()


def test_maps_have_a_priority_too(one: Any, gate: Gate) -> None:
    order = Order(one, gate)
    low = one.map_async(tasks.square, range(200), 1, lambda _: order.seen.append("low"))
    high = one.map_async(
        tasks.square, range(200), 1, lambda _: order.seen.append("high"), priority=3
    )
    order.results += [low, high]
    assert order.open() == ["high", "low"]


def test_calls_for_one_worker_have_a_priority_too(one: Any, gate: Gate) -> None:
    order = Order(one, gate)
    for n in range(5):
        order.call(("low", n), worker=0)
        order.call(("high", n), worker=0, priority=1)
        order.call(("other", n), priority=2)
    assert [kind for kind, _ in order.open()] == ["other"] * 5 + ["high"] * 5 + ["low"] * 5


def test_a_large_backlog_does_not_delay_a_call_of_higher_priority(
    make_pool: Any, gate: Gate
) -> None:
    """The call of higher priority does not queue behind calls that are not encoded yet."""
    pool = make_pool(1)
    order = Order(pool, gate)
    order.results += [pool.apply_async(len, (bytes(30_000) + bytes([n]),)) for n in range(250)]
    last = pool.apply_async(tasks.nothing, callback=lambda _: order.seen.append("last"))
    order.results.append(last)
    order.call("high", priority=1)
    assert order.open() == ["high", "last"]


@pytest.mark.parametrize(
    ("priority", "error"), [(128, ValueError), (-129, ValueError), ("a", TypeError)]
)
def test_invalid_priorities_are_refused(one: Any, priority: Any, error: Any) -> None:
    with pytest.raises(error):
        one.apply(tasks.nothing, priority=priority)
    with pytest.raises(error):
        one.imap(tasks.nothing, [1], priority=priority)
