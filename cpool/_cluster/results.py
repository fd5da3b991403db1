"""What submissions to a cluster return: the stdlib's classes, filled by the keeper.

A result keeps what arrives as bytes. The thread that asks for the value unpickles it, or the
helper if there are callbacks: so no code of the program runs on the keeper's thread.
"""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from collections.abc import Callable, Generator
from contextlib import nullcontext
from multiprocessing import TimeoutError

from .._base import failures, stdlib
from .._base.handlers import being_handled, is_from_handler
from .._base.stdlib import TYPE_CHECKING, T
from ..errors import TaskCancelledError
from . import worker
from .frames import loads

if TYPE_CHECKING:
    from typing import Any, NoReturn, Self

    from .keeper import Helper, Keeper

__all__ = ["ApplyResult", "AsyncResult", "IMapIterator", "IMapUnorderedIterator", "MapResult"]


def seconds_of(timeout: Any) -> float | None:
    """A timeout as a number. Raises what threading's waits raise for one that is none."""
    if timeout is None:
        return None
    try:
        if isinstance(timeout, (str, bytes)):
            raise TypeError(timeout)
        return 0.0 if timeout <= 0 else max(0.0, float(timeout))
    except TypeError:
        failures.refuse_timeout(timeout)
        raise


class Arrived:
    """The outcome of one chunk: its data, or an exception that was made here.

    `is_of_call`: it is a failure of the whole call, which is raised whatever `return_exceptions`
    says.
    """

    __slots__ = ("count", "data", "error", "is_of_call", "kind", "start")

    def __init__(
        self,
        start: int,
        count: int,
        kind: int,
        data: list[Any],
        error: BaseException | None = None,
        is_of_call: bool = False,
    ) -> None:
        self.start = start
        self.count = count
        self.kind = kind
        self.data = data
        self.error = error
        self.is_of_call = is_of_call

    @classmethod
    def failure(cls, error: BaseException, start: int = 0) -> Arrived:
        """A failure of a call, in the place of a chunk."""
        return cls(start, 1, worker.FAILURE, [], error, True)

    def of(self, start: int, count: int) -> Arrived:
        """The same outcome, for other items."""
        return Arrived(start, count, self.kind, self.data, self.error, self.is_of_call)

    def values(self) -> Any:
        """The list of results. Raises what the task raised, or why it cannot be unpickled."""
        if self.error is not None:
            raise self.error
        if self.kind == worker.FAILURE:
            raise failures.unpack_error(memoryview(self.data[0]))
        return loads(self.data[0], self.data[1:])


class Ends:
    """Wakes who waits for any of several results of one pool, as `cpool.as_completed` does."""

    def __init__(self, helper: Helper, check_process: Callable[[], None]) -> None:
        self.helper = helper
        self.check_process = check_process
        self.news = threading.Condition()
        self.count = 0  # results that have ended

    def add(self, result: Any) -> None:
        """This result has ended."""
        with self.news:
            self.count += 1
            result._end = self.count
            self.news.notify_all()

    def wait_any(self, results: list[Any], timeout: float | None) -> list[tuple[int, int]]:
        """Wait until some of these have ended: (its number in the order of ends, its place)."""

        def found() -> list[tuple[int, int]]:
            return [(each._end, place) for place, each in enumerate(results) if each._end]

        if ended := found():
            return ended
        self.check_process()  # before the lock, which nobody may release in a copy
        with self.news:
            return self.news.wait_for(found, timeout)

    def is_deadlock(self, results: list[Any]) -> bool:
        """Would this thread, which runs callbacks, wait for results whose callbacks run later?"""
        return self.helper.is_current() and all(each._helped for each in results)


_forks = 0  # how many forks lie between the first process and this one


def _count_fork() -> None:
    global _forks
    _forks += 1


os.register_at_fork(after_in_child=_count_fork)


