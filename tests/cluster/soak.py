"""Mixed work on a cluster for a while: is the memory of scheduler, nodes and client level?

    python tests/cluster/soak.py                  ten minutes
    python tests/cluster/soak.py --seconds 3600 --pause 0

A cluster of a scheduler and two nodes, in separate processes. Two threads make calls of all kinds:
`map`, `imap`, `apply` and their kin with functions of modules, closures, arrays, failures, keys,
callbacks, cancelled calls, iterators that are closed half-read, and worker processes that die.
Every result is checked. Then the median memory of each process tree in the last quarter of the
calls is compared with that in the second one; the first is left out, since caches fill in it. So
are the blocks of memory that Python has allocated in the scheduler, the nodes and the client:
they show what a process still refers to, whatever its allocator keeps. The types of which there are
more objects at the end are shown.

dask itself keeps the last 10,000 events, the last 1,000 transitions of tasks, the last hour of
profiles (one each second) and of load figures (two each second): its processes grow for an hour, an
idle one as well. Here it keeps a hundred of each, and no profiles. A cache of dask remembers the
keys of the last 100,000 tasks; it is emptied before each look. Free memory is given back then, too.

Exits with 1 if one has grown by more than `--most` percent, and with 2 if the machine was too busy
for 1,000 calls, which are needed for a result.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import os
import random
import statistics
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

import psutil
import tasks

from cluster import work
from cluster.processes import start_scheduler, start_worker

# Seconds that a call may take on a busy machine.
LATE = 120


def maps(pool: Any, chance: random.Random) -> None:
    count = chance.choice([1, 50, 5000])
    assert pool.map(tasks.square, range(count)) == [x * x for x in range(count)]
    pairs = [(x, 1) for x in range(20)]
    assert pool.starmap(tasks.add, pairs, 3) == [x + 1 for x in range(20)]


def closures(pool: Any, chance: random.Random) -> None:
    offset = chance.random()  # a function that the nodes have not seen
    assert pool.map(lambda x: x + offset, range(10)) == [x + offset for x in range(10)]
    heavy = work.Heavy()
    assert [x for x, _, _ in pool.map(heavy, range(4))] == [0, 1, 2, 3]


def iterators(pool: Any, chance: random.Random) -> None:
    kind = chance.choice([pool.imap, pool.imap_unordered])
    items = kind(tasks.square, range(200), chance.choice([1, 7]), 20)
    assert sorted(items) == [x * x for x in range(200)]
    half_read = pool.imap(tasks.square, range(1000))
    assert [next(half_read) for _ in range(5)] == [0, 1, 4, 9, 16]
    half_read.close()


def single_calls(pool: Any, chance: random.Random) -> None:
    heard: list[int] = []
    results = [
        pool.apply_async(tasks.square, (x,), callback=heard.append, key=chance.choice("ab"))
        for x in range(20)
    ]
    assert [result.get(LATE) for result in results] == [x * x for x in range(20)]
    assert sorted(heard) == sorted(x * x for x in range(20))


def failures(pool: Any, chance: random.Random) -> None:
    found = pool.map(work.fail_if_odd, range(10), return_exceptions=True)
    assert [type(each) for each in found] == [int, ValueError] * 5
    with contextlib.suppress(ValueError):
        pool.map(work.fail_if_odd, range(100), fail_fast=True)
        raise AssertionError("it did not fail")


def cancelled(pool: Any, chance: random.Random) -> None:
    results = [pool.apply_async(time.sleep, (0.01,)) for _ in range(50)]
    for result in results[10:]:
        result.cancel(kill=False)
    for result in results[:10]:
        result.get(LATE)


def arrays(pool: Any, chance: random.Random) -> None:
    import numpy

    array = numpy.full(chance.choice([100, 20_000, 1 << 19]), 3.0)
    for back in pool.map(tasks.identity, [array] * 3):
        assert (back == array).all()


def deaths(pool: Any, chance: random.Random) -> None:
    from cpool import WorkerLostError

    if chance.random() < 0.2:
        try:
            pool.apply(tasks.die)
        except WorkerLostError:
            return
        raise AssertionError("nothing died")


KINDS: list[Callable[[Any, random.Random], None]] = [
    maps, closures, iterators, single_calls, failures, cancelled, arrays, deaths
]  # fmt: skip


def memory_of(pid: int) -> float:
    """The private memory of a process and its descendants, in MiB."""
    total = 0
    found = psutil.Process(pid)
    for each in (found, *found.children(recursive=True)):
        with contextlib.suppress(psutil.NoSuchProcess):
            total += each.memory_full_info().uss
    return total / (1 << 20)


def census() -> tuple[int, Counter[str]]:
    """The allocated blocks of the process that runs this, and its objects by type.

    Before, frees what dask and the allocator keep for later.
    """
    import ctypes

    from dask.utils import key_split

    key_split.cache_clear()
    gc.collect()
    with contextlib.suppress(AttributeError):
        ctypes.CDLL(None).malloc_trim(0)
    found = Counter(
        f"{type(each).__module__}.{type(each).__qualname__}" for each in gc.get_objects()
    )
    return sys.getallocatedblocks(), found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--pause", type=float, default=0.02, help="seconds between two calls")
    parser.add_argument("--most", type=float, default=5.0, help="percent of growth")
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()

    for kept in "LOG_LENGTH", "LOW_LEVEL_LOG_LENGTH", "SYSTEM_MONITOR__LOG_LENGTH":
        os.environ[f"DASK_DISTRIBUTED__ADMIN__{kept}"] = "100"
    os.environ["DASK_DISTRIBUTED__WORKER__PROFILE__ENABLED"] = "False"
    import distributed

    from cpool.distributed import Pool

    counted: Counter[str] = Counter()
    errors: list[BaseException] = []
    stop = threading.Event()

    def call(pool: Any, seed: int) -> None:
        chance = random.Random(seed)
        try:
            while not stop.wait(given.pause):
                kind = chance.choice(KINDS)
                kind(pool, chance)
                counted[kind.__name__] += 1
        except BaseException as exc:
            errors.append(exc)
            stop.set()

    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as ends:
        file = Path(folder) / "scheduler.json"
        processes = {"scheduler": start_scheduler(file)}
        while not (file.exists() and file.stat().st_size):
            time.sleep(0.05)
        for number in range(2):
            processes[f"node {number}"] = start_worker("--scheduler-file", file)
        for process in processes.values():
            ends.callback(process.wait)
            ends.callback(process.kill)
        client = ends.enter_context(
            distributed.Client(scheduler_file=str(file), set_as_default=False)
        )
        pool = ends.enter_context(Pool(client))
        pool.wait_for_nodes(2, LATE)
        threads = [threading.Thread(target=call, args=(pool, given.seed + i)) for i in range(2)]
        for thread in threads:
            thread.start()
        begun = time.monotonic()
        looks: list[tuple[int, dict[str, float]]] = []
        objects: dict[str, Counter[str]] = {}
        earlier: dict[str, Counter[str]] = {}
        while time.monotonic() - begun < given.seconds and not stop.wait(given.seconds / 60):
            told = {"the scheduler": client.run_on_scheduler(census), "the client": census()}
            told |= {
                f"the dask worker {address}": each for address, each in client.run(census).items()
            }
            now = {name: memory_of(process.pid) for name, process in processes.items()}
            now["client"] = psutil.Process().memory_full_info().uss / (1 << 20)
            shown = ", ".join(f"{name} {size:.1f}" for name, size in now.items())
            now |= {f"blocks of {name}": blocks for name, (blocks, _) in told.items()}
            objects = {name: counts for name, (_, counts) in told.items()}
            if time.monotonic() - begun < given.seconds / 3:
                earlier = objects
            looks.append((sum(counted.values()), now))
            seconds = time.monotonic() - begun
            print(f"{seconds:5.0f} s: {looks[-1][0]} calls; MiB: {shown}", flush=True)
        stop.set()
        for thread in threads:
            thread.join(2 * LATE)
            assert not thread.is_alive(), "a call hangs"
        if errors:
            raise errors[0]
        print(pool.statistics())
        found = pool.statistics()
        assert found.pending == 0 and found.submitted == (
            found.done + found.failed + found.lost + found.cancelled
        )
    print(", ".join(f"{kind} {count}" for kind, count in sorted(counted.items())))
    total = sum(counted.values())
    has_grown = False
    for name in looks[0][1]:
        # The median of each time: the least may be that of a moment without a worker process.
        second, last = (
            statistics.median(
                now[name] for calls, now in looks if begin <= calls / total <= begin + 0.25
            )
            for begin in (0.25, 0.75)
        )
        growth = 100 * (last / second - 1)
        has_grown |= growth > given.most
        print(f"{name}: {second:,.1f} in the second quarter, then {last:,.1f}: {growth:+.1f} %")
    for name, counts in objects.items():
        more = counts - earlier.get(name, Counter())
        print(f"{name} has more of: {more.most_common(8)}")
    if total < 1000:
        print(f"{total} calls are too few to say whether memory grows")
        return 2
    return int(has_grown)


if __name__ == "__main__":
    sys.exit(main())
