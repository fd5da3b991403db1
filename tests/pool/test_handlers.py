"""A signal handler that calls one method of a pool in the middle of another one."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import engine
import pytest
import tasks
from engine import DEADLINE, errors
from gates import Gate
from misbehaving import ignore_sigterm_and_hold

import cpool
from cpool._engine import end

pytestmark = pytest.mark.better


class Sized:
    """An iterable with a length that is no list."""

    def __len__(self) -> int:
        return 5

    def __iter__(self) -> Iterator[int]:
        return iter(range(5))


CALLS: dict[str, Callable[[Any], Any]] = {
    "apply": lambda pool: pool.apply(tasks.square, (3,)),
    "apply_async": lambda pool: pool.apply_async(tasks.square, (3,)).get(DEADLINE),
    "callback": lambda pool: pool.apply_async(tasks.square, (3,), callback=str).wait(DEADLINE),
    "map": lambda pool: pool.map(tasks.square, Sized(), 1),
    "map_async": lambda pool: pool.map_async(tasks.square, [1, 2], 1).get(DEADLINE),
    "imap": lambda pool: list(pool.imap(tasks.square, iter([1, 2]))),
    "imap_unordered": lambda pool: list(pool.imap_unordered(tasks.square, [1, 2], 2)),
    "close_join": lambda pool: (pool.close(), pool.join()),
    "terminate": lambda pool: pool.terminate(),
    "terminate_join": lambda pool: (pool.terminate(), pool.join()),
}

ENDS = ["close_join", "terminate", "terminate_join"]

# What each call raises where the pool has ended, or cannot do it in the middle of the other call.
ERRORS = (ValueError, errors.PoolTerminated, RuntimeError)
REASONS = "not running|still running|was terminated|a signal handler cannot"

SOURCES = (str(Path(cpool.__file__).parent), threading.__file__)


class At:
    """Runs `act` at the place with this number: a line of the pool's or of threading's Python."""

    def __init__(self, place: int, act: Callable[[], object]) -> None:
        self.left = place
        self.act = act

    def __enter__(self) -> At:
        sys.settrace(self.call)
        return self

    def __exit__(self, *_: object) -> None:
        sys.settrace(None)

    def call(self, frame: FrameType, event: str, arg: object) -> Any:
        if not frame.f_code.co_filename.startswith(SOURCES):
            return None
        self.line(frame, "line", arg)
        return self.line

    def line(self, frame: FrameType, event: str, arg: object) -> Any:
        if event == "line":
            self.left -= 1
            if self.left == 0:
                sys.settrace(None)
                self.act()
        return self.line


def tolerantly(call: Callable[[], object]) -> None:
    """Make the call, which may find that the pool has ended."""
    try:
        call()
    except ERRORS as exc:
        assert any(part in str(exc) for part in REASONS.split("|")), exc


@pytest.mark.parametrize("inner", CALLS)
@pytest.mark.parametrize("outer", CALLS)
@pytest.mark.parametrize("cls", [engine.Pool, cpool.ThreadPool], ids=["processes", "threads"])
def test_any_call_in_the_middle_of_any_other(cls: Any, outer: str, inner: str) -> None:
    """It works or raises, and never hangs; and the pool can be ended."""
    place, was_reached = 1 + list(CALLS).index(inner), True
    while was_reached:
        was_reached = reaches(place, cls(1), CALLS[outer], CALLS[inner])
        # The inner calls start at different places: together they take each place of an end about
        # three times. Ends have few places.
        place += 3 if outer in ENDS else 13


def reaches(place: int, pool: Any, outer: Callable[..., Any], inner: Callable[..., Any]) -> bool:
    """Make the inner call at this place of the outer one. False: there is no such place."""
    with At(place, lambda: tolerantly(lambda: inner(pool))) as at:
        tolerantly(lambda: outer(pool))
    pool.terminate()
    pool.join(DEADLINE)
    return at.left <= 0


@pytest.fixture
def handle() -> Iterator[Callable[[Callable[[], object]], None]]:
    """Have this called when a task signals the parent."""
    before = signal.getsignal(signal.SIGUSR2)

    def install(act: Callable[[], object]) -> None:
        signal.signal(signal.SIGUSR2, lambda number, frame: act())

    yield install
    signal.signal(signal.SIGUSR2, before)


def signal_parent(number: int) -> int:
    if number == 3:
        os.kill(os.getppid(), signal.SIGUSR2)
    return number


@pytest.mark.parametrize("chunksize", [None, 1])
def test_join_in_a_handler_finishes_the_call_that_waits(
    make_pool: Any, handle: Any, chunksize: int | None
) -> None:
    """The rest of the items become tasks, although the call that makes them is interrupted."""
    pool = make_pool(2)
    handle(lambda: (pool.close(), pool.join()))
    assert pool.map(signal_parent, range(20_000), chunksize) == list(range(20_000))
    assert pool._state == "CLOSE"


class Signals:
    """Has the signal handled while it is pickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        signal.raise_signal(signal.SIGUSR2)
        return int, (1,)


def test_join_in_a_handler_cancels_a_call_that_makes_tasks(make_pool: Any, handle: Any) -> None:
    pool = make_pool(1)
    before = pool.map_async(tasks.square, range(5), 1)
    handle(lambda: (pool.close(), pool.join()))
    with pytest.raises(errors.PoolTerminated):
        pool.map(tasks.identity, [1, Signals()], 1)
    assert before.get(DEADLINE) == [0, 1, 4, 9, 16]


def test_join_in_a_handler_that_interrupts_terminate(
    make_pool: Any, gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The handler's join() ends the busy worker, since terminate() cannot go on."""
    pool = make_pool(1)
    pool.apply_async(ignore_sigterm_and_hold, (gate,))
    gate.arrived()
    force = end.force

    def interrupted(*args: Any) -> None:
        monkeypatch.setattr(end, "force", force)
        pool.join()
        force(*args)

    monkeypatch.setattr(end, "force", interrupted)
    pool.terminate()
    pool.join()


@pytest.mark.parametrize("how", ["join", "terminate"])
@pytest.mark.parametrize("call", ["map_async", "imap", "callback"])
@pytest.mark.parametrize("cls", [engine.Pool, cpool.ThreadPool], ids=["processes", "threads"])
def test_the_end_in_a_handler_that_interrupts_the_start_of_a_thread(
    make_pool: Any, monkeypatch: pytest.MonkeyPatch, cls: Any, call: str, how: str
) -> None:
    pool = make_pool(1, cls=cls)
    start = threading.Thread.start

    def interrupted(thread: threading.Thread) -> None:
        monkeypatch.setattr(threading.Thread, "start", start)
        if how == "join":
            pool.close()
            pool.join()
        else:
            pool.terminate()
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", interrupted)
    tolerantly(lambda: CALLS[call](pool))
    pool.join(DEADLINE)
