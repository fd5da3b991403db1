"""Callbacks and iterables that block, raise, or use their own pool."""

from __future__ import annotations

import itertools
import multiprocessing
import threading
from collections.abc import Callable, Iterator
from typing import Any

import engine
import pytest
import tasks
from checks import failure
from engine import DEADLINE
from gates import Gate

pytestmark = pytest.mark.better

errors = engine.errors


def works(pool: Any) -> None:
    called: list[int] = []
    results = pool.map_async(tasks.square, range(20), 1, callback=called.extend)
    assert results.get(DEADLINE) == called == [x * x for x in range(20)]


class Told:
    """A callback that waits until the test lets it begin, makes a call, and keeps the outcome."""

    def __init__(self, call: Callable[[], Any]) -> None:
        self.call = call
        self.called = threading.Event()
        self.begin = threading.Event()
        self.done = threading.Event()
        self.told: Any = None

    def __call__(self, _: Any) -> None:
        self.called.set()
        assert self.begin.wait(DEADLINE)
        try:
            self.told = self.call()
        except BaseException as error:
            self.told = error
        self.done.set()

    def get(self) -> Any:
        self.begin.set()
        assert self.done.wait(DEADLINE), "the callback hangs"
        return self.told


# Callbacks


@pytest.mark.parametrize("method", ["apply_async", "map_async", "starmap_async"])
@pytest.mark.parametrize("func", [tasks.nothing, tasks.fail])
@pytest.mark.parametrize("error", [LookupError("mine"), SystemExit(3), KeyboardInterrupt()])
def test_a_callback_that_raises_fails_only_its_job(
    make_pool: Any, method: str, func: Any, error: BaseException
) -> None:
    """gh-83371: in the stdlib the exception ends the thread that handles results."""

    def callback(_: Any) -> None:
        raise error

    pool = make_pool(2)
    args: Any = () if method == "apply_async" else [(), ()]
    bad = getattr(pool, method)(func, args, callback=callback, error_callback=callback)
    good = pool.apply_async(tasks.square, (3,), callback=id)
    assert failure(bad) is error
    assert good.get(DEADLINE) == 9
    works(pool)


@pytest.mark.parametrize("func", [tasks.nothing, tasks.fail])
def test_a_callback_may_terminate_and_join(make_pool: Any, func: Any) -> None:
    """gh-87129: a deadlock in the stdlib."""
    pool = make_pool(2)
    told = Told(lambda: (pool.terminate(), pool.join()))
    first = pool.apply_async(func, callback=told, error_callback=told)
    pool.map_async(tasks.square, range(100), 1)
    assert told.get() == (None, None)
    first.wait(DEADLINE)
    assert first.ready()
    assert not any(worker.is_alive() for worker in pool._pool)


def test_a_callback_cannot_wait_for_itself(make_pool: Any) -> None:
    """RuntimeError: the callback would wait for its own end."""
    pool = make_pool(1)
    waits: list[Callable[[], Any]] = [
        lambda: results[0].get(),
        lambda: results[2].wait(),
        lambda: results[2].get(),
        lambda: (pool.close(), pool.join()),
    ]
    told = [Told(wait) for wait in waits]
    results = [pool.apply_async(tasks.square, (x,), callback=told[x]) for x in range(4)]
    for callback in told:
        assert type(callback.get()) is RuntimeError
    assert [result.get(DEADLINE) for result in results] == [0, 1, 4, 9]
    pool.join()


def test_a_callback_cannot_wait_for_any_of_callbacks(make_pool: Any) -> None:
    """as_completed() ends with RuntimeError where all results that are left have callbacks."""
    pool = make_pool(1)
    found: list[Any] = []

    def wait() -> None:
        plain = pool.apply_async(tasks.square, (2,))
        others = [pool.apply_async(tasks.square, (3,), callback=id) for _ in range(2)]
        found.extend(errors.as_completed([], DEADLINE))
        for result in errors.as_completed([plain, *others]):
            found.append(result)

    told = Told(wait)
    result = pool.apply_async(tasks.nothing, callback=told)
    error = told.get()
    assert type(error) is RuntimeError and "callbacks" in str(error)
    assert [each.get(DEADLINE) for each in found] == [4]
    result.get(DEADLINE)
    timed = Told(
        lambda: list(errors.as_completed([pool.apply_async(abs, (1,), callback=id)], 0.01))
    )
    pool.apply_async(tasks.nothing, callback=timed)
    assert type(timed.get()) is multiprocessing.TimeoutError


