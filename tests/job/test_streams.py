"""stream, flatmap and flatmap_unordered: what generators in workers yield, as it is yielded."""

from __future__ import annotations

import asyncio
import functools
import gc
import itertools
import multiprocessing
import random
import signal
import threading
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import engine
import pytest
import tasks
import yielders
from checks import whole_again
from engine import DEADLINE, errors
from gates import Diary, Gate, eventually
from leftovers import all_freed

pytestmark = pytest.mark.better

KINDS = ["processes", "threads", "serial"]
FLATMAPS = ["flatmap", "flatmap_unordered"]
flatmaps = pytest.mark.parametrize("method", FLATMAPS)


@pytest.fixture(params=KINDS)
def any_pool(request: pytest.FixtureRequest, make_pool: Any) -> Any:
    return pool_of(make_pool, request.param)


@pytest.fixture(params=KINDS[:2])
def working_pool(request: pytest.FixtureRequest, make_pool: Any) -> Any:
    """A pool whose tasks run while the test goes on."""
    return pool_of(make_pool, request.param)


def pool_of(make_pool: Any, kind: str, number: int = 2, **kwds: Any) -> Any:
    if kind == "serial":
        return make_pool(number, serial=True, **kwds)
    cls = engine.pool_module.ThreadPool if kind == "threads" else engine.Pool
    return make_pool(number, cls=cls, **kwds)


def read(values: Any) -> tuple[list[Any], BaseException | None]:
    """Read to the end; return the values and the final exception."""
    found = []
    try:
        while True:
            found.append(values.next(DEADLINE) if hasattr(values, "next") else next(values))
    except StopIteration:
        return found, None
    except Exception as exc:
        return found, exc


# Values


@pytest.mark.parametrize("number", [0, 1, 3, 63, 64, 65, 1000])
def test_all_values_come_in_order(any_pool: Any, number: int) -> None:
    assert list(any_pool.stream(yielders.count, (number,))) == list(range(number))


@pytest.mark.parametrize("ahead", [1, 2, 3, 1000])
def test_any_buffer_size_gives_the_same(any_pool: Any, ahead: int) -> None:
    values = any_pool.stream(yielders.count, (200,), buffersize=ahead)
    assert list(values) == list(range(200))
    items = [5, 0, 70, 1]
    expected = [x for n in items for x in range(n)]
    assert list(any_pool.flatmap(yielders.count, items, buffersize=ahead)) == expected
    found = list(any_pool.flatmap_unordered(yielders.count, items, buffersize=ahead))
    assert sorted(found) == sorted(expected)


def test_arguments_are_passed(any_pool: Any) -> None:
    assert list(any_pool.stream(yielders.count_from, (5,), {"number": 2})) == [5, 6]
    assert list(any_pool.stream(func=yielders.count_from, args=[5], kwds={})) == [5, 6, 7]


def test_any_iterable_can_be_returned(any_pool: Any, diary: Diary) -> None:
    assert list(any_pool.stream(yielders.listed, (5,))) == [0, 1, 2, 3, 4]
    assert list(any_pool.stream(range, (1000,))) == list(range(1000))
    assert list(any_pool.flatmap(str, [12, 345])) == ["1", "2", "3", "4", "5"]


def test_what_is_not_iterable_is_an_error(any_pool: Any) -> None:
    found, error = read(any_pool.stream(abs, (-1,)))
    assert found == []
    assert isinstance(error, TypeError)


def test_no_inputs_give_no_values(any_pool: Any) -> None:
    assert list(any_pool.flatmap(yielders.count, [])) == []
    assert list(any_pool.flatmap_unordered(yielders.count, iter([]))) == []


@pytest.mark.parametrize("size", [1000, 70_000, 3_000_000])
def test_large_values_come(any_pool: Any, size: int) -> None:
    found = list(any_pool.stream(yielders.bodies, (5, size), buffersize=2))
    assert found == list(yielders.bodies(5, size))


