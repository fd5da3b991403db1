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
from collections.abc import Callable
from multiprocessing import TimeoutError
from multiprocessing.reduction import ForkingPickler

from ..errors import (
    InitializerError,
    PoolError,
    PoolTerminated,
    RemoteError,
    WorkerLostError,
)
from .handlers import being_handled, is_from_handler
from .pickling import is_replaced, replaced_dumps
from .stdlib import TYPE_CHECKING
from .stdlib import pool as stdlib

if TYPE_CHECKING:
    from typing import Any, NoReturn

__all__ = ["PoolError", "TimeoutError", "is_replaced", "replaced_dumps"]

_LENGTH = struct.Struct("=Q")
_CAUSED = "\nThe above exception was the direct cause of the following exception:\n\n"
_NO_FRAMES = "Traceback (most recent call last):\n"


def _safe_repr(obj: object) -> str:
    try:
        return repr(obj)
    except Exception as exc:
        return f"<{type(obj).__name__} object, repr() raised {type(exc).__name__}>"


def _bare_traceback(exc: BaseException) -> str:
    """The traceback without source lines."""
    cause = exc.__cause__
    before = "" if cause is None else _bare_traceback(cause) + _CAUSED
    frames = [
        f'  File "{frame.f_code.co_filename}", line {line}, in {frame.f_code.co_name}\n'
        for frame, line in traceback.walk_tb(exc.__traceback__)
    ]
    try:
        message = str(exc)
    except Exception:
        message = "<exception str() failed>"
    return f"{before}{_NO_FRAMES}{''.join(frames)}{type(exc).__qualname__}: {message}\n"


def traceback_of(exc: BaseException) -> str:
    """The traceback as text; without source lines if those cannot be read."""
    try:
        return "".join(traceback.format_exception(exc))
    except Exception:
        # Source lines need imports and open files, and the process may have no descriptor left;
        # and 3.15 may warn, which may be an error.
        return _bare_traceback(exc)


def _with_traceback(exc: BaseException) -> Any:
    try:
        wrapped = stdlib.ExceptionWithTraceback(exc, exc.__traceback__)
    except Exception:
        bare: Any = object.__new__(stdlib.ExceptionWithTraceback)
        bare.exc, bare.tb = exc, f'\n"""\n{_bare_traceback(exc)}"""'
        return bare
    if exc.__traceback__ is None:
        # A builtin raised, so there is no frame: keep the first line of a traceback all the same.
        wrapped.tb = wrapped.tb.replace('\n"""\n', '\n"""\n' + _NO_FRAMES, 1)
    return wrapped


def _summary(exc: BaseException, text: str) -> bytes:
    kind = type(exc)
    name = kind.__qualname__
    if kind.__module__ not in ("builtins", "__main__"):
        name = f"{kind.__module__}.{name}"
    try:
        args = _safe_repr(exc.args)
        message = str(exc)
    except Exception:
        args, message = "()", ""
    summary = pickle.dumps((name, args, message, text))
    return _LENGTH.pack(len(summary)) + summary


def _dumps(obj: object) -> bytes:
    if is_replaced():
        return replaced_dumps(obj)
    return bytes(ForkingPickler.dumps(obj, 5))


def pack_error(exc: BaseException, func: Callable[..., Any] | None) -> bytes:
    """Encode the exception of a task, with its traceback as text."""
    bare = func is stdlib._helper_reraises_exception
    wrapped: Any = exc if bare else _with_traceback(exc)
    summary = _summary(exc, "" if bare else wrapped.tb)
    try:
        return summary + _dumps(wrapped)
    except Exception as reason:
        return _pack_encoding_error(reason, wrapped)


def pack_unpicklable(reason: BaseException, value: object, listed: bool) -> bytes:
    """Encode the stdlib's error for a result that cannot be pickled."""
    return _pack_encoding_error(reason, [value] if listed else value)


_NO_GUARD = "An attempt has been made to start a new process before"
_NO_WORKER = "(raised in a worker during its start: no worker can be started)"


def pack_failed_start(exc: BaseException) -> bytes:
    """Encode the error of a pool whose workers fail before main(), as in importing the program."""
    wrapped = _with_traceback(exc)
    name = type(exc).__name__
    try:
        text = str(exc)
    except Exception:
        text = "<exception str() failed>"
    if isinstance(exc, RuntimeError) and _NO_GUARD in text:
        # The stdlib's text explains everything; frames of multiprocessing explain nothing.
        reason = "\n".join(line.removeprefix(" " * 8) for line in text.strip().splitlines())
        error = PoolError(f"{reason}\n\n{_NO_WORKER}")
        return _summary(error, "") + pickle.dumps(error)
    wrapped.exc = PoolError(f"{name}: {text} {_NO_WORKER}")
    return _summary(wrapped.exc, wrapped.tb) + pickle.dumps(wrapped)


class _Shown:
    """An object whose repr() is a text that was made before, and cannot fail."""

    def __init__(self, obj: object) -> None:
        self.text = _safe_repr(obj)

    def __repr__(self) -> str:
        return self.text


