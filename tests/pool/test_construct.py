"""Making a pool: its parameters, its attributes, its names, and a start that fails."""

from __future__ import annotations

import copy
import gc
import inspect
import io
import multiprocessing
import multiprocessing.context
import multiprocessing.pool
import multiprocessing.popen_fork
import multiprocessing.queues
import os
import pickle
import sys
import threading
import unittest.mock
import warnings
import weakref
from pathlib import Path
from typing import Any, get_type_hints

import engine
import pytest
import scripts
import tasks
from engine import DEADLINE, Pool, pool_module
from gates import eventually, gone

from cpool._start import popen as _popen

FORK = multiprocessing.get_context("fork")
NOT_PICKLED = "pool objects cannot be passed between processes or pickled"


# Parameters


@pytest.mark.parametrize(
    ("processes", "error", "text"),
    [
        (0, ValueError, "Number of processes must be at least 1"),
        (-1, ValueError, "Number of processes must be at least 1"),
        (-(10**20), ValueError, "Number of processes must be at least 1"),
        (0.5, ValueError, "Number of processes must be at least 1"),
        (False, ValueError, "Number of processes must be at least 1"),
        (1.5, TypeError, "'float' object cannot be interpreted as an integer"),
        (2.0, TypeError, "'float' object cannot be interpreted as an integer"),
        ("a", TypeError, "'<' not supported between instances of 'str' and 'int'"),
        ([2], TypeError, "'<' not supported between instances of 'list' and 'int'"),
    ],
)
def test_a_wrong_number_of_processes(processes: Any, error: Any, text: str) -> None:
    with pytest.raises(error) as caught:
        Pool(processes)
    assert str(caught.value) == text


@pytest.mark.parametrize("value", [0, -1, 0.5, 1.0, "12", (), False])
def test_a_wrong_maxtasksperchild(value: Any) -> None:
    with pytest.raises(ValueError) as caught:
        Pool(1, maxtasksperchild=value)
    assert str(caught.value) == "maxtasksperchild must be a positive int or None"


@pytest.mark.parametrize("value", [1, "print", (), False, 0])
def test_a_wrong_initializer(value: Any) -> None:
    with pytest.raises(TypeError) as caught:
        Pool(1, initializer=value)
    assert str(caught.value) == "initializer must be a callable"


@pytest.mark.parametrize(
    ("kwds", "text"),
    [
        ({"processes": 0, "maxtasksperchild": 0, "initializer": 1}, "Number of processes"),
        ({"processes": 1, "maxtasksperchild": 0, "initializer": 1}, "maxtasksperchild"),
        ({"processes": 1.5, "maxtasksperchild": 1, "initializer": 1}, "initializer"),
    ],
)
def test_the_first_of_several_wrong_parameters_is_named(kwds: Any, text: str) -> None:
    with pytest.raises((TypeError, ValueError), match=f"^{text}"):
        Pool(**kwds)


@pytest.mark.better
def test_unknown_parameters_are_refused() -> None:
    """Without the stdlib's complaint on stderr about a half-made pool."""
    with pytest.raises(TypeError, match="unexpected keyword argument 'size'"):
        Pool(1, size=2)
    with pytest.raises(TypeError):
        Pool(1, None, (), None, None, 5)


