"""Generator functions for tests of stream() and flatmap()."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator, Iterator
from contextvars import ContextVar

import tasks
from engine import DEADLINE, TYPE_CHECKING, Pool, errors, pool_module

if TYPE_CHECKING:
    from typing import Any

    from gates import Diary, Gate

SPOT: ContextVar[str] = ContextVar("SPOT", default="nowhere")


def count(number: int) -> Iterator[int]:
    yield from range(number)


def count_from(first: int, number: int = 3) -> Iterator[int]:
    yield from range(first, first + number)


def listed(number: int) -> list[int]:
    return list(range(number))


def endless(diary: Diary) -> Iterator[int]:
    """Yields without end; records each step, and when it is closed."""
    number = 0
    try:
        while True:
            diary.write(number)
            yield number
            number += 1
    except GeneratorExit:
        diary.write("closed")
        raise
    finally:
        diary.write("finally")


def then_fail(number: int) -> Iterator[int]:
    yield from range(number)
    raise KeyError(number)


def fail_at_once(_: int) -> Iterator[int]:
    raise KeyError("at once")


def then_die(number: int) -> Iterator[int]:
    yield from range(number)
    tasks.die()


def die_unless_second(path: str) -> Iterator[int]:
    if tasks.is_first(path):
        tasks.die()
    yield from range(3)


def fail_unless_second(path: str) -> Iterator[int]:
    if tasks.is_first(path):
        raise ValueError("the first time")
    yield from range(3)


def yield_then_fail(diary: Diary) -> Iterator[int]:
    diary.write("begun")
    yield 1
    raise ValueError("after a value")


def hold_between(gate: Gate) -> Iterator[str]:
    yield "before"
    gate.hold()
    yield "after"


def hold_then(gate: Gate, values: list[int]) -> Iterator[int]:
    gate.hold()
    yield from values


def hold_if_first(item: tuple[Gate, int]) -> Iterator[int]:
    gate, number = item
    if number == 0:
        gate.hold()
    yield from range(10 * number, 10 * number + 3)


def stuck_after(number: int) -> Iterator[int]:
    yield from range(number)
    time.sleep(DEADLINE)


def bodies(number: int, size: int) -> Iterator[bytes]:
    for i in range(number):
        yield bytes([i % 256]) * size


def with_unpicklable(number: int) -> Iterator[Any]:
    try:
        yield from range(number)
        yield tasks.unpicklable()
        yield "never"
    finally:
        pass


def with_one_that_breaks(number: int) -> Iterator[Any]:
    yield from range(number)
    yield tasks.breaks_on_arrival()
    yield "last"


def of_any_kind() -> Iterator[Any]:
    """Values that could be taken for something else: an end, a failure, nothing."""
    yield None
    yield StopIteration(3)
    yield ValueError("a value")
    yield GeneratorExit()
    yield ()
    yield NotImplemented
    yield StopIteration


def next_epoch() -> Iterator[tuple[int, int]]:
    """Which process it is, and how often it has yielded in the life of this process."""
    state = worker_state()
    while True:
        state["yielded"] = state.get("yielded", 0) + 1
        yield os.getpid(), state["yielded"]


def worker_state() -> dict[str, Any]:
    worker = errors.current_worker()
    assert worker is not None
    found: dict[str, Any] = worker.state
    return found


def by_a_pool(kind: str, number: int) -> Iterator[int]:
    """Yields what the tasks of a pool of its own return, or their streams yield."""
    cls = pool_module.ThreadPool if kind == "threads" else Pool
    with cls(2) as pool:
        yield from pool.imap(tasks.square, range(number))
        yield from pool.stream(count, (number,), buffersize=2)


def ends_like_another(number: int) -> Iterator[int]:
    yield from range(number)
    raise StopIteration(number)


def spots(number: int) -> Iterator[str]:
    for _ in range(number):
        yield SPOT.get()


async def count_async(number: int) -> AsyncIterator[int]:
    for i in range(number):
        await asyncio.sleep(0)
        yield i


async def endless_async(diary: Diary) -> AsyncIterator[int]:
    number = 0
    try:
        while True:
            await asyncio.sleep(0)
            yield number
            number += 1
    finally:
        await asyncio.sleep(0)
        diary.write("finally")


async def fail_async(number: int) -> AsyncIterator[int]:
    for i in range(number):
        yield i
    raise KeyError(number)


class Closing:
    """An iterator of a class of its own."""

    def __init__(self, diary: Diary) -> None:
        self.diary = diary
        self.number = 0

    def __iter__(self) -> Closing:
        return self

    def __next__(self) -> int:
        self.number += 1
        return self.number

    def close(self) -> None:
        self.diary.write("closed")


class ClosingBadly(Closing):
    def close(self) -> None:
        super().close()
        raise RuntimeError("close() fails")


def fork_after(number: int) -> Iterator[int]:
    """The copy of the worker yields too; nobody may get those values."""
    yield from range(number)
    child = os.fork()
    yield -1 if child == 0 else number
    os.waitpid(child, 0)
    yield number + 1


def pid_of(number: int) -> Iterator[int]:
    for _ in range(number):
        yield os.getpid()


def many(number: int) -> Iterator[tuple[int, int]]:
    for i in range(200):
        yield number, i
