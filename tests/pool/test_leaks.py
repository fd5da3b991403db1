"""Nothing leaks: no pools, no calls, no large values, no failures."""

from __future__ import annotations

import gc
import json
import sys
import sysconfig
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import engine
import pytest
import scripts
import tasks
from engine import DEADLINE, Pool, pool_module
from gates import eventually
from leftovers import all_freed, children, collect, open_files, settled, threads

# Pools come and go

PREFIX = """
import json, sys
from engine import DEADLINE, Pool, pool_module
from leftovers import alone, growth
import tasks

ENDS = [
    lambda pool: (pool.close(), pool.join()),
    lambda pool: (pool.terminate(), pool.join()),
    lambda pool: pool.__exit__(None, None, None),
]

def fails(call):
    try:
        call()
    except ValueError:
        pass
"""

SUFFIX = """
    ENDS[number % 3](pool)

print(json.dumps(growth(one, int(sys.argv[1]), look=alone)))
"""

POOLS = {
    "processes": """
def one(number):
    pool = Pool(2, tasks.remember, (number,), maxtasksperchild=[None, 9][number % 2])
    assert pool.map(tasks.square, range(10), 1) == [x * x for x in range(10)]
    assert pool.apply(tasks.remembered) == (number,)
    assert list(pool.imap(tasks.square, range(5), 2)) == [0, 1, 4, 9, 16]
    result = pool.map_async(tasks.identity, [bytes(100_000)] * 3, 1, callback=id)
    assert len(result.get(DEADLINE)) == 3
    fails(lambda: pool.apply_async(tasks.fail, error_callback=id).get(DEADLINE))
""",
    "threads": """
def one(number):
    pool = pool_module.ThreadPool(2, len, ([],))
    things = [object() for _ in range(50)]
    assert pool.map(id, things, 1) == list(map(id, things))
    assert list(pool.imap(id, iter(things), 3)) == list(map(id, things))
    assert pool.map_async(id, things, callback=id).get(DEADLINE) == list(map(id, things))
    fails(lambda: pool.apply(tasks.fail, (1,)))
    unread = pool.imap(id, things)
    assert next(unread) == id(things[0])
    dropped = pool.map_async(id, things, 1)
""",
}


@pytest.mark.timeout(5 * DEADLINE, method="signal")
@pytest.mark.parametrize("kind", POOLS)
def test_a_hundred_pools_leak_nothing(tmp_path: Path, kind: str) -> None:
    count = 30 if engine.STDLIB else 100  # the stdlib's pools end slowly
    source = PREFIX + POOLS[kind] + SUFFIX
    [line] = scripts.output(tmp_path, source, str(count), seconds=4 * DEADLINE)
    grown = json.loads(line)
    assert (grown["processes"], grown["descriptors"]) == (0, 0)
    # A leaked pool has hundreds. Without the GIL, objects are freed late.
    late = bool(sysconfig.get_config_var("Py_GIL_DISABLED"))
    assert grown["blocks"] < (30 if late else 10) * count
    assert grown["kilobytes"] < 2048


# Calls, each many times


def reads(iterator: Any) -> None:
    try:
        for _ in range(10):
            iterator.next(DEADLINE)
    except StopIteration:
        pass


def refused(error: type[BaseException], func: Callable[..., Any], *args: Any, **kwds: Any) -> None:
    try:
        func(*args, **kwds)
    except error:
        return
    raise AssertionError("not refused")


def never_ended(pool: Any) -> None:
    """A result that is dropped before it is ready."""
    pool.apply_async(tasks.square, (2,))
    pool.map_async(tasks.square, [1, 2])
    pool.imap(tasks.square, [1, 2])
    pool.apply(tasks.nothing)
    eventually(lambda: not pool._cache)


