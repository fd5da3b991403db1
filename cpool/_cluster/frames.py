"""Values that are sent over the network: a pickle, and its large buffers separately."""

from __future__ import annotations

import pickle
import sys
from collections.abc import Callable, Iterable, Sequence

from .._base.stdlib import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import Any

__all__ = ["Frames", "dumps", "dumps_callable", "for_pool", "loads", "size_of"]

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

    if buffers is not None:
        buffers.clear()
    try:
        return bytes(cloudpickle.dumps(obj, 5, buffer_callback=_taker(buffers)))
    except Exception as exc:
        if reason is None or type(exc) is not type(reason):
            raise
        raise reason from None


def _is_array(obj: object) -> bool:
    kind = getattr(sys.modules.get("numpy"), "ndarray", None)
    return kind is not None and isinstance(obj, kind)


def _taker(buffers: list[Any] | None) -> Callable[[Any], bool] | None:
    """What pickle calls with each buffer: it takes the large arrays, others stay in the pickle.

    An array is made anew of whatever arrives. Other classes get what they have sent as bytes or as
    a bytearray only if it is in the pickle.
    """
    if buffers is None:
        return None

    def take(buffer: Any) -> bool:
        view = memoryview(buffer)
        if view.nbytes < LARGE or not _is_array(view.obj):
            return True
        buffers.append(buffer)
        return False

    return take


def _dump(obj: object, buffers: list[Any] | None) -> bytes:
    try:
        data = pickle.dumps(obj, 5, buffer_callback=_taker(buffers))
    except _REFUSED as exc:
        return _by_value(obj, buffers, exc)
    return _by_value(obj, buffers, None) if b"__main__" in data else data


def dumps(obj: object) -> tuple[bytes, list[Any]]:
    """A pickle, and the large buffers of arrays in it as `PickleBuffer` objects.

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


def for_pool(buffer: Any) -> Any:
    """A buffer as the object that a pool passes on with the fewest copies.

    That is, for a large one, an array of numpy, which arrives as a view of shared memory; where
    numpy is not imported, arrays are not the program's either.
    """
    numpy: Any = sys.modules.get("numpy")
    if numpy is None or size_of(buffer) < LARGE:
        return pickle.PickleBuffer(buffer) if type(buffer) is memoryview else buffer
    view = memoryview(buffer)
    array: Any = view.obj
    if type(array) is not numpy.ndarray or not array.flags.forc or array.nbytes != view.nbytes:
        return numpy.frombuffer(pickle.PickleBuffer(view).raw(), numpy.uint8)
    # A view of the array: what `cpool.empty()` made, or the task was given, is not copied.
    return array.reshape(-1, order="A").view(numpy.uint8)


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
