"""Encoding plain values: what round-trips, what is left to pickle, what is refused.

Objects of other classes are in test_objects.py.
"""

from __future__ import annotations

import contextlib
import datetime
import gc
import pickle
import random
import struct
import sys
from collections import OrderedDict, defaultdict, namedtuple
from typing import Any

import graphs
import hypothesis
import hypothesis.strategies as st
import pytest
import tasks

import cpool
from cpool import _core

# Bytes that announce an array import numpy, which starts threads that stay: not within a test that
# counts them.
with contextlib.suppress(ImportError):
    import numpy  # noqa: F401

pytestmark = pytest.mark.better

Pair = namedtuple("Pair", "left right")


class Text(str):
    pass


class Number(int):
    pass


class Ratio(float):
    pass


class Raw(bytes):
    pass


class Items(list):  # type: ignore[type-arg]
    pass


TAGS = 35  # more than there are
DEEPEST = 200  # levels of nested containers, the column of a run included
LEVELS = 8  # of them, that can be columns


def canon(value: Any) -> Any:
    """A key: equal for two values if and only if both have the same types and the same bits."""
    if isinstance(value, (tuple, list)):
        return type(value), [canon(item) for item in value]
    if isinstance(value, dict):
        return type(value), [(canon(key), canon(item)) for key, item in value.items()]
    if isinstance(value, float):
        return type(value), struct.pack("d", value)
    return type(value), value


def through(value: Any) -> Any:
    data = _core._encode(value)
    assert data is not None, "left to pickle"
    return _core._decode(data)


def nest(depth: int, value: Any) -> Any:
    for _ in range(depth):
        value = (value,)
    return value


BITS = (7, 8, 15, 16, 30, 31, 32, 60, 62, 63, 64)
EDGES = [2**bits + more for bits in BITS for more in (-1, 0, 1)]
integers = st.integers() | st.sampled_from(EDGES + [-edge for edge in EDGES]) | st.integers(-5, 300)
any_bits = st.integers(0, 2**64 - 1).map(lambda bits: struct.unpack("d", struct.pack("Q", bits))[0])
texts = st.text(st.characters(exclude_categories=()), max_size=12)
atoms = [
    st.none() | st.booleans(),
    integers,
    any_bits,
    texts,
    st.text("ab", max_size=5),
    st.binary(max_size=12),
]
atom = st.one_of(atoms)
keys = integers | texts | st.tuples(integers, texts)


def containers(inner: Any) -> Any:
    tuples = st.lists(inner, max_size=4).map(tuple)
    return tuples | st.lists(inner, max_size=4) | st.dictionaries(keys, inner, max_size=4)


value_of_ours = st.recursive(atom, containers, max_leaves=12)
record = st.fixed_dictionaries({"id": integers, "name": texts, "more": st.lists(atom, max_size=3)})
runs = st.one_of(
    [st.lists(kind, max_size=30) for kind in atoms]
    + [st.lists(st.tuples(one, two), max_size=30) for one in atoms for two in atoms[:4]]
    + [st.lists(value_of_ours, max_size=10), st.lists(record, max_size=10)]
)


@hypothesis.given(value=value_of_ours)
def test_a_value_round_trips_as_with_pickle(value: Any) -> None:
    value = (value,)  # a bare list would be encoded as a run
    assert canon(through(value)) == canon(pickle.loads(pickle.dumps(value, 5)))


@hypothesis.given(values=runs)
def test_a_run_round_trips_as_with_pickle(values: list[Any]) -> None:
    assert canon(through(values)) == canon(pickle.loads(pickle.dumps(values, 5)))


@hypothesis.given(values=runs, chunksize=st.integers(1, 12))
def test_any_values_round_trip_through_a_pool(pool: Any, values: list[Any], chunksize: int) -> None:
    expected = canon(values)
    rows = [(value, number) for number, value in enumerate(values)]
    assert canon(pool.map(tasks.identity, values, chunksize)) == expected
    assert canon(pool.map(tasks.identity, values)) == expected
    assert canon(list(pool.imap(tasks.identity, values, chunksize))) == expected
    found = pool.starmap(tasks.arguments, rows, chunksize)
    assert canon([args for args, _ in found]) == canon(rows)
    assert canon(pool.apply(tasks.arguments, tuple(values))[0]) == canon(tuple(values))


def test_integers_of_any_size() -> None:
    values = [*EDGES, 1 << 40_000, 127 << 1000, 255 << 1000, 1, 128, 129]
    for one in values + [-value for value in values]:
        assert canon(through(one)) == canon(one)
        assert canon(through([one, one])) == canon([one, one])
        assert canon(through([1, one, 0.5])) == canon([1, one, 0.5])


