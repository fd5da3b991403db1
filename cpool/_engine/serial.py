"""Serial mode: there are no workers; each task runs in the thread that submits it.

`Pool(serial=True)` uses the engine of a `ThreadPool` without threads. The thread that submits a
call runs its queued tasks before the call returns. So results, callbacks, iterators and options
work as in any pool.
"""

from __future__ import annotations

import os
import sys
import threading
import time
import warnings
import weakref
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from multiprocessing import util

from .. import _core
from .._base import failures
from .._base.amounts import seconds_of
from .._base.current import CurrentWorker, current_thread_worker, set_thread
from .._base.stdlib import TYPE_CHECKING
from .._base.stdlib import pool as _stdlib

if TYPE_CHECKING:
    from typing import Any
else:
    Any = object

VARIABLE = "CPOOL_SERIAL"

_FOLDER = os.path.dirname(os.path.dirname(__file__)) + os.sep  # of the package

_TERMINATE = _stdlib.TERMINATE

# Seconds that join() sleeps between checks of tasks that other threads run.
_LOOK_S = 0.05


def is_wanted(serial: bool | None) -> bool:
    """Does `serial=` ask for a serial pool? None: use the environment variable."""
    if serial is not None:
        return bool(serial)
    return os.environ.get(VARIABLE, "0") not in ("", "0")


class Refusal:
    """What a serial pool does about parameters and options that need worker processes.

    With `serial=True` (`is_asked`) they raise `ValueError`. If the environment asked for serial
    mode, the program has to run all the same: they are ignored, with one warning for each name,
    that tells the line of the program.
    """

    def __init__(self, is_asked: bool) -> None:
        self.is_asked = is_asked
        self._told: set[str] = set()

    def __call__(self, names: Iterable[str]) -> None:
        for name in names:
            if self.is_asked:
                raise ValueError(
                    f"{name} needs worker processes, which a serial pool does not have"
                )
            if name not in self._told:
                self._told.add(name)
                warnings.warn(
                    f"{VARIABLE} is set: {name} is ignored, since no worker process runs the tasks",
                    RuntimeWarning,
                    stacklevel=_level_of_program(),
                )


def _level_of_program() -> int:
    """The `stacklevel` by which the caller's warning names the code that called cpool."""
    frame = sys._getframe(1)
    level = 1
    while frame.f_back is not None and frame.f_code.co_filename.startswith(_FOLDER):
        frame = frame.f_back
        level += 1
    return level


