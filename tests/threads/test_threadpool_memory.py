"""Thread pools leak neither objects nor threads nor themselves. And the swap."""

from __future__ import annotations

import gc
import json
import sysconfig
import threading
import warnings
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import scripts
from engine import DEADLINE, pool_module
from gates import Gate, eventually
from leftovers import all_freed, settled, threads
from tasks import identity

ThreadPool: Any = pool_module.ThreadPool

uncounted = pytest.mark.skipif(
    bool(sysconfig.get_config_var("Py_GIL_DISABLED")),
    reason="without the GIL, objects are freed late and references are not counted at once",
)


class Thing:
    def __init__(self) -> None:
        self.other: Any = None


def fail(x: Any) -> None:
    raise ValueError(x)


def unread(use: Any) -> Any:
    """A use that does not exhaust its iterator: the stdlib's pool keeps the rest."""
    return pytest.param(use, marks=pytest.mark.better)


@pytest.mark.parametrize(
    "use",
    [
        lambda pool, things: pool.map(identity, things, 2),
        lambda pool, things: pool.map_async(identity, things, 1, callback=id).get(DEADLINE),
        lambda pool, things: list(pool.imap(identity, iter(things))),
        lambda pool, things: list(pool.imap_unordered(identity, things, 3)),
        lambda pool, things: [pool.apply(identity, (thing,)) for thing in things],
        lambda pool, things: [pool.apply_async(dict, (), {"x": thing}) for thing in things],
        lambda pool, things: pool.starmap_async(identity, zip(things), 1).wait(DEADLINE),
        unread(lambda pool, things: next(pool.imap(identity, things))),
        unread(lambda pool, things: [pool.imap(identity, things) for _ in range(3)] and None),
    ],
)
def test_arguments_and_results_are_freed(crew: Any, use: Any) -> None:
    """The pool lives on, and is idle."""
    things = [Thing() for _ in range(10)]
    refs = [weakref.ref(thing) for thing in things]
    use(crew, things)
    del things
    all_freed(refs)


@pytest.mark.parametrize(
    "use",
    [
        lambda pool, thing: pool.map(fail, [thing] * 5, 2),
        lambda pool, thing: pool.apply(fail, (thing,)),
        lambda pool, thing: pool.apply_async(fail, (thing,)).get(DEADLINE),
        unread(lambda pool, thing: list(pool.imap(fail, [thing] * 5))),
    ],
)
def test_failures_are_freed(crew: Any, use: Any) -> None:
    thing = Thing()
    ref = weakref.ref(thing)
    with pytest.raises(ValueError):
        use(crew, thing)
    del thing
    all_freed([ref])


@pytest.mark.better
def test_objects_of_an_ended_pool_are_freed() -> None:
    hold = threading.Event()
    begun = threading.Event()
    things = [Thing() for _ in range(20)]
    refs = [weakref.ref(thing) for thing in things]

    def task(thing: Any) -> Any:
        begun.set()
        hold.wait(DEADLINE)
        return thing

    pool = ThreadPool(1)
    results = [
        pool.map_async(task, things, 1),
        pool.imap(task, things, 3),
        pool.apply_async(task, things[:1], {}),
        pool.imap(task, iter(things)),
    ]
    assert begun.wait(DEADLINE)
    pool.terminate()
    del things
    hold.set()
    pool.join()
    all_freed(refs)
    del results


@pytest.mark.better
def test_a_result_that_refers_to_itself_is_collected(crew: Any) -> None:
    """The result has arrived and is unread: the garbage collector finds it in the pool."""
    for submit in (
        lambda things: crew.apply_async(things.pop),
        lambda things: crew.map_async(identity, things, 1),
        lambda things: crew.imap(identity, things),
        lambda things: crew.imap_unordered(identity, things, 2),
    ):
        things = [Thing() for _ in range(3)]
        refs = [weakref.ref(thing) for thing in things]
        for thing in things:
            thing.other = things
        result = submit(things)
        things.append(result)
        del thing, things, result
        eventually(lambda: not crew._cache)
        all_freed(refs)


@uncounted
def test_a_pool_is_freed_with_its_last_reference(warned: list[str]) -> None:
    before = threads()
    gc.collect()
    gc.disable()
    try:
        with ThreadPool(2) as pool:
            assert pool.map(identity, range(10), 1) == list(range(10))
            assert pool.apply_async(identity, (1,)).get(DEADLINE) == 1
        ref = weakref.ref(pool)
        del pool
        assert ref() is None
        assert warned == []
    finally:
        gc.enable()
    assert settled(threads, before) == set()


def test_a_pool_that_nobody_ended_warns_and_is_freed(warned: list[str]) -> None:
    before = threads()
    pool = ThreadPool(2)
    assert pool.map(identity, range(10)) == list(range(10))
    del pool
    gc.collect()
    [text] = eventually(lambda: warned)
    assert text.startswith("ResourceWarning: unclosed running multiprocessing pool <")
    assert settled(threads, before) == set()


