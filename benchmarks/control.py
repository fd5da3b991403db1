"""Measures limits, cancelling, elastic pools, streams, priorities and shared objects.

    python -m benchmarks.control                   all measurements
    python -m benchmarks.control late cancel       some

Prints a line for each number, with the number to be reached. On a machine that does other things
as well the times are longer: `late`, `memory`, `elastic`, `values` and `sharing` need idle CPUs.
`priorities` and `sharing` take sizes from the environment: CALLS (1,000,000 waiting calls, which
take 2 GB) and TABLE (1,000,000,000 bytes).
"""

import multiprocessing
import os
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import cpool

LIMIT = 0.5
ROUNDS = 9


def show(what: str, found: str, wanted: str) -> None:
    print(f"{what:58} {found:>16}   {wanted}", flush=True)


# What runs out of time


def compute() -> None:
    while True:
        pass


def sleep() -> None:
    time.sleep(1000)


def compute_in_c() -> int:
    return int(pow(3, 10**9, 10**400_000))


def block_signals() -> None:
    signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    sleep()


def stop_itself() -> None:
    os.kill(os.getpid(), signal.SIGSTOP)


def fork_children() -> None:
    for _ in range(3):
        subprocess.Popen(["sleep", "1000"])
    sleep()


def late() -> None:
    """How long after its limit a task is ended, and how long until the next one runs."""
    with cpool.Pool(1) as pool:
        for func in compute, sleep, compute_in_c, block_signals, stop_itself, fork_children:
            ends, nexts = [], []
            for _ in range(ROUNDS):
                pool.apply(os.getpid)
                began = time.perf_counter()
                try:
                    pool.apply(func, task_timeout=LIMIT)
                except cpool.TaskTimeoutError as error:
                    ends.append(time.perf_counter() - began - LIMIT)
                    assert error.seconds >= LIMIT, "ended before the limit"
                began = time.perf_counter()
                pool.apply(os.getpid)
                nexts.append(time.perf_counter() - began)
            assert len(ends) == ROUNDS
            show(f"{func.__name__}, ended after the limit", ms(ends), "median below 50 ms")
            show(f"{func.__name__}, the next task is done after", ms(nexts), "median below 50 ms")


def ms(times: list[float]) -> str:
    return f"{statistics.median(times) * 1e3:.1f} ms"


# Many


def nap(seconds: float) -> float:
    time.sleep(seconds)
    return seconds


def double(x: int) -> int:
    return 2 * x


def many() -> None:
    """A thousand tasks that run out of time, beside ten thousand that do not."""
    before = len(os.listdir("/proc/self/fd"))
    with cpool.Pool(8) as pool:
        pool.apply_async(double, (1,)).get()
        held = len(os.listdir("/proc/self/fd"))
        others = pool.map_async(double, range(10_000), 1)
        began = time.perf_counter()
        found = pool.map(nap, [1000.0] * 1000, task_timeout=0.05, return_exceptions=True)
        took = time.perf_counter() - began
        assert {type(each) for each in found} == {cpool.TaskTimeoutError}
        assert others.get() == [2 * x for x in range(10_000)]
        assert len(os.listdir("/proc/self/fd")) <= held + 2
    assert len(os.listdir("/proc/self/fd")) <= before + 2
    show("1,000 tasks that run out of time beside 10,000", f"{took:.1f} s", "all outcomes right")


# What costs nothing


def work_for_a_microsecond(x: int) -> int:
    for _ in range(40):
        pass
    return x


def idle_limit() -> None:
    """A limit that never strikes, on tasks of a microsecond: pairs of short rounds in turns."""
    with cpool.Pool(2) as pool:
        plain, limited = [], []
        for _ in range(60):
            for times, options in (plain, {}), (limited, {"task_timeout": 1000.0}):
                began = time.perf_counter()
                pool.map(work_for_a_microsecond, range(20_000), 100, **options)
                times.append(time.perf_counter() - began)
        ratio = statistics.median(b / a for a, b in zip(plain, limited, strict=True))
    show("a limit that never strikes, chunks of 100", f"{(ratio - 1) * 100:+.1f} %", "below 3 %")


def memory_idle() -> None:
    """The same for a memory limit: two pools in turns."""
    with cpool.Pool(2) as pool, cpool.Pool(2, memory_limit="100GB") as limited:
        ratios = []
        for _ in range(60):
            times = []
            for each in pool, limited:
                began = time.perf_counter()
                each.map(double, range(20_000), 1)
                times.append(time.perf_counter() - began)
            ratios.append(times[1] / times[0])
    cost = (statistics.median(ratios) - 1) * 100
    show("a memory limit that never strikes, tasks of one item", f"{cost:+.1f} %", "below 3 %")


# Cancelling


