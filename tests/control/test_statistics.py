"""`pool.statistics()` and `python -m cpool --stats`."""

from __future__ import annotations

import contextlib
import os
import pickle
import random
import re
import signal
import sys
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import engine
import pytest
import scripts
import tasks
from engine import DEADLINE, Pool
from gates import Gate, eventually

from cpool import _core
from cpool._engine.statistics import name_in

pytestmark = pytest.mark.better

errors = engine.errors
ThreadPool = engine.pool_module.ThreadPool

HAS_SHARED_MEMORY = sys.platform == "linux" and not engine.PORTABLE


def check_sum(found: Any, **expected: int) -> None:
    """Check the numbers of items, and that they add up, in total and over the workers."""
    over = found.done + found.failed + found.lost + found.cancelled
    assert found.submitted == over + found.pending, str(found)
    for name in "done", "lost", "retried":
        assert sum(getattr(worker, name) for worker in found.workers) == getattr(found, name)
    assert sum(worker.failed for worker in found.workers) <= found.failed
    for name, number in expected.items():
        assert getattr(found, name) == number, (name, str(found))


def nap(seconds: float) -> float:
    time.sleep(seconds)
    return seconds


def has_worked(pool: Any, seconds: float) -> bool:
    found: bool = pool.statistics().work_seconds >= seconds
    return found


def odd_fails(x: int) -> int:
    if x % 2:
        raise ValueError(x)
    return x


def die_if_odd(x: int) -> int:
    if x % 2:
        os.kill(os.getpid(), signal.SIGKILL)
    return x


def unpicklable_if_odd(x: int) -> Any:
    return (y for y in ()) if x % 2 else x


@pytest.mark.parametrize("kind", [Pool, ThreadPool])
def test_items_of_every_kind_of_call_are_counted(kind: Any) -> None:
    with kind(2) as pool:
        pool.map(tasks.square, range(100))
        pool.starmap(tasks.add, [(1, 2)] * 7, chunksize=3)
        list(pool.imap(tasks.square, range(10), chunksize=4))
        assert pool.apply(tasks.square, (3,)) == 9
        pool.apply_async(tasks.square, (3,)).get()
        found = pool.statistics()
    check_sum(found, submitted=119, done=119, failed=0, lost=0, cancelled=0, pending=0, retried=0)
    assert found.tasks >= 8
    assert found.restarts == 0
    assert [worker.index for worker in found.workers] == [0, 1]


@pytest.mark.parametrize("kind", [Pool, ThreadPool])
def test_items_that_fail(kind: Any) -> None:
    with kind(2) as pool:
        with pytest.raises(ValueError):
            pool.map(odd_fails, range(10), chunksize=1)
        check_sum(pool.statistics(), submitted=10, done=5, failed=5)
        pool.map(odd_fails, range(10), chunksize=5, return_exceptions=True)
        check_sum(pool.statistics(), submitted=20, done=10, failed=10)
        with pytest.raises(ValueError):  # a chunk that raises has no results
            pool.map(odd_fails, range(10), chunksize=10)
        check_sum(pool.statistics(), submitted=30, done=10, failed=20)


def test_values_that_cannot_be_pickled_fail() -> None:
    with Pool(2) as pool:
        pool.map(unpicklable_if_odd, range(10), chunksize=5, return_exceptions=True)
        check_sum(pool.statistics(), submitted=10, done=5, failed=5)
        items = [1, (x for x in ()), 3]
        pool.map(tasks.identity, items, chunksize=1, return_exceptions=True)
        check_sum(pool.statistics(), submitted=13, done=7, failed=6)


def test_items_that_are_lost_and_run_again() -> None:
    with Pool(2) as pool:
        found = pool.map(die_if_odd, range(6), return_exceptions=True, retries=1)
        assert [isinstance(value, errors.WorkerLostError) for value in found] == [False, True] * 3
        done = pool.statistics()
        check_sum(done, submitted=6, done=3, lost=3, retried=3, pending=0)
        eventually(lambda: pool.statistics().restarts == 6)


def test_calls_that_are_cancelled(gate: Gate) -> None:
    with Pool(1) as pool:
        result = pool.map_async(gate.hold, range(8), chunksize=2)
        gate.arrived()
        check_sum(pool.statistics(), submitted=8, done=0, pending=8)
        assert result.cancel()
        eventually(lambda: pool.statistics().pending == 0)
        check_sum(pool.statistics(), submitted=8, cancelled=8)
        assert pool.apply(tasks.square, (2,)) == 4
        check_sum(pool.statistics(), submitted=9, done=1, cancelled=8)


