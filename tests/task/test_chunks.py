"""How map and starmap cut items into tasks: by chunksize, or by how long the items take."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from typing import Any

import pytest
import tasks
from engine import DEADLINE, Pool, pool_module
from gates import Gate, eventually


@pytest.mark.parametrize("count", [0, 1, 7, 8, 9, 63, 64, 65, 1000, 20_011])
@pytest.mark.parametrize("chunksize", [None, 1, 2, 1000])
def test_every_result_is_in_its_place(pool: Any, count: int, chunksize: int | None) -> None:
    squares = [x * x for x in range(count)]
    pairs = [(x, x) for x in range(count)]
    sums = [x + x for x in range(count)]
    assert pool.map(tasks.square, range(count), chunksize) == squares
    assert pool.map_async(tasks.square, range(count), chunksize).get(DEADLINE) == squares
    assert pool.starmap(tasks.add, pairs, chunksize) == sums
    assert pool.starmap_async(tasks.add, iter(pairs), chunksize).get(DEADLINE) == sums


the_gate: Gate


def use_gate(gate: Gate) -> None:
    global the_gate
    the_gate = gate


def hold_first_two(item: Any, number: int) -> int:
    return the_gate.hold(number) if number < 2 else number


@pytest.mark.better
@pytest.mark.parametrize("cls", [Pool, pool_module.ThreadPool])
@pytest.mark.parametrize("method", ["starmap", "starmap_async"])
@pytest.mark.parametrize("make", [int, str, lambda number: [number], lambda number: {"a": number}])
def test_slow_neighbouring_items_run_at_the_same_time(
    make_pool: Any, gate: Gate, method: str, cls: Any, make: Callable[[int], Any]
) -> None:
    """Without a chunksize. In the stdlib the first 8 of these 64 items are one chunk."""
    pool = make_pool(2, use_gate, (gate,), cls=cls)
    items = [(make(number), number) for number in range(64)]
    found: list[Any] = []

    def call() -> None:
        result = getattr(pool, method)(hold_first_two, items)
        found.extend(result if method == "starmap" else result.get(DEADLINE))

    thread = threading.Thread(target=call)
    thread.start()
    assert len(set(gate.arrived(2))) == (2 if cls is Pool else 1)
    gate.open()
    thread.join(DEADLINE)
    assert found == list(range(64))


@pytest.mark.better
@pytest.mark.parametrize("method", ["map", "map_async"])
def test_a_thread_has_64_chunks(make_pool: Any, method: str) -> None:
    """Items behind a failure in the same chunk do not run."""
    pool = make_pool(2, cls=pool_module.ThreadPool)
    done: list[int] = []

    def task(number: int) -> None:
        if number == 0:
            raise ValueError(number)
        done.append(number)

    with pytest.raises(ValueError):
        result = getattr(pool, method)(task, range(2 * 64 * 10))
        result.get(DEADLINE)
    assert sorted(done) == list(range(10, 2 * 64 * 10))


def test_an_explicit_chunksize_is_exact(make_pool: Any) -> None:
    """Each worker runs one task."""
    pids = make_pool(1, maxtasksperchild=1).map(tasks.pid, range(10), 4)
    assert [pids.count(pid) for pid in dict.fromkeys(pids)] == [4, 4, 2]


def test_maxtasksperchild_counts_the_stdlibs_chunks(make_pool: Any) -> None:
    """Four chunks per worker, without a chunksize."""
    pids = make_pool(1, maxtasksperchild=1).map(tasks.pid, range(10))
    assert [pids.count(pid) for pid in dict.fromkeys(pids)] == [3, 3, 3, 1]


class Counter:
    """Counts the calls since it was unpickled."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, _: object) -> int:
        self.calls += 1
        return self.calls


@pytest.mark.parametrize("method", ["map", "map_async"])
def test_a_callable_with_state_is_sent_once_per_chunk(make_pool: Any, method: str) -> None:
    result = getattr(make_pool(2), method)(Counter(), range(32))
    assert (result if method == "map" else result.get(DEADLINE)) == [1, 2, 3, 4] * 8


class Counted:
    """Counts how often it is pickled, and how often a task saw it."""

    pickled = 0

    def __init__(self) -> None:
        self.seen = 0
        self.me = self

    def __getstate__(self) -> dict[str, Any]:
        Counted.pickled += 1
        return self.__dict__


class Holder:
    def __init__(self, held: Any) -> None:
        self.held = held


def mark(item: Any) -> int:
    """How many tasks have seen the object that the items share."""
    while not isinstance(item, Counted):
        if isinstance(item, dict) and "seen" in item:
            item["seen"] += 1
            seen: int = item["seen"]
            return seen
        item = item[0] if isinstance(item, (list, tuple)) else item.held
    item.seen += 1
    return item.seen


def mark_two(item: Any, _: object) -> int:
    return mark(item)


SHARED: dict[str, Callable[[], Any]] = {
    "instances": Counted,
    "an attribute": lambda: Holder(Counted()),
    "dicts": lambda: {"seen": 0},
    "in a list": lambda: [{"seen": 0}],
    "in a tuple": lambda: ({"seen": 0}, 1),
}


