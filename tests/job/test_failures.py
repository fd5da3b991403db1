"""Failures of tasks, workers, initializers and iterables: every job still ends.

In each of these cases the stdlib's pool hangs, loses its workers, or breaks.
"""

from __future__ import annotations

import importlib
import multiprocessing
import os
import pickle
import re
import signal
import time
import traceback
from collections.abc import Callable
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, NoReturn

import engine
import pytest
import scripts
import tasks
from checks import whole_again
from engine import DEADLINE, Pool, RemoteTraceback
from gates import Diary, Gate, eventually

pytestmark = pytest.mark.better

errors = engine.errors
failures = errors and importlib.import_module("cpool._base.failures")


def failure(wait: Callable[..., Any]) -> BaseException:
    """The exception that wait() raises. A timeout does not count: the job must have ended."""
    with pytest.raises(BaseException) as caught:
        wait(DEADLINE)
    assert not isinstance(caught.value, multiprocessing.TimeoutError), "it never ended"
    return caught.value


def kill_one(pool: Any, number: int) -> None:
    """Kill a worker. The list changes meanwhile; a worker that is already dead counts as killed."""
    workers = list(pool._pool)
    if workers:
        workers[number % len(workers)].kill()


def failed_call(pool: Any) -> BaseException:
    """The exception of a call, raised by the call itself or by its result."""
    return failure(lambda timeout: pool.apply_async(tasks.nothing).get(timeout))


# The exceptions


def test_the_classes_of_exceptions() -> None:
    assert issubclass(errors.PoolError, RuntimeError)
    for name in "WorkerLostError", "InitializerError", "PoolTerminated":
        assert issubclass(getattr(errors, name), errors.PoolError)
    assert issubclass(errors.RemoteError, Exception)


def test_a_worker_lost_error_can_be_pickled() -> None:
    with Pool(1) as pool:
        error: Any = failure(pool.apply_async(tasks.die).get)
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is errors.WorkerLostError
    assert (str(copy), copy.pid, copy.exitcode) == (str(error), error.pid, error.exitcode)


# Workers that die


@pytest.mark.parametrize(
    ("how", "exitcode", "named"),
    [
        ("SIGKILL", -signal.SIGKILL, "SIGKILL"),
        ("SIGSEGV", -signal.SIGSEGV, "SIGSEGV"),
        ("SIGABRT", -signal.SIGABRT, "SIGABRT"),
        ("exit 7", 7, "7"),
        ("exit 0", 0, "0"),
    ],
)
@pytest.mark.parametrize("size", [1, 2])
def test_the_death_of_a_worker_fails_its_task(
    make_pool: Any, size: int, how: str, exitcode: int, named: str
) -> None:
    """bpo-22393, gh-66587."""
    pool = make_pool(size)
    pids = {worker.pid for worker in pool._pool}
    error: Any = failure(pool.apply_async(tasks.die, (how,)).get)
    assert type(error) is errors.WorkerLostError
    assert error.pid in pids
    assert error.exitcode == exitcode
    assert re.search(rf"\b{named}\b", str(error))
    assert re.search(r"\bdie\b", str(error))  # the function
    whole_again(pool, size)
    assert error.pid not in {worker.pid for worker in pool._pool}


@pytest.mark.parametrize("method", ["apply", "map", "starmap"])
def test_blocking_calls_raise_when_the_worker_dies(make_pool: Any, method: str) -> None:
    pool = make_pool(1)
    calls: dict[str, Callable[[], Any]] = {
        "apply": lambda: pool.apply(tasks.die),
        "map": lambda: pool.map(tasks.die, ["SIGKILL"]),
        "starmap": lambda: pool.starmap(tasks.die_on, [(1, i) for i in range(3)], 1),
    }
    with pytest.raises(errors.WorkerLostError):
        calls[method]()
    whole_again(pool, 1)


def test_the_error_callback_gets_the_worker_lost_error(make_pool: Any) -> None:
    pool = make_pool(1)
    seen: list[Any] = []
    result = pool.apply_async(tasks.die, callback=seen.append, error_callback=seen.append)
    error = failure(result.get)
    assert seen == [error]
    assert result.successful() is False