def test_a_refused_pool_warns_of_nothing() -> None:
    """The pool never ran, so there is nothing to close."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for _ in range(3):
            with pytest.raises(ValueError):
                Pool(0)
            gc.collect()


@pytest.mark.parametrize("processes", [1, 2, 5, True])
def test_the_given_number_of_workers_starts(make_pool: Any, processes: int) -> None:
    pool = make_pool(processes)
    assert len(pool._pool) == processes
    assert all(worker.is_alive() for worker in pool._pool)


def test_parameters_by_position(make_pool: Any) -> None:
    pool = make_pool(2, tasks.remember, (1, 2), 3, FORK)
    assert pool.apply(tasks.remembered) == (1, 2)
    assert (pool._processes, pool._maxtasksperchild, pool._ctx) == (2, 3, FORK)


def test_parameters_by_name(make_pool: Any) -> None:
    pool = make_pool(
        processes=2,
        initializer=tasks.remember,
        initargs=(1, 2),
        maxtasksperchild=3,
        context=FORK,
    )
    assert pool.apply(tasks.remembered) == (1, 2)
    assert (pool._processes, pool._maxtasksperchild, pool._ctx) == (2, 3, FORK)


def test_the_default_size(make_pool: Any) -> None:
    pool = make_pool()
    if engine.STDLIB:
        size = getattr(os, "process_cpu_count", os.cpu_count)()
    else:
        size = engine.errors.default_processes()
    assert pool._processes == len(pool._pool) == size
    assert make_pool(None)._processes == size


@pytest.mark.better
def test_the_default_size_is_what_the_process_may_use(tmp_path: Path) -> None:
    """The stdlib before 3.13 counts processors that this process may not run on."""
    lines = scripts.output(
        tmp_path,
        "import os\n"
        "from cpool import Pool, default_processes\n"
        "print(1 <= default_processes() <= len(os.sched_getaffinity(0)))\n"
        "os.sched_setaffinity(0, [min(os.sched_getaffinity(0))])\n"
        "with Pool() as pool:\n"
        "    print(default_processes(), len(pool._pool))\n",
    )
    assert lines == ["True", "1 1"]


@pytest.mark.parametrize("initargs", [(1, 2), [1, 2], range(1, 3), {1: "a", 2: "b"}])
def test_initargs_are_any_iterable(make_pool: Any, initargs: Any) -> None:
    assert make_pool(1, tasks.remember, initargs).apply(tasks.remembered) == (1, 2)


def test_the_initializer_runs_once_in_each_worker(make_pool: Any, diary: Any) -> None:
    pool = make_pool(3, diary.write, ("hello",))
    assert pool.map(tasks.square, range(50), 1) == [x * x for x in range(50)]
    pool.close()
    pool.join()
    assert diary.lines() == ["hello"] * 3


def test_the_initializer_runs_in_replacements_too(make_pool: Any, diary: Any) -> None:
    pool = make_pool(1, diary.write, ("hello",), 1)
    pids = {pool.apply(tasks.pid) for _ in range(3)}
    assert len(pids) == 3
    assert len(diary.lines()) >= 3


def test_a_closure_may_be_the_initializer(make_pool: Any) -> None:
    """Forked workers inherit the closure and its arguments; nothing is pickled."""
    lock = threading.Lock()
    pool = make_pool(1, lambda thing: tasks.remember(type(thing).__name__, lock.locked()), (lock,))
    assert pool.apply(tasks.remembered) == ("lock", False)


def test_the_constructor_does_not_wait_for_the_workers(make_pool: Any, gate: Any) -> None:
    pool = make_pool(2, gate.hold)
    gate.arrived(2)
    result = pool.apply_async(tasks.square, (3,))
    assert not result.ready()
    gate.open()
    assert result.get(DEADLINE) == 9


def test_globals_are_inherited(make_pool: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tasks, "_remembered", ("from the parent",))
    assert make_pool(1).apply(tasks.remembered) == ("from the parent",)


# Start methods


@pytest.mark.parametrize(
    ("method", "names"),
    [("fork", "Fork"), ("spawn", "Spawn"), ("forkserver", "ForkServer")],
)
def test_the_context_is_obeyed(tmp_path: Path, method: str, names: str) -> None:
    """Workers that import the main module again find its functions there."""
    lines = scripts.output(
        tmp_path,
        f"""
import multiprocessing, os
from engine import Pool

def work(x):
    return x + 1, multiprocessing.current_process().name, multiprocessing.get_start_method()

if __name__ == "__main__":
    with Pool(1, context=multiprocessing.get_context({method!r})) as pool:
        print(*pool.map(work, [1, 2]), pool.apply(os.getpid) == pool._pool[0].pid)
        print(pool._ctx.get_start_method(), type(pool._pool[0]).__name__)
        pool.close()
        pool.join()
        print(pool._pool[0].exitcode)
