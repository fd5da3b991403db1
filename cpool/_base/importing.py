"""Unpickling imports modules, on threads of a pool, while the program may be importing them too.

A program may use a pool while its module is imported. Python makes other threads wait for such a
module, and the thread that imports it may be waiting for the pool. So threads of a pool use the
partly initialized module; `csrc/py/base/imports.h` has the rule.

A forked worker has only the thread that forked it. Modules that other threads were importing will
never be complete there, and their import locks will never be released: `forget_others()` drops
both.

pickle imports with the `__import__` of the frame that calls it. Below `run()` and `loads()` that is
the `__import__` of this module.
"""

from __future__ import annotations

import builtins
import importlib._bootstrap as _bootstrap
import sys
import threading
import time
from collections.abc import Callable, Collection, Container

from .. import _core
from . import failures
from .stdlib import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import Any, TypeVar

    T = TypeVar("T")


_threads = threading.local()
kept: Collection[str] = ()  # in a forked worker: modules that stay partly initialized

# importlib's locks of the modules that are being imported, by name.
module_locks: dict[str, Any] = getattr(_bootstrap, "_module_locks", {})


def run(target: Callable[..., T], *args: Any) -> T:
    """Call `target(*args)` on a thread of a pool."""
    _threads.is_ours = True
    _core._import_without_waiting(True)
    return target(*args)


def is_thread_of_a_pool() -> bool:
    return getattr(_threads, "is_ours", False)


def _locked() -> dict[str, int | None]:
    """The modules that threads are importing, and the threads' identifiers.

    The identifier is None while a thread takes or releases the lock of that module.
    """
    # Copied, as other threads change the dict; the values are weak references.
    found = {name: lock() for name, lock in module_locks.copy().items()}
    return {name: lock.owner for name, lock in found.items() if lock is not None}


def imported_here() -> list[str]:
    """The modules that the calling thread is importing."""
    me = threading.get_ident()
    return [name for name, owner in _locked().items() if owner == me]


def _imported_elsewhere(except_for: Container[str]) -> list[str]:
    me = threading.get_ident()
    return [
        name
        for name, owner in _locked().items()
        if owner != me and name not in except_for and _is_partial(name)
    ]


def _is_partial(name: str) -> bool:
    spec = getattr(sys.modules.get(name), "__spec__", None)
    return bool(getattr(spec, "_initializing", False))


def await_others(
    except_for: Container[str], patience: float, is_wanted: Callable[[], bool]
) -> list[str]:
    """Before a fork: wait until no other thread imports a module that is not in `except_for`.

    Waits at most `patience` seconds, since a thread that imports may wait for the pool, and only
    while `is_wanted()` is true. Returns the names of the modules that are still not complete.
    """
    until = time.monotonic() + patience
    while (names := _imported_elsewhere(except_for)) and is_wanted():
        if time.monotonic() > until:
            return names
        time.sleep(0.001)
    return []


def forget_others(those: Collection[str]) -> None:
    """In a forked worker: drop the modules that other threads of the parent were importing.

    Tasks that need them import them again. Modules in `those` stay as they are.
    """
    global kept
    kept = those
    partial = _imported_elsewhere(kept)
    me = threading.get_ident()
    for name, owner in _locked().items():
        if owner != me:
            del module_locks[name]
    for name in partial:
        del sys.modules[name]


def run_in_worker(serve: Callable[[], T]) -> T:
    """Call `serve()` in a worker process, where kept modules may be partly initialized."""
    return run(serve) if any(map(_is_partial, kept)) else serve()


def loads(data: bytes) -> Any:
    """`pickle.loads` on any thread."""
    return _core._loads(data)


failures.loads = loads
failures.core = _core
globals()["__builtins__"] = {**vars(builtins), "__import__": _core._import}
