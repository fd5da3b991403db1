"""Errors that name the item, exceptions among the results, and `istarmap`."""

from __future__ import annotations

import pickle
from functools import partial
from typing import Any

import engine
import pytest
import tasks
from engine import DEADLINE

pytestmark = pytest.mark.better

errors = engine.errors


def described(values: Any) -> list[str]:
    return [repr(value) for value in values]


# Errors name the item


@pytest.mark.parametrize(
    ("method", "chunksize", "index"),
    [
        ("map", 1, 7),
        ("map", 3, 7),
        ("map", None, 7),
        ("map_async", 4, 7),
        ("imap", 1, 7),
        ("imap", 4, 7),
        ("imap_unordered", 3, 7),
        ("starmap", 3, 7),
        ("istarmap", 3, 7),
    ],
)
def test_a_lost_worker_names_the_item(
    make_pool: Any, method: str, chunksize: int | None, index: int
) -> None:
    pool = make_pool(2)
    star = "starmap" in method
    items = [(x,) if star else x for x in range(10)]
    with pytest.raises(errors.WorkerLostError) as caught:
        result = getattr(pool, method)(partial(tasks.die_on, index), items, chunksize)
        result.get(DEADLINE) if "async" in method else list(result)
    assert caught.value.index == index
    assert caught.value.function == "functools.partial(tasks.die_on)"
    assert f"item {index} of Pool.{method}(functools.partial(tasks.die_on))" in str(caught.value)


@pytest.mark.parametrize("method", ["map", "starmap_async", "imap", "istarmap_unordered"])
@pytest.mark.parametrize("chunksize", [1, 4])
def test_a_remote_traceback_ends_with_the_item(pool: Any, method: str, chunksize: int) -> None:
    items = [(x,) if "starmap" in method else x for x in range(10)]
    with pytest.raises(ValueError) as caught:
        result = getattr(pool, method)(partial(tasks.fail_on, 6), items, chunksize)
        result.get(DEADLINE) if "async" in method else list(result)
    cause = caught.value.__cause__
    assert isinstance(cause, engine.RemoteTraceback)
    last = cause.tb.splitlines()[-2]
    assert last.startswith(f"in item 6 of Pool.{method}(functools.partial(tasks.fail_on)), worker ")
    assert cause.tb.splitlines()[-3] == "ValueError: no 6"
    pids = {worker.pid for worker in pool._pool}
    assert int(last.rpartition("pid ")[2].rstrip(")")) in pids


def test_a_call_without_items_names_itself(make_pool: Any) -> None:
    pool = make_pool(2)
    with pytest.raises(ValueError) as caught:
        pool.apply(tasks.fail, (1,))
    assert "\nin Pool.apply(tasks.fail), worker " in str(caught.value.__cause__)
    with pytest.raises(errors.WorkerLostError) as lost:
        pool.apply_async(tasks.die).get(DEADLINE)
    assert (lost.value.index, lost.value.function) == (None, "tasks.die")


def test_an_error_that_cannot_be_rebuilt_names_the_item(pool: Any) -> None:
    with pytest.raises(errors.RemoteError) as caught:
        pool.map(tasks.needs_two, [1])
    assert "\nin item 0 of Pool.map(tasks.needs_two), worker " in str(caught.value.__cause__)


def test_a_lost_item_survives_pickling() -> None:
    error = errors.WorkerLostError("gone", 1, -9, 4, "f")
    again = pickle.loads(pickle.dumps(error))
    assert (str(again), vars(again)) == ("gone", vars(error))


# return_exceptions


def mixed(x: int) -> int:
    if x % 3 == 2:
        raise ValueError(x)
    return x


def mixed_pair(x: int, y: int) -> int:
    return mixed(x + y)


MIXED = ["0", "1", "ValueError(2)", "3", "4", "ValueError(5)", "6"]


