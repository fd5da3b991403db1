"""imap and imap_unordered: results one by one, while later items still run."""

from __future__ import annotations

import itertools
import math
import multiprocessing
import sys
import threading
import time
import types
from typing import Any, NoReturn

import engine
import hypothesis
import hypothesis.strategies as st
import pytest
import tasks
from checks import read_during_join
from engine import DEADLINE, RemoteTraceback
from gates import Diary, Gate, eventually

METHODS = ["imap", "imap_unordered"]
both = pytest.mark.parametrize("method", METHODS)


def iterator_class(method: str) -> Any:
    name = {"imap": "IMapIterator", "imap_unordered": "IMapUnorderedIterator"}[method]
    return getattr(engine.pool_module, name)


@both
@pytest.mark.parametrize("chunksize", [1, 2, 3, 10, 36, 37, 100])
@pytest.mark.parametrize("length", [0, 1, 37])
def test_every_result_comes(pool: Any, method: str, chunksize: int, length: int) -> None:
    expected = [x * x for x in range(length)]
    for iterable in range(length), iter(range(length)):
        found = list(getattr(pool, method)(tasks.square, iterable, chunksize))
        assert (found if method == "imap" else sorted(found)) == expected


@hypothesis.given(items=st.lists(st.integers()), chunksize=st.integers(1, 20))
def test_imap_equals_the_builtin_for_any_list(pool: Any, items: Any, chunksize: int) -> None:
    assert list(pool.imap(tasks.square, items, chunksize)) == [x * x for x in items]
    unordered = pool.imap_unordered(tasks.square, items, chunksize)
    assert sorted(unordered) == sorted(x * x for x in items)


@both
def test_parameters_have_the_documented_names(pool: Any, method: str) -> None:
    assert list(getattr(pool, method)(func=tasks.square, iterable=[3], chunksize=1)) == [9]


@both
@pytest.mark.parametrize("args", [(), (1,), (True,), (1.0,)])
def test_chunksize_one_gives_the_iterator_itself(pool: Any, method: str, args: Any) -> None:
    result = getattr(pool, method)(tasks.square, [1, 2], *args)
    assert type(result) is iterator_class(method)
    assert iter(result) is result
    assert sorted(result) == [1, 4]


@both
def test_larger_chunks_give_an_iterator_over_items(pool: Any, method: str) -> None:
    result = getattr(pool, method)(tasks.square, [1, 2, 3], 2)
    assert not engine.STDLIB or type(result) is types.GeneratorType
    assert iter(result) is result
    assert sorted(result) == [1, 4, 9]
    assert list(result) == []


@both
@pytest.mark.better
def test_items_of_chunks_can_be_waited_for(make_pool: Any, gate: Gate, method: str) -> None:
    result = getattr(make_pool(1), method)(gate.hold, [1, 2, 3], 2)
    gate.arrived()
    with pytest.raises(multiprocessing.TimeoutError):
        result.next(0.01)
    gate.open()
    assert [result.next(DEADLINE), next(result), result.next(timeout=DEADLINE)] == [1, 2, 3]
    with pytest.raises(StopIteration):
        result.next(0)


@both
def test_the_items_of_chunks_end_with_a_failure(make_pool: Any, method: str) -> None:
    result = getattr(make_pool(1), method)(tasks.reciprocal, [4, 2, 1, 0, 1, 1], 2)
    assert [next(result), next(result)] == [0.25, 0.5]
    with pytest.raises(ZeroDivisionError):
        next(result)
    assert list(result) == []


def test_chunks_that_nobody_reads_run(make_pool: Any, diary: Diary) -> None:
    pool = make_pool(1)
    pool.imap(diary.write, range(10), 3)
    pool.close()
    pool.join()
    assert diary.lines() == [str(x) for x in range(10)]


def test_the_unordered_iterator_is_an_ordered_one() -> None:
    assert issubclass(engine.pool_module.IMapUnorderedIterator, engine.pool_module.IMapIterator)


