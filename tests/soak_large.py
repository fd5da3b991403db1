"""The long test of large data: workers are killed while arrays go both ways.

    python tests/soak_large.py --kills 500 --seed 1 --start fork --limit 256

Arrays of 1 KB to 16 MB go to tasks and come back, each with its checksum, some as the part of an
object, and some results are kept for a while. Meanwhile workers are killed at random moments: while
they read an array, copy a result, or idle. Prints a summary as JSON, and exits with 1 if a byte was
wrong, more tasks were lost than workers killed, or memory, descriptors or mappings are left. With a
small `--limit` (of the shared memory, in MiB) many data do not fit and take the pipes.
"""

from __future__ import annotations

import argparse
import gc
import json
import multiprocessing
import os
import random
import sys
import threading
import time
import zlib
from typing import Any

import numpy
import numpy.random
from gates import eventually

from cpool import Pool, WorkerLostError

WORKERS = 3
ITEMS = 12  # of each round
SIZES = 10, 24  # powers of two: 1 KB to 16 MB
KEPT = 8  # results
LIMIT = 256 << 20


def array_of(seed: int, size: int) -> Any:
    """An array that costs little to make, and of which no two are alike."""
    page = numpy.random.default_rng(seed).integers(0, 256, 1021, "u1")
    return numpy.resize(page, size)


def checksum(value: Any) -> int:
    return zlib.crc32(value)


def answer(item: Any) -> Any:
    seed, value, total, size = item
    if checksum(value) != total:
        return "the argument is wrong"
    value[:] = 0  # it is the task's own
    result = array_of(seed + 1, size)
    return {"value": result, "sum": checksum(result)} if seed % 2 else (result, checksum(result))


def shared_memory() -> tuple[int, int]:
    """The descriptors and the mappings of shared memory that this process has."""
    fds = 0
    for fd in os.listdir("/proc/self/fd"):
        try:
            fds += os.readlink(f"/proc/self/fd/{fd}").startswith("/memfd:cpool")
        except OSError:
            continue
    with open("/proc/self/maps") as file:
        return fds, sum("/memfd:cpool" in line for line in file)


def used_bytes() -> int:
    """What all files of shared memory take that this process has open."""
    total = 0
    for fd in os.listdir("/proc/self/fd"):
        try:
            name = f"/proc/self/fd/{fd}"
            if os.readlink(name).startswith("/memfd:cpool"):
                total += os.stat(name).st_blocks * 512
        except OSError:
            continue
    return total


class Killer:
    """A thread that kills workers of the pool at random, until it has killed so many."""

    def __init__(self, pool: Any, kills: int, rng: random.Random) -> None:
        self.pool, self.kills, self.rng = pool, kills, rng
        self.killed = 0
        self.is_over = False
        self.thread = threading.Thread(target=self.run)

    def run(self) -> None:
        while self.killed < self.kills and not self.is_over:
            time.sleep(self.rng.uniform(0, 0.1))
            workers = list(self.pool._pool)
            if workers:
                self.rng.choice(workers).kill()
                self.killed += 1


def wrong(item: Any, result: Any) -> str | None:
    """What is wrong with the result, or None."""
    if isinstance(result, str):
        return result
    seed, size = item[0], item[3]
    value, total = (result["value"], result["sum"]) if seed % 2 else result
    if len(value) != size or checksum(value) != total:
        return f"the result of {seed} is wrong"
    if total != checksum(array_of(seed + 1, size)):
        return f"{seed} has the result of another task"
    return None


def run(kills: int, seed: int, method: str, limit: int = LIMIT) -> dict[str, Any]:
    """Kill so many workers, and return what happened. Nothing else may make or end a pool."""
    rng = random.Random(seed)
    gc.collect()
    before = shared_memory()
    others = used_bytes()
    faults: list[str] = []
    rounds = lost = most = 0
    kept: list[Any] = [(b"", 0)] * KEPT
    with Pool(
        WORKERS, context=multiprocessing.get_context(method), shared_memory_limit=limit
    ) as pool:
        killer = Killer(pool, kills, random.Random(seed + 1))
        killer.thread.start()
        try:
            while killer.thread.is_alive() or not rounds:
                items = []
                for i in range(ITEMS):
                    number = rounds * ITEMS + i
                    value = array_of(number, int(2 ** rng.uniform(*SIZES)))
                    items.append((number, value, checksum(value), int(2 ** rng.uniform(*SIZES))))
                results = pool.map(answer, items, chunksize=1, return_exceptions=True)
                rounds += 1
                for item, result in zip(items, results, strict=True):
                    if isinstance(result, WorkerLostError):
                        lost += 1
                        continue
                    fault = wrong(item, result)
                    if fault is not None:
                        faults.append(fault)
                    elif rng.random() < 0.1:
                        value, total = result.values() if item[0] % 2 else result
                        kept[rng.randrange(KEPT)] = value, total
                faults += [
                    "a result that was kept has changed"
                    for value, total in kept
                    if checksum(value) != total
                ]
                most = max(most, used_bytes() - others)
        finally:
            killer.is_over = True
            killer.thread.join()
    if lost > killer.killed:
        faults.append(f"{lost} tasks are lost")
    # Not counted: one page for each worker, and what is held when the limit is reached.
    if most > limit + (8 << 20):
        faults.append("more memory than the limit")
    if any(checksum(value) != total for value, total in kept):
        faults.append("a result that was kept has changed at the end of the pool")
    kept.clear()
    value = result = results = items = pool = killer.pool = None
    gc.collect()
    try:
        eventually(lambda: shared_memory() == before, "")
    except AssertionError:
        faults.append(f"left of shared memory: {shared_memory()}, before: {before}")
    return {
        "start": method,
        "kills": killer.killed,
        "rounds": rounds,
        "lost": lost,
        "limit": limit,
        "most_bytes": most,
        "faults": faults,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description="Large data, while workers are killed.")
    parser.add_argument("--kills", type=int, default=500)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--start", default="fork")
    parser.add_argument("--limit", type=int, default=LIMIT >> 20, help="in MiB")
    args = parser.parse_args()
    summary = run(args.kills, args.seed, args.start, args.limit << 20)
    print(json.dumps(summary, indent=2))
    sys.exit(1 if summary["faults"] else 0)


if __name__ == "__main__":
    main()