class _News:
    """A `threading.Condition` that a copy of the process makes anew.

    The thread that held the lock when the process was forked is not in the copy: nobody would
    release it there.
    """

    __slots__ = ("conditions",)

    def __init__(self) -> None:
        self.conditions = {_forks: threading.Condition()}

    def here(self) -> threading.Condition:
        """The condition of this process."""
        found = self.conditions.get(_forks)
        return found or self.conditions.setdefault(_forks, threading.Condition())


class _Awaited:
    """What `_engine.loops` needs of a call that is awaited."""

    if TYPE_CHECKING:
        _keeper: Keeper

    _listeners: Any = None  # loops.Listeners, once somebody has awaited it

    _returns_exceptions = False  # return_exceptions=

    def _values_of(self, outcome: Arrived) -> Any:
        """The results of a chunk. Raises why it failed, unless that is a result too."""
        handled = being_handled()
        try:
            return outcome.values()
        except BaseException as exc:
            is_raised = outcome.is_of_call or not self._returns_exceptions
            if is_raised or is_from_handler(exc, handled):
                raise
            return [exc.with_traceback(None)] * outcome.count

    def _tell_listeners(self) -> None:
        if self._listeners is not None:
            self._listeners.told()

    def _pool_threads(self) -> None:
        """The keeper runs as long as the pool, but not in a copy of the process."""
        self._keeper.check_process()

    def _will_be_told(self) -> bool:
        raise NotImplementedError

    def _tell(self) -> bool:
        """Will the listeners be told? False where there is something to be read already."""
        return self._will_be_told()


def _not_picklable(self: object) -> NoReturn:
    raise NotImplementedError("pool objects cannot be passed between processes or pickled")