@both
@pytest.mark.parametrize(
    ("chunksize", "error", "text"),
    [
        (0, ValueError, "Chunksize must be 1+, not 0"),
        (-2, ValueError, "Chunksize must be 1+, not -2"),
        (0.5, ValueError, "Chunksize must be 1+, not 0.5"),
        (None, TypeError, "'<' not supported between instances of 'NoneType' and 'int'"),
        ("a", TypeError, "'<' not supported between instances of 'str' and 'int'"),
    ],
)
def test_a_wrong_chunksize_is_refused_at_once(
    pool: Any, method: str, chunksize: Any, error: Any, text: str
) -> None:
    with pytest.raises(error) as caught:
        getattr(pool, method)(tasks.square, [1], chunksize)
    assert str(caught.value) == text


def test_imap_and_imap_unordered_format_a_wrong_chunksize_differently(pool: Any) -> None:
    """The texts are exactly the stdlib's: imap shows a number, imap_unordered the object."""
    with pytest.raises(ValueError, match="^Chunksize must be 1\\+, not 0$"):
        pool.imap(tasks.square, [1], False)
    with pytest.raises(ValueError, match="^Chunksize must be 1\\+, not False$"):
        pool.imap_unordered(tasks.square, [1], False)


# Order, and early results


def test_imap_gives_results_in_the_order_of_the_items(make_pool: Any, gate: Gate) -> None:
    pool = make_pool(2)
    results = pool.imap(tasks.await_first, [(gate, i) for i in range(5)])
    with pytest.raises(engine.pool_module.TimeoutError):
        results.next(0.02)  # the first item is not done, the others may be
    gate.open()
    assert list(results) == list(range(5))


def test_imap_unordered_gives_results_as_they_arrive(make_pool: Any, gate: Gate) -> None:
    pool = make_pool(2)
    results = pool.imap_unordered(tasks.await_first, [(gate, i) for i in range(5)])
    assert sorted(results.next(DEADLINE) for _ in range(4)) == [1, 2, 3, 4]
    gate.open()
    assert results.next(DEADLINE) == 0
    with pytest.raises(StopIteration):
        results.next(DEADLINE)


@both
def test_a_result_comes_before_the_iterable_ends(make_pool: Any, method: str) -> None:
    """The iterable waits for a result of its own items."""
    pool = make_pool(2)
    seen: list[Any] = []

    def items() -> Any:
        yield 2
        eventually(lambda: seen)
        yield 3

    results = getattr(pool, method)(tasks.square, items())
    seen.append(results.next(DEADLINE))
    assert [*seen, *results] == [4, 9]


@both
def test_every_item_runs_although_nobody_reads(make_pool: Any, method: str, diary: Diary) -> None:
    pool = make_pool(2)
    results = getattr(pool, method)(tasks.note_item, ((diary, i) for i in range(500)))
    eventually(lambda: len(diary.lines()) == 500, "not every item has run")
    assert sorted(results) == list(range(500))


@both
def test_close_and_join_wait_for_unread_items(make_pool: Any, method: str, diary: Diary) -> None:
    pool = make_pool(2)
    results = getattr(pool, method)(tasks.note_item, ((diary, i) for i in range(200)))
    pool.close()
    pool.join()
    assert len(diary.lines()) == 200
    assert sorted(results) == list(range(200))


@both
def test_several_iterators_at_once(pool: Any, method: str) -> None:
    make = getattr(pool, method)
    rows = [make(tasks.square, range(n, n + 50)) for n in (0, 100, 200)]
    found = [list(row) for row in zip(*rows, strict=True)]
    assert [sorted(row) for row in zip(*found, strict=True)] == [
        [x * x for x in range(n, n + 50)] for n in (0, 100, 200)
    ]


# next and its end