def cancel() -> None:
    with cpool.Pool(2) as pool:
        blockers = [pool.apply_async(nap, (0.5,)) for _ in range(2)]
        result = pool.map_async(double, range(100_000), 1)
        began = time.perf_counter()
        result.cancel()
        took = time.perf_counter() - began
        for blocker in blockers:
            blocker.get()
        show("cancel() of a map of 100,000 tasks", f"{took * 1e3:.1f} ms", "below 100 ms")
        blockers = [pool.apply_async(nap, (2.0,)) for _ in range(2)]
        calls = [pool.apply_async(double, (x,)) for x in range(100_000)]
        began = time.perf_counter()
        for call in calls:
            call.cancel()
        took = time.perf_counter() - began
        show("cancel() of 100,000 calls", f"{took * 1e3:.1f} ms", "below 100 ms")


# Memory


def take(size: int) -> int:
    """In pieces of 16 MB, as fast as the machine gives them."""
    return sum(map(len, [b"x" * (16 << 20) for _ in range(size >> 24)]))


def take_alone(size: int) -> float:
    """Seconds that a process without any pool needs for so much memory."""
    began = time.perf_counter()
    pid = os.fork()
    if pid == 0:
        take(size)
        os._exit(0)
    os.waitpid(pid, 0)
    return time.perf_counter() - began


def memory() -> None:
    times, most, alone = [], [], []
    with cpool.Pool(1, memory_limit="500MB") as pool:
        for _ in range(ROUNDS):
            pool.apply(os.getpid)
            alone.append(take_alone(500_000_000))
            began = time.perf_counter()
            try:
                pool.apply(take, (2 << 30,))
            except cpool.MemoryLimitError as error:
                times.append(time.perf_counter() - began)
                most.append(error.bytes)
    show("2 GB against a limit of 500 MB, ended after", ms(times), "below 300 ms")
    show("of which a process needs to take 500 MB", ms(alone), "no number")
    show("its memory by then, at most", f"{max(most) / 1e6:.0f} MB", "no number")


# Elastic pools


def burst(pool: Any, number: int, seconds: float) -> float:
    """Items per second."""
    began = time.perf_counter()
    pool.map(nap, [seconds] * number, 1)
    return number / (time.perf_counter() - began)


def elastic() -> None:
    with (
        cpool.Pool(8) as fixed,
        cpool.Pool(8, min_processes=2, idle_timeout=0.3) as pool,
    ):
        ratios = []
        for _ in range(ROUNDS):
            burst(pool, 200, 0.002)  # until they are up
            assert pool._engine.target == 8
            burst(fixed, 200, 0.002)
            ratios.append(burst(pool, 400, 0.002) / burst(fixed, 400, 0.002))
            end = time.monotonic() + 60
            while len([w for w in pool._pool if w.is_alive()]) > 2 and time.monotonic() < end:
                time.sleep(0.01)
            assert pool._engine.target == 2, "idle workers live on"
    share = statistics.median(ratios) * 100
    show("items per second of 2 to 8 workers, of those of 8", f"{share:.0f} %", "90 % or more")


# Streams


def count(number: int) -> Iterator[int]:
    yield from range(number)


def tell_time(number: int) -> Iterator[float]:
    for _ in range(number):
        time.sleep(0.002)  # the reader sleeps by then
        yield time.perf_counter()


def put_all(number: int, queue: Any) -> None:
    for x in range(number):
        queue.put(x)


def values() -> None:
    number, few = 1_000_000, 10_000
    with cpool.Pool(1) as pool, multiprocessing.Manager() as manager:
        queue = manager.Queue()
        rates, of_queue = [], []
        for _ in range(5):
            began = time.perf_counter()
            assert sum(1 for _ in pool.stream(count, (number,))) == number
            rates.append(number / (time.perf_counter() - began))
            began = time.perf_counter()
            result = pool.apply_async(put_all, (few, queue))
            for _ in range(few):
                queue.get()
            of_queue.append(few / (time.perf_counter() - began))
            result.get()
        rate = statistics.median(rates)
        show("a stream of 1,000,000 ints, items per second", f"{rate:,.0f}", "1,000,000")
        times = rate / statistics.median(of_queue)
        show("of those of a Manager's queue", f"{times:.0f} times", "100 times")
        late = [time.perf_counter() - sent for sent in pool.stream(tell_time, (200,))]
        show("a value that the reader waits for, after its yield", ms(late), "median below 1 ms")


# Priorities


def hold(fd: int) -> None:
    os.read(fd, 1)


def nothing(_: int) -> None:
    pass


