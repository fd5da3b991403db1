"""Workers that are stopped: by SIGSTOP, a frozen control group, or for want of memory.

What a stopped worker has not begun is run by the others, and not again when the worker goes on.
"""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import tasks
from checks import whole_again
from engine import DEADLINE
from gates import Diary, Gate, eventually

pytestmark = pytest.mark.better

N = 24


def is_stopped(pid: int) -> bool:
    with open(f"/proc/{pid}/stat", encoding="utf-8") as file:
        return file.read().rpartition(")")[2].split()[0] == "T"


@pytest.fixture
def stop() -> Iterator[Callable[[int], None]]:
    """Stops processes. They go on at the end of the test at the latest."""
    pids: list[int] = []

    def run(pid: int) -> None:
        pids.append(pid)
        os.kill(pid, signal.SIGSTOP)
        eventually(lambda: is_stopped(pid))

    yield run
    for pid in pids:
        go_on(pid)


def go_on(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGCONT)


def note(diary: Diary, number: int, _: bytes = b"") -> int:
    diary.write(number)
    return number


def note_item(item: tuple[Diary, int, bytes]) -> int:
    return note(*item)


Items = list[tuple[Diary, int, bytes]]
CALLS: dict[str, Callable[[Any, Items], list[int]]] = {
    "map": lambda pool, items: pool.map(note_item, items, 1),
    "map_async": lambda pool, items: pool.map_async(note_item, items, 1).get(DEADLINE),
    "chunks": lambda pool, items: pool.map_async(note_item, items, 5).get(DEADLINE),
    "default chunks": lambda pool, items: pool.map_async(note_item, items).get(DEADLINE),
    "starmap": lambda pool, items: pool.starmap_async(note, items, 2).get(DEADLINE),
    "imap": lambda pool, items: list(pool.imap(note_item, items)),
    "imap chunks": lambda pool, items: list(pool.imap(note_item, items, 5)),
    "imap_unordered": lambda pool, items: sorted(pool.imap_unordered(note_item, items)),
    "apply": lambda pool, items: [pool.apply(note, item) for item in items],
    "apply_async": lambda pool, items: [
        result.get(DEADLINE) for result in [pool.apply_async(note, item) for item in items]
    ],
}


@pytest.mark.parametrize("size", [0, 100_000], ids=["small", "big"])
@pytest.mark.parametrize("call", CALLS)
def test_an_idle_worker_is_stopped(
    make_pool: Any, stop: Any, diary: Diary, call: str, size: int
) -> None:
    pool = make_pool(2)
    assert len(pool.map(tasks.pid, range(20), 1)) == 20  # both are ready, and idle again
    items = [(diary, number, bytes(size)) for number in range(N)]
    worker = pool._pool[0].pid
    stop(worker)
    assert CALLS[call](pool, items) == list(range(N))
    go_on(worker)
    whole_again(pool, 2)
    assert sorted(map(int, diary.lines())) == list(range(N))


@pytest.mark.parametrize("size", [0, 100_000], ids=["small", "big"])
@pytest.mark.parametrize("call", CALLS)
def test_a_busy_worker_is_stopped(
    make_pool: Any, stop: Any, diary: Diary, gate: Gate, call: str, size: int
) -> None:
    """What it runs waits for it, and nothing else does."""
    pool = make_pool(2)
    held = pool.apply_async(gate.hold, ("held",))
    [worker] = gate.arrived()
    stop(worker)
    items = [(diary, number, bytes(size)) for number in range(N)]
    assert CALLS[call](pool, items) == list(range(N))
    assert not held.ready()
    gate.open()
    go_on(worker)
    assert held.get(DEADLINE) == "held"
    whole_again(pool, 2)
    assert sorted(map(int, diary.lines())) == list(range(N))


@pytest.mark.parametrize("size", [0, 100_000], ids=["small", "big"])
def test_a_worker_is_stopped_with_tasks_in_its_pipe(
    make_pool: Any, stop: Any, diary: Diary, make_gate: Any, size: int
) -> None:
    """They were sent to it while it ran a quick task after another."""
    first, second = make_gate(), make_gate()
    pool = make_pool(2)
    assert pool.map(tasks.square, range(100), 1) == [x * x for x in range(100)]
    held = [pool.apply_async(gate.hold) for gate in (first, second)]
    [worker] = first.arrived()
    second.arrived()
    items = [(diary, number, bytes(size)) for number in range(N)]
    results = [pool.apply_async(note, item) for item in items]
    stop(worker)
    second.open()
    assert [result.get(DEADLINE) for result in results] == list(range(N))
    first.open()
    go_on(worker)
    assert [result.get(DEADLINE) for result in held] == [None, None]
    whole_again(pool, 2)
    assert sorted(map(int, diary.lines())) == list(range(N))


@pytest.mark.parametrize("end", ["close", "terminate"])
def test_a_pool_ends_with_a_worker_that_was_stopped(
    make_pool: Any, stop: Any, diary: Diary, end: str
) -> None:
    pool = make_pool(2)
    worker = pool._pool[1].pid
    stop(worker)
    items = [(diary, number, b"") for number in range(N)]
    assert pool.map_async(note_item, items, 1).get(DEADLINE) == list(range(N))
    if end == "close":
        go_on(worker)
    getattr(pool, end)()
    pool.join(timeout=DEADLINE)
    assert sorted(map(int, diary.lines())) == list(range(N))