@pytest.mark.parametrize("chunksize", [1, 2, 3, 7])
def test_exceptions_stand_among_results(either: Any, chunksize: int) -> None:
    items = range(7)
    call = {"return_exceptions": True}
    assert described(either.map(mixed, items, chunksize, **call)) == MIXED
    assert described(either.map_async(mixed, items, chunksize, **call).get(DEADLINE)) == MIXED
    assert described(either.imap(mixed, items, chunksize, **call)) == MIXED
    assert sorted(described(either.imap_unordered(mixed, items, chunksize, **call))) == sorted(
        MIXED
    )
    pairs = [(x, 0) for x in items]
    assert described(either.starmap(mixed_pair, pairs, chunksize, **call)) == MIXED
    assert described(either.istarmap(mixed_pair, pairs, chunksize, **call)) == MIXED


def test_exceptions_stand_among_results_of_default_chunks(either: Any) -> None:
    found = either.map(mixed, range(1000), return_exceptions=True)
    assert [x if type(x) is int else x.args[0] for x in found] == list(range(1000))


def test_the_exception_of_a_call_is_its_value(either: Any) -> None:
    assert repr(either.apply(mixed, (2,), return_exceptions=True)) == "ValueError(2)"
    result = either.apply_async(mixed, (5,), return_exceptions=True)
    assert repr(result.get(DEADLINE)) == "ValueError(5)"
    assert result.successful()


def test_callbacks_get_exceptions_as_values(either: Any) -> None:
    seen: list[Any] = []
    result = either.map_async(mixed, range(3), 2, seen.extend, seen.append, return_exceptions=True)
    result.get(DEADLINE)
    assert described(seen) == MIXED[:3]


def test_an_exception_of_a_chunk_names_its_item(pool: Any) -> None:
    found = pool.map(mixed, range(7), 7, return_exceptions=True)
    assert "\nin item 5 of Pool.map(test_items.mixed), worker " in str(found[5].__cause__)


def test_a_lost_chunk_stands_among_results(make_pool: Any) -> None:
    pool = make_pool(2)
    found = pool.map(partial(tasks.die_on, 4), range(8), 2, return_exceptions=True)
    lost = [x for x in found if isinstance(x, errors.WorkerLostError)]
    assert found[:4] + found[6:] == [0, 1, 2, 3, 6, 7]
    assert [error.index for error in lost] == [4, 4]


def test_values_that_cannot_be_pickled_stand_alone(pool: Any) -> None:
    found = pool.map(partial(unpicklable_on, 3), range(6), 6, return_exceptions=True)
    assert type(found[3]) is engine.MaybeEncodingError
    assert found[:3] + found[4:] == [0, 1, 2, 4, 5]


def unpicklable_on(bad: int, x: int) -> Any:
    return (lambda: x) if x == bad else x


def test_an_exit_ends_its_chunk(make_pool: Any) -> None:
    pool = make_pool(2)
    found = pool.map(partial(tasks.exit_on, 1), range(4), 2, return_exceptions=True)
    assert described(found) == ["SystemExit(1)", "SystemExit(1)", "2", "3"]


def test_what_no_item_raises_is_raised(either: Any) -> None:
    def items() -> Any:
        yield 1
        raise KeyError("the iterable")

    found = either.imap(mixed, items(), return_exceptions=True)
    assert next(found) == 1
    with pytest.raises(KeyError):
        next(found)


def test_an_option_that_does_not_exist(either: Any) -> None:
    with pytest.raises(TypeError, match="'no_such_option'"):
        either.map(mixed, [1], no_such_option=1)
    with pytest.raises(TypeError, match="'no_such_option'"):
        either.apply(mixed, (1,), no_such_option=1)


# istarmap


@pytest.mark.parametrize("chunksize", [1, 3])
def test_istarmap(either: Any, chunksize: int) -> None:
    pairs = [(x, x + 1) for x in range(10)]
    expected = [2 * x + 1 for x in range(10)]
    assert list(either.istarmap(tasks.add, pairs, chunksize)) == expected
    assert sorted(either.istarmap_unordered(tasks.add, iter(pairs), chunksize)) == expected


def test_istarmap_checks_its_arguments(either: Any) -> None:
    with pytest.raises(ValueError, match="Chunksize must be 1"):
        either.istarmap(tasks.add, [], 0)
    with pytest.raises(TypeError):
        list(either.istarmap(tasks.add, [1]))


def test_istarmap_with_a_full_buffer(either: Any) -> None:
    found = either.istarmap(tasks.add, ((x, 0) for x in range(30)), buffersize=2)
    assert list(found) == list(range(30))
