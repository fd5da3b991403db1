"""Reports of failures, in the worker and in the parent; called by the extension.

A worker encodes the exception of a task (`pack_error`), the parent decodes it (`unpack_error`).
The report begins with plain strings, so that the parent can name the error even if the exception
cannot be unpickled.
"""

from __future__ import annotations

import os
import pickle
import signal
import struct
import threading
import traceback
from collections.abc import Callable, Iterable
from functools import partial
from multiprocessing import TimeoutError
from multiprocessing.reduction import ForkingPickler
from types import (
    BuiltinMethodType,
    GetSetDescriptorType,
    MemberDescriptorType,
    MethodType,
    ModuleType,
)

from ..errors import (
    InitializerError,
    MemoryLimitError,
    PoolError,
    PoolTerminated,
    RemoteError,
    TaskInterrupted,
    TaskTimeoutError,
    WorkerLostError,
)
from .amounts import shown
from .handlers import being_handled, is_from_handler
from .pickling import is_replaced, pickle_of_name, replaced_dumps
from .stdlib import TYPE_CHECKING
from .stdlib import pool as stdlib

if TYPE_CHECKING:
    from typing import Any, NoReturn

__all__ = ["PoolError", "TimeoutError", "is_replaced", "pickle_of_name", "replaced_dumps"]

# Set by importing: its loads(), and the extension.
loads: Callable[[bytes], Any] = pickle.loads
core: Any = None

# Set by _start.popen; the extension calls it in each child that other code forks.
forget_workers: Callable[[], object] = bool

_PICKLE = b"\x80"  # how pickles start; values in our encoding start with another byte

if TYPE_CHECKING:
    # Where a task ran: method, callable, the number of its first item in the call (-1: the call has
    # no items), index and pid of the worker, how many values the task has yielded (-1: it does not
    # yield).
    _Place = tuple[str, Callable[..., Any] | None, int, int, int, int]

_A_TASK = "a task"  # if the callable is not known here
_LENGTH = struct.Struct("=Q")
_CAUSED = "\nThe above exception was the direct cause of the following exception:\n\n"
_NO_FRAMES = "Traceback (most recent call last):\n"


# These getters bypass attributes that a class of the program defines under the same names.
_traceback_of: Any = vars(BaseException)["__traceback__"].__get__
_cause_of: Any = vars(BaseException)["__cause__"].__get__
_set_cause: Any = vars(BaseException)["__cause__"].__set__
_args_of: Any = vars(BaseException)["args"].__get__
_code_of: Any = vars(SystemExit)["code"].__get__
_qualname_of: Any = vars(type)["__qualname__"].__get__
_module_of: Any = vars(type)["__module__"].__get__


def _plain(text: Any) -> str:
    """A plain str with the same characters: a subclass of str may not be picklable."""
    return str.__str__(text)


def _name_of_type(kind: type) -> str:
    return _plain(_qualname_of(kind))


def _full_name_of_type(kind: type) -> str:
    try:
        module = _module_of(kind)
    except AttributeError:
        module = None
    return _join(module, _name_of_type(kind))


def _join(module: Any, name: str) -> str:
    if not issubclass(type(module), str) or _plain(module) in ("builtins", "__main__"):
        return name
    return f"{_plain(module)}.{name}"


# These ignore whatever the program's __repr__ or __str__ raises, even SystemExit: the failure
# itself must be reported. traceback.format_exception() treats __str__ in the same way.


def _safe_repr(obj: object) -> str:
    try:
        return _plain(repr(obj))
    except BaseException as exc:
        kind, raised = _name_of_type(type(obj)), _name_of_type(type(exc))
        return f"<{kind} object, repr() raised {raised}>"


def _safe_str(exc: BaseException, default: str) -> str:
    try:
        return _plain(str(exc))
    except BaseException:
        return default


