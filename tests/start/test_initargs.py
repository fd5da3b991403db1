"""Large initargs of workers by spawn and forkserver: written once, and mapped by each worker."""

from __future__ import annotations

import contextlib
import functools
import gc
import multiprocessing
import os
import pickle
import sys
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import engine
import pytest
import tasks
from leftovers import open_files

import cpool
from cpool import Pool, _core
from cpool._base import failures
from cpool._start.written import write_once

installed_numpy: Any
try:
    import numpy as installed_numpy  # here: its threads belong to no test
except ImportError:
    installed_numpy = None

pytestmark = pytest.mark.better

MIB = 1 << 20

HAS_MEMORY = sys.platform == "linux" and not engine.PORTABLE
needs_memory = pytest.mark.skipif(not HAS_MEMORY, reason="without shared memory")

METHODS = [method for method in engine.START_METHODS if method != "fork"]
by_method = pytest.mark.parametrize("method", METHODS)


class Counted:
    """Large; counts in the parent how often it is pickled."""

    pickled = 0

    def __init__(self, data: bytes) -> None:
        self.data = data

    def __getstate__(self) -> Any:
        Counted.pickled += 1
        return {"data": self.data}

    def begin(self, other: Any, *more: Any) -> None:
        tasks.remember(self is other, *more)


def begun(_: Any = None) -> tuple[int, Any]:
    return os.getpid(), tasks.remembered()


def opened() -> int:
    """How many files of shared objects this process has open."""
    found = 0
    for fd in os.listdir("/proc/self/fd"):
        with contextlib.suppress(FileNotFoundError):  # the listing's own
            found += "memfd:cpool-shared" in os.readlink(f"/proc/self/fd/{fd}")
    return found


@needs_memory
@by_method
def test_they_are_written_once_for_all_workers(method: str) -> None:
    table = Counted(bytes(range(256)) * 4096)
    Counted.pickled = 0
    args = (table, "x" * MIB, {"k": [1, 2.5, None]})
    gc.collect()  # what other tests have left
    before = opened()
    with Pool(1, table.begin, args, maxtasksperchild=1, context=get_context(method)) as pool:
        assert opened() == before + 1
        found = pool.map(begun, range(2), chunksize=1)
        # The worker that takes the first one's place has them, too; and an object is itself.
        assert len({pid for pid, _ in found}) == 2
        assert [values for _, values in found] == [(True, "x" * MIB, {"k": [1, 2.5, None]})] * 2
        assert Counted.pickled == 1
        pool.terminate()
        assert opened() == before


def put_size(queue: Any, lock: Any, data: bytes) -> None:
    with lock:
        queue.put(len(data))


@pytest.mark.skipif("forkserver" not in METHODS, reason="a slow build")
def test_what_each_process_must_be_given_for_itself_is_pickled_for_each() -> None:
    context = get_context("forkserver")
    queue, lock = context.SimpleQueue(), context.Lock()
    with Pool(1, put_size, (queue, lock, bytes(MIB)), 1, context) as pool:
        assert pool.map(tasks.square, [1, 2], chunksize=1) == [1, 4]
        assert [queue.get(), queue.get()] == [MIB, MIB]


# ---- without a worker ----


@pytest.fixture
def engine_of_a_pool() -> Any:
    with Pool(1, context=get_context("fork"), shared_memory_limit=4 * MIB) as pool:
        yield pool._engine


class Starting:
    """Stands for a process that is being started: it is this one."""

    method = "spawn"

    class DupFd:
        def __init__(self, fd: int) -> None:
            self.fd = fd

        def detach(self) -> int:
            return os.dup(self.fd)

    def duplicate_for_child(self, fd: int) -> int:
        return fd


def arrived(written: Any) -> Any:
    """What a worker gets."""
    process: Any = Starting()
    multiprocessing.context.set_spawning_popen(process)
    try:
        data = pickle.dumps(written)
    finally:
        multiprocessing.context.set_spawning_popen(None)
    assert len(data) < 1000
    return pickle.loads(data)


@needs_memory
def test_an_executors_initializer_is_itself(engine_of_a_pool: Any) -> None:
    begin = failures.initialize, (tasks.remember, (bytes(MIB), 5))
    written = write_once(engine_of_a_pool, begin)
    assert arrived(written) == begin
    assert arrived(written)[0] is failures.initialize