class ApplyResult(_Awaited, stdlib.ApplyResult[T]):
    """What `apply_async` returns; also under the name `AsyncResult`.

    `get(timeout=None)` returns the value or raises what the task raised, always the same exception
    object, with the worker's traceback as its `__cause__`; `multiprocessing.TimeoutError` after
    `timeout` seconds; `WorkerLostError` if the worker process died, `NodeLostError` if its node
    was lost. `wait(timeout=None)` waits, `ready()` says whether the result is there,
    `successful()` whether it is a value (`ValueError` before it is ready). `await result` is
    `get()` in a coroutine of asyncio; where the awaiting task is cancelled, so is the call.

    `cancel(kill=True)` ends the call: what no worker process has begun is withdrawn, and those
    that run a task of it are killed and replaced; with `kill=False` what runs ends, and its result
    is dropped. It does not wait for the nodes, which learn of it some milliseconds later. True if
    it was cancelled, False if all had arrived before. Then `get()` raises `TaskCancelledError`, an
    `error_callback` is called with it, and `cancelled()` is True.
    """

    __module__ = "cpool.distributed"

    def __init__(
        self,
        pool: Any,
        callback: Callable[[Any], object] | None = None,
        error_callback: Callable[[BaseException], object] | None = None,
    ) -> None:
        self._pool = pool
        self._keeper: Keeper = pool._keeper
        self._cache = pool._cache
        self._job = pool._next_job()
        self._callback = callback
        self._error_callback = error_callback
        self._event = threading.Event()  # set when the value is final
        self._news = _News()
        self._raw: deque[Arrived] = deque()
        self._left = 1  # items that have not arrived
        self._unpacked = 0  # items that have been unpickled
        self._total = 1
        self._unpacking = threading.Lock()
        self._unpacker = 0
        self._error: BaseException | None = None
        self._helped = bool(callback) or bool(error_callback)
        self._engine = self._keeper.ends
        self._end = 0  # its number among the results that have ended, from 1 on
        self._is_cancelled = False
        self._reporter: Any = nullcontext()  # of progress=
        self._cache[self._job] = self

    # ---- by the keeper ----

    def arrive(self, outcome: Arrived) -> None:
        """Take in the outcome of a chunk."""
        with (news := self._news.here()):
            if self._left <= 0:
                return  # cancelled, which the keeper does not know yet
            self._raw.append(outcome)
            self._left -= outcome.count
            is_last = self._left <= 0
            news.notify_all()
        if is_last:
            self._all_arrived()

    def fail(self, error: BaseException) -> bool:
        """Fail the call as a whole, whatever else has arrived or will; False if all has."""
        return self.end(Arrived.failure(error))

    def end(self, failure: Arrived) -> bool:
        """`fail()`, with a failure that may be a pickle so far."""
        with (news := self._news.here()):
            if self._left <= 0:
                return False
            self._is_cancelled = isinstance(failure.error, TaskCancelledError)
            self._raw.append(failure.of(0, self._left))
            self._left = 0
            news.notify_all()
        self._all_arrived()
        return True

    def abandon(self, error: BaseException) -> None:
        """Fail a call whose callback may block for ever."""
        self.fail(error)
        if self._helped:
            self._conclude(False, error)

    def _all_arrived(self) -> None:
        if self._helped:
            self._keeper.helper.call(self._settle)
        else:
            self._cache.pop(self._job, None)
            self._has_ended()

    def _has_ended(self) -> None:
        self._engine.add(self)
        self._tell_listeners()

    def _will_be_told(self) -> bool:
        return not self._event.is_set() and (self._helped or self._left > 0)

    def _progress(self) -> tuple[int, bool]:
        """How many items are done, and whether the call has ended."""
        return self._total - max(0, self._left), not self._will_be_told()

    # ---- the value ----

    def _is_here(self) -> bool:
        return bool(self._raw) or self._left <= 0

    def _take(self, values: Any, outcome: Arrived) -> None:
        self._value = values[0]

    def _settle(self, end: float | None = None) -> bool:
        """Unpickle what has arrived until everything has; False if the time `end` comes first."""
        left = None if end is None else max(0.0, end - time.monotonic())
        me = threading.get_ident()
        if self._unpacker == me:
            if left is None:
                raise RuntimeError("what rebuilds a value cannot wait for it")
            return self._event.wait(left)
        if not self._unpacking.acquire(timeout=-1 if left is None else min(left, 1e6)):
            return self._event.is_set()
        try:
            self._unpacker = me
            while not self._event.is_set():
                with (news := self._news.here()):
                    left = None if end is None else max(0.0, end - time.monotonic())
                    if not news.wait_for(self._is_here, left):
                        return False
                    outcome = self._raw.popleft() if self._raw else None
                if outcome is not None:
                    self._unpack(outcome)
                if outcome is None or self._unpacked >= self._total:
                    self._finish()
            return True
        finally:
            self._unpacker = 0
            self._unpacking.release()

    def _unpack(self, outcome: Arrived) -> None:
        handled = being_handled()
        try:
            values = self._values_of(outcome)
            if self._error is None:
                self._take(values, outcome)
        except BaseException as exc:
            if is_from_handler(exc, handled):
                self._raw.appendleft(outcome)  # for the next call
                raise
            if self._error is None:
                self._error = exc.with_traceback(None)
        self._unpacked += outcome.count

    def _finish(self) -> None:
        success = self._error is None
        value: Any = getattr(self, "_value", None)
        if self._error is not None:
            value = self._error
        back = self._callback if success else self._error_callback
        if back:
            try:
                back(value)
            except BaseException as exc:
                success, value = False, exc
        self._conclude(success, value)

    def _conclude(self, success: bool, value: Any) -> None:
        """Make the outcome final, unless it is."""
        with self._news.here():
            is_first = not self._event.is_set()
            if is_first:
                self._success, self._value = success, value
                self._event.set()
        self._cache.pop(self._job, None)
        self._pool = None
        if is_first and self._helped:
            self._has_ended()

    # ---- by the program ----

    def cancel(self, kill: bool = True) -> bool:
        self._keeper.check_process()
        if not self.fail(TaskCancelledError("the call was cancelled")):
            return False
        self._keeper.tell("cancel", self, kill)
        return True

    def cancelled(self) -> bool:
        """Has `cancel()` ended the call?"""
        return self._is_cancelled

    def __await__(self) -> Generator[Any, None, T]:
        from .._engine.loops import await_result

        return await_result(self)

    def ready(self) -> bool:
        """Is the value, or the failure, there?"""
        return self._event.is_set() or (not self._helped and self._left <= 0 and self._settle(0.0))

    def successful(self) -> bool:
        """Is the result a value? `ValueError` before it is ready."""
        if not self.ready():
            raise ValueError(f"{self!r} not ready")
        return bool(self._success)

    def wait(self, timeout: float | None = None) -> None:
        """Wait until the result is ready, or for `timeout` seconds."""
        self._wait(timeout)

    def _wait(self, timeout: float | None) -> bool:
        if self._event.is_set():
            return True
        self._keeper.check_process()
        seconds = seconds_of(timeout)
        if self._helped:
            # Values of calls with callbacks are made on the helper's thread, one after another.
            if seconds is None and self._keeper.helper.is_current():
                raise RuntimeError("a callback cannot wait for a result that has a callback")
            return self._event.wait(seconds)
        return self._settle(None if seconds is None else time.monotonic() + seconds)

    def get(self, timeout: float | None = None) -> T:
        """Return the value, or raise the failure; `TimeoutError` after `timeout` seconds."""
        if not self._wait(timeout):
            raise TimeoutError
        if self._success:
            value: T = self._value
            return value
        raise self._value

    __reduce__ = _not_picklable


