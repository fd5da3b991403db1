"""Where there is no engine, which is on Windows: cpool.pool is the standard library's module.

A program that says `from cpool import Pool` runs there as well, with the speed and the hangs of
`multiprocessing.Pool`. On every other system an extension that is missing or broken is an error:
it was not built, and nobody would see why the program is slow.
"""

from __future__ import annotations

import multiprocessing
import sys
import warnings
from importlib import import_module

from .._base.stdlib import pool

_WARNING = (
    "cpool has no engine for Windows yet: Pool and ThreadPool are the standard library's here, "
    "without buffersize=, join(timeout) and WorkerLostError"
)
_NOT_BUILT = "cpool's C extension was not built: see Try it, in cpool's README"


def _in_worker() -> bool:
    """Workers import the program again, and would say again what it has said."""
    imports_the_program = hasattr(multiprocessing.current_process(), "_inheriting")
    return imports_the_program or multiprocessing.parent_process() is not None


def find_engine() -> None:
    """Import the extension; put the stdlib's pool in the place of cpool's where there is none."""
    try:
        import_module("cpool._core")
    except ModuleNotFoundError as exc:
        if exc.name != "cpool._core":
            raise
        if sys.platform != "win32":
            # Not a note: 3.15 imports cpool again to print this, fails, and leaves notes out.
            raise ModuleNotFoundError(_NOT_BUILT, name=exc.name) from exc
    else:
        return
    sys.modules["cpool.pool"] = sys.modules["cpool"].pool = pool
    if not _in_worker():
        warnings.warn(_WARNING, RuntimeWarning, stacklevel=3)
