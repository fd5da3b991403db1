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
    """What went wrong with a pool, and not with the work that it was given."""


class WorkerLostError(PoolError):
    """A worker died while it ran this task; the pool goes on with another worker.

    ``pid`` is the worker's process id, ``exitcode`` what ``Process.exitcode`` says: negative for
    a signal.
    """

    def __init__(self, message: str, pid: int, exitcode: int) -> None:
        super().__init__(message)
        self.pid = pid
        self.exitcode = exitcode

    def __reduce__(self) -> tuple[type[WorkerLostError], tuple[str, int, int]]:
        return type(self), (str(self), self.pid, self.exitcode)


class InitializerError(PoolError):
    """The initializer of the workers raised, so that no worker can run anything.

    What it raised is the ``__cause__``.
    """


class PoolTerminated(PoolError):
    """The pool was terminated before this result came."""


class RemoteError(PoolError):
    """Stands in for an exception of a task that cannot be rebuilt in this process.

    ``type_name`` is the name of the exception's class, ``args_repr`` the ``repr()`` of its
    arguments as the worker saw them. The worker's traceback is the ``__cause__``.
    """

    def __init__(self, message: str, type_name: str, args_repr: str) -> None:
        super().__init__(message)
        self.type_name = type_name
        self.args_repr = args_repr

    def __reduce__(self) -> tuple[type[RemoteError], tuple[str, str, str]]:
        return type(self), (str(self), self.type_name, self.args_repr)
