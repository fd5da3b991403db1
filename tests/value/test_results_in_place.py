"""Arrays that go to the parent without a copy: of cpool.empty(), and those that a task got."""

from __future__ import annotations

import os
import signal
import sys
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import engine
import pytest
from leftovers import eventually

import cpool
from cpool import Pool, ThreadPool

numpy = pytest.importorskip("numpy")

KIB, MIB = 1 << 10, 1 << 20

HAS_MEMORY = sys.platform == "linux" and not engine.PORTABLE
needs_memory = pytest.mark.skipif(not HAS_MEMORY, reason="without shared memory")

pytestmark = pytest.mark.better

KEPT: list[Any] = []


def filled(size: int = MIB, value: int = 7) -> Any:
    array = cpool.empty(size, "u1")
    array[...] = value
    return array


def counted() -> Any:
    array = cpool.empty(MIB // 8, "i8")
    array[...] = numpy.arange(len(array))
    return array


def keep(box: Any) -> Any:
    KEPT.append(box)
    return box


def kept_as(how: str) -> Any:
    KEPT.clear()
    array = filled()
    if how == "itself":
        return keep(array)
    if how == "in a list":
        return keep([array])
    if how == "a view":
        KEPT.append(array[5:])
        return array
    if how == "by its view":
        KEPT.append(array)
        return array[5:]
    KEPT.append(memoryview(array))
    return {"array": array}


def kept_sum() -> int:
    box = KEPT[0]
    return int(numpy.asarray(box[0] if isinstance(box, list) else box).sum())


def change_kept() -> None:
    numpy.asarray(KEPT[0])[...] = 9


def return_kept() -> Any:
    return KEPT[0]


def first_of(value: Any) -> Any:
    return (
        value[0]
        if isinstance(value, list)
        else value["array"]
        if isinstance(value, dict)
        else value
    )


def views(kind: str) -> Any:
    array = counted()
    if kind == "slice":
        return array[1:-3]
    if kind == "matrix":
        return array.reshape(256, -1)[100:]
    if kind == "other dtype":
        return array.view("u1")[3 : 3 + 512 * KIB]
    if kind == "reversed":
        return array[::-1]
    if kind == "columns":
        return array.reshape(256, -1)[:, 1:]
    if kind == "transposed":
        return array.reshape(256, -1).T
    if kind == "resized":
        array.resize(len(array) * 2)
        return array
    if kind == "read-only":
        array.flags.writeable = False
        return array
    if kind == "small":
        return array[:10]
    return numpy.asfortranarray(array.reshape(256, -1))


KINDS = (
    "slice matrix other-dtype reversed columns transposed resized read-only small fortran"
).split()


def two(how: str) -> Any:
    array = counted()
    if how == "twice":
        return array, array
    if how == "overlapping":
        return array[: 64 * KIB], array[32 * KIB : 96 * KIB]
    return array[: 64 * KIB], array[64 * KIB :]


def add_one(array: Any) -> Any:
    array += 1
    return array


def add_one_and_keep(array: Any) -> Any:
    array += 1
    return keep([array])


def rows(n: int) -> Any:
    array = cpool.empty(MIB, "u1")
    for i in range(n):
        array[...] = i
        yield array


def forked_while_it_holds(value: int) -> Any:
    """Fork, and return the array that the forked process has too, until it is told to check it."""
    array = filled(value=value)
    ready, told = os.pipe(), os.pipe()
    pid = os.fork()
    if pid == 0:
        os.read(told[0], 1)
        os._exit(0 if int(array.sum()) == value * MIB else 1)
    os.close(ready[0])
    os.close(ready[1])
    KEPT.append((pid, told))
    return array


def status_of_the_forked() -> int:
    pid, told = KEPT.pop()
    os.write(told[1], b"x")
    status = os.waitpid(pid, 0)[1]
    os.close(told[0])
    os.close(told[1])
    return status


def forget() -> None:
    KEPT.clear()


@pytest.fixture(scope="module", params=["fork", "spawn"])
def pool(request: Any) -> Any:
    with Pool(1, context=get_context(request.param)) as made:
        # Its threads belong to no test: large data start one of them, too.
        made.apply_async(abs, (1,)).get()
        yield made


def files() -> dict[int, int]:
    """The files of shared memory that this process has open, and how many bytes each takes."""
    found = {}
    for fd in os.listdir("/proc/self/fd"):
        try:
            status = os.stat(f"/proc/self/fd/{fd}")
        except OSError:
            continue
        if status.st_size > 1 << 50:
            found[status.st_ino] = status.st_blocks * 512
    return found


class Measured:
    """How much memory the files take that were not there before."""

    def __init__(self) -> None:
        self.before = set(files())

    def __call__(self) -> int:
        return sum(size for inode, size in files().items() if inode not in self.before)


@pytest.fixture
def memory() -> Any:
    return Measured()


@pytest.fixture
def alone(memory: Any) -> Any:
    with Pool(1) as made:
        yield made


def test_elsewhere_it_is_an_array_of_numpy() -> None:
    with ThreadPool(1) as threads, Pool(1, serial=True) as serial:
        for array in (filled(), threads.apply(filled), serial.apply(filled)):
            assert type(array) is numpy.ndarray
            assert array.flags.owndata
            assert array.tobytes() == bytes([7]) * MIB
    array = cpool.empty((3, 2), order="F")
    assert (array.shape, array.dtype, array.flags.f_contiguous) == ((3, 2), numpy.float64, True)
    with pytest.raises(ValueError, match="negative"):
        cpool.empty(-1)
    with pytest.raises(TypeError):
        cpool.empty(MIB, "no dtype")


def shapes() -> Any:
    made = [
        cpool.empty(MIB, "u1"),
        cpool.empty((256, KIB), dtype="f4"),
        cpool.empty((256, KIB), "i2", order="F"),
        cpool.empty(64 * KIB, "U4"),
        cpool.empty(64 * KIB, object),
        cpool.empty(64 * KIB, [("a", "i4"), ("b", "f8")]),
        cpool.empty((0, MIB)),
        cpool.empty(()),
    ]
    for array in made:
        array[...] = 1
    for bad in (-1, "x"):
        try:
            cpool.empty(bad)
        except (TypeError, ValueError):
            made.append(None)
    after = numpy.empty(MIB, "u1")
    name = numpy._core.multiarray.get_handler_name(after)
    return made, name


def test_all_shapes_and_types(pool: Any) -> None:
    made, name = pool.apply(shapes)
    should, _ = shapes()
    assert name == "default_allocator"
    assert len(made) == len(should)
    for one, other in zip(made[:-2], should[:-2], strict=True):
        assert (one.shape, one.dtype, one.flags.f_contiguous) == (
            other.shape,
            other.dtype,
            other.flags.f_contiguous,
        )
        assert (one == other).all()


@needs_memory
def test_a_result_in_place_is_not_copied(alone: Any, memory: Any) -> None:
    for _ in range(3):
        array = alone.apply(filled, (8 * MIB,))
        assert array.tobytes() == bytes([7]) * (8 * MIB)
        assert array.flags.owndata
        assert memory() < 9 * MIB
        array = None
    held = [alone.apply(filled, (8 * MIB, i)) for i in range(3)]
    assert [int(one[-1]) for one in held] == [0, 1, 2]
    assert memory() < 25 * MIB


def begun_again(how: str, size: int) -> Any:
    """A body whose encoding begins again after it has met the array."""
    array = filled(size)
    if how == "tuples of atoms, then not":
        return [(1, None), (2, array)]
    kind: Any = ValueError if how == "exceptions" else lambda one: (one, 1)
    first = kind(array)
    return [first, kind(first)]


def array_of(body: Any) -> Any:
    first = body[0].args[0] if isinstance(body[0], ValueError) else body[0][0]
    return body[1][1] if isinstance(first, int) else first


def total_of(body: Any) -> int:
    return int(array_of(body).sum())


@needs_memory
@pytest.mark.parametrize("how", ["tuples of atoms, then not", "tuples in tuples", "exceptions"])
def test_an_encoding_that_begins_again_has_each_array_once(
    alone: Any, memory: Any, how: str
) -> None:
    body = alone.apply(begun_again, (how, 8 * MIB))
    assert array_of(body).flags.owndata
    assert total_of(body) == 7 * 8 * MIB
    assert memory() < 9 * MIB
    assert alone.apply(total_of, (body,)) == 7 * 8 * MIB
    assert memory() < 17 * MIB
    handle = alone.share(body)
    assert alone.apply(total_of, (handle,)) == 7 * 8 * MIB
    assert memory() < 25 * MIB


@needs_memory
def test_an_array_that_a_task_got_goes_back(alone: Any, memory: Any) -> None:
    array = numpy.zeros(8 * MIB, "u1")
    for i in range(5):
        array = alone.apply(add_one, (array,))
        assert array.flags.owndata
        assert array.ctypes.data % 64 == 0
        assert array.tobytes() == bytes([i + 1]) * (8 * MIB)
    # What is sent and what comes back: while the next one is sent, the last one is held.
    assert memory() < 17 * MIB
    kept = [alone.apply(add_one, (array[:MIB],)) for _ in range(4)]
    kept[0][...] = 0
    assert [int(one.sum()) for one in kept[1:]] == [6 * MIB] * 3


@pytest.mark.parametrize("how", ["itself", "in a list", "a view", "by its view", "a memoryview"])
def test_what_a_worker_keeps_is_its_own(pool: Any, how: str) -> None:
    got = first_of(pool.apply(kept_as, (how,)))
    total = 7 * len(got)
    assert int(got.sum()) == total
    pool.apply(change_kept) if how != "in a list" else None
    assert int(got.sum()) == total
    got[...] = 1
    size = MIB - 5 if how == "a view" else MIB
    assert pool.apply(kept_sum) == size * (7 if how == "in a list" else 9)
    if how != "a memoryview":
        again = first_of(pool.apply(return_kept))
        assert int(again.sum()) == size * (7 if how == "in a list" else 9)
    pool.apply(forget)


def test_an_argument_that_a_worker_keeps_is_its_own(pool: Any) -> None:
    sent = numpy.zeros(MIB, "u1")
    got = pool.apply(add_one_and_keep, (sent,))[0]
    got[...] = 5
    assert pool.apply(kept_sum) == MIB
    pool.apply(forget)
    assert int(sent.sum()) == 0


@pytest.mark.parametrize("kind", KINDS)
def test_views(pool: Any, kind: str) -> None:
    got, should = pool.apply(views, (kind.replace("-", " "),)), views(kind.replace("-", " "))
    assert (got == should).all()
    assert got.shape == should.shape
    assert got.flags.owndata
    assert got.flags.aligned == should.flags.aligned
    if got.flags.writeable:
        got[...] = 0
        got = None
    assert (pool.apply(views, ("slice",)) == views("slice")).all()


@pytest.mark.parametrize("how", ["twice", "overlapping", "apart"])
def test_two_results_of_one_array(pool: Any, how: str) -> None:
    first, second = pool.apply(two, (how,))
    assert (first is second) == (how == "twice")
    if how != "twice":
        first[...] = 0
        assert (second == two(how)[1]).all()


def test_results_of_chunks(alone: Any) -> None:
    got = alone.starmap(filled, [(MIB, i) for i in range(8)], chunksize=4)
    assert [int(one.sum()) for one in got] == [MIB * i for i in range(8)]
    sent = [numpy.full(MIB, i, "u1") for i in range(8)]
    got = alone.map(add_one, sent, chunksize=4)
    assert [int(one.sum()) for one in got] == [MIB * (i + 1) for i in range(8)]
    assert [int(one.sum()) for one in sent] == [MIB * i for i in range(8)]


def test_what_a_task_yields_again_and_again(alone: Any) -> None:
    got = list(alone.stream(rows, (5,)))
    assert [int(one.sum()) for one in got] == [MIB * i for i in range(5)]


def test_a_result_goes_on(pool: Any) -> None:
    array = pool.apply(filled)
    for i in range(3):
        array = pool.apply(add_one, (array,))
        assert int(array.sum()) == MIB * (8 + i)
    assert int(pool.apply(add_one, (array[5:],)).sum()) == (MIB - 5) * 11
    assert int(array.sum()) == MIB * 10


def test_a_task_that_may_be_run_again(alone: Any) -> None:
    got = alone.apply_async(add_one, (numpy.zeros(MIB, "u1"),), retries=2).get(60)
    assert int(got.sum()) == MIB


@pytest.mark.parametrize("limit", [0, MIB // 2, MIB + MIB // 2, "3MiB"])
def test_there_is_a_limit(limit: Any) -> None:
    with Pool(1, shared_memory_limit=limit) as pool:
        held = [first_of(pool.apply(kept_as, ("in a list",))) for _ in range(4)]
        held += [pool.apply(filled) for _ in range(4)]
        held += [
            pool.apply(add_one, (held[0],)),
            first_of(pool.apply(add_one_and_keep, (held[1],))),
        ]
        assert [int(one.sum()) // MIB for one in held] == [7] * 8 + [8] * 2


@needs_memory
def test_a_forked_copy_keeps_its_contents(alone: Any) -> None:
    got = [alone.apply(forked_while_it_holds, (i,)) for i in range(2)]
    assert [int(one.sum()) for one in got] == [0, MIB]
    for one in got:
        one[...] = 9
    for value in range(3):
        assert int(alone.apply(filled, (MIB, value)).sum()) == value * MIB
    assert alone.apply(status_of_the_forked) == 0
    assert alone.apply(status_of_the_forked) == 0


def fork_and_die(folder: Any) -> None:
    """A copy of the worker outlives it, and looks at its array when it is told to."""
    array = filled()
    if os.fork() == 0:
        try:
            eventually((folder / "go").exists, "the copy was not told to go on")
            (folder / "sum.part").write_text(str(int(array.sum())))
            (folder / "sum.part").rename(folder / "sum")
        finally:
            os._exit(0)
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_copy_of_a_worker_that_died(alone: Any, tmp_path: Path) -> None:
    with pytest.raises(cpool.WorkerLostError):
        alone.apply(fork_and_die, (tmp_path,))
    for i in range(10):
        alone.apply(filled, (MIB, i))
    (tmp_path / "go").touch()
    eventually((tmp_path / "sum").exists, "the copy says nothing")
    assert int((tmp_path / "sum").read_text()) == 7 * MIB


@needs_memory
def test_results_outlive_the_worker_and_the_pool(memory: Any) -> None:
    with Pool(1, maxtasksperchild=1) as pool:
        got = [pool.apply(filled, (MIB, i)) for i in range(3)]
        back = [pool.apply(add_one, (one,)) for one in got]
    for i, (one, other) in enumerate(zip(got, back, strict=True)):
        assert int(one.sum()) == i * MIB
        other += 1
        assert int(other.sum()) == (i + 2) * MIB
    del pool, one, other
    got.clear()
    back.clear()
    assert eventually(lambda: memory() == 0)


def part(size: int, first: int, last: int) -> Any:
    return filled(size)[first:last]


@needs_memory
def test_a_small_view_keeps_no_large_block(alone: Any, memory: Any) -> None:
    held = [alone.apply(part, (8 * MIB, 0, 200 * KIB)) for _ in range(4)]
    assert [int(one.sum()) for one in held] == [7 * 200 * KIB] * 4
    assert memory() < 11 * MIB


@needs_memory
def test_a_view_within_a_block_gives_back_the_whole_block(memory: Any) -> None:
    """Also if its worker has gone: otherwise the limit would be reached in the end."""
    with Pool(1, maxtasksperchild=1, shared_memory_limit=8 * MIB) as pool:
        for _ in range(12):
            view = pool.apply(part, (2 * MIB, MIB, 2 * MIB))
            pool.apply(abs, (-1,))  # by the next worker: the first one has gone
        assert int(view.sum()) == 7 * MIB
        assert memory() > MIB


def begin() -> None:
    KEPT[:] = [filled()]


def nested() -> int:
    with Pool(1, initializer=begin) as pool:
        return int(pool.apply(kept_sum))


def test_the_initializer_of_a_pool_in_a_task() -> None:
    with Pool(1, daemon=False) as pool:
        assert pool.apply(nested) == 7 * MIB