def test_strings_of_every_width() -> None:
    strings = ["", "a", "\x7f", "\x80", "\xff", "\u0100", "\uffff", "\ud800", "\udfff\ud800"]
    strings += ["\U0010ffff", "x\U00010000"]
    strings += [string * 5 for string in strings] + ["a" * 254, "a" * 255, "\u20ac" * 100]
    for string in strings:
        assert canon(through(string)) == canon(string)
        assert canon(through([string, string + "b"])) == canon([string, string + "b"])
    assert canon(through(strings)) == canon(strings)


def test_singletons_stay_singletons() -> None:
    # Not b"x": a constant from compiled bytecode is another object.
    x = b"xy".rstrip(b"y")
    values = [None, True, False, (), "", chr(97), chr(0xE9), b"", x, 0, -5, 256]
    for value in values:
        assert through(value) is value
        assert all(map(lambda one, two: one is two, through([value, value]), [value, value]))


@pytest.mark.parametrize(
    "value",
    [
        Text("a"),
        Number(1),
        Ratio(1.5),
        Raw(b"a"),
        Pair(1, 2),
        Items([1]),
        OrderedDict({1: 2}),
        defaultdict(list, {1: [2]}),
        {1},
        bytearray(b"a"),
        1j,
        Ellipsis,
        tasks.identity,
        int,
    ],
    ids=repr,
)
def test_other_types_and_subclasses_keep_their_type(pool: Any, value: Any) -> None:
    for obj in ((1, value), (value, 1), ((value,), (2,)), (1.5, (value,))):
        assert canon(through(obj)) == canon(obj)
        assert canon(through(list(obj))) == canon(list(obj))
        assert canon(through([obj, obj])) == canon([obj, obj])
    for items in ([value], [1, 2, value], [(1, value), (2, 3)], [value, 1.5, "a"]):
        assert canon(pool.map(tasks.identity, items, 5)) == canon(items)


def test_what_is_nested_too_deep_is_left_to_pickle(pool: Any) -> None:
    for levels in (LEVELS - 1, LEVELS, LEVELS + 1, DEEPEST - 1):
        assert through((nest(levels, 1),)) == (nest(levels, 1),)
        two = [nest(levels, 1), nest(levels, 1)]
        assert through(two) == two
    assert _core._encode(nest(DEEPEST + 1, 1)) is None
    assert _core._encode([nest(DEEPEST, 1)] * 2) is None
    for levels in (LEVELS, LEVELS + 1, DEEPEST - 1, DEEPEST, DEEPEST + 1, DEEPEST + 50):
        assert pool.map(tasks.identity, [nest(levels, 1)] * 2) == [nest(levels, 1)] * 2


def test_tuples_of_any_length(pool: Any) -> None:
    for length in (0, 1, 2, 15, 16, 17, 300):
        rows = [tuple(range(row, row + length)) for row in range(5)]
        assert through(rows) == rows
        assert pool.starmap(tasks.arguments, rows, 3) == [(row, {}) for row in rows]
    uneven = [(1,), (1, 2), (), (1, 2, 3)]
    assert through(uneven) == uneven
    assert pool.starmap(tasks.arguments, uneven, 4) == [(row, {}) for row in uneven]


# The same object many times


def test_a_large_repeated_object_is_encoded_once(pool: Any) -> None:
    big = b"x" * 1_000_000
    data = _core._encode([big] * 100)
    assert data is not None and len(data) < 1_001_000
    one, two = through((1, big, [big]))[1:]
    assert one is two[0]
    found = pool.apply(tasks.identity, ([big] * 100,))
    assert found == [big] * 100
    assert len({id(item) for item in found}) == 1
    assert len({id(item) for item in pool.map(tasks.identity, [big] * 100, 100)}) == 1


def test_one_large_object_needs_no_pickle() -> None:
    for big in (b"x" * 1_000_000, "x" * 1_000_000, "\u20ac" * 1000):
        assert through((1, big)) == (1, big)


@pytest.mark.parametrize("item", ["label", b"label", (1, 2)], ids=repr)
def test_a_small_repeated_object_stays_one_object(pool: Any, item: Any) -> None:
    item = pickle.loads(pickle.dumps(item))  # not a constant
    for found in (through([item] * 100), pool.map(tasks.identity, [item] * 100, 100)):
        assert found == [item] * 100
        assert len({id(one) for one in found}) == 1


