"""Values that are sent over the network: a pickle, and its large buffers separately."""

from __future__ import annotations

import pickle
from collections.abc import Iterable, Sequence

from .._base.stdlib import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import Any

__all__ = ["Frames", "dumps", "dumps_callable", "loads", "size_of"]

# Buffers of this many bytes or more are sent next to the message, without a copy into it.
LARGE = 64 << 10

# What pickle raises for objects that cloudpickle may be able to pickle.
_REFUSED = (pickle.PicklingError, AttributeError, TypeError)


def _by_value(obj: object, buffers: list[Any] | None, reason: BaseException | None) -> bytes:
    """Pickle with cloudpickle.

    If that fails in the same way as plain pickle, raise `reason`, the error of plain pickle.
    Another error says more: plain pickle may only have missed a name in another `__main__`.
    """
    import cloudpickle

    callback = None
    if buffers is not None:
        buffers.clear()
        callback = buffers.append
    try:
        return bytes(cloudpickle.dumps(obj, 5, buffer_callback=callback))
    except Exception as exc:
        if reason is None or type(exc) is not type(reason):
            raise
        raise reason from None


def _dump(obj: object, buffers: list[Any] | None) -> bytes:
    try:
        data = pickle.dumps(obj, 5, buffer_callback=None if buffers is None else buffers.append)
    except _REFUSED as exc:
        return _by_value(obj, buffers, exc)
    return _by_value(obj, buffers, None) if b"__main__" in data else data


def dumps(obj: object) -> tuple[bytes, list[Any]]:
    """A pickle, and the buffers of arrays in it as `PickleBuffer` objects.

    Classes and functions of the program's `__main__`, lambdas and closures are pickled by value:
    the nodes have another `__main__`.
    """
    buffers: list[Any] = []
    return _dump(obj, buffers), buffers


def dumps_callable(func: object) -> bytes:
    """A pickle of a callable, without separate buffers."""
    return _dump(func, None)


def loads(data: Any, buffers: Iterable[Any] = ()) -> Any:
    """The value that `dumps` pickled. Arrays use the given buffers, without a copy."""
    return pickle.loads(data, buffers=buffers)


def size_of(buffer: Any) -> int:
    """The number of bytes of a bytes-like object."""
    return len(buffer) if type(buffer) in (bytes, bytearray) else memoryview(buffer).nbytes


class Frames:
    """Bytes-like objects in a dask message, which dask does not look into.

    Large ones become separate frames of the message, which neither sender nor scheduler copies.
    """

    __slots__ = ("parts",)

    def __init__(self, parts: Sequence[Any]) -> None:
        self.parts = parts

    def __reduce__(self) -> tuple[Any, ...]:
        parts = [
            pickle.PickleBuffer(part) if size_of(part) >= LARGE else bytes(part)
            for part in self.parts
        ]
        return Frames, (parts,)

    @property
    def nbytes(self) -> int:
        """The number of bytes; dask reads this to measure messages."""
        return sum(map(size_of, self.parts))