""",
    )
    name = f"'{names}PoolWorker-1', '{method}'"
    assert lines == [f"(2, {name}) (3, {name}) True", f"{method} {names}Process", "0"]


@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_an_earlier_choice_of_the_start_method_is_obeyed(tmp_path: Path, method: str) -> None:
    lines = scripts.output(
        tmp_path,
        f"""
import multiprocessing

if __name__ == "__main__":
    multiprocessing.set_start_method({method!r})
    from engine import Pool
    import tasks
    with Pool(1, initializer=tasks.remember, initargs=(7,)) as pool:
        print(pool.apply(multiprocessing.get_start_method), pool.apply(tasks.remembered))
""",
    )
    assert lines == [f"{method} (7,)"]


def test_the_default_start_method_is_fork(tmp_path: Path) -> None:
    # By its text: the function is a method, and would bring the parent's context along.
    lines = scripts.output(
        tmp_path,
        "from engine import Pool\n"
        "asked = \"__import__('multiprocessing').get_start_method()\"\n"
        "with Pool(1, lambda: None) as pool:\n"
        "    print(pool.apply(eval, (asked,)))\n",
    )
    assert lines == ["fork"]


THREADED = """
import multiprocessing, os, sys, threading, time, warnings
from engine import Pool
import tasks

stop = threading.Event()
threads = [threading.Thread(target=stop.wait) for _ in range(int(sys.argv[1]))]
for thread in threads:
    thread.start()
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    pool = Pool(3)
for warning in caught:
    place = os.path.basename(warning.filename), warning.lineno == int(sys.argv[2])
    print(warning.category.__name__, str(warning.message).replace(str(os.getpid()), "N"), *place)
with pool:
    assert pool.map(tasks.square, range(9), 1) == [x * x for x in range(9)]
    pool.close()
    pool.join()
for action, text in ("error", ""), ("error", "multiprocessing.popen_fork"), ("ignore", ""):
    with warnings.catch_warnings():
        warnings.simplefilter("error" if text else "ignore")
        warnings.filterwarnings("ignore" if text else action, module=text.replace(".", "[.]"))
        try:
            Pool(1).terminate()
            print("made")
        except DeprecationWarning as warning:
            print("raised", multiprocessing.active_children())
stop.set()
"""

LINE_OF_FORK = next(
    number
    for number, line in enumerate(inspect.getsourcelines(multiprocessing.popen_fork)[0], 1)
    if "os.fork()" in line
)


@pytest.mark.parametrize("count", [0, 2])
def test_forking_with_threads_warns_for_each_worker(tmp_path: Path, count: int) -> None:
    """As os.fork() does from 3.12 on, at the line of multiprocessing that calls it.

    Where the warning is an error, os.fork() drops the error before 3.15.
    """
    said = (
        "DeprecationWarning This process (pid=N) is multi-threaded, "
        "use of fork() may lead to deadlocks in the child. popen_fork.py True"
    )
    warns = count > 0 and sys.version_info >= (3, 12)
    first = "raised []" if warns and sys.version_info >= (3, 15) else "made"
    out = scripts.output(tmp_path, THREADED, str(count), str(LINE_OF_FORK))
    assert out == [said] * 3 * warns + [first, "made", "made"]


REPLACED = """
import sys, threading, warnings
from engine import Pool
import tasks

def main():
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter(sys.argv[1])
        with Pool(1, maxtasksperchild=1) as pool:
            before = len(caught)
            if len(sys.argv) > 2:
                stop = threading.Event()
                threading.Thread(target=stop.wait).start()
            assert pool.map_async(tasks.square, range(9), 1).get() == [x * x for x in range(9)]
            assert pool.map(tasks.square, range(9), 1) == [x * x for x in range(9)]
            pool.close()
            pool.join()
    print(before, len(caught) > before)
    if len(sys.argv) > 2:
        stop.set()

main()
"""


@pytest.mark.better
@pytest.mark.parametrize("action", ["always", "error"])
@pytest.mark.parametrize("threads", [[], ["1"]])
def test_replacing_workers_warns_of_the_programs_threads(
    tmp_path: Path, action: str, threads: list[str]
) -> None:
    """Not of the pool's own, as the stdlib does; and no replacement fails for it."""
    warns = bool(threads) and action == "always" and sys.version_info >= (3, 12)
    assert scripts.output(tmp_path, REPLACED, action, *threads) == [f"0 {warns}"]


