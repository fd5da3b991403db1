"""Putting cpool in the place of multiprocessing.pool, for programs that are not changed."""

from __future__ import annotations

import multiprocessing
import sys

from .. import pool
from .._base.stdlib import pool as _original

_NAME = "multiprocessing.pool"


def install() -> None:
    """Have `multiprocessing.pool` be `cpool.pool` from now on.

    `multiprocessing.Pool()`, `multiprocessing.get_context(...).Pool()` and every later import of
    `multiprocessing.pool` find cpool's classes. Call it before `multiprocessing.managers` is
    imported: managers keep the class that they find then. Calling it again does nothing.
    """
    sys.modules[_NAME] = pool
    multiprocessing.pool = pool


def uninstall() -> None:
    """Undo `install()`. Pools that were made meanwhile go on as they are."""
    sys.modules[_NAME] = _original
    multiprocessing.pool = _original
