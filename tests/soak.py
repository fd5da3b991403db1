"""The long test: a pool whose workers are killed under load, and pools that come and go.

    python tests/soak.py --kills 1000 --cycles 10000 --seconds 1800 --seed 1

Every task writes a record when it starts and when it ends. After each round the records show
whether a result was lost, duplicated or invented. Prints a summary of both parts as JSON, and exits
with 1 if anything was wrong or a part did not finish in time.
"""

from __future__ import annotations

import argparse
import ctypes
import faulthandler
import gc
import itertools
import json
import multiprocessing
import os
import random
import struct
import sys
import tempfile
import threading
import time
import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from engine import DEADLINE, Pool, errors
from gates import eventually
from leftovers import resources

WORKERS = 4
PAUSE = 0.001, 0.009  # seconds between two kills
# More growth than this from the end of the first round to the end of the last round is a leak.
MAX_KILOBYTES = 16_384
MAX_BLOCKS = 1000

# Tasks and their records

# SIGKILL may cut a write between two pages, so no record crosses a page.
RECORD = struct.Struct("=c7xQ")
BEGUN, ENDED = b"<", b">"

_log = -1  # a descriptor that every worker inherits


def note(what: bytes, item: int) -> None:
    os.write(_log, RECORD.pack(what, item))  # one write, at the end of the file


def answer(item: int) -> int:
    return item * item + 1


def small(item: int) -> int:
    note(BEGUN, item)
    value = answer(item)
    note(ENDED, item)
    return value


def slow(item: int) -> int:
    note(BEGUN, item)
    time.sleep(item % 5 / 1000)
    note(ENDED, item)
    return answer(item)


def small_pair(item: int) -> tuple[int, int]:
    return item, small(item)


