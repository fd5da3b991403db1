"""`cpool.ProcessPoolExecutor` and `cpool.ThreadPoolExecutor`: executors on cpool's pools.

An executor makes its pool at the first call, and drops it at the end; the pool runs until its calls
are done. The futures are of concurrent.futures' own class; the extension makes and completes them:
see csrc/py/job/lane.h.
"""

from __future__ import annotations

import itertools
import operator
import signal
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from concurrent.futures import process as _process
from concurrent.futures import thread as _thread
from multiprocessing import TimeoutError as _PoolTimeout
from multiprocessing import get_context
from sys import modules

from .. import _core
from .._base import broken, failures
from .._base.current import CurrentWorker, set_thread
from .._base.size import default_processes
from .._base.stdlib import TYPE_CHECKING, T
from .._start.method import default_context
from . import end
from .options import CallOptions, Unpack
from .processes import RUN, Pool
from .results import IMapIterator
from .threads import ThreadPool, leave

if TYPE_CHECKING:
    from typing import Any, NoReturn

    from .thread import Thread
else:
    Any = object

# concurrent.futures' own classes, also after `cpool.install(executors=True)`.
StdlibProcessPoolExecutor = _process.ProcessPoolExecutor
StdlibThreadPoolExecutor = _thread.ThreadPoolExecutor

_AFTER_SHUTDOWN = "cannot schedule new futures after shutdown"
_AFTER_EXIT = "cannot schedule new futures after interpreter shutdown"
_COLLECTED = "cannot schedule new futures: the executor was collected"
_IN_A_COPY = "cannot schedule new futures in a forked process: the executor belongs to its parent"

# Pulling items of these runs no code of the program. With other iterables each item is submitted
# before the next one is pulled: that may take long, or wait for a call.
_containers: tuple[Iterable[Any], ...] = (
    [],
    (),
    range(0),
    "",
    b"",
    bytearray(),
    {},
    set(),
    deque(),
)
_containers += ({}.keys(), {}.values(), {}.items(), frozenset(), memoryview(b""))
_PLAIN = {itertools.repeat, *map(type, _containers), *(type(iter(each)) for each in _containers)}
_PLAIN_BY_NAME = {("numpy", "ndarray"), ("array", "array")}

# The pools that still run; the program's exit waits for their calls.
_pools: set[_ExecutorPool | _ExecutorThreads] = set()
_is_exiting = False


def _at_exit() -> None:
    """Runs before the interpreter joins the program's threads, as in concurrent.futures."""
    global _is_exiting
    _is_exiting = True
    pools = list(_pools)  # once: threads that have run all calls leave the set before they end
    for pool in pools:
        pool.close()
    for pool in pools:
        pool.wait_over()


threading._register_atexit(_at_exit)  # type: ignore[attr-defined]


# ---- the pools ----


class _ExecutorPool(Pool):
    """The pool of a `ProcessPoolExecutor`. Its helper thread joins the workers at the end."""

    manager: Thread | None = None

    def __init__(self, made: list[Any], *args: Any) -> None:
        """`made`: where to put the pool, for the case that a signal handler raises meanwhile."""
        made.append(self)
        self._reaping = threading.Lock()
        super().__init__(*args, serial=False)
        try:
            self._start_threads(calls=True)
            _pools.add(self)
            self.manager = next((t for t in self._threads if t.name == "cpool-helper"), None)
        except BaseException:
            self.terminate()
            raise

    def _fits(self, context: Any) -> bool:
        return True  # the executor has checked the context

    def _new_worker(self, target: Callable[..., object], *args: Any) -> Any:
        process = super()._new_worker(target, *args)
        process.daemon = False  # calls may have child processes, as in the stdlib
        return process

    def _start_thread(self, name: str, target: Callable[..., object], *args: Any) -> None:
        assert self._engine is not None
        if target == self._engine.help:
            target = self._manage
        super()._start_thread(name, target, *args)

    def _manage(self) -> None:
        assert self._engine is not None
        self._engine.help()
        if self._engine.is_ours and not self._has_pending(self._engine):
            self._reap()

    def _reap(self) -> None:
        """Join the workers and threads that have ended. Does so only once."""
        assert self._engine is not None
        with self._reaping:
            if self in _pools:
                end.clean_up(self._engine, self._workers, self._threads)
                _pools.discard(self)

    def wait_over(self) -> None:
        """Wait until all calls have run, and all workers have ended."""
        assert self._engine is not None
        if not self._engine.is_ours:
            return
        while not self._engine.wait_ended(None):
            pass
        if self.manager is None or self.manager.is_current():
            return
        self.manager.join()
        self._reap()  # if the manager ran in a fork's parent, or was delayed
        self._engine.close_fds()  # if this thread was still the driver when the manager reaped


