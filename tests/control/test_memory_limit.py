"""`memory_limit=` and `MemoryLimitError`."""

from __future__ import annotations

import mmap
import multiprocessing
import os
import pickle
import signal
import time
from functools import partial
from pathlib import Path
from typing import Any

import engine
import pytest
import tasks
from engine import DEADLINE, Pool
from gates import all_gone, eventually

pytestmark = [
    pytest.mark.better,
    pytest.mark.skipif(engine.PORTABLE, reason="needs /proc"),
]

cpool = engine.errors
ThreadPool = engine.pool_module.ThreadPool

MB = 10**6
LIMIT = 64 * MB
kept: list[mmap.mmap] = []


def take(size: int) -> mmap.mmap:
    """Take new memory: the allocator might reuse memory from the parent."""
    memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    memory.write(b"x" * size)
    return memory


def grow(_: Any = None) -> None:
    """Take twice the limit, until the pool checks."""
    kept.append(take(2 * LIMIT))
    time.sleep(1000)


def grow_at(bad: int, x: int) -> int:
    if x == bad:
        grow()
    return x


def leak(x: int) -> tuple[int, int]:
    kept.append(take(2 * MB))
    return x, os.getpid()


def check_error(error: Any) -> None:
    assert type(error) is cpool.MemoryLimitError
    assert isinstance(error, (cpool.WorkerLostError, MemoryError))
    assert error.limit == LIMIT
    assert LIMIT < error.bytes < 8 * LIMIT
    assert error.exitcode == -signal.SIGKILL


def test_an_item_that_takes_too_much_is_ended(make_pool: Any) -> None:
    pool = make_pool(1, memory_limit=LIMIT)
    with pytest.raises(MemoryError, match=r"Pool.apply\(test_memory_limit.grow\) took worker") as e:
        pool.apply(grow)
    check_error(e.value)
    assert "the memory_limit of the pool is 64.0 MB" in str(e.value)
    assert pool.apply(tasks.square, (3,)) == 9


@pytest.mark.parametrize("method", ["map", "map_async", "imap", "imap_unordered"])
def test_nothing_else_is_lost(make_pool: Any, method: str) -> None:
    pool = make_pool(2, memory_limit=LIMIT)
    call = partial(grow_at, 10)
    found = getattr(pool, method)(call, range(20), 1, return_exceptions=True)
    values = list(found.get(DEADLINE) if method == "map_async" else found)
    [error] = [value for value in values if type(value) is not int]
    check_error(error)
    assert error.index == 10
    assert sorted(value for value in values if type(value) is int) == [
        x for x in range(20) if x != 10
    ]


def test_a_chunk_is_lost_with_its_item(make_pool: Any) -> None:
    with pytest.raises(cpool.MemoryLimitError, match="items 0 to 3, its chunk, are lost") as e:
        make_pool(1, memory_limit=LIMIT).map(partial(grow_at, 2), range(4), 4)
    assert e.value.index == 2


def test_nobody_waits_for_the_pool(make_pool: Any) -> None:
    result = make_pool(1, memory_limit=LIMIT).apply_async(grow)
    eventually(result.ready)
    with pytest.raises(cpool.MemoryLimitError):
        result.get()


@pytest.mark.parametrize("chunksize", [1, 100])
def test_a_leak_fails_no_item(make_pool: Any, chunksize: int) -> None:
    """Workers are replaced between two tasks."""
    pool = make_pool(2, memory_limit=LIMIT)
    found = pool.map(leak, range(200), chunksize)
    assert [x for x, _ in found] == list(range(200))
    if chunksize == 1:
        assert len({pid for _, pid in found}) >= 200 * 2 * MB // (2 * LIMIT)