@pytest.mark.parametrize("count", [1, 2, 100, 255, 256, 300])
@pytest.mark.parametrize("kind", [str, tuple, list, dict])
def test_a_few_repeated_objects(pool: Any, kind: Any, count: int) -> None:
    """Repeated lists and dicts keep their identity. Sharing immutable objects only saves memory."""
    few: list[Any] = [
        str(i) if kind is str else kind([(i, str(i))]) for i in range(1000, 1000 + count)
    ]
    items = [one for one in few for _ in range(10)] if kind in (str, tuple) else few * 10
    whole = len(items)
    for found in (pool.map(tasks.identity, items, whole), pool.apply(tasks.identity, (items,))):
        assert found == items
        assert count > 255 or len({id(one) for one in found}) == count
        assert kind in (str, tuple) or len({id(one) for one in found}) == count


def test_a_value_shared_by_all_records() -> None:
    records = [{"id": i, "state": "ready", "tags": ("a", "b")} for i in range(100)]
    found = through(records)
    assert found == records
    assert len({id(one["state"]) for one in found}) == len({id(one["tags"]) for one in found}) == 1


def test_memory_and_size_are_close_to_pickles() -> None:
    """Labels repeat in a few columns, in turns or in blocks."""
    random.seed(1)
    labels = [f"label {number}" * 4 for number in range(60)]
    for kinds in (1, 2, 10, 60):
        chosen = [random.choice(labels[:kinds]) for _ in range(2000)]
        for items in (chosen, sorted(chosen), [(1, label) for label in chosen]):
            data = _core._encode(items)
            assert data is not None
            assert len(data) < 2 * len(pickle.dumps(items, 5))
            found = _core._decode(data)
            assert found == items
            last = [item[-1] if isinstance(item, tuple) else item for item in found]
            assert len({id(label) for label in last}) == len(set(last))


@pytest.mark.parametrize("big", [tuple(range(100_000)), ((1, 2), (3, 4))], ids=["long", "nested"])
def test_a_tuple_that_would_multiply_stays_one_object(pool: Any, big: Any) -> None:
    for body in ((big, big), (big, (1, big)), ((big, 1), (big, 2)), (1, big, [big])):
        data = _core._encode(body)
        assert data is not None
        assert len(data) < 2 * len(pickle.dumps(body, 5))
        assert _core._decode(data) == body
    found = pool.map(tasks.identity, [(big, i) for i in range(4)], 4)
    assert found == [(big, i) for i in range(4)]
    assert len({id(one) for one, _ in found}) == 1


def test_repeatedly_nested_tuples_do_not_multiply() -> None:
    """Without sharing, the encoding would have 16**7 tuples."""
    one, two = (1,) * 16, (2,) * 16
    for _ in range(6):
        one, two = (one,) * 15 + (two,), (two,) * 15 + (one,)
    data = _core._encode([one, two])
    assert data is not None
    assert len(data) < 3 * len(pickle.dumps([one, two], 5))
    found = _core._decode(data)
    for _ in range(5):  # the innermost have numbers only, and may be copies
        assert [len({id(item) for item in each}) for each in found] == [2, 2]
        found = found[0]
        found = [found[0], found[15]]


@pytest.mark.parametrize("first", [None, True, 1, 1.5])
def test_a_column_of_few_objects_may_start_with_another_object(first: Any) -> None:
    labels = [f"label {number}" * 4 for number in range(10)]
    items = [first] + [labels[i * i % 10] for i in range(1000)]
    data = _core._encode(items)
    assert data is not None
    assert len(data) < 2 * len(pickle.dumps(items, 5))
    found = _core._decode(data)
    assert canon(found) == canon(items)
    assert len({id(label) for label in found[1:]}) == len(set(items[1:]))


def test_repeated_number_objects_do_not_force_pickle() -> None:
    items = [value for i in range(1000) for value in (None, 1, i / 3)]
    assert canon(through(items)) == canon(items)


# Lists and dicts


@pytest.mark.parametrize("count", [16, 17, 100, 255])
def test_records_of_many_fields_share_their_keys(count: int) -> None:
    records = [{f"field {key}": key * i for key in range(count)} for i in range(100)]
    data = _core._encode(records)
    assert data is not None
    assert len(data) < len(pickle.dumps(records, 5))
    found = _core._decode(data)
    assert canon(found) == canon(records)
    assert len({id(key) for one in found for key in one}) == count


