"""Compares cpool.distributed.Pool with dask's own calls, Ray's Pool and a local cpool.Pool.

    python -m benchmarks.cluster            measure on a LocalCluster of two processes
    python -m benchmarks.cluster --scheduler  measure what a piece costs the scheduler
    python -m benchmarks.cluster --simulate compute 10, 100 and 1,000 nodes from measured costs

All contenders of a case take turns in one process, on one cluster; each number is the median of the
rounds. Ray is measured if it is installed (`pip install ray`), on its own cluster.
"""

from __future__ import annotations

import argparse
import contextlib
import heapq
import importlib.util
import itertools
import statistics
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from cpool._cluster import plan


def square(x: int) -> int:
    return x * x


def some_sums(x: int) -> int:
    """About a microsecond of work."""
    for i in range(15):
        x += i
    return x


def identity(x: Any) -> Any:
    return x


Call = Callable[[], Any]


def in_turns(calls: dict[str, Call], rounds: int) -> dict[str, float]:
    """The median seconds of each call; all take turns."""
    for call in calls.values():
        call()
    took: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            begun = time.perf_counter()
            call()
            took[name].append(time.perf_counter() - begun)
    return {name: statistics.median(seconds) for name, seconds in took.items()}


def show(title: str, found: dict[str, float], items: int = 1) -> None:
    print(f"\n{title}")
    ours = found["cpool.distributed"]
    for name, seconds in found.items():
        each = seconds / items
        print(f"  {name:24s} {each * 1e6:12.1f} µs   {seconds / ours:8.2f} times cpool.distributed")


