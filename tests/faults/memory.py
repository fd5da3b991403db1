"""Each allocation of the interpreter fails once, around each kind of call of a pool.

    python tests/faults/memory.py                          all kinds
    python tests/faults/memory.py --kind apply --first 17 --last 17

`_testcapi.set_nomemory(n, n + 1)` makes the n-th allocation fail, in whatever thread it is. The
call then returns the right result, or raises MemoryError or an error that says what happened; and
the pool works on. With --where worker the allocation fails in a worker, after its task has begun.
Nothing raises SystemError, crashes or hangs. Prints a line for each n with a wrong outcome; the
exit status is 1 if there was one.
"""

from __future__ import annotations

import _testcapi
import argparse
import contextlib
import faulthandler
import functools
import gc
import io
import os
import pickle
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))

from engine import Pool, errors, pool_module
from gates import eventually
from run import LIMIT, Wrong, answer, fail, is_clear, kill_all, large, wait

BODY = bytes(range(256)) * 1000
NUMBERS = list(range(30))
ANSWERS = [answer(x) for x in NUMBERS]


Call = Callable[..., Any]


class Thing:
    """An object that has to be pickled."""

    def __init__(self, x: int) -> None:
        self.x = x

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Thing) and self.x == other.x


class Held:
    """An object whose buffer arrives as a bytearray on shared memory."""

    def __init__(self, data: bytearray) -> None:
        self.data = data

    def __reduce_ex__(self, protocol: Any) -> Any:
        return Held, (pickle.PickleBuffer(self.data),)


def grown(held: Held) -> Held:
    held.data += b"!"
    return held


def thing(x: Any) -> Thing:
    return Thing(x.x + 1)


def add(x: int, y: int = 0) -> int:
    return x + y


def starve(n: int, x: Any) -> Any:
    """In a worker: make the n-th allocation from now on fail."""
    _testcapi.set_nomemory(n, n + 1)
    return x


def feast(_: Any = None) -> int:
    _testcapi.remove_mem_hooks()
    time.sleep(0.002)  # so that the other worker gets some of them
    return os.getpid()


def feed_all(pool: Any) -> None:
    """Use up pending faults in all workers, so that they do not hit a later call."""
    fed: set[int] = set()

    def is_done() -> bool:
        with contextlib.suppress(MemoryError, errors.WorkerLostError):
            fed.update(pool.map(feast, range(8), 1))
        return {worker.pid for worker in pool._pool} <= fed

    eventually(is_done, "a worker runs nothing any more")


def failure(pool: Any) -> tuple[Any, ...]:
    try:
        pool.apply(fail, (3,))
    except ValueError as error:
        return error.args
    return ()


def callback(pool: Any) -> Any:
    told: list[Any] = []
    result = pool.apply_async(thing, (Thing(1),), callback=told.append, error_callback=told.append)
    # Not by an event: one whose set() has no memory would be locked for good. Nor with a lambda:
    # CPython 3.13.0 crashes where it has no memory to make one.
    end = time.monotonic() + LIMIT / 2
    while not (told or result.ready()) and time.monotonic() < end:
        time.sleep(0.001)
    return result.get(0)


def half_read(pool: Any) -> Any:
    results = pool.imap(answer, iter(NUMBERS), 3)
    return next(results), next(results)


def look(pool: Any) -> Any:
    result = pool.apply_async(answer, (1,))
    result.wait(0)
    result.ready()
    repr(result)
    len(pool._cache)
    repr(pool)
    return result.get(LIMIT)


def new_pool(pool: Any) -> Any:
    other = type(pool)(1)
    try:
        return other.map(answer, [1, 2], 1)
    finally:
        _testcapi.remove_mem_hooks()
        other.terminate()
        other.join()


def dump(pool: Any) -> str:
    text = io.StringIO()
    pool.dump(text)
    return text.getvalue()[:16]


def statistics(pool: Any) -> bool:
    found = pool.statistics()
    over = found.done + found.failed + found.lost + found.cancelled
    return found.pending >= 0 and bool(found.submitted == over + found.pending)


def trace(pool: Any) -> int:
    """Trace a call. A trace that cannot begin or end must be off afterwards."""
    traced = errors.trace(os.devnull)
    try:
        with traced:
            value: int = pool.apply(answer, (1,))
    finally:
        _testcapi.remove_mem_hooks()
        traced.stop()
        with errors.trace(os.devnull):
            pool.apply(answer, (1,))
    return value


def end(how: str, pool: Any) -> None:
    # Made with memory: see `run_one`.
    getattr(pool, how)()
    pool.join()


KINDS: dict[str, tuple[Call, Any]] = {
    "apply": (lambda pool: pool.apply(answer, (1,)), 4),
    "apply kwds": (lambda pool: pool.apply(add, (1,), {"y": 2}), 3),
    "apply object": (lambda pool: pool.apply(thing, (Thing(1),)), Thing(2)),
    "apply large": (lambda pool: pool.apply(large, (BODY,)), BODY[::-1]),
    "apply buffer": (
        lambda pool: grown(pool.apply(grown, (Held(bytearray(BODY)),))).data,
        BODY + b"!!",
    ),
    "failure": (failure, (3,)),
    "map": (lambda pool: pool.map(answer, NUMBERS, 1), ANSWERS),
    "map chunks": (lambda pool: pool.map(answer, NUMBERS), ANSWERS),
    "map objects": (lambda pool: pool.map(thing, [Thing(1), Thing(2)]), [Thing(2), Thing(3)]),
    "starmap": (lambda pool: pool.starmap(add, [(1, 2), (3, 4)], 1), [3, 7]),
    "map partial": (lambda pool: pool.map(functools.partial(add, y=2), [1, 2], 1), [3, 4]),
    "apply_async": (lambda pool: pool.apply_async(answer, (1,)).get(LIMIT), 4),
    "map_async": (lambda pool: pool.map_async(answer, NUMBERS, 4).get(LIMIT), ANSWERS),
    "imap": (lambda pool: list(pool.imap(answer, iter(NUMBERS))), ANSWERS),
    "imap chunks": (lambda pool: sorted(pool.imap_unordered(answer, NUMBERS, 4)), ANSWERS),
    "imap half": (half_read, (1, 4)),
    "imap limit": (lambda pool: list(pool.imap(answer, iter(NUMBERS), 1, buffersize=2)), ANSWERS),
    "callback": (callback, Thing(2)),
    "look": (look, 4),
    "pool": (new_pool, [4, 7]),
    "dump": (dump, "cpool: pool of 2"),
    "statistics": (statistics, True),
    "trace": (trace, 4),
}
ENDS: dict[str, Call] = {name: functools.partial(end, name) for name in ("close", "terminate")}