AT_FORK = """
import ctypes, os, threading, warnings
from engine import Pool

stop = threading.Event()
thread = threading.Thread(target=stop.wait)
thread.start()

def end_threads():
    stop.set()
    thread.join()

os.register_at_fork(before=end_threads)
with warnings.catch_warnings():
    warnings.simplefilter("error")
    with Pool(2) as pool:
        print(pool.map(abs, [-1, -2]))
"""


def test_threads_that_end_before_the_fork_are_not_warned_of(tmp_path: Path) -> None:
    """As those of OpenBLAS do."""
    assert scripts.output(tmp_path, AT_FORK) == ["[1, 2]"]


# The object


def test_attributes(make_pool: Any) -> None:
    pool = make_pool(2, tasks.remember, (1,), 3)
    assert type(pool._pool) is list
    assert pool._processes == 2
    assert pool._initializer is tasks.remember
    assert pool._initargs == (1,)
    assert pool._maxtasksperchild == 3
    assert pool._state == "RUN"
    assert pool._ctx.get_start_method() == "fork"
    assert len(pool._cache) == 0
    assert pool._taskqueue.qsize() == 0


def test_repr(make_pool: Any) -> None:
    pool = make_pool(2)
    name = f"{Pool.__module__}.Pool"
    assert repr(pool) == f"<{name} state=RUN pool_size=2>"
    pool.close()
    assert repr(pool) == f"<{name} state=CLOSE pool_size=2>"
    pool.terminate()
    assert repr(pool) == f"<{name} state=TERMINATE pool_size=2>"


class Outer:
    class Mine(Pool):  # type: ignore[misc]
        """A subclass that changes nothing."""


def test_repr_of_a_subclass(make_pool: Any) -> None:
    pool = make_pool(1, cls=Outer.Mine)
    assert repr(pool) == f"<{__name__}.Outer.Mine state=RUN pool_size=1>"
    assert pool.map(tasks.square, [1, 2]) == [1, 4]


def test_a_pool_is_a_pool_of_multiprocessing(make_pool: Any) -> None:
    assert issubclass(Pool, multiprocessing.pool.Pool)
    assert isinstance(make_pool(1), multiprocessing.pool.Pool)
    assert Pool.__name__ == Pool.__qualname__ == "Pool"
    assert Pool.__module__ == pool_module.__name__


def test_a_pool_cannot_be_pickled_or_copied(make_pool: Any) -> None:
    pool = make_pool(1)
    for attempt in pickle.dumps, copy.copy, copy.deepcopy:
        with pytest.raises(NotImplementedError) as caught:
            attempt(pool)
        assert str(caught.value) == NOT_PICKLED


def test_a_pool_accepts_new_attributes(make_pool: Any) -> None:
    pool = make_pool(1)
    pool.label = "mine"
    pool._private = 1
    assert (pool.label, pool._private) == ("mine", 1)
    del pool.label
    assert not hasattr(pool, "label")
    assert vars(pool)["_private"] == 1


def test_the_class_accepts_new_attributes(make_pool: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Pool, "twice", lambda self, x: self.apply(tasks.add, (x, x)), raising=False)
    assert make_pool(1).twice(4) == 8


def test_a_pool_is_hashable_and_equal_only_to_itself(make_pool: Any) -> None:
    one, two = make_pool(1), make_pool(1)
    assert len({one, two, one}) == 2
    assert one == one
    assert one != two


def test_a_pool_can_be_weakly_referenced(make_pool: Any) -> None:
    pool = make_pool(1)
    assert weakref.ref(pool)() is pool
    assert list(weakref.WeakSet([pool])) == [pool]


def test_a_pool_is_freed_by_reference_counting() -> None:
    gc.disable()
    try:
        with Pool(2) as pool:
            assert pool.map(tasks.square, range(10)) == [x * x for x in range(10)]
            assert list(pool.imap(tasks.square, range(3))) == [0, 1, 4]
        alive = weakref.ref(pool)
        del pool
        # Without the GIL, the thread that fed imap() may be about to drop its reference.
        eventually(lambda: alive() is None)
    finally:
        gc.enable()


