"""The cases: the call, its input and the expected results. Knows neither peers nor clocks."""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from benchmarks import work

WORKERS = 2


@dataclass(frozen=True)
class Size:
    """The size of a case: a quick run has fewer and shorter items, of the same kinds."""

    quick: bool
    loops_50us: int

    def pick(self, full: int, quick: int) -> int:
        return quick if self.quick else full


@dataclass(frozen=True)
class Work:
    """The input and the expected results of one case."""

    call: str  # the method of interface.Peer that is measured
    function: Callable[..., Any]
    items: list[Any]
    expected: list[Any]  # the results that every contender must return
    limit: str  # the key in limits.LIMITS to compare with
    chunksize: int | None = 1  # None: the peer's default
    workers: int = WORKERS
    start: str = "fork"  # a start method; or "threads": the workers are threads
    fresh: bool = False  # creating and closing the pool is measured too
    per_item: bool = True  # the table shows the time for each item, not the total
    measure: str = "seconds"  # or: parent_bytes, worker_bytes

    @property
    def star(self) -> bool:
        return self.call.startswith("starmap")


@dataclass(frozen=True)
class Case:
    name: str
    about: str
    build: Callable[[Size], Work]
    quick: bool = True  # runs in a quick run without --case


CASES: dict[str, Case] = {}


def case(
    name: str, about: str, quick: bool = True
) -> Callable[[Callable[[Size], Work]], Callable[[Size], Work]]:
    def register(build: Callable[[Size], Work]) -> Callable[[Size], Work]:
        CASES[name] = Case(name, about, build, quick)
        return build

    return register


def records(count: int) -> list[dict[str, Any]]:
    return [{"id": number, "name": f"name {number}", "rank": number % 7} for number in range(count)]


def doubling(call: str, count: int, limit: str = "stream", **more: Any) -> Work:
    expected = [number * 2 for number in range(count)]
    return Work(call, work.double, list(range(count)), expected, limit, **more)


def adding(call: str, count: int, limit: str, **more: Any) -> Work:
    pairs = [(number, number + 1) for number in range(count)]
    return Work(call, work.add, pairs, [a + b for a, b in pairs], limit, **more)


def promoting(count: int, limit: str, **more: Any) -> Work:
    items = records(count)
    return Work("map", work.promote, items, [work.promote(item) for item in items], limit, **more)


# One message for each item.


@case("apply", "blocking round trip: apply(), one call after another")
def _(size: Size) -> Work:
    return doubling("apply", size.pick(5_000, 100), "ping_pong")


@case("map", "map() over ints, chunksize 1")
def _(size: Size) -> Work:
    return doubling("map", size.pick(20_000, 500))


@case("map_dicts", "map() over dicts that returns dicts, chunksize 1")
def _(size: Size) -> Work:
    return promoting(size.pick(20_000, 500), "stream")


@case("starmap", "starmap() over pairs, chunksize 1", quick=False)
def _(size: Size) -> Work:
    return adding("starmap", size.pick(20_000, 500), "stream")


@case("starmap_async", "starmap_async() over pairs, chunksize 1, and its get()")
def _(size: Size) -> Work:
    return adding("starmap_async", size.pick(20_000, 500), "stream")


@case("imap", "imap() over ints, chunksize 1, read to the end")
def _(size: Size) -> Work:
    return doubling("imap", size.pick(20_000, 500))


@case("imap_unordered", "imap_unordered() over ints, chunksize 1, read to the end")
def _(size: Size) -> Work:
    return doubling("imap_unordered", size.pick(20_000, 500))


@case("burst", "apply_async() for every item, then every get()")
def _(size: Size) -> Work:
    return doubling("burst", size.pick(20_000, 500))


# The same with other start methods, and with threads as workers.


def started(start: str) -> None:
    @case(f"apply_{start}", f"the round trip of apply, workers by {start}", quick=False)
    def _(size: Size) -> Work:
        return doubling("apply", size.pick(5_000, 100), "ping_pong", start=start)

    @case(f"map_{start}", f"map() over ints, chunksize 1, workers by {start}", quick=False)
    def _(size: Size) -> Work:
        return doubling("map", size.pick(20_000, 500), start=start)


started("spawn")
started("forkserver")


def on_threads(call: str) -> None:
    @case(f"threads_{call}", f"the same as {call}, on a pool of threads", quick=call == "map")
    def _(size: Size) -> Work:
        return doubling(call, size.pick(20_000, 500), "serial", start="threads")


