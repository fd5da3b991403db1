"""`task_timeout=`, `grace=`, `retries=`, `retry_on=` and `pool.options()`."""

from __future__ import annotations

import contextlib
import ctypes
import multiprocessing
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import Any

import engine
import pytest
import tasks
from engine import DEADLINE, Pool
from gates import Diary, Gate, all_gone, eventually

pytestmark = pytest.mark.better

errors = engine.errors
ThreadPool = engine.pool_module.ThreadPool
LIMIT = 0.1


# A busy machine may have no time for a quick task within the shortest of these.
LIMITS = LIMIT, 5 * LIMIT, 25 * LIMIT


def late_ones(call: Callable[[float], list[Any]], number: int) -> list[Any]:
    """call(limit) with the shortest limit for which no more tasks than `number` are late."""
    for limit in LIMITS:
        found = call(limit)
        if sum(type(each) is errors.TaskTimeoutError for each in found) == number:
            break
    return found


def check_timeout(call: Callable[[], Any]) -> Any:
    """The call ends after its limit, and not before."""
    began = time.monotonic()
    with pytest.raises(errors.TaskTimeoutError) as caught:
        call()
    error: Any = caught.value
    assert LIMIT <= time.monotonic() - began < DEADLINE
    assert error.limit == LIMIT
    assert error.seconds >= LIMIT
    return error


# What runs out of time


def compute() -> None:
    while True:
        pass


def sleep() -> None:
    time.sleep(1000)


def compute_in_c() -> int:
    return int(pow(3, 10**9, 10**400_000))


def block_signals() -> None:
    signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    sleep()


def stop_itself() -> None:
    os.kill(os.getpid(), signal.SIGSTOP)


def ignore_signals() -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGURG, signal.SIG_IGN)
    sleep()


def wait_for_a_signal() -> None:
    signal.pause()  # which the question for the stack interrupts


def wait_for_a_thread() -> None:
    thread = threading.Thread(target=sleep)
    thread.start()
    thread.join()


@pytest.mark.parametrize(
    "func",
    [
        compute,
        sleep,
        compute_in_c,
        block_signals,
        stop_itself,
        ignore_signals,
        wait_for_a_signal,
        wait_for_a_thread,
    ],
)
def test_a_limit_ends_a_task(make_pool: Any, func: Any) -> None:
    pool = make_pool(2)
    error = check_timeout(lambda: pool.apply(func, task_timeout=LIMIT))
    assert error.exitcode == -signal.SIGKILL
    assert f"Pool.apply(test_limits_of_time.{func.__name__}) ran for" in str(error)
    assert pool.apply(tasks.square, (3,), task_timeout=DEADLINE) == 9


def fork_children(diary: Diary) -> None:
    for _ in range(2):
        diary.write(subprocess.Popen(["sleep", "1000"]).pid)
    if (pid := os.fork()) == 0:
        sleep()
    diary.write(pid)
    sleep()


@pytest.mark.skipif(engine.PORTABLE, reason="needs /proc")
def test_the_processes_of_a_task_end_with_it(make_pool: Any, diary: Diary) -> None:
    pool = make_pool(1)
    for limit in LIMITS:
        before = len(diary.lines())
        with pytest.raises(errors.TaskTimeoutError):
            pool.apply(fork_children, (diary,), task_timeout=limit)
        pids = [int(line) for line in diary.lines()[before:]]
        all_gone(pids)
        if len(pids) == 3:
            break
    assert len(pids) == 3


def nap(seconds: float) -> float:
    time.sleep(seconds)
    return seconds