def test_dicts_of_several_shapes_share_their_keys(pool: Any) -> None:
    """Pickle sends a key once, however many dicts have it."""
    fields = [f"field {key}" for key in range(10)]
    of_dicts: list[Any] = [{key: i for key in fields if key != fields[i % 10]} for i in range(100)]
    of_pairs: list[Any] = [(i, {"a": 1} if i % 2 else {"b": 1}) for i in range(100)]
    for records in (of_dicts, of_pairs):
        data = _core._encode(records)
        assert data is not None
        assert len(data) < 1.3 * len(pickle.dumps(records, 5))
        found = _core._decode(data)
        assert canon(found) == canon(records)
        dicts = [one[1] if isinstance(one, tuple) else one for one in found]
        assert len({id(key) for one in dicts for key in one}) <= 10
        assert pool.map(tasks.identity, records, len(records)) == records
    one = {str(i): i for i in range(1000)}
    assert canon(through((one,))) == canon((one,))
    numbers = [dict.fromkeys(range(i), i) for i in range(100)]
    assert canon(through(numbers)) == canon(numbers)


def test_lists_and_dicts_of_one_shape_and_of_several() -> None:
    records = [{"id": i, "name": f"n{i}", "more": [i, {"x": (i, [])}]} for i in range(50)]
    runs: list[list[Any]] = [
        records,
        [[i, str(i)] for i in range(20)],
        [[], [1], [1, 2], {}, {1: 2}, {2: 1}, {"a": []}],
        [{i: i} for i in range(5)],
        [{"a": 1, "b": 2}, {"b": 2, "a": 1}],
        [{str(i): i for i in range(length)} for length in (15, 16, 17, 300)],
        [list(range(length)) for length in (16, 17, 17)],
        [{"a" + str(i)[:0]: i, None: i, 1.5: i, (1, "b"): i, b"c": i} for i in range(9)],
    ]
    for run in runs:
        assert canon(through(run)) == canon(run)
        assert canon(through((run[0],))) == canon((run[0],))


def test_dicts_of_a_column_share_their_key_objects() -> None:
    one, two = through([{"a key": 1}, {"a key": 2}])
    assert next(iter(one)) is next(iter(two))


def looped() -> list[Any]:
    items: list[Any] = []
    items.append(items)
    return items


def shared(inner: Any) -> list[Any]:
    """Values that contain inner twice, in different places."""
    holder = (1, inner)
    return [
        (inner, inner),
        (inner, (2, inner)),
        ([inner, 1], inner),
        ({"a": inner, "b": inner},),
        ({"a": inner}, [inner]),
        (holder, holder),
        ([holder] * 2,),
        tuple({"a": inner, "i": i} for i in range(3)),
        tuple((i, inner) for i in range(3)),
        tuple([i, inner] for i in range(3)),
    ]


@pytest.mark.parametrize("inner", [[1], {1: 2}, [], {}], ids=repr)
def test_an_object_contained_twice_stays_one_object(pool: Any, inner: Any) -> None:
    for body in shared(inner):
        for value in (body, list(body)):
            assert graphs.form(through(value)) == graphs.form(value)
    assert len({id(one) for one in through([inner] * 3)}) == 1
    one, two = pool.map(tasks.identity, [inner] * 2, 2)
    assert one is two
    args = pool.apply(tasks.arguments, (inner, inner))[0]
    assert args[0] is args[1]
    found = pool.apply(tasks.identity, ({"a": inner, "b": [inner]},))
    assert found["a"] is found["b"][0]


