"""Calls that workers cannot take soon wait as Python objects, not as encoded bytes."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Iterator
from typing import Any, NoReturn

import engine
import pytest
import tasks
from engine import DEADLINE
from gates import Gate, eventually

pytestmark = pytest.mark.better

MEGABYTE = 1 << 20
MOST = 14  # calls of a megabyte that are encoded while no worker takes any


class Large:
    """A megabyte when it is encoded. Counts that."""

    encoded: list[int] = []  # noqa: RUF012

    def __init__(self, number: int = 0) -> None:
        self.number = number

    def __reduce__(self) -> tuple[Any, ...]:
        Large.encoded.append(self.number)
        return _rebuilt, (self.number, bytes(MEGABYTE))

    def __call__(self, x: int) -> int:
        return self.number + x


def _rebuilt(number: int, _: bytes) -> Large:
    return Large(number)


def number_of(item: Large, add: int = 0) -> int:
    return item.number + add


@pytest.fixture
def busy(make_pool: Any, gate: Gate) -> Any:
    """A pool whose one worker waits at the gate."""
    Large.encoded = []
    pool = make_pool(1)
    pool.apply_async(gate.hold)
    gate.arrived()
    return pool


SUBMIT: dict[str, Callable[[Any, int], Any]] = {
    "apply_async": lambda pool, i: pool.apply_async(number_of, (Large(i),)),
    "keywords": lambda pool, i: pool.apply_async(number_of, (Large(i - 1),), {"add": 1}),
    "callable": lambda pool, i: pool.apply_async(Large(i), (0,)),
    "partial": lambda pool, i: pool.apply_async(functools.partial(number_of, Large(i))),
    "map_async": lambda pool, i: pool.map_async(number_of, [Large(i)]),
    "starmap_async": lambda pool, i: pool.starmap_async(number_of, [(Large(i),)]),
}


def value(result: Any) -> Any:
    found = result.get(DEADLINE)
    return found[0] if isinstance(found, list) else found


@pytest.mark.parametrize("how", SUBMIT)
def test_calls_that_wait_are_not_encoded(busy: Any, gate: Gate, how: str) -> None:
    results = [SUBMIT[how](busy, i) for i in range(50)]
    assert 1 <= len(Large.encoded) <= MOST
    gate.open()
    assert [value(result) for result in results] == list(range(50))
    assert len(Large.encoded) >= 50
    eventually(lambda: not any(t.name == "cpool-caller" for t in threading.enumerate()))


def test_calls_keep_their_order(busy: Any, gate: Gate) -> None:
    done: list[int] = []
    for i in range(20):
        busy.apply_async(number_of, (Large(i),), callback=done.append)
    for i in range(20, 30):
        busy.apply_async(tasks.identity, (i,), callback=done.append)
    gate.open()
    assert busy.apply(tasks.identity, (30,)) == 30
    eventually(lambda: len(done) == 30)
    assert done == list(range(30))


def test_close_and_join_wait_for_them(busy: Any, gate: Gate) -> None:
    results = [busy.apply_async(number_of, (Large(i),)) for i in range(30)]
    busy.close()
    gate.open()
    busy.join()
    assert [result.get(0) for result in results] == list(range(30))


def three(item: int) -> Iterator[int]:
    yield from range(item, item + 3)


@pytest.mark.parametrize("reads", [True, False])
def test_items_that_are_kept_are_done_after_close(busy: Any, gate: Gate, reads: bool) -> None:
    """Also those that are pulled from their source only after close()."""
    calls = [busy.apply_async(number_of, (Large(i),)) for i in range(20)]
    long = busy.map_async(tasks.square, range(5000), 1)
    large = busy.map_async(number_of, [Large(i) for i in range(20)], 1)
    items = busy.imap(number_of, (Large(i) for i in range(20)))
    values = busy.flatmap(three, iter([1, 5, 9])) if reads else None
    busy.close()
    gate.open()
    if values is not None:
        assert list(values) == [1, 2, 3, 5, 6, 7, 9, 10, 11]
    busy.join()
    assert [call.get(0) for call in calls] == large.get(0) == list(items) == list(range(20))
    assert long.get(0) == [x * x for x in range(5000)]


def test_terminate_fails_them(busy: Any) -> None:
    results = [busy.apply_async(number_of, (Large(i),)) for i in range(30)]
    busy.terminate()
    for result in results:
        with pytest.raises(engine.errors.PoolTerminated):
            result.get(DEADLINE)
    busy.join()
    assert len(Large.encoded) <= MOST
    eventually(lambda: not any(t.name == "cpool-caller" for t in threading.enumerate()))


def test_what_cannot_be_pickled_fails_alone(busy: Any, gate: Gate) -> None:
    first = [busy.apply_async(number_of, (Large(i),)) for i in range(20)]
    wrong = busy.apply_async(number_of, (threading.Lock(),))
    last = busy.apply_async(tasks.identity, (5,))
    gate.open()
    with pytest.raises(TypeError, match="pickle"):
        wrong.get(DEADLINE)
    assert last.get(DEADLINE) == 5
    assert [result.get(DEADLINE) for result in first] == list(range(20))


class Calls:
    """Its encoding calls the pool."""

    pool: Any = None

    def __reduce__(self) -> tuple[Any, ...]:
        return int, (Calls.pool.apply(tasks.identity, (7,)),)


def test_code_that_pickles_a_call_may_call_the_pool(
    busy: Any, gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Calls, "pool", busy)
    results = [busy.apply_async(number_of, (Large(i),)) for i in range(20)]
    nested = busy.apply_async(tasks.identity, (Calls(),))
    gate.open()
    assert nested.get(DEADLINE) == 7
    assert [result.get(DEADLINE) for result in results] == list(range(20))


def test_without_a_thread_they_are_encoded_at_once(
    busy: Any, gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any) -> NoReturn:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(type(busy), "_start_thread", refuse)
    results = [busy.apply_async(number_of, (Large(i),)) for i in range(20)]
    assert Large.encoded == list(range(20))
    gate.open()
    assert [result.get(DEADLINE) for result in results] == list(range(20))


def test_a_long_map_that_is_kept_is_fed_to_its_end(busy: Any, gate: Gate) -> None:
    calls = [busy.apply_async(number_of, (Large(i),)) for i in range(20)]
    long = busy.map_async(tasks.square, range(20000), 1)
    large = busy.map_async(number_of, [Large(i) for i in range(20)], 1)
    gate.open()
    assert long.get(DEADLINE) == [x * x for x in range(20000)]
    assert large.get(DEADLINE) == list(range(20))
    assert [result.get(DEADLINE) for result in calls] == list(range(20))


def test_a_callable_is_dropped_with_its_last_result(make_pool: Any) -> None:
    """Not with the result object, which a program may keep for long."""
    pool = make_pool(1)
    result = pool.apply_async(Large(3), (1,))
    assert result.get(DEADLINE) == 4
    resident = rss()
    results = [pool.apply_async(Large(i), (0,)) for i in range(150)]
    assert [r.get(DEADLINE) for r in results] == list(range(150))
    assert rss() - resident < 75 * MEGABYTE  # allocators keep some that is free


def rss() -> int:
    with open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * 4096