@pytest.mark.parametrize("size", [1, 3])
def test_only_the_running_task_is_lost(make_pool: Any, size: int) -> None:
    """Other workers run the tasks queued behind the lost task, each once."""
    pool = make_pool(size)
    results = [pool.apply_async(tasks.die_on, (20, i)) for i in range(60)]
    lost = [i for i, result in enumerate(results) if not finished(result)]
    assert lost == [20]
    assert [r.get(0) for i, r in enumerate(results) if i != 20] == [i for i in range(60) if i != 20]
    whole_again(pool, size)


def finished(result: Any) -> bool:
    result.wait(DEADLINE)
    assert result.ready()
    return bool(result.successful())


def test_tasks_behind_a_lost_task_run_once(make_pool: Any, diary: Diary, gate: Gate) -> None:
    pool = make_pool(1)
    held = pool.apply_async(gate.hold)
    [pid] = gate.arrived()
    rest = pool.starmap_async(tasks.noted, [(diary, i) for i in range(30)], 1)
    os.kill(pid, signal.SIGKILL)
    assert type(failure(held.get)) is errors.WorkerLostError
    assert rest.get(DEADLINE) == list(range(30))
    assert sorted(map(int, diary.lines())) == list(range(30))


def test_a_lost_chunk_fails_map_and_the_other_chunks_run(make_pool: Any, diary: Diary) -> None:
    pool = make_pool(2)
    items = [(diary, 3, i) for i in range(12)]
    error = failure(pool.starmap_async(tasks.noted_then_die_on, items, 2).get)
    assert type(error) is errors.WorkerLostError
    # Item 2 was done, and is lost with item 3 of the same chunk. Nothing else is lost.
    assert sorted(map(int, diary.lines())) == list(range(12))
    whole_again(pool, 2)


@pytest.mark.parametrize("method", ["imap", "imap_unordered"])
def test_an_iterator_continues_after_a_lost_item(make_pool: Any, method: str) -> None:
    pool = make_pool(2)
    results = getattr(pool, method)(tasks.die_on_pair, [(3, i) for i in range(10)])
    found, lost = [], []
    while True:
        try:
            found.append(results.next(DEADLINE))
        except StopIteration:
            break
        except errors.WorkerLostError as error:
            lost.append(error)
    assert sorted(found) == [0, 1, 2, 4, 5, 6, 7, 8, 9]
    assert len(lost) == 1


def test_an_idle_worker_may_die(make_pool: Any) -> None:
    """In the stdlib the dead worker may hold the lock of the queue for ever."""
    pool = make_pool(2)
    pool.map(tasks.square, range(10), 1)
    for worker in list(pool._pool):
        os.kill(worker.pid, signal.SIGKILL)
    assert pool.map(tasks.square, range(100), 1) == [x * x for x in range(100)]
    whole_again(pool, 2)


def test_a_worker_may_die_before_its_first_task(make_pool: Any) -> None:
    pool = make_pool(2)
    for worker in list(pool._pool):
        os.kill(worker.pid, signal.SIGKILL)
    whole_again(pool, 2)


def test_workers_may_die_again_and_again(make_pool: Any) -> None:
    pool = make_pool(2)
    for _ in range(10):
        assert type(failure(pool.apply_async(tasks.die).get)) is errors.WorkerLostError
    whole_again(pool, 2)


@pytest.mark.parametrize("thing", [tasks.DiesOnArrival(), None])
def test_a_worker_may_die_while_it_unpickles_or_pickles(make_pool: Any, thing: Any) -> None:
    pool = make_pool(1)
    if thing is None:
        result = pool.apply_async(tasks.dies_on_leaving)
    else:
        result = pool.apply_async(tasks.identity, (thing,))
    assert type(failure(result.get)) is errors.WorkerLostError
    whole_again(pool, 1)


def test_a_finished_result_outlives_its_worker(make_pool: Any) -> None:
    """The result is in the pipe when the next task kills the worker."""
    pool = make_pool(1)
    results = [pool.apply_async(tasks.die_on, (1, i)) for i in range(3)]
    assert [finished(result) for result in results] == [True, False, True]


def test_close_and_join_return_although_workers_die(make_pool: Any) -> None:
    pool = make_pool(2)
    results = [pool.apply_async(tasks.die_on, (i % 3, i)) for i in range(9)]
    pool.close()
    pool.join()
    outcomes = [result.successful() for result in results]
    assert outcomes == [False] * 3 + [True] * 6


