"""Sends functions and classes that workers do not have by value, once for each version.

Pickling by value takes a hundred microseconds and more. So a pool keeps each pickle, together with
the parts of the callable: code, defaults, closure, and the globals that the code names. As long as
all parts are the same objects, the pool sends the same bytes, and each worker loads them once. A
function that refers to a mutable object, such as a list, is pickled for each call of the pool's
methods (never for each item).

A class of the main module that is sent by value gets its name in the main module of the worker.
From then on its instances are pickled by that name in both directions, and `isinstance` works in
both processes.
"""

from __future__ import annotations

import io
import sys
import weakref
from collections.abc import Callable
from functools import partial
from types import (
    BuiltinFunctionType,
    CodeType,
    FunctionType,
    GetSetDescriptorType,
    MemberDescriptorType,
    MethodDescriptorType,
    ModuleType,
    WrapperDescriptorType,
)

from .failures import WRAPPERS
from .handlers import being_handled, is_from_handler
from .stdlib import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import Any

# What is known of a callable that is sent by value. CHANGES: nothing. STAYS: it does not change
# during one call of the pool. IS_KEPT: nor before later calls. The extension has the same numbers.
CHANGES, STAYS, IS_KEPT = 0, 1, 2

_MOST = 32  # callables whose pickles are kept
_LONGEST = 16384  # bytes of one pickle; BY_VALUE_MAX in core/pool/func.c

_MISSING: Any = object()
_PLAIN = (bool, bytes, complex, float, int, str, type(None))
_IN_C = (
    BuiltinFunctionType,
    GetSetDescriptorType,
    MemberDescriptorType,
    MethodDescriptorType,
    WrapperDescriptorType,
)
# Class attributes that the interpreter or dataclasses maintain.
_OF_CLASSES = frozenset(
    "__abstractmethods__ _abc_impl __annotations__ __annotations_cache__ __annotate__"
    " __annotate_func__ __dataclass_fields__ __dataclass_params__ __dict__ __weakref__".split()
)
_GLOBAL_OPS = frozenset(("LOAD_GLOBAL", "STORE_GLOBAL", "DELETE_GLOBAL"))


def _is_variable(kind: Any) -> bool:
    """Is it the class of context variables? Few programs need contextvars: not imported here."""
    found = sys.modules.get("contextvars")
    return found is not None and kind is found.ContextVar


def names_of_main() -> dict[str, Any]:
    """The functions, classes and context variables of the main module now. A worker that is forked
    now has the same."""
    names = vars(sys.modules["__main__"]) if "__main__" in sys.modules else {}
    found: dict[str, Any] = {}
    for name, value in list(names.items()):
        if type(value) is FunctionType:
            found[name] = (value.__code__, value.__defaults__, value.__kwdefaults__)
        elif issubclass(type(value), type):
            found[name] = weakref.ref(value)
        elif _is_variable(type(value)):
            found[name] = value
    return found


def _are_same(one: Any, two: Any) -> bool:
    """Are these defaults of a function the same? Runs no code of the program."""
    if one is two or type(one) is not type(two):
        return one is two
    if type(one) is tuple:
        return len(one) == len(two) and all(map(_are_same, one, two))
    return type(one) in _PLAIN and repr(one) == repr(two)


def _main_has(value: Any) -> bool:
    main = sys.modules.get("__main__")
    return main is not None and vars(main).get(value.__qualname__) is value


def _content(cell: Any) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # it is empty
        return _MISSING


def _is_found(value: Any) -> bool:
    """Can the value be found by name in a module other than the main module?"""
    module, name = value.__module__, value.__qualname__
    if type(module) is not str or module == "__main__" or type(name) is not str:
        return False
    found: Any = sys.modules.get(module)
    for part in name.split("."):
        found = getattr(found, part, None)
    return found is value


def _mark(value: Any) -> Any:
    """A key for the value: equal values have equal keys. None if the value cannot have a key."""
    kind = type(value)
    if kind in _PLAIN:
        return kind, repr(value)
    if kind is FunctionType or issubclass(kind, type):
        return kind, id(value)
    if kind is partial:
        items = value.func, value.args, *value.keywords.items()
        return None if vars(value) else (kind, _mark(items))
    if kind in WRAPPERS:
        return kind, _mark(value.__reduce__()[1])
    if kind is not tuple:
        return None
    marks = tuple(map(_mark, value))
    return None if None in marks else (kind, marks)


