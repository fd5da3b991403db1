"""multiprocessing's ForkingPickler, where a program has replaced it; called by the extension.

The extension pickles as the stdlib's ForkingPickler does. Recipes (for dill, for instance) replace
that class, or methods of it: what goes to workers and comes back is then theirs.
"""

from __future__ import annotations

import copyreg
import functools
import pickle
from _pickle import Pickler, loads
from collections import namedtuple
from multiprocessing.reduction import ForkingPickler

from .stdlib import TYPE_CHECKING

if TYPE_CHECKING:
    from types import CodeType
    from typing import Any

__all__ = [
    "current_pickler",
    "is_replaced",
    "named_tuple_code",
    "named_tuple_new",
    "pickle_of_name",
    "replaced_dumps",
]

_MODULE = "multiprocessing.reduction"

# The code of __getnewargs__(), which all named tuples share: it returns the items.
named_tuple_code = next(
    const
    for const in namedtuple.__code__.co_consts
    if getattr(const, "co_name", None) == "__getnewargs__"
)


@functools.cache
def named_tuple_new(arity: int) -> CodeType:
    """The code that __new__() of all named tuples with so many fields has, but for their names."""
    code: CodeType = namedtuple("_", [f"f{i}" for i in range(arity)]).__new__.__code__
    return code


def pickle_of_name(module: str, name: str) -> bytes:
    """A pickle of the object that has this name, whether it exists or not."""
    strings = [text.encode("utf-8", "surrogatepass") for text in (module, name)]
    parts = [b"X" + len(text).to_bytes(4, "little") + text for text in strings]
    return b"\x80\x04" + b"".join(parts) + b"\x93."


# The tables that the extension uses, which it takes from the class when it is imported.
_TABLES = {
    "_extra_reducers": ForkingPickler._extra_reducers,  # type: ignore[attr-defined]
    "_copyreg_dispatch_table": copyreg.dispatch_table,
}

# What the stdlib's class inherits, or lacks.
_INHERITED = {*vars(Pickler), "reducer_override"} - {"__init__", "__doc__", "__module__"}


def current_pickler() -> Any:
    """The class that the stdlib's pool would use now.

    That pool has two picklers: the one of multiprocessing.connection in the parent, and the one of
    multiprocessing.queues in workers. A program that replaces either means the pool.
    """
    from multiprocessing import connection, queues

    cls = connection._ForkingPickler  # type: ignore[attr-defined]
    return cls if is_changed(cls) else queues._ForkingPickler  # type: ignore[attr-defined]


def is_replaced() -> bool:
    return is_changed(current_pickler())


def is_changed(cls: Any) -> bool:
    """Is cls another class than the stdlib's, or changed?"""
    if getattr(cls, "dumps", None) is None or not isinstance(cls, type):
        return True
    names = vars(cls)
    return (
        cls.__module__ != _MODULE
        or cls.__bases__ != (Pickler,)
        or not _INHERITED.isdisjoint(names)
        or not _is_stdlibs(names.get("__init__"))
        or not _is_stdlibs(getattr(names.get("dumps"), "__func__", None))
        or names.get("loads") is not loads
        or any(names.get(name) is not table for name, table in _TABLES.items())
    )


def _is_stdlibs(function: Any) -> bool:
    return getattr(function, "__module__", None) == _MODULE


class _Replaced:
    """What the program's pickler made, in a pickle that loads it by the program's pickler."""

    def __init__(self, data: bytes) -> None:
        self.data = data

    def __reduce__(self) -> tuple[Any, ...]:
        return replaced_loads, (self.data,)


def replaced_dumps(obj: object) -> bytes:
    return pickle.dumps(_Replaced(bytes(current_pickler().dumps(obj))), 5)


def replaced_loads(data: bytes) -> Any:
    return current_pickler().loads(data)
