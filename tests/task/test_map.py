"""map and map_async: a function over the items of an iterable, in order."""

from __future__ import annotations

import gc
import itertools
import sys
import threading
import time
import weakref
from collections.abc import Iterator
from typing import Any

import engine
import hypothesis
import hypothesis.strategies as st
import pytest
import tasks
from engine import DEADLINE, RemoteTraceback
from gates import Diary, Gate, eventually
from leftovers import all_freed

from cpool.errors import PoolError, PoolTerminated
from cpool.pool import ApplyResult


def in_both(pool: Any, *args: Any, **kwds: Any) -> Any:
    """The result of map(). map_async() must give the same result."""
    result = pool.map(*args, **kwds)
    assert pool.map_async(*args, **kwds).get(DEADLINE) == result
    return result


@pytest.mark.parametrize("chunksize", [None, 1, 2, 3, 7, 10, 11, 1000, True])
@pytest.mark.parametrize("length", [0, 1, 2, 10, 37])
def test_map_equals_the_builtin(pool: Any, length: int, chunksize: Any) -> None:
    expected = [x * x for x in range(length)]
    assert in_both(pool, tasks.square, range(length), chunksize) == expected
    assert pool.map(tasks.square, iter(range(length)), chunksize) == expected


@hypothesis.given(items=st.lists(st.integers() | st.text()), chunksize=st.none() | st.integers(1))
def test_map_equals_the_builtin_for_any_list(pool: Any, items: Any, chunksize: Any) -> None:
    assert pool.map(tasks.kind, items, chunksize) == list(map(tasks.kind, items))


@pytest.mark.parametrize(
    "iterable",
    [
        [3, 1, 2],
        (3, 1, 2),
        {3: "a", 1: "b"},
        {5},
        "text",
        b"\x01\x02",
        range(0, 100, 7),
        {1: 2}.items(),
        tasks.Sized([1, 2, 3]),
    ],
    ids=repr,
)
def test_any_iterable_will_do(pool: Any, iterable: Any) -> None:
    assert in_both(pool, tasks.identity, iterable) == list(iterable)


def test_many_small_items(pool: Any) -> None:
    assert pool.map(tasks.square, range(5000), 1) == [x * x for x in range(5000)]


def test_parameters_have_the_documented_names(pool: Any) -> None:
    assert pool.map(func=tasks.square, iterable=[2], chunksize=1) == [4]
    seen: list[Any] = []
    pool.map_async(
        func=tasks.square,
        iterable=[2, 3],
        chunksize=1,
        callback=seen.append,
        error_callback=seen.append,
    ).wait(DEADLINE)
    assert seen == [[4, 9]]


def test_callbacks_by_position(pool: Any) -> None:
    good: list[Any] = []
    bad: list[Any] = []
    pool.map_async(tasks.square, [2], 1, good.append, bad.append).wait(DEADLINE)
    pool.map_async(tasks.fail, [2], 1, good.append, bad.append).wait(DEADLINE)
    assert good == [[4]]
    assert [error.args for error in bad] == [("no 2",)]


def test_the_result_is_a_fresh_list(pool: Any) -> None:
    result = pool.map(tasks.square, (1, 2))
    assert type(result) is list
    result.append(0)
    assert pool.map(tasks.square, (1, 2)) == [1, 4]


# Chunks


@pytest.mark.parametrize(
    ("length", "chunksize"), [(1, 1), (11, 1), (12, 1), (13, 2), (24, 2), (25, 3), (100, 9)]
)
def test_the_default_chunksize_makes_four_chunks_per_worker(
    make_pool: Any, length: int, chunksize: int
) -> None:
    pool = make_pool(3)
    result = pool.map_async(tasks.square, range(length))
    assert result._chunksize == chunksize
    assert result.get(DEADLINE) == [x * x for x in range(length)]


def test_a_chunk_runs_in_one_worker(make_pool: Any) -> None:
    pool = make_pool(3)
    pids = pool.map(tasks.pid, range(60), 20)
    for start in 0, 20, 40:
        assert len(set(pids[start : start + 20])) == 1


def test_chunks_run_in_different_workers(make_pool: Any, gate: Gate) -> None:
    pool = make_pool(3)
    result = pool.map_async(tasks.held_pid, [gate] * 3, 1)
    assert set(gate.arrived(3)) == {worker.pid for worker in pool._pool}
    gate.open()
    assert len(set(result.get(DEADLINE))) == 3


