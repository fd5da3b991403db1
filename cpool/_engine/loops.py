"""asyncio: awaiting results, iterating over them, and `run_in_executor()`.

No thread waits for a result. After a call was submitted in an event loop, the loop itself polls for
results for some microseconds, as long as that pays (Engine.glance()). Otherwise the pool's helper
thread wakes the loop with `call_soon_threadsafe` when a job is done or has its next result: once
for all results that arrived since the loop last looked.
"""

from __future__ import annotations

import asyncio
import asyncio.futures
import threading
import time
import types
import weakref
from collections import deque
from collections.abc import Callable, Generator

from .._base.stdlib import TYPE_CHECKING

if TYPE_CHECKING:
    from concurrent.futures import Future
    from typing import Any


def _cells() -> tuple[Any, tuple[int, int, int]] | None:
    """For the callback that asyncio.wrap_future() adds to a future: its code, and the places in its
    closure of the function that sets the asyncio future, of that future, and of its loop. None if
    this version of asyncio works differently.
    """
    for code in asyncio.futures._chain_future.__code__.co_consts:  # type: ignore[attr-defined]
        if isinstance(code, types.CodeType) and code.co_name == "_call_set_state":
            names = code.co_freevars
            if {"_set_state", "destination", "dest_loop"} <= set(names):
                places = (names.index(n) for n in ("_set_state", "destination", "dest_loop"))
                return code, tuple(places)  # type: ignore[return-value]
    return None


_CELLS = _cells()


# How many asyncio futures one iteration of a loop sets: as many as keep the iteration below this
# time, which is measured with what the awaiting tasks do then.
_SLICE_S = 0.002
_LEAST, _MOST = 4, 400


class Bridge:
    """Passes results from the threads of pools to one event loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = weakref.ref(loop)
        self.told: deque[asyncio.Future[None]] = deque()
        self.is_due = False
        self.lock = threading.Lock()
        self.portion = 50  # futures that the next iteration sets
        self.set_at = 0.0  # when the last iteration did so, if more were left; else 0
        self.watched: list[Any] = []  # the engines that the loop polls

    def watch(self, engine: Any) -> None:
        """In the loop's thread: poll the engine in the loop's next iteration."""
        watched = self.watched
        if engine not in watched:
            watched.append(engine)
            if len(watched) == 1:
                asyncio.get_running_loop().call_soon(self.look)

    def look(self) -> None:
        engines = self.watched
        self.watched = []
        for engine in engines:
            if engine.glance(self.hand_over):  # more may arrive soon
                self.watch(engine)

    def hand_over(self, future: Future[Any]) -> bool:
        """Set the asyncio futures of this loop that are chained to this future, which is done.

        Returns False and does nothing if the future has other callbacks: the helper thread runs
        those.
        """
        if _CELLS is None:
            return False
        code, (setter, destination, loop) = _CELLS
        chained = []
        for callback in future._done_callbacks:  # type: ignore[attr-defined]
            if getattr(callback, "__code__", None) is not code:
                return False
            cells = callback.__closure__
            if cells[loop].cell_contents is not self.loop():
                return False
            chained.append((cells[setter].cell_contents, cells[destination].cell_contents))
        for set_state, its_future in chained:
            set_state(its_future, future)
        return True

    def tell(self, future: asyncio.Future[None]) -> None:
        """From any thread: have the loop's thread set this future."""
        if asyncio._get_running_loop() is future.get_loop():
            if not future.done():
                future.set_result(None)
            return
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
        except RuntimeError:  # the loop was closed: nobody waits
            self.is_due = False

    def run(self) -> None:
        """In the loop's thread: set a portion of the futures, and come back for the rest.

        The tasks that await these futures run in the next iteration, before this method runs again:
        so the time between two runs is what a portion costs, and the size of the next one follows
        from it. Other callbacks of the loop run in between.
        """
        now = time.perf_counter()
        if self.set_at:
            took = now - self.set_at
            if took > _SLICE_S:
                self.portion = max(self.portion // 2, _LEAST)
            elif took < _SLICE_S / 2:
                self.portion = min(self.portion * 2, _MOST)
        with self.lock:
            told = [self.told.popleft() for _ in range(min(len(self.told), self.portion))]
            more = self.is_due = bool(self.told)
        for future in told:
            if not future.done():
                future.set_result(None)
        self.set_at = now if more else 0.0
        if more:  # last, so that it runs behind the tasks that this portion resumes
            asyncio.get_running_loop().call_soon(self.run)


_bridges: weakref.WeakKeyDictionary[Any, Bridge] = weakref.WeakKeyDictionary()
_bridges_lock = threading.Lock()


_last: Bridge | None = None  # the bridge that was used last, which mostly is the next one too


def _bridge(loop: asyncio.AbstractEventLoop) -> Bridge:
    global _last
    last = _last
    if last is not None and last.loop() is loop:
        return last
    with _bridges_lock:
        bridge = _bridges.get(loop)
        if bridge is None:
            bridge = _bridges[loop] = Bridge(loop)
    _last = bridge
    return bridge


def watch(loop: asyncio.AbstractEventLoop, engine: Any) -> None:
    """Have this running loop poll the engine, to which a call was submitted in its thread."""
    _bridge(loop).watch(engine)


class Listeners:
    """The asyncio futures that wait for one job, in any loop."""

    def __init__(self) -> None:
        self.waiting: list[tuple[Bridge, asyncio.Future[None]]] = []
        self.lock = threading.Lock()

    def wait(self, job: Any) -> asyncio.Future[None] | None:
        """A future of the running loop that is set once the job has news; None: it has now."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[None] = loop.create_future()
        entry = (_bridge(loop), future)
        with self.lock:
            self.waiting.append(entry)
        pool = job._pool  # None once it is done
        job._pool_threads()
        if job._tell():
            engine = getattr(pool, "_engine", None)  # a pool on a cluster has none
            if engine is not None:
                entry[0].watch(engine)
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
    """The listeners of a job, made when it is first awaited.

    Read as an attribute: using `__dict__`, free-threaded 3.13 would make a dict that all threads
    lock.
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


async def enter(pool: Any) -> None:
    """The begin of `async with`: start the pool's threads in another thread than the loop's, where
    the first asynchronous call would start them.
    """
    await _in_thread("cpool-beginning", lambda: pool._start_threads(calls=True))


async def leave(pool: Any) -> None:
    """The end of `async with`: terminate() and join() in a thread, as they may take long."""

    def end() -> None:
        pool.terminate()
        pool.join()

    await _in_thread("cpool-ending", end)


async def _in_thread(name: str, do: Callable[[], None]) -> None:
    """Call it in a thread of its own, also to its end if the awaiting task is cancelled."""
    loop = asyncio.get_running_loop()
    bridge, future = _bridge(loop), loop.create_future()
    failed: list[BaseException] = []

    def run() -> None:
        try:
            do()
        except BaseException as exc:
            failed.append(exc)
        finally:
            bridge.tell(future)

    try:
        threading.Thread(target=run, name=name, daemon=True).start()
    except RuntimeError:  # no more threads
        run()
    await asyncio.shield(future)
    if failed:
        raise failed[0]
