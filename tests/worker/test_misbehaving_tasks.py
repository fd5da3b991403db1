"""Tasks that damage their worker: the task is lost, or nothing is."""

from __future__ import annotations

import contextlib
import linecache
import multiprocessing
import os
import pickle
import re
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from multiprocessing import util
from pathlib import Path
from typing import Any, NoReturn

import engine
import pytest
import scripts
import tasks
from checks import failure, whole_again
from engine import DEADLINE, MaybeEncodingError, RemoteTraceback
from gates import Diary, Gate, all_gone, eventually, gone, kill_all

pytestmark = pytest.mark.better

errors = engine.errors


# Exceptions that are hard to report


class NoText(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no text")

    __repr__ = __str__


class ExitsOnArrival(Exception):
    def __reduce__(self) -> tuple[Any, ...]:
        return sys.exit, (3,)


class NotAnException(Exception):
    """Arrives as an object that cannot be raised."""

    def __reduce__(self) -> tuple[Any, ...]:
        return int, (5,)


class Recursive(Exception):
    def __init__(self) -> None:
        super().__init__()
        self.args = (self,)


class Text(str):
    """A string that no other process can have, and that raises where it is used."""

    def __reduce__(self) -> NoReturn:
        raise TypeError

    def __str__(self) -> NoReturn:
        raise TypeError

    def __format__(self, _: str) -> NoReturn:
        raise TypeError

    def __eq__(self, _: object) -> NoReturn:
        raise TypeError

    __hash__ = str.__hash__


class TextOfItsOwn(Exception):
    def __str__(self) -> str:
        return Text("its text")

    __repr__ = __str__


TextOfItsOwn.__qualname__ = Text("TextOfItsOwn")


class ExitsInText(Exception):
    def __str__(self) -> str:
        sys.exit(3)

    __repr__ = __str__


class InterruptsInText(Exception):
    def __str__(self) -> str:
        raise KeyboardInterrupt

    __repr__ = __str__


class ExitsInArguments(Exception):
    def __init__(self, *_: Any) -> None:
        super().__init__(ExitsInText())


class EndsInText(BaseException):
    def __str__(self) -> str:
        raise GeneratorExit


class ExitsInAttributes(Exception):
    """Its attributes are code that raises."""

    def __getattribute__(self, name: str) -> Any:
        if name in ("__reduce__", "__reduce_ex__", "__dict__"):
            return super().__getattribute__(name)
        sys.exit(4)


class ExitsInClass(Exception):
    @property  # type: ignore[misc]
    def __class__(self) -> Any:
        sys.exit(4)

    def __reduce__(self) -> tuple[Any, ...]:
        return ExitsInClass, ()


class ExitsOnLeaving(Exception):
    def __reduce__(self) -> NoReturn:
        sys.exit(5)


class OddCode(SystemExit):
    code = property(lambda self: sys.exit(6))


@pytest.mark.parametrize("method", ["fork", "spawn"])
@pytest.mark.parametrize(
    ("cls", "arrives_as"),
    [
        (TextOfItsOwn, TextOfItsOwn),
        (ExitsInText, ExitsInText),
        (InterruptsInText, InterruptsInText),
        (ExitsInArguments, ExitsInArguments),
        (ExitsInAttributes, ExitsInAttributes),
        (ExitsInClass, ExitsInClass),
        (ExitsOnLeaving, MaybeEncodingError),
    ],
)
def test_code_of_an_exception_does_not_cost_the_worker(
    make_pool: Any, capfd: pytest.CaptureFixture[str], cls: Any, arrives_as: Any, method: str
) -> None:
    """The stdlib's pool loses the worker to what is no Exception, and then hangs."""
    pool = make_pool(1, context=multiprocessing.get_context(method))
    [worker] = pool._pool
    results = [
        pool.apply_async(tasks.make_and_raise, (cls,)),
        pool.map_async(tasks.make_and_raise, [cls]),
        pool.map_async(tasks.make_and_raise, [cls] * 3, 3),
    ]
    assert [type(failure(result)) for result in results] == [arrives_as] * 3
    with pytest.raises(arrives_as):
        next(pool.imap(tasks.make_and_raise, [cls]))
    assert pool._pool == [worker]
    whole_again(pool, 1)
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("cls", [EndsInText, OddCode])
def test_code_of_an_exception_that_ends_the_worker(make_pool: Any, cls: Any) -> None:
    pool = make_pool(1)
    assert type(failure(pool.apply_async(tasks.make_and_raise, (cls,)))) is cls
    whole_again(pool, 1)


class ExitsInRepr:
    """A result that cannot be sent, nor shown."""

    def __reduce__(self) -> NoReturn:
        raise LookupError

    def __repr__(self) -> str:
        sys.exit(7)


class ShowsItsOwnText(ExitsInRepr):
    def __repr__(self) -> str:
        return Text("its text")


@pytest.mark.parametrize("cls", [ExitsInRepr, ShowsItsOwnText])
def test_code_of_a_result_does_not_cost_the_worker(make_pool: Any, cls: Any) -> None:
    pool = make_pool(1)
    [worker] = pool._pool
    for result in (pool.apply_async(cls), pool.starmap_async(cls, [()] * 3, 3)):
        error = failure(result)
        assert type(error) is MaybeEncodingError
        assert "LookupError" in error.exc
    assert pool._pool == [worker]


@pytest.mark.parametrize("cls", [TextOfItsOwn, ExitsInText, ExitsInAttributes, ExitsInClass])
def test_code_of_an_initializers_exception(make_pool: Any, cls: Any) -> None:
    pool = make_pool(1, tasks.make_and_raise, (cls,))
    error = failure(pool.apply_async(abs, (1,)))
    assert type(error) is errors.InitializerError
    assert type(error.__cause__) is cls


def overflow() -> None:
    overflow()


@pytest.mark.parametrize(
    ("cls", "arrives_as"),
    [
        (NoText, NoText),
        (ExitsOnArrival, SystemExit),
        (NotAnException, errors and errors.RemoteError),
        (Recursive, MaybeEncodingError),
        (MemoryError, MemoryError),
        (GeneratorExit, GeneratorExit),
    ],
)
def test_an_exception_of_any_kind_arrives(make_pool: Any, cls: Any, arrives_as: Any) -> None:
    pool = make_pool(1)
    results = [
        pool.apply_async(tasks.make_and_raise, (cls,)),
        pool.map_async(tasks.make_and_raise, [cls]),
    ]
    assert [type(failure(result)) for result in results] == [arrives_as] * 2
    whole_again(pool, 1)


def test_an_endless_recursion_is_reported(make_pool: Any) -> None:
    error = failure(make_pool(1).apply_async(overflow))
    assert type(error) is RecursionError
    assert type(error.__cause__) is RemoteTraceback
    assert "in overflow" in error.__cause__.tb


def deeper_than_pickle_goes() -> list[Any]:
    nested: list[Any] = []
    for _ in range(100_000):
        nested = [nested]
    return nested


def test_a_result_that_is_too_deep_to_pickle(make_pool: Any) -> None:
    pool = make_pool(1)
    [worker] = pool._pool
    error = failure(pool.apply_async(deeper_than_pickle_goes))
    assert type(error) is MaybeEncodingError
    assert "RecursionError" in str(error)
    assert pool._pool == [worker]
    whole_again(pool, 1)


# Descriptors

DESCRIPTORS = """
import os, sys
from functools import partial
from engine import DEADLINE, Pool, errors
from gates import eventually
import misbehaving, tasks

def outcome(result):
    try:
        return result.get(DEADLINE)
    except errors.WorkerLostError as error:
        return error

work = {work}
pool = Pool(2)
for size in 10, 3_000_000:
    results = [pool.apply_async(tasks.identity, (n,)) for n in range(50)]
    found = outcome(pool.apply_async(work, (bytes(size),)))
    results += [pool.apply_async(tasks.identity, (n,)) for n in range(50, 100)]
    assert found == bytes(size) or isinstance(found, errors.WorkerLostError)
    # Not print(): a worker forked meanwhile would inherit the buffer and print the text again.
    os.write(1, b"kept\\n" if found == bytes(size) else b"lost\\n")
    for number, result in enumerate(results):
        other = outcome(result)
        # Tasks that the worker began and could not send are lost as well, and no others.
        assert other == number or other.pid == found.pid, other
pool.map(abs, range(-50, 0), 1)
eventually(lambda: len(pool._pool) == 2)
pool.close()
pool.join(timeout=DEADLINE)
"""


@pytest.mark.parametrize(
    ("work", "told"),
    [
        # A finished result is in shared memory and need not be sent, unless the pool ends the
        # worker first.
        ("misbehaving.close_all", "(kept|lost) lost"),
        ("partial(misbehaving.replace_all, sys.argv[1])", "(kept|lost) lost"),
        ("misbehaving.write_to_all", "(kept|lost) lost"),
        ("misbehaving.read_from_all", "kept kept"),
        ("misbehaving.write_into_its_tasks", "kept kept"),
        ("misbehaving.make_nonblocking", "kept kept"),
    ],
)
def test_a_task_that_tampers_with_descriptors(tmp_path: Path, work: str, told: str) -> None:
    done = scripts.run_source(tmp_path, DESCRIPTORS.format(work=work), str(tmp_path / "file"))
    assert done.returncode == 0, done.stderr
    assert re.fullmatch(told, " ".join(done.stdout.split())), done.stderr


# Output

OUTPUT = """
import sys
from engine import DEADLINE, Pool
import misbehaving, tasks

pool = Pool(1)
result = pool.apply_async(misbehaving.{work})
result.wait(DEADLINE)
print("done" if result.successful() else repr(result._value))
print(pool.map(abs, [-1]))
pool.close()
pool.join(timeout=DEADLINE)
"""


@pytest.mark.parametrize(
    ("work", "told"),
    [
        ("print_to_closed_stdout", "ValueError('I/O operation on closed file.')"),
        ("print_to_nowhere", "done"),
    ],
)
def test_printing_to_a_closed_stdout(tmp_path: Path, work: str, told: str) -> None:
    assert scripts.output(tmp_path, OUTPUT.format(work=work)) == [told, "[1]"]


# Processes and threads


def fork_and_return_twice(diary: Diary) -> str:
    """Return in the parent and in the child. The child is not a worker."""
    child = os.fork()
    diary.write("child" if child == 0 else "parent")
    return "child" if child == 0 else "parent"


def fork_and_raise_twice(diary: Diary) -> NoReturn:
    child = os.fork()
    diary.write("child" if child == 0 else "parent")
    raise ValueError("child" if child == 0 else "parent")


def run_a_program() -> str:
    return subprocess.run(["echo", "hello"], capture_output=True, text=True, check=True).stdout


def start_thread(daemon: bool) -> int:
    threading.Thread(target=time.sleep, args=(3600,), daemon=daemon).start()
    return threading.active_count()


def await_stderr(capfd: pytest.CaptureFixture[str], text: str) -> None:
    """Wait until a worker has printed the text. The output may come in pieces."""
    pieces: list[str] = []

    def is_printed() -> bool:
        pieces.append(capfd.readouterr().err)
        return text in "".join(pieces)

    eventually(is_printed)


def test_a_task_that_forks_and_returns_in_both(make_pool: Any, diary: Diary) -> None:
    pool = make_pool(1)
    [worker] = pool._pool
    for _ in range(3):
        assert pool.apply_async(fork_and_return_twice, (diary,)).get(DEADLINE) == "parent"
    eventually(lambda: sorted(diary.lines()) == ["child"] * 3 + ["parent"] * 3)
    assert pool._pool == [worker]
    whole_again(pool, 1)


def test_a_task_that_forks_and_raises_in_both(
    make_pool: Any, diary: Diary, capfd: pytest.CaptureFixture[str]
) -> None:
    pool = make_pool(1)
    assert failure(pool.apply_async(fork_and_raise_twice, (diary,))).args == ("parent",)
    eventually(lambda: sorted(diary.lines()) == ["child", "parent"])
    whole_again(pool, 1)
    pool.close()
    pool.join(timeout=DEADLINE)
    await_stderr(capfd, "ValueError: child")


@pytest.mark.parametrize("how", ["close", "terminate"])
def test_a_child_of_a_task_delays_neither_worker_nor_pool(
    make_pool: Any, gate: Gate, how: str
) -> None:
    pool = make_pool(1)
    child = pool.apply_async(tasks.fork_and_hold, (gate,)).get(DEADLINE)
    gate.arrived()
    try:
        assert type(failure(pool.apply_async(tasks.die))) is errors.WorkerLostError
        whole_again(pool, 1)
        getattr(pool, how)()
        pool.join(timeout=DEADLINE)
        assert not gone(child)
    finally:
        os.kill(child, signal.SIGKILL)


def test_a_task_that_runs_a_program(make_pool: Any) -> None:
    assert make_pool(1).apply_async(run_a_program).get(DEADLINE) == "hello\n"


@pytest.mark.parametrize("daemon", [True, False])
def test_a_task_that_leaves_a_thread_behind(make_pool: Any, daemon: bool) -> None:
    """terminate() does not wait for the thread."""
    pool = make_pool(1)
    assert pool.apply_async(start_thread, (daemon,)).get(DEADLINE) == 2
    whole_again(pool, 1)
    pool.terminate()
    pool.join(timeout=DEADLINE)


# Signals


def interrupted_by_its_own_timer() -> None:
    def raise_it(*_: Any) -> NoReturn:
        signal.setitimer(signal.ITIMER_REAL, 0)
        raise TimeoutError("too slow")

    signal.signal(signal.SIGALRM, raise_it)
    # Repeatedly: pause() would miss a signal that arrives just before.
    signal.setitimer(signal.ITIMER_REAL, 0.01, 0.01)
    signal.pause()


def leave_a_handler_that_raises(number: int) -> int:
    def raise_it(*_: Any) -> NoReturn:
        # Only once: a second signal must not interrupt the printing of the traceback.
        signal.signal(number, signal.SIG_IGN)
        raise LookupError("not now")

    signal.signal(number, raise_it)
    return os.getpid()


def interrupt_until_gone(pid: int) -> None:
    def interrupted() -> bool:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGUSR1)
        return gone(pid)

    eventually(interrupted)


