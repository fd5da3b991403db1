"""Kill worker processes and whole nodes of a pool on a cluster under load, and watch memory.

    python tests/cluster/chaos.py --workers 100 --nodes 10
    python tests/cluster/chaos.py --workers 0 --nodes 0 --seconds 600
    python tests/cluster/chaos.py --workers 30 --nodes 6 --bytes 2000000

With `--bytes`, each item and its result are an array of that many bytes: most go directly between
the program and the nodes. Checks that every item has one outcome, that nothing runs twice, that
nothing hangs, and that the memory of scheduler, nodes and client does not grow. At the end the
scheduler is killed while calls are pending: each of them fails.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import os
import random
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

import psutil
from gates import Diary

from cluster import work
from cluster.processes import start_scheduler, start_worker


class Chaos:
    """A cluster of two nodes, which are killed and replaced."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.file = folder / "scheduler.json"
        self.random = random.Random(seed)
        self.killed = {"workers": 0, "nodes": 0}
        self.scheduler = start_scheduler(self.file)
        self.nodes: list[subprocess.Popen[bytes]] = []
        while not (self.file.exists() and self.file.stat().st_size):
            time.sleep(0.05)
        for _ in range(2):
            self.add_node()

    def add_node(self) -> None:
        self.nodes.append(start_worker("--scheduler-file", self.file))

    def kill_worker(self) -> None:
        found = [
            child
            for node in self.nodes
            for child in psutil.Process(node.pid).children(recursive=True)
            if "forkserver" not in " ".join(child.cmdline())
        ]
        if found:
            with contextlib.suppress(psutil.NoSuchProcess):
                self.random.choice(found).kill()
                self.killed["workers"] += 1

    def kill_node(self) -> None:
        victim = self.nodes.pop(self.random.randrange(len(self.nodes)))
        victim.kill()
        victim.wait()
        self.killed["nodes"] += 1
        self.add_node()

    def kill_scheduler(self) -> None:
        self.scheduler.kill()
        self.scheduler.wait()

    def memory_of(self, root: subprocess.Popen[bytes]) -> int:
        """The memory of a process and its descendants, in bytes."""
        found = psutil.Process(root.pid)
        every = [found, *found.children(recursive=True)]
        return sum(each.memory_info().rss for each in every)

    def end(self) -> None:
        for process in (*self.nodes, self.scheduler):
            process.kill()
            process.wait()


def made(number: int, size: int) -> Any:
    """The array of an item; without a size, its number."""
    if not size:
        return number
    import numpy

    return numpy.full(size, number % 251, numpy.uint8)


def is_same(found: Any, number: int, size: int) -> bool:
    return bool((found == made(number, size)).all()) if size else found == number


def run_calls(
    pool: Any, diary: Diary, stop: threading.Event, chance: random.Random, size: int
) -> list[int]:
    """Make calls until told to stop, or until the scheduler is lost; return [items, items lost]."""
    from cpool import WorkerLostError
    from cpool.distributed import SchedulerLostError

    told = [0, 0]
    first = 0
    while not stop.is_set():
        count = chance.choice([1, 10, 30 if size else 300])
        numbers = range(first, first + count)
        items = ((diary, i, made(i, size)) for i in numbers)
        first += count
        chunksize = chance.choice([1, 1, 5])
        results = pool.imap(work.note_and_return, items, chunksize)
        arrived = lost = 0
        while True:
            try:
                found = results.__next__()
                assert is_same(found, numbers[arrived + lost], size), "another item's result"
                arrived += 1
            except StopIteration:
                break
            except WorkerLostError:
                lost += 1
            except SchedulerLostError:
                return told
        # An iterator over chunks ends with its first failure.
        assert arrived + lost == count or (chunksize > 1 and lost == 1), (arrived, lost, count)
        told[0] += count
        told[1] += lost
    return told


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workers", type=int, default=100)
    parser.add_argument("--nodes", type=int, default=10)
    parser.add_argument("--seconds", type=float, default=0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--bytes", type=int, default=0, help="the size of each item and result")
    given = parser.parse_args()

    import distributed

    from cpool.distributed import Pool

    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as ends:
        chaos = Chaos(Path(folder), given.seed)
        ends.callback(chaos.end)
        client = ends.enter_context(distributed.Client(scheduler_file=str(chaos.file)))
        pool = ends.enter_context(Pool(client, context="fork"))
        pool.wait_for_nodes(2, 120)
        stop = threading.Event()
        outcomes: list[list[int]] = []
        diaries = [Diary(os.path.join(folder, f"diary{i}")) for i in range(2)]

        def call(number: int) -> None:
            outcomes.append(
                run_calls(pool, diaries[number], stop, random.Random(number), given.bytes)
            )

        threads = [threading.Thread(target=call, args=(i,)) for i in range(2)]
        for thread in threads:
            thread.start()
        begun = time.monotonic()
        looks = 0
        while (
            chaos.killed["workers"] < given.workers
            or chaos.killed["nodes"] < given.nodes
            or time.monotonic() - begun < given.seconds
        ):
            time.sleep(chaos.random.uniform(0.2, 0.6))
            if chaos.killed["workers"] < given.workers:
                chaos.kill_worker()
            if chaos.killed["nodes"] < given.nodes * chaos.killed["workers"] // max(
                1, given.workers
            ):
                chaos.kill_node()
                pool.wait_for_nodes(2, 120)
            if time.monotonic() - begun > 20 * looks:
                looks += 1
                mine = psutil.Process().memory_info().rss
                parts = [chaos.memory_of(each) >> 20 for each in (chaos.scheduler, *chaos.nodes)]
                print(f"MiB: client {mine >> 20}, scheduler and nodes {parts}", flush=True)
        print(pool.statistics(), flush=True)
        print(f"reached directly: {[node.is_direct for node in pool.nodes]}", flush=True)
        chaos.kill_scheduler()
        for thread in threads:
            thread.join(120)
            assert not thread.is_alive(), "a call hangs"
        stop.set()
        items = sum(told[0] for told in outcomes)
        lost = sum(told[1] for told in outcomes)
        lines = [collections.Counter(diary.lines()) for diary in diaries]
        twice = [line for counted in lines for line, times in counted.items() if times > 1]
        print(f"{items} items, {lost} lost, killed {chaos.killed}, run twice: {twice}")
        assert not twice


if __name__ == "__main__":
    main()
