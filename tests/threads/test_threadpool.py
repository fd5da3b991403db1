"""ThreadPool: the same pool with threads for workers, and nothing pickled."""

from __future__ import annotations

import itertools
import multiprocessing.dummy
import operator
import pickle
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

import engine
import pytest
from engine import DEADLINE, pool_module
from gates import eventually
from tasks import identity

ThreadPool: Any = pool_module.ThreadPool


class Thing:
    """An object that cannot be pickled and equals no other object."""

    def __reduce__(self) -> Any:
        raise AssertionError("somebody pickles it")


def both(*args: Any, **kwds: Any) -> Any:
    return args, kwds


def fail_with(error: BaseException) -> None:
    raise error


def add(x: int, y: int) -> int:
    return x + y


# Objects pass as they are


def test_arguments_and_results_are_the_same_objects(crew: Any) -> None:
    things = [Thing() for _ in range(10)]

    def same(got: Any) -> bool:
        return [id(thing) for thing in got] == [id(thing) for thing in things]

    assert crew.apply(identity, (things[0],)) is things[0]
    assert crew.apply_async(identity, (things[0],)).get(DEADLINE) is things[0]
    for chunksize in None, 1, 3, 100:
        assert same(crew.map(identity, things, chunksize))
        assert same(crew.map_async(identity, things, chunksize).get(DEADLINE))
        assert same(crew.starmap(identity, zip(things), chunksize))
        assert same(crew.starmap_async(identity, zip(things), chunksize).get(DEADLINE))
    for chunksize in 1, 3, 100:
        assert same(crew.imap(identity, iter(things), chunksize))
        unordered = crew.imap_unordered(identity, things, chunksize)
        assert sorted(map(id, unordered)) == sorted(map(id, things))


def test_keywords_are_the_same_objects(crew: Any) -> None:
    args, kwds = (Thing(), Thing()), {"a": Thing()}
    got_args, got_kwds = crew.apply(both, args, kwds)
    assert (got_args[1], got_kwds["a"]) == (args[1], kwds["a"])
    assert crew.apply(both, [1], {}) == ((1,), {})
    assert crew.apply(both, iter([1, 2]), {"a": 3}) == ((1, 2), {"a": 3})


def test_anything_can_be_called(crew: Any) -> None:
    numbers = list(range(100))  # without the GIL itertools.count() may repeat a number
    assert crew.map(lambda x: x + 1, range(5)) == [1, 2, 3, 4, 5]
    assert sorted(crew.imap_unordered(lambda _: numbers.pop(), range(100))) == list(range(100))
    assert crew.map([5, 6].__getitem__, [1, 0]) == [6, 5]
    assert crew.map(abs, (-1, -2), 1) == [1, 2]
    lock = threading.Lock()
    assert crew.apply(lock.acquire) is True


@pytest.mark.parametrize("kind", [ValueError, RecursionError])
def test_exceptions_are_the_same_objects(crew: Any, kind: type[Exception]) -> None:
    error = kind("x", Thing())
    for call in (
        lambda: crew.apply(fail_with, (error,)),
        lambda: crew.apply_async(fail_with, (error,)).get(DEADLINE),
        lambda: crew.map(fail_with, [error]),
        lambda: crew.map_async(fail_with, [error, error], 2).get(DEADLINE),
    ):
        with pytest.raises(kind) as caught:
            call()
        assert caught.value is error
        assert caught.value.__cause__ is None
        frames = [entry.name for entry in caught.traceback]
        assert "fail_with" in frames


def test_an_iterator_raises_the_same_object_and_goes_on(crew: Any) -> None:
    error = ValueError(Thing())
    items = crew.imap(lambda x: fail_with(error) if x == 1 else x, range(3))
    assert next(items) == 0
    with pytest.raises(ValueError) as caught:
        next(items)
    assert caught.value is error
    assert list(items) == [2]