def test_the_items_of_a_chunk_run_in_order(make_pool: Any, diary: Diary) -> None:
    pool = make_pool(1)
    pool.starmap(tasks.noted, [(diary, i) for i in range(10)], 4)
    assert diary.lines() == [str(i) for i in range(10)]


@pytest.mark.parametrize("chunksize", [0, -1, -5, False])
def test_a_chunksize_below_one_runs_nothing(pool: Any, diary: Diary, chunksize: int) -> None:
    items = [(diary, i) for i in range(3)]
    assert pool.starmap(tasks.noted, items, chunksize) == [None] * 3
    result = pool.map_async(tasks.fail, range(3), chunksize)
    assert result.ready()
    assert result.successful()
    assert result.get() == [None] * 3
    assert diary.lines() == []


@pytest.mark.parametrize(
    ("chunksize", "text"),
    [
        ("a", "'<=' not supported between instances of 'str' and 'int'"),
        ([1], "'<=' not supported between instances of 'list' and 'int'"),
    ],
)
def test_a_chunksize_that_is_not_a_number_is_refused(
    make_pool: Any, chunksize: Any, text: str
) -> None:
    pool = make_pool(1)
    for method in pool.map, pool.map_async, pool.starmap, pool.starmap_async:
        with pytest.raises(TypeError) as caught:
            method(tasks.square, [(1,)], chunksize)
        assert str(caught.value) == text


@pytest.mark.better
def test_a_refused_call_leaves_no_job(make_pool: Any) -> None:
    """In the stdlib join() waits for the results of refused calls."""
    pool = make_pool(1)
    with pytest.raises(TypeError):
        pool.map(tasks.square, [1], "a")
    assert not pool._cache
    pool.close()
    pool.join()


@pytest.mark.better
@pytest.mark.parametrize("chunksize", [1.5, 2.0, 0.5])
def test_a_fractional_chunksize_is_refused(pool: Any, chunksize: float) -> None:
    """The stdlib accepts a fraction, and the result never becomes ready."""
    for method in pool.map, pool.map_async, pool.starmap, pool.starmap_async:
        with pytest.raises(TypeError):
            method(tasks.square, [(1,), (2,), (3,)], chunksize)
    assert pool.map(tasks.square, [1, 2, 3]) == [1, 4, 9]


# No items


@pytest.mark.parametrize("chunksize", [None, 0, 1, 5])
@pytest.mark.parametrize("iterable", [[], (), "", iter(())], ids=repr)
def test_a_map_of_no_items_is_ready_at_once(pool: Any, iterable: Any, chunksize: Any) -> None:
    called: list[Any] = []
    result = pool.map_async(tasks.square, iterable, chunksize, called.append, called.append)
    assert result.ready()
    assert result.successful()
    assert result.get(0) == []
    assert pool.map(tasks.square, iterable, chunksize) == []
    assert called == []


def test_a_map_of_no_items_does_not_check_the_function(pool: Any) -> None:
    """Nothing is called, so the function is not checked."""
    assert pool.map(None, []) == []


# The iterable


@pytest.mark.parametrize("method", ["map", "map_async", "starmap", "starmap_async"])
def test_a_non_iterable_is_refused_at_once(pool: Any, method: str) -> None:
    with pytest.raises(TypeError) as caught:
        getattr(pool, method)(tasks.square, 5)
    assert str(caught.value) == "'int' object is not iterable"


@pytest.mark.parametrize("method", ["map", "map_async", "starmap", "starmap_async"])
def test_the_caller_exhausts_a_generator(pool: Any, method: str) -> None:
    """The call raises the generator's exception. Nothing is submitted to a worker."""
    threads = []

    def items() -> Any:
        threads.append(threading.get_ident())
        yield (1,)
        raise LookupError("half-way")

    eventually(lambda: not pool._cache)
    with pytest.raises(LookupError, match="^half-way$") as caught:
        getattr(pool, method)(tasks.square, items())
    assert caught.value.__cause__ is None
    assert threads == [threading.get_ident()]
    assert not pool._cache


def test_a_sized_iterable_is_iterated_once(pool: Any) -> None:
    class Once(tasks.Sized):
        iterations = 0

        def __iter__(self) -> Any:
            self.iterations += 1
            return super().__iter__()

    items = Once(range(10))
    assert pool.map(tasks.square, items, 3) == [x * x for x in range(10)]
    assert items.iterations == 1


