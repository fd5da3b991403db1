"""The initializer and its arguments for workers by spawn and forkserver: written once, if large.

Imported only for pools that have such workers.
"""

from __future__ import annotations

from multiprocessing import context, reduction

from .. import _core
from .._base.stdlib import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import Any

    from .child import Begin

# More than that does not fit into the pipe to a new process: its start would wait until it reads.
_LEAST = 64 << 10


class Written:
    """An object in shared memory. Pickled for a new worker, it arrives there as the object."""

    def __init__(self, share: _core.Share) -> None:
        self.share = share

    def __reduce__(self) -> tuple[Any, ...]:
        return _load, (reduction.DupFd(self.share.fd),)


def _load(end: Any) -> Any:
    return _core._load_shared(end.detach())


class _NotOnce(Exception):
    """The object contains what each process has to be given for itself, such as a connection."""


class _Refusing:
    """The process that is being started, for objects that ask multiprocessing for it."""

    method = "spawn"
    DupFd = None

    def duplicate_for_child(self, fd: int) -> int:
        raise _NotOnce


def write_once(engine: _core.Engine, begin: Begin) -> Written | None:
    """Write this for all workers. None: it is small, or has to be pickled for each of them."""
    process: Any = _Refusing()
    context.set_spawning_popen(process)
    try:
        share = engine.share_object(begin)
    except Exception:  # each worker's own start says what is wrong, if anything is
        return None
    finally:
        context.set_spawning_popen(None)
    if share.nbytes < _LEAST or share.fd < 0:
        share.close()
        return None
    return Written(share)
