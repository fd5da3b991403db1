"""From running to ended: close, join, terminate, with and del."""

from __future__ import annotations

import contextlib
import gc
import multiprocessing
import os
import signal
import threading
import time
import warnings
import weakref
from collections.abc import Callable
from typing import Any

import engine
import pytest
import tasks
from engine import DEADLINE, Pool
from gates import Diary, Gate, eventually, gone
from leftovers import all_freed, open_files, settled, threads

# Every way to submit work, with invalid arguments as well.
SUBMISSIONS: dict[str, Callable[[Any], Any]] = {
    "apply": lambda pool: pool.apply(tasks.nothing),
    "apply_async": lambda pool: pool.apply_async(None),
    "map": lambda pool: pool.map(tasks.square, 5),
    "map_async": lambda pool: pool.map_async(tasks.square, [1], "a"),
    "starmap": lambda pool: pool.starmap(tasks.square, []),
    "starmap_async": lambda pool: pool.starmap_async(tasks.square, 5),
    "imap": lambda pool: pool.imap(tasks.square, [1], 0),
    "imap chunks": lambda pool: pool.imap(tasks.square, 5, 3),
    "imap_unordered": lambda pool: pool.imap_unordered(tasks.square, [1], 0),
    "with": lambda pool: pool.__enter__(),
}
ENDS = {"close": "CLOSE", "terminate": "TERMINATE"}


def end(pool: Any, how: str, join: bool = True) -> None:
    getattr(pool, how)()
    if join:
        pool.join()


# Closed and terminated pools


@pytest.mark.parametrize("how", ENDS)
@pytest.mark.parametrize("joined", [True, False])
def test_an_ended_pool_takes_no_work(make_pool: Any, how: str, joined: bool) -> None:
    pool = make_pool(1)
    end(pool, how, joined)
    for submit in SUBMISSIONS.values():
        with pytest.raises(ValueError) as caught:
            submit(pool)
        assert str(caught.value) == "Pool not running"


def test_every_way_to_submit_was_tried() -> None:
    methods = {name for name in vars(Pool.__mro__[-2]) if not name.startswith("_")}
    assert methods - set(SUBMISSIONS) == {"Process", "close", "join", "terminate"}


@pytest.mark.parametrize("how", ENDS)
def test_states(make_pool: Any, how: str) -> None:
    pool = make_pool(1)
    assert pool._state == "RUN"
    assert getattr(pool, how)() is None
    assert pool._state == ENDS[how]
    assert pool.join() is None
    assert pool._state == ENDS[how]


def test_ending_again_changes_nothing(make_pool: Any) -> None:
    pool = make_pool(1)
    for _ in range(3):
        pool.close()
    assert pool._state == "CLOSE"
    pool.join()
    pool.join()
    for _ in range(3):
        pool.terminate()
        pool.join()
        assert pool._state == "TERMINATE"
    pool.close()
    pool.join()
    assert pool._state == "TERMINATE"


def test_close_lets_all_jobs_finish(make_pool: Any, gate: Gate) -> None:
    pool = make_pool(2)
    held = pool.map_async(gate.hold, range(2), 1)
    gate.arrived(2)
    waiting = [pool.apply_async(tasks.square, (i,)) for i in range(50)]
    mapped = pool.map_async(tasks.square, range(50), 3)
    streamed = pool.imap(tasks.square, iter(range(50)))
    pool.close()
    gate.open()
    pool.join()
    assert held.get(0) == [0, 1]
    assert [result.get(0) for result in waiting] == [i * i for i in range(50)]
    assert mapped.get(0) == list(streamed) == [i * i for i in range(50)]
    assert [worker.exitcode for worker in pool._pool] == [0, 0]