@pytest.mark.parametrize("method", ["map", "map_async", "imap", "imap_unordered"])
def test_only_the_item_that_is_late_fails(make_pool: Any, method: str) -> None:
    pool = make_pool(2)
    items = [0.0] * 20 + [1000.0] + [0.0] * 20

    def call(limit: float) -> list[Any]:
        found = getattr(pool, method)(nap, items, task_timeout=limit, return_exceptions=True)
        return list(found.get(DEADLINE) if method == "map_async" else found)

    values = late_ones(call, 1)
    [late] = [value for value in values if value != 0.0]
    assert (type(late), late.index, late.function) == (
        errors.TaskTimeoutError,
        20,
        "test_limits_of_time.nap",
    )
    assert len(values) == 41


def test_the_time_counts_from_the_begin_of_a_task(make_pool: Any) -> None:
    """Together the tasks take longer than the limit, and some wait for longer than the limit."""
    assert make_pool(1).map(nap, [LIMIT / 2] * 5, task_timeout=LIMIT * 10) == [LIMIT / 2] * 5


def fail_or_sleep(x: int) -> None:
    if x == 0:
        raise KeyError(x)
    sleep()


def test_the_limit_holds_when_the_call_has_ended(make_pool: Any) -> None:
    """A task that still runs is killed all the same, or its worker would be lost."""
    pool = make_pool(2)
    with pytest.raises((KeyError, errors.TaskTimeoutError)):  # whichever is first
        pool.map(fail_or_sleep, range(2), task_timeout=LIMIT, fail_fast=True)
    pool.apply_async(sleep, task_timeout=LIMIT).cancel(kill=False)
    iterator = pool.imap(fail_or_sleep, [1], task_timeout=LIMIT)
    iterator.close()
    pool.close()
    pool.join(DEADLINE)


def test_each_item_of_a_chunk_has_the_limit(make_pool: Any) -> None:
    pool = make_pool(1)
    assert pool.map(nap, [0.3] * 4, 4, task_timeout=1.1) == [0.3] * 4
    with pytest.raises(errors.TaskTimeoutError) as caught:
        pool.map(nap, [0, 0, 1000, 0], 4, task_timeout=5 * LIMIT)
    assert caught.value.index == 2
    assert "items 0 to 3, its chunk, are lost" in str(caught.value)


def test_nobody_waits_for_the_pool(make_pool: Any) -> None:
    result = make_pool(1).apply_async(sleep, task_timeout=LIMIT)
    eventually(result.ready)
    with pytest.raises(TimeoutError):
        result.get()


def test_the_error_survives_pickling(make_pool: Any) -> None:
    error = check_timeout(lambda: make_pool(1).apply(sleep, task_timeout=LIMIT))
    again = pickle.loads(pickle.dumps(error))
    assert (type(again), str(again), vars(again)) == (type(error), str(error), vars(error))
    assert isinstance(error, (errors.WorkerLostError, TimeoutError))


@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_workers_that_start_afresh(make_pool: Any, method: str) -> None:
    pool = make_pool(1, context=multiprocessing.get_context(method))
    pool.apply(tasks.nothing)
    check_timeout(lambda: pool.apply(sleep, task_timeout=LIMIT))
    assert pool.apply(tasks.square, (3,), task_timeout=60) == 9


def test_many_tasks_run_out_of_time(make_pool: Any) -> None:
    """With ten times as many tasks that do not: every outcome is right."""
    pool = make_pool(4)
    others = pool.map_async(tasks.square, range(1000), 1)

    def call(limit: float) -> list[Any]:
        return pool.map(nap, [1000.0, 0.0] * 8, task_timeout=limit, return_exceptions=True)

    found = late_ones(call, 8)
    assert [type(each) for each in found] == [errors.TaskTimeoutError, float] * 8
    assert others.get(DEADLINE) == [x * x for x in range(1000)]


def test_tasks_that_end_when_their_time_is_over(make_pool: Any) -> None:
    """Each ends with a value or an error, and runs once."""
    pool = make_pool(2)
    found = pool.map(nap, [0.01] * 60, task_timeout=0.0105, return_exceptions=True)
    kinds = Counter(type(each) for each in found)
    assert kinds[float] + kinds[errors.TaskTimeoutError] == 60
    assert all(each.seconds >= 0.0105 for each in found if type(each) is not float)


