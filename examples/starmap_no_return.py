"""starmap() of a task that returns nothing and is called for its side effect."""

import random
import time

from cpool import Pool


def task(identifier: int, value: float) -> None:
    """Runs in a worker process: wait a moment and report."""
    time.sleep(value)
    print(f"Task {identifier}, done with {value:.3f}", flush=True)


def main() -> None:
    random.seed(1)
    items = [(identifier, random.random() / 10) for identifier in range(10)]
    with Pool() as pool:
        # starmap() returns when all tasks are done, so leaving the block interrupts none.
        pool.starmap(task, items)
    print("All tasks are done", flush=True)


if __name__ == "__main__":
    main()