def measure(rounds: int) -> None:
    import distributed

    import cpool
    from cpool.distributed import Pool

    with (
        distributed.LocalCluster(
            n_workers=2, threads_per_worker=1, dashboard_address=":0", host="127.0.0.1"
        ) as cluster,
        distributed.Client(cluster, set_as_default=False) as client,
        Pool(client) as pool,
        cpool.Pool(2) as local,
    ):
        pool.wait_for_nodes(2, 60)
        numbers = itertools.count()

        # Many in a row: dask's client holds a message back for up to 10 ms after the one before,
        # and Client.submit() leaves one behind, which the next call would pay for.
        row = 20
        show(
            f"{row} calls, one after another, a call (target: no more than Client.submit)",
            in_turns(
                {
                    "cpool.distributed": lambda: [pool.apply(square, (3,)) for _ in range(row)],
                    "Client.submit().result()": lambda: [
                        client.submit(square, next(numbers), pure=False).result()
                        for _ in range(row)
                    ],
                },
                rounds,
            ),
            row,
        )

        many = range(100_000)
        few = 2000
        begun = time.perf_counter()
        client.gather(client.map(square, range(few), pure=False))
        per_item = (time.perf_counter() - begun) / few
        calls: dict[str, Call] = {
            "cpool.distributed": lambda: pool.map(square, many),
            "cpool.Pool": lambda: local.map(square, many),
        }
        found = in_turns(calls, rounds)
        found[f"Client.map ({few} items)"] = per_item * len(many)
        of_rays = {}
        if importlib.util.find_spec("ray") is not None:
            of_rays = of_ray([square, some_sums], many, rounds)
            found["Ray's Pool"] = of_rays["square"]
        target = "Client.map 300 times ours"
        show(f"map() of 100,000 squares, an item (target: {target})", found, len(many))

        calls = {
            "cpool.distributed": lambda: pool.map(some_sums, many),
            "cpool.Pool": lambda: local.map(some_sums, many),
            "ideal": lambda: deque(map(some_sums, range(len(many) // 2)), maxlen=0),
        }
        found = in_turns(calls, rounds)
        if of_rays:
            found["Ray's Pool"] = of_rays["some_sums"]
        target = "at most 3 times cpool.Pool; Ray 50 times ours"
        show(f"map() of 100,000 tasks of 1 µs, an item (target: {target})", found, len(many))

        found = in_turns(
            {
                "cpool.distributed": lambda: pool.map(time.sleep, [0.01] * 500),
                "cpool.Pool": lambda: local.map(time.sleep, [0.01] * 500),
                "ideal": lambda: deque(map(time.sleep, [0.01] * 250), maxlen=0),
            },
            max(1, rounds // 3),
        )
        show("500 tasks of 10 ms on 2 workers, an item (target: ideal 0.95 times ours)", found, 500)

        if importlib.util.find_spec("numpy") is not None:
            import numpy

            array = numpy.random.default_rng(1).integers(0, 255, 64 << 20, dtype=numpy.uint8)
            found = in_turns(
                {
                    "cpool.distributed": lambda: pool.apply(identity, (array,)),
                    "Client.submit().result()": lambda: client.submit(
                        identity, array, pure=False
                    ).result(),
                },
                max(1, rounds // 2),
            )
            show("an array of 64 MB in and out (target: no slower than Client.submit)", found)


def of_scheduler(pieces: int = 500) -> float:
    """The CPU seconds that a scheduler, in its own process, uses for one piece.

    Its CPU time while idle is subtracted.
    """
    import distributed
    import psutil

    from cpool.distributed import Pool

    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "scheduler.json"
        command = [sys.executable, "-m", "distributed.cli.dask_scheduler", "--no-dashboard"]
        command += ["--host", "127.0.0.1", "--port", "0", "--scheduler-file", str(file)]
        process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
        try:
            while not (file.exists() and file.stat().st_size):
                time.sleep(0.05)
            with (
                distributed.Client(scheduler_file=str(file), set_as_default=False) as client,
                contextlib.ExitStack() as workers,
            ):
                for _ in range(2):
                    command = [sys.executable, "-m", "distributed.cli.dask_worker", "--no-nanny"]
                    command += ["--no-dashboard", "--nthreads", "1", "--scheduler-file", str(file)]
                    worker = subprocess.Popen(command, stderr=subprocess.DEVNULL)
                    workers.callback(worker.kill)
                with Pool(client) as pool:
                    pool.wait_for_nodes(2, 120)
                    for _ in range(20):
                        pool.apply(square, (3,))

                    def used(work: Call) -> tuple[float, float]:
                        """The elapsed seconds, and the scheduler's CPU seconds."""
                        before = sum(psutil.Process(process.pid).cpu_times()[:2])
                        begun = time.perf_counter()
                        work()
                        took = time.perf_counter() - begun
                        return took, sum(psutil.Process(process.pid).cpu_times()[:2]) - before

                    idle, of_idle = used(lambda: time.sleep(5.0))
                    took, of_work = used(lambda: [pool.apply(square, (3,)) for _ in range(pieces)])
                    return (of_work - of_idle / idle * took) / pieces
        finally:
            process.kill()
            process.wait()


def of_ray(functions: list[Callable[[int], int]], items: range, rounds: int) -> dict[str, float]:
    """The median seconds of Ray's own multiprocessing.Pool, by the function's name."""
    ray: Any = importlib.import_module("ray")
    pool_of_ray: Any = importlib.import_module("ray.util.multiprocessing")
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    try:
        with pool_of_ray.Pool(2) as pool:
            calls: dict[str, Call] = {
                function.__name__: partial(pool.map, function, items) for function in functions
            }
            return in_turns(calls, rounds)
    finally:
        ray.shutdown()


def simulate(
    nodes: int, workers: int, each: float, items: int, message: float, latency: float
) -> tuple[float, int, float]:
    """Simulate a map(). Returns (fraction of the ideal speed, pieces, fraction of scheduler time).

    `each` is the seconds of an item, `message` the scheduler's seconds for a piece, `latency` the
    seconds from sending a piece until it begins. Sizes are computed as in the pool itself (`plan`).
    """
    speed = plan.Speed()
    all_workers = nodes * workers
    left = items
    scheduler = 0.0  # when the scheduler will have handled all messages so far
    busy = [0.0] * nodes  # when each node will have finished its pieces
    outstanding = [0] * nodes
    events: list[tuple[float, int]] = [(0.0, node) for node in range(nodes)]
    pieces = 0
    end = 0.0
    while events:
        now, node = heapq.heappop(events)
        if outstanding[node]:
            outstanding[node] -= 1
            speed.add(each, 1)
        if speed.seconds is None and pieces * workers * plan.FIRST >= plan.FIRST_IN_ALL:
            if not outstanding[node]:
                heapq.heappush(events, (now + latency, node))
            continue
        while left and outstanding[node] < plan.AHEAD:
            length = plan.chunk_length(speed, left, workers, all_workers, nodes)
            chunks = plan.room(speed, length, 0.0, 0, workers, nodes)
            taken = min(left, length * min(chunks, workers * plan.CHUNKS_PER_WORKER))
            left -= taken
            pieces += 1
            scheduler = max(scheduler, now) + message
            begun = max(scheduler + latency, busy[node])
            busy[node] = begun + taken * each / workers
            outstanding[node] += 1
            heapq.heappush(events, (busy[node] + latency, node))
            end = max(end, busy[node] + latency)
    ideal = items * each / all_workers
    return ideal / end, pieces, pieces * message / end


def print_simulation() -> None:
    message = plan.MESSAGE
    print(f"one piece costs the scheduler {message * 1e3:.1f} ms; 8 workers a node")
    print("nodes  item      a piece lasts  pieces  scheduler busy  of ideal")
    for nodes in 10, 100, 1000:
        for each in 1e-6, 1e-3, 0.01, 1.0:
            workers = 8
            items = int(60 * nodes * workers / each)
            part, pieces, load = simulate(nodes, workers, each, items, message, 0.02)
            lasts = plan.piece_seconds(nodes, workers)
            print(
                f"{nodes:5d}  {each * 1e3:5g} ms  {lasts:8.2f} s  {pieces:10d}"
                f"  {load:13.0%}  {part:8.0%}"
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--simulate", action="store_true", help="simulate 10, 100 and 1,000 nodes")
    parser.add_argument("--scheduler", action="store_true", help="the scheduler's time for a piece")
    parser.add_argument("--rounds", type=int, default=9)
    given = parser.parse_args()
    if given.simulate:
        print_simulation()
    elif given.scheduler:
        print(f"one piece costs the scheduler {of_scheduler() * 1e3:.2f} ms of CPU time")
    else:
        measure(given.rounds)


if __name__ == "__main__":
    main()