LONG = {"key": ["a" * 50, (1.5, b"x" * 50)]}
CALLS: dict[str, Callable[[Any], Any]] = {
    "apply": lambda pool: pool.apply(tasks.arguments, (1, LONG), {"x": LONG}),
    "apply small": lambda pool: pool.apply(tasks.identity, (10**20,)),
    "apply failing": lambda pool: refused(ValueError, pool.apply, tasks.fail, (1,)),
    "apply unpicklable": lambda pool: refused(
        RuntimeError, pool.apply, tasks.identity, (tasks.Unpicklable(),)
    ),
    "apply no result": lambda pool: refused(
        pool_module.MaybeEncodingError, pool.apply, tasks.unpicklable
    ),
    "apply object": lambda pool: pool.apply(tasks.Counter()),
    "apply_async": lambda pool: pool.apply_async(tasks.identity, (LONG,), {}, id, id).get(DEADLINE),
    "apply_async failing": lambda pool: refused(
        ValueError, pool.apply_async(tasks.fail, (1,), {}, id, id).get, DEADLINE
    ),
    "map": lambda pool: pool.map(tasks.identity, [LONG] * 5, 2),
    "map failing": lambda pool: refused(ValueError, pool.map, tasks.fail, [1, 2], 1),
    "map empty": lambda pool: pool.map(tasks.identity, []),
    "map refused": lambda pool: refused(TypeError, pool.map, tasks.identity, 5),
    "map_async": lambda pool: pool.map_async(tasks.identity, [LONG] * 3, 1, id, id).get(DEADLINE),
    "starmap": lambda pool: pool.starmap(tasks.arguments, [(1, LONG)] * 3, 1),
    "starmap_async": lambda pool: pool.starmap_async(tasks.add, [(1, 2)] * 3, 2).get(DEADLINE),
    "imap": lambda pool: reads(pool.imap(tasks.identity, [LONG] * 3)),
    "imap chunks": lambda pool: list(pool.imap(tasks.identity, [LONG] * 3, 2)),
    "imap unread": lambda pool: pool.imap(tasks.identity, [LONG] * 3).next(DEADLINE),
    "imap failing": lambda pool: refused(ValueError, list, pool.imap(tasks.fail, [1, 2])),
    "imap refused": lambda pool: refused(ValueError, pool.imap, tasks.fail, [1, 2], 0),
    "imap raising": lambda pool: refused(
        LookupError, list, pool.imap(tasks.identity, tasks.then_raise([LONG], LookupError()))
    ),
    "imap_unordered": lambda pool: reads(pool.imap_unordered(tasks.identity, [LONG] * 3)),
    "result methods": lambda pool: [
        (result.ready(), result.wait(DEADLINE), result.successful(), vars(result), repr(result))
        for result in [pool.apply_async(tasks.nothing)]
    ],
    "never ended": never_ended,
    "join refused": lambda pool: refused(ValueError, pool.join),
    "enter": lambda pool: pool.__enter__(),
    "repr": repr,
    "reduce": lambda pool: refused(NotImplementedError, pool.__reduce__),
}


uncounted = pytest.mark.skipif(
    bool(sysconfig.get_config_var("Py_GIL_DISABLED")),
    reason="without the GIL, objects are freed late and references are not counted at once",
)


def measure() -> int:
    collect()
    if hasattr(sys, "gettotalrefcount"):
        return int(sys.gettotalrefcount())
    return sys.getallocatedblocks()


def grows(work: Callable[[], Any], times: int, rounds: int = 10) -> list[int]:
    """The growth of each round, or nothing once a round grows by less than half an object per call.

    Objects kept only once, or for a while, are no leak: a later round does not grow.
    """
    found = []
    for _ in range(10):
        work()
    for _ in range(rounds):
        before = measure()
        for _ in range(times):
            work()
        found.append(measure() - before)
        if found[-1] < times / 2:
            return []
    return found


@uncounted
@pytest.mark.parametrize("name", CALLS)
def test_a_call_leaks_nothing(pool: Any, name: str) -> None:
    assert grows(lambda: CALLS[name](pool), times=100) == []


def test_every_public_method_has_a_call() -> None:
    methods = {name for name in vars(Pool.__mro__[-2]) if not name.startswith("_")}
    assert methods - {name.split()[0] for name in CALLS} == {"Process", "close", "terminate"}


@pytest.mark.parametrize(
    "use",
    [
        lambda pool: pool.apply(tasks.nothing),
        # In the stdlib ending a pool that begins to work deadlocks now and then.
        pytest.param(lambda pool: pool.apply_async(tasks.nothing), marks=pytest.mark.better),
    ],
    ids=["idle", "beginning"],
)
def test_constructing_and_ending_leak_nothing(use: Callable[[Any], Any]) -> None:
    """close(), terminate(), and a constructor that raises."""

    def work() -> None:
        refused(ValueError, Pool, 0)
        refused(TypeError, Pool, 1, 5)
        with Pool(1) as pool:
            use(pool)
        pool.join()
        pool = Pool(1)
        pool.close()
        pool.join()

    before = children(), threads(), open_files()
    assert grows(work, times=10) == []
    after = [
        settled(look, was)
        for look, was in zip((children, threads, open_files), before, strict=True)
    ]
    assert after == [set(), set(), set()]