@both
def test_next_is_a_method_with_a_timeout(make_pool: Any, method: str, gate: Gate) -> None:
    pool = make_pool(1)
    results = getattr(pool, method)(tasks.call, [tasks.nothing])
    assert results.next() is None
    results = getattr(pool, method)(gate.hold, [1])
    gate.arrived()
    for wait, args, kwds in (
        (results.next, (0.01,), {}),
        (results.next, (), {"timeout": 0}),
        (results.__next__, (0.01,), {}),
    ):
        with pytest.raises(engine.pool_module.TimeoutError) as caught:
            wait(*args, **kwds)
        assert caught.value.args == ()
    gate.open()
    assert next(results) == 1


@both
def test_an_exhausted_iterator_keeps_raising_stop_iteration(pool: Any, method: str) -> None:
    results = getattr(pool, method)(tasks.square, [2])
    assert results.next(DEADLINE) == 4
    for _ in range(3):
        with pytest.raises(StopIteration):
            next(results)
        with pytest.raises(StopIteration):
            results.next(0)


def test_next_is_dunder_next() -> None:
    cls = engine.pool_module.IMapIterator
    assert cls.next is cls.__next__


@pytest.mark.better
@both
def test_two_threads_read_one_iterator(make_pool: Any, method: str, in_threads: Any) -> None:
    """The stdlib wakes one of the two threads at the end, and the other waits for ever."""
    pool = make_pool(2)
    for _ in range(20):
        results = getattr(pool, method)(tasks.square, range(50), 1)
        parts = in_threads(lambda _, results=results: list(results), range(3))
        assert sorted(itertools.chain(*parts)) == [x * x for x in range(50)]


@pytest.mark.better
@both
def test_two_threads_wait_for_the_last_item(
    make_pool: Any, method: str, gate: Gate, in_threads: Any
) -> None:
    pool = make_pool(1)
    results = getattr(pool, method)(gate.hold, [7])
    gate.arrived()

    def read(number: int) -> Any:
        if number == 0:
            gate.open()
        return list(results)

    assert sorted(in_threads(read, range(3))) == [[], [], [7]]


# Failures


@both
def test_items_after_a_failed_item_arrive(pool: Any, method: str) -> None:
    results = getattr(pool, method)(tasks.fail_on_pair, [(2, i) for i in range(5)])
    found, errors = [], []
    while True:
        try:
            found.append(results.next(DEADLINE))
        except StopIteration:
            break
        except ValueError as error:
            errors.append(error)
    assert sorted(found) == [0, 1, 3, 4]
    assert [str(error) for error in errors] == ["no 2"]
    assert type(errors[0].__cause__) is RemoteTraceback


def test_a_failed_item_keeps_its_place(pool: Any) -> None:
    results = pool.imap(tasks.fail_on_pair, [(2, i) for i in range(4)])
    assert [next(results), next(results)] == [0, 1]
    with pytest.raises(ValueError, match="^no 2$"):
        next(results)
    assert list(results) == [3]


@both
def test_a_failure_ends_the_generator_of_larger_chunks(make_pool: Any, method: str) -> None:
    pool = make_pool(1)
    results = getattr(pool, method)(tasks.fail_on_pair, [(3, i) for i in range(8)], 2)
    assert [next(results), next(results)] == [0, 1]
    with pytest.raises(ValueError, match="^no 3$"):
        next(results)
    assert list(results) == []


@both
@pytest.mark.parametrize(("chunksize", "delivered"), [(1, 5), (2, 4), (3, 3), (7, 0)])
def test_items_before_a_failure_of_the_iterable_arrive(
    make_pool: Any, method: str, chunksize: int, delivered: int
) -> None:
    """Whole chunks arrive. The exception comes from the iterable, not from a worker."""
    pool = make_pool(1)
    items = tasks.then_raise(range(5), LookupError("half-way"))
    results = getattr(pool, method)(tasks.square, items, chunksize)
    found = []
    with pytest.raises(LookupError, match="^half-way$") as caught:
        for result in results:
            found.append(result)
    assert found == [x * x for x in range(delivered)]
    assert caught.value.__cause__ is None
    with pytest.raises(StopIteration):
        next(results)
    assert pool.apply(tasks.square, (3,)) == 9


