"""A call that is interrupted or fails half-way leaves no job behind that never ends: afterwards the
pool can be used, closed and joined."""

from __future__ import annotations

import os
import signal
import sys
import sysconfig
import threading
import warnings
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NoReturn

import pytest
import scripts
import tasks
from engine import DEADLINE, Pool, errors
from gates import Gate, eventually
from leftovers import all_freed

from cpool.pool import ApplyResult, IMapIterator, MapResult, MaybeEncodingError, ThreadPool

pytestmark = pytest.mark.better
FREE_THREADED = bool(sysconfig.get_config_var("Py_GIL_DISABLED"))


def ends(pool: Any) -> None:
    """Check that the pool works, and then ends. A job that never ends would block join()."""
    assert pool.map(tasks.square, range(5), 1) == [0, 1, 4, 9, 16]
    assert len(pool._cache) == 0
    pool.close()
    pool.join(DEADLINE)


class Interrupts:
    """Raises KeyboardInterrupt while being pickled."""

    def __reduce__(self) -> NoReturn:
        raise KeyboardInterrupt


INTERRUPTED = [
    lambda pool: pool.apply(tasks.identity, (Interrupts(),)),
    lambda pool: pool.apply(Interrupts().__reduce__),
    lambda pool: pool.apply_async(tasks.identity, (Interrupts(),), callback=print),
    lambda pool: pool.map(tasks.identity, [1, Interrupts()], 1),
    lambda pool: pool.map(tasks.identity, [1, Interrupts()], 2),
    lambda pool: pool.map_async(tasks.identity, [1, Interrupts()], error_callback=print),
    lambda pool: pool.starmap(tasks.add, [(1, 2), (Interrupts(), 1)]),
    lambda pool: pool.imap(tasks.identity, [1, Interrupts()]),
    lambda pool: pool.imap_unordered(tasks.identity, [1, Interrupts()], 2),
    lambda pool: pool.map(tasks.identity, Items(KeyboardInterrupt)),
    lambda pool: pool.map(tasks.identity, Items(KeyboardInterrupt), 1),
]


class Items:
    """Claims to have four items, and raises in place of the third."""

    def __init__(self, error: type[BaseException]) -> None:
        self.error = error

    def __len__(self) -> int:
        return 4

    def __iter__(self) -> Iterator[int]:
        yield from (1, 2)
        raise self.error


@pytest.mark.parametrize("call", INTERRUPTED)
def test_ctrl_c_while_items_are_pickled(make_pool: Any, call: Any) -> None:
    pool = make_pool(2)
    with pytest.raises(KeyboardInterrupt) as kept:
        call(pool)
    ends(pool)
    del kept  # its frames hold the arguments of the call


def test_an_interrupt_in_the_feeding_thread_fails_its_task(make_pool: Any) -> None:
    pool = make_pool(1)
    items = pool.imap(tasks.identity, iter([1, Interrupts(), 3]))
    assert next(items) == 1
    with pytest.raises(KeyboardInterrupt):
        next(items)
    assert list(items) == [3]  # up to the end, which the feeding thread has not seen yet
    result = pool.map_async(tasks.identity, Items(LookupError), 1)
    with pytest.raises(LookupError):
        result.get(DEADLINE)
    ends(pool)


@pytest.mark.parametrize(
    "options", [{"chunksize": 2**70}, {"buffersize": 2**70}, {"chunksize": 2, "buffersize": 2**70}]
)
@pytest.mark.parametrize("method", ["imap", "imap_unordered"])
def test_sizes_beyond_all_bounds(make_pool: Any, method: str, options: dict[str, int]) -> None:
    pool = make_pool(1)
    with pytest.raises(OverflowError) as kept:
        getattr(pool, method)(tasks.square, range(3), **options)
    ends(pool)
    del kept


@pytest.mark.parametrize("has_helper", [False, True])
@pytest.mark.parametrize("method", ["imap", "map_async", "starmap_async"])
def test_a_thread_that_cannot_be_started(
    make_pool: Any, monkeypatch: pytest.MonkeyPatch, method: str, has_helper: bool
) -> None:
    pool = make_pool(1)
    if has_helper:
        pool.apply_async(tasks.nothing).get(DEADLINE)

    def refuse(thread: threading.Thread) -> NoReturn:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        with pytest.raises(RuntimeError, match="can't start") as kept:
            getattr(pool, method)(tasks.square, Items(LookupError))
    ends(pool)
    del kept


