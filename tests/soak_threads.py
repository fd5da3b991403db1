"""The long test of threads: eight of them share one pool, one iterator and one result.

    python tests/soak_threads.py --seconds 180 --threads 8 --seed 1

The threads meet, share what one thread has made, and also give the pool their own work, some in
pools of their own. Prints what was done as JSON, and exits with 1 if an item arrived twice or
never, a value was wrong, a callback was not called once, or anything leaked.
"""

from __future__ import annotations

import argparse
import faulthandler
import json
import random
import sys
import threading
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import tasks
from engine import DEADLINE, Pool
from soak import footprint, growth, nothing_left

ITEMS = 400  # of each shared iterator
# A round that takes longer than this hangs. The machine may be slow at times.
ROUND = 6 * DEADLINE

FUNCTIONS: list[Callable[[Any], Any]] = [tasks.square, tasks.identity, tasks.add, abs]


class Crowd:
    def __init__(self, threads: int, seed: int) -> None:
        self.pool: Any = Pool(3)
        self.seed = seed
        self.size = threads
        self.done: Counter[str] = Counter()
        self.errors: list[BaseException] = []
        self.stop = False
        self._lock = threading.Lock()
        self._meeting = threading.Barrier(threads, timeout=ROUND)
        # Shared by the threads in one round.
        self.stream: Any = None
        self.result: Any = None
        self.given: list[int] = []
        self.got: list[Any] = []
        self.box: list[int] = []  # a list that the threads change and send

    def run(self, seconds: float) -> None:
        """Run rounds until the time is over."""
        self.end = time.monotonic() + seconds
        self.stop = False
        threads = [
            threading.Thread(target=self._thread, args=(number,), daemon=True)
            for number in range(self.size)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if self.errors:
            raise self.errors[0]

    def _thread(self, number: int) -> None:
        rng = random.Random(f"{self.seed} {number} {self.done['rounds']}")
        try:
            while not self.stop:
                self._round(rng)
        except threading.BrokenBarrierError as error:
            if not self.errors:
                self.errors.append(error)  # a thread never came
        except BaseException as error:
            self.errors.insert(0, error)
            self._meeting.abort()

    def _round(self, rng: random.Random) -> None:
        if self._meeting.wait() == 0:
            ordered = rng.random() < 0.5
            self.stream = (self.pool.imap if ordered else self.pool.imap_unordered)(
                tasks.identity, iter(range(ITEMS))
            )
            self.result = self.pool.map_async(tasks.square, range(50), rng.randint(1, 9))
            self.given, self.got = [], []
        self._meeting.wait()
        ways = [self.take, self.get, self.change, *rng.choices(self.own(), k=2)]
        rng.shuffle(ways)
        for way in ways:
            way(rng)
        if self._meeting.wait() == 0:
            assert sorted(self.given) == list(range(ITEMS)), "an item came twice or never"
            assert self.got[0] == [x * x for x in range(50)]
            assert len(self.got) == self.size
            assert all(value is self.got[0] for value in self.got)
            self.done["rounds"] += 1
            self.done["items"] += ITEMS
            self.stop = time.monotonic() > self.end
        self._meeting.wait()

    # Shared work

    def take(self, rng: random.Random) -> None:
        mine = list(self._stream(rng))
        with self._lock:
            self.given += mine

    def _stream(self, rng: random.Random) -> Iterator[int]:
        while True:
            try:
                item: int = self.stream.next(ROUND) if rng.random() < 0.5 else next(self.stream)
            except StopIteration:
                return
            yield item

    def get(self, rng: random.Random) -> None:
        if rng.random() < 0.3:
            self.result.wait(ROUND)
        value = self.result.get(ROUND)
        with self._lock:
            self.got.append(value)

    def change(self, rng: random.Random) -> None:
        """Send a list that others change meanwhile: the list arrives as it was at some moment."""
        for _ in range(10):
            self.box.append(7)
            assert set(self.pool.apply(tasks.identity, (self.box,))) <= {7}
            if len(self.box) > 30:
                self.box.clear()

    # Each thread's own work

    def own(self) -> list[Callable[[random.Random], None]]:
        return [self.maps, self.streams, self.calls, self.callbacks, self.failures, self.pools]

    def maps(self, rng: random.Random) -> None:
        func, items = rng.choice(FUNCTIONS), range(rng.randint(0, 200))
        assert self.pool.map(func, items) == [func(item) for item in items]

    def streams(self, rng: random.Random) -> None:
        func, items = rng.choice(FUNCTIONS), range(rng.randint(0, 60))
        found = self.pool.imap_unordered(func, iter(items), rng.randint(1, 5))
        assert sorted(found) == sorted(map(func, items))

    def calls(self, rng: random.Random) -> None:
        for item in range(20):
            func = rng.choice(FUNCTIONS)
            assert self.pool.apply(func, (item,)) == func(item)

    def callbacks(self, rng: random.Random) -> None:
        told: list[int] = []
        results = [self.pool.apply_async(abs, (item,), {}, told.append) for item in range(20)]
        for item, result in enumerate(results):
            assert result.get(ROUND) == item
        assert sorted(told) == list(range(20)), "a callback too many, or too few"

    def failures(self, rng: random.Random) -> None:
        told: list[BaseException] = []
        result = self.pool.apply_async(tasks.fail, error_callback=told.append)
        result.wait(ROUND)
        assert not result.successful()
        assert len(told) == 1

    def pools(self, rng: random.Random) -> None:
        if rng.random() < 0.9:
            return
        pool = Pool(2)
        assert pool.map(tasks.square, range(9), 1) == [x * x for x in range(9)]
        assert pool.apply_async(tasks.add, (1, 2)).get(ROUND) == 3
        pool.terminate() if rng.random() < 0.5 else pool.close()
        pool.join()
        with self._lock:
            self.done["pools"] += 1


def soak(seconds: float, threads: int, seed: int) -> dict[str, Any]:
    empty = footprint()
    crowd = Crowd(threads, seed)
    crowd.pool.apply_async(abs, (1,)).get(DEADLINE)
    idle = footprint()
    crowd.run(seconds / 4)
    first = footprint(idle)
    crowd.run(seconds * 3 / 4)
    last = footprint(idle)
    crowd.pool.close()
    crowd.pool.join(timeout=DEADLINE)
    summary = {**crowd.done, "threads": threads, "grown": growth(first, last)}
    crowd.pool = crowd.stream = crowd.result = None
    nothing_left(empty, footprint(empty))
    return summary


def main() -> int:
    parser = argparse.ArgumentParser(description="Eight threads share one pool.")
    parser.add_argument("--seconds", type=float, default=180, help="how long")
    parser.add_argument("--threads", type=int, default=8, help="how many")
    parser.add_argument("--seed", type=int, default=1, help="what chance begins with")
    args = parser.parse_args()
    # The warning of a fork beside threads, from 3.12 on.
    warnings.simplefilter("ignore", DeprecationWarning)
    # A hang fails and prints where it hangs.
    faulthandler.dump_traceback_later(args.seconds + 4 * ROUND, exit=True)
    began = time.monotonic()
    summary = soak(args.seconds, args.threads, args.seed)
    faulthandler.cancel_dump_traceback_later()
    is_on = getattr(sys, "_is_gil_enabled", lambda: True)()
    print(json.dumps({**summary, "gil": is_on, "seconds": round(time.monotonic() - began, 1)}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
