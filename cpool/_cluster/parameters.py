"""The parameters of a pool on a cluster beyond multiprocessing's, and those that it refuses."""

from __future__ import annotations

from collections.abc import Mapping

from .._base.stdlib import TYPE_CHECKING
from .._engine.workers import WorkerOptions
from .._start.surroundings import check_environment
from .frames import dumps_callable

if TYPE_CHECKING:
    from typing import Any, NoReturn

__all__ = ["NOT_HERE", "check_on_exit", "of_nodes", "refuse_method", "refuse_worker"]

_OF_WORKERS = "daemon memory_limit min_processes idle_timeout cpu_ids inner_max_num_threads".split()

_REFUSED = {
    "max_pending": "items are pulled as fast as the nodes take them: use imap() with buffersize=",
    "propagate_context": "context variables stay in this process: pass their values as arguments",
}

# Methods of `cpool.Pool` that a pool on a cluster does not have, and what to do instead.
_BY_NODES = "pass the function as initializer=, which also runs on nodes that join later"
_ONE_BY_ONE = (
    "each value would be a message through the scheduler. Have the function return a list, and "
    "read imap() or imap_unordered()"
)
NOT_HERE = {
    "broadcast": _BY_NODES,
    "broadcast_async": _BY_NODES,
    "flatmap": _ONE_BY_ONE,
    "flatmap_unordered": _ONE_BY_ONE,
    "resize": (
        "each node has its own workers, processes= of them. Add or remove nodes, for instance with "
        "scale() of a dask cluster"
    ),
    "restart_workers": (
        "each call sends the current functions of the program. If modules have changed on the "
        "nodes, make another pool"
    ),
    "share": (
        "nodes do not share memory. A large callable is sent once to each node: use "
        "functools.partial(function, data)"
    ),
    "stream": _ONE_BY_ONE,
}


def refuse_method(name: str) -> NoReturn:
    """Raise `ValueError` for a method that only pools on one machine have."""
    raise ValueError(f"{name}() is for a pool on one machine: {NOT_HERE[name]}")


def check_on_exit(on_exit: str) -> None:
    """Raise `ValueError` for an invalid `on_exit`."""
    if on_exit not in ("terminate", "join"):
        raise ValueError(f'on_exit must be "terminate" or "join", not {on_exit!r}')


def refuse_worker(asked: Mapping[str, Any]) -> None:
    """Raise `ValueError` for a call with `worker=`."""
    if asked.get("worker") is not None:
        raise ValueError(
            "worker= is for a pool on one machine: nodes come and go, each with its own workers. "
            "Use key=, which sends all calls with one key to one worker"
        )


def of_nodes(processes: int | None, asked: dict[str, Any]) -> dict[str, Any]:
    """The parameters of the pools on the nodes, in the form in which they are sent.

    Raises `ValueError` or `TypeError` for invalid ones. They are checked here because a node that
    gets invalid ones is not used, and calls would wait forever for another node.
    """
    for name, why in _REFUSED.items():
        if asked.pop(name, None) not in (None, False):
            raise ValueError(f"{name} is for a pool on one machine. {why}")
    found: dict[str, Any] = {
        name: asked.pop(name) for name in _OF_WORKERS if asked.get(name) is not None
    }
    if not isinstance(found.get("cpu_ids", ""), str):
        raise ValueError('cpu_ids can only be "auto" on a cluster: nodes have different CPUs')
    most = processes or found.get("min_processes") or 1
    checked: dict[str, Any] = {name: found.get(name) for name in _OF_WORKERS}
    WorkerOptions(most, **{**checked, "daemon": True})
    finalizer = asked.pop("finalizer", None)
    finalargs = tuple(asked.pop("finalargs", ()))
    if finalizer is not None:
        if not callable(finalizer):
            raise TypeError("finalizer must be a callable")
        found["finalizer"] = dumps_callable((finalizer, finalargs))
    env = asked.pop("env", None)
    if env is not None:
        check_environment(env, 0)
        found["env"] = dumps_callable(env)
    preload = asked.pop("preload", ())
    if preload:
        names = (preload,) if isinstance(preload, str) else tuple(preload)
        for name in names:
            if not isinstance(name, str):
                raise TypeError(f"preload must be names of modules (str), not {name!r}")
        found["preload"] = names
    for name in _OF_WORKERS:
        asked.pop(name, None)
    if asked:
        raise TypeError(f"Pool() got an unexpected keyword argument {next(iter(asked))!r}")
    return found
