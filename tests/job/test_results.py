"""AsyncResult and MapResult: methods and attributes, before and after the end of the job."""

from __future__ import annotations

import datetime
import decimal
import fractions
import multiprocessing
import multiprocessing.pool as stdlib_pool
import pickle
import threading
import types
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import engine
import pytest
import scripts
import tasks
from engine import DEADLINE, AsyncResult, pool_module
from gates import Gate, eventually

MapResult = pool_module.MapResult
IMapIterator = pool_module.IMapIterator
Start = Callable[..., Any]

# A pending result of either kind: start(pool, gate, callback, error_callback).
PENDING: dict[str, Start] = {
    "apply_async": lambda pool, gate, *back: pool.apply_async(gate.hold, (5,), {}, *back),
    "map_async": lambda pool, gate, *back: pool.map_async(gate.hold, [5], 1, *back),
    "starmap_async": lambda pool, gate, *back: pool.starmap_async(gate.hold, [(5,)], 1, *back),
}
VALUES: dict[str, Any] = {"apply_async": 5, "map_async": [5], "starmap_async": [5]}
each_kind = pytest.mark.parametrize("kind", PENDING)


@pytest.fixture
def pending(make_pool: Any, gate: Gate) -> Start:
    """pending(kind, ...) starts a job whose task waits at the gate."""

    def start(kind: str, *callbacks: Any) -> Any:
        result = PENDING[kind](make_pool(1), gate, *callbacks)
        gate.arrived()
        return result

    return start


@each_kind
def test_a_pending_result_becomes_ready(pending: Start, gate: Gate, kind: str) -> None:
    result = pending(kind)
    assert result.ready() is False
    assert result.wait(0.01) is None
    assert result.ready() is False
    gate.open()
    assert result.wait(DEADLINE) is None
    assert result.ready() is True
    assert result.successful() is True
    assert result.get() == VALUES[kind]


def test_the_classes(pool: Any) -> None:
    applied = pool.apply_async(tasks.square, (2,))
    mapped = pool.map_async(tasks.square, [2])
    assert type(applied) is AsyncResult
    assert type(mapped) is type(pool.starmap_async(tasks.square, [(2,)])) is MapResult
    assert issubclass(MapResult, AsyncResult)
    assert (applied.get(DEADLINE), mapped.get(DEADLINE)) == (4, [4])


def test_results_are_of_the_stdlibs_classes(pool: Any) -> None:
    """The classes that a program imported before the swap."""

    mapped, ordered = pool.map_async(tasks.square, [2]), pool.imap(tasks.square, [2])
    unordered = pool.imap_unordered(tasks.square, [2])
    assert isinstance(mapped, stdlib_pool.MapResult)
    assert isinstance(mapped, stdlib_pool.AsyncResult)
    assert isinstance(ordered, stdlib_pool.IMapIterator)
    assert not isinstance(ordered, stdlib_pool.IMapUnorderedIterator)
    assert isinstance(unordered, stdlib_pool.IMapUnorderedIterator)
    assert (mapped.get(DEADLINE), list(ordered), list(unordered)) == ([4], [4], [4])


def test_apply_result_is_the_old_name() -> None:
    assert pool_module.ApplyResult is pool_module.AsyncResult
    assert AsyncResult.__name__ == "ApplyResult"


@pytest.mark.parametrize("cls", [AsyncResult, MapResult])
def test_annotations_may_name_the_value(cls: Any) -> None:
    alias = cls[int]
    assert isinstance(alias, types.GenericAlias)
    assert alias.__origin__ is cls
    assert alias.__args__ == (int,)


@pytest.mark.parametrize("name", ["IMapIterator", "IMapUnorderedIterator", "Pool"])
def test_iterators_and_pools_are_not_generic(name: str) -> None:
    with pytest.raises(TypeError, match=f"^type '{name}' is not subscriptable$"):
        getattr(pool_module, name)[int]


# Waiting


