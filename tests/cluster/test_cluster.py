"""What only a pool on a cluster has: nodes, and what happens to calls when nodes are lost."""

from __future__ import annotations

import array as arrays
import asyncio
import collections
import functools
import gc
import io
import itertools
import multiprocessing
import os
import pickle
import random
import re
import signal
import subprocess
import sys
import threading
import time
import types
import weakref
from collections.abc import Callable, Iterator
from multiprocessing.pool import MaybeEncodingError
from pathlib import Path
from typing import Any

import pytest
import tasks
from checks import read_during_join
from engine import DEADLINE
from gates import Diary, Gate, eventually, gone

import cpool
from cpool import RemoteError, TaskCancelledError, TaskTimeoutError, WorkerLostError

from . import work
from .conftest import distributed, new_pool, nodes_of
from .processes import TESTS, start_scheduler, start_worker

# Many of these tests start processes that import dask.
pytestmark = [pytest.mark.better, pytest.mark.timeout(6 * DEADLINE)]


def in_a_while(condition: Callable[[], Any]) -> Any:
    """`eventually` with a longer limit, for conditions that depend on dask's scheduler or start."""
    end = time.monotonic() + 3 * DEADLINE
    while not (value := condition()):
        assert time.monotonic() < end, "it never became true"
        time.sleep(0.05)
    return value


class Extra:
    """A node that joins for one test, and may die in it: nothing starts it again."""

    def __init__(self, client: Any, process: subprocess.Popen[bytes], address: str) -> None:
        self.client = client
        self.process = process
        self.address = address

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()


@pytest.fixture
def join(client: Any) -> Iterator[Callable[[], Extra]]:
    """join() makes one more node join the cluster."""
    extras: list[Extra] = []
    before = nodes_of(client)

    def start() -> Extra:
        known = set(nodes_of(client))
        address = client.scheduler.address
        process = start_worker(address)
        extras.append(Extra(client, process, ""))
        [extras[-1].address] = in_a_while(lambda: set(nodes_of(client)) - known)
        return extras[-1]

    yield start
    for extra in extras:
        extra.kill()
    in_a_while(lambda: nodes_of(client) == before)


@pytest.fixture
def node(join: Callable[[], Extra]) -> Extra:
    return join()


# The interface


OWN_CLUSTER = """
import itertools, sys, cpool
if __name__ == "__main__":
    print({"dask", "distributed"} & set(sys.modules))
    from cpool.distributed import Pool
    pool = Pool(processes=1, context="fork")
    items = pool.imap(abs, itertools.count(-2))
    print([next(items) for _ in range(3)], len(pool.nodes))
"""


@pytest.mark.timeout(12 * DEADLINE)  # it starts two interpreters that import dask, one by one
def test_a_cluster_of_its_own(tmp_path: Path) -> None:
    """The pool starts one without an address, and ends it in silence where the program does not.

    Dask is not imported before.
    """
    program = tmp_path / "program.py"
    program.write_text(OWN_CLUSTER, encoding="utf-8")
    done = subprocess.run([sys.executable, program], capture_output=True, text=True, cwd=TESTS)
    assert (done.returncode, done.stdout) == (0, "set()\n[2, 1, 0] 1\n")
    assert "cannot schedule new futures" not in done.stderr, done.stderr


IN_ONE_PROCESS = """
import distributed, numpy
from cpool.distributed import Pool

class Scaled:
    def __init__(self):
        self.table = bytes(100_000)
    def __call__(self, values):
        return values * 2

if __name__ == "__main__":
    with distributed.LocalCluster(
        n_workers=1, threads_per_worker=1, processes=False, dashboard_address=":0"
    ) as cluster, distributed.Client(cluster, set_as_default=False) as client, Pool(client) as pool:
        print(pool.apply(abs, (-3,)), pool.map(Scaled(), [2, "a"]))
        large = bytes(3 << 20)
        print([found == 2 * large for found in pool.map(Scaled(), [large] * 3)])
        array = numpy.ones(3 << 20, "u1")
        for _ in range(6):
            assert (pool.apply(Scaled(), (array,)) == 2).all()
        print(pool.statistics().shared_memory_in_use < 4 * array.nbytes)
        try:
            pool.apply(divmod, (1, 0))
        except ZeroDivisionError as error:
            print(error)
"""


def test_a_cluster_in_one_process(tmp_path: Path) -> None:
    """Dask passes on messages there as they are, and keeps the last ones."""
    pytest.importorskip("numpy")
    program = tmp_path / "program.py"
    program.write_text(IN_ONE_PROCESS, encoding="utf-8")
    done = subprocess.run([sys.executable, program], capture_output=True, text=True, cwd=TESTS)
    found = "3 [4, 'aa']\n[True, True, True]\nTrue\n"
    assert done.stdout.startswith(found) and "by zero" in done.stdout, done.stderr
    assert done.returncode == 0


def test_a_missing_dask_is_named() -> None:
    program = "import sys; sys.modules['distributed'] = None; import cpool.distributed"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, cwd=TESTS
    )
    assert "pip install 'cpool-mp[distributed]'" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"processes": 0}, ValueError),
        ({"maxtasksperchild": 0}, ValueError),
        ({"initializer": 5}, TypeError),
        ({"context": "other"}, ValueError),
        ({"on_exit": "wait"}, ValueError),
        ({"max_pending": 3}, ValueError),
        ({"propagate_context": True}, ValueError),
        ({"cpu_ids": [0]}, ValueError),
        ({"memory_limit": "much"}, ValueError),
        ({"processes": 2, "min_processes": 3}, ValueError),
        ({"finalizer": 5}, TypeError),
        ({"env": 5}, TypeError),
        ({"preload": [5]}, TypeError),
        ({"nodes": []}, ValueError),
        ({"nonsense": 5}, TypeError),
    ],
)
def test_wrong_arguments_are_refused(
    client: Any, arguments: dict[str, Any], error: type[Exception]
) -> None:
    from cpool.distributed import Pool

    with pytest.raises(error, match=[*arguments][-1]):
        Pool(client, **arguments)


def test_parameters_of_the_pools_on_the_nodes(make_pool: Any, diary: Diary) -> None:
    env = {"CPOOL_TEST_ENV": "of the workers"}
    own = {"env": env, "finalizer": diary.write, "finalargs": ("the end",), "on_exit": "join"}
    more = {"memory_limit": "64GiB", "min_processes": 1, "cpu_ids": "auto", "daemon": False}
    with make_pool(2, preload=("decimal",), inner_max_num_threads=1, **own, **more) as pool:
        result = pool.apply_async(os.getenv, (*env,))
    assert result.get(0) == "of the workers"
    eventually(diary.lines)
    assert set(diary.lines()) == {"the end"}


def test_a_serial_pool_uses_no_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    from cpool.distributed import Pool

    with Pool("tcp://nowhere:1", serial=True) as pool:
        assert pool.apply(os.getpid) == os.getpid()
        assert pool.map(tasks.square, range(3)) == [*pool.imap(tasks.square, range(3))] == [0, 1, 4]
        assert pool.options(return_exceptions=True).map(work.fail_if_odd, [0]) == [0]
        assert (pool.nodes, pool.wait_for_nodes(1)) == ([], None)
        with pool.share([1, 2]) as handle:
            assert pool.apply(len, (handle,)) == 2
        assert (pool.statistics().done, pool.statistics().nodes) == (9, ())
        for options in {"worker": 0}, {"retries": 1}:
            with pytest.raises(ValueError, match=next(iter(options))):
                pool.apply(abs, (1,), **options)
            with pytest.raises(ValueError, match=next(iter(options))):
                pool.options(**options)
    with pytest.raises(ValueError, match="not running"):
        pool.map(abs, [1])
    monkeypatch.setenv("CPOOL_SERIAL", "1")
    with Pool(on_exit="join") as pool, pytest.warns(RuntimeWarning, match="retries is ignored"):
        assert pool.apply(os.getpid, retries=1) == os.getpid()


def test_the_pools_of_nodes_are_never_serial(client: Any, make_pool: Any) -> None:
    """Even if CPOOL_SERIAL is set in the environment of a node."""
    client.run(lambda: os.environ.update(CPOOL_SERIAL="1"))
    try:
        assert make_pool(1).apply(os.getpid) not in client.run(os.getpid).values()
    finally:
        client.run(lambda: os.environ.pop("CPOOL_SERIAL"))


@pytest.mark.parametrize("seed", range(4))
def test_any_list_gives_what_the_builtin_gives(pool: Any, seed: int) -> None:
    chance = random.Random(seed)
    kinds: list[Callable[[], Any]] = [
        lambda: chance.randint(-3, 3),
        lambda: chance.getrandbits(chance.choice([8, 31, 32, 63, 64, 200])),
        lambda: "".join(chance.choices("a\x00\xe9\u20ac\U0001f40d\ud800", k=chance.randrange(9))),
    ]
    items = [chance.choice(kinds)() for _ in range(chance.choice([0, 1, 2, 17, 60]))]
    expected = list(map(tasks.kind, items))
    for chunksize in None, chance.randint(1, 20):
        assert pool.map(tasks.kind, items, chunksize) == expected
    assert list(pool.imap(tasks.kind, items, chunksize)) == expected
    unordered = list(pool.imap_unordered(tasks.kind, iter(items), chunksize))
    assert collections.Counter(unordered) == collections.Counter(expected)


