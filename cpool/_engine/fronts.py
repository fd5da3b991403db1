"""The wrapper around the engine of a pool with `propagate_context` or `max_pending`.

Serial pools have it too, and pools of threads once `share()` was called: tasks get shared objects
in place of their handles.

Pools without these options use the extension's engine directly, at no cost.
"""

from __future__ import annotations

import operator
import sys
import threading
import weakref
from collections.abc import Callable

from .._base.failures import Retrying
from .._base.stdlib import TYPE_CHECKING
from .results import ValueIterator

if TYPE_CHECKING:
    from typing import Any

# Seconds after which a waiting thread checks again whether the pool runs, and handles signals.
_LOOK_S = 0.25

_SHARED = __package__ + ".shared"


def check(propagate: Any, limit: Any) -> tuple[Any, int | None]:
    """Check the parameters of a pool; `TypeError` or `ValueError` for invalid ones."""
    if limit is not None:
        limit = operator.index(limit)
        if limit < 1:
            raise ValueError(f"max_pending must be at least 1, or None, not {limit}")
        limit = min(limit, sys.maxsize)  # what the engine counts with
    if not isinstance(propagate, bool):
        from .._base.contexts import Variables

        propagate = Variables(propagate)
    return propagate, limit


def stand_before(engine: Any, pool: Any, propagate: Any, limit: int | None) -> Any:
    """Wrap the engine if one of these options is used; otherwise return the engine itself."""
    if not propagate and limit is None and not pool._serial:
        return engine
    wrap: Callable[[Any], Any] | None = None
    if propagate:
        from .._base.contexts import Copied, Variables

        is_local = pool._shares_objects
        wrap = Copied if is_local else Variables(None) if propagate is True else propagate
    front = Front(engine, pool, wrap, limit)
    front.resolves = pool._serial
    return front


def find_shared(engine: Any, pool: Any) -> Any:
    """Wrap the engine of a pool of threads, so that tasks get shared objects for their handles."""
    front = engine if isinstance(engine, Front) else Front(engine, pool, None, None)
    front.resolves = True
    return front


class Front:
    """Wraps an engine; all other attributes are those of the engine."""

    def __init__(
        self, engine: Any, pool: Any, wrap: Callable[[Any], Any] | None, limit: int | None
    ) -> None:
        self._engine = engine
        self._core = getattr(engine, "_core", engine)
        self._owner = weakref.ref(pool)
        self._wrap = wrap
        self._limit = limit
        self.resolves = False  # replace handles of shared objects in arguments
        self.handle_owner = object()  # what these have as their `_owner`

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engine, name)

    def before(self, func: Any, yields: bool = False) -> Any:
        """Wait until there is room for one more call; return the callable, wrapped as needed.

        `yields`: the iterable that it returns is iterated in the same context.
        """
        if self._limit is not None:
            self._wait(self._limit)
        if self.resolves and func is not None and _SHARED in sys.modules:
            # Otherwise there is no handle. Another thread may be importing the module just now.
            from .shared import Resolved

            inner = Resolved(func.func if type(func) is Retrying else func, self.handle_owner)
            func = Retrying(inner, func.retry_on) if type(func) is Retrying else inner
        if self._wrap is None or func is None:
            return func
        wrapped = self._wrap(func.func if type(func) is Retrying else func)
        wrapped.yields = yields
        return Retrying(wrapped, func.retry_on) if type(func) is Retrying else wrapped

    def submit(self, kind: Any, pool: Any, func: Any, *rest: Any) -> Any:
        return self._engine.submit(kind, pool, self.before(func), *rest)

    def apply(self, kind: Any, pool: Any, func: Any, *rest: Any) -> Any:
        return self._engine.apply(kind, pool, self.before(func), *rest)

    def feed(self, result: Any, func: Any, *rest: Any) -> Any:
        yields = isinstance(result, ValueIterator)
        return self._engine.feed(result, self.before(func, yields), *rest)

    def run(self, result: Any, func: Any, *rest: Any) -> Any:
        try:
            func = self.before(func)
        except BaseException:
            self._engine.cancel(result)  # otherwise its job would never end
            raise
        return self._engine.run(result, func, *rest)

    def _wait(self, limit: int) -> None:
        if self._engine.wait_pending(limit, 0.0):
            return
        pool = self._owner()
        if pool is None or self._must_not_wait(pool):
            return
        if not pool._has_helper:
            pool._start_threads()  # threads that run the pool while this one waits
        while not self._engine.wait_pending(limit, _LOOK_S):
            pool._check_running()

    @staticmethod
    def _must_not_wait(pool: Any) -> bool:
        """Might waiting on this thread keep the pool from making progress?

        A callback, an iterable or a task of a ThreadPool would wait for itself. A coroutine would
        block its event loop; the call that it awaits waits instead.
        """
        current = threading.current_thread()
        if any(thread.is_current() for thread in list(pool._threads)) or current in list(
            pool._workers
        ):
            return True
        asyncio = sys.modules.get("asyncio")
        return asyncio is not None and asyncio._get_running_loop() is not None
