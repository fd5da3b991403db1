"""Asynchronous generators in a task: an event loop in the worker runs them to their end."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator

from .stdlib import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import Any


class Driven:
    """An iterator over what an asynchronous iterator yields.

    The loop runs while the next value is computed, and stops while the reader has values left to
    read. When the generator ends, asyncio tasks that it started and that still run are cancelled.
    """

    def __init__(self, source: Any) -> None:
        self._values: AsyncIterator[Any] = aiter(source)
        self._runner = asyncio.Runner()
        self._is_over = False

    def __iter__(self) -> Driven:
        return self

    def __next__(self) -> Any:
        if self._is_over:
            raise StopIteration
        try:
            return self._run(_next_of(self._values))
        except StopAsyncIteration:
            self._end()
            raise StopIteration from None
        except BaseException:
            self._end()
            raise

    def close(self) -> None:
        """Close the generator, which runs its cleanup code."""
        if self._is_over:
            return
        close = getattr(self._values, "aclose", None)
        try:
            if close is not None:
                self._run(_await(close()))
        finally:
            self._end()

    def _end(self) -> None:
        self._is_over = True
        self._elsewhere_if_needed(self._runner.close)

    def _run(self, coroutine: Any) -> Any:
        return self._elsewhere_if_needed(lambda: self._runner.run(coroutine))

    @staticmethod
    def _elsewhere_if_needed(call: Any) -> Any:
        """Call it; in a new thread if this thread runs an event loop already (a serial pool)."""
        if asyncio._get_running_loop() is None:
            return call()
        outcome: list[Any] = []

        def run() -> None:
            try:
                outcome.append((call(), None))
            except BaseException as exc:
                outcome.append((None, exc))

        thread = threading.Thread(target=run, name="cpool-loop", daemon=True)
        thread.start()
        thread.join()
        value, exc = outcome[0]
        if exc is not None:
            raise exc
        return value


async def _next_of(values: AsyncIterator[Any]) -> Any:
    return await anext(values)


async def _await(awaitable: Any) -> None:
    await awaitable
