"""Dates, complex, Decimal, UUID, paths, sets, Counter: own encodings, equal to pickle's."""

from __future__ import annotations

import contextlib
import copyreg
import datetime
import decimal
import pathlib
import pickle
import random
import struct
import sys
import uuid
from collections import Counter, defaultdict, deque
from collections.abc import Callable
from datetime import UTC, date, time, timedelta, timezone
from decimal import Decimal
from multiprocessing.reduction import ForkingPickler
from pathlib import Path, PurePath, PurePosixPath, PureWindowsPath
from typing import Any
from uuid import UUID, SafeUUID
from zoneinfo import ZoneInfo

import graphs
import pytest
import tasks

import cpool
from cpool import _core

pytestmark = pytest.mark.better

with contextlib.suppress(ImportError):
    import numpy  # noqa: F401 - mangled bytes import it, and it leaves a thread behind


class Zone(datetime.tzinfo):
    """A class of the program's."""

    def __init__(self, held: Any = None) -> None:
        self.held = held

    def __repr__(self) -> str:
        return "Zone()"

    def utcoffset(self, when: Any) -> timedelta:
        return timedelta(hours=2)

    def dst(self, when: Any) -> None:
        return None

    def tzname(self, when: Any) -> str:
        return "zone"


class Day(date):
    pass


class Moment(datetime.datetime):
    pass


class Wave(complex):
    pass


class Money(Decimal):
    pass


class Key(UUID):
    pass


class Folder(type(Path())):  # type: ignore[misc]
    pass


class Group(frozenset):  # type: ignore[type-arg]
    pass


class Votes(Counter):  # type: ignore[type-arg]
    pass


class Tree(defaultdict):  # type: ignore[type-arg]
    pass


class Queue(deque):  # type: ignore[type-arg]
    pass


class Node:
    def __init__(self, held: Any = None) -> None:
        self.held = held


def moment(*args: Any, **more: Any) -> datetime.datetime:
    return datetime.datetime(*args, **more)


def used(path: PurePath) -> PurePath:
    """A path that has cached its string, its hash and more."""
    assert hash(path) is not None
    assert (str(path), path.parts, path.name, path < path)[3] is False
    return path


ZONE = Zone()
try:
    BERLIN: datetime.tzinfo = ZoneInfo("Europe/Berlin")
except LookupError:  # neither the system nor tzdata knows it
    BERLIN = timezone(timedelta(hours=1), "CET")

