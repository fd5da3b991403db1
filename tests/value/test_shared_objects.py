"""What all workers share: handles of `Pool.share()`, and what is bound to a callable."""

from __future__ import annotations

import gc
import os
import pickle
import random
import sys
import threading
import zlib
from functools import partial
from multiprocessing import get_context
from typing import Any

import engine
import pytest
from engine import DEADLINE
from gates import Gate, eventually

import cpool
from cpool import Pool, ThreadPool

try:
    import numpy as installed_numpy  # here: its threads belong to no test
except ImportError:
    installed_numpy = None

pytestmark = pytest.mark.better

KIB, MIB = 1 << 10, 1 << 20

HAS_MEMORY = sys.platform == "linux" and not engine.PORTABLE
needs_memory = pytest.mark.skipif(not HAS_MEMORY, reason="without shared memory")


@pytest.fixture(scope="module", params=["fork", "spawn", "forkserver"])
def pool(request: Any) -> Any:
    if request.param not in engine.START_METHODS:
        pytest.skip("a slow build")
    with Pool(2, context=get_context(request.param)) as made:
        # Its threads belong to no test: values whose classes have code start them, too.
        made.apply_async(identity, (1,)).get()
        yield made


@pytest.fixture
def numpy() -> Any:
    if installed_numpy is None:
        pytest.skip("without numpy")
    return installed_numpy


class Table:
    """Large, and counts how often a process has read it; a model that can be called, too."""

    read = 0

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.rows = {"a": [1, 2, 3]}

    def __setstate__(self, state: Any) -> None:
        Table.read += 1
        self.__dict__.update(state)

    def look(self, index: int) -> int:
        return self.data[index]

    __call__ = look


def make_table() -> Table:
    return Table(bytes(range(256)) * (4 * KIB))


def identity(value: Any) -> Any:
    return value


def look(table: Any, index: int = 0) -> int:
    found: int = table.data[index]
    return found


def names(*args: Any, **kwds: Any) -> Any:
    """The types of all arguments, and how many different tables there are among them."""
    found: list[Any] = []

    def walk(value: Any) -> Any:
        if isinstance(value, Table):
            found.append(value)
        if isinstance(value, dict):
            return {key: walk(item) for key, item in value.items()}
        if isinstance(value, (list, tuple)):
            return [walk(item) for item in value]
        return type(value).__name__

    return walk([*args, kwds]), len({id(one) for one in found})


def who_and_read(table: Any) -> tuple[int, int, int]:
    return os.getpid(), id(table), Table.read


def held_look(gate: Gate, table: Any, index: int) -> Any:
    gate.hold()
    return look(table, index)


def mappings(_: Any = None) -> int:
    """How many bytes of this process's memory are of files that are written once."""
    gc.collect()
    total = 0
    with open("/proc/self/maps", encoding="utf-8") as maps:
        for line in maps:
            if "/memfd:cpool-shared" in line:
                start, end = line.split()[0].split("-")
                total += int(end, 16) - int(start, 16)
    return total


def own_memory(value: Any) -> tuple[int, int]:
    """Of these mappings, after all was read: bytes that are there, and of them the own ones."""
    zlib.crc32(value)
    there = own = 0
    inside = False
    with open("/proc/self/smaps", encoding="utf-8") as maps:
        for line in maps:
            if "-" in line.split()[0]:
                inside = "/memfd:cpool-shared" in line
            elif inside and line.startswith("Rss:"):
                there += int(line.split()[1]) * KIB
            elif inside and line.startswith("Anonymous:"):
                own = max(own, int(line.split()[1]) * KIB)
    return there, own


def files() -> int:
    """How many files that are written once this process has open."""
    gc.collect()
    found = 0
    for fd in os.listdir("/proc/self/fd"):
        try:
            found += os.readlink(f"/proc/self/fd/{fd}").startswith("/memfd:cpool-shared")
        except OSError:
            continue
    return found


# ---- where handles may stand ----