@each_kind
@pytest.mark.parametrize("timeout", [0, 0.0, -1, 0.01, -float("inf"), False])
def test_get_gives_up_after_the_timeout(
    pending: Start, gate: Gate, kind: str, timeout: float
) -> None:
    result = pending(kind)
    with pytest.raises(multiprocessing.TimeoutError) as caught:
        result.get(timeout)
    assert type(caught.value) is multiprocessing.TimeoutError
    assert caught.value.args == ()
    assert str(caught.value) == ""
    assert not isinstance(caught.value, TimeoutError)
    with pytest.raises(multiprocessing.TimeoutError):
        result.get(timeout=timeout)
    gate.open()
    assert result.get(DEADLINE) == VALUES[kind]


@pytest.mark.parametrize("timeout", [None, 3600, 0xFFFFFFFF, threading.TIMEOUT_MAX, 1e8])
def test_get_with_a_long_timeout_waits(pending: Start, gate: Gate, timeout: Any) -> None:
    result = pending("apply_async")
    opener = threading.Timer(0.02, gate.open)
    opener.start()
    assert result.get(timeout) == 5
    opener.join()


@each_kind
@pytest.mark.parametrize(
    "timeout", ["a", [], 1e20, float("nan"), -1e20], ids=lambda value: repr(value)[:5]
)
def test_an_odd_timeout_means_the_same_as_for_an_event(
    pending: Start, gate: Gate, kind: str, timeout: Any
) -> None:
    """Errors and texts are threading's, and differ between versions."""
    expected: Exception = multiprocessing.TimeoutError()
    try:
        threading.Event().wait(timeout)
    except Exception as error:
        expected = error
    result = pending(kind)
    with pytest.raises(type(expected)) as caught:
        result.get(timeout)
    assert type(caught.value) is type(expected)
    assert str(caught.value) == str(expected)
    if not isinstance(expected, multiprocessing.TimeoutError):
        with pytest.raises(type(expected)):
            result.wait(timeout)
    gate.open()
    assert result.get(DEADLINE) == VALUES[kind]


class Seconds:
    def __init__(self, value: float) -> None:
        self.value = value

    def __gt__(self, other: float) -> bool:
        return self.value > other

    def __le__(self, other: float) -> bool:
        return self.value <= other


class FloatSeconds(Seconds):
    def __float__(self) -> float:
        return self.value


class IndexSeconds(Seconds):
    def __index__(self) -> int:
        return int(self.value)


REAL_NUMBERS = [
    decimal.Decimal("0.01"),
    decimal.Decimal(-1),
    fractions.Fraction(1, 100),
    False,
    FloatSeconds(0.01),
    IndexSeconds(-1),
]


@pytest.mark.better  # before 3.15 the stdlib takes ints and floats only
@pytest.mark.parametrize("timeout", REAL_NUMBERS, ids=lambda number: type(number).__name__)
def test_any_real_number_is_a_timeout(make_pool: Any, gate: Gate, timeout: Any) -> None:
    pool = make_pool(1)
    result = pool.apply_async(gate.hold)
    items = pool.imap(tasks.identity, [1])
    gate.arrived()
    pool.close()
    assert result.wait(timeout) is None
    for wait in result.get, items.next, pool.join:
        with pytest.raises(multiprocessing.TimeoutError):
            wait(timeout)
    gate.open()
    assert items.next(decimal.Decimal(DEADLINE)) == 1
    pool.join(fractions.Fraction(DEADLINE))


# A process that has imported numpy takes twice as long to fork.
TIMEOUTS_OF_NUMPY = """
import multiprocessing, sys
import numpy
from engine import Pool
from gates import Gate

gate = Gate(sys.argv[1])
with Pool(1) as pool:
    result = pool.apply_async(gate.hold)
    items = pool.imap(abs, [1])
    gate.arrived()
    pool.close()
    for timeout in numpy.float32(0.01), numpy.int64(-1), numpy.array(0.01):
        assert result.wait(timeout) is None
        for wait in result.get, items.next, pool.join:
            try:
                wait(timeout)
            except multiprocessing.TimeoutError:
                print(type(timeout).__name__)
    try:
        result.get(numpy.float64("inf"))
    except OverflowError:
        print("inf")
    gate.open()
"""


@pytest.mark.better
def test_numbers_of_numpy_are_timeouts(tmp_path: Path) -> None:
    lines = scripts.output(tmp_path, TIMEOUTS_OF_NUMPY, str(tmp_path))
    assert lines == ["float32"] * 3 + ["int64"] * 3 + ["ndarray"] * 3 + ["inf"]