def _bare_traceback(exc: BaseException) -> str:
    """The traceback without source lines."""
    texts: list[str] = []
    seen: set[int] = set()
    found: BaseException | None = exc
    while found is not None and id(found) not in seen:
        seen.add(id(found))
        frames = [
            f'  File "{frame.f_code.co_filename}", line {line}, in {frame.f_code.co_name}\n'
            for frame, line in traceback.walk_tb(_traceback_of(found))
        ]
        message = _safe_str(found, "<exception str() failed>")
        name = _name_of_type(type(found))
        texts.append(f"{_NO_FRAMES}{''.join(frames)}{name}: {message}\n")
        found = _cause_of(found)
    return _CAUSED.join(reversed(texts))


def traceback_of(exc: BaseException) -> str:
    """The traceback as text; without source lines if those cannot be read."""
    try:
        return "".join(traceback.format_exception(exc))
    except BaseException:
        # Source lines need imports and open files, and the process may be out of descriptors; 3.15
        # may issue a warning, which may be an error; and attributes may be properties of the
        # program.
        return _bare_traceback(exc)


def rebuild(exc: Any, text: str) -> Any:
    """In the parent: set the worker's traceback as the cause of the exception.

    The stdlib's `rebuild_exc()` assigns the attribute, which the exception's class may forbid.
    """
    if issubclass(type(exc), BaseException):
        _set_cause(exc, stdlib.RemoteTraceback(text))
    return exc


class _Wrapped(stdlib.ExceptionWithTraceback):  # type: ignore[misc]
    __module__ = stdlib.ExceptionWithTraceback.__module__
    __qualname__ = stdlib.ExceptionWithTraceback.__qualname__

    def __reduce__(self) -> tuple[Any, ...]:
        return rebuild, (self.exc, self.tb)


def _with_traceback(exc: BaseException) -> Any:
    tb = _traceback_of(exc)
    try:
        wrapped = _Wrapped(exc, tb)
    except BaseException:
        bare: Any = object.__new__(_Wrapped)
        bare.exc, bare.tb = exc, f'\n"""\n{_bare_traceback(exc)}"""'
        return bare
    if tb is None:
        # A builtin raised, so there is no frame: add the usual first line of a traceback.
        wrapped.tb = wrapped.tb.replace('\n"""\n', '\n"""\n' + _NO_FRAMES, 1)
    return wrapped


def _summary(exc: BaseException, text: str, item: int = 0) -> bytes:
    name = _full_name_of_type(type(exc))
    summary = pickle.dumps((name, _safe_repr(_args_of(exc)), _safe_str(exc, ""), text, item))
    return _LENGTH.pack(len(summary)) + summary


def _dumps(obj: object) -> bytes:
    if is_replaced():
        return replaced_dumps(obj)
    return bytes(ForkingPickler.dumps(obj, 5))


def pack_error(
    exc: BaseException,
    func: Callable[..., Any] | None,
    item: int = 0,
    dumps: Callable[[object], bytes] = _dumps,
    where: str = "",
) -> bytes:
    """Encode the exception of a task, with its traceback as text.

    `item` says which item of its chunk raised, from 0; `dumps` pickles; `where` is a last line for
    the traceback.
    """
    bare = func is stdlib._helper_reraises_exception
    wrapped: Any = exc if bare else _with_traceback(exc)
    if where and not bare:
        wrapped.tb = _with_line(wrapped.tb, where)
    summary = _summary(exc, "" if bare else wrapped.tb, item)
    try:
        return summary + dumps(wrapped)
    except KeyboardInterrupt:
        raise  # Ctrl-C ends the worker
    except BaseException as reason:
        return _pack_encoding_error(reason, wrapped)


def _encoded(obj: object) -> bytes:
    """Like `_dumps()`, in the encoding of values where that has one for the object."""
    data = None if is_replaced() else core._encode(obj)
    return _dumps(obj) if data is None else data


def report_error(exc: BaseException, func: Callable[..., Any] | None, item: int = 0) -> bytes:
    """Encode the exception of a task for the parent, which runs the same cpool."""
    return pack_error(exc, func, item, _encoded)


def pack_unpicklable(reason: BaseException, value: object, listed: bool) -> bytes:
    """Encode the stdlib's error for a result that cannot be pickled."""
    return _pack_encoding_error(reason, [value] if listed else value)


class Caught:
    """Takes the place of the result of an item that raised, in its chunk (`return_exceptions`)."""

    __slots__ = ("report",)

    def __init__(self, report: bytes) -> None:
        self.report = report

    def __reduce__(self) -> tuple[Any, ...]:
        return Caught, (self.report,)