def test_flatmap_keeps_the_order_of_the_inputs(any_pool: Any) -> None:
    items = list(range(100))
    expected = [x for n in items for x in range(n)]
    assert list(any_pool.flatmap(yielders.count, iter(items))) == expected


def test_the_values_of_each_input_are_in_order(any_pool: Any) -> None:
    found = list(any_pool.flatmap_unordered(yielders.many, range(20)))
    for number in range(20):
        assert [x for n, x in found if n == number] == list(range(200))
    assert len(found) == 20 * 200


def test_values_come_while_the_generator_runs(working_pool: Any, gate: Gate) -> None:
    values = working_pool.stream(yielders.hold_between, (gate,))
    assert values.next(DEADLINE) == "before"
    gate.arrived()
    with pytest.raises(multiprocessing.TimeoutError):
        values.next(0.01)
    gate.open()
    assert list(values) == ["after"]


def test_unordered_values_do_not_wait_for_the_first_input(working_pool: Any, gate: Gate) -> None:
    values = working_pool.flatmap_unordered(yielders.hold_if_first, [(gate, 0), (gate, 1)])
    assert [values.next(DEADLINE) for _ in range(3)] == [10, 11, 12]
    gate.open()
    assert list(values) == [0, 1, 2]


def test_ordered_values_wait_for_the_first_input(working_pool: Any, gate: Gate) -> None:
    values = working_pool.flatmap(yielders.hold_if_first, [(gate, n) for n in range(3)])
    gate.arrived()
    with pytest.raises(multiprocessing.TimeoutError):
        values.next(0.01)
    gate.open()
    assert list(values) == [0, 1, 2, 10, 11, 12, 20, 21, 22]


def test_values_of_any_kind(any_pool: Any) -> None:
    found = list(any_pool.stream(yielders.of_any_kind))
    assert [type(x) for x in found[1:4]] == [StopIteration, ValueError, GeneratorExit]
    assert [found[1].args, found[2].args] == [(3,), ("a value",)]
    assert (found[0], found[4:]) == (None, [(), NotImplemented, StopIteration])


def test_a_generator_that_raises_stop_iteration_fails(any_pool: Any) -> None:
    found, error = read(any_pool.stream(yielders.ends_like_another, (2,)))
    assert (found, type(error)) == ([0, 1], RuntimeError)


def test_a_loop_that_is_left_early_can_be_begun_again(make_pool: Any) -> None:
    """The next generator goes on in the same worker, with what that has kept."""
    for kind in KINDS[:2]:
        pool = pool_of(make_pool, kind, 1)
        last, pids = 0, set()
        for _ in range(5):
            for pid, number in pool.stream(yielders.next_epoch, buffersize=4):
                assert number > last
                pids.add(pid)
                last = number
                if number % 3 == 0:
                    break
        assert len(pids) == 1


@pytest.mark.parametrize("kind", KINDS[:2])
def test_a_generator_may_have_a_pool_of_its_own(make_pool: Any, kind: str) -> None:
    pool = make_pool(1, daemon=False)
    expected = [x * x for x in range(20)] + list(range(20))
    assert list(pool.stream(yielders.by_a_pool, (kind, 20), buffersize=3)) == expected
    values = pool.stream(yielders.by_a_pool, (kind, 20), buffersize=3)
    assert next(values) == 0
    values.close()  # its pool is terminated in the worker
    assert list(pool.stream(yielders.count, (3,))) == [0, 1, 2]


# The bound


