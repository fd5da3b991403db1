"""The function that the processes of a node's pool run: a chunk of items. Does not import dask."""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Callable
from itertools import starmap
from time import perf_counter
from types import BuiltinFunctionType, FunctionType

from .._base import failures
from .._base.current import current_worker
from .._base.stdlib import TYPE_CHECKING
from ..errors import TaskInterrupted
from . import frames

if TYPE_CHECKING:
    from typing import Any

# What the items of a chunk are: APPLY, one (args, kwds); MAP, items; STAR, tuples of arguments.
APPLY, MAP, STAR = range(3)

# The outcome of a chunk: VALUE, the pickled list of results; FAILURE, the report of an exception.
VALUE, FAILURE = range(2)

# Callables by number: (True, the function), or (False, the pickle of a callable that may have
# state).
_loaded: OrderedDict[str, tuple[bool, Any]] = OrderedDict()
_KEPT = 64
_KEPT_BYTES = 4 << 20  # bytes of pickles, unless a single one has more
_loaded_bytes = 0


def _callable(number: str, source: bytes | str) -> Callable[..., Any]:
    """The callable. If it may have state it is unpickled for each chunk, as in the stdlib."""
    global _loaded_bytes
    found = _loaded.get(number)
    if found is None:
        if isinstance(source, str):
            with open(source, "rb") as file:
                source = file.read()
        func = frames.loads(source)
        is_plain = isinstance(func, BuiltinFunctionType | type) or (
            isinstance(func, FunctionType) and not func.__closure__
        )
        _loaded[number] = (is_plain, func if is_plain else source)
        _loaded_bytes += 0 if is_plain else len(source)
        while len(_loaded) > _KEPT or (_loaded_bytes > _KEPT_BYTES and len(_loaded) > 1):
            _, (was_plain, kept) = _loaded.popitem(last=False)
            _loaded_bytes -= 0 if was_plain else len(kept)
        found_func: Callable[..., Any] = func
        return found_func
    _loaded.move_to_end(number)
    is_plain, kept = found
    func = kept if is_plain else frames.loads(kept)
    return func  # type: ignore[no-any-return]


def names_of(cls: type) -> tuple[str, ...]:
    """The names of a class and its bases."""
    return tuple(f"{each.__module__}.{each.__qualname__}" for each in cls.__mro__)


def _call(func: Callable[..., Any], mode: int, item: Any) -> Any:
    return next(starmap(func, (item,))) if mode == STAR else func(item)


class Kept:
    """The exception of an item, among the results of its chunk. Unpickles as the exception."""

    def __init__(self, report: bytes) -> None:
        self.report = report

    def __reduce__(self) -> tuple[Any, ...]:
        return unpack, (self.report,)


def unpack(report: bytes) -> BaseException:
    """The exception of a report; a `RemoteError` if it cannot be unpickled."""
    return failures.unpack_error(memoryview(report))


def _kept(
    func: Callable[..., Any], mode: int, item: Any, raised: frozenset[str], place: Place
) -> Any:
    """The result of one item, or its exception unless that is one of `raised`."""
    try:
        return _call(func, mode, item)
    except TaskInterrupted:
        raise
    except BaseException as exc:
        if raised and not raised.isdisjoint(names_of(type(exc))):
            raise
        return Kept(pack_error(exc, func, place))


def _kept_value(value: Any) -> Any:
    """A result, or why it cannot be pickled."""
    try:
        frames.dumps(value)
    except Exception as reason:
        return Kept(failures.pack_unpicklable(reason, value, False))
    return value


class Place:
    """Where a chunk runs: the call, the number of its first item (-1: none), and the node."""

    def __init__(self, call: str, first: int, node: str) -> None:
        self.call = call
        self.first = first
        self.node = node
        self.items: Any = None  # the iterator over the items, once they are known
        self.count = 0

    def __str__(self) -> str:
        text = self.call
        if self.items is not None and self.first >= 0:
            done: int = self.count - 1 - self.items.__length_hint__()
            text = f"item {self.first + done} of {text}"
        me = current_worker()
        index = "" if me is None else f" {me.index}"
        return f"in {text}, worker{index} of node {self.node} (pid {os.getpid()})"


def pack_error(exc: BaseException, func: Any, place: Place) -> bytes:
    """Encode the exception of a task. Classes of the program's `__main__` travel by value."""
    return failures.pack_error(exc, func, 0, frames.dumps_callable, str(place))


def run_chunk(
    number: str,
    source: bytes | str,
    mode: int,
    raised: frozenset[str] | None,
    place: tuple[str, int, str],
    *parts: Any,
) -> tuple[Any, ...]:
    """Run the items of a chunk, one after another, until one raises.

    `raised`: exceptions of items are results, except those of classes with these names; None: all
    are raised.
    `parts` are the pickle of the items and its buffers. `place` are the arguments of `Place`.

    Returns (kind, seconds, names, data, *buffers): `kind` is VALUE or FAILURE, `names` are the
    names of the classes of the exception that the task raised.
    """
    data, *buffers = parts
    told = Place(*place)
    func: Any = None
    begun = perf_counter()
    try:
        func = _callable(number, source)
        items = frames.loads(data, buffers)
        begun = perf_counter()
        if mode == APPLY:
            args, kwds = items
            results = [func(*args, **kwds)]
        else:
            told.items, told.count = iter(items), len(items)
            if raised is not None:
                results = [_kept(func, mode, item, raised, told) for item in told.items]
            elif mode == STAR:
                calls = starmap(func, told.items)
                # Not list(calls): it would take a StopIteration of the function for the end.
                results = [next(calls) for _ in items]
            else:
                results = [func(item) for item in told.items]
    except TaskInterrupted:
        raise  # the node's pool reports it
    except BaseException as exc:
        seconds = perf_counter() - begun
        return FAILURE, seconds, names_of(type(exc)), pack_error(exc, func, told)
    seconds = perf_counter() - begun
    try:
        try:
            made, found = frames.dumps(results)
        except Exception:
            if raised is None:
                raise
            made, found = frames.dumps([_kept_value(value) for value in results])
    except BaseException as exc:
        value = results if mode != APPLY else results[0]
        report = failures.pack_unpicklable(exc, value, False)
        return FAILURE, seconds, (), report
    return VALUE, seconds, (), made, *map(frames.for_pool, found)


def initialize(data: bytes) -> None:
    """Call the initializer of the pool."""
    initializer, initargs = frames.loads(data)
    initializer(*initargs)


def finalize(data: bytes) -> None:
    """Call the finalizer of the pool."""
    initialize(data)