def test_the_cause_is_the_one_that_the_task_set(crew: Any) -> None:
    cause = KeyError("why")

    def task() -> None:
        raise ValueError("what") from cause

    result = crew.apply_async(task)
    for _ in range(2):
        with pytest.raises(ValueError, match="what") as caught:
            result.get(DEADLINE)
        assert caught.value.__cause__ is cause
    assert result.successful() is False
    assert result._value is caught.value


def test_the_first_failure_is_raised_once_all_is_done(crew: Any) -> None:
    done = []

    def task(x: int) -> None:
        if x == 0:
            raise ValueError(x)
        done.append(x)

    with pytest.raises(ValueError):
        crew.map(task, range(6), 1)
    assert sorted(done) == [1, 2, 3, 4, 5]
    done.clear()
    with pytest.raises(ValueError):  # items behind the failure in the same chunk do not run
        crew.map(task, range(6), 3)
    assert sorted(done) == [3, 4, 5]


# Methods


def test_map_in_any_chunks(crew: Any) -> None:
    for n in 0, 1, 2, 7, 100, 20_000:
        expected = list(range(1, n + 1))
        for chunksize in None, 1, 3, n or 1, n + 1:
            assert crew.map(lambda x: x + 1, range(n), chunksize) == expected
    assert crew.map(identity, [1, 2, 3], 0) == [None] * 3
    assert crew.starmap(add, ([x, 1] for x in range(50))) == list(range(1, 51))


def test_starmap_takes_any_iterables(crew: Any) -> None:
    assert crew.starmap(add, [(1, 2), [3, 4], iter((5, 6)), {7: 0, 8: 0}], 2) == [3, 7, 11, 15]
    with pytest.raises(TypeError, match="'int' object is not iterable"):
        crew.starmap(add, [1])


def test_imap_is_lazy_and_eager(crew: Any) -> None:
    """imap reads an infinite iterable only as far as needed, and runs items that nobody reads."""
    pulled = itertools.count()
    items = crew.imap(identity, pulled)
    assert [next(items) for _ in range(1000)] == list(range(1000))
    crew.terminate()
    ran = threading.Event()
    with ThreadPool(1) as other:
        other.imap(lambda _: ran.set(), [1])
        assert ran.wait(DEADLINE)


def test_an_iterable_that_raises(crew: Any) -> None:
    error = ValueError(Thing())

    def items() -> Iterator[int]:
        yield 1
        yield 2
        raise error

    for method in crew.map, crew.map_async, crew.starmap:
        with pytest.raises(ValueError) as caught:
            method(identity, items())
        assert caught.value is error
    found = crew.imap(identity, items())
    assert [next(found), next(found)] == [1, 2]
    with pytest.raises(ValueError) as caught:
        next(found)
    assert caught.value is error
    with pytest.raises(StopIteration):
        next(found)


@pytest.mark.better
def test_a_wrong_length_fails_the_job(crew: Any) -> None:
    class Wrong(list):  # type: ignore[type-arg]
        def __len__(self) -> int:
            return 4

    for items in Wrong([1, 2]), Wrong(range(9)):
        with pytest.raises(ValueError, match="items than its length, 4"):
            crew.map(identity, items)


@pytest.mark.better
def test_buffersize_bounds_the_unread_items(crew: Any) -> None:
    pulled = 0

    def items() -> Iterator[int]:
        nonlocal pulled
        while pulled < 200:
            pulled += 1
            yield pulled

    for number, item in enumerate(crew.imap(identity, items(), buffersize=5), 1):
        assert item == number
        assert pulled <= number + 5


def test_timeouts(crew: Any) -> None:
    opened = threading.Event()
    result = crew.apply_async(opened.wait, (DEADLINE,))
    items = crew.imap(opened.wait, [DEADLINE])
    with pytest.raises(multiprocessing.TimeoutError):
        result.get(0.001)
    with pytest.raises(multiprocessing.TimeoutError):
        items.next(0.001)
    with pytest.raises(ValueError, match="not ready"):
        result.successful()
    assert not result.ready()
    opened.set()
    assert result.get(DEADLINE) is items.next(DEADLINE) is True