def test_work_continues_although_nobody_keeps_the_pool(warned: list[str]) -> None:
    before = threads()
    hold, ran = threading.Event(), threading.Semaphore(0)

    def task(_: int) -> None:
        assert hold.wait(DEADLINE)
        ran.release()

    ThreadPool(2).map_async(task, range(10), 1)
    gc.collect()
    assert warned == []
    hold.set()
    for _ in range(10):
        assert ran.acquire(timeout=DEADLINE)

    def gone() -> bool:
        gc.collect()
        return not threads() - before

    eventually(gone, "the pool never went")
    assert len(warned) == 1


CALLS = """
import json
from engine import pool_module
from leftovers import growth
import tasks

pool = pool_module.ThreadPool(2)

def one(_):
    pool.map(str, range(1000), 1)
    list(pool.imap(str, (x for x in range(1000)), 1))
    [result.get() for result in [pool.apply_async(str, (x,), {}) for x in range(1000)]]
    for call in (lambda: pool.map(tasks.fail, [1, 2], 2), lambda: pool.apply(tasks.fail, (1,))):
        try:
            call()
        except ValueError:
            pass

grown = growth(one, 40, first=10)
pool.terminate()
print(json.dumps(grown))
"""


@pytest.mark.timeout(5 * DEADLINE, method="signal")
def test_many_calls_leak_nothing(tmp_path: Path) -> None:
    [line] = scripts.output(tmp_path, CALLS, seconds=4 * DEADLINE)
    grown = json.loads(line)
    assert grown["blocks"] < 1000  # one block per call would be a hundred times as many
    assert grown["kilobytes"] < 4096


# The swap

SWAPPED = """
import multiprocessing.dummy, multiprocessing.pool
from multiprocessing.pool import ThreadPool
Captured = ThreadPool
{install}
from multiprocessing.pool import ThreadPool
import multiprocessing.managers
import cpool.pool

def shown(pool):
    thing = object()
    with pool:
        return (
            isinstance(pool, cpool.pool.ThreadPool),
            isinstance(pool, Captured),
            isinstance(pool, multiprocessing.pool.Pool),
            pool.apply(lambda: thing) is thing,
        )

print(*shown(ThreadPool(2)))
print(*shown(multiprocessing.dummy.Pool(2)))
print(*shown(multiprocessing.dummy.Pool(2, len, ([],))))
"""


@pytest.mark.better
@pytest.mark.parametrize("how", ["install", "run"])
def test_the_swap_replaces_both_ways_to_make_a_thread_pool(tmp_path: Path, how: str) -> None:
    install = "import cpool; cpool.install()" if how == "install" else ""
    path = scripts.write(tmp_path, SWAPPED.format(install=install))
    done = scripts.run(*(["-m", "cpool"] if how == "run" else []), path)
    assert (done.stdout, done.stderr) == ("True True True True\n" * 3, "")


@pytest.mark.better
def test_a_thread_pool_fixes_no_start_method(tmp_path: Path) -> None:
    """A pool of processes that is made later still forks by default."""
    source = (
        "import multiprocessing\n"
        "from cpool import Pool, ThreadPool\n"
        "with ThreadPool(1) as pool:\n"
        "    pool.map(abs, [-1])\n"
        "print(multiprocessing.get_start_method(allow_none=True))\n"
    )
    assert scripts.output(tmp_path, source) == ["None"]


# Jobs that end while all threads sleep


def empty(pool: Any) -> None:
    pool.imap(identity, [])


def ended_by_its_iterable(pool: Any) -> None:
    """The feeding thread finds the end when all tasks are done."""
    go_on = threading.Event()

    def items() -> Iterator[int]:
        yield 1
        go_on.wait(DEADLINE)

    assert next(pool.imap(identity, items())) == 1
    go_on.set()


@pytest.mark.parametrize("use", [empty, ended_by_its_iterable])
def test_an_unreferenced_pool_is_freed_after_the_job(use: Callable[[Any], None]) -> None:
    pool = ThreadPool(2)
    use(pool)
    ref = weakref.ref(pool)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        del pool
        all_freed([ref])


@pytest.mark.better
def test_an_unreferenced_value_is_freed_while_other_tasks_run(crew: Any, gate: Gate) -> None:
    crew.apply_async(gate.hold)
    gate.arrived()
    thing = crew.apply_async(Thing).get(DEADLINE)
    refs = [weakref.ref(thing)]
    del thing
    all_freed(refs)
    gate.open()


def test_tasks_in_c_leak_nothing(crew: Any) -> None:
    """Threads that run no bytecode do none of the interpreter's deferred work."""
    process = psutil.Process()
    size = 100_000

    def run() -> int:
        for _ in range(20):
            crew.map(bytes, [size] * 50, 1)
            for _ in crew.imap(len, map(bytes, [size] * 50), 1):
                pass
        gc.collect()
        return int(process.memory_info().rss)

    before = run()  # 3.13t's allocator keeps some memory
    assert run() - before < 50 * 1e6
