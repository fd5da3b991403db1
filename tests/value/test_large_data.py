"""Large data between the parent and its workers: what arrives, who sees what, and what is left."""

from __future__ import annotations

import array
import contextlib
import copy
import gc
import os
import pickle
import random
import signal
import sys
import threading
import zlib
from collections.abc import Iterator
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import engine
import pytest
import scripts
from leftovers import eventually

from cpool import Pool, WorkerLostError

numpy = pytest.importorskip("numpy")
soak_large = pytest.importorskip("soak_large")

KIB, MIB = 1 << 10, 1 << 20

HAS_MEMORY = sys.platform == "linux" and not engine.PORTABLE
needs_memory = pytest.mark.skipif(not HAS_MEMORY, reason="without shared memory")

pytestmark = pytest.mark.better


def memory_of() -> list[int]:
    """The bytes that each file of shared memory takes which this process has open."""
    found = []
    for fd in os.listdir("/proc/self/fd"):
        try:
            name = f"/proc/self/fd/{fd}"
            if os.readlink(name).startswith("/memfd:cpool") and os.stat(name).st_size > 1 << 50:
                found.append(os.stat(name).st_blocks * 512)
        except OSError:
            continue
    return found


def takes_no_more(others: list[int]) -> bool:
    """Are only the other pools' files open? They may free meanwhile what they do not use."""
    now = memory_of()
    return len(now) == len(others) and sum(now) <= sum(others)


def identity(value: Any) -> Any:
    return value


def describe(value: Any) -> Any:
    """What a task sees of an array, and after it has written to it."""
    flags = value.flags
    seen = (value.shape, str(value.dtype), flags.c_contiguous, flags.f_contiguous)
    assert flags.aligned
    assert flags.owndata
    assert value.base is None
    total = int(value.view("u1").sum())
    if flags.writeable:
        value[...] = 1
    return (*seen, flags.writeable, total, value.ctypes.data % 64)


def change(value: Any) -> Any:
    value += 1
    return value


def make(size: Any, seed: Any = 0) -> Any:
    return numpy.random.default_rng(seed).integers(0, 256, size, "u1")


def checksum(value: Any) -> int:
    return zlib.crc32(value)


def keep(value: Any, kept: Any = []) -> Any:  # noqa: B006 - on purpose
    kept.append(value)
    return [checksum(one) for one in kept]


@pytest.fixture(scope="module", params=["fork", "spawn", "forkserver"])
def pool(request: Any) -> Any:
    with Pool(2, context=get_context(request.param)) as made:
        # Its threads belong to no test: values whose classes have code start them, too.
        made.apply_async(identity, (1,)).get()
        yield made


@pytest.fixture(scope="module")
def alone() -> Any:
    with Pool(1) as made:
        made.apply_async(identity, (1,)).get()
        yield made


# ---- what arrives ----

VALUES = {
    "bytes": random.Random(1).randbytes(3 * MIB + 1),
    "bytearray": bytearray(random.Random(2).randbytes(300 * KIB)),
    "ascii": "abc" * MIB,
    "latin-1": "äöü" * MIB,
    "ucs2": "łód" * MIB,
    "ucs4": "\U0001f600ab" * MIB,
    "array": array.array("d", range(100_000)),
}


@pytest.mark.parametrize("name", VALUES)
def test_values_of_the_standard_library(pool: Any, name: str) -> None:
    value = VALUES[name]
    arrived = pool.apply(identity, (value,))
    assert type(arrived) is type(value)
    assert arrived == value
    several = pool.map(identity, [value, 1, value, "x"], chunksize=4)
    assert several == [value, 1, value, "x"]
    assert several[0] is several[2]  # one object in one body


SHAPES = [(200_000,), (300, 700), (50, 60, 70), (3, 1, 100_000)]


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("dtype", ["f8", "i4", "c16", ">f4", "M8[ns]", "?"])
def test_arrays(pool: Any, dtype: str, order: str) -> None:
    for shape in SHAPES:
        size = numpy.prod(shape)
        value = numpy.asarray(numpy.arange(size) % 100, "i8").astype(dtype).reshape(shape)
        value = numpy.asarray(value, order=order)
        for arrived in (pool.apply(identity, (value,)), *pool.map(identity, [value] * 3)):
            assert (arrived == value).all()
            assert (arrived.shape, arrived.dtype) == (value.shape, value.dtype)
            assert arrived.strides == value.strides
            assert arrived.flags.owndata
            assert arrived.flags.writeable


