"""`as_completed()`: results in the order in which they end."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from multiprocessing import TimeoutError

from .amounts import seconds_of
from .stdlib import TYPE_CHECKING, T

if TYPE_CHECKING:
    from typing import Any

__all__ = ["as_completed"]

# With results of several pools: seconds to wait for one pool before looking at the next.
_TURN_S = 0.005


def as_completed(results: Iterable[T], timeout: float | None = None) -> Iterator[T]:
    """Yield `AsyncResult` objects (also those of `map_async`) in the order in which they end.

    `results` is an iterable of them, which may be of several pools. Each is yielded once, as soon
    as it is ready, whether it has a value, has failed or was cancelled. The iterator raises
    `multiprocessing.TimeoutError` if results are left `timeout` seconds (a float; None: no limit)
    after this call. Raises `TypeError` for an item that is not a result of `apply_async`,
    `map_async`, `starmap_async` or `broadcast_async`, and `ValueError` for a result of a pool that
    runs on the standard library's engine, or a `timeout` that is a nan. In a callback it raises
    `RuntimeError` where only results are left whose callbacks run after the present one, unless
    there is a timeout.
    """
    seconds = None if timeout is None else seconds_of("timeout", timeout)
    pending: dict[Any, list[Any]] = {}  # engine -> results; a list, since a result may come twice
    for result in dict.fromkeys(results):
        engine = getattr(result, "_engine", None)
        if not hasattr(result, "get") or not hasattr(result, "ready"):
            raise TypeError(f"as_completed() takes results of asynchronous calls, not {result!r}")
        if engine is None:
            raise ValueError("as_completed() needs results of pools that run on cpool's engine")
        pending.setdefault(engine, []).append(result)
    return _ends(pending, None if seconds is None else time.monotonic() + seconds)


def _ends(pending: dict[Any, list[Any]], end: float | None) -> Iterator[Any]:
    while pending:
        found = False
        is_stuck = end is None and all(engine.is_deadlock(left) for engine, left in pending.items())
        for engine, left in list(pending.items()):
            limit = None if end is None else max(0.0, end - time.monotonic())
            if is_stuck:
                limit = 0.0
            elif len(pending) > 1:
                limit = _TURN_S if limit is None else min(limit, _TURN_S)
            # Pairs: how many jobs of the pool had ended before this one, and its place in the list.
            ended = sorted(engine.wait_any(left, limit))
            found = found or bool(ended)
            ready = [left[place] for _, place in ended]
            gone = {place for _, place in ended}
            left[:] = [each for place, each in enumerate(left) if place not in gone]
            if not left:
                del pending[engine]
            yield from ready
        if not found and is_stuck:
            raise RuntimeError(
                "a callback cannot wait for results that have callbacks: they run one after the "
                "other"
            )
        if not found and pending and end is not None and time.monotonic() >= end:
            number = sum(map(len, pending.values()))
            raise TimeoutError(f"{number} results are not ready")