@pytest.mark.parametrize(
    "options", [{"retries": -1}, {"progress": 3}, {"retry_on": 5}, {"task_timeout": 0}]
)
def test_wrong_options_are_refused(pool: Any, options: dict[str, Any]) -> None:
    for method, args in ("apply_async", ()), ("map", ([1],)), ("imap", ([1],)):
        with pytest.raises((ValueError, TypeError), match=next(iter(options))):
            getattr(pool, method)(abs, *args, **options)
    with pytest.raises(ValueError, match="partial"):
        pool.share([1])
    with pytest.raises(TypeError, match="nonsense"):
        pool.map(abs, [1], nonsense=1)
    with pytest.raises(ValueError, match="chunksize=1"):
        pool.map(abs, [1], 2, task_timeout=1)
    with pytest.raises(ValueError, match="Use key="):
        pool.apply(abs, (1,), worker=0)
    with pytest.raises(TypeError, match="unhashable"):
        pool.apply(abs, (1,), key=[])
    for method in "map", "imap":
        with pytest.raises(ValueError, match=rf"key is for single calls.*not {method}\(\)"):
            getattr(pool, method)(abs, [1], key=1)


def test_methods_of_one_machine_are_refused(pool: Any) -> None:
    import cpool
    from cpool._cluster.parameters import NOT_HERE

    mine = {name for name in dir(cpool.Pool) if not name.startswith("_") and name != "Process"}
    assert mine <= set(dir(pool))
    for each in pool, pool.options(retries=1):
        for name in NOT_HERE:
            with pytest.raises(ValueError, match=rf"^{name}\(\) is for a pool on one machine: "):
                getattr(each, name)(abs, [1])


def test_dump_shows_every_worker(pool: Any, make_gate: Any, client: Any) -> None:
    gates = [make_gate() for _ in range(2)]
    held = []
    for gate in gates:
        held.append(pool.apply_async(gate.hold))
        gate.arrived()
    out = io.StringIO()
    pool.dump(out)
    for gate in gates:
        gate.open()
    for result in held:
        result.get(DEADLINE)
    told = out.getvalue()
    for address in nodes_of(client):
        assert f"node {address}: " in told
    assert told.count("in hold") == 2


def test_the_nodes_are_listed(pool: Any, client: Any) -> None:
    pool.map(tasks.square, range(100))
    assert sorted(node.address for node in pool.nodes) == nodes_of(client)
    assert [node.workers for node in pool.nodes] == [1, 1]
    assert sum(node.items for node in pool.nodes) >= 100


def test_statistics(make_pool: Any, gate: Gate) -> None:
    pool = make_pool(1)
    pool.map(tasks.square, range(10))
    for call, error in (
        (lambda: pool.apply(tasks.fail), ValueError),
        (lambda: pool.apply(tasks.die), WorkerLostError),
        (lambda: pool.map(abs, [gate._fds, threading.Lock()], 2), TypeError),
    ):
        with pytest.raises(error):
            call()
    held = pool.apply_async(gate.hold, retries=1)
    gate.arrived()

    def counts() -> list[int]:
        found = pool.statistics()
        return [found.done, found.failed, found.lost, found.cancelled, found.pending, found.retried]

    assert (pool.statistics().submitted, counts()) == (15, [10, 3, 1, 0, 1, 0])
    pool._pool[0].kill()
    gate.arrived()
    gate.open()
    held.get(DEADLINE)
    assert counts() == [11, 3, 1, 0, 0, 1]
    [node] = pool.statistics().nodes
    assert (node.address, node.pid) == (pool.nodes[0].address, pool.nodes[0].pid)
    assert (node.workers, node.is_there, node.restarts) == (1, True, 2)
    assert node.chunks >= 4 and node.bytes_sent > 0 and node.bytes_received > 0
    head, names, row, _ = str(pool.statistics()).splitlines()
    assert head.startswith("pool on 1 node: 15 items submitted: 11 done, 3 failed, 1 lost")
    assert dict(zip(names.split(), row.split(), strict=False))["node"] == node.address
    waiting = pool.map_async(tasks.held, [(gate, x) for x in range(3)], 1)
    pool.terminate()
    assert not waiting.successful()
    assert counts()[-2:] == [0, 1]
    assert pool.statistics().submitted == sum(counts()[:-1])


def test_statistics_of_many_nodes_that_have_left(monkeypatch: pytest.MonkeyPatch) -> None:
    from cpool._cluster import keeper, statistics

    monkeypatch.setattr(statistics, "_MOST_GONE", 2)
    tally = statistics.Tally()
    tally.submitted = 10
    for number in range(4):
        node = keeper.Node(f"tcp://{number}", "", number, 1)
        node.done = number
        tally.leave(node)
    found = tally.statistics([keeper.Node("tcp://5", "", 5, 3)])
    assert [(node.address, node.done) for node in found.nodes] == [
        ("earlier nodes", 1), ("tcp://2", 2), ("tcp://3", 3), ("tcp://5", 0)
    ]  # fmt: skip
    assert (found.done, found.pending) == (6, 4)


def test_every_node_works(pool: Any, client: Any) -> None:
    found = set(pool.map(work.node_of, range(40), 1))
    assert found == set(client.run(os.getpid).values())


def test_lambdas_and_closures_travel(pool: Any) -> None:
    offset = 5
    assert pool.map(lambda x: x + offset, range(3)) == [5, 6, 7]


def test_istarmap(pool: Any) -> None:
    pairs = [(1, 2), (3, 4)]
    assert list(pool.istarmap(tasks.add, pairs)) == [3, 7]
    assert sorted(pool.istarmap_unordered(tasks.add, pairs, 2)) == [3, 7]


def test_exceptions_among_the_results(pool: Any) -> None:
    found = pool.map(work.fail_if_odd, range(4), 2, return_exceptions=True)
    assert found[::2] == [0, 2]
    assert [str(error) for error in found[1::2]] == ["odd 1", "odd 3"]
    assert "in fail_if_odd" in str(found[1].__cause__)


def test_each_failure_takes_the_place_of_its_item(make_pool: Any) -> None:
    pool = make_pool(1)
    call = {"return_exceptions": True}
    found = pool.map(work.fail_if_odd, range(4), 4, **call)
    last = str(found[3].__cause__).splitlines()[-2]
    assert "in item 3 of Pool.map(" in last and f" of node {pool.nodes[0].address} (pid " in last
    for items in [[1, threading.Lock(), 3], [1, work.Unloadable(), 3]]:  # of the call or the node
        found = pool.map(tasks.identity, items, 1, **call)
        assert [found[0], found[2]] == [1, 3] and isinstance(found[1], (TypeError, OSError))
    found = pool.map(work.give, ["value", "lock", "value"], 3, **call)
    assert [type(each) for each in found] == [str, MaybeEncodingError, str]
    found = list(pool.imap(work.give, ["value", "unloadable", "value"], 1, **call))
    assert [type(each) for each in found] == [str, OSError, str]
    found = list(pool.imap(work.give, ["value", "needs two", "exit"], 3, **call))
    assert [type(each) for each in found] == [str, RemoteError, SystemExit]
    found = list(pool.imap(work.give, ["value", "die", "value"], 3, **call))
    assert [type(each) for each in found] == [WorkerLostError] * 3
    assert "ran items 0 to 2 of Pool.imap(" in str(found[0])
    assert type(pool.apply(work.give, ("exit",), **call)) is SystemExit
    lock = threading.Lock()
    assert type(pool.apply(tasks.identity, (lock,), **call)) is TypeError
    found = pool.map(functools.partial(tasks.add, lock), range(2), **call)
    assert [type(each) for each in found] == [TypeError] * 2
    with pytest.raises(TypeError):
        list(pool.imap(functools.partial(tasks.add, lock), range(2), **call))


def test_retries_come_before_exceptions_among_the_results(make_pool: Any, diary: Diary) -> None:
    call = {"retries": 1, "retry_on": LookupError, "return_exceptions": True}
    items = [(diary, i) for i in range(2)]
    assert make_pool(1).starmap(work.fail_at_first, items, 1, **call) == [0, 1]
    found = make_pool(1).starmap(work.fail_at_first, [(diary, i) for i in range(5, 8)], 3, **call)
    assert [type(each) for each in found] == [int, LookupError, LookupError]
    assert collections.Counter(diary.lines()) == {"0": 2, "1": 2, "5": 2, "6": 1, "7": 1}


