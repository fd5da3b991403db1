"""Measures what a call adds to its task: `python -m benchmarks.overhead [MICROSECONDS ...]`.

For tasks of each length, the time from calling `apply()` until it returns, less the length of the
task; beside it the same for two plain processes that block on two pipes while they wait for each
other. The pool, which may look for an answer for a moment before it blocks, should add no more than
the pipes, and for the shortest tasks a fifth of that.

The task watches the clock, so it takes as long as it says on any machine. Both take turns, and each
number is the median of all calls. The last two columns are the CPU time of all processes for a
call, less the length of the task.
"""

import argparse
import os
import statistics
import time
from collections.abc import Callable, Iterator

import cpool
from benchmarks.meter import CpuMeter

LENGTHS = (0, 1, 2, 5, 10, 20, 50, 100, 200, 500)  # of tasks, in microseconds
ROUNDS = 11
CALLS = 200  # of each in a round
NUMBER = 4  # bytes of a message


def busy(microseconds: int) -> None:
    end = time.perf_counter_ns() + 1000 * microseconds
    while time.perf_counter_ns() < end:
        pass


class Pipes:
    """A forked process that runs tasks, and a pipe in each direction."""

    def __init__(self) -> None:
        requests, self._requests = os.pipe()
        self._answers, answers = os.pipe()
        self._pid = os.fork()
        if self._pid == 0:
            try:
                os.close(self._requests)
                os.close(self._answers)
                while message := os.read(requests, NUMBER):
                    busy(int.from_bytes(message, "little"))
                    os.write(answers, message)
            finally:
                os._exit(0)
        os.close(requests)
        os.close(answers)

    def call(self, microseconds: int) -> None:
        os.write(self._requests, microseconds.to_bytes(NUMBER, "little"))
        if not os.read(self._answers, NUMBER):
            raise RuntimeError("the process behind the pipes ended")

    def close(self) -> None:
        os.close(self._requests)
        os.waitpid(self._pid, 0)
        os.close(self._answers)


def times(call: Callable[[int], object], microseconds: int) -> Iterator[float]:
    for _ in range(CALLS):
        start = time.perf_counter_ns()
        call(microseconds)
        yield (time.perf_counter_ns() - start) / 1000 - microseconds


def measure(calls: list[Callable[[int], object]], microseconds: int) -> list[tuple[float, float]]:
    """For each way to call: what it adds to the task, and its CPU time; in microseconds."""
    added: list[list[float]] = [[] for _ in calls]
    used: list[list[float]] = [[] for _ in calls]
    for _ in range(ROUNDS):
        for number, call in enumerate(calls):
            meter = CpuMeter()
            added[number] += times(call, microseconds)
            used[number].append(1e6 * meter.stop() / CALLS - microseconds)
    return [
        (statistics.median(more), statistics.median(cpu))
        for more, cpu in zip(added, used, strict=True)
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("lengths", nargs="*", type=int, metavar="MICROSECONDS")
    lengths = parser.parse_args().lengths or LENGTHS
    pipes = Pipes()  # forked first: it inherits nothing of the pool
    with cpool.Pool(2) as pool:

        def apply(microseconds: int) -> None:
            pool.apply(busy, (microseconds,))

        print(
            f"{'µs: task':<10}{'apply':>10}{'pipes':>10}{'ratio':>8}{'CPU: apply':>14}{'pipes':>10}"
        )
        for length in lengths:
            (ours, our_cpu), (theirs, their_cpu) = measure([apply, pipes.call], length)
            print(
                f"{length:<10}{ours:>10.1f}{theirs:>10.1f}{ours / theirs:>8.2f}"
                f"{our_cpu:>14.1f}{their_cpu:>10.1f}"
            )
    pipes.close()


if __name__ == "__main__":
    main()
