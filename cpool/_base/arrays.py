"""`empty()`: arrays that a task hands over as its result, without a copy."""

from __future__ import annotations

from .stdlib import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import Any

__all__ = ["empty"]


def empty(shape: Any, dtype: Any = float, order: str = "C") -> Any:
    """Return a new `numpy.ndarray` with any contents, which a task can return without a copy.

    `shape` (an int or a tuple of ints), `dtype` and `order` ("C" or "F") are those of
    `numpy.empty()`, and the array is like any other. In a task of a `Pool`, the data of an array
    of 128 KiB or more lie in the memory that the worker shares with the parent. If the task
    returns the array, or a contiguous view of half of it or more, anywhere in its result, nothing
    is copied, as long as the worker keeps no other reference to the array; otherwise it is copied
    once, as other arrays are. The memory is allocated at once, not when it is first written to.

    Everywhere else, in other threads than that of the task, and when the pool's
    `shared_memory_limit` is reached, this is `numpy.empty()`. Raises what `numpy.empty()` raises,
    and `ModuleNotFoundError` without numpy.
    """
    import numpy

    try:
        from .._core import _empty
    except ModuleNotFoundError:  # there is no extension: see _program/fallback.py
        return numpy.empty(shape, dtype, order)  # type: ignore[call-overload]
    return _empty(numpy.empty, shape, dtype, order)
