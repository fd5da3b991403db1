"""Calls that workers cannot take soon wait as Python objects, not as encoded bytes."""

from __future__ import annotations

import asyncio
import functools
import multiprocessing
import os
import pickle
import threading
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import wait
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any, NoReturn

import engine
import pytest
import scripts
import tasks
from engine import DEADLINE
from gates import Diary, Gate, eventually

import cpool

pytestmark = pytest.mark.better

MEGABYTE = 1 << 20
MOST = 14  # calls of a megabyte that are encoded while no worker takes any


class Large:
    """A megabyte when it is encoded. Counts that."""

    encoded: list[int] = []  # noqa: RUF012

    def __init__(self, number: int = 0) -> None:
        self.number = number

    def __reduce__(self) -> tuple[Any, ...]:
        Large.encoded.append(self.number)
        return _rebuilt, (self.number, bytes(MEGABYTE))

    def __call__(self, x: int) -> int:
        return self.number + x


def _rebuilt(number: int, _: bytes) -> Large:
    return Large(number)


def number_of(item: Large, add: int = 0) -> int:
    return item.number + add


@pytest.fixture
def busy(make_pool: Any, gate: Gate) -> Any:
    """A pool whose one worker waits at the gate."""
    Large.encoded = []
    pool = make_pool(1)
    pool.apply_async(gate.hold)
    gate.arrived()
    return pool


SUBMIT: dict[str, Callable[[Any, int], Any]] = {
    "apply_async": lambda pool, i: pool.apply_async(number_of, (Large(i),)),
    "keywords": lambda pool, i: pool.apply_async(number_of, (Large(i - 1),), {"add": 1}),
    "callable": lambda pool, i: pool.apply_async(Large(i), (0,)),
    "partial": lambda pool, i: pool.apply_async(functools.partial(number_of, Large(i))),
    "map_async": lambda pool, i: pool.map_async(number_of, [Large(i)]),
    "starmap_async": lambda pool, i: pool.starmap_async(number_of, [(Large(i),)]),
}


def value(result: Any) -> Any:
    found = result.get(DEADLINE)
    return found[0] if isinstance(found, list) else found


@pytest.mark.parametrize("how", SUBMIT)
def test_calls_that_wait_are_not_encoded(busy: Any, gate: Gate, how: str) -> None:
    results = [SUBMIT[how](busy, i) for i in range(50)]
    assert 1 <= len(Large.encoded) <= MOST
    gate.open()
    assert [value(result) for result in results] == list(range(50))
    assert len(Large.encoded) >= 50
    eventually(lambda: not any(t.name == "cpool-caller" for t in threading.enumerate()))


def test_calls_keep_their_order(busy: Any, gate: Gate) -> None:
    done: list[int] = []
    for i in range(20):
        busy.apply_async(number_of, (Large(i),), callback=done.append)
    for i in range(20, 30):
        busy.apply_async(tasks.identity, (i,), callback=done.append)
    gate.open()
    assert busy.apply(tasks.identity, (30,)) == 30
    eventually(lambda: len(done) == 30)
    assert done == list(range(30))


def test_close_and_join_wait_for_them(busy: Any, gate: Gate) -> None:
    results = [busy.apply_async(number_of, (Large(i),)) for i in range(30)]
    busy.close()
    gate.open()
    busy.join()
    assert [result.get(0) for result in results] == list(range(30))


def three(item: int) -> Iterator[int]:
    yield from range(item, item + 3)


@pytest.mark.parametrize("reads", [True, False])
def test_items_that_are_kept_are_done_after_close(busy: Any, gate: Gate, reads: bool) -> None:
    """Also those that are pulled from their source only after close()."""
    calls = [busy.apply_async(number_of, (Large(i),)) for i in range(20)]
    long = busy.map_async(tasks.square, range(5000), 1)
    large = busy.map_async(number_of, [Large(i) for i in range(20)], 1)
    items = busy.imap(number_of, (Large(i) for i in range(20)))
    values = busy.flatmap(three, iter([1, 5, 9])) if reads else None
    busy.close()
    gate.open()
    if values is not None:
        assert list(values) == [1, 2, 3, 5, 6, 7, 9, 10, 11]
    busy.join()
    assert [call.get(0) for call in calls] == large.get(0) == list(items) == list(range(20))
    assert long.get(0) == [x * x for x in range(5000)]