@pytest.mark.parametrize("kind", SHARED)
@pytest.mark.parametrize("method", ["map", "map_async", "starmap", "starmap_async"])
@pytest.mark.parametrize("from_generator", [False, True])
def test_items_that_share_an_object_are_in_the_stdlibs_chunks(
    make_pool: Any, method: str, kind: str, from_generator: bool
) -> None:
    """A task sees what the tasks before it in the chunk did to the object."""
    star = method.startswith("starmap")
    shared = SHARED[kind]()
    for _ in range(2):
        items = [(shared, i) if star else shared for i in range(61)]
        source = iter(items) if from_generator else items
        result = getattr(make_pool(2), method)(mark_two if star else mark, source)
        found = result.get(DEADLINE) if method.endswith("async") else result
        assert found == [i % 8 + 1 for i in range(61)]


@pytest.mark.parametrize("method", ["map", "map_async"])
def test_items_that_begin_to_share_an_object_are_in_the_stdlibs_chunks(
    make_pool: Any, method: str
) -> None:
    """The chunks count from the first item, wherever sharing begins."""
    pool = make_pool(2)
    for first in (1, 13, 16, 40, 63):
        shared = {"seen": 0}
        items = [{"seen": 0} if i < first else shared for i in range(64)]
        result = getattr(pool, method)(mark, items)
        found = result.get(DEADLINE) if method.endswith("async") else result
        assert found[:first] == [1] * first
        assert found[first:] == [i + 1 - max(i // 8 * 8, first) for i in range(first, 64)]


@pytest.mark.parametrize("method", ["map", "map_async"])
def test_an_object_that_items_share_is_pickled_once_per_chunk(make_pool: Any, method: str) -> None:
    pool = make_pool(2)
    Counted.pickled = 0
    result = getattr(pool, method)(mark, [Counted()] * 400)
    assert len(result if method == "map" else result.get(DEADLINE)) == 400
    assert Counted.pickled == 8


def give_back(item: Any) -> Any:
    return item


LONG = [
    "x" * 100_000,
    b"x" * 100_000,
    ("x" * 100_000, 1),
    tuple(range(1000)),
    {"a": "x" * 100_000},
]


@pytest.mark.parametrize("method", ["map", "map_async"])
@pytest.mark.parametrize("long", LONG, ids=[str(i) for i in range(len(LONG))])
def test_a_long_object_that_items_share_is_sent_once_per_chunk(
    make_pool: Any, method: str, long: Any
) -> None:
    """Each chunk comes back with an object of its own."""
    result = getattr(make_pool(2), method)(give_back, [long] * 80)
    found = result if method == "map" else result.get(DEADLINE)
    assert found == [long] * 80
    assert len(set(map(id, found))) == 8


the_result = {"a": [1]}


def give_shared(_: object) -> dict[str, Any]:
    return the_result


@pytest.mark.parametrize("method", ["map", "map_async"])
def test_results_that_share_an_object_come_in_the_stdlibs_chunks(
    make_pool: Any, method: str
) -> None:
    """Before it is known what results are, each worker may get an item of its own."""
    pool = make_pool(2)
    for most in (10, 8):
        result = getattr(pool, method)(give_shared, range(80))
        found = result if method == "map" else result.get(DEADLINE)
        assert found == [{"a": [1]}] * 80
        assert len(set(map(id, found))) <= most


def test_progress_is_reported_in_the_stdlibs_chunks(make_pool: Any, gate: Gate) -> None:
    result = make_pool(1).map_async(gate.hold, range(20))
    assert (result._chunksize, result._number_left) == (5, 4)
    gate.arrived(1)
    seen = {result._number_left}
    gate.open()
    eventually(lambda: seen.add(result._number_left) or result.ready())
    assert result._number_left == 0
    assert seen <= {4, 3, 2, 1, 0}


def backwards(batch: tuple[Callable[[Any], Any], Iterable[Any]]) -> list[Any]:
    func, items = batch
    return [-func(item) for item in items]


@pytest.mark.parametrize("chunksize", [None, 1, 2, 7])
def test_a_custom_mapper(pool: Any, chunksize: int | None) -> None:
    """Recipes that add a kind of map to the pool pass a mapper."""
    result = pool._map_async(tasks.square, range(9), backwards, chunksize)
    assert result.get(DEADLINE) == [-x * x for x in range(9)]


def fail_at_three(number: int) -> int:
    if number == 3:
        raise LookupError(number)
    return number


@pytest.mark.parametrize("chunksize", [None, 1, 4])
def test_one_failure_fails_the_whole_map(pool: Any, chunksize: int | None) -> None:
    with pytest.raises(LookupError, match="3"):
        pool.map(fail_at_three, range(100), chunksize)
    result = pool.map_async(fail_at_three, range(100), chunksize)
    with pytest.raises(LookupError, match="3"):
        result.get(DEADLINE)
    assert result._number_left == 0