def test_a_worker_above_the_limit_ends_between_two_tasks(make_pool: Any) -> None:
    pool = make_pool(1, memory_limit=LIMIT)
    [before] = [worker.pid for worker in pool._pool]
    # More than the limit: a worker looks once a millisecond.
    for x in range(2 * LIMIT // (2 * MB)):
        assert pool.apply(leak, (x,))[0] == x
    all_gone([before])
    assert pool.apply(tasks.square, (3,)) == 9


def test_what_a_fork_shares_does_not_count(make_pool: Any) -> None:
    kept.append(take(2 * LIMIT))
    try:
        pool = make_pool(1, memory_limit=LIMIT)
        [before] = [worker.pid for worker in pool._pool]
        assert pool.map(tasks.square, range(100), 1) == [x * x for x in range(100)]
        assert [worker.pid for worker in pool._pool] == [before]
        with pytest.raises(cpool.MemoryLimitError):
            pool.apply(grow)
    finally:
        kept.clear()


def hold(size: int) -> None:
    kept.append(take(size))


def test_an_initializer_that_takes_more_than_the_limit(make_pool: Any) -> None:
    """Each worker runs a task: no item fails, since none of them took the memory."""
    pool = make_pool(1, hold, (LIMIT + 8 * MB,), memory_limit=LIMIT)
    assert [pool.apply(leak, (x,))[0] for x in range(3)] == [0, 1, 2]


def grow_once(path: str) -> int:
    with open(path, "a", encoding="utf-8") as file:
        file.write("x")
    if os.path.getsize(path) == 1:
        grow()
    return os.path.getsize(path)


def test_an_item_that_took_too_much_is_retried(make_pool: Any, tmp_path: Path) -> None:
    pool = make_pool(2, memory_limit=LIMIT)
    assert pool.apply(grow_once, (str(tmp_path / "runs"),), retries=1) == 2


@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_workers_that_start_afresh(make_pool: Any, method: str) -> None:
    context = multiprocessing.get_context(method)
    pool = make_pool(1, memory_limit=2 * LIMIT, context=context)
    with pytest.raises(cpool.MemoryLimitError):
        pool.map(hold_and_wait, [4 * LIMIT])
    assert pool.apply(tasks.square, (3,)) == 9


def hold_and_wait(size: int) -> None:
    hold(size)
    time.sleep(1000)


def test_the_error_survives_pickling(make_pool: Any) -> None:
    with pytest.raises(cpool.MemoryLimitError) as e:
        make_pool(1, memory_limit=LIMIT).apply(grow)
    again = pickle.loads(pickle.dumps(e.value))
    assert (type(again), str(again), vars(again)) == (type(e.value), str(e.value), vars(e.value))


@pytest.mark.parametrize(
    ("text", "amount"),
    [
        (5000, 5000),
        ("5000", 5000),
        ("2GiB", 2 * 2**30),
        ("500 MB", 500 * 10**6),
        ("1.5g", 1_500_000_000),
        ("64ki", 64 * 1024),
        (" 3 TB ", 3 * 10**12),
    ],
)
def test_amounts(make_pool: Any, text: Any, amount: int) -> None:
    assert make_pool(1, memory_limit=text)._asked.memory_limit == amount


@pytest.mark.parametrize("bad", [0, -1, "", "much", "2XB", "-5", "nan", "inf GB", 2**63])
def test_bad_amounts(bad: Any) -> None:
    with pytest.raises(ValueError, match="memory_limit must be"):
        Pool(1, memory_limit=bad)


@pytest.mark.parametrize("bad", [1.5, True, False, b"1"])
def test_no_amount(bad: Any) -> None:
    with pytest.raises(TypeError):
        Pool(1, memory_limit=bad)


def touch(array: Any, *, writes: bool = False) -> int:
    """Touch each page."""
    if writes:
        array[::512] += 1
        time.sleep(1000)
    assert array[::512].all()
    return os.getpid()


def build(n: int) -> tuple[int, Any]:
    array = cpool.empty(n, "i8")
    array[:] = 1
    return os.getpid(), array


def test_shared_memory_does_not_count(make_pool: Any) -> None:
    numpy = pytest.importorskip("numpy")
    limit = 24 * MB
    pool = make_pool(1, memory_limit=limit)
    n = 3 * limit // 16
    # A worker above its limit would be replaced after the task.
    pids = {pool.apply(build, (n,))[0] for _ in range(2)}
    array = numpy.ones(n, "i8")
    pids.update(pool.apply(touch, (array,)) for _ in range(2))
    with pool.share(array) as handle:
        pids.update(pool.apply(touch, (handle,)) for _ in range(2))
        assert len(pids) == 1
        with pytest.raises(cpool.MemoryLimitError):  # the pages are the worker's own now
            pool.apply(touch, (handle,), {"writes": True})