def test_callbacks(crew: Any) -> None:
    thing, error, seen = Thing(), ValueError(), []

    def note(value: Any) -> None:
        seen.append((value, threading.current_thread()))

    assert crew.apply_async(identity, (thing,), callback=note).get(DEADLINE) is thing
    failed = crew.apply_async(fail_with, (error,), error_callback=note)
    failed.wait(DEADLINE)
    assert not failed.successful()
    crew.map_async(identity, [1, thing], callback=note).wait(DEADLINE)
    assert [value for value, _ in seen] == [thing, error, [1, thing]]
    threads = {thread for _, thread in seen}
    assert len(threads) == 1
    assert not threads & {threading.main_thread(), *crew._pool}


@pytest.mark.better
def test_an_exception_in_a_callback_is_the_result(crew: Any) -> None:
    error = KeyError(Thing())
    result = crew.apply_async(identity, (1,), callback=lambda _: fail_with(error))
    with pytest.raises(KeyError) as caught:
        result.get(DEADLINE)
    assert caught.value is error
    assert crew.apply(identity, (2,)) == 2


# Workers


def test_workers_are_the_threads_of_the_stdlib(make_pool: Any) -> None:
    pool = make_pool(3, cls=ThreadPool)
    assert len(pool._pool) == pool._processes == 3
    for thread in pool._pool:
        assert type(thread) is multiprocessing.dummy.DummyProcess
        assert thread.daemon
        assert thread.is_alive()
        assert thread.exitcode is None
        number = thread.name.removeprefix("Thread-").removesuffix(" (worker)")
        assert thread.name == f"Thread-{int(number)} (worker)"
        assert thread in multiprocessing.dummy.active_children()
    pool.close()
    pool.join()
    assert [thread.exitcode for thread in pool._pool] == [0, 0, 0]


def test_as_many_tasks_at_once_as_there_are_workers(make_pool: Any) -> None:
    pool = make_pool(4, cls=ThreadPool)
    barrier = threading.Barrier(4)
    names = pool.map(
        lambda _: barrier.wait(DEADLINE) >= 0 and threading.current_thread().name, range(4), 1
    )
    assert sorted(names) == sorted(thread.name for thread in pool._pool)
    results = [pool.apply_async(barrier.wait, (DEADLINE,)) for _ in range(4)]
    assert sorted(result.get(DEADLINE) for result in results) == [0, 1, 2, 3]


def test_each_worker_is_initialised(make_pool: Any) -> None:
    local, thing = threading.local(), Thing()
    barrier = threading.Barrier(3)

    def initialise(given: Any) -> None:
        local.thing = given

    def task(_: int) -> Any:
        barrier.wait(DEADLINE)
        return local.thing

    pool = make_pool(3, initialise, (thing,), cls=ThreadPool)
    assert pool.map(task, range(3), 1) == [thing] * 3
    assert (pool._initializer, pool._initargs) == (initialise, (thing,))


def test_initializers_have_run_when_the_pool_has_ended() -> None:
    ran = []
    pool = ThreadPool(3, lambda: ran.append(threading.current_thread()))
    pool.close()
    pool.join()
    assert len(set(ran)) == 3


@pytest.mark.better
@pytest.mark.parametrize("kind", [SystemExit, KeyboardInterrupt, GeneratorExit, BaseException])
def test_no_exception_ends_a_worker(crew: Any, kind: type[BaseException]) -> None:
    """In the stdlib the thread ends, is not replaced, and the caller waits for ever."""
    workers = list(crew._pool)
    error = kind("x")
    for call in (
        lambda: crew.apply(fail_with, (error,)),
        lambda: crew.map(fail_with, [error] * 10, 1),
        lambda: next(crew.imap(fail_with, [error] * 10, 2)),
    ):
        with pytest.raises(kind) as caught:
            call()
        assert caught.value is error
    assert crew.map(identity, range(100), 1) == list(range(100))
    assert crew._pool == workers
    assert all(thread.is_alive() for thread in workers)