class _Version:
    """The parts that a callable had when this was made, for later comparison."""

    def __init__(self, func: Any, has_class: Callable[[Any], bool]) -> None:
        self._has_class = has_class
        self._seen: dict[int, Any] = {}  # by id(); keeps the objects alive
        self._names: list[tuple[Any, str, Any]] = []  # a mapping, a name in it, its value
        self._sizes: list[tuple[Any, int]] = []  # a mapping, and how many names it has
        self._functions: list[tuple[Any, Any, Any, Any]] = []
        self._cells: list[tuple[Any, Any]] = []
        self.is_whole = self._add(func)  # can every part be compared?

    def is_current(self) -> bool:
        for names, name, value in self._names:
            if names.get(name, _MISSING) is not value:
                return False
        for names, size in self._sizes:
            if len(names) != size:
                return False
        for func, code, defaults, kwdefaults in self._functions:
            if (
                func.__code__ is not code
                or func.__defaults__ is not defaults
                or func.__kwdefaults__ is not kwdefaults
            ):
                return False
        return all(_content(cell) is content for cell, content in self._cells)

    def _add(self, value: Any) -> bool:
        """Record the parts of the value. False: some part cannot be compared."""
        kind: Any = type(value)
        if kind in _PLAIN or kind in _IN_C or id(value) in self._seen:
            return True
        self._seen[id(value)] = value
        if kind is ModuleType or _is_variable(kind):
            return True
        if kind is tuple or kind is frozenset:
            return all(self._add(each) for each in value)
        if kind is FunctionType:
            return _is_found(value) or self._add_function(value)
        if issubclass(kind, type):
            return _is_found(value) or self._has_class(value) or self._add_class(value)
        if kind is partial:
            parts = [value.func, value.args, *value.keywords.values()]
            return all(self._add(each) for each in parts) and not vars(value)
        if kind in WRAPPERS:
            return self._add(value.__reduce__()[1])
        if kind is staticmethod or kind is classmethod:
            return self._add(value.__func__)
        if kind is property:
            return all(self._add(each) for each in (value.fget, value.fset, value.fdel))
        return False

    def _add_function(self, func: Any) -> bool:
        code, defaults, kwdefaults = func.__code__, func.__defaults__, func.__kwdefaults__
        self._functions.append((func, code, defaults, kwdefaults))
        whole = self._add(defaults)
        if kwdefaults is not None:
            whole &= self._add_names(kwdefaults)
        whole &= self._add_names(func.__dict__)
        for cell in func.__closure__ or ():
            content = _content(cell)
            self._cells.append((cell, content))
            whole &= content is _MISSING or self._add(content)
        for name in _globals_of(code):
            value = func.__globals__.get(name, _MISSING)
            self._names.append((func.__globals__, name, value))
            whole &= value is _MISSING or self._add(value)
        return whole

    def _add_names(self, names: Any, ignored: frozenset[str] = frozenset()) -> bool:
        whole = True
        self._sizes.append((names, len(names)))
        for name, value in list(names.items()):
            if name not in ignored:
                self._names.append((names, name, value))
                whole &= self._add(value)
        return whole

    def _add_class(self, cls: Any) -> bool:
        whole = self._add_names(vars(cls), _OF_CLASSES)
        if type(cls) is not type:
            whole &= self._add(type(cls))
        return whole & self._add(cls.__bases__)


def _globals_of(code: CodeType) -> set[str]:
    """The names of globals in the code, and in the functions and classes that the code defines."""
    import dis  # cloudpickle needs it, too

    found = {op.argval for op in dis.get_instructions(code) if op.opname in _GLOBAL_OPS}
    for const in code.co_consts:
        if type(const) is CodeType:
            found |= _globals_of(const)
    return found


def receive(func: Any, classes: list[Any]) -> Any:
    """In a worker: give the classes their names in the main module."""
    main = sys.modules.get("__main__")
    if main is not None:
        for cls in classes:
            setattr(main, cls.__qualname__, cls)
    return func


def find(name: str) -> Any:
    """In a worker: look the name up in the main module."""
    return vars(sys.modules["__main__"])[name]


class _Received:
    """Pickles as a callable along with classes."""

    def __init__(self, func: Any, classes: list[Any]) -> None:
        self.parts = func, classes

    def __reduce__(self) -> tuple[Any, ...]:
        return receive, self.parts