def check(pool: Any) -> None:
    """Check that the pool still works."""
    if pool.map_async(answer, NUMBERS, 1).get(LIMIT) != ANSWERS:
        raise Wrong("wrong values after it")
    told: list[int] = []
    pool.apply_async(answer, (1,), callback=told.append, error_callback=told.append)
    eventually(lambda: told, "no callback comes any more")
    if told != [4]:
        raise Wrong(f"a callback got {told}")
    if pool.apply(answer, (2,)) != 7:
        raise Wrong("a wrong value after it")


def run_one(make: Call, kind: str, number: int, where: str, pool: Any) -> str:
    """The outcome: "" for the right result, or the type of the error."""
    if kind in ENDS:
        pool = make(2)
        pool.map_async(answer, NUMBERS, 1).get(LIMIT)
        call, right = ENDS[kind], None
    else:
        call, right = KINDS[kind]
    came = ""
    try:
        if where == "parent":
            _testcapi.set_nomemory(number, number + 1)
        else:
            pool.apply(starve, (number, 1))
        value = call(pool)
        _testcapi.remove_mem_hooks()
        if value != right:
            raise Wrong(f"{kind} gave {value!r:.100}")
    except Exception as error:
        # The interpreter's own mistakes do not name us: where it has no memory for a frame's object
        # it drops the exception, and warnings.warn() keeps one beside its result.
        is_ours = not isinstance(error, SystemError) or "cpool" in str(error)
        if is_ours and not is_clear(error):
            raise
        came = f"{error!r:.100}"
    finally:
        _testcapi.remove_mem_hooks()
        if where == "worker":
            feed_all(pool)
    if kind in ENDS:
        pool.terminate()
        pool.join()
    else:
        check(pool)
    return came


def child(threads: bool, kind: str, numbers: range, where: str, output: int) -> None:
    code = 1
    try:
        os.setpgid(0, 0)
        os.dup2(output, 1)
        os.dup2(output, 2)
        faulthandler.enable()
        make = pool_module.ThreadPool if threads else Pool
        pool = None
        for number in numbers:
            if pool is None:
                pool = make(2)
                check(pool)
                if kind in KINDS:
                    KINDS[kind][0](pool)
            print(f"number {number}", flush=True)
            try:
                came = run_one(make, kind, number, where, pool)
                print(f"came {came}", flush=True)
            except BaseException:
                _testcapi.remove_mem_hooks()
                print(f"wrong {kind} {number}", flush=True)
                traceback.print_exc()
                print("end of it", flush=True)
                pool.terminate()
                pool = None
            gc.collect()
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        _testcapi.remove_mem_hooks()
        sys.stdout.flush()
        os._exit(code)


def sweep(args: argparse.Namespace, kind: str, threads: bool) -> int:
    first, wrong = args.first, 0
    while first <= args.last:
        with tempfile.TemporaryFile("w+", errors="replace") as output:
            pid = os.fork()
            if pid == 0:
                numbers = range(first, args.last + 1)
                child(threads, kind, numbers, args.where, output.fileno())
            problem = wait(pid, LIMIT, output)
            output.seek(0)
            text = output.read()
        kill_all(pid)
        at = [int(line[7:]) for line in text.splitlines() if line.startswith("number ")]
        name = f"{'threads' if threads else 'fork'} {args.where} {kind}"
        for part in text.split("\nwrong ")[1:]:
            wrong += 1
            print(f"wrong: {name}: {part.split('end of it')[0]}", flush=True)
        last = at[-1] if at else first
        if problem:
            wrong += 1
            print(f"{problem}: {name} {last}:\n{text[-3000:]}", flush=True)
        elif args.verbose:
            print(
                f"{name}:",
                " ".join(line[5:] for line in text.splitlines() if line.startswith("came ")),
            )
        first = last + 1 if problem else args.last + 1
    return wrong


def main() -> int:
    parser = argparse.ArgumentParser(
        description="Make each allocation of the interpreter fail once."
    )
    parser.add_argument("--kind", default=",".join([*KINDS, *ENDS]))
    parser.add_argument("--method", default="fork,threads", help="of fork, threads")
    parser.add_argument("--where", default="parent", help="parent or worker")
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--last", type=int, default=120)
    parser.add_argument("--verbose", action="store_true")
    args = parser.parse_args()
    warnings.simplefilter("ignore", DeprecationWarning)
    warnings.simplefilter("ignore", ResourceWarning)
    wrong = 0
    for method in args.method.split(","):
        for kind in args.kind.split(","):
            if kind in ENDS and args.where == "worker":
                continue
            wrong += sweep(args, kind, method == "threads")
    print(f"{wrong} wrong")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
