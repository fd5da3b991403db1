"""When the last result of a job is taken, the pool holds no reference to the job any more.

Otherwise a thread of the pool would drop the last reference to an object of the program, and run
its `__del__` there.
"""

from __future__ import annotations

import contextlib
import gc
import sys
import threading
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import engine
import pytest
import tasks
from engine import DEADLINE
from gates import Gate, eventually

GIL = getattr(sys, "_is_gil_enabled", lambda: True)()


class Model:
    def one(self, _: Any) -> int:
        return 1

    def __getstate__(self) -> dict[str, Any]:
        return {}


def pulled(model: Model) -> Iterator[Model]:
    for _ in range(5):
        yield model


def pulled_then_fails(model: Model) -> Iterator[Model]:
    yield model
    raise LookupError(model)


def read(items: Iterator[Any]) -> None:
    with contextlib.suppress(LookupError):
        for _ in items:
            pass


CALLS: dict[str, Callable[[Any, Model], Any]] = {
    "apply": lambda pool, m: pool.apply(m.one, (m,)),
    "apply_async": lambda pool, m: pool.apply_async(m.one, (m,)).get(DEADLINE),
    "callback": lambda pool, m: pool.apply_async(m.one, (m,), callback=id).get(DEADLINE),
    "map": lambda pool, m: pool.map(m.one, [m] * 5),
    "map of an iterator": lambda pool, m: pool.map(m.one, pulled(m)),
    "map_async": lambda pool, m: pool.map_async(m.one, [m] * 5).get(DEADLINE),
    "map_async, callback": lambda pool, m: pool.map_async(m.one, [m], callback=id).get(DEADLINE),
    "imap": lambda pool, m: read(pool.imap(m.one, range(5))),
    "imap of an iterator": lambda pool, m: read(pool.imap(m.one, pulled(m))),
    "imap that fails": lambda pool, m: read(pool.imap(m.one, pulled_then_fails(m))),
    "imap, limit": lambda pool, m: read(pool.imap(m.one, pulled(m), buffersize=2)),
    "imap in chunks": lambda pool, m: read(pool.imap_unordered(m.one, pulled(m), 3)),
}


@pytest.mark.better
@pytest.mark.parametrize("cls", [engine.Pool, engine.pool_module.ThreadPool])
@pytest.mark.parametrize("call", CALLS)
def test_the_pool_holds_nothing_after_the_last_result(make_pool: Any, cls: Any, call: str) -> None:
    pool = make_pool(2, cls=cls)
    gc.disable()
    try:
        for _ in range(30):
            model = Model()
            last = weakref.ref(model)
            CALLS[call](pool, model)
            del model
            if not GIL:  # another thread may be about to drop what it has found ended
                eventually(lambda ref=last: ref() is None)
            assert last() is None
    finally:
        gc.enable()


@pytest.mark.better
@pytest.mark.parametrize("cls", [engine.Pool, engine.pool_module.ThreadPool])
@pytest.mark.parametrize("chunksize", [1, 3])
@pytest.mark.parametrize("method", ["imap", "imap_unordered"])
def test_an_iterator_that_is_dropped_ends_its_input(
    make_pool: Any, cls: Any, method: str, chunksize: int
) -> None:
    """With a buffer size, nothing could be pulled any more, but the job would last for ever."""
    pool = make_pool(2, cls=cls)
    closed = threading.Event()

    def endless() -> Iterator[int]:
        try:
            while True:
                yield 1
        finally:
            closed.set()

    items = getattr(pool, method)(tasks.identity, endless(), chunksize, buffersize=2)
    assert next(items) == 1
    half_read = getattr(pool, method)(tasks.identity, endless(), chunksize, buffersize=2)
    assert next(half_read) == 1
    del items
    # Not closed.wait(): without the GIL, a generator whose last reference another thread drops ends
    # in the thread that made the generator, at any of its steps. Within wait(), closed.set() would
    # wait for the lock that wait() holds.
    eventually(closed.is_set)
    assert next(half_read) == 1  # the other one goes on
    del half_read
    eventually(lambda: not pool._cache)
    eventually(lambda: not any(t.name == "cpool-feeder" for t in threading.enumerate()))
    pool.close()
    pool.join()


@pytest.mark.better
def test_items_that_were_pulled_run_although_the_iterator_is_dropped(
    make_pool: Any, gate: Gate
) -> None:
    pool = make_pool(2)
    taken: list[int] = []
    items = pool.imap(gate.hold, map(taken.append, range(100)), buffersize=3)
    eventually(lambda: len(taken) == 3)
    del items
    gate.open()
    pool.close()
    pool.join()
    assert len(gate.arrived(3)) == len(taken) == 3


@pytest.mark.better
def test_an_iterator_with_a_buffer_size_keeps_its_pool_until_all_is_run(
    make_pool: Any, gate: Gate
) -> None:
    pool = make_pool(1)
    items = pool.imap(gate.hold, range(2), buffersize=3)
    gate.arrived(1)
    assert items._job in pool._cache
    assert items._pool is pool
    gate.open()
    assert len([*items]) == 2
    assert items._pool is None
    assert not pool._cache