def test_a_callback_may_wait_for_anything_else(make_pool: Any) -> None:
    pool = make_pool(1)
    told = Told(
        lambda: [
            other.get(),
            pool.apply(tasks.square, (3,)),
            pool.map(tasks.square, range(3)),
            list(pool.imap(tasks.square, range(3))),
            pool.apply_async(tasks.square, (4,)).get(),
        ]
    )
    pool.apply_async(tasks.nothing, callback=told)
    other = pool.apply_async(tasks.square, (2,))
    assert told.get() == [4, 9, [0, 1, 4], [0, 1, 4], 16]


def test_a_blocked_callback_does_not_delay_terminate(make_pool: Any) -> None:
    pool = make_pool(1)
    told = Told(lambda: None)
    result = pool.apply_async(tasks.square, (3,), callback=told)
    other = pool.apply_async(tasks.square, (4,))
    assert other.get(DEADLINE) == 16
    assert told.called.wait(DEADLINE)
    pool.terminate()
    pool.join(timeout=DEADLINE)
    result.wait(DEADLINE)
    assert result.ready()
    told.get()


def test_callbacks_run_one_after_another(make_pool: Any) -> None:
    """A blocked callback delays other jobs with callbacks, and no other jobs."""
    pool = make_pool(2)
    told = Told(lambda: None)
    first = pool.apply_async(tasks.square, (3,), callback=told)
    assert told.called.wait(DEADLINE)
    behind = pool.apply_async(tasks.square, (4,), callback=id)
    assert pool.map_async(tasks.square, range(9), 1).get(DEADLINE)[-1] == 64
    assert list(pool.imap(tasks.square, range(9))) == pool.map(tasks.square, range(9))
    assert not first.ready()
    assert not behind.ready()
    told.get()
    assert [first.get(DEADLINE), behind.get(DEADLINE)] == [9, 16]


def test_join_waits_for_a_callback_that_blocks(make_pool: Any) -> None:
    pool = make_pool(1)
    told = Told(lambda: "told")
    pool.apply_async(tasks.nothing, callback=told)
    pool.close()
    with pytest.raises(multiprocessing.TimeoutError):
        pool.join(timeout=0.05)
    told.begin.set()
    pool.join(timeout=DEADLINE)
    assert told.told == "told"


# Iterables


def given(items: Any, between: Callable[[], Any]) -> Iterator[Any]:
    for item in items:
        yield item
        between()


class Endless:
    """An endless iterable with a length."""

    def __len__(self) -> int:
        return 3

    def __iter__(self) -> Iterator[int]:
        return itertools.count()


class NoIterator:
    def __len__(self) -> int:
        return 3

    def __iter__(self) -> Any:
        raise LookupError("no iterator")


@pytest.mark.parametrize("chunksize", [1, 2])
def test_an_endless_iterable_with_a_length(make_pool: Any, chunksize: int) -> None:
    pool = make_pool(1)
    assert type(failure(pool.map_async(tasks.square, Endless(), chunksize))) is ValueError
    with pytest.raises(ValueError, match="more items than its length, 3"):
        pool.map(tasks.square, Endless(), chunksize)
    works(pool)


def test_an_iterable_whose_iter_raises(make_pool: Any) -> None:
    pool = make_pool(1)
    assert type(failure(pool.map_async(tasks.square, NoIterator()))) is LookupError
    with pytest.raises(LookupError, match="no iterator"):
        next(pool.imap(tasks.square, NoIterator()))
    works(pool)


