"""The `_taskqueue` of a pool, for programs that submit the stdlib's task tuples themselves.

The widely copied `istarmap` recipe makes an iterator of results, and puts a generator of task
tuples into this queue together with the iterator's `_set_length`.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator

from .. import _core
from .._base.stdlib import TYPE_CHECKING
from ..errors import InitializerError, PoolError, PoolTerminated
from .results import IMapIterator

if TYPE_CHECKING:
    from typing import Any


class TaskQueue:
    """Takes `(iterable of task tuples, set_length)` from recipes."""

    def __init__(self, pool: Any) -> None:
        self._pool = pool

    def put(self, entry: tuple[Iterable[Any], Callable[[int], object] | None]) -> None:
        tasks, set_length = entry
        result = getattr(set_length, "__self__", None)
        if result is None:
            tasks = iter(tasks)
            first = next(tasks, None)
            if first is None:
                return
            result = self._pool._cache[first[0]]
            tasks = itertools.chain([first], tasks)
        if isinstance(result, (_core.Result, _core.Stream)):
            self._pool._feed(result, None, tasks, 1, _core.MAP_ONE | _core.TASKS, -1)
        else:
            self._serve_stranger(result, tasks, set_length)

    def _serve_stranger(
        self, result: Any, tasks: Iterable[Any], set_length: Callable[[int], object] | None
    ) -> None:
        """Pass each item to the `_set` of a result of the stdlib's own class."""
        items: IMapIterator[Any] = IMapIterator(self._pool)
        self._pool._feed(items, None, tasks, 1, _core.MAP_ONE | _core.TASKS, -1)
        self._pool._start_thread("cpool-passing-on", _pass_on, items, result, set_length)

    def qsize(self) -> int:
        engine = self._pool._engine
        return 0 if engine is None else engine.counts()[1]


def _pass_on(items: Iterator[Any], result: Any, set_length: Callable[[int], object] | None) -> None:
    for number in itertools.count():
        try:
            result._set(number, (True, next(items)))
        except StopIteration:
            if set_length is not None:
                set_length(number)
            return
        except PoolError as exc:
            result._set(number, (False, exc))
            if isinstance(exc, (PoolTerminated, InitializerError)):
                if set_length is not None:
                    set_length(number + 1)
                return
        except Exception as exc:
            result._set(number, (False, exc))