def ignore_everything(value: Any = None) -> Any:
    everything = signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}
    signal.pthread_sigmask(signal.SIG_BLOCK, everything)
    return value


def test_a_task_that_sets_an_alarm(make_pool: Any) -> None:
    pool = make_pool(1)
    error = failure(pool.apply_async(interrupted_by_its_own_timer))
    assert type(error) is TimeoutError
    assert error.args == ("too slow",)
    whole_again(pool, 1)


def test_a_handler_that_raises_between_two_tasks(
    make_pool: Any, capfd: pytest.CaptureFixture[str]
) -> None:
    """The exception ends the worker, as it would end any program, and loses no task."""
    pool = make_pool(1)
    pid = pool.apply_async(leave_a_handler_that_raises, (signal.SIGUSR1,)).get(DEADLINE)
    interrupt_until_gone(pid)  # once the worker waits for the next task
    whole_again(pool, 1)
    await_stderr(capfd, "LookupError: not now")


def test_a_task_that_blocks_all_signals(make_pool: Any) -> None:
    pool = make_pool(1)
    assert pool.apply_async(ignore_everything, (5,)).get(DEADLINE) == 5
    whole_again(pool, 1)
    pool.close()
    pool.join(timeout=DEADLINE)


def limit_itself(name: str) -> None:
    number = getattr(resource, name)
    resource.setrlimit(number, (0, resource.getrlimit(number)[1]))