@pytest.mark.better
def test_a_timeout_that_no_clock_can_count_is_refused(pending: Start) -> None:
    result = pending("apply_async")
    for timeout in decimal.Decimal("1e30"), fractions.Fraction(10**400), float("inf"):
        with pytest.raises(OverflowError):
            result.get(timeout)
    with pytest.raises(decimal.InvalidOperation):
        result.get(decimal.Decimal("NaN"))
    for timeout in 1j, b"1", object(), "1":
        with pytest.raises(TypeError, match="not supported between instances of"):
            result.get(timeout)


@pytest.mark.parametrize("timeout", [0, -1, float("nan"), 1e20, "a", datetime.timedelta(1)])
def test_the_timeout_of_a_ready_result_is_not_checked(pool: Any, timeout: Any) -> None:
    result = pool.apply_async(tasks.square, (3,))
    result.wait(DEADLINE)
    assert result.get(timeout) == 9


@each_kind
def test_several_threads_wait_for_one_result(
    pending: Start, gate: Gate, kind: str, in_threads: Any
) -> None:
    result = pending(kind)

    def read(number: int) -> Any:
        if number == 0:
            gate.open()
        return result.get(DEADLINE)

    assert in_threads(read, range(4)) == [VALUES[kind]] * 4


def test_a_result_arrives_although_nobody_waits(make_pool: Any, gate: Gate) -> None:
    """The callback reports the result while no thread of the program waits."""
    pool = make_pool(1)
    told = threading.Event()
    pool.apply_async(gate.hold, (5,), callback=lambda _: told.set())
    gate.arrived()
    gate.open()
    assert told.wait(DEADLINE)


@each_kind
def test_successful_raises_before_the_job_ends(pending: Start, gate: Gate, kind: str) -> None:
    result = pending(kind)
    with pytest.raises(ValueError) as caught:
        result.successful()
    assert str(caught.value) == f"{result!r} not ready"
    name = f"{type(result).__module__}.{type(result).__name__}"
    assert str(caught.value).startswith(f"<{name} object at 0x")
    gate.open()
    result.wait(DEADLINE)


# Values and failures


def test_a_value_is_the_same_object_each_time(pool: Any) -> None:
    result = pool.apply_async(tasks.identity, ([1],))
    assert result.get(DEADLINE) is result.get()
    result = pool.map_async(tasks.identity, [[1]])
    assert result.get(DEADLINE) is result.get()


@pytest.mark.parametrize("method", ["apply_async", "map_async", "starmap_async"])
def test_a_failure_is_the_same_object_each_time(pool: Any, method: str) -> None:
    argument = (1,) if method == "apply_async" else [(1,)]
    result = getattr(pool, method)(tasks.fail, argument)
    result.wait(DEADLINE)
    assert result.ready()
    assert result.successful() is False
    caught = []
    for _ in range(3):
        with pytest.raises(ValueError, match="^no ") as error:
            result.get()
        caught.append(error.value)
    assert caught[0] is caught[1] is caught[2]


# Callbacks


@each_kind
def test_the_callback_runs_before_the_result_is_ready(
    pending: Start, gate: Gate, kind: str
) -> None:
    seen: list[Any] = []
    result: Any = None

    def callback(value: Any) -> None:
        seen.append((value, result.ready(), threading.current_thread()))

    result = pending(kind, callback, seen.append)
    gate.open()
    result.wait(DEADLINE)
    [(value, ready, thread)] = seen
    assert value == VALUES[kind] == result.get()
    assert ready is False
    assert thread is not threading.current_thread()


@pytest.mark.parametrize("method", ["apply_async", "map_async", "starmap_async"])
def test_the_error_callback_gets_the_failure_itself(pool: Any, method: str) -> None:
    seen: list[Any] = []
    values: list[Any] = []
    argument = (1,) if method == "apply_async" else [(1,), (2,), (3,)]
    result = getattr(pool, method)(
        tasks.fail, argument, callback=values.append, error_callback=seen.append
    )
    with pytest.raises(ValueError) as caught:
        result.get(DEADLINE)
    assert values == []
    assert len(seen) == 1
    assert seen[0] is caught.value


