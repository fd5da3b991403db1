"""The state of a thread that a forked worker inherits, and the environment of workers."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Mapping
from importlib import import_module

from .. import _core
from .._base import importing
from .._base.stdlib import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import Any, TypeVar

    T = TypeVar("T")


def check_environment(environment: Any, index: int) -> dict[str, str | None] | None:
    """The environment variables of one worker; `environment` is a dict or a function.

    The function takes the worker's index and returns a dict. A value of None deletes the variable.
    Raises `TypeError` for anything else, and whatever the function raises.
    """
    if environment is None:
        return None
    found = environment(index) if callable(environment) else environment
    if not isinstance(found, Mapping):
        raise TypeError(f"env must be a dict or a function that returns a dict, not {found!r}")
    for name, value in found.items():
        if not isinstance(name, str) or not isinstance(value, (str, type(None))):
            raise TypeError(
                f"env must map a str to a str, or to None to delete it, not {name!r} to {value!r}"
            )
    return dict(found)


def import_first(names: str | Iterable[str], context: Any) -> tuple[str, ...]:
    """Import modules before workers start: in this process for fork, or in the fork server.

    Returns the names that each worker has to import itself: under spawn all, and under forkserver
    too, as the server may be running already. Raises `ImportError` if a module does not exist.
    """
    modules = (names,) if isinstance(names, str) else tuple(names)
    for name in modules:
        if not isinstance(name, str):
            raise TypeError(f"preload must be names of modules (str), not {name!r}")
    if not modules:
        return ()
    method = context.get_start_method()
    if method == "fork":
        for name in modules:
            import_module(name)
        return ()
    from importlib.util import find_spec

    for name in modules:
        if find_spec(name) is None:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
    if method == "forkserver":
        from multiprocessing import forkserver

        server: Any = forkserver._forkserver
        known = list(server._preload_modules)
        server.set_forkserver_preload(known + [name for name in modules if name not in known])
    return modules


class Surroundings:
    """A snapshot of the context variables, the decimal context and numpy's error state.

    Any thread that notices a missing worker forks the new one: perhaps within a `localcontext()`,
    or a thread of the pool. Each worker starts with the state of the thread that made the pool.
    """

    def __init__(self) -> None:
        # If the pool is made during the import of modules: workers use these partly initialized.
        self.kept = set(importing.imported_here())
        self._context = _core._copy_context()
        decimal = getattr(sys.modules.get("decimal"), "__dict__", {})
        if "setcontext" in decimal and "getcontext" in decimal:
            # The thread may change its decimal context in place.
            self._context.run(decimal["setcontext"], decimal["getcontext"]().copy())
        # Before numpy 2 each thread has an error state.
        numpy = getattr(sys.modules.get("numpy"), "__dict__", {})
        self._numpy_errors: Any = None
        if "geterrobj" in numpy and "seterrobj" in numpy:
            self._numpy_errors = list(numpy["geterrobj"]())  # seterr() changes that list

    def run(self, func: Callable[..., T], *args: Any) -> T:
        """In a forked worker: restore the snapshot and call func."""
        # Not called if nobody imports: this is in each worker, which copies what it touches.
        if importing.module_locks or self.kept or importing.kept:
            importing.forget_others(self.kept)
        if self._numpy_errors is not None:
            sys.modules["numpy"].seterrobj(self._numpy_errors)
        return self._context.run(func, *args)

    def run_again(self, func: Callable[[], T]) -> T:
        """After run(), in what became of the snapshot's context."""
        return self._context.run(func)