@pytest.mark.parametrize("name", ["RLIMIT_NOFILE", "RLIMIT_FSIZE", "RLIMIT_AS", "RLIMIT_NPROC"])
def test_a_task_that_lowers_its_workers_limits(make_pool: Any, name: str) -> None:
    """Later tasks that need more than the limit fail, or lose their worker."""
    pool = make_pool(1)
    pool.apply_async(limit_itself, (name,)).get(DEADLINE)
    results = [pool.apply_async(tasks.zeros, (size,)) for size in (10, 40_000_000, 10)]
    for result in results:
        result.wait(DEADLINE)
        assert result.ready(), "it never ended"
        assert result.successful() or isinstance(
            result._value, (MemoryError, MaybeEncodingError, errors.WorkerLostError)
        )
    kill_all(pool)
    whole_again(pool, 1)


def fail_without_source() -> NoReturn:
    linecache.clearcache()
    linecache.updatecache = None  # type: ignore[assignment]
    try:
        raise KeyError("the first")
    except KeyError as error:
        raise ValueError("the second") from error


def test_a_failure_is_reported_although_no_source_can_be_read(make_pool: Any) -> None:
    """Source is read from files, by modules that may be imported only then. Without descriptors,
    for example, both fail."""
    error = failure(make_pool(1).apply_async(fail_without_source))
    assert (type(error), error.args) == (ValueError, ("the second",))
    text = str(error.__cause__)
    assert "in fail_without_source\nKeyError: 'the first'" in text
    assert "in fail_without_source\nValueError: the second" in text


