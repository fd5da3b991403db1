"""Failing tasks, in pools whose workers are replaced all the time.

    python tests/stress_replaced.py --rounds 400 --seed 1

Each round is a pool whose workers run one to three tasks each, half of the rounds on one core only.
Every job must end in time, and every callback be called once. Where one does not, the program says
which, how each worker and each thread stands, and whether it came after all. It prints a summary as
JSON and ends with 1 where anything was wrong.
"""

from __future__ import annotations

import argparse
import array
import faulthandler
import itertools
import json
import multiprocessing
import os
import random
import signal
import sys
import tempfile
import threading
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any, NoReturn

import dump
from engine import DEADLINE, Pool

LIMIT = 2 * DEADLINE  # seconds for any job

_greetings = -1  # a descriptor that every worker inherits


def greet() -> None:
    """A worker's initializer: it leaves its number, just before it says hello to the pool."""
    os.write(_greetings, array.array("i", [os.getpid()]).tobytes())


def fail(x: int) -> NoReturn:
    raise ValueError(x)


def fail_odd(x: int) -> int:
    return fail(x) if x % 2 else x


class Hung(Exception):
    pass


class Told:
    """Callbacks of one job: how often they were called, and with what."""

    def __init__(self) -> None:
        self.calls: list[Any] = []
        self.event = threading.Event()

    def __call__(self, value: Any) -> None:
        self.calls.append(value)
        self.event.set()


class Round:
    """One pool, and what is done with it."""

    def __init__(self, rng: random.Random, number: int, greetings: Any) -> None:
        self.rng = rng
        self.greetings = greetings
        self.numbers = itertools.count(1, 2)  # all odd, so that all fail
        self.waiting: dict[int, str] = {}  # by thread
        self.done: Counter[str] = Counter()
        self.limit = rng.randint(1, 3)
        self.size = rng.randint(1, 3)
        self.pool = Pool(self.size, greet, maxtasksperchild=self.limit)
        cores = len(os.sched_getaffinity(0))
        self.name = (
            f"round {number}: Pool({self.size}, maxtasksperchild={self.limit}), {cores} cores"
        )

    def run(self) -> None:
        ways = self.rng.choices([self.one, self.burst, self.unattended, self.map, self.imap], k=6)
        if self.rng.random() < 0.3:
            self.in_threads(ways)
        else:
            for way in ways:
                way()
        end = self.rng.choice([self.pool.close, self.pool.terminate])
        end()
        self.expect(f"join after {end.__name__}", lambda: self.pool.join(timeout=LIMIT))

    def expect(self, what: str, wait: Callable[[], Any]) -> Any:
        """Return what wait returns; if that takes too long, report the state of everything."""
        me = threading.get_ident()
        self.waiting[me] = what
        try:
            return wait()
        except (TimeoutError, multiprocessing.TimeoutError) as error:
            raise Hung(f"{what} did not end within {LIMIT} s") from error
        except ValueError as error:
            return error
        finally:
            del self.waiting[me]

    def one(self) -> None:
        """Make the call that was once seen to hang, several times."""
        for _ in range(5):
            self.fails("apply_async", lambda result: result.get(LIMIT))

    def unattended(self) -> None:
        """The same, while no thread is in a call of the pool's."""
        for _ in range(3):
            self.fails("unattended apply_async", None)

    def fails(self, what: str, get: Callable[[Any], Any] | None) -> None:
        item, told = next(self.numbers), Told()
        result = self.pool.apply_async(fail, (item,), error_callback=told)
        self.await_failure(f"{what} of {item}", result, item, told, get)

    def await_failure(
        self, what: str, result: Any, item: int, told: Told, get: Callable[[Any], Any] | None
    ) -> None:
        if get is not None:
            error = self.expect(what, lambda: get(result))
            assert isinstance(error, ValueError), f"{what} gave {error!r}"
            assert error.args == (item,)
        else:
            self.expect(what, lambda: self.event(told))
        assert [type(call) for call in told.calls] == [ValueError], told.calls
        assert told.calls[0].args == (item,)
        self.done[what.split(" of ")[0]] += 1

    def event(self, told: Told) -> None:
        if not told.event.wait(LIMIT):
            raise TimeoutError

    def burst(self) -> None:
        """Many calls at once, of which half fail."""
        jobs = []
        for item in range(20):
            told = Told()
            job = self.pool.apply_async(fail_odd, (item,), callback=told, error_callback=told)
            jobs.append((item, told, job))
        for item, told, job in jobs:
            value = self.expect(f"call {item} of a burst", lambda job=job: job.get(LIMIT))
            assert (value.args[0] if item % 2 else value) == item
            assert len(told.calls) == 1
            self.done["burst"] += 1

    def map(self) -> None:
        told = Told()
        items = range(1, 2 * self.rng.randint(2, 8), 2)
        result = self.pool.map_async(fail, items, 1, error_callback=told)
        error = self.expect("map_async", lambda: result.get(LIMIT))
        assert isinstance(error, ValueError)
        assert told.calls == [error]
        self.done["map_async"] += 1

    def imap(self) -> None:
        results = self.pool.imap_unordered(fail_odd, iter(range(9)))
        found = [
            self.expect("next of imap_unordered", lambda: results.next(LIMIT)) for _ in range(9)
        ]
        assert sorted(x.args[0] if isinstance(x, ValueError) else x for x in found) == list(
            range(9)
        )
        self.done["imap_unordered"] += 1

    def in_threads(self, ways: Iterable[Callable[[], None]]) -> None:
        errors: list[BaseException] = []

        def run(way: Callable[[], None]) -> None:
            try:
                way()
            except BaseException as error:
                errors.append(error)

        threads = [threading.Thread(target=run, args=(way,), daemon=True) for way in ways]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(3 * LIMIT)
            if thread.is_alive():
                raise Hung("a thread never came back")
        if errors:
            raise errors[0]

    # What is to be told of one that hangs

    def greeted(self) -> list[int]:
        self.greetings.seek(0)
        found = array.array("i")
        found.frombytes(self.greetings.read())
        return found.tolist()

    def explain(self, error: BaseException) -> None:
        """Print what each thread and worker waits for. Python stacks are written to stderr too."""
        pool, engine = self.pool, self.pool._engine
        say(f"{self.name}: {error!r}")
        say("done:", dict(self.done), "others wait for:", list(self.waiting.values()))
        say("pending, queued, ready, failed starts:", engine.counts())
        jobs = engine.jobs()
        for number, job in jobs.items():
            say(f"job {number}: {job!r}, {job._left()} items left")
        for text in dump.workers(pool, self.greeted()):
            say(text)
        say(f"this process:\n{dump.state(os.getpid())}\n{dump.stacks(os.getpid())}")
        faulthandler.dump_traceback(all_threads=True)
        for worker in list(pool._pool):
            os.kill(worker.pid, signal.SIGUSR1)  # where Python's handlers are, it writes its stack
        began = time.monotonic()
        while engine.counts()[0] > 0 and time.monotonic() < began + LIMIT:
            time.sleep(0.05)
        late = engine.counts()[0] == 0
        say("it was only late" if late else "it never came", f"({time.monotonic() - began:.1f} s)")