def test_terminate_fails_them(busy: Any) -> None:
    results = [busy.apply_async(number_of, (Large(i),)) for i in range(30)]
    busy.terminate()
    for result in results:
        with pytest.raises(engine.errors.PoolTerminated):
            result.get(DEADLINE)
    busy.join()
    assert len(Large.encoded) <= MOST
    eventually(lambda: not any(t.name == "cpool-caller" for t in threading.enumerate()))


def test_what_cannot_be_pickled_fails_alone(busy: Any, gate: Gate) -> None:
    first = [busy.apply_async(number_of, (Large(i),)) for i in range(20)]
    wrong = busy.apply_async(number_of, (threading.Lock(),))
    last = busy.apply_async(tasks.identity, (5,))
    gate.open()
    with pytest.raises(TypeError, match="pickle"):
        wrong.get(DEADLINE)
    assert last.get(DEADLINE) == 5
    assert [result.get(DEADLINE) for result in first] == list(range(20))


class Calls:
    """Its encoding calls the pool."""

    pool: Any = None

    def __reduce__(self) -> tuple[Any, ...]:
        return int, (Calls.pool.apply(tasks.identity, (7,)),)


def test_code_that_pickles_a_call_may_call_the_pool(
    busy: Any, gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Calls, "pool", busy)
    results = [busy.apply_async(number_of, (Large(i),)) for i in range(20)]
    nested = busy.apply_async(tasks.identity, (Calls(),))
    gate.open()
    assert nested.get(DEADLINE) == 7
    assert [result.get(DEADLINE) for result in results] == list(range(20))


def test_without_a_thread_they_are_encoded_at_once(
    busy: Any, gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any) -> NoReturn:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(type(busy), "_start_thread", refuse)
    results = [busy.apply_async(number_of, (Large(i),)) for i in range(20)]
    assert Large.encoded == list(range(20))
    gate.open()
    assert [result.get(DEADLINE) for result in results] == list(range(20))


def test_a_long_map_that_is_kept_is_fed_to_its_end(busy: Any, gate: Gate) -> None:
    calls = [busy.apply_async(number_of, (Large(i),)) for i in range(20)]
    long = busy.map_async(tasks.square, range(20000), 1)
    large = busy.map_async(number_of, [Large(i) for i in range(20)], 1)
    gate.open()
    assert long.get(DEADLINE) == [x * x for x in range(20000)]
    assert large.get(DEADLINE) == list(range(20))
    assert [result.get(DEADLINE) for result in calls] == list(range(20))


def test_a_callable_is_dropped_with_its_last_result(make_pool: Any) -> None:
    """Not with the result object, which a program may keep for long."""
    pool = make_pool(1)
    result = pool.apply_async(Large(3), (1,))
    assert result.get(DEADLINE) == 4
    resident = rss()
    results = [pool.apply_async(Large(i), (0,)) for i in range(150)]
    assert [r.get(DEADLINE) for r in results] == list(range(150))
    assert rss() - resident < 75 * MEGABYTE  # allocators keep some that is free


def rss() -> int:
    with open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * 4096


# ---- the calls of an executor ----


@pytest.fixture
def occupied(gate: Gate) -> Iterator[cpool.ProcessPoolExecutor]:
    """An executor whose one worker waits at the gate."""
    Large.encoded = []
    with cpool.ProcessPoolExecutor(1) as executor:
        executor.submit(gate.hold)
        gate.arrived()
        yield executor
        gate.open()


FUTURES: dict[str, Callable[[Any, int], Any]] = {
    "arguments": lambda executor, i: executor.submit(number_of, Large(i)),
    "keywords": lambda executor, i: executor.submit(number_of, Large(i - 1), add=1),
    "callable": lambda executor, i: executor.submit(Large(i), 0),
    "partial": lambda executor, i: executor.submit(functools.partial(number_of, Large(i))),
}


