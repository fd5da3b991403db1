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
from ._base.completed import as_completed
from ._base.current import current_worker
from ._base.size import default_processes
from ._program.swap import install, uninstall
from .errors import (
    InitializerError,
    PoolError,
    PoolTerminated,
    RemoteError,
    WorkerLostError,
)
from .pool import AsyncResult, Pool, ThreadPool

__all__ = [
    "AsyncResult",
    "InitializerError",
    "Pool",
    "PoolError",
    "PoolTerminated",
    "RemoteError",
    "ThreadPool",
    "TimeoutError",
    "WorkerLostError",
    "as_completed",
    "current_worker",
    "default_processes",
    "install",
    "uninstall",
]

__version__ = "0.1.0"