def test_exceptions_of_the_main_module_can_be_caught(
    make_pool: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Their classes travel by value, and come back as they were."""
    main = sys.modules["__main__"]
    code = """
class Own(Exception): pass
def fail(x): raise Own(x() if callable(x) else x)
"""
    scope = {"__name__": "__main__"}
    exec(code, scope)
    for name in "Own", "fail":
        monkeypatch.setattr(main, name, scope[name], raising=False)
    own: Any = scope["Own"]
    with pytest.raises(own) as caught:
        make_pool(1).apply(scope["fail"], (5,))
    assert caught.value.args == (5,)
    assert "in Pool.apply(fail), worker 0 of node " in str(caught.value.__cause__)
    with pytest.raises(MaybeEncodingError, match="cannot pickle '_thread.lock'"):
        make_pool(1).apply(scope["fail"], (threading.Lock,))


def test_chunks_behind_one_that_ends_the_call_are_not_sent(pool: Any) -> None:
    before = pool.statistics()
    with pytest.raises(TypeError, match="pickle"):
        pool.map(abs, [threading.Lock(), *range(20)], 1, fail_fast=True)
    assert pool.apply(abs, (-1,)) == 1
    assert not pool._keeper.waiting.levels
    told = pool.statistics()
    assert (told.done - before.done, told.failed - before.failed, told.pending) == (1, 1, 0)


def test_progress_is_told(pool: Any) -> None:
    told: list[Any] = []
    pool.map(abs, range(100), progress=lambda done, total: told.append((done, total)))
    eventually(lambda: told and told[-1] == (100, 100))
    assert told == sorted(told)


def test_results_can_be_awaited(pool: Any) -> None:
    async def body() -> None:
        assert await pool.apply_async(tasks.square, (3,)) == 9
        found = await asyncio.gather(*(awaited(pool.apply_async(abs, (-x,))) for x in range(50)))
        assert found == list(range(50))
        with pytest.raises(ValueError):
            await pool.map_async(tasks.fail, [1])
        assert [x async for x in pool.imap(tasks.square, range(20))] == [x * x for x in range(20)]

    asyncio.run(asyncio.wait_for(body(), 3 * DEADLINE))


async def awaited(result: Any) -> Any:
    return await result


def test_cancelling_the_awaiting_task_cancels_the_call(make_pool: Any, gate: Gate) -> None:
    async def body() -> None:
        async with make_pool(1) as pool:
            result = pool.apply_async(gate.hold)
            waiting = asyncio.ensure_future(awaited(result))
            await asyncio.sleep(0)
            waiting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiting
            assert result.cancelled()
            assert await pool.apply_async(tasks.square, (3,)) == 9
        with pytest.raises(ValueError, match="not running"):
            pool.apply(abs, (1,))

    asyncio.run(asyncio.wait_for(body(), 3 * DEADLINE))


def test_a_piece_that_waits(pool: Any, client: Any, make_gate: Any) -> None:
    """It blocks no other dask task, and moves to a node that is idle."""
    pool.map(time.sleep, [0.6] * 4, 1)  # so that nodes begin a piece only when a worker is idle
    gates = [make_gate() for _ in range(2)]
    held = []
    eventually(lambda: not any(node.count for node in pool.nodes))
    pool.nodes[0].outstanding = 1e-19  # as a sum of floats may be that should be 0
    for gate in gates:  # one on each node
        held.append(pool.apply_async(gate.hold))
        gate.arrived()
    waiting = [pool.apply_async(work.node_of) for _ in range(2)]  # and one behind each
    assert client.gather(client.map(abs, range(-4, 0))) == [4, 3, 2, 1]
    gates[1].open()
    first, second = (result.get(DEADLINE) for result in waiting)
    assert first == second
    assert not held[0].ready()
    gates[0].open()
    for result in held:
        result.get(DEADLINE)


@pytest.mark.parametrize(
    ("pending", "seconds", "is_room"),
    [
        (0, 3.0, True),
        (1, 0.01, True),
        (4, 0.01, True),
        (6, 0.01, False),
        (1, 0.05, False),  # not measured
        (1, 0.09, True),
        (2, 0.09, False),
        (1, 0.3, False),
    ],
)
def test_the_next_piece_begins_before_the_work_of_a_node_ends(
    pending: int, seconds: float, is_room: bool
) -> None:
    """If chunks are short: it would hold up the piece for as long as a chunk takes."""
    from cpool._cluster.node import Node

    node = object.__new__(Node)
    node.is_ended = False
    node.workers, node.pending, node.seconds = 1, pending, seconds
    node.way = node.spread = 0.0
    node.heard = time.monotonic() + DEADLINE  # no chunk takes longer than the mean
    assert node._has_room() == is_room


def test_calls_of_higher_priority_are_handed_out_first(
    make_pool: Any, gate: Gate, diary: Diary
) -> None:
    pool = make_pool(1)
    held = [pool.apply_async(gate.hold) for _ in range(16)]  # more than is sent ahead
    gate.arrived()
    low = pool.starmap_async(work.noted, [(diary, 1)] * 3, 1)
    high = pool.starmap_async(work.noted, [(diary, 2)] * 3, 1, priority=1)
    gate.open()
    for result in [*held, low, high]:
        result.get(DEADLINE)
    assert diary.lines()[0] == "2"  # the two nodes may differ in speed later


def test_calls_of_one_key_go_to_one_worker(pool: Any, make_pool: Any) -> None:
    for each in pool, make_pool(2):  # two nodes, and two workers of one node
        found = [each.apply(os.getpid, key=("of", number)) for number in range(4)]
        assert sorted(collections.Counter(found).values()) == [2, 2]
        again = [each.apply_async(os.getpid, key=("of", number % 4)) for number in range(8)]
        assert [result.get(DEADLINE) for result in again] == found * 2


def test_a_worker_with_a_key_holds_up_no_other(make_pool: Any, gate: Gate) -> None:
    pool = make_pool(2)
    held = [pool.apply_async(gate.hold, key="one") for _ in range(6)]
    gate.arrived()
    assert pool.map_async(tasks.square, range(3), 1).get(DEADLINE) == [0, 1, 4]
    gate.open()
    for result in held:
        result.get(DEADLINE)
    with pytest.raises(WorkerLostError):
        pool.apply(tasks.die, key="one")
    assert pool.apply(tasks.square, (3,), key="one") == 9


def test_only_so_many_keys_are_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    from cpool._cluster import jobs

    monkeypatch.setattr(jobs, "_MOST_KEYS", 3)
    keys = jobs.Keys()
    assert [keys.number(key) for key in (10, 11, 12, 11)] == [0, 1, 2, 1]
    assert [keys.number(key) for key in (20, 21, 22, 20)] == [5, 3, 4, 5]
    assert len(keys.numbers) == 3


def test_large_arrays_travel_beside_the_pickle(pool: Any, client: Any) -> None:
    numpy = pytest.importorskip("numpy")
    array = numpy.arange(1 << 20)
    [back] = pool.map(tasks.identity, [array])
    assert (back == array).all()
    assert pool.apply(len, (bytes(5 << 20),)) == 5 << 20
    in_a_while(lambda: client.run_on_scheduler(messages_kept) == 0)


def messages_kept(dask_scheduler: Any) -> int:
    from cpool._cluster.arbiter import NAME

    return sum(len(pool.data) for pool in dask_scheduler.plugins[NAME].pools.values())


def test_callables_that_a_worker_keeps_have_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    from cpool._cluster import frames, worker

    monkeypatch.setattr(worker, "_loaded", collections.OrderedDict())
    monkeypatch.setattr(worker, "_loaded_bytes", 0)
    for number in range(3 * worker._KEPT):
        source = frames.dumps_callable(functools.partial(len, bytes(200_000)))
        assert len(worker._callable(str(number), source).args[0]) == 200_000
        assert worker._callable("plain", frames.dumps_callable(len)) is len
        kept = [len(kept) for is_plain, kept in worker._loaded.values() if not is_plain]
        assert sum(kept) == worker._loaded_bytes <= worker._KEPT_BYTES
    assert len(kept) > 10
    worker._callable("huge", bytes(frames.dumps_callable(functools.partial(len, bytes(9 << 20)))))
    assert [*worker._loaded] == ["huge"]


def test_large_results_pass_through_shared_memory(make_pool: Any) -> None:
    """From the second result on: before that the node does not know that they are large."""
    pool = make_pool(1)
    for _ in range(3):
        assert pool.apply(tasks.zeros, (3 << 20,)) == bytes(3 << 20)
    [first, second] = pool.map(tasks.zeros, [2 << 20, 3], 2)
    assert (len(first), second) == (2 << 20, bytes(3))


def test_an_array_may_be_changed_where_it_arrives(make_pool: Any) -> None:
    numpy = pytest.importorskip("numpy")
    pool = make_pool(1)
    for length in 3, 10_000, 1 << 20:
        mine = numpy.zeros(length)
        for _ in range(2):
            back = pool.apply(work.add_one, (mine,))
            back += 1
            assert (back == 2).all() and (mine == 0).all()


@pytest.mark.parametrize("kind", [bytes, bytearray])
def test_a_buffer_that_is_no_array_arrives_as_what_it_was(make_pool: Any, kind: Any) -> None:
    """Of any size, as in `cpool.Pool`: what the class does with it works there too."""
    pool = make_pool(1)
    for size in 100, 1 << 17, 3 << 20:
        data = kind(random.Random(3).randbytes(size))
        there, back = pool.apply(work.kind_and_back, (work.Holder(data),))
        assert (there, type(back.data)) == (kind.__name__, kind)
        assert back.data == data


def test_large_data_are_in_the_shared_memory_of_the_node(make_pool: Any) -> None:
    """`statistics()` says how much there is."""
    numpy = pytest.importorskip("numpy")
    pool = make_pool(1)
    pool.apply(abs, (-1,))
    found = pool.statistics()
    array = numpy.ones(1 << 20)
    assert found.shared_memory < array.nbytes and found.shared_memory_in_use == 0
    assert (pool.apply(tasks.identity, (array,)) == array).all()
    found = pool.statistics()
    [node] = found.nodes
    # The result is there until it has been sent; the argument may be, until the worker tells.
    assert node.shared_memory >= node.shared_memory_in_use >= array.nbytes
    assert found.shared_memory == node.shared_memory
    assert found.shared_memory_in_use == node.shared_memory_in_use
    _, names, row, _ = (re.split(r" {2,}", line.strip()) for line in str(found).splitlines())
    assert dict(zip(names, row, strict=True))["in_use"].endswith(" MiB")
    pool.terminate()


def test_large_buffers_are_passed_on_as_arrays(monkeypatch: pytest.MonkeyPatch) -> None:
    """As views of the same memory. In a pool these do not cost a copy at each end."""
    numpy = pytest.importorskip("numpy")
    from cpool._cluster import frames

    kinds: list[Any] = [
        numpy.arange(1 << 16),
        numpy.arange(1 << 17)[5:],
        numpy.asfortranarray(numpy.arange(90_000.0).reshape(300, 300)),
        numpy.zeros(1 << 16, "i4, f8"),
        arrays.array("d", bytes(1 << 17)),
    ]
    for values in kinds:
        buffer = pickle.PickleBuffer(values)
        found = frames.for_pool(buffer)
        assert (type(found), found.dtype) == (numpy.ndarray, numpy.uint8)
        assert numpy.shares_memory(found, numpy.asarray(values))
        assert bytes(found) == bytes(buffer.raw())
    data, [buffer] = frames.dumps(kinds[0])
    given = numpy.array(memoryview(buffer).cast("B"))
    back = frames.loads(data, [given])
    assert frames.for_pool(frames.dumps(back)[1][0]).base is given  # so the pool need not copy it
    arrived = memoryview(bytes(1 << 17))
    assert frames.for_pool(arrived[9:]).nbytes == (1 << 17) - 9
    assert type(frames.for_pool(arrived[:9])) is pickle.PickleBuffer
    assert frames.for_pool(b"few") == b"few"
    monkeypatch.delitem(sys.modules, "numpy")
    assert frames.for_pool(buffer) is buffer
    assert type(frames.for_pool(arrived)) is pickle.PickleBuffer


def test_a_large_callable_goes_once_to_each_node(
    pool: Any, client: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And no piece is sent before it has arrived, to whichever node."""
    keeper = pool._keeper
    fetched = client.run_on_scheduler(count_fetches)
    call = work.Heavy()
    submit, arrived = keeper._submit, []

    def submitted(*args: Any) -> None:
        arrived.extend(upload.is_there for upload in keeper.uploads.values())
        submit(*args)

    monkeypatch.setattr(keeper, "_submit", submitted)
    found = pool.map(call, range(40), 1)
    assert [x for x, _, _ in found] == list(range(40))
    assert {size for _, _, size in found} == {100_000}
    assert arrived and all(arrived)
    assert client.run_on_scheduler(count_fetches) - fetched <= len(nodes_of(client))


def count_fetches(dask_scheduler: Any) -> int:
    """How often nodes have asked the arbiter for something large, counted from the first call."""
    from cpool._cluster.arbiter import NAME

    arbiter = dask_scheduler.plugins[NAME]
    if not hasattr(arbiter, "fetches"):
        arbiter.fetches = 0
        fetch = dask_scheduler.handlers["cpool_fetch"]

        def counted(comm: Any = None, **kwds: Any) -> Any:
            arbiter.fetches += 1
            return fetch(comm, **kwds)

        dask_scheduler.handlers["cpool_fetch"] = counted
    return int(arbiter.fetches)


def test_pieces_have_the_name_of_the_function(pool: Any, client: Any) -> None:
    client.get_task_stream()  # the scheduler keeps a stream from the first call on
    pool.map(tasks.square, range(10))

    def has_come() -> bool:
        return any("tasks.square-" in str(task["key"]) for task in client.get_task_stream())

    in_a_while(has_come)


def test_a_callback_cannot_wait_for_a_callback(make_pool: Any) -> None:
    pool = make_pool(1)
    told: list[Exception] = []

    def wait(_: Any) -> None:
        other = pool.apply_async(abs, (-1,), callback=id)
        pool.close()
        for call in other.get, other.wait, pool.join:
            try:
                call()
            except RuntimeError as error:
                told.append(error)

    pool.apply_async(abs, (-1,), callback=wait).get(DEADLINE)
    assert len(told) == 3 and all("callback" in str(error) for error in told)
    pool.join(DEADLINE)


class Joins:
    """An iterable that closes and joins its pool, in iter() or before the second item."""

    def __init__(self, pool: Any, where: str) -> None:
        self.pool, self.where, self.items = pool, where, iter(range(3))
        self.told: Any = None

    def join(self) -> None:
        self.pool.close()
        try:
            self.pool.join()
        except RuntimeError as error:
            self.told = error

    def __iter__(self) -> Any:
        if self.where == "iter":
            self.join()
        return self

    def __next__(self) -> int:
        item = next(self.items)
        if self.where == "next" and item == 1:
            self.join()
        return item


@pytest.mark.parametrize("where", ["iter", "next"])
def test_an_iterable_cannot_join_its_pool(make_pool: Any, where: str) -> None:
    pool = make_pool(1)
    items = Joins(pool, where)
    results = pool.imap(tasks.square, items)
    assert [results.next(DEADLINE) for _ in range(3)] == [0, 1, 4]
    assert "cannot join" in str(items.told)
    pool.join(DEADLINE)


def test_sources_that_block_or_use_the_pool_hold_up_no_other(make_pool: Any) -> None:
    pool = make_pool(2)
    released = threading.Event()

    def blocked() -> Iterator[int]:
        yield 1
        assert released.wait(6 * DEADLINE)
        yield 2

    def nested() -> Iterator[int]:
        for x in range(3):
            yield sum(pool.map(tasks.identity, iter(range(x)))) + sum(pool.imap(abs, range(x)))

    items = pool.imap(tasks.identity, blocked())
    assert items.next(DEADLINE) == 1
    chain = pool.imap(tasks.identity, pool.imap(tasks.square, iter(range(20))))
    assert [chain.next(DEADLINE) for _ in range(20)] == [x * x for x in range(20)]
    results = pool.imap(tasks.identity, nested())
    assert [results.next(DEADLINE) for _ in range(3)] == [0, 0, 2]
    released.set()
    assert items.next(DEADLINE) == 2


@pytest.mark.parametrize("is_late", [False, True])
def test_a_call_that_comes_while_the_pool_ends(
    make_pool: Any, monkeypatch: pytest.MonkeyPatch, is_late: bool
) -> None:
    """It is refused, whether the keeper still reads its messages or has ended."""
    pool = make_pool(1)
    keeper = pool._keeper
    running = pool._check_running()
    monkeypatch.setattr(pool, "_check_running", lambda: running)  # another thread calls close() now
    pool.close()
    if is_late:
        pool.join(DEADLINE)
        with pytest.raises(ValueError, match="not running"):
            pool.apply_async(abs, (1,))
        with pytest.raises(ValueError, match="not running"):
            pool.imap(abs, [1])
        return
    keeper.ended.wait(DEADLINE)
    keeper.thread.join(DEADLINE)
    monkeypatch.setattr(keeper.ended, "is_set", lambda: False)  # as the caller saw it before
    result = pool.apply_async(abs, (1,))
    monkeypatch.undo()
    keeper._refuse_late()
    with pytest.raises(ValueError, match="not running"):
        result.get(DEADLINE)


def test_a_copy_of_the_process_has_no_pool(make_pool: Any, gate: Gate) -> None:
    """Except for results that have arrived, even if threads of the program hold their locks."""
    pool = make_pool(1)
    arrived = pool.imap(tasks.square, [3, 4], buffersize=4)
    single = pool.apply_async(tasks.square, (5,))
    in_a_while(lambda: len(arrived._arrived) == 2)
    in_a_while(lambda: single._left == 0)
    result = pool.apply_async(gate.hold, (5,))
    values = pool.imap(tasks.square, [3])
    gate.arrived()
    forked = threading.Event()
    locked = [threading.Event() for _ in range(2)]

    def hold(news: threading.Condition, is_held: threading.Event) -> None:
        with news:
            is_held.set()
            forked.wait(DEADLINE)

    holders = [
        threading.Thread(target=hold, args=(each._news.here(), is_held))
        for each, is_held in zip((arrived, single), locked, strict=True)
    ]
    for holder, is_held in zip(holders, locked, strict=True):
        holder.start()
        assert is_held.wait(DEADLINE)
    pid = os.fork()
    if pid == 0:
        refused = 0
        try:
            signal.alarm(int(DEADLINE))  # ends the copy if it waits
            refused += (next(arrived), single.ready()) == (9, True)
            arrived.close()
            for call in (
                lambda: pool.apply(abs, (1,)), result.get, result.wait, result.cancel, values.next,
                pool.statistics, pool.dump, lambda: list(cpool.as_completed([result])),
                lambda: asyncio.run(awaited(result)),
            ):  # fmt: skip
                try:
                    call()
                except ValueError:
                    refused += 1
        finally:
            os._exit(refused)
    forked.set()
    for holder in holders:
        holder.join()
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 10
    gate.open()
    assert (result.get(DEADLINE), values.next(DEADLINE)) == (5, 9)
    assert (list(arrived), single.get(DEADLINE)) == ([9, 16], 25)


def test_a_chunk_of_calls_ends_with_a_stop_iteration(pool: Any) -> None:
    for method in pool.map, pool.starmap:
        with pytest.raises(RuntimeError, match="raised StopIteration"):
            method(next, [(iter(()),)] if method == pool.starmap else [iter(())])


def test_waits_end_with_the_pool(make_pool: Any) -> None:
    """join(timeout) waits for a callback; wait_for_nodes() ends with the pool."""
    pool = make_pool(1)
    begin = threading.Event()
    pool.apply_async(abs, (-1,), callback=lambda _: begin.wait(DEADLINE))
    pool.close()
    assert pool._keeper.ended.wait(DEADLINE)
    with pytest.raises(multiprocessing.TimeoutError):
        pool.join(timeout=0.01)
    with pytest.raises(ValueError, match="not running"):
        pool.wait_for_nodes(100)
    begin.set()
    pool.join(timeout=DEADLINE)


def test_waits_for_a_value_that_is_being_rebuilt(
    make_pool: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Time limits of other threads hold. The thread that rebuilds cannot wait without one."""
    begun, go_on = threading.Event(), threading.Event()
    told: list[Any] = []

    def rebuild() -> str:
        for wait in result.get, result.wait:
            with pytest.raises(RuntimeError, match="cannot wait"):
                wait()
        with pytest.raises(multiprocessing.TimeoutError):
            result.get(0.01)
        begun.set()
        assert go_on.wait(DEADLINE)
        return "value"

    monkeypatch.setattr(work, "rebuild", rebuild)
    result = make_pool(1).apply_async(work.give, ("rebuilt",))
    reader = threading.Thread(target=lambda: told.append(result.get()))
    reader.start()
    assert begun.wait(DEADLINE)
    with pytest.raises(multiprocessing.TimeoutError):
        result.get(0.01)
    result.wait(0.01)
    assert not result.ready()
    go_on.set()
    reader.join(DEADLINE)
    assert told == ["value"] and result.successful()


def held_numbers(name: str) -> set[int]:
    """The chunks of one pool that were cancelled before they arrived in the pool of this node."""
    from cpool._cluster.node import _nodes

    return {
        number for (pool, _), node in _nodes.items() if pool == name for number in node.cancelled
    }


@pytest.mark.parametrize("way", ["cancel", "close"])
def test_what_has_not_begun_is_withdrawn(
    make_pool: Any, client: Any, gate: Gate, diary: Diary, way: str
) -> None:
    """Once its node has heard of it."""
    pool = make_pool(1)
    blocker = pool.apply_async(gate.hold)
    gate.arrived()
    if way == "cancel":
        result = pool.map_async(diary.write, range(60), 1)
    else:
        result = pool.imap(diary.write, range(60))
    counts = [0]

    def all_are_sent() -> bool:
        counts.append(sum(node.count for node in pool.nodes))
        return counts[-1] > 1 and counts[-1] == counts[-2]

    eventually(all_are_sent)
    [sent] = [set(job.flying) for job in pool._keeper.jobs.values() if job.result is not blocker]
    getattr(result, way)()

    def is_heard() -> bool:
        found = client.run(functools.partial(held_numbers, pool._keeper.pool))
        return bool(sent <= set().union(*found.values()))

    in_a_while(is_heard)
    gate.open()
    blocker.get(DEADLINE)
    assert pool.map(tasks.square, range(10), 1)[-1] == 81
    assert diary.lines() == []


def test_a_cancelled_call_has_one_outcome(pool: Any) -> None:
    results = [pool.apply_async(tasks.square, (x,)) for x in range(60)]
    for number, result in enumerate(results):
        stopped = result.cancel(kill=False)
        try:
            assert result.get(DEADLINE) == number * number and not stopped
        except TaskCancelledError:
            assert stopped and result.cancelled()


def test_threads_of_the_program_use_one_pool(pool: Any, in_threads: Any) -> None:
    def calls(number: int) -> list[int]:
        return [pool.apply(tasks.add, (number, i)) for i in range(3)]

    assert in_threads(calls, range(4)) == [[n + i for i in range(3)] for n in range(4)]


def test_a_reader_gets_every_result_although_another_thread_joins(
    make_pool: Any, in_threads: Any
) -> None:
    pool = make_pool(2)
    results = pool.imap(tasks.identity, iter(range(12)), buffersize=2)

    assert read_during_join(pool, results, in_threads) == list(range(12))


def test_an_ended_pool_is_not_kept_by_its_client(client: Any) -> None:
    with new_pool(client) as pool:
        keeper = weakref.ref(pool._keeper)
    pool.join()
    del pool
    in_a_while(lambda: (gc.collect(), keeper() is None)[1])


def spans(dask_scheduler: Any) -> dict[str, tuple[int, int]]:
    found = dask_scheduler.extensions["spans"].spans
    return {
        name: (len(span.groups), len(span._metadata["collections"])) for name, span in found.items()
    }


def test_the_scheduler_keeps_nothing_of_pieces_that_have_ended(
    pool: Any, client: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from cpool._cluster import keeper

    monkeypatch.setattr(keeper, "_MOST_STALE", 10)
    for _ in range(41):
        pool.apply(abs, (-1,))

    def is_trimmed() -> bool:
        groups, entries = client.run_on_scheduler(spans)[pool._keeper.pool]
        return groups <= 20 and entries <= 11

    in_a_while(is_trimmed)


def test_the_initializer_runs_in_every_worker(make_pool: Any) -> None:
    pool = make_pool(2, tasks.remember, ("database",))
    assert set(pool.map(tasks.remembered, range(20), 1)) == {("database",)}


@pytest.mark.parametrize("context", ["forkserver", "spawn"])
def test_workers_import_neither_dask_nor_the_main_module_of_the_node(
    client: Any, context: str
) -> None:
    from cpool.distributed import Pool

    with Pool(client, 1, nodes=nodes_of(client)[:1], context=context) as pool:
        found = pool.apply(eval, ("set(__import__('sys').modules)",))
    assert found.isdisjoint({"distributed", "pytest"})


def test_a_failing_initializer_fails_every_call(make_pool: Any) -> None:
    from cpool import InitializerError

    pool = make_pool(1, tasks.fail, ("database",))
    for call in (lambda: pool.apply(abs, (1,)), lambda: pool.map(abs, [1, 2])):
        with pytest.raises(InitializerError) as caught:
            call()
        assert "no database" in str(caught.value.__cause__)


def test_the_pool_ends_what_it_has_on_the_nodes(client: Any) -> None:
    with new_pool(client) as pool:
        pool.wait_for_nodes(2, DEADLINE)
        pids = [worker.pid for worker in pool._pool]
    for pid in pids:
        eventually(lambda pid=pid: not os.path.exists(f"/proc/{pid}/exe"))
    topics = client.run_on_scheduler(lambda dask_scheduler: list(dask_scheduler.worker_plugins))
    assert f"cpool-{pool._keeper.pool}" not in topics


def plugins(dask_scheduler: Any) -> list[str]:
    return [name for name in dask_scheduler.worker_plugins if name.startswith("cpool-")]


def test_the_nodes_of_a_program_that_dies_are_ended(cluster: Any, client: Any) -> None:
    before = client.run_on_scheduler(plugins)
    program = (
        "import os, signal, sys\n"
        "from cpool.distributed import Pool\n"
        "pool = Pool(sys.argv[1], context='fork')\n"
        "assert pool.map(abs, [-1, 2]) == [1, 2]\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run([sys.executable, "-c", program, cluster.scheduler_address], cwd=TESTS)
    assert done.returncode == -signal.SIGKILL
    in_a_while(lambda: client.run_on_scheduler(plugins) == before)


# Versions


@pytest.mark.parametrize("package", ["python", "cpool", "dask", "distributed"])
def test_other_versions_are_told_by_name(
    client: Any, monkeypatch: pytest.MonkeyPatch, package: str
) -> None:
    from cpool._cluster import pool as module
    from cpool.distributed import Pool, VersionMismatchError

    here = {**module.versions(), package: "0.0.1"}
    monkeypatch.setattr(module, "versions", lambda: here)
    with pytest.raises(
        VersionMismatchError, match=f"the scheduler has {package} .*0.0.1"
    ) as caught:
        Pool(client)
    assert {(name, there) for _, name, there, _ in caught.value.mismatches} == {(package, "0.0.1")}


def test_a_late_node_of_another_version_is_not_used(
    client: Any, monkeypatch: pytest.MonkeyPatch, warned: list[str]
) -> None:
    from cpool._cluster import node as module

    here = module.versions()
    monkeypatch.setattr(module, "versions", lambda: {**here, "cpool": "0.0.1"})
    pool = new_pool(client)
    try:
        eventually(lambda: len(warned) == 2)
        assert "is not used: node tcp" in warned[0] and "has cpool" in warned[0]
        assert pool.nodes == []
    finally:
        pool.terminate()


# Losses


def test_a_lost_worker_names_its_node(make_pool: Any, client: Any) -> None:
    pool = make_pool(1)
    with pytest.raises(WorkerLostError) as caught:
        pool.apply(tasks.die)
    [address] = [node.address for node in pool.nodes]
    assert caught.value.node == address
    assert address in str(caught.value) and "tasks.die" in str(caught.value)


@pytest.mark.parametrize("grace", [None, 5])
def test_a_task_has_a_time_limit(make_pool: Any, gate: Gate, grace: float | None) -> None:
    pool = make_pool(1)
    results = pool.imap(tasks.call, [tasks.nothing, gate.hold], task_timeout=1.0, grace=grace)
    assert results.next(DEADLINE) is None
    with pytest.raises(TaskTimeoutError, match=r"\btasks.call\b.*on node tcp") as caught:
        results.next(DEADLINE)
    assert (caught.value.limit, caught.value.index) == (1.0, 1)
    assert caught.value.node == pool.nodes[0].address


def test_a_pool_with_options(pool: Any) -> None:
    configured = pool.options(return_exceptions=True)
    assert [type(found) for found in configured.map(work.fail_if_odd, range(2))] == [
        int,
        ValueError,
    ]


def test_retries_run_a_lost_item_again(make_pool: Any, diary: Diary) -> None:
    pool = make_pool(1)
    items = [(diary, i) for i in range(3)]
    assert pool.starmap(work.die_at_first, items, retries=1) == [0, 1, 2]
    assert collections.Counter(diary.lines()) == {"0": 2, "1": 2, "2": 2}


def test_retry_on_runs_a_failed_item_again(make_pool: Any, diary: Diary) -> None:
    pool = make_pool(1)
    items = [(diary, i) for i in range(3)]
    with pytest.raises(LookupError):
        pool.starmap(work.fail_at_first, items, 1)
    items = [(diary, i) for i in range(3, 6)]
    with pytest.raises(LookupError):
        pool.starmap(work.fail_at_first, items, retries=1)
    items = [(diary, i) for i in range(6, 9)]
    found = pool.starmap(work.fail_at_first, items, retries=1, retry_on=LookupError)
    assert found == [6, 7, 8]


def test_a_node_is_lost(
    client: Any, node: Extra, make_gate: Any, diary: Diary, tmp_path: Path
) -> None:
    """Items that it had begun fail, or run again on another node; others wait for another node."""
    from cpool.distributed import NodeLostError

    gates = [make_gate() for _ in range(2)]
    retried = Diary(tmp_path / "retried")
    pools = [new_pool(client, 1, nodes=[node.address]), new_pool(client, 2)]
    try:
        pools[1].wait_for_nodes(3, 3 * DEADLINE)
        nodes = [pools[1].apply(work.node_of, key=key) for key in range(3)]
        assert node.process.pid in nodes
        begun = pools[0].apply_async(work.noted_then_hold, (diary, gates[0], 0))
        gates[0].arrived()
        waiting = [pools[0].apply_async(work.noted, (diary, i)) for i in range(1, 10)]
        results = [
            pools[1].apply_async(work.noted_then_hold, (retried, gates[1], i), retries=1)
            for i in range(3)
        ]
        gates[1].arrived(3)
        node.kill()
        with pytest.raises(NodeLostError, match="left the cluster while it ran") as caught:
            begun.get(DEADLINE)
        assert caught.value.node == node.address
        assert not any(result.ready() for result in waiting)
        assert diary.lines() == ["0"]

        gates[1].arrived(1)
        gates[1].open()
        assert [result.get(2 * DEADLINE) for result in results] == [0, 1, 2]
        assert sorted(collections.Counter(retried.lines()).values()) == [1, 1, 2]
        for key, before in enumerate(nodes):
            now = pools[1].apply(work.node_of, key=key)
            assert (now == before) == (before != node.process.pid)
        found = pools[1].statistics()
        assert (found.lost, found.retried, found.nodes[0].is_there) == (0, 1, False)
        assert found.nodes[0].address == node.address
    finally:
        for pool in pools:
            pool.terminate()
    for result in waiting:
        with pytest.raises(Exception, match="terminated"):
            result.get(DEADLINE)
    assert (pools[0].statistics().lost, pools[0].statistics().cancelled) == (1, 9)


# Large data pass between the program and the nodes, not through the scheduler


LARGE = 3 << 20


def count_large(dask_scheduler: Any) -> int:
    """How often something large has passed through the scheduler, counted from the first call."""
    from cpool._cluster.arbiter import NAME

    arbiter = dask_scheduler.plugins[NAME]
    if not hasattr(arbiter, "large"):
        arbiter.large = 0
        for op in "cpool_put", "cpool_done":
            handler = dask_scheduler.handlers[op]

            def counted(comm: Any = None, *, handler: Any = handler, data: Any, **kwds: Any) -> Any:
                frames = getattr(data, "frames", ())
                arbiter.large += sum(memoryview(frame).nbytes for frame in frames) >= 1 << 20
                return handler(comm, data=data, **kwds)

            dask_scheduler.handlers[op] = counted
    return int(arbiter.large)


def left_behind(name: str) -> int:
    """The pieces and results of a pool that its node keeps."""
    from cpool._cluster.node import _nodes

    return sum(
        len(node.given) + len(node.kept) for (pool, _), node in _nodes.items() if pool == name
    )


@pytest.fixture
def direct(client: Any, make_pool: Any) -> Any:
    """A pool of one node that the program is known to reach."""
    pool = make_pool(1)
    pool.wait_for_nodes(1, DEADLINE)
    [node] = pool.nodes

    def is_reached() -> bool:
        return pool.apply(tasks.zeros, (LARGE,)) == bytes(LARGE) and bool(node.is_direct)

    in_a_while(is_reached)
    client.run_on_scheduler(count_large)
    return pool


def nothing_is_left(client: Any, pool: Any) -> None:
    """Nor does a dask task wait for ever."""
    in_a_while(lambda: not any(client.run(left_behind, pool._keeper.pool).values()))
    in_a_while(lambda: not pool._keeper.ending)
    in_a_while(lambda: client.run_on_scheduler(messages_kept) == 0)


def instead(monkeypatch: pytest.MonkeyPatch, pool: Any, what: str, call: Any) -> list[int]:
    """Have `await call(real)` in the place of each direct request `what`; the list counts them."""
    real, calls = pool._keeper._call, []

    async def replaced(node: Any, op: str, **kwds: Any) -> Any:
        if op != what:
            return await real(node, op, **kwds)
        calls.append(len(calls))
        return await call(functools.partial(real, node, op, **kwds))

    monkeypatch.setattr(pool._keeper, "_call", replaced)
    return calls


async def unreachable(real: Any) -> Any:
    raise OSError("by the test")


async def answer_lost(real: Any) -> Any:
    await real()
    raise OSError("by the test")


def test_large_data_do_not_pass_through_the_scheduler(client: Any, direct: Any) -> None:
    before = client.run_on_scheduler(count_large)
    for count in range(3):
        [back] = direct.map(tasks.identity, [bytes([count]) * LARGE])
        assert back == bytes([count]) * LARGE
    assert client.run_on_scheduler(count_large) == before
    nothing_is_left(client, direct)


@pytest.mark.parametrize(
    ("what", "how"),
    [("cpool_give", unreachable), ("cpool_give", answer_lost), ("cpool_take", unreachable)],
)
def test_a_direct_request_that_fails_goes_through_the_scheduler(
    client: Any, direct: Any, diary: Diary, monkeypatch: pytest.MonkeyPatch, what: str, how: Any
) -> None:
    """And the item runs once. The next request is a direct one again."""
    calls = instead(monkeypatch, direct, what, how)
    found = direct.apply(work.noted_and_back, (diary, bytes(LARGE)))
    assert (found, diary.lines(), len(calls)) == (bytes(LARGE), [str(LARGE)], 1)
    nothing_is_left(client, direct)
    monkeypatch.undo()
    [node] = direct.nodes

    def is_reached() -> bool:
        return direct.apply(tasks.zeros, (LARGE,)) == bytes(LARGE) and bool(node.is_direct)

    in_a_while(is_reached)
    before = client.run_on_scheduler(count_large)
    assert direct.apply(tasks.identity, (bytes(LARGE),)) == bytes(LARGE)
    assert client.run_on_scheduler(count_large) == before


@pytest.mark.parametrize("is_read", [False, True])
def test_the_node_sends_results_that_were_not_confirmed(
    client: Any, direct: Any, monkeypatch: pytest.MonkeyPatch, is_read: bool
) -> None:
    """The connection breaks before or after the results, and the node is not asked again."""
    [node] = direct.nodes
    keeper = direct._keeper

    async def breaks(real: Any) -> Any:
        comm = await keeper.client.rpc.connect(node.address)
        message = {"pool": keeper.pool, "address": node.address, "life": node.life}
        await comm.write({"op": "cpool_take", "reply": True, **real.keywords, **message})
        if is_read:
            await comm.read()
        comm.abort()
        keeper.client.rpc.reuse(node.address, comm)
        raise OSError("by the test")

    ask = keeper._ask

    async def without_relay(what: str, **kwds: Any) -> Any:
        return None if what == "cpool_relay" else await ask(what, **kwds)

    calls = instead(monkeypatch, direct, "cpool_take", breaks)
    monkeypatch.setattr(keeper, "_ask", without_relay)
    assert direct.apply(tasks.zeros, (LARGE,)) == bytes(LARGE)
    assert len(calls) == 1
    nothing_is_left(client, direct)


def test_results_that_nobody_can_fetch(
    client: Any, direct: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The items of their piece fail, and no other."""
    ask = direct._keeper._ask

    async def no_relay(what: str, **kwds: Any) -> Any:
        if what == "cpool_relay":
            raise OSError("by the test")
        return await ask(what, **kwds)

    instead(monkeypatch, direct, "cpool_take", unreachable)
    monkeypatch.setattr(direct._keeper, "_ask", no_relay)
    with pytest.raises(
        cpool.PoolError, match=r"a message for Pool\.apply\(tasks\.zeros\) .*by the test"
    ):
        direct.apply(tasks.zeros, (LARGE,))
    assert direct.apply(abs, (-1,)) == 1


def test_a_node_is_lost_that_has_large_results(
    client: Any, node: Extra, diary: Diary, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its items have begun: they fail, or run again on another node. Frozen, it never answers."""
    from cpool.distributed import NodeLostError

    with new_pool(client, 1) as pool:
        pool.wait_for_nodes(3, 3 * DEADLINE)
        [other] = [each for each in pool.nodes if each.address == node.address]
        keys = {pool.apply(work.node_of, key=key): key for key in range(6)}
        key = keys[node.process.pid]
        in_a_while(lambda: pool.apply(tasks.zeros, (LARGE,), key=key) and other.is_direct)
        fetching = threading.Event()
        comms: list[Any] = []

        async def frozen(real: Any) -> Any:
            if fetching.is_set():  # the second call, on another node
                return await real()
            node.process.send_signal(signal.SIGSTOP)
            asked = asyncio.ensure_future(real())
            while not other.comms:
                await asyncio.sleep(0.01)
            comms.extend(other.comms)
            fetching.set()
            return await asked

        instead(monkeypatch, pool, "cpool_take", frozen)
        given = work.noted_and_back, (diary, bytes(LARGE))
        result = pool.apply_async(*given, key=key)
        assert fetching.wait(DEADLINE)
        again = pool.apply_async(*given, key=key, retries=1)
        assert not result.ready()
        node.kill()
        with pytest.raises(NodeLostError):
            result.get(DEADLINE)
        monkeypatch.undo()
        assert again.get(3 * DEADLINE) == bytes(LARGE)
        assert len(diary.lines()) == 2  # the second call had not begun
        in_a_while(lambda: comms[0].closed() and not other.comms)


def test_the_pool_ends_while_results_wait_on_a_node(
    client: Any, direct: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    fetching = threading.Event()

    async def never(real: Any) -> Any:
        fetching.set()
        await asyncio.sleep(3600)

    instead(monkeypatch, direct, "cpool_take", never)
    result = direct.apply_async(tasks.zeros, (LARGE,))
    assert fetching.wait(DEADLINE)
    assert any(client.run(left_behind, direct._keeper.pool).values())
    direct.terminate()
    direct.join(DEADLINE)
    with pytest.raises(cpool.PoolTerminated):
        result.get(DEADLINE)
    assert not any(client.run(left_behind, direct._keeper.pool).values())


def test_a_node_takes_only_what_is_meant_for_it(client: Any, direct: Any) -> None:
    """Another one may have had its address before."""
    from cpool._cluster.node import run_piece

    [node] = direct.nodes
    name = direct._keeper.pool
    rpc = client.rpc(node.address)
    given = {"pool": name, "address": node.address}
    for wrong in ({**given, "life": "other"}, {"pool": "other", "address": "", "life": node.life}):
        assert client.sync(rpc.cpool_reach, **wrong) is False
        assert client.sync(rpc.cpool_give, **wrong, piece=10**6, data=None) is False
        assert client.sync(rpc.cpool_take, **wrong, key=0) is None
    assert client.sync(rpc.cpool_take, **given, life=node.life, key=10**6) is None
    assert client.sync(rpc.cpool_reach, **given, life=node.life) is True
    given_to = name, node.address, "other"
    done = client.submit(
        run_piece, *given_to, "key", 10**6, None, 0.1, True, workers=[node.address]
    )
    assert done.result(DEADLINE) == "refused"


def test_a_node_that_cannot_be_reached_is_asked_once(
    client: Any, direct: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    [node] = direct.nodes
    node.is_direct = None
    calls = instead(monkeypatch, direct, "cpool_reach", unreachable)
    before = client.run_on_scheduler(count_large)
    for _ in range(3):
        assert direct.apply(tasks.identity, (bytes(LARGE),)) == bytes(LARGE)
    assert len(calls) == 1
    assert client.run_on_scheduler(count_large) - before == 6


def test_a_node_that_is_too_busy_to_answer_is_asked_again(
    direct: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from cpool._cluster import keeper

    async def silent(real: Any) -> Any:
        await asyncio.sleep(3600)

    [node] = direct.nodes
    node.is_direct = None
    monkeypatch.setattr(keeper, "_REACH", 0.01)
    calls = instead(monkeypatch, direct, "cpool_reach", silent)
    in_a_while(lambda: direct.apply(tasks.zeros, (LARGE,)) == bytes(LARGE) and len(calls) >= 2)
    monkeypatch.undo()
    in_a_while(lambda: direct.apply(tasks.zeros, (LARGE,)) == bytes(LARGE) and node.is_direct)


# The keeper's guards


@pytest.mark.parametrize("event", ["of another version", "read"])
def test_an_event_that_cannot_be_taken_in_fails_the_calls(
    make_pool: Any, gate: Gate, event: str
) -> None:
    """They do not wait for ever, and the pool works on. "read" comes without what was read."""
    pool = make_pool(1)
    held = pool.apply_async(gate.hold)
    gate.arrived()
    pool._keeper.tell(event)
    with pytest.raises((AttributeError, TypeError), match=f"_on_{event}"):
        held.get(DEADLINE)
    gate.open()
    assert pool.map(abs, range(-3, 0)) == [3, 2, 1]


def test_a_callable_is_dropped_before_it_is_sent_again(
    pool: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    keeper = pool._keeper
    ask = keeper._ask
    order: list[str] = []
    dropping, go_on = threading.Event(), threading.Event()

    async def slow(what: str, **kwds: Any) -> Any:
        is_drop = what == "cpool_drop" and not kwds["pieces"]
        if is_drop and not dropping.is_set():
            dropping.set()
            while not go_on.is_set():
                await asyncio.sleep(0.01)
        answer = await ask(what, **kwds)
        if is_drop or what == "cpool_put":
            order.append(what)
        return answer

    monkeypatch.setattr(keeper, "_ask", slow)
    call = work.Heavy()
    assert [x for x, _, _ in pool.map(call, range(2), 1)] == [0, 1]
    assert dropping.wait(DEADLINE)
    again = pool.map_async(call, range(2, 4), 1)
    eventually(lambda: keeper.uploads, "the second call was not sent")
    go_on.set()
    assert [x for x, _, _ in again.get(DEADLINE)] == [2, 3]
    assert order[:3] == ["cpool_put", "cpool_drop", "cpool_put"]


def test_a_scheduler_that_has_not_started_does_not_hinder_the_end(
    cluster: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has no address: the pools of the others in this process end all the same."""
    from cpool._cluster import pool as module

    ended: list[str] = []

    class Stub:
        def __init__(self, address: str) -> None:
            self._client = types.SimpleNamespace(scheduler=types.SimpleNamespace(address=address))

        def _terminate(self) -> None:
            ended.append(self._client.scheduler.address)

    stubs = [Stub("tcp://elsewhere:1"), Stub(cluster.scheduler_address)]
    monkeypatch.setattr(module, "_pools", weakref.WeakSet(stubs))

    async def end() -> None:
        scheduler = distributed.Scheduler(dashboard_address=":0")
        try:
            with pytest.raises(ValueError, match="non-running"):
                assert scheduler.address
            module._end_pools()
        finally:
            await scheduler.close()

    asyncio.run(end())
    assert ended == [cluster.scheduler_address]


# Requests that fail


def break_calls(ops: list[str], is_done: bool, dask_scheduler: Any) -> None:
    """Have the connection of a node break once in each of these calls, before or after it."""
    for op in ops:
        handler = dask_scheduler.handlers[op]

        def broken(comm: Any = None, op: str = op, handler: Any = handler, **kwds: Any) -> None:
            dask_scheduler.handlers[op] = handler
            if is_done:
                handler(comm, **kwds)
            raise OSError("broken by the test")

        dask_scheduler.handlers[op] = broken


def test_a_connection_of_a_node_that_breaks_is_made_again(
    client: Any, shared_pool: Any, make_pool: Any, diary: Diary
) -> None:
    # shared_pool: the scheduler has the handlers from the first pool on.
    ops = ["cpool_ready", "cpool_fetch", "cpool_begin", "cpool_done"]
    for is_done in False, True:
        client.run_on_scheduler(functools.partial(break_calls, ops, is_done))
        try:
            pool = make_pool(1)
            pool.wait_for_nodes(1, DEADLINE)
            [found] = pool.map(work.noted_bytes, [(diary, bytes(3 << 20))])
        finally:
            left = client.run_on_scheduler(mend_calls)
        assert (found, left) == (3 << 20, [])
    assert diary.lines() == [str(3 << 20)] * 2


def broken_calls(dask_scheduler: Any) -> list[str]:
    """The calls of break_calls() that nobody has made since."""
    return [op for op, call in dask_scheduler.handlers.items() if call.__name__ == "broken"]


def mend_calls(dask_scheduler: Any) -> list[str]:
    """Undo break_calls() where nobody has called since; return these calls."""
    left = broken_calls(dask_scheduler)
    for op in left:
        dask_scheduler.handlers[op] = dask_scheduler.handlers[op].__defaults__[-1]
    return left


def set_pauses(pauses: tuple[float, ...]) -> tuple[float, ...]:
    from cpool._cluster import node

    before, node.PAUSES = node.PAUSES, pauses
    return before


def test_a_piece_that_failed_before_it_began_runs_again(
    client: Any, make_pool: Any, diary: Diary
) -> None:
    """On the same node, as there is no other."""
    pool = make_pool(1)
    pauses = next(iter(client.run(set_pauses, ()).values()))
    try:
        client.run_on_scheduler(functools.partial(break_calls, ["cpool_begin"], False))
        assert pool.map_async(work.note_item, [(diary, 1)]).get(3 * DEADLINE) == [1]
    finally:
        client.run(set_pauses, pauses)
        client.run_on_scheduler(mend_calls)
    assert diary.lines() == ["1"]


def test_a_question_of_the_program_is_asked_again(
    client: Any, shared_pool: Any, make_gate: Any
) -> None:
    """A piece moves to an idle node although the connection breaks at the first try."""
    pool = shared_pool
    pool.map(time.sleep, [0.6] * 4, 1)
    eventually(lambda: not any(node.count for node in pool.nodes))
    gates = [make_gate() for _ in range(2)]
    held = []
    for gate in gates:  # one on each node
        held.append(pool.apply_async(gate.hold))
        gate.arrived()
    waiting = [pool.apply_async(work.node_of) for _ in range(2)]  # and one behind each
    client.run_on_scheduler(functools.partial(break_calls, ["cpool_revoke"], False))
    try:
        gates[1].open()
        for result in waiting:
            result.get(DEADLINE)
        left = client.run_on_scheduler(mend_calls)
    finally:
        gates[0].open()
    assert left == []
    for result in held:
        result.get(DEADLINE)


def test_requests_of_the_program_are_repeated(
    client: Any, pool: Any, make_gate: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If they fail in the end, only the items of their piece fail."""
    from cpool._cluster import node

    call = work.Heavy()
    ops = ["cpool_put", "cpool_drop", "cpool_cancel"]
    for is_done in False, True:
        client.run_on_scheduler(functools.partial(break_calls, ops, is_done))
        try:
            assert [x for x, _, _ in pool.map(call, range(2))] == [0, 1]
            gate = make_gate()
            held = pool.apply_async(gate.hold)
            gate.arrived()
            assert held.cancel()
            in_a_while(lambda: client.run_on_scheduler(broken_calls) == [])
        finally:
            client.run_on_scheduler(mend_calls)
    monkeypatch.setattr(node, "PAUSES", ())
    client.run_on_scheduler(functools.partial(break_calls, ["cpool_put"], False))
    with pytest.raises(
        cpool.PoolError, match=r"(item|items) .* did not reach the scheduler: OSErr"
    ):
        pool.map(call, range(4), 1)
    assert client.run_on_scheduler(broken_calls) == []
    assert [x for x, _, _ in pool.map(call, range(4), 1)] == [0, 1, 2, 3]


def test_a_frozen_node_does_not_hold_up_the_end(
    client: Any, make_pool: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from cpool._cluster import pool as module

    before = client.run_on_scheduler(plugins)
    pool = make_pool(1)
    pool.wait_for_nodes(1, DEADLINE)
    [node] = pool.nodes
    monkeypatch.setattr(module, "_GRACE", 0.2)
    monkeypatch.setattr(module, "_DUMP", 0.2)
    os.kill(node.pid, signal.SIGSTOP)
    out = io.StringIO()
    try:
        pool.dump(out)
        assert out.getvalue() == ""
        pool.terminate()
        pool.join(DEADLINE)
    finally:
        os.kill(node.pid, signal.SIGCONT)
    in_a_while(lambda: client.run_on_scheduler(plugins) == before)


def test_calls_wait_for_the_first_node(client: Any, cluster: Any) -> None:
    pool = new_pool(client, nodes=["tcp://127.0.0.1:1"])
    try:
        result = pool.map_async(abs, [-1])
        assert not result.ready()
        assert pool.nodes == []
    finally:
        pool.terminate()
    with pytest.raises(Exception, match="terminated"):
        result.get(DEADLINE)


def test_a_late_node_is_used_and_random_deaths_under_load(
    client: Any, diary: Diary, join: Callable[[], Extra]
) -> None:
    """Workers and whole nodes die: every item has one outcome, and nothing runs twice."""
    chance = random.Random(5)
    pool = new_pool(client)
    try:
        pool.wait_for_nodes(2, DEADLINE)
        node = join()
        pool.wait_for_nodes(3, 3 * DEADLINE)
        assert node.process.pid in pool.map(work.node_of, range(60), 1)
        results = pool.imap(work.note_item, ((diary, i) for i in range(2000)))
        lost = 0
        found = []
        for place in itertools.count():
            if place == 500:
                node.kill()
            elif place % 200 == 100 and (alive := [each for each in pool._pool if each.is_alive()]):
                chance.choice(alive).kill()
            try:
                found.append(results.next(3 * DEADLINE))
            except StopIteration:
                break
            except WorkerLostError:
                lost += 1
        assert len(found) + lost == 2000
        assert found == sorted(set(found))
        assert max(collections.Counter(diary.lines()).values()) == 1
        told = pool.statistics()
        assert (told.done, told.lost, told.pending) == (60 + len(found), lost, 0)
    finally:
        pool.terminate()


def test_the_loss_of_the_scheduler_fails_every_call(tmp_path: Any) -> None:
    from cpool.distributed import Pool, SchedulerLostError

    file = tmp_path / "scheduler.json"
    scheduler = start_scheduler(file)
    worker = None
    try:
        in_a_while(lambda: file.exists() and file.stat().st_size > 0)
        worker = start_worker("--scheduler-file", file)
        with distributed.Client(scheduler_file=str(file), set_as_default=False) as client:
            client.wait_for_workers(1, timeout=3 * DEADLINE)
            pool = Pool(client)
            assert pool.map(abs, [-1]) == [1]
            pid = pool.apply(os.getpid)
            pending = pool.apply_async(signal.pause)
            rest = pool.imap(abs, range(10_000))
            scheduler.kill()
            for wait in pending.get, lambda timeout: [rest.next(timeout) for _ in range(10_001)]:
                with pytest.raises(SchedulerLostError):
                    wait(DEADLINE)
            with pytest.raises(SchedulerLostError):
                pool.apply(abs, (1,))
            pool.terminate()
            pool.join(DEADLINE)
            in_a_while(lambda: gone(pid))
    finally:
        for process in scheduler, worker:
            if process is not None:
                process.kill()
                process.wait()