def test_a_callback_without_its_counterpart(pool: Any) -> None:
    seen: list[Any] = []
    with pytest.raises(ValueError):
        pool.apply_async(tasks.fail, (1,), callback=seen.append).get(DEADLINE)
    assert pool.apply_async(tasks.square, (2,), error_callback=seen.append).get(DEADLINE) == 4
    assert seen == []


def test_callbacks_come_in_the_order_of_the_results(make_pool: Any) -> None:
    pool = make_pool(1)
    seen: list[int] = []
    results = [pool.apply_async(tasks.identity, (i,), callback=seen.append) for i in range(100)]
    for result in results:
        result.wait(DEADLINE)
    assert seen == list(range(100))


def test_a_callback_may_submit(pool: Any) -> None:
    results: list[Any] = []

    def again(value: int) -> None:
        if value < 5:
            results.append(pool.apply_async(tasks.add, (value, 1), callback=again))
        else:
            done.set()

    done = threading.Event()
    again(0)
    assert done.wait(DEADLINE)
    # The callback may end before the submitting thread has stored the result.
    eventually(lambda: len(results) == 5)
    assert sorted(result.get(DEADLINE) for result in results) == [1, 2, 3, 4, 5]


def test_a_callback_may_close_the_pool(make_pool: Any) -> None:
    pool = make_pool(1)
    result = pool.apply_async(tasks.square, (2,), callback=lambda _: pool.close())
    assert result.get(DEADLINE) == 4
    pool.join()
    assert pool._state == "CLOSE"


def test_a_false_callback_is_not_called(pool: Any) -> None:
    """The stdlib tests the truth of the callback, and an empty callable container is false."""

    class Empty:
        called = False

        def __len__(self) -> int:
            return 0

        def __call__(self, value: Any) -> None:
            self.called = True

    good, bad = Empty(), Empty()
    assert pool.apply_async(tasks.square, (2,), {}, good, bad).get(DEADLINE) == 4
    assert pool.map_async(tasks.square, [2], 1, good, bad).get(DEADLINE) == [4]
    with pytest.raises(ValueError):
        pool.apply_async(tasks.fail, (2,), {}, good, bad).get(DEADLINE)
    assert not good.called
    assert not bad.called


@pytest.mark.parametrize("callback", [None, 0, False, "", ()])
def test_a_false_value_is_not_a_callback(pool: Any, callback: Any) -> None:
    assert pool.apply_async(tasks.square, (2,), {}, callback, callback).get(DEADLINE) == 4


@pytest.mark.better
@each_kind
def test_an_error_in_a_callback_fails_the_job(pending: Start, gate: Gate, kind: str) -> None:
    """In the stdlib the error ends the result thread, and so every job."""

    def callback(_: Any) -> None:
        raise LookupError("in the callback")

    result = pending(kind, callback)
    gate.open()
    with pytest.raises(LookupError, match="^in the callback$"):
        result.get(DEADLINE)
    assert result.successful() is False


@pytest.mark.better
@pytest.mark.parametrize("error", [LookupError("in the callback"), tasks.Abandon("in it")])
def test_an_error_in_an_error_callback_fails_the_job(pool: Any, error: Any) -> None:
    def callback(_: Any) -> None:
        raise error

    for result in (
        pool.apply_async(tasks.fail, (1,), error_callback=callback),
        pool.map_async(tasks.fail, [1, 2, 3], 1, error_callback=callback),
    ):
        with pytest.raises(type(error)) as caught:
            result.get(DEADLINE)
        assert caught.value is error
    assert pool.apply(tasks.square, (2,)) == 4


@pytest.mark.better
def test_a_slow_callback_delays_no_other_result(make_pool: Any) -> None:
    """Nor does a callback that waits for another job. In the stdlib such a callback never ends."""
    pool = make_pool(2)
    inner: list[Any] = []

    def callback(value: Any) -> None:
        inner.append(pool.apply_async(tasks.square, (value,)).get(DEADLINE))

    result = pool.apply_async(tasks.square, (2,), callback=callback)
    assert result.get(DEADLINE) == 4
    assert inner == [16]


# Attributes that programs read