class _ExecutorThreads(ThreadPool):
    """The pool of a `ThreadPoolExecutor`. Its workers end calls and run callbacks themselves."""

    def __init__(
        self, made: list[Any], threads: int, prefix: str, initializer: Any, initargs: Any
    ) -> None:
        made.append(self)
        self._prefix = prefix
        self._made = 0
        super().__init__(threads, initializer, initargs, serial=False)
        _pools.add(self)

    def _fits(self, context: Any) -> bool:
        return True

    def _new_worker(self, target: Callable[..., object], *args: Any) -> Any:
        thread = super()._new_worker(target, *args)
        thread.name = f"{self._prefix}_{self._made}"
        self._made += 1
        return thread

    def _target(self) -> Callable[..., object]:
        return _work

    def close(self) -> None:
        super().close()
        self.forget_if_over()  # the threads of a broken pool have ended before

    def forget_if_over(self) -> None:
        """If the threads have run all calls, and this was the last one: the exit need not wait."""
        if self._engine is not None and self._engine.is_ours and self._engine.wait_ended(0):
            _pools.discard(self)

    def wait_over(self) -> None:
        assert self._engine is not None
        if not self._engine.is_ours:
            return
        current: Any = threading.current_thread()
        for thread in list(self._workers):
            if thread is current:
                raise RuntimeError("cannot join current thread")
        self._engine.wait_ended(None)
        for thread in list(self._workers):
            thread.join()
        _pools.discard(self)


def _work(
    engine: _core.Engine,
    ticket: list[Callable[[], None]],
    initializer: Callable[..., object] | None,
    initargs: Iterable[Any],
    to_tell: list[bool],
    index: int,
    finalizer: None,
    finalargs: Iterable[Any],
    cpus: None,
    pool_of: Callable[[], _ExecutorThreads | None],
) -> None:
    """The target of an executor's thread: run the initializer, then calls until the end."""
    set_thread(CurrentWorker(index, engine.tasks_done))
    try:
        if initializer is not None:
            failures.initialize(initializer, initargs)
    except BaseException as exc:
        engine.break_pool(exc)
    else:
        engine.work(index)
    finally:
        leave(ticket)
    pool = pool_of()
    if pool is not None:
        pool.forget_if_over()
    del pool  # the traceback of a task's exception may keep this frame alive


def _let_go(pool: _ExecutorPool | _ExecutorThreads) -> None:
    """Called when the executor is collected: its calls run, then the workers end."""
    if pool._engine is not None and pool._engine.is_ours:
        pool.close()


_watch: Callable[[Any, Any], None] | None = None


def _import_watch() -> Callable[[Any, Any], None]:
    """Import `loops.watch` at its first use: asyncio is imported by then, so this is fast."""
    global _watch
    from .loops import watch

    _watch = watch
    return watch


# ---- what both executors do ----


