"""install() and uninstall(): replacing multiprocessing.pool for unchanged programs."""

from __future__ import annotations

import multiprocessing
import sys

from .. import pool
from .._base.stdlib import pool as _original

_NAME = "multiprocessing.pool"


def install() -> None:
    """Replace the module `multiprocessing.pool` by `cpool.pool`.

    `multiprocessing.Pool()`, `multiprocessing.get_context(...).Pool()` and every later import of
    `multiprocessing.pool` then use cpool's classes. Call `install()` before
    `multiprocessing.managers` is imported: managers keep the class that they find at import. A
    second call does nothing.
    """
    sys.modules[_NAME] = pool
    multiprocessing.pool = pool


def uninstall() -> None:
    """Undo `install()`. Existing pools are not affected."""
    sys.modules[_NAME] = _original
    multiprocessing.pool = _original