# Objects


@pytest.mark.parametrize("name", ["ApplyResult", "MapResult", "IMapIterator"])
def test_instances_release_their_type(pool: Any, name: str) -> None:
    cls = getattr(pool_module, name)
    make: Callable[[], Any] = {
        "ApplyResult": lambda: pool.apply_async(tasks.nothing),
        "MapResult": lambda: pool.map_async(tasks.square, [1, 2]),
        "IMapIterator": lambda: pool.imap(tasks.square, [1, 2]),
    }[name]

    def count() -> int:
        pool.apply(tasks.nothing)
        eventually(lambda: not pool._cache)
        gc.collect()
        return sys.getrefcount(cls)

    assert type(make()) is cls
    before = count()
    for _ in range(100):
        make()
    # The helper may still be releasing the last results.
    eventually(lambda: count() <= before + 5, "instances hold references to their type")


class Callback:
    """A callback that can be weakly referenced."""

    def __call__(self, _: Any) -> None:
        pass


@pytest.mark.parametrize("method", ["apply_async", "map_async", "starmap_async"])
@pytest.mark.parametrize("func", [tasks.identity, tasks.fail])
def test_a_finished_job_frees_its_objects(pool: Any, method: str, func: Any) -> None:
    """Although its result is kept."""
    good, bad, argument = Callback(), Callback(), tasks.Point(1, 2)
    args: Any = (argument,) if method == "apply_async" else tasks.Sized([(argument,)])
    watched: list[Any] = [weakref.ref(argument)]
    result = getattr(pool, method)(func, args, callback=good, error_callback=bad)
    result.wait(DEADLINE)
    del args, argument
    all_freed(watched)
    watched = [weakref.ref(thing) for thing in (good, bad, result)]
    del good, bad, result
    all_freed(watched)


@pytest.mark.parametrize("method", ["imap", "imap_unordered"])
def test_an_exhausted_iterator_frees_its_objects(pool: Any, method: str) -> None:
    items = tasks.Sized([tasks.Point(1, 2)])
    watched = [weakref.ref(thing) for thing in (items, items.items[0])]
    results = getattr(pool, method)(tasks.identity, items)
    [found] = results
    watched.append(weakref.ref(found))
    del items, found
    all_freed(watched)
    assert list(results) == []


def test_a_failure_is_not_kept(pool: Any) -> None:
    result = pool.apply_async(tasks.make_and_raise, (tasks.Refused, 4, "why"))
    result.wait(DEADLINE)
    failure = weakref.ref(result._value)
    assert failure() is not None
    del result
    all_freed([failure])


# Memory that is not Python's own

LARGE = """
import sys
from engine import Pool
from leftovers import growth
import tasks

def once(_):
    value = bytearray(4_000_000)
    assert pool.apply(tasks.size, (value,)) == 4_000_000
    assert pool.map(tasks.identity, [value] * 2, 1) == [value] * 2
    for found in pool.imap(tasks.zeros, [4_000_000] * 2):
        assert len(found) == 4_000_000

times, limit = map(int, sys.argv[1:])
with Pool(2) as pool:
    for _ in range(10):
        grown = growth(once, times, first=3)
        if grown["kilobytes"] < limit:
            break
    print(grown["kilobytes"], grown["descriptors"])
    print(*[int(open(f"/proc/{w.pid}/statm").read().split()[1]) * 4 for w in pool._pool])
"""


def test_large_values_leak_nothing(tmp_path: Path) -> None:
    """An allocator may keep free memory once, but not more with every call."""
    # One of forty values. A free-threaded build keeps a tenth of the 670 MB of 24 calls.
    times, limit = (24, 60_000) if sysconfig.get_config_var("Py_GIL_DISABLED") else (6, 4000)
    grown, workers = scripts.output(tmp_path, LARGE, str(times), str(limit))
    memory, descriptors = map(int, grown.split())
    assert memory < limit
    assert descriptors <= 0
    assert all(int(size) < 200_000 for size in workers.split())
