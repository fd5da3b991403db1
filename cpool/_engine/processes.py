"""`cpool.pool.Pool`: what runs once a pool, in Python; what runs once a task is in the extension.

Also the private attributes of the stdlib's class that programs are known to use. A pool that
cannot run on the engine, because its context is none of multiprocessing's or because a subclass
replaces parts of the stdlib's machinery, runs on the engine that the class inherits.
"""

from __future__ import annotations

import operator
import threading
import weakref
from collections.abc import Callable, Iterable, Mapping
from multiprocessing import TimeoutError, util
from multiprocessing import context as _context
from multiprocessing.process import BaseProcess

from .. import _core
from .._base import failures
from .._base.size import default_processes
from .._base.stdlib import TYPE_CHECKING, T, replaces_parts
from .._base.stdlib import Pool as _StdlibPool
from .._base.stdlib import pool as _stdlib
from .._start import child, popen
from .._start.method import default_context, popen_factory, warn_of_threads
from ..errors import PoolError, PoolTerminated
from . import end
from .queue import TaskQueue
from .results import ApplyResult, AsyncResult, Cache, IMapIterator, IMapUnorderedIterator, MapResult
from .thread import Thread

if TYPE_CHECKING:
    from typing import Any, TypeVar

    S = TypeVar("S")
else:
    Any = S = object

INIT = _stdlib.INIT
RUN = _stdlib.RUN
CLOSE = _stdlib.CLOSE
TERMINATE = _stdlib.TERMINATE

mapstar = _stdlib.mapstar
starmapstar = _stdlib.starmapstar

# Workers that end before they are ready, in a row and for each one that there should be. The
# engine waits longer each time, so this is after more than a second.
_MAX_FAILED_STARTS = 8

# So many workers are made before the first of them is forked: each page of memory that the
# program writes to between two forks is copied once more.
_BATCH = 8

# How a chunk is applied, and a single item.
_MODES = {
    mapstar: (_core.MAP | _core.LISTED, _core.MAP_ONE | _core.LISTED),
    starmapstar: (_core.STAR | _core.LISTED, _core.STAR_ONE | _core.LISTED),
}

_HELPER = "cpool-helper"
_FEEDER = "cpool-feeder"


def _is_leaving(process: BaseProcess) -> bool:
    leaving: bool = process._popen.is_leaving  # type: ignore[attr-defined]
    return leaving