def catch(exc: BaseException, func: Callable[..., Any], item: int) -> Caught:
    return Caught(report_error(exc, func, item))


def catch_unpicklable(values: list[Any]) -> list[Any]:
    """The values of a chunk, with an error in place of each value that cannot be pickled."""
    found: list[Any] = []
    for value in values:
        try:
            _dumps(value)
        except Exception as reason:
            found.append(Caught(_pack_encoding_error(reason, value)))
        else:
            found.append(value)
    return found


def release(caught: Caught, place: _Place) -> BaseException:
    """The exception of an item, in the parent."""
    return unpack_error(memoryview(caught.report), place)


_NO_GUARD = "An attempt has been made to start a new process before"
_NO_WORKER = "(raised in a worker during its start: no worker can be started)"


def pack_failed_start(exc: BaseException) -> bytes:
    """Encode the error of a pool whose workers fail before main(): importing the program, say."""
    wrapped = _with_traceback(exc)
    name = _name_of_type(type(exc))
    text = _safe_str(exc, "<exception str() failed>")
    if issubclass(type(exc), RuntimeError) and _NO_GUARD in text:
        # The stdlib's text explains everything; frames of multiprocessing explain nothing.
        reason = "\n".join(line.removeprefix(" " * 8) for line in text.strip().splitlines())
        error = PoolError(f"{reason}\n\n{_NO_WORKER}")
        return _summary(error, "") + pickle.dumps(error)
    wrapped.exc = PoolError(f"{name}: {text} {_NO_WORKER}")
    return _summary(wrapped.exc, wrapped.tb) + pickle.dumps(wrapped)


class _Shown:
    """An object whose repr() was computed in advance, and so cannot fail."""

    def __init__(self, obj: object) -> None:
        self.text = _safe_repr(obj)

    def __repr__(self) -> str:
        return self.text


def _pack_encoding_error(reason: BaseException, value: object) -> bytes:
    error = stdlib.MaybeEncodingError(_Shown(reason), _Shown(value))
    # Has only strings, and does not use the program's pickler, which may have refused the value.
    return _summary(error, "") + pickle.dumps(error)


def _describe(exc: BaseException) -> str:
    """Like repr() of an exception, but without running code of the program."""
    shown = [repr(a) if type(a) in (str, int) else object.__repr__(a) for a in _args_of(exc)]
    return f"{_name_of_type(type(exc))}({', '.join(shown)})"


def _with_line(tb: str, line: str) -> str:
    """The text of a RemoteTraceback, with one more line at the end."""
    text = tb.removesuffix('"""')
    quotes = "" if text == tb else '\n"""'
    return f"{text}{line}{quotes}"


def _locate(error: BaseException, place: _Place | None, item: int) -> BaseException:
    """Add a last line to the worker's traceback: the call, the item and the worker."""
    cause = _cause_of(error)
    if place is not None and type(cause) is stdlib.RemoteTraceback:
        worker, pid = place[3:5]
        line = f"in {_name_of_place(place, item)}, worker {worker} (pid {pid})"
        cause.tb = _with_line(cause.tb, line)
    return error


def _load(payload: bytes) -> Any:
    return loads(payload) if payload.startswith(_PICKLE) else core._decode(payload)


def unpack_error(data: memoryview, place: _Place | None = None) -> BaseException:
    """Decode a worker's report; a RemoteError if the exception cannot be unpickled."""
    before = being_handled()
    try:
        (size,) = _LENGTH.unpack_from(data)
        name, args, message, text, item = pickle.loads(data[_LENGTH.size : _LENGTH.size + size])
        payload = bytes(data[_LENGTH.size + size :])
    except Exception as exc:
        if is_from_handler(exc, before):
            raise
        return PoolError(f"a worker reported a failure that cannot be read: {exc!r}")
    try:
        error = _load(payload)
        if issubclass(type(error), BaseException):  # isinstance() would call the object's code
            return _locate(error, place, item)
        reason = f"it unpickles as {type(error).__name__}"
    except Exception as exc:
        if is_from_handler(exc, before):
            raise
        reason = _describe(exc)
    remote = RemoteError(
        f"{name}: {message} (raised in a worker; it cannot be rebuilt here: {reason})", name, args
    )
    remote.__cause__ = stdlib.RemoteTraceback(text)
    return _locate(remote, place, item)