KINDS: dict[str, list[Any]] = {
    "dates": [date.min, date.max, date(2020, 2, 29), Day(2020, 1, 2)],
    "times": [time.min, time.max, time(23, 59, 59, 999999, fold=1), time(1, fold=1)],
    "zoned times": [time(1, 2, tzinfo=UTC), time(3, tzinfo=ZONE, fold=1), time(4)],
    "datetimes": [
        datetime.datetime.min,
        datetime.datetime.max,
        moment(2020, 1, 2, 3, fold=1),
        moment(2024, 12, 31, 23, 59, 59, 1),
        moment(2020, 2, 29, 0, 0, 0, 65536),
    ],
    "zoned datetimes": [
        moment(2020, 1, 2, tzinfo=UTC),
        moment(2020, 10, 25, 2, tzinfo=BERLIN, fold=1),
        moment(2020, 10, 25, 2, tzinfo=BERLIN),
        moment(2020, 10, 25, 2, tzinfo=timezone(timedelta(hours=-3), "name")),
        moment(2020, 10, 25, 2, tzinfo=ZONE),
        moment(2020, 1, 1),
        Moment(2020, 1, 1, tzinfo=UTC),
    ],
    "timedeltas": [timedelta.min, timedelta.max, timedelta(0), -timedelta.resolution],
    "complex numbers": [
        0j,
        complex(-0.0, -0.0),
        1.5 - 2j,
        complex(float("inf"), 5e-324),
        Wave(1, 2),
    ],
    "decimals": [
        *map(Decimal, "0 -0 1 -1.250 1E+28 9.99E-999999 NaN -sNaN12 Infinity -Infinity".split()),
        Decimal(7) / 3,
        Decimal("1" * 300 + "." + "2" * 300),
        Decimal((1, (0, 0, 1), 5)),
        Money("1.5"),
    ],
    "uuids": [
        UUID(int=0),
        UUID(int=2**128 - 1),
        UUID(int=5, is_safe=SafeUUID.safe),
        UUID(int=5, is_safe=SafeUUID.unsafe),
        uuid.uuid5(uuid.NAMESPACE_DNS, "name"),
        Key(int=1),
    ],
    "paths": [
        *map(
            Path, ("", ".", "/", "//", "///", "//a/b", "/a", "a/b/", "../a//./b", "a b\n\udc80é€😀")
        ),
        Path("/a") / "b" / ".." / "c",
        Path("a", "", "b/c", "/d"),
        Path("x/y/z.tar.gz").with_suffix(".txt").parent,
        Path("a/b").relative_to("a"),
        used(Path("/some/folder")),
        used(Path()),
        Path("long" * 300, "long" * 300),
        Path("a\0b"),
        PurePosixPath("c:\\d") / "e",
        PurePosixPath(PureWindowsPath("c:\\d")),
        PureWindowsPath("c:/d/e"),
        Folder("a/b"),
    ],
    "sets": [set(), {1}, {1, 2, 3}, {"a", "b"}, {None, (1, 2)}, set(range(300)), {b"x" * 300}],
    "counters": [
        Counter(),
        Counter("aab"),
        Counter({1: -1, "b": 0, (1, 2): 2.5}),
        Counter({"a": 2, "b": 1}),
        Counter(dict.fromkeys(range(300), 2**70)),
        Votes("ab"),
    ],
    "defaultdicts": [
        defaultdict(list, {1: [2]}),
        defaultdict(list),
        defaultdict(None, {1: 2}),
        defaultdict(int, {1: [2]}),
        defaultdict(),
        defaultdict(Node, a=defaultdict(list)),
        Tree(list, {1: 2}),
    ],
    "deques": [
        deque(),
        deque([1, "a"]),
        deque([1, [2]], 2),
        deque(maxlen=0),
        deque(range(5), 3),
        deque([deque([1])]),
        deque(["b", 2]),
        Queue([1], 5),
    ],
    "frozensets": [frozenset(), frozenset("ab"), frozenset({frozenset({1})}), Group([1, 2])],
}


def through(value: Any) -> Any:
    data = _core._encode(value)
    assert data is not None, "left to pickle"
    return _core._decode(data)


def by_pickle(value: Any) -> Any:
    return pickle.loads(pickle.dumps(value, 5))


@pytest.fixture(params=KINDS)
def values(request: pytest.FixtureRequest) -> list[Any]:
    return KINDS[request.param]


def test_each_value_arrives_as_with_pickle(values: list[Any]) -> None:
    for value in values:
        [found] = through([value])
        assert graphs.form(found) == graphs.form(by_pickle(value))
        assert type(found) is type(value)
        if not isinstance(value, (set, frozenset)):  # whose order is not told
            assert repr(found) == repr(value)
        if not isinstance(value, Decimal) or not value.is_nan():
            assert found == value
            assert type(value).__hash__ is None or hash(found) == hash(value)


def test_columns_arrive_as_with_pickle(values: list[Any]) -> None:
    one = values[0]
    alike = [value for value in values if type(value) is type(one)]
    for body in (
        values,
        alike,
        alike * 5,
        [one] * 20,
        [(number, value) for number, value in enumerate(alike)],
        [{"a": value, "b": one} for value in alike],
        [*alike, 1, *alike],
        [Node(value) for value in alike],
        ([one], one, {"key": one}),
        dict.fromkeys(range(30), one),
    ):
        assert graphs.form(through(body)) == graphs.form(by_pickle(body))


def test_values_of_all_these_classes_go_through_a_pool(pool: Any, values: list[Any]) -> None:
    for size in (None, 1, 100):
        found = pool.map(tasks.identity, values * 3, size)
        assert [graphs.form(one) for one in found] == [
            graphs.form(by_pickle(one)) for one in values * 3
        ]


