"""The standard library's own multiprocessing.pool, whatever stands under that name in sys.modules.

`cpool.install()` puts `cpool.pool` there; the classes over the stdlib's, and the functions that
travel in pickles by name, still come from the original.
"""

from __future__ import annotations

from importlib import import_module

# typing is for type checkers alone, here and in all modules: a worker that is not forked imports
# everything anew, and that would take a tenth longer.
TYPE_CHECKING = False

if TYPE_CHECKING:
    from typing import Any, TypeVar

    T = TypeVar("T")
else:
    T = object  # annotations of public methods can be evaluated

__all__ = [
    "ApplyResult",
    "IMapIterator",
    "IMapUnorderedIterator",
    "MapResult",
    "Pool",
    "T",
    "ThreadPool",
    "pool",
    "replaces_parts",
]

# Any: half of what is used of it has no place in the stubs.
pool: Any = import_module("multiprocessing.pool")

# Replacing one of these means to run on the stdlib's queues and threads.
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
    """Does cls, over our own class base, replace parts of the stdlib's machinery?"""
    own = cls.__mro__[: cls.__mro__.index(base)]
    return any(name in vars(each) for each in own for name in _HOOKS)


# The bases of cpool's own classes, which type checkers then take for what they are. Of the results
# they know the value's type as well: `ApplyResult[T]` in a list of bases is the class itself when
# the program runs.
if TYPE_CHECKING:
    from multiprocessing import pool as _typed
    from multiprocessing.pool import ApplyResult, IMapIterator, IMapUnorderedIterator, MapResult

    class Pool(_typed.Pool):
        """With what typeshed leaves out."""

        @staticmethod
        def Process(ctx: Any, *args: Any, **kwds: Any) -> Any: ...
        def _repopulate_pool(self) -> None: ...
        def _map_async(self, *args: Any) -> Any: ...
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
