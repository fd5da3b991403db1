"""A process pool with the interface of multiprocessing.Pool, written in C.

from cpool import Pool

with Pool() as pool:
    print(pool.map(abs, [-1, -2]))
"""

from __future__ import annotations

from multiprocessing import TimeoutError

from ._program import fallback

fallback.find_engine()

# ruff: noqa: E402  (`.pool` is another module where there is no extension)
from . import errors
from ._base.arrays import empty
from ._base.completed import as_completed
from ._base.current import current_worker
from ._base.size import default_processes
from ._base.stdlib import TYPE_CHECKING
from ._engine.known import dump_on_signal
from ._program.swap import install, uninstall
from .errors import (
    InitializerError,
    MemoryLimitError,
    PoolError,
    PoolTerminated,
    RemoteError,
    TaskInterrupted,
    TaskTimeoutError,
    WorkerLostError,
)
from .pool import AsyncResult, Pool, ThreadPool

if TYPE_CHECKING:
    from typing import Any

    from ._engine.executors import ProcessPoolExecutor, ThreadPoolExecutor
    from ._engine.shared import SharedObject
    from ._engine.statistics import LongTask, PoolStatistics, WorkerStatistics
    from ._engine.trace import trace
    from .errors import TaskCancelledError

__all__ = [
    "AsyncResult",
    "InitializerError",
    "LongTask",
    "MemoryLimitError",
    "Pool",
    "PoolError",
    "PoolStatistics",
    "PoolTerminated",
    "ProcessPoolExecutor",
    "RemoteError",
    "SharedObject",
    "TaskCancelledError",
    "TaskInterrupted",
    "TaskTimeoutError",
    "ThreadPool",
    "ThreadPoolExecutor",
    "TimeoutError",
    "WorkerLostError",
    "WorkerStatistics",
    "as_completed",
    "current_worker",
    "default_processes",
    "dump_on_signal",
    "empty",
    "install",
    "trace",
    "uninstall",
]

__version__ = "0.1.0"

_EXECUTORS = ("ProcessPoolExecutor", "ThreadPoolExecutor")
_STATISTICS = ("LongTask", "PoolStatistics", "WorkerStatistics")


# Imported on first use: importing concurrent.futures would double the time that a spawned worker
# takes to import cpool.
def __getattr__(name: str) -> Any:
    if name == "TaskCancelledError":
        return getattr(errors, name)
    if name == "trace":
        from ._engine.trace import trace

        return trace
    if name == "SharedObject":
        from ._engine.shared import SharedObject

        return SharedObject
    if name in _STATISTICS:
        from ._engine import statistics

        return getattr(statistics, name)
    if name not in _EXECUTORS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    home: Any
    try:
        from ._engine import executors as home
    except ModuleNotFoundError as exc:  # there is no extension: see _program/fallback.py
        if exc.name != "cpool._core":
            raise
        import concurrent.futures as home
    return getattr(home, name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
