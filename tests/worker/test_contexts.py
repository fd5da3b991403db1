"""`propagate_context=`: tasks run with the values of context variables where they are submitted."""

from __future__ import annotations

import asyncio
import contextvars
import decimal
import multiprocessing
from collections.abc import AsyncIterator, Iterator
from contextvars import ContextVar
from typing import Any

import engine
import pytest
import tasks
from engine import DEADLINE, Pool

pytestmark = pytest.mark.better

cpool = engine.errors
ThreadPool = engine.pool_module.ThreadPool

trace: ContextVar[Any] = ContextVar("trace", default="none")
tenant: ContextVar[Any] = ContextVar("tenant")


def read(_: Any = None) -> tuple[Any, Any]:
    return trace.get(), tenant.get("none")


def change(value: Any) -> Any:
    before = trace.get()
    trace.set(value)
    return before


def fail_here() -> None:
    raise KeyError(trace.get())


def values_seen(number: int) -> Iterator[Any]:
    """Yields the value that it finds, and changes it, `number` times."""
    for i in range(number):
        yield trace.get()
        trace.set((trace.get(), i))


async def values_seen_async(number: int) -> AsyncIterator[Any]:
    async def look() -> Any:
        await asyncio.sleep(0)
        return trace.get()

    for i in range(number):
        await asyncio.sleep(0)
        yield await asyncio.create_task(look())
        trace.set((trace.get(), i))


def read_in_a_pool() -> Any:
    """In a task: what the task of a pool of its own finds."""
    with Pool(1, propagate_context=[trace]) as pool:
        return pool.apply(read), list(pool.stream(values_seen, (1,)))


def precision() -> int:
    return decimal.getcontext().prec


@pytest.fixture(autouse=True)
def own_values() -> Any:
    tokens = [trace.set("outside"), tenant.set("outside")]
    yield
    tenant.reset(tokens[1])
    trace.reset(tokens[0])


METHODS = ["fork", "spawn", "forkserver", "threads", "serial"]


@pytest.fixture(params=METHODS)
def make(request: pytest.FixtureRequest, make_pool: Any) -> Any:
    def make(which: Any) -> Any:
        if request.param == "threads":
            return make_pool(2, cls=ThreadPool, propagate_context=which)
        if request.param == "serial":
            return make_pool(2, serial=True, propagate_context=which)
        context = multiprocessing.get_context(request.param)
        return make_pool(2, context=context, propagate_context=which)

    return make


def test_every_method_takes_them_along(make: Any) -> None:
    pool = make([trace, tenant])
    trace.set(1)
    tenant.set(2)
    assert pool.apply(read) == (1, 2)
    late = pool.apply_async(read)
    trace.set(3)
    assert late.get(DEADLINE) == (1, 2)
    assert pool.map(read, range(3)) == [(3, 2)] * 3
    assert pool.starmap_async(read, [(1,)]).get(DEADLINE) == [(3, 2)]
    assert list(pool.imap(read, range(3))) == [(3, 2)] * 3
    assert pool.options(return_exceptions=True).map(read, range(3), 2) == [(3, 2)] * 3


def test_what_a_task_sets_stays_there(make: Any) -> None:
    pool = make(True)
    assert [pool.apply(change, (n,)) for n in range(4)] == ["outside"] * 4
    assert trace.get() == "outside"


@pytest.mark.parametrize("func", [values_seen, values_seen_async])
def test_a_generator_keeps_its_values_from_one_yield_to_the_next(make: Any, func: Any) -> None:
    pool = make([trace])
    streams = []
    for name in "abc":
        trace.set(name)
        streams.append((name, pool.stream(func, (3,), buffersize=1)))
    trace.set("later")
    found = zip(*(values for _, values in streams), strict=True)  # one of each in turn
    expected = [("a", "b", "c")]
    for i in range(2):
        expected.append(tuple((value, i) for value in expected[-1]))  # type: ignore[arg-type]
    assert list(found) == expected
    assert trace.get() == "later"
    assert pool.apply(read)[0] == "later"
    assert list(pool.flatmap(func, [1, 1])) == ["later"] * 2


def test_each_coroutine_sends_its_own_values(make: Any) -> None:
    pool = make([trace])

    async def call(name: str) -> list[Any]:
        trace.set(name)
        await asyncio.sleep(0)
        first = (await pool.apply_async(read))[0]
        return [first, *[x async for x in pool.stream(values_seen, (2,))]]

    async def main() -> list[list[Any]]:
        return await asyncio.gather(*(call(name) for name in "abcdef"))

    found = asyncio.run(asyncio.wait_for(main(), DEADLINE))
    assert found == [[name, name, (name, 0)] for name in "abcdef"]
    assert trace.get() == "outside"


@pytest.mark.parametrize("kind", ["processes", "threads"])
def test_a_pool_in_a_task_takes_them_further(make_pool: Any, kind: str) -> None:
    options: dict[str, Any] = {"propagate_context": [trace, tenant]}
    options |= {"daemon": False} if kind == "processes" else {"cls": ThreadPool}
    pool = make_pool(1, **options)
    trace.set("here")
    found, yielded = pool.apply(read_in_a_pool)
    assert found[0] == "here"
    assert yielded == ["here"]


def test_a_variable_without_a_value_has_none_there(make_pool: Any) -> None:
    pool = make_pool(1, propagate_context=[tenant])  # forked while it had one
    fresh = contextvars.Context()
    assert fresh.run(pool.apply, read)[1] == "none"


def test_what_a_task_raises_names_the_function(make_pool: Any) -> None:
    pool = make_pool(1, propagate_context=True)
    with pytest.raises(KeyError, match="outside") as caught:
        pool.apply(fail_here)
    assert "Pool.apply(test_contexts.fail_here)" in str(caught.value.__cause__)
    with pytest.raises(KeyError):
        pool.apply(fail_here, retries=2, retry_on=KeyError)


def test_decimals_context_goes_along(make_pool: Any) -> None:
    pool = make_pool(1, propagate_context=True)
    with decimal.localcontext() as context:
        context.prec = 7
        assert pool.apply(precision) == 7
    assert pool.apply(precision) == decimal.getcontext().prec


def test_a_variable_that_no_worker_finds(make_pool: Any) -> None:
    loose: ContextVar[int] = ContextVar("loose")
    with pytest.raises(ValueError, match="'loose' cannot be sent"):
        Pool(1, propagate_context=loose)
    pool = make_pool(1, propagate_context=True)
    token = loose.set(1)
    with pytest.raises(ValueError, match="'loose' cannot be sent"):
        pool.apply_async(tasks.nothing)
    loose.reset(token)
    assert pool.apply(tasks.square, (2,)) == 4


def test_a_value_that_cannot_be_pickled(make_pool: Any) -> None:
    pool = make_pool(1, propagate_context=[trace])
    trace.set(lambda: 1)
    with pytest.raises(TypeError, match="'trace' cannot be sent"):
        pool.map(tasks.square, range(3))
    trace.set(1)
    assert pool.map(tasks.square, range(3)) == [0, 1, 4]


def test_threads_share_the_values(make_pool: Any) -> None:
    pool = make_pool(1, cls=ThreadPool, propagate_context=True)
    value = object()
    trace.set(value)
    assert pool.apply(read)[0] is value


@pytest.mark.parametrize("which", [3, [3], "trace"])
def test_what_is_no_context_variable_is_refused(which: Any) -> None:
    with pytest.raises(TypeError):
        Pool(1, propagate_context=which)


def test_without_it_threads_and_workers_have_their_own(make_pool: Any) -> None:
    assert make_pool(1, cls=ThreadPool).apply(read)[1] == "none"
