"""`Pool(forward_logs=True)`."""

from __future__ import annotations

import contextlib
import ctypes
import logging
import marshal
import multiprocessing
import os
import select
import signal
import socket
import threading
import time
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any

import engine
import pytest
from engine import DEADLINE, Pool
from gates import Gate, eventually

from cpool._engine.logs import LogReceiver
from cpool._start.logs import _Forwarder

pytestmark = pytest.mark.better

errors = engine.errors
needs_spawn = pytest.mark.skipif(
    "spawn" not in engine.START_METHODS, reason="this build starts workers by fork alone"
)
LOG = logging.getLogger("tests.forwarded")


class Keeper(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)

    def messages(self) -> list[str]:
        return [record.getMessage() for record in self.records]


@pytest.fixture
def keeper() -> Iterator[Keeper]:
    keeper = Keeper()
    LOG.addHandler(keeper)
    LOG.setLevel(logging.INFO)
    yield keeper
    LOG.removeHandler(keeper)
    LOG.setLevel(logging.NOTSET)


COUNT = count()  # in each process


def log(x: int) -> int:
    extra = {"item": x, "nth": next(COUNT), "odd": object() if x % 2 else None}
    LOG.info("item %d", x, extra=extra)
    return os.getpid()


def log_a_failure(x: int) -> None:
    try:
        raise ValueError(x)
    except ValueError:
        LOG.exception("it failed")


def log_and_die(x: int) -> None:
    LOG.info("before the end")
    os.kill(os.getpid(), signal.SIGKILL)


def log_much(n: int) -> None:
    LOG.info("x" * n)


def log_below() -> None:
    LOG.debug("debug")
    logging.getLogger("tests.forwarded.below").info("below")
    logging.getLogger("tests.forwarded.alone").info("alone")