@both
@pytest.mark.parametrize("chunksize", [1, 3])
def test_a_non_iterable_fails_at_the_first_next(pool: Any, method: str, chunksize: int) -> None:
    results = getattr(pool, method)(tasks.square, 5, chunksize)
    with pytest.raises(TypeError) as caught:
        next(results)
    assert str(caught.value) == "'int' object is not iterable"
    with pytest.raises(StopIteration):
        next(results)


@both
def test_an_unpicklable_item_fails_alone(make_pool: Any, method: str) -> None:
    pool = make_pool(1)
    items = [1, tasks.Unpicklable(), 3]
    results = getattr(pool, method)(tasks.identity, items)
    found: list[Any] = []
    for _ in items:
        try:
            found.append(results.next(DEADLINE))
        except RuntimeError as error:
            found.append(str(error))
            assert error.__cause__ is None
    assert sorted(found, key=str) == [1, 3, "not for sending"]
    with pytest.raises(StopIteration):
        next(results)


@pytest.mark.better
@both
def test_an_iterable_may_raise_anything(make_pool: Any, method: str) -> None:
    """In the stdlib a BaseException ends the thread that feeds the workers, and so the pool."""
    pool = make_pool(1)
    results = getattr(pool, method)(tasks.square, tasks.then_raise([2], tasks.Abandon("enough")))
    assert next(results) == 4
    with pytest.raises(tasks.Abandon, match="^enough$"):
        next(results)
    assert pool.apply(tasks.square, (3,)) == 9


# How far the iterable is read


class Counted:
    """An endless iterable that counts the items taken."""

    def __init__(self) -> None:
        self.taken = 0

    def __iter__(self) -> Any:
        while True:
            self.taken += 1
            yield self.taken


def bound(read: int, chunksize: int, buffersize: int) -> int:
    """The most items that may be taken when this many results are read."""
    return (math.ceil(read / chunksize) + buffersize) * chunksize


@pytest.mark.better
@both
def test_the_iterable_is_read_only_as_fast_as_workers_take_items(
    make_pool: Any, method: str, gate: Gate
) -> None:
    """The stdlib reads an endless iterable until memory is exhausted."""
    pool = make_pool(2)
    items = Counted()
    results = getattr(pool, method)(gate.hold, items)
    gate.arrived(2)

    def still() -> bool:
        before = items.taken
        time.sleep(0.05)
        assert items.taken < 10_000
        return items.taken == before

    eventually(still, "it is read without end")
    gate.open()
    found = [results.next(DEADLINE) for _ in range(100)]
    assert len(set(found)) == 100
    if method == "imap":
        assert found == list(range(1, 101))


@pytest.mark.better
@both
@pytest.mark.parametrize("chunksize", [1, 3])
@pytest.mark.parametrize("size", [1, 2, 5])
def test_buffersize_bounds_the_items_taken_and_not_read(
    make_pool: Any, method: str, size: int, chunksize: int
) -> None:
    """buffersize counts chunks."""
    pool = make_pool(2)
    items = Counted()
    results = getattr(pool, method)(tasks.identity, items, chunksize, size)
    for read in range(1, 40):
        next(results)
        assert items.taken <= bound(read, chunksize, size)


@pytest.mark.better
@both
@pytest.mark.parametrize("chunksize", [1, 3])
@pytest.mark.parametrize("size", [1, 2, 100, None])
def test_buffersize_changes_no_result(
    pool: Any, method: str, size: int | None, chunksize: int
) -> None:
    results = getattr(pool, method)(tasks.square, range(30), chunksize, buffersize=size)
    assert sorted(results) == [x * x for x in range(30)]


