"""The cases: a call, its input and the expected results. Independent of peers and clocks."""

import copy
import functools
import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from benchmarks import work
from benchmarks.kinds import KINDS, Kind
from benchmarks.programs import PROGRAMS, Loop, Program

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
    fresh: bool = False  # also measure creating and closing the pool
    first: bool = False  # each round is the first of a new pool, whose start is not measured
    renewed: bool = False  # each round has new items, made before it is measured
    per_item: bool = True  # the table shows the time for each item, not the total
    measure: str = "seconds"  # or: parent_bytes, worker_bytes, peak_bytes, grown_bytes
    shown: Callable[[Any], Any] | None = None  # applied to results before they are compared

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


def large(
    name: str,
    about: str,
    function: Callable[..., Any],
    build: Callable[[Size], Any],
    expected: Callable[[Any], Any],
    count: int = 1,
    several: str = "map",
    **more: Any,
) -> None:
    """A case `large_{name}`: `count` large objects; `expected(item)` is the result for one.

    `several` is the call that gets them, if there is more than one.
    """

    @case(f"large_{name}", about, quick=False)
    def _(size: Size) -> Work:
        items = [build(size) for _ in range(size.pick(count, 1 + count // 10))]
        call, limit = ("apply", "warm_copy") if count == 1 else (several, "split")
        # Of a copy: a function may change its argument.
        made = [expected(copy.deepcopy(item)) for item in items]
        return Work(
            call, function, items, made, limit, per_item=count > 1, shown=work.summed, **more
        )


def _array(size: Size, n: int = 64) -> Any:
    import numpy as np

    return np.arange(size.pick(n, 1 + n // 4) << 17, dtype="f8")


def _frame(size: Size) -> Any:
    import numpy as np
    import pandas

    return pandas.DataFrame(np.ones((size.pick(1_000_000, 100_000), 8)))


def _image(_: Size) -> Any:
    import numpy as np

    return np.arange(480 * 640 * 3).astype("u1").reshape(480, 640, 3)


def _small(_: Size) -> Any:
    return _array(Size(False, 0), 1)[: 1 << 15].copy()


def _bytes(size: Size) -> bytes:
    return bytes(range(256)) * (size.pick(64, 16) * 4096)


def _bytes_8mb(_: Size) -> bytes:
    return bytes(8_000_000)


def _text(size: Size) -> str:
    return str(_bytes(size), "latin-1")


def _length(size: Size) -> int:
    return size.pick(64, 17) << 17


large("bytes_in", "apply() with 64 MB of bytes, their length out", len, _bytes, len)
large(
    "bytes_out",
    "apply() that returns 64 MB of bytes",
    work.held_bytes,
    lambda s: s.pick(64, 16) << 20,
    work.held_bytes,
)
large("bytes_8mb", "apply() with 8 MB of bytes, their length out", len, _bytes_8mb, len)
large("str_in", "apply() with a str of 64 MB, its length out", len, _text, len)


@case("bytes_64kb", "apply() with 64 KB of bytes, there and back, 500 times", quick=False)
def _(size: Size) -> Work:
    items = [bytes([number % 256]) * 65_536 for number in range(size.pick(500, 50))]
    return Work("apply", work.identity, items, items, "copy")


if importlib.util.find_spec("numpy") is not None:
    _in = "apply() with an array of 64 MB, one element out"
    large("array_in", f"{_in}: the same array each time", work.last, _array, work.last)
    large("array_in_new", f"{_in}: a new one each time", work.last, _array, work.last, renewed=True)
    large("array_in_spawn", f"{_in}, workers by spawn", work.last, _array, work.last, start="spawn")
    large(
        "array_first", f"{_in}: the first of a new pool", work.last, _array, work.last, first=True
    )
    _back = "apply() with an array of 64 MB in and out"
    large("array", _back, work.identity, _array, work.identity)
    large("array_changed", f"{_back}, changed in place", work.set_some, _array, work.set_some)
    large("array_out", "apply() that makes an array of 64 MB", work.ramp, _length, work.ramp)
    large(
        "array_out_empty",
        "apply() that makes an array of 64 MB, with cpool.empty() where there is one",
        work.rows_in_place,
        _length,
        work.rows_in_place,
    )
    _images = "imap() of 40 images of 480 x 640 x 3 bytes, flipped"
    large("images", _images, work.flip, _image, work.flip, 40, "imap")
    # Whole rows move: the task takes a tenth of the time, which leaves the pool's share.
    large(
        "images_rows", f"{_images} upside down", work.flip_rows, _image, work.flip_rows, 40, "imap"
    )
    _arrays = "map() of 200 arrays of 256 KB, there and back"
    large("arrays", _arrays, work.identity, _small, work.identity, 200)

    def remembering_large(name: str, times: int) -> None:
        about = f"peak memory of all processes: 64 MB of array in and out, {times} times (VmHWM)"

        @case(f"memory_{name}", about, quick=False)
        def _(size: Size) -> Work:
            count = size.pick(times, 1 + times // 10)
            program = functools.partial(work.there_and_back, _array(size), count)
            more: dict[str, Any] = {"per_item": False, "measure": "peak_bytes"}
            return Work("program", program, [], [count], "loop", **more)

    remembering_large("large", 50)
    remembering_large("large_few", 5)

    def bound(name: str, about: str, function: Callable[..., Any], **more: Any) -> None:
        """A map() with an array of 100 MB bound to the callable: two items for each worker."""

        @case(name, about, quick=False)
        def _(size: Size) -> Work:
            import numpy as np

            called = functools.partial(function, np.arange(size.pick(12_500_000, 1_250_000)))
            numbers = list(range(16))
            expected = [called(number) for number in numbers]
            work.kept.clear()
            return Work(
                "map", called, numbers, expected, "split", workers=8, per_item=False, **more
            )

    _bound = "map() of a callable with an array of 100 MB, 8 workers"
    bound("bound_100mb", _bound, work.last_plus)
    _kept = f"memory that a {_bound} that keep it, takes in all processes (PSS)"
    bound("memory_bound_100mb", _kept, work.sum_of_kept_plus, measure="grown_bytes", first=True)

    if importlib.util.find_spec("pandas") is not None:
        large(
            "frame",
            "apply() with a DataFrame of 1,000,000 x 8 floats, doubled",
            work.doubled,
            _frame,
            work.doubled,
        )
        large(
            "frame_back",
            "apply() with a DataFrame of 1,000,000 x 8 floats, there and back",
            work.identity,
            _frame,
            work.identity,
        )


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


# What real programs send: objects of every kind, to the worker and back.


def sending(call: str, items: list[Any], limit: str, **more: Any) -> Work:
    # Not all of these objects can be compared.
    return Work(call, work.identity, items, items, limit, shown=work.identified, **more)


def of_objects(kind: Kind) -> None:
    name, about, make = kind.name, kind.about, kind.make
    quick = name in ("instance", "array_128")

    @case(f"objects_{name}", f"map() over {about}, default chunks", quick=quick)
    def _(size: Size) -> Work:
        items = [make(number) for number in range(size.pick(20_000, 2_000))]
        return sending("map", items, "split", chunksize=None)

    @case(f"objects_{name}_one", f"map() over repetitions of one of {about}, default chunks", False)
    def _(size: Size) -> Work:
        return sending("map", [make(1)] * size.pick(20_000, 2_000), "split", chunksize=None)

    @case(f"objects_{name}_each", f"map() over {about}, chunksize 1", quick=quick)
    def _(size: Size) -> Work:
        items = [make(number) for number in range(size.pick(5_000, 300))]
        return sending("map", items, "stream")

    @case(f"objects_{name}_apply", f"apply() of {about}, one call after another", quick=False)
    def _(size: Size) -> Work:
        items = [make(number) for number in range(size.pick(2_000, 100))]
        return sending("apply", items, "ping_pong_items")


for _kind in KINDS:
    of_objects(_kind)


# Programs of other libraries that take a pool.


def of_program(program: Program) -> None:
    @case(f"programs_{program.name}", program.about, quick=False)
    def _(size: Size) -> Work:
        run = functools.partial(program, quick=size.quick)
        expected = run(Loop())
        return Work("program", run, [None], expected, "loop", chunksize=None, per_item=False)


for _program in PROGRAMS:
    of_program(_program)


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


# Pains: what users of pools complain about. In these cpool must never be slower than
# multiprocessing; compare.behind() lists the cases in which it is.


def pain(
    name: str, about: str, quick: bool = False
) -> Callable[[Callable[[Size], Work]], Callable[[Size], Work]]:
    return case(f"pains_{name}", about, quick)


def sharing(call: str, length: int, count: int, **more: Any) -> Work:
    """Items that all contain the same bytes object."""
    shared = bytes(length)
    more = {"chunksize": None, "limit": "split", **more}
    numbers = list(range(count))
    function = work.second if call.startswith("starmap") else work.second_of
    return Work(call, function, [(shared, number) for number in numbers], numbers, **more)


def sharing_starmap(name: str, length: int, full: int, quick: int) -> None:
    about = "starmap() of one object in every item, default chunks"

    @pain(f"shared_{name}", f"{about}: {name}", quick=name == "64kb")
    def _(size: Size) -> Work:
        return sharing("starmap", length, size.pick(full, quick))


sharing_starmap("100b", 100, 20_000, 2_000)
sharing_starmap("4kb", 4_096, 5_000, 500)
sharing_starmap("64kb", 65_536, 1_000, 200)
sharing_starmap("1mb", 1 << 20, 400, 40)
sharing_starmap("4mb", 4 << 20, 400, 40)
sharing_starmap("16mb", 16 << 20, 100, 16)


@pain("async_64kb", "starmap_async() of one object of 64 KB in every item, default chunks")
def _(size: Size) -> Work:
    return sharing("starmap_async", 65_536, size.pick(1_000, 200))


@pain("map_64kb", "map() of pairs with one object of 64 KB, default chunks")
def _(size: Size) -> Work:
    return sharing("map", 65_536, size.pick(1_000, 200))


@pain("imap_64kb", "imap() of pairs with one object of 64 KB, in hundreds")
def _(size: Size) -> Work:
    return sharing("imap", 65_536, size.pick(2_000, 400), chunksize=100)


@pain("imap_ints", "imap() over ints, in hundreds")
def _(size: Size) -> Work:
    return doubling("imap", size.pick(200_000, 5_000), "split", chunksize=100)


@pain("attribute", "map() over objects with one table as an attribute, default chunks")
def _(size: Size) -> Work:
    numbers = list(range(size.pick(2_000, 200)))
    nodes = [work.Node(number, work.TABLE) for number in numbers]
    return Work("map", work.number_of, nodes, numbers, "split", chunksize=None)


@pain("graph", "map() over 400 nodes that refer to their graph, default chunks")
def _(size: Size) -> Work:
    nodes = work.graph_of(400)
    numbers = [node.number for node in nodes]
    return Work("map", work.number_of, nodes, numbers, "split", chunksize=None, per_item=False)


@pain("enum", "map() over members of an enum, default chunks", quick=True)
def _(size: Size) -> Work:
    members = list(work.Colour)
    items = [members[number % len(members)] for number in range(size.pick(60_000, 4_000))]
    expected = [member.value for member in items]
    return Work("map", work.value_of, items, expected, "split", chunksize=None)


@pain("results", "map() of tasks that return one table of their worker, default chunks")
def _(size: Size) -> Work:
    numbers = list(range(size.pick(80, 40)))
    expected = [work.TABLE] * len(numbers)
    return Work("map", work.lookup, numbers, expected, "split", chunksize=None, per_item=False)


def slow_source(call: str) -> None:
    @pain(f"source_{call}", f"{call}() of tasks over a source that takes 5 ms an item, chunksize 1")
    def _(size: Size) -> Work:
        numbers = list(range(size.pick(100, 20)))
        return Work(call, work.nap_twice, work.SlowSource(numbers), numbers, "split")


slow_source("map")
slow_source("imap")


@pain("encoding", "map() of tasks over items that take 5 ms to encode, chunksize 1")
def _(size: Size) -> Work:
    numbers = list(range(size.pick(100, 20)))
    return Work("map", work.nap_over, [work.SlowItem(n) for n in numbers], numbers, "split")


@pain("decoding", "map() of tasks whose results take 5 ms to decode, chunksize 1")
def _(size: Size) -> Work:
    numbers = list(range(size.pick(100, 20)))
    expected = [work.SlowResult(number) for number in numbers]
    return Work("map", work.slow_result, numbers, expected, "split")


@pain("queued", "apply_async() of tasks with one object of 10 MB, all queued at once")
def _(size: Size) -> Work:
    shared = bytes(10_000_000)
    numbers = list(range(size.pick(60, 6)))
    items = [(shared, number) for number in numbers]
    return Work("burst", work.nap_second_of, items, numbers, "split")


@pain("life_of_64", "create a pool of 64, apply_async() of 128 calls, close and join")
def _(size: Size) -> Work:
    return doubling("burst", 128, "split", workers=64, fresh=True, per_item=False)