def test_the_callbacks_have_run_when_join_returns(make_pool: Any) -> None:
    pool = make_pool(2)
    seen: list[Any] = []
    for i in range(20):
        pool.apply_async(tasks.square, (i,), callback=seen.append)
        pool.map_async(tasks.fail, [i], error_callback=lambda error: seen.append(str(error)))
    pool.close()
    pool.join()
    squares = [i * i for i in range(20)]
    assert sorted(seen, key=str) == sorted([*squares, *(f"no {i}" for i in range(20))], key=str)


def test_join_of_a_running_pool_is_refused(make_pool: Any) -> None:
    pool = make_pool(1)
    with pytest.raises(ValueError) as caught:
        pool.join()
    assert str(caught.value) == "Pool is still running"
    assert pool.apply(tasks.square, (2,)) == 4


def test_join_of_a_pool_in_an_unknown_state_is_refused(make_pool: Any) -> None:
    pool = make_pool(1)
    pool._state = "elsewhere"
    with pytest.raises(ValueError) as caught:
        pool.join()
    assert str(caught.value) == "In unknown state"
    pool._state = engine.pool_module.RUN


@pytest.mark.parametrize("how", ENDS)
def test_join_leaves_nothing_behind(how: str) -> None:
    before = open_files(), threads()
    pool = Pool(3)
    pool.map_async(tasks.square, range(10), callback=id).get(DEADLINE)
    workers = list(pool._pool)
    end(pool, how)
    assert not any(worker.is_alive() for worker in workers)
    assert all(gone(worker.pid) for worker in workers)
    assert multiprocessing.active_children() == []
    assert [worker.pid for worker in pool._pool] == [worker.pid for worker in workers]
    assert settled(threads, before[1]) == set()
    del pool, workers
    assert settled(open_files, before[0]) == set()


@pytest.mark.better
@pytest.mark.parametrize("how", ENDS)
def test_a_joined_pool_holds_no_descriptor(how: str) -> None:
    """In the stdlib descriptors stay open for as long as the pool object lives."""
    before = open_files()
    pool = Pool(3)
    pool.map_async(tasks.square, range(10), callback=id).get(DEADLINE)
    end(pool, how)
    for worker in pool._pool:
        worker.close()
    assert settled(open_files, before) == set()


@pytest.mark.better
def test_a_freed_pool_holds_no_descriptor_although_its_results_live() -> None:
    before = open_files()
    pool = Pool(2)
    results = [pool.apply_async(tasks.square, (3,), callback=id), pool.map_async(abs, [-1])]
    items = pool.imap(tasks.square, iter([1, 2]))
    assert [result.get(DEADLINE) for result in results] == [9, [1]]
    assert list(items) == [1, 4]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        del pool
        assert settled(open_files, before) == set()
    assert [result.get(0) for result in results] == [9, [1]]


def test_results_outlive_the_pool(make_pool: Any) -> None:
    pool = make_pool(2)
    result = pool.map_async(tasks.square, range(5))
    items = pool.imap(tasks.square, range(5))
    pool.close()
    pool.join()
    alive = weakref.ref(pool)
    assert result.get(0) == [0, 1, 4, 9, 16]
    assert list(items) == [0, 1, 4, 9, 16]
    assert result.successful()
    assert alive() is pool


# terminate


def test_terminate_ends_running_tasks(make_pool: Any, gate: Gate) -> None:
    pool = make_pool(2)
    pool.map_async(gate.hold, range(20), 1)
    gate.arrived(2)
    workers = list(pool._pool)
    started = time.monotonic()
    pool.terminate()
    pool.join()
    assert time.monotonic() - started < DEADLINE
    assert [worker.exitcode for worker in workers] == [-signal.SIGTERM] * 2


def test_terminate_ends_a_long_queue(make_pool: Any, gate: Gate) -> None:
    pool = make_pool(2)
    pool.map_async(gate.hold, range(10_000), 1)
    gate.arrived(2)
    pool.terminate()
    pool.join()