def test_a_path_works_after_it_was_sent() -> None:
    for path in KINDS["paths"]:
        [found] = through([path])
        assert found / "x" == path / "x"
        assert found.parent == path.parent
        assert found.parts == path.parts
        assert found.name == path.name
        assert found.is_absolute() == path.is_absolute()
        assert (found < path, hash(found)) == (False, hash(path))


def test_zones_stay_one_object() -> None:
    zone = Zone([1])
    found = through([moment(2020, 1, day, tzinfo=zone) for day in range(1, 30)] + [zone])
    assert len({id(when.tzinfo) for when in found[:-1]} | {id(found[-1])}) == 1
    assert through([moment(2020, 1, 1, tzinfo=UTC)] * 2)[0].tzinfo is UTC


def test_a_zone_that_refers_to_its_time_is_left_to_pickle(pool: Any) -> None:
    zone = Zone()
    zone.held = moment(2020, 1, 1, tzinfo=zone)
    assert _core._encode([zone.held, moment(2021, 1, 1, tzinfo=zone)]) is None
    [found] = pool.map(tasks.identity, [zone.held])
    assert graphs.form(found) == graphs.form(by_pickle(zone.held))


def test_this_version_has_the_classes_as_we_know_them() -> None:
    """Objects with rules of their own are sent without the name of their class."""
    names = "dates times datetimes timedeltas decimals uuids counters".split()
    for name in (*names, "complex numbers"):
        one = KINDS[name][0]
        data = _core._encode([one, one])
        assert data is not None
        assert type(one).__name__.encode() not in data
    for path in (Path("a"), PurePosixPath("a")):
        assert b"PosixPath" not in (_core._encode([path]) or b"PosixPath")


def test_complex_numbers_keep_each_bit() -> None:
    bits = [0x7FF8000000000001, 0xFFF0000000000123, 1 << 63, 0x7FF0000000000000]
    real = struct.unpack("4d", struct.pack("4Q", *bits))
    values = [complex(one, other) for one in real for other in real]
    for found in (through(values), [through(value) for value in values]):
        packed = [struct.pack("2d", value.real, value.imag) for value in found]
        assert packed == [struct.pack("2d", value.real, value.imag) for value in values]


def conjugated(value: complex) -> Any:
    return complex, (value.real, -value.imag)


@pytest.mark.parametrize("table", [copyreg.dispatch_table, ForkingPickler._extra_reducers])  # type: ignore[attr-defined]
def test_a_reducer_of_complex_numbers_is_called(
    monkeypatch: pytest.MonkeyPatch, table: dict[Any, Any]
) -> None:
    assert through([1j, 2j]) == [1j, 2j]
    with monkeypatch.context() as patch:
        patch.setitem(table, complex, conjugated)
        assert through([1j, 2j]) == [-1j, -2j]
        assert through(1j) == -1j
    with monkeypatch.context() as patch:
        patch.delitem(copyreg.dispatch_table, complex)
        assert through([1j, 2j]) == [1j, 2j]
    assert through([1j, 2j]) == [1j, 2j]


# Classes that are not as the standard library has written them


def changed_uuid(patch: pytest.MonkeyPatch) -> Any:
    patch.setattr(UUID, "__getstate__", lambda self: {"int": self.int + 1})
    return UUID(int=5)


def other_state_of_uuid(patch: pytest.MonkeyPatch) -> Any:
    original = UUID.__setstate__  # type: ignore[attr-defined]

    def set_state(self: UUID, state: Any) -> None:
        original(self, {"int": state["int"] * 2})

    patch.setattr(UUID, "__setstate__", set_state)
    return UUID(int=5)


def changed_path(patch: pytest.MonkeyPatch) -> Any:
    patch.setattr(PurePath, "__reduce__", lambda self: (type(self), ("instead", str(self))))
    return Path("/a/../b")


def path_with_a_state(patch: pytest.MonkeyPatch) -> Any:
    patch.setattr(PurePath, "__setstate__", lambda self, state: None, raising=False)
    return Path("a/b")


def changed_counter(patch: pytest.MonkeyPatch) -> Any:
    patch.setattr(Counter, "__reduce__", lambda self: (Counter, ({"instead": 1},)))
    return Counter("ab")


