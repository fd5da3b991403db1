"""Objects of any class: what arrives is what pickle would have delivered."""

from __future__ import annotations

import contextlib
import copyreg
import datetime
import enum
import fractions
import functools
import gc
import operator
import os
import pickle
import random
import sys
import sysconfig
import threading
import uuid
from collections import ChainMap, Counter, OrderedDict, defaultdict, deque, namedtuple
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path, PurePosixPath
from types import SimpleNamespace
from typing import Any, NamedTuple

import graphs
import pytest
import scripts
import tasks

import cpool
from cpool import _core
from cpool.pool import MaybeEncodingError

pytestmark = pytest.mark.better


class Plain:
    def __init__(self, *values: Any) -> None:
        for number, value in enumerate(values):
            setattr(self, f"attr{number}", value)


class Slots:
    __slots__ = ("__weakref__", "left", "right")

    def __init__(self, left: Any, right: Any = None) -> None:
        self.left = left
        if right is not None:
            self.right = right


class Both(Slots):
    """With slots and a dict."""

    def __init__(self, left: Any, more: Any) -> None:
        super().__init__(left, more)
        self.more = more


class Private:
    __slots__ = ("__hidden",)

    def __init__(self, hidden: Any) -> None:
        self.__hidden = hidden


@dataclass
class Record:
    number: int
    name: Any
    share: float = 0.5
    more: Any = field(default_factory=list)


@dataclass(frozen=True)
class Frozen:
    number: int
    name: Any


@dataclass(frozen=True, slots=True)
class FrozenSlots:
    number: int
    name: Any


Pair = namedtuple("Pair", "left right")


class Typed(NamedTuple):
    left: Any
    right: Any = 1


Nothing = namedtuple("Nothing", "")
Wide = namedtuple("Wide", [f"field{number}" for number in range(20)])
Widest = namedtuple("Widest", [f"field{number}" for number in range(100)])
Defaults = namedtuple("Defaults", "left right", defaults=(1, 2))


class Counted(Pair):
    """A named tuple that is made in its own way."""

    __slots__ = ()

    def __new__(cls, left: Any, right: Any) -> Counted:
        return super().__new__(cls, (left, "made"), right)


class Metaclass(type):
    def __getattribute__(cls, name: str) -> Any:
        if name == "__new__":
            return lambda cls, left, right: Pair.__new__(cls, [left], right)
        return super().__getattribute__(name)


class OfMetaclass(Pair, metaclass=Metaclass):
    pass


class NamedChild(Pair):
    """With a dict, since it has no __slots__."""


class Color(enum.Enum):
    RED = 1
    BLUE = "blue"


class Bits(enum.Flag):
    ONE = 1
    TWO = 2


class Level(enum.IntEnum):
    LOW = 1


class Planet(enum.Enum):
    """With a __new__() of its own, so that values and arguments differ."""

    EARTH = 1, "blue"
    MARS = 2, "red"
    RED = 2, "red"  # noqa: PIE796 - a second name of MARS

    def __new__(cls, number: int, color: str) -> Planet:
        member = object.__new__(cls)
        member._value_ = color
        member.number = number  # type: ignore[attr-defined]
        return member


class Lists(enum.Enum):
    """With values that cannot be hashed."""

    ONE = [1]  # noqa: RUF012
    TWO = [1, 2]  # noqa: RUF012


class Names(enum.StrEnum):
    FIRST = "first"


class Doubled(enum.Enum):
    """Reduced in a way of its own."""

    ONE = 1
    TWO = 2

    def __reduce_ex__(self, protocol: Any) -> Any:
        return Doubled, (3 - self.value,)


class Text(str):
    pass


class Number(int):
    pass


class Items(list):  # type: ignore[type-arg]
    pass


class Table(dict):  # type: ignore[type-arg]
    pass


class Row(tuple):  # type: ignore[type-arg]
    pass


class Group(set):  # type: ignore[type-arg]
    pass


class IteratedItems(list):  # type: ignore[type-arg]
    def __iter__(self) -> Iterator[Any]:
        return iter([*super().__iter__(), "more"])


class CountedItems(list):  # type: ignore[type-arg]
    """Items are added by a method of its own."""

    def extend(self, items: Any) -> None:
        super().extend([*items, len(self)])


class SlottedItems(list):  # type: ignore[type-arg]
    __slots__ = ("mark",)

    def __init__(self, items: Any, mark: Any) -> None:
        super().__init__(items)
        self.mark = mark


class NewItems(list):  # type: ignore[type-arg]
    def __new__(cls, *args: Any) -> NewItems:
        self = super().__new__(cls, *args)
        self.extend = lambda items: list.extend(self, ["instead", *items])  # type: ignore
        return self

    def __getstate__(self) -> None:
        return None


class ViewedTable(dict):  # type: ignore[type-arg]
    def items(self) -> Any:
        return [("other", pair) for pair in super().items()]


class SettingTable(dict):  # type: ignore[type-arg]
    def __setitem__(self, key: Any, value: Any) -> None:
        super().__setitem__(key, [value])


def with_attribute(obj: Any, value: Any, name: str = "mark") -> Any:
    setattr(obj, name, value)
    return obj


def moved(value: Any) -> Any:
    """In an order that is not the one of the dict that it is made of."""
    pairs = OrderedDict(a=1, b=value, c=3)
    pairs.move_to_end("a")
    return pairs


class OrderedChild(OrderedDict):  # type: ignore[type-arg]
    pass


class Failure(Exception):
    def __init__(self, text: Any) -> None:
        super().__init__(text)
        self.extra = [text]


class Reduced:
    def __init__(self, value: Any) -> None:
        self.value = value

    def __reduce__(self) -> Any:
        return Reduced, (self.value,)


class WithItems:
    """A class of the program's that pickle fills by extend() and item by item."""

    def __init__(self) -> None:
        self.rows: list[Any] = []
        self.table: dict[Any, Any] = {}

    def extend(self, rows: Any) -> None:
        self.rows.extend(rows)

    def __setitem__(self, key: Any, value: Any) -> None:
        self.table[key] = value

    def __reduce__(self) -> Any:
        return WithItems, (), None, iter(self.rows), iter(self.table.items())


