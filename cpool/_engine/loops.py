"""asyncio: awaiting results, and iterating over them.

Nothing waits in a thread. The pool's helper tells the event loop that a job is done, or has its
next result, by `call_soon_threadsafe`, once for all that have come since the loop has last looked.
"""

from __future__ import annotations

import asyncio
import threading
import weakref
from collections import deque
from collections.abc import Generator

from .._base.stdlib import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import Any


class Bridge:
    """The way from the pools' threads to one event loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = weakref.ref(loop)
        self.told: deque[asyncio.Future[None]] = deque()
        self.is_due = False
        self.lock = threading.Lock()

    def tell(self, future: asyncio.Future[None]) -> None:
        """From any thread: the future is to be set, in the loop's thread."""
        with self.lock:
            self.told.append(future)
            if self.is_due:
                return
            self.is_due = True
        loop = self.loop()
        if loop is None or loop.is_closed():
            return
        try:
            loop.call_soon_threadsafe(self.run)
        except RuntimeError:  # closed meanwhile: nobody waits
            self.is_due = False

    def run(self) -> None:
        with self.lock:
            self.is_due = False
            told, self.told = self.told, deque()
        for future in told:
            if not future.done():
                future.set_result(None)


_bridges: weakref.WeakKeyDictionary[Any, Bridge] = weakref.WeakKeyDictionary()
_bridges_lock = threading.Lock()


def _bridge(loop: asyncio.AbstractEventLoop) -> Bridge:
    bridge = _bridges.get(loop)
    if bridge is None:
        with _bridges_lock:
            bridge = _bridges.setdefault(loop, Bridge(loop))
    return bridge


class Listeners:
    """Those that await one job, in any thread's loop."""

    def __init__(self) -> None:
        self.waiting: list[tuple[Bridge, asyncio.Future[None]]] = []
        self.lock = threading.Lock()

    def wait(self, job: Any) -> asyncio.Future[None] | None:
        """A future of the running loop that is set once the job has news; None: it has already."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[None] = loop.create_future()
        entry = (_bridge(loop), future)
        with self.lock:
            self.waiting.append(entry)
        job._pool_threads()
        if job._tell():
            return future
        with self.lock:
            if entry in self.waiting:
                self.waiting.remove(entry)
        return None

    def told(self) -> None:
        with self.lock:
            waiting, self.waiting = self.waiting, []
        for bridge, future in waiting:
            bridge.tell(future)


def listeners_of(job: Any) -> Listeners:
    """Made for the first that awaits.

    By the attribute: with `__dict__`, free-threaded 3.13 makes a dict that all threads lock.
    """
    found: Listeners | None = job._listeners
    if found is None:
        with _bridges_lock:
            found = job._listeners
            if found is None:
                found = job._listeners = Listeners()
    return found


def await_result(result: Any) -> Generator[Any, None, Any]:
    """The body of a result's __await__()."""
    while not result.ready():
        future = listeners_of(result).wait(result)
        if future is None:
            break
        try:
            yield from future
        except asyncio.CancelledError:
            result.cancel()
            raise
    return result.get()


async def next_of(items: Any) -> Any:
    """The body of an iterator's __anext__()."""
    from multiprocessing import TimeoutError

    while True:
        try:
            return items.next(0)
        except StopIteration:
            raise StopAsyncIteration from None
        except TimeoutError:
            pass
        future = listeners_of(items).wait(items)
        if future is None:
            continue
        try:
            await future
        except asyncio.CancelledError:
            items.close()
            raise


async def leave(pool: Any) -> None:
    """Leave `async with`: terminate() and join() in a thread, as they may take long."""
    loop = asyncio.get_running_loop()
    bridge, future = _bridge(loop), loop.create_future()
    failed: list[BaseException] = []

    def end() -> None:
        try:
            pool.terminate()
            pool.join()
        except BaseException as exc:
            failed.append(exc)
        finally:
            bridge.tell(future)

    threading.Thread(target=end, name="cpool-ending", daemon=True).start()
    await asyncio.shield(future)
    if failed:
        raise failed[0]