_mro_of: Any = vars(type)["__mro__"].__get__
_names_in: Any = vars(type)["__dict__"].__get__
_IN_C = (GetSetDescriptorType, MemberDescriptorType)


def _read_in_c(obj: object, name: str) -> Any:
    """Read an attribute that is implemented in C. None if reading it might run Python code."""
    for cls in _mro_of(type(obj)):
        getter = _names_in(cls).get(name)
        if getter is not None:
            try:
                return getter.__get__(obj) if type(getter) in _IN_C else None
            except Exception:  # a slot that is empty
                return None
    return None


def pickle_of_name_of(func: object) -> bytes:
    """A pickle that contains the callable's name, for `statistics.name_in()`."""
    while type(func) is partial or type(func) in WRAPPERS:
        func = _read_in_c(func, "func") if type(func) is partial else func.func  # type: ignore[attr-defined]
    name = _name_of(func)
    for module in ("__main__.", "__mp_main__.", "builtins."):
        name = name.removeprefix(module)
    return pickle_of_name("builtins", name)


def _name_of(func: object) -> str:
    """How messages name a callable. Runs no code of the program, which might raise or hang."""
    kind = type(func)
    if kind in WRAPPERS:
        wrapped: Any = func
        return _name_of(wrapped.func)
    if kind is MethodType:
        return _name_of(_read_in_c(func, "__func__"))
    if kind is partial:
        return f"functools.partial({_name_of(_read_in_c(func, 'func'))})"
    if issubclass(kind, type):
        return _full_name_of_type(func)  # type: ignore[arg-type]
    if kind is BuiltinMethodType:
        owner = _read_in_c(func, "__self__")
        name = _plain(_read_in_c(func, "__name__"))
        if owner is None or type(owner) is ModuleType:
            return _join(_read_in_c(func, "__module__"), name)
        cls = owner if issubclass(type(owner), type) else type(owner)
        return f"{_name_of_type(cls)}.{name}"
    own = _read_in_c(func, "__dict__")  # functools.wraps() puts the names there

    def read(place: str) -> Any:
        found = _read_in_c(func, place)
        return dict.get(own, place) if found is None and own is not None else found

    for place in "__qualname__", "__name__":
        name = read(place)
        if issubclass(type(name), str):
            return _join(read("__module__"), _plain(name))
    return object.__repr__(func)


def _how_it_ended(exitcode: int) -> str:
    if exitcode >= 0:
        return f"exit code {exitcode}"
    try:
        return f"signal {signal.Signals(-exitcode).name}"
    except ValueError:
        return f"signal {-exitcode}"


def _index_of(place: _Place, item: int) -> int | None:
    """The number of an item in its call, from 0; None for a call that has no items."""
    first = place[2]
    return None if first < 0 or place[0] == "stream" else first + item


def _name_of_place(place: _Place, item: int) -> str:
    method, func, _, _, _, yielded = place
    call = f"Pool.{method}({_A_TASK if func is None else _name_of(func)})"
    index = _index_of(place, item)
    after = f", after {yielded} value{'' if yielded == 1 else 's'}" if yielded >= 0 else ""
    return f"{call if index is None else f'item {index} of {call}'}{after}"


def _what_is_lost(place: _Place, items: int) -> str:
    first = _index_of(place, 0)
    if first is None or items == 1:
        return "the task is lost"
    return f"items {first} to {first + items - 1}, its chunk, are lost"


def lost(
    pid: int,
    exitcode: int,
    place: _Place,
    item: int = 0,
    items: int = 1,
) -> BaseException:
    """The error of a task whose worker died."""
    return WorkerLostError(
        f"worker {pid} ended with {_how_it_ended(exitcode)} while it ran "
        f"{_name_of_place(place, item)}; {_what_is_lost(place, items)}, the pool goes on",
        pid,
        exitcode,
        _index_of(place, item),
        None if place[1] is None else _name_of(place[1]),
    )