@pytest.mark.better
@both
@pytest.mark.parametrize("chunksize", [1, 3])
def test_a_list_that_changes_is_read_as_its_iterator_would(
    pool: Any, method: str, chunksize: int
) -> None:
    items = list(range(30))
    results = getattr(pool, method)(tasks.identity, items, chunksize, 1)
    found = [next(results)]
    items.append(30)
    found += [next(results) for _ in range(3)]
    del items[20:]
    found += results
    items.append(99)  # too late
    assert sorted(found) == list(range(20))
    assert list(results) == []


class Telling:
    """Sets the event when pickled, and arrives in the task as 9."""

    def __init__(self, event: threading.Event) -> None:
        self.event = event

    def __reduce__(self) -> tuple[Any, ...]:
        self.event.set()
        return int, (9,)


@pytest.mark.better
@both
def test_items_appended_after_the_last_chunk_are_too_late(pool: Any, method: str) -> None:
    """A chunk that is not full has reached the end of the list."""
    pulled = threading.Event()
    items = [*range(9), Telling(pulled)]
    results = getattr(pool, method)(tasks.identity, items, 3, 1)
    found = [next(results) for _ in range(7)]  # of the third chunk: now the last one has room
    assert pulled.wait(DEADLINE)
    items.append(10)
    assert sorted([*found, *results]) == list(range(10))


@both
@pytest.mark.parametrize("items", [[], (), [1], (1, 2), tuple(range(100)), list(range(100))])
@pytest.mark.parametrize("chunksize", [1, 7, sys.maxsize])
def test_lists_and_tuples_are_read_to_their_end(
    pool: Any, method: str, items: Any, chunksize: int
) -> None:
    assert sorted(getattr(pool, method)(tasks.identity, items, chunksize)) == sorted(items)


@pytest.mark.better
@both
def test_the_buffer_is_bounded_although_nobody_reads(
    make_pool: Any, method: str, diary: Diary
) -> None:
    """The number of items taken does not depend on the length of the input."""
    pool = make_pool(2)
    items = Counted()
    results = getattr(pool, method)(tasks.note_item, ((diary, i) for i in items), buffersize=7)
    eventually(lambda: len(diary.lines()) == 7)
    for _ in range(100):  # the pool works, and has room
        pool.apply(tasks.nothing)
    assert items.taken == 7
    found = sorted(results.next(DEADLINE) for _ in range(7))
    # Each result read lets in another item, whose result may overtake one of the first seven.
    assert found == list(range(1, 8)) if method == "imap" else found[-1] < 14


# The end of a pool, and a full buffer


@pytest.mark.better
@both
@pytest.mark.parametrize("chunksize", [1, 3])
@pytest.mark.parametrize("joins", [False, True])
def test_results_can_be_read_to_the_end_after_close(
    make_pool: Any, method: str, chunksize: int, joins: bool
) -> None:
    """The bound holds all the time."""
    pool = make_pool(2)
    items = Counted()
    limited = itertools.islice(items, 60)
    results = getattr(pool, method)(tasks.identity, limited, chunksize, 2)
    pool.close()
    found = []
    for result in results:
        found.append(result)
        assert items.taken <= bound(len(found), chunksize, 2)
    assert sorted(found) == list(range(1, 61))
    if joins:
        pool.join()


@pytest.mark.better
@both
@pytest.mark.parametrize("read", [0, 1, 4])
def test_join_ends_an_input_with_unread_results(make_pool: Any, method: str, read: int) -> None:
    """join() does not wait for a reader. The items taken run; reading on raises PoolError."""
    pool = make_pool(2)
    items = Counted()
    results = getattr(pool, method)(tasks.identity, items, buffersize=3)
    found = [results.next(DEADLINE) for _ in range(read)]
    pool.close()
    pool.join()
    with pytest.raises(engine.errors.PoolError, match="full of unread results"):
        for result in results:
            found.append(result)
    assert sorted(found) == list(range(1, items.taken + 1))
    assert items.taken == read + 3
    assert list(results) == []


