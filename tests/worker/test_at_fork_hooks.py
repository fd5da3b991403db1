"""The program's at-fork hooks run in a forked worker before the pool's code (os.register_at_fork).
A hook may end the process, or hang for ever with all signals blocked."""

from __future__ import annotations

import gc
import os
import signal
import threading
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from multiprocessing import TimeoutError
from pathlib import Path
from typing import Any

import pytest
import scripts
import tasks
from engine import DEADLINE, Pool, errors
from gates import Gate, all_gone, eventually

pytestmark = pytest.mark.better

Act = Callable[[], object]


class Forks:
    """Counts the forks of this process from 1, and runs the test's code in each child."""

    def __init__(self) -> None:
        self.count = 0
        self.acts: dict[int, Act] = {}
        self.rest: Act | None = None

    def before(self) -> None:
        self.count += 1

    def in_child(self) -> None:
        act = self.acts.get(self.count, self.rest)
        if act is not None:
            act()


forks = Forks()
os.register_at_fork(before=lambda: forks.before(), after_in_child=lambda: forks.in_child())


@pytest.fixture(autouse=True)
def counted() -> Iterator[None]:
    forks.__init__()  # type: ignore[misc]
    yield
    forks.__init__()  # type: ignore[misc]


def hang() -> None:
    threading.Event().wait()


DEATHS: dict[str, Act] = {
    "exit 0": lambda: os._exit(0),
    "exit 7": lambda: os._exit(7),
    "SIGKILL": lambda: os.kill(os.getpid(), signal.SIGKILL),
}

BIG = bytes(1 << 20)  # more than a pipe holds


def size_of(big: bytes, x: int) -> int:
    return len(big) + x


CALLS: dict[str, Callable[[Any], Any]] = {
    "apply": lambda pool: [pool.apply(tasks.square, (x,)) for x in range(4)] == [0, 1, 4, 9],
    "map": lambda pool: pool.map(tasks.square, range(50), 1) == [x * x for x in range(50)],
    "default chunks": lambda pool: pool.map(abs, range(1000)) == list(range(1000)),
    "imap": lambda pool: list(pool.imap(abs, iter(range(20)))) == list(range(20)),
    "apply_async": lambda pool: (
        [result.get(DEADLINE) for result in [pool.apply_async(abs, (-1,)) for _ in range(20)]]
        == [1] * 20
    ),
    "big items": lambda pool: pool.map(tasks.size, [BIG] * 5, 1) == [len(BIG)] * 5,
    "a big callable": lambda pool: (
        pool.map(partial(size_of, BIG), range(5), 1) == [len(BIG) + x for x in range(5)]
    ),
}


@pytest.mark.parametrize("which", [1, 2])
@pytest.mark.parametrize("call", CALLS)
def test_the_other_worker_runs_every_task_while_one_hangs(
    make_pool: Any, call: str, which: int
) -> None:
    """Both in a new pool, and when the other worker is ready already."""
    forks.acts[which] = hang
    pool = make_pool(2)
    hung = pool._pool[which - 1]
    assert CALLS[call](pool)
    assert CALLS[call](pool)
    hung.kill()  # or terminate() would wait for its whole grace period


@pytest.mark.parametrize("item", [b"small", BIG], ids=["small", "big"])
def test_new_tasks_wait_for_the_busy_worker_while_one_hangs(
    make_pool: Any, gate: Gate, item: bytes
) -> None:
    forks.acts[1] = hang
    pool = make_pool(2)
    held = pool.apply_async(gate.hold, (5,))
    gate.arrived()
    results = [pool.apply_async(tasks.size, (item,)) for _ in range(3)]
    with pytest.raises(TimeoutError):
        results[0].get(0.05)
    gate.open()
    assert held.get(DEADLINE) == 5
    assert [result.get(DEADLINE) for result in results] == [len(item)] * 3


def test_a_replacement_worker_may_hang(make_pool: Any) -> None:
    forks.acts[3] = hang
    pool = make_pool(2)
    pool._pool[0].kill()
    for _ in range(3):
        assert pool.map(tasks.square, range(20), 1) == [x * x for x in range(20)]
    eventually(lambda: len(pool._pool) == 2 and forks.count == 3)
    assert pool.map(tasks.square, range(20), 1) == [x * x for x in range(20)]


def test_a_hanging_hook_does_not_keep_the_pool_from_ending(make_pool: Any) -> None:
    """All signals are blocked in the worker."""
    forks.acts[1] = hang
    pool = make_pool(2)
    hung = pool._pool[0].pid
    assert pool.map(tasks.square, range(20), 1) == [x * x for x in range(20)]
    pool.close()
    pool.join(timeout=DEADLINE)
    all_gone([hung])


def ended_by_with(pool: Any) -> None:
    with pool:
        pass


ENDS: dict[str, Callable[[Any], object]] = {
    "terminate": lambda pool: pool.terminate(),
    "with": ended_by_with,
    "close": lambda pool: (pool.close(), pool.terminate()),
}


@pytest.mark.parametrize("end", ENDS)
def test_a_pool_ends_although_all_workers_hang(make_pool: Any, end: str) -> None:
    """Calls that wait for the workers end as well."""
    forks.rest = hang
    pool = make_pool(2)
    pids = [worker.pid for worker in pool._pool]
    told: list[BaseException] = []

    def wait() -> None:
        try:
            pool.map(tasks.size, [BIG] * 3, 1)
        except errors.PoolTerminated as error:
            told.append(error)

    thread = threading.Thread(target=wait)
    thread.start()
    result = pool.apply_async(abs, (-1,), callback=id)
    eventually(lambda: len(pool._cache) == 2)
    ENDS[end](pool)
    pool.join(DEADLINE)
    thread.join(DEADLINE)
    assert len(told) == 1
    with pytest.raises(errors.PoolTerminated):
        result.get(DEADLINE)
    assert [worker.exitcode for worker in pool._pool] == [-signal.SIGKILL] * 2
    all_gone(pids)


def test_an_unreferenced_pool_is_freed_although_all_workers_hang() -> None:
    forks.rest = hang
    pool = Pool(2)
    pids = [worker.pid for worker in pool._pool]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        del pool
        gc.collect()
    all_gone(pids)


PROGRAM = """
import os, threading
from engine import Pool

os.register_at_fork(after_in_child=lambda: threading.Event().wait())
pool = Pool(2)
result = pool.map_async(abs, [-1])
print(*[worker.pid for worker in pool._pool])
"""


def test_the_program_ends_although_all_workers_hang(tmp_path: Path) -> None:
    [pids] = scripts.output(tmp_path, PROGRAM)
    all_gone(map(int, pids.split()))


@pytest.mark.parametrize("how", DEATHS)
@pytest.mark.parametrize("call", CALLS)
def test_a_worker_that_dies_in_a_hook_is_replaced(make_pool: Any, call: str, how: str) -> None:
    """The worker's tasks are not lost."""
    forks.acts[1] = forks.acts[3] = DEATHS[how]
    pool = make_pool(2)
    assert CALLS[call](pool)
    eventually(lambda: len(pool._pool) == 2 and forks.count == 4)
    assert CALLS[call](pool)


def test_the_pool_breaks_if_every_worker_dies_in_a_hook(make_pool: Any) -> None:
    forks.rest = DEATHS["exit 7"]
    pool = make_pool(2)
    result = pool.map_async(tasks.square, range(5))
    with pytest.raises(errors.PoolError, match="no worker can be started: .* were never ready"):
        pool.apply(tasks.nothing)
    with pytest.raises(errors.PoolError, match="no worker can be started"):
        result.get(DEADLINE)