class _Calls:
    """The methods that both executors have: submitting, mapping and shutting down."""

    _BROKEN: Any
    _inner: Any = None  # the pool; None before the first call
    _call: Any = None  # the engine's method, once submit() needs nothing else
    _is_shut = False
    _max_workers: int
    _grows = True  # add workers while calls wait
    _is_looked_at = False  # do event loops that submit poll the engine? Not with threads

    def _begin(self) -> None:
        self._starting = threading.RLock()  # reentrant: a signal handler may call shutdown()
        self._streams: weakref.WeakSet[IMapIterator[Any]] = weakref.WeakSet()
        # The futures of calls with options(), and the pool's results for them.
        self._configured: weakref.WeakKeyDictionary[Future[Any], Any] = weakref.WeakKeyDictionary()

    def _make_pool(self, made: list[Any]) -> Any:
        raise NotImplementedError

    def _started(self) -> Any:
        """The pool; makes it at the first call."""
        self._check()
        with self._starting:
            if self._inner is None:
                made: list[Any] = []
                try:
                    inner = self._make_pool(made)
                    self._letting_go = weakref.finalize(self, _let_go, inner)
                    self._letting_go.atexit = False
                    self._inner = inner
                except BaseException as exc:
                    # A signal handler may have raised when the pool was running already. Its
                    # threads keep such a pool, and nobody else knows it.
                    self._inner = None
                    for pool in made:
                        if pool in _pools:
                            pool.terminate()
                            if isinstance(pool, _ExecutorThreads):
                                _pools.discard(pool)
                    if isinstance(exc, RuntimeError):
                        raise self._BROKEN(f"the executor cannot start: {exc}") from exc
                    raise
                if self._is_shut:  # a signal handler called shutdown()
                    inner.close()
                elif not self._grows:
                    self._call = inner._engine.call
        return self._inner

    def _call_slowly(self, fn: Any, args: Any, kwargs: Any) -> Future[Any] | None:
        """Submit the first calls, and calls after shutdown(). Returns the future, or None."""
        inner = self._started()
        future: Future[Any] | None = inner._engine.call(fn, args, kwargs)
        if self._call is None and not self._is_shut:
            self._grow()
        return future

    def _grow(self) -> None:
        inner = self._inner
        with self._starting:
            while (
                inner._processes < self._max_workers
                and inner._engine.unanswered() > inner._processes
                and inner._state == RUN
            ):
                with inner._lock:  # not resize(), which raises if another thread closes it
                    inner._processes += 1
                    inner._repopulate_pool()
            if inner._processes >= self._max_workers and not self._is_shut:
                self._call = inner._engine.call

    def _check(self) -> None:
        if self._is_shut:
            raise RuntimeError(_AFTER_SHUTDOWN)
        if _is_exiting:
            raise RuntimeError(_AFTER_EXIT)
        if self._inner is not None and not self._inner._engine.is_ours:
            raise RuntimeError(_IN_A_COPY)
        reason = self._failure()
        if reason is not None:
            raise reason

    def _failure(self) -> BaseException | None:
        """Why no call can run any more, or None."""
        if self._inner is None:
            return None
        reason: BaseException | None = self._inner._engine.failure()
        return None if reason is None else self._as_broken(reason)

    def _as_broken(self, reason: BaseException) -> BaseException:
        made = broken.translated(reason)
        if isinstance(made, self._BROKEN):
            known: BaseException = made
            return known
        error: BaseException = self._BROKEN(str(made))
        error.__cause__ = made
        return error

    @property
    def _broken(self) -> Any:
        reason = self._failure()
        return False if reason is None else str(reason)

    def submit(self, fn: Callable[..., T], /, *args: Any, **kwargs: Any) -> Future[T]:
        """Have a worker call `fn(*args, **kwargs)`; return a `concurrent.futures.Future` at once.

        Raises `RuntimeError` after `shutdown()`, and `BrokenProcessPool` or `BrokenThreadPool` if
        the initializer failed in a worker.
        """
        call = self._call
        try:
            future = (self._call_slowly if call is None else call)(fn, args, kwargs)
        except ValueError as exc:  # the pool is closed, or belongs to another process
            self._refused(exc)
        if future is None:
            self._refused(None)
        if self._is_looked_at and (asyncio := modules.get("asyncio")) is not None:
            running = getattr(asyncio, "_get_running_loop", None)  # None: still being imported
            if running is not None and (loop := running()) is not None:
                self._submitted(loop)
        return future

    if not TYPE_CHECKING:
        submit = _core.Method("submit", submit, None)

    def _refused(self, exc: ValueError | None) -> NoReturn:
        """The pool takes no call: raise the reason."""
        self._check()
        raise RuntimeError(_AFTER_SHUTDOWN) if exc is None else exc

    def _submitted(self, loop: Any) -> None:
        """In the thread of this running loop: have the loop poll the engine."""
        (_watch or _import_watch())(loop, self._inner._engine)

    def map(
        self,
        fn: Callable[..., T],
        *iterables: Iterable[Any],
        timeout: float | None = None,
        chunksize: int = 1,
        buffersize: int | None = None,
    ) -> Iterator[T]:
        """Return an iterator over `map(fn, *iterables)`, computed by the workers, in order.

        Pulls and submits all items at once. Each item is submitted before the next one is pulled,
        except from containers of builtin types and arrays of numpy, which is faster. With
        `buffersize` (an int), at most that many items are in flight or unread. With processes,
        items are sent in chunks of `chunksize` (an int). The iterator raises whatever a call
        raised, and the builtin `TimeoutError` if a result is not there `timeout` seconds (a float;
        None: no limit) after this call. Then it ends, and calls that have not begun are cancelled,
        as they are when the iterator is closed or collected. With `buffersize`, if `shutdown()` is
        called before all items are submitted, the iterator raises `RuntimeError` after the last
        result. Raises `ValueError` for a `chunksize` or `buffersize` below 1, and `TypeError` for a
        `buffersize` that is not an int.
        """
        if chunksize < 1:
            raise ValueError("chunksize must be >= 1.")
        if buffersize is not None:
            if not isinstance(buffersize, int):
                raise TypeError("buffersize must be an integer or None")
            if buffersize < 1:
                raise ValueError("buffersize must be None or > 0")
        until = None if timeout is None else timeout + time.monotonic()
        chunksize = self._chunks(operator.index(chunksize))
        if (
            buffersize is not None
            or not self._has_own_submit()
            or not all(map(_is_plain, iterables))
        ):
            return self._map_by_calls(fn, iterables, until, chunksize, buffersize)
        single = len(iterables) == 1
        items = list(iterables[0]) if single else list(zip(*iterables, strict=False))
        inner = self._started()
        stream: IMapIterator[T] = IMapIterator(inner)
        self._streams.add(stream)
        mode = _core.MAP if single else _core.STAR
        if chunksize == 1:
            mode = _core.MAP_ONE if single else _core.STAR_ONE
        inner._feed(stream, fn, items, chunksize, mode, -1)
        del items
        if self._call is None:
            self._grow()
        return _results(inner, stream, until, chunksize > 1)

    def _chunks(self, chunksize: int) -> int:
        return chunksize

    def _has_own_submit(self) -> bool:
        """False if a subclass or the instance replaces submit(), as tqdm's process_map() does."""
        return getattr(self.submit, "__func__", None) is _Calls.submit

    def _map_by_calls(
        self, fn: Any, iterables: Any, until: float | None, chunksize: int, buffersize: int | None
    ) -> Iterator[Any]:
        """As in the stdlib: a call for each item or chunk; reading a result submits the next
        one."""
        calls: Iterator[tuple[Any, ...]] = zip(*iterables, strict=False)
        if chunksize > 1:
            calls = zip(itertools.repeat(fn), _chunked(calls, chunksize), strict=False)
            fn = _run_chunk
        submit = self.submit
        futures = deque(submit(fn, *args) for args in itertools.islice(calls, buffersize))
        more = calls if buffersize is not None else iter(())
        called = None
        if not self._has_own_submit() and buffersize is None:
            called = _Called(futures)
        values = _values(weakref.ref(self), futures, fn, more, until, called)
        return values if chunksize == 1 else _flat(values)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Take no more calls; the workers end when all submitted calls have run.

        `wait` (a bool): return only after that. `cancel_futures` (a bool): cancel the calls that no
        worker has begun. May be called more than once, by several threads. With `wait` it raises
        `RuntimeError` in a call or callback of the executor, which would wait for itself.
        """
        with self._starting:
            self._is_shut = True
            self._call = None
        inner = self._inner
        if inner is None or inner._engine is None or not inner._engine.is_ours:
            return
        if cancel_futures:
            self._cancel(inner)
        inner.close()
        self._letting_go.detach()
        if wait:
            inner.wait_over()

    def options(self, **options: Unpack[CallOptions]) -> _Configured:
        """Return this executor with options for its calls: see `CallOptions`.

        The returned object has only `submit()`: `executor.options(task_timeout=5,
        retries=2).submit(fn)`.
        """
        return _Configured(self, options)

    def _cancel(self, inner: Any) -> None:
        for future in inner._engine.pending_futures():
            future.cancel()
        for future, result in list(self._configured.items()):
            if not result._is_begun():
                future.cancel()
        for stream in list(self._streams):
            inner._engine.cancel(stream)


class _Configured:
    """What an executor's `options()` returns: `submit()` with options."""

    def __init__(self, executor: _Calls, options: CallOptions) -> None:
        self._executor = executor
        self._options = options

    def submit(self, fn: Callable[..., T], /, *args: Any, **kwargs: Any) -> Future[T]:
        """As `submit()` of the executor, but `Future.cancel()` also kills a running call."""
        future: Future[Any] = Future()
        pool = self._executor._started()

        def end(value: Any) -> None:
            if future.set_running_or_notify_cancel():
                future.set_result(value)

        def fail(exc: BaseException) -> None:
            if future.set_running_or_notify_cancel():
                future.set_exception(broken.translated(exc))

        try:
            result = pool.apply_async(fn, args, kwargs, end, fail, **self._options)
        except ValueError:
            self._executor._check()
            raise

        def withdraw(ended: Future[Any]) -> None:
            if ended.cancelled():
                result.cancel()

        future.add_done_callback(withdraw)
        self._executor._configured[future] = result
        if self._executor._call is None:
            self._executor._grow()
        return future