def test_a_task_may_use_its_own_pool(crew: Any) -> None:
    def task(n: int) -> Any:
        return crew.apply_async(add, (n, 1))

    results = crew.map(task, range(20), 1)
    assert [result.get(DEADLINE) for result in results] == list(range(1, 21))
    assert crew.apply(lambda: crew.map(identity, range(10), 1)) == list(range(10))


def test_a_pool_may_grow(make_pool: Any) -> None:
    pool = make_pool(1, cls=ThreadPool)
    pool._processes = 3
    pool._repopulate_pool()
    assert len(pool._pool) == 3
    barrier = threading.Barrier(3)
    assert sorted(pool.map(lambda _: barrier.wait(DEADLINE), range(3), 1)) == [0, 1, 2]


# One pool in many threads


def test_many_threads_share_a_pool(crew: Any, in_threads: Any) -> None:
    def use(number: int) -> bool:
        for _ in range(20):
            assert crew.map(identity, range(number), 1) == list(range(number))
            assert crew.apply(add, (number, 1)) == number + 1
            assert list(crew.imap(identity, range(number))) == list(range(number))
            result = crew.apply_async(identity, (number,), callback=id)
            assert result.get(DEADLINE) == number
        return True

    assert all(in_threads(use, range(1, 9)))


@pytest.mark.better
def test_many_threads_share_an_iterator_and_a_result(crew: Any, in_threads: Any) -> None:
    items = crew.imap(identity, iter(range(2000)))
    found = in_threads(lambda _: list(items), range(4))
    assert sorted(itertools.chain(*found)) == list(range(2000))
    thing = Thing()
    result = crew.apply_async(identity, (thing,))
    assert in_threads(lambda _: result.get(DEADLINE), range(4)) == [thing] * 4


@pytest.mark.timeout(3 * DEADLINE, method="signal")
def test_a_task_in_c_lets_the_other_threads_run(make_pool: Any) -> None:
    """Functions in C never reach the point where Python switches threads."""
    pool = make_pool(1, cls=ThreadPool)
    # Existing numbers: making new ones is slow in builds where each comes from malloc().
    result = pool.map_async(sum, [[1] * 40_000] * 3000, 1)
    turns = 0
    while not result.ready():
        turns += 1
        time.sleep(0.001)
    assert turns > 10


# Messages


def test_messages() -> None:
    for processes, error, text in (
        (0, ValueError, "Number of processes must be at least 1"),
        (-1, ValueError, "Number of processes must be at least 1"),
        (1.5, TypeError, "'float' object cannot be interpreted as an integer"),
        ("a", TypeError, "'<' not supported between instances of 'str' and 'int'"),
    ):
        with pytest.raises(error) as caught:
            ThreadPool(processes)
        assert str(caught.value) == text
    with pytest.raises(TypeError) as caught:
        ThreadPool(1, initializer=1)
    assert str(caught.value) == "initializer must be a callable"


@pytest.mark.better  # the stdlib's pool complains about an attribute as well
def test_there_is_no_maxtasksperchild() -> None:
    with pytest.raises(TypeError) as caught:
        ThreadPool(1, maxtasksperchild=1)
    assert str(caught.value) == (
        "ThreadPool.__init__() got an unexpected keyword argument 'maxtasksperchild'"
    )


def test_states_and_their_messages(make_pool: Any) -> None:
    pool = make_pool(2, cls=ThreadPool)
    name = f"{pool_module.__name__}.ThreadPool"
    assert repr(pool) == f"<{name} state=RUN pool_size=2>"
    with pytest.raises(ValueError, match="Pool is still running"):
        pool.join()
    with pytest.raises(NotImplementedError) as caught:
        pickle.dumps(pool)
    assert str(caught.value) == ("pool objects cannot be passed between processes or pickled")
    pool.close()
    assert pool._state == "CLOSE"
    for call in (
        lambda: pool.map(identity, [1]),
        lambda: pool.imap(identity, [1]),
        lambda: pool.apply_async(identity, (1,)),
        pool.__enter__,
    ):
        with pytest.raises(ValueError, match="Pool not running"):
            call()
    pool.join()
    pool.join()
    pool.terminate()
    assert repr(pool) == f"<{name} state=TERMINATE pool_size=2>"