class Appended:
    def __init__(self) -> None:
        self.rows: list[Any] = []

    def append(self, row: Any) -> None:
        self.rows.append(row)

    def __reduce__(self) -> Any:
        return Appended, (), None, iter(self.rows)


class State:
    def __init__(self, value: Any) -> None:
        self.value = value

    def __getstate__(self) -> Any:
        return [self.value]

    def __setstate__(self, state: Any) -> None:
        [self.value] = state


class OnlySetState:
    def __init__(self, value: Any) -> None:
        self.value = value

    def __setstate__(self, state: Any) -> None:
        self.value = state["value"]
        self.was_set = True


def set_value(obj: Any, state: Any) -> None:
    obj.value = state


class Setter:
    def __init__(self, value: Any = None) -> None:
        self.value = value

    def __reduce__(self) -> Any:
        return Setter, (), self.value, None, None, set_value


class Keywords:
    value: Any

    def __new__(cls, *, value: Any) -> Keywords:
        self = object.__new__(cls)
        self.value = value
        return self

    def __getnewargs_ex__(self) -> Any:
        return (), {"value": self.value}


class Arguments:
    value: Any

    def __new__(cls, value: Any) -> Arguments:
        self = object.__new__(cls)
        self.value = value
        return self

    def __getnewargs__(self) -> Any:
        return (self.value,)


class Guarded:
    """Its attributes cannot be set in the usual way."""

    def __init__(self, value: Any) -> None:
        self.__dict__["value"] = value

    def __setattr__(self, name: str, value: Any) -> None:
        raise AttributeError(name)


class Shadowed:
    """Its dict has a name that a property of the class hides."""

    def __init__(self, value: Any) -> None:
        self.__dict__["value"] = value

    @property
    def value(self) -> Any:
        return self.__dict__["value"]


class Asking:
    """Its __getattr__ answers for any attribute, so pickle must look up methods on the object."""

    def __init__(self, value: Any) -> None:
        self.value = value

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return name


class Meta(type):
    pass


class OfMeta(metaclass=Meta):
    def __init__(self, value: Any) -> None:
        self.value = value


class Outer:
    class Inner:
        def __init__(self, value: Any) -> None:
            self.value = value


class Registered:
    def __init__(self, value: Any) -> None:
        self.value = value


copyreg.pickle(Registered, lambda thing: (Registered, (thing.value,)))


def add_itself(container: Any) -> Any:
    if isinstance(container, list):
        container.append(container)
    else:
        container["self"] = container
    return container


def odd_names(value: Any) -> Plain:
    plain = Plain(value)
    vars(plain)["not a name"] = value
    vars(plain)["\u20ac"] = value
    vars(plain)["_Plain__private"] = value
    return plain


def with_own_reduce(value: Any) -> Plain:
    plain = Plain(value)
    plain.__reduce_ex__ = Instead(value)  # type: ignore[method-assign, assignment]
    return plain


class Instead:
    def __init__(self, value: Any) -> None:
        self.value = value

    def __call__(self, protocol: int) -> Any:
        return Reduced, (self.value,)


def with_odd_keys(value: Any) -> Plain:
    plain = Plain(value)
    vars(plain)[1] = value  # type: ignore[index]
    return plain


def with_other_order(value: Any) -> Plain:
    plain = Plain(value, 1)
    del plain.attr0  # type: ignore[attr-defined]
    plain.attr0 = value  # type: ignore[attr-defined]
    return plain


UTC = datetime.UTC

