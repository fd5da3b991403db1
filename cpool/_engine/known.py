"""The pools of this process, for those who look at all of them."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from itertools import count

from .._base.stdlib import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import Any

_numbers = count(1)
_pools: dict[int, weakref.ref[Any]] = {}  # by number, in the order of their starts
_watchers: list[Callable[[Any], object]] = []


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


def watch(watcher: Callable[[Any], object]) -> None:
    """Call `watcher(pool)` for each pool, also for each that starts later."""
    _watchers.append(watcher)
    for pool in pools():
        watcher(pool)


def unwatch(watcher: Callable[[Any], object]) -> None:
    """Undo watch()."""
    _watchers.remove(watcher)