def no_worker(worker: int, place: _Place) -> BaseException:
    """The error of a task that was for a worker that `resize()` has removed."""
    return WorkerLostError(
        f"{_name_of_place(place, 0)} was for worker {worker}, which resize() has removed; the task "
        "has not run",
        0,
        None,
        _index_of(place, 0),
        None if place[1] is None else _name_of(place[1]),
    )


_SHOWN_FRAMES = 10

# Lines that begin so, and all that follow, are frames of the pool itself, in cpool's folders.
_OWN_FRAME = f'  File "{os.path.dirname(os.path.dirname(os.path.abspath(__file__)))}{os.sep}'
_ENTRIES = tuple(_OWN_FRAME + name for name in ("_base", "_start"))


def stack_of_task(told: bytes) -> str:
    """The stack that a worker reported, most recent call first, without the pool's own frames."""
    lines: list[str] = []
    for line in told.decode(errors="replace").splitlines():
        if line.startswith(_ENTRIES):
            break
        if line.startswith("  "):
            lines.append(line)
    return "\n".join(lines)


def timed_out(
    pid: int,
    exitcode: int | None,
    place: _Place,
    item: int,
    items: int,
    ran_ns: int,
    limit_ns: int,
    told: bytes = b"",
) -> BaseException:
    """The error of a task that ran for longer than its `task_timeout`."""
    seconds, limit = ran_ns / 1e9, limit_ns / 1e9
    how = "was killed" if exitcode is not None else "interrupted it"
    stack = stack_of_task(told)
    lines = stack.splitlines()
    shown = ""
    if lines:
        cut = "\n  ..." if len(lines) > _SHOWN_FRAMES else ""
        inner = "\n".join(lines[:_SHOWN_FRAMES])
        shown = f"\nit was here (most recent call first):\n{inner}{cut}"
    return TaskTimeoutError(
        f"{_name_of_place(place, item)} ran for {seconds:.3f} s, its task_timeout is {limit:g} s:"
        f" worker {pid} {how}; {_what_is_lost(place, items)}, the pool goes on{shown}",
        pid,
        exitcode,
        _index_of(place, item),
        None if place[1] is None else _name_of(place[1]),
        seconds,
        limit,
        stack,
    )


def took_memory(
    pid: int, exitcode: int, place: _Place, item: int, items: int, size: int, limit: int
) -> BaseException:
    """The error of a task that took more memory than the `memory_limit`."""
    return MemoryLimitError(
        f"{_name_of_place(place, item)} took worker {pid} to {shown(size)} of memory, the "
        f"memory_limit of the pool is {shown(limit)}: the worker was killed; "
        f"{_what_is_lost(place, items)}, the pool goes on",
        pid,
        exitcode,
        _index_of(place, item),
        None if place[1] is None else _name_of(place[1]),
        size,
        limit,
    )


class Retrying:
    """The callable of a call with `retry_on`, with the types of exceptions that are retried."""

    def __init__(self, func: Callable[..., Any], retry_on: tuple[type[BaseException], ...]) -> None:
        self.func = func
        self.retry_on = retry_on

    def __reduce__(self) -> tuple[Any, ...]:
        return Retrying, (self.func, self.retry_on)


# Classes of callables that call their `func`; messages show the name of `func`.
WRAPPERS: set[type] = {Retrying}


def is_retried(exc: BaseException, retrying: Retrying) -> bool:
    """Is the task to be run again? Tests the real type, so that no code of the exception runs."""
    return issubclass(type(exc), retrying.retry_on)


def _on_stop(*_: Any) -> None:
    """The handler of the signal that tells the task of this worker to stop.

    The pool sends the signal again if it has no effect: it may come just before a call that blocks.
    """
    if take_stop():
        raise TaskInterrupted("the task has to stop: its time is over, or its call was cancelled")


take_stop: Callable[[], bool] = bool  # _start.child sets the extension's function


def handle_stop(number: int) -> None:
    """In a worker: install the handler, before the first task that may be asked to stop."""
    if threading.get_ident() == threading.main_thread().ident:
        signal.signal(number, _on_stop)