# Grace


def clean_up(diary: Diary) -> None:
    try:
        sleep()
    finally:
        diary.write("cleaned up")


def give_in() -> str:
    try:
        sleep()
    except errors.TaskInterrupted:
        return "so far"
    return ""


def resist() -> None:
    while True:
        with contextlib.suppress(errors.TaskInterrupted):
            time.sleep(1000)


def whine() -> None:
    try:
        sleep()
    except errors.TaskInterrupted:
        raise KeyError("unfinished") from None


def test_a_task_has_time_to_clean_up(make_pool: Any, diary: Diary) -> None:
    pool = make_pool(1)
    [before] = [worker.pid for worker in pool._pool]
    error = check_timeout(
        lambda: pool.apply(clean_up, (diary,), task_timeout=LIMIT, grace=DEADLINE)
    )
    assert (error.pid, error.exitcode) == (before, None)
    assert diary.lines() == ["cleaned up"]
    assert [worker.pid for worker in pool._pool] == [before]


def test_what_a_task_makes_of_it_is_its_result(make_pool: Any) -> None:
    pool = make_pool(1)
    assert pool.apply(give_in, task_timeout=LIMIT, grace=DEADLINE) == "so far"
    with pytest.raises(KeyError):
        pool.apply(whine, task_timeout=LIMIT, grace=DEADLINE)


def test_a_task_that_resists_is_killed(make_pool: Any) -> None:
    pool = make_pool(1)
    error = check_timeout(lambda: pool.apply(resist, task_timeout=LIMIT, grace=LIMIT))
    assert error.exitcode == -signal.SIGKILL
    assert error.seconds >= 2 * LIMIT


def a_sleep() -> Callable[[], object]:
    return partial(time.sleep, 1000)


def a_read() -> Callable[[], object]:
    return partial(os.read, os.pipe()[0], 1)


def a_lock() -> Callable[[], object]:
    lock = threading.Lock()
    lock.acquire()
    return lock.acquire


def block_and_clean_up(block: Callable[[], Callable[[], object]], gate: Gate, diary: Diary) -> None:
    try:
        gate.enter(block())
    finally:
        diary.write("cleaned up")


def miss_signals_and_clean_up(gate: Gate, diary: Diary) -> None:
    """Each signal ends one call, and Python runs the handler only after the last one."""
    sleep_in_c = ctypes.CDLL(None).sleep
    try:
        gate.enter(*[partial(sleep_in_c, 1000)] * 3)
    finally:
        diary.write("cleaned up")


def clean_up_in_spite_of_signals(gate: Gate, diary: Diary) -> None:
    try:
        gate.enter()
        sleep()
    except errors.TaskInterrupted:
        for _ in range(10):
            os.kill(os.getpid(), signal.SIGURG)
        diary.write("cleaned up")


def stop_or_nap(nap: float, x: int) -> Any:
    """The first two sleep until they are told to stop."""
    try:
        time.sleep(1000 if x < 2 else nap)
    except errors.TaskInterrupted:
        return "stopped"
    return x


def test_each_item_of_a_chunk_is_told_to_stop(make_pool: Any) -> None:
    """The second item has its own limit, whatever the first has left of its grace."""
    began = time.monotonic()
    call = partial(stop_or_nap, 0)
    found = make_pool(1).map(call, range(4), 4, task_timeout=5 * LIMIT, grace=10 * DEADLINE)
    assert found == ["stopped", "stopped", 2, 3]
    assert time.monotonic() - began < DEADLINE


def test_items_after_one_that_stopped_have_their_own_time(make_pool: Any) -> None:
    """The grace of the first two ends while another item runs."""
    call = partial(stop_or_nap, 5 * LIMIT)
    found = make_pool(1).map(call, range(4), 4, task_timeout=10 * LIMIT, grace=4 * LIMIT)
    assert found == ["stopped", "stopped", 2, 3]


