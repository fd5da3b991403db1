"""What the code of a thread finds around it, and a forked worker inherits."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Mapping
from importlib import import_module

from .. import _core
from .._base import importing
from .._base.stdlib import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import Any


def check_environment(environment: Any, index: int) -> dict[str, str | None] | None:
    """The variables of the worker with this index, of a dict or a function of the index.

    None as a value deletes the variable. Raises `TypeError` for anything else, and what the
    function raises.
    """
    if environment is None:
        return None
    found = environment(index) if callable(environment) else environment
    if not isinstance(found, Mapping):
        raise TypeError(f"env must be a dict, or a function that returns one, not {found!r}")
    for name, value in found.items():
        if not isinstance(name, str) or not isinstance(value, (str, type(None))):
            raise TypeError(
                f"env has strings, and None for what is deleted, not {name!r}: {value!r}"
            )
    return dict(found)


def import_first(names: str | Iterable[str], context: Any) -> tuple[str, ...]:
    """Import modules before workers start: here, if these are forked, or in the fork server.

    Returns the names that each worker imports: those that the server may have missed, since it has
    run before. Raises `ImportError` for a module that there is not.
    """
    modules = (names,) if isinstance(names, str) else tuple(names)
    for name in modules:
        if not isinstance(name, str):
            raise TypeError(f"preload has names of modules, not {name!r}")
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
    """Context variables, the decimal context and numpy's error state, as they are now.

    A worker is forked by whichever thread notices that one is missing: in the middle of a
    `localcontext()`, or a thread of the pool. Each worker starts with what the thread had that
    made the pool.
    """

    def __init__(self) -> None:
        # Modules that make the pool while they are imported: workers have them as far as they are.
        self.kept = set(importing.imported_here())
        self._context = _core._copy_context()
        decimal = getattr(sys.modules.get("decimal"), "__dict__", {})
        if "setcontext" in decimal and "getcontext" in decimal:
            # The thread may change its decimal context in place.
            self._context.run(decimal["setcontext"], decimal["getcontext"]().copy())
        # Before numpy 2 the error state belongs to the thread.
        numpy = getattr(sys.modules.get("numpy"), "__dict__", {})
        self._numpy_errors: Any = None
        if "geterrobj" in numpy and "seterrobj" in numpy:
            self._numpy_errors = list(numpy["geterrobj"]())  # seterr() changes that list

    def run(self, func: Callable[..., None], *args: Any) -> None:
        """Call func in a forked worker."""
        importing.forget_others(self.kept)
        if self._numpy_errors is not None:
            sys.modules["numpy"].seterrobj(self._numpy_errors)
        self._context.run(func, *args)