def say(*parts: object) -> None:
    print(*parts, file=sys.stderr, flush=True)


def stress(rounds: int, seconds: float, seed: int) -> dict[str, Any]:
    global _greetings
    cores = os.sched_getaffinity(0)
    done: Counter[str] = Counter()
    end = time.monotonic() + seconds
    with tempfile.TemporaryFile() as greetings:
        _greetings = os.open(f"/proc/self/fd/{greetings.fileno()}", os.O_WRONLY | os.O_APPEND)
        number = 0
        while number < rounds and time.monotonic() < end:
            rng = random.Random(f"{seed} {number}")
            os.sched_setaffinity(0, {min(cores)} if number % 2 else cores)
            greetings.truncate(0)
            one = Round(rng, number, greetings)
            try:
                one.run()
            except BaseException as error:
                one.explain(error)
                for worker in list(one.pool._pool):
                    worker.kill()
                say(f"again: --seed {seed}, round {number}")
                raise
            done += one.done
            number += 1
        os.close(_greetings)
    os.sched_setaffinity(0, cores)
    return {"rounds": number, **done}


def main() -> int:
    parser = argparse.ArgumentParser(description="Failing tasks where workers are replaced.")
    parser.add_argument("--rounds", type=int, default=200, help="pools to make")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="no round after that")
    parser.add_argument("--seed", type=int, default=1, help="what chance begins with")
    args = parser.parse_args()
    warnings.simplefilter("ignore", DeprecationWarning)  # forks beside threads, from 3.12 on
    faulthandler.register(signal.SIGUSR1, all_threads=True)  # workers inherit it
    began = time.monotonic()
    try:
        summary = stress(args.rounds, args.seconds, args.seed)
    except BaseException:
        faulthandler.dump_traceback_later(LIMIT, exit=True)  # the pool may hang at the exit too
        raise
    print(json.dumps({**summary, "seconds": round(time.monotonic() - began, 1)}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