def test_a_worker_killed_in_the_middle_of_a_large_result(make_pool: Any) -> None:
    """A result arrives complete or not at all."""
    pool = make_pool(2)
    for _ in range(5):
        result = pool.map_async(tasks.zeros, [3_000_000] * 4, 1)
        kill_one(pool, 0)
        result.wait(DEADLINE)
        assert result.ready()
        if result.successful():
            assert result.get() == [bytes(3_000_000)] * 4
        else:
            assert type(result._value) is errors.WorkerLostError
    whole_again(pool, 2)


def test_random_deaths_under_load(make_pool: Any) -> None:
    """At most one task is lost per killed worker, no value is wrong, and every job ends."""
    pool = make_pool(3)
    kills = 0
    results = [pool.apply_async(tasks.identity, (i,)) for i in range(2000)]
    for result in results[::100]:
        result.wait(DEADLINE)
        kill_one(pool, kills)
        kills += 1
    lost = 0
    for i, result in enumerate(results):
        if finished(result):
            assert result.get(0) == i
        else:
            assert type(failure(result.get)) is errors.WorkerLostError
            lost += 1
    assert lost <= kills
    whole_again(pool, 3)


def test_a_worker_with_maxtasksperchild_may_die(make_pool: Any) -> None:
    pool = make_pool(1, maxtasksperchild=2)
    results = [pool.apply_async(tasks.die_on, (i % 3 or -1, i)) for i in range(9)]
    outcomes = [finished(result) for result in results]
    assert outcomes == [True, False, False] + [True] * 6
    whole_again(pool, 1)


def test_a_program_that_ignores_sigchld_gets_no_exit_code(tmp_path: Path) -> None:
    """With SIGCHLD ignored the exit code is unknown. Everything else works."""
    lines = scripts.output(
        tmp_path,
        "import signal\n"
        "from engine import DEADLINE, Pool, errors\n"
        "import tasks\n"
        "signal.signal(signal.SIGCHLD, signal.SIG_IGN)\n"
        "with Pool(2) as pool:\n"
        "    results = [pool.apply_async(tasks.die_on, (2, n)) for n in range(5)]\n"
        "    for result in results:\n"
        "        result.wait(DEADLINE)\n"
        "    print([result.successful() for result in results])\n"
        "    print(type(results[2]._value).__name__, results[2]._value.exitcode)\n"
        "    print(pool.map(abs, [-1]))\n"
        "pool.join()\n",
    )
    assert lines == ["[True, True, False, True, True]", "WorkerLostError 255", "[1]"]


# Tasks that end their worker


@pytest.mark.parametrize("status", [3, None, "bye", 0])
def test_sys_exit_fails_the_task(
    make_pool: Any, status: Any, capfd: pytest.CaptureFixture[str]
) -> None:
    pool = make_pool(1)
    before = pool.apply(os.getpid)
    error = failure(pool.apply_async(tasks.exit_with, (status,)).get)
    assert type(error) is SystemExit
    assert error.code == status
    assert pool.apply(os.getpid) != before
    whole_again(pool, 1)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    "error", [KeyboardInterrupt("now"), GeneratorExit(), tasks.Abandon("enough", 1)]
)
def test_any_base_exception_fails_the_task(make_pool: Any, error: BaseException) -> None:
    pool = make_pool(2)
    seen: list[Any] = []
    results = [
        pool.apply_async(tasks.raise_, (error,), error_callback=seen.append),
        pool.map_async(tasks.raise_, [error], error_callback=seen.append),
    ]
    for result in results:
        found = failure(result.get)
        assert type(found) is type(error)
        assert found.args == error.args
        cause: Any = found.__cause__
        assert type(cause) is RemoteTraceback
        assert "raise error" in cause.tb
    assert [type(found) for found in seen] == [type(error)] * 2
    items = pool.imap(tasks.raise_, [error, ValueError("next")])
    assert type(failure(items.next)) is type(error)
    assert type(failure(items.next)) is ValueError
    whole_again(pool, 2)


def test_tasks_behind_an_exit_run(make_pool: Any) -> None:
    pool = make_pool(1)
    results = [pool.apply_async(tasks.exit_on, (2, i)) for i in range(6)]
    assert [finished(result) for result in results] == [True, True, False, True, True, True]
    assert [result.get(0) for result in results[3:]] == [3, 4, 5]


