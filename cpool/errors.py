"""The exceptions that cpool adds to those of multiprocessing."""

from __future__ import annotations

# Not imported from typing, whose import would add a tenth to the time of cpool's.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from concurrent.futures import CancelledError

__all__ = [
    "InitializerError",
    "MemoryLimitError",
    "PoolError",
    "PoolTerminated",
    "RemoteError",
    "TaskCancelledError",
    "TaskInterrupted",
    "TaskTimeoutError",
    "WorkerLostError",
]


class PoolError(RuntimeError):
    """A failure of the pool itself, not of the function that a task called."""


class WorkerLostError(PoolError):
    """The worker died while it ran this task; the pool continues with a new worker.

    ``pid`` is the worker's process id (an int), ``exitcode`` its ``Process.exitcode``: negative for
    a signal, and None if the worker is still alive. ``index`` is the number of the item that it
    ran, counted from 0 in the call's iterable; None for ``apply``. ``function`` is the name of the
    callable (a str), or None if it is not known. ``node`` is the address of the node (a str) in a
    pool on a cluster, and None in any other pool.
    """

    node: str | None = None

    def __init__(
        self,
        message: str,
        pid: int,
        exitcode: int | None,
        index: int | None = None,
        function: str | None = None,
    ) -> None:
        super().__init__(message)
        self.pid = pid
        self.exitcode = exitcode
        self.index = index
        self.function = function

    def __reduce__(self) -> tuple[type[WorkerLostError], tuple[object, ...]]:
        return type(self), (str(self), self.pid, self.exitcode, self.index, self.function)


class TaskTimeoutError(WorkerLostError, TimeoutError):
    """The item ran for longer than the `task_timeout` of its call.

    Also a builtin ``TimeoutError``. ``seconds`` is how long the item had run and ``limit`` is the
    `task_timeout`, both floats in seconds. ``stack`` is the Python stack of the task at that
    moment, a str of lines, most recent call first; empty if the stack could not be read.
    ``exitcode`` is None if the task ended within its `grace`; otherwise it is the exit code of the
    killed worker.
    """

    def __init__(
        self,
        message: str,
        pid: int,
        exitcode: int | None,
        index: int | None = None,
        function: str | None = None,
        seconds: float = 0.0,
        limit: float = 0.0,
        stack: str = "",
    ) -> None:
        super().__init__(message, pid, exitcode, index, function)
        self.seconds = seconds
        self.limit = limit
        self.stack = stack

    def __reduce__(self) -> tuple[type[WorkerLostError], tuple[object, ...]]:
        kind, args = super().__reduce__()
        return kind, (*args, self.seconds, self.limit, self.stack)


class MemoryLimitError(WorkerLostError, MemoryError):
    """The item took more memory than the `memory_limit` of its pool.

    Also a builtin ``MemoryError``. ``bytes`` is how much memory the worker had and ``limit`` is the
    `memory_limit`, both ints in bytes. ``exitcode`` is the exit code of the worker, which was
    killed.
    """

    def __init__(
        self,
        message: str,
        pid: int,
        exitcode: int | None,
        index: int | None = None,
        function: str | None = None,
        bytes: int = 0,
        limit: int = 0,
    ) -> None:
        super().__init__(message, pid, exitcode, index, function)
        self.bytes = bytes
        self.limit = limit

    def __reduce__(self) -> tuple[type[WorkerLostError], tuple[object, ...]]:
        kind, args = super().__reduce__()
        return kind, (*args, self.bytes, self.limit)


class TaskInterrupted(BaseException):
    """Raised inside a task that has to stop: its time is over, or its call was cancelled.

    Only if the call has a `grace`: the task then has that many seconds to clean up, in `except` and
    `finally`, before its worker is killed. If the task returns a value or raises another exception,
    that is its result. Like ``KeyboardInterrupt``, this is not an ``Exception``.
    """


if TYPE_CHECKING:

    class TaskCancelledError(PoolError, CancelledError):
        """The call was cancelled before it had ended."""


def _make_cancelled_error() -> type[PoolError]:
    from concurrent.futures import CancelledError

    class TaskCancelledError(PoolError, CancelledError):
        """The call was cancelled before it had ended.

        Also a `concurrent.futures.CancelledError`.
        """

        __module__ = __name__
        __qualname__ = "TaskCancelledError"

    return TaskCancelledError


def __getattr__(name: str) -> type[PoolError]:
    """Make TaskCancelledError on first use, since importing concurrent.futures takes long."""
    if name != "TaskCancelledError":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    made = globals().setdefault(name, _make_cancelled_error())  # all threads get the same class
    found: type[PoolError] = made
    return found


class InitializerError(PoolError):
    """The initializer raised in a worker, so the pool cannot run tasks.

    The initializer's exception is the ``__cause__``.
    """


class PoolTerminated(PoolError):
    """The pool was terminated before the result arrived."""


class RemoteError(PoolError):
    """Replaces an exception of a task that cannot be unpickled in this process.

    ``type_name`` is the name of the exception's class, ``args_repr`` the ``repr()`` of the
    exception's arguments in the worker. The worker's traceback is the ``__cause__``.
    """

    def __init__(self, message: str, type_name: str, args_repr: str) -> None:
        super().__init__(message)
        self.type_name = type_name
        self.args_repr = args_repr

    def __reduce__(self) -> tuple[type[RemoteError], tuple[str, str, str]]:
        return type(self), (str(self), self.type_name, self.args_repr)