@pytest.mark.better
@both
def test_the_buffer_may_be_full_only_while_join_waits(
    make_pool: Any, method: str, gate: Gate, in_threads: Any
) -> None:
    pool = make_pool(1)
    results = getattr(pool, method)(gate.hold, Counted(), buffersize=1)
    gate.arrived()
    pool.close()

    def end(number: int) -> None:
        if number == 0:
            pool.join()
        else:
            gate.open()

    in_threads(end, range(2))
    assert results.next(DEADLINE) == 1
    with pytest.raises(engine.errors.PoolError, match="full of unread results"):
        next(results)


@pytest.mark.better
@both
@pytest.mark.parametrize("size", [1, 2, 16])
def test_a_reader_gets_every_result_although_another_thread_joins(
    make_pool: Any, method: str, size: int, in_threads: Any
) -> None:
    """The buffer is full whenever a result has arrived and is not read yet."""
    pool = make_pool(2)
    results = getattr(pool, method)(tasks.identity, iter(range(300)), buffersize=size)

    assert sorted(read_during_join(pool, results, in_threads)) == list(range(300))


@pytest.mark.better
@both
@pytest.mark.parametrize("size", [3, 4])
def test_join_waits_for_an_input_that_the_buffer_has_room_for(
    make_pool: Any, method: str, size: int
) -> None:
    for items in [1, 2, 3], iter((1, 2, 3)) if size > 3 else range(1, 4):
        pool = make_pool(1)
        results = getattr(pool, method)(tasks.identity, items, buffersize=size)
        pool.close()
        pool.join()
        assert sorted(results) == [1, 2, 3]


@pytest.mark.better
@both
def test_terminate_does_not_wait_for_a_full_buffer(make_pool: Any, method: str) -> None:
    pool = make_pool(1)
    items = Counted()
    results = getattr(pool, method)(tasks.identity, items, buffersize=2)
    eventually(lambda: items.taken == 2)
    pool.terminate()
    pool.join()
    assert items.taken == 2
    del results


@pytest.mark.better
@both
def test_a_closed_pool_is_reported_before_wrong_arguments(make_pool: Any, method: str) -> None:
    pool = make_pool(1)
    pool.close()
    for args in ([1], 0, 0), ([1], 1, 0), ([1], 1, "a"):
        with pytest.raises(ValueError, match="^Pool not running$"):
            getattr(pool, method)(tasks.identity, *args)


@pytest.mark.better
@both
@pytest.mark.parametrize(("size", "error"), [(0, ValueError), (-1, ValueError), ("a", TypeError)])
def test_a_wrong_buffersize_is_refused(pool: Any, method: str, size: Any, error: Any) -> None:
    with pytest.raises(error):
        getattr(pool, method)(tasks.square, [1], buffersize=size)


def stop_at_three(number: int) -> int:
    if number == 3:
        raise StopIteration("three")
    return number


class StopsOnArrival:
    def __reduce__(self) -> tuple[Any, ...]:
        return stop_at_three, (3,)


class StopsOnItsWay:
    def __reduce__(self) -> NoReturn:
        raise StopIteration


def give_one_that_stops(number: int) -> Any:
    return StopsOnArrival() if number == 3 else number


@pytest.mark.better
@both
@pytest.mark.parametrize("function", [stop_at_three, give_one_that_stops])
@pytest.mark.parametrize("chunksize", [1, 5])
def test_a_stop_iteration_does_not_end_the_iterator(
    make_pool: Any, method: str, chunksize: int, function: Any
) -> None:
    """In the stdlib the items behind that one are missing, without a word."""
    check_stopped(getattr(make_pool(1), method)(function, range(10), chunksize), chunksize)