@pytest.mark.parametrize("how", FUTURES)
def test_futures_that_wait_are_not_encoded(occupied: Any, gate: Gate, how: str) -> None:
    futures = [FUTURES[how](occupied, i) for i in range(50)]
    assert 1 <= len(Large.encoded) <= MOST
    assert not any(future.running() or future.done() for future in futures)
    gate.open()
    assert [future.result(DEADLINE) for future in futures] == list(range(50))
    assert len(Large.encoded) == 50
    eventually(lambda: not any(t.name == "cpool-caller" for t in threading.enumerate()))


@pytest.mark.parametrize("plain", [True, False])
def test_items_of_an_executors_map_are_not_encoded(occupied: Any, gate: Gate, plain: bool) -> None:
    items = [Large(i) for i in range(50)]
    values = occupied.map(number_of, items if plain else (item for item in items))
    assert 1 <= len(Large.encoded) <= MOST
    gate.open()
    assert list(values) == list(range(50))


def test_calls_of_an_event_loop_are_not_encoded(occupied: Any, gate: Gate) -> None:
    async def run() -> list[int]:
        loop = asyncio.get_running_loop()
        calls = [loop.run_in_executor(occupied, number_of, Large(i)) for i in range(50)]
        assert 1 <= len(Large.encoded) <= MOST
        gate.open()
        return list(await asyncio.wait_for(asyncio.gather(*calls), DEADLINE))

    assert asyncio.run(run()) == list(range(50))


def test_futures_keep_their_order(occupied: Any, gate: Gate, diary: Diary) -> None:
    """Also if their callables differ, and some are small."""
    write = functools.partial(write_number, diary)
    for i in range(60):
        occupied.submit(*[(write, Large(i)), (write, i), (write_number, diary, i)][i % 3])
    gate.open()
    assert occupied.submit(write_number, diary, 60).result(DEADLINE) is None
    assert [int(line) for line in diary.lines()] == list(range(61))


def write_number(diary: Diary, item: Any) -> None:
    diary.write(str(item.number if isinstance(item, Large) else item))


def test_futures_that_are_cancelled_are_never_encoded(
    occupied: Any, gate: Gate, diary: Diary
) -> None:
    done: list[int] = []
    futures = [occupied.submit(write_number, diary, Large(i)) for i in range(40)]
    for i, future in enumerate(futures):
        future.add_done_callback(lambda _, i=i: done.append(i))
    odd = futures[1::2]
    assert all(future.cancel() for future in odd)
    assert sorted(done) == list(range(1, 40, 2))
    gate.open()
    over = wait(futures, DEADLINE)
    assert not over.not_done
    eventually(lambda: len(done) == 40)
    assert [int(line) for line in diary.lines()] == list(range(0, 40, 2))
    assert sum(i % 2 for i in Large.encoded) <= MOST / 2


def test_shutdown_cancels_kept_futures(occupied: Any, gate: Gate) -> None:
    futures = [occupied.submit(number_of, Large(i)) for i in range(40)]
    n_encoded = len(Large.encoded)
    occupied.shutdown(wait=False, cancel_futures=True)
    assert all(future.cancelled() for future in futures)
    gate.open()
    occupied.shutdown()
    assert not wait(futures, DEADLINE).not_done
    assert len(Large.encoded) == n_encoded


@pytest.mark.parametrize("how", ["terminate_workers", "kill_workers"])
def test_kept_futures_end_with_the_workers(occupied: Any, how: str) -> None:
    futures = [occupied.submit(number_of, Large(i)) for i in range(40)]
    n_encoded = len(Large.encoded)
    getattr(occupied, how)()
    assert not wait(futures, DEADLINE).not_done
    assert all(future.cancelled() for future in futures)
    occupied.shutdown()
    assert len(Large.encoded) == n_encoded


def test_kept_futures_fail_with_a_broken_executor(gate: Gate) -> None:
    Large.encoded = []
    with cpool.ProcessPoolExecutor(1, initializer=hold_and_fail, initargs=(gate,)) as executor:
        futures = [executor.submit(number_of, Large(i)) for i in range(40)]
        assert len(Large.encoded) <= MOST
        gate.open()
        for future in futures:
            with pytest.raises(BrokenProcessPool):
                future.result(DEADLINE)
    assert len(Large.encoded) <= MOST


def hold_and_fail(gate: Gate) -> NoReturn:
    gate.hold()
    raise ValueError("no")


