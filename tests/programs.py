"""Helpers for the programs that tests run in a fresh interpreter."""

from __future__ import annotations

import os

from engine import TYPE_CHECKING
from gates import eventually

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any


def say(*words: object) -> None:
    """Print a line that the test reads while the program runs."""
    print(*words, flush=True)


def pids(pool: Any) -> list[int]:
    """The process ids of the pool's workers."""
    return sorted(worker.pid for worker in pool._pool)


def told(func: Callable[..., Any], *args: Any, **kwds: Any) -> Any:
    """The value of a call, or its exception as text."""
    try:
        return func(*args, **kwds)
    except Exception as error:
        return f"{type(error).__name__}: {error}"


def exit_code(child: int) -> int:
    """Wait for a child of this process to end; its exit code."""

    def reaped() -> Any:
        pid, status = os.waitpid(child, os.WNOHANG)
        return pid and [status]

    [status] = eventually(reaped, "the child hangs")
    return os.waitstatus_to_exitcode(status)
