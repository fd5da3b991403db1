"""Measures how fairly jobs take turns: `python -m benchmarks.fair`.

Measures how long a call of one task waits while three endless `imap`s run, and how much a stream of
such calls slows down a large `map`. Prints a line for each measurement; the exit status is 1 if one
exceeds its bound (a median of 5 ms, and 5 % of the throughput). The rule is in
`csrc/core/pool/turns.h`.
"""

import contextlib
import itertools
import statistics
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

from cpool import Pool, PoolTerminated

WORKERS = 2
MOST_WAIT_MS = 5.0
LEAST_THROUGHPUT = 0.95
PAUSE_S = 0.005  # between two calls of the stream


def sleep_1ms(_: object = None) -> None:
    time.sleep(0.001)


def compute_1ms(_: object = None) -> None:
    end = time.perf_counter() + 0.001
    while time.perf_counter() < end:
        pass


def nothing(_: object = None) -> None:
    pass


def seconds(call: Callable[[], object]) -> float:
    begun = time.perf_counter()
    call()
    return time.perf_counter() - begun


@contextlib.contextmanager
def in_thread(run: Callable[[], None]) -> Iterator[None]:
    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    yield
    thread.join()


def waits_ms(task: Callable[..., None], calls: int = 100) -> list[float]:
    """The time of each `apply` while three `imap`s run whose results are read at once, in ms."""
    pool = Pool(WORKERS)

    def read(results: Iterator[Any]) -> None:
        with contextlib.suppress(PoolTerminated):
            for _ in results:
                pass

    with contextlib.ExitStack() as readers:
        for _ in range(3):
            results = pool.imap(task, itertools.count())
            next(results)
            readers.enter_context(in_thread(lambda results=results: read(results)))
        waits = []
        for _ in range(calls):
            time.sleep(PAUSE_S)
            waits.append(1000 * seconds(lambda: pool.apply(task)))
        pool.terminate()
    pool.join()
    return sorted(waits)


def throughput(task: Callable[..., None], items: int, rounds: int = 11) -> float:
    """The speed of a `map` during a stream of calls, divided by its speed alone."""
    ratios = []
    with Pool(WORKERS) as pool:

        def one() -> float:
            return seconds(lambda: pool.map(task, range(items), 1))

        def stream() -> None:
            while not over.is_set():
                pool.apply(nothing)
                time.sleep(PAUSE_S)

        one()
        for _ in range(rounds):
            alone = one()
            over = threading.Event()
            with in_thread(stream):
                ratios.append(alone / one())
                over.set()
    return statistics.median(ratios)


def main() -> int:
    good = True
    for task in sleep_1ms, compute_1ms:
        waits = waits_ms(task)
        median = statistics.median(waits)
        good = good and median <= MOST_WAIT_MS
        print(
            f"apply beside 3 endless imaps, {task.__name__}: median {median:.2f} ms, "
            f"nine of ten below {waits[len(waits) * 9 // 10]:.2f} ms"
        )
    for task, items in (sleep_1ms, 400), (compute_1ms, 400), (nothing, 30_000):
        ratio = throughput(task, items)
        good = good and ratio >= LEAST_THROUGHPUT
        print(f"map of {items} beside a stream of calls, {task.__name__}: {ratio:.3f} of alone")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
