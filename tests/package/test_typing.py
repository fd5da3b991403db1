"""What type checkers know about results: mypy checks this file (`make lint`), pytest runs it.

`assert_type` fails in mypy if the type differs, and an unused `type: ignore` fails if mypy misses a
mistake.
"""

from __future__ import annotations

# ruff: noqa: F841
import concurrent.futures
import multiprocessing.pool
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, assert_type

import pytest

import cpool.pool
from cpool import Pool, ThreadPool, as_completed
from cpool.pool import AsyncResult, IMapIterator, MapResult

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


def test_exceptions_among_results_have_a_type(workers: Pool) -> None:
    """As in asyncio.gather(), the type of the results depends on `return_exceptions`."""
    mapped = workers.map(half, [1, 2], return_exceptions=True)
    assert_type(mapped, list[float | BaseException])
    assert [x for x in mapped if not isinstance(x, BaseException)] == [0.5, 1.0]
    assert_type(workers.map(half, [1], return_exceptions=False, retries=1), list[float])
    starmapped = workers.starmap(label, [(1, "x")], return_exceptions=bool(mapped))
    assert assert_type(starmapped, list[str | BaseException]) == ["x"]
    applied = workers.apply(label, (1, "x"), return_exceptions=True)
    assert assert_type(applied, str | BaseException) == "x"
    seen: list[float | BaseException] = []
    later = workers.apply_async(half, (1,), callback=seen.append, return_exceptions=True)
    assert_type(later, AsyncResult[float | BaseException])
    several = workers.map_async(half, [1], return_exceptions=True)
    assert_type(several, MapResult[float | BaseException])
    star_several = workers.starmap_async(label, [(1, "x")], return_exceptions=True)
    assert_type(star_several, MapResult[str | BaseException])
    items = workers.imap(half, [1], return_exceptions=True)
    assert_type(items, "IMapIterator[float | BaseException]")
    unordered = workers.imap_unordered(half, [1], return_exceptions=True)
    assert_type(unordered, "IMapIterator[float | BaseException]")
    starred = workers.istarmap(label, [(1, "x")], return_exceptions=True)
    assert_type(starred, "IMapIterator[str | BaseException]")
    spread = workers.broadcast(label, (1, "x"), return_exceptions=True)
    assert assert_type(spread, list[str | BaseException]) == ["x"]
    starred_too = workers.istarmap_unordered(label, [(1, "x")], return_exceptions=True)
    assert_type(starred_too, "IMapIterator[str | BaseException]")
    assert (later.get(), several.get(), star_several.get(), seen) == (0.5, [0.5], ["x"], [0.5])
    found = (list(items), list(unordered), list(starred), list(starred_too))
    assert found == ([0.5], [0.5], ["x"], ["x"])


def test_a_pool_with_options_has_the_same_types(workers: Pool) -> None:
    limited = workers.options(task_timeout=60, retries=1)
    assert_type(limited, Pool)
    assert assert_type(limited.map(half, [1]), list[float]) == [0.5]
    assert_type(workers.options(return_exceptions=True), Any)


def test_results_as_they_end_keep_their_type(workers: Pool) -> None:
    ended = as_completed([workers.apply_async(label, (2, "x"))])
    assert_type(ended, Iterator[AsyncResult[str]])
    assert [assert_type(result.get(), str) for result in ended] == ["xx"]


def test_a_thread_pool_has_the_same_types() -> None:
    with ThreadPool(1) as pool:
        assert_type(pool, ThreadPool)
        assert assert_type(pool.starmap(label, [(1, "x")]), list[str]) == ["x"]


def test_the_executors_futures_have_the_callables_type() -> None:
    with cpool.ThreadPoolExecutor(1) as executor:
        executors: concurrent.futures.Executor = executor
        future = executor.submit(label, 2, "x")
        assert assert_type(future.result(), str) == "xx"
        assert assert_type(list(executor.map(half, [1])), list[float]) == [0.5]
        assert executors.submit(half, 1).result() == 0.5


if TYPE_CHECKING:
    # ---- against typeshed's own stubs ----

    def methods_pass_for_the_stdlibs(ours: Pool, theirs: multiprocessing.pool.Pool) -> None:
        """What takes a method of the stdlib's pool takes cpool's."""
        apply, apply_async = theirs.apply, theirs.apply_async
        apply, apply_async = ours.apply, ours.apply_async
        map, map_async = theirs.map, theirs.map_async
        map, map_async = ours.map, ours.map_async
        starmap, starmap_async = theirs.starmap, theirs.starmap_async
        starmap, starmap_async = ours.starmap, ours.starmap_async
        # In typeshed chunksize may be None here, which the stdlib refuses (TypeError).
        imap, imap_unordered = theirs.imap, theirs.imap_unordered
        imap = ours.imap  # type: ignore[assignment]
        imap_unordered = ours.imap_unordered  # type: ignore[assignment]
        close, terminate, join = theirs.close, theirs.terminate, theirs.join
        close, terminate, join = ours.close, ours.terminate, ours.join

    def the_stdlibs_methods_pass_for_ours(ours: Pool, theirs: multiprocessing.pool.Pool) -> None:
        """The other way round: where cpool adds no parameter."""
        close, terminate = ours.close, ours.terminate
        close, terminate = theirs.close, theirs.terminate
        join = ours.join
        join = theirs.join  # type: ignore[assignment]  # has no timeout

    def results_pass_for_the_stdlibs_and_back(
        ours: AsyncResult[int], theirs: multiprocessing.pool.AsyncResult[int]
    ) -> None:
        get, wait, ready, successful = theirs.get, theirs.wait, theirs.ready, theirs.successful
        get, wait, ready, successful = ours.get, ours.wait, ours.ready, ours.successful
        get_, wait_, ready_, successful_ = ours.get, ours.wait, ours.ready, ours.successful
        get_, wait_ = theirs.get, theirs.wait
        ready_, successful_ = theirs.ready, theirs.successful

    def iterators_pass_for_the_stdlibs_and_back(
        ours: IMapIterator[int], theirs: multiprocessing.pool.IMapIterator[int]
    ) -> None:
        advance = theirs.next
        advance = ours.next
        advance_ = ours.next
        advance_ = theirs.next

    def the_same_calls_have_the_same_types(
        ours: Pool, theirs: multiprocessing.pool.Pool, either: Pool | multiprocessing.pool.Pool
    ) -> None:
        assert_type((ours.map(half, [1]), theirs.map(half, [1])), tuple[list[float], list[float]])
        assert_type(either.map(half, [1]), list[float])
        assert_type(either.starmap(label, [(1, "x")]), list[str])
        assert_type(either.apply(label, (1, "x")), str)
        assert_type(either.map_async(half, [1]).get(), list[float])
        assert_type(either.starmap_async(label, [(1, "x")]).get(), list[str])
        assert_type(either.apply_async(label, (1, "x")).get(1), str)
        assert_type(next(either.imap(half, [1])), float)
        assert_type(next(either.imap_unordered(half, [1])), float)

    # ---- mistakes ----

    def mistakes_are_seen(pool: Pool) -> None:
        pool.map(half, ["1"])  # type: ignore[arg-type]
        pool.imap(label, [1])  # type: ignore[arg-type]
        pool.apply_async(half, (1,), callback=label)  # type: ignore[arg-type]
        pool.imap(half, [1], None)  # type: ignore[call-overload]
        pool.mapp(half, [1])  # type: ignore[attr-defined]
        pool.apply_async(half, (1,)).gett()  # type: ignore[attr-defined]
        number: int = pool.apply(half, (1,))  # type: ignore[assignment]
        assert_type(number, int)