def check_cancelled(pool: Any, func: Any, gate: Gate, diary: Diary) -> None:
    """The task is cancelled, and cleans up before its worker runs another one."""
    result = pool.apply_async(func, (gate, diary), grace=DEADLINE)
    gate.arrived()
    assert result.cancel()
    assert pool.apply(tasks.square, (3,)) == 9
    assert diary.lines() == ["cleaned up"]


@pytest.mark.parametrize("block", [a_sleep, a_read, a_lock])
def test_a_cancelled_task_has_time_to_clean_up(
    make_pool: Any, gate: Gate, diary: Diary, block: Any
) -> None:
    check_cancelled(make_pool(1), partial(block_and_clean_up, block), gate, diary)


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_a_task_that_misses_the_signal_is_asked_again(
    make_pool: Any, gate: Gate, diary: Diary, method: str
) -> None:
    pool = make_pool(1, context=multiprocessing.get_context(method))
    check_cancelled(pool, miss_signals_and_clean_up, gate, diary)


def test_a_task_is_interrupted_once(make_pool: Any, gate: Gate, diary: Diary) -> None:
    """Even if the signal comes again while the task cleans up."""
    check_cancelled(make_pool(1), clean_up_in_spite_of_signals, gate, diary)


def test_the_signal_is_not_raised_in_another_task(make_pool: Any) -> None:
    """Even if the signal arrives late, or somebody else sends it."""
    pool = make_pool(1)
    assert pool.apply(tasks.square, (3,), task_timeout=60, grace=60) == 9
    [worker] = pool._pool
    os.kill(worker.pid, signal.SIGURG)
    assert pool.apply(tasks.square, (4,), task_timeout=60, grace=60) == 16
    assert pool.apply(tell_itself, task_timeout=60, grace=60) == "not raised"


def tell_itself() -> str:
    os.kill(os.getpid(), signal.SIGURG)
    return "not raised"


def interrupt_itself() -> None:
    raise errors.TaskInterrupted("by hand")


def test_a_task_may_raise_task_interrupted_itself(make_pool: Any) -> None:
    pool = make_pool(1)
    [before] = [worker.pid for worker in pool._pool]
    with pytest.raises(errors.TaskInterrupted, match="by hand"):
        pool.apply(interrupt_itself)
    assert [worker.pid for worker in pool._pool] == [before]


# Retries


def fails_until(path: str, good: int, how: str) -> int:
    with open(path, "a", encoding="utf-8") as file:
        file.write("x")
    tries = os.path.getsize(path)
    if tries < good:
        if how == "die":
            os._exit(1)
        if how == "sleep":
            sleep()
        raise OSError(how)
    return tries


HOWS: list[tuple[str, Any, Any]] = [
    ("die", {}, "WorkerLostError"),
    ("sleep", {"task_timeout": 4 * LIMIT}, "TaskTimeoutError"),
    ("raise", {"retry_on": OSError}, "OSError"),
    ("raise", {"retry_on": (KeyError, OSError)}, "OSError"),
]


@pytest.mark.parametrize(("how", "options", "error"), HOWS)
def test_retries(make_pool: Any, tmp_path: Path, how: str, options: Any, error: str) -> None:
    pool = make_pool(2)
    one, two = str(tmp_path / "one"), str(tmp_path / "two")
    assert pool.apply(fails_until, (one, 3, how), retries=2, **options) == 3
    with pytest.raises(Exception) as caught:
        pool.apply(fails_until, (two, 3, how), retries=1, **options)
    assert type(caught.value).__name__ == error
    assert os.path.getsize(two) == 2


