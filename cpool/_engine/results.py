"""The results of calls: subclasses of both the stdlib's classes and the extension's."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Mapping, MutableMapping
from multiprocessing import TimeoutError

from .. import _core, errors
from .._base import stdlib
from .._base.stdlib import TYPE_CHECKING, T
from .._start import popen

if TYPE_CHECKING:
    from typing import Any, NoReturn, Self


# A fork takes milliseconds, unless fork hooks of the program delay it.
_FORK_S = 1.0


def _not_picklable(self: object) -> NoReturn:
    raise NotImplementedError("pool objects cannot be passed between processes or pickled")


class Cache(MutableMapping["int", "Any"]):
    """The pending results, by job number; some recipes add results of the stdlib's own classes."""

    def __init__(self) -> None:
        self.engine: _core.Engine | None = None
        self.strangers: dict[int, Any] = {}

    def _all(self) -> dict[int, Any]:
        jobs = {} if self.engine is None else self.engine.jobs()
        return self.strangers | jobs

    def __getitem__(self, number: int) -> Any:
        return self._all()[number]

    def __setitem__(self, number: int, result: Any) -> None:
        self.strangers[number] = result

    def __delitem__(self, number: int) -> None:
        del self.strangers[number]

    def __iter__(self) -> Iterator[int]:
        return iter(self._all())

    def __len__(self) -> int:
        return len(self._all())


class _Readable:
    """A read-only attribute of the stdlib's results that an instance attribute may override.

    Subclasses that wrap or gather results often skip `__init__` and store their own values under
    these names, which a property would forbid.
    """

    def __init__(self, read: Callable[[Any], Any]) -> None:
        self._read = read

    def __get__(self, result: object, owner: type | None = None) -> Any:
        return self if result is None else self._read(result)


class _Event:
    """Replaces the threading.Event of the stdlib's results."""

    def __init__(self, result: ApplyResult[Any]) -> None:
        self._result = result

    def is_set(self) -> bool:
        return self._result.ready()

    def wait(self, timeout: float | None = None) -> bool:
        self._result.wait(timeout)
        return self._result.ready()


class _Awaited:
    """The methods that the extension and `loops` call on a job that is awaited."""

    if TYPE_CHECKING:
        _pool: Any

    _listeners: Any = None  # loops.Listeners, once the job was awaited

    def _told(self) -> None:
        self._listeners.told()

    def _pool_threads(self) -> None:
        """Start the pool's threads, which run the pool while no thread waits."""
        pool = self._pool
        if pool is not None and not pool._has_helper:
            pool._start_threads(calls=True)


class ApplyResult(_core.Result, _Awaited, stdlib.ApplyResult[T]):
    """What `apply_async` returns. `AsyncResult` is another name for it.

    `get(timeout=None)` returns the value, or raises what the task raised: always the same exception
    object, with the worker's traceback as its `__cause__`. It raises `WorkerLostError` if the
    worker died, and `multiprocessing.TimeoutError` if there is no result after `timeout` seconds.
    `wait(timeout=None)` waits for the result, or `timeout` seconds, and returns None. `ready()`
    returns whether the result is there, `successful()` whether it is a value (`ValueError` before
    it is ready). `await result` is `get()` for a coroutine of asyncio; if the awaiting asyncio task
    is cancelled, the call is cancelled too.

    `cancel(kill=True)` cancels the call. Tasks that no worker has begun are withdrawn; workers that
    run a task of the call are killed, with the processes that the task has started, and replaced.
    With `kill=False` running tasks finish, and their results are dropped. No other call is
    affected. Returns True if the call was cancelled, False if it had already ended. After that
    `get()` raises `TaskCancelledError`, the `error_callback` is called with it, and `cancelled()`
    is True. Threads of a `ThreadPool` cannot be killed: there `kill` has no effect.
    """

    __module__ = "cpool.pool"

    if TYPE_CHECKING:

        def get(self, timeout: float | None = None) -> T: ...

    def __await__(self) -> Generator[Any, None, T]:
        from .loops import await_result  # importing asyncio takes long

        return await_result(self)

    def _prepare_cancel(self) -> None:
        """Import what TaskCancelledError needs; that import registers fork hooks."""
        with popen.hooks_stay(_FORK_S):
            errors.TaskCancelledError  # noqa: B018

    _pool = _Readable(_core.Result._pool.__get__)
    _job = _Readable(_core.Result._job.__get__)
    _callback = _Readable(_core.Result._callback.__get__)
    _error_callback = _Readable(_core.Result._error_callback.__get__)
    _event = _Readable(_Event)

    @_Readable
    def _cache(self) -> Mapping[int, Any]:
        return self._engine.cache

    @_Readable
    def _success(self) -> bool:
        return self._outcome("_success")[0]

    @_Readable
    def _value(self) -> Any:
        return self._outcome("_value")[1]

    def _outcome(self, name: str) -> tuple[bool, Any]:
        """A pair: is it a value; the value or exception. `AttributeError` until it is ready.

        A `__getattr__` for these names would make every method call slower.
        """
        found = self._look()
        if found is None:
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        return found

    def __dir__(self) -> list[str]:
        """Leaves out two names: managers read every listed attribute, even of a pending result."""
        return [name for name in super().__dir__() if name not in ("_success", "_value")]

    __reduce__ = _not_picklable


