"""What a call may ask for beyond multiprocessing's parameters: names, checks, the engine's form."""

from __future__ import annotations

from .._base.stdlib import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import Any, TypedDict, Unpack

    class CallOptions(TypedDict, total=False):
        """The keyword-only options that every submitting method takes.

        `return_exceptions` (bool, False): the exceptions of items stand among the results instead
        of being raised, as in `asyncio.gather`. What a call fails with as a whole is raised all the
        same: what its iterable raises, or the end of the pool.
        """

        return_exceptions: bool
else:
    # So that tools can evaluate the annotations of public methods, without an import of typing.
    Any = CallOptions = object
    Unpack = {object: object}

__all__ = ["CallOptions", "Unpack", "check", "refuse"]

# The engine's flags.
_RETURN_EXCEPTIONS = 0x1

NAMES = frozenset(("return_exceptions",))


def check(options: CallOptions) -> int | None:
    """The options in the engine's form; None where nothing is asked for.

    Raises `TypeError` for a name that is no option.
    """
    _check_names(options)
    flags = _RETURN_EXCEPTIONS if options.get("return_exceptions") else 0
    return flags or None


def refuse(options: CallOptions) -> None:
    """Raise for options of a call whose pool runs on the standard library's engine."""
    _check_names(options)
    for name in options:
        raise ValueError(f"{name} needs a pool that runs on cpool's engine")


def _check_names(options: CallOptions) -> None:
    for name in options:
        if name not in NAMES:
            raise TypeError(f"unexpected keyword argument {name!r}")