def test_a_handle_is_the_object_within_anything(pool: Any) -> None:
    table = make_table()
    with pool.share(table) as handle:
        assert pool.apply(look, (handle, 7)) == 7
        assert pool.apply(look, (), {"table": handle, "index": 9}) == 9
        assert pool.apply_async(look, (handle, 300)).get() == 300 % 256
        assert pool.map(look, [handle] * 5) == [0] * 5
        assert pool.starmap(look, [(handle, i) for i in range(40)]) == list(range(40))
        assert list(pool.imap(look, [handle] * 3)) == [0] * 3
        assert list(pool.imap_unordered(look, iter([handle] * 3), 2)) == [0] * 3
        assert pool.map(partial(look, handle), range(5)) == [0, 1, 2, 3, 4]
        assert pool.map(partial(look, table=handle, index=3).__call__, [{}] * 0) == []
        nested = [{"x": (handle, [handle])}, handle, 1]
        expected = [[{"x": ["Table", ["Table"]]}, "Table", "int"], {"k": "Table"}], 1
        assert pool.apply(names, (nested,), {"k": handle}) == expected
        # A list can only be left to pickle where a class asks for that.
        assert pool.apply(names, (ByPickle(handle),)) == ([["Table"], {}], 1)


class ByPickle:
    """Makes pickle encode what it holds."""

    def __init__(self, value: Any) -> None:
        self.value = value

    def __reduce_ex__(self, protocol: Any) -> Any:
        deep: Any = [self.value]
        return identity, (deep,)


def test_shared_objects_hold_others(pool: Any) -> None:
    with pool.share(make_table()) as inner:
        outer = pool.share({"first": inner, "more": [inner, 5]})
        again = pool.share((outer, inner))
        expected = [{"first": "Table", "more": ["Table", "int"]}, "Table"]
        assert pool.apply(names, (again,)) == ([expected, {}], 1)
        assert again.obj[0]["first"] is inner.obj
        assert again.obj[1] is inner.obj
    # The others keep what they hold.
    assert pool.apply(names, (outer,)) == ([expected[0], {}], 1)
    outer.close()
    again.close()


def test_a_shared_model_can_be_the_callable(pool: Any) -> None:
    with pool.share(make_table()) as model:
        assert pool.map(model, range(5)) == list(range(5))
        assert pool.apply(model, (6,)) == 6
        captured = lambda index, model=model: model.look(index)  # noqa: E731
        assert pool.map(captured, range(5)) == list(range(5))
        assert pool.broadcast(look, (model, 8)) == [8, 8]
        assert list(pool.stream(iterate, (model, 3))) == [0, 1, 2]
        assert list(pool.flatmap(partial(iterate, model), [1, 2])) == [0, 0, 1]


def iterate(model: Any, n: int) -> Any:
    yield from map(model.look, range(n))


def test_it_is_decoded_once_in_each_worker(pool: Any) -> None:
    before = dict(pool.broadcast(read_by))
    with pool.share(make_table()) as handle:
        seen = pool.map(who_and_read, [handle] * 50, 1)
        for pid in {pid for pid, _, _ in seen}:
            assert len({where for who, where, _ in seen if who == pid}) == 1
            assert {read for who, _, read in seen if who == pid} == {before[pid] + 1}


def read_by() -> tuple[int, int]:
    return os.getpid(), Table.read


def test_results_are_copies(pool: Any) -> None:
    with pool.share(make_table()) as handle:
        arrived = pool.apply(identity, (handle,))
        assert type(arrived) is Table
        assert arrived.data == handle.obj.data
        assert arrived is not handle.obj


def test_obj_is_what_was_written(pool: Any) -> None:
    data = {"numbers": [1, 2], "text": "x" * MIB}
    with pool.share(data) as handle:
        data["numbers"].append(3)  # type: ignore[attr-defined]
        assert handle.obj == {"numbers": [1, 2], "text": "x" * MIB}
        assert handle.obj is handle.obj
        assert handle.nbytes >= MIB
        assert "bytes" in repr(handle)
    assert "closed" in repr(handle)
    assert handle.nbytes == 0
    with pytest.raises(ValueError, match="closed"):
        _ = handle.obj
    handle.close()


VALUES: list[Any] = [
    None,
    5,
    "ä" * MIB,
    b"x" * MIB,
    bytearray(MIB),
    [b"y" * MIB] * 3,
    {"a": [[]]},
    {1, 2},
]


