"""Compares other interfaces with what they replace: `python -m benchmarks.faces [NAME...]`.

    run_in_executor   round trips in an event loop, on a ProcessPoolExecutor
    submit            a burst of 20,000 calls on a ProcessPoolExecutor, then every result
    map               ProcessPoolExecutor.map() over ints with chunksize=1
    awaits            50,000 calls that are awaited at once; and how long the loop is held up
    threads           ThreadPool and ThreadPoolExecutor, tasks of 1 and of 100 microseconds
    joblib            scikit-learn on the cpool and on the loky backend, and the start of both

Each pair takes turns in one process, with two workers that are started by fork. A line has the
medians of both, and their ratio. Lines of a limit tell what remains without any executor or pool.
Only `joblib` needs scikit-learn.
"""

import asyncio
import contextlib
import gc
import multiprocessing
import os
import queue
import statistics
import sys
import threading
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import Executor, Future
from concurrent.futures.process import ProcessPoolExecutor as StdlibProcesses
from concurrent.futures.thread import ThreadPoolExecutor as StdlibThreads
from multiprocessing.pool import ThreadPool as StdlibThreadPool
from typing import Any

import cpool

ROUNDS = 7
WORKERS = 2
FORK = multiprocessing.get_context("fork")


def report(what: str, ours: list[float], theirs: list[float], of: str) -> None:
    """Print a line. Times are in seconds."""
    a, b = statistics.median(ours), statistics.median(theirs)
    print(f"{what:42} {a * 1e6:12.1f} us   {of} {b * 1e6:12.1f} us   {b / a:6.1f}", flush=True)


def in_turns(ours: Callable[[], object], theirs: Callable[[], object], n: int) -> Any:
    """The seconds per item of each round, of both."""
    times: tuple[list[float], list[float]] = [], []
    for _ in range(ROUNDS):
        for run, took in zip((ours, theirs), times, strict=True):
            begun = time.perf_counter()
            run()
            took.append((time.perf_counter() - begun) / n)
    return times


# ---- asyncio ----