def waiting_calls(number: int, of: Callable[[int], int]) -> tuple[float, float]:
    """Submit calls with these priorities while the worker is busy, then run and read them.

    Microseconds a call: of submitting, and of the rest.
    """
    reading, writing = os.pipe()
    with cpool.Pool(1) as pool:
        first = pool.apply_async(hold, (reading,), priority=100)
        began = time.perf_counter()
        results = [pool.apply_async(nothing, (i,), priority=of(i)) for i in range(number)]
        submitted = time.perf_counter()
        # Read in the order in which they are run: with another order, the reader waits first and
        # decodes everything afterwards, instead of beside the worker.
        results = [results[i] for i in sorted(range(number), key=lambda i: -of(i))]
        ready = time.perf_counter()
        os.write(writing, b"x")
        for result in results:
            result.get()
        over = time.perf_counter()
        first.get()
    os.close(reading)
    os.close(writing)
    return (submitted - began) / number * 1e6, (over - ready) / number * 1e6


def priorities() -> None:
    number = int(os.environ.get("CALLS", "1000000"))
    kinds: dict[str, Callable[[int], int]] = {
        "of one priority": lambda _: 5,
        "of ten, by priority": lambda i: 10 - i * 10 // number,
        "of ten, mixed": lambda i: 1 + i % 10,
    }
    found: dict[str, list[tuple[float, float]]] = {kind: [] for kind in kinds}
    for _ in range(3):
        for kind, of in kinds.items():
            found[kind].append(waiting_calls(number, of))
    for kind, times in found.items():
        submit, run = (statistics.median(column) for column in zip(*times, strict=True))
        show(f"{number:,} calls {kind}", f"{submit:.2f} + {run:.2f} us", "the same for all")


# Shared objects


def first_use(table: Any) -> tuple[float, int]:
    """Read all of it: when that was done, and the length."""
    size = len(table)
    total = int(table.sum()) if hasattr(table, "sum") else sum(table[::4096])
    return time.perf_counter(), size + 0 * total


def later_use(table: Any) -> int:
    return len(table)


def own_memory(_: int) -> int:
    """Bytes of this process that no other shares."""
    with open("/proc/self/smaps_rollup", encoding="utf-8") as file:
        lines = dict(line.split(":", 1) for line in file if ":" in line and "kB" in line)
    return sum(int(lines[f"Private_{kind}"].split()[0]) for kind in ("Clean", "Dirty")) * 1024


def memory_of_files() -> int:
    """Bytes that all files in memory take, of the whole system."""
    with open("/proc/meminfo", encoding="utf-8") as file:
        lines = dict(line.split(":", 1) for line in file)
    return int(lines["Shmem"].split()[0]) * 1024


def sharing() -> None:
    size, number, calls = int(os.environ.get("TABLE", "1000000000")), 8, 2000
    table: Any = bytearray(size)
    table[:: 1 << 12] = b"x" * len(table[:: 1 << 12])
    try:
        import numpy as np

        table = np.frombuffer(table, np.uint8)
    except ImportError:
        pass
    began = time.perf_counter()
    copy = bytearray(table)
    copied = time.perf_counter() - began
    del copy
    show(f"a copy of {size / 1e6:,.0f} MB takes", f"{copied * 1e3:.0f} ms", "no number")
    with cpool.Pool(number, shared_memory_limit=2 * size) as pool:
        pool.broadcast(own_memory, (0,))
        before = memory_of_files()
        began = time.perf_counter()
        handle = pool.share(table)
        written = time.perf_counter() - began
        show("share()", f"{written * 1e3:.0f} ms", "two copies' time")
        began = time.perf_counter()
        found = pool.apply(later_use, (handle,), worker=0)
        assert found == size
        show(
            "first use in one worker", f"{(time.perf_counter() - began) * 1e3:.2f} ms", "no number"
        )
        began = time.perf_counter()
        assert {n for _, n in pool.broadcast(first_use, (handle,))} == {size}
        read = time.perf_counter() - began
        show("8 workers have mapped and read all of it", f"{read * 1e3:.0f} ms", "no number")
        used = memory_of_files() - before
        show("memory that it takes in all", f"{used / 1e6:,.0f} MB", f"{size / 1e6:,.0f} MB")
        own = statistics.median(pool.broadcast(own_memory, (0,)))
        show("of a worker's own", f"{own / 1e6:,.0f} MB", "far less")
        later: list[float] = []
        small: list[float] = []
        for _ in range(21):
            for times, given in ((later, handle), (small, b"12345678")):
                began = time.perf_counter()
                pool.map(later_use, [given] * calls, 1)
                times.append((time.perf_counter() - began) / calls)
        extra = (statistics.median(later) - statistics.median(small)) * 1e6
        show(
            "a later use by a task of its own, beyond 8 bytes as argument",
            f"{extra:.2f} us",
            "1 us",
        )
        handle.close()


ALL: list[Callable[[], None]] = [
    *(late, many, idle_limit, memory_idle, cancel, memory, elastic, values, priorities, sharing)
]


def main(names: list[str]) -> None:
    by_name = {measure.__name__: measure for measure in ALL}
    for name in names or by_name:
        by_name[name]()


if __name__ == "__main__":
    main(sys.argv[1:])