class SerialEngine:
    """Wraps the extension's engine; all other attributes are those of that engine."""

    def __init__(self, processes: int, pool: Any) -> None:
        self._core = _core.Engine(
            processes, weakref.ref(pool), pool._cache, threads=True, serial=True
        )
        self._worker = CurrentWorker(0, self._count)
        self._tasks = 0
        # Iterators that the program still has; join() runs the rest of their tasks.
        self._streams: weakref.WeakSet[Any] = weakref.WeakSet()
        self._values: weakref.WeakSet[Values] = weakref.WeakSet()  # the same for stream()
        self._busy: Counter[int] = Counter()  # threads that run tasks or callbacks
        self._changed = threading.Condition()
        self._finalizer: Callable[[], object] | None = None
        self._ends = False
        self._core.enter(0)
        self._ticket = [partial(self._core.leave, 0)]

    def __getattr__(self, name: str) -> Any:
        return getattr(self._core, name)

    def _count(self) -> int:
        return self._tasks + self._core.tasks_done()

    # ---- running tasks ----

    @contextmanager
    def as_worker(self) -> Iterator[None]:
        """Within, code runs as a task of the pool: `current_worker()` returns its worker."""
        before = current_thread_worker()
        set_thread(self._worker)
        try:
            yield
        finally:
            set_thread(before)

    def _run(self) -> None:
        me = threading.get_ident()
        with self._changed:
            self._busy[me] += 1
        try:
            with self.as_worker():
                self._tasks += self._core.run_queued()
            self._core.call_back()
        finally:
            with self._changed:
                self._busy[me] -= 1
                self._busy += Counter()  # drops entries of zero
                self._changed.notify_all()

    def step(self, stream: Any) -> bool:
        """Make and run the next task of an iterator; False: there are no more."""
        with stream._stepping:
            more = self._core.feed_one(stream)
        self._run()
        return more

    def submit(
        self,
        kind: Any,
        pool: Any,
        func: Callable[..., Any],
        args: Iterable[Any],
        kwds: Mapping[str, Any],
        callback: Any,
        error_callback: Any,
        options: Any = None,
    ) -> Any:
        result: Any = self._core.submit(
            kind, pool, func, args, kwds, callback, error_callback, options
        )
        self._run()
        return result

    def apply(self, *args: Any) -> Any:
        kind, pool, func, given, kwds, *options = args
        return self.submit(kind, pool, func, given, kwds, None, None, *options).get()

    def feed(
        self,
        result: Any,
        func: Callable[..., Any] | None,
        iterable: Iterable[Any],
        chunksize: int,
        mode: int,
        length: int,
        limit: int = 0,
    ) -> bool:
        is_stream = isinstance(result, _core.Stream)
        if is_stream:
            # With a limit the job has no strong reference to its iterator, which can then be
            # collected.
            result._stepping = threading.RLock()
            result._limit = limit
            limit = limit or sys.maxsize
        more = self._core.feed(result, func, iterable, chunksize, mode, length, limit)
        self._core.end_call(result)
        if is_stream:
            if more:
                self._streams.add(result)
            return False
        while more:
            more = self._core.feed_one(result)
            self._run()
        self._run()  # the callbacks of a job that failed before its first task
        return False

    def run(self, result: Any, *args: Any) -> Any:
        try:
            self.feed(result, *args)
        except BaseException:
            self._core.cancel(result)
            raise
        return result.get()

    def add_values(self, values: Values) -> None:
        self._values.add(values)

    def count_task(self) -> None:
        self._tasks += 1

    # ---- the end ----

    def initialize(self, initializer: Callable[..., object], initargs: Iterable[Any]) -> None:
        """Run the initializer in this thread, which makes the pool."""
        try:
            with self.as_worker():
                initializer(*initargs)
        except KeyboardInterrupt:
            self.end()
            raise
        except BaseException as exc:
            self._core.break_pool(exc)

    def set_finalizer(self, finalizer: Callable[..., object], args: Iterable[Any]) -> None:
        def finalize() -> None:
            try:
                with self.as_worker():
                    finalizer(*args)
            except Exception as exc:
                text = failures.traceback_of(exc)
                sys.stderr.write(f"cpool: the finalizer raised in a serial pool:\n{text}")

        self._finalizer = finalize

    def _leave(self) -> None:
        """End the pool's only worker, once."""
        try:
            leave = self._ticket.pop()
        except IndexError:
            return
        if self._finalizer is not None and self._core.failure() is None:
            self._finalizer()
        leave()

    def close(self) -> None:
        self._ends = True
        self._core.close()

    def end(self) -> None:
        self._ends = True
        if self._core.is_ours:
            self._core.end()
            self._leave()

    def close_fds(self) -> None:
        """Does nothing: a serial pool has no descriptors."""

    def retire(self, workers: int, first: int) -> None:
        """Does nothing: a serial pool has no workers."""

    def set_indexes(self, number: int) -> None:
        """Does nothing: a serial pool has no worker indexes."""

    def _finish_streams(self) -> None:
        """Run the remaining tasks of iterators that were not read completely.

        With a `buffersize`, run that many at most, and end the input.
        """
        for stream in list(self._streams):
            left = stream._limit or sys.maxsize
            while left > 0 and self.step(stream):
                left -= 1
            if left == 0:
                stream.close()

    def _has_pending(self) -> bool:
        return self._core.counts()[0] > 0

    def wait_ended(self, timeout: float | None) -> bool:
        if not self._ends:
            return False
        end = None if timeout is None else time.monotonic() + seconds_of("timeout", timeout)
        if self._has_pending() and threading.get_ident() in self._busy:
            raise RuntimeError("a task or callback cannot join the pool that waits for it")
        if timeout is None:
            self._finish_streams()
            for values in list(self._values):
                values.cut()
        with self._changed:
            while self._has_pending() and self._busy:
                left = _LOOK_S if end is None else min(_LOOK_S, end - time.monotonic())
                if left <= 0:
                    return False
                self._changed.wait(left)
        if self._has_pending():
            return False  # unread iterators, in a join() with a timeout
        self._leave()
        return self._core.wait_ended(timeout)