class Answered(Executor):
    """The limit: a call is done when submit() returns, so only asyncio's own time is left."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        future: Future[Any] = Future()
        future.set_result(fn(*args, **kwargs))
        return future


class SetByThread(Executor):
    """Another limit: a thread of this process makes the call, and so wakes the loop."""

    def __init__(self) -> None:
        self.calls: queue.SimpleQueue[Any] = queue.SimpleQueue()
        threading.Thread(target=self.work, daemon=True).start()

    def work(self) -> None:
        while (call := self.calls.get()) is not None:
            future, fn, args = call
            future.set_result(fn(*args))

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        future: Future[Any] = Future()
        self.calls.put((future, fn, args))
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        self.calls.put(None)


async def round_trips(executor: Executor, n: int) -> float:
    loop = asyncio.get_running_loop()
    begun = time.perf_counter()
    for i in range(n):
        await loop.run_in_executor(executor, abs, -i)
    return (time.perf_counter() - begun) / n


async def awaited(pool: Any, n: int) -> float:
    begun = time.perf_counter()
    for i in range(n):
        await pool.apply_async(abs, (-i,))
    return (time.perf_counter() - begun) / n


def run_in_executor(n: int = 300) -> None:
    async def body() -> None:
        ours, theirs = cpool.ProcessPoolExecutor(WORKERS), StdlibProcesses(WORKERS, FORK)
        with ours, theirs, cpool.Pool(WORKERS) as pool, SetByThread() as thread:
            todo: list[Callable[[], Awaitable[float]]] = [
                lambda: round_trips(ours, n),
                lambda: round_trips(theirs, n),
                lambda: awaited(pool, n),
                lambda: round_trips(Answered(), n),
                lambda: round_trips(thread, n),
            ]
            times: list[list[float]] = [[] for _ in todo]
            for _ in range(ROUNDS):
                for take, took in zip(todo, times, strict=True):
                    took.append(await take())
        report("await loop.run_in_executor()", times[0], times[1], "stdlib")
        report("await pool.apply_async()", times[2], times[1], "stdlib")
        report("its limit: a future that is done at once", times[3], times[1], "stdlib")
        report("  a future that a plain thread completes", times[4], times[1], "stdlib")

    asyncio.run(body())


def awaits(n: int = 50_000) -> None:
    """Measure how late an asyncio task runs that wants to run every millisecond.

    A line also has the longest run of Python's garbage collector, which stops everything.
    """
    late: list[float] = []
    collections = [0.0]
    begins = 0.0

    def collecting(phase: str, _: Any) -> None:
        nonlocal begins
        if phase == "start":
            begins = time.perf_counter()
        else:
            collections.append(time.perf_counter() - begins)

    gc.callbacks.append(collecting)

    async def tick() -> None:
        while True:
            due = time.monotonic() + 0.001
            await asyncio.sleep(0.001)
            late.append(time.monotonic() - due)

    async def one(pool: Any, i: int) -> Any:
        return await pool.apply_async(abs, (-i,))

    def tell(what: str, begun: float) -> None:
        late.sort()
        took, most, usual = time.perf_counter() - begun, late[-1], late[len(late) // 2]
        print(
            f"{what:42} {took:7.3f} s; late by {usual * 1e3:.2f} ms, {most * 1e3:.1f} at most; "
            f"garbage collection {max(collections) * 1e3:.1f}"
        )
        late.clear()
        collections[:] = [0.0]

    async def body() -> None:
        ticking = asyncio.ensure_future(tick())
        begun = time.perf_counter()
        await asyncio.sleep(0.5)
        tell("nothing", begun)
        begun = time.perf_counter()
        async with cpool.Pool(WORKERS) as pool:
            await one(pool, 1)
            await asyncio.sleep(0.002)
            tell("a pool starts", begun)
            begun = time.perf_counter()
            held = [pool.apply_async(time.sleep, (4,)) for _ in range(WORKERS)]
            found = []
            for i in range(n):
                found.append(asyncio.ensure_future(one(pool, i)))
                if i % 50 == 0:
                    await asyncio.sleep(0)
            tell(f"{n} awaits begin", begun)
            for each in held:
                await each
            begun = time.perf_counter()
            for i, future in enumerate(found):
                assert await future == i
            tell("they end", begun)
            begun = time.perf_counter()
            for _ in range(10):
                with contextlib.suppress(cpool.WorkerLostError):
                    await pool.apply_async(os._exit, (1,))
            tell("10 workers are lost", begun)
            begun = time.perf_counter()
        await asyncio.sleep(0.01)
        tell("the pool ends", begun)
        ticking.cancel()

    asyncio.run(body())
    gc.callbacks.remove(collecting)


# ---- executors ----


def burst(executor: Executor, n: int) -> None:
    futures = [executor.submit(abs, i) for i in range(n)]
    for future in futures:
        future.result()


def submit(n: int = 20_000) -> None:
    with cpool.ProcessPoolExecutor(WORKERS) as ours, StdlibProcesses(WORKERS, FORK) as theirs:
        burst(ours, 100)
        burst(theirs, 100)
        times = in_turns(lambda: burst(ours, n), lambda: burst(theirs, n), n)
        report(f"a burst of {n} submit()", *times, "stdlib")


def map_one(n: int = 20_000) -> None:
    with cpool.ProcessPoolExecutor(WORKERS) as ours, StdlibProcesses(WORKERS, FORK) as theirs:
        todo = [lambda e=executor: list(e.map(abs, range(n))) for executor in (ours, theirs)]
        times = in_turns(*todo, n)
        report("map(chunksize=1)", *times, "stdlib")


def working(us: float) -> Callable[[int], int]:
    """A function that computes for `us` microseconds."""

    def work(_: int) -> int:
        total = 0
        for i in range(rounds):
            total += i
        return total

    rounds = 20_000
    took = []
    for _ in range(5):
        begun = time.perf_counter()
        work(0)
        took.append(time.perf_counter() - begun)
    rounds = max(1, int(rounds * us * 1e-6 / min(took)))
    return work


def in_two_threads(work: Any, n: int) -> None:
    """The limit: plain threads call `work`, each half of the times."""

    def half() -> None:
        for i in range(n // WORKERS):
            work(i)

    each = [threading.Thread(target=half) for _ in range(WORKERS)]
    for thread in each:
        thread.start()
    for thread in each:
        thread.join()


def threads() -> None:
    def all_results(pool: Any, work: Any, n: int) -> None:
        for result in [pool.apply_async(work, (i,)) for i in range(n)]:
            result.get()

    def all_futures(executor: Any, work: Any, n: int) -> None:
        for future in [executor.submit(work, i) for i in range(n)]:
            future.result()

    bodies: list[tuple[str, Any, int]] = [
        ("map(chunksize=1)", lambda pool, work, n: pool.map(work, range(n), 1), 4000),
        ("apply()", lambda pool, work, n: [pool.apply(work, (i,)) for i in range(n)], 1000),
        ("a burst of apply_async()", all_results, 20_000),
    ]
    for us in 1, 100:
        work = working(us)
        n = 20_000 if us == 1 else 1000
        limit = in_turns(
            lambda w=work, n=n: in_two_threads(w, n), lambda w=work, n=n: list(map(w, range(n))), n
        )
        report(f"the limit: two threads, {us} us", *limit, "one thread")
        with cpool.ThreadPool(WORKERS) as ours, StdlibThreadPool(WORKERS) as theirs:
            for name, body, most in bodies:
                n = most if us == 1 else most // 20
                pair = [lambda p=p, b=body, w=work, n=n: b(p, w, n) for p in (ours, theirs)]
                report(f"ThreadPool.{name}, {us} us", *in_turns(*pair, n), "stdlib")
        with cpool.ThreadPoolExecutor(WORKERS) as mine, StdlibThreads(WORKERS) as its:
            n = 20_000 if us == 1 else 1000
            pair = [lambda e=e, w=work, n=n: all_futures(e, w, n) for e in (mine, its)]
            report(f"ThreadPoolExecutor.submit(), {us} us", *in_turns(*pair, n), "stdlib")


# ---- joblib ----


def joblib() -> None:
    import joblib as package

    import cpool.joblib

    cpool.joblib.register()

    def on(backend: str, body: Callable[[], object]) -> Callable[[], object]:
        def run() -> None:
            with package.parallel_config(backend=backend, n_jobs=WORKERS):
                body()

        return run

    def start(backend: str) -> float:
        """Seconds of the first call, which starts the workers and has almost no work for them."""
        begun = time.perf_counter()
        on(backend, lambda: package.Parallel()(package.delayed(abs)(i) for i in range(2)))()
        return time.perf_counter() - begun

    def end(backend: str) -> None:
        if backend == "cpool":
            for executor in cpool.joblib._executors.values():
                executor.shutdown()
            cpool.joblib._executors.clear()
        else:
            package.externals.loky.get_reusable_executor().shutdown(wait=True)

    def starts(what: str) -> None:
        times: dict[str, list[float]] = {"cpool": [], "loky": []}
        for _ in range(ROUNDS):
            for backend, took in times.items():
                took.append(start(backend))
                end(backend)
        report(what, times["cpool"], times["loky"], "loky")

    starts("the first Parallel, in a small program")

    from sklearn.datasets import make_classification
    from sklearn.ensemble import RandomForestClassifier, RandomForestRegressor
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import GridSearchCV, cross_val_score
    from sklearn.tree import DecisionTreeClassifier

    starts("the same after importing scikit-learn")
    x, y = make_classification(2000, 20, random_state=0)
    grid = {"max_depth": [2, 4, 6, 8], "min_samples_leaf": [1, 5]}
    bodies = {
        "GridSearchCV": lambda: GridSearchCV(DecisionTreeClassifier(), grid, cv=3).fit(x, y),
        "RandomForestClassifier": lambda: RandomForestClassifier(40).fit(x, y),
        "RandomForestRegressor": lambda: RandomForestRegressor(20).fit(x, y),
        "cross_val_score": lambda: cross_val_score(LogisticRegression(), x, y, cv=10),
    }
    for name, body in bodies.items():
        pair = on("cpool", body), on("loky", body)
        for run in pair:
            run()
        report(name, *in_turns(*pair, 1), "loky")


ALL: dict[str, Callable[[], None]] = {
    "run_in_executor": run_in_executor,
    "submit": submit,
    "map": map_one,
    "awaits": awaits,
    "threads": threads,
    "joblib": joblib,
}


if __name__ == "__main__":
    for name in sys.argv[1:] or ALL:
        ALL[name]()