# Each makes a new object that holds the value it is given, or could.
KINDS: dict[str, Callable[[Any], Any]] = {
    "plain": lambda value: Plain(value, 2, "three"),
    "empty": lambda value: Plain(),
    "slots": lambda value: Slots(value),
    "full slots": lambda value: Slots(value, 2),
    "slots and dict": lambda value: Both(value, [value]),
    "private slot": Private,
    "dataclass": lambda value: Record(1, value),
    "frozen": lambda value: Frozen(1, value),
    "frozen slots": lambda value: FrozenSlots(1, value),
    "named tuple": lambda value: Pair(value, 1),
    "typed named tuple": Typed,
    "named tuple of nothing": lambda value: Nothing(),
    "named tuple of many": lambda value: Wide(*[value] * 20),
    "named tuple of very many": lambda value: Widest(*range(99), value),
    "named tuple with defaults": lambda value: Defaults(value),
    "named tuple with its own __new__": lambda value: Counted(value, 1),
    "named tuple with a metaclass": lambda value: OfMetaclass(value, 1),
    "child of a named tuple": lambda value: NamedChild(1, value),
    "enum": lambda value: Color.BLUE,
    "flags": lambda value: Bits.ONE | Bits.TWO,
    "int enum": lambda value: Level.LOW,
    "str enum": lambda value: Names.FIRST,
    "enum with its own __new__": lambda value: Planet.RED,
    "enum of lists": lambda value: Lists.TWO,
    "enum with its own __reduce_ex__": lambda value: Doubled.ONE,
    "str": lambda value: Text(repr(type(value))),
    "int": lambda value: Number(2**70),
    "list": lambda value: Items([value, 1]),
    "dict": lambda value: Table(a=value),
    "empty list": lambda value: Items(),
    "list of any length": lambda value: Items([value] * (len(repr(value)) % 5)),
    "long list": lambda value: Items([value] * 40),
    "list with an attribute": lambda value: with_attribute(Items([1, value]), value),
    "list with a slot": lambda value: SlottedItems([value], [value]),
    "list with its own __iter__": lambda value: IteratedItems([value, 1]),
    "list with its own extend": lambda value: CountedItems([value, 1]),
    "list with its own __new__": lambda value: NewItems([value, 1]),
    "list that has itself": lambda value: add_itself(Items([value])),
    "empty dict": lambda value: Table(),
    "dict of many": lambda value: Table(dict.fromkeys(range(300), value)),
    "dict of any keys": lambda value: Table({repr(value): value, 2: 3}),
    "dict with an attribute": lambda value: with_attribute(Table(a=value), value),
    "dict with an attribute items": lambda value: with_attribute(Table(a=1), list, "items"),
    "dict with its own items": lambda value: ViewedTable(a=value),
    "dict with its own __setitem__": lambda value: SettingTable(a=value),
    "dict that has itself": lambda value: add_itself(Table(a=value)),
    "tuple": lambda value: Row((value, 1)),
    "set of the program": lambda value: Group([1, 2]),
    "exception": Failure,
    "exception with an attribute": lambda value: with_attribute(Failure(1), value),
    "exception of many": lambda value: ValueError(value, 2, "three"),
    "exception without": lambda value: KeyError(),
    "builtin exception": lambda value: OSError(2, "text", "name"),
    "reduced": Reduced,
    "setstate": State,
    "only setstate": OnlySetState,
    "setter": lambda value: Setter([value]),
    "keywords": lambda value: Keywords(value=value),
    "arguments": Arguments,
    "guarded": Guarded,
    "shadowed": Shadowed,
    "asking": Asking,
    "metaclass": OfMeta,
    "nested class": Outer.Inner,
    "registered": Registered,
    "odd names": odd_names,
    "own reduce": with_own_reduce,
    "odd keys": with_odd_keys,
    "other order": with_other_order,
    "namespace": lambda value: SimpleNamespace(a=value),
    "OrderedDict": lambda value: OrderedDict([("b", value), ("a", 1)]),
    "OrderedDict that was reordered": moved,
    "OrderedDict with an attribute": lambda value: with_attribute(OrderedDict(a=1), value),
    "child of OrderedDict": lambda value: OrderedChild(a=value),
    "defaultdict": lambda value: defaultdict(list, {1: value}),
    "Counter": lambda value: Counter("aab"),
    "ChainMap": lambda value: ChainMap({1: value}),
    "deque": lambda value: deque([value, 2], 5),
    "set": lambda value: {1, "a", (2, 3)},
    "frozenset": lambda value: frozenset([1, frozenset([2])]),
    "bytearray": lambda value: bytearray(b"abc" * 200),
    "complex": lambda value: 1.5 - 2j,
    "range": lambda value: range(1, 10, 3),
    "slice": lambda value: slice(1, None, 2),
    "ellipsis": lambda value: ...,
    "not implemented": lambda value: NotImplemented,
    "none's type": lambda value: type(None),
    "date": lambda value: datetime.date(2020, 1, 2),
    "time": lambda value: datetime.time(1, 2, 3, 4),
    "datetime": lambda value: datetime.datetime(2020, 1, 2, 3, fold=1),
    "datetime with zone": lambda value: datetime.datetime(2020, 1, 2, tzinfo=UTC),
    "timedelta": lambda value: datetime.timedelta(1, 2, 3),
    "timezone": lambda value: datetime.timezone(datetime.timedelta(hours=1), "name"),
    "decimal": lambda value: Decimal("-1.250"),
    "fraction": lambda value: fractions.Fraction(1, 3),
    "uuid": lambda value: uuid.UUID(int=5),
    "path": lambda value: Path("/a/b"),
    "pure path": lambda value: PurePosixPath("a"),
    "class": lambda value: Outer.Inner,
    "function": lambda value: set_value,
    "builtin": lambda value: len,
    "method of a class": lambda value: str.upper,
    "bound method": lambda value: Slots(value).__init__,
    "partial": lambda value: functools.partial(set_value, value, state=2),
    "itemgetter": lambda value: operator.itemgetter(1, 2),
}


def through(value: Any) -> Any:
    data = _core._encode(value)
    assert data is not None, "left to pickle"
    return _core._decode(data)


def by_pickle(value: Any) -> Any:
    return pickle.loads(pickle.dumps(value, 5))


@pytest.fixture(params=KINDS)
def make(request: pytest.FixtureRequest) -> Callable[[Any], Any]:
    return KINDS[request.param]


def test_every_kind_in_every_place(make: Callable[[Any], Any]) -> None:
    shared = [1]
    one = make(shared)
    for body in (
        (one,),
        [one],
        [make(i) for i in range(12)],
        [make([i]) for i in range(3)],
        [make(shared) for _ in range(3)],
        [one] * 12,
        (one, [one], {"key": one}, shared),
        [1, one, "text", make(2), one],
        [(i, make(i)) for i in range(5)],
        [{"a": make(i), "b": i} for i in range(5)],
        (make(make(1)), make(make(2))),
    ):
        assert graphs.form(through(body)) == graphs.form(by_pickle(body))


def test_every_kind_goes_through_a_pool(pool: Any, make: Callable[[Any], Any]) -> None:
    def there_and_back(value: Any) -> Any:
        return graphs.form(by_pickle(by_pickle(value)))

    items = [make(i) for i in range(20)]
    expected = there_and_back(items)
    assert graphs.form(pool.map(tasks.identity, items, 20)) == expected
    for size in (None, 1, 3):
        found = pool.map(tasks.identity, items, size)
        assert [graphs.form(one) for one in found] == [there_and_back(one) for one in items]
    assert graphs.form(pool.apply(tasks.identity, (items,))) == expected
    assert graphs.form(pool.map(tasks.identity, items[:1] * 20, 20)) == there_and_back(
        items[:1] * 20
    )


@pytest.mark.parametrize("size", [0, 5, 300])
@pytest.mark.parametrize("kind", [bytes, bytearray])
def test_pickle_buffers_arrive_as_bytes_or_bytearrays(pool: Any, kind: Any, size: int) -> None:
    buffer = pickle.PickleBuffer(kind(b"x" * size))
    body = [buffer, (buffer, pickle.PickleBuffer(kind(size)))]
    assert graphs.form(through(body)) == graphs.form(by_pickle(body))
    assert graphs.form(pool.apply(tasks.identity, (body,))) == graphs.form(by_pickle(body))


# Random graphs


