"""Arrays and scalars of numpy: what arrives is what pickle would have delivered."""

from __future__ import annotations

import copyreg
import gc
import pickle
import sys
import sysconfig
from collections.abc import Iterator
from typing import Any

import graphs
import pytest
import tasks

import cpool
from cpool import _core

np = pytest.importorskip("numpy")  # some images in which wheels are tested lack it

pytestmark = pytest.mark.better

# The protocol that the stdlib's pool uses.
PROTOCOL = 5 if sys.version_info >= (3, 14) else 4

NUMBERS = [np.dtype(char) for char in "?bBhHiIlLqQefdgFDG"]
OTHERS = [np.dtype(text) for text in ("S5", "U5", "M8[ns]", "m8[D]", "V3", "M8", "m8[25us]")]
RECORDS = [
    np.dtype([("a", "i4"), ("b", "f8")]),
    np.dtype([("a", "i1", (2, 2))]),
    np.dtype("f8", metadata={"unit": "m"}),
    np.dtype(object),
]


def by_pickle(value: Any) -> Any:
    return pickle.loads(pickle.dumps(value, PROTOCOL))


def through(value: Any) -> Any:
    data = _core._encode(value)
    assert data is not None, "left to pickle"
    return _core._decode(data)


def array_of(dtype: Any, shape: Any) -> Any:
    count = int(np.prod(shape))
    if dtype.kind in "SUV" and dtype.names is None:
        letters = np.array([str(i)[:1] for i in range(count)])
        made = letters.astype("S3").view(dtype) if dtype.kind == "V" else letters.astype(dtype)
        return made.reshape(shape)
    return np.arange(count).astype(dtype).reshape(shape)


def arrays(dtype: Any) -> Iterator[Any]:
    for shape in ((), (0,), (5,), (3, 4), (2, 3, 4), (2, 0, 3), (1, 1)):
        array = array_of(dtype, shape)
        yield array
        yield array.T
        yield np.asfortranarray(array)
        if array.ndim > 0:
            yield array[::2]
            yield array[::-1]
            yield np.broadcast_to(array, (2, *array.shape))
    read_only = array_of(dtype, (3,))
    read_only.flags.writeable = False
    yield read_only


def each(body: Any) -> Iterator[Any]:
    """The arrays in a body, each once."""
    seen = {}
    for part in body:
        for array in each(part) if isinstance(part, tuple) else (part,):
            seen[id(array)] = array
    return iter(seen.values())


@pytest.mark.parametrize("dtype", NUMBERS + OTHERS + RECORDS, ids=str)
def test_arrays_of_every_dtype_order_and_shape(dtype: Any) -> None:
    for array in arrays(dtype):
        for body in ((array,), [array], [array] * 10, [array, array.copy(), (array,)]):
            found, should = through(body), by_pickle(body)
            if PROTOCOL == 5:  # the only difference: none is read-only
                for one, other in zip(each(found), each(should), strict=True):
                    assert one.flags.writeable
                    one.flags.writeable = other.flags.writeable
            assert graphs.form(found) == graphs.form(should)


@pytest.mark.parametrize("text", [">i4", ">f8", ">U2", ">M8[s]", "q", "Q"])
def test_a_dtype_arrives_as_it_was(text: str) -> None:
    """Also where pickle makes it native, or another one of the same size."""
    dtype = np.dtype(text)
    for array in (array_of(dtype, (3,)), array_of(dtype, (2, 2)).T, array_of(dtype, ())):
        for [found] in (through([array]), through((array,))):
            assert found.dtype == dtype
            assert found.dtype.num == dtype.num
            assert found.tolist() == array.tolist()


def test_many_arrays_are_one_block() -> None:
    many = [np.arange(10.0) + i for i in range(100)]
    data = _core._encode(many)
    assert data is not None
    assert len(data) < 100 * 80 + 20
    found = _core._decode(data)
    assert graphs.form(found) == graphs.form(by_pickle(many))
    found[0][:] = 7  # each has memory of its own
    assert found[1].tolist() == (np.arange(10.0) + 1).tolist()
    found[1].resize(20, refcheck=False)  # its memory is its own
    for body in ([*many[:3], np.arange(3)], [many[0], np.arange(10)], [many[0], many[0][::2]]):
        assert graphs.form(through(body)) == graphs.form(by_pickle(body))


@pytest.mark.parametrize("dtype", NUMBERS + OTHERS[:4], ids=str)
def test_scalars(pool: Any, dtype: Any) -> None:
    scalars = list(array_of(dtype, (12,)))
    for body in (scalars, tuple(scalars[:1]), [(one, 1) for one in scalars], [scalars[1], 1, "a"]):
        assert graphs.form(through(body)) == graphs.form(body)
    for size in (None, 1, 12):
        assert graphs.form(pool.map(tasks.identity, scalars, size)) == graphs.form(scalars)


def test_special_numbers() -> None:
    values = [np.float64("nan"), np.float64("-0.0"), np.float64("inf"), np.float32(1.1)]
    values += [np.int64(-(2**63)), np.uint64(2**64 - 1), np.bool_(True), np.complex128(1 - 2j)]
    assert graphs.form(through(values)) == graphs.form(by_pickle(values))
    assert through((np.bool_(True),))[0] is np.True_


class Child(np.ndarray):  # type: ignore[misc, name-defined]
    pass


