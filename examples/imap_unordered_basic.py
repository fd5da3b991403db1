"""imap_unordered(): yields each result as soon as it is ready, in any order."""

import random
import time

from cpool import Pool


def task(item: tuple[int, float]) -> tuple[int, float]:
    """Runs in a worker process: wait a moment, report, and return a value."""
    identifier, value = item
    time.sleep(value)
    print(f"Task {identifier}, done with {value:.3f}", flush=True)
    return identifier, value * 2


def main() -> None:
    random.seed(1)
    items = [(identifier, random.random() / 10) for identifier in range(10)]
    with Pool() as pool:
        for identifier, result in pool.imap_unordered(task, items):
            print(f"Result {identifier}: {result:.3f}", flush=True)


if __name__ == "__main__":
    main()
