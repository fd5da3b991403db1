"""What `Pool.share()` returns, and how tasks of threads find the object in it."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from operator import is_ as _is
from typing import Generic, TypeVar

from .._base import failures
from .._base.stdlib import TYPE_CHECKING

if TYPE_CHECKING:
    from types import TracebackType
    from typing import Any

    from .. import _core

T = TypeVar("T")

_CLOSED = "the shared object is closed"
_FOREIGN = "what Pool.share() returns can only be given to tasks of its pool: it cannot be pickled"


class SharedObject(Generic[T]):
    """An object that all workers of a pool share; made by `Pool.share()`.

    Given to a task of that pool, within anything, it is the object there. Usable as a context
    manager, which closes it.
    """

    __module__ = "cpool"

    __slots__ = ("__weakref__", "_closed", "_core", "_has_obj", "_obj")

    def __init__(self, core: _core.Share | None, obj: Any = None) -> None:
        self._core: Any = core  # None: the tasks get the object itself, or it is closed
        self._obj = obj
        self._has_obj = core is None
        self._closed = False

    @property
    def obj(self) -> T:
        """The object as the tasks see it: read from the shared memory when it is asked for first.

        Like each worker, this process has its own copy of what it writes to. With threads and in a
        serial pool it is the object that was given to `share()`. `ValueError` once it is closed.
        """
        if self._closed:
            raise ValueError(_CLOSED)
        if not self._has_obj:
            self._obj = self._core.load()
            self._has_obj = True
        found: T = self._obj
        return found

    @property
    def nbytes(self) -> int:
        """How many bytes of shared memory it takes: 0 with threads, and once it is closed."""
        return 0 if self._core is None else self._core.nbytes

    @property
    def _number(self) -> int:
        number: int = self._core.number
        return number

    def close(self) -> None:
        """Free it, as soon as the tasks that were submitted with it have ended. Idempotent.

        Happens by itself when the last reference to it is dropped. What a task has kept of the
        object (an array, say) stays valid as long as it is kept.
        """
        self._closed = True
        core, self._core = self._core, None
        if core is not None:
            self._obj, self._has_obj = None, False
            core.close()

    def __enter__(self) -> SharedObject[T]:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        exc: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        self.close()

    def __reduce__(self) -> Any:
        if self._core is None:
            raise ValueError(_CLOSED if self._closed else _FOREIGN)
        return self._core.use(self)

    def __copy__(self) -> SharedObject[T]:
        return self

    def __deepcopy__(self, memo: object) -> SharedObject[T]:
        return self

    def __repr__(self) -> str:
        if self._closed:
            return "<cpool.SharedObject, closed>"
        if self._core is not None:
            return f"<cpool.SharedObject of {self._core.nbytes} bytes>"
        return f"<cpool.SharedObject of a {type(self._obj).__name__}>"


# ---- tasks in this process ----

# Deeper than this nobody looks for a shared object in the arguments of a task.
_DEPTH = 16


def resolved(value: Any, depth: int = _DEPTH) -> Any:
    """The value with the objects in place of their handles.

    Those that stand in it or in lists, tuples and dicts in it, which are copied where some do.
    """
    kind = type(value)
    if kind is SharedObject:
        return value._obj
    if depth == 0:
        return value
    if kind is list or kind is tuple:
        found = [resolved(item, depth - 1) for item in value]
        same = all(map(_is, found, value))
        return value if same else kind(found)
    if kind is dict:
        made = {key: resolved(item, depth - 1) for key, item in value.items()}
        return value if all(map(_is, made.values(), value.values())) else made
    return value


class Resolved:
    """A callable that gets the shared objects in place of their handles."""

    __slots__ = ("func",)

    def __init__(self, func: Any) -> None:
        if type(func) is partial:
            func = partial(resolved(func.func), *resolved(func.args), **resolved(func.keywords))
        self.func: Callable[..., Any] = resolved(func)

    def __call__(self, *args: Any, **kwds: Any) -> Any:
        return self.func(*resolved(args), **resolved(kwds))


failures.WRAPPERS.add(Resolved)
