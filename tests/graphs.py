"""A key for an object graph: its values, types, orders, and which references share an object."""

from __future__ import annotations

import functools
import struct
import types
from collections import deque
from pathlib import PurePath
from typing import Any

_ATOMS = (type(None), bool, int, str, bytes, complex, range, slice, type(...), type(NotImplemented))
_NAMED = (type, types.FunctionType, types.BuiltinFunctionType)


def form(value: Any) -> Any:
    """Return a key that is equal for two graphs if and only if they cannot be told apart.

    Identity counts for everything but numbers, strings, and tuples of such.
    """
    return _form(value, {}, [])


def _of_numpy(value: Any, numbers: dict[int, int], alive: list[Any]) -> Any:
    """The key of a numpy array or scalar."""
    is_array = hasattr(value, "flags") and type(value).__name__ == "ndarray"
    if is_array:
        if id(value) in numbers:
            return "same as", numbers[id(value)]
        numbers[id(value)] = len(numbers)
        alive.append(value)
    flags = value.flags
    order = flags.c_contiguous, flags.f_contiguous, flags.writeable, flags.aligned
    if value.dtype.hasobject:
        contents = [_form(item, numbers, alive) for item in value.ravel().tolist()]
    else:
        contents = value.tobytes("A")
    shown = repr(value.dtype), str(value.dtype.metadata or None)  # numpy 1 makes it {}
    return type(value).__name__, shown, value.shape, order if is_array else None, contents


def _form(value: Any, numbers: dict[int, int], alive: list[Any]) -> Any:
    kind = type(value)
    if kind is float:
        return "float", struct.pack("d", value)
    if kind in _ATOMS:
        return kind.__name__, repr(value)
    if kind.__module__ == "numpy" and hasattr(value, "dtype"):
        return _of_numpy(value, numbers, alive)
    if isinstance(value, _NAMED) and getattr(value, "__self__", None).__class__ is not list:
        return "named", value.__module__, value.__qualname__
    plain = kind is tuple and all(type(item) in (*_ATOMS, float) for item in value)
    if not plain:
        if id(value) in numbers:
            return "same as", numbers[id(value)]
        numbers[id(value)] = len(numbers)
        alive.append(value)

    def inner(part: Any) -> Any:
        return _form(part, numbers, alive)

    parts: list[Any] = [kind.__module__, kind.__qualname__]
    if isinstance(value, types.MethodType):
        return [*parts, inner(value.__self__), value.__name__]
    if kind is functools.partial:
        parts += [inner(value.func), inner(value.args), inner(value.keywords)]
    if isinstance(value, (list, tuple, deque)):
        parts += map(inner, value)
    elif isinstance(value, dict):
        parts += [(inner(key), inner(item)) for key, item in dict.items(value)]
    elif isinstance(value, (set, frozenset)):
        parts += sorted((inner(item) for item in value), key=repr)
    elif isinstance(value, BaseException):
        parts.append(inner(value.args))
    elif kind.__module__ in ("datetime", "decimal", "uuid", "fractions", "numpy", "builtins"):
        parts.append(repr(value))
    elif isinstance(value, PurePath):
        return [*parts, str(value), value.parts]  # what it has found out already is its own
    parts.append(inner(getattr(value, "__dict__", None)))
    for cls in kind.__mro__:
        for name in getattr(cls, "__slots__", ()):
            if name not in ("__dict__", "__weakref__") and isinstance(
                vars(cls).get(name), types.MemberDescriptorType
            ):
                parts.append((name, inner(getattr(value, name, "nothing"))))
    return parts