# Workers that do not exit


def leave_thread_and_exit(gate: Gate, how: str) -> None:
    """Leave a thread that nothing ends. The interpreter waits for the thread at exit."""
    threading.Thread(target=gate.wait).start()
    if how == "exit":
        sys.exit(3)


@pytest.mark.parametrize(("how", "options"), [("exit", {}), ("age", {"maxtasksperchild": 1})])
def test_a_worker_that_does_not_exit_is_replaced(
    make_pool: Any, gate: Gate, how: str, options: Any
) -> None:
    """A thread of a task blocks the exit. The pool leaves the worker alone and counts it no more.
    The stdlib's pool has one worker less from then on, and none in the end."""
    pool = make_pool(1, **options)
    [worker] = pool._pool
    first = pool.apply_async(leave_thread_and_exit, (gate, how))
    rest = [pool.apply_async(tasks.square, (n,)) for n in range(6)]
    assert [result.get(DEADLINE) for result in rest] == [0, 1, 4, 9, 16, 25]
    assert first.ready()
    assert isinstance(first._value, SystemExit) == (how == "exit")
    assert worker.is_alive()
    gate.open()
    eventually(lambda: worker not in pool._pool)
    whole_again(pool, 1)


def test_join_waits_for_a_tasks_thread_and_terminate_does_not(make_pool: Any, gate: Gate) -> None:
    """join() waits as the interpreter does at exit."""
    pool = make_pool(1)
    pool.apply_async(leave_thread_and_exit, (gate, "return")).get(DEADLINE)
    pool.close()
    with pytest.raises(multiprocessing.TimeoutError):
        pool.join(timeout=0.05)
    pool.terminate()
    pool.join(timeout=DEADLINE)