def test_what_the_function_raises_is_not_retried(make_pool: Any, tmp_path: Path) -> None:
    pool, path = make_pool(1), str(tmp_path / "runs")
    for options in {}, {"retry_on": KeyError}:
        with pytest.raises(OSError):
            pool.apply(fails_until, (path, 100, "raise"), retries=5, **options)
    assert os.path.getsize(path) == 2


def test_items_of_a_map_are_retried(make_pool: Any, tmp_path: Path) -> None:
    items = [(str(tmp_path / str(x)), 2, "raise") for x in range(10)]
    found = make_pool(2).starmap(fails_until, items, retries=1, retry_on=OSError)
    assert found == [2] * 10


def test_a_chunk_is_retried_as_a_whole(make_pool: Any, tmp_path: Path) -> None:
    items = [(str(tmp_path / str(x)), 3 if x == 2 else 1, "raise") for x in range(4)]
    pool = make_pool(2)
    found = pool.starmap(fails_until, items, 4, retries=1, retry_on=OSError, return_exceptions=True)
    assert [repr(each) for each in found] == ["2", "2", "OSError('raise')", "1"]


def test_an_item_that_is_not_retried_costs_its_chunk_nothing(make_pool: Any) -> None:
    options = {"retries": 1, "retry_on": OSError, "return_exceptions": True}
    found = make_pool(1).map(partial(tasks.fail_on, 2), range(4), 4, **options)
    assert [repr(each) for each in found] == ["0", "1", "ValueError('no 2')", "3"]


def test_messages_of_retried_calls_name_the_function(make_pool: Any) -> None:
    with pytest.raises(errors.WorkerLostError, match=r"Pool.apply\(tasks.die\)"):
        make_pool(1).apply(tasks.die, retries=1, retry_on=OSError)


def test_no_item_runs_twice_without_leave(make_pool: Any, diary: Diary) -> None:
    """Workers are killed at random; each item writes a line."""
    pool = make_pool(3)
    results = [pool.apply_async(diary_and_nap, (diary, x)) for x in range(300)]
    lost = 0
    for number in range(30):
        time.sleep(0.002)
        workers = list(pool._pool)
        if workers:  # else all of them have just been killed
            workers[number % len(workers)].kill()
    for result in results:
        try:
            result.get(DEADLINE)
        except errors.WorkerLostError:
            lost += 1
    assert lost <= 30
    assert max(Counter(diary.lines()).values()) == 1


def diary_and_nap(diary: Diary, x: int) -> None:
    diary.write(x)
    time.sleep(0.001)


# options()


def test_a_pool_with_options(make_pool: Any) -> None:
    pool = make_pool(2)
    limited = pool.options(task_timeout=LIMIT)
    assert isinstance(limited, Pool)
    assert isinstance(limited, type(pool))
    assert limited == pool
    assert limited._engine is pool._engine
    check_timeout(lambda: limited.apply(sleep))
    check_timeout(lambda: limited.apply_async(sleep).get(DEADLINE))
    check_timeout(lambda: limited.map(nap, [1000]))
    check_timeout(lambda: limited.starmap_async(nap, [(1000,)]).get(DEADLINE))
    check_timeout(lambda: list(limited.imap_unordered(nap, [1000])))
    assert limited.apply(nap, (0.2,), task_timeout=None) == 0.2
    both = limited.options(return_exceptions=True)
    assert type(both.apply(sleep)) is errors.TaskTimeoutError
    assert pool.apply(nap, (0.2,)) == 0.2


def test_the_options_are_shown_and_the_pool_is_the_same(make_pool: Any) -> None:
    pool = make_pool(1)
    with pool.options(fail_fast=True) as same:
        assert repr(same) == f"<{pool!r} with fail_fast=True>"
        assert same.map(tasks.square, [2]) == [4]
        same.mark = 1
        assert pool.mark == 1
        del same.mark
        assert hash(same) == hash(pool)
        assert "map" in dir(same)
        with pytest.raises(NotImplementedError):
            pickle.dumps(same)
    with pytest.raises(ValueError, match="not running"):
        pool.map(tasks.square, [2])


