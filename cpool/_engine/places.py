"""Which worker runs a call: `worker=` and `key=`."""

from __future__ import annotations

import operator
import threading
from collections.abc import Hashable

from .._base.stdlib import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import Any

# So many keys are remembered, and spread evenly over the workers; later keys are placed by their
# hash.
_MOST_KEYS = 1 << 16

NO_KEY: Any = object()


def check_worker(worker: Any, processes: int) -> int:
    """Return the index as an int; `TypeError` or `ValueError` if it is not that of a worker."""
    index = operator.index(worker)
    if not 0 <= index < processes:
        raise ValueError(f"worker must be from 0 to {processes - 1}, not {worker!r}")
    return index


class Keys:
    """Maps keys to workers, by index: the replacement of a dead worker gets its keys."""

    def __init__(self) -> None:
        self._places: dict[Hashable, int] = {}
        self._numbers: list[int] = []  # how many keys each worker has
        self._lock = threading.Lock()

    def place(self, key: Hashable, processes: int) -> int:
        """The index of the worker for calls with this key; `TypeError` for an unhashable one."""
        with self._lock:
            index = self._places.get(key)
            if index is not None and index < processes:
                return index
            numbers = self._numbers
            if len(numbers) != processes:
                # Keys of removed workers are placed again when they are next used.
                gone = [each for each, at in self._places.items() if at >= processes]
                for each in gone:
                    del self._places[each]
                numbers[:] = numbers[:processes] + [0] * (processes - len(numbers))
            if len(self._places) >= _MOST_KEYS:
                return hash(key) % processes
            index = numbers.index(min(numbers))
            numbers[index] += 1
            self._places[key] = index
            return index
