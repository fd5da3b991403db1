"""Support for programs that replace multiprocessing's ForkingPickler; called by the extension.

The extension pickles as the stdlib's ForkingPickler does. Recipes (for dill, for instance) replace
that class or its methods; then the pool uses the replacement for everything it sends to workers and
gets back.
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
    """The code of __new__() of named tuples with `arity` fields; only the field names differ."""
    code: CodeType = namedtuple("_", [f"f{i}" for i in range(arity)]).__new__.__code__
    return code


def pickle_of_name(module: str, name: str) -> bytes:
    """A pickle that loads the object with this name; the object need not exist here."""
    strings = [text.encode("utf-8", "surrogatepass") for text in (module, name)]
    parts = [b"X" + len(text).to_bytes(4, "little") + text for text in strings]
    return b"\x80\x04" + b"".join(parts) + b"\x93."


# The tables that the extension uses; it takes them from the class when it is imported.
_TABLES = {
    "_extra_reducers": ForkingPickler._extra_reducers,  # type: ignore[attr-defined]
    "_copyreg_dispatch_table": copyreg.dispatch_table,
}

# Names that the stdlib's class inherits or does not have.
_INHERITED = {*vars(Pickler), "reducer_override"} - {"__init__", "__doc__", "__module__"}


def current_pickler() -> Any:
    """The class that the stdlib's pool would use now.

    That pool has two picklers: the one of multiprocessing.connection in the parent, and the one of
    multiprocessing.queues in workers. A program that replaces either wants the pool to use it.
    """
    from multiprocessing import connection, queues

    cls = connection._ForkingPickler  # type: ignore[attr-defined]
    return cls if is_changed(cls) else queues._ForkingPickler  # type: ignore[attr-defined]


def is_replaced() -> bool:
    return is_changed(current_pickler())


def is_changed(cls: Any) -> bool:
    """Is cls not the stdlib's class, or was it changed?"""
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
    """Wraps the bytes of the program's pickler, so that the same pickler loads them."""

    def __init__(self, data: bytes) -> None:
        self.data = data

    def __reduce__(self) -> tuple[Any, ...]:
        return replaced_loads, (self.data,)


def replaced_dumps(obj: object) -> bytes:
    return pickle.dumps(_Replaced(bytes(current_pickler().dumps(obj))), 5)


def replaced_loads(data: bytes) -> Any:
    return current_pickler().loads(data)
