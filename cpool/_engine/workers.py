"""The parameters for workers that multiprocessing does not have: checks and engine setup."""

from __future__ import annotations

import contextlib
import errno
import operator
import os
from collections.abc import Iterable

from .._base.amounts import bytes_of, seconds_of
from .._base.stdlib import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import Any

    from .. import _core

    # CPUs, or groups of CPUs, in the order of the workers; or "auto".
    CpuIds = Iterable[int | Iterable[int]] | str | None

_NOT_THERE = (errno.ENOSYS, errno.ENOENT, errno.EACCES)


class WorkerOptions:
    """The parameters of a pool that concern its workers, checked."""

    def __init__(
        self,
        processes: int,
        daemon: bool,
        memory_limit: int | str | None,
        min_processes: int | None,
        idle_timeout: float | None,
        cpu_ids: CpuIds,
        inner_max_num_threads: int | None,
    ) -> None:
        self._given = {
            "daemon": None if daemon else daemon,
            "memory_limit": memory_limit,
            "min_processes": min_processes,
            "idle_timeout": idle_timeout,
            "cpu_ids": cpu_ids,
            "inner_max_num_threads": inner_max_num_threads,
        }
        self.daemon = bool(daemon)
        self.memory_limit = 0
        if memory_limit is not None:
            self.memory_limit = bytes_of("memory_limit", memory_limit)
        self.is_elastic = min_processes is not None or idle_timeout is not None
        self.first = processes
        self.least = 1
        if min_processes is not None:
            self.first = self.least = _between("min_processes", min_processes, processes)
        self.idle_ns = _idle_ns(idle_timeout)
        self._cpus = _cpus(cpu_ids)
        self.threads: int | None = None
        if inner_max_num_threads is not None:
            self.threads = _between("inner_max_num_threads", inner_max_num_threads, 2**31 - 1)

    def refuse(self, why: str, *but: str) -> None:
        """Raise `ValueError` for the first parameter that was given and is not in `but`."""
        for name, value in self._given.items():
            if value is not None and name not in but:
                raise ValueError(f"{name} {why}")

    def names(self, *but: str) -> list[str]:
        """The names of the parameters that were given, except those in `but`."""
        given = self._given.items()
        return [name for name, value in given if value is not None and name not in but]

    def cpus_of(self, index: int) -> tuple[int, ...] | None:
        """The CPUs of the worker with this index; None: any CPU."""
        return self._cpus[index % len(self._cpus)] if self._cpus else None

    def prepare(self, engine: _core.Engine, processes: int, forks: bool) -> None:
        """Set up an engine for worker processes, before it has any workers."""
        if self.memory_limit:
            try:
                engine.set_memory_limit(self.memory_limit)
            except OSError as exc:
                if exc.errno not in _NOT_THERE:
                    raise  # out of descriptors or memory
                raise ValueError(
                    "memory_limit needs a system that tells how much memory a process uses: "
                    f"Linux, with /proc ({exc})"
                ) from exc
        if self.is_elastic:
            engine.set_elastic(self.least, processes, self.idle_ns)
        if not self.daemon:
            engine.set_trees()
        if self.threads is not None and forks:
            _import_threadpoolctl()

    def resize(self, engine: _core.Engine, processes: int) -> None:
        if self.is_elastic:
            self.least = min(self.least, processes)
            engine.set_elastic(self.least, processes, self.idle_ns)


def _between(name: str, value: Any, most: int) -> int:
    number = operator.index(value)
    if not 1 <= number <= most:
        raise ValueError(f"{name} must be a number from 1 to {most}, not {value!r}")
    return number


def _idle_ns(seconds: float | None) -> int:
    if seconds is None:
        return 0
    number = seconds_of("idle_timeout", seconds)
    if number <= 0:
        raise ValueError(f"idle_timeout must be more than 0 seconds, or None, not {seconds!r}")
    return max(1, int(number * 1e9))


def _cpus(cpu_ids: CpuIds) -> list[tuple[int, ...]]:
    if cpu_ids is None:
        return []
    if not hasattr(os, "sched_setaffinity"):
        raise ValueError("cpu_ids needs a system on which a process can choose its CPUs")
    ours = sorted(os.sched_getaffinity(0))
    if isinstance(cpu_ids, str):
        if cpu_ids != "auto":
            raise ValueError(f'cpu_ids must be a list of CPUs or "auto", not {cpu_ids!r}')
        return [(cpu,) for cpu in ours]
    groups: list[Any] = [[each] if isinstance(each, int) else list(each) for each in cpu_ids]
    if not groups or not all(groups):
        raise ValueError("cpu_ids must have at least one CPU for each worker, or be None")
    for cpu in (cpu for group in groups for cpu in group):
        if operator.index(cpu) not in ours:
            raise ValueError(f"cpu_ids: {cpu} is not among the CPUs of this process, {ours}")
    return [tuple(group) for group in groups]


def _import_threadpoolctl() -> None:
    """Import it before the fork, so that workers need not."""
    from .._start import libraries  # noqa: F401

    with contextlib.suppress(ImportError):
        import threadpoolctl  # noqa: F401
