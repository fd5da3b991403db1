"""On Windows, which the extension does not support, cpool.pool is the standard library's module.

`from cpool import Pool` works there, with the speed and the hangs of `multiprocessing.Pool`. On
every other system a missing or broken extension is an error: a silent fallback would hide why the
program is slow.
"""

from __future__ import annotations

import multiprocessing
import sys
import warnings
from importlib import import_module

from .._base.stdlib import pool

_WARNING = (
    "cpool has no engine for Windows yet: Pool and ThreadPool are those of the standard library, "
    "without buffersize=, join(timeout) and WorkerLostError"
)
_NOT_BUILT = "cpool's C extension was not built: see Try it, in cpool's README"


def _in_worker() -> bool:
    """Is this a worker? It imports the program again, and must not repeat the warning."""
    imports_the_program = hasattr(multiprocessing.current_process(), "_inheriting")
    return imports_the_program or multiprocessing.parent_process() is not None


def find_engine() -> None:
    """Import the extension. On Windows, make `cpool.pool` the stdlib's module instead."""
    try:
        import_module("cpool._core")
    except ModuleNotFoundError as exc:
        if exc.name != "cpool._core":
            raise
        if sys.platform != "win32":
            # Not as a note: 3.15 imports cpool again to print the error, and that drops notes.
            raise ModuleNotFoundError(_NOT_BUILT, name=exc.name) from exc
    else:
        return
    sys.modules["cpool.pool"] = sys.modules["cpool"].pool = pool
    if not _in_worker():
        warnings.warn(_WARNING, RuntimeWarning, stacklevel=3)
