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

        `fail_fast` (bool, False): the first item that fails ends the call. What no worker has begun
        is withdrawn, and the exception is raised at once, not when the last chunk is done; the
        results of what runs are dropped. An iterator gives the results before the failure that are
        there, then raises it, and ends.
        """

        fail_fast: bool
        return_exceptions: bool
else:
    # So that tools can evaluate the annotations of public methods, without an import of typing.
    Any = CallOptions = object
    Unpack = {object: object}

__all__ = ["CallOptions", "Unpack", "check", "refuse"]

# The engine's flags.
_RETURN_EXCEPTIONS = 0x1
_FAIL_FAST = 0x2

NAMES = frozenset(("fail_fast", "return_exceptions"))


def check(options: CallOptions) -> int | None:
    """The options in the engine's form; None where nothing is asked for.

    Raises `TypeError` for a name that is no option, `ValueError` for options that exclude each
    other.
    """
    _check_names(options)
    flags = 0
    if options.get("return_exceptions"):
        flags |= _RETURN_EXCEPTIONS
    if options.get("fail_fast"):
        if flags & _RETURN_EXCEPTIONS:
            raise ValueError("fail_fast raises the first exception, return_exceptions raises none")
        flags |= _FAIL_FAST
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