def _items_of(iterable: Iterable[Any]) -> Iterator[Any]:
    """An iterator over the iterable. What is none raises when it is read, as in any pool."""
    yield from iterable


class Values(Iterator[Any]):
    """What `stream` and `flatmap` of a serial pool return: `next` runs the generator."""

    def __init__(self, pool: Any, func: Any, iterable: Iterable[Any], is_star: bool) -> None:
        self._is_over = True  # for __del__, if __init__ fails
        self._pool = pool
        self._engine: Any = pool._engine
        self._func: Callable[..., Any] = func
        self._is_star = is_star
        self._inputs = _items_of(iterable)
        self._running: Any = None  # the generator that is being read
        self._lock = threading.RLock()
        self._done = 0  # inputs
        self._is_over = self._is_cut = False
        self.returns_exceptions = self.fails_fast = False

    def next(self, timeout: float | None = None) -> Any:
        """Return the next value. `timeout` has no effect: the value is computed here."""
        with self._lock:
            while not self._is_over:
                self._check()
                try:
                    if self._running is None:
                        self._begin()
                    with self._engine.as_worker():
                        return next(self._running)
                except StopIteration:
                    self._end_input()
                except Exception as exc:
                    if not self._is_value(exc):
                        raise
                    return exc
                except BaseException:
                    self._end_input()
                    raise
            if self._is_cut:
                self._is_cut = False
                raise failures.values_not_read("stream" if self._is_star else "flatmap")
            raise StopIteration

    def _begin(self) -> None:
        """Call the function with the next input. Raises StopIteration if there is none."""
        try:
            item = next(self._inputs)
        except BaseException:
            self._is_over = True
            raise
        self._engine.count_task()
        try:
            with self._engine.as_worker():
                made = self._func(*item) if self._is_star else self._func(item)
                self._running = failures.values_of(made)
        except StopIteration as exc:
            raise failures.stopped(exc) from exc

    def _end_input(self) -> None:
        self._running = None
        self._done += not self._is_over

    def _is_value(self, exc: Exception) -> bool:
        """Record a failure. Is the exception returned in the place of a value?"""
        is_of_call = self._is_over  # the iterable raised
        self._end_input()
        if self.returns_exceptions and not is_of_call:
            return True
        self._is_over = is_of_call or self.fails_fast
        return False

    def _check(self) -> None:
        failure = self._engine.failure()
        if failure is not None:
            raise failure
        if self._pool._state == _TERMINATE:
            self._stop()
            raise failures.terminated()

    __next__ = next

    def __aiter__(self) -> Values:
        return self

    async def __anext__(self) -> Any:
        try:
            return self.next()
        except StopIteration:
            raise StopAsyncIteration from None

    def _stop(self) -> None:
        running, self._running = self._running, None
        close = getattr(running, "close", None)
        if close is not None:
            with self._engine.as_worker():
                close()

    def close(self) -> None:
        with self._lock:
            self._is_over = True
            self._stop()

    def cut(self) -> None:
        """Called when the pool is joined: end an iterator that was not read completely."""
        if not self._is_over:
            self._is_cut = True
            self.close()

    def __del__(self) -> None:
        if not self._is_over:
            self.close()

    def _progress(self) -> tuple[int, bool]:
        return self._done, self._is_over


def values(pool: Any, func: Any, iterable: Iterable[Any], is_star: bool) -> Values:
    """The iterator for `stream` and `flatmap` of a serial pool."""
    before = getattr(pool._engine, "before", None)  # if the engine is a Front
    if before is not None:
        func = before(func, yields=True)
    made = Values(pool, func, iterable, is_star)
    pool._engine.add_values(made)
    return made


def start(pool: Any, initializer: Any, initargs: Any, finalizer: Any, finalargs: Any) -> Any:
    """Make the engine of a serial pool, and run the initializer."""
    engine = SerialEngine(pool._processes, pool)
    if finalizer is not None:
        engine.set_finalizer(finalizer, finalargs)
    if initializer is not None:
        engine.initialize(initializer, initargs)
    return engine


def shut_down(engine: SerialEngine) -> None:
    """End a serial pool: when it is terminated or collected, or at the program's exit."""
    if util.is_exiting():
        _core._exiting()
    engine.end()