def test_a_result_without_a_task_ends_with_its_last_reference(make_pool: Any) -> None:
    pool = make_pool(1)
    made = [ApplyResult(pool), MapResult(pool, 2, 4, None, print), IMapIterator(pool)]
    assert len(pool._cache) == 0
    del made
    ends(pool)


def test_a_result_is_found_by_its_job_number(make_pool: Any) -> None:
    pool = make_pool(1)
    number = IMapIterator(pool)._job
    items = pool._cache[number]
    pool._taskqueue.put(
        (((number, i, tasks.square, (i,), {}) for i in range(3)), items._set_length)
    )
    assert list(items) == [0, 1, 4]
    ends(pool)


# A pool without references after an interrupt


def forgotten_after(cls: Any, call: Callable[..., Any], *args: Any) -> None:
    """Check that an unreferenced pool is freed after an interrupt of call(pool, *args)."""
    pool = cls(2)
    ref = weakref.ref(pool)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        try:
            call(pool, *args)
        except KeyboardInterrupt:
            pass
        else:
            raise AssertionError("it was not interrupted")
        del pool
        all_freed([ref])


@pytest.mark.parametrize("cls", [Pool, ThreadPool])
@pytest.mark.parametrize("chunksize", [1, 4])
def test_a_pool_is_freed_after_an_interrupt_in_an_iterable(cls: Any, chunksize: Any) -> None:
    items = Items(KeyboardInterrupt)
    kept = weakref.ref(items)
    forgotten_after(cls, cls.map, tasks.identity, items, chunksize)
    del items
    all_freed([kept])


@pytest.mark.parametrize(
    "call",
    [
        lambda pool: pool.apply(tasks.identity, (Interrupts(),)),
        lambda pool: pool.map(tasks.identity, [1, Interrupts()], 1),
        lambda pool: pool.apply(make_interrupt),
        lambda pool: pool.map(make_interrupt, [1]),
    ],
    ids=["argument", "item", "result", "results"],
)
def test_a_pool_is_freed_after_ctrl_c_during_pickling(
    monkeypatch: pytest.MonkeyPatch, call: Callable[[Any], Any]
) -> None:
    monkeypatch.setattr(InterruptsOnArrival, "seen", 0)
    forgotten_after(Pool, call)


@pytest.fixture
def pressed(gate: Gate) -> Iterator[None]:
    """Press Ctrl-C in the main thread when a task is at the gate."""

    def press() -> None:
        gate.arrived()
        os.kill(os.getpid(), signal.SIGUSR1)

    def interrupt(*_: Any) -> NoReturn:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGUSR1, interrupt)
    thread = threading.Thread(target=press)
    thread.start()
    yield
    thread.join()
    signal.signal(signal.SIGUSR1, before)


@pytest.mark.parametrize("cls", [Pool, ThreadPool])
@pytest.mark.parametrize(
    "call",
    [
        lambda pool, held, thing: pool.apply(held, (1,), {"thing": thing}),
        lambda pool, held, thing: pool.map(held, [thing] * 5, 1),
        lambda pool, held, thing: pool.starmap(held, [(thing,)] * 5),
    ],
    ids=["apply", "map", "starmap"],
)
@pytest.mark.usefixtures("pressed")
def test_a_pool_is_freed_while_the_awaited_task_runs(gate: Gate, cls: Any, call: Any) -> None:
    """Objects that the task holds are freed when the task ends."""
    thing = tasks.Point(1, 2)
    kept = weakref.ref(thing)
    forgotten_after(cls, call, Held(gate), thing)
    del thing
    assert (kept() is not None) == (cls is ThreadPool)  # whose running task holds the object
    gate.open()
    all_freed([kept])


class Held:
    def __init__(self, gate: Gate) -> None:
        self.gate = gate

    def __call__(self, x: Any, thing: Any = None) -> None:
        self.gate.hold()


def test_finished_tasks_of_threads_are_freed_with_a_result_without_a_task(
    make_pool: Any,
) -> None:
    """While such a result may still get a task, the threads do not free finished tasks."""
    pool = make_pool(1, cls=ThreadPool)
    result = ApplyResult(pool)
    thing = tasks.Point(1, 2)
    kept = weakref.ref(thing)
    pool.apply_async(tasks.identity, (thing,))
    del thing
    eventually(lambda: not pool._cache)
    del result
    all_freed([kept])


class InterruptsOnArrival:
    """Raises KeyboardInterrupt when unpickled for the first time."""

    seen = 0

    def __reduce__(self) -> tuple[Any, ...]:
        return arrive, ()


def arrive() -> str:
    InterruptsOnArrival.seen += 1
    if InterruptsOnArrival.seen == 1:
        raise KeyboardInterrupt
    return "arrived"


