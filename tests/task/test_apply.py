"""apply and apply_async: one call in one worker."""

from __future__ import annotations

import functools
import operator
import os
import re
from collections.abc import Callable
from typing import Any

import pytest
import tasks
from engine import DEADLINE, Pool, RemoteTraceback, pool_module
from gates import Diary, Gate

CALLS: list[Any] = [
    (tasks.add, (1, 2), {}, 3),
    (tasks.add, (1,), {"b": 5}, 6),
    (tasks.add, (), {"a": 1, "b": 5}, 6),
    (tasks.add, (1,), {}, 11),
    (tasks.nothing, (), {}, None),
    (tasks.arguments, (), {}, ((), {})),
    (tasks.arguments, (1, [2]), {"x": {3}}, ((1, [2]), {"x": {3}})),
    (tasks.add, [1, 2], {}, 3),
    (tasks.arguments, "ab", {}, (("a", "b"), {})),
    (tasks.arguments, range(3), {}, ((0, 1, 2), {})),
    (tasks.arguments, {"k": 1}, {}, (("k",), {})),
    (len, ("abc",), {}, 3),
    (sorted, ([2, 1, 3],), {"reverse": True}, [3, 2, 1]),
    (str.upper, ("abc",), {}, "ABC"),
    ("abc".replace, ("b", "x"), {}, "axc"),
    (operator.itemgetter(1), ("abc",), {}, "b"),
    (functools.partial(tasks.add, 1), (), {"b": 2}, 3),
    (dict, (), {"a": 1}, {"a": 1}),
    (tasks.Point, (1, 2), {}, tasks.Point(1, 2)),
    (tasks.Point(1, 2).moved, (3,), {"dy": 4}, tasks.Point(4, 6)),
    (tasks.Point.at, (3,), {}, tasks.Point(3, 3)),
    (tasks.Point.norm, (3, 4), {}, 25),
    (tasks.Counter(), (), {}, 1),
]


@pytest.mark.parametrize(("func", "args", "kwds", "result"), CALLS)
def test_apply_and_apply_async_call_the_function(
    pool: Any, func: Any, args: Any, kwds: Any, result: Any
) -> None:
    assert pool.apply(func, args, kwds) == result
    assert pool.apply_async(func, args, kwds).get(DEADLINE) == result


def test_parameters_have_the_documented_names(pool: Any) -> None:
    assert pool.apply(func=tasks.add, args=(1,), kwds={"b": 2}) == 3
    seen: list[Any] = []
    result = pool.apply_async(
        func=tasks.add, args=(1,), kwds={"b": 2}, callback=seen.append, error_callback=seen.append
    )
    assert result.get(DEADLINE) == 3
    assert seen == [3]


def test_callbacks_by_position(pool: Any) -> None:
    good: list[Any] = []
    bad: list[Any] = []
    pool.apply_async(tasks.add, (1, 2), {}, good.append, bad.append).wait(DEADLINE)
    pool.apply_async(tasks.fail, (1,), {}, good.append, bad.append).wait(DEADLINE)
    assert good == [3]
    assert [(type(error), error.args) for error in bad] == [(ValueError, ("no 1",))]


def test_the_call_runs_in_a_worker(pool: Any) -> None:
    workers = {worker.pid for worker in pool._pool}
    assert os.getpid() not in workers
    assert pool.apply(tasks.pid) in workers


def test_the_caller_keeps_its_arguments(pool: Any) -> None:
    mine = [1]
    assert pool.apply(tasks.append, (mine, 2)) == [1, 2]
    assert mine == [1]


def test_arguments_are_taken_when_the_call_is_made(make_pool: Any, gate: Gate) -> None:
    """The only worker is busy: a waiting task is pickled at the call, or soon after."""
    pool = make_pool(1)
    first = pool.apply_async(tasks.held, (gate, "first"))
    later = [pool.apply_async(tasks.identity, ([i],)) for i in range(100)]
    gate.arrived()
    gate.open()
    assert first.get(DEADLINE) == "first"
    assert [result.get(DEADLINE) for result in later] == [[i] for i in range(100)]


def test_apply_async_does_not_wait(make_pool: Any, gate: Gate) -> None:
    pool = make_pool(1)
    result = pool.apply_async(tasks.held, (gate, "done"))
    gate.arrived()
    assert not result.ready()
    gate.open()
    assert result.get(DEADLINE) == "done"


def test_tasks_start_in_the_order_of_submission(make_pool: Any, diary: Diary) -> None:
    pool = make_pool(1)
    results = [pool.apply_async(tasks.noted, (diary, i)) for i in range(50)]
    assert [result.get(DEADLINE) for result in results] == list(range(50))
    assert diary.lines() == [str(i) for i in range(50)]


def test_tasks_may_finish_in_any_order(make_pool: Any, gate: Gate) -> None:
    pool = make_pool(2)
    slow = pool.apply_async(tasks.held, (gate, "slow"))
    gate.arrived()
    assert [pool.apply(tasks.square, (i,)) for i in range(20)] == [i * i for i in range(20)]
    assert not slow.ready()
    gate.open()
    assert slow.get(DEADLINE) == "slow"


def test_a_slow_task_does_not_delay_later_tasks(make_pool: Any, gate: Gate) -> None:
    """Tasks already sent to a busy worker must move to another worker."""
    pool = make_pool(2)
    quick = [pool.apply_async(tasks.square, (i,)) for i in range(30)]
    slow = pool.apply_async(tasks.held, (gate, "slow"))
    behind = [pool.apply_async(tasks.square, (i,)) for i in range(30)]
    for results in quick, behind:
        assert [result.get(DEADLINE) for result in results] == [i * i for i in range(30)]
    assert not slow.ready()
    gate.open()
    assert slow.get(DEADLINE) == "slow"


