"""A failure that nobody retrieves is reported when its result is freed, as asyncio does."""

from __future__ import annotations

import gc
import os
import signal
import sys
import weakref
from collections.abc import Iterator
from typing import Any

import pytest
import tasks
from engine import DEADLINE
from gates import Gate, eventually

pytestmark = pytest.mark.better


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Any]]:
    """The calls of sys.unraisablehook."""
    seen: list[Any] = []
    gc.collect()  # what other tests have left is not reported here
    monkeypatch.setattr(
        sys, "unraisablehook", lambda args: seen.append((args.exc_value, repr(args.object)))
    )
    yield seen


@pytest.mark.parametrize(
    "submit",
    [lambda pool: pool.apply_async(tasks.fail), lambda pool: pool.map_async(tasks.fail, [1])],
    ids=["apply_async", "map_async"],
)
def test_a_failure_is_reported_once_when_the_result_is_freed(
    pool: Any, told: list[Any], submit: Any
) -> None:
    result = submit(pool)
    result.wait(DEADLINE)
    assert told == []
    gone = weakref.ref(result)
    del result
    # The thread that delivered the result may still hold a reference.
    eventually(lambda: gc.collect() >= 0 and gone() is None and told, "it is kept, or nobody told")
    [(error, text)] = told
    assert isinstance(error, (ValueError, TypeError))
    assert "tasks.fail: exception was never retrieved" in text
    assert "Traceback (most recent call last)" in text


def test_the_failure_of_a_dropped_result_is_reported(pool: Any, told: list[Any]) -> None:
    pool.apply_async(tasks.fail)
    pool.apply(tasks.nothing)

    def collected() -> bool:
        pool.apply_async(tasks.nothing).wait(DEADLINE)
        return len(told) == 1

    eventually(collected)


@pytest.mark.parametrize("how", ["get", "successful", "_value", "error_callback"])
def test_a_retrieved_failure_is_not_reported(pool: Any, told: list[Any], how: str) -> None:
    callback = tasks.identity if how == "error_callback" else None
    result = pool.apply_async(tasks.fail, error_callback=callback)
    result.wait(DEADLINE)
    if how == "get":
        with pytest.raises(ValueError):
            result.get()
    elif how == "successful":
        assert not result.successful()
    elif how == "_value":
        assert isinstance(result._value, ValueError)
    gone = weakref.ref(result)
    del result
    eventually(lambda: gc.collect() >= 0 and gone() is None, "it is kept")
    assert told == []


def test_success_and_termination_are_not_reported(make_pool: Any, told: list[Any]) -> None:
    pool = make_pool(1)
    result = pool.apply_async(tasks.nothing)
    result.wait(DEADLINE)
    pending = [pool.apply_async(tasks.nothing) for _ in range(20)]
    pool.terminate()
    del result, pending
    gc.collect()
    assert told == []


def interrupt_and_fail(gate: Gate, pid: int) -> None:
    os.kill(pid, signal.SIGUSR1)
    gate.hold()
    raise ValueError


@pytest.mark.parametrize("name", ["apply", "starmap"])
def test_the_failure_of_an_interrupted_call_is_not_reported(
    pool: Any, gate: Gate, told: list[Any], name: str
) -> None:
    """The call raises what the signal handler has raised, and nobody else has its result."""
    pool.apply_async(tasks.nothing).get(DEADLINE)  # starts the thread that drives meanwhile
    failed, args = pool.statistics().failed, (gate, os.getpid())

    def handle(*_: object) -> None:
        gate.open()
        eventually(lambda: pool.statistics().failed == failed + 1)
        raise ZeroDivisionError

    before = signal.signal(signal.SIGUSR1, handle)
    try:
        with pytest.raises(ZeroDivisionError):
            if name == "apply":
                pool.apply(interrupt_and_fail, args)
            else:
                pool.starmap(interrupt_and_fail, [args])
    finally:
        signal.signal(signal.SIGUSR1, before)
    eventually(lambda: len(pool._cache) == 0)
    gc.collect()
    assert told == []