def log_from_threads(n: int) -> None:
    threads = [threading.Thread(target=log, args=(i,)) for i in range(n)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


@pytest.mark.parametrize("method", engine.START_METHODS)
def test_each_record_is_handled_once_and_in_order(keeper: Keeper, method: str) -> None:
    context = multiprocessing.get_context(method)
    with Pool(2, context=context, forward_logs=True, on_exit="join") as pool:
        pids = pool.map(log, range(200), chunksize=5)
        names = {process.name for process in pool._pool}
    records: list[Any] = keeper.records
    assert sorted(record.item for record in records) == list(range(200))
    of_worker: dict[Any, list[int]] = {}
    for record in records:
        of_worker.setdefault(record.process, []).append(record.nth)
    assert set(of_worker) == set(pids)
    assert all(numbers == sorted(numbers) for numbers in of_worker.values())
    assert {record.processName for record in records} <= names
    first = next(record for record in records if record.item == 1)
    assert (first.name, first.levelname, first.funcName) == (LOG.name, "INFO", "log")
    assert first.getMessage() == "item 1"
    assert first.odd.startswith("<object object at ")


@needs_spawn
def test_levels_are_those_of_the_parent(keeper: Keeper) -> None:
    alone = logging.getLogger("tests.forwarded.alone")
    alone.propagate = False
    own = Keeper()
    alone.addHandler(own)
    try:
        context = multiprocessing.get_context("spawn")
        with Pool(1, context=context, forward_logs=True, on_exit="join") as pool:
            pool.apply(log_below)
    finally:
        alone.propagate = True
        alone.removeHandler(own)
    assert keeper.messages() == ["below"]
    assert own.messages() == ["alone"]


def test_exceptions_arrive_as_text(keeper: Keeper) -> None:
    with Pool(1, forward_logs=True, on_exit="join") as pool:
        pool.apply(log_a_failure, (7,))
    (record,) = keeper.records
    assert record.exc_text is not None
    assert record.exc_text.endswith("ValueError: 7")
    assert "in log_a_failure" in record.exc_text


def test_a_worker_that_dies_takes_no_record_along(keeper: Keeper) -> None:
    with Pool(1, forward_logs=True, on_exit="join") as pool:
        with pytest.raises(errors.WorkerLostError):
            pool.apply(log_and_die, (0,))
        pool.apply(log, (1,))  # by the next worker
    assert keeper.messages() == ["before the end", "item 1"]


def test_large_records_and_threads(keeper: Keeper) -> None:
    with Pool(2, forward_logs=True, on_exit="join") as pool:
        pool.map(log_much, [10, 100_000, 1_000_000, 5_000_000], chunksize=1)
        pool.map(log_from_threads, [20, 20])
    assert sorted(len(m) for m in keeper.messages() if m[0] == "x") == [
        10,
        100_000,
        1_000_000,
        5_000_000,
    ]
    assert len(keeper.messages()) == 44


def test_a_handler_that_blocks_stops_no_worker(keeper: Keeper) -> None:
    blocked = threading.Event()

    class Blocking(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            blocked.wait()

    handler = Blocking()
    LOG.addHandler(handler)
    try:
        with Pool(1, forward_logs=True, on_exit="join") as pool:
            pool.map(log_much, [50_000] * 100)
            blocked.set()
    finally:
        LOG.removeHandler(handler)
    assert len(keeper.records) == 100


def test_a_handler_that_raises_is_reported(
    keeper: Keeper, capsys: pytest.CaptureFixture[str]
) -> None:
    class Raising(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            raise ValueError("no")

    handler = Raising()
    LOG.addHandler(handler)
    try:
        with Pool(1, forward_logs=True, on_exit="join") as pool:
            pool.map(log, range(3))
    finally:
        LOG.removeHandler(handler)
    assert keeper.messages() == ["item 0", "item 1", "item 2"]
    assert capsys.readouterr().err.count("ValueError: no") == 3


def test_terminate_handles_what_has_come(keeper: Keeper, gate: Gate) -> None:
    pool = Pool(1, forward_logs=True)
    pool.map(log, range(3))
    pool.apply_async(gate.hold)
    gate.arrived()
    pool.terminate()
    assert keeper.messages() == ["item 0", "item 1", "item 2"]


def log_after_the_parent(parent: int, ready: int, done: int) -> None:
    """Log more than the socket can buffer, after the parent has died."""
    os.write(ready, b"x")
    while os.getppid() == parent:
        time.sleep(0.001)
    for _ in range(100):
        LOG.info("x" * 50_000)
    os.write(done, b"x")


def die_with_a_copy_left(ready: tuple[int, int], done: int, to_copy: int) -> None:
    """Die as the parent of a worker that logs; a copy keeps the reading end of the socket open."""
    libc = ctypes.CDLL(None)
    pool = Pool(1, forward_logs=True)
    result = pool.apply_async(log_after_the_parent, (os.getpid(), ready[1], done))
    os.read(ready[0], 1)
    assert not result.ready()
    copy = libc.fork()
    if copy == 0:
        while True:
            libc.pause()
    os.write(to_copy, f"{copy} {pool._pool[0].pid} ".encode())
    os._exit(0)


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc")
def test_a_worker_does_not_wait_for_a_parent_that_is_gone(keeper: Keeper) -> None:
    """Its records are never read, but another process keeps the reading end of the socket open."""
    ready, done, pids = os.pipe(), os.pipe(), os.pipe()
    parent = os.fork()
    if parent == 0:
        try:
            die_with_a_copy_left(ready, done[1], pids[1])
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(parent, 0)[1]) == 0
    copy, worker = map(int, os.read(pids[0], 100).split())
    try:
        found, _, _ = select.select([done[0]], [], [], DEADLINE)
        assert found, "the worker still waits"
    finally:
        for pid in copy, worker:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        for fd in *ready, *done, *pids:
            os.close(fd)


def test_no_thread_and_no_descriptor_is_left(tmp_path: Path) -> None:
    def counts() -> tuple[int, int]:
        return threading.active_count(), len(os.listdir("/proc/self/fd"))

    with Pool(1, forward_logs=True) as pool:
        pool.apply(log, (1,))
    before = counts()
    for _ in range(3):
        with Pool(1, forward_logs=True) as pool:
            pool.apply(log, (1,))
    del pool
    eventually(lambda: all(now <= then for now, then in zip(counts(), before, strict=True)))


def test_without_forward_logs_workers_handle_their_records(keeper: Keeper) -> None:
    with Pool(1, on_exit="join") as pool:
        pool.apply(log, (1,))
    assert keeper.records == []


class Odd:
    def __repr__(self) -> str:
        raise ValueError("no repr")


def log_values() -> None:
    nested: list[Any] = []
    nested.append(nested)
    LOG.info(
        "%s of %s",
        Path("a"),
        {"b": 1},
        extra={
            "odd": Odd(),
            "nested": nested,
            "values": {"a": (1, 2.5, None, b"c", {3}), "path": Path("d")},
            "buffer": bytearray(b"e"),
        },
    )


def test_attributes_that_are_no_plain_values(keeper: Keeper) -> None:
    with Pool(1, forward_logs=True, on_exit="join") as pool:
        pool.apply(log_values)
    record: Any
    (record,) = keeper.records
    assert record.getMessage() == "a of {'b': 1}"
    assert record.odd == "<Odd, whose repr() raised ValueError>"
    assert str(record.nested).startswith("[[[")
    assert record.values == {"a": (1, 2.5, None, b"c", {3}), "path": repr(Path("d"))}
    assert record.buffer == "bytearray(b'e')"


def test_initializers_and_finalizers(keeper: Keeper) -> None:
    with Pool(
        1,
        initializer=LOG.info,
        initargs=("begins",),
        finalizer=LOG.info,
        finalargs=("ends",),
        forward_logs=True,
        on_exit="join",
    ) as pool:
        pool.apply(log, (1,))
    assert keeper.messages() == ["begins", "item 1", "ends"]


@needs_spawn
def test_filters_of_loggers_run_once(keeper: Keeper) -> None:
    seen: list[str] = []

    def note(record: logging.LogRecord) -> bool:
        seen.append(record.getMessage())
        if record.args == (1,):
            return False
        record.msg, record.args = "changed", ()
        return True

    LOG.addFilter(note)
    try:
        with Pool(1, forward_logs=True, on_exit="join") as pool:
            pool.map(log, [0, 1, 2])
        assert keeper.messages() == ["changed"] * 2  # in the worker, which has a copy of the filter
        assert seen == []
        context = multiprocessing.get_context("spawn")
        with Pool(1, context=context, forward_logs=True, on_exit="join") as pool:
            pool.map(log, [0])
        assert seen == ["item 0"]  # here
    finally:
        LOG.removeFilter(note)


def test_a_handler_may_end_the_pool(keeper: Keeper, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cpool._engine.logs._LAST_GRACE_S", 1000.0)
    called = threading.Event()
    pool = Pool(1, forward_logs=True)

    class Ending(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            pool.terminate()
            called.set()

    handler = Ending()
    LOG.addHandler(handler)
    try:
        pool.apply_async(log, (1,))
        assert called.wait(engine.DEADLINE)
    finally:
        LOG.removeHandler(handler)
    pool.join()
    assert keeper.messages() == ["item 1"]


def test_a_handler_that_never_returns(keeper: Keeper, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cpool._engine.logs._LAST_GRACE_S", 0.05)
    release, entered = threading.Event(), threading.Event()

    class Blocking(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            entered.set()
            release.wait()

    handler = Blocking()
    LOG.addHandler(handler)
    try:
        with Pool(1, forward_logs=True, on_exit="join") as pool:
            assert pool.apply(log, (1,)) > 0
            assert entered.wait(engine.DEADLINE)
    finally:
        LOG.removeHandler(handler)
        release.set()


def write_rubbish() -> None:
    """A task that writes to the descriptor of the pool's socket by mistake."""
    written = 0
    for fd in map(int, os.listdir("/proc/self/fd")):
        try:
            if os.readlink(f"/proc/self/fd/{fd}").startswith("socket:"):
                with socket.socket(fileno=os.dup(fd)) as found:
                    if found.type & socket.SOCK_DGRAM and found.family == socket.AF_UNIX:
                        found.send(b"")
                        found.send(b"x" * 100)
                        written += 1
        except OSError:
            pass
    assert written == 1


def test_what_is_no_record_is_ignored(keeper: Keeper) -> None:
    with Pool(1, forward_logs=True, on_exit="join") as pool:
        pool.apply(log, (1,))
        pool.apply(write_rubbish)
        pool.apply(log, (2,))
    assert keeper.messages() == ["item 1", "item 2"]


def test_records_behind_an_empty_datagram_are_not_lost() -> None:
    """Also where the receiving thread reads the empty datagram when the pool has ended already."""
    receiver = LogReceiver(runs_filters=False)
    sender = receiver.for_worker(forks=True)
    record = logging.makeLogRecord({"msg": "behind"})
    receiver._there.send(b"")
    _Forwarder(receiver._there, sender._token, sender._parent).emit(record)
    receiver._ends = True
    receiver._receive()
    assert marshal.loads(receiver._received.get(timeout=engine.DEADLINE))["msg"] == "behind"
    assert receiver._received.get(timeout=engine.DEADLINE) is None
    receiver.end()


def test_the_receiver_ends_where_its_sending_end_is_closed(keeper: Keeper) -> None:
    with Pool(1, forward_logs=True, on_exit="join") as pool:
        pool.apply(log, (1,))
        receiver = pool._logs
        receiver._there.close()
    assert receiver._done.is_set()  # and did not wait in vain
    assert keeper.messages() == ["item 1"]


@needs_spawn
def test_a_default_timeout_of_sockets_changes_nothing(keeper: Keeper) -> None:
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(0.001)
    try:
        context = multiprocessing.get_context("spawn")
        with Pool(1, context=context, forward_logs=True, on_exit="join") as pool:
            pool.apply(log, (1,))
            time.sleep(0.01)
            pool.map(log_much, [1_000_000] * 3)
    finally:
        socket.setdefaulttimeout(before)
    assert len(keeper.records) == 4


def work_within(x: int) -> int:
    with Pool(1, forward_logs=True, on_exit="join") as pool:
        pid: int = pool.apply(log, (x,))
    return pid


def test_pools_within_pools(keeper: Keeper) -> None:
    with Pool(1, daemon=False, forward_logs=True, on_exit="join") as pool:
        pid = pool.apply(work_within, (1,))
    (record,) = keeper.records
    assert (record.getMessage(), record.process) == ("item 1", pid)


def test_a_serial_pool_has_nothing_to_forward(keeper: Keeper) -> None:
    with Pool(1, serial=True, forward_logs=True) as pool:
        assert pool.apply(log, (1,)) == os.getpid()
    assert keeper.messages() == ["item 1"]


class Replaced(Pool):  # type: ignore[misc]
    def _repopulate_pool(self) -> None:
        super()._repopulate_pool()


def test_the_stdlibs_engine_refuses_forward_logs() -> None:
    with pytest.raises(ValueError, match="forward_logs needs a pool that runs on cpool's engine"):
        Replaced(1, forward_logs=True)


def test_a_pool_that_cannot_be_made(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: Any) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr("cpool._engine.processes.Thread.start", refuse)
    monkeypatch.setattr("cpool._engine.logs._LAST_GRACE_S", 1000.0)
    with pytest.raises(RuntimeError, match="can't start new thread"):
        Pool(1, forward_logs=True)
