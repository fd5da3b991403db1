"""The errors that a pool on a cluster adds."""

from __future__ import annotations

from ..errors import PoolError, WorkerLostError

__all__ = ["NodeLostError", "SchedulerLostError", "VersionMismatchError"]


class NodeLostError(WorkerLostError):
    """A node left the cluster while it ran this task, or held it as begun.

    ``node`` is the node's address, ``pid`` the process id of the dask worker there. ``exitcode``
    is None: nobody here knows it. ``index`` and ``function`` are those of a `WorkerLostError`. With
    ``retries=`` the task runs again elsewhere instead.
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
    """The connection to the scheduler was lost, so the pool cannot run tasks any more."""


class VersionMismatchError(PoolError):
    """Python, cpool or dask have other versions in the cluster than here.

    ``mismatches`` is a list of (where, package, version here, version there).
    """

    def __init__(self, message: str, mismatches: list[tuple[str, str, str, str]]) -> None:
        super().__init__(message)
        self.mismatches = mismatches

    def __reduce__(
        self,
    ) -> tuple[type[VersionMismatchError], tuple[str, list[tuple[str, str, str, str]]]]:
        return type(self), (str(self), self.mismatches)