@pytest.mark.parametrize("method", ["imap", "imap_unordered"])
@pytest.mark.parametrize("error", [LookupError("mine"), SystemExit(3), KeyboardInterrupt()])
def test_an_iterable_that_raises_fails_only_its_job(
    make_pool: Any, method: str, error: BaseException
) -> None:
    def fail() -> None:
        raise error

    pool = make_pool(1)
    results = getattr(pool, method)(tasks.square, given([3, 4], fail))
    assert results.next(DEADLINE) == 9
    with pytest.raises(type(error)) as caught:
        results.next(DEADLINE)
    assert caught.value is error
    works(pool)


@pytest.mark.parametrize("method", ["imap", "imap_unordered"])
def test_a_blocked_iterable_delays_no_other_job(make_pool: Any, method: str) -> None:
    pool = make_pool(1)
    go_on = threading.Event()
    results = getattr(pool, method)(tasks.square, given([3, 4], lambda: go_on.wait(DEADLINE)))
    try:
        assert results.next(DEADLINE) == 9
        with pytest.raises(multiprocessing.TimeoutError):
            results.next(0.01)
        works(pool)
        pool.close()
        with pytest.raises(multiprocessing.TimeoutError):
            pool.join(timeout=0.05)
        pool.terminate()
        pool.join(timeout=DEADLINE)
        with pytest.raises(errors.PoolTerminated):
            results.next(DEADLINE)
    finally:
        go_on.set()


@pytest.mark.parametrize("sized", [False, True])
@pytest.mark.parametrize(
    ("turn", "outcome"),
    [
        ("map", [9, 16]),
        ("close", [9, 16]),
        ("terminate", "PoolTerminated"),
    ],
)
def test_an_iterable_that_uses_its_pool(
    make_pool: Any, turn: str, outcome: Any, sized: bool
) -> None:
    pool = make_pool(1)
    turns = {
        "map": lambda: pool.map(tasks.square, range(50), 1),
        "close": pool.close,
        "terminate": pool.terminate,
    }
    items = given([3, 4], turns[turn])
    try:
        if sized:
            found = pool.map(tasks.square, Sized(items), 1)
        else:
            found = list(pool.imap(tasks.square, items))
    except errors.PoolError as error:
        found = type(error).__name__
    assert found == outcome


class Sized:
    def __init__(self, items: Iterator[Any]) -> None:
        self.items = items

    def __len__(self) -> int:
        return 2

    def __iter__(self) -> Iterator[Any]:
        return self.items


def test_an_iterable_cannot_join_its_pool(make_pool: Any) -> None:
    """RuntimeError: the pool cannot end before the iterable."""
    pool = make_pool(1)
    results = pool.imap(tasks.square, given([3], lambda: (pool.close(), pool.join())))
    assert results.next(DEADLINE) == 9
    with pytest.raises(RuntimeError, match="cannot join"):
        results.next(DEADLINE)


@pytest.mark.parametrize("method", ["map", "map_async", "starmap"])
def test_an_iterable_that_ends_its_pool(make_pool: Any, method: str) -> None:
    """The call is refused: its items are read before it begins."""
    pool = make_pool(1)
    items = given([(3,)], lambda: (pool.close(), pool.join()))
    with pytest.raises(ValueError, match="not running"):
        getattr(pool, method)(tasks.square, items)


def test_results_of_one_call_may_be_the_items_of_the_next(make_pool: Any) -> None:
    pool = make_pool(1)
    once = pool.imap(tasks.add, range(300))
    twice = pool.imap(tasks.add, once)
    assert sum(pool.imap_unordered(tasks.add, twice, 7)) == sum(range(30, 330))


def test_an_exception_raised_in_the_middle_of_a_loop_over_results(
    make_pool: Any, gate: Gate
) -> None:
    """Results read so far stay. The rest goes on until terminate() drops it."""
    pool = make_pool(1)
    with pytest.raises(LookupError, match="enough"), pool:
        for value in pool.imap(tasks.first_then_hold, [(gate, 0), (gate, 1)]):
            gate.arrived()
            raise LookupError("enough", value)
    pool.join(timeout=DEADLINE)