def grow(rng: random.Random, count: int) -> list[Any]:
    """Random objects that refer to each other, backwards and forwards."""
    made: list[Any] = [1, 2.5, "text", None, b"bytes", "long" * 100, True, 2**80]
    names = list(KINDS)
    for _ in range(count):
        choice = rng.randrange(8)
        parts = [rng.choice(made) for _ in range(rng.randrange(5))]
        if choice == 0:
            made.append(tuple(parts))
        elif choice == 1:
            made.append(list(parts))
        elif choice == 2:
            made.append({f"key{number}": part for number, part in enumerate(parts)})
        elif choice == 3:
            kind = KINDS[rng.choice(names)]
            made.append([kind(part) for part in parts])
        elif choice == 4:
            made.append([(part, rng.choice(made)) for part in parts])
        elif choice == 5:
            made.append([{"a": part, "b": [part]} for part in parts])
        else:
            made.append(KINDS[rng.choice(names)](rng.choice(made)))
    for _ in range(count // 3):
        part = rng.choice(made)
        if type(part) is list:
            part.append(rng.choice(made))
        elif type(part) is dict:
            part["more"] = rng.choice(made)
        elif type(part) in (Plain, Record):
            part.more = rng.choice(made)
    return made


@pytest.mark.parametrize("seed", range(60))
def test_random_graphs_are_as_with_pickle(seed: int) -> None:
    rng = random.Random(seed)
    encoded = 0
    for count in (3, 10, 40):
        for _ in range(5):
            made = grow(rng, count)
            for body in (made, (made[-1], made[-2])):
                data = _core._encode(body)
                if data is not None:
                    encoded += 1
                    expected = graphs.form(by_pickle(body))
                    assert graphs.form(_core._decode(data)) == expected
    assert encoded > 15  # the others contain themselves in a tuple, perhaps


def test_a_graph_of_nodes_goes_to_tasks(pool: Any) -> None:
    nodes = [Plain(i) for i in range(30)]
    for node in nodes:
        node.all = nodes  # type: ignore[attr-defined]
        node.next = nodes[(node.attr0 + 1) % 30]  # type: ignore[attr-defined]
    found = pool.map(tasks.identity, nodes, 30)
    assert graphs.form(found) == graphs.form(by_pickle(nodes[:]))
    assert graphs.form(pool.apply(tasks.identity, (nodes,))) == graphs.form(by_pickle(nodes))
    for found in pool.map(tasks.identity, nodes):
        assert found.all[found.attr0] is found


def test_rows_that_refer_to_each_other() -> None:
    """A column cannot make one row before the other."""
    first = ([1], [2])
    for body in (
        (first, ([3], first)),
        [first, ([3], first), ([4], ([5], first))],
        [Reduced(1), Reduced([2])],
    ):
        assert graphs.form(through(body)) == graphs.form(by_pickle(body))
    one = Reduced([1])
    two = Reduced(one)
    assert graphs.form(through([one, two])) == graphs.form(by_pickle([one, two]))
    deep: Any = (1, [2])
    for _ in range(60):
        deep = ((deep, [1]), (deep, [2]))
    assert len(_core._encode(deep) or b"") < 5000


def look(value: Any) -> int:
    """How much of the value is complete."""
    return len(
        vars(value) if hasattr(value, "__dict__") else value if hasattr(value, "__len__") else ()
    )


class Sized:
    """Its constructor looks at its arguments."""

    def __init__(self, held: Any) -> None:
        self.held = held
        self.size = look(held)

    def __reduce__(self) -> Any:
        return Sized, (self.held,)


class Looking:
    """Its state is looked at."""

    def __init__(self, other: Any) -> None:
        self.other = other
        self.found: Any = None

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self.found = look(self.other)


class Adding(list):  # type: ignore[type-arg]
    """Looks at what is added."""

    total = 0

    def extend(self, items: Any) -> None:
        self.total += sum(look(item) for item in items)
        super().extend(items)


def rows_and_code() -> Iterator[tuple[str, Any]]:
    row, table, node = [1, 2, 3], {"a": 1, "b": 2}, Plain(7, None)
    one, two = Frozen(1, frozenset()), Looking(None)
    yield "items of a set", [one, Frozen(2, frozenset([one])), Frozen(3, frozenset([one]))]
    yield "keys", [one, Frozen(2, None), Record(2, {one: 1}), Record(3, {(one, 2): one})]
    yield "keys in rows", [[one, Frozen(2, None)], [{one: 1}, 2]]
    yield "an argument", [row, [Sized(row), 5, 6]]
    yield "an argument in a list", [row, [Sized([row]), Sized(row), Sized([[row]])]]
    yield "an argument of a dict", [table, {"a": Sized(table), "b": 0}]
    yield "a state", [node, Plain(8, Looking(node)), Plain(9, Looking(node))]
    yield "a state before", [two, Looking(two), Looking(None)]
    yield "a state after", [Looking(two), two, Looking(None)]
    yield "items", [row, [Adding([row]), 2, 3]]
    yield "values", [node, Plain(8, OrderedDict({Frozen(1, None): node}))]
    yield (
        "many",
        [Plain(i, [[row, [Sized(row), i, i]], [row[:], [Sized(row)] * 3]]) for i in range(9)],
    )
    chain = [Frozen(0, None)]
    for number in range(1, 40):
        chain.append(Frozen(number, frozenset(chain[-2:])))
    yield "a chain", chain


@pytest.mark.parametrize("rows", [rows for _, rows in rows_and_code()])
def test_code_sees_rows_only_when_they_are_complete(pool: Any, rows: Any) -> None:
    """The first rows of a column are complete before a later one is made, as with pickle."""
    expected = graphs.form(by_pickle(rows))
    for body in (rows, [rows, 1], (rows, rows), {"key": rows}):
        assert graphs.form(through(body)) == graphs.form(by_pickle(body))
    assert graphs.form(pool.map(tasks.identity, rows, len(rows))) == expected


Pick = Callable[[], Any]
# Of functions that pick a value, and a value that can be a key.
LOOKED_AT: list[Callable[[Pick, Pick], Any]] = [
    lambda pick, key: Frozen(key(), frozenset([key(), key()])),
    lambda pick, key: Plain(pick(), pick()),
    lambda pick, key: Plain([pick()], {"a": pick()}),
    lambda pick, key: Slots(pick(), pick()),
    lambda pick, key: Sized(pick()),
    lambda pick, key: Sized([pick(), (pick(),)]),
    lambda pick, key: Looking(pick()),
    lambda pick, key: Adding([pick(), pick()]),
    lambda pick, key: [pick(), pick()],
    lambda pick, key: {"a": pick(), "b": pick()},
    lambda pick, key: {key(): pick(), key(): 1},
    lambda pick, key: {key(), key()},
    lambda pick, key: (pick(), [pick()]),
    lambda pick, key: OrderedDict({key(): pick()}),
    lambda pick, key: Typed(pick(), pick()),
]


@pytest.mark.parametrize("seed", range(40))
def test_random_objects_are_looked_at_as_with_pickle(seed: int) -> None:
    """Without cycles, where code may see what is not complete."""
    rng = random.Random(seed)
    for count in (5, 15, 30):
        made: list[Any] = [1, "text", None]
        keys: list[Any] = [1, 2, "key"]
        for _ in range(count):
            make = rng.choice(LOOKED_AT)
            row = []
            for _ in range(rng.choice((1, 3))):
                # Each row may have the ones before in it.
                row.append(
                    make(functools.partial(rng.choice, made), functools.partial(rng.choice, keys))
                )
                made.append(row[-1])
                if type(row[-1]) is Frozen:
                    keys.append(row[-1])
            made.append(row)
        rng.shuffle(made)
        assert graphs.form(through(made)) == graphs.form(by_pickle(made))


class Attributes(dict):  # type: ignore[type-arg]
    """A dict that is its own __dict__."""

    def __init__(self, **items: Any) -> None:
        super().__init__(**items)
        self.__dict__ = self


class Stateful:
    """Has the state that the test asks for."""

    __slots__ = ("__dict__", "slot", "state")

    def __init__(self, state: Any = None) -> None:
        self.state = state

    def __reduce__(self) -> Any:
        return Stateful, (), self.state


def test_a_state_may_be_of_a_subclass() -> None:
    for number in (1, 3):
        found = through([Attributes(a=1, b=[2]) for _ in range(number)])
        assert [vars(one) for one in found] == [{"a": 1, "b": [2]}] * number
        assert found == [{"a": 1, "b": [2]}] * number
        for state in (OrderedDict(left=1), Pair({"left": 1}, OrderedDict(slot=[2]))):
            for one in through([Stateful(state) for _ in range(number)]):
                assert one.left == 1
                assert vars(one) == {"left": 1}
                assert getattr(one, "slot", [2]) == [2]


@pytest.mark.parametrize("state", ["text", ({}, "text"), (1, 2, 3)])
def test_a_state_that_is_none_raises_pickles_exception(pool: Any, state: Any) -> None:
    with pytest.raises(pickle.UnpicklingError) as expected:
        by_pickle(Stateful(state))
    with pytest.raises(pickle.UnpicklingError, match=str(expected.value)):
        through(Stateful(state))
    assert pool.apply(abs, (-1,)) == 1


def test_a_long_name_that_is_a_value_too(monkeypatch: Any) -> None:
    name = "Long" * 100
    cls = type(name, (), {"__qualname__": name, "__module__": __name__})
    monkeypatch.setitem(globals(), name, cls)
    assert through([cls.__qualname__, cls, cls()])[1] is cls


# Code of the program that runs meanwhile


class Meddler:
    """Encoding it runs a function."""

    def __init__(self, action: Callable[[], Any]) -> None:
        self.action = action

    def __reduce__(self) -> Any:
        self.action()
        return int, ()


@pytest.mark.parametrize("size", [2, 20])
def test_objects_that_change_what_is_being_encoded(size: int) -> None:
    rows = [[i, str(i)] for i in range(size)]
    table = {str(i): [i] for i in range(size)}
    plain = Plain(1, [2])
    group = {frozenset([i]) for i in range(size)}

    def wreck() -> None:
        rows[0].clear()
        rows.clear()
        table.clear()
        vars(plain).clear()
        group.clear()
        gc.collect()
        [object() for _ in range(1000)]

    meddler = Meddler(wreck)
    rows[0].append(meddler)  # type: ignore[arg-type]
    for body in (
        (meddler, rows, table, plain, group),
        [rows, meddler],
        {"first": meddler, "rows": rows, "table": table},
        (Plain(meddler, rows), Plain(rows, 1)),
        [[1, meddler], [rows, 2]],
        [{"a": meddler, "b": rows}, {"a": rows, "b": 1}],
        (Items([meddler, rows]), Table(a=meddler)),
    ):
        data = _core._encode(body)
        assert data is not None
        _core._decode(data)
        rows[:] = [[i, str(i)] for i in range(size)]
        rows[0].append(meddler)  # type: ignore[arg-type]
        table.update({str(i): [i] for i in range(size)})
        plain.attr0 = 1  # type: ignore[attr-defined]
        group.update(frozenset([i]) for i in range(size))


def test_an_address_that_is_used_again_is_no_repeated_object() -> None:
    """Objects that an encoded object makes for pickling live only so long."""

    class Fresh:
        def __reduce__(self) -> Any:
            return list, ([[1], [2]],)

    body = [Fresh() for _ in range(50)]
    found = through((body,))[0]
    assert found == [[[1], [2]]] * 50
    assert len({id(part) for one in found for part in one}) == 100


class Raising:
    def __init__(self, error: BaseException | None) -> None:
        self.error = error

    def __reduce__(self) -> Any:
        if self.error is not None:
            raise self.error
        return fail, ()


def fail() -> None:
    raise LookupError("made on purpose")


class Unhashable:
    def __hash__(self) -> int:
        if os.getpid() == PARENT:
            return 1
        raise LookupError("hash")

    def __eq__(self, other: object) -> bool:
        return self is other


PARENT = os.getpid()


def test_what_the_programs_code_raises(pool: Any) -> None:
    for error in (LookupError("text"), KeyError(1), pickle.PicklingError("no")):
        with pytest.raises(type(error)) as found:
            _core._encode([1, [Raising(error)]])
        assert found.value is error
        with pytest.raises(type(error)):
            pool.apply(tasks.identity, (Raising(error),))
    data = _core._encode([Raising(None)])
    with pytest.raises(LookupError, match="on purpose"):
        _core._decode(data)
    with pytest.raises(LookupError, match="on purpose"):
        pool.apply(tasks.identity, (Raising(None),))
    with pytest.raises(LookupError, match="hash"):
        pool.map(tasks.size, [{Unhashable()}] * 3)
    assert pool.apply(tasks.add, (1, 2)) == 3


class RaisingOnce:
    """What it raises first must not be lost because the values are encoded again."""

    raised = False

    def __reduce__(self) -> Any:
        if not RaisingOnce.raised:
            RaisingOnce.raised = True
            raise LookupError("on purpose")
        return RaisingOnce, ()


def raising_once(_: Any) -> RaisingOnce:
    return RaisingOnce()


def test_what_a_result_raises_is_not_lost(make_pool: Any) -> None:
    pool = make_pool(1)
    with pytest.raises(MaybeEncodingError, match="on purpose"):
        pool.map(raising_once, range(10))
    assert len(pool.map(raising_once, range(10))) == 10


def test_errors_are_pickles_own(pool: Any) -> None:
    def local() -> None: ...

    class Local:
        pass

    for bad in (local, Local(), threading.Lock(), (i for i in "a"), sys, Plain(lambda: 1)):
        with pytest.raises(Exception) as expected:
            pickle.dumps(bad, 5)
        with pytest.raises(type(expected.value)) as found:
            pool.apply(tasks.size, ([bad],))
        assert str(found.value) == str(expected.value)


def test_a_class_that_is_not_found_by_its_name(pool: Any, monkeypatch: Any) -> None:
    thing = Plain(1)
    monkeypatch.setattr(sys.modules[__name__], "Plain", Slots)
    with pytest.raises(pickle.PicklingError, match="not the same object"):
        pool.apply(tasks.identity, (thing,))


def test_a_name_that_is_missing_in_the_worker() -> None:
    data = _core._encode((Plain,))
    assert data is not None
    assert _core._decode(data) == (Plain,)
    with pytest.raises(AttributeError) as expected:
        pickle.loads(pickle.dumps((Plain,), 5).replace(b"Plain", b"Plein"))
    with pytest.raises(AttributeError) as found:
        _core._decode(data.replace(b"Plain", b"Plein"))
    assert str(found.value) == str(expected.value)
    with pytest.raises(ModuleNotFoundError):
        _core._decode(data.replace(b"test_objects", b"text_objects"))


class Renamed:
    def __init__(self, value: Any) -> None:
        self.value = value


def encoded(value: Any) -> bytes:
    data = _core._encode(value)
    assert data is not None
    return bytes(data)


def test_a_class_that_changes_from_body_to_body(monkeypatch: Any) -> None:
    """What is known of a class holds for as long as the class is the same."""
    module = sys.modules[__name__]
    thing = Renamed(1)
    assert through(thing).value == 1
    with monkeypatch.context() as patch:
        patch.setattr(Renamed, "__reduce__", lambda self: (Reduced, (5,)), raising=False)
        assert type(through(thing)) is Reduced
    with monkeypatch.context() as patch:
        patch.setattr(Renamed, "__getstate__", lambda self: {"value": 2}, raising=False)
        assert through(thing).value == 2
    with monkeypatch.context() as patch:
        patch.setattr(Renamed, "__setstate__", Setter.__init__, raising=False)
        assert through(thing).value == {"value": 1}
    with monkeypatch.context() as patch:
        patch.setattr(module, "OtherName", Renamed, raising=False)
        Renamed.__qualname__ = "OtherName"
        try:
            assert b"OtherName" in encoded(thing)
        finally:
            Renamed.__qualname__ = "Renamed"
    assert b"OtherName" not in encoded(thing)
    with monkeypatch.context() as patch:
        patch.setattr(Renamed, "__module__", "other_module")
        patch.setitem(sys.modules, "other_module", module)
        assert b"other_module" in encoded(thing)
    with monkeypatch.context() as patch:
        patch.setattr(module, "Renamed", Plain)
        assert _core._encode(thing) is None
    assert through(thing).value == 1


def test_named_tuples_are_made_without_calling_their_new() -> None:
    """Which takes longer than everything else; whatever bytecode an interpreter gives it."""
    calls = []

    def profile(frame: Any, event: str, _: Any) -> None:
        if event == "call":
            calls.append(frame.f_code)

    for kind, count in ((Pair, 0), (Typed, 0), (NamedChild, 0), (Counted, 20)):
        data = encoded([kind(left, 1) for left in range(20)])
        calls.clear()
        before = sys.getprofile()
        sys.setprofile(profile)
        try:
            found = _core._decode(data)
        finally:
            sys.setprofile(before)
        assert calls.count(kind.__new__.__code__) == count
        assert {type(one) for one in found} == {kind}
        assert [hash(one) for one in found] == [hash(tuple(one)) for one in found]
        assert all(gc.is_tracked(one) for one in found)


def calls_while(function: Callable[[], Any]) -> tuple[Any, list[Any]]:
    """What the function returns, and the functions of enum.py that were called meanwhile."""
    calls = []

    def profile(frame: Any, event: str, _: Any) -> None:
        if event == "call" and frame.f_code.co_filename == enum.__file__:
            calls.append(frame.f_code.co_name)

    before = sys.getprofile()
    sys.setprofile(profile)
    try:
        return function(), calls
    finally:
        sys.setprofile(before)


@pytest.mark.parametrize("kind", [Color, Planet, Names])
def test_members_are_found_without_calling_their_class(kind: Any) -> None:
    members = list(kind)
    for value in (members * 20, members[0], [members[0]], {"key": members[-1]}):
        data, calls = calls_while(lambda value=value: encoded(value))  # type: ignore[misc]
        assert calls == []
        found, calls = calls_while(lambda data=data: _core._decode(data))  # type: ignore[misc]
        assert calls == []
        assert found == value
    assert all(map(operator.is_, _core._decode(encoded(members)), members))


def test_members_among_other_values(pool: Any) -> None:
    shared = [1]
    many = enum.Enum("many", [f"name{number}" for number in range(300)])  # type: ignore[misc]
    bodies: tuple[list[Any], ...] = (
        [Color.RED, None] * 10,
        [Color.RED, Color.BLUE, True, None, False] * 5,
        [*[Color.RED, Planet.RED] * 10, Level.LOW, Names.FIRST],
        [Bits.ONE, Bits.ONE | Bits.TWO] * 9,
        [Color.RED] * 9 + [shared] * 9,
        [Color.RED] + [shared] * 30,
        [Color.RED, "text", 1.5] * 9,
        [*list(Color) * 9, 10**30],
    )
    for body in bodies:
        found = through(body)
        assert graphs.form(found) == graphs.form(body)
        for place, value in enumerate(body):
            assert not isinstance(value, enum.Enum) or found[place] is value
        assert graphs.form(pool.map(tasks.identity, [*body, *body])[0]) == graphs.form(body[0])
        assert pool.map(tasks.identity, body) == body
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(globals(), "many", many)
        patch.setattr(many, "__module__", __name__)
        for members in (list(many), [*many, *many], list(many)[:200] * 2):
            assert all(map(operator.is_, through(members), members))


def test_members_that_their_class_has_to_find(monkeypatch: Any) -> None:
    """What cls(value) does is done, with _missing_(), a changed __new__(), and any exception."""
    assert through([Lists.ONE, Lists.TWO]) == [Lists.ONE, Lists.TWO]
    assert through([Bits.ONE | Bits.TWO] * 2) == [Bits.ONE | Bits.TWO] * 2
    data = encoded([Color.RED, Color.BLUE])
    with monkeypatch.context() as patch:
        patch.delitem(Color._value2member_map_, 1)
        with pytest.raises(ValueError, match="1 is not a valid Color"):
            _core._decode(data)
        patch.setattr(Color, "_missing_", classmethod(lambda cls, value: cls.BLUE))
        assert _core._decode(data) == [Color.BLUE, Color.BLUE]
    with monkeypatch.context() as patch:
        patch.setattr(Color, "__new__", lambda cls, value: cls.BLUE)
        assert _core._decode(data) == [Color.BLUE, Color.BLUE]
    with monkeypatch.context() as patch:
        patch.setattr(enum.EnumMeta, "__call__", lambda cls, value: value)
        assert _core._decode(data) == [1, "blue"]
    with monkeypatch.context() as patch:
        patch.setattr(Color, "__reduce_ex__", lambda self, protocol: (str, (self.name,)))
        assert through([Color.RED]) == ["RED"]
    assert _core._decode(data) == [Color.RED, Color.BLUE]


def swapped(cls: Any, row: Any) -> Any:
    return tuple.__new__(cls, row[::-1])


def functions_like_new() -> Iterator[Any]:
    """Functions that could pass for the __new__() of a named tuple with two fields."""
    names = {"_tuple_new": swapped, "__builtins__": {}}
    source = "lambda _cls, left, right: _tuple_new(_cls, (left, right))"
    yield eval(source, names)
    names = {"_tuple_new": tuple.__new__, "_other_new": swapped, "__builtins__": {}}
    yield eval("lambda _cls, left, right: _other_new(_cls, (left, right))", names)
    yield eval("lambda _cls, left, right: _tuple_new(_cls, (right, left))", names)
    yield eval("lambda _cls, left, right: _tuple_new(_cls, (left, left))", names)
    yield functools.partial(eval(source, {"_tuple_new": swapped}))


@pytest.mark.parametrize("number", range(5))
def test_a_named_tuple_with_another_new(monkeypatch: Any, number: int) -> None:
    pairs = [Pair(left, [left]) for left in range(20)]
    data = encoded(pairs)
    assert _core._decode(data) == pairs
    with monkeypatch.context() as patch:
        patch.setattr(Pair, "__new__", staticmethod(list(functions_like_new())[number]))
        assert graphs.form(_core._decode(data)) == graphs.form(by_pickle(pairs))
        assert graphs.form(_core._decode(data)) != graphs.form(pairs)
    assert _core._decode(data) == pairs


def test_a_reducer_that_is_registered_and_removed() -> None:
    thing = Renamed(1)
    assert through(thing).value == 1
    for number in (2, 3):
        copyreg.pickle(Renamed, lambda thing, number=number: (Renamed, (number,)))  # type: ignore[misc]
        assert through(thing).value == number
    del copyreg.dispatch_table[Renamed]
    assert through(thing).value == 1


# A program of its own: once a thread has been started, a free-threaded 3.13 keeps every class for
# ever.
PASSING_CLASSES = """
import gc
import sys
import weakref

from cpool import _core

class Plain:
    __slots__ = ("left", "right")

class Row:
    pass

class Items(list):
    pass

module = sys.modules[__name__]

def use(number):
    # Each class is gone before the next one comes, which may get its name and its address.
    bases = (Items, Plain, Row)[number % 3]
    name = f"Passing{number % 2}"
    cls = type(name, (bases,), {"__module__": __name__})
    setattr(module, name, cls)
    things = [cls(), cls()]
    things[0].left = things[1].left = number
    found = _core._decode(_core._encode(things))
    assert [type(thing) for thing in found] == [cls, cls]
    assert [thing.left for thing in found] == [number, number]
    delattr(module, name)
    return weakref.ref(cls)

known = []
for number in range(400):
    known.append(use(number))
    if number % 50 == 0:
        gc.collect()
gc.collect()
print(sum(ref() is not None for ref in known))
"""


def test_what_is_known_of_a_class_does_not_keep_it(tmp_path: Any) -> None:
    assert scripts.output(tmp_path, PASSING_CLASSES) == ["0"]


def test_slots_that_change_while_they_are_read(monkeypatch: Any) -> None:
    def clear(self: Any) -> int:
        names = vars(Slots)["__slotnames__"]
        names.clear()
        return 1

    assert through(Slots(1, 2)).right == 2
    names = copyreg._slotnames(Slots)  # type: ignore[attr-defined]
    before = list(names)
    with monkeypatch.context() as patch:
        patch.setattr(Slots, "left", property(clear, lambda self, value: None))
        assert through(Slots.__new__(Slots)).left == 1
    names[:] = before
    assert through(Slots(1, 2)).right == 2


# A class of this name is of the standard library, and its objects may be sent once in each chunk.
DottedDate = type("datetime.date", (Plain,), {"__module__": __name__, "__qualname__": "DottedDate"})


def test_a_class_with_the_name_of_a_small_one(make_pool: Any) -> None:
    """Its objects stay what they are in a chunk of the standard library's size."""
    things = [DottedDate(number) for number in range(100)]
    found = make_pool(2).map(tasks.identity, things * 20)
    assert [vars(thing) for thing in found] == [vars(thing) for thing in things] * 20
    assert len({id(thing) for thing in found}) == 8 * 100


def test_strings_that_arrive_again() -> None:
    """Names of attributes are interned, as pickle interns them, and others are not mixed up."""
    names = ["ab", "abcdefgh", "abcdefghi", "x" * 40, "x" * 41, "a\x80", "\u20ac", "a", ""]
    for _ in range(3):
        for name in names:
            assert through({name: 1, name + "z": 2}) == {name: 1, name + "z": 2}
            [found] = vars(through(with_attribute(Plain(), 1, name)))
            assert found == name
            assert found is sys.intern("".join(list(name)))
    keys = [f"key {number}" for number in range(2000)]
    for key in keys + keys:
        assert through({key: key}) == {key: key}


class Calling:
    """Encoded and decoded while another pool works, and while it forks."""

    pool: Any = None

    def __reduce__(self) -> Any:
        assert self.pool.map(tasks.square, range(3)) == [0, 1, 4]
        return call_back, ()


def call_back() -> int:
    pid = os.fork()
    if pid == 0:
        os._exit(7)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def test_code_that_calls_the_pool_and_forks(make_pool: Any) -> None:
    pool = Calling.pool = make_pool(2)
    assert pool.map(tasks.identity, [Calling()] * 4, 1) == [7] * 4
    assert pool.apply(tasks.identity, ([Calling(), Plain(Calling())],))[0] == 7


class Ending:
    pool: Any = None

    def __reduce__(self) -> Any:
        self.pool.terminate()
        return int, ()


def test_code_that_terminates_the_pool(make_pool: Any) -> None:
    pool = Ending.pool = make_pool(2)
    with pytest.raises(cpool.PoolError):
        pool.map(tasks.identity, [1, Ending(), 2], 1)


def test_the_collector_is_left_as_it_was() -> None:
    data = _core._encode(([(i, [i]) for i in range(1000)],))
    assert data is not None
    for enabled in (True, False):
        (gc.enable if enabled else gc.disable)()
        _core._decode(data)
        with pytest.raises(cpool.PoolError):
            _core._decode(data[:-1])
        assert gc.isenabled() == enabled
    gc.enable()


def test_another_thread_changes_what_is_encoded() -> None:
    plain = [Plain(i, [i], {"a": i}, {i}, Counter([i])) for i in range(30)]
    stop = threading.Event()

    def change() -> None:
        rng = random.Random(1)
        while not stop.is_set():
            one = rng.choice(plain)
            one.attr1.append(1)  # type: ignore[attr-defined]
            if len(one.attr1) > 20:  # type: ignore[attr-defined]
                one.attr1 = []  # type: ignore[attr-defined]
            one.attr2["b"] = one.attr1  # type: ignore[attr-defined]
            vars(one).pop("attr9", None)
            one.attr9 = [one.attr2]  # type: ignore[attr-defined]
            one.attr2.pop("b")  # type: ignore[attr-defined]
            one.attr3.add(number := rng.randrange(40))  # type: ignore[attr-defined]
            one.attr3.discard(number - 1)  # type: ignore[attr-defined]
            one.attr4[number] += 1  # type: ignore[attr-defined]
            del one.attr4[number]  # type: ignore[attr-defined]

    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    thread = threading.Thread(target=change)
    thread.start()
    try:
        for _ in range(200):
            data = _core._encode([plain, {"key": plain[0]}])
            if data is not None:
                found = _core._decode(data)
                assert [one.attr0 for one in found[0]] == list(range(30))
            for number, one in enumerate(plain):
                data = _core._encode(one)
                assert data is None or _core._decode(data).attr0 == number
    finally:
        stop.set()
        thread.join()
        sys.setswitchinterval(before)


# Invalid bytes


def samples() -> Iterator[Any]:
    for name in ("plain", "slots and dict", "named tuple", "setter", "keywords", "list", "dict"):
        yield [KINDS[name]([number]) for number in range(3)]
        yield (KINDS[name](1), "text")
    shared: list[Any] = [Plain(1)]
    yield [shared, (1, shared), {"key": shared}, frozenset([1]), {2}, bytearray(b"abc")]


@pytest.mark.parametrize("value", list(samples()), ids=lambda value: type(value[0]).__name__)
def test_truncated_or_changed_bytes(value: Any) -> None:
    """Whatever the bytes are, there is an object or an exception."""
    data = _core._encode(value)
    assert data is not None
    for end in range(len(data)):
        with pytest.raises(Exception):  # noqa: B017 (of the class, or of the encoding)
            _core._decode(data[:end])
    for at in range(len(data)):
        for byte in (0, 1, 2, 4, 8, 16, 21, 22, 23, 24, 25, 28, 29, 30, 127, 128, 255):
            # Names stay as they are: a changed name may be that of anything.
            if data[at : at + 1].isalpha() or chr(data[at]) in "._":
                continue
            try:
                _core._decode(data[:at] + bytes([byte]) + data[at + 1 :])
            except Exception:
                continue


def test_memory_is_bounded_by_the_size_of_the_bytes() -> None:
    """Nested counts that each claim all bytes that are left."""
    for tag in (15, 16, 22, 23, 30, 31):  # sequences of every kind
        head = bytes([tag, 255]) + (900).to_bytes(8, "little") + bytes([20])
        with pytest.raises(cpool.PoolError):
            _core._decode(head * 100 + b"\1" * 1000)


def test_a_repeated_instance_is_sent_once_in_a_chunk(pool: Any) -> None:
    heavy = Plain(b"x" * 100_000)
    data = _core._encode([heavy] * 50)
    assert data is not None
    assert len(data) < 110_000
    for items in ([heavy] * 40, [(heavy, i) for i in range(40)], [{"a": heavy} for _ in range(40)]):
        found = pool.map(tasks.identity, items)
        assert len(found) == 40


@pytest.mark.skipif(
    bool(sysconfig.get_config_var("Py_GIL_DISABLED")),
    reason="without the GIL, objects are freed late",
)
@pytest.mark.parametrize("name", ["ValueError", *KINDS])
def test_no_kind_leaves_blocks_behind(name: str) -> None:
    """Whole, and cut off."""
    make = KINDS.get(name, ValueError)

    def use(rounds: int) -> int:
        for number in range(rounds):
            data = _core._encode([make(number), make(number)])
            assert data is not None
            _core._decode(data)
            for end in range(1, len(data), 7):
                with contextlib.suppress(Exception):
                    _core._decode(data[:end])
        gc.collect()
        return sys.getallocatedblocks()

    # Names and keys are kept, up to a bound: it levels off.
    use(20)
    blocks = [use(20), use(100)]
    while blocks[-1] - blocks[-2] >= 50 and len(blocks) < 10:
        blocks.append(use(100))
    assert blocks[-1] - blocks[-2] < 50, blocks
