"""install() and uninstall(): replacing multiprocessing.pool for unchanged programs."""

from __future__ import annotations

import multiprocessing
import os
import sys
from importlib import import_module
from multiprocessing import util as _typed_util

from .. import pool
from .._base.stdlib import TYPE_CHECKING
from .._base.stdlib import pool as _original

if TYPE_CHECKING:
    from typing import Any

_NAME = "multiprocessing.pool"

# What multiprocessing's own children run: `python -c "from multiprocessing.spawn import ..."`.
_CHILDREN = ("from multiprocessing.spawn import", "from multiprocessing.forkserver import")

# Prepended to the code of a child. cpool may be in a folder that only the parent's sys.path has;
# the child gets the parent's sys.path later.
_INSTALL = "import sys; sys.path.append({!r}); import cpool; cpool.install({}); sys.path.pop(); "

util: Any = _typed_util
_spawnv_passfds: Any = None  # multiprocessing's own

# The modules from which programs import the executors.
_HOMES = {
    "ProcessPoolExecutor": ("concurrent.futures.process", "concurrent.futures"),
    "ThreadPoolExecutor": ("concurrent.futures.thread", "concurrent.futures"),
}
_own_executors: dict[str, Any] = {}  # the originals, while cpool's classes replace them


def install(*, executors: bool = False) -> None:
    """Replace the module `multiprocessing.pool` by `cpool.pool`.

    `multiprocessing.Pool()`, `multiprocessing.get_context(...).Pool()` and every later import of
    `multiprocessing.pool` then use cpool's classes, also in children that multiprocessing starts by
    spawn and forkserver. Call `install()` before `multiprocessing.managers` is imported: that
    module keeps the class that it finds at import. A second call does nothing.

    `executors` (a bool): also replace `concurrent.futures.ProcessPoolExecutor` and
    `ThreadPoolExecutor`, the class of asyncio's default executor. Modules that imported these names
    earlier keep the originals.
    """
    global _spawnv_passfds
    sys.modules[_NAME] = pool
    multiprocessing.pool = pool
    if _spawnv_passfds is None:
        _spawnv_passfds = util.spawnv_passfds
        util.spawnv_passfds = _spawn_on_cpool
    if executors and not _own_executors:
        _install_executors()


def _install_executors() -> None:
    from .._engine import executors

    for name, homes in _HOMES.items():
        _own_executors[name] = getattr(executors, f"Stdlib{name}")
        for home in homes:
            setattr(import_module(home), name, getattr(executors, name))


def _uninstall_executors() -> None:
    for name, own in _own_executors.items():
        for home in _HOMES[name]:
            setattr(import_module(home), name, own)
    _own_executors.clear()


def uninstall() -> None:
    """Undo `install()`. Existing pools are not affected."""
    global _spawnv_passfds
    sys.modules[_NAME] = _original
    multiprocessing.pool = _original
    _uninstall_executors()
    if util.spawnv_passfds is _spawn_on_cpool:  # and nobody has wrapped it since
        util.spawnv_passfds = _spawnv_passfds
        _spawnv_passfds = None


def _spawn_on_cpool(path: Any, args: list[Any], passfds: Any) -> int:
    """Start a new process, which installs cpool if it is a child that multiprocessing starts."""
    # Another interpreter may lack cpool, or its extension.
    if sys.modules.get(_NAME) is pool and os.fsdecode(path) == sys.executable:
        args = [_code_on_cpool(each) for each in args]
    pid: int = _spawnv_passfds(path, args, passfds)
    return pid


def _code_on_cpool(arg: Any) -> Any:
    if not isinstance(arg, str) or not any(code in arg for code in _CHILDREN):
        return arg
    package = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    how = "executors=True" if _own_executors else ""
    return _INSTALL.format(os.path.dirname(package), how) + arg
