"""starmap() with chunksize=2: each task has two items."""

import random
import time

from cpool import Pool


def task(identifier: int, value: float) -> float:
    """Runs in a worker process: wait a moment, report, and return a value."""
    time.sleep(value)
    print(f"Task {identifier}, done with {value:.3f}", flush=True)
    return value * 2


def main() -> None:
    random.seed(1)
    items = [(identifier, random.random() / 10) for identifier in range(10)]
    with Pool() as pool:
        for identifier, result in enumerate(pool.starmap(task, items, chunksize=2)):
            print(f"Result {identifier}: {result:.3f}", flush=True)


if __name__ == "__main__":
    main()
