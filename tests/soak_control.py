"""The long test of cancelling, retries, resizing and leaks, each many times and at random.

    python tests/soak_control.py --races 10000 --kills 500 --resizes 500 --leaks 2000 --seed 1

Four parts, with a number of times for each (0: not this part). Prints a summary of each part as
JSON, and exits with 1 if anything was wrong or a part did not finish in time.

Races: calls are cancelled at the moment at which they end. Each has one outcome: its value and no
cancel() that says it stopped something, or `TaskCancelledError` and one that does.

Kills: workers are killed under load. Each run of an item appends a record to a log, which shows
that an item without `retries` runs once at most, and one with them as often as it may.

Resizes: the pool gets another size at random while it works. Nothing is lost.

Leaks: tasks keep 1 MB each, in a pool with a memory limit. No item fails.
"""

from __future__ import annotations

import argparse
import faulthandler
import json
import mmap
import os
import random
import struct
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

from engine import DEADLINE, Pool, errors

WORKERS = 3
PAUSE = 0.001, 0.009  # seconds between two kills
LIMIT = 64 << 20
RECORD = struct.Struct("=Q")

_log = -1  # a descriptor that every worker inherits
_kept: list[mmap.mmap] = []


def square(x: int) -> int:
    return x * x


def races(count: int, rng: random.Random) -> dict[str, Any]:
    outcomes: Counter[str] = Counter()
    with Pool(WORKERS) as pool:
        for number in range(count):
            result = pool.apply_async(square, (number,))
            if number % 3:
                result.wait(rng.random() * 1e-4)
            stopped = result.cancel(kill=number % 50 == 0)
            try:
                assert result.get(DEADLINE) == number * number
                assert not stopped, f"call {number} was stopped, and has a value"
                assert not result.cancelled()
                outcomes["value"] += 1
            except errors.TaskCancelledError:
                assert stopped, f"call {number} is cancelled, and nothing was stopped"
                assert result.cancelled()
                outcomes["cancelled"] += 1
    assert sum(outcomes.values()) == count
    return {"races": count, **outcomes}


def record(item: int) -> int:
    os.write(_log, RECORD.pack(item))  # one write, at the end of the file
    time.sleep(item % 5 / 1000)
    return item


def kills(count: int, rng: random.Random) -> dict[str, Any]:
    """Killed are workers of a pool that has calls, with and without retries."""
    global _log
    may_run: dict[int, int] = {}
    outcomes: Counter[str] = Counter()
    with tempfile.TemporaryFile() as file:
        _log = os.open(f"/proc/self/fd/{file.fileno()}", os.O_WRONLY | os.O_APPEND)
        killed: set[int] = set()
        with Pool(WORKERS) as pool:
            pending: list[tuple[int, Any]] = []
            while len(killed) < count:
                for _ in range(20):
                    item = len(may_run)
                    retries = rng.choice([0, 0, 1, 2])
                    may_run[item] = 1 + retries
                    pending.append((item, pool.apply_async(record, (item,), retries=retries)))
                time.sleep(rng.uniform(*PAUSE))
                victims = [each for each in list(pool._pool) if each.pid not in killed]
                if victims:
                    victim = rng.choice(victims)
                    killed.add(victim.pid)
                    victim.kill()
            for item, result in pending:
                try:
                    assert result.get(DEADLINE) == item
                    outcomes["arrived"] += 1
                except errors.WorkerLostError:
                    outcomes["lost"] += 1
        os.close(_log)
        file.seek(0)
        runs = Counter(item for (item,) in RECORD.iter_unpack(file.read()))
    for item, times in runs.items():
        assert times <= may_run[item], f"item {item} ran {times} times, of {may_run[item]}"
    assert outcomes["lost"] <= count
    again = sum(times > 1 for times in runs.values())
    return {"kills": count, "items": len(may_run), "run_again": again, **outcomes}


def resizes(count: int, rng: random.Random) -> dict[str, Any]:
    items = range(200)
    squares = [square(x) for x in items]
    arrived = 0
    with Pool(WORKERS) as pool:
        pending = [pool.map_async(square, items, 1) for _ in range(5)]
        for _ in range(count):
            pool.resize(rng.randint(1, 6))
            time.sleep(rng.random() * 0.004)
            pending.append(pool.map_async(square, items, 1))
            if len(pending) > 10:
                assert pending.pop(0).get(DEADLINE) == squares
                arrived += len(items)
        for result in pending:
            assert result.get(DEADLINE) == squares
            arrived += len(items)
    return {"resizes": count, "arrived": arrived}


def leak(x: int) -> tuple[int, int]:
    memory = mmap.mmap(-1, 1 << 20, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    memory.write(b"x" * (1 << 20))
    _kept.append(memory)
    return x, os.getpid()


def leaks(count: int, rng: random.Random) -> dict[str, Any]:
    with Pool(WORKERS, memory_limit=LIMIT) as pool:
        found = pool.map(leak, range(count), rng.choice([1, 1, 7]))
        assert [x for x, _ in found] == list(range(count)), "an item of a slow leak was lost"
    return {"leaks": count, "workers": len({pid for _, pid in found})}


def main() -> int:
    parser = argparse.ArgumentParser(description="Cancel, kill, resize and leak at random.")
    parser.add_argument("--races", type=int, default=10_000, help="calls to cancel as they end")
    parser.add_argument("--kills", type=int, default=500, help="workers to kill")
    parser.add_argument("--resizes", type=int, default=500, help="changes of the pool's size")
    parser.add_argument("--leaks", type=int, default=2000, help="tasks that keep 1 MB")
    parser.add_argument("--seconds", type=float, default=900, help="the time for each of the four")
    parser.add_argument("--seed", type=int, default=1, help="what chance begins with")
    args = parser.parse_args()
    parts: list[Callable[[int, random.Random], dict[str, Any]]] = [races, kills, resizes, leaks]
    for part in parts:
        count = getattr(args, part.__name__)
        if count == 0:
            continue
        # A hang fails and prints where it hangs.
        faulthandler.dump_traceback_later(args.seconds, exit=True)
        began = time.monotonic()
        summary = part(count, random.Random(f"{args.seed} {part.__name__}"))
        faulthandler.cancel_dump_traceback_later()
        print(json.dumps({**summary, "seconds": round(time.monotonic() - began, 1)}), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