def test_every_worker_is_used(make_pool: Any, gate: Gate) -> None:
    pool = make_pool(4)
    results = [pool.apply_async(tasks.held_pid, (gate,)) for _ in range(4)]
    assert set(gate.arrived(4)) == {worker.pid for worker in pool._pool}
    gate.open()
    assert len({result.get(DEADLINE) for result in results}) == 4


def test_two_threads_of_the_parent_use_one_pool(pool: Any, in_threads: Any) -> None:
    def work(number: int) -> list[int]:
        return [pool.apply(tasks.add, (number, i)) for i in range(100)]

    assert in_threads(work, range(4)) == [[n + i for i in range(100)] for n in range(4)]


# Failures of the call


def test_the_exception_of_the_function_is_raised(pool: Any) -> None:
    with pytest.raises(ValueError, match="^no 7$") as caught:
        pool.apply(tasks.fail, (7,))
    assert caught.value.args == ("no 7",)


def test_an_exception_keeps_its_attributes(pool: Any) -> None:
    with pytest.raises(tasks.Refused) as caught:
        pool.apply(tasks.make_and_raise, (tasks.Refused, 4, "why"))
    assert (caught.value.code, caught.value.reason) == (4, "why")


def test_the_cause_is_the_traceback_in_the_worker(pool: Any) -> None:
    with pytest.raises(ValueError) as caught:
        pool.apply(tasks.fail, (7,))
    cause: Any = caught.value.__cause__
    assert type(cause) is RemoteTraceback
    text = cause.tb
    assert str(cause) == text
    assert text.startswith('\n"""\nTraceback (most recent call last):\n')
    assert text.endswith('"""')
    last = text.splitlines()[-2]
    assert last == "ValueError: no 7" or last.startswith("in Pool.apply(tasks.fail), worker ")
    assert f'File "{tasks.__file__}", line ' in text
    assert 'raise ValueError(f"no {x}")' in text


def test_the_only_cause_of_an_exception_is_the_remote_traceback(pool: Any) -> None:
    with pytest.raises(ValueError) as caught:
        pool.apply(tasks.fail, (7,))
    assert caught.value.__context__ is None
    assert caught.value.__cause__ is not None
    assert caught.value.__cause__.__cause__ is None


@pytest.mark.parametrize(
    ("func", "args", "kwds"),
    [
        (tasks.add, (), {}),
        (tasks.add, (1, 2, 3), {}),
        (tasks.add, (1,), {"c": 2}),
        (tasks.add, None, {}),
        (tasks.add, 5, {}),
        (tasks.add, (1,), None),
        (tasks.add, (1,), 5),
        (tasks.add, (1,), {1: 2}),
        (len, None, {}),
        (5, (), {}),
        (None, (1,), {}),
    ],
)
def test_a_wrong_call_fails_as_a_local_call_does(
    pool: Any, func: Any, args: Any, kwds: Any
) -> None:
    with pytest.raises(TypeError) as here:
        func(*args, **kwds)
    with pytest.raises(TypeError, match="^" + re.escape(str(here.value)) + "$") as there:
        pool.apply(func, args, kwds)
    assert type(there.value.__cause__) is RemoteTraceback


@pytest.mark.parametrize("args", [(), (1, 2, 3, 4, 5, 6)])
def test_a_call_without_the_parameters_is_refused_at_once(pool: Any, args: Any) -> None:
    with pytest.raises(TypeError, match="argument"):
        pool.apply(*args)


def test_the_pool_works_after_a_failure(pool: Any) -> None:
    workers = [worker.pid for worker in pool._pool]
    for i in range(20):
        with pytest.raises(ValueError, match=f"^no {i}$"):
            pool.apply(tasks.fail, (i,))
    assert pool.apply(tasks.add, (1, 2)) == 3
    assert [worker.pid for worker in pool._pool] == workers


def test_a_blocked_apply_ends_with_its_own_task(
    make_pool: Any, gate: Gate, in_threads: Callable[..., list[Any]]
) -> None:
    """Two threads wait at once, each for its own task."""
    pool = make_pool(2)

    def work(which: int) -> Any:
        if which == 0:
            return pool.apply(tasks.held, (gate, "held"))
        gate.arrived()
        quick = pool.apply(tasks.square, (3,))
        gate.open()
        return quick

    assert in_threads(work, range(2)) == ["held", 9]


@pytest.mark.parametrize("items", [[], ["abc"], [(1, 2, abs, (3,), {})], [(i,) for i in range(50)]])
@pytest.mark.parametrize("method", ["apply", "map", "starmap", "imap", "imap_unordered"])
@pytest.mark.parametrize("cls", [Pool, pool_module.ThreadPool])
def test_none_as_the_function(make_pool: Any, cls: Any, method: str, items: list[Any]) -> None:
    """Items that look like the stdlib's own tasks are items as well."""
    pool = make_pool(2, cls=cls)
    calls = [getattr(pool, method)]
    if not method.startswith("imap"):
        calls.append(lambda *args: getattr(pool, f"{method}_async")(*args).get(DEADLINE))
    for call in calls:
        if not items and method != "apply":
            assert list(call(None, items)) == []
            continue
        with pytest.raises(TypeError, match=r"^'NoneType' object is not callable$"):
            list(call(None, items))
    assert list(pool.map(abs, [-1, 2])) == [1, 2]