def make_interrupt(_: object = None) -> InterruptsOnArrival:
    return InterruptsOnArrival()


@pytest.mark.parametrize("ask", ["wait", "get"])
def test_ctrl_c_while_the_value_is_unpickled(
    make_pool: Any, monkeypatch: pytest.MonkeyPatch, ask: str
) -> None:
    pool = make_pool(1)
    monkeypatch.setattr(InterruptsOnArrival, "seen", 0)
    result = pool.apply_async(make_interrupt)
    with pytest.raises(KeyboardInterrupt):
        getattr(result, ask)(DEADLINE)
    assert result.get(DEADLINE) == "arrived"
    monkeypatch.setattr(InterruptsOnArrival, "seen", 0)
    result = pool.map_async(make_interrupt, range(3), 1)
    with pytest.raises(KeyboardInterrupt):
        getattr(result, ask)(DEADLINE)
    assert result.get(DEADLINE) == ["arrived"] * 3
    ends(pool)


class InterruptsOnLeaving(Exception):
    """Raises KeyboardInterrupt in the worker while the failure of a task is pickled."""

    def __reduce__(self) -> NoReturn:
        raise KeyboardInterrupt


def fail_with_interrupt() -> NoReturn:
    raise InterruptsOnLeaving


def test_ctrl_c_while_a_failure_is_pickled(
    make_pool: Any, capfd: pytest.CaptureFixture[str]
) -> None:
    """The interrupt ends the worker, and nothing is printed."""
    pool = make_pool(1)
    with pytest.raises(errors.WorkerLostError):
        pool.apply(fail_with_interrupt)
    ends(pool)
    assert capfd.readouterr() == ("", "")


def test_a_value_that_cannot_be_unpickled_is_tried_once(make_pool: Any) -> None:
    pool = make_pool(1)
    Refuses.tried = 0
    with pytest.raises(LookupError):
        pool.apply(Refuses)
    assert Refuses.tried == 1


class Refuses:
    tried = 0

    def __reduce__(self) -> tuple[Any, ...]:
        return refuse_to_arrive, ()


def refuse_to_arrive() -> NoReturn:
    Refuses.tried += 1
    raise LookupError("the object refuses")


# Workers


def limit_memory(extra: int) -> None:
    """Allow this process to allocate that many bytes more."""
    import resource

    with open("/proc/self/statm", encoding="ascii") as file:
        pages = int(file.read().split()[0])
    size = pages * resource.getpagesize() + extra
    resource.setrlimit(resource.RLIMIT_AS, (size, size))


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="/proc")
def test_a_task_that_no_worker_can_receive_fails(make_pool: Any) -> None:
    """The task must not go from worker to worker for ever and kill each of them."""
    pool = make_pool(1, limit_memory, (1 << 24,))
    with pytest.raises(errors.WorkerLostError):
        pool.apply(tasks.size, (bytes(1 << 26),))
    ends(pool)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="/proc")
@pytest.mark.parametrize("chunksize", [1, 2])
def test_a_result_without_memory_to_send_is_reported(make_pool: Any, chunksize: int) -> None:
    # Room for one of the two. A free-threaded build may take the value from its reserve.
    pool = make_pool(1, limit_memory, (3 << 26 if FREE_THREADED else 3 << 27,))
    [pid] = {worker.pid for worker in pool._pool}
    with pytest.raises(MaybeEncodingError, match="MemoryError"):
        pool.map(tasks.zeros, [1 << 28, 1], chunksize)
    assert pool.map(tasks.pid, [1]) == [pid]
    ends(pool)


def test_workers_are_still_replaced_after_an_interrupt(
    make_pool: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    pool = make_pool(1)
    [worker] = pool._pool
    repopulate = pool._repopulate_pool

    def interrupted() -> NoReturn:
        pool._repopulate_pool = repopulate
        raise KeyboardInterrupt

    pool._repopulate_pool = interrupted
    worker.kill()
    with pytest.raises(KeyboardInterrupt):
        eventually(lambda: pool.apply(tasks.nothing))
    ends(pool)


UNREAD = """
from engine import Pool, DEADLINE
import tasks

with Pool(1) as pool:
    result = pool.apply_async(tasks.fail)
    result.wait(DEADLINE)
"""


def test_an_unread_failure_is_not_reported_at_interpreter_shutdown(tmp_path: Path) -> None:
    done = scripts.run_source(tmp_path, UNREAD)
    assert (done.returncode, done.stderr) == (0, "")