def test_what_is_under_way_at_the_end_is_cancelled() -> None:
    pool = Pool(2)
    pool.map_async(nap, [1000] * 10, chunksize=1)
    eventually(lambda: pool.statistics().submitted == 10)
    pool.terminate()
    pool.join()
    check_sum(pool.statistics(), submitted=10, cancelled=10, pending=0)
    assert all(worker.pid is None for worker in pool.statistics().workers)


def test_times_and_bytes() -> None:
    # The pool notes the start of the worker when it has forked it, which may already sleep then.
    with Pool(1, initializer=nap, initargs=(0.3,)) as pool:
        pool.apply(nap, (0.2,))
        pool.apply(bytes, (1_000_000,))
        pool.apply(len, (bytes(500_000),))
        time.sleep(0.1)
        (worker,) = pool.statistics().workers
        assert worker.pid == pool._pool[0].pid
    assert 0.2 <= worker.work_seconds < DEADLINE
    assert 0.1 <= worker.idle_seconds < DEADLINE
    assert 0.05 <= worker.start_seconds < DEADLINE
    assert 500_000 < worker.bytes_sent < 600_000
    assert 1_000_000 < worker.bytes_received < 1_100_000


@pytest.mark.parametrize("kind", [Pool, ThreadPool])
def test_a_task_that_runs_counts_as_work(kind: Any, gate: Gate) -> None:
    with kind(1) as pool:
        result = pool.apply_async(gate.hold)
        eventually(partial(has_worked, pool, 0.1))
        assert pool.statistics().done == 0
        gate.open()
        result.get(DEADLINE)


def longest_of(kind: Any, call: Callable[[Any], object]) -> Any:
    """The longest task of a new pool after this call, whose task takes by far the longest."""
    with kind(2) as pool:
        call(pool)
        longest = pool.statistics().longest
    seconds = [task.seconds for task in longest]
    assert seconds == sorted(seconds, reverse=True)
    assert len(seconds) <= 5
    return longest[0]


@pytest.mark.parametrize("kind", [Pool, ThreadPool])
def test_the_longest_tasks(kind: Any) -> None:
    found = [
        longest_of(kind, lambda pool: pool.map(nap, [0] * 9 + [1.0], chunksize=1)),
        longest_of(kind, lambda pool: pool.map(nap, [0] * 7 + [1.0], chunksize=2)),
        longest_of(kind, lambda pool: list(pool.imap(nap, [0, 0, 0, 0, 1.0], chunksize=2))),
        longest_of(kind, lambda pool: pool.apply(nap, (1.0,))),
    ]
    assert [(task.item, task.items) for task in found] == [(9, 1), (6, 2), (4, 1), (None, 1)]
    assert all(task.seconds >= 1.0 for task in found)
    assert {task.function for task in found} == {f"{__name__}.nap"}
    assert {task.outcome for task in found} == {"done"}
    assert ": items 6 to 7 of " in str(found[1])


def test_a_task_that_runs_out_of_time_is_a_long_one() -> None:
    with Pool(1) as pool:
        with pytest.raises(errors.TaskTimeoutError):
            pool.map(nap, [0, 1000], chunksize=1, task_timeout=0.5)
        task = pool.statistics().longest[0]
    assert (task.item, task.outcome) == (1, "lost")
    assert task.seconds >= 0.5


class Doubler:
    def double(self, x: int) -> int:
        time.sleep(0.01)
        return 2 * x


def test_names_of_functions() -> None:
    with Pool(1) as pool:
        pool.apply(partial(nap, 0.01))
        assert pool.statistics().longest[0].function == f"{__name__}.nap"
    with Pool(1) as pool:
        pool.apply(Doubler().double, (1,))
        assert pool.statistics().longest[0].function == f"{__name__}.Doubler.double"
    with Pool(1) as pool:
        pool.apply(nap, (0.01,), retries=1, retry_on=ValueError)
        assert pool.statistics().longest[0].function == f"{__name__}.nap"
    pytest.importorskip("cloudpickle")
    with Pool(1) as pool:
        pool.apply(lambda: time.sleep(0.01))
        assert "<lambda>" in pool.statistics().longest[0].function


