"""The exceptions of executors: both a pool's exception and the one concurrent.futures raises."""

from __future__ import annotations

from concurrent.futures import CancelledError
from concurrent.futures import process as _process
from concurrent.futures.process import BrokenProcessPool
from concurrent.futures.thread import BrokenThreadPool
from pickle import PicklingError

from ..errors import InitializerError, PoolTerminated, WorkerLostError
from .stdlib import TYPE_CHECKING
from .stdlib import pool as _pool

if TYPE_CHECKING:
    from typing import Any

__all__ = [
    "BrokenProcessPool",
    "BrokenThreadPool",
    "CallCancelled",
    "CallLost",
    "InitializerFailed",
]

MaybeEncodingError: Any = _pool.MaybeEncodingError
_RemoteTraceback: Any = _process._RemoteTraceback
_set_cause: Any = vars(BaseException)["__cause__"].__set__


class CallLost(WorkerLostError, BrokenProcessPool):
    """The worker died while it ran this call; the executor continues with a new worker.

    Existing handlers of `BrokenProcessPool` catch it, but the executor is not broken. `pid` and
    `exitcode` are those of `WorkerLostError`.
    """


class InitializerFailed(InitializerError, BrokenProcessPool, BrokenThreadPool):
    """The initializer raised in a worker, so the executor cannot run calls.

    The initializer's exception is the ``__cause__``.
    """


class ResultNotPicklable(MaybeEncodingError, PicklingError):
    """The result of the call, or what it raised, cannot be pickled."""


class CallCancelled(PoolTerminated, CancelledError):
    """The executor's workers were ended before this call was run."""


_CANCELLED = "the executor's calls were cancelled, or its workers ended, before this result came"


def translated(exc: BaseException) -> BaseException:
    """Convert a pool's exception to an executor's; return any other exception as it is."""
    kind = type(exc)
    if kind is WorkerLostError:
        lost: Any = exc
        made: BaseException = CallLost(str(lost), lost.pid, lost.exitcode)
        made.__dict__.update(exc.__dict__)
        what = f"process {lost.pid} terminated abruptly with exit code {lost.exitcode}"
        made.__cause__ = _RemoteTraceback(f"\n'''\nA worker {what}\n'''")
        return made
    if kind is InitializerError:
        made = InitializerFailed(str(exc))
        made.__cause__ = exc.__cause__
        return made
    if kind is MaybeEncodingError:
        made = ResultNotPicklable(*exc.args)
        made.__cause__ = exc.__cause__
        return made
    if kind is PoolTerminated:
        return CallCancelled(_CANCELLED)
    cause = exc.__cause__
    if type(cause) is _pool.RemoteTraceback:
        _set_cause(exc, _RemoteTraceback(str(cause)))  # its class may refuse attributes
    return exc