def _is_plain(iterable: Any) -> bool:
    kind = type(iterable)
    return kind in _PLAIN or (kind.__module__, kind.__name__) in _PLAIN_BY_NAME


# ---- reading results ----


def _results(inner: Any, stream: Any, until: float | None, is_chunked: bool) -> Iterator[Any]:
    """The values of a map. Keeps no reference to a value that it has yielded."""
    try:
        while True:
            try:
                held = [next(stream) if until is None else stream.next(until - time.monotonic())]
            except StopIteration:
                return
            except _PoolTimeout:
                raise TimeoutError from None
            except BaseException as exc:
                raise broken.translated(exc) from exc.__cause__
            if is_chunked:
                held = held.pop()
                held.reverse()
            while held:
                yield held.pop()
    finally:
        engine = inner._engine
        if engine.is_ours:
            engine.cancel(stream)


def _chunked(items: Iterator[Any], n: int) -> Iterator[tuple[Any, ...]]:
    while chunk := tuple(itertools.islice(items, n)):
        yield chunk


def _run_chunk(fn: Callable[..., Any], chunk: Iterable[tuple[Any, ...]]) -> list[Any]:
    return [fn(*args) for args in chunk]


class _Called:
    """Waits until the callbacks that these futures have now were called.

    A result can be read before the helper thread has called the callbacks. Code that counts results
    in callbacks, such as tqdm's, expects the count to be complete when the last result was read.
    """

    PATIENCE = 1.0  # seconds; a callback that reads a map itself would wait forever

    def __init__(self, futures: Iterable[Future[Any]]) -> None:
        found = [getattr(future._condition, "is_over", None) for future in futures]
        self.asked = [is_over for is_over in found if is_over is not None]

    def wait(self) -> None:
        until = time.monotonic() + self.PATIENCE
        for is_over in self.asked:
            while not is_over() and time.monotonic() < until:
                time.sleep(0.001)


