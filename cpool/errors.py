"""The exceptions that cpool adds to those of multiprocessing."""

from __future__ import annotations

__all__ = [
    "InitializerError",
    "PoolError",
    "PoolTerminated",
    "RemoteError",
    "WorkerLostError",
]


class PoolError(RuntimeError):
    """A failure of the pool itself, not of the function that a task called."""


class WorkerLostError(PoolError):
    """The worker died while it ran this task; the pool continues with a new worker.

    ``pid`` is the worker's process id, ``exitcode`` its ``Process.exitcode``: negative for a
    signal. ``node`` is the address of the node in a pool on a cluster, None elsewhere.
    """

    node: str | None = None

    def __init__(self, message: str, pid: int, exitcode: int) -> None:
        super().__init__(message)
        self.pid = pid
        self.exitcode = exitcode

    def __reduce__(self) -> tuple[type[WorkerLostError], tuple[str, int, int]]:
        return type(self), (str(self), self.pid, self.exitcode)


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
