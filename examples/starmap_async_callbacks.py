"""starmap_async() with one callback for the results and another for the first error."""

import random
import time

from cpool import Pool


def task(identifier: int, value: float) -> float:
    """Runs in a worker process: wait a moment, report, and return a value."""
    time.sleep(value)
    print(f"Task {identifier}, done with {value:.3f}", flush=True)
    return value * 2


def failing_task(identifier: int, value: float) -> float:
    """The same, but the last item fails."""
    if identifier == 9:
        raise ValueError(f"item {identifier} cannot be done")
    return task(identifier, value)


def on_results(results: list[float]) -> None:
    """Called once with the results of all items, in this process but on another thread."""
    for identifier, result in enumerate(results):
        print(f"Callback, result {identifier}: {result:.3f}", flush=True)


def on_error(error: BaseException) -> None:
    """Called instead if an item fails."""
    print(f"Error callback: {type(error).__name__}: {error}", flush=True)


def main() -> None:
    random.seed(1)
    items = [(identifier, random.random() / 10) for identifier in range(10)]
    with Pool() as pool:
        good = pool.starmap_async(task, items, callback=on_results, error_callback=on_error)
        print("The main thread is free while the tasks run", flush=True)
        good.wait()
        pool.starmap_async(failing_task, items, callback=on_results, error_callback=on_error)
        # No more work: join() waits until the workers have exited and all callbacks have run.
        pool.close()
        pool.join()


if __name__ == "__main__":
    main()
