"""The encoding of plain values: what it delivers, what it leaves to pickle, what it refuses."""

from __future__ import annotations

import contextlib
import gc
import pickle
import random
import struct
import sys
from collections import namedtuple
from typing import Any

import hypothesis
import hypothesis.strategies as st
import pytest
import tasks

import cpool
from cpool import _core

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


DEEPEST = 8  # tuples in tuples, a run's column counted


def canon(value: Any) -> Any:
    """What two values share if and only if they are equal in type, and to the last bit."""
    if isinstance(value, (tuple, list)):
        return type(value), [canon(item) for item in value]
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
value_of_ours = st.recursive(
    atom, lambda inner: st.lists(inner, max_size=4).map(tuple), max_leaves=12
).filter(lambda value: depth(value) < DEEPEST)
runs = st.one_of(
    [st.lists(kind, max_size=30) for kind in atoms]
    + [st.lists(st.tuples(one, two), max_size=30) for one in atoms for two in atoms[:4]]
    + [st.lists(value_of_ours, max_size=10)]
)


def depth(value: Any) -> int:
    return 1 + max(map(depth, value), default=0) if isinstance(value, tuple) else 0


@hypothesis.given(value=value_of_ours)
def test_a_value_is_what_pickle_would_have_delivered(value: Any) -> None:
    assert canon(through(value)) == canon(pickle.loads(pickle.dumps(value, 5)))


@hypothesis.given(values=runs)
def test_a_run_is_what_pickle_would_have_delivered(values: list[Any]) -> None:
    data = _core._encode(values)
    if data is not None:  # where many are the same objects, it is left to pickle
        assert canon(_core._decode(data)) == canon(pickle.loads(pickle.dumps(values, 5)))


@hypothesis.given(values=runs, chunksize=st.integers(1, 12))
def test_any_values_through_a_pool(pool: Any, values: list[Any], chunksize: int) -> None:
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


def test_what_there_is_one_of_stays_one() -> None:
    values = [None, True, False, (), "", chr(97), chr(0xE9), b"", b"x", 0, -5, 256]
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
        [1],
        {1: 2},
        {1},
        bytearray(b"a"),
        1j,
        Ellipsis,
        tasks.identity,
        int,
    ],
    ids=repr,
)
def test_what_is_not_exactly_of_these_types_is_pickles(pool: Any, value: Any) -> None:
    for obj in ((1, value), (value, 1), ((value,), (2,)), (1.5, (value,))):
        assert _core._encode(obj) is None
        assert _core._encode(list(obj)) is None
        assert _core._encode([obj, obj]) is None
    for items in ([value], [1, 2, value], [(1, value), (2, 3)], [value, 1.5, "a"]):
        assert canon(pool.map(tasks.identity, items, 5)) == canon(items)


def test_tuples_are_nested_so_deep_and_deeper_ones_are_pickles(pool: Any) -> None:
    assert through(nest(DEEPEST, 1)) == nest(DEEPEST, 1)
    assert through([nest(DEEPEST - 1, 1)] * 2) == [nest(DEEPEST - 1, 1)] * 2
    assert _core._encode(nest(DEEPEST + 1, 1)) is None
    assert _core._encode([nest(DEEPEST, 1)] * 2) is None
    for levels in (DEEPEST - 1, DEEPEST, DEEPEST + 1, 50):
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


def test_a_large_object_goes_once_however_often_it_stands_there(pool: Any) -> None:
    big = b"x" * 1_000_000
    assert _core._encode([big] * 100) is None
    assert _core._encode((1, big, big)) is None
    found = pool.apply(tasks.identity, ([big] * 100,))
    assert found == [big] * 100
    assert len({id(item) for item in pool.map(tasks.identity, [big] * 100, 100)}) == 1


def test_one_large_object_needs_no_pickle() -> None:
    for big in (b"x" * 1_000_000, "x" * 1_000_000, "\u20ac" * 1000):
        assert through((1, big)) == (1, big)


@pytest.mark.parametrize("item", ["label", b"label", (1, 2)], ids=repr)
def test_a_small_object_that_is_repeated_is_one_object_after(pool: Any, item: Any) -> None:
    item = pickle.loads(pickle.dumps(item))  # no constant
    assert _core._encode([item] * 100) is None
    found = pool.map(tasks.identity, [item] * 100, 100)
    assert found == [item] * 100
    assert len({id(one) for one in found}) == 1


def test_memory_and_bytes_are_near_to_those_of_pickle() -> None:
    """Whatever is repeated, and how: labels in a few columns, by turns or in blocks."""
    random.seed(1)
    labels = [f"label {number}" * 4 for number in range(60)]
    for kinds in (1, 2, 10, 60):
        chosen = [random.choice(labels[:kinds]) for _ in range(2000)]
        for items in (chosen, sorted(chosen), [(1, label) for label in chosen]):
            data = _core._encode(items)
            assert data is None or len(data) < 2 * len(pickle.dumps(items, 5))


# Rubbish


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
]


@pytest.mark.parametrize("value", SAMPLES, ids=repr)
def test_what_was_cut_or_lengthened_is_refused(value: Any) -> None:
    data = _core._encode(value)
    assert data is not None
    for end in range(len(data)):
        with pytest.raises(cpool.PoolError):
            _core._decode(data[:end])
    for more in (b"\0", b"\1", data):
        with pytest.raises(cpool.PoolError):
            _core._decode(data + more)


@pytest.mark.parametrize("value", SAMPLES, ids=repr)
def test_a_byte_that_was_changed_is_refused_or_another_value(value: Any) -> None:
    data = _core._encode(value)
    assert data is not None
    for at in range(len(data)):
        for byte in (0, 1, 7, 10, 15, 16, 17, 18, 19, 127, 128, 254, 255, data[at] ^ 1):
            try:
                found = _core._decode(data[:at] + bytes([byte]) + data[at + 1 :])
            except cpool.PoolError:
                continue
            assert canon(pickle.loads(pickle.dumps(found, 5))) == canon(found)


@hypothesis.given(data=st.binary(max_size=60))
def test_any_bytes_are_refused_or_a_value(data: bytes) -> None:
    try:
        found = _core._decode(data)
    except cpool.PoolError:
        return
    assert canon(pickle.loads(pickle.dumps(found, 5))) == canon(found)


def test_no_memory_is_asked_for_that_the_bytes_cannot_fill() -> None:
    huge = b"\xff" + struct.pack("Q", 2**62)
    for tag in range(20):
        for second in range(20):
            with pytest.raises(cpool.PoolError):
                _core._decode(bytes([tag]) + huge + bytes([second]) * 9)


def test_strings_are_in_the_one_form_that_python_knows() -> None:
    """A string wider than its characters need would not equal the same one made elsewhere."""
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


def test_nothing_is_kept_of_what_is_refused() -> None:
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
