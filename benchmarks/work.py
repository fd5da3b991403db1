"""The functions that the workers run.

This module imports nothing else of the package, because with spawn every worker imports it.
"""

import contextlib
import enum
import functools
import importlib
import sys
import time
import zlib
from collections.abc import Iterator
from typing import Any


def double(number: int) -> int:
    return number * 2


def shout(text: str) -> str:
    return text.upper()


def add(left: int, right: int) -> int:
    return left + right


def promote(record: dict[str, Any]) -> dict[str, Any]:
    return {**record, "rank": record["rank"] + 1}


def identity(value: Any) -> Any:
    return value


def get_ready(seconds: float) -> None:
    """Import numpy, where there is one; and wait, so that each worker gets a task."""
    with contextlib.suppress(ImportError):
        importlib.import_module("numpy")
    time.sleep(seconds)


def there_and_back(array: Any, times: int, pool: Any) -> list[int]:
    """Send the array to a task of the pool, and get it back, so many times."""
    right = 0
    for _ in range(times):
        result = pool.apply(identity, (array,))
        right += len(result) == len(array) and result[-1] == array[-1]
        del result
    return [int(right)]


def last(array: Any) -> float:
    return float(array[-1])


def ramp(length: int) -> Any:
    import numpy as np

    return np.arange(length, dtype="f8")


def rows_in_place(length: int) -> Any:
    """An array of `length` floats, made where cpool's worker can send it from."""
    import numpy as np

    array = sys.modules.get("cpool", np).empty((length // 1024, 1024), dtype="f8")
    array[...] = np.arange(1024)
    return array


def set_some(array: Any) -> Any:
    """Change a few elements in place. The limit does so each time to one array."""
    array[::100_000] = 1
    return array


@functools.lru_cache(maxsize=1)
def held_bytes(length: int) -> bytes:
    """The same bytes each time, so that making them is not measured."""
    return b"x" * length


def doubled(frame: Any) -> Any:
    return frame * 2


def last_plus(data: Any, number: int) -> float:
    return float(data[-1]) + number


kept: list[Any] = []


def sum_of_kept_plus(data: Any, number: int) -> float:
    """Read all data, and keep them (not those of an earlier task as well)."""
    kept[:] = [data]
    return float(data.sum()) + number


def flip(image: Any) -> Any:
    return image[:, ::-1].copy()


def flip_rows(image: Any) -> Any:
    return image[::-1].copy()


def summed(value: Any) -> Any:
    """The shape and sum of an array or DataFrame, for comparisons; any other value as it is."""
    if not hasattr(value, "shape"):
        return value
    return value.shape, float((value.to_numpy() if hasattr(value, "to_numpy") else value).sum())


def identified(value: Any) -> Any:
    """What tells the value from others: its repr, or the bytes of an array, Series or DataFrame,
    whose repr takes a millisecond."""
    data = value.to_numpy() if hasattr(value, "to_numpy") else value
    if not hasattr(data, "dtype"):
        return repr(value)
    return type(value), str(data.dtype), data.shape, zlib.crc32(data.tobytes())


def length_plus(data: bytes, number: int) -> int:
    return len(data) + number


def nap(seconds: float) -> float:
    """A task that waits: it takes time, but no CPU."""
    if seconds:
        time.sleep(seconds)
    return seconds


def spin(loops: int) -> int:
    """A task that computes: a fixed amount of work, so two on one core take twice as long."""
    total = 0
    for number in range(loops):
        total += number
    return total


def loops_for(seconds: float) -> int:
    """How many loops of spin() take that long on this machine.

    Takes the fastest of many short runs: noise only adds time, and a short run may be undisturbed.
    """
    probe = 2_000
    best = float("inf")
    for _ in range(200):
        start = time.perf_counter()
        spin(probe)
        best = min(best, time.perf_counter() - start)
    return max(1, round(probe * seconds / best))


# For the pains: objects that items share, and values that take time to make.


def second(_: Any, number: int) -> int:
    return number


def second_of(pair: tuple[Any, int]) -> int:
    return pair[1]


def nap_second_of(pair: tuple[Any, int]) -> int:
    """For large calls that queue up: a task that takes a while."""
    time.sleep(0.002)
    return pair[1]


class Node:
    """An item with a reference to an object that all items share."""

    def __init__(self, number: int, shared: Any) -> None:
        self.number = number
        self.shared = shared


def number_of(node: Node) -> int:
    return node.number


def graph_of(count: int) -> list[Node]:
    """Nodes that refer to a dict of all of them."""
    nodes: dict[int, Node] = {}
    for number in range(count):
        nodes[number] = Node(number, nodes)
    return list(nodes.values())


class Colour(enum.Enum):
    RED = 0
    ORANGE = 1
    YELLOW = 2
    GREEN = 3
    CYAN = 4
    BLUE = 5
    VIOLET = 6
    PURPLE = 7


def value_of(member: Any) -> int:
    value: int = member.value
    return value


def lookup(number: int) -> dict[int, str]:
    """Return the same table for every number."""
    return TABLE


TABLE = {number: f"entry {number}" for number in range(2_000)}

STEP = 0.005  # seconds to make, encode or decode one of the following


class SlowSource(list[int]):
    """A list whose iterator takes a while for each item."""

    def __iter__(self) -> Iterator[int]:
        for number in super().__iter__():
            time.sleep(STEP)
            yield number


class SlowItem:
    """An item that takes a while to encode."""

    def __init__(self, number: int) -> None:
        self.number = number

    def __getstate__(self) -> dict[str, int]:
        time.sleep(STEP)
        return {"number": self.number}


class SlowResult:
    """A result that takes a while to decode."""

    def __init__(self, number: int) -> None:
        self.number = number

    def __setstate__(self, state: dict[str, int]) -> None:
        time.sleep(STEP)
        self.number = state["number"]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, SlowResult) and self.number == other.number

    def __hash__(self) -> int:
        return hash(self.number)


def nap_twice(number: int) -> int:
    time.sleep(2 * STEP)
    return number


def nap_over(item: SlowItem) -> int:
    time.sleep(2 * STEP)
    return item.number


def slow_result(number: int) -> SlowResult:
    time.sleep(2 * STEP)
    return SlowResult(number)