def test_an_exception_of_a_sized_iterable_fails_the_job(pool: Any) -> None:
    items = tasks.Sized([], length=1, error=LookupError("half-way"))
    with pytest.raises(LookupError, match="^half-way$"):
        pool.map_async(tasks.square, items).get(DEADLINE)


# Failures


def test_the_exception_of_an_item_is_raised(pool: Any) -> None:
    with pytest.raises(ValueError, match="^no 3$") as caught:
        pool.starmap(tasks.fail_on, [(3, i) for i in range(6)], 2)
    cause: Any = caught.value.__cause__
    assert type(cause) is RemoteTraceback
    assert "in fail_on" in cause.tb


def test_the_first_failure_to_arrive_is_raised(make_pool: Any, make_gate: Any) -> None:
    pool = make_pool(2)
    gate, both_run = make_gate(), make_gate()
    begun = pool.map_async(both_run.hold, range(2), 1)
    both_run.arrived(2)  # a worker that still starts would not take the second task below
    both_run.open()
    begun.get(DEADLINE)
    late = (tasks.held_then_fail, (gate, "late"))
    early = (tasks.fail, ("early",))
    errors: list[Any] = []
    result = pool.starmap_async(tasks.call, [late, early], 1, error_callback=errors.append)
    gate.arrived()
    # The second worker runs this job after its failure, which arrives before the first one's.
    pool.map(abs, [1], 1)
    assert not result.ready()
    gate.open()
    with pytest.raises(ValueError, match="^no early$"):
        result.get(DEADLINE)
    assert [str(error) for error in errors] == ["no early"]


def test_a_failure_waits_for_the_other_chunks(make_pool: Any, gate: Gate) -> None:
    pool = make_pool(2)
    calls = [(tasks.fail, (0,)), (tasks.held, (gate, 1))]
    result = pool.starmap_async(tasks.call, calls, 1)
    gate.arrived()
    with pytest.raises(Exception) as caught:
        result.get(0.01)
    assert type(caught.value).__name__ == "TimeoutError"
    gate.open()
    with pytest.raises(ValueError, match="^no 0$"):
        result.get(DEADLINE)


@pytest.mark.parametrize(
    ("chunksize", "calls"), [(6, "01"), (3, "01345"), (2, "012345"), (1, "012345")]
)
def test_a_failure_ends_only_its_chunk(
    make_pool: Any, diary: Diary, chunksize: int, calls: str
) -> None:
    """As in the stdlib, items behind the failing item in the same chunk do not run."""
    pool = make_pool(1)
    items = [(diary, 1, i) for i in range(6)]
    with pytest.raises(ValueError, match="^no 1$"):
        pool.starmap(tasks.noted_then_fail_on, items, chunksize)
    assert "".join(diary.lines()) == calls


def test_an_unpicklable_item_fails_only_its_chunk(make_pool: Any, diary: Diary) -> None:
    pool = make_pool(1)
    items = [(diary, 0), (diary, 1), (diary, tasks.Unpicklable()), (diary, 3), (diary, 4)]
    with pytest.raises(RuntimeError) as caught:
        pool.starmap(tasks.noted, items, 1)
    assert str(caught.value) == "not for sending"
    assert caught.value.__cause__ is None
    assert diary.lines() == ["0", "1", "3", "4"]
    assert pool.map(tasks.square, [1, 2]) == [1, 4]


def test_two_jobs_at_once_do_not_mix(pool: Any, in_threads: Any) -> None:
    def work(number: int) -> Any:
        return pool.map(tasks.square, range(number, number + 300), 1)

    starts = [0, 1000, 2000, 3000]
    assert in_threads(work, starts) == [[x * x for x in range(s, s + 300)] for s in starts]


def test_a_finished_job_releases_its_objects(pool: Any) -> None:
    """The pool keeps neither arguments nor results."""
    items = [tasks.Point(i, i) for i in range(20)]
    results = pool.map(tasks.identity, items, 3)
    assert results == items
    kept = [weakref.ref(thing) for thing in (*items, *results)]
    del items, results
    all_freed(kept)


def copy_all_lists(_: int) -> int:
    """Copy every list that the garbage collector knows, as a debugger may."""
    return len([list(found) for found in gc.get_objects() if type(found) is list])


def test_a_task_may_look_at_every_list(make_pool: Any) -> None:
    """The collector must not know a half-filled list of the pool."""
    assert len(make_pool(1).map(copy_all_lists, range(6), 3)) == 6