def test_what_is_no_plain_array() -> None:
    array = np.arange(6.0)
    for body in (
        [np.ma.masked_array([1, 2], [True, False])],
        [np.rec.array([(1, 2.0)], dtype=[("a", int), ("b", float)])],
        [array.view(Child)],
        [np.dtype("f8"), np.dtype("M8[ns]"), RECORDS[0], np.float64, np.ndarray],
        [np.sum, np.datetime64("2020-01-01")],
    ):
        one, two = through(body), by_pickle(body)
        assert list(map(type, one)) == list(map(type, two))
        assert repr(one) == repr(two)


def test_generators_of_random_numbers(pool: Any) -> None:
    for make in (np.random.default_rng, np.random.RandomState):
        items = [make(seed) for seed in range(3)]
        for found in (through(items), pool.map(tasks.identity, items)):
            drawn = [one.standard_normal(4).tolist() for one in found]
            assert drawn == [make(seed).standard_normal(4).tolist() for seed in range(3)]
    seeds = np.random.SeedSequence(1).spawn(3)
    assert [one.generate_state(2).tolist() for one in through(seeds)] == [
        one.generate_state(2).tolist() for one in seeds
    ]


def test_an_array_that_several_objects_hold_stays_one(pool: Any) -> None:
    array = np.arange(100.0)
    body = [(array, 1), (array, 2), {"a": array}]
    found = pool.apply(tasks.identity, (body,))
    assert found[0][0] is found[1][0] is found[2]["a"]
    holder: Any = np.empty(1, object)
    holder[0] = [holder]
    [found] = through((holder,))
    assert found[0][0] is found


@pytest.mark.parametrize("size", [0, 1, 1000, 1_000_000])
def test_arrays_through_a_pool(pool: Any, size: int) -> None:
    items = [np.arange(float(size)) + i for i in range(6)]
    for chunksize in (None, 1, 6):
        found = pool.map(tasks.identity, items, chunksize)
        assert graphs.form(found) == graphs.form(by_pickle(items))
    found = pool.starmap(tasks.arguments, [(one, i) for i, one in enumerate(items)])
    assert [args[1] for args, _ in found] == list(range(6))
    assert graphs.form([args[0] for args, _ in found]) == graphs.form(by_pickle(items))


class OfProgram(np.ndarray):
    pass


def write_to(array: Any) -> Any:
    """Returns the array, read-only."""
    array[...] = array[::-1].copy()
    array.flags.writeable = False
    return array


@pytest.mark.parametrize("size", [10, 100_000])
@pytest.mark.parametrize("dtype", ["f8", "M8[s]", "i4,f8", "S3", "O"])
def test_what_is_read_only_arrives_writable(pool: Any, dtype: str, size: int) -> None:
    plain = np.arange(size).astype(dtype)
    plain.flags.writeable = False
    for array in (plain, plain.view(OfProgram)):
        other = array.copy()
        other.flags.writeable = False
        for found in (pool.apply(write_to, (array,)), *pool.map(write_to, [array, other], 2)):
            assert type(found) is type(array)
            assert found.flags.writeable
            assert (found[::-1] == array).all()
            found[...] = array
        assert not array.flags.writeable
        assert (plain == np.arange(size).astype(dtype)).all()


def test_a_reducer_that_is_registered_for_arrays_is_used() -> None:
    copyreg.pickle(np.ndarray, lambda array: (list, (array.tolist(),)))
    try:
        assert through([np.arange(3)]) == [[0, 1, 2]]
    finally:
        del copyreg.dispatch_table[np.ndarray]


def test_invalid_bytes() -> None:
    array = np.arange(6).reshape(2, 3)
    for value in ([array, array + 1], (array, 1), [np.float32(1), np.float32(2)], (OTHERS[1],)):
        for body in (value, [np.array(["ab"]), np.array(["cd"])]):
            data = _core._encode(body)
            assert data is not None
            for end in range(len(data)):
                with pytest.raises(cpool.PoolError):
                    _core._decode(data[:end])
            for at in range(len(data)):
                for byte in (0, 1, 2, 3, 17, 20, 23, 24, 33, 127, 254, 255):
                    if data[at : at + 1].isalpha():
                        continue
                    try:
                        _core._decode(data[:at] + bytes([byte]) + data[at + 1 :])
                    except Exception:
                        continue
    huge = bytes([0x80 | 33, 12, 0, 3]) + (b"\xff" + (2**62).to_bytes(8, "little")) * 3
    with pytest.raises(cpool.PoolError):
        _core._decode(huge + bytes(100))


def test_numpy_is_imported_where_it_is_needed(tmp_path: Any) -> None:
    import scripts

    source = """
import sys
from cpool import _core

data = bytes.fromhex(sys.argv[1])
assert "numpy" not in sys.modules
print(_core._decode(data)[0].tolist(), "numpy" in sys.modules)
"""
    data = _core._encode([np.arange(3)])
    assert data is not None
    source = source.replace("sys.argv[1]", repr(data.hex()))
    assert scripts.output(tmp_path, source) == ["[0, 1, 2] True"]


@pytest.mark.skipif(
    bool(sysconfig.get_config_var("Py_GIL_DISABLED")),
    reason="without the GIL, objects are freed late",
)
@pytest.mark.parametrize("array", [False, True])
def test_no_blocks_are_left_behind(array: bool) -> None:
    """Also after bodies in which nothing has a number."""
    values = [np.arange(5), np.array(["a"])] if array else [np.float64(1), np.int32(2)]

    def use(rounds: int) -> int:
        for _ in range(rounds):
            for value in values:
                through(value)
                through([value, value])
        gc.collect()
        return sys.getallocatedblocks()

    use(100)
    before = use(100)
    assert use(500) - before < 250
