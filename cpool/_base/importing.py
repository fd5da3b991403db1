"""What is pickled by name is imported: by threads of a pool while the program imports it.

A program may use a pool while its module is imported. Python makes other threads wait for such a
module, and the thread that imports it may be waiting for the pool. So threads of a pool take the
module as it is; `csrc/py/base/imports.h` has the rule.

The interpreter imports for pickle by the `__import__` of the frame that calls pickle. It is that of
this module below `run()` and `loads()`.
"""

from __future__ import annotations

import builtins
import importlib._bootstrap as _bootstrap
from collections.abc import Callable

from .. import _core
from . import failures
from .stdlib import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import Any, TypeVar

    T = TypeVar("T")


def run(target: Callable[..., T], *args: Any) -> T:
    """Call `target(*args)` on a thread of a pool."""
    _core._import_without_waiting(True)
    return target(*args)


def run_in_worker(serve: Callable[[], T]) -> T:
    """Call `serve()` in a worker process: in a forked one an import may never come to its end.

    It was that of a thread which the worker does not have.
    """
    return run(serve) if getattr(_bootstrap, "_module_locks", None) else serve()


def loads(data: bytes) -> Any:
    """`pickle.loads` on any thread."""
    return _core._loads(data)


failures.loads = loads
globals()["__builtins__"] = {**vars(builtins), "__import__": _core._import}