def test_attributes_of_an_apply_result(pending: Start, gate: Gate) -> None:
    def callback(value: Any) -> None: ...

    def error_callback(error: Any) -> None: ...

    result = pending("apply_async", callback, error_callback)
    pool, job = result._pool, result._job
    assert pool._cache[job] is result
    assert result._cache[job] is result
    assert result._callback is callback
    assert result._error_callback is error_callback
    assert result._event.is_set() is False
    for name in "_success", "_value":
        with pytest.raises(AttributeError):
            getattr(result, name)
    gate.open()
    assert result.get(DEADLINE) == 5
    assert result._event.is_set() is True
    assert (result._success, result._value) == (True, 5)
    # The result is ready a moment before the pool drops its reference.
    eventually(lambda: result._pool is None and job not in pool._cache)


def test_attributes_of_a_failed_result(pool: Any) -> None:
    result = pool.apply_async(tasks.fail, (1,))
    with pytest.raises(ValueError) as caught:
        result.get(DEADLINE)
    assert result._success is False
    assert result._value is caught.value
    eventually(lambda: result._pool is None)


def test_attributes_of_a_map_result(make_pool: Any, gate: Gate) -> None:
    pool = make_pool(1)
    result = pool.starmap_async(tasks.held_if, [(gate, 3, i) for i in range(7)], 3)
    gate.arrived()
    assert pool._cache[result._job] is result
    assert result._chunksize == 3
    assert result._success is True
    gate.open()
    assert result.get(DEADLINE) == list(range(7))
    assert result._number_left == 0
    assert result._value == list(range(7))
    eventually(lambda: result._pool is None and result._job not in pool._cache)


def is_left(result: Any, number: int) -> bool:
    return bool(result._number_left == number)


def test_number_left_counts_down_by_chunks(make_pool: Any, make_gate: Callable[[], Gate]) -> None:
    pool = make_pool(1)
    gates = [make_gate() for _ in range(4)]
    result = pool.map_async(tasks.hold, gates, 1)
    for number, gate in enumerate(gates):
        gate.arrived()
        # This task may have begun before the previous result was read.
        eventually(partial(is_left, result, 4 - number))
        gate.open()
    result.wait(DEADLINE)
    assert result._number_left == 0


@pytest.mark.parametrize(
    ("length", "chunksize", "left"), [(7, 1, 7), (7, 3, 3), (6, 3, 2), (7, 100, 1)]
)
def test_number_left_starts_with_the_number_of_chunks(
    make_pool: Any, gate: Gate, length: int, chunksize: int, left: int
) -> None:
    pool = make_pool(1)
    result = pool.map_async(tasks.hold, [gate] * length, chunksize)
    gate.arrived()
    assert result._number_left == left
    assert (result._chunksize, result._value) == (chunksize, [None] * length)
    gate.open()
    assert result.get(DEADLINE) == [None] * length


def test_a_map_result_without_chunks_has_none_left(pool: Any) -> None:
    for items, chunksize in ([], None), ([1, 2], 0):
        result = pool.map_async(tasks.square, items, chunksize)
        assert (result._number_left, result._chunksize) == (0, 0)
        assert result._job not in pool._cache


def test_job_numbers_increase(pool: Any) -> None:
    jobs = []
    for _ in range(5):
        result = pool.apply_async(tasks.nothing)
        result.wait(DEADLINE)
        jobs.append(result._job)
    assert jobs == sorted(set(jobs))


# Subclasses


def test_a_subclass_need_not_call_init() -> None:
    """For example a class that combines several results."""

    class Gathered(AsyncResult):  # type: ignore[misc]
        def __init__(self, parts: list[Any]) -> None:
            self.parts = parts

        def ready(self) -> bool:
            return all(part.ready() for part in self.parts)

        def get(self, timeout: float | None = None) -> list[Any]:
            return [part.get(timeout) for part in self.parts]

    with engine.Pool(1) as pool:
        gathered = Gathered([pool.apply_async(tasks.square, (i,)) for i in range(3)])
        assert gathered.get(DEADLINE) == [0, 1, 4]
        assert gathered.ready()
        assert isinstance(gathered, AsyncResult)
        pool.close()
        pool.join()