class Größe:
    def __init__(self, factor: object) -> None:
        self.factor = factor

    def __call__(self) -> None:
        pass

    def messen(self) -> None:
        pass


_NAMED: dict[str, Callable[..., Any]] = {
    "nap": partial(nap, 1),
    "Doubler.double": partial(Doubler().double, 3),
    "Größe": Größe({"a": b"\x1c\x0a\x01"}),
    "Größe.messen": Größe("x" * 300).messen,
}


@pytest.mark.parametrize("name", _NAMED)
@pytest.mark.parametrize("encode", [_core._encode, pickle.dumps])
def test_names_in_bytes_that_may_be_cut(name: str, encode: Callable[[Any], bytes]) -> None:
    data = encode(_NAMED[name])
    assert name_in(data) == f"{__name__}.{name}"
    start = f"{__name__}.{name.partition('.')[0]}"
    for n in range(len(data)):
        found = name_in(data[:n])
        assert found == "a function" or found.startswith(start), (n, found)


def test_a_report_is_a_table() -> None:
    with Pool(2) as pool:
        pool.map(tasks.square, range(10))
        lines = str(pool.statistics()).splitlines()
    assert lines[0].startswith("pool of 2 processes: 10 items submitted: 10 done, 0 failed")
    assert [line.split()[0] for line in lines[1:5]] == ["worker", "0", "1", "all"]
    assert len({len(line) for line in lines[1:5]}) == 1
    if HAS_SHARED_MEMORY:
        assert re.fullmatch("shared memory: .* [KM]iB, of which 0 B in use", lines.pop(5))
    assert lines[5] == "longest tasks:"


MIB = 1 << 20
LARGE = MIB if HAS_SHARED_MEMORY else 0  # what a large argument takes


def in_use(pool: Any) -> int:
    """How much of the shared memory is in use; and check how much there is."""
    found = pool.statistics()
    assert found.shared_memory_in_use <= found.shared_memory <= 16 * MIB
    number: int = found.shared_memory_in_use
    return number


def test_shared_memory_of_arguments(gate: Gate) -> None:
    with Pool(1) as pool:
        assert in_use(pool) == 0
        first = pool.apply_async(gate.hold)
        gate.arrived()
        second = pool.apply_async(len, (bytes(MIB),))  # waits
        eventually(lambda: in_use(pool) == LARGE)
        gate.open()
        assert (first.get(DEADLINE), second.get(DEADLINE)) == (None, MIB)
        eventually(lambda: in_use(pool) == 0)
    pool.join()
    assert pool.statistics().shared_memory == 0


def test_shared_memory_of_shared_objects() -> None:
    pool = Pool(1)
    handles = [pool.share(bytes(MIB)), pool.share(bytes(MIB))]
    assert 2 * LARGE <= in_use(pool) <= 2 * LARGE + 4096  # with what describes them
    assert pool.apply(len, (handles[0],)) == MIB
    handles.pop().close()
    eventually(lambda: in_use(pool) <= LARGE + 4096)
    pool.terminate()
    pool.join()
    assert LARGE <= in_use(pool) <= LARGE + 4096
    handles.pop().close()
    assert pool.statistics().shared_memory == 0