class Pool(_StdlibPool):
    """A pool of worker processes, with the interface of `multiprocessing.Pool`.

    `processes` is the number of workers, by default `default_processes()`. Each worker calls
    `initializer(*initargs)` when it starts, and is replaced after `maxtasksperchild` tasks.
    `context` is a multiprocessing context. Raises `ValueError` for less than one process or a
    `maxtasksperchild` that is no positive int, `TypeError` for an initializer that cannot be
    called, and `OSError` where no process can be started; then nothing is left behind.

    Every job ends: with its results, with what a task raised, with `WorkerLostError` where
    a worker died, with `InitializerError` where the initializer raised, or with `PoolTerminated`.
    """

    __module__ = "cpool.pool"

    _engine: _core.Engine | None = None
    _workers: list[BaseProcess]
    _start_error: BaseException | None = None  # the last one
    _has_helper = False
    _state = INIT

    def __init__(
        self,
        processes: int | None = None,
        initializer: Callable[..., object] | None = None,
        initargs: Iterable[Any] = (),
        maxtasksperchild: int | None = None,
        context: Any = None,
    ) -> None:
        self._workers = []
        self._lock = threading.RLock()
        self._state = INIT
        context = context or default_context()
        if processes is None:
            processes = default_processes()
        if not self._fits(context):
            super().__init__(processes, initializer, initargs, maxtasksperchild, context)
            return
        if processes < 1:
            raise ValueError("Number of processes must be at least 1")
        if maxtasksperchild is not None and (
            not isinstance(maxtasksperchild, int) or maxtasksperchild <= 0
        ):
            raise ValueError("maxtasksperchild must be a positive int or None")
        if initializer is not None and not callable(initializer):
            raise TypeError("initializer must be a callable")
        self._ctx = context
        self._processes = operator.index(processes)
        self._maxtasksperchild = maxtasksperchild
        self._initializer = initializer
        self._initargs = initargs
        self._start()

    def _fits(self, context: Any) -> bool:
        """Can the engine run this pool?"""
        return (
            isinstance(context, _context.BaseContext)
            and context.get_start_method() in ("fork", "spawn", "forkserver")
            and not replaces_parts(type(self), Pool)
        )

    def _start(self) -> None:
        forks = self._ctx.get_start_method() == "fork"
        if forks:
            warn_of_threads(stacklevel=4)
        self._cache = Cache()
        self._engine = _core.Engine(self._processes, weakref.ref(self), self._cache)
        if not forks:
            self._engine.share()
        self._cache.engine = self._engine
        self._threads: list[Thread] = []
        self._taskqueue = TaskQueue(weakref.proxy(self))
        try:
            self._repopulate_pool()
        except BaseException:
            end.shut_down(self._engine, self._workers, self._threads)
            raise
        self._terminate = util.Finalize(
            self, end.shut_down, args=(self._engine, self._workers, self._threads), exitpriority=15
        )
        self._state = RUN

    # ---- submitting ----

    def _check_running(self) -> None:
        if self._state != RUN:
            raise ValueError("Pool not running")
        if self._engine is not None and not self._engine.is_ours:
            failures.raise_foreign()

    def apply(
        self, func: Callable[..., T], args: Iterable[Any] = (), kwds: Mapping[str, Any] = {}
    ) -> T:
        """Return `func(*args, **kwds)`, called in a worker; raise what it raises."""
        if self._engine is None or type(self).apply_async is not Pool.apply_async:
            return self.apply_async(func, args, kwds).get()
        self._check_running()
        value: T = self._engine.apply(ApplyResult, self, func, args, kwds)
        return value

    def apply_async(
        self,
        func: Callable[..., T],
        args: Iterable[Any] = (),
        kwds: Mapping[str, Any] = {},
        callback: Callable[[T], object] | None = None,
        error_callback: Callable[[BaseException], object] | None = None,
    ) -> AsyncResult[T]:
        """Have a worker call `func(*args, **kwds)`; return an `AsyncResult` at once.

        `callback(value)` or `error_callback(exception)` runs on a thread of the pool's, before the
        result is ready; what it raises becomes the result.
        """
        if self._engine is None:
            theirs: Any = super().apply_async(func, args, kwds, callback, error_callback)
            result: AsyncResult[T] = theirs
            return result
        self._check_running()
        if not self._has_helper:
            self._start_threads()
        return self._engine.submit(ApplyResult, self, func, args, kwds, callback, error_callback)

    def map(
        self, func: Callable[[S], T], iterable: Iterable[S], chunksize: int | None = None
    ) -> list[T]:
        """Return `[func(x) for x in iterable]`, computed by the workers, in order.

        Items are sent `chunksize` at a time; by default in chunks that follow the time which items
        take, or of about a fourth of a worker's share where its tasks are counted
        (`maxtasksperchild`) or `func` keeps a state. Waits for all of them, then raises the first
        exception that arrived, if any.
        """
        results: list[T] = self._map(func, iterable, mapstar, chunksize)
        return results

    def map_async(
        self,
        func: Callable[[S], T],
        iterable: Iterable[S],
        chunksize: int | None = None,
        callback: Callable[[list[T]], object] | None = None,
        error_callback: Callable[[BaseException], object] | None = None,
    ) -> MapResult[T]:
        """`map` that returns a `MapResult` at once; the callbacks are those of `apply_async`.

        Chunks that could follow the time need somebody who waits: here a worker's share is cut in
        64 chunks or more.
        """
        result: MapResult[T] = self._map_async(
            func, iterable, mapstar, chunksize, callback, error_callback
        )
        return result

    def starmap(
        self,
        func: Callable[..., T],
        iterable: Iterable[Iterable[Any]],
        chunksize: int | None = None,
    ) -> list[T]:
        """Return `[func(*x) for x in iterable]`, as `map` does."""
        results: list[T] = self._map(func, iterable, starmapstar, chunksize)
        return results

    def starmap_async(
        self,
        func: Callable[..., T],
        iterable: Iterable[Iterable[Any]],
        chunksize: int | None = None,
        callback: Callable[[list[T]], object] | None = None,
        error_callback: Callable[[BaseException], object] | None = None,
    ) -> MapResult[T]:
        """`starmap` that returns a `MapResult` at once; callbacks as those of `apply_async`."""
        result: MapResult[T] = self._map_async(
            func, iterable, starmapstar, chunksize, callback, error_callback
        )
        return result

    def imap(  # type: ignore[override]  # typeshed lets chunksize be None, which fails
        self,
        func: Callable[[S], T],
        iterable: Iterable[S],
        chunksize: int = 1,
        buffersize: int | None = None,
    ) -> IMapIterator[T]:
        """Return an iterator over `func(x) for x in iterable`, in order.

        The work goes on whether or not `next` is called; the iterable is pulled as fast as the
        workers take items. With `buffersize` no more than that many chunks are under way or wait
        to be read, after `close()` too; `join()` then ends the input where nobody reads, and the
        last `next` raises `PoolError`. `ValueError` for a `chunksize` or `buffersize` below 1,
        `TypeError` for one that is no number, or no int.
        """
        items: IMapIterator[T] = self._imap(
            IMapIterator, func, iterable, chunksize, buffersize, "{0:n}"
        )
        return items

    def imap_unordered(  # type: ignore[override]  # typeshed lets chunksize be None, which fails
        self,
        func: Callable[[S], T],
        iterable: Iterable[S],
        chunksize: int = 1,
        buffersize: int | None = None,
    ) -> IMapIterator[T]:
        """`imap` whose results come in the order in which they are ready."""
        items: IMapIterator[T] = self._imap(
            IMapUnorderedIterator, func, iterable, chunksize, buffersize, "{0!r}"
        )
        return items

    def _map(
        self, func: Callable[..., Any], iterable: Iterable[Any], mapper: Any, chunksize: int | None
    ) -> Any:
        if (
            self._engine is None
            or type(self)._map_async is not Pool._map_async
            or mapper not in _MODES
        ):
            return self._map_async(func, iterable, mapper, chunksize).get()
        self._check_running()
        iterable, length, size = self._measure(iterable, chunksize)
        result: MapResult[Any] = MapResult(self, size, length, None, None)
        if size == 0:
            return result.get()
        mode = self._mode(mapper, chunksize, size)
        return self._engine.run(result, func, iterable, size, mode, length)

    def _map_async(
        self,
        func: Callable[..., Any],
        iterable: Iterable[Any],
        mapper: Any,
        chunksize: int | None = None,
        callback: Callable[[list[Any]], object] | None = None,
        error_callback: Callable[[BaseException], object] | None = None,
    ) -> Any:
        if self._engine is None:
            return super()._map_async(func, iterable, mapper, chunksize, callback, error_callback)
        self._check_running()
        iterable, length, size = self._measure(iterable, chunksize)
        result: MapResult[Any] = MapResult(self, size, length, callback, error_callback)
        if size == 0:
            return result
        if mapper in _MODES:
            self._feed(result, func, iterable, size, self._mode(mapper, chunksize, size), length)
            return result
        tasks = self._guarded_task_generation(
            result._job, mapper, self._get_tasks(func, iterable, size)
        )
        self._feed(result, None, tasks, 1, _core.MAP_ONE, -1)
        return result

    def _measure(
        self, iterable: Iterable[Any], chunksize: int | None
    ) -> tuple[Iterable[Any], int, int]:
        """What `map` works on: the iterable, how long it is, and the size of its chunks (0: there
        is nothing to do)."""
        if not hasattr(iterable, "__len__"):
            iterable = list(iterable)
        length = len(iterable)  # type: ignore[arg-type]
        if chunksize is None:
            chunksize, extra = divmod(length, self._processes * 4)
            if extra:
                chunksize += 1
        if length == 0 or chunksize <= 0:
            chunksize = 0
        return iterable, length, operator.index(chunksize)

    def _mode(self, mapper: Any, asked: int | None, size: int) -> int:
        """How chunks are applied. Those that nobody asked for may be cut otherwise, unless that
        would show: a worker's tasks are counted."""
        mode = _MODES[mapper][size == 1]
        return mode | _core.FIT if asked is None and self._maxtasksperchild is None else mode

    def _imap(
        self,
        kind: type[IMapIterator[Any]],
        func: Callable[[Any], Any],
        iterable: Iterable[Any],
        chunksize: int,
        buffersize: int | None,
        shown: str,
    ) -> Any:
        self._check_running()
        if chunksize < 1:
            raise ValueError(f"Chunksize must be 1+, not {shown.format(chunksize)}")
        if buffersize is not None:
            if not isinstance(buffersize, int):
                raise TypeError("buffersize must be an integer or None")
            if buffersize < 1:
                raise ValueError("buffersize must be None or > 0")
        limit = buffersize or 0
        if self._engine is None:
            if limit:
                raise ValueError("buffersize needs a pool that runs on cpool's engine")
            method = super().imap if kind is IMapIterator else super().imap_unordered
            return method(func, iterable, chunksize)
        if chunksize == 1:
            result = kind(self)
            self._feed(result, func, iterable, 1, _core.MAP_ONE, -1, limit)
            return result
        chunksize = operator.index(chunksize)
        result = kind(self)
        self._feed(result, func, iterable, chunksize, _core.MAP, -1, limit)
        return (item for chunk in result for item in chunk)

    def _feed(
        self,
        result: Any,
        func: Callable[..., Any] | None,
        iterable: Iterable[Any],
        chunksize: int,
        mode: int,
        length: int,
        limit: int = 0,
    ) -> None:
        """Start to turn the items into tasks; what is not pulled now, a thread pulls."""
        assert self._engine is not None
        try:
            if not self._has_helper:
                self._start_threads()
            if self._engine.feed(result, func, iterable, chunksize, mode, length, limit):
                self._start_thread(_FEEDER, self._engine.feed_rest, result)
        except BaseException:
            self._engine.cancel(result)  # nobody else would end it
            raise

    # ---- threads ----

    def _start_threads(self) -> None:
        """The first asynchronous job: from now on something goes on while nobody waits."""
        assert self._engine is not None
        with self._lock:
            if not self._has_helper:
                self._engine.start_standby()
                self._start_thread(_HELPER, self._engine.help)
                self._has_helper = True  # last: who sees it has no need of the lock

    def _start_thread(self, name: str, target: Callable[..., object], *args: Any) -> None:
        with self._lock:
            # In place: the finalizer has this very list.
            self._threads[:] = [t for t in self._threads if t.is_alive() or t.name == _HELPER]
            thread = Thread(target=target, args=args, name=name, daemon=True)
            self._threads.append(thread)  # first: what it runs may ask whether it is one of ours
            try:
                thread.start()
            except BaseException:
                self._threads.remove(thread)
                raise

    # ---- workers ----

    @property
    def _pool(self) -> list[BaseProcess]:
        """The live list of worker processes."""
        if self._engine is not None and self._state == RUN and self._engine.is_ours:
            self._engine.wait_ended(0)  # replaces who has died meanwhile
            if any(map(_is_leaving, list(self._workers))):
                self._join_exited_workers()  # who was replaced before it had ended
        return self._workers

    @_pool.setter
    def _pool(self, workers: list[BaseProcess]) -> None:
        self._workers = workers

    def _new_worker(self, target: Callable[..., object], *args: Any) -> Any:
        """The process, or thread, of a worker that is to be started."""
        process = self.Process(self._ctx, target=target, args=args)
        process.name = process.name.replace("Process", "PoolWorker")
        process.daemon = True
        return process

    def _make_worker(self) -> BaseProcess:
        assert self._engine is not None
        worker = self._engine.worker(self._maxtasksperchild)
        process = self._new_worker(child.main, worker, self._initializer, self._initargs)
        # On the instance: whatever class the context or `Process` gave stays as it is.
        process._Popen = popen_factory(worker, self._ctx.get_start_method())
        made: BaseProcess = process
        return made

    def _start_worker(self, process: BaseProcess, start: Callable[[BaseProcess], None]) -> None:
        try:
            start(process)
        finally:
            process.__dict__.pop("_Popen", None)
            if process.pid is not None:  # even if a signal's handler raised then
                self._workers.append(process)
        util.debug("added worker")

    def _repopulate_pool(self) -> None:
        """Start workers until there are as many as there should be."""
        if self._engine is None:
            super()._repopulate_pool()
            return
        with self._lock:
            self._engine.set_target(self._processes)
            leaving = sum(map(_is_leaving, self._workers))
            missing = self._processes - len(self._workers) + leaving
            with popen.started_together() as start:
                while missing > 0:
                    batch = [self._make_worker() for _ in range(min(missing, _BATCH))]
                    missing -= len(batch)
                    try:
                        for process in batch:
                            self._start_worker(process, start)
                    finally:
                        batch.clear()  # their pipes are closed now, and not with the traceback

    def _join_exited_workers(self, workers: list[BaseProcess] | None = None) -> bool:
        """Let go of workers that have ended; True if there were any."""
        with self._lock:
            gone = [process for process in self._workers if process.exitcode is not None]
            for process in gone:
                process.join()
                process._popen.close()  # type: ignore[attr-defined]
                self._workers.remove(process)
        return bool(gone)

    def _replace_workers(self) -> None:
        """Called by whoever waits, when the engine has seen workers end."""
        assert self._engine is not None
        with self._lock:
            if self._state not in (RUN, CLOSE):
                return
            self._join_exited_workers()
            try:
                self._check_starts()
                self._repopulate_pool()
            except PoolTerminated:
                pass  # it has ended meanwhile
            except PoolError as exc:
                self._engine.break_pool(failures.pack_error(exc, None))
            except Exception as exc:
                self._start_error = exc.with_traceback(None)
                self._engine.not_started()

    def _check_starts(self) -> None:
        """Give up where nothing has come of starting workers for long, and none is at work."""
        assert self._engine is not None
        _, _, ready, failed = self._engine.counts()
        if ready == 0 and failed > _MAX_FAILED_STARTS * self._processes:
            why = "" if self._start_error is None else f", the last error: {self._start_error}"
            error = PoolError(f"no worker can be started: {failed} in a row were never ready{why}")
            raise error from self._start_error

    # ---- the end ----

    def close(self) -> None:
        """Take no more work. The workers end when all that was submitted is done."""
        if self._engine is None:
            super().close()
            return
        util.debug("closing pool")
        if self._state == RUN and self._engine.is_ours:
            self._state = CLOSE
            self._engine.close()

    def terminate(self) -> None:
        """End now. Idle workers end by themselves, busy ones by SIGTERM, and by SIGKILL soon after.

        What is not done fails with `PoolTerminated`, also for threads that wait for it already.
        """
        if self._engine is None:
            super().terminate()
            return
        util.debug("terminating pool")
        self._state = TERMINATE
        if self._engine.is_ours:
            # First: whatever interrupts what follows, join() comes to an end then.
            self._engine.end()
        self._terminate()

    def _check_ending(self, engine: _core.Engine) -> None:
        """What every join() begins with."""
        util.debug("joining pool")
        if self._state == RUN:
            raise ValueError("Pool is still running")
        if self._state not in (CLOSE, TERMINATE):
            raise ValueError("In unknown state")
        if not engine.is_ours:
            failures.raise_foreign()

    def join(self, timeout: float | None = None) -> None:
        """Wait for the workers to end; `close()` or `terminate()` comes first.

        An `imap` with a `buffersize` whose results nobody reads takes no more input then.
        Raises `ValueError` for a pool that is running, and `multiprocessing.TimeoutError` after
        `timeout` seconds; it can be called again.
        """
        if self._engine is None:
            super().join()
            return
        self._check_ending(self._engine)
        if (
            timeout is None
            and self._state == CLOSE
            and any(map(Thread.is_current, list(self._threads)))
        ):
            raise RuntimeError("a callback or an iterable cannot join the pool that waits for it")
        if not self._engine.wait_ended(timeout):
            raise TimeoutError
        end.clean_up(self._engine, self._workers, self._threads)
