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
    eventually(lambda: len(pool._cache) == 0)  # the other worker may be at a task of a failed call
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
    if cls is ThreadPool:
        assert kept() is not None  # its running task holds the object
    else:
        all_freed([kept])
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


# Handlers that raise an ordinary exception


class Alarm(Exception):
    pass


def handler(number: int, frame: Any) -> NoReturn:
    raise Alarm


def handler_of_any(*args: Any) -> NoReturn:
    raise Alarm


def handler_that_is_gone(number: int, frame: Any) -> NoReturn:
    signal.signal(signal.SIGUSR2, signal.SIG_DFL)
    raise Alarm


class HandlerObject:
    def __call__(self, number: int, frame: Any) -> NoReturn:
        self.give_up()

    def give_up(self) -> NoReturn:
        raise Alarm


HANDLERS = [handler, handler_of_any, handler_that_is_gone, HandlerObject()]


@pytest.fixture(params=HANDLERS, ids=["function", "any", "gone", "object"])
def alarm(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The handler runs whenever a process sends itself the signal; and `Rings` rings once."""
    monkeypatch.setattr(Rings, "left", 1)
    before = signal.signal(signal.SIGUSR2, request.param)
    yield
    signal.signal(signal.SIGUSR2, before)


def ring(times: int = 1) -> str:
    """Send the signal, as often as `Rings.left` says, but not in a worker."""
    if os.getpid() == PARENT and Rings.left > 0:
        Rings.left -= 1
        signal.raise_signal(signal.SIGUSR2)
    return "rung"


PARENT = os.getpid()


class Rings:
    """Unpickles as the value of ring()."""

    left = 0

    def __reduce__(self) -> tuple[Any, ...]:
        return ring, ()


class RingsAndHides(Rings):
    """Replaces any exception that it sees by another one."""

    def __reduce__(self) -> tuple[Any, ...]:
        return ring_and_hide, ()


def ring_and_hide() -> str:
    try:
        return ring()
    except Exception:
        raise LookupError("the value cannot be found") from None


class RingsInError(Exception):
    def __reduce__(self) -> tuple[Any, ...]:
        return rung_error, ()


def rung_error() -> ValueError:
    return ValueError(ring())


class RingsAtHome(Rings):
    """Rings when it is pickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return str, (ring(),)


class RingsInIteration(Items):
    def __init__(self) -> None:
        pass

    def __iter__(self) -> Iterator[int]:
        yield 1
        ring()
        yield from (2, 3, 4)


def make_rings(_: object = None) -> Rings:
    return Rings()


def make_rings_and_hides(_: object = None) -> Rings:
    return RingsAndHides()


def fail_and_ring(_: object = None) -> NoReturn:
    raise RingsInError


@pytest.mark.usefixtures("alarm")
@pytest.mark.parametrize("task", [make_rings, make_rings_and_hides])
def test_a_handler_that_raises_while_a_value_is_rebuilt(make_pool: Any, task: Any) -> None:
    """The exception leaves the wait, and the next one gets the value."""
    pool = make_pool(1)
    for result, value in [
        (pool.apply_async(task), "rung"),
        (pool.map_async(task, range(3), 1), ["rung"] * 3),
        (pool.map_async(task, range(4), 2), ["rung"] * 4),
    ]:
        Rings.left = 2
        signal.signal(signal.SIGUSR2, handler)
        for wait in (result.get, result.wait):
            with pytest.raises((Alarm, LookupError)):
                wait(DEADLINE)
        assert result.get(DEADLINE) == value
        assert result.successful()
    ends(pool)


@pytest.mark.usefixtures("alarm")
def test_a_handler_that_raises_while_a_failure_is_rebuilt(make_pool: Any) -> None:
    pool = make_pool(1)
    result = pool.apply_async(fail_and_ring)
    with pytest.raises(Alarm):
        result.get(DEADLINE)
    with pytest.raises(ValueError, match="rung"):
        result.get(DEADLINE)
    ends(pool)


class RingsSoon:
    """Unpickles as a list, without any Python code; the signal arrives meanwhile."""

    def __reduce__(self) -> tuple[Any, ...]:
        return tuple, ([SetsTimer(), Zeros()],)


class SetsTimer:
    def __reduce__(self) -> tuple[Any, ...]:
        return signal.setitimer, (signal.ITIMER_REAL, 1e-6)


class Zeros:
    def __reduce__(self) -> tuple[Any, ...]:
        return bytes, (30_000_000,)


def make_rings_soon(i: int) -> tuple[int, RingsSoon]:
    return i, RingsSoon()


@pytest.mark.parametrize("method", ["imap", "imap_unordered"])
def test_a_signal_that_arrives_while_an_item_is_rebuilt_without_python_code(
    make_pool: Any, method: str
) -> None:
    """Its handler is called before `next()` returns: the item is not lost."""

    def give_up_once(*args: object) -> None:
        signal.signal(signal.SIGALRM, lambda *args: None)
        raise Alarm

    pool = make_pool(1)
    before = signal.signal(signal.SIGALRM, give_up_once)
    try:
        items = getattr(pool, method)(make_rings_soon, range(4))
        with pytest.raises(Alarm):
            next(items)
        assert [i for i, _ in items] == [0, 1, 2, 3]
    finally:
        signal.signal(signal.SIGALRM, before)
    ends(pool)


@pytest.mark.usefixtures("alarm")
@pytest.mark.parametrize("options", [{}, {"chunksize": 2}])
@pytest.mark.parametrize("method", ["imap", "imap_unordered"])
def test_a_handler_that_raises_while_an_item_is_rebuilt(
    make_pool: Any, method: str, options: dict[str, int]
) -> None:
    """No item is lost."""
    pool = make_pool(1)
    assert next(getattr(pool, method)(tasks.square, [1], **options)) == 1
    items = getattr(pool, method)(make_rings, range(5))
    with pytest.raises(Alarm):
        next(items)
    assert list(items) == ["rung"] * 5
    Rings.left = 1
    signal.signal(signal.SIGUSR2, handler)
    items = getattr(pool, method)(make_rings, range(5))
    with pytest.raises(Alarm):
        next(items)
    del items  # frees the item that was not rebuilt
    ends(pool)


@pytest.mark.usefixtures("alarm")
def test_an_error_of_the_value_itself_while_an_alarm_is_handled(make_pool: Any) -> None:
    """The value's own error is its failure, although the handler's is its context."""
    pool = make_pool(1)
    Refuses.tried = 0
    items = pool.imap(Refuses.make, range(2))
    try:
        ring()
    except Alarm:
        for _ in range(2):
            with pytest.raises(LookupError):
                next(items)
    assert list(items) == []
    assert Refuses.tried == 2
    ends(pool)


SUBMITTED = [
    lambda pool, thing: pool.apply(tasks.identity, (thing,)),
    lambda pool, thing: pool.apply(tasks.identity, (), {"value": thing}),
    lambda pool, thing: pool.apply(thing.__reduce__),
    lambda pool, thing: pool.apply_async(tasks.identity, (thing,), callback=print),
    lambda pool, thing: pool.map(tasks.identity, [1, thing], 1),
    lambda pool, thing: pool.map_async(tasks.identity, [1, thing], 2, callback=print),
    lambda pool, thing: pool.map_async(thing.__reduce__, [1]),
    lambda pool, thing: pool.starmap(tasks.add, [(1, 2), (thing, 1)]),
    lambda pool, thing: pool.starmap_async(tasks.add, [(1, 2), (thing, 1)]),
    lambda pool, thing: pool.imap(tasks.identity, [1, thing]),
    lambda pool, thing: pool.imap_unordered(tasks.identity, [1, thing], 2),
    lambda pool, thing: pool.map(tasks.identity, RingsInIteration()),
    lambda pool, thing: pool.map(tasks.identity, RingsInIteration(), 1),
    lambda pool, thing: pool.map_async(tasks.identity, [*range(3), thing]),
]


@pytest.mark.usefixtures("alarm")
@pytest.mark.parametrize("call", SUBMITTED)
def test_a_handler_that_raises_while_arguments_are_pickled(make_pool: Any, call: Any) -> None:
    """The exception leaves the call, which leaves nothing behind."""
    pool = make_pool(2)
    with pytest.raises(Alarm) as kept:
        call(pool, RingsAtHome())
    del kept
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

    @classmethod
    def make(cls, _: object) -> Refuses:
        return cls()

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
    extra = 3 << 26 if FREE_THREADED else 3 << 27
    pool = make_pool(1, limit_memory, (extra,), shared_memory_limit=0)
    [pid] = {worker.pid for worker in pool._pool}
    # Where the reserve is used up, the value itself finds no room.
    errors = (MaybeEncodingError, MemoryError) if FREE_THREADED else MaybeEncodingError
    with pytest.raises(errors) as caught:
        pool.map(tasks.zeros, [1 << 28, 1], chunksize)
    assert "MemoryError" in repr(caught.value)
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


@pytest.mark.usefixtures("alarm")
def test_a_handler_that_raises_while_workers_are_replaced(
    make_pool: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The exception leaves the call that waits, and is not taken for a failed start."""
    pool = make_pool(1)
    [worker] = pool._pool
    repopulate = pool._repopulate_pool

    def interrupted() -> None:
        pool._repopulate_pool = repopulate
        ring()

    pool._repopulate_pool = interrupted
    worker.kill()
    with pytest.raises(Alarm):
        eventually(lambda: pool.apply(tasks.nothing))
    assert pool._start_error is None
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
