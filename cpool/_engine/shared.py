"""`SharedObject`, which `Pool.share()` returns, and its use in tasks of threads."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from itertools import count
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
_UNPICKLED = (
    "what Pool.share() returns can only be given to tasks of its pool: it cannot be pickled"
)
_FOREIGN = "this was made by share() of another pool: each pool needs a share() of its own"


class SharedObject(Generic[T]):
    """A handle for an object that all workers of a pool share; `Pool.share()` makes it.

    Passed to a task of that pool, inside any argument, it arrives there as the object itself. A
    context manager: leaving the `with` block calls `close()`.
    """

    __module__ = "cpool"

    __slots__ = ("__weakref__", "_closed", "_closed_at", "_core", "_has_obj", "_obj", "_owner")

    def __init__(self, core: _core.Share | None, obj: Any = None, owner: object = None) -> None:
        self._core: Any = core  # None: for threads
        self._obj = obj
        self._owner = owner  # stands for the pool, if its tasks run in this process
        self._has_obj = core is None
        self._closed = False
        self._closed_at = 0

    @property
    def obj(self) -> T:
        """The object as tasks see it, loaded from the shared memory at the first access.

        Pages that this process writes to are copied for it, as for each worker. With threads and in
        a serial pool this is the object that was passed to `share()`. Raises `ValueError` after
        `close()`.
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
        """How many bytes of shared memory it takes (an int): 0 with threads and after `close()`."""
        return 0 if self._closed or self._core is None else self._core.nbytes

    @property
    def _number(self) -> int:
        number: int = self._core.number
        return number

    def close(self) -> None:
        """Free the shared memory, once tasks that were submitted with it have ended. Idempotent.

        Also called when the last reference to the handle is dropped. Parts of the object that a
        task keeps (an array, say) stay valid as long as the task's process keeps them.
        """
        if not self._closed:
            self._closed, self._closed_at = True, next(_moments)
        if self._core is not None:
            self._obj, self._has_obj = None, False
            self._core.close()  # calls that are not encoded yet still find it

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
            raise ValueError(_CLOSED if self._closed else _UNPICKLED)
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

# Orders the moments when handles are closed and calls are submitted.
_moments = count(1)

# How deep `Resolver` looks for shared objects in the arguments of a task.
_DEPTH = 16


class Resolver:
    """Replaces handles of shared objects by the objects, for one call of a pool.

    `owner` stands for the pool: handles of other pools raise `ValueError`, and so do handles that
    were closed before the call was submitted.
    """

    __slots__ = ("moment", "owner")

    def __init__(self, owner: object) -> None:
        self.owner = owner
        self.moment = next(_moments)

    def object_of(self, handle: SharedObject[Any]) -> Any:
        if handle._owner is not self.owner:
            raise ValueError(_FOREIGN)
        if handle._closed and handle._closed_at < self.moment:
            raise ValueError(_CLOSED)
        return handle._obj

    def __call__(self, value: Any, depth: int = _DEPTH) -> Any:
        """Look into lists, tuples and the values of dicts; copy those that contain a handle."""
        kind = type(value)
        if kind is SharedObject:
            return self.object_of(value)
        if depth == 0:
            return value
        if kind is list or kind is tuple:
            found = [self(item, depth - 1) for item in value]
            same = all(map(_is, found, value))
            return value if same else kind(found)
        if kind is dict:
            made = {key: self(item, depth - 1) for key, item in value.items()}
            return value if all(map(_is, made.values(), value.values())) else made
        return value


class Resolved:
    """A callable that passes shared objects, in place of their handles, to its `func`.

    A handle that is refused fails the tasks, also if it is bound to `func`.
    """

    __slots__ = ("func", "refused", "resolve")

    def __init__(self, func: Any, owner: object) -> None:
        self.resolve = resolve = Resolver(owner)
        self.func: Callable[..., Any] = func
        self.refused: str | None = None
        try:
            if type(func) is partial:
                func = partial(resolve(func.func), *resolve(func.args), **resolve(func.keywords))
            self.func = resolve(func)
        except ValueError as exc:
            self.refused = str(exc)

    def __call__(self, *args: Any, **kwds: Any) -> Any:
        if self.refused is not None:
            raise ValueError(self.refused)
        return self.func(*self.resolve(args), **self.resolve(kwds))


failures.WRAPPERS.add(Resolved)
