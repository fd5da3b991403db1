"""A worker starts with the depth and the context of the thread that made the pool.

Any thread that notices a missing worker forks the new one. What that thread is doing must not
affect the worker's tasks.
"""

from __future__ import annotations

import contextvars
import decimal
import sys
import threading
import traceback
from collections.abc import Callable
from typing import Any, NoReturn

import numpy as np
import pytest
import tasks
from engine import DEADLINE

pytestmark = pytest.mark.better

VARIABLE: contextvars.ContextVar[str] = contextvars.ContextVar("VARIABLE", default="unset")


def recurse(depth: int, then: Callable[[], Any]) -> Any:
    return then() if depth == 0 else recurse(depth - 1, then)


def room(_: Any = None) -> int:
    """How many more calls this thread has room for."""
    return _room(0)


def _room(depth: int) -> int:
    try:
        return _room(depth + 1)
    except RecursionError:
        return depth


def can_compare(depth: int) -> bool:
    one: list[Any] = []
    other: list[Any] = []
    for _ in range(depth):
        one, other = [one], [other]
    try:
        return one == other
    except RecursionError:
        return False


def room_in_c(_: Any = None) -> int:
    """How deep nested lists may be to be compared, in steps of 50."""
    steps, width = 0, 1
    while can_compare(50 * width):
        steps, width = width, 2 * width
    while (width := width // 2) > 0:
        if can_compare(50 * (steps + width)):
            steps += width
    return 50 * steps


def context(_: Any = None) -> tuple[Any, ...]:
    return (
        VARIABLE.get(),
        decimal.getcontext().prec,
        decimal.getcontext().rounding,
        np.geterr()["divide"],
        sys.exc_info()[0],
    )


def is_handling(_: Any = None) -> NoReturn:
    raise LookupError("alone")


CALLS: dict[str, Callable[..., list[Any]]] = {
    "map": lambda pool, func: pool.map(func, range(4), 1),
    "map_async": lambda pool, func: pool.map_async(func, range(4), 1).get(DEADLINE),
    "imap": lambda pool, func: list(pool.imap(func, range(4))),
    "apply": lambda pool, func: [pool.apply(func, (n,)) for n in range(4)],
    "callback": lambda pool, func: [
        pool.apply_async(func, (n,), callback=id).get(DEADLINE) for n in range(4)
    ],
}


def killed(pool: Any) -> None:
    """Kill the worker; the next call starts its replacement."""
    [worker] = pool._pool
    worker.kill()
    worker.join()


@pytest.mark.parametrize("measure", [room, room_in_c])
@pytest.mark.parametrize("call", CALLS)
def test_a_replaced_worker_has_the_depth_of_the_pools_maker(
    make_pool: Any, call: str, measure: Any
) -> None:
    pool = make_pool(1, maxtasksperchild=1)
    [first, *_] = CALLS[call](pool, measure)
    limit = sys.getrecursionlimit()
    deep = limit - 250 - len(traceback.extract_stack())
    found = recurse(deep, lambda: CALLS[call](pool, measure))
    assert found == [first] * 4
    killed(pool)
    assert recurse(deep, lambda: CALLS[call](pool, measure)) == [first] * 4


def test_every_worker_has_the_depth_of_the_pools_maker(make_pool: Any) -> None:
    """A pool that is made deep in a recursion has workers that are as deep, also later."""
    flat = make_pool(1).apply(room)
    pool = recurse(100, lambda: make_pool(1, maxtasksperchild=1))
    assert set(pool.map(room, range(4), 1)) == {flat - 102}


@pytest.mark.parametrize("in_thread", [False, True])
@pytest.mark.parametrize("call", CALLS)
def test_every_worker_has_the_context_of_the_pools_maker(
    make_pool: Any, call: str, in_thread: bool
) -> None:
    def make() -> Any:
        VARIABLE.set("the maker's")
        with decimal.localcontext(prec=50, rounding=decimal.ROUND_UP):
            with np.errstate(divide="raise"):
                pool = make_pool(1, maxtasksperchild=1)
            decimal.getcontext().prec = 7
        return pool

    def use(pool: Any) -> None:
        VARIABLE.set("the caller's")
        with decimal.localcontext(prec=3), np.errstate(divide="ignore"):
            try:
                raise KeyError
            except KeyError:
                found.extend(CALLS[call](pool, context))
                killed(pool)
                found.extend(CALLS[call](pool, context))

    found: list[Any] = []
    pool = contextvars.Context().run(make)
    if in_thread:
        thread = threading.Thread(target=use, args=(pool,))
        thread.start()
        thread.join()
    else:
        contextvars.copy_context().run(use, pool)
    assert found == [("the maker's", 50, decimal.ROUND_UP, "raise", None)] * 8


def test_a_failure_in_a_replaced_worker_has_no_foreign_context(make_pool: Any) -> None:
    """The worker is forked while its parent handles an exception."""
    pool = make_pool(1, maxtasksperchild=1)
    pool.map(tasks.square, [1], 1)
    try:
        raise KeyError("the caller's")
    except KeyError:
        result = pool.map_async(is_handling, range(3), 1)
        result.wait(DEADLINE)
    with pytest.raises(LookupError) as caught:
        result.get()
    assert "the caller's" not in str(caught.value.__cause__)