AsyncResult = ApplyResult


class MapResult(ApplyResult[list[T]], stdlib.MapResult[T]):
    """What `map_async` and `starmap_async` return: the value is the list of all results."""

    __module__ = "cpool.distributed"

    def __init__(
        self,
        pool: Any,
        chunksize: int,
        length: int,
        callback: Callable[[list[T]], object] | None,
        error_callback: Callable[[BaseException], object] | None,
    ) -> None:
        super().__init__(pool, callback, error_callback)
        self._chunksize = chunksize
        self._success = True
        self._value: Any = [None] * length
        self._left = self._total = length
        if chunksize <= 0:
            self._left = 0
            self._event.set()
            del self._cache[self._job]
            self._has_ended()

    @property
    def _number_left(self) -> int:
        return -(-self._left // self._chunksize) if self._chunksize > 0 else 0

    def _unpack(self, outcome: Arrived) -> None:
        super()._unpack(outcome)
        if isinstance(self._error, StopIteration):
            self._error = failures.stopped(self._error)

    def _take(self, values: Any, outcome: Arrived) -> None:
        if len(values) != outcome.count:
            raise failures.PoolError(f"{outcome.count} items have {len(values)} results")
        self._value[outcome.start : outcome.start + outcome.count] = values


class IMapIterator(_Awaited, stdlib.IMapIterator[T]):
    """What `imap` returns: an iterator over results in the order of the input.

    `next(timeout=None)` raises what the task of that item raised; the next call goes on with the
    next item. `multiprocessing.TimeoutError` after `timeout` seconds, and can be called again.
    `close()` ends it: no more items are pulled, what no worker process has begun is withdrawn,
    results that were not read are dropped, and `next` raises `StopIteration`. `async for` reads it
    too.
    """

    __module__ = "cpool.distributed"

    def __init__(self, pool: Any) -> None:
        self._pool = pool
        self._keeper: Keeper = pool._keeper
        self._cache: dict[int, Any] = pool._cache
        self._job = pool._next_job()
        self._news = _News()
        self._arrived: dict[int, Arrived] = {}
        self._index = 0  # chunks that were read
        self._length: int | None = None
        self._items = 0  # items that have an outcome
        self._is_closed = False
        self.on_read: Callable[[], None] | None = None  # tells the keeper that there is room
        self._cache[self._job] = self

    # ---- by the keeper ----

    def _key(self, outcome: Arrived) -> int:
        return outcome.start

    def arrive(self, outcome: Arrived) -> None:
        with (news := self._news.here()):
            if self._is_closed:
                return
            self._arrived[self._key(outcome)] = outcome
            self._items += outcome.count
            news.notify_all()
        self._tell_listeners()

    def set_length(self, length: int) -> None:
        """There are so many chunks in all."""
        with (news := self._news.here()):
            if self._length is None:
                self._length = length
                news.notify_all()
        self._tell_listeners()

    def fail(self, error: BaseException) -> None:
        """End the iterator with an error, after what can be read in order."""
        self.end(Arrived.failure(error))

    def end(self, failure: Arrived) -> None:
        """`fail()`, with a failure that may be a pickle so far."""
        with (news := self._news.here()):
            if self._length is not None and len(self._arrived) + self._index >= self._length:
                return
            at = self._index
            while at in self._arrived:
                at += 1
            self._arrived[at] = failure.of(at, 1)
            self._arrived[at].is_of_call = True  # raised: it ends the iterator
            self._length = at + 1
            news.notify_all()
        self._tell_listeners()

    abandon = fail

    def _will_be_told(self) -> bool:
        return not self._can_go_on()

    def _progress(self) -> tuple[int, bool]:
        """How many items are done, and whether the call has ended."""
        with self._news.here():
            arrived = len(self._arrived) + self._index
            return self._items, self._length is not None and arrived >= self._length

    # ---- by the program ----

    def __iter__(self) -> IMapIterator[T]:
        return self

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> T:
        from .._engine.loops import next_of

        found: T = await next_of(self)
        return found

    def close(self) -> None:
        with (news := self._news.here()):
            self._is_closed = True
            self._arrived.clear()
            self._length = self._index
            news.notify_all()
        self._tell_listeners()
        self._cache.pop(self._job, None)
        if not self._keeper.is_copy():
            self._keeper.tell("cancel", self, False)

    def _can_go_on(self) -> bool:
        return self._index in self._arrived or self._index == self._length

    def next(self, timeout: float | None = None) -> T:
        """The next result. `StopIteration` at the end, `TimeoutError` after `timeout` seconds."""
        seconds: float | None = 0.0
        if not self._can_go_on():
            self._keeper.check_process()
            seconds = seconds_of(timeout)
        with (news := self._news.here()):
            if not news.wait_for(self._can_go_on, seconds):
                raise TimeoutError
            if self._index == self._length:
                self._pool = None
                raise StopIteration
            outcome = self._arrived.pop(self._index)
            self._index += 1
        if self.on_read is not None and not self._keeper.is_copy():
            self.on_read()
        try:
            value: T = self._of_chunk(self._values_of(outcome))
            return value
        except StopIteration as exc:
            raise failures.stopped(exc) from exc

    def _of_chunk(self, values: Any) -> Any:
        return values[0]

    __next__ = next
    __reduce__ = _not_picklable


class IMapUnorderedIterator(IMapIterator, stdlib.IMapUnorderedIterator[T]):  # type: ignore[type-arg]
    """What `imap_unordered` returns: an iterator over results in the order of their arrival."""

    __module__ = "cpool.distributed"

    def __init__(self, pool: Any) -> None:
        super().__init__(pool)
        self._next_place = 0

    def _key(self, outcome: Arrived) -> int:
        place = self._next_place
        self._next_place += 1
        return place


class Chunks(IMapIterator):  # type: ignore[type-arg]
    """An iterator over whole chunks, of which the program sees the items."""

    def _of_chunk(self, values: Any) -> Any:
        return values


class UnorderedChunks(IMapUnorderedIterator):  # type: ignore[type-arg]
    """The same, in the order of their arrival."""

    def _of_chunk(self, values: Any) -> Any:
        return values
