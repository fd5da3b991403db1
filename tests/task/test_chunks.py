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


def hold_first_two(gate: Gate, number: int) -> int:
    return gate.hold(number) if number < 2 else number


@pytest.mark.better
@pytest.mark.parametrize("cls", [Pool, pool_module.ThreadPool])
@pytest.mark.parametrize("method", ["starmap", "starmap_async"])
def test_slow_neighbouring_items_run_at_the_same_time(
    make_pool: Any, gate: Gate, method: str, cls: Any
) -> None:
    """Without a chunksize. In the stdlib the first 8 of these 64 items are one chunk."""
    pool = make_pool(2, cls=cls)
    items = [(gate, number) for number in range(64)]
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
