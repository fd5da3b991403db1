"""A registry of the pools of this process, for dumps and traces of all of them."""

from __future__ import annotations

import contextlib
import signal
import sys
import threading
import weakref
from collections.abc import Callable
from itertools import count

from .._base.stdlib import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import Any

_numbers = count(1)
_pools: dict[int, weakref.ref[Any]] = {}  # by number, in the order of their starts
_watchers: list[Callable[[Any], object]] = []
# By thread id, the names of pool threads that were started while there is a watcher; a thread may
# have ended when its name is needed.
_thread_names: dict[int, str] = {}


def add(pool: Any) -> None:
    """Register a pool that runs on cpool's engine."""
    number = next(_numbers)
    _pools[number] = weakref.ref(pool, lambda _: _pools.pop(number, None))
    for watcher in list(_watchers):
        watcher(pool)


def pools() -> list[Any]:
    """The pools that this process has made and that still exist, oldest first."""
    found = [ref() for ref in list(_pools.values())]
    return [pool for pool in found if pool is not None and pool._engine.is_ours]


def note_thread(thread: Any) -> None:
    """Record the name of a thread that a pool has started."""
    if _watchers and thread.ident is not None:
        _thread_names[thread.ident] = thread.name


def names_of_threads() -> dict[int, str]:
    """The names, by thread id, of all running threads and of those that note_thread() recorded."""
    running = {thread.ident: thread.name for thread in threading.enumerate() if thread.ident}
    return {**_thread_names, **running}


def watch(watcher: Callable[[Any], object]) -> None:
    """Call `watcher(pool)` now for each pool, and later for each new pool."""
    if not _watchers:
        _thread_names.clear()
    _watchers.append(watcher)
    for pool in pools():
        watcher(pool)


def unwatch(watcher: Callable[[Any], object]) -> None:
    """Undo watch(), even if that raised an exception."""
    if watcher in _watchers:
        _watchers.remove(watcher)


def dump_on_signal(signum: int, file: Any = None) -> None:
    """Dump all pools of this process on a signal, such as `signal.SIGUSR1`: see `Pool.dump`.

    `signum` is an int. `file` is an object with `write(str)`; None is `sys.stderr` at the time of
    the signal. Call this on the main thread; on any other thread it raises `ValueError`, as
    `signal.signal` does. An earlier handler of the signal is called after the dump. The main thread
    writes the dump: at once if it waits for a pool, runs Python code or sleeps, but not while it is
    in C code that does not return.
    """
    before = signal.getsignal(signum)

    def handle(number: int, frame: Any) -> None:
        with contextlib.suppress(Exception):  # such as a closed file; the handler must not raise
            dump_all(file)
        if callable(before):
            before(number, frame)

    signal.signal(signum, handle)


def dump_all(file: Any = None) -> None:
    """Dump all pools of this process."""
    from .dump import dump_pool

    to = sys.stderr if file is None else file
    for pool in pools():
        dump_pool(pool, to)
