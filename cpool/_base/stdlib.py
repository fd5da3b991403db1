"""The standard library's own multiprocessing.pool, even after `cpool.install()`.

`install()` puts `cpool.pool` under that name in sys.modules. cpool's classes still derive from the
original classes, and functions that are pickled by name are the original ones.
"""

from __future__ import annotations

from importlib import import_module

# No module of cpool imports typing at run time: each spawned worker imports cpool again, and typing
# would add a tenth to the time of that import.
TYPE_CHECKING = False

if TYPE_CHECKING:
    from typing import Any, TypeVar, overload

    T = TypeVar("T")
else:
    T = object  # so that tools can evaluate the annotations of public methods

    def overload(declaration):
        """Only type checkers read the overloads; the last definition replaces them."""
        return None


__all__ = [
    "ApplyResult",
    "IMapIterator",
    "IMapUnorderedIterator",
    "MapResult",
    "Pool",
    "T",
    "ThreadPool",
    "overload",
    "pool",
    "replaces_parts",
]

# Any: typeshed lacks half of the names that are used here.
pool: Any = import_module("multiprocessing.pool")

# A subclass that overrides one of these expects the stdlib's queues and threads.
_HOOKS = (
    "_setup_queues",
    "_repopulate_pool",
    "_repopulate_pool_static",
    "_join_exited_workers",
    "_maintain_pool",
    "_handle_workers",
    "_handle_tasks",
    "_handle_results",
    "_get_sentinels",
    "_get_worker_sentinels",
    "_wait_for_updates",
    "_help_stuff_finish",
    "_terminate_pool",
)


def replaces_parts(cls: type, base: type) -> bool:
    """Does cls, a subclass of cpool's class base, override private hooks of the stdlib's pool?"""
    own = cls.__mro__[: cls.__mro__.index(base)]
    return any(name in vars(each) for each in own for name in _HOOKS)


# The base classes of cpool's own classes. For type checkers the results are generic in the value's
# type; at run time `ApplyResult[T]` in a list of bases is the plain class.
if TYPE_CHECKING:
    from multiprocessing import pool as _typed
    from multiprocessing.pool import ApplyResult, IMapIterator, IMapUnorderedIterator, MapResult

    class Pool(_typed.Pool):
        """Declares the names that typeshed leaves out."""

        @staticmethod
        def Process(ctx: Any, *args: Any, **kwds: Any) -> Any: ...
        def _repopulate_pool(self) -> None: ...
        def _map_async(self, *args: Any, **kwds: Any) -> Any: ...
        def _get_tasks(self, *args: Any) -> Any: ...
        def _guarded_task_generation(self, *args: Any) -> Any: ...

    class ThreadPool(Pool):
        def __init__(self, *args: Any) -> None: ...

else:
    Pool = pool.Pool
    ThreadPool = pool.ThreadPool
    ApplyResult = {T: pool.ApplyResult}
    MapResult = {T: pool.MapResult}
    IMapIterator = {T: pool.IMapIterator}
    IMapUnorderedIterator = {T: pool.IMapUnorderedIterator}