def test_shutdown_waits_for_kept_futures(occupied: Any, gate: Gate) -> None:
    futures = [occupied.submit(number_of, Large(i)) for i in range(40)]
    occupied.shutdown(wait=False)
    with pytest.raises(RuntimeError, match="after shutdown"):
        occupied.submit(number_of, Large())
    gate.open()
    occupied.shutdown()
    assert [future.result(0) for future in futures] == list(range(40))


def test_a_collected_executor_runs_kept_calls(gate: Gate) -> None:
    Large.encoded = []
    executor = cpool.ProcessPoolExecutor(1)
    executor.submit(gate.hold)
    gate.arrived()
    futures = [executor.submit(number_of, Large(i)) for i in range(40)]
    del executor
    gate.open()
    assert [future.result(DEADLINE) for future in futures] == list(range(40))


def test_a_kept_future_that_cannot_be_pickled_fails_alone(occupied: Any, gate: Gate) -> None:
    called: list[Any] = []
    first = [occupied.submit(number_of, Large(i)) for i in range(20)]
    wrong = occupied.submit(number_of, threading.Lock())
    unknown = occupied.submit(tasks.unpicklable)
    callback = occupied.submit(number_of, threading.Lock())
    callback.add_done_callback(called.append)
    last = occupied.submit(tasks.identity, 5)
    gate.open()
    with pytest.raises(TypeError, match="pickle"):
        wrong.result(DEADLINE)
    with pytest.raises(pickle.PicklingError):
        unknown.result(DEADLINE)
    assert last.result(DEADLINE) == 5
    assert [future.result(DEADLINE) for future in first] == list(range(20))
    eventually(lambda: called == [callback])


def test_a_dead_worker_fails_no_kept_future(occupied: Any, gate: Gate) -> None:
    dies = occupied.submit(os._exit, 3)
    futures = [occupied.submit(number_of, Large(i)) for i in range(40)]
    gate.open()
    with pytest.raises(BrokenProcessPool):
        dies.result(DEADLINE)
    assert [future.result(DEADLINE) for future in futures] == list(range(40))


def test_without_a_thread_futures_are_encoded_at_once(
    occupied: Any, gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any) -> NoReturn:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(type(occupied._inner), "_start_thread", refuse)
    futures = [occupied.submit(number_of, Large(i)) for i in range(20)]
    assert Large.encoded == list(range(20))
    gate.open()
    assert [future.result(DEADLINE) for future in futures] == list(range(20))


def test_kept_arguments_are_dropped_with_their_call(occupied: Any, gate: Gate) -> None:
    """Not with the future, which a program may hold for long."""
    items = [Large(i) for i in range(40)]
    futures = [occupied.submit(number_of, item) for item in items]
    seen = [weakref.ref(item) for item in items]
    del items
    futures[-1].cancel()
    gate.open()
    assert [future.result(DEADLINE) for future in futures[:-1]] == list(range(39))
    eventually(lambda: not any(reference() for reference in seen))


@pytest.mark.skipif("spawn" not in multiprocessing.get_all_start_methods(), reason="no spawn")
def test_kept_calls_have_workers_started(gate: Gate) -> None:
    """Where workers start one by one, as calls wait."""
    context = multiprocessing.get_context("spawn")
    Large.encoded = []
    with cpool.ProcessPoolExecutor(3, mp_context=context) as executor:
        executor.submit(gate.hold)
        gate.arrived()
        for i in range(20):
            executor.submit(number_of, Large(i))
        assert len(executor._processes or ()) == 3
        gate.open()


AT_EXIT = """
import os
from cpool import ProcessPoolExecutor

def tell(number, load):
    os.write(1, b"%d\\n" % number)

if __name__ == "__main__":
    executor = ProcessPoolExecutor(1)
    for i in range(60):
        executor.submit(tell, i, bytes(1 << 20))
    HOW
"""


@pytest.mark.parametrize("how", ["", "del executor", "executor.shutdown(wait=False)"])
def test_kept_calls_run_before_the_program_exits(how: str, tmp_path: Path) -> None:
    done = scripts.run_source(tmp_path, AT_EXIT.replace("HOW", how))
    assert done.stderr == ""
    assert [int(line) for line in done.stdout.split()] == list(range(60))
