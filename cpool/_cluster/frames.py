"""Values on their way over the network: a pickle, and its large buffers beside it."""

from __future__ import annotations

import pickle
from collections.abc import Iterable, Sequence

from .._base.stdlib import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import Any

__all__ = ["Frames", "dumps", "dumps_callable", "loads", "size_of"]

# Bytes of this length or more travel beside a message, without a copy into it.
LARGE = 64 << 10

# What plain pickle raises for what cloudpickle may be able to pickle.
_REFUSED = (pickle.PicklingError, AttributeError, TypeError)


def _by_value(obj: object, buffers: list[Any] | None, reason: BaseException | None) -> bytes:
    """Pickle by cloudpickle; raise the reason why plain pickle refused, if cloudpickle does too."""
    import cloudpickle

    callback = None
    if buffers is not None:
        buffers.clear()
        callback = buffers.append
    try:
        return bytes(cloudpickle.dumps(obj, 5, buffer_callback=callback))
    except Exception as exc:
        if reason is None:
            raise
        raise reason from (exc if type(exc) not in _REFUSED else None)


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
    """A pickle of a callable, in one piece."""
    return _dump(func, None)


def loads(data: Any, buffers: Iterable[Any] = ()) -> Any:
    """The value that `dumps` pickled. Arrays use the given buffers, without a copy."""
    return pickle.loads(data, buffers=buffers)


def size_of(buffer: Any) -> int:
    """The number of bytes of a bytes-like object."""
    return len(buffer) if type(buffer) in (bytes, bytearray) else memoryview(buffer).nbytes


class Frames:
    """Bytes-like objects in a message of dask's: it does not look into them.

    Large ones become frames of the message, which neither the sender nor the scheduler copies.
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
        """The number of bytes; dask measures its messages by this."""
        return sum(map(size_of, self.parts))