def test_terminate_ends_an_endless_iterable(make_pool: Any, gate: Gate) -> None:
    def endless() -> Any:
        while True:
            yield 1

    pool = make_pool(1)
    results = pool.imap(gate.hold, endless())
    gate.arrived()
    pool.terminate()
    pool.join()
    del results


def test_terminate_ends_idle_workers(make_pool: Any) -> None:
    pool = make_pool(3)
    pool.map(tasks.square, range(10), 1)
    pool.terminate()
    pool.join()
    assert {worker.exitcode for worker in pool._pool} <= {0, -signal.SIGTERM}


def test_terminate_after_close(make_pool: Any, gate: Gate) -> None:
    pool = make_pool(1)
    pool.apply_async(gate.hold)
    gate.arrived()
    pool.close()
    pool.terminate()
    pool.join()
    assert pool._state == "TERMINATE"
    assert [worker.exitcode for worker in pool._pool] == [-signal.SIGTERM]


def test_a_callback_may_terminate(make_pool: Any) -> None:
    pool = make_pool(1)
    ended = threading.Event()

    def callback(_: Any) -> None:
        pool.terminate()
        ended.set()

    pool.apply_async(tasks.square, (2,), callback=callback)
    assert ended.wait(DEADLINE)
    pool.join()


def test_terminate_from_another_thread(make_pool: Any, gate: Gate, in_threads: Any) -> None:
    pool = make_pool(1)
    pool.apply_async(gate.hold)
    gate.arrived()
    in_threads(lambda _: pool.terminate(), range(1))
    pool.join()


@pytest.mark.better
def test_several_threads_end_one_pool(make_pool: Any, in_threads: Any) -> None:
    for _ in range(5):
        pool = make_pool(2)
        pool.map_async(tasks.square, range(100), 1)

        def work(number: int, pool: Any = pool) -> None:
            [pool.close, pool.terminate][number % 2]()
            pool.join()

        in_threads(work, range(4))
        assert pool._state in ("CLOSE", "TERMINATE")


@pytest.mark.better
@pytest.mark.parametrize("how", ["close", "terminate"])
def test_join_with_a_timeout(make_pool: Any, gate: Gate, how: str) -> None:
    pool = make_pool(1)
    result = pool.apply_async(gate.hold, (5,))
    gate.arrived()
    pool.close()
    started = time.monotonic()
    with contextlib.suppress(multiprocessing.TimeoutError):
        pool.join(timeout=0.05)
    assert 0.04 < time.monotonic() - started < DEADLINE
    assert pool._pool[0].is_alive()
    if how == "close":
        gate.open()
    else:
        pool.terminate()
    pool.join(timeout=DEADLINE)
    assert not pool._pool[0].is_alive()
    assert result.ready()


# with


def test_with_returns_the_pool_and_terminates_it(gate: Gate) -> None:
    with Pool(1) as pool:
        assert pool.__enter__() is pool
        assert pool.apply(tasks.square, (3,)) == 9
        pool.apply_async(gate.hold)
        gate.arrived()
    assert pool._state == "TERMINATE"
    pool.join()
    assert [worker.exitcode for worker in pool._pool] == [-signal.SIGTERM]


def test_with_passes_exceptions_on() -> None:
    with pytest.raises(LookupError, match="^inside$"), Pool(1) as pool:
        raise LookupError("inside")
    assert pool._state == "TERMINATE"
    assert pool.__exit__(None, None, None) is None


def test_with_warns_of_nothing(warned: list[str]) -> None:
    with Pool(1) as pool:
        pool.apply(tasks.nothing)
    del pool
    gc.collect()
    assert warned == []


# The last reference


def test_an_unreferenced_pool_warns_and_ends(warned: list[str]) -> None:
    pool = Pool(2)
    pool.apply(tasks.nothing)
    workers = list(pool._pool)
    text = f"ResourceWarning: unclosed running multiprocessing pool {pool!r}"
    del pool
    gc.collect()
    assert warned == [text]
    eventually(lambda: not any(worker.is_alive() for worker in workers), "workers live on")
    assert multiprocessing.active_children() == []


