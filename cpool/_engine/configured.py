"""`pool.options()`: a pool with defaults for the options of its calls."""

from __future__ import annotations

from collections.abc import Callable

from .._base.stdlib import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import Any

    from .options import CallOptions

_SUBMITTING = frozenset(
    """
    apply apply_async map map_async starmap starmap_async imap imap_unordered istarmap
    istarmap_unordered broadcast broadcast_async stream flatmap flatmap_unordered
    """.split()
)


class ConfiguredPool:
    """A proxy for a pool, whose calls have these options as defaults."""

    def __init__(self, pool: Any, options: CallOptions) -> None:
        object.__setattr__(self, "_ConfiguredPool__pool", pool)
        object.__setattr__(self, "_ConfiguredPool__options", options)

    @property
    def __class__(self) -> Any:  # for isinstance(), as in weakref.proxy
        return type(self.__pool)

    @__class__.setter
    def __class__(self, cls: Any) -> None:
        raise TypeError("the class of a configured pool cannot be changed")

    def __getattr__(self, name: str) -> Any:
        found = getattr(self.__pool, name)
        return self.__with_options(found) if name in _SUBMITTING else found

    def __with_options(self, method: Callable[..., Any]) -> Callable[..., Any]:
        options = self.__options

        def call(*args: Any, **kwds: Any) -> Any:
            return method(*args, **{**options, **kwds})

        call.__name__, call.__doc__ = method.__name__, method.__doc__
        return call

    def options(self, **options: Any) -> ConfiguredPool:
        """The same pool, with these options in addition."""
        found: ConfiguredPool = self.__pool.options(**{**self.__options, **options})
        return found

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self.__pool, name, value)

    def __delattr__(self, name: str) -> None:
        delattr(self.__pool, name)

    def __dir__(self) -> list[str]:
        return dir(self.__pool)

    def __enter__(self) -> ConfiguredPool:
        self.__pool.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self.__pool.__exit__(*error)

    def __eq__(self, other: object) -> bool:
        return self is other or self.__pool == other

    def __hash__(self) -> int:
        return hash(self.__pool)

    def __repr__(self) -> str:
        shown = ", ".join(f"{name}={value!r}" for name, value in self.__options.items())
        return f"<{self.__pool!r} with {shown}>"

    def __reduce__(self) -> Any:
        return self.__pool.__reduce__()