def test_options_are_checked_at_once(make_pool: Any) -> None:
    with pytest.raises(TypeError, match="no_such_option"):
        make_pool(1).options(no_such_option=1)


BAD: list[tuple[Any, type[Exception], str]] = [
    ({"task_timeout": 0}, ValueError, "more than 0"),
    ({"task_timeout": -1}, ValueError, "number of seconds"),
    ({"task_timeout": float("nan")}, ValueError, "number of seconds"),
    ({"task_timeout": Decimal("NaN")}, ValueError, "task_timeout must be a number of seconds"),
    ({"grace": Decimal("sNaN")}, ValueError, "grace must be a number of seconds"),
    ({"task_timeout": "soon"}, TypeError, "task_timeout must be a number of seconds"),
    ({"task_timeout": "5"}, TypeError, "task_timeout must be a number of seconds"),
    ({"task_timeout": []}, TypeError, "task_timeout must be a number of seconds"),
    ({"task_timeout": -(10**400)}, ValueError, "number of seconds"),
    ({"grace": -1}, ValueError, "number of seconds"),
    ({"grace": b"1"}, TypeError, "grace must be a number of seconds"),
    ({"retries": -1}, ValueError, "from 0"),
    ({"retries": 1.5}, TypeError, "integer"),
    ({"retry_on": OSError}, ValueError, "needs retries"),
    ({"retry_on": 1, "retries": 1}, TypeError, "an exception type or a tuple"),
]


@pytest.mark.parametrize(("options", "error", "text"), BAD)
def test_bad_options(pool: Any, options: Any, error: Any, text: str) -> None:
    for call in (
        lambda: pool.apply(tasks.square, (1,), **options),
        lambda: pool.map(tasks.square, [1], **options),
        lambda: pool.imap(tasks.square, [1], **options),
        lambda: pool.apply_async(tasks.square, (1,), **options),
    ):
        with pytest.raises(error, match=text):
            call()


@pytest.mark.parametrize("huge", [1e300, float("inf"), 2**64, 10**400])
def test_a_huge_limit(pool: Any, huge: float) -> None:
    assert pool.apply(tasks.square, (3,), task_timeout=huge, grace=huge) == 9


@pytest.mark.parametrize(
    "options",
    [{"task_timeout": 1}, {"grace": 1}, {"retries": 1}, {"retries": 1, "retry_on": OSError}],
)
def test_threads_cannot_be_ended(make_pool: Any, options: Any) -> None:
    pool = make_pool(1, cls=ThreadPool)
    with pytest.raises(ValueError, match="needs worker processes"):
        pool.map(tasks.square, [1], **options)
    with pytest.raises(ValueError, match="needs worker processes"):
        pool.options(**options)


OPTIONS = """
fail_fast grace key priority progress retries retry_on return_exceptions task_timeout worker
""".split()


@pytest.mark.parametrize("name", OPTIONS)
def test_the_stdlibs_engine_has_no_options(name: str) -> None:
    class Own(Pool):  # type: ignore[misc]
        def _get_sentinels(self) -> Any:
            return super()._get_sentinels()

    with Own(1) as pool:
        for call in (
            lambda: pool.apply(tasks.square, (1,), **{name: 1}),
            lambda: pool.map(tasks.square, [1], **{name: 1}),
            lambda: pool.imap(tasks.square, [1], **{name: 1}),
            lambda: pool.istarmap(tasks.square, [1], **{name: 1}),
            lambda: pool.options(**{name: 1}),
        ):
            with pytest.raises(
                ValueError, match=f"{name} needs a pool that runs on cpool's engine"
            ):
                call()
        assert list(pool.istarmap(tasks.add, [(1, 2)])) == [3]


if sys.platform != "linux":
    pytest.skip("the tests count on Linux's signals", allow_module_level=True)