def body(item: int, size: int) -> bytes:
    return item.to_bytes(8, "little") * (size // 8)


def large(item: int, sent: bytes, size: int) -> bytes:
    note(BEGUN, item)
    if sent != body(item, len(sent)):
        raise AssertionError(f"the argument of {item} is not what was sent")
    value = body(item, size)
    note(ENDED, item)
    return value


class Ledger:
    """The outcomes of a round's jobs, checked against the workers' records."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._file = tempfile.TemporaryFile()  # noqa: SIM115
        self._numbers = itertools.count(1)
        self._arrived: list[int] = []
        self._lost: list[Any] = []  # one error per task
        self._failed_maps: list[list[range]] = []  # the chunks of each map
        self.killed: set[int] = set()
        self.calls: Counter[str] = Counter()

    def open_log(self) -> None:
        """Let workers that are forked from now on write to the file."""
        global _log
        _log = os.open(f"/proc/self/fd/{self._file.fileno()}", os.O_WRONLY | os.O_APPEND)

    def close(self) -> None:
        os.close(_log)
        self._file.close()

    def new(self, count: int = 1) -> range:
        with self._lock:
            first = next(self._numbers)
            for _ in range(count - 1):
                next(self._numbers)
        return range(first, first + count)

    def arrived(self, *items: int) -> None:
        with self._lock:
            self._arrived += items

    def lost(self, error: BaseException, chunks: list[range] | None = None) -> None:
        """A task was lost. With chunks: at least one chunk of this map, the others are unknown."""
        if type(error) is not errors.WorkerLostError:
            raise error
        with self._lock:
            self._lost.append(error)
            if chunks is not None:
                self._failed_maps.append(chunks)

    def check(self) -> tuple[int, int]:
        """Check that nothing is duplicated or invented; the numbers of arrived and lost results."""
        data = os.pread(self._file.fileno(), os.fstat(self._file.fileno()).st_size, 0)
        begun: Counter[int] = Counter()
        ended: Counter[int] = Counter()
        for what, item in RECORD.iter_unpack(data):
            (begun if what == BEGUN else ended)[item] += 1
        assert set(begun.values()) <= {1}, "a task ran twice"
        assert set(ended.values()) <= {1}
        assert len(set(self._arrived)) == len(self._arrived), "a result arrived twice"
        for item in self._arrived:
            assert ended[item] == 1, f"{item} arrived and never ran"
        # A worker dies once, killed by this test, and loses one task.
        dead = [error.pid for error in self._lost]
        assert len(set(dead)) == len(dead), "one death cost two tasks"
        assert set(dead) <= self.killed, "a worker died that nobody killed"
        assert {error.exitcode for error in self._lost} <= {-9}
        lost = len(self._lost)
        for chunks in self._failed_maps:
            cut = sum(any(ended[item] == 0 for item in chunk) for chunk in chunks)
            lost += max(cut - 1, 0)
        assert lost <= len(self.killed), "more was lost than workers were killed"
        answer = len(self._arrived), lost
        os.ftruncate(self._file.fileno(), 0)
        self._arrived.clear()
        self._lost.clear()
        self._failed_maps.clear()
        self.killed.clear()
        return answer


# The load


class Load:
    """Threads that give a pool work until they are stopped, and check the results."""

    def __init__(self, pool: Any, ledger: Ledger, seed: int) -> None:
        self.pool = pool
        self.ledger = ledger
        self.errors: list[BaseException] = []
        self._stop = threading.Event()
        kinds = [self.calls, self.maps, self.blocking_maps, self.streams, self.large]
        self._threads = [
            threading.Thread(target=self._run, args=(kind, random.Random(f"{seed} {kind}")))
            for kind in kinds
        ]
        for thread in self._threads:
            thread.daemon = True
            thread.start()

    def finish(self) -> None:
        self._stop.set()
        end = time.monotonic() + DEADLINE
        for thread in self._threads:
            thread.join(max(0.0, end - time.monotonic()))
            assert not thread.is_alive(), "a thread that waits for results never came back"
        if self.errors:
            raise self.errors[0]

    def _run(self, kind: Callable[[random.Random], None], rng: random.Random) -> None:
        try:
            while not self._stop.is_set() and not self.errors:
                kind(rng)
        except BaseException as error:
            self.errors.append(error)

    def get(self, item: int, wait: Callable[[], Any], right: Any) -> None:
        try:
            value = wait()
        except errors.WorkerLostError as error:
            self.ledger.lost(error)
            return
        assert value == right, f"{item} gave {value!r:.100}"
        self.ledger.arrived(item)

    def calls(self, rng: random.Random) -> None:
        """Single calls, with and without callbacks. One of the two callbacks is called, once."""
        told: Counter[str] = Counter()
        results = []
        for item in self.ledger.new(100):
            func = small if rng.random() < 0.8 else slow
            callbacks = {}
            if rng.random() < 0.3:
                callbacks = {
                    "callback": lambda _, item=item: told.update([f"value {item}"]),
                    "error_callback": lambda _, item=item: told.update([f"error {item}"]),
                }
            results.append((item, self.pool.apply_async(func, (item,), **callbacks), callbacks))
        for item, result, callbacks in results:
            self.get(item, lambda result=result: result.get(DEADLINE), answer(item))
            which = "value" if result.successful() else "error"
            for name in "value", "error":
                expected = 1 if callbacks and name == which else 0
                assert told[f"{name} {item}"] == expected, "a callback too many, or too few"

    def _chunks(self, rng: random.Random) -> tuple[range, int, list[range]]:
        items = self.ledger.new(rng.randint(1, 60))
        size = rng.randint(1, 5)
        return items, size, [items[at : at + size] for at in range(0, len(items), size)]

    def _map(self, rng: random.Random, map_: Callable[[range, int], Any]) -> None:
        items, size, chunks = self._chunks(rng)
        try:
            values = map_(items, size)
        except errors.WorkerLostError as error:
            self.ledger.lost(error, chunks)
            return
        assert values == [answer(item) for item in items], "a map gave wrong values"
        self.ledger.arrived(*items)

    def maps(self, rng: random.Random) -> None:
        func = rng.choice([small, slow])
        self._map(rng, lambda items, size: self.pool.map_async(func, items, size).get(DEADLINE))

    def blocking_maps(self, rng: random.Random) -> None:
        self._map(rng, lambda items, size: self.pool.map(small, items, size))

    def streams(self, rng: random.Random) -> None:
        items = self.ledger.new(rng.randint(1, 80))
        ordered = rng.random() < 0.5
        results = (self.pool.imap if ordered else self.pool.imap_unordered)(small_pair, iter(items))
        found: list[int] = []
        lost = 0
        while True:
            try:
                item, value = results.next(DEADLINE)
            except StopIteration:
                break
            except errors.WorkerLostError as error:
                self.ledger.lost(error)
                lost += 1
                continue
            assert value == answer(item)
            found.append(item)
        assert set(found) <= set(items)
        assert len(found) + lost == len(items), "the iterator lost count"
        assert not ordered or found == sorted(found), "out of order"
        self.ledger.arrived(*found)

    def large(self, rng: random.Random) -> None:
        """Values many times as large as a pipe, in both directions."""
        [item] = self.ledger.new()
        sent = body(item, rng.choice([8, 200_000, 1_000_000]))
        size = rng.choice([8, 300_000, 2_000_000])
        if rng.random() < 0.5:
            wait = self.pool.apply_async(large, (item, sent, size)).get
            self.get(item, lambda: wait(DEADLINE), body(item, size))
        else:
            self.get(item, lambda: self.pool.apply(large, (item, sent, size)), body(item, size))


def kill_workers(pool: Any, ledger: Ledger, count: int, rng: random.Random) -> None:
    while len(ledger.killed) < count:
        time.sleep(rng.uniform(*PAUSE))
        victims = [worker for worker in list(pool._pool) if worker.pid not in ledger.killed]
        if victims:
            victim = rng.choice(victims)
            ledger.killed.add(victim.pid)
            victim.kill()


def chaos(kills: int, seed: int) -> dict[str, Any]:
    """Kill random workers of a pool under load."""
    rng = random.Random(seed)
    empty = footprint()
    ledger = Ledger()
    ledger.open_log()
    pool = Pool(WORKERS)
    whole(pool)
    idle = footprint()
    arrived = lost = killed = 0
    first: dict[str, int] = {}
    while killed < kills:
        count = min(max(kills // 4, 1), 50, kills - killed)
        load = Load(pool, ledger, rng.randrange(2**32))
        try:
            kill_workers(pool, ledger, count, rng)
        finally:
            load.finish()
        killed += count
        came, went = ledger.check()
        arrived, lost = arrived + came, lost + went
        del load
        whole(pool)
        first = first or footprint(idle)
    last = footprint(idle)
    pool.close()
    pool.join(timeout=DEADLINE)
    del pool
    ledger.close()
    nothing_left(empty, footprint(empty))
    return {"kills": killed, "lost": lost, "arrived": arrived, "grown": growth(first, last)}


def whole(pool: Any) -> None:
    """Check that the pool has all its workers, and that the workers run tasks."""
    eventually(lambda: len(pool._pool) == WORKERS and all(w.is_alive() for w in pool._pool))
    items = range(200)
    assert pool.map_async(abs, items, 1).get(DEADLINE) == list(items)


# Pools that come and go

OUTCOMES: dict[str, tuple[Callable[[Any], Any], Any]] = {
    "apply_async": (lambda pool: pool.apply_async(answer, (4,)).get, 17),
    "callback": (lambda pool: pool.apply_async(answer, (4,), callback=id).get, 17),
    "map_async": (lambda pool: pool.map_async(answer, range(6), 2).get, [1, 2, 5, 10, 17, 26]),
    "large": (lambda pool: pool.apply_async(body, (7, 400_000)).get, body(7, 400_000)),
    "imap": (lambda pool: reader(pool.imap(answer, iter(range(5)))), [1, 2, 5, 10, 17]),
    "slow": (lambda pool: pool.apply_async(time.sleep, (0.002,)).get, None),
}


def reader(results: Any) -> Callable[[float], list[Any]]:
    def read(timeout: float) -> list[Any]:
        values = []
        while True:
            try:
                values.append(results.next(timeout))
            except StopIteration:
                return values

    return read


class Cycle:
    """One pool: created, given work, and ended in a random way at a random moment."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        self.pool = Pool(rng.randint(1, 2), maxtasksperchild=rng.choice([None, None, 1]))
        self.killed = self.terminated = False
        self.errors: list[BaseException] = []
        names = rng.choices(list(OUTCOMES), k=rng.randrange(4))
        self.jobs = [(OUTCOMES[name][0](self.pool), OUTCOMES[name][1]) for name in names]

    def run(self) -> None:
        rng = self.rng
        victims = list(self.pool._pool)  # empty while the only worker is being replaced
        if victims and rng.random() < 0.1:
            self.killed = True
            rng.choice(victims).kill()
        if rng.random() < 0.5:
            time.sleep(rng.random() / 200)
        how = rng.choice([self.close, self.terminate, self.leave, self.both, self.drop])
        self.terminated = how not in (self.close, self.drop)
        if rng.random() < 0.5:
            self.in_threads(self.read, how)
        else:
            how()
            self.read()
        if self.errors:
            raise self.errors[0]

    def read(self) -> None:
        for get, right in self.jobs:
            try:
                value = get(DEADLINE)
            except errors.PoolTerminated:
                assert self.terminated, "terminated by nobody"
            except errors.WorkerLostError:
                assert self.killed, "a worker died that nobody killed"
            else:
                assert value == right

    def in_threads(self, *calls: Callable[[], None]) -> None:
        def run(call: Callable[[], None]) -> None:
            try:
                call()
            except BaseException as error:
                self.errors.append(error)

        threads = [threading.Thread(target=run, args=(call,), daemon=True) for call in calls]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(2 * DEADLINE)
            assert not thread.is_alive(), "a thread never came back"

    def close(self) -> None:
        self.pool.close()
        self.pool.join(timeout=DEADLINE)

    def terminate(self) -> None:
        self.pool.terminate()
        self.pool.join(timeout=DEADLINE)

    def leave(self) -> None:
        with self.pool:
            pass

    def both(self) -> None:
        self.in_threads(self.close, self.terminate)

    def drop(self) -> None:
        """Drop the last reference while there is work and a thread waits for it."""
        self.pool = None


def cycles(count: int, seed: int, n_threads: int = 4) -> dict[str, Any]:
    """Pools that are created, used and ended in several threads at once."""
    problems: list[BaseException] = []

    def work(number: int, count: int) -> None:
        rng = random.Random(f"{seed} {number}")
        try:
            for _ in range(count):
                if not problems:
                    Cycle(rng).run()
        except BaseException as error:
            problems.append(error)

    def round_of(count: int, seed: int) -> None:
        share = -(-count // n_threads)
        threads = [
            threading.Thread(target=work, args=(seed * n_threads + number, share), daemon=True)
            for number in range(n_threads)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if problems:
            raise problems[0]

    empty = footprint()
    round_of(count // 3, 0)
    first = footprint(empty)
    round_of(count - count // 3, 1)
    last = footprint(empty)
    nothing_left(empty, last)
    return {"cycles": count, "grown": growth(first, last)}


# The resources of a process

_trim = getattr(ctypes.CDLL(None), "malloc_trim", lambda _: None)


COUNTED = "processes", "descriptors", "threads", "mappings"


def footprint(like: dict[str, int] | None = None) -> dict[str, int]:
    """The resources of this process once it is at rest, and equal to `like` if it gets there."""
    now: dict[str, int] = {}
    end = time.monotonic() + DEADLINE

    def same_again() -> bool:
        before = dict(now)
        gc.collect()
        with open("/proc/self/maps", encoding="utf-8") as maps:
            shared = [line for line in maps if "rw-s" in line]
        now["mappings of data"] = sum("/memfd:cpool-data" in line for line in shared)
        now["mappings"] = len(shared) - now["mappings of data"]
        now["processes"] = len(multiprocessing.active_children())
        now["descriptors"] = len(os.listdir("/proc/self/fd"))
        now["threads"] = len(os.listdir("/proc/self/task"))
        if now != before:
            time.sleep(0.05)
            return False
        # A joined thread may take long to exit on a busy machine.
        return like is None or time.monotonic() > end - 1 or is_like(now, like)

    eventually(same_again, "it does not come to rest")
    _trim(0)  # free memory in malloc() is no leak
    return now | resources()


def is_same(before: dict[str, int], after: dict[str, int], name: str) -> bool:
    # The rows of the workers of a pool may lie in one mapping, or each in another one.
    room = max(before["processes"] - 1, 0) if name == "mappings" else 0
    return abs(after[name] - before[name]) <= room


def is_like(one: dict[str, int], other: dict[str, int]) -> bool:
    return all(is_same(other, one, name) for name in COUNTED)


def nothing_left(
    before: dict[str, int],
    after: dict[str, int],
    names: Sequence[str] = (*COUNTED, "mappings of data"),
) -> None:
    for name in names:
        assert is_same(before, after, name), f"{name}: {before[name]} before, {after[name]} after"


def growth(first: dict[str, int], last: dict[str, int]) -> dict[str, int]:
    grown = {name: last[name] - first[name] for name in last}
    # A pool keeps the mappings of large data, as many as it has needed at once.
    nothing_left(first, last, COUNTED)
    assert grown["kilobytes"] < MAX_KILOBYTES, f"memory grows: {grown}"
    assert grown["blocks"] < MAX_BLOCKS, f"memory grows: {grown}"
    return grown


def main() -> int:
    parser = argparse.ArgumentParser(description="Kill workers under load; make and end pools.")
    parser.add_argument("--kills", type=int, default=1000, help="workers to kill")
    parser.add_argument("--cycles", type=int, default=10_000, help="pools to make and end")
    parser.add_argument("--seconds", type=float, default=1800, help="the time for each of the two")
    parser.add_argument("--seed", type=int, default=1, help="what chance begins with")
    args = parser.parse_args()
    # The warning of a fork beside threads, from 3.12 on, and of a dropped pool.
    warnings.simplefilter("ignore", DeprecationWarning)
    warnings.simplefilter("ignore", ResourceWarning)
    for count, test in (args.kills, chaos), (args.cycles, cycles):
        if count == 0:
            continue
        # A hang fails and prints where it hangs.
        faulthandler.dump_traceback_later(args.seconds, exit=True)
        began = time.monotonic()
        summary = test(count, args.seed)
        faulthandler.cancel_dump_traceback_later()
        print(json.dumps({**summary, "seconds": round(time.monotonic() - began, 1)}), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
