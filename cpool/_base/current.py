"""`current_worker()`: the worker in which code runs."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable

from .stdlib import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import Any

__all__ = [
    "CurrentWorker",
    "current_thread_worker",
    "current_worker",
    "set_process",
    "set_thread",
]


class CurrentWorker:
    """The worker that runs the calling code.

    `index` is an int from 0 to the pool's `processes` - 1; a replacement gets the index of the
    worker that it replaces. `pid` is the process id (an int). `state` is a dict that lives as long
    as the worker: for connections, models, and anything else that an initializer makes or one task
    keeps for the next. In a serial pool the worker is the thread that submits, with index 0.
    """

    def __init__(self, index: int, count: Callable[[], int]) -> None:
        self.index = index
        self.pid = os.getpid()
        self.state: dict[Any, Any] = {}
        self._count = count

    @property
    def tasks_done(self) -> int:
        """How many tasks the worker has run before the current one (an int)."""
        return self._count()

    def __repr__(self) -> str:
        return f"<worker {self.index} of a cpool pool, pid {self.pid}>"


_of_process: CurrentWorker | None = None
_of_thread = threading.local()


def set_process(worker: CurrentWorker) -> None:
    """This process is a worker."""
    global _of_process
    worker.pid = os.getpid()
    _of_process = worker


def set_thread(worker: CurrentWorker | None) -> None:
    """This thread is a worker of a ThreadPool, or runs a task of a serial pool."""
    _of_thread.worker = worker


def current_thread_worker() -> CurrentWorker | None:
    """The worker that `set_thread()` set in this thread, or None."""
    found: CurrentWorker | None = getattr(_of_thread, "worker", None)
    return found


def current_worker() -> CurrentWorker | None:
    """Return the `CurrentWorker` that runs this code, or None outside the workers of a pool.

    In a process that a task has forked the result is None too.
    """
    found: CurrentWorker | None = getattr(_of_thread, "worker", None) or _of_process
    return found if found is not None and found.pid == os.getpid() else None