@pytest.mark.parametrize("how", ENDS)
def test_an_ended_pool_is_freed_without_a_warning(warned: list[str], how: str) -> None:
    pool = Pool(1)
    workers = list(pool._pool)
    end(pool, how, join=False)
    del pool
    gc.collect()
    assert warned == []
    eventually(lambda: not any(worker.is_alive() for worker in workers), "workers live on")


@pytest.mark.parametrize("how", ENDS)
def test_an_ended_pool_set_running_warns_again(warned: list[str], how: str) -> None:
    pool = Pool(1)
    end(pool, how)
    pool._state = engine.pool_module.RUN
    text = f"ResourceWarning: unclosed running multiprocessing pool {pool!r}"
    del pool
    gc.collect()
    assert warned == [text]


def test_a_pool_in_a_cycle_is_collected(warned: list[str]) -> None:
    pool = Pool(1)
    pool.me = pool
    alive = weakref.ref(pool)
    del pool
    gc.collect()
    assert alive() is None
    assert len(warned) == 1


def test_an_unreferenced_pool_finishes_its_jobs(gate: Gate) -> None:
    """The job holds the pool until the job ends, although nobody holds the job."""
    pool = Pool(1)
    alive = weakref.ref(pool)
    seen: list[Any] = []
    pool.apply_async(gate.hold, (5,), callback=seen.append)
    gate.arrived()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        del pool
        gc.collect()
        assert alive() is not None
        gate.open()
        eventually(lambda: seen)
        all_freed([alive])
    assert seen == [5]


def test_a_pool_without_init_can_be_dropped() -> None:
    """Without __init__ there is nothing to end, and nothing to warn about."""
    pool = Pool.__new__(Pool)
    pool._state = engine.pool_module.CLOSE
    del pool
    gc.collect()


# Work that is pending at the end


@pytest.mark.better
@pytest.mark.parametrize("method", ["apply_async", "map_async", "imap", "imap_unordered"])
def test_terminate_fails_pending_jobs(make_pool: Any, gate: Gate, method: str) -> None:
    """In the stdlib the jobs stay pending for ever."""
    pool = make_pool(1)
    held = pool.apply_async(gate.hold)
    gate.arrived()
    args = (5,) if method == "apply_async" else [5, 6]
    result = getattr(pool, method)(tasks.square, args)
    pool.terminate()
    read = result.get if hasattr(result, "get") else result.next
    for wait in held.get, read, read:
        with pytest.raises(engine.errors.PoolTerminated):
            wait(DEADLINE)
    assert held.ready()
    assert held.successful() is False


@pytest.mark.better
def test_terminate_releases_all_waiting_threads(
    make_pool: Any, gate: Gate, in_threads: Any
) -> None:
    pool = make_pool(2)
    held = pool.apply_async(gate.hold)
    items = pool.imap(gate.hold, [1])
    gate.arrived(2)
    waits = [
        held.get,
        items.next,
        lambda: list(pool.imap_unordered(tasks.square, [1, 2])),
        lambda: pool.apply(tasks.nothing),
        lambda: pool.map(tasks.square, [1, 2]),
    ]

    def work(number: int) -> str:
        if number == len(waits):
            eventually(lambda: len(pool._cache) == 5)
            pool.terminate()
            return "terminated"
        try:
            return f"returned {waits[number]()}"
        except engine.errors.PoolTerminated:
            return "released"

    outcomes = in_threads(work, range(len(waits) + 1))
    assert outcomes == ["released"] * len(waits) + ["terminated"]
    assert held.wait() is None