def _values(
    executor: Any,
    futures: deque[Future[Any]],
    fn: Any,
    more: Iterator[Any],
    until: float | None,
    called: _Called | None,
) -> Iterator[Any]:
    refused: RuntimeError | None = None  # why no more items can be submitted
    try:
        while futures:
            left = None if until is None else until - time.monotonic()
            held = [_value_of(futures.popleft(), left)]
            args = next(more, None) if refused is None else None
            found = None if args is None else executor()
            try:
                if args is not None:
                    if found is None:
                        raise RuntimeError(_COLLECTED)
                    futures.append(found.submit(fn, *args))
            except RuntimeError as exc:
                refused = exc
            del found, args
            yield held.pop()
        if refused is not None:
            raise refused
        if called is not None:
            called.wait()
    finally:
        for future in futures:
            future.cancel()


def _value_of(future: Future[Any], timeout: float | None) -> Any:
    try:
        return future.result(timeout)
    finally:
        future.cancel()
        del future


def _flat(chunks: Iterator[list[Any]]) -> Iterator[Any]:
    for chunk in chunks:
        chunk.reverse()
        while chunk:
            yield chunk.pop()


# ---- processes ----


class _NoQueue:
    """Replaces the stdlib's queue of calls; close() and join_thread() do nothing."""

    def close(self) -> None: ...
    def join_thread(self) -> None: ...