@pytest.mark.better
@both
@pytest.mark.parametrize("chunksize", [1, 5])
def test_a_stop_iteration_of_a_thread(make_pool: Any, method: str, chunksize: int) -> None:
    pool = make_pool(1, cls=engine.pool_module.ThreadPool)
    check_stopped(getattr(pool, method)(stop_at_three, range(10), chunksize), chunksize)


def check_stopped(results: Any, chunksize: int) -> None:
    found: list[int] = []
    with pytest.raises(RuntimeError, match="raised StopIteration") as caught:
        for item in results:
            found.append(item)
    assert type(caught.value.__cause__) is StopIteration
    assert caught.value.__cause__.args == ("three",)
    if chunksize == 1:
        assert found + list(results) == [0, 1, 2, 4, 5, 6, 7, 8, 9]


@pytest.mark.better
@both
def test_a_stop_iteration_of_an_item_does_not_end_the_iterator(pool: Any, method: str) -> None:
    """Raised where the item is pickled."""
    items = [1, StopsOnItsWay(), 2]
    results = getattr(pool, method)(tasks.identity, items)
    found: list[Any] = []
    for _ in items:
        try:
            found.append(next(results))
        except RuntimeError as error:
            found.append(type(error.__cause__).__name__)
    assert sorted(map(str, found)) == ["1", "2", "StopIteration"]


def slowly(n: int = 60) -> Any:
    for i in range(n):
        time.sleep(0.0005)
        yield i


SHARED: dict[str, Any] = {
    "tee": lambda: itertools.tee(slowly()),
    "generator": lambda: (source := slowly(), source),
    "wrapped": lambda: (map(abs, source := slowly()), (item for item in source)),
    "zipped": lambda: (zip(source := slowly(), strict=True), source),
}


@both
@pytest.mark.parametrize("kind", SHARED)
@pytest.mark.parametrize("cls", [engine.Pool, engine.pool_module.ThreadPool])
def test_two_iterators_of_a_pool_share_a_source(
    make_pool: Any, cls: Any, method: str, kind: str
) -> None:
    """Pulls of one pool do not overlap, and no item is lost or doubled."""
    pool = make_pool(2, cls=cls)
    one, other = SHARED[kind]()
    results = [getattr(pool, method)(tasks.identity, source) for source in (one, other)]
    found = [item[0] if isinstance(item, tuple) else item for items in results for item in items]
    assert sorted(found) == sorted([*range(60)] * (2 if kind == "tee" else 1))


@pytest.mark.better
@pytest.mark.parametrize("cls", [engine.Pool, engine.pool_module.ThreadPool])
def test_a_source_that_blocks_is_overtaken_by_others(make_pool: Any, cls: Any) -> None:
    """And no source waits for one whose code waits for the pool."""
    pool = make_pool(2, cls=cls)
    released = threading.Event()

    def blocked() -> Any:
        yield 1
        assert released.wait(DEADLINE)
        yield 2

    items = pool.imap(tasks.identity, blocked())
    assert next(items) == 1
    # A second for each item would be more than released waits for.
    chain = pool.imap(tasks.square, slowly())
    for _ in range(3):
        chain = pool.imap(tasks.identity, chain)
    assert list(chain) == [x * x for x in range(60)]
    assert list(pool.imap(tasks.identity, slowly())) == list(range(60))
    released.set()
    assert list(items) == [2]


@pytest.mark.better
@pytest.mark.parametrize("cls", [engine.Pool, engine.pool_module.ThreadPool])
def test_a_source_that_uses_its_pool_pulls_inside_a_pull(make_pool: Any, cls: Any) -> None:
    pool = make_pool(2, cls=cls)

    def nested() -> Any:
        for _ in range(20):
            yield sum(pool.map(tasks.identity, slowly(3))) + sum(pool.imap(abs, slowly(3)))

    # A second for each of the forty inner calls would be more than a test may take.
    assert list(pool.imap(tasks.identity, nested())) == [6] * 20
