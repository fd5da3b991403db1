"""The results of submissions: the stdlib's classes, on the extension's."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Mapping, MutableMapping
from multiprocessing import TimeoutError

from .. import _core, errors
from .._base import stdlib
from .._base.stdlib import TYPE_CHECKING, T
from .._start import popen

if TYPE_CHECKING:
    from typing import Any, NoReturn, Self


# A fork takes milliseconds, unless hooks of the program hold it up.
_FORK_S = 1.0


def _not_picklable(self: object) -> NoReturn:
    raise NotImplementedError("pool objects cannot be passed between processes or pickled")


class Cache(MutableMapping["int", "Any"]):
    """The pending results by number; recipes add results of the stdlib's classes."""

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
    """A read-only attribute of the stdlib's results that an instance attribute overrides.

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
    """What the extension and `loops` need of a job that is awaited."""

    if TYPE_CHECKING:
        _pool: Any

    _listeners: Any = None  # loops.Listeners, once somebody has awaited it

    def _told(self) -> None:
        self._listeners.told()

    def _pool_threads(self) -> None:
        """Have the pool's threads started, which work while nobody waits."""
        pool = self._pool
        if pool is not None and not pool._has_helper:
            pool._start_threads(calls=True)


class ApplyResult(_core.Result, _Awaited, stdlib.ApplyResult[T]):
    """What `apply_async` returns; also under the name `AsyncResult`.

    `get(timeout=None)` returns the value or raises what the task raised, always the same exception
    object, with the worker's traceback as its `__cause__`; `multiprocessing.TimeoutError` after
    `timeout` seconds; `WorkerLostError` if the worker died. `wait(timeout=None)` waits,
    `ready()` says whether the result is there, `successful()` whether it is a value
    (`ValueError` before it is ready). `await result` is `get()` in a coroutine of asyncio; where
    the awaiting task is cancelled, so is the job.

    `cancel(kill=True)` ends the call: what no worker has begun is withdrawn, and workers that run
    a task of it are killed, with the processes that the task has started, and replaced; with
    `kill=False` what runs ends, and its result is dropped. Nothing else is lost. True if it was
    cancelled, False if all had ended before. Then `get()` raises `TaskCancelledError`, an
    `error_callback` is called with it, and `cancelled()` is True. Threads of a `ThreadPool` cannot
    be killed: there `kill` changes nothing.
    """

    __module__ = "cpool.pool"

    if TYPE_CHECKING:

        def get(self, timeout: float | None = None) -> T: ...

    def __await__(self) -> Generator[Any, None, T]:
        from .loops import await_result  # importing asyncio takes long

        return await_result(self)

    def _prepare_cancel(self) -> None:
        """Import what the error needs; that import registers hooks of forks."""
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
        """Whether it is a value, and that or the exception; present once the result is ready.

        A `__getattr__` for these names would make every method call slower.
        """
        found = self._look()
        if found is None:
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        return found

    def __dir__(self) -> list[str]:
        """All but these two: managers read whatever is listed, also of a pending result."""
        return [name for name in super().__dir__() if name not in ("_success", "_value")]

    __reduce__ = _not_picklable


AsyncResult = ApplyResult


class MapResult(ApplyResult[list[T]], stdlib.MapResult[T]):
    """What `map_async` and `starmap_async` return: the value is the list of all results."""

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

    `next(timeout=None)` raises what the task of that item raised; the next call goes on with the
    next item. `multiprocessing.TimeoutError` after `timeout` seconds, and can be called again.
    `close()` ends it: no more items are pulled, what no worker has begun is withdrawn, results that
    were not read are dropped, and `next` raises `StopIteration`. `async for` reads it too.
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
    """What `imap_unordered` returns: an iterator over results in the order of their arrival."""

    __module__ = "cpool.pool"

    def __init__(self, pool: Any) -> None:
        _core.Stream.__init__(self, pool, False)


class ValueIterator(IMapIterator, stdlib.IMapIterator[T]):  # type: ignore[type-arg]
    """What `stream`, `flatmap` and `flatmap_unordered` return: an iterator over yielded values.

    `next(timeout=None)` and `async for` are those of `IMapIterator`. What a generator raises, or
    the loss of its worker, comes after the values that it had yielded before. `close()`, or
    dropping the iterator, ends it: no more inputs are pulled, what no worker has begun is
    withdrawn, values that were not read are dropped, and each generator that runs is closed
    (`GeneratorExit`) when it has yielded next.
    """

    __module__ = "cpool.pool"

    def __init__(self, pool: Any, ordered: bool, ahead: int) -> None:
        _core.Stream.__init__(self, pool, ordered, ahead)

    if not TYPE_CHECKING:
        __next__ = _core.Stream.__next__  # the slot itself: values come by the million


class ItemIterator(Iterator[T]):
    """What `imap` and the like return with a `chunksize` above 1: the items of the chunks.

    `next(timeout=None)` is that of `IMapIterator`, `async for` reads it too. It ends after the
    first exception, as the standard library's. `close()` ends it: no more items are pulled, what no
    worker has begun is withdrawn. So does dropping it when it was read in part; where nothing was
    read, all items run.
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