def counter_that_is_made_in_another_way(patch: pytest.MonkeyPatch) -> Any:
    patch.setattr(Counter, "__init__", lambda self, items: dict.__init__(self, instead=len(items)))
    return Counter([1])


@pytest.mark.parametrize(
    "change",
    [
        changed_uuid,
        other_state_of_uuid,
        changed_path,
        path_with_a_state,
        changed_counter,
        counter_that_is_made_in_another_way,
    ],
)
def test_a_class_that_was_changed_is_asked(
    monkeypatch: pytest.MonkeyPatch, change: Callable[[pytest.MonkeyPatch], Any]
) -> None:
    through([UUID(int=1), Path("a"), Counter("a")])  # what is known of them has to be forgotten
    with monkeypatch.context() as patch:
        body = [change(patch)] * 2 + [change(patch)]
        assert graphs.form(through(body)) == graphs.form(by_pickle(body))
    assert through([UUID(int=1), Path("a")]) == [UUID(int=1), Path("a")]


def test_a_class_that_changes_on_the_way_is_called(monkeypatch: pytest.MonkeyPatch) -> None:
    body = [UUID(int=5), Path("/a/../b"), UUID(int=7), Path("c"), Path()]
    data = _core._encode(body)
    assert data is not None
    changed_uuid(monkeypatch)
    changed_path(monkeypatch)
    assert graphs.form(_core._decode(data)) == graphs.form(body)