def test_private_attributes(crew: Any) -> None:
    result = crew.apply_async(identity, (1,))
    assert result.get(DEADLINE) == 1
    assert result._success
    eventually(lambda: result._pool is None)
    assert crew._ctx.Manager
    assert crew._maxtasksperchild is None
    assert isinstance(crew._cache, dict) or len(crew._cache) == 0
    assert crew._taskqueue.qsize() == 0
    assert isinstance(crew, pool_module.Pool)
    crew.anything = 1
    mapped = crew.map_async(identity, range(10), 3)
    mapped.wait(DEADLINE)
    assert (mapped._number_left, mapped._chunksize) == (0, 3)


def test_the_recipe_of_istarmap(crew: Any) -> None:
    def istarmap(self: Any, func: Any, iterable: Any, chunksize: int = 1) -> Any:
        self._check_running()
        batches = pool_module.Pool._get_tasks(func, iterable, chunksize)
        result = pool_module.IMapIterator(self)
        self._taskqueue.put(
            (
                self._guarded_task_generation(result._job, pool_module.starmapstar, batches),
                result._set_length,
            )
        )
        return (item for chunk in result for item in chunk)

    thing = Thing()
    pairs = [(x, thing) for x in range(10)]
    for chunksize in 1, 4:
        assert list(istarmap(crew, both, pairs, chunksize)) == [(pair, {}) for pair in pairs]


def test_a_custom_mapper(crew: Any) -> None:
    def mapper(batch: Any) -> list[Any]:
        func, items = batch
        return [func(item) for item in items]

    assert crew._map_async(identity, range(10), mapper, 3).get(DEADLINE) == list(range(10))


@pytest.mark.better
def test_a_subclass_with_its_own_queues_runs_on_the_stdlibs_engine(make_pool: Any) -> None:
    class Own(ThreadPool):  # type: ignore[misc]
        def _setup_queues(self) -> None:
            super()._setup_queues()
            self.own = True

    pool = make_pool(2, cls=Own)
    assert pool.own
    assert pool.map(identity, [1, 2]) == [1, 2]
    assert pool.apply(identity, (3,)) == 3
    assert list(pool.imap(identity, [4])) == [4]
    assert pool._inqueue is not None


def test_a_subclass_may_override_public_methods(make_pool: Any) -> None:
    class Counting(ThreadPool):  # type: ignore[misc]
        calls = 0

        def apply_async(self, *args: Any, **kwds: Any) -> Any:
            self.calls += 1
            return super().apply_async(*args, **kwds)

    pool = make_pool(1, cls=Counting)
    assert pool.apply(identity, (1,)) == 1
    assert pool.calls == 1


@pytest.mark.skipif(engine.STDLIB, reason="the default differs on purpose")
def test_the_default_size(make_pool: Any) -> None:
    pool = make_pool(cls=ThreadPool)
    assert len(pool._pool) == engine.errors.default_processes()


def test_worker_threads_are_traced_like_others(make_pool: Any) -> None:
    seen = []

    def trace(frame: Any, event: str, arg: Any) -> None:
        if frame.f_code is identity.__code__:
            seen.append(event)

    threading.setprofile(trace)
    try:
        pool = make_pool(1, cls=ThreadPool)
        assert pool.map(identity, [1, 2], 1) == [1, 2]
    finally:
        threading.setprofile(None)
    assert seen.count("call") == 2
    assert sys.getprofile() is None


def test_keyword_arguments_are_a_copy(crew: Any) -> None:
    """As in any call with **kwds, the caller may change the dict afterwards."""
    kwds = {"a": 1}
    made = crew.apply(operator.methodcaller, ("f",), kwds)
    kwds["later"] = 2
    assert repr(made) == "operator.methodcaller('f', a=1)"
