"""The pools of this process, for those who look at all of them."""

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
# By their ids, of threads of pools that were started while somebody watches: they may have ended
# when somebody asks.
_thread_names: dict[int, str] = {}


def add(pool: Any) -> None:
    """A pool that runs on the engine has started."""
    number = next(_numbers)
    _pools[number] = weakref.ref(pool, lambda _: _pools.pop(number, None))
    for watcher in list(_watchers):
        watcher(pool)


def pools() -> list[Any]:
    """Those that this process has made and not dropped, oldest first."""
    found = [ref() for ref in list(_pools.values())]
    return [pool for pool in found if pool is not None and pool._engine.is_ours]


def note_thread(thread: Any) -> None:
    """A pool has started this thread."""
    if _watchers and thread.ident is not None:
        _thread_names[thread.ident] = thread.name


def names_of_threads() -> dict[int, str]:
    """Of all threads that run, and of those of pools that somebody's watch has seen start."""
    running = {thread.ident: thread.name for thread in threading.enumerate() if thread.ident}
    return {**_thread_names, **running}


def watch(watcher: Callable[[Any], object]) -> None:
    """Call `watcher(pool)` for each pool, also for each that starts later."""
    if not _watchers:
        _thread_names.clear()
    _watchers.append(watcher)
    for pool in pools():
        watcher(pool)


def unwatch(watcher: Callable[[Any], object]) -> None:
    """Undo watch(), even one that has raised."""
    if watcher in _watchers:
        _watchers.remove(watcher)


def dump_on_signal(signum: int, file: Any = None) -> None:
    """Have the signal, such as `signal.SIGUSR1`, dump all pools of this process: see `Pool.dump`.

    `file` has a `write(str)`; by default it is `sys.stderr` of then. On the main thread: raises
    `ValueError` elsewhere, as `signal.signal` does. A handler that the signal has already is called
    afterwards. The main thread runs the handler: at once if it waits for a pool, runs Python code,
    or sleeps; not while it is in C code that does not return.
    """
    before = signal.getsignal(signum)

    def handle(number: int, frame: Any) -> None:
        with contextlib.suppress(Exception):  # of a file that is closed, in whatever runs just now
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