def broken(cause: BaseException | None) -> BaseException:
    """The error of each job of a pool that cannot run tasks."""
    if cause is not None and issubclass(type(cause), PoolError):  # isinstance() would run its code
        return cause
    error = InitializerError("the initializer raised in a worker, so the pool cannot run tasks")
    error.__cause__ = cause
    return error


def of_executor(exc: BaseException) -> BaseException:
    """Convert the error of an executor's call to the one that concurrent.futures raises.

    Called by the extension for each call that fails.
    """
    from .broken import translated

    return translated(exc)


def initialize(initializer: Callable[..., object], initargs: Iterable[Any]) -> None:
    """Run the initializer of an executor's worker. A failure is logged, as the stdlib does."""
    try:
        initializer(*initargs)
    except BaseException:
        from concurrent.futures._base import LOGGER

        LOGGER.critical("Exception in initializer:", exc_info=True)
        raise


def terminated() -> BaseException:
    return PoolTerminated("the pool was terminated before this result came")


def cancelled() -> BaseException:
    from ..errors import TaskCancelledError  # made on first use

    return TaskCancelledError("the call was cancelled before it had ended")


def stopped(exc: BaseException) -> BaseException:
    """For a map or an iterator of results, where StopIteration would look like the end."""
    error = RuntimeError(
        f"a task, or the pickling of its item or result, raised {type(exc).__name__}, "
        "which the reader of the results would take for the end of its iterator"
    )
    error.__cause__ = exc
    return error


def not_read() -> BaseException:
    return PoolError(
        "the pool was joined while the buffer of this imap() (buffersize=) was full of unread"
        " results: some items of the iterable may not have run; read all results before join()"
    )


def values_not_read(method: str) -> BaseException:
    return PoolError(
        f"the pool was joined before all values of this {method}() were read: its generators were "
        "closed; read all values before join()"
    )


def drive(source: Any) -> Any:
    """An iterator over an asynchronous iterator."""
    from .driven import Driven

    return Driven(source)


def values_of(source: Any) -> Any:
    """An iterator over what a callable yields; the extension makes the same in workers."""
    kind = type(source)
    if not hasattr(kind, "__iter__") and hasattr(kind, "__aiter__"):
        return drive(source)
    return iter(source)


def raise_foreign() -> NoReturn:
    error = ValueError("Pool not running")
    error.add_note(
        f"the pool was made before a fork: process {os.getpid()} has only a copy of it; make a new "
        "pool in this process"
    )
    raise error


class Unretrieved:
    """The object that `sys.unraisablehook` gets for an error that nobody retrieved."""

    def __init__(self, result: object, func: object, exc: BaseException) -> None:
        cause = _cause_of(exc)
        remote = str(cause) if type(cause) is stdlib.RemoteTraceback else ""
        shown = f"{object.__repr__(result)} of {_name_of(func)}"
        self.text = f"{shown}: exception was never retrieved{remote}"

    def __repr__(self) -> str:
        return self.text


def refuse_timeout(timeout: Any) -> None:
    """Raise the errors of threading's waits, for a timeout that is too large or not a number."""
    threading.Event().wait(timeout)


def call(func: Callable[..., Any], args: Any, kwds: Any = {}) -> Any:  # noqa: B006
    """Call func. Used for arguments of unusual types, so that Python itself raises the errors."""
    return func(*args, **kwds)


def leaves_call(exc: BaseException) -> bool:
    """Did a signal handler raise it, in the code that the extension just called?"""
    return is_from_handler(exc, being_handled())


def breathe() -> None:
    """Run bytecode, so that the interpreter handles signals and hands over the GIL."""


def reraised_by(task: tuple[Any, ...]) -> BaseException | None:
    """The exception of a stdlib task whose only purpose is to raise it in the parent, or None."""
    _, _, func, args, _ = task
    return args[0] if func is stdlib._helper_reraises_exception else None


def leave(exc: BaseException) -> NoReturn:
    """Exit the worker whose task raised exc; the report has been sent."""
    code: Any = _code_of(exc) if issubclass(type(exc), SystemExit) else 1
    raise SystemExit(code if code is None or issubclass(type(code), int) else 1)
