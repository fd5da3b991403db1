"""The standard library's own multiprocessing.pool, whatever stands under that name in sys.modules.

`cpool.install()` puts `cpool.pool` there; the classes over the stdlib's, and the functions that
travel in pickles by name, still come from the original.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

__all__ = ["pool"]

# Any: half of what is used of it has no place in the stubs.
pool: Any = import_module("multiprocessing.pool")