class Sender:
    """The callables that a pool sends by value.

    `known`: the result of `names_of_main()`, which workers have in their main module. None: workers
    have what the main module's file defines.
    """

    def __init__(self, known: dict[str, Any] | None) -> None:
        self._known = known
        self._kept: dict[Any, tuple[Any, _Version, bytes]] = {}

    def dump_unknown(self, func: Any) -> tuple[bytes, int] | None:
        """Pickle a callable by value if the main module defined or changed it after the workers
        started, or if its pickle is kept. Returns the pickle, and CHANGES, STAYS or IS_KEPT. None:
        workers have the same callable, cloudpickle is missing, or the caller is to try pickle by
        name first."""
        key = _mark(func)
        found = self._kept.get(key) if key is not None else None
        if found is not None and found[1].is_current():
            return found[2], IS_KEPT
        if self._known is None or not self._is_unknown(func, self._known):
            return None
        try:
            import cloudpickle  # noqa: F401
        except ImportError:
            return None
        data, known = self._dump(func, key)
        return data, max(known, STAYS)

    def dump_callable(self, func: Callable[..., Any], exc: BaseException) -> tuple[bytes, int]:
        """Pickle a callable by value, after plain pickle raised exc. Returns what `dump_unknown()`
        does."""
        try:
            import cloudpickle  # noqa: F401
        except ImportError:
            exc.add_note("cpool sends lambdas and closures if cloudpickle is installed")
            raise exc from None
        before = being_handled()
        try:
            return self._dump(func, _mark(func))
        except Exception as reason:
            if is_from_handler(reason, before):
                raise
            raise exc from None

    def _is_unknown(self, func: Any, known: dict[str, Any]) -> bool:
        """Does func, or what it wraps, differ from what workers have under its name?"""
        kind: Any = type(func)
        if kind is partial or kind in WRAPPERS:
            return self._is_unknown(func.func, known)
        is_class = issubclass(kind, type)
        if (kind is not FunctionType and not is_class) or func.__module__ != "__main__":
            return False
        if not _main_has(func):
            return False  # it cannot be pickled by name at all
        found = known.get(func.__qualname__)
        if is_class:
            return not self._has_class(func)
        if type(found) is not tuple:
            return True
        code, defaults, kwdefaults = found
        return not (
            code == func.__code__
            and _are_same(defaults, func.__defaults__)
            and _are_same(
                None if kwdefaults is None else tuple(kwdefaults.items()),
                None if func.__kwdefaults__ is None else tuple(func.__kwdefaults__.items()),
            )
        )

    def _has_class(self, cls: Any) -> bool:
        """Do workers find this class of the main module by its name?"""
        found = None if self._known is None else self._known.get(cls.__qualname__)
        return type(found) is weakref.ref and found() is cls and _main_has(cls)

    def _dump(self, func: Any, key: Any) -> tuple[bytes, int]:
        version = _Version(func, self._has_class)
        data = self._pickle(func)
        if not version.is_whole or _by_value_modules():
            return data, STAYS if type(func) is FunctionType else CHANGES
        if key is None or len(data) > _LONGEST:
            return data, STAYS
        if len(self._kept) >= _MOST:
            self._kept.clear()
        self._kept[key] = func, version, data
        return data, IS_KEPT

    def _pickle(self, func: Any) -> bytes:
        import cloudpickle

        has_class, known = self._has_class, self._known or {}
        classes: list[Any] = []

        class Pickler(cloudpickle.CloudPickler):  # type: ignore[misc]
            def reducer_override(self, obj: Any) -> Any:
                if issubclass(type(obj), type) and obj.__module__ == "__main__":
                    if has_class(obj):
                        return obj.__qualname__
                    if _main_has(obj):
                        classes.append(obj)
                elif _is_variable(type(obj)):  # which cannot be pickled
                    for name, value in known.items():
                        if value is obj:
                            return find, (name,)
                return super().reducer_override(obj)

        file = io.BytesIO()
        Pickler(file, 5).dump(func)
        if classes:
            file = io.BytesIO()
            Pickler(file, 5).dump(_Received(func, classes.copy()))
        return file.getvalue()


def _by_value_modules() -> bool:
    """Has the program registered modules with cloudpickle? Their changes cannot be noticed."""
    import cloudpickle

    return bool(cloudpickle.list_registry_pickle_by_value())