@pytest.mark.better
def test_an_iterable_that_ends_the_pool_within_a_chunk(make_pool: Any) -> None:
    pool = make_pool(1)

    def items() -> Iterator[int]:
        yield 1
        pool.terminate()
        yield 2

    with pytest.raises(PoolTerminated):
        list(pool.imap(abs, items(), chunksize=4))


@pytest.mark.better
def test_a_job_without_a_task(make_pool: Any) -> None:
    pool = make_pool(1)
    result = ApplyResult(pool)
    pool._taskqueue.put((iter(()), result.wait))
    with pytest.raises(PoolError, match="without a result"):
        result.get()


def test_chunks_left_of_a_huge_chunksize(make_pool: Any) -> None:
    pool = make_pool(1)
    result = pool.map_async(abs, [-1, -2], chunksize=sys.maxsize)
    assert result._number_left <= 1
    assert result.get() == [1, 2]


def stop_at_three(number: int, *_: Any) -> int:
    if number == 3:
        raise StopIteration("three")
    return number


class StopsOnArrival:
    def __reduce__(self) -> tuple[Any, ...]:
        return stop_at_three, (3,)


def give_one_that_stops(number: int, *_: Any) -> Any:
    return StopsOnArrival() if number == 3 else number


@pytest.mark.better
@pytest.mark.parametrize("function", [stop_at_three, give_one_that_stops])
@pytest.mark.parametrize("chunksize", [1, 5, None])
def test_a_stop_iteration_is_an_error(pool: Any, chunksize: Any, function: Any) -> None:
    """The stdlib leaves out the items behind that one, without a word."""
    told: list[BaseException] = []
    called = threading.Event()

    def tell(error: BaseException) -> None:
        told.append(error)
        called.set()

    def map_one(item: int) -> Any:
        return pool.map(function, [item, 3], chunksize)

    items = list(range(10))
    pairs = [(x, x) for x in items]
    for call in (
        lambda: pool.map(function, items, chunksize),
        lambda: pool.map_async(function, items, chunksize, None, tell).get(DEADLINE),
        lambda: pool.starmap(function, pairs, chunksize),
        lambda: pool.starmap_async(function, pairs, chunksize).get(DEADLINE),
        # An iterator of the caller that calls map() must not end there.
        lambda: list(map(map_one, items)),
    ):
        with pytest.raises(RuntimeError, match="raised StopIteration") as caught:
            call()
        assert type(caught.value.__cause__) is StopIteration
        assert caught.value.__cause__.args == ("three",)
    assert called.wait(DEADLINE)
    assert type(told[0]) is RuntimeError


def test_apply_raises_a_stop_iteration(pool: Any) -> None:
    """A program may call next() in a worker: as in the stdlib, it sees the end."""
    with pytest.raises(StopIteration, match="three"):
        pool.apply(stop_at_three, (3,))
    with pytest.raises(StopIteration, match="three"):
        pool.apply_async(stop_at_three, (3,)).get(DEADLINE)


@pytest.mark.better
@pytest.mark.parametrize("cls", [engine.Pool, engine.pool_module.ThreadPool])
@pytest.mark.parametrize("method", ["map", "map_async", "in_threads"])
def test_map_shares_a_source_with_an_iterator(make_pool: Any, cls: Any, method: str) -> None:
    """An iterable without a length is pulled in turn with the others, and at its own pace."""

    def slowly() -> Iterator[int]:
        for i in range(60):
            time.sleep(0.0005)
            yield i

    pool = make_pool(2, cls=cls)
    one, other = itertools.tee(slowly())
    results = pool.imap(tasks.square, one)
    if method == "in_threads":
        found: list[Any] = []
        third, other = itertools.tee(other)
        thread = threading.Thread(target=lambda: found.append(pool.map(tasks.square, third)))
        thread.start()
        found.append(pool.map(tasks.square, other))
        thread.join(DEADLINE)
    else:
        found = [
            pool.map(tasks.square, other)
            if method == "map"
            else pool.map_async(tasks.square, other).get(DEADLINE)
        ]
    right = [x * x for x in range(60)]
    assert all(list(values) == right for values in [results, *found])


def test_an_iterable_without_a_length_that_raises(pool: Any) -> None:
    def broken() -> Iterator[int]:
        yield 1
        raise KeyError("broken")

    class NoIterable:
        pass

    for method in (pool.map, pool.map_async, pool.starmap):
        with pytest.raises(KeyError, match="broken"):
            method(tasks.square, broken())
        with pytest.raises(TypeError, match="not iterable"):
            method(tasks.square, NoIterable())
    assert pool.map(tasks.square, iter([2])) == [4]
