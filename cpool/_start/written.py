"""The initializer and its arguments for workers by spawn and forkserver: written once, if large.

Imported only for pools that have such workers.
"""

from __future__ import annotations

import copyreg
from functools import partial
from multiprocessing import context, reduction
from types import BuiltinFunctionType, FunctionType, MethodType, ModuleType

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


_ATOMS = {type(None), bool, float, complex, type(...), FunctionType}
_ITEMS = {tuple, list, set, frozenset}
# What every object takes, roughly.
_EACH = 8
# Py_TPFLAGS_HEAPTYPE
_HEAP_TYPE = 1 << 9


def _is_plain(kind: type) -> bool:
    """Does the class, without its bases, keep nothing but attributes in a dict?"""
    return bool(kind.__flags__ & _HEAP_TYPE) and "__slots__" not in vars(kind)


def _attributes(value: Any) -> dict[str, Any] | None:
    """The attributes of a plain instance. None: its class has its own way to be pickled."""
    kind: Any = type(value)
    is_plain = (
        kind.__reduce_ex__ is object.__reduce_ex__
        and kind.__reduce__ is object.__reduce__
        and getattr(kind, "__getstate__", None) is object.__getstate__
        and kind.__getattribute__ is object.__getattribute__
        and kind.__dictoffset__ != 0
        and kind not in copyreg.dispatch_table
        and all(base is object or _is_plain(base) for base in kind.__mro__)
    )
    return vars(value) if is_plain else None


def _may_be_large(obj: Any) -> bool:
    """Are there _LEAST bytes or more in it? Also True if only code of the program could tell."""
    left, stack = _LEAST, [obj]
    while stack and left > 0:
        value = stack.pop()
        kind = type(value)
        left -= _EACH
        if kind is str:
            left -= len(value) if value.isascii() else 4 * len(value)
        elif kind is bytes or kind is bytearray:
            left -= len(value)
        elif kind is int:
            left -= value.bit_length() // 8
        elif kind in _ITEMS and _EACH * len(value) < left:
            stack += value
        elif kind is dict and 2 * _EACH * len(value) < left:
            stack += value
            stack += value.values()
        elif kind is partial:
            stack += (value.func, value.args, value.keywords)
        elif kind is MethodType:
            stack.append(value.__self__)
        elif kind is BuiltinFunctionType:
            if not isinstance(value.__self__, ModuleType):
                return True
        elif kind not in _ATOMS and not issubclass(kind, type):
            attributes = _attributes(value)
            if attributes is None:
                return True
            stack.append(attributes)
    return left <= 0


def write_once(engine: _core.Engine, begin: Begin) -> Written | None:
    """Write this for all workers. None: it is small, or has to be pickled for each of them."""
    if not _may_be_large(begin):
        return None
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