# Names and signatures

SIGNATURES: dict[str, list[Any]] = {
    "__init__": [
        ("processes", None),
        ("initializer", None),
        ("initargs", ()),
        ("maxtasksperchild", None),
        ("context", None),
    ],
    "apply": ["func", ("args", ()), ("kwds", {})],
    "apply_async": [
        "func",
        ("args", ()),
        ("kwds", {}),
        ("callback", None),
        ("error_callback", None),
    ],
    "map": ["func", "iterable", ("chunksize", None)],
    "map_async": [
        "func",
        "iterable",
        ("chunksize", None),
        ("callback", None),
        ("error_callback", None),
    ],
    "imap": ["func", "iterable", ("chunksize", 1)],
    "imap_unordered": ["func", "iterable", ("chunksize", 1)],
    "close": [],
    "terminate": [],
    "join": [],
    "__enter__": [],
}
SIGNATURES["starmap"], SIGNATURES["starmap_async"] = SIGNATURES["map"], SIGNATURES["map_async"]


@pytest.mark.parametrize("name", SIGNATURES)
def test_signatures(name: str) -> None:
    """The signatures of multiprocessing.pool. cpool's own parameters come last, with defaults."""
    parameters = list(inspect.signature(getattr(Pool, name)).parameters.values())[1:]
    found = [(p.name, p.default) if p.default is not p.empty else p.name for p in parameters]
    expected = SIGNATURES[name]
    assert found[: len(expected)] == expected
    own = parameters[len(expected) :]
    assert all(p.default is not p.empty or p.kind is p.VAR_KEYWORD for p in own)


@pytest.mark.parametrize("name", ["apply", "apply_async", "map", "map_async", "starmap"])
def test_annotations_can_be_evaluated(name: str) -> None:
    """Tools do so at run time, although cpool does not import typing."""
    assert get_type_hints(getattr(Pool, name)) or engine.STDLIB


@pytest.mark.parametrize("name", ["apply", "apply_async", "map", "starmap", "imap", "__init__"])
def test_bound_signatures_and_docstrings(make_pool: Any, name: str) -> None:
    assert "self" not in inspect.signature(getattr(make_pool(1), name)).parameters
    if name != "__init__":
        assert inspect.getdoc(getattr(Pool, name))


NAMES = """
    Pool ThreadPool INIT RUN CLOSE TERMINATE ApplyResult AsyncResult MapResult IMapIterator
    IMapUnorderedIterator RemoteTraceback ExceptionWithTraceback rebuild_exc MaybeEncodingError
    worker mapstar starmapstar _helper_reraises_exception _PoolCache job_counter TimeoutError
    get_context wait util collections itertools os queue threading time traceback types warnings
""".split()


@pytest.mark.parametrize("name", NAMES)
def test_the_module_has_the_names_of_multiprocessing_pool(name: str) -> None:
    assert hasattr(pool_module, name)


@pytest.mark.parametrize(
    "name",
    [
        "RemoteTraceback",
        "ExceptionWithTraceback",
        "rebuild_exc",
        "MaybeEncodingError",
        "worker",
        "mapstar",
        "starmapstar",
        "_helper_reraises_exception",
        "TimeoutError",
        "util",
    ],
)
def test_pickled_classes_are_the_stdlibs_own(name: str) -> None:
    assert getattr(pool_module, name) is getattr(multiprocessing.pool, name)


def test_constants() -> None:
    states = [getattr(pool_module, name) for name in ("INIT", "RUN", "CLOSE", "TERMINATE")]
    assert states == ["INIT", "RUN", "CLOSE", "TERMINATE"]
    assert pool_module.__all__ == ["Pool", "ThreadPool"]
    assert pool_module.TimeoutError is multiprocessing.TimeoutError
    assert issubclass(pool_module.ThreadPool, multiprocessing.pool.Pool)


# A start that fails