AsyncResult = ApplyResult


class MapResult(ApplyResult[list[T]], stdlib.MapResult[T]):
    """What `map_async`, `starmap_async` and `broadcast_async` return; the value is a list."""

    __module__ = "cpool.pool"

    def __init__(
        self,
        pool: Any,
        chunksize: int,
        length: int,
        callback: Callable[[list[T]], object] | None,
        error_callback: Callable[[BaseException], object] | None,
    ) -> None:
        _core.Result.__init__(self, pool, callback, error_callback, chunksize, length)
        self._chunksize = chunksize

    @_Readable
    def _number_left(self) -> int:
        return self._left()


class IMapIterator(_core.Stream, _Awaited, stdlib.IMapIterator[T]):
    """What `imap` returns: an iterator over results in the order of the input.

    `next(timeout=None)` returns the next result, or raises what the task of that item raised; the
    call after that continues with the next item. It raises `multiprocessing.TimeoutError` if there
    is no result after `timeout` seconds, and can be called again. `close()` ends the iterator: no
    more items are pulled, tasks that no worker has begun are withdrawn, unread results are dropped,
    and `next` raises `StopIteration`. `async for` works too.
    """

    __module__ = "cpool.pool"

    if TYPE_CHECKING:

        def __next__(self, timeout: float | None = None) -> T: ...
        def next(self, timeout: float | None = None) -> T: ...
        def close(self) -> None: ...
    else:
        next = __next__ = _core.Stream.next

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> T:
        from .loops import next_of

        found: T = await next_of(self)
        return found

    _pool = _Readable(_core.Stream._pool.__get__)
    _job = _Readable(_core.Stream._job.__get__)

    @_Readable
    def _cache(self) -> Mapping[int, Any]:
        return self._engine.cache

    __reduce__ = _not_picklable


class IMapUnorderedIterator(IMapIterator, stdlib.IMapUnorderedIterator[T]):  # type: ignore[type-arg]
    """What `imap_unordered` returns: an iterator over results in the order in which they arrive."""

    __module__ = "cpool.pool"

    def __init__(self, pool: Any) -> None:
        _core.Stream.__init__(self, pool, False)


class ValueIterator(IMapIterator, stdlib.IMapIterator[T]):  # type: ignore[type-arg]
    """What `stream`, `flatmap` and `flatmap_unordered` return: an iterator over yielded values.

    `next(timeout=None)` and `async for` work as in `IMapIterator`. An exception of a generator, or
    the loss of its worker, comes after the values that the generator yielded before. `close()`, or
    dropping the iterator, ends it: no more inputs are pulled, tasks that no worker has begun are
    withdrawn, unread values are dropped, and each running generator is closed (`GeneratorExit`) at
    its next `yield`.
    """

    __module__ = "cpool.pool"

    def __init__(self, pool: Any, ordered: bool, ahead: int) -> None:
        _core.Stream.__init__(self, pool, ordered, ahead)

    if not TYPE_CHECKING:
        __next__ = _core.Stream.__next__  # the C slot itself, since there may be millions of values


class ItemIterator(Iterator[T]):
    """What `imap` and its variants return with a `chunksize` above 1: an iterator over the results.

    `next(timeout=None)` and `async for` work as in `IMapIterator`, but the iterator ends after the
    first exception, as the standard library's does. `close()` ends it: no more items are pulled,
    and tasks that no worker has begun are withdrawn. Dropping a partly read iterator does the same;
    if nothing was read, all items run.
    """

    def __init__(self, chunks: IMapIterator[Any]) -> None:
        self._chunks = chunks
        self._items: Iterator[T] = iter(())
        self._is_read = self._is_over = False

    def next(self, timeout: float | None = None) -> T:
        for item in self._items:
            return item
        self._begin()
        try:
            self._items = iter(self._chunks.next(timeout))
        except TimeoutError:
            self._is_over = timeout is None
            raise
        except Exception:
            self._is_over = True
            raise
        return self.next(timeout)

    def __next__(self) -> T:
        return self.next()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> T:
        for item in self._items:
            return item
        try:
            self._begin()
        except StopIteration:
            raise StopAsyncIteration from None
        try:
            self._items = iter(await self._chunks.__anext__())
        except Exception:
            self._is_over = True
            raise
        return await self.__anext__()

    def _begin(self) -> None:
        if self._is_over:
            raise StopIteration
        self._is_read = True

    def close(self) -> None:
        self._is_over = True
        self._items = iter(())
        self._chunks.close()

    def __del__(self) -> None:
        if self._is_read and not self._is_over:
            self._chunks.close()

    __reduce__ = _not_picklable