def _pack_encoding_error(reason: BaseException, value: object) -> bytes:
    error = stdlib.MaybeEncodingError(_Shown(reason), _Shown(value))
    # Of strings only, and not by the program's pickler, which may be what refused the value.
    return _summary(error, "") + pickle.dumps(error)


def unpack_error(data: memoryview) -> BaseException:
    """Decode a worker's report; a RemoteError if the exception cannot be unpickled."""
    before = being_handled()
    try:
        (size,) = _LENGTH.unpack_from(data)
        name, args, message, text = pickle.loads(data[_LENGTH.size : _LENGTH.size + size])
        payload = bytes(data[_LENGTH.size + size :])
    except Exception as exc:
        if is_from_handler(exc, before):
            raise
        return PoolError(f"a worker reported a failure that cannot be read: {exc!r}")
    try:
        error = pickle.loads(payload)
        if issubclass(type(error), BaseException):  # isinstance() would call the object's code
            found: BaseException = error
            return found
        reason: object = f"it unpickles as {type(error).__name__}"
    except Exception as exc:
        if is_from_handler(exc, before):
            raise
        reason = _safe_repr(exc)
    remote = RemoteError(
        f"{name}: {message} (raised in a worker; it cannot be rebuilt here: {reason})", name, args
    )
    remote.__cause__ = stdlib.RemoteTraceback(text)
    return remote


def _name_of(func: object) -> str:
    module = getattr(func, "__module__", None)
    name = getattr(func, "__qualname__", None)
    if not isinstance(name, str):
        return _safe_repr(func)
    return f"{module}.{name}" if module not in (None, "builtins", "__main__") else name


def _how_it_ended(exitcode: int) -> str:
    if exitcode >= 0:
        return f"exit code {exitcode}"
    try:
        return f"signal {signal.Signals(-exitcode).name}"
    except ValueError:
        return f"signal {-exitcode}"


def lost(pid: int, exitcode: int, func: Callable[..., Any] | None) -> BaseException:
    """The error of a task whose worker died."""
    what = "a task" if func is None else _name_of(func)
    return WorkerLostError(
        f"worker {pid} ended with {_how_it_ended(exitcode)} while it ran {what}; "
        "the task is lost, the pool goes on",
        pid,
        exitcode,
    )


def broken(cause: BaseException | None) -> BaseException:
    """The error of each job of a pool that cannot run tasks."""
    if isinstance(cause, PoolError):
        return cause
    error = InitializerError("the initializer raised in a worker, so the pool cannot run tasks")
    error.__cause__ = cause
    return error


def terminated() -> BaseException:
    return PoolTerminated("the pool was terminated before this result came")


def not_read() -> BaseException:
    return PoolError(
        "the pool was joined while the buffersize of this imap() was full of results that nobody"
        " had read: items of the iterable may be left that were not run; read all results before"
        " join()"
    )


def raise_foreign() -> NoReturn:
    error = ValueError("Pool not running")
    error.add_note(f"the pool was made before a fork: process {os.getpid()} has only a copy of it")
    raise error


class Unretrieved:
    """The object that `sys.unraisablehook` gets for an error that nobody retrieved."""

    def __init__(self, result: object, func: object, exc: BaseException) -> None:
        remote = "" if exc.__cause__ is None else str(exc.__cause__)
        self.text = f"{result!r} of {_name_of(func)}: exception was never retrieved{remote}"

    def __repr__(self) -> str:
        return self.text


def refuse_timeout(timeout: Any) -> None:
    """Raise what threading's own waits raise for a timeout that is no number or too large."""
    threading.Event().wait(timeout)


def call(func: Callable[..., Any], args: Any, kwds: Any = {}) -> Any:  # noqa: B006
    """Call func; for arguments of unusual types, so that the errors are Python's own."""
    return func(*args, **kwds)


def leaves_call(exc: BaseException) -> bool:
    """Was it raised by a signal handler, in what the extension just called?"""
    return is_from_handler(exc, being_handled())


def breathe() -> None:
    """Run bytecode, so that the interpreter handles signals and hands over the GIL."""


def reraised_by(task: tuple[Any, ...]) -> BaseException | None:
    """The exception of a stdlib task that was made only to raise it in the parent."""
    _, _, func, args, _ = task
    return args[0] if func is stdlib._helper_reraises_exception else None


def leave(exc: BaseException) -> NoReturn:
    """Exit the worker whose task raised exc; the report has been sent."""
    code = exc.code if isinstance(exc, SystemExit) else 1
    raise SystemExit(code if code is None or isinstance(code, int) else 1)


def dump_callable(func: Callable[..., Any], exc: BaseException) -> bytes:
    """Pickle a callable by cloudpickle, where plain pickle raised exc."""
    try:
        import cloudpickle
    except ImportError:
        exc.add_note("cpool sends lambdas and closures where cloudpickle is installed")
        raise exc from None
    before = being_handled()
    try:
        return bytes(cloudpickle.dumps(func, 5))
    except Exception as reason:
        if is_from_handler(reason, before):
            raise
        raise exc from None