class FailingProcess:
    """A process class whose fourth instance cannot start, as in CPython's own test."""

    def __init__(self, **kwds: Any) -> None:
        self.name = "Process-0"
        self.exitcode: int | None = None
        self.pid = None
        self.state = "new"
        self.started = len(MADE)
        MADE.append(self)

    def start(self) -> None:
        if self.started == 3:
            raise OSError("manually raised")
        self.state = "started"

    def terminate(self) -> None:
        self.state = "terminated"

    def join(self, timeout: float | None = None) -> None:
        assert self.state == "terminated"
        self.state = "joined"
        self.exitcode = -15

    def is_alive(self) -> bool:
        return self.state == "started"


MADE: list[FailingProcess] = []


def test_a_context_whose_fourth_process_does_not_start() -> None:
    MADE.clear()
    with pytest.raises(OSError, match="^manually raised$"):
        Pool(5, context=unittest.mock.MagicMock(Process=FailingProcess))
    assert [process.state for process in MADE] == ["joined"] * 3 + ["new"]


class Refusing(multiprocessing.context.ForkProcess):
    def start(self) -> None:
        if len(STARTED) == 2:
            raise OSError("no more processes")
        super().start()
        assert self.pid is not None
        STARTED.append(self.pid)


STARTED: list[int] = []


class RefusingContext(multiprocessing.context.ForkContext):
    Process = Refusing


def test_a_failed_start_leaves_no_worker() -> None:
    STARTED.clear()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(OSError, match="^no more processes$"):
            Pool(3, context=RefusingContext())
        gc.collect()
    assert len(STARTED) == 2
    assert all(gone(pid) for pid in STARTED)
    assert multiprocessing.active_children() == []


@pytest.mark.better
def test_a_start_without_free_descriptors_fails_and_leaks_none(tmp_path: Path) -> None:
    """The limit is reached half-way through, where the stdlib leaks two descriptors."""
    lines = scripts.output(
        tmp_path,
        """
import gc, os, resource
from engine import Pool
import tasks

def count():
    gc.collect()
    return len(os.listdir("/proc/self/fd"))

with Pool(1) as pool:  # opens what stays open in the process
    pool.apply(tasks.nothing)
    pool.close()
    pool.join()
del pool
before = count()
soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
resource.setrlimit(resource.RLIMIT_NOFILE, (before + 10, hard))
try:
    Pool(64)
except OSError as error:
    print(error.strerror)
print(count() - before)
resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
with Pool(2) as pool:
    print(pool.map(tasks.square, [1, 2]))
""",
    )
    assert lines == ["Too many open files", "0", "[1, 4]"]


def test_output_of_the_parent_is_not_duplicated(
    make_pool: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The parent's buffers are flushed before a worker is forked."""
    with open(tmp_path / "out", "w", encoding="utf-8") as out:
        buffered = io.TextIOWrapper(out.buffer, write_through=False)
        monkeypatch.setattr(sys, "stdout", buffered)
        buffered.write("once\n")
        pool = make_pool(3)
        pool.close()
        pool.join()
        buffered.detach()
    monkeypatch.undo()
    assert (tmp_path / "out").read_text() == "once\n"


IMPORTS = """
import os, sys
from engine import Pool
import tasks

def note(event, args):
    if event == "import" and os.getpid() != parent:
        os.write(1, (args[0] + os.linesep).encode())

parent = os.getpid()
sys.addaudithook(note)
with Pool(2) as pool:
    print(pool.map(tasks.square, range(4), 1), flush=True)
    pool.close()
    pool.join()
"""


@pytest.mark.better
def test_a_worker_imports_nothing_at_start_and_exit(tmp_path: Path) -> None:
    """The program's modules are enough. One more import would double the time of a start."""
    assert scripts.output(tmp_path, IMPORTS) == ["[0, 1, 4, 9]"]


@pytest.mark.better
def test_a_start_does_not_poll_the_earlier_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    poll = _popen.Popen.poll

    def counting(self: _popen.Popen, flag: int = os.WNOHANG) -> int | None:
        asked.append(self.pid)
        return poll(self, flag)

    monkeypatch.setattr(_popen.Popen, "poll", counting)
    with Pool(12) as pool:
        assert asked == []
        workers = list(pool._pool)
        assert set(workers) <= set(multiprocessing.active_children())