@needs_memory
@pytest.mark.skipif(installed_numpy is None, reason="without numpy")
def test_each_worker_has_an_array_for_itself(engine_of_a_pool: Any) -> None:
    array = installed_numpy.ones(MIB // 8, "i8")
    written: Any = write_once(engine_of_a_pool, (tasks.remember, (array, array)))
    assert MIB <= written.share.nbytes < MIB + 4096
    array[:] = 7  # after it was written
    workers = [arrived(written)[1] for _ in range(2)]
    for n, (first, second) in enumerate(workers):
        assert first is second
        assert first.flags.writeable and first.sum() == MIB // 8
        first += n
    assert [int(first[0]) for first, _ in workers] == [1, 2]
    # They are mapped, not copied, also once nobody has it open any more.
    maps = Path("/proc/self/maps").read_text(encoding="utf-8")
    assert maps.count("memfd:cpool-shared") >= 2
    written.share.close()
    assert [int(first[-1]) for first, _ in workers] == [1, 2]


@needs_memory
def test_what_is_small_is_not_written(engine_of_a_pool: Any) -> None:
    assert write_once(engine_of_a_pool, (tasks.remember, (bytes(1000),))) is None
    assert write_once(engine_of_a_pool, (tasks.remember, (bytes(64 << 10),))) is not None


class Plain:
    def __init__(self, value: Any) -> None:
        self.value = value

    def method(self) -> None:
        pass


class Slots:
    __slots__ = ("value",)


class Items(list[Any]):
    pass


class Watched:
    """In place of an engine: notes whether it is asked to encode."""

    was_asked = False

    def share_object(self, _: Any) -> Any:
        self.was_asked = True
        raise MemoryError


def is_encoded(*args: Any) -> bool:
    watched: Any = Watched()
    assert write_once(watched, (tasks.remember, args)) is None
    return bool(watched.was_asked)


def test_small_data_are_not_encoded_to_learn_that_they_are_small() -> None:
    assert not is_encoded(None, 1, 2.5, "é" * 100, b"x" * 1000, {"a": [(1, 2)], 3: {4}})
    assert not is_encoded(functools.partial(tasks.square, 1, key=Plain([Plain("x")])))
    assert not is_encoded(Plain(1).method, len, int, Plain, 10**1000)


def test_what_may_be_large_is_encoded() -> None:
    large = "x" * (64 << 10)
    endless: list[Any] = []
    endless.append(endless)
    values: list[Any] = [large, large.encode(), bytearray(64 << 10), "é" * (16 << 10), 1 << 600_000]
    values += [list(range(9000)), dict.fromkeys(range(5000)), ["x" * 1000] * 70, endless]
    for value in values:
        assert is_encoded(value), type(value)
        assert is_encoded({"a": [Plain(value)]}), type(value)
        assert is_encoded(functools.partial(tasks.square, value)), type(value)
        assert is_encoded(Plain(value).method), type(value)
    # Only their own code knows what these send.
    for value in (Counted(b""), Slots(), Items(), memoryview(b""), [].append, range(3)):
        assert is_encoded(value), type(value)


@needs_memory
def test_what_cannot_be_written_is_left_to_each_start(engine_of_a_pool: Any) -> None:
    reader, writer = multiprocessing.Pipe(duplex=False)
    with reader, writer:
        assert write_once(engine_of_a_pool, (tasks.remember, (reader, bytes(MIB)))) is None
    large = bytes(8 * MIB)  # more than the limit of the pool
    assert write_once(engine_of_a_pool, (tasks.remember, (large,))) is None
    assert write_once(engine_of_a_pool, (tasks.remember, (tasks.Unpicklable(), large))) is None
    # Nothing of it is left, and multiprocessing starts no process.
    gc.collect()
    assert write_once(engine_of_a_pool, (tasks.remember, (bytes(3 * MIB),))) is not None
    assert multiprocessing.context.get_spawning_popen() is None


def a_pipe() -> int:
    read, write = os.pipe()
    os.close(write)
    return read


def a_file(content: bytes) -> int:
    fd = os.memfd_create("other")
    os.write(fd, content)
    return fd


OTHERS: dict[str, tuple[Any, type[Exception]]] = {
    "an empty file": (lambda: a_file(b""), cpool.PoolError),
    "a short file": (lambda: a_file(b"\x01" * 9), cpool.PoolError),
    "zeros": (lambda: a_file(bytes(4096)), cpool.PoolError),
    "a pickle": (lambda: a_file(pickle.dumps(list(range(4096)))), cpool.PoolError),
    "a pipe": (a_pipe, OSError),
    "a folder": (lambda: os.open("/", os.O_RDONLY), OSError),
}


@needs_memory
@pytest.mark.parametrize("what", OTHERS)
def test_a_descriptor_of_something_else_is_an_error(what: str) -> None:
    make, error = OTHERS[what]
    fd = make()
    with pytest.raises(error):
        _core._load_shared(fd)
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(fd)  # it was taken over


@needs_memory
@pytest.mark.parametrize("fd", [-1, -7, 1 << 20, (1 << 32) + 1, 1 << 80])
def test_a_number_that_is_no_descriptor_is_an_error(fd: int) -> None:
    before = open_files()
    with pytest.raises((OSError, OverflowError)):
        _core._load_shared(fd)
    assert open_files() == before


@needs_memory
def test_a_file_that_was_copied_is_an_error(engine_of_a_pool: Any) -> None:
    """Only the file that the pool has sealed, since nobody can change it."""
    share = engine_of_a_pool.share_object(bytes(MIB))
    with open(f"/proc/self/fd/{share.fd}", "rb") as file:
        fd = a_file(file.read())
    with pytest.raises(OSError, match="Stale"):
        _core._load_shared(fd)
    assert _core._load_shared(os.dup(share.fd)) == bytes(MIB)
    share.close()