_NO_QUEUE = _NoQueue()


class ProcessPoolExecutor(_Calls, StdlibProcessPoolExecutor):  # type: ignore[override]
    """An executor of worker processes, with the interface of `concurrent.futures`'.

    `max_workers` (an int) is the number of workers, by default `default_processes()`; `mp_context`
    is a multiprocessing context. Each worker calls `initializer(*initargs)` when it starts, and is
    replaced after `max_tasks_per_child` calls (an int; None: never). Raises `ValueError` and
    `TypeError` for the same arguments as the standard library's class.

    The first call starts all workers; with spawn and forkserver workers start one by one while
    calls wait. If a worker dies, the call that it ran fails with an exception that is both a
    `WorkerLostError` and a `BrokenProcessPool`; the executor continues with a new worker.
    `Future.cancel()` works until a worker has begun the call.
    """

    __module__ = "cpool"
    _BROKEN = broken.BrokenProcessPool
    _is_looked_at = True

    def __init__(
        self,
        max_workers: int | None = None,
        mp_context: Any = None,
        initializer: Callable[..., object] | None = None,
        initargs: tuple[Any, ...] = (),
        *,
        max_tasks_per_child: int | None = None,
    ) -> None:
        if max_workers is None:
            max_workers = default_processes()
        elif max_workers <= 0:
            raise ValueError("max_workers must be greater than 0")
        if mp_context is None:
            mp_context = _context_of(max_tasks_per_child)
        if initializer is not None and not callable(initializer):
            raise TypeError("initializer must be a callable")
        method = mp_context.get_start_method(allow_none=False)
        if max_tasks_per_child is not None:
            if not isinstance(max_tasks_per_child, int):
                raise TypeError("max_tasks_per_child must be an integer")
            if max_tasks_per_child <= 0:
                raise ValueError("max_tasks_per_child must be >= 1")
            if method == "fork":
                raise ValueError(
                    "max_tasks_per_child is incompatible with the 'fork' multiprocessing start "
                    "method; supply a different mp_context."
                )
        self._max_workers = max_workers
        self._mp_context = mp_context
        self._initializer: Any = initializer
        self._initargs = initargs
        self._max_tasks_per_child = max_tasks_per_child
        self._grows = method != "fork"
        self._begin()

    def _make_pool(self, made: list[Any]) -> _ExecutorPool:
        initializer, initargs = self._initializer, self._initargs
        if initializer is not None:
            initargs = (initializer, initargs)
            initializer = failures.initialize
        size = 1 if self._grows else self._max_workers
        context = self._mp_context
        return _ExecutorPool(made, size, initializer, initargs, self._max_tasks_per_child, context)

    # Some programs read these private names of the stdlib's class.

    @property
    def _processes(self) -> dict[int | None, Any] | None:  # type: ignore[override]
        if self._inner is None:
            return {}
        return {process.pid: process for process in list(self._inner._workers)}

    @property
    def _executor_manager_thread(self) -> Any:  # type: ignore[override]
        return None if self._inner is None else self._inner.manager

    @property
    def _call_queue(self) -> Any:
        return _NO_QUEUE

    @property
    def _shutdown_thread(self) -> bool:  # type: ignore[override]
        return self._is_shut

    def terminate_workers(self) -> None:
        """Send SIGTERM to the workers, and cancel calls that have not begun; do not wait.

        Running calls fail as if their worker had died. The executor takes no more calls.
        """
        self._force_shutdown(operation="terminate")

    def kill_workers(self) -> None:
        """`terminate_workers()` with SIGKILL."""
        self._force_shutdown(operation="kill")

    def _force_shutdown(self, operation: str) -> None:
        how = {"terminate": signal.SIGTERM, "kill": signal.SIGKILL}.get(operation)
        if how is None:
            raise ValueError(f"Unsupported operation: {operation!r}")
        self.shutdown(wait=False, cancel_futures=True)
        if self._inner is not None:
            self._inner._engine.signal(how)