@pytest.mark.better
def test_terminate_calls_the_error_callbacks(make_pool: Any, gate: Gate) -> None:
    pool = make_pool(1)
    seen: list[Any] = []
    pool.apply_async(gate.hold, error_callback=seen.append)
    gate.arrived()
    pool.map_async(tasks.square, [1, 2], error_callback=seen.append)
    pool.terminate()
    pool.join()
    eventually(lambda: len(seen) == 2)  # after terminate() join() does not wait for callbacks
    assert [type(error) for error in seen] == [engine.errors.PoolTerminated] * 2


@pytest.mark.better
def test_leaving_with_fails_pending_jobs(gate: Gate) -> None:
    with Pool(1) as pool:
        result = pool.apply_async(gate.hold)
        gate.arrived()
    with pytest.raises(engine.errors.PoolTerminated):
        result.get(DEADLINE)
    pool.join()


@pytest.mark.better
def test_results_from_before_terminate_stay(make_pool: Any, gate: Gate) -> None:
    pool = make_pool(1)
    done = pool.apply_async(tasks.square, (3,))
    items = pool.imap(tasks.first_then_hold, [(gate, 0), (gate, 1)])
    gate.arrived()
    eventually(done.ready)
    assert items.next(DEADLINE) == 0
    pool.terminate()
    assert done.get(0) == 9
    with pytest.raises(engine.errors.PoolTerminated):
        items.next(DEADLINE)


@pytest.mark.better
def test_terminate_kills_workers_that_ignore_sigterm(make_pool: Any, gate: Gate) -> None:
    pool = make_pool(2, tasks.ignore_sigterm)
    pool.map_async(gate.hold, range(4), 1)
    gate.arrived(2)
    started = time.monotonic()
    pool.terminate()
    pool.join()
    assert time.monotonic() - started < DEADLINE
    assert [worker.exitcode for worker in pool._pool] == [-signal.SIGKILL] * 2


# Forked children of the parent


@pytest.mark.better
def test_a_pool_in_a_forked_child_is_inert(make_pool: Any, diary: Diary) -> None:
    """Its methods raise in the child, and the parent's pool goes on."""
    pool = make_pool(2)
    pids = [worker.pid for worker in pool._pool]
    pending = pool.map_async(tasks.square, range(100), 1)
    child = os.fork()
    if child == 0:
        try:
            for name, submit in SUBMISSIONS.items():
                try:
                    submit(pool)
                    diary.write(f"{name} works")
                except (ValueError, RuntimeError) as error:
                    assert str(error)
            pool.terminate()
            pool.close()
            del pool
            gc.collect()
            diary.write("done")
        finally:
            os._exit(0)
    assert os.waitpid(child, 0) == (child, 0)
    assert diary.lines() == ["done"]
    assert pending.get(DEADLINE) == [x * x for x in range(100)]
    assert [worker.pid for worker in pool._pool] == pids
    assert pool.map(tasks.square, range(10), 1) == [x * x for x in range(10)]


def test_a_child_process_may_have_a_pool_of_its_own(make_pool: Any, diary: Diary) -> None:
    outer = make_pool(1)
    context = multiprocessing.get_context("fork")

    def work() -> None:
        with Pool(2) as pool:
            diary.write(pool.map(tasks.square, [1, 2, 3]))
            pool.close()
            pool.join()

    child = context.Process(target=work)
    child.start()
    child.join(DEADLINE)
    assert child.exitcode == 0
    assert diary.lines() == ["[1, 4, 9]"]
    assert outer.apply(tasks.square, (3,)) == 9


def test_many_pools_at_once(make_pool: Any) -> None:
    pools = [make_pool(1) for _ in range(6)]
    results = [pool.map_async(tasks.square, range(20), 1) for pool in pools]
    assert [result.get(DEADLINE) for result in results] == [[x * x for x in range(20)]] * 6
    for pool in pools[::2]:
        pool.close()
        pool.join()
    assert [pool.apply(tasks.square, (3,)) for pool in pools[1::2]] == [9, 9, 9]