@pytest.mark.parametrize("count", [16, 17, 1000])
def test_one_repeated_object_among_many_is_found(count: int) -> None:
    many: list[Any] = [[i] for i in range(count)]
    found = through([*many, many[count // 2]])
    assert found[-1] is found[count // 2]
    [found] = through(([*many, (1, many[0])],))
    assert found[-1][1] is found[0]
    assert graphs.form(through(many)) == graphs.form(many)


def test_recursive_values(pool: Any) -> None:
    loop = looped()
    [found] = through((loop,))
    assert found[0] is found
    found = pool.apply(tasks.identity, (loop,))
    assert found[0] is found
    around: dict[str, Any] = {}
    around["a"] = (1, [around])
    for found in (through((around,))[0], pool.apply(tasks.identity, (around,))):
        assert found["a"][1][0] is found
    many: list[Any] = [[i] for i in range(5)]
    for one in many:
        one.append(many[0])  # a column of lists that refers to itself
    assert graphs.form(through(many)) == graphs.form(many)
    inside: list[Any] = []
    inside.append((inside,))
    assert graphs.form(through((inside,))) == graphs.form((inside,))
    assert _core._encode(inside[0]) is None  # a tuple cannot be made before its contents
    assert graphs.form(pool.apply(tasks.identity, inside[:])) == graphs.form(inside[0])


# Invalid bytes


SAMPLES: list[Any] = [
    None,
    7,
    -70_000,
    2**70,
    1.5,
    "text",
    "\xe9\xe8",
    "\u20ac" * 3,
    "\U0001f600",
    b"bytes",
    (1, "a", (None, 2.5)),
    [1, 2, 300],
    [1.5, 2.5],
    ["a", "bc"],
    [(1, "x"), (2, "y")],
    [(1, (2, 3)), (4, (5, 6))],
    [None, True],
    [1, "a", b"b", ()],
    ([1, "a"], {"a": 1, "b": [2]}),
    [{"a": 1}, {"a": 2}],
    [[1], [2]],
    [{1, 2}, {3}, set()],
    [frozenset("a"), frozenset()],
    [datetime.date(2020, 1, 2), datetime.date.max],
    [datetime.datetime(2020, 1, 2, 3, fold=1), datetime.datetime.min],
    datetime.timedelta(1, 2, 3),
]


@pytest.mark.parametrize("value", SAMPLES, ids=repr)
def test_truncated_or_extended_bytes_are_refused(value: Any) -> None:
    data = _core._encode(value)
    assert data is not None
    for end in range(len(data)):
        with pytest.raises(cpool.PoolError):
            _core._decode(data[:end])
    for more in (b"\0", b"\1", data):
        with pytest.raises(cpool.PoolError):
            _core._decode(data + more)


@pytest.mark.parametrize("value", SAMPLES, ids=repr)
def test_a_changed_byte_is_refused_or_decodes_to_another_value(value: Any) -> None:
    data = _core._encode(value)
    assert data is not None
    for at in range(len(data)):
        for byte in (0, 1, 7, 10, *range(15, 23), 127, 128, 254, 255, data[at] ^ 1):
            try:
                found = _core._decode(data[:at] + bytes([byte]) + data[at + 1 :])
            except cpool.PoolError:
                continue
            assert canon(pickle.loads(pickle.dumps(found, 5))) == canon(found)


@hypothesis.given(data=st.binary(max_size=60))
def test_arbitrary_bytes_are_refused_or_decode(data: bytes) -> None:
    try:
        found = _core._decode(data)
    except cpool.PoolError:
        return
    assert canon(pickle.loads(pickle.dumps(found, 5))) == canon(found)


def test_allocations_are_bounded_by_the_input_size() -> None:
    huge = b"\xff" + struct.pack("Q", 2**62)
    for tag in range(TAGS):
        for second in range(TAGS):
            with pytest.raises(cpool.PoolError):
                _core._decode(bytes([tag]) + huge + bytes([second]) * 9)


def test_decoded_strings_have_the_canonical_width() -> None:
    """A string stored wider than necessary would not equal the same string created by Python."""
    ascii_tag, latin_tag, wide_tag, widest_tag = 10, 11, 12, 13
    assert _core._encode("ab") == bytes([ascii_tag, 2]) + b"ab"
    for data in (
        bytes([ascii_tag, 2]) + b"a\xe9",
        bytes([ascii_tag, 1]) + b"\xe9",
        bytes([latin_tag, 2]) + b"ab",
        bytes([latin_tag, 1]) + b"a",
        bytes([latin_tag, 0]),
        bytes([wide_tag, 1]) + struct.pack("H", 0xE9),
        bytes([wide_tag, 0]),
        bytes([widest_tag, 1]) + struct.pack("I", 0x20AC),
        bytes([widest_tag, 1]) + struct.pack("I", 0x110000),
        bytes([widest_tag, 2]) + struct.pack("II", 0x1F600, 0xFFFFFFFF),
    ):
        with pytest.raises(cpool.PoolError):
            _core._decode(data)


def test_refused_bytes_leave_no_objects() -> None:
    marker = "a marker of its own" * 3
    data = _core._encode([(marker, i, b"x" * i) for i in range(7)])
    assert data is not None
    cut = [data[:end] for end in range(len(data))]

    def refuse() -> int:
        for part in cut:
            with contextlib.suppress(cpool.PoolError):
                _core._decode(part)
        gc.collect()
        return sys.getallocatedblocks()

    refuse()
    before = refuse()
    assert refuse() - before < len(cut) / 2
