"""The process in which one contender runs one case. It imports only that peer.

The harness (rounds.py) starts the process, writes one line for every round and reads one line of
JSON for each. The process exits at the end of its input.
"""

import copy
import json
import os
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any, TextIO

from benchmarks.cases import CASES, Size, Work
from benchmarks.interface import Peer
from benchmarks.limits import LIMITS, Limit
from benchmarks.meter import (
    CpuMeter,
    forget_peaks,
    peaks,
    pss_of_all,
    pss_of_parent,
    pss_of_workers,
)
from benchmarks.peers import PEERS
from benchmarks.work import get_ready

# Seconds to wait, so that the work of a pool after its last result (spinning, cleaning up) counts
# too.
SETTLE = 0.005


class WrongResult(Exception):
    """The results are not the expected ones."""


def check(work: Work, results: list[Any]) -> None:
    if work.call == "imap_unordered":
        results = sorted(results)
    right = work.expected
    if len(results) != len(right):
        raise WrongResult(f"{len(results)} results for {len(right)} items")
    if work.shown is not None:
        results, right = list(map(work.shown, results)), list(map(work.shown, right))
    if results != right:
        pairs = enumerate(zip(results, right, strict=True))
        at, (got, expected) = next(pair for pair in pairs if pair[1][0] != pair[1][1])
        raise WrongResult(f"item {at}: {got!r:.80} where {expected!r:.80} is right")


class Runner:
    """Runs the rounds, all on one pool, unless the case asks for a fresh pool each."""

    def __init__(self, open_pool: Callable[[], Peer | Limit], work: Work) -> None:
        self.open_pool = open_pool
        self.work = work
        self.pool: Peer | Limit | None = None

    def run_fresh(self, work: Work) -> list[Any]:
        pool = self.open_pool()
        try:
            return pool.run(work)
        finally:
            pool.close()

    def round(self) -> dict[str, float]:
        if self.work.first:
            self.close()
            self.pool = None
        if self.pool is None and not self.work.fresh:
            self.pool = self.open_pool()
            if self.work.first and isinstance(self.pool, Peer):
                # With spawn the workers are just starting, and have not imported numpy.
                items = [0.05] * (2 * self.work.workers)
                self.pool.run(
                    replace(self.work, call="map", function=get_ready, items=items, chunksize=1)
                )
        # A new callable for each round, if it carries data (a copy of a plain function is the same
        # object): a pool may cache the last callable.
        work = replace(self.work, function=copy.copy(self.work.function))
        if work.renewed:
            work = replace(work, items=copy.deepcopy(work.items))
        if self.work.measure == "peak_bytes":
            forget_peaks()
        before = pss_of_all() if self.work.measure == "grown_bytes" else 0
        cpu = CpuMeter()
        start = time.perf_counter()
        results = self.run_fresh(work) if self.pool is None else self.pool.run(work)
        seconds = time.perf_counter() - start
        time.sleep(SETTLE)
        cost = {"seconds": seconds, "cpu": cpu.stop()}
        check(self.work, results)
        del results
        if self.work.measure == "parent_bytes":
            cost["parent_bytes"] = pss_of_parent()
        elif self.work.measure == "worker_bytes":
            cost["worker_bytes"] = pss_of_workers()
        elif self.work.measure == "peak_bytes":
            cost["peak_bytes"] = peaks()
        elif self.work.measure == "grown_bytes":
            cost["grown_bytes"] = pss_of_all() - before
        return cost

    def close(self) -> None:
        if self.pool is not None:
            self.pool.close()


def opener(name: str, work: Work) -> Callable[[], Peer | Limit]:
    if name == "limit":
        return lambda: LIMITS[work.limit](work)
    return lambda: PEERS[name](work.workers, work.start)


def serve(name: str, work: Work, orders: TextIO, answers: TextIO) -> None:
    def answer(message: dict[str, Any]) -> None:
        answers.write(json.dumps(message) + "\n")
        answers.flush()

    runner = Runner(opener(name, work), work)
    answer({"ready": True})
    for _ in orders:
        try:
            answer(runner.round())
        except Exception as error:
            answer({"error": type(error).__name__, "text": str(error)})
            os._exit(1)  # a pool that failed may hang in close()
    runner.close()


def probe(name: str) -> None:
    """Print the version of the peer, or why it is missing."""
    try:
        answer = {"version": PEERS[name].version()}
    except Exception as error:
        answer = {"missing": f"{type(error).__name__}: {error}"}
    print(json.dumps(answer))


def main() -> None:
    arguments: dict[str, Any] = json.loads(sys.argv[1])
    if "case" not in arguments:
        probe(arguments["name"])
        return
    for descriptor in (arguments["orders"], arguments["answers"]):
        os.set_inheritable(descriptor, False)  # workers must not inherit them
    work = CASES[arguments["case"]].build(Size(arguments["quick"], arguments["loops_50us"]))
    if work.start == "fork":
        work = replace(work, start=arguments["start"])
    with os.fdopen(arguments["orders"]) as orders, os.fdopen(arguments["answers"], "w") as answers:
        serve(arguments["name"], work, orders, answers)
