"""A thread of a pool that has no memory to get going: its starter is told, and nobody waits."""

from __future__ import annotations

import threading
from typing import Any

import engine
import pytest
import tasks
from engine import DEADLINE
from gates import eventually

pytestmark = pytest.mark.better

ThreadPool = engine.pool_module.ThreadPool

# Where the new thread fails: before Thread.start() would return, and after that.
STEPS = ["_bootstrap", "_bootstrap_inner", "run"]


class Starved:
    """Threads of this name fail at this step."""

    def __init__(self, patch: pytest.MonkeyPatch, step: str, name: str) -> None:
        self.patch = patch
        self.step = step
        self.name = name
        self.failed = 0

    def __enter__(self) -> Starved:
        real = getattr(threading.Thread, self.step)

        def fail(thread: threading.Thread) -> Any:
            if self.name not in thread.name:
                return real(thread)
            self.failed += 1
            raise MemoryError

        self.patch.setattr(threading.Thread, self.step, fail)
        self.patch.setattr(threading, "excepthook", lambda _: None)
        return self

    def __exit__(self, *_: object) -> None:
        self.patch.undo()


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("cls", [engine.Pool, ThreadPool])
def test_a_feeder_without_memory_fails_its_call(
    make_pool: Any, monkeypatch: pytest.MonkeyPatch, cls: Any, step: str
) -> None:
    pool = make_pool(2, cls=cls)
    assert pool.map_async(tasks.square, [2]).get(DEADLINE) == [4]
    before = threading.active_count()
    with Starved(monkeypatch, step, "cpool-feeder") as starved:
        for _ in range(3):
            with pytest.raises(RuntimeError, match="can't start new thread"):
                pool.imap(tasks.square, iter(range(3)))
    assert starved.failed == 3
    assert not pool._cache
    assert list(pool.imap(tasks.square, iter(range(3)))) == [0, 1, 4]
    eventually(lambda: threading.active_count() == before)
    pool.close()
    pool.join()


@pytest.mark.parametrize("step", STEPS)
def test_callbacks_run_although_the_first_helper_had_no_memory(
    make_pool: Any, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    pool = make_pool(1)
    with (
        Starved(monkeypatch, step, "cpool-helper"),
        pytest.raises(RuntimeError, match="can't start new thread"),
    ):
        pool.apply_async(tasks.square, (3,), callback=id)
    told = threading.Event()
    result = pool.apply_async(tasks.square, (3,), callback=lambda _: told.set())
    assert told.wait(DEADLINE)
    assert result.get(DEADLINE) == 9


@pytest.mark.parametrize("step", STEPS)
def test_a_thread_pool_whose_thread_has_no_memory_is_not_made(
    monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    before = threading.active_count()
    with (
        Starved(monkeypatch, step, "(worker)"),
        pytest.raises(RuntimeError, match="can't start new thread"),
    ):
        ThreadPool(2)
    eventually(lambda: threading.active_count() == before)


def test_starting_leaves_nothing_on_the_thread(make_pool: Any) -> None:
    """The thread is one of the program's, too: `threading.enumerate()` gives it."""
    pool = make_pool(1)
    pool.apply_async(tasks.square, (3,)).get(DEADLINE)
    found = [t for t in threading.enumerate() if t in pool._threads]
    assert len(found) == 2
    for thread in found:
        assert thread.is_alive() and thread.daemon and thread.ident
        assert "_bootstrap" not in thread.__dict__