def _context_of(max_tasks_per_child: int | None) -> Any:
    if max_tasks_per_child is not None:
        return get_context("spawn")
    if _process.ProcessPoolExecutor is ProcessPoolExecutor:
        return get_context()  # installed in place of the stdlib's class: the same default as there
    return default_context()


# ---- threads ----


class ThreadPoolExecutor(_Calls, StdlibThreadPoolExecutor):  # type: ignore[override]
    """An executor of worker threads, with the interface of `concurrent.futures`'.

    `max_workers` (an int) is the number of threads, by default as in the standard library. Threads
    start while calls wait for them; their names are `thread_name_prefix` (a str) and a number. Each
    calls `initializer(*initargs)` first. Arguments and results are passed by reference. Raises
    `ValueError` and `TypeError` for the same arguments as the standard library's class.
    """

    __module__ = "cpool"
    _BROKEN = broken.BrokenThreadPool
    _counter = itertools.count().__next__

    def __init__(
        self,
        max_workers: int | None = None,
        thread_name_prefix: str = "",
        initializer: Callable[..., object] | None = None,
        initargs: tuple[Any, ...] = (),
    ) -> None:
        if max_workers is None:
            max_workers = min(32, default_processes() + 4)
        if max_workers <= 0:
            raise ValueError("max_workers must be greater than 0")
        if initializer is not None and not callable(initializer):
            raise TypeError("initializer must be a callable")
        self._max_workers = max_workers
        self._thread_name_prefix: str = (
            thread_name_prefix or f"ThreadPoolExecutor-{self._counter()}"
        )
        self._initializer: Any = initializer
        self._initargs = initargs
        self._begin()

    def _make_pool(self, made: list[Any]) -> _ExecutorThreads:
        return _ExecutorThreads(
            made, 1, self._thread_name_prefix, self._initializer, self._initargs
        )

    def _chunks(self, chunksize: int) -> int:
        return 1  # as in the stdlib, which ignores chunksize for threads

    @property
    def _threads(self) -> set[Any]:  # type: ignore[override]
        return set() if self._inner is None else set(self._inner._workers)

    @property
    def _shutdown(self) -> bool:  # type: ignore[override]
        return self._is_shut
