"""A signal handler that calls one method of a pool in the middle of another one."""

from __future__ import annotations

import _thread
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import engine
import pytest
import scripts
import tasks
from engine import DEADLINE, errors
from gates import Gate
from interrupted_calls import CALLS, tolerantly
from misbehaving import ignore_sigterm_and_hold

import cpool
from cpool._engine import end

pytestmark = pytest.mark.better


@pytest.mark.timeout(10 * DEADLINE)
@pytest.mark.parametrize("outer", CALLS)
@pytest.mark.parametrize("kind", ["processes", "threads"])
def test_any_call_in_the_middle_of_any_other(tmp_path: Path, kind: str, outer: str) -> None:
    """The call works or raises, and never hangs; and the pool can be ended."""
    program = f"import interrupted_calls; interrupted_calls.main({kind!r}, {outer!r})"
    assert scripts.output(tmp_path, program, seconds=8 * DEADLINE) == list(CALLS)


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
    """Sends the signal while it is pickled."""

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


class Raised(Exception):
    pass


@pytest.mark.parametrize("when", ["at once", "later"])
@pytest.mark.parametrize("cls", [engine.Pool, cpool.ThreadPool], ids=["processes", "threads"])
def test_a_handler_raises_while_a_thread_starts(
    make_pool: Any, monkeypatch: pytest.MonkeyPatch, cls: Any, when: str
) -> None:
    """Its exception leaves the call, also when the new thread runs already."""
    pool = make_pool(1, cls=cls)
    name = next(n for n in ("_start_joinable_thread", "_start_new_thread") if hasattr(threading, n))
    start = getattr(threading, name)

    def interrupted(*args: Any, **options: Any) -> None:
        monkeypatch.undo()
        start(*args, **options)
        while when == "later" and threading._limbo:  # type: ignore[attr-defined]
            time.sleep(0.001)
        raise Raised

    monkeypatch.setattr(_thread, name[1:], interrupted)
    monkeypatch.setattr(threading, name, interrupted)
    with pytest.raises(Raised):
        pool.imap(tasks.square, iter([1, 2]))
    assert pool.map_async(tasks.square, [2], callback=id).get(DEADLINE) == [4]
    assert list(pool.imap(tasks.square, iter([1, 2]))) == [1, 4]
    pool.close()
    pool.join()
