"""The kinds of objects that real programs send, each as a function that makes the n-th one.

Workers import this module for the classes.
"""

import datetime
import enum
import importlib.util
import uuid
from collections import Counter, OrderedDict, defaultdict, deque, namedtuple
from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any


class Instance:
    def __init__(self, number: int, name: str, share: float) -> None:
        self.number = number
        self.name = name
        self.share = share

    def __repr__(self) -> str:
        return f"Instance({vars(self)})"


@dataclass
class Record:
    number: int
    name: str
    share: float


class Slots:
    __slots__ = ("name", "number", "share")

    def __init__(self, number: int, name: str, share: float) -> None:
        self.number = number
        self.name = name
        self.share = share

    def __repr__(self) -> str:
        return f"Slots({self.number}, {self.name}, {self.share})"


Named = namedtuple("Named", "number name share")


class Color(enum.Enum):
    RED = 1
    GREEN = 2
    BLUE = 3


COLORS = list(Color)


class Items(list[Any]):
    pass


@dataclass(frozen=True)
class Kind:
    name: str
    about: str
    make: Callable[[int], Any]


def _fields(number: int) -> tuple[int, str, float]:
    return number, f"name {number}", number / 3


_DAY = datetime.datetime(2020, 1, 1)

KINDS = [
    Kind("instance", "instances of a class with three attributes", lambda n: Instance(*_fields(n))),
    Kind("dataclass", "dataclasses of three fields", lambda n: Record(*_fields(n))),
    Kind("slots", "instances with three slots", lambda n: Slots(*_fields(n))),
    Kind("named_tuple", "named tuples of three fields", lambda n: Named(*_fields(n))),
    Kind("enum", "members of an Enum", lambda n: COLORS[n % 3]),
    Kind("list_subclass", "instances of a subclass of list", lambda n: Items([n, n + 1])),
    Kind("ordered_dict", "OrderedDict", lambda n: OrderedDict(a=n, b=n + 1)),
    Kind("default_dict", "defaultdict", lambda n: defaultdict(list, {n: [n]})),
    Kind("counter", "Counter", lambda n: Counter({"a": n, "b": 2})),
    Kind("deque", "deque", lambda n: deque([n, n + 1])),
    Kind("set", "set", lambda n: {n, n + 1}),
    Kind("frozenset", "frozenset", lambda n: frozenset((n, n + 1))),
    Kind("decimal", "Decimal", lambda n: Decimal(n) / 7),
    Kind("datetime", "datetime", lambda n: _DAY + datetime.timedelta(seconds=n)),
    Kind("uuid", "UUID", lambda n: uuid.UUID(int=n)),
    Kind("path", "Path", lambda n: Path(f"/some/folder/{n}")),
    Kind("complex", "complex", lambda n: complex(n, 0.5)),
    Kind("bytearray", "bytearray of 20 bytes", lambda n: bytearray(b"%20d" % n)),
    Kind("exception", "ValueError", lambda n: ValueError(f"text {n}")),
    Kind("record_of_objects", "a dict with a date and an instance", lambda n: _record_of(n)),
]


def _record_of(number: int) -> dict[str, Any]:
    return {"day": _DAY.date(), "item": Instance(*_fields(number)), "number": number}


if importlib.util.find_spec("numpy") is not None:
    import numpy as np

    KINDS += [
        Kind("array_10", "ndarray of 10 floats", lambda n: np.arange(10.0) + n),
        Kind("array_128", "ndarray of 128 floats", lambda n: np.arange(128.0) + n),
        Kind("array_1024", "ndarray of 1,024 floats", lambda n: np.arange(1024.0) + n),
        Kind("float64", "np.float64", lambda n: np.float64(n / 3)),
        Kind("float64_pair", "pairs of np.float64 and int", lambda n: (np.float64(n / 3), n)),
    ]

if importlib.util.find_spec("pandas") is not None:
    import pandas as pd

    def _frame_of(number: int) -> Any:
        return pd.DataFrame({"a": np.arange(50.0) + number, "b": np.arange(50)})

    KINDS += [
        Kind("series", "pandas Series of 12 floats", lambda n: pd.Series(np.arange(12.0) + n)),
        Kind("data_frame", "pandas DataFrame of 50 rows and 2 columns", lambda n: _frame_of(n)),
    ]