# What arrives with an exception


def raise_from() -> NoReturn:
    try:
        raise KeyError("the first")
    except KeyError as error:
        raise ValueError("the second") from error


def raise_while_handling() -> NoReturn:
    try:
        raise KeyError("the first")
    except KeyError:
        raise ValueError("the second")  # noqa: B904


def raise_with_note() -> NoReturn:
    error = ValueError("noted")
    error.add_note("a note of the task")
    raise error


def raise_group() -> NoReturn:
    raise ExceptionGroup("several", [KeyError(1), ExceptionGroup("inner", [LookupError(2)])])


def raise_in_a_circle() -> NoReturn:
    error: Any = ValueError("round")
    error.itself = [error]
    raise error


@pytest.mark.parametrize(
    ("func", "told"),
    [
        (raise_from, "The above exception was the direct cause of the following exception"),
        (raise_while_handling, "During handling of the above exception, another"),
    ],
)
def test_the_remote_traceback_shows_the_cause(make_pool: Any, func: Any, told: str) -> None:
    error = failure(make_pool(1).apply_async(func).get)
    assert (type(error), error.args) == (ValueError, ("the second",))
    text = str(error.__cause__)
    assert text.index("KeyError: 'the first'") < text.index(told)
    assert text.index(told) < text.index("ValueError: the second")


def test_notes_of_an_exception_arrive(make_pool: Any) -> None:
    error = failure(make_pool(1).apply_async(raise_with_note).get)
    assert error.__notes__ == ["a note of the task"]
    assert "a note of the task" in str(error.__cause__)


def test_a_group_of_exceptions_arrives(make_pool: Any) -> None:
    error: Any = failure(make_pool(1).apply_async(raise_group).get)
    assert type(error) is ExceptionGroup
    first, inner = error.exceptions
    assert (type(first), first.args) == (KeyError, (1,))
    assert (type(inner.exceptions[0]), inner.exceptions[0].args) == (LookupError, (2,))
    assert "ExceptionGroup: inner (1 sub-exception)" in str(error.__cause__)


def test_an_exception_that_refers_to_itself_arrives(make_pool: Any) -> None:
    error: Any = failure(make_pool(1).apply_async(raise_in_a_circle).get)
    assert type(error) is ValueError
    assert error.itself[0] is error


def test_details_of_an_exception_arrive(make_pool: Any) -> None:
    pool = make_pool(1)
    error: Any = failure(pool.apply_async(compile, ("a = = 1", "its.py", "exec")).get)
    assert (type(error), error.filename, error.lineno) == (SyntaxError, "its.py", 1)
    error = failure(pool.apply_async(open, ("/nonexistent/file",)).get)
    assert (type(error), error.filename) == (FileNotFoundError, "/nonexistent/file")


class Detailed(Exception):
    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.details = {"text": [text], "itself": self}


def deep(levels: int) -> list[Any]:
    found: list[Any] = []
    for _ in range(levels):
        found = [found]
    return found


def raised(error: BaseException, cause: BaseException | None = None) -> BaseException:
    try:
        raise error from cause
    except BaseException as found:
        return found