for _call in ("apply", "map", "imap", "burst"):
    on_threads(_call)


@case("threads_50us", "tasks_50us on a pool of threads", quick=False)
def _(size: Size) -> Work:
    count = size.pick(20_000, 300)
    expected = [work.spin(size.loops_50us)] * count
    items = [size.loops_50us] * count
    return Work("map", work.spin, items, expected, "split", start="threads")


# Many small items, with the peer's default chunk size.


@case("default_ints", "map() over ints, default chunks (1,000,000 in a full run)")
def _(size: Size) -> Work:
    return doubling("map", size.pick(1_000_000, 30_000), "split", chunksize=None)


@case("default_strings", "map() over strings, default chunks (300,000 in a full run)")
def _(size: Size) -> Work:
    items = [f"string number {number}" for number in range(size.pick(300_000, 15_000))]
    return Work("map", work.shout, items, [item.upper() for item in items], "split", chunksize=None)


@case("default_pairs", "starmap() over pairs, default chunks (300,000 in a full run)", quick=False)
def _(size: Size) -> Work:
    return adding("starmap", size.pick(300_000, 15_000), "split", chunksize=None)


@case(
    "default_dicts", "map() over dicts that returns dicts, default chunks (100,000 in a full run)"
)
def _(size: Size) -> Work:
    return promoting(size.pick(100_000, 8_000), "split", chunksize=None)


# Tasks that take time, evenly and unevenly.


@case("tasks_50us", "map() of tasks that compute for 50 µs, chunksize 1")
def _(size: Size) -> Work:
    count = size.pick(20_000, 300)
    expected = [work.spin(size.loops_50us)] * count
    return Work("map", work.spin, [size.loops_50us] * count, expected, "split")


@case("one_slow", "map() of one slow task (1 s in a full run) among fast ones, chunksize 1")
def _(size: Size) -> Work:
    naps = [0.0] * size.pick(2_000, 300)
    naps[len(naps) // 10] = 0.1 if size.quick else 1.0
    return Work("map", work.nap, naps, naps, "split", per_item=False)


@case("uneven", "map() of 64 items, the first 8 slow (0.5 s in a full run), default chunks")
def _(size: Size) -> Work:
    naps = [0.02 if size.quick else 0.5] * 8 + [0.0] * 56
    return Work("map", work.nap, naps, naps, "split", chunksize=None, per_item=False)


@case(
    "busy_main", "map_async() of tasks that wait 1 ms while the main thread computes, chunksize 1"
)
def _(size: Size) -> Work:
    naps = [0.001] * size.pick(1_000, 80)
    return Work("busy_main", work.nap, naps, naps, "split")


# Large arguments and results.


@case("bound_10mb", "map() of a callable with 10 MB bound to it, chunksize 1")
def _(size: Size) -> Work:
    data = b"x" * 10_000_000
    numbers = list(range(size.pick(40, 4)))
    function = functools.partial(work.length_plus, data)
    return Work("map", function, numbers, [len(data) + number for number in numbers], "split")


@case("bytes_64mb", "apply() with bytes in and out (64 MB in a full run)")
def _(size: Size) -> Work:
    data = bytes(range(256)) * (size.pick(64, 16) * 4096)
    return Work("apply", work.identity, [data], [data], "copy", per_item=False)


# Creating and closing pools, and their memory.


@case("start_end", "create a pool, one map() of 100 ints, close and join")
def _(size: Size) -> Work:
    return doubling("map", 100, "split", chunksize=None, fresh=True, per_item=False)


def pool_of(workers: int) -> None:
    @case(
        f"pool_of_{workers}",
        f"create a pool of {workers}, one map() of 1,000 ints, close and join",
        quick=False,
    )
    def _(size: Size) -> Work:
        more: dict[str, Any] = {"workers": workers, "fresh": True, "per_item": False}
        return doubling("map", 1_000, "split", chunksize=None, **more)


for _workers in (1, 2, 4, 8, 16, 32, 64):
    pool_of(_workers)


def remembering(size: Size, measure: str) -> Work:
    count = size.pick(200_000, 10_000)
    more: dict[str, Any] = {"per_item": False, "measure": measure}
    return doubling("map", count, "split", chunksize=None, **more)


@case("memory_parent", "memory of the calling process after a map() (its share, PSS)", quick=False)
def _(size: Size) -> Work:
    return remembering(size, "parent_bytes")


@case("memory_workers", "memory of all worker processes after a map() (their share, PSS)")
def _(size: Size) -> Work:
    return remembering(size, "worker_bytes")
