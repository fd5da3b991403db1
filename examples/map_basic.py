"""map(): one argument for each call; the results are in the order of the items."""

import random
import time

from cpool import Pool


def task(value: float) -> float:
    """Runs in a worker process: wait a moment, report, and return a value."""
    time.sleep(value)
    print(f"Task done with {value:.3f}", flush=True)
    return value * 2


def main() -> None:
    random.seed(1)
    items = [random.random() / 10 for _ in range(10)]
    with Pool() as pool:
        for value, result in zip(items, pool.map(task, items), strict=True):
            print(f"Result for {value:.3f}: {result:.3f}", flush=True)


if __name__ == "__main__":
    main()