@pytest.mark.parametrize("number", range(len(VALUES)))
def test_any_object_is_shared(pool: Any, number: int) -> None:
    value = VALUES[number]
    with pool.share(value) as handle:
        assert pool.apply(identity, (handle,)) == value
        assert pool.map(identity, [handle, 1]) == [value, 1]


# ---- who sees what ----


class Fresh:
    """Code of the program makes what is written."""

    def __init__(self, value: Any) -> None:
        self.value = value

    def __reduce__(self) -> Any:
        return Fresh, (bytes(self.value),)


@needs_memory
def test_other_threads_run_while_it_is_written(make_pool: Any, numpy: Any) -> None:
    """No thread is made to give up the GIL here, so another one runs if share() releases it."""
    pool = make_pool(1)
    obj = {"array": numpy.ones(MIB // 8), "text": "x" * MIB, "bytes": b"x" * MIB}
    go, ran, alone = threading.Semaphore(0), threading.Semaphore(0), 0

    def run() -> None:
        for _ in range(200):
            go.acquire()
            ran.release()

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1000)
    try:
        for _ in range(200):
            go.release()
            pool.share(obj).close()
            if ran.acquire(blocking=False):
                break
            ran.acquire()  # too late: try again
            alone += 1
    finally:
        sys.setswitchinterval(interval)
    assert alone < 200
    go.release(200)
    thread.join(engine.DEADLINE)


def test_what_is_written_late_is_complete(pool: Any, numpy: Any) -> None:
    """Large parts are written after everything is encoded, except for those that may change."""
    large = b"large" * 100 * KIB
    array = numpy.arange(MIB)
    shared = pool.share(
        [
            large,
            bytearray(large),
            large.decode(),
            "é" * MIB,
            array,
            array[::2],
            [large, {"again": large}],
            Fresh(large),
            [Fresh(bytearray(large)) for _ in range(3)],
            array.reshape(2, -1).T,
        ]
    )
    assert pool.apply(is_complete, (shared, large))
    assert is_complete(shared.obj, large)


def is_complete(value: Any, large: bytes) -> bool:
    one, changes, text, wide, array, half, again, fresh, many, turned = value
    assert one == changes == text.encode() == again[0] == fresh.value == large
    assert again[1]["again"] is again[0]
    assert [each.value for each in many] == [large] * 3
    assert wide == "é" * MIB
    assert array.tolist() == list(range(MIB))
    assert (half == array[::2]).all()
    assert (turned == array.reshape(2, -1).T).all()
    return True


@needs_memory
def test_workers_share_one_copy(pool: Any, numpy: Any) -> None:
    table = numpy.ones(4 * MIB, "u1")
    with pool.share(table) as handle:
        for there, own in pool.broadcast(own_memory, (handle,)):
            assert there >= table.nbytes
            assert own < 64 * KIB


def add_to(table: Any) -> Any:
    table[0] += 1
    return int(table[0]), bool(table.flags.writeable and table.flags.owndata)


def test_each_worker_writes_to_its_own_copy(pool: Any, numpy: Any) -> None:
    table = numpy.zeros(MIB, "u1")
    with pool.share(table) as handle:
        assert pool.broadcast(add_to, (handle,)) == [(1, True)] * 2
        assert pool.broadcast(add_to, (handle,)) == [(2, True)] * 2
        assert handle.obj[0] == 0
        handle.obj[0] = 9
        assert pool.broadcast(add_to, (handle,)) == [(3, True)] * 2
    assert table[0] == 0


KEPT: list[Any] = []


def keep(table: Any) -> int:
    KEPT.append(table)
    return zlib.crc32(table)


def kept_sums(clear: bool = False) -> list[int]:
    found = [zlib.crc32(one) for one in KEPT]
    if clear:
        KEPT.clear()
    return found


def test_what_a_task_keeps_stays_as_it_was(pool: Any, numpy: Any) -> None:
    expected = []
    for seed in range(3):
        table = numpy.random.default_rng(seed).integers(0, 256, MIB, "u1")
        expected.append(zlib.crc32(table))
        with pool.share(table) as handle:
            assert pool.broadcast(keep, (handle,)) == [expected[-1]] * 2
    assert pool.broadcast(kept_sums) == [expected] * 2
    assert pool.broadcast(kept_sums, (True,)) == [expected] * 2
    if HAS_MEMORY:
        assert pool.broadcast(mappings, (None,)) == [0, 0]


# ---- how long it lives ----


@needs_memory
def test_nothing_is_left(pool: Any) -> None:
    before = files()
    handle = pool.share(make_table())
    assert files() == before + 1
    assert pool.broadcast(look, (handle, 1)) == [1, 1]
    del handle
    eventually(lambda: files() == before)
    assert pool.broadcast(mappings, (None,)) == [0, 0]  # after the word that it is gone
    assert pool.broadcast(files_of_worker, (None,)) == [0, 0]


def files_of_worker(_: Any) -> int:
    return files()


def test_it_lives_until_waiting_tasks_are_done(gate: Gate, make_pool: Any) -> None:
    pool = make_pool(1)
    before = files() if HAS_MEMORY else 0
    handle = pool.share(make_table())
    first = pool.apply_async(gate.hold)
    gate.arrived()
    bound = pool.share([handle])
    waiting = [pool.apply_async(look, (handle, i)) for i in range(5)]
    held = pool.apply_async(names, (bound,))
    mapped = pool.map_async(partial(look, handle), range(300))
    handle.close()
    del handle
    bound.close()
    if HAS_MEMORY:
        assert files() == before + 2
    gate.open()
    first.get()
    assert [one.get() for one in waiting] == [0, 1, 2, 3, 4]
    assert held.get() == ([["Table"], {}], 1)
    assert mapped.get() == [i % 256 for i in range(300)]
    if HAS_MEMORY:
        assert pool.apply(mappings, (None,)) == 0
        eventually(lambda: files() == before)


def test_calls_that_are_not_encoded_yet_still_have_it(gate: Gate, make_pool: Any) -> None:
    """So many bytes wait that later calls are kept as they are."""
    pool = make_pool(1)
    before = files() if HAS_MEMORY else 0
    first = pool.apply_async(gate.hold)
    gate.arrived()
    load = [pool.apply_async(len, (bytes([i]) * 100_000,)) for i in range(100)]
    assert any(thread.name == "cpool-caller" for thread in threading.enumerate())
    with pool.share(make_table()) as handle:
        bound = pool.share([handle])
        waiting = [pool.apply_async(look, (handle, i)) for i in range(5)]
        held = pool.apply_async(names, (bound,))
        mapped = pool.map_async(look, [handle] * 3)
    bound.close()
    gate.open()
    first.get(DEADLINE)
    assert [one.get(DEADLINE) for one in load] == [100_000] * 100
    assert [one.get(DEADLINE) for one in waiting] == [0, 1, 2, 3, 4]
    assert held.get(DEADLINE) == ([["Table"], {}], 1)
    assert mapped.get(DEADLINE) == [0] * 3
    with pytest.raises(ValueError, match="closed"):
        pool.apply(look, (handle, 0))
    if HAS_MEMORY:
        assert pool.apply(mappings, (None,)) == 0
        eventually(lambda: files() == before)


def test_a_failed_call_leaves_nothing(make_pool: Any) -> None:
    pool = make_pool(1)
    before = files() if HAS_MEMORY else 0
    with pytest.raises(Exception, match=r"lambda|pickle"):
        pool.share([b"x" * MIB, threading.Lock()])
    handle = pool.share(make_table())
    with pytest.raises(TypeError, match="pickle"):
        pool.apply(names, (handle, threading.Lock()))
    with pytest.raises(TypeError, match="pickle"):
        pool.map(partial(names, handle, threading.Lock()), range(3))
    cancelled = pool.apply_async(look, (handle,))
    cancelled.cancel()
    del handle
    pool.apply(identity, (1,))
    if HAS_MEMORY:
        eventually(lambda: files() == before)


def test_a_worker_dies_with_it(gate: Gate, make_pool: Any) -> None:
    pool = make_pool(2)
    with pool.share(make_table()) as handle:
        held = pool.apply_async(held_look, (gate, handle, 3), retries=1)
        (pid,) = gate.arrived()
        victim = next(worker for worker in pool._pool if worker.pid == pid)
        victim.kill()
        gate.arrived()
        gate.open()
        assert held.get() == 3  # in another one, which had not seen it
        assert pool.starmap(look, [(handle, i) for i in range(100)], 1) == list(range(100))


def test_replaced_and_later_workers_have_it(make_pool: Any) -> None:
    pool = make_pool(1, maxtasksperchild=2)
    with pool.share(make_table()) as handle:
        seen = pool.map(who_and_read, [handle] * 8, 1)
        assert len({pid for pid, _, _ in seen}) == 4
        pool.resize(3)
        assert pool.broadcast(look, (handle, 5)) == [5] * 3
        pool.restart_workers()
        assert pool.broadcast(look, (handle, 6)) == [6] * 3


def test_an_elastic_pool(make_pool: Any) -> None:
    pool = make_pool(3, min_processes=1, idle_timeout=0.01)
    with pool.share(make_table()) as handle:
        for _ in range(3):
            assert pool.starmap(look, [(handle, i) for i in range(200)], 1) == list(range(200))


def test_a_pool_that_has_ended(make_pool: Any) -> None:
    before = files() if HAS_MEMORY else 0
    pool = make_pool(1)
    handle = pool.share(make_table())
    pool.close()
    with pytest.raises(ValueError, match="not running"):
        pool.share(1)
    pool.join()
    assert handle.obj.look(3) == 3
    handle.close()
    if HAS_MEMORY:
        assert files() == before


@needs_memory
def test_a_forked_copy_of_the_parent_has_the_object(make_pool: Any) -> None:
    pool = make_pool(1)
    with pool.share(make_table()) as handle:
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                code = 0 if handle.obj.look(5) == 5 else 2
                handle.close()
            finally:
                os._exit(code)
        assert os.waitpid(pid, 0)[1] == 0
        assert pool.apply(look, (handle, 4)) == 4


# ---- what is refused ----


def test_another_pool(pool: Any, make_pool: Any) -> None:
    other = make_pool(1)
    with pool.share([1]) as handle:
        with pytest.raises(ValueError, match=r"share\(\) of another pool"):
            other.apply(identity, (handle,))
        with pytest.raises(ValueError, match=r"share\(\) of another pool"):
            other.share([handle])
        with pytest.raises(ValueError, match="cannot be pickled"):
            pickle.dumps(handle)
        assert pool.apply(identity, (handle,)) == [1]
    with pytest.raises(ValueError, match="closed"):
        pool.apply(identity, (handle,))


@needs_memory
def test_the_limit_of_the_pool(make_pool: Any) -> None:
    pool = make_pool(1, shared_memory_limit=3 * MIB)
    first = pool.share(b"x" * (2 * MIB))
    with pytest.raises(MemoryError, match="shared_memory_limit"):
        pool.share(b"x" * (2 * MIB))
    assert len(pool.apply(identity, (first,))) == 2 * MIB
    del first
    with pool.share(b"y" * (2 * MIB)) as second:
        assert pool.apply(identity, (second,)) == b"y" * (2 * MIB)
    # A callable goes through the pipes, then.
    assert pool.map(partial(pick, bytes(5 * MIB)), [0, 1]) == [0, 0]


def pick(data: Any, index: int) -> int:
    return int(data[index])


def test_without_shared_memory_the_pipes_carry_it(make_pool: Any) -> None:
    pool = make_pool(2, shared_memory_limit=0)
    with pool.share([make_table(), bytearray(MIB)]) as handle:
        assert pool.map(length, [handle] * 20, 1) == [2] * 20
        assert handle.obj[0].look(5) == 5
        inner = pool.share({"x": handle})
        assert pool.apply(length, (inner,)) == 1
        assert inner.obj["x"] is handle.obj


def length(value: Any) -> int:
    return len(value)


@needs_memory
@pytest.mark.skipif(not hasattr(os, "getuid") or os.getuid() != 0, reason="only root can")
def test_a_worker_that_may_not_open_the_file(make_pool: Any, numpy: Any) -> None:
    pool = make_pool(2, os.setuid, (65534,))
    table = numpy.arange(MIB, dtype="u1")
    with pool.share(table) as handle:
        assert pool.broadcast(pick, (handle, 5)) == [5, 5]
        assert pool.broadcast(add_to, (handle,)) == [(1, True)] * 2
        assert pool.broadcast(add_to, (handle,)) == [(2, True)] * 2
        assert pool.apply(mappings) == 0
    assert pool.map(partial(add_and_pick, table), [1, 2], 1) == [1, 1]


# ---- what is bound to a callable ----


def add_and_pick(table: Any, _: Any) -> int:
    table[0] += 1
    return int(table[0])


@needs_memory
def test_what_is_bound_to_a_callable_is_written_once(pool: Any, numpy: Any) -> None:
    table = numpy.zeros(4 * MIB, "u1")
    seen = pool.map(partial(own_memory_with, table), range(8), 1)
    assert all(there >= table.nbytes and own < 64 * KIB for there, own in seen)
    assert pool.broadcast(mappings, (None,)) == [0, 0]
    # No task sees what another one has written.
    assert pool.map(partial(add_and_pick, table), range(8), 1) == [1] * 8
    assert table[0] == 0


def own_memory_with(table: Any, _: Any) -> tuple[int, int]:
    return own_memory(table)


class Model:
    def __init__(self, weights: Any) -> None:
        self.weights = weights
        self.calls = 0

    def run(self, index: int) -> tuple[int, int]:
        self.calls += 1
        return int(self.weights[index]), self.calls

    __call__ = run


def test_models_are_callables(pool: Any) -> None:
    model = Model(bytes(range(256)) * KIB)
    assert pool.map(model.run, range(4), 1) == [(i, 1) for i in range(4)]
    assert pool.map(model, range(4), 1) == [(i, 1) for i in range(4)]
    assert pool.apply(model, (3,)) == (3, 1)
    assert list(pool.imap(model.run, range(4))) == [(i, 1) for i in range(4)]
    assert pool.map(model.run, range(4), 1, retries=1) == [(i, 1) for i in range(4)]
    # One of the longest is this one.
    assert pool.apply(partial(model.run), (3,)) == (3, 1)


def test_a_callable_that_changes_while_items_are_made(pool: Any) -> None:
    data = bytearray(MIB)

    def items(changes: bool) -> Any:
        for i in range(6):
            if changes:
                data[0] = i
            yield 0

    assert list(pool.imap(partial(pick, data), items(True))) == list(range(6))
    assert list(pool.imap(partial(pick, data), items(False))) == [5] * 6
    assert pool.map(partial(pick, data), items(False)) == [5] * 6


@needs_memory
def test_the_name_of_a_large_callable(make_pool: Any) -> None:
    pool = make_pool(1)
    pool.apply(Model(bytes(MIB)).run, (1,))
    pool.apply(partial(pick, bytes(MIB)), (1,))
    found = {
        task.function.rpartition("test_shared_objects.")[2] for task in pool.statistics().longest
    }
    assert found == {"Model.run", "pick"}


# ---- threads and serial pools ----


@pytest.mark.parametrize("kind", ["threads", "serial"])
def test_tasks_of_this_process_get_the_object_itself(make_pool: Any, kind: str) -> None:
    pool = make_pool(2, cls=ThreadPool) if kind == "threads" else make_pool(2, serial=True)
    assert pool.map(identity, [1]) == [1]
    table = make_table()
    with pool.share(table) as handle:
        assert handle.obj is table
        assert pool.apply(identity, (handle,)) is table
        assert pool.apply(identity, ([{"x": (handle,)}],))[0]["x"][0] is table
        assert pool.apply_async(look, (), {"table": handle, "index": 2}).get() == 2
        assert pool.map(partial(look, handle), range(4)) == [0, 1, 2, 3]
        assert pool.map(handle, range(4)) == [0, 1, 2, 3]
        assert pool.starmap(look, [(handle, 1)]) == [1]
        assert list(pool.imap(identity, [handle])) == [table]
        assert list(pool.stream(iterate, (handle, 2))) == [0, 1]
        plain = [1, [2]]
        assert pool.apply(identity, (plain,)) is plain
        with pytest.raises(ZeroDivisionError) as raised:
            pool.apply(divide, (handle,))
        assert raised.value.__traceback__ is not None
        waiting = pool.map_async(look, [handle])
        with pytest.raises(ValueError, match="cannot be pickled"):
            pickle.dumps(handle)
        text = repr(handle)
    assert "Table" in text
    assert waiting.get() == [0]
    with pytest.raises(ValueError, match="closed"):
        _ = handle.obj


def divide(_: Any) -> float:
    return 1 / 0


@pytest.mark.parametrize("kind", ["threads", "serial"])
def test_tasks_of_this_process_get_no_wrong_object(make_pool: Any, kind: str) -> None:
    """A handle that is closed or of another pool is refused, as by workers that are processes."""
    options: Any = {"cls": ThreadPool} if kind == "threads" else {"serial": True}
    pool, other = make_pool(2, **options), make_pool(1, **options)
    ours = pool.share([1])
    nested = pool.share({"ours": [ours]})
    assert pool.apply(identity, (nested,)) == {"ours": [[1]]}
    theirs, of_workers = other.share([2]), make_pool(1).share([3])
    for handle in (theirs, of_workers):
        with pytest.raises(ValueError, match="share.. of another pool"):
            pool.apply(identity, (handle,))
        bound = pool.apply_async(partial(identity, handle))
        with pytest.raises(ValueError, match="share.. of another pool"):
            bound.get()
        with pytest.raises(ValueError, match="share.. of another pool"):
            pool.share([handle])
        found = pool.imap(identity, [1, handle, ours])
        assert next(found) == 1
        with pytest.raises(ValueError, match="share.. of another pool"):
            next(found)
        assert list(found) == [[1]]
    waiting = pool.imap(identity, [ours])
    ours.close()
    ours.close()
    assert list(waiting) == [[1]]  # it was submitted before
    for call in (pool.apply, pool.map, pool.stream):
        with pytest.raises(ValueError, match="is closed"):
            list(call(identity, [ours]))
    assert pool.apply(identity, (nested,)) == {"ours": [[1]]}


def test_a_serial_pool_knows_the_handles_of_others(make_pool: Any) -> None:
    """Also one that has shared nothing itself."""
    handle = make_pool(1).share([1])
    with pytest.raises(ValueError, match="share.. of another pool"):
        make_pool(1, serial=True).apply(identity, (handle,))


# ---- everything at once ----


def test_random_sequences(make_pool: Any) -> None:
    """Handles come and go while workers die; each result tells which object its task had."""
    rng = random.Random(7)
    pool = make_pool(3)
    before = files() if HAS_MEMORY else 0
    handles: dict[int, Any] = {}
    waiting: list[tuple[int, Any]] = []
    for number in range(300):
        what = rng.randrange(10)
        if what < 2:
            size = rng.choice([10, 1000, 200 * KIB, MIB])
            handles[number] = pool.share({"number": number, "data": bytes([number % 256]) * size})
        elif what < 3 and handles:
            key = rng.choice(list(handles))
            handles[number] = pool.share({"number": number, "data": b"", "inner": handles[key]})
        elif what < 4 and handles:
            key = rng.choice(list(handles))
            if rng.random() < 0.5:
                handles[key].close()
            del handles[key]
        elif what < 5 and rng.random() < 0.3:
            rng.choice(eventually(lambda: list(pool._pool))).kill()
        elif handles:
            key = rng.choice(list(handles))
            if rng.random() < 0.5:
                made = pool.apply_async(number_of, (handles[key],), retries=20)
            else:
                made = pool.apply_async(partial(number_of, handles[key]), retries=20)
            waiting.append((key, made))
        if len(waiting) > 20:
            key, made = waiting.pop(rng.randrange(len(waiting)))
            assert made.get(engine.DEADLINE) == key
    for key, made in waiting:
        assert made.get(engine.DEADLINE) == key
    handles.clear()
    del waiting, made
    if HAS_MEMORY:
        eventually(lambda: files() == before)
        pool.apply(identity, (1,))
        assert pool.map(mappings, [None] * 3, 1, retries=20) == [0] * 3


def number_of(value: Any) -> int:
    number: int = value["number"]
    data = value["data"]
    assert data == bytes([number % 256]) * len(data)
    return number if "inner" not in value or number_of(value["inner"]) < number else -1


def test_shared_object_is_a_public_name() -> None:
    assert cpool.SharedObject.__name__ == "SharedObject"
    assert "SharedObject" in cpool.__all__