def test_a_worker_ended_by_an_exception_waits_for_no_thread(
    make_pool: Any, gate: Gate, capfd: pytest.CaptureFixture[str]
) -> None:
    """Otherwise the tasks that it claimed would be stuck for as long."""
    pool = make_pool(1)
    pool.apply_async(leave_thread_and_exit, (gate, "return")).get(DEADLINE)
    pid = pool.apply_async(leave_a_handler_that_raises, (signal.SIGUSR1,)).get(DEADLINE)
    interrupt_until_gone(pid)
    whole_again(pool, 1)


HELD_UP: dict[str, Callable[[Gate, Any], object]] = {
    "thread": lambda gate, queue: threading.Thread(target=gate.wait).start(),
    "queue": lambda gate, queue: queue.put(bytes(1_000_000)),  # nobody reads
    "exit handler": lambda gate, queue: util.Finalize(None, gate.wait, exitpriority=100),
}

_queue: Any = None  # a worker inherits it


def exit_slowly_on_sigterm(gate: Gate, how: str) -> int:
    """From now on SIGTERM ends this process, and something holds its exit up."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())
    HELD_UP[how](gate, _queue)
    return os.getpid()


@pytest.mark.parametrize("item", [1, bytes(200_000)], ids=["small", "big"])
@pytest.mark.parametrize("size", [1, 2])
@pytest.mark.parametrize("how", HELD_UP)
def test_a_worker_that_breaks_off_between_tasks_and_does_not_exit(
    make_pool: Any, gate: Gate, monkeypatch: pytest.MonkeyPatch, how: str, size: int, item: Any
) -> None:
    """It is given no more tasks, although the process lives on."""
    queue = multiprocessing.get_context("fork").Queue()
    monkeypatch.setattr(sys.modules[__name__], "_queue", queue)
    pool = make_pool(size)
    pid = pool.apply_async(exit_slowly_on_sigterm, (gate, how)).get(DEADLINE)
    os.kill(pid, signal.SIGTERM)
    for _ in range(3):
        results = [pool.apply_async(tasks.identity, (item,)) for _ in range(10)]
        assert [result.get(DEADLINE) for result in results] == [item] * 10
        assert list(pool.imap(tasks.identity, [item] * 10)) == [item] * 10
    assert pid not in pool.map(tasks.pid, range(20), 1)
    assert not gone(pid)
    gate.open()
    if how == "queue":
        os.kill(pid, signal.SIGKILL)
    all_gone([pid])
    whole_again(pool, size)
    queue.close()


def hold_the_exit_up(gate: Gate, how: str) -> None:
    HELD_UP[how](gate, _queue)


@pytest.mark.parametrize("how", HELD_UP)
def test_join_waits_for_an_exit_that_is_held_up_and_terminate_does_not(
    make_pool: Any, gate: Gate, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    """In a closed pool, whose results are all there. join() of the stdlib waits as well."""
    queue = multiprocessing.get_context("fork").Queue()
    monkeypatch.setattr(sys.modules[__name__], "_queue", queue)
    pool = make_pool(2, hold_the_exit_up, (gate, how))
    assert pool.map_async(tasks.square, range(4), 1).get(DEADLINE) == [0, 1, 4, 9]
    pids = [worker.pid for worker in pool._pool]
    pool.close()
    with pytest.raises(multiprocessing.TimeoutError):
        pool.join(timeout=0.05)
    pool.terminate()
    pool.join(timeout=DEADLINE)
    all_gone(pids)
    queue.close()


def exit_in_a_thread() -> None:
    threading.Thread(target=os._exit, args=(9,)).start()
    signal.pause()


def sys_exit_in_a_thread() -> str:
    thread = threading.Thread(target=sys.exit, args=(9,))
    thread.start()
    thread.join()
    return "fine"


def test_a_thread_of_a_task_that_exits(make_pool: Any) -> None:
    """os._exit() ends the process, sys.exit() the thread alone."""
    pool = make_pool(1)
    assert pool.apply_async(sys_exit_in_a_thread).get(DEADLINE) == "fine"
    error = failure(pool.apply_async(exit_in_a_thread))
    assert (type(error), error.exitcode) == (errors.WorkerLostError, 9)
    whole_again(pool, 1)


# The rest of the process


def forget_modules() -> None:
    names = "cpool", "multiprocessing", "pickle", "copyreg", "traceback"
    for name in [name for name in sys.modules if name.startswith(names)]:
        del sys.modules[name]


def leave_no_room_to_call() -> None:
    sys.setrecursionlimit(30)


def break_pickle() -> None:
    pickle.loads = pickle.dumps = None


@pytest.mark.parametrize("work", [forget_modules, leave_no_room_to_call, break_pickle])
def test_a_task_that_tampers_with_the_interpreter(make_pool: Any, work: Callable[[], None]) -> None:
    """Later tasks may fail, and so may the worker, but every job ends."""
    pool = make_pool(1)
    results = [pool.apply_async(work)]
    results += [pool.apply_async(tasks.fail, (n,)) for n in range(10)]
    results += [pool.apply_async(tasks.Point(1, 2).moved, (n,)) for n in range(10)]
    for result in results:
        result.wait(DEADLINE)
        assert result.ready(), "it never ended"
        assert result.successful() or isinstance(result._value, Exception)
    kill_all(pool)
    whole_again(pool, 1)
