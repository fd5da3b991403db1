"""What type checkers know about results: mypy checks this file (`make lint`), pytest runs it.

`assert_type` fails in mypy if the type differs, and an unused `type: ignore` fails if mypy misses a
mistake.
"""

from __future__ import annotations

import multiprocessing.pool
from collections.abc import Iterator
from typing import TYPE_CHECKING, assert_type

import pytest

import cpool.pool
from cpool import Pool
from cpool.pool import AsyncResult, MapResult

pytestmark = pytest.mark.better


def half(x: int) -> float:
    return x / 2


def ints(number: int) -> Iterator[int]:
    yield from range(number)


def label(x: int, text: str) -> str:
    return text * x


@pytest.fixture
def workers() -> Iterator[Pool]:
    with Pool(1) as pool:
        assert_type(pool, Pool)
        yield pool


def test_results_have_the_callables_type(workers: Pool) -> None:
    applied = assert_type(workers.apply(label, (2, "x")), str)
    mapped = assert_type(workers.map(half, [1]), list[float])
    starmapped = assert_type(workers.starmap(label, [(1, "x")], chunksize=1), list[str])
    items = assert_type(
        workers.imap(half, [1, 2], 1, buffersize=4), "cpool.pool.IMapIterator[float]"
    )
    unordered = assert_type(workers.imap_unordered(half, [1]), "cpool.pool.IMapIterator[float]")
    yielded = assert_type(workers.stream(ints, (2,)), "cpool.pool.ValueIterator[int]")
    assert (next(yielded), list(workers.flatmap(ints, [1, 2]))) == (0, [0, 0, 1])
    starred = assert_type(workers.istarmap(label, [(1, "x")]), "cpool.pool.IMapIterator[str]")
    limited = assert_type(workers.map(half, [1], task_timeout=60, retries=1), list[float])
    assert (limited, list(starred)) == ([0.5], ["x"])
    assert (applied, mapped, starmapped) == ("xx", [0.5], ["x"])
    assert (assert_type(items.next(timeout=10), float), assert_type(next(items), float)) == (0.5, 1)
    assert assert_type(list(unordered), list[float]) == [0.5]


def test_asynchronous_results_have_the_callables_type(workers: Pool) -> None:
    seen: list[object] = []
    applied = workers.apply_async(label, (2, "x"), callback=seen.append)
    mapped = workers.map_async(half, [1], error_callback=seen.append)
    starmapped = workers.starmap_async(label, [(1, "x")])
    assert_type(applied, AsyncResult[str])
    assert_type(mapped, MapResult[float])
    assert_type(starmapped, MapResult[str])
    assert_type(workers.apply_async(half, (1,), fail_fast=True).cancel(kill=False), bool)
    assert assert_type(applied.get(), str) == "xx"
    assert assert_type(mapped.get(timeout=10), list[float]) == [0.5]
    assert assert_type(starmapped.get(), list[str]) == ["x"]
    assert assert_type(applied.successful(), bool)
    assert seen == ["xx"]


def test_results_pass_for_the_stdlibs(workers: Pool) -> None:
    pool: multiprocessing.pool.Pool = workers
    result: multiprocessing.pool.AsyncResult[str] = workers.apply_async(label, (1, "x"))
    results: multiprocessing.pool.MapResult[float] = workers.map_async(half, [1])
    items: multiprocessing.pool.IMapIterator[float] = workers.imap(half, [1])
    named: cpool.AsyncResult[list[float]] = workers.map_async(half, [1])
    assert (pool.apply(half, (1,)), result.get(), next(items)) == (0.5, "x", 0.5)
    assert (named.get(), results.get()) == ([0.5], [0.5])


if TYPE_CHECKING:

    def mistakes_are_seen(pool: Pool) -> None:
        pool.map(half, ["1"])  # type: ignore[arg-type]
        pool.imap(label, [1])  # type: ignore[arg-type]
        pool.apply_async(half, (1,), callback=label)  # type: ignore[arg-type]
        pool.imap(half, [1], None)  # type: ignore[arg-type]
        pool.mapp(half, [1])  # type: ignore[attr-defined]
        pool.apply_async(half, (1,)).gett()  # type: ignore[attr-defined]
        number: int = pool.apply(half, (1,))  # type: ignore[assignment]
        assert_type(number, int)