@pytest.mark.parametrize(
    "name",
    "_pool _event _job _cache _callback _error_callback _success _value _number_left".split(),
)
@pytest.mark.parametrize(
    "cls", [AsyncResult, MapResult, IMapIterator], ids=lambda cls: cls.__name__
)
def test_a_subclass_may_use_private_names(cls: Any, name: str) -> None:
    """parmap's subclass wraps a result and keeps its pool as `_pool`."""

    class Wrapped(cls):  # type: ignore[misc]
        def __init__(self) -> None:
            setattr(self, name, "mine")

    wrapped = Wrapped()
    assert getattr(wrapped, name) == "mine"
    setattr(wrapped, name, None)
    assert getattr(wrapped, name) is None


@each_kind
def test_a_result_has_every_name_in_dir(pending: Start, gate: Gate, kind: str) -> None:
    """Managers read all attributes, also of a pending result."""
    result = pending(kind)
    assert [name for name in dir(result) if not hasattr(result, name)] == []
    gate.open()
    result.wait(DEADLINE)


def test_a_result_accepts_new_attributes(pool: Any) -> None:
    result = pool.apply_async(tasks.nothing)
    result.label = "mine"
    result.wait(DEADLINE)
    assert result.label == "mine"


@each_kind
def test_a_pending_result_cannot_be_pickled(pending: Start, gate: Gate, kind: str) -> None:
    result = pending(kind)
    with pytest.raises(NotImplementedError) as caught:
        pickle.dumps(result)
    assert str(caught.value) == ("pool objects cannot be passed between processes or pickled")
    gate.open()
    result.wait(DEADLINE)


# While a value is rebuilt


class Rebuilt:
    """Unpickles as the value of `then()`."""

    then: Callable[[], Any]

    def __reduce__(self) -> tuple[Any, ...]:
        return rebuild, ()


def rebuild() -> Any:
    return Rebuilt.then()


def make_rebuilt(_: object = None) -> Rebuilt:
    return Rebuilt()


REBUILDING = [
    lambda pool, **options: pool.apply_async(make_rebuilt, **options),
    lambda pool, **options: pool.map_async(make_rebuilt, [1], **options),
    lambda pool, **options: pool.starmap_async(make_rebuilt, [(1,), (2,)], **options),
]


@pytest.mark.better
@pytest.mark.parametrize("options", [{}, {"callback": len}], ids=["plain", "callback"])
@pytest.mark.parametrize("submit", REBUILDING)
def test_time_limits_hold_while_another_thread_rebuilds_the_value(
    make_pool: Any, monkeypatch: pytest.MonkeyPatch, submit: Any, options: dict[str, Any]
) -> None:
    begun, go_on = threading.Event(), threading.Event()

    def hold() -> str:
        begun.set()
        assert go_on.wait(DEADLINE)
        return "value"

    monkeypatch.setattr(Rebuilt, "then", hold, raising=False)
    result = submit(make_pool(1), **options)
    reader = threading.Thread(target=result.get)
    reader.start()
    assert begun.wait(DEADLINE)
    for limit in (0, 0.01, 0.2):
        with pytest.raises(multiprocessing.TimeoutError):
            result.get(limit)
        result.wait(limit)
    assert not result.ready()
    with pytest.raises(ValueError, match="not ready"):
        result.successful()
    go_on.set()
    reader.join(DEADLINE)
    assert result.get(0) in ("value", ["value"], ["value"] * 2)
    assert result.ready() and result.successful()


@pytest.mark.better
@pytest.mark.parametrize("options", [{}, {"callback": len}], ids=["plain", "callback"])
@pytest.mark.parametrize("submit", REBUILDING)
def test_what_rebuilds_a_value_waits_for_it(
    make_pool: Any, monkeypatch: pytest.MonkeyPatch, submit: Any, options: dict[str, Any]
) -> None:
    made = threading.Event()

    def ask() -> str:
        assert made.wait(DEADLINE)
        for wait in (result.get, result.wait):
            with pytest.raises(RuntimeError, match="cannot wait"):
                wait()
        with pytest.raises(multiprocessing.TimeoutError):
            result.get(0.01)
        result.wait(0.01)
        assert not result.ready()
        with pytest.raises(ValueError, match="not ready"):
            result.successful()
        return "value"

    monkeypatch.setattr(Rebuilt, "then", ask, raising=False)
    result = submit(make_pool(1), **options)
    made.set()
    assert result.get(DEADLINE) in ("value", ["value"], ["value"] * 2)