def test_what_the_program_has_instead_of_a_class(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pickle refuses an object whose class is not found by its name."""
    for module, value in (
        (uuid, UUID(int=1)),
        (decimal, Decimal(1)),
        (sys.modules[type(Path()).__module__], Path("a")),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(module, type(value).__name__, Node)
            if module is not decimal:
                patch.setattr(pathlib, type(value).__name__, Node, raising=False)
            assert _core._encode([value]) is None
            with pytest.raises(pickle.PicklingError):
                pickle.dumps(value, 5)


def test_a_slot_that_is_empty_or_odd() -> None:
    bare = object.__new__(UUID)
    with pytest.raises(AttributeError):
        _core._encode([bare])
    with pytest.raises(AttributeError):
        pickle.dumps(bare, 5)
    object.__setattr__(bare, "is_safe", SafeUUID.unknown)
    for number in (True, -1, 2**128, -(2**200)):
        object.__setattr__(bare, "int", number)
        [found] = through([bare])
        assert (type(found.int), found.int) == (type(number), number)


# Bytes from outside


def test_mangled_bytes_are_refused_or_decode(values: list[Any]) -> None:
    rng = random.Random(1)
    data = _core._encode([value for value in values if type(value) is type(values[0])])
    assert data is not None
    for end in range(len(data)):
        with pytest.raises((cpool.PoolError, ValueError, ArithmeticError)):
            _core._decode(data[:end])
    for _ in range(600):
        mangled = bytearray(data)
        for _ in range(rng.choice((1, 1, 2, 5))):
            mangled[rng.randrange(2, len(data))] = rng.randrange(256)
        try:
            repr(_core._decode(bytes(mangled)))
        except Exception:  # a string may be no number, and __setstate__() takes any
            continue


def test_numbers_that_no_date_has_are_refused() -> None:
    for value in (date(2020, 1, 2), time(1, 2, 3), moment(2020, 1, 1), timedelta(1, 2, 3)):
        data = _core._encode([value, value.__class__.max])
        assert data is not None
        with pytest.raises(cpool.PoolError):
            _core._decode(data[:-12] + b"\xff" * 12)


def test_a_zone_that_is_none_is_refused() -> None:
    whens = [moment(2020, 1, day, tzinfo=Zone()) for day in (1, 2)]
    data = _core._encode(whens)
    assert data is not None
    name = Zone.__name__.encode()
    assert data.count(name) == 1
    with pytest.raises(cpool.PoolError):
        _core._decode(data.replace(name, Node.__name__.encode()))


# Sets, and what else holds objects


def test_containers_that_have_themselves() -> None:
    counter: Any = Counter(a=1)
    counter["self"] = [counter]
    assert _core._encode([counter]) is None
    table: Any = defaultdict(list)
    table["self"].append(table)
    queue: Any = deque([1])
    queue.append(queue)
    for body in ([table], [table, defaultdict(list, a=[table])], [queue], [queue, deque([queue])]):
        assert graphs.form(through(body)) == graphs.form(by_pickle(body))


def test_columns_of_deques() -> None:
    inner: Any = deque([1])
    last: Any = deque([2])
    last.append([last])
    bodies: tuple[Any, ...] = (
        [deque([number, str(number)]) for number in range(20)],
        [deque([number, [number]], 5) for number in range(20)],
        [deque([number], number or None) for number in range(4)],
        [deque(range(number), 7) for number in range(20)],
        [inner, deque([inner]), deque([[inner]])],
        [deque([inner]), inner, deque([inner])],
        [deque([last, 1]), last, deque([[last], last])],
        [deque([Node(number)]) for number in range(5)],
        [deque([{Node()}, inner]), deque([{1}, {inner[0]}])],
        [deque(), deque(), deque(maxlen=0)],
    )
    for body in bodies:
        assert graphs.form(through(body)) == graphs.form(by_pickle(body))
        assert [getattr(one, "maxlen", None) for one in through(body)] == [
            getattr(one, "maxlen", None) for one in body
        ]
    rows = [deque([number, number + 1]) for number in range(100)]
    assert len(_core._encode(rows) or b"") < 350


class Extended(deque):  # type: ignore[type-arg]
    def extend(self, items: Any) -> None:
        assert type(items) is list
        super().extend([("extended", item) for item in items])


class Appended(list):  # type: ignore[type-arg]
    def __getattribute__(self, name: str) -> Any:
        if name == "extend":
            raise AttributeError(name)
        return super().__getattribute__(name)

    def append(self, item: Any) -> None:
        super().append(("appended", item))


def test_how_items_are_added_to_other_classes() -> None:
    appended = Appended()
    list.extend(appended, [1, "a", [2]])
    for body in (
        [Extended([1, "a", [2]])],
        [appended],
        [appended, appended[:0], Appended()],
        [Extended([number]) for number in range(9)],
    ):
        assert graphs.form(through(body)) == graphs.form(by_pickle(body))


def test_attributes_of_a_counter_are_left_out() -> None:
    """By Counter.__reduce__()."""
    counter: Any = Counter("ab")
    counter.mark = 1
    assert graphs.form(through([counter])) == graphs.form(by_pickle([counter]))


def test_factories_stay_one_object() -> None:
    tables = [defaultdict(Node, {number: number}) for number in range(20)]
    found = through([*tables, Node])
    assert {one.default_factory for one in found[:-1]} == {Node}
    assert found[0]["new"].held is None


def test_sets_of_objects_that_refer_to_sets() -> None:
    first = {1, 2}
    nodes = [Node(), Node(first)]
    nodes[0].held = nodes
    for body in (
        [{nodes[0]}, {nodes[1]}, {nodes[0]}, first],
        [first, {Node(first)}, first],
        [frozenset([nodes[0]]), frozenset([nodes[1]])],
        [{frozenset([1])}, {frozenset([1]), 2}, {(1, "a")}],
        [set(), set(), {Decimal(1)}, {UUID(int=1)}],
    ):
        expected = graphs.form(by_pickle(body))
        assert graphs.form(through(body)) == expected
        assert graphs.form(through([body, body])) == graphs.form(by_pickle([body, body]))
    loop = {Node()}
    next(iter(loop)).held = loop
    assert graphs.form(through([loop, {1}])) == graphs.form(by_pickle([loop, {1}]))


def test_sets_from_which_items_were_removed() -> None:
    rng = random.Random(2)
    groups = [set(range(number)) for number in range(0, 200, 7)]
    for group in groups:
        for item in rng.sample(sorted(group), len(group) // 2):
            group.remove(item)
    groups[5].clear()
    assert through(groups) == groups
    assert [through((group,)) for group in groups] == [(group,) for group in groups]
    assert through([{-1, -2}, {"a"}, {-1}]) == [{-1, -2}, {"a"}, {-1}]


def test_columns_of_sets_are_short() -> None:
    rows = [{number, number + 1} for number in range(100)] + [set()]
    assert len(_core._encode(rows) or b"") < 350