def seen_of(value: Any) -> Any:
    flags = value.flags
    assert flags.owndata
    assert value.base is None
    return (value.dtype, value.shape, value.strides, flags.writeable, value.tobytes())


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("dtype", ["f8", "i1", ">f4", "M8[ns]"])
def test_many_small_arrays_are_one_block(pool: Any, dtype: str, order: str) -> None:
    """A chunk of them is large, but none of them is: each arrives as an array of its own."""
    size = 300 * KIB // 100 // numpy.dtype(dtype).itemsize // 6 * 6
    values = [
        numpy.asarray((numpy.arange(size) + i) % 100, "i8").astype(dtype).reshape(-1, 6)
        for i in range(100)
    ]
    values = [value.copy(order) for value in values]
    for _ in range(2):  # the second time in memory that was used before
        arrived = pool.map(identity, values, chunksize=100)
        assert [seen_of(one) for one in arrived] == [seen_of(one) for one in values]
        for one in arrived[::2]:
            one[...] = one[0, 0]  # which changes no other array
        assert [seen_of(one) for one in arrived[1::2]] == [seen_of(one) for one in values[1::2]]


def test_what_cannot_be_one_block(pool: Any) -> None:
    """Arrays with gaps, of different kinds, without contents, repeated, or in rows."""
    small = make((20, 1000))
    mixed = [small + n for n in range(30)]
    for values in (
        [one[:, ::2] for one in mixed],
        [one[:, ::2] if n == 20 else make((20, 500), n) for n, one in enumerate(mixed)],
        [one if n % 2 else one.astype("u2") for n, one in enumerate(mixed)],
        [numpy.zeros((0, 5))] * 10_000,
        mixed[:3] * 20,
        [{"array": one, "number": n} for n, one in enumerate(mixed)],
        [(one, one, n) for n, one in enumerate(mixed)],
    ):
        arrived = pool.map(identity, values, chunksize=len(values))
        assert repr(arrived) == repr(values)
        for one, other in zip(arrived, values, strict=True):
            if isinstance(one, numpy.ndarray):
                assert (one == other).all()


SMALL = [4 * KIB - 1, 4 * KIB, 4 * KIB + 1, 64 * KIB, 64 * KIB + 1, 128 * KIB - 1]


