"""Calls a pool's methods in the middle of other calls, at each line that the pool runs.

A program of its own: each place takes a new pool, and a small process forks quickly.
"""

from __future__ import annotations

import faulthandler
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import engine
import tasks
from engine import DEADLINE, errors

import cpool


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
REASONS = "not running|still running|was terminated|a signal handler that interrupted"

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
    """Make the call, which may raise because the pool has ended."""
    try:
        call()
    except ERRORS as exc:
        assert any(part in str(exc) for part in REASONS.split("|")), exc


def reaches(place: int, pool: Any, outer: Callable[..., Any], inner: Callable[..., Any]) -> bool:
    """Make the inner call at this place of the outer one. False: there is no such place."""
    with At(place, lambda: tolerantly(lambda: inner(pool))) as at:
        tolerantly(lambda: outer(pool))
    pool.terminate()
    pool.join(DEADLINE)
    return at.left <= 0


def main(kind: str, outer: str) -> None:
    """Print the name of each inner call that has been made at all places of the outer one."""
    cls: Any = engine.Pool if kind == "processes" else cpool.ThreadPool
    for number, inner in enumerate(CALLS):
        place, was_reached = 1 + number, True
        while was_reached:
            faulthandler.dump_traceback_later(DEADLINE, exit=True)
            was_reached = reaches(place, cls(1), CALLS[outer], CALLS[inner])
            # The inner calls start at different places: together they take each place of an end
            # about three times. Ends have few places.
            place += 3 if outer in ENDS else 13
        faulthandler.cancel_dump_traceback_later()
        print(inner, flush=True)
