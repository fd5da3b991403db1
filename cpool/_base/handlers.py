"""Exceptions that signal handlers raise in the middle of other code."""

from __future__ import annotations

import itertools
import sys
import threading
from collections.abc import Iterator
from types import FrameType, TracebackType

from .stdlib import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import Any

_VARARGS = 0x04  # inspect.CO_VARARGS; importing inspect takes too long


def _arguments(frame: FrameType) -> list[Any]:
    """The positional arguments of a call, unless the function has rebound its parameters."""
    code, variables = frame.f_code, frame.f_locals
    found = [variables.get(name) for name in code.co_varnames[: code.co_argcount]]
    if code.co_flags & _VARARGS:
        rest = variables.get(code.co_varnames[code.co_argcount + code.co_kwonlyargcount])
        found += rest if type(rest) is tuple else ()
    return found


def _is_handler(frame: FrameType) -> bool:
    """Was this function called with a signal's number and its own caller's frame?"""
    found = _arguments(frame)
    return any(
        isinstance(number, int) and interrupted is frame.f_back is not None
        for number, interrupted in itertools.pairwise(found)
    )


def _frames(traceback: TracebackType | None) -> Iterator[FrameType]:
    while traceback is not None:
        yield traceback.tb_frame
        traceback = traceback.tb_next


def being_handled() -> BaseException | None:
    """The exception whose `except` block the caller runs in, or None."""
    return sys.exc_info()[1]


def is_from_handler(exc: BaseException, before: BaseException | None) -> bool:
    """Did a signal handler raise this exception, or one in its chain of causes and contexts?

    A handler may raise in the middle of any code of an object. Such an exception says nothing about
    the object. Handlers run on the main thread only. `before` is the exception that was being
    handled before that code began; it is the context of whatever the code raises, and is not
    examined.
    """
    if threading.get_ident() != threading.main_thread().ident:
        return False
    seen = {id(None), id(before)}
    left: list[BaseException | None] = [exc]
    while left:
        one = left.pop()
        if one is None or id(one) in seen:
            continue
        seen.add(id(one))
        if any(map(_is_handler, _frames(one.__traceback__))):
            return True
        left += one.__context__, one.__cause__
    return False