@pytest.mark.parametrize("size", SMALL)
def test_a_small_array_is_copied_when_it_arrives(pool: Any, size: int) -> None:
    array = make(size)
    rows = make((3, 2 * size))
    fortran = numpy.asfortranarray(make((2, size // 2)))
    for value in (array, rows[1], rows[1:2].T, fortran, array[: size // 8 * 8].view("f8")):
        for _ in range(2):
            assert seen_of(pool.apply(identity, (value,))) == seen_of(value.copy("K"))
    for value in (array[::-1], rows[:, :size].T):
        assert (pool.apply(identity, (value,)) == value).all()
    changed = pool.apply(change, (array,))
    assert (changed == array + 1).all()


def test_many_small_arrays_in_one_value(pool: Any) -> None:
    """More than may be parts, each of another shape; one of them three times."""
    one = make(5 * KIB)
    value = [one, {"again": one}, *(make(5 * KIB + n, n) for n in range(20)), one]
    arrived = pool.apply(identity, (value,))
    assert arrived[0] is arrived[1]["again"]
    assert arrived[0] is arrived[-1]
    assert list(map(checksum, arrived[2:])) == list(map(checksum, value[2:]))


@needs_memory
def test_small_arrays_keep_no_block() -> None:
    values = [make(8 * KIB, n) for n in range(1500)]
    with Pool(2) as own:
        for call in (own.map, own.imap):
            arrived = list(call(identity, values, chunksize=1))
            assert all(map(numpy.array_equal, arrived, values))
            found = own.statistics()
            assert found.shared_memory > 0
            assert found.shared_memory_in_use == 0
        assert own.apply(change, (make(MIB),)).nbytes == MIB


def of_8kib(n: int) -> Any:
    return numpy.full(KIB, n)


@needs_memory
def test_small_results_that_nobody_takes_leave_room_for_large_ones() -> None:
    """A worker has 4,096 names of blocks, each for one size. Small results use few of them."""
    with Pool(1) as own:
        waiting = own.map_async(of_8kib, range(5000), chunksize=1)
        eventually(waiting.ready)
        used = own.statistics().shared_memory_in_use
        assert 0 < used <= 512 * 8 * KIB
        large = own.apply(make, (MIB,))
        assert own.statistics().shared_memory_in_use == used + MIB
        for n, arrived in enumerate(waiting.get()):
            assert (arrived == of_8kib(n)).all()
        del arrived
        assert own.statistics().shared_memory_in_use == MIB
        assert (large == make(MIB)).all()


@needs_memory
def test_small_arrays_go_through_the_pipe_where_memory_is_used_up() -> None:
    with Pool(2, shared_memory_limit=MIB) as own:
        kept = own.apply(make, (MIB,))
        values = [make(8 * KIB, n) for n in range(300)]
        arrived = own.map(identity, values, chunksize=1)
        assert all(map(numpy.array_equal, arrived, values))
        assert own.statistics().shared_memory_in_use == MIB
        assert (kept == make(MIB)).all()


def test_blocks_of_many_arrays_are_given_back() -> None:
    values = [make(1000, n) for n in range(200)]
    before = sum(memory_of())  # of pools of other tests
    with Pool(2) as pool:
        for _ in range(30):
            arrived = pool.map(identity, values, chunksize=200)
            assert all(map(numpy.array_equal, arrived, values))
        assert sum(memory_of()) - before < 20 * 200 * 1000


def test_arrays_in_objects(pool: Any) -> None:
    shared = make(MIB)
    value = {"a": [shared, shared], "b": (make(200 * KIB), {"small": make(10)}), "c": b"x" * MIB}
    arrived = pool.apply(identity, (value,))
    assert arrived["a"][0] is arrived["a"][1]
    assert (arrived["a"][0] == shared).all()
    assert (arrived["b"][0] == value["b"][0]).all()
    assert (arrived["b"][1]["small"] == value["b"][1]["small"]).all()
    assert arrived["c"] == value["c"]


class Holder:
    """Pickled with its buffer out of band, where that can be."""

    def __init__(self, data: Any) -> None:
        self.data = data

    def __reduce_ex__(self, protocol: Any) -> Any:
        return Holder, (pickle.PickleBuffer(self.data),)


SIZES = [MIB, MIB - 4096, 300_001]  # a block, pages, and neither


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("kind", [bytes, bytearray])
def test_pickle_buffers(pool: Any, kind: Any, size: int) -> None:
    data = kind(random.Random(3).randbytes(size))
    for _ in range(3):
        arrived = pool.apply(identity, (Holder(data),)).data
        assert isinstance(arrived, kind)
        assert arrived == data
        assert type(arrived).__name__ == kind.__name__
        for copied in (copy.deepcopy(arrived), pickle.loads(pickle.dumps(arrived))):
            assert type(copied) is kind
            assert copied == data
        # Not in a PickleBuffer, and twice.
        one, two = pool.apply(identity, ([arrived, arrived],))
        assert one is two
        assert one == data
        assert isinstance(one, kind)


def attempt(change: Any, data: bytearray) -> Any:
    try:
        result = change(data)
    except Exception as error:
        return type(error), str(error).replace("cpool._core.", ""), data
    return result, data


def item(at: Any, value: Any) -> Any:
    return lambda data: data.__setitem__(at, value)


CHANGES: dict[str, Any] = {
    "append": lambda data: data.append(1),
    "append-what-is-none": lambda data: data.append(256),
    "extend": lambda data: data.extend(iter([1, 2, 3])),
    "insert": lambda data: data.insert(5, 7),
    "pop": lambda data: (data.pop(), data.pop(0), data.pop(-3)),
    "remove": lambda data: data.remove(data[100]),
    "clear": lambda data: data.clear(),
    "init": lambda data: data.__init__(b"abc"),
    "add": lambda data: data.__iadd__(b"xyz"),
    "repeat": lambda data: data.__imul__(2),
    "repeat-never": lambda data: data.__imul__(0),
    "del-item": lambda data: data.__delitem__(3),
    "del-first": lambda data: data.__delitem__(slice(0, 100)),
    "del-each": lambda data: data.__delitem__(slice(None, None, 2)),
    "item": item(3, 200),
    "item-what-is-none": item(3, 256),
    "item-beyond": item(1 << 30, 1),
    "slice": item(slice(2, 6), b"four"),
    "slice-longer": item(slice(2, 6), b"longer"),
    "slice-shorter": item(slice(0, 6), bytearray(b"no")),
    "slice-of-iterator": lambda data: data.__setitem__(slice(2, 6), iter([1, 2, 3])),
    "slice-of-number": item(slice(2, 6), 4),
    "steps": item(slice(0, 8, 2), b"four"),
    "steps-wrong": item(slice(0, 8, 2), b"three"),
    "itself": lambda data: data.__setitem__(slice(0, 1), data),
    "reverse": lambda data: data.reverse(),
    "read": lambda data: (data.upper(), data[5:9], data + b"x", b"x" in data, hash(bytes(data))),
    "number": lambda data: float(data),
    "resize": lambda data: data.resize(10),  # from 3.14 on
    "take": lambda data: data.take_bytes(5),  # from 3.15 on
    "again": lambda data: (data.append(1), data.pop(), data.extend(b"abc"), data.clear()),
}


@needs_memory
@pytest.mark.parametrize("change", CHANGES)
def test_what_arrives_of_a_pickle_buffer_is_a_bytearray(alone: Any, change: str) -> None:
    data = bytearray(random.Random(3).randbytes(MIB))
    arrived = alone.apply(identity, (Holder(data),)).data
    assert alone.statistics().shared_memory_in_use >= MIB  # it is no copy
    before = bytes(data)
    with memoryview(arrived):
        with pytest.raises(BufferError):
            arrived.append(1)
        assert arrived == data
    if sys.version_info < (3, 14) and change == "resize":
        assert not hasattr(arrived, "resize")
    should = attempt(CHANGES[change], data)
    assert attempt(CHANGES[change], arrived) == should
    assert bytes(arrived) == bytes(data)
    keeps_size = len(arrived) == MIB and change not in ("pop", "again")
    if not keeps_size:
        eventually(lambda: alone.statistics().shared_memory_in_use < MIB, "the block is kept")
    data[:] = before
    assert alone.apply(identity, (Holder(data),)).data == data
    arrived = should = None  # type: ignore[assignment]
    gc.collect()
    eventually(lambda: alone.statistics().shared_memory_in_use < MIB, "the block is kept")


@contextlib.contextmanager
def no_memory(number: int) -> Iterator[None]:
    """The allocation with this number fails, from 0."""
    memory = pytest.importorskip("_testcapi")
    if "t" in sys.abiflags:
        pytest.skip("the free-threaded 3.13 crashes without memory")
    memory.set_nomemory(number, number + 1)
    try:
        yield
    finally:
        memory.remove_mem_hooks()


@needs_memory
def test_no_memory_when_a_buffer_arrives(alone: Any) -> None:
    data = bytearray(random.Random(3).randbytes(MIB))
    failed, last = 0, 40
    for number in range(last):
        done = alone.statistics().done
        result = alone.apply_async(identity, (Holder(data),))
        eventually(lambda: alone.statistics().done > done, "the task does not end")  # noqa: B023
        try:
            with no_memory(number):
                arrived = result.get(engine.DEADLINE)
        except MemoryError:
            failed += 1
            assert number < last - 1
        else:
            assert arrived.data == data
    assert failed > 0
    arrived = result = None
    gc.collect()
    eventually(lambda: alone.statistics().shared_memory_in_use < MIB, "a block is kept")


@needs_memory
@pytest.mark.parametrize("change", ["add", "append", "del-item", "insert"])
def test_no_memory_to_own_the_buffer(alone: Any, change: str) -> None:
    data = bytearray(random.Random(3).randbytes(MIB))
    arrived = alone.apply(identity, (Holder(data),)).data
    should = bytearray(data)
    CHANGES[change](should)
    views = number = 0
    while True:
        try:
            with no_memory(number):
                CHANGES[change](arrived)
            break
        except MemoryError:
            number += 1
            assert arrived == data
            views += alone.statistics().shared_memory_in_use >= MIB
    assert views > 0  # it was still on shared memory after a failure
    assert arrived == should
    eventually(lambda: alone.statistics().shared_memory_in_use < MIB, "the block is kept")


@needs_memory
def test_a_buffer_is_pickled_while_another_thread_moves_it(alone: Any) -> None:
    data = bytearray(random.Random(3).randbytes(MIB))
    for _ in range(20):
        arrived = alone.apply(identity, (Holder(data),)).data
        both = threading.Barrier(2)

        def move(arrived: Any = arrived, both: Any = both) -> None:
            both.wait()
            with pytest.raises(ValueError):
                arrived.append(256)  # nothing is changed, but the bytes are its own now

        thread = threading.Thread(target=move)
        thread.start()
        both.wait()
        copies = []
        while thread.is_alive():
            copies.append(arrived.__reduce_ex__(5))
        thread.join()
        assert all(kind is bytearray and copied == data for kind, (copied,) in copies)


def test_a_task_may_write_to_the_buffer_that_it_gets(pool: Any) -> None:
    data = bytearray(random.Random(3).randbytes(MIB))
    before = bytes(data)
    changed = pool.map(overwrite, [Holder(data)] * 4, chunksize=1)
    assert changed == [before[:1] + b"new" + before[4:]] * 4
    assert data == before


def overwrite(holder: Holder) -> bytes:
    holder.data[1:4] = b"new"
    return bytes(holder.data)


@needs_memory
def test_a_buffer_outlives_the_pool() -> None:
    with Pool(1) as pool:
        data = pool.apply(identity, (Holder(bytearray(b"x" * MIB)),)).data
    pool.join()
    del pool
    gc.collect()
    assert data == b"x" * MIB
    pid = os.fork()
    if pid == 0:
        data[:] = b"y" * MIB
        os._exit(0 if data == b"y" * MIB else 1)
    assert os.waitpid(pid, 0)[1] == 0
    assert data == b"x" * MIB
    data.append(1)
    assert len(data) == MIB + 1


class Anything:
    pass


def test_strings_of_every_place(pool: Any) -> None:
    """Names of attributes, keys and parameters may be large, too."""
    name = "name" * (50 * KIB)
    value = Anything()
    setattr(value, name, [name])
    arrived = pool.apply(identity, ([value, {name: value}, {name}],))
    assert vars(arrived[0]) == {name: [name]}
    assert arrived[1] == {name: arrived[0]}
    assert arrived[2] == {name}
    assert pool.apply(dict, (), {name: 1}) == {name: 1}
    assert pool.map(identity, [value, value], chunksize=2)[1].__dict__ == vars(value)


@pytest.mark.parametrize("kind", [bytes, bytearray])
def test_more_bytes_than_a_cache_has(pool: Any, kind: Any) -> None:
    pattern = bytes(range(251))  # no power of two
    value = kind((pattern * (32 * MIB // len(pattern) + 2))[: 32 * MIB + 77])
    for _ in range(2):  # into a block without memory, and into a warm one
        assert pool.apply(identity, (value,)) == value


def test_a_task_may_write_to_what_it_gets(pool: Any) -> None:
    value = make(MIB).reshape(1024, 1024)
    value.flags.writeable = False
    total = int(value.sum())
    for _ in range(4):  # also from blocks that were written to
        seen = pool.apply(describe, (value,))
        assert seen[:4] == ((1024, 1024), "uint8", True, False)
        assert seen[4]  # also where it is read-only here
        assert seen[5] == total
        assert seen[6] == 0 or not HAS_MEMORY  # in the pipe nothing is aligned
        assert int(value.sum()) == total
        value = value.copy()


def test_a_result_may_be_written_to_and_resized(pool: Any) -> None:
    value = make(MIB)
    arrived = pool.apply(change, (value,))
    assert (arrived == value + 1).all()
    arrived.resize(2 * MIB, refcheck=False)
    assert (arrived[:MIB] == value + 1).all()
    assert not arrived[MIB:].any()
    arrived.resize(10, refcheck=False)
    again = pool.apply(identity, (pickle.loads(pickle.dumps(arrived)),))
    assert (again == arrived).all()


def frames(n: int, size: int) -> Any:
    for i in range(n):
        yield i, make(size, i), make(100, i), b"%d" % i * size


def test_what_a_task_yields(pool: Any) -> None:
    got = list(pool.stream(frames, (12, 200 * KIB), buffersize=3))
    assert [i for i, _, _, _ in got] == list(range(12))
    for i, large, small, text in got:
        assert (large == make(200 * KIB, i)).all()
        assert (small == make(100, i)).all()
        assert text == b"%d" % i * 200 * KIB


@needs_memory
def test_what_a_task_yields_takes_blocks_only_while_it_is_used() -> None:
    others = memory_of()
    with Pool(1) as own:
        for i, large, _, _ in own.stream(frames, (40, 300 * KIB), buffersize=2):
            assert (large == make(300 * KIB, i)).all()
        used = sum(memory_of()) - sum(others)
        assert used <= 8 * MIB  # of 24 MB in all
        stream = own.stream(frames, (40, 300 * KIB))
        kept = next(stream)[1]
        del stream  # the rest is dropped
        assert checksum(own.apply(identity, (kept,))) == checksum(make(300 * KIB, 0))


# ---- who sees what, and for how long ----


def test_kept_views_stay_as_they_are() -> None:
    values = [make(200 * KIB, i) for i in range(10)]
    expected = [checksum(value) for value in values]
    with Pool(1) as own:
        for i in range(10):
            assert own.apply(keep, (values[i],)) == expected[: i + 1]
        kept = own.map(identity, values * 3, chunksize=1)
        for i in range(30):
            assert own.apply(checksum, (make(200 * KIB, 50 + i),))
        assert [checksum(value) for value in kept] == expected * 3
    del own
    gc.collect()
    assert [checksum(value) for value in kept] == expected * 3


@needs_memory
def test_the_statistics_tell_what_is_kept() -> None:
    def in_use() -> int:
        found = own.statistics()
        assert found.shared_memory_in_use <= found.shared_memory <= 32 * MIB
        number: int = found.shared_memory_in_use
        return number

    with Pool(1) as own:
        assert in_use() == 0
        kept = [own.apply(make, (2 * MIB,)), own.apply(make, (3 * MIB,))]
        assert in_use() == 5 * MIB
        part = kept.pop()[MIB:]
        assert in_use() == 5 * MIB
        kept.clear()
        assert in_use() == 3 * MIB
        assert own.apply(make, (2 * MIB,)).nbytes == 2 * MIB
        assert in_use() == 3 * MIB
        kept.append(own.apply(change, (make(4 * MIB),)))  # in the block of the argument
        assert in_use() == 7 * MIB
    own.join()
    assert in_use() == 7 * MIB
    del part
    assert in_use() == 4 * MIB
    kept.clear()
    assert own.statistics().shared_memory == 0


@needs_memory
def test_blocks_are_used_again() -> None:
    others = memory_of()
    with Pool(2) as own:
        for i in range(30):
            assert (own.apply(change, (make(2 * MIB, i),)) == make(2 * MIB, i) + 1).all()
        used = sum(memory_of()) - sum(others)
        assert used <= 9 * MIB  # one block in, and one out of each worker, and one more


@needs_memory
@pytest.mark.parametrize("limit", [4 * MIB, "4MiB"])
def test_there_is_a_limit(limit: Any) -> None:
    others = memory_of()
    with Pool(2, shared_memory_limit=limit) as own:
        values = [make(MIB, i) for i in range(20)]
        results = own.map(change, values, chunksize=1)
        assert all((r == v + 1).all() for r, v in zip(results, values, strict=True))
        used = sum(memory_of()) - sum(others)
        assert used <= 4 * MIB + 64 * KIB
    del results
    gc.collect()
    with Pool(1, shared_memory_limit=0) as own:
        assert (own.apply(identity, (values[0],)) == values[0]).all()
        assert takes_no_more(others)


@pytest.mark.parametrize("limit", [-1, "much", "0MB"])
def test_an_invalid_shared_memory_limit_is_refused(limit: Any) -> None:
    with pytest.raises(ValueError, match="shared_memory_limit"):
        Pool(1, shared_memory_limit=limit)


@needs_memory
def test_nothing_is_left(pool: Any) -> None:
    before = memory_of()
    fds = len(os.listdir("/proc/self/fd"))
    with Pool(2) as own:
        kept = own.map(identity, [make(MIB, i) for i in range(4)], chunksize=1)
        assert own.apply(identity, (b"x" * (8 * MIB),))
    own.join()
    del own
    gc.collect()
    used = memory_of()
    assert len(used) == len(before) + 1  # until the last array is gone
    assert sum(used) - sum(before) <= 5 * MIB
    assert [checksum(value) for value in kept] == [checksum(make(MIB, i)) for i in range(4)]
    del kept[1:]
    gc.collect()
    assert sum(memory_of()) - sum(before) <= 2 * MIB
    del kept
    gc.collect()
    assert takes_no_more(before)
    assert len(os.listdir("/proc/self/fd")) == fds


def test_forked_copies_see_what_was_there(pool: Any) -> None:
    value = make(MIB)
    held = pool.apply(identity, (value,))
    for _ in range(3):
        read, write = os.pipe()
        go, start = os.pipe()
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                os.read(go, 1)
                same = bool((held == value).all())
                held[:] = 7
                os.write(write, b"y" if same else b"n")
                code = 0
            finally:
                os._exit(code)
        before = held.copy()
        for i in range(4):  # nothing that comes now gets into the copy
            assert (pool.apply(identity, (make(MIB, i),)) == make(MIB, i)).all()
        os.write(start, b"x")
        assert os.read(read, 1) == b"y"
        assert os.waitpid(pid, 0)[1] == 0
        assert (held == before).all()
        for fd in (read, write, go, start):
            os.close(fd)


_inherited: Any = None


def inherited_checksum(_: Any) -> Any:
    inherited_copy = _inherited
    before = checksum(inherited_copy)
    inherited_copy[:] = 0
    return before


def test_workers_that_are_forked_later_inherit_results(pool: Any) -> None:
    global _inherited
    value = make(MIB)
    _inherited = pool.apply(identity, (value,))
    try:
        with Pool(2, context=get_context("fork")) as own:
            del value
            seen = own.map(inherited_checksum, range(1), chunksize=1)
            assert seen == [checksum(make(MIB))]
        assert (_inherited == make(MIB)).all()
    finally:
        _inherited = None


def fork_and_keep(value: Any, folder: Any) -> Any:
    """A copy of the worker outlives it, and looks at the array when it is told to."""
    if os.fork() == 0:
        try:
            eventually((folder / "go").exists, "the copy was not told to go on")
            (folder / "sum.part").write_text(str(checksum(value)))
            (folder / "sum.part").rename(folder / "sum")
        finally:
            os._exit(0)
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_copy_of_a_worker_that_died(tmp_path: Path) -> None:
    with Pool(1) as own:
        value = make(MIB)
        with pytest.raises(WorkerLostError):
            own.apply(fork_and_keep, (value, tmp_path))
        for i in range(20):
            own.apply(change, (make(MIB, i),))
        (tmp_path / "go").touch()
        eventually((tmp_path / "sum").exists, "the copy says nothing")
        assert int((tmp_path / "sum").read_text()) == checksum(value)


def check_or_die(value: Any) -> Any:
    total = checksum(value[0])
    value[0][:] = 0
    if not os.path.exists(value[1]):
        with open(value[1], "w"):
            pass
        os.kill(os.getpid(), signal.SIGKILL)
    return total


def test_a_task_that_is_run_again_gets_what_was_sent(tmp_path: Path) -> None:
    value = make(MIB)
    with Pool(2) as own:
        args = ((value, str(tmp_path / "died")),)
        assert own.apply(check_or_die, args, retries=1) == checksum(value)


def test_a_view_goes_on_to_another_worker(pool: Any) -> None:
    first = pool.apply(change, (make(MIB),))
    second = pool.apply(change, (first,))
    assert (second == make(MIB) + 2).all()
    assert (first == make(MIB) + 1).all()


def test_sent_data_are_those_of_the_call(pool: Any) -> None:
    value = make(MIB)
    expected = checksum(value)
    result = pool.apply_async(checksum, (value,))
    value[:] = 0
    assert result.get() == expected


AT_EXIT = """
import numpy
from engine import Pool

def one(n):
    return numpy.full(1 << 18, n)

pool = Pool(2)
kept = pool.map(one, range(8), chunksize=1)
more = pool.map_async(one, range(8), chunksize=1)
pool.terminate()
print([int(array[-1]) for array in kept])
"""


def test_results_outlive_terminate_and_exit(tmp_path: Path) -> None:
    assert scripts.output(tmp_path, AT_EXIT) == [str(list(range(8)))]


@needs_memory
def test_workers_that_are_replaced_cost_no_memory() -> None:
    """Each is forked while results are held, and may have a copy of them."""
    others = memory_of()
    with Pool(2, maxtasksperchild=1, shared_memory_limit=64 * MIB) as own:
        for turn in range(12):
            results = own.map(make, [2 * MIB] * 6, chunksize=1)
            assert {checksum(result) for result in results} == {checksum(make(2 * MIB))}, turn
        used = sum(memory_of()) - sum(others)
    # A fourth of the limit for what forks keep, and the results of two calls.
    assert used <= 64 * MIB
    del results
    gc.collect()
    assert takes_no_more(others)


# ---- deaths ----


def chaos_task(item: Any) -> Any:
    seed, size, total, dies = item
    value = size[0] if isinstance(size, list) else size
    assert checksum(value) == total, seed
    if dies:
        os.kill(os.getpid(), signal.SIGKILL)
    result = make(value.size, seed)
    return result if seed % 3 else (value, result)


@needs_memory
def test_random_deaths_change_no_byte() -> None:
    rng = random.Random(7)
    kept: dict[int, Any] = {}
    others = memory_of()
    with Pool(3) as own:
        for turn in range(12):
            items = []
            for i in range(12):
                value = make(int(2 ** rng.uniform(10, 21)), rng.randrange(1000))
                items.append((turn * 100 + i, value, checksum(value), rng.random() < 0.1))
            results = own.map(chaos_task, items, chunksize=1, return_exceptions=True)
            for (seed, value, total, dies), result in zip(items, results, strict=True):
                if dies:
                    assert isinstance(result, WorkerLostError)
                    continue
                mine = result if seed % 3 else result[1]
                assert (mine == make(value.size, seed)).all()
                if not seed % 3:
                    assert checksum(result[0]) == total
                if rng.random() < 0.2:
                    kept[rng.randrange(10)] = (mine, checksum(mine))
            assert all(checksum(one) == total for one, total in kept.values())
            used = sum(memory_of()) - sum(others)
            assert used < 160 * MIB
    del results, result, mine
    kept.clear()
    gc.collect()


@needs_memory
@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_workers_are_killed_at_any_moment(method: str) -> None:
    """The long form: python tests/soak_large.py"""
    summary = soak_large.run(15 if method == "fork" else 4, 3, method)
    assert summary["faults"] == []
    assert summary["rounds"] > 0


LIES = """
import os, struct, sys, time
from engine import Pool
import cpool

def lie(count, index, slot, size_class):
    # A result of the task that runs, with the flag CP_PARTS; see core/share/parts.h.
    body = bytes([1]) + struct.pack("<QIHBB", 1 << 40, index, slot, size_class, 0)
    body += struct.pack("<I", count)
    for fd in range(3, 64):
        try:
            name = os.readlink(f"/proc/self/fd/{fd}")
            with open(f"/proc/self/fdinfo/{fd}") as file:
                flags = int(file.read().split("flags:")[1].split()[0], 8)
        except OSError:
            continue
        if name.startswith("pipe:") and flags & os.O_WRONLY:
            os.write(fd, struct.pack("<QQIHH", len(body), 0, 0, 17, 0x4000) + body)
    time.sleep(600)

with Pool(1) as pool:
    try:
        pool.apply(lie, WHERE)
    except cpool.WorkerLostError as exc:
        print(exc.exitcode)
    print(len(pool.apply(bytes, (1 << 20,))))
"""


@needs_memory
@pytest.mark.parametrize(
    "where", [(1, 0, 0, 0), (1, 2**31, 0, 3), (1, 0, 60000, 0), (1, 0, 0, 200), (2**31, 0, 0, 0)]
)
def test_a_worker_that_lies_ends_alone(tmp_path: Path, where: Any) -> None:
    said = scripts.output(tmp_path, LIES.replace("WHERE", repr(where)))
    assert said == ["-9", str(MIB)]