@pytest.mark.parametrize(
    ("error", "encoded"),
    [
        (raised(ValueError("text", 1)), True),
        (raised(KeyError(("a", 2.5)), cause=TypeError("first")), True),
        (raised(OSError(2, "no such file", "name")), True),
        (raised(UnicodeDecodeError("utf-8", b"\xff", 0, 1, "why")), True),
        (raised(StopIteration(3)), True),
        (raised(Detailed("text")), True),
        (raised(ExceptionGroup("two", [ValueError(1), Detailed("inner")])), True),
        (raised(ValueError(deep(250))), False),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_report_holds_what_pickle_would_send(error: Any, encoded: bool) -> None:
    error.add_note("a note")
    ours, theirs = failures.report_error(error, None), failures.pack_error(error, None)
    assert (len(ours) < len(theirs)) == encoded

    found, expected = (failures.unpack_error(memoryview(data)) for data in (ours, theirs))
    for one in found, expected:
        assert type(one) is type(error)
        assert repr(one) == repr(error)
        assert vars(one).keys() == vars(error).keys()
        assert one.__notes__ == ["a note"]
        assert (one.__traceback__, one.__context__) == (None, None)
        assert type(one.__cause__) is RemoteTraceback
    assert str(found.__cause__) == str(expected.__cause__)
    assert found.__suppress_context__ == expected.__suppress_context__
    if isinstance(error, Detailed):
        assert found.details["itself"] is found


# Messages call no code of the program's


def hang(*_: Any) -> NoReturn:
    while True:
        time.sleep(3600)


def interrupt(*_: Any) -> NoReturn:
    raise KeyboardInterrupt


def forbid(*_: Any) -> NoReturn:
    raise LookupError


class Dies:
    """A callable that ends its worker, and whose own code is `act` in the parent."""

    def __init__(self, act: Any) -> None:
        self.act = act
        self.home = os.getpid()

    def __call__(self, *_: Any) -> NoReturn:
        os._exit(7)

    def acts(self) -> Any:
        return self.act() if self.home == os.getpid() else None


class ActsInRepr(Dies):
    def __repr__(self) -> str:
        return str(self.acts())


class ActsInGetattr(Dies):
    def __getattr__(self, name: str) -> Any:
        if name in ("__qualname__", "__name__"):
            return self.acts()
        raise AttributeError(name)


class ActsInGetattribute(Dies):
    __repr__ = Dies.acts

    def __getattribute__(self, name: str) -> Any:
        get = super().__getattribute__
        return get("acts")() if name in ("__qualname__", "__name__", "__module__") else get(name)


CALLABLES: dict[str, Callable[[Any], Any]] = {
    "repr": ActsInRepr,
    "getattr": ActsInGetattr,
    "getattribute": ActsInGetattribute,
    "partial": lambda act: partial(ActsInRepr(act), ActsInRepr(act)),
    "method": lambda act: ActsInRepr(act).__call__,
}


@pytest.mark.parametrize("act", [hang, interrupt, forbid])
@pytest.mark.parametrize("kind", CALLABLES)
def test_code_of_a_callable_does_not_hide_the_loss_of_its_worker(
    make_pool: Any, kind: str, act: Any
) -> None:
    pool = make_pool(1)
    func = CALLABLES[kind](act)
    results = [
        pool.apply_async(func, (1,)).get,
        pool.map_async(func, [1, 2], 1).get,
        pool.starmap_async(func, [(1,)]).get,
        pool.imap(func, [1]).next,
        pool.imap_unordered(func, [1]).next,
    ]
    for read in results:
        error: Any = failure(read)
        assert (type(error), error.exitcode) == (errors.WorkerLostError, 7)
    for call in (lambda: pool.map(func, [1]), lambda: pool.apply(func, (1,))):
        with pytest.raises(errors.WorkerLostError):
            call()
    whole_again(pool, 1)


@pytest.mark.parametrize(
    ("func", "name"),
    [
        (tasks.die, "tasks.die"),
        (partial(partial(tasks.die), "SIGKILL"), "functools.partial(tasks.die)"),
        (Dies(None), "<test_failures.Dies object at 0x"),
        (Dies(None).__call__, "test_failures.Dies.__call__"),
        (os.abort, "posix.abort"),
        (os._exit, "posix._exit"),
        (lru_cache(tasks.die), "tasks.die"),
        (len, "len"),
        (str.lower, "str.lower"),
        ("".join, "str.join"),
        (dict.fromkeys, "dict.fromkeys"),
        (dict, "dict"),
        (tasks.Point, "tasks.Point"),
        (tasks.Point.at, "tasks.Point.at"),
    ],
)
def test_messages_name_the_callable(func: Any, name: str) -> None:
    text = str(failures.lost(1, 1, ("apply", func, -1, 0, 1, -1)))
    assert f"while it ran Pool.apply({name}" in text


# Exceptions, arguments and results that do not survive pickling


def test_an_exception_that_does_not_unpickle_becomes_a_remote_error(make_pool: Any) -> None:
    pool = make_pool(1)
    error: Any = failure(pool.apply_async(tasks.make_and_raise, (tasks.NeedsTwo, 4, "why")).get)
    assert type(error) is errors.RemoteError
    assert error.type_name.rpartition(".")[2] == "NeedsTwo"
    assert error.args_repr == repr(("why (4)",))
    assert "why (4)" in str(error)
    assert type(error.__cause__) is RemoteTraceback
    assert "raise cls(*args)" in error.__cause__.tb
    assert "NeedsTwo: why (4)" in error.__cause__.tb
    whole_again(pool, 1)


@pytest.mark.parametrize(
    ("method", "read"), [("map_async", "get"), ("imap", "next"), ("imap_unordered", "next")]
)
def test_every_method_raises_the_remote_error(make_pool: Any, method: str, read: str) -> None:
    pool = make_pool(1)
    result = getattr(pool, method)(tasks.needs_two, [1])
    assert type(failure(getattr(result, read))) is errors.RemoteError
    whole_again(pool, 1)


def test_a_result_that_does_not_unpickle(make_pool: Any) -> None:
    pool = make_pool(1)
    result = pool.apply_async(tasks.breaks_on_arrival)
    error = failure(result.get)
    assert "lost on the way" in "".join(traceback.format_exception(error))
    assert result.successful() is False
    whole_again(pool, 1)


def test_an_argument_that_does_not_unpickle(make_pool: Any) -> None:
    pool = make_pool(1)
    [before] = [worker.pid for worker in pool._pool]
    for result in (
        pool.apply_async(tasks.identity, (tasks.BreaksOnArrival(),)),
        pool.map_async(tasks.identity, [1, tasks.BreaksOnArrival(), 3], 1),
    ):
        error = failure(result.get)
        assert type(error) is LookupError
        assert error.args == ("lost on the way",)
    assert [worker.pid for worker in pool._pool] == [before]
    whole_again(pool, 1)


def test_an_item_that_does_not_unpickle(make_pool: Any) -> None:
    pool = make_pool(1)
    items = pool.imap(tasks.identity, [1, tasks.BreaksOnArrival(), 3])
    assert items.next(DEADLINE) == 1
    assert type(failure(items.next)) is LookupError
    assert items.next(DEADLINE) == 3


def test_a_function_defined_after_the_fork(make_pool: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The forked workers do not know the function."""
    pool = make_pool(1)

    def late(x: Any) -> Any:
        return x

    late.__module__, late.__qualname__ = "tasks", "late"
    monkeypatch.setattr(tasks, "late", late, raising=False)
    for result in pool.apply_async(late, (1,)), pool.map_async(late, [1, 2], 1):
        error = failure(result.get)
        assert type(error) is AttributeError
        assert "late" in str(error)
    whole_again(pool, 1)


# Iterables with a wrong length


@pytest.mark.parametrize("method", ["map_async", "starmap_async"])
@pytest.mark.parametrize("length", [2, 4, 20])
@pytest.mark.parametrize("chunksize", [None, 1, 2])
def test_a_wrong_length_fails_the_job(
    pool: Any, method: str, length: int, chunksize: int | None
) -> None:
    items = tasks.Sized([(1,), (2,), (3,)], length=length)
    failure(getattr(pool, method)(tasks.identity, items, chunksize).get)
    assert pool.map(tasks.square, [1, 2]) == [1, 4]


@pytest.mark.parametrize("error", [LookupError("half-way"), tasks.Abandon("half-way")])
@pytest.mark.parametrize("length", [2, 3, 100])
def test_a_sized_iterable_that_raises_fails_the_job(pool: Any, error: Any, length: int) -> None:
    items = tasks.Sized([1, 2], length=length, error=error)
    found = failure(pool.map_async(tasks.square, items, 1).get)
    assert type(found) is type(error)
    assert found.args == error.args
    assert pool.map(tasks.square, [1, 2]) == [1, 4]


@pytest.mark.parametrize("length", [-1, "a", 2.5])
def test_an_invalid_length_is_refused(pool: Any, length: Any) -> None:
    items = tasks.Sized([1, 2], length=length)
    with pytest.raises((TypeError, ValueError)):
        len(items)
    with pytest.raises((TypeError, ValueError)):
        pool.map_async(tasks.square, items).get(DEADLINE)
    assert pool.map(tasks.square, [1, 2]) == [1, 4]


# Initializers


def test_a_failing_initializer_fails_every_job(
    make_pool: Any, capfd: pytest.CaptureFixture[str]
) -> None:
    """In the stdlib new workers start and fail for ever, and no task runs."""
    pool = make_pool(2, tasks.fail, ("database",))
    for method, args in (
        ("apply_async", ()),
        ("map_async", ([1, 2],)),
        ("starmap_async", ([()],)),
    ):
        with pytest.raises(errors.InitializerError) as caught:
            getattr(pool, method)(tasks.nothing, *args).get(DEADLINE)
        told = "".join(traceback.format_exception(caught.value))
        assert "ValueError: no database" in told
        assert caught.value.__cause__ is not None
    for method in "imap", "imap_unordered":
        with pytest.raises(errors.InitializerError):
            getattr(pool, method)(tasks.square, [1]).next(DEADLINE)
    pool.close()
    pool.join()
    assert not any(worker.is_alive() for worker in pool._pool)
    assert capfd.readouterr().err.count("ValueError: no database") == 1


def test_jobs_that_wait_for_a_failing_initializer_fail(make_pool: Any, gate: Gate) -> None:
    pool = make_pool(1, tasks.held_then_fail, (gate, "database"))
    seen: list[Any] = []
    results = [pool.apply_async(tasks.nothing, error_callback=seen.append) for _ in range(3)]
    gate.arrived()
    gate.open()
    for result in results:
        assert type(failure(result.get)) is errors.InitializerError
    assert len(seen) == 3


@pytest.mark.parametrize("error", [SystemExit(3), KeyboardInterrupt(), tasks.Abandon("enough")])
def test_an_initializer_may_raise_anything(make_pool: Any, error: BaseException) -> None:
    pool = make_pool(1, tasks.raise_, (error,))
    assert type(failed_call(pool)) is errors.InitializerError


@pytest.mark.parametrize("initargs", [5, None, (1, 2, 3)])
def test_wrong_initargs_fail_the_initializer(make_pool: Any, initargs: Any) -> None:
    pool = make_pool(1, tasks.fail, initargs)
    error = failed_call(pool)
    assert type(error) is errors.InitializerError
    assert "TypeError" in "".join(traceback.format_exception(error))


def test_a_failing_initializer_starts_no_new_workers(make_pool: Any, diary: Diary) -> None:
    def initializer() -> None:
        diary.write("tried")
        raise ValueError("no database")

    pool = make_pool(2, initializer)
    for _ in range(20):
        assert type(failed_call(pool)) is errors.InitializerError
    pool.terminate()
    pool.join()
    assert 1 <= len(diary.lines()) <= 2


def test_a_with_block_ends_although_the_initializer_fails() -> None:
    started = time.monotonic()
    with pytest.raises(errors.InitializerError), Pool(2, tasks.fail) as pool:
        pool.map(tasks.square, range(100))
    assert time.monotonic() - started < DEADLINE
    pool.join()


def fail_in_the_second(path: str) -> None:
    if not tasks.is_first(path):
        raise ValueError("no database")


def test_an_initializer_that_raises_in_one_worker_breaks_the_pool(
    make_pool: Any, tmp_path: Path
) -> None:
    """Otherwise the pool would silently go on with too few workers."""
    pool = make_pool(2, fail_in_the_second, (str(tmp_path / "once"),))
    eventually(lambda: type(failed_or_done(pool)) is errors.InitializerError)
    assert type(failed_call(pool)) is errors.InitializerError


def failed_or_done(pool: Any) -> Any:
    result = pool.apply_async(tasks.nothing)
    result.wait(DEADLINE)
    return result._value


# What the user of a program sees


def test_a_crashing_worker_does_not_end_the_program(tmp_path: Path) -> None:
    done = scripts.run_source(
        tmp_path,
        "import sys\n"
        "from engine import Pool\n"
        "import tasks\n"
        "with Pool(2) as pool:\n"
        "    try:\n"
        "        pool.map(tasks.die, ['SIGSEGV'])\n"
        "    except Exception as error:\n"
        "        print(type(error).__name__)\n"
        "    print(pool.map(abs, [-1]))\n",
    )
    assert (done.returncode, done.stdout) == (0, "WorkerLostError\n[1]\n")


def test_an_uncaught_worker_lost_error_names_the_signal(tmp_path: Path) -> None:
    done = scripts.run_source(
        tmp_path,
        "from engine import Pool\nimport tasks\nwith Pool(1) as pool:\n    pool.apply(tasks.die)\n",
    )
    assert done.returncode == 1
    assert re.fullmatch(
        r"cpool\.(\w+\.)*WorkerLostError: .*SIGKILL.*", done.stderr.splitlines()[-1]
    )
