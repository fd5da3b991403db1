"""The exceptions that only pools on a cluster raise."""

from __future__ import annotations

from ..errors import PoolError, WorkerLostError

__all__ = ["NodeLostError", "SchedulerLostError", "VersionMismatchError"]


class NodeLostError(WorkerLostError):
    """A node left the cluster while it ran this task, or after it had taken the task.

    ``node`` is the node's address (a str), ``pid`` the process id of the dask worker there (an
    int). ``exitcode`` is None, since it is not known. ``index`` and ``function`` are as in
    `WorkerLostError`. With ``retries=`` the task runs again on another node instead.
    """

    def __init__(
        self,
        message: str,
        pid: int,
        exitcode: int | None = None,
        index: int | None = None,
        function: str | None = None,
        node: str | None = None,
    ) -> None:
        super().__init__(message, pid, exitcode, index, function)
        self.node = node

    def __reduce__(self) -> tuple[type[WorkerLostError], tuple[object, ...]]:
        kind, args = super().__reduce__()
        return kind, (*args, self.node)


class SchedulerLostError(PoolError):
    """The connection to the scheduler was lost, so the pool can run no more tasks."""


class VersionMismatchError(PoolError):
    """The cluster has other versions of Python, cpool or dask than this process.

    ``mismatches`` is a list of tuples of str: (where, package, version here, version there).
    """

    def __init__(self, message: str, mismatches: list[tuple[str, str, str, str]]) -> None:
        super().__init__(message)
        self.mismatches = mismatches

    def __reduce__(
        self,
    ) -> tuple[type[VersionMismatchError], tuple[str, list[tuple[str, str, str, str]]]]:
        return type(self), (str(self), self.mismatches)