@pytest.mark.parametrize("ahead", [1, 2, 7, 64])
def test_a_generator_is_no_further_ahead(any_pool: Any, diary: Diary, ahead: int) -> None:
    values = any_pool.stream(yielders.endless, (diary,), buffersize=ahead)
    for taken in [0, 1, 10]:
        for _ in range(taken):
            next(values)
        if not any_pool._serial:
            # It may be told of half of the buffer at once.
            least = sum(x for x in (0, 1, 10) if x <= taken) + ahead - max(ahead // 2, 0)
            eventually(lambda n=least: len(diary.lines()) >= n)
    assert len(diary.lines()) <= 11 + ahead
    values.close()


@flatmaps
def test_the_inputs_that_are_pulled_are_bounded(any_pool: Any, method: str) -> None:
    pulled: list[int] = []
    source = (pulled.append(x) or 100 for x in itertools.count())
    values = getattr(any_pool, method)(yielders.count, source, buffersize=5)
    for _ in range(250):
        next(values)
    assert len(pulled) <= 3 + 5 + 1
    values.close()


def test_a_call_goes_on_though_readers_hold_all_workers(make_pool: Any) -> None:
    for kind in KINDS:
        pool = pool_of(make_pool, kind, 1)
        found = []
        for x in pool.stream(yielders.count, (100,), buffersize=8):
            if x == 50:
                found.append(pool.apply_async(tasks.square, (x,)).get(DEADLINE))
        assert found == [2500]


def test_a_submission_goes_on_though_readers_hold_all_workers(make_pool: Any) -> None:
    """It waits because of max_pending, and the thread that waits is the reader."""
    for kind in KINDS[:2]:
        pool = pool_of(make_pool, kind, 1, max_pending=1)
        values = pool.stream(yielders.count, (40,), buffersize=8)
        assert next(values) == 0
        results = [pool.apply_async(tasks.square, (x,)) for x in range(3)]
        assert [result.get(DEADLINE) for result in results] == [0, 1, 4]
        assert list(values) == list(range(1, 40))


def test_an_awaited_call_goes_on_though_readers_hold_all_workers(make_pool: Any) -> None:
    """No thread waits for the coroutine's call, and all generators wait for their readers."""

    async def call(pool: Any) -> Any:
        return await asyncio.wait_for(pool.apply_async(tasks.square, (4,)), DEADLINE)

    for kind in ("processes", "threads"):
        pool = pool_of(make_pool, kind, 2)
        streams = [pool.stream(yielders.count, (100,), buffersize=2) for _ in range(2)]
        for values in streams:
            assert next(values) == 0
        assert asyncio.run(call(pool)) == 16
        assert [list(values) for values in streams] == [list(range(1, 100))] * 2


def test_more_streams_than_workers_can_be_read_in_turns(any_pool: Any) -> None:
    streams = [any_pool.stream(yielders.count, (40,), buffersize=8) for _ in range(5)]
    assert list(zip(*streams, strict=True)) == [(i,) * 5 for i in range(40)]


# The end, from the reader's side


def is_over(diary: Diary) -> Callable[[], bool]:
    return lambda: diary.lines()[-1:] == ["finally"]


@pytest.mark.parametrize("taken", [0, 1, 100])
def test_close_ends_the_generator(any_pool: Any, diary: Diary, taken: int) -> None:
    values = any_pool.stream(yielders.endless, (diary,))
    for _ in range(taken):
        next(values)
    if not any_pool._serial:
        eventually(diary.lines)
    values.close()
    if taken > 0 or not any_pool._serial:
        eventually(is_over(diary))
        assert diary.lines()[-2] == "closed"
    assert list(values) == []
    values.close()
    assert list(any_pool.stream(yielders.count, (3,))) == [0, 1, 2]  # its worker is free


@pytest.mark.parametrize("taken", [0, 1, 100])
def test_dropping_it_ends_the_generator(any_pool: Any, diary: Diary, taken: int) -> None:
    values = any_pool.stream(yielders.endless, (diary,))
    for _ in range(taken):
        next(values)
    if not any_pool._serial:
        eventually(diary.lines)
    gone = weakref.ref(values)
    del values
    all_freed([gone])
    if taken > 0 or not any_pool._serial:
        eventually(is_over(diary))
    assert list(any_pool.stream(yielders.count, (3,))) == [0, 1, 2]


@flatmaps
def test_dropping_a_flatmap_ends_all_of_it(any_pool: Any, diary: Diary, method: str) -> None:
    ended = threading.Event()

    def source() -> Iterator[Diary]:
        try:
            while True:
                yield diary
        finally:
            ended.set()

    values = getattr(any_pool, method)(yielders.endless, source(), buffersize=3)
    assert next(values) == 0
    del values
    gc.collect()
    # Not wait(): without the GIL this thread closes the generator, in between its own code.
    eventually(ended.is_set)
    eventually(lambda: diary.lines().count("finally") == diary.lines().count("0") > 0)


def test_an_iterator_of_any_class_is_closed(any_pool: Any, diary: Diary) -> None:
    values = any_pool.stream(yielders.Closing, (diary,))
    assert [next(values) for _ in range(3)] == [1, 2, 3]
    values.close()
    eventually(lambda: diary.lines() == ["closed"])


def test_close_that_fails_leaves_the_worker(make_pool: Any, diary: Diary) -> None:
    pool = make_pool(1)
    first = pool.apply(tasks.pid)
    values = pool.stream(yielders.ClosingBadly, (diary,))
    assert next(values) == 1
    values.close()
    assert pool.apply_async(tasks.pid).get(DEADLINE) == first
    assert diary.lines() == ["closed"]


def test_terminate_ends_a_generator_that_waits(any_pool: Any, diary: Diary) -> None:
    values = any_pool.stream(yielders.endless, (diary,), buffersize=1)
    assert next(values) == 0
    any_pool.terminate()
    any_pool.join()
    _, error = read(values)
    assert isinstance(error, errors.PoolTerminated)


def test_join_waits_for_a_reader(any_pool: Any, in_threads: Any) -> None:
    values = any_pool.stream(yielders.count, (300,), buffersize=4)
    first = [next(values), next(values)]
    any_pool.close()
    if any_pool._serial:
        rest = list(values)
        any_pool.join()
    else:
        rest, _ = in_threads(lambda work: work(), [lambda: list(values), any_pool.join])
    assert first + rest == list(range(300))


def test_join_ends_what_nobody_reads(any_pool: Any, diary: Diary) -> None:
    values = any_pool.stream(yielders.endless, (diary,), buffersize=4)
    assert next(values) == 0
    any_pool.close()
    any_pool.join()
    assert diary.lines()[-1] == "finally"
    found, error = read(values)
    assert found == ([] if any_pool._serial else [1, 2, 3, 4][: len(found)])
    assert isinstance(error, errors.PoolError)
    assert "stream" in str(error)


def test_join_ends_what_nobody_reads_although_signals_come(working_pool: Any, diary: Diary) -> None:
    """More often than the time that a reader has to come back."""
    values = working_pool.stream(yielders.endless, (diary,), buffersize=4)
    assert next(values) == 0
    main, joined = threading.get_ident(), threading.Event()

    def send_signals() -> None:
        while not joined.wait(0.02):
            signal.pthread_kill(main, signal.SIGUSR1)

    before = signal.signal(signal.SIGUSR1, lambda *_: None)
    sender = threading.Thread(target=send_signals)
    sender.start()
    try:
        working_pool.close()
        working_pool.join(timeout=DEADLINE)
    finally:
        joined.set()
        sender.join()
        signal.signal(signal.SIGUSR1, before)
    assert diary.lines()[-1] == "finally"


def test_restarted_workers_finish_their_streams(make_pool: Any) -> None:
    pool = make_pool(2)
    values = [pool.stream(yielders.count, (500,), buffersize=4) for _ in range(2)]
    assert [next(v) for v in values] == [0, 0]
    pool.restart_workers()
    assert [list(v) for v in values] == [list(range(1, 500))] * 2
    pool.resize(1)
    assert list(pool.stream(yielders.count, (100,), buffersize=4)) == list(range(100))


# Failures


@pytest.mark.parametrize("number", [0, 1, 5, 100])
def test_a_failure_comes_after_the_values(any_pool: Any, number: int) -> None:
    values = any_pool.stream(yielders.then_fail, (number,))
    found, error = read(values)
    assert found == list(range(number))
    assert isinstance(error, KeyError)
    assert error.args == (number,)
    assert list(values) == []


def test_a_failure_says_where_and_after_how_many_values(make_pool: Any) -> None:
    pool = make_pool(1)
    _, error = read(pool.stream(yielders.then_fail, (3,)))
    assert "in Pool.stream(yielders.then_fail), after 3 values, worker 0" in str(error.__cause__)
    _, error = read(pool.flatmap(yielders.then_fail, [1]))
    assert "in item 0 of Pool.flatmap(yielders.then_fail), after 1 value," in str(error.__cause__)
    values = pool.flatmap_unordered(yielders.fail_at_once, [1])
    _, error = read(values)
    assert "after 0 values" in str(error.__cause__)


def test_the_inputs_after_a_failure_go_on(any_pool: Any) -> None:
    values = any_pool.flatmap(yielders.then_fail, [2, 0, 1])
    assert read(values)[0] == [0, 1]
    assert read(values)[0] == []
    assert read(values)[0] == [0]
    assert read(values) == ([], None)


def test_exceptions_can_be_values(any_pool: Any) -> None:
    found = list(any_pool.flatmap(yielders.then_fail, [2, 1], return_exceptions=True))
    assert [found[0], found[1], found[3]] == [0, 1, 0]
    assert [type(found[i]) for i in (2, 4)] == [KeyError, KeyError]


@flatmaps
def test_the_first_failure_can_end_all(any_pool: Any, method: str) -> None:
    values = getattr(any_pool, method)(
        yielders.then_fail, itertools.repeat(1), buffersize=2, fail_fast=True
    )
    found, error = read(values)
    assert isinstance(error, KeyError)
    assert set(found) <= {0}
    assert list(values) == []


def test_a_source_that_fails_ends_it(any_pool: Any) -> None:
    values = any_pool.flatmap(yielders.count, tasks.then_raise([2, 1], OSError("source")))
    found, error = read(values)
    assert found == [0, 1, 0]
    assert isinstance(error, OSError)


def test_a_value_that_cannot_be_pickled_ends_it(make_pool: Any) -> None:
    pool = make_pool(1)
    found, error = read(pool.stream(yielders.with_unpicklable, (3,)))
    assert found == [0, 1, 2]
    assert isinstance(error, engine.MaybeEncodingError)
    assert list(pool.stream(yielders.count, (3,))) == [0, 1, 2]


def test_a_value_that_cannot_be_rebuilt_is_one_failure(make_pool: Any) -> None:
    pool = make_pool(1)
    values = pool.stream(yielders.with_one_that_breaks, (2,))
    assert read(values)[0] == [0, 1]
    assert read(values) == (["last"], None)


@pytest.mark.parametrize("number", [0, 1, 5, 64])
def test_a_lost_worker_comes_after_its_values(make_pool: Any, number: int) -> None:
    pool = make_pool(2)
    found, error = read(pool.stream(yielders.then_die, (number,)))
    assert found == list(range(number))
    assert isinstance(error, errors.WorkerLostError)
    assert f"after {number} value" in str(error)
    assert error.index is None
    found, error = read(pool.flatmap(yielders.then_die, [number]))
    assert found == list(range(number))
    assert error.index == 0  # type: ignore[union-attr]
    whole_again(pool, 2)


def test_what_was_lost_before_it_yielded_can_be_run_again(make_pool: Any, tmp_path: Any) -> None:
    pool = make_pool(2)
    values = pool.stream(yielders.die_unless_second, (str(tmp_path / "a"),), retries=1)
    assert list(values) == [0, 1, 2]
    values = pool.stream(
        yielders.fail_unless_second, (str(tmp_path / "b"),), retries=1, retry_on=ValueError
    )
    assert list(values) == [0, 1, 2]


def test_what_has_yielded_is_not_run_again(make_pool: Any, diary: Diary) -> None:
    pool = make_pool(2)
    found, error = read(pool.stream(yielders.then_die, (2,), retries=5))
    assert (found, type(error)) == ([0, 1], errors.WorkerLostError)
    values = pool.stream(yielders.yield_then_fail, (diary,), retries=5, retry_on=ValueError)
    found, error = read(values)
    assert (found, type(error)) == ([1], ValueError)
    assert diary.lines() == ["begun"]


def test_a_time_limit_holds_for_each_value(make_pool: Any, diary: Diary) -> None:
    pool = make_pool(1)
    found, error = read(pool.stream(yielders.stuck_after, (3,), task_timeout=1.0))
    assert found == [0, 1, 2]
    assert isinstance(error, errors.TaskTimeoutError)
    assert "after 3 values" in str(error)


def test_waiting_for_the_reader_is_not_counted(make_pool: Any, diary: Diary) -> None:
    pool = make_pool(1)
    values = pool.stream(yielders.endless, (diary,), buffersize=1, task_timeout=1.0)
    assert next(values) == 0
    eventually(lambda: len(diary.lines()) == 2)
    threading.Event().wait(1.5)  # longer than the limit
    assert [next(values) for _ in range(20)] == list(range(1, 21))


def test_a_pool_that_is_broken_raises_its_error(make_pool: Any) -> None:
    pool = make_pool(1, tasks.fail)
    _, error = read(pool.stream(yielders.count, (1,)))
    assert isinstance(error, errors.InitializerError)


def test_a_task_that_forks(make_pool: Any) -> None:
    pool = make_pool(1)
    assert list(pool.stream(yielders.fork_after, (3,))) == [0, 1, 2, 3, 4]


# Parameters


@pytest.mark.parametrize(
    ("size", "error"), [(0, ValueError), (-1, ValueError), (1.5, TypeError), ("1", TypeError)]
)
def test_a_wrong_buffersize_is_refused(any_pool: Any, size: Any, error: Any) -> None:
    with pytest.raises(error, match="buffersize"):
        any_pool.stream(yielders.count, (1,), buffersize=size)
    for method in FLATMAPS:
        with pytest.raises(error, match="buffersize"):
            getattr(any_pool, method)(yielders.count, [1], buffersize=size)


def test_a_closed_pool_takes_none(any_pool: Any) -> None:
    any_pool.close()
    with pytest.raises(ValueError, match="not running"):
        any_pool.stream(yielders.count, (1,))
    with pytest.raises(ValueError, match="not running"):
        any_pool.flatmap(yielders.count, [1])


def test_a_stream_can_have_its_worker(make_pool: Any) -> None:
    pool = make_pool(2)
    pids = pool.broadcast(tasks.pid)
    for index in 0, 1, 1, 0:
        assert set(pool.stream(yielders.pid_of, (3,), worker=index)) == {pids[index]}
    assert len({next(pool.stream(yielders.pid_of, (1,), key="k")) for _ in range(5)}) == 1
    with pytest.raises(ValueError, match="single calls"):
        pool.flatmap(yielders.count, [1], worker=0)


def test_options_of_a_configured_pool(make_pool: Any) -> None:
    pool = make_pool(1).options(return_exceptions=True)
    found = list(pool.stream(yielders.then_fail, (1,)))
    assert found[0] == 0
    assert isinstance(found[1], KeyError)


def test_progress_counts_inputs(any_pool: Any) -> None:
    told: list[tuple[int, int | None]] = []
    values = any_pool.flatmap(
        yielders.count, [3, 4], progress=lambda done, total: told.append((done, total))
    )
    assert list(values) == [0, 1, 2, 0, 1, 2, 3]
    eventually(lambda: told[-1:] == [(2, 2)])


def test_the_context_goes_with_it(make_pool: Any) -> None:
    for kind in KINDS:
        pool = pool_of(make_pool, kind, 1, propagate_context=True)
        token = yielders.SPOT.set(kind)
        values = pool.stream(yielders.spots, (3,))
        yielders.SPOT.reset(token)
        assert list(values) == [kind] * 3


def test_one_task_for_maxtasksperchild(make_pool: Any) -> None:
    pool = make_pool(1, maxtasksperchild=2)
    pids = [set(pool.stream(yielders.pid_of, (100,))) for _ in range(4)]
    assert [len(p) for p in pids] == [1] * 4
    assert pids[0] == pids[1] != pids[2] == pids[3]


# Asynchronous generators and readers


@pytest.mark.parametrize("number", [0, 1, 200])
def test_an_asynchronous_generator(any_pool: Any, number: int) -> None:
    assert list(any_pool.stream(yielders.count_async, (number,))) == list(range(number))
    assert list(any_pool.flatmap(yielders.count_async, [number, 2])) == [*range(number), 0, 1]


def test_an_asynchronous_generator_that_fails(any_pool: Any) -> None:
    found, error = read(any_pool.stream(yielders.fail_async, (2,)))
    assert (found, type(error)) == ([0, 1], KeyError)


def test_an_asynchronous_generator_is_closed(any_pool: Any, diary: Diary) -> None:
    values = any_pool.stream(yielders.endless_async, (diary,))
    assert [next(values) for _ in range(100)] == list(range(100))
    values.close()
    eventually(lambda: diary.lines() == ["finally"])
    assert list(any_pool.stream(yielders.count_async, (3,))) == [0, 1, 2]


def test_reading_in_a_coroutine(any_pool: Any) -> None:
    async def main() -> None:
        async def all_of(values: Any) -> list[int]:
            return [x async for x in values]

        streams = [any_pool.stream(yielders.count, (200,)) for _ in range(3)]
        assert await asyncio.gather(*map(all_of, streams)) == [list(range(200))] * 3
        values = any_pool.flatmap(yielders.count_async, [3, 4])
        assert await all_of(values) == [0, 1, 2, 0, 1, 2, 3]
        with pytest.raises(KeyError):
            await all_of(any_pool.stream(yielders.then_fail, (70,)))

    asyncio.run(asyncio.wait_for(main(), DEADLINE))


def test_a_coroutine_that_is_cancelled_ends_it(working_pool: Any, gate: Gate) -> None:
    async def main() -> None:
        values = working_pool.stream(yielders.hold_between, (gate,))
        assert await anext(values) == "before"
        waiting = asyncio.create_task(anext(values))
        await asyncio.sleep(0)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        with pytest.raises(StopAsyncIteration):
            await anext(values)

    asyncio.run(main())
    gate.open()
    assert list(working_pool.stream(yielders.count, (2,))) == [0, 1]


# Many at once


def test_threads_share_an_iterator(working_pool: Any, in_threads: Any) -> None:
    values = working_pool.stream(yielders.count, (1000,))
    parts = in_threads(lambda _: list(values), range(3))
    assert sorted(x for part in parts for x in part) == list(range(1000))
    assert all(part == sorted(part) for part in parts)


def test_many_streams_while_workers_are_killed(make_pool: Any, in_threads: Any) -> None:
    pool = make_pool(3)
    rng = random.Random(18)
    over = threading.Event()

    def work(number: int) -> int:
        """Read one stream; return how often it was lost."""
        tries = 0
        while True:
            found, error = read(pool.stream(yielders.many, (number,), buffersize=8))
            assert found == [(number, i) for i in range(len(found))]
            if error is None:
                assert len(found) == 200
                return tries
            assert isinstance(error, errors.WorkerLostError)
            tries += 1

    def kill(_: Any) -> int:
        for _ in range(12):
            rng.choice(eventually(lambda: list(pool._pool))).kill()
            over.wait(0.02)
        return 0

    def run(job: Callable[[], int]) -> int:
        return job()

    jobs = [functools.partial(work, number) for number in range(16)]
    in_threads(run, [*jobs, functools.partial(kill, None)])
    whole_again(pool, 3)