def test_shared_memory_is_looked_up_while_it_is_used() -> None:
    ended = threading.Event()
    seen: list[int] = []

    def look() -> None:
        while True:
            done = ended.is_set()
            seen.append(in_use(pool))
            if done:
                return

    with Pool(2) as pool:
        looker = threading.Thread(target=look)
        looker.start()
        try:
            for _ in range(10):
                assert pool.map(len, [bytes(MIB // 4)] * 8, chunksize=1) == [MIB // 4] * 8
            eventually(lambda: in_use(pool) == 0)
        finally:
            ended.set()
            looker.join(DEADLINE)
    assert seen[-1] == 0


@pytest.mark.parametrize("kind", ["threads", "serial", "without"])
def test_pools_without_shared_memory(kind: str) -> None:
    options: Any = {"serial": {"serial": True}, "without": {"shared_memory_limit": 0}}
    with (ThreadPool if kind == "threads" else Pool)(1, **options.get(kind, {})) as pool:
        assert pool.apply(len, (bytes(MIB),)) == MIB
        found = pool.statistics()
        assert (found.shared_memory, found.shared_memory_in_use) == (0, 0)
        assert "shared memory" not in str(found)


def test_resized_and_restarted() -> None:
    for kind in Pool, ThreadPool:
        with kind(1) as pool:
            pool.resize(3)
            pool.map(nap, [0.01] * 12, chunksize=1)
            pool.resize(1)
            pool.map(nap, [0] * 8, chunksize=1)
            found = pool.statistics()
            assert len(found.workers) == 3
            check_sum(found, submitted=20, done=20)


def test_maxtasksperchild() -> None:
    with Pool(1, maxtasksperchild=2) as pool:
        pool.map(tasks.square, range(6), chunksize=1)
        eventually(lambda: pool._pool and pool.statistics().restarts == 3)  # which replaces
        check_sum(pool.statistics(), submitted=6, done=6)


@pytest.mark.parametrize("seed", range(4))
def test_statistics_add_up_whatever_happens(seed: int) -> None:
    """Workers die, calls are cancelled, items fail, run out of time and are run again."""
    rng = random.Random(seed)
    with Pool(3) as pool:
        results: list[Any] = []
        for _ in range(30):
            func = rng.choice([die_if_odd, odd_fails, tasks.square, partial(nap, 0.001)])
            items = () if isinstance(func, partial) else range(rng.randrange(1, 12))
            options = rng.choice([{}, {"retries": 1}, {"task_timeout": 0.5}, {"fail_fast": True}])
            if isinstance(func, partial):
                results.append(pool.apply_async(func, **options))
            else:
                size = rng.randrange(1, 4)
                results.append(pool.map_async(func, items, size, **options))
            if rng.random() < 0.3:
                rng.choice(results).cancel(kill=rng.random() < 0.5)
            if rng.random() < 0.2:
                rng.choice(eventually(lambda: list(pool._pool))).kill()
            found = pool.statistics()
            assert found.pending >= 0
            check_sum(found)
        for result in results:
            with contextlib.suppress(Exception):
                result.get(DEADLINE)
        eventually(lambda: pool.statistics().pending == 0)
        check_sum(pool.statistics())


def test_statistics_of_an_ended_pool_and_of_a_forked_copy() -> None:
    pool = Pool(1)
    pool.map(tasks.square, range(5))
    pool.close()
    pool.join()
    check_sum(pool.statistics(), submitted=5, done=5, pending=0)
    pid = os.fork()
    if pid == 0:
        try:
            pool.statistics()
        except ValueError:
            os._exit(7)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7


def test_a_pool_on_the_engine_of_the_stdlib_has_none() -> None:
    class Own(Pool):
        def _repopulate_pool(self) -> None:
            super()._repopulate_pool()

    with Own(1) as pool, pytest.raises(ValueError, match="engine"):
        pool.statistics()


STATS = """
from multiprocessing import Pool
from multiprocessing.pool import ThreadPool

if __name__ == "__main__":
    with Pool(2) as pool:
        pool.map(abs, range(10))
    del pool
    kept = ThreadPool(1)
    kept.map(abs, range(3))
    print("end")
"""


EXECUTORS = """
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor

if __name__ == "__main__":
    for kind in ProcessPoolExecutor, ThreadPoolExecutor:
        with kind(1) as executor:
            assert list(executor.map(abs, range(5))) == list(range(5))
            executor.submit(int, "x").exception()
"""


def test_python_m_cpool_stats_with_executors(tmp_path: Path) -> None:
    path = scripts.write(tmp_path, EXECUTORS)
    done = scripts.run("-m", "cpool", "--stats", "--executors", path)
    assert done.returncode == 0
    heads = [line for line in done.stderr.splitlines() if line.startswith("cpool: ")]
    assert [head.split(";")[0] for head in heads] == [
        f"cpool: pool of 1 {kind}: 6 items submitted: 5 done, 1 failed, 0 lost, 0 cancelled,"
        " 0 pending"
        for kind in ("processes", "threads")
    ]


def test_python_m_cpool_stats(tmp_path: Path) -> None:
    done = scripts.run("-m", "cpool", "--stats", scripts.write(tmp_path, STATS))
    assert done.returncode == 0
    assert done.stdout == "end\n"
    heads = [line for line in done.stderr.splitlines() if line.startswith("cpool: ")]
    assert heads == [
        "cpool: pool of 2 processes: 10 items submitted: 10 done, 0 failed, 0 lost, 0 cancelled,"
        " 0 pending; 0 run again",
        "cpool: pool of 1 threads: 3 items submitted: 3 done, 0 failed, 0 lost, 0 cancelled,"
        " 0 pending; 0 run again",
    ]
